/** `npm run mutants`: proves that the simulator sees planted bugs, each within its number of seeds. */
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { programOf } from '../../support/program.js';
import type { MutantLine } from './child.js';
import { type PlantedBug, plantedBugs } from './table.js';

const usage = `Usage: npm run mutants -- [--only NAME[,NAME]] [--from SEED] [--seeds MAX] [--jobs J] [--json]

Runs the simulator with each planted bug of test/sim/mutants/table.ts until a seed finds it.

--only NAME   these alone
--from SEED   first seed (1)
--seeds MAX   at most so many seeds each (what the table says of it)
--jobs J      mutants at a time (one for each core)
--json        one JSON object a mutant
--list        names and what they break

Exit 0 if all are found, 1 if not, 2 for wrong use.`;

const { values, whole, wrongUse } = programOf(usage, {
  only: { type: 'string' },
  from: { type: 'string', default: '1' },
  seeds: { type: 'string' },
  jobs: { type: 'string', default: String(availableParallelism()) },
  json: { type: 'boolean', default: false },
  list: { type: 'boolean', default: false },
});

interface Outcome {
  readonly name: string;
  readonly found: boolean;
  /** The seed that found it. */
  readonly seed: number | undefined;
  /** Seeds that were run. */
  readonly seeds: number;
  readonly seconds: number;
  readonly check: string;
}

async function main(): Promise<number> {
  if (values.list) {
    for (const { name, breaks } of plantedBugs) console.log(`${name}: ${breaks}`);
    return 0;
  }
  const names = values.only?.split(',');
  const unknown = names?.filter((name) => !plantedBugs.some((bug) => bug.name === name)) ?? [];
  if (unknown.length > 0) return wrongUse(`there is no mutant ${unknown.join()}`);
  const queue = plantedBugs.filter(({ name }) => names?.includes(name) ?? true);
  const outcomes: Outcome[] = [];
  const lane = async (): Promise<void> => {
    for (let bug = queue.shift(); bug !== undefined; bug = queue.shift()) {
      const outcome = await tryOut(bug);
      outcomes.push(outcome);
      print(outcome);
    }
  };
  await Promise.all(Array.from({ length: whole('jobs') }, lane));
  const missed = outcomes.filter(({ found }) => !found).length;
  if (!values.json) console.log(`${outcomes.length - missed} found, ${missed} not found`);
  return missed === 0 ? 0 : 1;
}

async function tryOut(bug: PlantedBug): Promise<Outcome> {
  const seeds = values.seeds === undefined ? bug.withinSeeds : whole('seeds');
  const path = (file: string): string => fileURLToPath(new URL(file, import.meta.url));
  const args = ['--import', new URL('register.js', import.meta.url).href, path('child.js'), bug.name];
  const child = spawn(process.execPath, [...args, String(whole('from')), String(seeds)], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, HANSARD_MUTANT: bug.name },
  });
  let errors = '';
  child.stderr.on('data', (chunk) => {
    errors += chunk;
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  const lines: MutantLine[] = [];
  for await (const text of createInterface({ input: child.stdout })) lines.push(JSON.parse(text));
  const code = await ended;
  // A bug that ends the simulator itself proves nothing about its checks.
  if (code !== 0) throw new Error(`mutant ${bug.name}: its process ended with ${code}\n${errors}`);
  const last = lines.at(-1);
  return {
    name: bug.name,
    found: last?.violation !== undefined,
    seed: last?.violation === undefined ? undefined : last.seed,
    seeds: lines.length,
    seconds: lines.reduce((sum, { seconds }) => sum + seconds, 0),
    check: last?.violation === undefined ? '' : shorten(last.violation),
  };
}

/** The first line, without the stack. */
function shorten(violation: string): string {
  const line = violation.split('\n')[0] ?? '';
  return line.length > 160 ? `${line.slice(0, 160)}…` : line;
}

function print(outcome: Outcome): void {
  if (values.json) {
    console.log(JSON.stringify(outcome));
    return;
  }
  const { name, found, seed, seeds, seconds, check } = outcome;
  const what = found ? `seed ${seed}, after ${seeds}: ${check}` : `NOT FOUND within ${seeds} seeds`;
  console.log(`${name}: ${what} (${seconds.toFixed(0)} s)`);
}

process.exitCode = await main();
