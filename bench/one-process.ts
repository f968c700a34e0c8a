/**
 * CPU per message of three nodes and a client in one process, real gRPC, log and
 * LevelDB, a fixed number of messages: steadier than rates on a machine that has
 * other work, and one profile shows the whole way.
 *
 *     node [--cpu-prof] dist/bench/one-process.js [in flight, default 256] [messages, default 30000] [batch, default 1 | pages]
 */
import { readdirSync, readFileSync } from 'node:fs';
import type { Channel } from '../src/client/index.js';
import { testCluster } from '../src/embedded/index.js';
import { chatTexts } from './harness/payload.js';

const inFlight = Number(process.argv[2] ?? 256);
const messages = Number(process.argv[3] ?? 30_000);
const what = process.argv[4] ?? '1';
const perCall = what === 'pages' ? 1 : Number(what);
const channelCount = 1_000;
const tickUs = 10_000;

const cluster = await testCluster({ partitions: 24 });
const client = cluster.connect('', { timeoutMs: 60_000, readLevel: 'linearizable' });
const channels = Array.from({ length: channelCount }, (_, i) => client.channel(`bench/channel-${i}`));
const texts = chatTexts(4_096, 200);
let next = 0;

async function append(): Promise<void> {
  const n = next++;
  const channel = channels[(n * 7919) % channelCount] as Channel;
  const made = Array.from({ length: perCall }, (_, i) => ({
    role: 'user' as const,
    author: 'ann',
    text: texts[(n * perCall + i) % texts.length] as string,
  }));
  await channel.append(made);
}

async function page(): Promise<void> {
  const { events } = await (channels[(next++ * 7919) % channelCount] as Channel).list({ before: 50 }).page();
  if (events.length === 0) throw new Error('an empty page');
}

async function drive(call: () => Promise<unknown>, calls: number): Promise<void> {
  let left = calls;
  const worker = async (): Promise<void> => {
    while (left-- > 0) await call();
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
}

/** Of all threads: how often one went to sleep. */
function switches(): number {
  let sum = 0;
  for (const task of readdirSync('/proc/self/task')) {
    const status = readFileSync(`/proc/self/task/${task}/status`, 'utf8');
    sum += Number(/^voluntary_ctxt_switches:\s*(\d+)/m.exec(status)?.[1] ?? 0);
  }
  return sum;
}

function mainThreadUs(): number {
  const stat = readFileSync(`/proc/self/task/${process.pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * tickUs;
}

let filled = 0;
const fill = (): Promise<unknown> => {
  const all = Array.from({ length: 64 }, (_, i) => ({ author: 'ann', text: texts[i] as string }));
  return (channels[filled++] as Channel).append(all);
};
if (what === 'pages') await drive(fill, channelCount);
const call = what === 'pages' ? page : append;
const calls = Math.ceil(messages / perCall);
await drive(call, Math.ceil(calls / 2));
const before = process.cpuUsage();
const mainBefore = mainThreadUs();
const switchesBefore = switches();
const startedMs = performance.now();
await drive(call, calls);
const seconds = (performance.now() - startedMs) / 1000;
const { user, system } = process.cpuUsage(before);
const units = calls * perCall;
console.log(
  `${inFlight} in flight, ${what === 'pages' ? 'pages' : `batches of ${perCall}`}: ${((user + system) / units).toFixed(1)} us of CPU each, ` +
    `${((mainThreadUs() - mainBefore) / units).toFixed(1)} of the main thread; ${((switches() - switchesBefore) / units).toFixed(2)} switches; ${(system / units).toFixed(1)} us in the kernel; ${Math.round(units / seconds)}/s here`,
);
await client.close();
await cluster.close();
