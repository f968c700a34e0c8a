/**
 * Linearizable reads of all partitions that this node leads, confirmed together:
 * one question to each peer for whatever (partition, term) pairs have reads that
 * wait, begun after those reads came (design rules 11 and 17). A peer vouches for
 * a pair while its replica is in that very term: a later leader, elected before
 * the reads came, would have had a majority in a later term by then, and every
 * majority that vouches has a replica in common with that one.
 *
 * What comes while a round is under way gathers for the next, so that under load
 * a round carries many reads; where many come a round also waits a little, since its
 * messages cost more than what they carry. Asked are as many peers as make a quorum, the
 * quickest ones, and the others where these do not answer soon. A round changes nothing
 * at a peer, resets no timer and dies with what it asks for: reads that it could not confirm
 * are asked for by raft's own heartbeats, which also bring up whoever has fallen behind.
 */
import type { NodeId, PartitionId, ReplicaId, Term } from '../common/ids.js';
import type { ReadPair, ReadRoundAnswer, ReadRoundQuestion } from './peer-codec.js';

/** What a round asks of a replica (partition/replica.ts). */
export interface RoundReplica {
  readonly partition: PartitionId;
  /** Whose word counts. */
  readonly voters: readonly { readonly replicaId: ReplicaId; readonly nodeId: NodeId }[];
  readonly reads: {
    /** Takes the reads that wait into a round; undefined: not by this way, or none wait. */
    beginShared(): { readonly context: number; readonly term: Term; readonly reads: number } | undefined;
    /** These replicas vouch, beside its own. True: they are a quorum, or the round is void. */
    vouched(context: number, term: Term, by: readonly ReplicaId[]): boolean;
    /** No quorum: its reads go the other way. */
    sharedFailed(context: number): void;
  };
}

export interface ReadRoundsContext {
  readonly nodeId: NodeId;
  monotonicMs(): number;
  defer(fn: () => void): void;
  after(delayMs: number, fn: () => void): void;
  /** False: the peer is out of reach. */
  ask(peer: NodeId, question: ReadRoundQuestion): boolean;
  /** What was asked leaves now. */
  flush(): void;
}

interface Asked {
  readonly replica: RoundReplica;
  readonly context: number;
  readonly term: Term;
  readonly vouching: ReplicaId[];
  /** Peers that must still be asked, to have a quorum with its own word. */
  missing: number;
}

interface Round {
  readonly number: number;
  readonly startedMs: number;
  /** Not confirmed yet, by partition. */
  readonly open: Map<PartitionId, Asked>;
  /** Peers that have been asked and have not answered, and when that was. */
  readonly silent: Map<NodeId, number>;
  /** Peers that have been asked. */
  readonly asked: Set<NodeId>;
}

/** A round that waits longer for somebody is given up, so that one slow peer does not hold up all partitions. */
const patienceMs = 100;
/** Those that a quorum can do without are asked, too, where it has not come about by then: a busy peer takes some ms. */
const hedgeMs = 20;
/** After a round with so many reads the next one begins `gatherMs` after it at the earliest. */
const gatherFrom = 4;
const gatherMs = 1;
/** Weight of a new measurement of how long a peer takes to answer. */
const newShare = 0.2;
/** What was measured of a peer that is not asked counts less with each round: it may have become the quicker one. */
const ageing = 0.995;

export class ReadRounds {
  readonly #context: ReadRoundsContext;
  #waiting: RoundReplica[] = [];
  #round: Round | undefined;
  #scheduled = false;
  #number: number;
  /** When the last round began, and how many reads it had. */
  #lastStartMs = Number.NEGATIVE_INFINITY;
  #lastReads = 0;
  /** How long peers take to answer, ms. */
  readonly #answerMs = new Map<NodeId, number>();
  #isHedging = false;
  /** Rounds begun by this life. */
  rounds = 0;

  /** `seed` differs between lives: no answer to another's question is taken for ours. */
  constructor(context: ReadRoundsContext, seed: number) {
    this.#context = context;
    this.#number = seed;
  }

  /** Reads of `replica` wait; once until its next `beginShared`. */
  want(replica: RoundReplica): void {
    this.#waiting.push(replica);
    if (this.#round === undefined) this.#schedule();
  }

  /** What arrives in this turn shares the round, and what comes soon where many do. */
  #schedule(): void {
    if (this.#scheduled || this.#waiting.length === 0) return;
    this.#scheduled = true;
    const begin = (): void => {
      this.#scheduled = false;
      if (this.#round === undefined) this.#begin();
    };
    const gathersMs =
      this.#lastReads < gatherFrom ? 0 : this.#lastStartMs + gatherMs - this.#context.monotonicMs();
    if (gathersMs > 0) this.#context.after(gathersMs, begin);
    else this.#context.defer(begin);
  }

  #begin(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    const open = new Map<PartitionId, Asked>();
    let reads = 0;
    for (const replica of waiting) {
      const begun = replica.reads.beginShared();
      // A single voter needs nobody's word.
      if (begun === undefined || replica.reads.vouched(begun.context, begun.term, [])) continue;
      const { context, term } = begun;
      const missing = Math.floor(replica.voters.length / 2);
      open.set(replica.partition, { replica, context, term, vouching: [], missing });
      reads += begun.reads;
    }
    if (open.size === 0) return this.#schedule();
    this.rounds++;
    const startedMs = this.#context.monotonicMs();
    this.#lastStartMs = startedMs;
    this.#lastReads = reads;
    const number = ++this.#number;
    const round: Round = { number, startedMs, open, silent: new Map(), asked: new Set() };
    this.#round = round;
    this.#ask(round, false);
    this.#endIfOver(round);
    if (this.#round === round) this.#hedge(hedgeMs);
  }

  /** The quickest peers, as far as a quorum needs them; `all`: whoever has not been asked yet. */
  #ask(round: Round, all: boolean): void {
    const peers = new Set<NodeId>();
    for (const { replica } of round.open.values())
      for (const { nodeId } of replica.voters) if (!round.asked.has(nodeId)) peers.add(nodeId);
    peers.delete(this.#context.nodeId);
    const ranked = [...peers].sort((a, b) => this.#answersIn(a) - this.#answersIn(b) || a - b);
    for (const peer of ranked) {
      const asked: Asked[] = [];
      for (const each of round.open.values())
        if ((all || each.missing > 0) && each.replica.voters.some(({ nodeId }) => nodeId === peer))
          asked.push(each);
      if (asked.length === 0) {
        this.#answerMs.set(peer, this.#answersIn(peer) * ageing);
        continue;
      }
      const pairs = asked.map(({ replica, term }): ReadPair => ({ partition: replica.partition, term }));
      round.asked.add(peer);
      if (!this.#context.ask(peer, { number: round.number, pairs })) continue;
      round.silent.set(peer, this.#context.monotonicMs());
      for (const each of asked) each.missing--;
    }
    this.#context.flush();
  }

  #answersIn(peer: NodeId): number {
    return this.#answerMs.get(peer) ?? 0;
  }

  /** One timer for all rounds: looks after the one that is under way. */
  #hedge(inMs: number): void {
    if (this.#isHedging) return;
    this.#isHedging = true;
    this.#context.after(inMs, () => {
      this.#isHedging = false;
      const round = this.#round;
      if (round === undefined) return;
      const leftMs = round.startedMs + hedgeMs - this.#context.monotonicMs();
      if (leftMs > 0) return this.#hedge(leftMs);
      for (const peer of round.silent.keys()) this.#took(peer, hedgeMs);
      this.#ask(round, true);
    });
  }

  #took(peer: NodeId, ms: number): void {
    const known = this.#answersIn(peer);
    this.#answerMs.set(peer, known + newShare * (ms - known));
  }

  answered(peer: NodeId, { number, refused }: ReadRoundAnswer): void {
    const round = this.#round;
    const askedMs = round?.number === number ? round.silent.get(peer) : undefined;
    if (round === undefined || askedMs === undefined) return;
    round.silent.delete(peer);
    this.#took(peer, this.#context.monotonicMs() - askedMs);
    for (const [partition, asked] of round.open) {
      if (refused.includes(partition)) continue;
      const member = asked.replica.voters.find(({ nodeId }) => nodeId === peer);
      if (member === undefined) continue;
      asked.vouching.push(member.replicaId);
      if (asked.replica.reads.vouched(asked.context, asked.term, asked.vouching))
        round.open.delete(partition);
    }
    this.#endIfOver(round);
  }

  peerDown(peer: NodeId): void {
    const round = this.#round;
    if (round?.silent.delete(peer)) this.#endIfOver(round);
  }

  tick(nowMs: number): void {
    const round = this.#round;
    if (round === undefined || nowMs - round.startedMs < patienceMs) return;
    round.silent.clear();
    this.#end(round);
  }

  #endIfOver(round: Round): void {
    // Whose word was not needed is asked for where somebody's is missing.
    if (round.open.size > 0 && round.silent.size === 0) this.#ask(round, true);
    if (round.open.size === 0 || round.silent.size === 0) this.#end(round);
  }

  #end(round: Round): void {
    this.#round = undefined;
    for (const { replica, context } of round.open.values()) replica.reads.sharedFailed(context);
    this.#schedule();
  }
}
