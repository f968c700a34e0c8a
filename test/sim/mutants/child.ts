/** Runs seeds with one planted bug (register.ts) until one of them finds it; one JSON line a seed. */
import { runSeed } from '../run.js';
import { filesOf, marker } from './plant.js';
import { defaultFaultMs, plantedBugs } from './table.js';

export interface MutantLine {
  readonly seed: number;
  readonly seconds: number;
  /** The first thing that was found; undefined: nothing. */
  readonly violation: string | undefined;
}

const [name, from, seeds] = process.argv.slice(2);
const bug = plantedBugs.find((one) => one.name === name);
if (bug === undefined) throw new Error(`there is no mutant ${name}`);
const planted = (globalThis as Record<string, unknown>)[marker] as string[] | undefined;
const missing = filesOf(bug).filter((file) => !planted?.includes(file));
if (missing.length > 0) throw new Error(`mutant ${name} was not planted in ${missing.join()}`);

for (let seed = Number(from); seed < Number(from) + Number(seeds); seed++) {
  const started = performance.now();
  const { violations } = await runSeed({
    seed,
    faultMs: bug.faultMs ?? defaultFaultMs,
    ...(bug.faults === undefined ? {} : { faults: bug.faults }),
    ...(bug.deliveries === undefined ? {} : { deliveries: bug.deliveries }),
    ...(bug.smallLogs === undefined ? {} : { smallLogs: bug.smallLogs }),
  });
  const seconds = (performance.now() - started) / 1_000;
  const line: MutantLine = { seed, seconds, violation: violations[0] };
  console.log(JSON.stringify(line));
  if (violations.length > 0) break;
}
