/** The harness: `npm run bench -- --help`. */
import { writeFileSync } from 'node:fs';
import { Command } from 'commander';
import { Hansard } from './harness/hansard.js';
import { importRate } from './harness/import-rate.js';
import { endLeftovers, untilSignal } from './harness/leftovers.js';
import { fill } from './harness/load.js';
import { number } from './harness/options.js';
import { page } from './harness/page.js';
import { ProfiledNodes } from './harness/profiled.js';
import { bestLines, compareTable, costTable, footer, machine, type Report, table } from './harness/report.js';
import { type Measured, measureRounds } from './harness/rounds.js';
import { type Sample, sample, warmUp } from './harness/sample.js';
import { isWithin, smoke, smokeTable } from './harness/smoke.js';
import { ratiosOf, ratiosToBest, summariesOf } from './harness/stats.js';
import { Absent, Interrupted, orInterrupted, pause, type System } from './harness/system.js';
import { names, type Workload, workloadsOf } from './harness/workloads.js';
import { peers } from './peers/index.js';

interface Options {
  readonly workload?: string;
  readonly rounds: number;
  readonly seconds: number;
  readonly warmup: number;
  readonly rowWarmup: number;
  readonly maxSteal: number;
  readonly retries: number;
  readonly json?: boolean | string;
  readonly report?: string;
  readonly peers?: string;
  readonly against?: string;
  readonly partitions?: number;
  readonly profile?: string;
}

/** Bursts of stolen time last for seconds: before a round is repeated, ms. */
const waitOutMs = 2_000;
/** For all systems to end in order; then they are killed, ms. */
const stopMs = 30_000;

const program = new Command('bench')
  .description('Measures Hansard: three nodes as processes on this machine, one client.')
  .argument(
    '[what]',
    '`run`, `compare` with the systems found on this machine, `smoke`: counts that do not depend on the machine, each in its band; or one of footprint, recovery, write-amplification, checkpoints, bring-up, fan-out, reads, subscription, targets, which tell their own options with --help',
    'run',
  )
  .option(
    '--workload <names>',
    `comma-separated: names, beginnings of names, names with other numbers, "standard" (the default), "further", "import"; there are ${[...names(), 'import'].join(', ')}`,
  )
  .option('--rounds <n>', 'of each row; medians are shown', number(1), 3)
  .option('--seconds <n>', 'of each sample', number(0.1), 4)
  .option('--warmup <seconds>', 'of all calls mixed, per system, before anything is measured', number(0), 30)
  .option('--row-warmup <seconds>', "of the row's load, before each sample", number(0), 2)
  .option(
    '--max-steal <percent>',
    'of the machine taken by its host: above it a round is repeated',
    number(0),
    10,
  )
  .option('--retries <n>', 'how often one round is repeated at most', number(0), 3)
  .option('--json [file]', 'all samples as JSON to the file, or to standard output instead of the tables')
  .option('--report <file>', 'a page with plots, which needs nothing else')
  .option('--peers <names>', `compare: with these alone, of ${peers.map((peer) => peer.name).join(', ')}`)
  .option(
    '--against <what>',
    "compare: with the nodes of another build's dist/src/cli/main.js, or with `partitions=N`",
  )
  .option('--partitions <n>', "of Hansard's clusters (default: as `hansard cluster up`)", number(1))
  .option('--profile <dir>', 'run: CPU profiles and loop delay of the nodes, per workload')
  .action(async (what: string, options: Options) => {
    if (what === 'smoke') return showSmoke(options);
    if (what !== 'run' && what !== 'compare') throw new Error(`${what}: run, compare or smoke`);
    await measure(what, options);
  });

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

const signal = untilSignal((name) => say(`${name}: ending; once more to end at once`));

/** A count outside of its band fails the command: a path has changed. */
async function showSmoke({ json }: Options): Promise<void> {
  const counts = await smoke(say);
  if (counts.some((count) => !isWithin(count))) process.exitCode = 1;
  const text =
    json === undefined || json === false
      ? smokeTable(counts)
      : JSON.stringify(counts.map((count) => ({ ...count, ok: isWithin(count) })));
  if (typeof json === 'string') writeFileSync(json, `${text}\n`);
  else process.stdout.write(`${text}\n`);
}

interface Run {
  readonly subject: Hansard;
  readonly systems: readonly System[];
  readonly workloads: readonly Workload[];
  readonly imports: boolean;
  readonly measured: Measured;
  readonly importRates: number[];
  readonly missing: string[];
}

async function measure(what: 'run' | 'compare', options: Options): Promise<void> {
  const wanted = options.workload?.split(',').map((each) => each.trim()) ?? ['standard', 'import'];
  const missing: string[] = [];
  const profiled = options.profile === undefined ? undefined : new ProfiledNodes(options.profile);
  const { partitions } = options;
  const subject = new Hansard(profiled === undefined ? { partitions } : { partitions, env: profiled.env });
  const run: Run = {
    subject,
    systems: [subject, ...(what === 'compare' ? others(options, missing) : [])],
    workloads: workloadsOf(wanted.filter((name) => name !== 'import')),
    imports: what === 'run' && wanted.includes('import'),
    measured: { samples: [], discarded: [], rows: [] },
    importRates: [],
    missing,
  };
  let incomplete = '';
  try {
    await withSystems(run, (started) => measureAll(run, started, options, profiled));
  } catch (error) {
    incomplete = error instanceof Error ? error.message : String(error);
    throw error;
  } finally {
    // What was measured before a failure is shown all the same.
    if (incomplete === '' || run.measured.samples.length > 0)
      output(what, options, reportOf(run, options, incomplete));
  }
}

function others(options: Options, missing: string[]): System[] {
  const { against, partitions } = options;
  const otherCount = /^partitions=(\d+)$/.exec(against ?? '')?.[1];
  if (otherCount !== undefined)
    return [new Hansard({ name: `${otherCount} partitions`, partitions: Number(otherCount) })];
  if (against !== undefined) return [new Hansard({ name: 'other build', mainScript: against, partitions })];
  const wanted = options.peers?.split(',').map((each) => each.trim());
  const unknown = wanted?.find((name) => !peers.some((peer) => peer.name === name));
  if (unknown !== undefined) throw new Error(`no peer ${unknown}`);
  return peers.flatMap((peer) => {
    if (wanted !== undefined && !wanted.includes(peer.name)) return [];
    try {
      return [peer.find()];
    } catch (error) {
      if (!(error instanceof Absent)) throw error;
      skip(missing, `skipped ${peer.name}: ${error.message}`);
      return [];
    }
  });
}

function skip(missing: string[], why: string): void {
  missing.push(why);
  say(why);
}

/** Starts all; a peer that does not start is left out. Whatever happens, all are stopped. */
async function withSystems(run: Run, work: (started: System[]) => Promise<void>): Promise<void> {
  const started: System[] = [];
  const begun: System[] = [];
  try {
    for (const system of run.systems) {
      begun.push(system);
      try {
        await system.start(signal);
      } catch (error) {
        // Two builds are compared or nothing is; of peers there are others.
        if (signal.aborted || system instanceof Hansard) throw error;
        skip(run.missing, `left out ${system.name}, it did not start: ${messageOf(error)}`);
        continue;
      }
      started.push(system);
      say(`started ${system.name} ${system.version}`);
    }
    await work(started);
  } finally {
    const timer = setTimeout(() => {
      say('some system does not end; killing it');
      endLeftovers();
    }, stopMs);
    await Promise.all(
      begun.map((system) =>
        system.stop().catch((error: unknown) => say(`${system.name}: ${messageOf(error)}`)),
      ),
    );
    clearTimeout(timer);
  }
}

async function measureAll(
  run: Run,
  started: System[],
  options: Options,
  profiled: ProfiledNodes | undefined,
): Promise<void> {
  for (const system of started) {
    await orInterrupted(fill(system, signal), signal);
    say(`filled ${system.name}; warming it up for ${options.warmup} s`);
    await warmUp(system, options.warmup, signal);
  }
  const failures = new Failures(run.missing);
  await measureRounds(
    {
      systems: started,
      workloads: run.workloads,
      rounds: options.rounds,
      maxStealPercent: options.maxSteal,
      retries: options.retries,
    },
    async (system, workload, round) => {
      if (failures.leavesOut(system, workload)) return undefined;
      const { seconds, rowWarmup: warmupSeconds } = options;
      const measured = (): Promise<Sample | undefined> =>
        sample(system, workload, { seconds, warmupSeconds, round, signal });
      try {
        const found = await (profiled === undefined || system !== run.subject
          ? measured()
          : profiled.during(system.processes(), workload.name, measured));
        if (found !== undefined) say(line(found));
        return found;
      } catch (error) {
        if (signal.aborted) throw error;
        failures.add(system, workload, round, error);
        return undefined;
      }
    },
    async (workload, stealPercent) => {
      say(`${workload.name}: ${stealPercent.toFixed(0)} % stolen; the round is repeated`);
      await pause(waitOutMs, signal);
    },
    run.measured,
  );
  for (let round = 0; run.imports && round < options.rounds; round++) {
    run.importRates.push(await importRate(run.subject.endpoints, round, signal));
    say(`round ${round + 1}  import: ${Math.round(run.importRates.at(-1) ?? 0)} messages/s`);
  }
}

/** Rows in which a system failed go on without it; in its second one it is not asked any more. */
class Failures {
  readonly #rows = new Map<System, Set<Workload>>();

  constructor(private readonly missing: string[]) {}

  leavesOut(system: System, workload: Workload): boolean {
    const rows = this.#rows.get(system);
    return rows !== undefined && (rows.has(workload) || rows.size >= failedRowsMax);
  }

  add(system: System, workload: Workload, round: number, error: unknown): void {
    const rows = this.#rows.get(system) ?? new Set();
    this.#rows.set(system, rows.add(workload));
    skip(
      this.missing,
      `${system.name} failed in ${workload.name}, round ${round + 1}, and is left out of ${rows.size < failedRowsMax ? 'the rest of it' : 'all that follows'}: ${messageOf(error)}`,
    );
    if (!(system instanceof Hansard)) return;
    process.exitCode = 1;
    if (rows.size >= failedRowsMax) throw error;
  }
}

const failedRowsMax = 2;

function line(sample: Sample): string {
  const cpu = Object.entries(sample.cpuUs).map(
    ([name, us]) => `${name} ${us.toFixed(1)} (${(sample.mainThreadUs[name] ?? 0).toFixed(1)})`,
  );
  return `round ${sample.round + 1}  ${sample.system}  ${sample.workload}: ${Math.round(sample.perSecond)}/s  p50 ${sample.p50Ms.toFixed(2)} p99 ${sample.p99Ms.toFixed(2)} ms  CPU (main thread) µs: ${cpu.join(', ')}  other load ${sample.otherCores.toFixed(2)}  steal ${sample.stealPercent.toFixed(1)} %`;
}

function reportOf(run: Run, options: Options, incomplete: string): Report {
  const { samples, discarded, rows } = run.measured;
  const summaries = summariesOf(samples);
  const ratios = ratiosOf(samples, run.workloads, run.subject.name);
  return {
    machine: machine(),
    again: `npm run bench -- ${process.argv.slice(2).join(' ')}`,
    settings: {
      rounds: options.rounds,
      seconds: options.seconds,
      warmupSeconds: options.warmup,
      rowWarmupSeconds: options.rowWarmup,
      maxStealPercent: options.maxSteal,
      retries: options.retries,
    },
    systems: run.systems.map(({ name, version, durability }) => ({ name, version, durability })),
    missing: run.missing,
    incomplete,
    workloads: run.workloads,
    rows,
    summaries,
    ratios,
    toBest: ratiosToBest(summaries, ratios, run.workloads),
    imports: run.importRates,
    samples,
    discarded,
  };
}

function output(what: 'run' | 'compare', options: Options, report: Report): void {
  const json = (): string => `${JSON.stringify(report, undefined, 1)}\n`;
  if (options.report !== undefined) writeFileSync(options.report, page(report));
  if (typeof options.json === 'string') writeFileSync(options.json, json());
  if (options.json === true) process.stdout.write(json());
  else process.stdout.write(`${text(what, report).filter(Boolean).join('\n\n')}\n`);
}

function text(what: 'run' | 'compare', report: Report): string[] {
  const { imports } = report;
  return [
    ...(what === 'run'
      ? [table(report)]
      : [compareTable(report), costTable(report), bestLines(report, report.systems[0]?.name ?? '')]),
    imports.length === 0
      ? ''
      : `import (hansard import, generated chat): ${imports.map(Math.round).join(', ')} messages/s`,
    footer(report),
    `again: ${report.again}`,
  ];
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Measurements of one thing, each a program of its own with its own options. */
const programs = [
  'footprint',
  'recovery',
  'write-amplification',
  'checkpoints',
  'bring-up',
  'fan-out',
  'reads',
  'subscription',
  'targets',
];
const [, , named = ''] = process.argv;
if (programs.includes(named)) {
  process.argv.splice(2, 1);
  await import(`./${named}.js`);
}

try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof Interrupted)) {
    say(`error: ${messageOf(error)}`);
    process.exitCode ||= 1;
  }
}
await new Promise((done) => process.stdout.write('', done));
// A client that goes on trying to reach what was stopped must not keep this process.
process.exit();
