/**
 * How fast a client uploads over distance: a bare gRPC stream, and the SDK into
 * nodes as processes, both behind a proxy that delays every byte.
 *
 *     node dist/bench/upload.js [--rtt-ms 0,10,50] [--window 64KiB,2MiB] [--what bare,nodes] [--message 1KiB,64KiB] [--seconds 3] [--json]
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import { Command } from 'commander';
import { connect, type Client as Sdk } from '../src/client/index.js';
import { formatBytes, parseSetting } from '../src/node/setting-values.js';
import { settingsTable } from '../src/node/settings-table.js';
import { DistantCluster } from './harness/distant-cluster.js';
import { untilSignal } from './harness/leftovers.js';
import { usageOf } from './harness/measure.js';
import { number, numbers } from './harness/options.js';
import { chatTexts } from './harness/payload.js';
import { startProxyThread } from './harness/proxy-thread.js';
import { sinkPath } from './harness/upload-sink.js';

interface Result {
  readonly what: 'bare' | 'nodes';
  readonly rttMs: number;
  readonly windowBytes: number;
  readonly messageBytes: number;
  readonly bytesPerSecond: number;
  /** A small message there and back, while nothing else is sent; median. */
  readonly measuredRttMs: number;
  /** Of all processes that take part, per MB. */
  readonly cpuMsPerMB: number;
}

/** Messages of the bare stream; its own bound of what is on its way, above any window. */
const bareMessageBytes = 256 * 1024;
const bareInFlightBytes = 64 * 1024 * 1024;
/** As `hansard import` sends them. */
const batchBytes = 256 * 1024;
const batchMessages = 100;
const channelCount = 256;
const warmupMs = 1_000;
const KiB = 1024;

async function bare(rttMs: number, windowBytes: number, seconds: number): Promise<Result> {
  const sink = fork(new URL('./harness/upload-sink.js', import.meta.url), [String(windowBytes)]);
  const [port] = (await once(sink, 'message')) as [number];
  const proxy = await startProxyThread([{ to: `127.0.0.1:${port}`, oneWayMs: rttMs / 2 }]);
  const client = new Client(proxy.addresses[0] as string, credentials.createInsecure(), {
    'grpc.max_send_message_length': 64 * 1024 * 1024,
  });
  try {
    return {
      what: 'bare',
      rttMs,
      windowBytes,
      messageBytes: bareMessageBytes,
      ...(await flood(client, sink.pid ?? 0, seconds)),
    };
  } finally {
    client.close();
    await proxy.close();
    await ended(sink);
  }
}

interface Measured {
  readonly bytesPerSecond: number;
  readonly measuredRttMs: number;
  readonly cpuMsPerMB: number;
}

async function flood(client: Client, sinkPid: number, seconds: number): Promise<Measured> {
  const same = (bytes: Buffer): Buffer => bytes;
  const stream = client.makeBidiStreamRequest<Buffer, Buffer>(sinkPath, same, same, new Metadata());
  const message = Buffer.from((chatTexts(1, bareMessageBytes)[0] as string).padEnd(bareMessageBytes));
  const rtts: number[] = [];
  for (let i = 0; i < 6; i++) {
    const startedMs = performance.now();
    stream.write(Buffer.alloc(1));
    await once(stream, 'data');
    // The first one waits for the connection.
    if (i > 0) rtts.push(performance.now() - startedMs);
  }
  let sent = 0;
  let arrived = 0;
  let stopped = false;
  const send = (): void => {
    while (!stopped && sent - arrived < bareInFlightBytes) {
      sent += message.length;
      if (!stream.write(message)) return;
    }
  };
  stream.on('drain', send);
  stream.on('data', (answer: Buffer) => {
    arrived += answer.readUInt32LE();
    send();
  });
  stream.on('error', () => {});
  send();
  await sleep(warmupMs);
  const cpuUs = (): number => usageOf({ name: '', pid: sinkPid }).cpuUs + ownCpuUs();
  const before = { arrived, cpu: cpuUs() };
  const startedMs = performance.now();
  await sleep(seconds * 1000);
  const bytes = arrived - before.arrived;
  const bytesPerSecond = bytes / ((performance.now() - startedMs) / 1000);
  const cpuMsPerMB = (cpuUs() - before.cpu) / 1000 / (bytes / 1e6);
  stopped = true;
  stream.cancel();
  return { bytesPerSecond, measuredRttMs: medianOf(rtts), cpuMsPerMB };
}

async function intoNodes(
  rttMs: number,
  windowBytes: number,
  sizes: readonly number[],
  seconds: number,
  nodes: number,
  settings: readonly string[],
): Promise<Result[]> {
  const cluster = new DistantCluster();
  const results: Result[] = [];
  try {
    await cluster.start(rttMs, nodes, [`client_window = "${formatBytes(windowBytes)}"`, ...settings]);
    const client = connect(`hansard://${cluster.endpoints}`, { timeoutMs: 60_000 });
    for (const messageBytes of sizes) {
      const measured = await upload(client, cluster, messageBytes, seconds);
      results.push({ what: 'nodes', rttMs, windowBytes, messageBytes, ...measured });
    }
    await client.close();
  } finally {
    await cluster.stop();
  }
  return results;
}

/** As an importer does: large appends to many channels, as many under way as the client lets be. */
async function upload(
  client: Sdk,
  cluster: DistantCluster,
  messageBytes: number,
  seconds: number,
): Promise<Measured> {
  const perAppend = Math.max(1, Math.min(batchMessages, Math.floor(batchBytes / messageBytes)));
  const texts = chatTexts(64, messageBytes, messageBytes);
  const channels = Array.from({ length: channelCount }, (_, i) =>
    client.channel(`upload-${messageBytes}/${i}`),
  );
  const rtts: number[] = [];
  for (let i = 0; i < 7; i++) {
    const startedMs = performance.now();
    await client.cluster();
    if (i > 1) rtts.push(performance.now() - startedMs);
  }
  let next = 0;
  let stored = 0;
  let stopped = false;
  const worker = async (): Promise<void> => {
    while (!stopped) {
      const n = next++;
      const messages = Array.from({ length: perAppend }, (_, i) => ({
        role: 'user' as const,
        author: 'ann',
        text: texts[(n * perAppend + i) % texts.length] as string,
      }));
      await (channels[(n * 7919) % channelCount] as (typeof channels)[number]).append(messages);
      stored += perAppend * messageBytes;
    }
  };
  // More than the client lets be in flight: its own bounds are what is measured.
  const workers = Array.from({ length: Math.ceil((40 * KiB * KiB) / (perAppend * messageBytes)) }, worker);
  const cpuUs = (): number => cluster.cpuUs() + ownCpuUs();
  // One that fails ends the measurement, not the process.
  const all = Promise.all(workers);
  await Promise.race([sleep(warmupMs), all]);
  const before = { stored, cpu: cpuUs() };
  const startedMs = performance.now();
  await Promise.race([sleep(seconds * 1000), all]);
  const bytes = stored - before.stored;
  const bytesPerSecond = bytes / ((performance.now() - startedMs) / 1000);
  const cpuMsPerMB = (cpuUs() - before.cpu) / 1000 / (bytes / 1e6);
  stopped = true;
  await all;
  return { bytesPerSecond, measuredRttMs: medianOf(rtts), cpuMsPerMB };
}

/** The client's and the proxies'. */
function ownCpuUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

function medianOf(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[numbers.length >> 1] ?? Number.NaN;
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function ended(child: ChildProcess): Promise<void> {
  const exit = once(child, 'exit');
  child.disconnect();
  await exit;
}

function bytesOf(text: string): number {
  const parsed = parseSetting({ ...settingsTable.clientWindow, min: 1, max: 1e9 } as never, text);
  if ('problem' in parsed) throw new Error(`${text}: a size such as 64KiB`);
  return Number(parsed.value);
}

interface Options {
  readonly rttMs: readonly number[];
  readonly window: string;
  readonly what: string;
  readonly message: string;
  readonly seconds: number;
  readonly nodes: number;
  readonly setting: readonly string[];
  readonly json?: boolean;
}

const list = (text: string): string[] => text.split(',').map((each) => each.trim());

await new Command('upload')
  .description('How fast a client uploads over distance: a bare gRPC stream, and the SDK into nodes.')
  .option('--rtt-ms <list>', 'round trips that the proxy makes', numbers(0), [0, 10, 50])
  .option('--window <list>', "the server's receive window (setting client_window)", '64KiB,2MiB')
  .option('--what <list>', 'bare, nodes', 'bare,nodes')
  .option('--message <list>', 'nodes: sizes of messages', '1KiB,64KiB')
  .option('--nodes <n>', 'nodes: how many', number(1), 3)
  .option('--setting <lines...>', 'nodes: further settings, as \'tail_limit="1GiB"\'', [])
  .option('--seconds <n>', 'of each case', number(0.1), 3)
  .option('--json', 'one JSON line per case')
  .action(async (options: Options) => {
    const show = (result: Result): void => {
      const { what, rttMs, windowBytes, messageBytes, bytesPerSecond, measuredRttMs, cpuMsPerMB } = result;
      if (options.json === true) return console.log(JSON.stringify(result));
      console.log(
        `${what.padEnd(5)} rtt ${String(rttMs).padStart(3)} ms (measured ${measuredRttMs.toFixed(1)}), ` +
          `window ${formatBytes(windowBytes)}, messages of ${formatBytes(messageBytes)}: ` +
          `${(bytesPerSecond / 1e6).toFixed(1)} MB/s, ${cpuMsPerMB.toFixed(1)} ms of CPU per MB`,
      );
    };
    untilSignal(() => process.exit());
    const { seconds } = options;
    for (const what of list(options.what))
      for (const rttMs of options.rttMs)
        for (const windowBytes of list(options.window).map(bytesOf)) {
          if (what === 'bare') show(await bare(rttMs, windowBytes, seconds));
          else if (what === 'nodes')
            for (const result of await intoNodes(
              rttMs,
              windowBytes,
              list(options.message).map(bytesOf),
              seconds,
              options.nodes,
              options.setting,
            ))
              show(result);
          else throw new Error(`${what}: bare or nodes`);
        }
  })
  .parseAsync();
