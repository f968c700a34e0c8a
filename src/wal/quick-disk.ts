/**
 * Whether the next write of the log is better made at once, on the main thread.
 * Asking the worker costs two wake-ups of threads; on a machine whose cores sleep
 * between two appends each takes as long as a quick disk's whole sync. But a sync
 * blocks the loop, so it is only done where the last ones were quick and the write
 * is small: with much to write there is work that the worker's wait is worth.
 */

export interface QuickDiskLimits {
  /** What a write may hold, bytes: what few callers at a time bring, and one round of 64 of them. */
  readonly bytesMax: number;
  /** Mean of the last syncs, ms: less than what a loop delays messages by anyway. */
  readonly meanMs: number;
  /** One that took longer, ms, sends the next ones to the worker. */
  readonly slowMs: number;
  /** How many. */
  readonly writesAfterSlow: number;
}

export const quickDiskDefaults: QuickDiskLimits = Object.freeze({
  bytesMax: 16 * 1024,
  meanMs: 0.5,
  slowMs: 5,
  writesAfterSlow: 64,
});

/** Weight of the newest in the mean: about the last eight count. */
const newest = 1 / 8;

export class QuickDisk {
  readonly #limits: QuickDiskLimits;
  #meanMs: number;
  #left = 0;

  constructor(limits: QuickDiskLimits = quickDiskDefaults) {
    this.#limits = limits;
    // Not before the worker has shown that it is quick; MAX_VALUE takes any disk.
    this.#meanMs = Math.min(2 * limits.meanMs, Number.MAX_VALUE);
  }

  suits(bytes: number): boolean {
    return this.#left === 0 && bytes <= this.#limits.bytesMax && this.#meanMs <= this.#limits.meanMs;
  }

  /** Of every write, wherever it was made. Large ones say little about small ones. */
  took(bytes: number, ms: number): void {
    if (bytes > this.#limits.bytesMax) return;
    if (this.#left > 0) this.#left--;
    if (ms > this.#limits.slowMs) this.#left = this.#limits.writesAfterSlow;
    else this.#meanMs += (ms - this.#meanMs) * newest;
  }
}
