/** Medians, ratios and what is to be said about them. */
import type { Sample } from './sample.js';
import type { Workload } from './workloads.js';

/** Medians of a row's samples, field by field. */
export interface Summary extends Omit<Sample, 'round' | 'overTime' | 'units' | 'seconds'> {
  readonly rounds: number;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  const upper = sorted[half] as number;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[half - 1] as number)) / 2;
}

/** Medians over the rounds, by system and workload. */
export function summariesOf(samples: readonly Sample[]): Summary[] {
  const groups = new Map<string, Sample[]>();
  for (const sample of samples) {
    const key = `${sample.system}\n${sample.workload}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [sample]);
    else group.push(sample);
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
      latency: first.latency.map(([p], i) => [p, of((s) => s.latency[i]?.[1] ?? Number.NaN)] as const),
      cpuUs: each((s) => s.cpuUs),
      mainThreadUs: each((s) => s.mainThreadUs),
      memoryMiB: each((s) => s.memoryMiB),
      diskBytes: of((s) => s.diskBytes),
      counters: each((s) => s.counters),
      otherCores: of((s) => s.otherCores),
      stealPercent: of((s) => s.stealPercent),
      rounds: group.length,
    };
  });
}

export interface Ratio {
  readonly workload: string;
  /** The other one. Above 1: the subject is better. */
  readonly system: string;
  readonly min: number;
  readonly median: number;
  readonly max: number;
}

/** More is better, whatever the workload asks. */
function merit({ better }: Workload, sample: Pick<Sample, 'perSecond' | 'p50Ms' | 'p99Ms'>): number {
  if (better === 'rate') return sample.perSecond;
  return 1 / (better === 50 ? sample.p50Ms : sample.p99Ms);
}

/** `subject` to every other system, within each round. */
export function ratiosOf(
  samples: readonly Sample[],
  workloads: readonly Workload[],
  subject: string,
): Ratio[] {
  const found: Ratio[] = [];
  const others = [...new Set(samples.map((sample) => sample.system))].filter((name) => name !== subject);
  for (const workload of workloads) {
    const row = samples.filter((sample) => sample.workload === workload.name);
    for (const system of others) {
      const values: number[] = [];
      for (const theirs of row.filter((sample) => sample.system === system)) {
        const ours = row.find((sample) => sample.system === subject && sample.round === theirs.round);
        if (ours !== undefined) values.push(merit(workload, ours) / merit(workload, theirs));
      }
      if (values.length === 0) continue;
      const [min, max] = [Math.min(...values), Math.max(...values)];
      found.push({ workload: workload.name, system, min, median: median(values), max });
    }
  }
  return found;
}

/** Per workload the ratio to the peer that is best in it, by its median. */
export function ratiosToBest(
  summaries: readonly Summary[],
  ratios: readonly Ratio[],
  workloads: readonly Workload[],
): Ratio[] {
  return workloads.flatMap((workload) => {
    const [best] = ratios
      .filter((ratio) => ratio.workload === workload.name)
      .map((ratio) => {
        const theirs = summaries.find((s) => s.workload === workload.name && s.system === ratio.system);
        return { ratio, merit: theirs === undefined ? 0 : merit(workload, theirs) };
      })
      .sort((a, b) => b.merit - a.merit);
    return best === undefined ? [] : [best.ratio];
  });
}

export interface StealRange {
  readonly min: number;
  readonly max: number;
}

export function stealOf(samples: readonly Sample[], workload: string): StealRange {
  const values = samples.filter((s) => s.workload === workload).map((s) => s.stealPercent);
  return values.length === 0 ? { min: 0, max: 0 } : { min: Math.min(...values), max: Math.max(...values) };
}

/** Samples of a row that differ by more than this in stolen time do not compare well, points of percent. */
export const stealSpreadMax = 5;
