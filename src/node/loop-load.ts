/** How busy this node's loop is. By that leaderships stay together on one node or go to several (leader-balance.ts). */

/** After this long without anything to do it has fallen by two thirds, ms: a collection of the heap or a checkpoint is no load. */
const fadeMs = 1_000;
/** Looks that come closer together count as one, ms. */
const lookMs = 250;

export class LoopLoad {
  readonly #shareSince: () => number;
  #lookedMs: number;
  #busy = 0;

  /** `shareSince`: of the time since it was asked last, 0 to 1. */
  constructor(shareSince: () => number, nowMs: number) {
    this.#shareSince = shareSince;
    this.#lookedMs = nowMs;
  }

  /** Share of the last seconds, 0 to 1. To be asked now and then, the oftener the better. */
  busy(nowMs: number): number {
    const passedMs = nowMs - this.#lookedMs;
    if (passedMs >= lookMs) {
      this.#lookedMs = nowMs;
      const share = Math.min(1, Math.max(0, this.#shareSince()));
      this.#busy += (share - this.#busy) * (1 - Math.exp(-passedMs / fadeMs));
    }
    return this.#busy;
  }
}
