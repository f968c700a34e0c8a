/**
 * `npm run bench -- smoke`: what an append and a page cost in things that can be
 * counted, whatever else the machine does: syncs, gRPC messages, bytes on wire and
 * disk, bytes allocated. Each has a band; leaving it means that a path has changed,
 * for worse (mend it) or for better (narrow the band).
 */
import type { Channel } from '../../src/client/index.js';
import { allocatedDuring } from './allocations.js';
import { type OwnCluster, ownCluster } from './own-cluster.js';
import { chatTexts } from './payload.js';

export interface Count {
  readonly load: string;
  readonly what: string;
  readonly value: number;
  readonly from: number;
  readonly to: number;
  /** Why the band is where it is. */
  readonly why: string;
}

export const isWithin = ({ value, from, to }: Count): boolean => value >= from && value <= to;

const partitions = 64;
const channelCount = 1_000;
const messageBytes = 200;
/** Heartbeats are a matter of time, not of load: counted while nothing else goes on, and subtracted. */
const idleMs = 1_500;
/** For replicas that lag, on a machine however busy. */
const patienceMs = 60_000;
const alone = 200;
const together = { calls: 8_000, inFlight: 256 } as const;
const batches = { calls: 256, inFlight: 64, messages: 64 } as const;
const pages = { calls: 1_500, inFlight: 64 } as const;

/** What three nodes and their clients have done so far, all together. */
interface Totals {
  readonly syncs: number;
  readonly logBytes: number;
  readonly frames: number;
  readonly wireBytes: number;
  readonly exchange: number;
  readonly sealedBytes: number;
}

function totalsOf({ doors }: OwnCluster): Totals {
  let [syncs, logBytes, frames, wireBytes, exchange, sealedBytes] = [0, 0, 0, 0, 0, 0];
  for (const { running, api } of doors) {
    const wal = running.wal.stats();
    syncs += wal.syncs;
    logBytes += wal.bytesWritten;
    sealedBytes += running.store.stats().checkpointBytes;
    exchange += api.exchangeMessages;
    for (const peer of running.transport.peers()) {
      frames += peer.sentFrames;
      wireBytes += peer.sentBytes;
    }
  }
  return { syncs, logBytes, frames, wireBytes, exchange, sealedBytes };
}

interface Spent extends Totals {
  readonly allocated: number;
}

/** Per ms. */
type Idle = Partial<Pick<Totals, 'frames' | 'wireBytes'>>;

async function idleOf(cluster: OwnCluster): Promise<Idle> {
  await allHaveAll(cluster);
  const before = totalsOf(cluster);
  const startMs = performance.now();
  await new Promise((done) => setTimeout(done, idleMs));
  const elapsedMs = performance.now() - startMs;
  const after = totalsOf(cluster);
  return {
    frames: (after.frames - before.frames) / elapsedMs,
    wireBytes: (after.wireBytes - before.wireBytes) / elapsedMs,
  };
}

/** A majority is enough for an answer: what a third replica gets later, on a busy machine, would count for the next load. */
async function allHaveAll({ doors }: OwnCluster): Promise<void> {
  const ends = (): string[] =>
    doors.map(({ running }) =>
      running.node
        .replicas()
        .map(({ partition, lastIndex }) => `${partition}:${lastIndex}`)
        .sort()
        .join(),
    );
  for (const endMs = performance.now() + patienceMs; new Set(ends()).size > 1; ) {
    if (performance.now() > endMs) throw new Error(`replicas differ: ${ends().join(' | ')}`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

/** Of each of `units`, without what goes on in an idle cluster. */
async function spentBy(
  cluster: OwnCluster,
  idle: Idle,
  units: number,
  work: () => Promise<void>,
): Promise<Spent> {
  await allHaveAll(cluster);
  const before = totalsOf(cluster);
  const startMs = performance.now();
  const allocated = await allocatedDuring(work);
  await allHaveAll(cluster);
  const elapsedMs = performance.now() - startMs;
  const after = totalsOf(cluster);
  const each = (key: keyof Totals): number =>
    (after[key] - before[key] - (idle[key as keyof Idle] ?? 0) * elapsedMs) / units;
  return {
    syncs: each('syncs'),
    logBytes: each('logBytes'),
    frames: each('frames'),
    wireBytes: each('wireBytes'),
    exchange: each('exchange'),
    sealedBytes: each('sealedBytes'),
    allocated: allocated / units,
  };
}

async function drive(calls: number, inFlight: number, call: (n: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < calls) await call(next++);
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
}

export async function smoke(say: (text: string) => void): Promise<Count[]> {
  const cluster = await ownCluster(partitions);
  try {
    const channels = Array.from({ length: channelCount }, (_, i) => cluster.client.channel(`smoke/${i}`));
    const channel = (n: number): Channel => channels[(n * 7919) % channelCount] as Channel;
    const texts = chatTexts(4_096, messageBytes);
    const message = (n: number) => ({ role: 'user' as const, text: texts[n % texts.length] as string });
    const append = (n: number): Promise<unknown> => channel(n).append(message(n));
    const batch = (n: number): Promise<unknown> =>
      channel(n).append(
        Array.from({ length: batches.messages }, (_, i) => message(n * batches.messages + i)),
      );
    const page = (n: number): Promise<unknown> => channel(n).list({ before: 50 }).page();

    say('first appends to every channel');
    await drive(channelCount, together.inFlight, batch);
    const idle = await idleOf(cluster);
    say(`${alone} appends, one after the other`);
    const one = await spentBy(cluster, idle, alone, () => drive(alone, 1, append));
    say(`${together.calls} appends, ${together.inFlight} in flight`);
    const many = await spentBy(cluster, idle, together.calls, () =>
      drive(together.calls, together.inFlight, append),
    );
    say(`${batches.calls} batches of ${batches.messages}`);
    const packed = await spentBy(cluster, idle, batches.calls * batches.messages, () =>
      drive(batches.calls, batches.inFlight, batch),
    );
    say(`${pages.calls} pages of 50`);
    const read = await spentBy(cluster, idle, pages.calls, () => drive(pages.calls, pages.inFlight, page));
    return counts(one, many, packed, read);
  } finally {
    await cluster.close();
  }
}

function counts(one: Spent, many: Spent, packed: Spent, read: Spent): Count[] {
  const found: Count[] = [];
  const count = (load: string, what: string, value: number, from: number, to: number, why: string): void => {
    found.push({ load, what, value, from, to, why });
  };
  const per1000 = (value: number): number => value * 1_000;
  const syncs = 'syncs of the log per 1,000';
  const frames = 'messages between nodes per 1,000';
  const exchange = 'messages of Exchange per 1,000';
  const wire = 'bytes between nodes each';
  const log = 'bytes to the log each';
  const allocated = 'bytes allocated each';
  count('alone', syncs, per1000(one.syncs), 2_900, 3_500, 'one on each node, a closing batch now and then');
  count(
    'alone',
    frames,
    per1000(one.frames),
    3_500,
    14_000,
    '4; up to 4 more where the next comes too late, and heartbeats where an append takes many ms',
  );
  count('alone', exchange, per1000(one.exchange), 1_950, 2_150, 'a question and an answer');
  count(
    'together',
    syncs,
    per1000(many.syncs),
    10,
    250,
    'three nodes, 256 in a round at most; what comes during a sync shares the next',
  );
  count(
    'together',
    frames,
    per1000(many.frames),
    12,
    450,
    'a round to two followers and back; a turn sends one to each peer',
  );
  count(
    'together',
    exchange,
    per1000(many.exchange),
    7,
    350,
    'there and back, 256 at most: calls in flight together share them',
  );
  count(
    'together',
    wire,
    many.wireBytes,
    500,
    950,
    'the message to two followers, its share of what is around it: nearly none where a turn takes many',
  );
  count(
    'together',
    log,
    many.logBytes,
    800,
    1_800,
    'the message three times, batches in whole pages of 4 KiB',
  );
  count('together', allocated, many.allocated, 8_000, 38_000, 'client and three nodes');
  count('batches', wire, packed.wireBytes, 500, 640, 'the message to two followers, a fortieth of it around');
  count('batches', log, packed.logBytes, 750, 1_050, 'the message three times');
  count('batches', allocated, packed.allocated, 1_800, 5_500, 'client and three nodes');
  count('pages', exchange, per1000(read.exchange), 30, 700, 'pages in flight together share them');
  count(
    'pages',
    allocated,
    read.allocated,
    90_000,
    200_000,
    '50 messages as objects in the client, once as bytes in a node',
  );
  return found;
}

export function smokeTable(counts: readonly Count[]): string {
  const rows = counts.map((count) => {
    const { load, what, value, from, to, why } = count;
    const verdict = isWithin(count) ? 'ok' : 'OUT ';
    return `${verdict.padEnd(4)} ${load.padEnd(9)} ${what.padEnd(34)} ${value.toFixed(1).padStart(9)}  ${from} to ${to}: ${why}`;
  });
  const out = counts.filter((count) => !isWithin(count)).length;
  return [
    ...rows,
    out === 0 ? 'all in their bands' : `${out} of ${counts.length} are out of their bands`,
  ].join('\n');
}
