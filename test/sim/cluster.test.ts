/**
 * Eight seeds of three complete nodes under crashes, power loss, cut networks
 * and lost frames: what was acknowledged is there, once, in order, equal on all
 * replicas, and one leader a term. `npm run sim -- --seeds N --from K` runs more.
 */
import t from 'tap';
import { runSeed } from './run.js';

/** Load with faults, simulated: a little more than half of what `npm run sim` gives each seed. */
const faultMs = 6_000;

// Half a minute of simulated time costs seconds on a slow machine.
t.setTimeout(600_000);

const seeds = Number(process.env.HANSARD_SIM_SEEDS ?? 8);

for (let seed = 1; seed <= seeds; seed++) {
  t.test(`seed ${seed}`, async (t) => {
    const result = await runSeed({ seed, faultMs });
    t.same(result.violations, [], `again: npm run sim -- --seed ${seed} --fault-ms ${faultMs}`);
    t.ok(result.acknowledged > 100, `${result.acknowledged} acknowledged, ${result.crashes} crashes`);
  });
}

t.test('the same seed gives the same history, byte for byte', async (t) => {
  const run = () => runSeed({ seed: 7, faultMs: 2_000 });
  const [first, second] = [await run(), await run()];
  t.equal(first.fingerprint, second.fingerprint);
  t.same(first.trace, second.trace);
});
