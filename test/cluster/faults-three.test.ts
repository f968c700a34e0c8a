/** Three nodes under faults, judged by what their clients saw: see faults.ts. */
import t from 'tap';
import {
  allKilled,
  killed,
  leaderCutOff,
  leaderGone,
  movingPartition,
  oneWay,
  runFaults,
  slowLines,
  stopped,
  timeoutMs,
} from './faults.js';

t.setTimeout(timeoutMs);

t.test('three nodes', (t) =>
  runFaults(t, 3, [leaderCutOff, killed, oneWay, stopped, movingPartition, allKilled, leaderGone, slowLines]),
);
