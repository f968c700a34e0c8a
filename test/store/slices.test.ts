/** What waits for a turn of the loop waits for one short slice of background work, and the work still gets its share. */
import t from 'tap';
import type { Clock } from '../../src/common/env.js';
import { Slicer } from '../../src/store/slices.js';

/** Time passes where somebody works: a loop on which others take `othersMs` of each turn. */
class BusyLoop implements Clock {
  ms = 0;
  turns = 0;
  constructor(public othersMs: number) {}
  nowUs(): number {
    return this.ms * 1000;
  }
  monotonicMs(): number {
    return this.ms;
  }
  after(): never {
    throw new Error('slices set no timers');
  }
  defer(fn: () => void): void {
    setImmediate(() => {
      this.turns++;
      this.ms += this.othersMs;
      fn();
    });
  }
}

/** Works for `workMs` in pieces of 20 µs; gives the longest stretch between two turns, and how long all of it took. */
async function sealing(loop: BusyLoop, workMs: number, share: number) {
  const slicer = new Slicer(loop, () => share);
  const pieceMs = 0.02;
  const began = loop.ms;
  let [longestMs, stretchMs, turns] = [0, 0, loop.turns];
  for (let done = 0; done < workMs; done += pieceMs) {
    loop.ms += pieceMs;
    stretchMs += pieceMs;
    longestMs = Math.max(longestMs, stretchMs);
    if (slicer.spent(4096)) await slicer.pause();
    if (loop.turns !== turns) stretchMs = 0;
    turns = loop.turns;
  }
  return { longestMs, tookMs: loop.ms - began };
}

t.test('beside short turns slices are short, and take no more than their share', async (t) => {
  // Messages that come in take 0.3 ms of each turn: an append meets four of them.
  const { longestMs, tookMs } = await sealing(new BusyLoop(0.3), 50, 0.2);
  t.ok(longestMs < 0.6, `at most ${longestMs.toFixed(2)} ms between two turns`);
  t.ok(tookMs > 4.5 * 50, `50 ms of work are spread over ${tookMs.toFixed(0)} ms`);
  t.ok(tookMs < 7 * 50, `and take no longer than ${tookMs.toFixed(0)} ms`);
});

t.test('beside long turns slices grow, so that a full tail does not wait for ever', async (t) => {
  for (const [share, times] of [
    [0.2, 5],
    [0.6, 1.7],
  ] as const) {
    const { longestMs, tookMs } = await sealing(new BusyLoop(10), 300, share);
    t.ok(tookMs < (times + 0.8) * 300, `with a share of ${share} all of it takes ${tookMs.toFixed(0)} ms`);
    t.ok(longestMs < 7.6, `at most ${longestMs.toFixed(2)} ms between two turns`);
  }
});

t.test('nobody else has anything to do: one slice follows the other', async (t) => {
  const { longestMs, tookMs } = await sealing(new BusyLoop(0.03), 50, 0.2);
  t.ok(tookMs < 55, `50 ms of work take ${tookMs.toFixed(1)} ms`);
  t.ok(longestMs < 0.6, 'and whatever comes in meanwhile waits for a short one');
});

t.test('works that are sliced beside each other do not make each other’s slices longer', async (t) => {
  // The loop as it is: what others do in a turn is done once, whoever waits for the next.
  const loop = new BusyLoop(0);
  let waiting: (() => void)[] = [];
  loop.defer = (fn) => {
    if (waiting.push(fn) > 1) return;
    setImmediate(() => {
      loop.ms += 0.3;
      const due = waiting;
      waiting = [];
      // Each goes on in a turn of its own, as its promise does.
      const next = (): void => {
        due.shift()?.();
        if (due.length > 0) setImmediate(next);
      };
      next();
    });
  };
  const took: number[] = [];
  const work = async (share: number): Promise<void> => {
    const slicer = new Slicer(loop, () => share);
    let fromMs = loop.ms;
    for (let i = 0; i < 3_000; i++) {
      loop.ms += 0.02;
      if (!slicer.spent(4096)) continue;
      took.push(loop.ms - fromMs);
      await slicer.pause();
      fromMs = loop.ms;
    }
  };
  await Promise.all([work(0.6), work(0.5), work(0.5)]);
  const longestMs = Math.max(...took);
  t.ok(longestMs < 2, `at most ${longestMs.toFixed(2)} ms at once beside turns of 0.3 ms`);
});
