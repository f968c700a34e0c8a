/**
 * One life of a node as time sees it: ends with the process, may be off the true time and run fast or slow, and its
 * event loop may be busy.
 */
import type { Clock, Timer } from '../../src/common/env.js';
import type { SimClock } from './sim-clock.js';

/** A timer never goes off before its own clock says so, whatever rounding does; ms. */
const roundingMs = 1e-6;

/** How long each thing that a loop does may take. */
export interface Toil {
  /** Of the next thing, ms; mostly 0. */
  nextMs(): number;
  /** The part of it that has passed where the time is looked at, 0 to 1. */
  share(): number;
}

const noToil: Toil = Object.freeze({ nextMs: () => 0, share: () => 0 });

export class NodeClock implements Clock {
  #alive = true;
  /** While paused (SIGSTOP), what was due waits. */
  #paused = false;
  #held: (() => void)[] = [];
  /** What the loop has to do takes until then, true ms. */
  #busyToMs = 0;
  /** What came meanwhile, with the time at which each is begun. */
  readonly #waiting: { readonly fn: () => void; readonly fromMs: number }[] = [];
  /** How far the thing that runs is by now, true ms. */
  #insideMs: number | undefined;
  #lastMs = 0;

  constructor(
    private readonly world: SimClock,
    /** Added to the true wall time. */
    public offsetUs = 0,
    /** Of its own second, in true seconds' terms: 1.01 gains one in a hundred. */
    private readonly rate = 1,
    private readonly toil = noToil,
  ) {}

  nowUs(): number {
    const driftUs = Math.round((this.rate - 1) * this.world.monotonicMs() * 1_000);
    return this.world.nowUs() + this.offsetUs + driftUs;
  }
  monotonicMs(): number {
    const nowMs = this.world.monotonicMs();
    if (this.#insideMs !== undefined) this.#insideMs += (nowMs - this.#insideMs) * this.toil.share();
    this.#lastMs = Math.max(this.#lastMs, this.#insideMs ?? nowMs);
    return this.#lastMs * this.rate;
  }
  after(delayMs: number, fn: () => void): Timer {
    const trueMs = this.rate === 1 ? delayMs : delayMs / this.rate + roundingMs;
    let isCancelled = false;
    const timer = this.world.after(trueMs, () =>
      this.#come(() => {
        if (!isCancelled) fn();
      }),
    );
    return {
      cancel() {
        // It may be due already, and wait for the loop to get to it.
        isCancelled = true;
        timer.cancel();
      },
    };
  }
  defer(fn: () => void): void {
    this.world.defer(() => this.#come(fn));
  }
  kill(): void {
    this.#alive = false;
    this.#held = [];
  }
  pause(): void {
    this.#paused = true;
  }
  resume(): void {
    this.world.defer(() => {
      this.#paused = false;
      const held = this.#held;
      this.#held = [];
      for (const fn of held) this.#run(fn);
    });
  }
  /** Runs `fn` as soon as its loop gets to it, or after the pause, in the order of the calls; never after the process's end. */
  whenRunning(fn: () => void): void {
    this.#come(fn);
  }
  get isPaused(): boolean {
    return this.#paused;
  }

  /**
   * Takes its place behind what the loop has to do. Its effects are of the end of the time that it takes, so that whatever
   * it says of the time was true before anybody hears it.
   */
  #come(fn: () => void): void {
    const nowMs = this.world.monotonicMs();
    const takesMs = this.#alive ? this.toil.nextMs() : 0;
    if (takesMs === 0 && this.#waiting.length === 0) return this.#run(fn);
    const fromMs = Math.max(nowMs, this.#busyToMs);
    this.#busyToMs = fromMs + takesMs;
    this.#waiting.push({ fn, fromMs });
    this.world.after(this.#busyToMs - nowMs, () => this.#next());
  }

  #next(): void {
    const next = this.#waiting.shift();
    if (next === undefined) return;
    this.#insideMs = next.fromMs;
    this.#run(next.fn);
    this.#insideMs = undefined;
  }

  #run(fn: () => void): void {
    if (!this.#alive) return;
    if (this.#paused) this.#held.push(fn);
    else fn();
  }
}
