/** Tables and JSON of what was measured. */
import { execFileSync } from 'node:child_process';
import { cpus, platform, release, totalmem } from 'node:os';
import Table from 'cli-table3';
import type { System } from './system.js';
import { channelCount, payloadBytes, type Sample, type Workload } from './workloads.js';

export interface Row {
  readonly system: string;
  readonly workload: string;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly cpuUs: Readonly<Record<string, number>>;
  readonly mainThreadUs: Readonly<Record<string, number>>;
  readonly diskBytes: number;
  readonly counters: Readonly<Record<string, number>>;
  readonly otherCores: number;
  readonly rounds: number;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  const upper = sorted[half] as number;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[half - 1] as number)) / 2;
}

/** Medians over the rounds. */
export function rowsOf(samples: readonly Sample[]): Row[] {
  const groups = new Map<string, Sample[]>();
  for (const sample of samples) {
    const key = `${sample.system}\n${sample.workload}`;
    groups.set(key, [...(groups.get(key) ?? []), sample]);
  }
  return [...groups.values()].map((group) => {
    const first = group[0] as Sample;
    const of = (pick: (sample: Sample) => number): number => median(group.map(pick));
    const each = (pick: (sample: Sample) => Readonly<Record<string, number>>): Record<string, number> =>
      Object.fromEntries(
        Object.keys(pick(first)).map((key) => [key, of((sample) => pick(sample)[key] ?? 0)]),
      );
    return {
      system: first.system,
      workload: first.workload,
      perSecond: of((s) => s.perSecond),
      p50Ms: of((s) => s.p50Ms),
      p99Ms: of((s) => s.p99Ms),
      cpuUs: each((s) => s.cpuUs),
      mainThreadUs: each((s) => s.mainThreadUs),
      diskBytes: of((s) => s.diskBytes),
      counters: each((s) => s.counters),
      otherCores: of((s) => s.otherCores),
      rounds: group.length,
    };
  });
}

export function machine(): Record<string, string | number> {
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 1024 ** 3),
    system: `${platform()} ${release()}`,
    node: process.version,
    commit: commit(),
    payload: `${payloadBytes} bytes of chat-like text over ${channelCount} channels`,
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

const whole = (value: number): string => Math.round(value).toLocaleString('en');
const ms = (value: number): string => value.toFixed(value < 10 ? 2 : 1);

export function table(rows: readonly Row[], workloads: readonly Workload[]): string {
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
  ]);
  for (const workload of workloads) {
    for (const row of rows.filter((each) => each.workload === workload.name)) {
      const nodes = Object.entries(row.cpuUs).filter(([name]) => name !== 'client');
      out.push([
        rows.some((each) => each.system !== row.system) ? `${row.system}: ${workload.name}` : workload.name,
        whole(row.perSecond),
        ms(row.p50Ms),
        ms(row.p99Ms),
        (row.cpuUs.client ?? 0).toFixed(1),
        nodes.map(([, value]) => value.toFixed(1)).join(' + '),
        row.counters.syncs === undefined ? '-' : row.counters.syncs.toFixed(1),
        whole(row.diskBytes / 1000),
        `${row.otherCores.toFixed(1)} cores`,
      ]);
    }
  }
  return out.toString();
}

export interface Ratio {
  readonly workload: string;
  readonly system: string;
  readonly min: number;
  readonly median: number;
  readonly max: number;
}

/** `subject` to every other system, round by round: what drifts with the machine cancels. */
export function ratiosOf(samples: readonly Sample[], subject: string): Ratio[] {
  const found: Ratio[] = [];
  const others = [...new Set(samples.map((sample) => sample.system))].filter((name) => name !== subject);
  for (const workload of new Set(samples.map((sample) => sample.workload))) {
    for (const system of others) {
      const values: number[] = [];
      for (const theirs of samples.filter((s) => s.workload === workload && s.system === system)) {
        const ours = samples.find(
          (s) => s.workload === workload && s.system === subject && s.round === theirs.round,
        );
        if (ours !== undefined && theirs.perSecond > 0) values.push(ours.perSecond / theirs.perSecond);
      }
      if (values.length === 0) continue;
      found.push({
        workload,
        system,
        min: Math.min(...values),
        median: median(values),
        max: Math.max(...values),
      });
    }
  }
  return found;
}

export function compareTable(
  rows: readonly Row[],
  ratios: readonly Ratio[],
  workloads: readonly Workload[],
): string {
  const systems = [...new Set(rows.map((row) => row.system))];
  const out = plainTable(['per second (p50 ms); ratio min / median / max', ...systems]);
  for (const workload of workloads) {
    const cells = systems.map((system) => {
      const row = rows.find((each) => each.system === system && each.workload === workload.name);
      if (row === undefined) return '-';
      const ratio = ratios.find((each) => each.system === system && each.workload === workload.name);
      const value = `${whole(row.perSecond)} (${ms(row.p50Ms)})`;
      if (ratio === undefined) return value;
      return `${value}\n${ratio.min.toFixed(2)} / ${ratio.median.toFixed(2)} / ${ratio.max.toFixed(2)}`;
    });
    if (cells.some((cell) => cell !== '-')) out.push([workload.name, ...cells]);
  }
  return out.toString();
}

export function describe(systems: readonly System[]): string {
  const facts = Object.entries(machine()).map(([key, value]) => `${key}: ${value}`);
  const each = systems.map((s) => `${s.name} ${s.version}\n  durability: ${s.durability}`);
  return [...facts, ...each].join('\n');
}

function plainTable(head: string[]): InstanceType<typeof Table> {
  return new Table({ head, style: { head: [], border: [], compact: true } });
}
