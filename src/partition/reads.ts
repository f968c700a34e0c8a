/**
 * Linearizable reads: a round asks the quorum once for all reads that arrived
 * before it began, under a fresh counter (never the caller's), and dies with
 * the term. One round is under way at a time; what arrives meanwhile shares the
 * next.
 */
import { HansardError } from '../common/errors.js';
import type { Index } from '../common/ids.js';

interface WaitingRead {
  readonly minIndex: Index;
  readonly deadlineMs: number;
  readonly resolve: () => void;
  readonly reject: (error: HansardError) => void;
}

interface Round {
  readonly context: number;
  readonly startedMs: number;
  readonly reads: WaitingRead[];
}

export class ReadQueue {
  /** Not asked for yet. */
  #next: WaitingRead[] = [];
  #round: Round | undefined;
  /** Confirmed or eventual; wait for the applied index. */
  #confirmed: WaitingRead[] = [];
  #contexts: number;

  /** Reads that wait for anything. */
  get size(): number {
    return this.#next.length + (this.#round?.reads.length ?? 0) + this.#confirmed.length;
  }

  /** `contextSeed` differs between lives and replicas, so that no answer of another's round is taken for ours. */
  constructor(contextSeed: number) {
    this.#contexts = contextSeed;
  }

  get wantsRound(): boolean {
    return this.#round === undefined && this.#next.length > 0;
  }

  get isWaiting(): boolean {
    return this.#next.length > 0 || this.#round !== undefined || this.#confirmed.length > 0;
  }

  linearizable(minIndex: Index, deadlineMs: number): Promise<void> {
    return new Promise((resolve, reject) => this.#next.push({ minIndex, deadlineMs, resolve, reject }));
  }

  appliedAtLeast(minIndex: Index, deadlineMs: number): Promise<void> {
    return new Promise((resolve, reject) => this.#confirmed.push({ minIndex, deadlineMs, resolve, reject }));
  }

  /** Starts a round with all reads that wait; its context goes into raft's readIndex. */
  startRound(nowMs: number): number {
    const context = ++this.#contexts;
    this.#round = { context, startedMs: nowMs, reads: this.#next };
    this.#next = [];
    return context;
  }

  /** Nobody could be asked, or no quorum answered: the reads wait for another try. False: not the round under way. */
  roundFailed(context = this.#round?.context): boolean {
    if (this.#round === undefined || this.#round.context !== context) return false;
    this.#next = this.#round.reads.concat(this.#next);
    this.#round = undefined;
    return true;
  }

  /** A quorum confirmed the round at `index`. */
  confirmed(context: number, index: Index): void {
    if (this.#round === undefined || this.#round.context !== context) return;
    for (const read of this.#round.reads) {
      this.#confirmed.push(index > read.minIndex ? { ...read, minIndex: index } : read);
    }
    this.#round = undefined;
  }

  /** Answers what the applied index allows. */
  applied(index: Index): void {
    if (this.#confirmed.length === 0) return;
    const waiting = this.#confirmed;
    this.#confirmed = [];
    for (const read of waiting) {
      if (read.minIndex <= index) read.resolve();
      else this.#confirmed.push(read);
    }
  }

  /** Ends what is past its deadline; asks again where a round stays unanswered. */
  tick(nowMs: number, retryMs: number): void {
    if (this.#round !== undefined && nowMs - this.#round.startedMs >= retryMs) this.roundFailed();
    const why = 'no quorum confirmed the read in time';
    this.#next = expire(this.#next, nowMs, 'NO_QUORUM', why);
    if (this.#round !== undefined) {
      this.#round = { ...this.#round, reads: expire(this.#round.reads, nowMs, 'NO_QUORUM', why) };
    }
    this.#confirmed = expire(
      this.#confirmed,
      nowMs,
      'DEADLINE_EXCEEDED',
      'this replica did not reach the index that the read needs in time',
    );
  }

  rejectAll(error: HansardError): void {
    for (const list of [this.#next, this.#round?.reads ?? [], this.#confirmed]) {
      for (const read of list) read.reject(error);
    }
    this.#next = [];
    this.#round = undefined;
    this.#confirmed = [];
  }
}

function expire(
  reads: WaitingRead[],
  nowMs: number,
  reason: 'NO_QUORUM' | 'DEADLINE_EXCEEDED',
  message: string,
): WaitingRead[] {
  if (!reads.some((read) => read.deadlineMs <= nowMs)) return reads;
  const kept: WaitingRead[] = [];
  for (const read of reads) {
    if (read.deadlineMs <= nowMs) read.reject(new HansardError(reason, message));
    else kept.push(read);
  }
  return kept;
}
