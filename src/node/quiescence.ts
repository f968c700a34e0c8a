/**
 * Partitions in which nothing happens cost nothing: their leaders fall quiet, and
 * in their place the node shows itself to each peer with one word for all of
 * them (design rule 17). It stands for a list of (partition, term, commit index) that both
 * nodes know by its number (vouch-lists.ts). A follower that knows this very leader, and has
 * all of it, takes that for a heartbeat and is not ticked; for any other the peer answers with
 * a refusal, and the leader wakes and speaks for itself.
 *
 * What ends the quiet, of one partition: whatever stirs its replica, here or there. The one that
 * stirs tells (`woke`), so a replica that has not told is as it was when it fell quiet; that
 * is what makes the number of a list enough.
 * Of all that two nodes share: their link breaks, or one hears nothing of the
 * other for an election timeout. Then a leader goes on with heartbeats and with
 * asking who follows it (check-quorum), and followers elect, each after a rest of its
 * own random timeout, as if the last word had been the leader's last heartbeat.
 *
 * Times here are those of ticks, which hardly pass while the process stands still. Only time
 * is at stake: what raft promises never depended on heartbeats.
 */
import type { Index, NodeId, PartitionId, Term } from '../common/ids.js';
import type { VouchAnswer, VouchWord } from './peer-codec.js';
import { HeardList, ToldList } from './vouch-lists.js';

/** What quiescence asks of a replica (partition/replica.ts). One that leaves its quiet tells by `woke`. */
export interface QuietReplica {
  readonly partition: PartitionId;
  readonly term: Term;
  readonly commitIndex: Index;
  readonly isLeader: boolean;
  readonly isIdle: boolean;
  readonly hearsAll: boolean;
  readonly isQuiescent: boolean;
  readonly leader: NodeId | undefined;
  /** Where its replicas are, learners too. */
  readonly members: readonly { readonly nodeId: NodeId }[];
  fallQuiet(): void;
  vouchedFor(by: NodeId, term: Term, commit: Index): boolean;
  vouchEnded(): void;
  wake(): void;
}

export interface QuiescenceContext<R extends QuietReplica> {
  readonly nodeId: NodeId;
  readonly settings: {
    readonly quiesceAfterMs: number;
    readonly electionTimeoutMs: number;
    readonly heartbeatMs: number;
  };
  replicas(): readonly R[];
  replica(partition: PartitionId): R | undefined;
  isConnected(peer: NodeId): boolean;
  vouch(peer: NodeId, word: VouchWord): void;
  answer(peer: NodeId, answer: VouchAnswer): void;
  /** The replica needs ticks from now on. */
  awoke(replica: R): void;
}

/** So often within an election timeout: two words may be lost before a follower doubts. */
const wordsPerTimeout = 4;
/** No list has it. */
const noList = 0;

export class Quiescence<R extends QuietReplica> {
  readonly #context: QuiescenceContext<R>;
  readonly #wordMs: number;
  #spokeMs = Number.NEGATIVE_INFINITY;
  /** Those that are not quiescent. */
  readonly #awake = new Set<R>();
  /** Leaders that are idle and not quiet yet, and since when. */
  readonly #idleSinceMs = new Map<R, { readonly ms: number; readonly lastIndex: Index }>();
  readonly #told = new Map<NodeId, ToldList>();
  readonly #heard = new Map<NodeId, HeardList>();
  /** Peers that something is vouched for to: when they last answered. */
  readonly #answeredMs = new Map<NodeId, number>();
  #number: number;
  readonly #newNumber = (): number => ++this.#number;

  /** `seed` differs between lives: no list has the number of an earlier life's. */
  constructor(context: QuiescenceContext<R>, seed: number) {
    this.#context = context;
    this.#number = seed;
    const { heartbeatMs, electionTimeoutMs } = context.settings;
    this.#wordMs = Math.max(heartbeatMs, electionTimeoutMs / wordsPerTimeout);
  }

  /** Replicas of this node that are quiescent now, leading or following. */
  get count(): number {
    return this.#context.replicas().length - this.#awake.size;
  }

  /** Those that are ticked, in the order in which they stirred. */
  get awake(): Iterable<R> {
    return this.#awake;
  }

  /** For so long no tick has anything to do, ms; 0: replicas are awake. */
  restMs(tickedMs: number): number {
    return this.#awake.size > 0 ? 0 : Math.max(0, this.#spokeMs + this.#wordMs - tickedMs);
  }

  /** The replica is here. */
  opened(replica: R): void {
    this.#awake.add(replica);
    this.#context.awoke(replica);
  }

  /** The replica is closed. */
  forget(replica: R): void {
    this.#awake.delete(replica);
    this.#idleSinceMs.delete(replica);
    this.#changed(replica);
  }

  /** It is quiescent no more. */
  woke(replica: R): void {
    this.#awake.add(replica);
    this.#changed(replica);
    this.#context.awoke(replica);
  }

  /** Of this replica nothing holds that was said, or heard. */
  #changed({ partition }: R): void {
    for (const list of this.#told.values()) list.drop(partition);
    for (const list of this.#heard.values()) list.unsettle(partition);
  }

  /** Once a tick, after the replicas'. */
  tick(tickedMs: number): void {
    this.#doubt(tickedMs);
    this.#look(tickedMs);
    if (tickedMs - this.#spokeMs < this.#wordMs) return;
    this.#spokeMs = tickedMs;
    this.#speak();
  }

  /** Peers that were vouched to, or vouched, and are silent for too long. */
  #doubt(tickedMs: number): void {
    const { electionTimeoutMs } = this.#context.settings;
    for (const [peer, answeredMs] of this.#answeredMs)
      if (tickedMs - answeredMs > electionTimeoutMs) this.wakeAll(peer);
    for (const [peer, { heardMs, partitions }] of this.#heard) {
      if (tickedMs - heardMs <= electionTimeoutMs) continue;
      this.#heard.delete(peer);
      for (const partition of partitions) this.#restingOn(peer, partition)?.wake();
    }
  }

  #restingOn(peer: NodeId, partition: PartitionId): R | undefined {
    const replica = this.#context.replica(partition);
    return replica?.isQuiescent && !replica.isLeader && replica.leader === peer ? replica : undefined;
  }

  #look(tickedMs: number): void {
    for (const replica of this.#awake) {
      if (!replica.isLeader) continue;
      const since = this.#idleSinceMs.get(replica);
      if (!replica.isIdle || !this.#reachesAll(replica)) {
        if (since !== undefined) this.#idleSinceMs.delete(replica);
      } else if (since === undefined || since.lastIndex !== replica.commitIndex) {
        this.#idleSinceMs.set(replica, { ms: tickedMs, lastIndex: replica.commitIndex });
      } else if (tickedMs - since.ms >= this.#context.settings.quiesceAfterMs && replica.hearsAll) {
        this.#idleSinceMs.delete(replica);
        this.#fallQuiet(replica, tickedMs);
      }
    }
  }

  #reachesAll(replica: R): boolean {
    const { nodeId: self } = this.#context;
    return replica.members.every(({ nodeId }) => nodeId === self || this.#context.isConnected(nodeId));
  }

  #fallQuiet(replica: R, tickedMs: number): void {
    replica.fallQuiet();
    this.#awake.delete(replica);
    const { partition, term, commitIndex: commit } = replica;
    for (const { nodeId } of replica.members)
      if (nodeId !== this.#context.nodeId) this.#toldTo(nodeId, tickedMs).add({ partition, term, commit });
  }

  #toldTo(peer: NodeId, tickedMs: number): ToldList {
    let list = this.#told.get(peer);
    if (list === undefined) {
      list = new ToldList(this.#newNumber);
      this.#told.set(peer, list);
    }
    if (list.isEmpty) this.#answeredMs.set(peer, tickedMs);
    return list;
  }

  /** To all that are vouched to; and what was heard meanwhile is answered by the way. */
  #speak(): void {
    for (const [peer, list] of this.#told) {
      if (list.isEmpty) this.#answeredMs.delete(peer);
      if (list.isOver) this.#told.delete(peer);
      else this.#context.vouch(peer, { ...list.word(), heard: this.#takeUnanswered(peer) });
    }
    for (const peer of this.#heard.keys()) {
      const number = this.#takeUnanswered(peer);
      if (number !== noList) this.#context.answer(peer, { number, refused: [] });
    }
  }

  #takeUnanswered(peer: NodeId): number {
    const list = this.#heard.get(peer);
    if (!list?.isUnanswered) return noList;
    list.isUnanswered = false;
    return list.number;
  }

  /** A peer vouches for what it leads. */
  heard(peer: NodeId, word: VouchWord, tickedMs: number): void {
    if (word.heard !== noList) this.answered(peer, { number: word.heard, refused: [] }, tickedMs);
    const list = this.#heard.get(peer) ?? new HeardList();
    const ended = list.take(word);
    // What is known here is vouched for no more, and expires unless the list comes whole.
    if (ended === undefined) return this.#context.answer(peer, { number: noList, refused: [] });
    this.#heard.set(peer, list);
    for (const partition of ended) this.#restingOn(peer, partition)?.vouchEnded();
    list.heardMs = tickedMs;
    const refused: PartitionId[] = [];
    for (const { partition, term, commit } of list.unsettled()) {
      const replica = this.#context.replica(partition);
      if (!replica?.vouchedFor(peer, term, commit)) refused.push(partition);
      else if (replica.isQuiescent) {
        list.settle(partition);
        this.#awake.delete(replica);
      }
    }
    list.isUnanswered = refused.length === 0;
    if (refused.length > 0) this.#context.answer(peer, { number: word.number, refused });
  }

  answered(peer: NodeId, { number, refused }: VouchAnswer, tickedMs: number): void {
    const list = this.#told.get(peer);
    if (number === noList) list?.beginAnew();
    else if (list?.taken(number) && this.#answeredMs.has(peer)) this.#answeredMs.set(peer, tickedMs);
    for (const partition of refused) {
      const replica = this.#context.replica(partition);
      if (replica?.isLeader) replica.wake();
    }
  }

  /** The link to `peer` broke, its other end may be another life, or it is silent: it can't vouch, nor be vouched to. */
  wakeAll(peer: NodeId): void {
    this.#answeredMs.delete(peer);
    this.#told.delete(peer);
    this.#heard.delete(peer);
    for (const replica of this.#context.replicas()) {
      if (!replica.isQuiescent) continue;
      const depends = replica.isLeader
        ? replica.members.some(({ nodeId }) => nodeId === peer)
        : replica.leader === peer;
      if (depends) replica.wake();
    }
  }
}
