/** What of a replica's state and log can't belong together. */
import t from 'tap';
import { initialConfState } from '../../src/node/placement.js';
import { emptyLog, gapBeforeLog } from '../../src/node/state-and-log.js';

const logOf = (firstIndex: number, lastIndex: number) => ({
  firstIndex: () => firstIndex,
  lastIndex: () => lastIndex,
});
const stateAt = (appliedIndex: number, voters: number[]) => ({
  appliedIndex,
  confState: initialConfState(voters),
});

t.test('a state that the log does not go on from is damaged', (t) => {
  t.equal(gapBeforeLog(logOf(1, 9), stateAt(0, [1, 2, 3])), undefined);
  t.equal(gapBeforeLog(logOf(8, 9), stateAt(7, [1, 2, 3])), undefined);
  t.match(gapBeforeLog(logOf(9, 9), stateAt(7, [1, 2, 3])), /holds up to 7, the log begins at 9/);
  t.equal(gapBeforeLog(emptyLog, stateAt(0, [])), undefined, 'a replica that has just been made');
  t.end();
});

t.test('so is one that has lost its configuration, though the log goes back to the first entry', (t) => {
  // LevelDB passes over a damaged record of its log in silence: here the snapshot that had brought the state. The
  // partition was so quiet that its log still began at 1, nothing was missing, and the replica applied all without a vote.
  t.match(gapBeforeLog(logOf(1, 5), stateAt(0, [])), /no configuration, the log has entries up to 5/);
  t.end();
});
