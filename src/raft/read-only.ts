/**
 * Reads that wait for proof that their leader still led when they came: a round
 * of heartbeats begun after them, answered by a quorum (Raft thesis, 6.4).
 *
 * Rounds are a counter of this leader and term: round n is confirmed when a
 * quorum has answered a heartbeat that carried n or more, and with it the first
 * n reads of the term. A caller's context never travels as a round, so that
 * equal contexts can't take each other's answers.
 */
import type { Index, ReplicaId } from '../common/ids.js';
import { type AckedIndexes, jointCommitted } from './quorum.js';
import type { MemberConfig } from './tracker.js';

/** Rounds come in messages' `context`, which holds callers' contexts, too: large numbers. See quorum.ts. */
const sortedRounds: number[] = [];

export interface PendingRead {
  /** Who asked: a follower, or 0 for this replica. */
  readonly from: ReplicaId;
  readonly context: number;
  /** The commit index when the request came. */
  readonly index: Index;
}

export class ReadOnly implements AckedIndexes {
  /** Highest round that each replica has answered. */
  readonly #acks = new Map<ReplicaId, number>();
  #pending: PendingRead[] = [];
  #confirmed = 0;

  /** Rounds die with the term. */
  reset(): void {
    this.#acks.clear();
    this.#pending = [];
    this.#confirmed = 0;
  }

  add(read: PendingRead): void {
    this.#pending.push(read);
  }

  /** The round that confirms all reads there are; 0: none wait. */
  get round(): number {
    return this.#pending.length === 0 ? 0 : this.#confirmed + this.#pending.length;
  }

  ack(from: ReplicaId, round: number): void {
    if (round > (this.#acks.get(from) ?? 0)) this.#acks.set(from, round);
  }

  acked(id: ReplicaId): number | undefined {
    return this.#acks.get(id);
  }

  /** Takes out the reads that a quorum of `config` has confirmed, oldest first. */
  takeConfirmed(config: MemberConfig): readonly PendingRead[] {
    if (this.#pending.length === 0) return [];
    const confirmed = jointCommitted(config.voters, config.votersOutgoing, this, sortedRounds);
    const count = Math.min(confirmed - this.#confirmed, this.#pending.length);
    if (count <= 0) return [];
    this.#confirmed += count;
    return this.#pending.splice(0, count);
  }
}
