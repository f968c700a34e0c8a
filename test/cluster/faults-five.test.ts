/** Five nodes under faults, judged by what their clients saw: see faults.ts. */
import t from 'tap';
import {
  allKilled,
  killedBehindPartition,
  movingPartition,
  noMajority,
  ring,
  runFaults,
  stopped,
  stoppedWithFollower,
  timeoutMs,
} from './faults.js';

t.setTimeout(timeoutMs);

t.test('five nodes', (t) =>
  runFaults(t, 5, [
    stoppedWithFollower,
    movingPartition,
    killedBehindPartition,
    ring,
    stopped,
    noMajority,
    allKilled,
  ]),
);
