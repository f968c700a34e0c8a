/** Real clock and randomness for tests that use real sockets and files. */
import { randomFillSync } from 'node:crypto';
import type { Clock, Random } from '../../src/common/env.js';
import { patienceMs } from './until.js';

export const realClock: Clock = {
  nowUs: () => Date.now() * 1000,
  monotonicMs: () => performance.now(),
  after(delayMs, fn) {
    const timer = setTimeout(fn, delayMs);
    timer.unref();
    return { cancel: () => clearTimeout(timer) };
  },
  defer: (fn) => {
    setImmediate(fn);
  },
};

export const realRandom: Random = {
  u32: () => randomFillSync(new Uint32Array(1))[0] as number,
  fill: (bytes) => {
    randomFillSync(bytes);
  },
};

/** Polls; false: not within `limitMs`. */
export async function untilReal(done: () => boolean, limitMs = patienceMs): Promise<boolean> {
  const end = performance.now() + limitMs;
  while (!done()) {
    if (performance.now() > end) return false;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  return true;
}
