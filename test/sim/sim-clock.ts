/**
 * Time that passes only when told to. Events run in the order of their time, then
 * of their making; everything that a seed decides follows from that.
 */
import type { Clock, Random, Timer } from '../../src/common/env.js';
import type { TimeUs } from '../../src/common/ids.js';

interface Event {
  atMs: number;
  order: number;
  fn: (() => void) | undefined;
}

export class SimClock implements Clock {
  #nowMs = 0;
  #order = 0;
  #heap: Event[] = [];
  #deferred: (() => void)[] = [];
  constructor(private readonly startUs: TimeUs = 1_700_000_000_000_000) {}

  nowUs(): TimeUs {
    return this.startUs + Math.round(this.#nowMs * 1000);
  }
  monotonicMs(): number {
    return this.#nowMs;
  }
  after(delayMs: number, fn: () => void): Timer {
    const event: Event = { atMs: this.#nowMs + Math.max(0, delayMs), order: this.#order++, fn };
    push(this.#heap, event);
    return {
      cancel() {
        event.fn = undefined;
      },
    };
  }
  defer(fn: () => void): void {
    this.#deferred.push(fn);
  }

  /** Runs the next event and what it deferred; false: nothing is left before `untilMs`. */
  step(untilMs = Number.POSITIVE_INFINITY): boolean {
    if (this.#deferred.length > 0 && !this.#isDue()) {
      this.#runDeferred();
      return true;
    }
    const next = this.#heap[0];
    if (next === undefined || next.atMs > untilMs) return false;
    pop(this.#heap);
    this.#nowMs = Math.max(this.#nowMs, next.atMs);
    const { fn } = next;
    next.fn = undefined;
    fn?.();
    if (!this.#isDue()) this.#runDeferred();
    return true;
  }

  /** As in Node: what is due at this moment is handled before what was deferred. */
  #isDue(): boolean {
    return (this.#heap[0]?.atMs ?? Number.POSITIVE_INFINITY) <= this.#nowMs;
  }

  /**
   * Lets `ms` pass. Promises made by events settle between steps, so that code
   * that awaits goes on in the same simulated moment.
   */
  async run(ms: number): Promise<void> {
    const untilMs = this.#nowMs + ms;
    await settle();
    while (this.step(untilMs)) await settle();
    this.#nowMs = untilMs;
  }

  /** Runs until `done` says so; false: not within `limitMs`. */
  async until(done: () => boolean, limitMs: number): Promise<boolean> {
    const untilMs = this.#nowMs + limitMs;
    await settle();
    while (!done()) {
      if (!this.step(untilMs)) return false;
      await settle();
    }
    return true;
  }

  #runDeferred(): void {
    const run = this.#deferred;
    this.#deferred = [];
    for (const fn of run) fn();
  }
}

/** All microtasks, however long their chains: a turn of the real loop in which nothing real happens. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function before(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

function push(heap: Event[], event: Event): void {
  let at = heap.length;
  heap.push(event);
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (before(heap[parent] as Event, event)) break;
    heap[at] = heap[parent] as Event;
    at = parent;
  }
  heap[at] = event;
}

function pop(heap: Event[]): void {
  const last = heap.pop() as Event;
  if (heap.length === 0) return;
  let at = 0;
  for (;;) {
    let child = at * 2 + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && before(heap[child + 1] as Event, heap[child] as Event)) child++;
    if (before(last, heap[child] as Event)) break;
    heap[at] = heap[child] as Event;
    at = child;
  }
  heap[at] = last;
}

/** PCG-like generator (splitmix32): small, good enough to decide faults, the same everywhere. */
export class SimRandom implements Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  u32(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  }
  fill(bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length; i++) bytes[i] = this.u32() & 0xff;
  }
  /** Uniform in [0, 1). */
  fraction(): number {
    return this.u32() / 2 ** 32;
  }
  /** Whole numbers from 0 to n - 1. */
  below(n: number): number {
    return Math.floor(this.fraction() * n);
  }
  chance(probability: number): boolean {
    return this.fraction() < probability;
  }
  /** Another generator that does not disturb this one's sequence when it is used. */
  fork(): SimRandom {
    return new SimRandom(this.u32());
  }
}
