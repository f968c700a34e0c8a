/**
 * Linearizable reads of all partitions that this node leads, confirmed together:
 * one question to each peer for whatever (partition, term) pairs have reads that
 * wait, begun after those reads came (design rules 11 and 17). A peer vouches for
 * a pair while its replica is in that very term: a later leader, elected before
 * the reads came, would have had a majority in a later term by then, and every
 * majority that vouches has a replica in common with that one.
 *
 * What comes while a round is under way gathers for the next, so that under load
 * a round carries many reads. A round changes nothing at a peer, resets no timer
 * and dies with what it asks for: reads that it could not confirm are asked for by
 * raft's own heartbeats, which also bring up whoever has fallen behind.
 */
import type { NodeId, PartitionId, ReplicaId, Term } from '../common/ids.js';
import type { ReadPair, ReadRoundAnswer, ReadRoundQuestion } from './peer-codec.js';

/** What a round asks of a replica (partition/replica.ts). */
export interface RoundReplica {
  readonly partition: PartitionId;
  /** Whose word counts. */
  readonly voters: readonly { readonly replicaId: ReplicaId; readonly nodeId: NodeId }[];
  /** Takes the reads that wait into a round; undefined: not by this way, or none wait. */
  beginSharedRound(): { readonly context: number; readonly term: Term } | undefined;
  /** These replicas vouch, beside its own. True: they are a quorum, or the round is void. */
  vouched(context: number, term: Term, by: readonly ReplicaId[]): boolean;
  /** No quorum: its reads go the other way. */
  sharedRoundFailed(context: number): void;
}

export interface ReadRoundsContext {
  readonly nodeId: NodeId;
  monotonicMs(): number;
  defer(fn: () => void): void;
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
}

interface Round {
  readonly number: number;
  readonly startedMs: number;
  /** Not confirmed yet, by partition. */
  readonly open: Map<PartitionId, Asked>;
  /** Peers that have not answered. */
  readonly silent: Set<NodeId>;
}

/** A round that waits longer for somebody is given up, so that one slow peer does not hold up all partitions. */
const patienceMs = 100;

export class ReadRounds {
  readonly #context: ReadRoundsContext;
  #waiting: RoundReplica[] = [];
  #round: Round | undefined;
  #scheduled = false;
  #number: number;
  /** Rounds begun by this life. */
  rounds = 0;

  /** `seed` differs between lives: no answer to another's question is taken for ours. */
  constructor(context: ReadRoundsContext, seed: number) {
    this.#context = context;
    this.#number = seed;
  }

  /** Reads of `replica` wait; once until its next `beginSharedRound`. */
  want(replica: RoundReplica): void {
    this.#waiting.push(replica);
    if (this.#round === undefined) this.#schedule();
  }

  /** What arrives in this turn shares the round. */
  #schedule(): void {
    if (this.#scheduled || this.#waiting.length === 0) return;
    this.#scheduled = true;
    this.#context.defer(() => {
      this.#scheduled = false;
      if (this.#round === undefined) this.#begin();
    });
  }

  #begin(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    const open = new Map<PartitionId, Asked>();
    const pairs = new Map<NodeId, ReadPair[]>();
    for (const replica of waiting) {
      const begun = replica.beginSharedRound();
      // A single voter needs nobody's word.
      if (begun === undefined || replica.vouched(begun.context, begun.term, [])) continue;
      const { context, term } = begun;
      open.set(replica.partition, { replica, context, term, vouching: [] });
      for (const { nodeId } of replica.voters) {
        if (nodeId === this.#context.nodeId) continue;
        const pair = { partition: replica.partition, term };
        const list = pairs.get(nodeId);
        if (list === undefined) pairs.set(nodeId, [pair]);
        else list.push(pair);
      }
    }
    if (open.size === 0) return this.#schedule();
    const number = ++this.#number;
    this.rounds++;
    const silent = new Set<NodeId>();
    for (const [peer, asked] of pairs)
      if (this.#context.ask(peer, { number, pairs: asked })) silent.add(peer);
    this.#round = { number, startedMs: this.#context.monotonicMs(), open, silent };
    this.#context.flush();
    this.#endIfOver(this.#round);
  }

  answered(peer: NodeId, { number, refused }: ReadRoundAnswer): void {
    const round = this.#round;
    if (round === undefined || round.number !== number || !round.silent.delete(peer)) return;
    for (const [partition, asked] of round.open) {
      if (refused.includes(partition)) continue;
      const member = asked.replica.voters.find(({ nodeId }) => nodeId === peer);
      if (member === undefined) continue;
      asked.vouching.push(member.replicaId);
      if (asked.replica.vouched(asked.context, asked.term, asked.vouching)) round.open.delete(partition);
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
    this.#endIfOver(round);
  }

  #endIfOver(round: Round): void {
    if (round.open.size > 0 && round.silent.size > 0) return;
    this.#round = undefined;
    for (const { replica, context } of round.open.values()) replica.sharedRoundFailed(context);
    this.#schedule();
  }
}
