/** What is measured, by name: `single-64`, `frames-64x32`, `open-2000` and so on. */
import { closedLoop, openLoop, type Running } from './drive.js';
import { channelCount, type Load, makeLoad, pageEvents, payloadBytes } from './load.js';
import { randomOf } from './payload.js';
import type { System } from './system.js';
import { tailLoop } from './tailing.js';

export interface Workload {
  readonly name: string;
  readonly title: string;
  /** What one unit is. */
  readonly unit: 'messages' | 'pages' | 'calls' | 'deliveries';
  /** What tells a better system: more units per second, or less latency at this percentile. */
  readonly better: 'rate' | 50 | 99;
  /** Calls in flight where their number is what the workload fixes. */
  readonly inFlight?: number;
  /** Begins the load; undefined: the system has no such call. */
  begin(system: System, seed: number): Promise<Running> | undefined;
}

type Call = () => Promise<unknown>;

function closed(
  workload: Omit<Workload, 'begin' | 'better' | 'inFlight'> & {
    readonly inFlight: number;
    readonly perCall?: number;
    readonly callOf: (system: System, seed: number) => Call | undefined;
  },
): Workload {
  const { callOf, perCall = 1, ...about } = workload;
  return {
    ...about,
    better: 'rate',
    begin(system, seed) {
      const call = callOf(system, seed);
      return call && Promise.resolve(closedLoop(call, about.inFlight, perCall));
    },
  };
}

/** Calls of a system that a workload mixes; undefined where it has none. */
const appendOf = (system: System, load: Load): Call => {
  return () => system.append(load.next());
};
const frameOf = (system: System, load: Load, size: number): Call | undefined => {
  if (system.appendFrame === undefined) return undefined;
  return () => system.appendFrame?.(Array.from({ length: size }, () => load.next())) as Promise<unknown>;
};
const batchOf = (system: System, load: Load, size: number): Call | undefined => {
  if (system.appendBatch === undefined) return undefined;
  return () => {
    const { channel } = load.next();
    const texts = Array.from({ length: size }, () => load.next().text);
    return system.appendBatch?.(channel, texts) as Promise<unknown>;
  };
};
const pageOf = (system: System, load: Load): Call | undefined => {
  if (system.page === undefined) return undefined;
  return async () => {
    const count = await system.page?.(load.next().channel);
    if (count !== pageEvents) throw new Error(`${system.name}: a page of ${count} messages`);
  };
};

const single = (inFlight: number): Workload =>
  closed({
    name: `single-${inFlight}`,
    title: `single appends, ${inFlight} in flight`,
    unit: 'messages',
    inFlight,
    callOf: (system, seed) => appendOf(system, makeLoad(seed)),
  });

const unary = (inFlight: number): Workload =>
  closed({
    name: `unary-${inFlight}`,
    title: `single appends as unary gRPC calls of a plain client to each node in turn, ${inFlight} in flight`,
    unit: 'messages',
    inFlight,
    callOf: (system, seed) => {
      const load = makeLoad(seed);
      return system.appendPlain && (() => system.appendPlain?.(load.next()) as Promise<unknown>);
    },
  });

const frames = (inFlight: number, perFrame: number): Workload =>
  closed({
    name: `frames-${inFlight}x${perFrame}`,
    title: `frames: ${inFlight} in flight of ${perFrame} messages, any channels`,
    unit: 'messages',
    inFlight,
    perCall: perFrame,
    callOf: (system, seed) => frameOf(system, makeLoad(seed), perFrame),
  });

const batches = (inFlight: number, perBatch: number): Workload =>
  closed({
    name: `batches-${inFlight}x${perBatch}`,
    title: `batches: ${inFlight} in flight of ${perBatch} messages, one channel each`,
    unit: 'messages',
    inFlight,
    perCall: perBatch,
    callOf: (system, seed) => batchOf(system, makeLoad(seed), perBatch),
  });

const pages = (inFlight: number): Workload =>
  closed({
    name: `pages-${inFlight}`,
    title: `latest pages of ${pageEvents}, ${inFlight} in flight`,
    unit: 'pages',
    inFlight,
    callOf: (system, seed) => pageOf(system, makeLoad(seed)),
  });

/** Of a mix of reads and appends. */
const readShare = 0.8;

const mixed = (inFlight: number): Workload =>
  closed({
    name: `mixed-${inFlight}`,
    title: `mixed: ${readShare * 100} % latest pages, else single appends, ${inFlight} in flight`,
    unit: 'calls',
    inFlight,
    callOf: (system, seed) => {
      const load = makeLoad(seed);
      const random = randomOf(seed + 1000);
      const [append, page] = [appendOf(system, load), pageOf(system, load)];
      return page && (() => (random() < readShare ? page() : append()));
    },
  });

/** Where workloads with channels of their own have them. */
const hotChannel = 2_000;
const zipfChannels = 10_000;
const largeChannels = 200_000;

const hot = (inFlight: number): Workload =>
  closed({
    name: `hot-${inFlight}`,
    title: `one hot channel: single appends, ${inFlight} in flight`,
    unit: 'messages',
    inFlight,
    callOf: (system, seed) => appendOf(system, makeLoad(seed, { firstChannel: hotChannel, channels: 1 })),
  });

export const wideChannels = { first: 300_000, count: 100_000 } as const;

const wide = (inFlight: number): Workload =>
  closed({
    name: `wide-${inFlight}`,
    title: `single appends over ${wideChannels.count.toLocaleString('en')} channels, all alike, ${inFlight} in flight`,
    unit: 'messages',
    inFlight,
    callOf: (system, seed) =>
      appendOf(system, makeLoad(seed, { firstChannel: wideChannels.first, channels: wideChannels.count })),
  });

const zipfCount = 100_000;

const zipf = (inFlight: number): Workload =>
  closed({
    name: `zipf-${inFlight}`,
    title: `single appends over ${zipfCount.toLocaleString('en')} channels, the k-th as often as 1/k says, ${inFlight} in flight`,
    unit: 'messages',
    inFlight,
    callOf: (system, seed) =>
      appendOf(system, makeLoad(seed, { firstChannel: zipfChannels, channels: zipfCount, zipf: true })),
  });

const largeBytes = 64 * 1024;

const large = (inFlight: number): Workload =>
  closed({
    name: `large-${inFlight}`,
    title: `single appends of 64 KiB, ${inFlight} in flight`,
    unit: 'messages',
    inFlight,
    callOf: (system, seed) =>
      appendOf(system, makeLoad(seed, { firstChannel: largeChannels, bytes: largeBytes })),
  });

const tail = (readers: number): Workload => ({
  name: `tail-${readers}`,
  title: `from append to ${readers === 1 ? 'a tail' : `${readers} tails`} of the same channel, an append at a time`,
  unit: 'deliveries',
  better: 50,
  begin: (system) => tailLoop(system, readers),
});

const open = (perSecond: number): Workload => ({
  name: `open-${perSecond}`,
  title: `open loop: ${perSecond.toLocaleString('en')} single appends/s, latency from when each was due`,
  unit: 'messages',
  better: 99,
  begin: (system, seed) => Promise.resolve(openLoop(appendOf(system, makeLoad(seed)), perSecond)),
});

/** Measured unless others are asked for. */
export const standard: readonly Workload[] = [
  single(1),
  single(64),
  single(256),
  frames(64, 32),
  frames(128, 64),
  batches(64, 64),
  pages(64),
  tail(1),
  tail(100),
];

export const further: readonly Workload[] = [
  unary(256),
  mixed(64),
  hot(256),
  zipf(256),
  wide(256),
  large(16),
  open(500),
];

const families: Readonly<Record<string, (a: number, b: number) => Workload>> = {
  single,
  unary,
  frames,
  batches,
  pages,
  mixed,
  hot,
  zipf,
  wide,
  large,
  tail,
  open,
};

/** `standard`, `further`, beginnings of their names, or any name with other numbers in it. */
export function workloadsOf(wanted: readonly string[]): Workload[] {
  const found = new Map<string, Workload>();
  for (const name of wanted) {
    const made = name === 'standard' ? standard : name === 'further' ? further : named(name);
    if (made.length === 0) throw new Error(`no workload ${name}; there are ${names().join(', ')}`);
    for (const each of made) found.set(each.name, each);
  }
  return [...found.values()];
}

function named(name: string): readonly Workload[] {
  const known = [...standard, ...further];
  const exact = known.find((each) => each.name === name);
  if (exact !== undefined) return [exact];
  const [, family = '', first = '', second] = /^([a-z]+)-(\d+)(?:x(\d+))?$/.exec(name) ?? [];
  const make = families[family];
  if (make !== undefined) {
    const takesTwo = family === 'frames' || family === 'batches';
    const numbers = [Number(first), Number(second ?? 1)] as const;
    if (takesTwo === (second !== undefined) && numbers.every((n) => n >= 1)) return [make(...numbers)];
  }
  return name === '' ? [] : known.filter((each) => each.name.startsWith(name));
}

export function names(): string[] {
  return [...standard, ...further].map(({ name }) => name);
}

/** Every call that a system has, in turn: what warms up all of its code, and its client's. */
export function mixedLoad(system: System): Running {
  const load = makeLoad(7);
  const append = appendOf(system, load);
  const [frame, batch, page] = [frameOf(system, load, 32), batchOf(system, load, 64), pageOf(system, load)];
  // Mostly singles: they run the most code per message.
  const calls = [append, append, append, page, append, append, append, frame, append, page, append, batch];
  const available = calls.filter((call) => call !== undefined);
  let turn = 0;
  return closedLoop(() => (available[turn++ % available.length] as Call)(), warmUpInFlight, 1);
}

const warmUpInFlight = 64;

export const payload = `${payloadBytes} bytes of chat-like text over ${channelCount} channels`;
