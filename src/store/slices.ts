/**
 * Cuts long work into slices, so that heartbeats and appends get their turn
 * (building a 64 MiB checkpoint at once blocks the loop for 40 to 220 ms).
 */
import type { Clock } from '../common/env.js';

/**
 * The shortest slice. An append meets the loop three times or more, and each time may find a slice before it;
 * coming back to the loop costs some 30 µs, so much shorter ones are spent on that.
 */
const sliceMs = 0.5;
/** The longest, below the 10 ms that a turn of the node may take. */
const longestSliceMs = 7.5;
/** A slice ends after this work, too, for each of its ms: a simulated clock stands still within a turn. */
const bytesPerMs = 512 * 1024;
/** Reading the clock costs; look again after this much work. */
const lookBytes = 4 * 1024;
/** Where the loop comes back sooner, nobody else had anything to do. */
const idleMs = 0.1;
/** Of the loop's time, where nothing else is said: an equal part. */
const equalShare = 0.5;

/** What all slices on a loop have taken, ms. */
interface Taken {
  ms: number;
}
/** To each other they are no others: the slices of each would grow by those of all. */
const takenOn = new WeakMap<Clock, Taken>();

export class Slicer {
  readonly #taken: Taken;
  #begunMs: number;
  #lengthMs = sliceMs;
  #bytes = 0;
  #sinceLook = 0;

  /** `share`: of the loop's time that the work may have while there is other work. */
  constructor(
    readonly clock: Clock,
    readonly share: () => number = () => equalShare,
  ) {
    const taken = takenOn.get(clock) ?? { ms: 0 };
    takenOn.set(clock, taken);
    this.#taken = taken;
    this.#begunMs = clock.monotonicMs();
  }

  /** Adds work done; true: call `pause` before the next piece. */
  spent(bytes: number): boolean {
    this.#bytes += bytes;
    this.#sinceLook += bytes;
    if (this.#bytes >= bytesPerMs * this.#lengthMs) return true;
    if (this.#sinceLook < lookBytes) return false;
    this.#sinceLook = 0;
    return this.clock.monotonicMs() - this.#begunMs >= this.#lengthMs;
  }

  /**
   * Goes on when the loop has nothing else to do, or once the others have had their share for another slice. On a
   * loop that comes back late that slice is longer: short ones would get nothing done, and what
   * waits for the work (a full tail) would wait for seconds.
   */
  async pause(): Promise<void> {
    const share = this.share();
    const taken = this.#taken;
    // Who has waited for something else in between has not worked all the time.
    taken.ms += Math.min(this.clock.monotonicMs() - this.#begunMs, this.#lengthMs);
    let dueMs = 0;
    while (dueMs < sliceMs) {
      const leftMs = this.clock.monotonicMs();
      const takenMs = taken.ms;
      await new Promise<void>((resolve) => this.clock.defer(resolve));
      const othersMs = this.clock.monotonicMs() - leftMs - (taken.ms - takenMs);
      if (othersMs < idleMs) break;
      dueMs += (othersMs * share) / (1 - share);
    }
    this.begin(dueMs);
  }

  /** After any other wait: a new slice. */
  begin(lengthMs = sliceMs): void {
    this.#lengthMs = Math.min(Math.max(lengthMs, sliceMs), longestSliceMs);
    this.#begunMs = this.clock.monotonicMs();
    this.#bytes = 0;
    this.#sinceLook = 0;
  }
}
