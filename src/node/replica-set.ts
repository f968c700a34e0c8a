/**
 * The replicas that this node holds, by partition: opened by what store and log say of
 * them, and closed where they are no members any more.
 */
import { HansardError } from '../common/errors.js';
import type { NodeId, PartitionId } from '../common/ids.js';
import { firstIdIfZero } from '../common/membership.js';
import { Replica } from '../partition/replica.js';
import { type ReplicaHost, replicaDefaults } from '../partition/types.js';
import type { Hearsay } from './hearsay.js';
import type { NodeOptions } from './options.js';
import type { Repairs } from './repairs.js';
import { emptyLog, gapBeforeLog, isInstallAheadOfLog, lostEnd } from './state-and-log.js';

export interface ReplicaSetContext {
  readonly options: NodeOptions;
  readonly hearsay: Hearsay;
  readonly heartbeatTicks: number;
  repairs(): Repairs;
  /** What all replicas are given of the node. */
  replicaHost(): ReplicaHost;
  opened(replica: Replica): void;
  /** It takes part no more. */
  closed(replica: Replica): void;
}

export class ReplicaSet {
  readonly #context: ReplicaSetContext;
  /** By partition; undefined where this node holds no replica. */
  readonly #byPartition: (Replica | undefined)[];
  readonly #held: Replica[] = [];
  #host: ReplicaHost | undefined;

  constructor(context: ReplicaSetContext) {
    this.#context = context;
    this.#byPartition = Array.from({ length: context.options.partitionCount }, () => undefined);
  }

  /** All of them, in no order that means anything; the same array for ever. */
  get held(): readonly Replica[] {
    return this.#held;
  }

  at(partition: PartitionId): Replica | undefined {
    return this.#byPartition[partition];
  }

  /** Throws NOT_LEADER where none is here. */
  need(partition: PartitionId): Replica {
    const replica = this.#byPartition[partition];
    if (replica === undefined) {
      const leader = this.leaderOf(partition);
      throw new HansardError('NOT_LEADER', `this node holds no replica of partition ${partition}`, {
        partition,
        ...(leader === undefined ? {} : { leader_node_id: leader }),
      });
    }
    return replica;
  }

  /** As the replica here knows it; where none is here, or it can't tell, as the others told. */
  leaderOf(partition: PartitionId): NodeId | undefined {
    const { hearsay } = this.#context;
    const replica = this.#byPartition[partition];
    if (replica === undefined) return hearsay.leaderOf(partition);
    const isTold = !replica.isInitialised || replica.isMute;
    return replica.leader ?? (isTold ? hearsay.leaderOf(partition) : undefined);
  }

  openAll(): void {
    const { store, wal } = this.#context.options;
    this.#lookForLostComing();
    this.#lookForLostEnd();
    for (const { partition, replicaId, removed } of store.hosted()) {
      const log = wal.group(partition);
      if (!removed) this.open(partition, this.#idOf(replicaId));
      else if (log !== undefined && log.lastIndex() >= log.firstIndex()) {
        // Its segments may go; before, the process had ended first.
        log.reset(log.lastIndex(), log.term(log.lastIndex()) as number);
      }
    }
  }

  /** The database has a replica first: where the log knows a later one, the record of its coming is lost, and its state. */
  #lookForLostComing(): void {
    const { store, wal, replicationFactor } = this.#context.options;
    for (const { partition, replicaId } of store.hosted()) {
      const inLog = wal.group(partition)?.replicaId ?? 0;
      const inStore = this.#idOf(replicaId);
      if (inLog <= inStore) continue;
      const problem = `the log has replica ${inLog} of partition ${partition}, the database only ${inStore}`;
      if (replicationFactor === 1) throw new HansardError('STORE_DAMAGED', problem, { partition });
      this.#context.repairs().votesLost([{ partition, replicaId: inLog }], problem);
    }
  }

  /**
   * What is sealed was in the log. One that ends before it, or has something else there,
   * has lost its end without a trace: then no partition's vote or acknowledgement can be relied on.
   */
  #lookForLostEnd(): void {
    const { store, wal, replicationFactor } = this.#context.options;
    const repairs = this.#context.repairs();
    const held = store
      .hosted()
      .filter(({ removed }) => !removed)
      .map(({ partition, replicaId }) => ({ partition, replicaId: this.#idOf(replicaId) }));
    for (const { partition, replicaId } of held) {
      const group = wal.group(partition);
      const log = group === undefined || group.replicaId < replicaId ? emptyLog : group;
      const state = store.partition(partition);
      const heldBack = repairs.heldBack(partition, replicaId);
      if (heldBack?.state || heldBack?.mute) continue;
      if (isInstallAheadOfLog(log, state)) continue;
      const problem = lostEnd(partition, log, state);
      if (problem === undefined) continue;
      // Nobody else has it: an operator has to look.
      if (replicationFactor === 1) throw new HansardError('LOG_DAMAGED', problem, { partition });
      return repairs.votesLost(held, problem);
    }
  }

  #idOf(replicaId: number): number {
    return firstIdIfZero(replicaId, this.#context.options.identity.nodeId);
  }

  open(partition: PartitionId, replicaId: number): Replica {
    const { settings, wal, store, judging } = this.#context.options;
    const repairs = this.#context.repairs();
    let log = wal.group(partition);
    // The store had it, and the process ended before the log did.
    if (log === undefined || log.replicaId < replicaId) log = wal.addGroup(partition, replicaId);
    const state = store.partition(partition);
    let heldBack = repairs.heldBack(partition, replicaId);
    if (heldBack === undefined || (!heldBack.state && !heldBack.mute)) {
      if (isInstallAheadOfLog(log, state)) log.reset(state.appliedIndex, state.appliedTerm);
      const gap = gapBeforeLog(log, state);
      if (gap !== undefined) {
        store.setAside(partition, gap);
        heldBack = repairs.heldBack(partition, replicaId);
      }
    }
    this.#host ??= this.#context.replicaHost();
    const replica = new Replica({
      replicaId,
      heldBack,
      log,
      store: state,
      host: this.#host,
      judging: judging?.(partition),
      settings: {
        ...replicaDefaults,
        partition,
        electionTicks: Math.max(2, Math.round(settings.electionTimeoutMs / settings.tickMs)),
        heartbeatTicks: this.#context.heartbeatTicks,
        entryBytes: settings.entryBytes,
        uncommittedBytes: settings.uncommittedBytesPerPartition,
        producerHoldMs: settings.producerHoldMs,
      },
    });
    this.#byPartition[partition] = replica;
    this.#held.push(replica);
    this.#context.opened(replica);
    return replica;
  }

  /** It is no member any more: who waits here goes on elsewhere. */
  close(replica: Replica): void {
    const { options, hearsay, closed } = this.#context;
    this.#byPartition[replica.partition] = undefined;
    this.#held.splice(this.#held.indexOf(replica), 1);
    replica.retire();
    closed(replica);
    const { leader } = replica;
    if (leader !== undefined && leader !== options.identity.nodeId)
      hearsay.noteLeader(replica.partition, leader);
  }
}
