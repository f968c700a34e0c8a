/**
 * What Subscribe costs: one node, the SDK in the same process, so that CPU is of both ends and
 * of the appends where they go on meanwhile.
 *
 *     node dist/bench/subscribe.js [events] [channels]
 */
import { connect, open } from '../src/index.js';

const events = Number(process.argv[2] ?? 40_000);
const channels = Number(process.argv[3] ?? 500);
const batch = 20;

const node = await open({ partitions: 8 });
const client = connect(`hansard://${node.endpoint}/default`);
const names = Array.from({ length: channels }, (_, i) => `channel/${i}`);

async function write(count: number): Promise<void> {
  const messages = Array.from({ length: batch }, (_, i) => ({
    text: `${'a message of some length '.repeat(7)}${i}`,
  }));
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < count) {
      const at = next;
      next += batch;
      await client.channel(names[(at / batch) % channels] as string).append(messages);
    }
  };
  await Promise.all(Array.from({ length: 32 }, lane));
}

/** Takes so many events; gives CPU µs an event, and events a second. */
async function take(
  what: string,
  count: number,
  subscribers: number,
  meanwhile?: () => Promise<void>,
): Promise<void> {
  const isLive = meanwhile !== undefined;
  let ready = 0;
  let begin = (): void => {};
  const allReady = new Promise<void>((resolve) => {
    begin = resolve;
  });
  const readers = Array.from({ length: subscribers }, async () => {
    let taken = 0;
    for await (const update of client.subscribe(isLive ? {} : { fromBeginning: true }).updates()) {
      if (update.kind === 'caught-up' && ++ready === subscribers) begin();
      if (update.kind === 'events') for (const each of update.channels) taken += each.events.length;
      if (taken >= count) return;
    }
  });
  if (isLive) await allReady;
  const cpu = process.cpuUsage();
  const startedMs = performance.now();
  await Promise.all([...readers, meanwhile?.()]);
  const ms = performance.now() - startedMs;
  const { user, system } = process.cpuUsage(cpu);
  const total = count * subscribers;
  console.log(
    `${what}: ${((user + system) / total).toFixed(2)} us CPU an event and reader, ${Math.round((1000 * total) / ms).toLocaleString('en')} events/s`,
  );
}

const cpu = process.cpuUsage();
await write(events);
const { user, system } = process.cpuUsage(cpu);
console.log(
  `appending ${events.toLocaleString('en')} events in batches of ${batch}: ${((user + system) / events).toFixed(2)} us CPU each`,
);
await take('from the beginning, 1 reader', events, 1);
await take('from the beginning, 4 readers', events, 4);
await take('live, 1 reader, appends included', events, 1, () => write(events));
await take('live, 10 readers, appends included', events, 10, () => write(events));
await client.close();
await node.close();
