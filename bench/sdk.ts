/**
 * What a call costs the SDK's process, gRPC, streams and collector included, and nothing else: the other end
 * (harness/answering-nodes.ts) is a process that answers the same bytes each time.
 *
 *     node [--cpu-prof] dist/bench/sdk.js [appends (default) | pages] [in flight, default 64] [calls each, default 64] [runs, default 7]
 *
 * CPU of all threads and of the main thread, bytes allocated; per append or page, the
 * lowest and the median of several runs.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { type Channel, connect } from '../src/client/index.js';
import { allocatedDuring } from './harness/allocations.js';
import { usageOf } from './harness/measure.js';
import { chatTexts } from './harness/payload.js';

const [what = 'appends', inFlight = '64', perFrame = '64', runs = '7'] = process.argv.slice(2);
/** A run: 0.2 to 0.5 s of CPU. */
const units = what === 'pages' ? 1_000 : 24_000;
/** What three nodes need for an answer under this load, ms: so long what a call holds is alive. */
const delayMs = '20';

const nodes = fork(new URL('./harness/answering-nodes.js', import.meta.url), [delayMs]);
const [ports] = (await once(nodes, 'message')) as [number[]];
const client = connect(`hansard://${ports.map((port) => `127.0.0.1:${port}`).join(',')}`, {
  timeoutMs: 60_000,
  readLevel: 'linearizable',
});
const channels = Array.from({ length: 1_000 }, (_, i) => client.channel(`bench/channel-${i}`));
const texts = chatTexts(4_096, 200);
let next = 0;

function call(): Promise<unknown> {
  const n = next++;
  const channel = channels[(n * 7919) % channels.length] as Channel;
  if (what === 'pages') return channel.list({ before: 50 }).page();
  return channel.append({ role: 'user', author: 'ann', text: texts[n % texts.length] as string });
}

async function drive(calls: number): Promise<void> {
  let left = calls;
  const each = Number(perFrame);
  const worker = async (): Promise<void> => {
    for (; left > 0; left -= each) await Promise.all(Array.from({ length: each }, call));
  };
  await Promise.all(Array.from({ length: Number(inFlight) }, worker));
}

const group = { name: 'client', pid: process.pid };
await drive(units);
const results: { cpu: number; main: number }[] = [];
for (let run = 0; run < Number(runs); run++) {
  const before = usageOf(group);
  await drive(units);
  const after = usageOf(group);
  results.push({
    cpu: (after.cpuUs - before.cpuUs) / units,
    main: (after.mainUs - before.mainUs) / units,
  });
}
const allocated = (await allocatedDuring(() => drive(units))) / units;

function shown(key: 'cpu' | 'main'): string {
  const sorted = results.map((each) => each[key]).sort((a, b) => a - b);
  return `${sorted[0]?.toFixed(2)} / ${sorted[sorted.length >> 1]?.toFixed(2)}`;
}
console.log(
  `${what}, ${inFlight} in flight of ${perFrame}: us of CPU ${shown('cpu')}, of it main thread ${shown('main')}; ${allocated.toFixed(0)} bytes allocated each`,
);
await client.close();
nodes.disconnect();
