/**
 * Cuts long work into slices, so that heartbeats and appends get their turn
 * (building a 64 MiB checkpoint at once blocks the loop for 40 to 220 ms).
 */
import type { Clock } from '../common/env.js';

/** A slice ends after this time … */
const sliceMs = 1.5;
/** … or after this work, in bytes: a simulated clock stands still within a turn. */
const sliceBytes = 256 * 1024;
/** Reading the clock costs; look again after this much work. */
const lookBytes = 8 * 1024;
/** The longest slice, times `sliceMs`: 7.5 ms, below the 10 ms that a turn of the node may take. */
const longestSlice = 5;

export class Slicer {
  #begunMs: number;
  #endedMs: number;
  /** Of this slice, in times of the shortest. */
  #length = 1;
  #bytes = 0;
  #sinceLook = 0;

  /**
   * `share`: of the loop's time that the work may have. A busy loop comes back late: slices that stay
   * short get nothing done then, and what waits for the work (a full tail) waits for seconds. 0: always short.
   */
  constructor(
    readonly clock: Clock,
    readonly share: () => number = noShare,
  ) {
    this.#begunMs = clock.monotonicMs();
    this.#endedMs = this.#begunMs;
  }

  /** Adds work done; true: call `pause` before the next piece. */
  spent(bytes: number): boolean {
    this.#bytes += bytes;
    this.#sinceLook += bytes;
    if (this.#bytes >= sliceBytes * this.#length) return true;
    if (this.#sinceLook < lookBytes) return false;
    this.#sinceLook = 0;
    return this.clock.monotonicMs() - this.#begunMs >= sliceMs * this.#length;
  }

  async pause(): Promise<void> {
    this.#endedMs = this.clock.monotonicMs();
    await new Promise<void>((resolve) => this.clock.defer(resolve));
    this.begin();
  }

  /** After any other wait: a new slice. */
  begin(): void {
    const now = this.clock.monotonicMs();
    const share = this.share();
    // As long as the others took, times share : (1 - share).
    const due = share === 0 ? 0 : ((now - this.#endedMs) * share) / ((1 - share) * sliceMs);
    this.#length = Math.min(Math.max(due, 1), longestSlice);
    this.#begunMs = now;
    this.#bytes = 0;
    this.#sinceLook = 0;
  }
}

const noShare = (): number => 0;
