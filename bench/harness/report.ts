/** Tables and notes on what was measured. */
import { execFileSync } from 'node:child_process';
import { cpus, platform, release, totalmem } from 'node:os';
import Table from 'cli-table3';
import type { Row } from './rounds.js';
import type { Sample } from './sample.js';
import { type Ratio, type StealRange, type Summary, stealOf, stealSpreadMax } from './stats.js';
import type { System } from './system.js';
import { payload, type Workload } from './workloads.js';

/** All that a run found; what `--json` writes. */
export interface Report {
  readonly machine: Readonly<Record<string, string | number>>;
  readonly again: string;
  readonly settings: Settings;
  readonly systems: readonly Pick<System, 'name' | 'version' | 'durability'>[];
  /** Why a system or a sample is missing. */
  readonly missing: readonly string[];
  /** Empty: everything that was asked for was measured. */
  readonly incomplete: string;
  readonly workloads: readonly Pick<Workload, 'name' | 'title' | 'unit' | 'better' | 'inFlight'>[];
  readonly rows: readonly Row[];
  readonly summaries: readonly Summary[];
  readonly ratios: readonly Ratio[];
  readonly toBest: readonly Ratio[];
  /** Of `hansard import`, messages per second and round. */
  readonly imports: readonly number[];
  readonly samples: readonly Sample[];
  /** Of rounds that were repeated. */
  readonly discarded: readonly Sample[];
}

export interface Settings {
  readonly rounds: number;
  readonly seconds: number;
  readonly warmupSeconds: number;
  readonly rowWarmupSeconds: number;
  readonly maxStealPercent: number;
  readonly retries: number;
}

export function machine(): Record<string, string | number> {
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 1024 ** 3),
    system: `${platform()} ${release()}`,
    node: process.version,
    commit: commit(),
    payload,
  };
}

function commit(): string {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty'], {
      cwd: new URL('.', import.meta.url).pathname,
      stdio: ['ignore', 'pipe', 'ignore'],
    })
      .toString()
      .trim();
  } catch {
    return 'unknown';
  }
}

export const whole = (value: number): string => Math.round(value).toLocaleString('en');
export const ms = (value: number): string => value.toFixed(value < 10 ? 2 : 1);
export const ratio = ({ min, median, max }: Ratio): string =>
  `${min.toFixed(2)} / ${median.toFixed(2)} / ${max.toFixed(2)}`;

function steal({ min, max }: StealRange): string {
  const [low, high] = [min.toFixed(0), max.toFixed(0)];
  return low === high ? `${high} %` : `${low} to ${high} %`;
}

/** Of one system, with what each unit cost. */
export function table(report: Report): string {
  const out = plainTable([
    'workload',
    'per second',
    'p50 ms',
    'p99 ms',
    'CPU µs each: client',
    'nodes',
    'syncs / 1,000',
    'KB to disk / 1,000',
    'other load',
    'steal',
  ]);
  for (const row of inOrder(report)) {
    out.push([
      row.workload,
      whole(row.perSecond),
      ms(row.p50Ms),
      ms(row.p99Ms),
      (row.cpuUs.client ?? 0).toFixed(1),
      nodes(row.cpuUs).join(' + '),
      row.counters.syncs === undefined ? '-' : row.counters.syncs.toFixed(1),
      Number.isNaN(row.diskBytes) ? '-' : whole(row.diskBytes / 1000),
      `${row.otherCores.toFixed(1)} cores`,
      steal(stealOf(report.samples, row.workload)),
    ]);
  }
  return out.toString();
}

function inOrder({ workloads, summaries }: Report): Summary[] {
  return workloads.flatMap(({ name }) => summaries.filter((each) => each.workload === name));
}

function nodes(byGroup: Readonly<Record<string, number>>): string[] {
  return Object.entries(byGroup)
    .filter(([name]) => name !== 'client')
    .map(([, value]) => value.toFixed(1));
}

/** Rates and latencies of all systems side by side, the subject's ratio to each below. */
export function compareTable(report: Report): string {
  const systems = measuredSystems(report);
  const head = ['per second (p50 ms); ratio min / median / max', ...systems, 'steal'];
  const out = plainTable(head);
  for (const workload of report.workloads) {
    const cells = systems.map((system) => {
      const found = summaryOf(report, workload.name, system);
      if (found === undefined) return '-';
      const to = report.ratios.find((each) => each.system === system && each.workload === workload.name);
      const value = `${whole(found.perSecond)} (${ms(found.p50Ms)})`;
      return to === undefined ? value : `${value}\n${ratio(to)}`;
    });
    if (cells.some((cell) => cell !== '-'))
      out.push([workload.name, ...cells, steal(stealOf(report.samples, workload.name))]);
  }
  return out.toString();
}

/** What one unit costs each system. */
export function costTable(report: Report): string {
  const systems = measuredSystems(report);
  const out = plainTable(['µs of CPU each: client + all nodes', ...systems]);
  for (const workload of report.workloads) {
    const cells = systems.map((system) => {
      const found = summaryOf(report, workload.name, system);
      if (found === undefined) return '-';
      const { client = 0, ...others } = found.cpuUs;
      const sum = Object.values(others).reduce((total, us) => total + us, 0);
      return `${client.toFixed(0)} + ${sum.toFixed(0)}`;
    });
    if (cells.some((cell) => cell !== '-')) out.push([workload.name, ...cells]);
  }
  return out.toString();
}

export function measuredSystems({ summaries }: Report): string[] {
  return [...new Set(summaries.map(({ system }) => system))];
}

export function summaryOf({ summaries }: Report, workload: string, system: string): Summary | undefined {
  return summaries.find((each) => each.system === system && each.workload === workload);
}

/** A line per row: the subject to the peer that is best there. */
export function bestLines(report: Report, subject: string): string {
  if (report.toBest.length === 0) return '';
  const lines = report.toBest.map((best) => {
    const workload = report.workloads.find(({ name }) => name === best.workload);
    const by = workload?.better === 'rate' ? 'per second' : `latency p${workload?.better}`;
    const word = best.median >= 1 ? 'ahead of' : 'behind';
    return `  ${best.workload}: ${best.median.toFixed(2)} x, ${word} ${best.system} (${ratio(best)}; ${by})`;
  });
  return [`${subject} to the best other system of each row, median of the rounds:`, ...lines].join('\n');
}

/** Versions, durability, how it was measured, and what a reader must know of this run. */
export function footer(report: Report): string {
  const { settings } = report;
  const facts = Object.entries(report.machine).map(([key, value]) => `${key}: ${value}`);
  const each = report.systems.map((s) => `${s.name} ${s.version}\n  durability: ${s.durability}`);
  const titles = report.workloads.map(({ name, title }) => `${name}: ${title}`);
  const warmup = `warm-up, not counted: ${settings.warmupSeconds} s of all its calls mixed per system at the start, ${settings.rowWarmupSeconds} s of the row's own load before each sample`;
  const shape = `${settings.rounds} rounds of ${settings.seconds} s per row and system, row by row, systems alternating within a round; medians; ratios within a round`;
  return [...facts, ...titles, ...each, shape, warmup, ...notes(report)].join('\n');
}

/** What makes this run's figures worth less. */
export function notes(report: Report): string[] {
  const { maxStealPercent, retries } = report.settings;
  const found = [...report.missing];
  if (report.incomplete !== '') found.push(`incomplete: ${report.incomplete}`);
  const repeated = report.rows.reduce((sum, row) => sum + row.repeated, 0);
  const rows = report.rows.filter((row) => row.repeated > 0);
  found.push(
    `rounds repeated because the host took more than ${maxStealPercent} % of the machine: ${repeated}` +
      (rows.length === 0 ? '' : ` (${rows.map((row) => `${row.workload} ${row.repeated}`).join(', ')})`),
  );
  for (const row of report.rows)
    if (row.aboveLimit > 0)
      found.push(
        `warning: ${row.workload}: ${row.aboveLimit} of its rounds are above ${maxStealPercent} % even after ${retries} repeats`,
      );
  for (const { name } of report.workloads) {
    const { min, max } = stealOf(report.samples, name);
    if (max - min > stealSpreadMax)
      found.push(
        `warning: ${name}: its samples differ in stolen time by ${(max - min).toFixed(0)} points (${steal({ min, max })}): compare them with care`,
      );
  }
  return found;
}

function plainTable(head: string[]): InstanceType<typeof Table> {
  return new Table({ head, style: { head: [], border: [], compact: true } });
}
