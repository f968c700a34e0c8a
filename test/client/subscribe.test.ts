/** Subscriptions of the SDK through real doors; the nodes share one state, so any may die at any time. */
import t from 'tap';
import { HansardError, type SubscribedEvent, type SubscriptionUpdate } from '../../src/client/index.js';
import { type Door, start } from './doors.js';

t.setTimeout(600_000);

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);
const lineOf = ({ channel, event }: SubscribedEvent): string => `${channel}#${event.seq}`;

async function take(events: AsyncIterable<SubscribedEvent>, count: number): Promise<string[]> {
  const taken: string[] = [];
  for await (const each of events) if (taken.push(lineOf(each)) === count) break;
  return taken;
}

t.test('starts, filters, tokens, ends', async (t) => {
  const { client, writer } = await start(t, 1);
  for (const name of ['a/1', 'a/2', 'b/1'])
    await writer.channel(name).append(range(1, 3).map((i) => ({ text: `m${i}` })));
  const all = await take(client.subscribe({ fromBeginning: true }), 9);
  t.same([...all].sort(), ['a/1#1', 'a/1#2', 'a/1#3', 'a/2#1', 'a/2#2', 'a/2#3', 'b/1#1', 'b/1#2', 'b/1#3']);
  t.same(await take(client.subscribe({ fromBeginning: true, channels: ['a/2'] }), 3), [
    'a/2#1',
    'a/2#2',
    'a/2#3',
  ]);
  const updates: SubscriptionUpdate[] = [];
  const stop = new AbortController();
  for await (const update of client
    .subscribe({ prefix: 'b/', fromTime: new Date(0), signal: stop.signal })
    .updates()) {
    updates.push(update);
    if (update.kind === 'caught-up') stop.abort();
  }
  t.same(
    updates.map(({ kind }) => kind),
    ['events', 'caught-up'],
  );
  const [first] = updates;
  if (first?.kind !== 'events') throw new Error('no events');
  t.same(
    first.channels[0]?.events.map(({ message }) => message?.parts?.[0]),
    range(1, 3).map((i) => ({ type: 'text', text: `m${i}` })),
  );
  await writer.channel('b/1').append({ text: 'more' });
  t.same(await take(client.subscribe({ prefix: 'b/', resumeToken: first.resumeToken }), 1), ['b/1#4']);
  const reasonOf = async (options: object) => {
    try {
      await take(client.subscribe(options), 1);
      return 'none';
    } catch (error) {
      return error instanceof HansardError ? error.reason : String(error);
    }
  };
  t.equal(await reasonOf({ prefix: 'a/', resumeToken: first.resumeToken }), 'INVALID_TOKEN');
  t.equal(await reasonOf({ prefix: 7 }), 'INVALID_ARGUMENT');
  t.equal(await reasonOf({ fromBeginning: true, resumeToken: 'x' }), 'INVALID_ARGUMENT');
  t.equal(await reasonOf({ channels: [''] }), 'INVALID_NAME');
  t.equal(await reasonOf({ types: ['no-such-type'] }), 'INVALID_ARGUMENT');
  const waiting = take(client.subscribe(), 1);
  await client.close();
  t.equal(
    await waiting.then(
      () => 'none',
      (error: HansardError) => error.reason,
    ),
    'CLIENT_CLOSED',
  );
});

t.test('nodes die under it, and every event comes once', async (t) => {
  const { doors, client, writer } = await start(t, 3);
  const names = range(0, 9).map((i) => `c/${i}`);
  const perChannel = 40;
  const kills = (async () => {
    for (let round = 0; round < 4; round++) {
      await new Promise((resolve) => setTimeout(resolve, 300));
      const node = doors.nodes[round % 3] as Door;
      await node.kill();
      await new Promise((resolve) => setTimeout(resolve, 200));
      await node.open();
    }
  })();
  const writes = (async () => {
    for (let i = 0; i < perChannel; i++) {
      await Promise.all(names.map((name) => writer.channel(name).append({ text: `${i}` })));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  const got = new Map<string, number[]>();
  let interruptions = 0;
  let count = 0;
  for await (const update of client.subscribe({ fromBeginning: true, maxBatch: 20 }).updates()) {
    if (update.kind === 'interrupted') interruptions++;
    if (update.kind !== 'events') continue;
    for (const { channel, events } of update.channels) {
      got.set(channel, [...(got.get(channel) ?? []), ...events.map(({ seq }) => seq)]);
      count += events.length;
    }
    if (count >= names.length * perChannel) break;
  }
  await Promise.all([kills, writes]);
  for (const name of names) t.same(got.get(name), range(1, perChannel), name);
  t.comment(`${interruptions} interruptions`);
});
