/** The watchdog's thread; see watchdog.ts. */
import { workerData } from 'node:worker_threads';
import type { WatchdogData } from './watchdog.js';

/** Looks per stall time: a stall is seen at most a tenth late. */
const looks = 10;

const { stallMs, memory, pid, control } = workerData as WatchdogData;
const slots = new Int32Array(memory);
const stop = new Int32Array(control);
const seen = new Int32Array(slots.length);
// Looks, not times: after the whole process was stopped and continued, only one look has passed.
const looksStalled = new Int32Array(slots.length);

while (Atomics.wait(stop, 0, 0, stallMs / looks) === 'timed-out') {
  for (let i = 0; i < slots.length; i++) {
    const operation = Atomics.load(slots, i);
    if (operation !== seen[i] || (operation & 1) === 0) {
      seen[i] = operation;
      looksStalled[i] = 0;
      continue;
    }
    looksStalled[i] = (looksStalled[i] as number) + 1;
    // Once: what is gone by the next look can't be killed, and its id may be another's.
    if (looksStalled[i] === looks) process.kill(pid, 'SIGKILL');
  }
}
