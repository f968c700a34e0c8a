/**
 * The harness: `npm run bench -- --help`.
 *
 * All systems run one at a time, alternating by round, so that what drifts with
 * the machine cancels in the ratios.
 */
import { writeFileSync } from 'node:fs';
import { Command } from 'commander';
import { Hansard } from './harness/hansard.js';
import { importRate } from './harness/import-rate.js';
import { ProfiledNodes } from './harness/profiled.js';
import { compareTable, describe, machine, ratiosOf, rowsOf, table } from './harness/report.js';
import { Absent, type System } from './harness/system.js';
import { fill, run, type Sample, type Workload, workloads } from './harness/workloads.js';
import { peers } from './peers/index.js';

interface Options {
  readonly workload?: string;
  readonly rounds: string;
  readonly seconds: string;
  readonly json?: boolean | string;
  readonly peers?: string;
  readonly against?: string;
  readonly profile?: string;
}

const program = new Command('bench')
  .description('Measures Hansard: three nodes as processes on this machine, one client.')
  .argument('[what]', '`run`, or `compare` with the systems found on this machine', 'run')
  .option('--workload <names>', `comma-separated, or beginnings of names: ${names()}`)
  .option('--rounds <n>', 'alternating rounds; medians are shown', '3')
  .option('--seconds <n>', 'of each workload and round', '4')
  .option('--json [file]', 'JSON to the file, or to standard output instead of the table')
  .option('--peers <names>', `compare: with these alone, of ${peers.map((peer) => peer.name).join(', ')}`)
  .option('--against <main.js>', "compare: with the nodes of another build's dist/src/cli/main.js")
  .option('--profile <dir>', 'run: CPU profiles and loop delay of the nodes, per workload')
  .action(async (what: string, options: Options) => {
    if (what !== 'run' && what !== 'compare') throw new Error(`${what}: run or compare`);
    const seconds = Number(options.seconds);
    const rounds = Number(options.rounds);
    if (!(seconds > 0) || !(rounds >= 1)) throw new Error('--seconds and --rounds take positive numbers');
    const chosen = choose(options.workload);
    if (what === 'run') await runAlone(chosen, rounds, seconds, options);
    else await compare(chosen, rounds, seconds, options);
  });

function names(): string {
  return [...workloads.map(({ name }) => name), 'import'].join(', ');
}

interface Chosen {
  readonly workloads: readonly Workload[];
  readonly imports: boolean;
}

function choose(wanted: string | undefined): Chosen {
  if (wanted === undefined) return { workloads, imports: true };
  const prefixes = wanted.split(',').map((each) => each.trim());
  const found = workloads.filter(({ name }) => prefixes.some((prefix) => name.startsWith(prefix)));
  const imports = prefixes.includes('import');
  if (found.length === 0 && !imports) throw new Error(`no workload ${wanted}; there are ${names()}`);
  return { workloads: found, imports };
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

async function runAlone(chosen: Chosen, rounds: number, seconds: number, options: Options): Promise<void> {
  const profiled = options.profile === undefined ? undefined : new ProfiledNodes(options.profile);
  const system = new Hansard(profiled === undefined ? {} : { env: profiled.env });
  const samples: Sample[] = [];
  const imports: number[] = [];
  await withSystems([system], async () => {
    await fill(system);
    for (let round = 0; round < rounds; round++) {
      for (const workload of chosen.workloads) {
        const measured = (): Promise<Sample | undefined> =>
          run(system, workload, { seconds, warmupSeconds: warmup(seconds, round), round });
        const sample = await (profiled === undefined
          ? measured()
          : profiled.during(system.processes(), workload.name, measured));
        if (sample === undefined) continue;
        samples.push(sample);
        say(line(sample));
      }
      if (chosen.imports) {
        imports.push(await importRate(system.endpoints, round));
        say(`round ${round + 1}  import: ${Math.round(imports.at(-1) ?? 0)} messages/s`);
      }
    }
  });
  const rows = rowsOf(samples);
  output(options, { machine: machine(), durability: system.durability, rows, imports, samples }, () => [
    describe([system]),
    table(rows, chosen.workloads),
    imports.length === 0
      ? ''
      : `import (hansard import, generated chat): ${imports.map(Math.round).join(', ')} messages/s`,
  ]);
}

async function compare(chosen: Chosen, rounds: number, seconds: number, options: Options): Promise<void> {
  const wanted = options.peers?.split(',');
  const subject = new Hansard();
  const systems: System[] = [subject];
  if (options.against !== undefined)
    systems.push(new Hansard({ name: 'other build', mainScript: options.against }));
  else
    for (const peer of peers) {
      if (wanted !== undefined && !wanted.includes(peer.name)) continue;
      try {
        systems.push(peer.find());
      } catch (error) {
        if (!(error instanceof Absent)) throw error;
        say(`skipped ${peer.name}: ${error.message}`);
      }
    }
  const samples: Sample[] = [];
  const started: System[] = [];
  await withSystems(systems, async () => {
    for (const system of systems) {
      await fill(system);
      started.push(system);
    }
    for (let round = 0; round < rounds; round++) {
      for (const workload of chosen.workloads) {
        // Each goes first in turn.
        for (let i = 0; i < started.length; i++) {
          const system = started[(i + round) % started.length] as System;
          const sample = await run(system, workload, {
            seconds,
            warmupSeconds: warmup(seconds, round),
            round,
          });
          if (sample === undefined) continue;
          samples.push(sample);
          say(line(sample));
        }
      }
    }
  });
  const rows = rowsOf(samples);
  const ratios = ratiosOf(samples, subject.name);
  const about = systems.map(({ name, version, durability }) => ({ name, version, durability }));
  output(options, { machine: machine(), systems: about, rows, ratios, samples }, () => [
    describe(systems),
    compareTable(rows, ratios, chosen.workloads),
  ]);
}

/** The first round meets cold code. */
function warmup(seconds: number, round: number): number {
  return round === 0 ? Math.max(1, seconds / 3) : Math.min(0.5, seconds / 4);
}

async function withSystems(systems: readonly System[], work: () => Promise<void>): Promise<void> {
  const begun: System[] = [];
  try {
    for (const system of systems) {
      begun.push(system);
      await system.start();
      say(`started ${system.name} ${system.version}`);
    }
    await work();
  } finally {
    for (const system of begun)
      await system.stop().catch((error: unknown) => say(`${system.name}: ${error}`));
  }
}

function line(sample: Sample): string {
  const cpu = Object.entries(sample.cpuUs).map(
    ([name, us]) => `${name} ${us.toFixed(1)} (${(sample.mainThreadUs[name] ?? 0).toFixed(1)})`,
  );
  return `round ${sample.round + 1}  ${sample.system}  ${sample.workload}: ${Math.round(sample.perSecond)}/s  p50 ${sample.p50Ms.toFixed(2)} p99 ${sample.p99Ms.toFixed(2)} ms  CPU (main thread) µs: ${cpu.join(', ')}  other load ${sample.otherCores.toFixed(2)}`;
}

function output(options: Options, json: unknown, text: () => string[]): void {
  if (options.json === true) process.stdout.write(`${JSON.stringify(json, undefined, 1)}\n`);
  else {
    if (typeof options.json === 'string') writeFileSync(options.json, JSON.stringify(json, undefined, 1));
    process.stdout.write(
      `${text().filter(Boolean).join('\n\n')}\n\nagain: npm run bench -- ${process.argv.slice(2).join(' ')}\n`,
    );
  }
}

try {
  await program.parseAsync();
} catch (error) {
  say(`error: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
