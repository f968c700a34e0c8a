/**
 * The store alone, on real LevelDB: applying appends over 1,000 channels in 64 partitions with
 * the node's checkpoints, then pages of 50. CPU of the main thread and of all threads.
 *
 *     node dist/bench/store.js [single | batch] [messages] [channels] [checkpoint MiB]
 *
 * single: appends of one message, entries of four; batch: an append of 64 to an entry.
 */
import { createHash } from 'node:crypto';
import { existsSync, openSync, readSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { Clock } from '../src/common/env.js';
import { xxh64 } from '../src/common/hash.js';
import { silentLogger } from '../src/common/logger.js';
import { applyEntry } from '../src/conversation/apply.js';
import { encodeAppend, encodeEntry } from '../src/conversation/command.js';
import { EventType } from '../src/conversation/types.js';
import { nodeDefaults } from '../src/node/options.js';
import { levelKvFactory } from '../src/store/level-kv.js';
import { formatStore, openStore } from '../src/store/store.js';

const shape = process.argv[2] ?? 'single';
if (shape !== 'single' && shape !== 'batch') throw new Error(`a shape single or batch, not ${shape}`);
const messages = Number(process.argv[3] ?? 400_000);
const channels = Number(process.argv[4] ?? 1_000);
const checkpointBytes = Number(process.argv[5] ?? nodeDefaults.checkpointBytes / 1024 / 1024) * 1024 * 1024;
const folder = await mkdtemp(join(tmpdir(), 'hansard-bench-'));
const perAppend = shape === 'batch' ? 64 : 1;
const appendsPerEntry = shape === 'batch' ? 1 : 4;
const perEntry = perAppend * appendsPerEntry;
const partitions = 64;
const words =
  'the store keeps what people say to each other and to machines in order for good and reads it back'.split(
    ' ',
  );

const clock: Clock = {
  nowUs: () => Date.now() * 1000,
  monotonicMs: () => performance.now(),
  after: (ms, fn) => {
    const timer = setTimeout(fn, ms).unref();
    return { cancel: () => clearTimeout(timer) };
  },
  defer: (fn) => void setImmediate(fn),
};

/** About 200 bytes of text that compresses like text. */
function content(n: number): Buffer {
  let text = `${n} `;
  for (let i = 0; text.length < 190; i++)
    text += `${words[(n * 31 + i * i * 7 + (n >> 3) * i) % words.length]} `;
  return Buffer.from(text);
}

function made(n: number) {
  const bytes = content(n);
  const salt = createHash('md5').update(String(n)).digest();
  return {
    type: EventType.messageCompleted,
    content: bytes,
    contentXxh64: xxh64(bytes),
    salt,
    commitment: createHash('sha256').update(salt).update(bytes).digest(),
  };
}

/** CPU of this thread alone, us; process.cpuUsage() has those of the pool, LevelDB and the collector as well. */
function mainUs(): number {
  if (schedstat === undefined) return Number.NaN;
  const length = readSync(schedstat, statBytes, 0, statBytes.length, 0);
  return Number.parseInt(statBytes.toString('latin1', 0, length), 10) / 1000;
}
const statBytes = Buffer.alloc(100);
const statPath = `/proc/self/task/${process.pid}/schedstat`;
/** Linux alone has it. */
const schedstat = existsSync(statPath) ? openSync(statPath, 'r') : undefined;

interface Start {
  readonly ms: number;
  readonly cpu: NodeJS.CpuUsage;
  readonly main: number;
}

function begin(): Start {
  return { ms: performance.now(), cpu: process.cpuUsage(), main: mainUs() };
}

function report(what: string, count: number, unit: string, start: Start): void {
  const ms = performance.now() - start.ms;
  const used = process.cpuUsage(start.cpu);
  const main = ((mainUs() - start.main) / count).toFixed(2);
  const all = ((used.user + used.system) / count).toFixed(2);
  const rate = Math.round((count / ms) * 1000).toLocaleString('en');
  process.stdout.write(`${what}: ${rate} ${unit}/s, ${main} us CPU each on the main thread, ${all} on all\n`);
}

const kvPath = join(folder, 'db');
const ids = { clusterId: 'bench', storeId: 'bench' };
const confState = { voters: [1], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
const fresh = await levelKvFactory().open(kvPath, { create: true });
await formatStore({
  kv: fresh,
  ...ids,
  partitions: Array.from({ length: partitions }, (_, partition) => ({ partition, confState })),
});
let store = await openStore({ kv: fresh, ...ids, clock, logger: silentLogger });

// Entries are made before the clock runs: that is the leader's door's work. Copied when used, as they
// come from the network: what the tail keeps alive is not this list.
const distinct = Math.min(messages, 128_000);
const entries: { partition: number; data: Buffer }[] = [];
for (let n = 0; n < distinct; n += perEntry) {
  const first = n / perEntry;
  const partition = first % partitions;
  const channelsOfPartition = Math.ceil((channels - partition) / partitions);
  const appends = Array.from({ length: appendsPerEntry }, (_, a) =>
    encodeAppend({
      tenant: 'default',
      channel: `room/${partition + partitions * ((Math.floor(first / partitions) * appendsPerEntry + a) % channelsOfPartition)}`,
      events: Array.from({ length: perAppend }, (_, i) => made(n + a * perAppend + i)),
    }),
  );
  entries.push({ partition, data: Buffer.from(encodeEntry(appends, 1_700_000_000_000_000 + n, 1)) });
}
globalThis.gc?.();

const delay = monitorEventLoopDelay({ resolution: 1 });
delay.enable();
let start = begin();
let sealing: Promise<void> | undefined;
let applyUs = 0;
const everyPartition = Array.from({ length: partitions }, (_, p) => p);
for (let turn = 0; turn * perEntry < messages; ) {
  // A turn of the node's loop applies some 64 messages.
  const before = mainUs();
  for (const end = turn + Math.max(1, 64 / perEntry); turn < end; turn++) {
    const { partition, data } = entries[turn % entries.length] as (typeof entries)[number];
    const target = store.partition(partition);
    const index = target.appliedIndex + 1;
    target.beginEntry();
    applyEntry(target, { index, term: 1, data: Buffer.copyBytesFrom(data) });
    target.endEntry(index, 1);
  }
  applyUs += mainUs() - before;
  await new Promise((resolve) => setImmediate(resolve));
  if (store.tailBytes > checkpointBytes) {
    if (sealing === undefined) {
      sealing = store.checkpoint(everyPartition).then(() => {
        sealing = undefined;
      });
    } else if (store.tailBytes > store.tailLimitBytes) await sealing;
  }
}
await sealing;
await store.checkpoint(everyPartition);
report(`${shape}: apply and checkpoint`, messages, 'messages', start);
process.stdout.write(`of it applying alone: ${(applyUs / messages).toFixed(2)} us a message\n`);
process.stdout.write(
  `loop delay beside checkpoints: p99 ${(delay.percentile(99) / 1e6).toFixed(1)} ms, max ${(delay.max / 1e6).toFixed(1)} ms\n`,
);
const stats = store.stats();
process.stdout.write(
  `checkpoints ${stats.checkpoints}, ${(stats.checkpointBytes / messages).toFixed(0)} bytes a message, ${stats.syncReads} blocking reads\n`,
);
await store.close();

const opening = performance.now();
store = await openStore({
  kv: await levelKvFactory().open(kvPath, { create: false }),
  ...ids,
  clock,
  logger: silentLogger,
});
process.stdout.write(`opened in ${(performance.now() - opening).toFixed(0)} ms\n`);

for (const [what, hot, recent] of [
  ['latest pages of 50, any channel', false, 0],
  ['latest pages of 50, ten channels', true, 0],
  ['latest pages of 50, ten channels, half of it in the tail', true, 25],
] as const) {
  for (let name = 0; recent > 0 && name < 10; name++) {
    const target = store.partition(name % partitions);
    const index = target.appliedIndex + 1;
    const events = Array.from({ length: recent }, (_, i) => made(i));
    const append = encodeAppend({ tenant: 'default', channel: `room/${name}`, events });
    target.beginEntry();
    applyEntry(target, {
      index,
      term: target.appliedTerm,
      data: Buffer.from(encodeEntry([append], 1_800_000_000_000_000, 1)),
    });
    target.endEntry(index, target.appliedTerm);
  }
  const pages = 10_000;
  start = begin();
  const readers = Array.from({ length: 8 }, async (_, reader) => {
    for (let i = reader; i < pages; i += 8) {
      const name = (i * 7919) % (hot ? 10 : channels);
      const partition = store.partition(name % partitions);
      const channel = await partition.channelByName('default', `room/${name}`);
      if (channel === undefined) throw new Error(`room/${name} is missing`);
      const page = await partition.events(channel, {
        fromSeq: 1,
        toSeq: channel.headSeq,
        reverse: true,
        maxEvents: 50,
        maxBytes: 1e6,
      });
      if (page.length !== 50) throw new Error(`a page of ${page.length}`);
    }
  });
  await Promise.all(readers);
  report(what, pages, 'pages', start);
}
await store.close();
await rm(folder, { recursive: true, force: true });
