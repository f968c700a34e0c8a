/**
 * `npm run crashstates -- --states N --seed S`: records a node and checks N
 * states in which a loss of power may leave its folder. `--only K` checks the
 * K-th state of each recording alone; a recording differs a little from run to run.
 */
import { rmSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { recordAfterPowerLoss, recordAlone, recordMember, scratchFolder } from './record.js';
import { checkStates, describeTally, type Recorded } from './states.js';
import { straceMissing } from './strace.js';

const { values } = parseArgs({
  options: {
    states: { type: 'string', default: '1000' },
    seed: { type: 'string', default: '1' },
    only: { type: 'string' },
    recording: { type: 'string', default: 'both' },
  },
});

const missing = straceMissing();
if (missing !== undefined) {
  console.error(`the calls of a process can not be recorded here: ${missing}`);
  process.exit(2);
}
const folder = scratchFolder();
let problems = 0;
try {
  const seed = Number(values.seed);
  const recordings: Recorded[] = [];
  const started = performance.now();
  if (values.recording !== 'member') {
    const recorder = await recordAlone(folder);
    recordings.push({ name: 'alone', recorder });
    recordings.push({ name: 'again', ...(await recordAfterPowerLoss(folder, recorder, seed)) });
  }
  if (values.recording !== 'alone') recordings.push({ name: 'member', ...(await recordMember(folder)) });
  console.log(`recorded in ${((performance.now() - started) / 1000).toFixed(1)} s`);
  for (const recorded of recordings) {
    const calls = [...recorded.recorder.tally].map(([name, count]) => `${count} ${name}`);
    const kinds = [...recorded.recorder.kindsOfMarks].map(([kind, count]) => `${count} ${kind}`);
    console.log(`${recorded.name}: ${calls.join(', ')}; ${kinds.join(', ')}`);
    const checking = performance.now();
    const tally = await checkStates(recorded, folder, {
      count: Math.ceil(Number(values.states) / recordings.length),
      seed,
      ...(values.only === undefined ? {} : { only: Number(values.only) }),
      tell: (text) => console.error(text),
    });
    console.log(
      `${describeTally(recorded.name, tally)} in ${((performance.now() - checking) / 1000).toFixed(1)} s`,
    );
    for (const problem of tally.problems.slice(0, 20)) console.log(`  ${problem}`);
    problems += tally.problems.length;
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = problems === 0 ? 0 : 1;
