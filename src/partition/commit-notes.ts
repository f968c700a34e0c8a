/**
 * When followers hear of a commit index that nothing else has brought them.
 * Under load the next entries carry it a moment later, or those of another
 * partition take it along, so that a message for it, its answer and two wake-ups
 * of a process would be for nothing. All partitions of a node share one timer, and
 * what falls due together leaves together.
 */
import type { Clock, Timer } from '../common/env.js';

export interface CommitTeller {
  /** Sends what is still untold. */
  tellCommit(): void;
}

export class CommitNotes {
  readonly #clock: Clock;
  readonly #periodMs: number;
  /** Noted since the timer fired last, and in the period before. */
  #young: CommitTeller[] = [];
  #old: CommitTeller[] = [];
  #timer: Timer | undefined;
  #stopped = false;

  /** A note waits for one to two periods. */
  constructor(clock: Clock, periodMs: number) {
    this.#clock = clock;
    this.#periodMs = periodMs;
  }

  /** `teller` knows by itself that it is noted, and asks once. */
  note(teller: CommitTeller): void {
    this.#young.push(teller);
    this.#arm();
  }

  get hasAny(): boolean {
    return this.#young.length > 0 || this.#old.length > 0;
  }

  /** Something leaves for the followers anyway: all that is noted goes along. */
  tellNow(): void {
    const due = this.#old.length === 0 ? this.#young : this.#old.concat(this.#young);
    this.#old = [];
    this.#young = [];
    for (const teller of due) teller.tellCommit();
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#young = [];
    this.#old = [];
  }

  #arm(): void {
    if (this.#stopped) return;
    this.#timer ??= this.#clock.after(this.#periodMs, () => {
      this.#timer = undefined;
      const due = this.#old;
      this.#old = this.#young;
      this.#young = [];
      if (this.#old.length > 0) this.#arm();
      for (const teller of due) teller.tellCommit();
    });
  }
}
