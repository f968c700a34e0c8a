/**
 * The store alone: applying appends of 64 messages over 1,000 channels with
 * checkpoints at 64 MiB of tail, then pages of 50, on real LevelDB.
 *
 *     node dist/bench/store.js [messages, default 400000] [folder, default a temporary one]
 */
import { createHash } from 'node:crypto';
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
import { levelKvFactory } from '../src/store/level-kv.js';
import { formatStore, openStore } from '../src/store/store.js';

const messages = Number(process.argv[2] ?? 400_000);
const folder = process.argv[3] ?? (await mkdtemp(join(tmpdir(), 'hansard-bench-')));
const perAppend = 64;
const channels = 1_000;
const partitions = 16;
const checkpointBytes = 32 * 1024 * 1024;
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

function report(what: string, count: number, unit: string, startedMs: number, cpu: NodeJS.CpuUsage): void {
  const ms = performance.now() - startedMs;
  const used = process.cpuUsage(cpu);
  const perUnit = (used.user + used.system) / count;
  const rate = Math.round((count / ms) * 1000).toLocaleString('en');
  process.stdout.write(`${what}: ${rate} ${unit}/s, ${perUnit.toFixed(1)} us CPU each (all threads)\n`);
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

// Entries are made before the clock runs: that is the leader's door's work.
const distinct = Math.min(messages, 128_000);
const entries: { partition: number; data: Buffer }[] = [];
for (let n = 0; n < distinct; n += perAppend) {
  const channel = (n / perAppend) % channels;
  const append = encodeAppend({
    tenant: 'default',
    channel: `room/${channel}`,
    events: Array.from({ length: perAppend }, (_, i) => made(n + i)),
  });
  entries.push({
    partition: channel % partitions,
    data: Buffer.from(encodeEntry([append], 1_700_000_000_000_000 + n, 1)),
  });
}

const delay = monitorEventLoopDelay({ resolution: 1 });
delay.enable();
let cpu = process.cpuUsage();
let started = performance.now();
let sealing: Promise<void> | undefined;
let applyMs = 0;
for (let n = 0; n < messages; n += perAppend) {
  const { partition, data } = entries[(n / perAppend) % entries.length] as (typeof entries)[number];
  const target = store.partition(partition);
  const before = performance.now();
  const index = target.appliedIndex + 1;
  target.beginEntry();
  applyEntry(target, { index, term: 1, data });
  target.endEntry(index, 1);
  applyMs += performance.now() - before;
  if (n % (perAppend * 16) === 0) await new Promise((resolve) => setImmediate(resolve));
  if (store.tailBytes > checkpointBytes) {
    if (sealing === undefined) {
      sealing = store.checkpoint(Array.from({ length: partitions }, (_, p) => p)).then(() => {
        sealing = undefined;
      });
    } else if (store.tailBytes > store.tailLimitBytes) await sealing;
  }
}
await sealing;
await store.checkpoint(Array.from({ length: partitions }, (_, p) => p));
report('apply and checkpoint', messages, 'messages', started, cpu);
process.stdout.write(`of it applying alone: ${((applyMs * 1000) / messages).toFixed(2)} us a message\n`);
process.stdout.write(
  `loop delay beside checkpoints: p99 ${(delay.percentile(99) / 1e6).toFixed(1)} ms, max ${(delay.max / 1e6).toFixed(1)} ms\n`,
);
const stats = store.stats();
process.stdout.write(
  `checkpoints ${stats.checkpoints}, ${(stats.checkpointBytes / messages).toFixed(0)} bytes a message, ${stats.syncReads} blocking reads\n`,
);
await store.close();

started = performance.now();
store = await openStore({
  kv: await levelKvFactory().open(kvPath, { create: false }),
  ...ids,
  clock,
  logger: silentLogger,
});
process.stdout.write(`opened in ${(performance.now() - started).toFixed(0)} ms\n`);

for (const [what, hot] of [
  ['latest pages of 50, any channel', false],
  ['latest pages of 50, ten channels', true],
] as const) {
  const pages = 5_000;
  cpu = process.cpuUsage();
  started = performance.now();
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
  report(what, pages, 'pages', started, cpu);
}
await store.close();
if (process.argv[3] === undefined) await rm(folder, { recursive: true, force: true });
