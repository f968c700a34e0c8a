/**
 * Linearizable reads: a round asks the quorum once for all reads that arrived
 * before it began, under a fresh counter (never the caller's), and dies with
 * the term. One round is under way at a time; what arrives meanwhile shares the
 * next.
 *
 * Bounded reads live on what rounds leave behind: whatever was acknowledged
 * anywhere before a round began is at or below the index that the quorum
 * confirmed, so once that index is applied here the state is complete as of the
 * round's beginning, by this node's own monotonic clock. No other clock has a say.
 */
import { HansardError } from '../common/errors.js';
import type { Index } from '../common/ids.js';

/** What must hold before the state may answer; SESSION is 'eventual' with an index. */
export type ReadBarrierLevel = 'linearizable' | 'bounded' | 'eventual';

interface WaitingRead {
  minIndex: Index;
  readonly deadlineMs: number;
  readonly resolve: () => void;
  readonly reject: (error: HansardError) => void;
}

/** Complete as of `sinceMs` once `index` is applied. */
interface Freshness {
  readonly sinceMs: number;
  readonly index: Index;
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
  /** All that was acknowledged before this time is applied here, on this node's monotonic clock. */
  #freshMs = Number.NEGATIVE_INFINITY;
  /** Confirmed and not applied yet: the round that will be the first, and the newest one. */
  #fresher: Freshness[] = [];
  /** A round is due though nobody waits for it: bounded reads will want a newer one soon. */
  #renewal = false;

  /** Reads that wait for anything. */
  get size(): number {
    return this.#next.length + (this.#round?.reads.length ?? 0) + this.#confirmed.length;
  }

  /** `contextSeed` differs between lives and replicas, so that no answer of another's round is taken for ours. */
  constructor(contextSeed: number) {
    this.#contexts = contextSeed;
  }

  get readsInRound(): number {
    return this.#round?.reads.length ?? 0;
  }

  get wantsRound(): boolean {
    return this.#round === undefined && (this.#next.length > 0 || this.#renewal);
  }

  get isWaiting(): boolean {
    return this.#next.length > 0 || this.#round !== undefined || this.#confirmed.length > 0 || this.#renewal;
  }

  /** How far behind this replica's state is at most, ms; undefined: no round has told. */
  stalenessMs(nowMs: number): number | undefined {
    return this.#freshMs === Number.NEGATIVE_INFINITY ? undefined : Math.max(0, nowMs - this.#freshMs);
  }

  /**
   * Is the state fresh enough for a read of that bound? Where half of the bound
   * has passed a round is asked for ahead, so that the reads that follow need not wait.
   */
  isFresh(maxStalenessMs: number, nowMs: number): boolean {
    const behindMs = nowMs - this.#freshMs;
    if (behindMs > maxStalenessMs) return false;
    if (behindMs * 2 > maxStalenessMs && this.#round === undefined) this.#renewal = true;
    return true;
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
    this.#renewal = false;
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
    const known = { sinceMs: this.#round.startedMs, index };
    // The first of them is applied first; of those behind it the newest says most.
    if (this.#fresher.length < 2) this.#fresher.push(known);
    else this.#fresher[1] = known;
    for (const read of this.#round.reads) {
      if (index > read.minIndex) read.minIndex = index;
      this.#confirmed.push(read);
    }
    this.#round = undefined;
  }

  /** Answers what the applied index allows. */
  applied(index: Index): void {
    while (this.#fresher.length > 0 && (this.#fresher[0] as Freshness).index <= index)
      this.#freshMs = (this.#fresher.shift() as Freshness).sinceMs;
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
    this.#renewal = false;
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
