/**
 * `npm run sim -- --seeds N --from K` runs seeds with a progress line; `--seed N`
 * runs one and prints its trace where it fails. Exit 1 where a seed fails.
 */
import { parseArgs } from 'node:util';
import { runSeed } from './run.js';

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seeds: { type: 'string', default: '20' },
    from: { type: 'string', default: '1' },
    snapshots: { type: 'boolean', default: false },
    trace: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

if (values.help) {
  console.log('npm run sim -- [--seeds N] [--from K] [--seed N [--trace]] [--snapshots]');
} else {
  const from = Number(values.seed ?? values.from);
  const count = values.seed === undefined ? Number(values.seeds) : 1;
  let failed = 0;
  for (let seed = from; seed < from + count; seed++) {
    const started = performance.now();
    const result = await runSeed({ seed, ...(values.snapshots ? { smallLogs: true } : {}) });
    const took = ((performance.now() - started) / 1000).toFixed(1);
    const simulated = (result.simulatedMs / 1000).toFixed(0);
    console.log(
      `seed ${seed}: ${result.violations.length === 0 ? 'ok' : 'FAILED'}, ${result.acknowledged} acknowledged, ` +
        `${result.crashes} crashes, ${result.snapshots} snapshots, ${simulated} s simulated in ${took} s, ${result.fingerprint}`,
    );
    if (result.violations.length > 0) {
      failed++;
      if (values.trace) for (const line of result.trace) console.log(line);
      for (const violation of result.violations.slice(0, 20)) console.log(`  ${violation}`);
      console.log(`  again: npm run sim -- --seed ${seed} --trace`);
    }
  }
  process.exitCode = failed === 0 ? 0 : 1;
}
