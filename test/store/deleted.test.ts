/** Deleted channels: gone at once, their rows by and by, and nothing of them in the name's next life. */
import t from 'tap';
import { encodeDeleteChannel, encodeUpdateChannel } from '../../src/conversation/command.js';
import type { ChannelState } from '../../src/conversation/types.js';
import { RowKind } from '../../src/store/keys.js';
import type { PartitionStore } from '../../src/store/types.js';
import { madeAppend, madeEntry, madeEvent } from '../conversation/make.js';
import type { SimKvDisk } from '../sim/sim-kv.js';
import { applyTo, formatted, opened, plain, rejectsWith, simDisk, whileDying } from './help.js';

const deletion = (channel: string) =>
  encodeDeleteChannel({ tenant: 'default', channel, requestId: '', allowMissing: false, permanent: true });
const everything = { fromSeq: 1, toSeq: 1e9, maxEvents: 1e9, maxBytes: 1e12, reverse: false };

function rowsOf(disk: SimKvDisk, kind: number): number {
  return [...disk.rows.map.keys()].filter((key) => key.charCodeAt(0) === kind).length;
}

function apply(partition: PartitionStore, ...commands: Uint8Array[]): void {
  applyTo(partition, Buffer.from(madeEntry(commands, 1_700_000_000_000_000 + partition.appliedIndex)));
}

/** An append whose events fill a block each. */
function blocks(channel: string, from: number, count: number): Uint8Array {
  return madeAppend(
    channel,
    Array.from({ length: count }, (_, i) =>
      madeEvent(`${from + i} ${'.'.repeat(600)}`, { messageId: `m${from + i}`, key: `k${from + i}` }),
    ),
  );
}

async function textsOf(partition: PartitionStore, name: string): Promise<string[]> {
  const channel = await partition.channelByName('default', name);
  if (channel === undefined) return [];
  return (await partition.events(channel, everything)).map(
    (event) => Buffer.from(plain(event).content, 'hex').subarray(16).toString().split(' ')[0] ?? '',
  );
}

t.test(
  'how much a channel that is to be sealed has in the tails is known, whatever becomes of the channels',
  async (t) => {
    const store = await opened(await formatted(simDisk()));
    const partition = store.partition(0);
    const channels = () => Math.round(store.tailBytes / store.tailBytesPerChannel);
    t.equal(store.tailBytesPerChannel, Number.POSITIVE_INFINITY, 'there is none');
    for (const channel of ['a', 'b', 'c', 'd']) apply(partition, blocks(channel, 1, 3));
    t.equal(channels(), 4);
    apply(partition, deletion('a'));
    t.equal(channels(), 4, 'a deleted one is to be sealed, too');
    const sealing = partition.checkpoint();
    while (!partition.sealing) await Promise.resolve();
    apply(partition, blocks('b', 4, 1));
    t.equal(channels(), 5, 'frozen and active ones');
    await sealing;
    t.equal(channels(), 1);
    apply(partition, deletion('c'));
    t.equal(channels(), 2, 'one that was sealed');
    await partition.checkpoint();
    partition.channel('default', 'b');
    t.equal(
      store.tailBytesPerChannel,
      Number.POSITIVE_INFINITY,
      'one that was only looked up costs no sealing',
    );
    await store.close();
  },
);

t.test('the rows of a large deleted channel go in slices, over crashes, and the name goes on', async (t) => {
  const disk = await formatted(simDisk());
  let store = await opened(disk);
  let partition = store.partition(0);
  const count = 9_000;
  for (let at = 0; at < count; at += 500) {
    apply(partition, blocks('c', at + 1, 500));
    if (at % 3_000 === 0) await partition.checkpoint();
  }
  await partition.checkpoint();
  t.ok(rowsOf(disk, RowKind.block) >= count - 1);
  apply(partition, deletion('c'));
  t.equal(await partition.channelByName('default', 'c'), undefined, 'gone at once');
  apply(partition, madeAppend('c', [madeEvent('again', { messageId: 'm5', key: 'k5' })]));
  t.same(await textsOf(partition, 'c'), ['again']);
  const digest = await partition.digest();
  await partition.checkpoint();
  t.equal(rowsOf(disk, RowKind.ended), 1);
  let left = rowsOf(disk, RowKind.block);
  t.ok(left > 4_000 && left < 5_500, `${left} blocks are left`);
  t.not(partition.dirtySinceMs, undefined, 'another checkpoint is due, though nothing was applied');
  // A death in the next one: nothing, or all of its slice.
  whileDying(partition.checkpoint());
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
  disk.powerLoss();
  store = await opened(disk);
  partition = store.partition(0);
  t.not(partition.dirtySinceMs, undefined, 'after a start, too');
  t.equal(await partition.digest(), digest, 'what is left over does not count');
  for (let i = 0; i < 3 && partition.dirtySinceMs !== undefined; i++) {
    await partition.checkpoint();
    t.ok(rowsOf(disk, RowKind.block) < left);
    left = rowsOf(disk, RowKind.block);
  }
  t.equal(rowsOf(disk, RowKind.block), 1, 'that of the second life');
  t.equal(partition.dirtySinceMs, undefined);
  t.equal(await partition.digest(), digest);
  const channel = (await partition.channelByName('default', 'c')) as ChannelState;
  t.match(channel, { baseSeq: count, headSeq: count + 1, messageCount: 1 });
  t.equal(await partition.seqOfMessageId(channel.id, 'm5'), count + 1);
  t.equal(await partition.seqOfMessageId(channel.id, 'm6'), undefined, 'ids of the old life say nothing');
  t.equal(partition.key(channel.id, 'k6'), undefined);
  t.equal(await partition.seqAtTime(channel, 0), count + 1);
  // Message ids go as their runs are merged, and the list with them.
  for (let i = 0; i < 24 && rowsOf(disk, RowKind.ended) > 0; i++) {
    apply(partition, madeAppend('other', [madeEvent(`x${i}`, { messageId: `x${i}` })]));
    await partition.checkpoint();
  }
  t.equal(rowsOf(disk, RowKind.ended), 0, 'nothing is left of it');
  const idBytes = [...disk.rows.map]
    .filter(([key]) => key.charCodeAt(0) === RowKind.messageIdRun)
    .reduce((sum, [, value]) => sum + value.length, 0);
  t.ok(idBytes < 10_000, `${idBytes} bytes of message ids`);
  await store.close();
  const again = await opened(disk);
  t.match(again.partition(0).meta, { deletedCount: 0 });
  await again.close();
});

t.test(
  'a crash at each point of a checkpoint with deletions leaves what was before it or after it',
  async (t) => {
    const outcomes = new Set<number>();
    for (let turns = 0; turns < 24; turns++) {
      const disk = await formatted(simDisk(turns + 1));
      const store = await opened(disk);
      const partition = store.partition(0);
      for (const name of ['a', 'b', 'c', 'd']) apply(partition, blocks(name, 1, 20));
      await partition.checkpoint();
      const before = await partition.digest();
      apply(partition, deletion('a'), deletion('b'), deletion('c'));
      apply(partition, blocks('b', 100, 3), blocks('e', 1, 3), deletion('e'), blocks('d', 21, 30));
      const update = { tenant: 'default', channel: 'd', requestId: '' };
      apply(partition, encodeUpdateChannel({ ...update, labels: [['a', 'b']] }));
      const after = await partition.digest();
      whileDying(partition.checkpoint());
      for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
      if (turns % 2 === 0) disk.powerLoss();
      else disk.processDeath();
      const again = await opened(disk);
      const found = again.partition(0);
      outcomes.add(found.appliedIndex);
      const landed = found.appliedIndex === 7;
      t.equal(await found.digest(), landed ? after : before);
      t.same((await textsOf(found, 'b')).length, landed ? 3 : 20);
      t.same((await textsOf(found, 'a')).length, landed ? 0 : 20);
      t.same(found.meta.deletedCount, landed ? 3 : 0);
      await again.close();
    }
    t.same([...outcomes].sort(), [4, 7], 'both happened');
  },
);

t.test('whoever still has a deleted channel in hand is told so, never shown the next one', async (t) => {
  const disk = await formatted(simDisk());
  const store = await opened(disk);
  const partition = store.partition(0);
  apply(partition, blocks('c', 1, 30));
  await partition.checkpoint();
  const old = (await partition.channelByName('default', 'c')) as ChannelState;
  apply(partition, blocks('c', 31, 5));
  const reading = partition.events(old, everything);
  apply(partition, deletion('c'));
  // Begun before the deletion was applied: either all that it saw, or the error.
  t.match(await reading.catch((error: Error) => error), Object);
  await rejectsWith(t, partition.events(old, everything), 'CHANNEL_NOT_FOUND');
  await rejectsWith(t, partition.seqAtTime(old, 0), 'CHANNEL_NOT_FOUND');
  apply(partition, blocks('c', 1, 3));
  await rejectsWith(t, partition.events(old, everything), 'CHANNEL_NOT_FOUND');
  await partition.checkpoint();
  await rejectsWith(t, partition.events(old, everything), 'CHANNEL_NOT_FOUND');
  t.same(await textsOf(partition, 'c'), ['1', '2', '3']);
  await store.close();
});

t.test('too many candidates are refused; a lost row of the index is noticed', async (t) => {
  const disk = await formatted(simDisk());
  const store = await opened(disk);
  const partition = store.partition(0);
  for (let i = 0; i < 20; i++) {
    apply(
      partition,
      madeAppend(`c${i}`, ['x']),
      encodeUpdateChannel({ tenant: 'default', channel: `c${i}`, requestId: '', labels: [['all', 'yes']] }),
    );
    if (i === 12) await partition.checkpoint();
  }
  const query = { tenant: 'default', prefix: '', after: undefined, limit: 5, label: ['all', 'yes'] } as const;
  await rejectsWith(
    t,
    partition.findChannels({ ...query, order: 'activity', scanMax: 19 }),
    'TOO_MANY_CHANNELS',
  );
  const newest = await partition.findChannels({ ...query, order: 'activity', scanMax: 20 });
  t.same(
    newest.map(({ name }) => name),
    ['c19', 'c18', 'c17', 'c16', 'c15'],
  );
  t.equal(
    (await partition.findChannels({ ...query, order: 'name', scanMax: 5 })).length,
    5,
    'all of them fit',
  );
  await partition.checkpoint();
  const lost = [...disk.rows.map.keys()].find((key) => key.charCodeAt(0) === RowKind.term) as string;
  disk.rows.map.delete(lost);
  await rejectsWith(t, partition.digest(), 'STORE_DAMAGED');
  await store.close();
});
