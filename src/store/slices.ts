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

export class Slicer {
  #begunMs: number;
  #bytes = 0;
  #sinceLook = 0;
  constructor(readonly clock: Clock) {
    this.#begunMs = clock.monotonicMs();
  }

  /** Adds work done; true: call `pause` before the next piece. */
  spent(bytes: number): boolean {
    this.#bytes += bytes;
    this.#sinceLook += bytes;
    if (this.#bytes >= sliceBytes) return true;
    if (this.#sinceLook < lookBytes) return false;
    this.#sinceLook = 0;
    return this.clock.monotonicMs() - this.#begunMs >= sliceMs;
  }

  async pause(): Promise<void> {
    await new Promise<void>((resolve) => this.clock.defer(resolve));
    this.begin();
  }

  /** After any other wait: a new slice. */
  begin(): void {
    this.#begunMs = this.clock.monotonicMs();
    this.#bytes = 0;
    this.#sinceLook = 0;
  }
}
