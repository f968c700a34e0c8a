/** Work in the background at a settled rate: slices that stay short, and waits between them. */
import type { Clock } from '../common/env.js';
import { Slicer } from './slices.js';

/** A wait shorter than this is saved up for the next one, ms. */
const waitMsMin = 5;

export class Pace extends Slicer {
  #dueMs: number;
  #isStopped = false;
  /** Read with it so far. */
  bytes = 0;

  /** `bytesPerSecond`: 0 for no limit. */
  constructor(
    clock: Clock,
    readonly bytesPerSecond: number,
  ) {
    super(clock);
    this.#dueMs = clock.monotonicMs();
  }

  override spent(bytes: number): boolean {
    this.bytes += bytes;
    const isLong = super.spent(bytes);
    if (this.bytesPerSecond === 0) return isLong;
    this.#dueMs += (bytes / this.bytesPerSecond) * 1000;
    return isLong || this.#dueMs - this.clock.monotonicMs() >= waitMsMin;
  }

  /** Throws `PaceStopped` once it was stopped. */
  override async pause(): Promise<void> {
    const now = this.clock.monotonicMs();
    const waitMs = this.#dueMs - now;
    if (this.#isStopped) throw new PaceStopped();
    if (waitMs < waitMsMin) {
      // What was not used is no credit for later.
      this.#dueMs = Math.max(this.#dueMs, now);
      await super.pause();
    } else {
      await new Promise<void>((resolve) => this.clock.after(waitMs, resolve));
      this.begin();
    }
    if (this.#isStopped) throw new PaceStopped();
  }

  /** Adds work done, and waits where that is due. */
  async take(bytes: number): Promise<void> {
    if (this.spent(bytes)) await this.pause();
  }

  /** Whoever works by it ends at its next pause. */
  stop(): void {
    this.#isStopped = true;
  }

  get isStopped(): boolean {
    return this.#isStopped;
  }
}

export class PaceStopped extends Error {
  constructor() {
    super('the work was ended on the way');
  }
}
