/** One life of a node as time sees it: ends with the process, may be off the true time. */
import type { Clock, Timer } from '../../src/common/env.js';
import type { SimClock } from './sim-clock.js';

export class NodeClock implements Clock {
  #alive = true;
  /** While paused (SIGSTOP), what was due waits. */
  #paused = false;
  #held: (() => void)[] = [];

  constructor(
    private readonly world: SimClock,
    /** Added to the true wall time. */
    public offsetUs = 0,
  ) {}

  nowUs(): number {
    return this.world.nowUs() + this.offsetUs;
  }
  monotonicMs(): number {
    return this.world.monotonicMs();
  }
  after(delayMs: number, fn: () => void): Timer {
    return this.world.after(delayMs, () => this.#run(fn));
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
