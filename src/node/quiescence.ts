/**
 * Partitions in which nothing happens cost nothing: their leaders fall quiet, and
 * in their place the node shows itself to each peer with one message for all of
 * them (design rule 17). It names every (partition, term, commit index) that it
 * vouches for. A follower that knows this very leader, and has all of it, takes
 * that for a heartbeat and is not ticked; for any other the peer answers with a
 * refusal, and the leader wakes and speaks for itself. So nothing rests on what was
 * said earlier: a lost message, a restart or a change of leaders needs no repair.
 *
 * What ends the quiet, of one partition: whatever stirs its replica, here or there.
 * Of all that two nodes share: their link breaks, or one hears nothing of the
 * other for an election timeout. Then a leader goes on with heartbeats and with
 * asking who follows it (check-quorum), and followers elect, each after a rest of its
 * own random timeout, as if the last word had been the leader's last heartbeat.
 *
 * Times here are those of ticks, which hardly pass while the process stands still. Only time
 * is at stake: what raft promises never depended on heartbeats.
 */
import type { Index, NodeId, PartitionId, Term } from '../common/ids.js';
import type { Vouching } from './peer-codec.js';

/** What quiescence asks of a replica (partition/replica.ts). */
export interface QuietReplica {
  readonly partition: PartitionId;
  readonly term: Term;
  readonly commitIndex: Index;
  readonly isLeader: boolean;
  readonly isIdle: boolean;
  readonly hearsAll: boolean;
  readonly isQuiescent: boolean;
  readonly vouchedMs: number;
  readonly leader: NodeId | undefined;
  /** Where its replicas are, learners too. */
  readonly members: readonly { readonly nodeId: NodeId }[];
  fallQuiet(): void;
  vouchedFor(by: NodeId, term: Term, commit: Index, tickedMs: number): boolean;
  wake(): void;
}

export interface QuiescenceContext {
  readonly nodeId: NodeId;
  readonly settings: {
    readonly quiesceAfterMs: number;
    readonly electionTimeoutMs: number;
    readonly heartbeatMs: number;
  };
  replicas(): readonly QuietReplica[];
  replica(partition: PartitionId): QuietReplica | undefined;
  isConnected(peer: NodeId): boolean;
  vouch(peer: NodeId, vouchings: readonly Vouching[]): void;
  answer(peer: NodeId, refused: readonly PartitionId[]): void;
}

/** So often within an election timeout: two words may be lost before a follower doubts. */
const wordsPerTimeout = 4;

export class Quiescence {
  readonly #context: QuiescenceContext;
  readonly #wordMs: number;
  #spokeMs = Number.NEGATIVE_INFINITY;
  /** Leaders that are idle and not quiet yet, and since when. */
  readonly #idleSinceMs = new Map<QuietReplica, { readonly ms: number; readonly lastIndex: Index }>();
  /** Peers that were told something: when they last answered. */
  readonly #answeredMs = new Map<NodeId, number>();

  constructor(context: QuiescenceContext) {
    this.#context = context;
    const { heartbeatMs, electionTimeoutMs } = context.settings;
    this.#wordMs = Math.max(heartbeatMs, electionTimeoutMs / wordsPerTimeout);
  }

  /** Replicas of this node that are quiescent now, leading or following. */
  get count(): number {
    let count = 0;
    for (const replica of this.#context.replicas()) if (replica.isQuiescent) count++;
    return count;
  }

  /** Once a tick, before the replicas': false is left alone by this tick. */
  isTicked(replica: QuietReplica, tickedMs: number): boolean {
    if (replica.isQuiescent) {
      if (replica.isLeader || tickedMs - replica.vouchedMs <= this.#context.settings.electionTimeoutMs)
        return false;
      replica.wake();
    }
    return true;
  }

  /** Once a tick, after the replicas'. */
  tick(tickedMs: number): void {
    this.#doubt(tickedMs);
    this.#look(tickedMs);
    if (tickedMs - this.#spokeMs < this.#wordMs) return;
    this.#spokeMs = tickedMs;
    this.#speak(tickedMs);
  }

  /** Peers that were vouched to and have not answered for too long. */
  #doubt(tickedMs: number): void {
    for (const [peer, answeredMs] of this.#answeredMs)
      if (tickedMs - answeredMs > this.#context.settings.electionTimeoutMs) this.wakeAll(peer);
  }

  #look(tickedMs: number): void {
    for (const replica of this.#context.replicas()) {
      if (!replica.isLeader || replica.isQuiescent) continue;
      const since = this.#idleSinceMs.get(replica);
      if (!replica.isIdle || !this.#reachesAll(replica)) {
        if (since !== undefined) this.#idleSinceMs.delete(replica);
      } else if (since === undefined || since.lastIndex !== replica.commitIndex) {
        this.#idleSinceMs.set(replica, { ms: tickedMs, lastIndex: replica.commitIndex });
      } else if (tickedMs - since.ms >= this.#context.settings.quiesceAfterMs && replica.hearsAll) {
        this.#idleSinceMs.delete(replica);
        replica.fallQuiet();
      }
    }
  }

  #reachesAll(replica: QuietReplica): boolean {
    const { nodeId: self } = this.#context;
    return replica.members.every(({ nodeId }) => nodeId === self || this.#context.isConnected(nodeId));
  }

  #speak(tickedMs: number): void {
    const words = new Map<NodeId, Vouching[]>();
    for (const replica of this.#context.replicas()) {
      if (!replica.isQuiescent || !replica.isLeader) continue;
      const { partition, term, commitIndex: commit } = replica;
      for (const { nodeId } of replica.members) {
        if (nodeId === this.#context.nodeId) continue;
        const word = words.get(nodeId);
        if (word === undefined) words.set(nodeId, [{ partition, term, commit }]);
        else word.push({ partition, term, commit });
      }
    }
    for (const peer of this.#answeredMs.keys()) if (!words.has(peer)) this.#answeredMs.delete(peer);
    for (const [peer, vouchings] of words) {
      if (!this.#answeredMs.has(peer)) this.#answeredMs.set(peer, tickedMs);
      this.#context.vouch(peer, vouchings);
    }
  }

  /** A peer vouches for what it leads. */
  heard(peer: NodeId, vouchings: readonly Vouching[], tickedMs: number): void {
    const refused: PartitionId[] = [];
    for (const { partition, term, commit } of vouchings)
      if (!this.#context.replica(partition)?.vouchedFor(peer, term, commit, tickedMs))
        refused.push(partition);
    this.#context.answer(peer, refused);
  }

  answered(peer: NodeId, refused: readonly PartitionId[], tickedMs: number): void {
    if (this.#answeredMs.has(peer)) this.#answeredMs.set(peer, tickedMs);
    for (const partition of refused) {
      const replica = this.#context.replica(partition);
      if (replica?.isLeader) replica.wake();
    }
  }

  /** The link to `peer` broke, its other end may be another life, or it is silent: it can't vouch, nor be vouched to. */
  wakeAll(peer: NodeId): void {
    this.#answeredMs.delete(peer);
    for (const replica of this.#context.replicas()) {
      if (!replica.isQuiescent) continue;
      const depends = replica.isLeader
        ? replica.members.some(({ nodeId }) => nodeId === peer)
        : replica.leader === peer;
      if (depends) replica.wake();
    }
  }

  /** The replica is closed. */
  forget(replica: QuietReplica): void {
    this.#idleSinceMs.delete(replica);
  }
}
