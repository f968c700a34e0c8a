/**
 * How long an event takes from `append()` to a tail, over three processes of this
 * machine (or those at an endpoint), and what many tails cost.
 *
 *     node dist/bench/tail.js [seconds per case, default 5] [host:port,…]
 */
import { once, setMaxListeners } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'hdr-histogram-js';
import { clusterDown, clusterUp, endpointsOf } from '../cluster/launcher.js';
import { launcherHooks } from '../src/cli/commands/cluster.js';
import { type Client, connect, type TailOptions } from '../src/client/index.js';

const seconds = Number(process.argv[2] ?? 5);
const given = process.argv[3];

interface Case {
  readonly name: string;
  readonly channels: number;
  readonly tailsPerChannel: number;
  /** Appends under way at any time. */
  readonly writers: number;
  /** Between an append's answer and the writer's next one. */
  readonly pauseMs: number;
  readonly options?: TailOptions;
}

const cases: readonly Case[] = [
  { name: '1 tail, an append at a time', channels: 1, tailsPerChannel: 1, writers: 1, pauseMs: 5 },
  {
    name: '1 tail at a secondary',
    channels: 1,
    tailsPerChannel: 1,
    writers: 1,
    pauseMs: 5,
    options: { preference: 'secondary' },
  },
  { name: '100 tails of one channel', channels: 1, tailsPerChannel: 100, writers: 1, pauseMs: 20 },
  { name: '1,000 channels, 64 in flight', channels: 1_000, tailsPerChannel: 1, writers: 64, pauseMs: 0 },
];

async function main(): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'hansard-bench-tail-'));
  const clusterDir = join(dir, 'cluster');
  try {
    const endpoint =
      given ??
      endpointsOf(
        await clusterUp(
          { dir: clusterDir, nodes: 3, basePort: await freeBase(), timeoutMs: 60_000 },
          launcherHooks(() => {}),
        ),
      );
    for (const each of cases) await run(endpoint, each);
  } finally {
    if (given === undefined) await clusterDown(clusterDir, 10_000);
    rmSync(dir, { recursive: true, force: true });
  }
}

async function run(endpoint: string, bench: Case): Promise<void> {
  const [writer, reader] = [connect(endpoint), connect(endpoint)];
  const toTail = build({ lowestDiscernibleValue: 1, highestTrackableValue: 60_000_000 });
  const toAnswer = build({ lowestDiscernibleValue: 1, highestTrackableValue: 60_000_000 });
  const stop = new AbortController();
  setMaxListeners(0, stop.signal);
  const names = Array.from({ length: bench.channels }, (_, i) => `${bench.name}/${process.pid}/${i}`);
  const tails: Promise<void>[] = [];
  const ready: Promise<void>[] = [];
  for (const name of names)
    for (let i = 0; i < bench.tailsPerChannel; i++)
      ready.push(
        new Promise((resolve) =>
          tails.push(follow(reader, name, { ...bench.options, signal: stop.signal }, resolve, toTail)),
        ),
      );
  await Promise.all(ready);
  const endMs = performance.now() + seconds * 1000;
  let appends = 0;
  await Promise.all(
    Array.from({ length: bench.writers }, async (_, w) => {
      for (let i = w; performance.now() < endMs; i += bench.writers) {
        const startedMs = performance.now();
        await writer
          .channel(names[i % names.length] as string)
          .append({ text: String(startedMs).padEnd(200) });
        toAnswer.recordValue(Math.round((performance.now() - startedMs) * 1000));
        appends++;
        if (bench.pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, bench.pauseMs));
      }
    }),
  );
  await new Promise((resolve) => setTimeout(resolve, 500));
  stop.abort();
  await Promise.all(tails);
  const ms = (us: number): string => (us / 1000).toFixed(2).padStart(7);
  const line = (h: typeof toTail): string =>
    `p50 ${ms(h.getValueAtPercentile(50))} p99 ${ms(h.getValueAtPercentile(99))} ms`;
  const rate = `${Math.round(appends / seconds)} appends/s, ${Math.round(toTail.totalCount / seconds)} events/s`;
  console.log(
    `${bench.name.padEnd(30)} append to tail ${line(toTail)}; to answer ${line(toAnswer)}; ${rate}`,
  );
  await Promise.all([writer.close(), reader.close()]);
}

async function follow(
  client: Client,
  channel: string,
  options: TailOptions,
  onReady: () => void,
  histogram: ReturnType<typeof build>,
): Promise<void> {
  for await (const update of client
    .channel(channel)
    .tail({ ...options, timeoutMs: 30_000 })
    .updates()) {
    if (update.kind === 'caught-up') onReady();
    if (update.kind !== 'events') continue;
    for (const { message } of update.events) {
      const part = message?.parts?.[0];
      const startedMs = part?.type === 'text' ? Number(part.text) : Number.NaN;
      histogram.recordValue(Math.max(1, Math.round((performance.now() - startedMs) * 1000)));
    }
  }
}

/** A base whose nine ports are free now, below those that connections take. */
async function freeBase(): Promise<number> {
  for (;;) {
    const base = 12_000 + Math.floor(Math.random() * 18_000);
    const servers = await Promise.all(
      Array.from({ length: 9 }, (_, i) => {
        const server = createServer();
        server.listen(base + i, '127.0.0.1');
        return once(server, 'listening').then(
          () => server,
          () => undefined,
        );
      }),
    );
    for (const server of servers) server?.close();
    if (servers.every((server) => server !== undefined)) return base;
  }
}

await main();
