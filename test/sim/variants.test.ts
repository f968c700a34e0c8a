/**
 * The simulator where it is asked for something: snapshots, changes of members, weaker
 * reads, and planted bugs that its checks must find. Seeds as they come: cluster.test.ts.
 */
import t, { type Test } from 'tap';
import { runSeed, type SimOptions, type SimResult } from './run.js';

// Half a minute of simulated time costs seconds on a slow machine.
t.setTimeout(600_000);

/** Load with faults, simulated: half of what `npm run sim` gives each seed. */
const faultMs = 5_000;

/** Nothing is broken. `again`: what `npm run sim` is to be told for the same history. */
async function sound(t: Test, options: SimOptions, again: string): Promise<SimResult> {
  const result = await runSeed({ faultMs, ...options });
  const { seed } = options;
  const ms = options.faultMs ?? faultMs;
  t.same(result.violations, [], `again: npm run sim -- --seed ${seed} ${again} --fault-ms ${ms}`);
  return result;
}

t.test('logs so small that who was away needs snapshots', async (t) => {
  // Every third seed of cluster.test.ts has small logs, too.
  let snapshots = 0;
  for (const seed of [41, 42])
    snapshots += (await sound(t, { seed, smallLogs: true }, '--snapshots')).snapshots;
  t.ok(snapshots > 3, `${snapshots} snapshots`);
});

t.test('members change all the time', async (t) => {
  let changes = 0;
  for (const seed of [61, 62]) {
    const { memberChanges } = await sound(t, { seed, membership: true }, '--membership');
    for (const [name, times] of Object.entries(memberChanges)) if (name.endsWith(' done')) changes += times;
  }
  t.ok(changes > 10, `${changes} changes of members`);
});

t.test('logs and databases of one node are damaged, and heal', async (t) => {
  const faults = ['logDamage', 'kvDamage', 'kill', 'isolate', 'handover'] as const;
  let damages = 0;
  for (const seed of [7, 16])
    damages += (await sound(t, { seed, faults }, `--faults ${faults.join()}`)).damages;
  t.ok(damages > 1, `${damages} damages`);
});

t.test('a leader that meets damage in a snapshot steps back, and who lags catches up', async (t) => {
  await sound(t, { seed: 42012, damage: true, faultMs: 10_000 }, '--damage');
});

t.test('reads of the weaker levels, and batches over two channels', async (t) => {
  const sum = { session: 0, bounded: 0, batches: 0 };
  for (const seed of [72, 73]) {
    const { weakReads } = await sound(t, { seed, reads: true }, '--reads');
    for (const { session, bounded, batches } of weakReads) {
      sum.session += session;
      sum.bounded += bounded;
      sum.batches += batches;
    }
  }
  // What a seed draws changes with the code: these only say that it is done at all.
  t.ok(sum.session > 25 && sum.bounded > 25 && sum.batches > 10, JSON.stringify(sum));
});

t.test("two who work on one durable subscription, in each other's way", async (t) => {
  const sum = { steps: 0, refused: 0, received: 0 };
  for (const seed of [81, 82]) {
    const { subscribed } = await sound(t, { seed, subscriptions: true }, '--subscriptions');
    for (const each of subscribed) {
      sum.steps += each.steps;
      sum.refused += each.refused;
      sum.received += each.received;
    }
  }
  t.ok(sum.steps > 50 && sum.refused > 5 && sum.received > 100, JSON.stringify(sum));
});

t.test('deliveries that are reported late, out of turn and more than once', async (t) => {
  const sum = { reports: 0, moves: 0, reads: 0, bySession: 0 };
  for (const seed of [91, 92, 93]) {
    const { delivered } = await sound(t, { seed, deliveries: true }, '--deliveries');
    for (const each of delivered) {
      sum.reports += each.reports;
      sum.moves += each.moves;
      sum.reads += each.reads;
      sum.bySession += each.bySession;
    }
  }
  t.ok(Math.min(...Object.values(sum)) > 10, JSON.stringify(sum));
});

const mutants = [
  ['early-acknowledgement', 'a node that acknowledges before it has synced is found', ['powerAll', 'power']],
  ['unasked-reads', 'a read that asks no quorum is found', ['isolate', 'pause']],
] as const;
for (const [mutant, name, faults] of mutants) {
  t.test(name, async (t) => {
    let found = 0;
    for (let seed = 1; seed <= 12 && found === 0; seed++) {
      const result = await runSeed({ seed, mutant, faults, faultMs });
      if (result.violations.length > 0) found = seed;
    }
    t.ok(found > 0, `found by seed ${found}`);
  });
}
