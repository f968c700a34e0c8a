/** One measurement: a workload on a system, with what it cost and what the machine did meanwhile. */
import { tmpdir } from 'node:os';
import type { Running } from './drive.js';
import { difference, machineTimes, memoryOf, stealPercent, usageOf } from './measure.js';
import { deviceBytesWritten } from './proc-figures.js';
import { orInterrupted, pause, type System } from './system.js';
import { mixedLoad, type Workload } from './workloads.js';

export interface Sample {
  readonly system: string;
  readonly workload: string;
  readonly round: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** [percentile, ms]. */
  readonly latency: readonly (readonly [number, number])[];
  /** Units per second, in slices of the window. */
  readonly overTime: readonly number[];
  readonly units: number;
  readonly seconds: number;
  /** CPU per unit and process, µs. */
  readonly cpuUs: Readonly<Record<string, number>>;
  readonly mainThreadUs: Readonly<Record<string, number>>;
  /** At the end, per process, MiB. */
  readonly memoryMiB: Readonly<Record<string, number>>;
  /** Written to the device of the temporary folder per 1,000 units, bytes, by all nodes and by whatever else writes there; NaN: unknown. */
  readonly diskBytes: number;
  /** The system's own, per 1,000 units. */
  readonly counters: Readonly<Record<string, number>>;
  /** Cores that other work of this machine used meanwhile. */
  readonly otherCores: number;
  /** Share of the machine's time that its host gave to others, percent. */
  readonly stealPercent: number;
}

export interface SampleOptions {
  readonly seconds: number;
  /** Under the same load just before, not counted. */
  readonly warmupSeconds: number;
  readonly round: number;
  readonly signal: AbortSignal;
}

/** A window goes on until anything is done in it, in steps, and not for ever. */
const moreSeconds = 0.5;
const moreSecondsMax = 30;

const percentiles = [0, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.99, 100];

/** Undefined: the system has no such call. */
export async function sample(
  system: System,
  workload: Workload,
  options: SampleOptions,
): Promise<Sample | undefined> {
  const beginning = workload.begin(system, options.round + 1);
  if (beginning === undefined) return undefined;
  const { signal } = options;
  const running = await orInterrupted(beginning, signal);
  let isOver = false;
  try {
    await going(running, options.warmupSeconds, signal);
    const found = await window(system, workload, running, options);
    isOver = true;
    return found;
  } finally {
    const stopped = orInterrupted(running.stop(), signal);
    // After a failure the first error is the one to tell.
    await (isOver ? stopped : stopped.catch(() => {}));
  }
}

async function window(
  system: System,
  workload: Workload,
  running: Running,
  { seconds, round, signal }: SampleOptions,
): Promise<Sample> {
  const groups = [{ name: 'client', pid: process.pid }, ...system.processes()];
  const countersBefore = (await system.counters?.()) ?? {};
  const before = groups.map(usageOf);
  const machineBefore = machineTimes();
  const diskBefore = deviceBytesWritten(tmpdir());
  running.open();
  await going(running, seconds, signal);
  for (let more = 0; !running.hasCounted() && more < moreSecondsMax; more += moreSeconds)
    await going(running, moreSeconds, signal);
  const closing = running.close();
  const machineAfter = machineTimes();
  const diskAfter = deviceBytesWritten(tmpdir());
  const used = groups.map((group, i) => difference(usageOf(group), before[i] as (typeof before)[number]));
  const countersAfter = (await system.counters?.()) ?? {};
  const interval = await orInterrupted(closing, signal);

  const { units, latency } = interval;
  if (units === 0)
    throw new Error(
      `${system.name}, ${workload.name}: nothing was done in ${Math.round(interval.seconds)} s`,
    );
  const perThousand = (value: number): number => (value / units) * 1000;
  const byGroup = (pick: (index: number) => number): Record<string, number> =>
    Object.fromEntries(groups.map(({ name }, i) => [name, pick(i)]));
  const ownUs = used.reduce((sum, usage) => sum + usage.cpuUs, 0);
  return {
    system: system.name,
    workload: workload.name,
    round,
    perSecond: units / interval.seconds,
    p50Ms: latency.getValueAtPercentile(50) / 1000,
    p99Ms: latency.getValueAtPercentile(99) / 1000,
    latency: percentiles.map((p) => [p, latency.getValueAtPercentile(p) / 1000] as const),
    overTime: interval.overTime,
    units,
    seconds: interval.seconds,
    cpuUs: byGroup((i) => (used[i]?.cpuUs ?? 0) / units),
    mainThreadUs: byGroup((i) => (used[i]?.mainUs ?? 0) / units),
    memoryMiB: byGroup((i) => memoryOf(groups[i] as (typeof groups)[number]) / 1024 ** 2),
    diskBytes: perThousand(diskAfter - diskBefore),
    counters: Object.fromEntries(
      Object.entries(countersAfter).map(([name, value]) => [
        name,
        perThousand(value - (countersBefore[name] ?? 0)),
      ]),
    ),
    otherCores: Math.max(0, (machineAfter.busyUs - machineBefore.busyUs - ownUs) / 1e6 / interval.seconds),
    stealPercent: stealPercent(machineBefore, machineAfter),
  };
}

/** The load goes on for so long, unless it fails. */
async function going(running: Running, seconds: number, signal: AbortSignal): Promise<void> {
  const ending = new AbortController();
  const both = AbortSignal.any([signal, ending.signal]);
  const time = pause(seconds * 1000, both);
  time.catch(() => {});
  try {
    await Promise.race([time, running.failed]);
  } finally {
    ending.abort();
  }
}

/** Of all calls of a system, before anything is measured: what is measured is compiled code. */
export async function warmUp(system: System, seconds: number, signal: AbortSignal): Promise<void> {
  if (seconds <= 0) return;
  const running = mixedLoad(system);
  try {
    await going(running, seconds, signal);
  } finally {
    await orInterrupted(running.stop(), signal);
  }
}
