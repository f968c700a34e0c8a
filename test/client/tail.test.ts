/** Tails of the SDK through real doors; the nodes share one state, so any may die at any time. */
import t from 'tap';
import { connect, type Event, HansardError, type TailUpdate } from '../../src/client/index.js';
import { sleep, until } from '../support/until.js';
import { type Door, start } from './doors.js';

t.setTimeout(600_000);

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);
const textOf = (event: Event): string => {
  const part = event.message?.parts?.[0];
  return part?.type === 'text' ? part.text : '?';
};
const reasonOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'none',
    (error: unknown) => (error instanceof HansardError ? error.reason : String(error)),
  );

async function take(events: AsyncIterable<Event>, count: number): Promise<Event[]> {
  const taken: Event[] = [];
  for await (const event of events) if (taken.push(event) === count) break;
  return taken;
}

t.test('starts, updates, ends', async (t) => {
  const { doors, client, writer } = await start(t, 1);
  const channel = client.channel('c');
  await writer.channel('c').append(range(1, 30).map((i) => ({ text: `m${i}` })));
  const all = await take(channel.tail({ afterSeq: 0 }), 30);
  t.same(
    all.map(textOf),
    range(1, 30).map((i) => `m${i}`),
  );
  t.same(
    (await take(channel.tail({ afterSeq: 28, mustExist: true }), 2)).map((e) => e.seq),
    [29, 30],
  );
  const updates = channel.tail({ fromHead: true }).updates();
  const first = (await updates.next()).value as TailUpdate & { kind: 'caught-up' };
  t.match(first, { kind: 'caught-up', headSeq: 30, servedBy: { nodeId: 1, role: 'primary' } });
  await writer.channel('c').append({ text: 'm31' });
  t.match((await updates.next()).value, { kind: 'events', events: [{ seq: 31 }] });
  await updates.return();
  const { resumeToken } = first;
  t.same((await take(channel.tail({ resumeToken }), 1)).map(textOf), ['m31']);

  t.equal(await reasonOf(take(client.channel('nope').tail({ mustExist: true }), 1)), 'CHANNEL_NOT_FOUND');
  t.equal(await reasonOf(take(channel.tail({ resumeToken: 'x' }), 1)), 'INVALID_TOKEN');
  t.throws(() => channel.tail({ afterSeq: 1, fromHead: true }), /one of/);
  const waiting = take(client.channel('later').tail(), 1);
  await sleep(50);
  await writer.channel('later').append({ text: 'there' });
  t.same((await waiting).map(textOf), ['there'], 'a channel that was not there yet');

  const stop = new AbortController();
  const endless = take(channel.tail({ signal: stop.signal }), 1);
  await sleep(50);
  stop.abort();
  t.same(await endless, [], 'a signal ends the iteration');
  const open = take(channel.tail(), 1);
  await sleep(50);
  await client.close();
  t.equal(await reasonOf(open), 'CLIENT_CLOSED');
  const node = doors.nodes[0] as Door;
  await until('no place is left behind', () => node.api?.openTails === 0);
  const nobody = connect('hansard://127.0.0.1:1/acme');
  t.equal(await reasonOf(take(nobody.channel('c').tail({ timeoutMs: 300 }), 1)), 'UNREACHABLE');
  await nobody.close();
});

t.test('held to credit: what is granted comes, and no more until it is handled', async (t) => {
  const { client, writer } = await start(t, 1);
  const texts = range(1, 60).map((i) => ({ text: `m${i}`.padEnd(1_000) }));
  await writer.channel('c').append(texts);
  const seqs: number[] = [];
  for (const credit of [{ events: 1 }, { events: 7 }, { bytes: 3_000 }, { events: 50, bytes: 1 }]) {
    const options = { fromBeginning: true, credit, maxBatch: 5 };
    const tailed = await take(client.channel('c').tail({ afterSeq: 0, credit, maxBatch: 5 }), 60);
    t.same(
      tailed.map((event) => event.seq),
      range(1, 60),
      JSON.stringify(credit),
    );
    seqs.length = 0;
    for await (const { event } of client.subscribe(options)) if (seqs.push(event.seq) === 60) break;
    t.same(seqs, range(1, 60), JSON.stringify(credit));
  }
  const updates = client
    .channel('c')
    .tail({ afterSeq: 0, credit: { events: 10 } })
    .updates();
  t.match((await updates.next()).value, { kind: 'events', events: { length: 10 } });
  await updates.return();
});

t.test('nodes die and drain under a tail: every event once, in order', async (t) => {
  const { doors, client, writer } = await start(t, 3);
  const total = 1_500;
  const tails = [
    { afterSeq: 0 },
    { afterSeq: 0, maxBatch: 3 },
    { afterSeq: 0, preference: 'secondary' as const },
  ];
  const interrupted = tails.map(() => 0);
  const counts = tails.map(() => 0);
  let written = 0;
  const taken = tails.map(async (options, i) => {
    const events: Event[] = [];
    for await (const update of client.channel('c').tail(options).updates()) {
      if (update.kind === 'interrupted') (interrupted[i] as number)++;
      if (update.kind === 'events') counts[i] = events.push(...update.events);
      if (events.length >= total) break;
      // The third reader is slow at times.
      if (i === 2 && events.length % 7 === 0) await sleep(5);
    }
    return events;
  });
  let isDone = false;
  const chaos = (async () => {
    for (let round = 0; !isDone; round++) {
      const node = doors.nodes[round % 3] as Door;
      const next = doors.nodes[(round + 1) % 3] as Door;
      doors.lead(next.identity.nodeId);
      if (round % 2 === 0) await node.kill();
      else {
        node.isDraining = true;
        await sleep(250);
        await node.kill();
        node.isDraining = false;
      }
      await sleep(60);
      await node.open();
      await sleep(60);
      // However slow the machine: a node dies once more when all have got something since.
      const seen = [...counts];
      await until('each tail goes on', () =>
        counts.every((count, i) => count > (seen[i] as number) || count >= written),
      );
    }
  })();
  const channel = writer.channel('c');
  for (let i = 0; i < total; i += 5) {
    if (i === total / 2)
      await until('each tail is interrupted', () => interrupted.every((times) => times > 0));
    await channel.append(range(i + 1, i + 5).map((n) => ({ text: `m${n}` })));
    written = i + 5;
    await sleep(4);
  }
  for (const [i, each] of taken.entries()) {
    const events = await each;
    t.same(
      events.map((event) => event.seq),
      range(1, total),
      `tail ${i}: seqs`,
    );
    t.same(
      events.map(textOf),
      range(1, total).map((n) => `m${n}`),
      `tail ${i}: texts`,
    );
  }
  isDone = true;
  await chaos;
});

t.test('a tail that is not read holds up no other call of its client', async (t) => {
  const { client, writer } = await start(t, 1);
  const texts = range(1, 100).map(() => ({ text: 'y'.repeat(10_000) }));
  for (let i = 0; i < 20; i++) await writer.channel('c').append(texts);
  const updates = client.channel('c').tail({ afterSeq: 0 }).updates();
  const first = (await updates.next()).value;
  await sleep(300);
  // The same connection: 20 MB wait behind the tail that nobody reads.
  const page = await client.channel('c').list({ before: 20 }).page();
  t.equal(page.events.length, 20);
  t.same(
    (await take(client.channel('c').tail({ afterSeq: 1_999 }), 1)).map((e) => e.seq),
    [2_000],
  );
  const seqs = first?.kind === 'events' ? first.events.map((event) => event.seq) : [];
  while (seqs.length < 2_000) {
    const update = (await updates.next()).value;
    if (update?.kind === 'events') seqs.push(...update.events.map((event) => event.seq));
  }
  t.same(seqs, range(1, 2_000));
  await updates.return();
});

t.test('a node whose places are taken is passed over', async (t) => {
  const { doors, client, writer } = await start(t, 2);
  await doors.nodes[0]?.kill();
  await doors.nodes[0]?.open(0);
  await writer.channel('c').append({ text: 'one' });
  t.same((await take(client.channel('c').tail({ afterSeq: 0 }), 1)).map(textOf), ['one']);
});

t.test('bytes that changed on the way, and a broken order, are told', async (t) => {
  const { doors, client, writer } = await start(t, 1);
  await writer.channel('c').append([{ text: 'one' }, { text: 'two' }, { text: 'three' }]);
  const node = doors.nodes[0] as Door;
  const { reader } = node.partitions[node.partitionOf('acme', 'c')] as (typeof node.partitions)[0];
  const events = reader.events;
  reader.events = async (...args) => (await events(...args)).filter((event) => event.seq !== 2);
  t.equal(await reasonOf(take(client.channel('c').tail({ afterSeq: 0 }), 3)), 'INTERNAL');
  reader.events = async (...args) =>
    (await events(...args)).map((event) => {
      const contentBytes = Buffer.from(event.contentBytes);
      contentBytes[event.contentOffset + event.contentLength - 1] = 0x7f;
      return { ...event, contentBytes };
    });
  t.equal(await reasonOf(take(client.channel('c').tail({ afterSeq: 0 }), 3)), 'CHECKSUM_MISMATCH');
});
