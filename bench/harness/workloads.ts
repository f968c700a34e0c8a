/** What is measured: each workload keeps a fixed number of calls in flight for some seconds. */
import { build, type Histogram } from 'hdr-histogram-js';
import { difference, machineBusyUs, usageOf } from './measure.js';
import { chatTexts, randomOf } from './payload.js';
import type { Item, System } from './system.js';

export interface Workload {
  readonly name: string;
  readonly title: string;
  /** What one unit is. */
  readonly unit: 'messages' | 'pages';
  readonly inFlight: number;
  /** Units per call. */
  readonly perCall: number;
  /** Undefined: the system has no such call. */
  callOf(system: System, load: Load): (() => Promise<unknown>) | undefined;
}

export interface Load {
  readonly channels: number;
  next(): Item;
}

export interface Sample {
  readonly system: string;
  readonly workload: string;
  readonly round: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly units: number;
  /** CPU per unit and process, µs. */
  readonly cpuUs: Readonly<Record<string, number>>;
  readonly mainThreadUs: Readonly<Record<string, number>>;
  /** Per 1,000 units, all nodes together. */
  readonly diskBytes: number;
  readonly counters: Readonly<Record<string, number>>;
  /** Cores that other work on the machine used meanwhile. */
  readonly otherCores: number;
}

export const payloadBytes = 200;
export const channelCount = 1_000;
const pageEvents = 50;
const distinctTexts = 4_096;

function singles(inFlight: number): Workload {
  return {
    name: `single-${inFlight}`,
    title: `single appends, ${inFlight} in flight`,
    unit: 'messages',
    inFlight,
    perCall: 1,
    callOf: (system, load) => () => system.append(load.next()),
  };
}

function frames(count: number, perFrame: number): Workload {
  return {
    name: `frames-${count}x${perFrame}`,
    title: `frames: ${count} in flight of ${perFrame} messages, any channels`,
    unit: 'messages',
    inFlight: count,
    perCall: perFrame,
    callOf(system, load) {
      if (system.appendFrame === undefined) return undefined;
      return () =>
        system.appendFrame?.(Array.from({ length: perFrame }, () => load.next())) as Promise<unknown>;
    },
  };
}

function batches(count: number, perBatch: number): Workload {
  return {
    name: `batches-${count}x${perBatch}`,
    title: `batches: ${count} in flight of ${perBatch} messages, one channel each`,
    unit: 'messages',
    inFlight: count,
    perCall: perBatch,
    callOf(system, load) {
      if (system.appendBatch === undefined) return undefined;
      return () => {
        const { channel } = load.next();
        const texts = Array.from({ length: perBatch }, () => load.next().text);
        return system.appendBatch?.(channel, texts) as Promise<unknown>;
      };
    },
  };
}

const pages: Workload = {
  name: 'pages-64',
  title: `latest pages of ${pageEvents}, 64 in flight`,
  unit: 'pages',
  inFlight: 64,
  perCall: 1,
  callOf(system, load) {
    if (system.page === undefined) return undefined;
    return async () => {
      const count = await system.page?.(load.next().channel);
      if (count !== pageEvents) throw new Error(`${system.name}: a page of ${count} messages`);
    };
  },
};

export const workloads: readonly Workload[] = [
  singles(1),
  singles(64),
  singles(256),
  frames(64, 32),
  frames(128, 64),
  batches(64, 64),
  pages,
];

export function makeLoad(seed: number): Load {
  const random = randomOf(seed);
  const texts = chatTexts(distinctTexts, payloadBytes);
  return {
    channels: channelCount,
    next: () => ({
      channel: Math.floor(random() * channelCount),
      text: texts[Math.floor(random() * distinctTexts)] as string,
    }),
  };
}

/** So many messages in every channel that each has a full page. */
export async function fill(system: System): Promise<void> {
  const load = makeLoad(99);
  const perChannel = pageEvents + 14;
  let channel = 0;
  const worker = async (): Promise<void> => {
    while (channel < channelCount) {
      const mine = channel++;
      const texts = Array.from({ length: perChannel }, () => load.next().text);
      if (system.appendBatch !== undefined) await system.appendBatch(mine, texts);
      else if (system.appendFrame !== undefined)
        await system.appendFrame(texts.map((text) => ({ channel: mine, text })));
      else for (const text of texts) await system.append({ channel: mine, text });
    }
  };
  await Promise.all(Array.from({ length: 32 }, worker));
}

interface Interval {
  readonly histogram: Histogram;
  readonly calls: number;
  readonly seconds: number;
}

/** Keeps `inFlight` calls going until the time is up; those under way then are awaited, not counted. */
async function drive(call: () => Promise<unknown>, inFlight: number, seconds: number): Promise<Interval> {
  const histogram = build({ highestTrackableValue: 60_000_000, numberOfSignificantValueDigits: 3 });
  const startMs = performance.now();
  const endMs = startMs + seconds * 1000;
  let calls = 0;
  const worker = async (): Promise<void> => {
    for (;;) {
      const sentMs = performance.now();
      if (sentMs >= endMs) return;
      await call();
      const nowMs = performance.now();
      if (nowMs > endMs) return;
      calls++;
      histogram.recordValue(Math.max(1, Math.round((nowMs - sentMs) * 1000)));
    }
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
  return { histogram, calls, seconds };
}

export interface RunOptions {
  readonly seconds: number;
  readonly warmupSeconds: number;
  readonly round: number;
}

export async function run(
  system: System,
  workload: Workload,
  options: RunOptions,
): Promise<Sample | undefined> {
  const call = workload.callOf(system, makeLoad(options.round + 1));
  if (call === undefined) return undefined;
  await system.prepare?.(workload.inFlight);
  await drive(call, workload.inFlight, options.warmupSeconds);
  const groups = [{ name: 'client', pid: process.pid }, ...system.processes()];
  const before = groups.map(usageOf);
  const countersBefore = (await system.counters?.()) ?? {};
  const busyBefore = machineBusyUs();
  const startedMs = performance.now();
  const { histogram, calls } = await drive(call, workload.inFlight, options.seconds);
  const seconds = (performance.now() - startedMs) / 1000;
  const busyUs = machineBusyUs() - busyBefore;
  const used = groups.map((group, i) => difference(usageOf(group), before[i] as (typeof before)[number]));
  const countersAfter = (await system.counters?.()) ?? {};
  const units = calls * workload.perCall;
  const perThousand = (value: number): number => (value / Math.max(1, units)) * 1000;
  const perUnit = (pick: (usage: (typeof used)[number]) => number): Record<string, number> =>
    Object.fromEntries(
      groups.map(({ name }, i) => [name, perThousand(pick(used[i] as (typeof used)[number])) / 1000]),
    );
  const ownUs = used.reduce((sum, usage) => sum + usage.cpuUs, 0);
  return {
    system: system.name,
    workload: workload.name,
    round: options.round,
    perSecond: units / options.seconds,
    p50Ms: histogram.getValueAtPercentile(50) / 1000,
    p99Ms: histogram.getValueAtPercentile(99) / 1000,
    units,
    cpuUs: perUnit((usage) => usage.cpuUs),
    mainThreadUs: perUnit((usage) => usage.mainUs),
    diskBytes: perThousand(used.slice(1).reduce((sum, usage) => sum + usage.writtenBytes, 0)),
    counters: Object.fromEntries(
      Object.entries(countersAfter).map(([name, value]) => [
        name,
        perThousand(value - (countersBefore[name] ?? 0)),
      ]),
    ),
    otherCores: Math.max(0, (busyUs - ownUs) / 1e6 / seconds),
  };
}
