/**
 * The time that a leader stamps. Commit times never fall, so one that came too early
 * (of a clock that was ahead) would stop them until real time is there, and with them
 * whatever waits for its time. Instead they go on from it at half of our monotonic
 * clock's speed: everything still comes, at most twice as late and never early, and
 * real time catches up.
 */
import type { TimeUs } from '../common/ids.js';

/** Of real time, while commit time is ahead of it. */
const catchUpSpeed = 0.5;

export class CommitClock {
  /** The latest commit time known here, and when by our monotonic clock it was. */
  #latestUs: TimeUs = 0;
  #latestMs = 0;

  constructor(
    /** The wall clock as far as it is trusted. */
    private readonly wallUs: () => TimeUs,
    private readonly monotonicMs: () => number,
  ) {}

  /** `appliedUs`: the last commit time that is applied here. */
  nowUs(appliedUs: TimeUs): TimeUs {
    const nowMs = this.monotonicMs();
    this.#reach(appliedUs, nowMs);
    const goneOnUs = Math.floor((nowMs - this.#latestMs) * 1_000 * catchUpSpeed);
    this.#reach(Math.max(this.wallUs(), this.#latestUs + goneOnUs), nowMs);
    return this.#latestUs;
  }

  #reach(timeUs: TimeUs, nowMs: number): void {
    if (timeUs <= this.#latestUs) return;
    this.#latestUs = timeUs;
    this.#latestMs = nowMs;
  }
}
