/** One life of a node as time sees it: ends with the process, may be off the true time and run fast or slow. */
import type { Clock, Timer } from '../../src/common/env.js';
import type { SimClock } from './sim-clock.js';

/** A timer never goes off before its own clock says so, whatever rounding does; ms. */
const roundingMs = 1e-6;

export class NodeClock implements Clock {
  #alive = true;
  /** While paused (SIGSTOP), what was due waits. */
  #paused = false;
  #held: (() => void)[] = [];

  constructor(
    private readonly world: SimClock,
    /** Added to the true wall time. */
    public offsetUs = 0,
    /** Of its own second, in true seconds' terms: 1.01 gains one in a hundred. */
    private readonly rate = 1,
  ) {}

  nowUs(): number {
    const driftUs = Math.round((this.rate - 1) * this.world.monotonicMs() * 1_000);
    return this.world.nowUs() + this.offsetUs + driftUs;
  }
  monotonicMs(): number {
    return this.world.monotonicMs() * this.rate;
  }
  after(delayMs: number, fn: () => void): Timer {
    const trueMs = this.rate === 1 ? delayMs : delayMs / this.rate + roundingMs;
    return this.world.after(trueMs, () => this.#run(fn));
  }
  defer(fn: () => void): void {
    this.world.defer(() => this.#run(fn));
  }
  kill(): void {
    this.#alive = false;
    this.#held = [];
  }
  pause(): void {
    this.#paused = true;
  }
  resume(): void {
    this.#paused = false;
    const held = this.#held;
    this.#held = [];
    for (const fn of held) this.world.defer(() => this.#run(fn));
  }
  /** Runs `fn` now, or after the pause, in the order of the calls; never after the process's end. */
  whenRunning(fn: () => void): void {
    this.#run(fn);
  }
  get isPaused(): boolean {
    return this.#paused;
  }
  #run(fn: () => void): void {
    if (!this.#alive) return;
    if (this.#paused) this.#held.push(fn);
    else fn();
  }
}
