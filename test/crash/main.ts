/** `npm run crashstates`: records a node and checks states in which a loss of power may leave its folder. */
import { rmSync } from 'node:fs';
import { programOf } from '../support/program.js';
import { recordAfterPowerLoss, recordAlone, recordMember, scratchFolder } from './record.js';
import { checkStates, describeTally, type Recorded } from './states.js';
import { straceMissing } from './strace.js';

const usage = `Usage: npm run crashstates -- [--states N] [--seed S] [--recording alone|member|both] [--only K]

Records real nodes call by call, and starts a node on folders as a loss of power may have left them: test/crash/README.md.
A recording differs a little from run to run; its states follow from it and the seed.

--states N      how many in all (1000)
--seed S        what is drawn (1)
--recording W   alone: a node that is a cluster of its own, and once more after a loss of power;
                member: one of three that falls behind and takes snapshots; both (the default)
--only K        the K-th state of each recording alone

Exit 0 if nothing is lost and all refusals are such as must be, 1 if not, 2 for wrong use or where calls can't be recorded.`;

const { values, whole, wrongUse } = programOf(usage, {
  states: { type: 'string', default: '1000' },
  seed: { type: 'string', default: '1' },
  only: { type: 'string' },
  recording: { type: 'string', default: 'both' },
});
const [states, seed] = [whole('states'), whole('seed')];
const only = values.only === undefined ? {} : { only: whole('only', 0) };
if (!['alone', 'member', 'both'].includes(values.recording))
  wrongUse(`there is no recording ${values.recording}`);

const missing = straceMissing();
if (missing !== undefined) {
  console.error(`the calls of a process can not be recorded here: ${missing}`);
  process.exit(2);
}
const folder = scratchFolder();
const remove = (): void => rmSync(folder, { recursive: true, force: true });
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    remove();
    process.kill(process.pid, signal);
  });
let problems = 0;
try {
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
      count: Math.ceil(states / recordings.length),
      seed,
      ...only,
      tell: (text) => console.error(text),
    });
    console.log(
      `${describeTally(recorded.name, tally)} in ${((performance.now() - checking) / 1000).toFixed(1)} s`,
    );
    for (const problem of tally.problems.slice(0, 20)) console.log(`  ${problem}`);
    problems += tally.problems.length;
  }
} finally {
  remove();
}
process.exitCode = problems === 0 ? 0 : 1;
