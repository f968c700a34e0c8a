/** The SDK against the real door (api/) and the real state machine (conversation/); only consensus is missing. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import {
  connect,
  fromUIMessages,
  HansardError,
  type NewMessage,
  toUIMessage,
} from '../../src/client/index.js';
import type { ClusterView } from '../../src/node/types.js';
import { FakeNode } from '../api/fake-node.js';
import { Harness } from '../api/harness.js';
import { patienceMs } from '../support/until.js';

/** A node whose map names where it really listens. */
class LocalNode extends FakeNode {
  clientAddress = '';
  override addressOf(): string {
    return this.clientAddress;
  }
  override cluster(): ClusterView {
    const view = super.cluster();
    return {
      ...view,
      nodes: view.nodes.slice(0, 1).map((node) => ({ ...node, clientAddress: this.clientAddress })),
    };
  }
}

async function start(t: { teardown(fn: () => unknown): void }, transport: 'exchange' | 'unary') {
  const node = new LocalNode();
  const harness = await Harness.start(node);
  node.clientAddress = harness.api.address;
  const client = connect(`hansard://${harness.api.address}/acme`, { transport, timeoutMs: patienceMs });
  t.teardown(async () => {
    await client.close();
    await harness.stop();
  });
  return { node, client };
}

const reasonOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'none',
    (error: unknown) => (error instanceof HansardError ? error.reason : String(error)),
  );

for (const transport of ['exchange', 'unary'] as const) {
  t.test(`${transport}: through the real door`, async (t) => {
    const { node, client } = await start(t, transport);
    const channel = client.channel('user{42}/talk');
    t.equal(await reasonOf(channel.info()), 'CHANNEL_NOT_FOUND');
    const appended = await Promise.all(
      Array.from({ length: 500 }, (_, i) => channel.append({ role: 'user', author: 'ann', text: `m${i}` })),
    );
    t.same(
      appended.map((each) => each.seq),
      Array.from({ length: 500 }, (_, i) => i + 1),
    );
    t.ok(appended.every((each) => !each.duplicate && each.commitToken.length <= 64));

    const all: string[] = [];
    for await (const event of channel.list({ level: 'linearizable' })) {
      const part = event.message?.parts?.[0];
      all.push(part?.type === 'text' ? part.text : '?');
      if (event.checksum !== appended[event.seq - 1]?.checksum) t.fail(`checksum of ${event.seq}`);
    }
    t.same(
      all,
      Array.from({ length: 500 }, (_, i) => `m${i}`),
      'read back in order',
    );
    const last = await channel
      .list({ before: 2, commitTokens: [appended[499]?.commitToken as Uint8Array] })
      .page();
    t.same(
      last.events.map((event) => event.seq),
      [499, 500],
    );
    const around = await channel.list({ anchor: 10, before: 2, after: 2, descending: true }).page();
    t.same(
      around.events.map((event) => event.seq),
      [11, 10, 9, 8],
    );
    t.equal(around.servedBy.role, 'primary');

    const keyed = { text: 'once' };
    const first = await channel.append(keyed, { key: 'k1', messageId: 'id-1' });
    const again = await channel.append(keyed, { key: 'k1', messageId: 'id-1' });
    t.match(again, { seq: first.seq, duplicate: true });
    t.equal(
      await reasonOf(channel.append({ text: 'other' }, { key: 'k1' })),
      'DUPLICATE_KEY_DIFFERENT_CONTENT',
    );
    t.equal(await reasonOf(channel.append({ text: 'x' }, { messageId: 'id-1' })), 'MESSAGE_ID_EXISTS');
    t.equal((await channel.get({ messageId: 'id-1' })).seq, first.seq);
    t.equal(
      await reasonOf(channel.append({ text: 'x' }, { condition: { mustNotExist: true } })),
      'CONDITION_FAILED',
    );
    t.match(await channel.append({ text: 'y' }, { condition: { expectedHeadSeq: 501 } }), { seq: 502 });

    // The door refuses what the SDK can't know: the encoded content of somebody else.
    const mixed = [{ text: 'a' }, { contentBytes: Buffer.from([0xff]) }, { text: 'b' }, { text: 'c' }];
    const ends = await Promise.allSettled(mixed.map((message) => channel.append(message)));
    t.same(
      ends.map((end) => (end.status === 'fulfilled' ? end.value.seq : (end.reason as HansardError).reason)),
      [503, 'INVALID_ARGUMENT', 504, 505],
    );
    t.match(await channel.info(), { name: 'user{42}/talk', tenant: 'acme', headSeq: 505, messageCount: 505 });

    await client.createChannel('zoo', { title: 'The zoo', labels: { a: '1' }, class: 'support' });
    t.equal(await reasonOf(client.createChannel('zoo')), 'CHANNEL_EXISTS');
    t.match(await client.channel('zoo').info(), {
      title: 'The zoo',
      labels: { a: '1' },
      class: 'support',
      headSeq: 0,
    });
    const listed: string[] = [];
    for await (const info of client.channels({ prefix: 'z', pageSize: 1 })) listed.push(info.name);
    t.same(listed, ['zoo']);
    const cluster = await client.cluster();
    t.match(cluster, { clusterId: 'cluster-1', answeredByNodeId: 1 });
    t.equal(cluster.partitions.length, 4);

    node.proposeError = new HansardError('OVERLOADED', 'full', {}, { retryDelayMs: 60_000 });
    t.equal(await reasonOf(channel.append({ text: 'no room' }, { timeoutMs: 2_000 })), 'OVERLOADED');
    node.proposeError = undefined;
    t.match(await channel.append({ text: 'room' }), { seq: 506 });

    const producer = client.openProducer('file:1');
    const lines: NewMessage[] = Array.from({ length: 10 }, (_, i) => ({
      text: `line ${i}`,
      clientTimeUs: -5 - i,
    }));
    const imported = await producer.append('import', lines, { counter: 1 });
    t.match(imported, { counter: 1, nextCounter: 11, seqs: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] });
    const rerun = client.openProducer('file:1');
    t.match(await rerun.append('import', lines, { counter: 1 }), { skipped: 10, duplicate: true });
    t.equal((await client.channel('import').get(10)).message?.clientTimeUs, -14);
  });
}

t.test('channels are changed, found, deleted; batches of reads', async (t) => {
  const { client } = await start(t, 'exchange');
  for (const name of ['a', 'b', 'c']) {
    await client.createChannel(name, { participants: [{ id: 'ann', displayName: 'Ann', role: 'user' }] });
  }
  const channel = client.channel('b');
  const { etag } = await channel.info();
  const changed = await channel.update({ title: 'B', labels: { pinned: 'yes' }, etag });
  t.match(changed, { title: 'B', labels: { pinned: 'yes' }, participants: [{ id: 'ann' }], firstSeq: 1 });
  t.equal(await reasonOf(channel.update({ title: 'C', etag })), 'CONDITION_FAILED');
  t.equal(await reasonOf(channel.update({})), 'INVALID_ARGUMENT');
  t.match(await channel.update({ title: '' }), { title: '', labels: { pinned: 'yes' } });
  await channel.append([{ text: 'one', messageId: 'm1' }, { text: 'two' }]);
  const found: string[] = [];
  for await (const info of client.channels({ participant: 'ann', orderBy: 'activity', pageSize: 2 })) {
    found.push(info.name);
  }
  t.same(found, ['b', 'c', 'a']);
  const { channels } = await client.channelPage({ label: { key: 'pinned', value: 'yes' } });
  t.match(channels, [{ name: 'b', headSeq: 2 }]);
  t.ok((channels[0]?.activityTimeUs ?? 0) > (channels[0]?.createTimeUs ?? 0));

  const texts = (await channel.batchGet([2, { messageId: 'm1' }, 3, 1])).map((event) => event?.seq);
  t.same(texts, [2, 1, undefined, 1]);
  t.equal((await channel.batchGet(Array.from({ length: 1_500 }, () => 1))).length, 1_500);
  t.same(await channel.batchGet([]), []);

  t.match(await channel.delete(), { headSeq: 2 });
  t.equal(await reasonOf(channel.delete()), 'CHANNEL_NOT_FOUND');
  t.match(await channel.delete({ allowMissing: true }), { headSeq: 2 });
  t.same(await channel.batchGet([1]), [undefined]);
  t.match(await channel.append({ text: 'three' }), { seq: 3 });
  t.match(await channel.info(), { firstSeq: 3, headSeq: 3, title: '', labels: {} });
  const all: number[] = [];
  for await (const event of channel.list()) all.push(event.seq);
  t.same(all, [3]);
});

t.test('UIMessages through the real door', async (t) => {
  const { client } = await start(t, 'exchange');
  const path = new URL('../../../test/client/fixtures/ai-sdk.json', import.meta.url);
  const originals = JSON.parse(readFileSync(path, 'utf8')) as Parameters<typeof fromUIMessages>[0];
  const channel = client.channel('ui');
  await channel.append(fromUIMessages(originals));
  const back: unknown[] = [];
  for await (const event of channel.list())
    back.push(toUIMessage({ ...event.message, messageId: event.messageId }));
  t.strictSame(back, originals);
});
