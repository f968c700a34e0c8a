import t from 'tap';
import { FakeNode } from './fake-node.js';
import { Harness, text, words } from './harness.js';

t.setTimeout(600_000);

const custom = { type: 17, raw: Buffer.from('own') };
const some = (count: number) => Array.from({ length: count }, (_, i) => text(`m${i + 1}`));

async function start(t: { teardown(fn: () => unknown): void }, node = new FakeNode()): Promise<Harness> {
  const h = await Harness.start(node);
  t.teardown(() => h.stop());
  return h;
}

t.test('cursors move forward, are listed, and tell what is unread', async (t) => {
  const h = await start(t);
  await h.append({ channel: 'c', messages: some(5) });
  const move = (reader: string, seq: number, more: object = {}) =>
    h.call('InboxService/MoveReadCursor', { channel: 'c', reader, seq, ...more });
  const first = await move('ann', 3);
  t.match(first, { cursor: { reader: 'ann', seq: '3' }, head_seq: '5' });
  t.ok(first.cursor.move_time.seconds > 0 && first.commit_token.length > 0);
  t.match(await move('ann', 2), { cursor: { seq: '3' } });
  t.match(await move('ann', 1, { allow_back: true }), { cursor: { seq: '1' } });
  await move('bob', 5);
  await move('cleo', 4);
  const list = (more: object = {}) => h.call('InboxService/ListReadCursors', { channel: 'c', ...more });
  const page = await list({ page_size: 2 });
  t.match(page, {
    cursors: [
      { reader: 'ann', seq: '1' },
      { reader: 'bob', seq: '5' },
    ],
    head_seq: '5',
  });
  const rest = await list({ page_size: 2, page_token: page.next_page_token });
  t.match(rest, { cursors: [{ reader: 'cleo', seq: '4' }], next_page_token: '', served_by: { node_id: 1 } });
  const reason = async (method: string, request: object) =>
    (await h.failure(`InboxService/${method}`, request)).error?.reason;
  t.equal(await reason('MoveReadCursor', { channel: 'none', reader: 'ann', seq: 1 }), 'CHANNEL_NOT_FOUND');
  t.equal(await reason('MoveReadCursor', { channel: 'c', reader: 'ann', seq: 6 }), 'INVALID_ARGUMENT');
  t.equal(await reason('MoveReadCursor', { channel: 'c', seq: 1 }), 'INVALID_ARGUMENT');
  t.equal(await reason('ListReadCursors', { channel: 'none' }), 'CHANNEL_NOT_FOUND');
  t.equal(
    await reason('ListReadCursors', { channel: 'd', page_token: page.next_page_token }),
    'INVALID_TOKEN',
  );
  t.equal(await reason('GetInbox', { reader: 'ann', channels: [] }), 'INVALID_ARGUMENT');
  t.equal(await reason('GetInbox', { channels: ['c'] }), 'INVALID_ARGUMENT');
  t.equal(
    await reason('GetInbox', { reader: 'ann', channels: Array.from({ length: 201 }, (_, i) => `c${i}`) }),
    'INVALID_ARGUMENT',
  );
});

t.test('an inbox of 200 channels in one call, in the order of the request', async (t) => {
  const h = await start(t);
  const names = Array.from({ length: 199 }, (_, i) => `in/${(i * 83) % 199}`);
  await Promise.all(names.map((channel, i) => h.append({ channel, messages: some(1 + (i % 4)) })));
  await Promise.all(
    names.map((channel, i) => h.call('InboxService/MoveReadCursor', { channel, reader: 'ann', seq: i % 2 })),
  );
  const { entries } = await h.call('InboxService/GetInbox', {
    reader: 'ann',
    channels: [...names, 'nowhere'],
  });
  t.equal(entries.length, 200);
  for (const [i, name] of names.entries()) {
    const entry = entries[i];
    const count = 1 + (i % 4);
    t.equal(entry.name, name);
    t.match(entry, {
      channel: { name, head_seq: String(count) },
      read_seq: String(i % 2),
      unread_events: String(count - (i % 2)),
      unread_messages: String(count - (i % 2)),
      more_unread: false,
      served_by: { node_id: 1 },
    });
    t.equal(words(entry.last_message), `m${count}`);
  }
  t.match(entries[199], { name: 'nowhere', channel: null, last_message: null });
});

t.test('what is no message is counted apart; many are counted up to a bound', async (t) => {
  const h = await start(t);
  await h.append({ channel: 'mixed', messages: [text('a'), custom, text('b'), custom, custom] });
  await h.append({ channel: 'many', messages: [custom, ...some(300)] });
  await h.append({ channel: 'own', messages: [custom] });
  const entry = async (channel: string, seq: number) => {
    await h.call('InboxService/MoveReadCursor', { channel, reader: 'ann', seq, allow_back: true });
    const { entries } = await h.call('InboxService/GetInbox', { reader: 'ann', channels: [channel] });
    const { unread_events, unread_messages, more_unread } = entries[0];
    return [Number(unread_events), Number(unread_messages), more_unread];
  };
  t.same(await entry('mixed', 0), [5, 2, false]);
  t.same(await entry('mixed', 1), [4, 1, false]);
  t.same(await entry('mixed', 3), [2, 0, false]);
  t.same(await entry('many', 0), [301, 300, false], 'from the beginning the count is known');
  t.same(await entry('many', 1), [300, 100, true]);
  t.same(await entry('many', 250), [51, 51, false]);
  t.same(await entry('own', 0), [1, 0, false]);
  const bare = await h.call('InboxService/GetInbox', {
    reader: 'x',
    channels: ['mixed'],
    without_last_message: true,
  });
  t.match(bare.entries[0], { read_seq: '0', unread_messages: '2', last_message: null });
});

t.test('a cursor that moved on while the inbox was read is not beyond the head that is told', async (t) => {
  const h = await start(t);
  await h.append({ channel: 'c', messages: some(5) });
  await h.call('InboxService/MoveReadCursor', { channel: 'c', reader: 'ann', seq: 5 });
  const { reader } = h.node.partitions[h.node.partitionOf('default', 'c')] as (typeof h.node.partitions)[0];
  const { readCursor } = reader;
  reader.readCursor = async (...which) => {
    // Between the two reads of the inbox two more come, and are read.
    const cursor = await readCursor(...which);
    return cursor === undefined ? undefined : { ...cursor, seq: 7 };
  };
  const { entries } = await h.call('InboxService/GetInbox', { reader: 'ann', channels: ['c'] });
  t.match(entries[0], { read_seq: '5', unread_events: '0', unread_messages: '0', more_unread: false });
});

t.test('partitions that are not held here are read at their leader', async (t) => {
  const leader = new FakeNode(2);
  const h2 = await start(t, leader);
  const node = new FakeNode(1);
  node.leader = 2;
  leader.leader = 2;
  node.notHere.add(0).add(1).add(2);
  node.peers.set(2, leader);
  node.partitions = leader.partitions;
  const h = await start(t, node);
  const names = Array.from({ length: 20 }, (_, i) => `c/${i}`);
  for (const channel of names) await h2.append({ channel, messages: some(2) });
  const { entries } = await h.call('InboxService/GetInbox', { reader: 'ann', channels: names });
  t.same(
    entries.map((each: { name: string }) => each.name),
    names,
  );
  t.ok(entries.every((each: { unread_messages: string }) => each.unread_messages === '2'));
  t.same(
    new Set(entries.map((each: { served_by: { node_id: number } }) => each.served_by.node_id)),
    new Set([1, 2]),
  );
  t.match(await h.call('InboxService/MoveReadCursor', { channel: 'c/3', reader: 'ann', seq: 2 }), {
    cursor: { seq: '2' },
  });
});
