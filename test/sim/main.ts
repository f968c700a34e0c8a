/** `npm run sim`: many seeds on all cores, one seed with its readable trace, or one group's history for TLC. */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import { availableParallelism } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { programOf } from '../support/program.js';
import { type FaultKind, faultKinds } from './faults.js';
import { runSeed, type SimResult } from './run.js';
import { traceSeed } from './trace/run.js';
import { followTrace } from './trace/spec.js';

const usage = `Usage: npm run sim -- [--seeds N] [--from K] [--jobs J] [--snapshots] [--membership] [--damage] [--reads] [--subscriptions] [--deliveries] [--faults A,B] [--fault-ms MS] [--json]
       npm run sim -- --seed N [--snapshots] [--membership] [--damage] [--reads] [--subscriptions] [--deliveries] [--faults A,B] [--fault-ms MS]
       npm run sim -- --seed N --trace FILE [--trace-lines L] [--nodes 3|5] [--membership]

Whole clusters on a simulated clock, disk and network. The same seed gives the same history.

--seeds N        how many (20), from seed --from (1) on, on --jobs processes (one for each core)
--seed N         one seed; where it fails, its history is printed
--snapshots      logs so small that nodes need snapshots all the time
--membership     five nodes, three replicas of each partition, and members that change all the time
--damage         one node's log and database are damaged again and again, and become sound each time
--reads          clients of the levels session and bounded, and of batches, beside the others
--subscriptions  two who work on one durable subscription, beside the others
--deliveries     two who report deliveries and move read cursors, beside the others
--faults A,B     these kinds of fault alone (docs/simulator.md), in the place of what the seed draws
--fault-ms MS    load with faults for so long, simulated (10000); another history, not the beginning of one
--json           one JSON object a seed
--trace FILE     writes one group's history as etcd raft's TLA+ trace specification reads it

Exit 0 if all seeds hold, 1 if not, 2 for wrong use.`;

const { values, whole, wrongUse } = programOf(usage, {
  seed: { type: 'string' },
  seeds: { type: 'string', default: '20' },
  from: { type: 'string', default: '1' },
  jobs: { type: 'string', default: String(availableParallelism()) },
  /** Of a child: every how many seeds is its own. */
  step: { type: 'string', default: '1' },
  snapshots: { type: 'boolean', default: false },
  membership: { type: 'boolean', default: false },
  damage: { type: 'boolean', default: false },
  reads: { type: 'boolean', default: false },
  subscriptions: { type: 'boolean', default: false },
  deliveries: { type: 'boolean', default: false },
  faults: { type: 'string' },
  'fault-ms': { type: 'string' },
  json: { type: 'boolean', default: false },
  trace: { type: 'string' },
  'trace-lines': { type: 'string', default: '2000' },
  nodes: { type: 'string', default: '3' },
});

const modes = [
  ...(values.snapshots ? ['--snapshots'] : []),
  ...(values.membership ? ['--membership'] : []),
  ...(values.damage ? ['--damage'] : []),
  ...(values.reads ? ['--reads'] : []),
  ...(values.subscriptions ? ['--subscriptions'] : []),
  ...(values.deliveries ? ['--deliveries'] : []),
  ...(values.faults === undefined ? [] : ['--faults', values.faults]),
  ...(values['fault-ms'] === undefined ? [] : ['--fault-ms', values['fault-ms']]),
];

interface Line extends Omit<SimResult, 'trace'> {
  readonly seconds: number;
}

async function main(): Promise<number> {
  if (values.trace !== undefined) return writeTrace(values.trace);
  const from = whole('from');
  if (values.seed !== undefined) {
    const result = await oneSeed(whole('seed'));
    if (result.line.violations.length > 0 && !values.json) for (const line of result.trace) console.log(line);
    print(result.line);
    return result.line.violations.length === 0 ? 0 : 1;
  }
  const count = whole('seeds');
  const jobs = Math.min(whole('jobs'), count);
  const step = whole('step');
  const tally = { seeds: 0, failed: 0, simulatedMs: 0 };
  const take = (line: Line): void => {
    tally.seeds++;
    if (line.violations.length > 0) tally.failed++;
    tally.simulatedMs += line.simulatedMs;
    print(line);
    if (process.stdout.isTTY) process.stdout.write(`${summary(tally)} of ${count}\r`);
  };
  if (jobs > 1) await runChildren(jobs, from, count, take);
  else for (let i = 0; i < count; i += step) take((await oneSeed(from + i)).line);
  if (!values.json && step === 1) console.log(summary(tally));
  return tally.failed === 0 ? 0 : 1;
}

async function oneSeed(seed: number): Promise<{ line: Line; trace: readonly string[] }> {
  const started = performance.now();
  const { trace, ...result } = await runSeed({
    seed,
    ...(values.snapshots ? { smallLogs: true } : {}),
    ...(values.membership ? { membership: true } : {}),
    ...(values.damage ? { damage: true } : {}),
    ...(values.reads ? { reads: true } : {}),
    ...(values.subscriptions ? { subscriptions: true } : {}),
    ...(values.deliveries ? { deliveries: true } : {}),
    ...(values.faults === undefined ? {} : { faults: kindsOf(values.faults) }),
    ...(values['fault-ms'] === undefined ? {} : { faultMs: whole('fault-ms') }),
  });
  return { line: { ...result, seconds: (performance.now() - started) / 1_000 }, trace };
}

/** Child i takes seeds from + i, from + i + jobs … */
async function runChildren(
  jobs: number,
  from: number,
  count: number,
  take: (line: Line) => void,
): Promise<void> {
  const own = fileURLToPath(import.meta.url);
  await Promise.all(
    Array.from({ length: jobs }, async (_, i) => {
      const args = ['--json', '--jobs', '1', '--step', String(jobs), '--from', String(from + i)];
      args.push('--seeds', String(count - i), ...modes);
      const child = spawn(process.execPath, [...process.execArgv, own, ...args], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const ended = new Promise<number | null>((resolve, reject) => {
        child.on('error', reject);
        child.on('close', resolve);
      });
      for await (const text of createInterface({ input: child.stdout })) take(JSON.parse(text) as Line);
      const code = await ended;
      if (code !== 0 && code !== 1) throw new Error(`a process that ran seeds ended with ${code}`);
    }),
  );
}

function print(line: Line): void {
  if (values.json) {
    console.log(JSON.stringify(line));
    return;
  }
  const { seed, violations, acknowledged, crashes, damages, snapshots, simulatedMs, seconds, fingerprint } =
    line;
  const changes = Object.entries(line.memberChanges).map(([name, times]) => `${times} × ${name}`);
  console.log(
    `seed ${seed}: ${violations.length === 0 ? 'ok' : 'FAILED'}, ${acknowledged} acknowledged, ` +
      `${crashes} crashes, ${damages} damages, ${snapshots} snapshots, ${(simulatedMs / 1_000).toFixed(0)} s simulated in ${seconds.toFixed(1)} s, ${fingerprint}`,
  );
  if (changes.length > 0) console.log(`  members: ${changes.join(', ')}`);
  for (const violation of violations.slice(0, 20)) console.log(`  ${violation}`);
  if (violations.length > 0) console.log(`  again: npm run sim -- ${['--seed', seed, ...modes].join(' ')}`);
}

function summary({
  seeds,
  failed,
  simulatedMs,
}: {
  seeds: number;
  failed: number;
  simulatedMs: number;
}): string {
  return `${seeds} seeds, ${failed} failed, ${(simulatedMs / 3_600_000).toFixed(2)} hours simulated`;
}

async function writeTrace(file: string): Promise<number> {
  const run = await traceSeed({
    seed: values.seed === undefined ? 1 : whole('seed'),
    ...(values.membership ? { members: true } : { nodes: whole('nodes') }),
    lines: whole('trace-lines'),
  });
  fs.writeFileSync(file, run.text);
  console.log(
    `${file}: ${run.events.length} lines, ${run.acknowledged} acknowledged, ${run.crashes} crashes, ${run.changes} changes of members, ` +
      `${(run.simulatedMs / 1_000).toFixed(0)} s simulated`,
  );
  for (const violation of run.violations) console.log(`  ${violation}`);
  try {
    followTrace(run.events);
  } catch (error) {
    console.log(`  no history of Raft: ${error instanceof Error ? error.message : String(error)}`);
    return 1;
  }
  return run.violations.length === 0 ? 0 : 1;
}

function kindsOf(names: string): FaultKind[] {
  return names.split(',').map((name) => {
    const kind = faultKinds.find((one) => one === name);
    if (kind !== undefined) return kind;
    return wrongUse(`--faults: there is no kind "${name}"; there are ${faultKinds.join(', ')}`);
  });
}

process.exitCode = await main();
