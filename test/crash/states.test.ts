/**
 * Every legal state of a disk after a loss of power: a thousand of them, drawn
 * from recordings of real nodes (README.md of this folder). More: `npm run crashstates`.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { connect } from '../../src/client/index.js';
import { numberOfValueFile } from '../../src/store/value-format.js';
import { mainScript, patienceMs, run, until } from '../cluster/harness.js';
import { SimRandom } from '../sim/sim-clock.js';
import { freePorts } from '../support/free-ports.js';
import { writeTree } from './disk-model.js';
import { noPromises, promisesAt } from './promises.js';
import { recordAfterPowerLoss, recordAlone, recordMember, scratchFolder } from './record.js';
import { textOf } from './recorded-node.js';
import type { Recorder } from './recorder.js';
import { checkStates, describeTally, isCurrentBehind, type Recorded } from './states.js';
import { straceMissing } from './strace.js';

const missing = straceMissing();

t.test('power lost at any moment', { skip: missing ?? false }, async (t) => {
  const folder = scratchFolder();
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const seed = Number(process.env.SEED ?? 1);
  // Side by side: each waits for its disk and its tracer most of the time.
  const member = recordMember(folder);
  member.catch(() => {});
  const recorder = await recordAlone(folder);
  const alone: Recorded = { name: 'alone', recorder };
  const again: Recorded = { name: 'again', ...(await recordAfterPowerLoss(folder, recorder, seed)) };
  const third: Recorded = { name: 'member', ...(await member) };
  theRecordingsReach(t, alone, third);

  await t.test('nothing that was acknowledged is gone, and the node starts', async (t) => {
    for (const [recorded, count] of [
      [alone, 450],
      [again, 150],
      [third, 400],
    ] as const) {
      const tally = await checkStates(recorded, folder, { count, seed });
      t.comment(describeTally(recorded.name, tally));
      // First, and a line each: a log that is cut short still shows what it was.
      for (const problem of tally.problems.slice(0, 10)) t.comment(problem);
      t.equal(tally.problems.length, 0, `${recorded.name}: ${tally.problems[0] ?? 'no problem'}`);
      t.equal(tally.states, count, `${count} states`);
    }
  });

  await t.test('CURRENT lost its last replacement, what it names is deleted or not', async (t) => {
    const from = recorder.currentMoments;
    const tally = await checkStates(alone, folder, { count: 150, seed, from, wanted: isCurrentBehind });
    t.comment(describeTally('alone', tally));
    for (const problem of tally.problems.slice(0, 10)) t.comment(problem);
    t.equal(tally.problems.length, 0, tally.problems[0] ?? 'no problem');
    t.ok(tally.states > 0, `${tally.states} such states`);
  });

  await t.test('syncs that do nothing are noticed', async (t) => {
    const lies: [string, Recorded, (name: string) => boolean][] = [
      ["of the log's segments", alone, (name) => !/^log\/.*\.seg$/.test(name)],
      ["of a member's log", third, (name) => !/^log\/.*\.seg$/.test(name)],
      ["of the database's own log", alone, (name) => !/^db\/\d+\.log$/.test(name)],
      ['of value files', alone, (name) => numberOfValueFile(name.slice(3)) === undefined],
      ["of the log's folder", alone, (name) => name !== 'log'],
    ];
    for (const [what, recorded, believes] of lies) {
      const tally = await checkStates(recorded, folder, { count: 25, seed: seed + 1, believes });
      t.ok(tally.problems.length > 0, `${what}: ${tally.problems.length} of ${tally.states} states`);
      t.comment(tally.problems[0] ?? '');
    }
  });

  await t.test('a whole process starts on some of them', (t) => wholeNodes(t, folder, recorder, seed));
});

/** What a recording does not do, no state of it can show. */
function theRecordingsReach(t: Test, alone: Recorded, member: Recorded): void {
  const done = (recorder: Recorder, kind: string): number => recorder.kindsOfMarks.get(kind) ?? 0;
  t.ok(done(alone.recorder, 'ack') > 300, 'appends are acknowledged');
  t.ok(done(alone.recorder, 'gone') > 5, 'channels are deleted');
  t.ok(alone.recorder.failedSyncs > 0, 'a sync fails');
  const names = new Set(alone.recorder.names);
  t.ok([...names].filter((name) => /^log\/.*\.seg$/.test(name)).length > 6, 'segments are made and recycled');
  t.ok([...names].filter((name) => /^db\/\d+\.ldb$/.test(name)).length > 3, 'the database writes tables');
  t.ok(
    [...names].filter((name) => numberOfValueFile(name.slice(3)) !== undefined).length > 0,
    'and value files',
  );
  t.ok([...names].filter((name) => /^db\/MANIFEST/.test(name)).length > 2, 'and changes CURRENT');
  t.ok(done(member.recorder, 'kept') > 50, 'entries are acknowledged to leaders');
  t.ok(done(member.recorder, 'vote') > 0, 'votes are given');
  t.ok(done(member.recorder, 'installed') > 0, 'snapshots are installed');
}

async function wholeNodes(t: Test, folder: string, recorder: Recorder, seed: number): Promise<void> {
  recorder.model.seal();
  const random = new SimRandom(seed);
  const from = recorder.lifeEnds[0] as number;
  const moments = Array.from({ length: 2 }, () => from + random.below(recorder.end - from)).sort(
    (a, b) => a - b,
  );
  for (const [i, moment] of moments.entries()) {
    const dir = join(folder, `whole-${i}`);
    writeTree(dir, recorder.model.stateAt(moment, 'journal', random));
    const { acknowledged, going } = promisesAt(recorder.marks, moment, noPromises());
    const [client, peer, http] = await freePorts(3);
    const at = (port: number | undefined): string => `127.0.0.1:${port}`;
    const args = ['start', '--dir', dir, '--client-address', at(client), '--peer-address', at(peer)];
    const node = run(mainScript, [
      ...args,
      '--http-address',
      at(http),
      '--log-segment',
      '1MiB',
      '--log-max',
      '8MiB',
    ]);
    try {
      await until('it is ready', async () => {
        if (node.isGone) throw new Error(`it ended: ${node.tail()}`);
        return fetch(`http://${at(http)}/readyz`).then(
          ({ status }) => status === 200,
          () => false,
        );
      });
      const sdk = connect(`hansard://${at(client)}`, { timeoutMs: patienceMs });
      let count = 0;
      for (const [channel, appends] of acknowledged) {
        if (going.has(channel)) continue;
        for (const [seq, n] of appends) {
          const { contentBytes } = await sdk.channel(channel).get(seq);
          if (!Buffer.from(contentBytes).includes(textOf(channel, n)))
            t.fail(`append ${n} of ${channel} is not at seq ${seq}`);
          count++;
        }
      }
      await sdk.close();
      t.pass(`all ${count} appends are there`);
    } finally {
      node.signal('SIGTERM');
      t.equal((await node.end()).code, 0, 'it stops well');
    }
  }
}
