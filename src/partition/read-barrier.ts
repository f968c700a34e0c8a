/**
 * What a replica does for reads that wait: by the node's shared rounds where it leads (node/read-rounds.ts), by
 * raft's own where those can't help, and by what is applied.
 */
import type { Clock } from '../common/env.js';
import type { HansardError } from '../common/errors.js';
import type { Index, PartitionId, ReplicaId, Term } from '../common/ids.js';
import { jointCommitted } from '../raft/quorum.js';
import type { RawNode } from '../raft/raw-node.js';
import { Role } from '../raft/types.js';
import { type ReadBarrierLevel, ReadQueue } from './reads.js';
import { overloaded } from './refusals.js';

/** Reads of one partition that wait, at most; each holds a call open. */
const waitingReadsMax = 20_000;

export interface ReadBarrierContext {
  readonly partition: PartitionId;
  readonly replicaId: ReplicaId;
  readonly raft: RawNode;
  readonly clock: Clock;
  /** A round that is unanswered for so long is asked again. */
  readonly retryMs: number;
  /** Of this life and replica alone. */
  readonly contextSeed: number;
  appliedIndex(): Index;
  stir(): void;
  /** Has `beginShared` called soon. */
  wantSharedRound(): void;
}

export class ReadBarrier {
  readonly #context: ReadBarrierContext;
  readonly #queue: ReadQueue;
  /** Asked for a shared round that has not begun. */
  #wantsShared = false;
  /** The last one got no quorum: raft's own heartbeats are next. */
  #sharedFailed = false;
  /** Commit index when the shared round began. */
  #sharedIndex: Index = 0;
  #stopped = false;

  constructor(context: ReadBarrierContext) {
    this.#context = context;
    this.#queue = new ReadQueue(context.contextSeed);
  }

  get isWaiting(): boolean {
    return this.#queue.isWaiting;
  }

  /** How far behind the state is at most, ms; undefined where nothing has told. */
  get stalenessMs(): number | undefined {
    return this.#queue.stalenessMs(this.#context.clock.monotonicMs());
  }

  /** Resolves once the state may answer. `maxStalenessMs`: for 'bounded'. */
  wait(level: ReadBarrierLevel, minIndex: Index, deadlineMs: number, maxStalenessMs: number): Promise<void> {
    const queue = this.#queue;
    if (queue.size >= waitingReadsMax)
      return Promise.reject(overloaded(this.#context.partition, `${waitingReadsMax} reads that wait`));
    const isFresh = level === 'bounded' && queue.isFresh(maxStalenessMs, this.#context.clock.monotonicMs());
    // Renewed ahead of time, perhaps.
    if (isFresh && queue.wantsRound) this.#wantRound();
    if (level === 'linearizable' || (level === 'bounded' && !isFresh)) {
      const read = queue.linearizable(minIndex, deadlineMs);
      this.#wantRound();
      return read;
    }
    if (minIndex <= this.#context.appliedIndex()) return Promise.resolve();
    return queue.appliedAtLeast(minIndex, deadlineMs);
  }

  // ---- proof of leadership

  /** Not before an entry of its own term has committed: its commit index may be behind until then (design rule 10). */
  get #mayShare(): boolean {
    const { raft } = this.#context;
    return raft.role === Role.leader && !this.#sharedFailed && raft.committedInCurrentTerm;
  }

  #wantRound(): void {
    if (this.#mayShare) this.#wantShared();
    else this.#context.stir();
  }

  #wantShared(): void {
    if (this.#wantsShared) return;
    this.#wantsShared = true;
    this.#context.wantSharedRound();
  }

  /** In a turn. Where the node's shared rounds can't help, raft's own: a follower asks its leader, a leader by heartbeats. */
  startDue(): void {
    if (!this.#queue.wantsRound) return;
    if (this.#mayShare) return this.#wantShared();
    this.#sharedFailed = false;
    const context = this.#queue.startRound(this.#context.clock.monotonicMs());
    if (this.#context.raft.readIndex(context) !== 'ok') this.#queue.roundFailed();
  }

  /** The reads that wait now are confirmed at today's commit index, if a quorum vouches for this term from now on. */
  beginShared(): { readonly context: number; readonly term: Term; readonly reads: number } | undefined {
    this.#wantsShared = false;
    if (this.#stopped || !this.#queue.wantsRound) return undefined;
    if (!this.#mayShare) {
      this.#context.stir();
      return undefined;
    }
    const { raft, clock } = this.#context;
    this.#sharedIndex = raft.commitIndex;
    const context = this.#queue.startRound(clock.monotonicMs());
    return { context, term: raft.term, reads: this.#queue.readsInRound };
  }

  /** True: the round is over. */
  vouched(context: number, term: Term, by: readonly ReplicaId[]): boolean {
    if (this.#stopped) return true;
    const { raft, replicaId } = this.#context;
    // The round dies with the term.
    if (raft.role !== Role.leader || raft.term !== term) {
      this.sharedFailed(context);
      return true;
    }
    const { voters, votersOutgoing } = raft.config;
    const acked = (id: ReplicaId): number => (id === replicaId || by.includes(id) ? 1 : 0);
    if (jointCommitted(voters, votersOutgoing, { acked }) < 1) return false;
    this.#queue.confirmed(context, this.#sharedIndex);
    this.applied();
    if (this.#queue.wantsRound) this.#context.stir();
    return true;
  }

  sharedFailed(context: number): void {
    if (this.#stopped || !this.#queue.roundFailed(context)) return;
    this.#sharedFailed = true;
    this.#context.stir();
  }

  /** By raft's own round. */
  confirmed(context: number, index: Index): void {
    this.#queue.confirmed(context, index);
  }

  // ---- time and state go on

  applied(): void {
    this.#queue.applied(this.#context.appliedIndex());
  }

  tick(nowMs: number): void {
    if (!this.#queue.isWaiting) return;
    this.#queue.tick(nowMs, this.#context.retryMs);
    this.#context.stir();
  }

  stop(error: HansardError): void {
    this.#stopped = true;
    this.#queue.rejectAll(error);
  }
}
