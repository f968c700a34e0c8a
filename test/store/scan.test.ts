/** Scanning for verification: all that is there, what is damaged told, nothing hidden by caches. */
import t from 'tap';
import { encodeDeleteChannel } from '../../src/conversation/command.js';
import type { ChannelState } from '../../src/conversation/types.js';
import { firstSeqOfBlockKey, RowKind } from '../../src/store/keys.js';
import type { ScannedChannel, ScannedEvents } from '../../src/store/scan.js';
import type { PartitionStore } from '../../src/store/types.js';
import { madeAppend, madeEntry, madeEvent } from '../conversation/make.js';
import type { SimKvDisk } from '../sim/sim-kv.js';
import { applyTo, formatted, opened, plain, simDisk } from './help.js';

let timeUs = 1_700_000_000_000_000;

function append(partition: PartitionStore, channel: string, text: string): void {
  timeUs += 1_000;
  applyTo(partition, madeEntry([madeAppend(channel, [madeEvent(text)])], timeUs));
}

function remove(partition: PartitionStore, channel: string): void {
  timeUs += 1_000;
  const command = encodeDeleteChannel({
    tenant: 'default',
    channel,
    requestId: '',
    expected: undefined,
    allowMissing: false,
    permanent: true,
  });
  applyTo(partition, madeEntry([command], timeUs));
}

/** Full blocks, open ones, tails, a name that was used twice, one that is deleted, one of empty and one of equal messages. */
async function filled(): Promise<SimKvDisk> {
  const disk = await formatted(simDisk());
  const store = await opened(disk);
  const partition = store.partition(0);
  for (let i = 0; i < 60; i++) {
    append(partition, 'long', `text ${i} ${'and more '.repeat(i % 9)}`);
    append(partition, 'same', 'the same line');
    append(partition, 'empty', '');
    if (i % 20 === 19) await partition.checkpoint();
  }
  for (let i = 0; i < 30; i++) append(partition, 'twice', `first ${i}`);
  append(partition, 'deleted', 'x');
  await partition.checkpoint();
  remove(partition, 'twice');
  remove(partition, 'deleted');
  for (let i = 0; i < 5; i++) append(partition, 'twice', `second ${i}`);
  await partition.checkpoint();
  await store.close();
  return disk;
}

async function listed(partition: PartitionStore, limit = 1_000): Promise<ScannedChannel[]> {
  const all: ScannedChannel[] = [];
  for (;;) {
    const after = all.at(-1)?.key;
    const { channels } = await partition.scanChannels({ tenant: '', prefix: '', after, limit });
    all.push(...channels);
    if (channels.length < limit) return all;
  }
}

async function scanned(
  partition: PartitionStore,
  { tenant, name, uid }: Pick<ChannelState, 'tenant' | 'name' | 'uid'>,
  maxEvents = 1_000,
): Promise<Pick<ScannedEvents, 'events' | 'damages' | 'channel'>> {
  const events: ScannedEvents['events'][number][] = [];
  const damages: ScannedEvents['damages'][number][] = [];
  for (let fromSeq = 1; ; ) {
    const query = { tenant, name, uid, fromSeq, maxEvents, maxBytes: 1e9 };
    const page = await partition.scanEvents(query);
    events.push(...page.events);
    damages.push(...page.damages);
    if (page.nextSeq === 0) return { events, damages, channel: page.channel };
    if (page.nextSeq <= fromSeq) throw new Error('a scan must get on');
    fromSeq = page.nextSeq;
  }
}

t.test('a scan finds what reading finds, wherever it lies', async (t) => {
  const disk = await filled();
  const store = await opened(disk);
  const partition = store.partition(0);
  // Now there are tails, too: of a known channel, of a new one, and a deletion.
  for (let i = 0; i < 3; i++) append(partition, 'long', `late ${i}`);
  append(partition, 'new', 'x');
  remove(partition, 'same');
  const checkpoint = partition.checkpoint();
  append(partition, 'long', 'while it is sealed');
  const names = ['deleted', 'empty', 'long', 'new', 'same', 'twice'];
  for (const limit of [1, 4, 1_000]) {
    const channels = await listed(partition, limit);
    t.same(
      channels.map(({ key }) => key.toString()),
      names.map((name) => `default\0${name}`),
    );
    t.same(
      channels.filter(({ deleted }) => deleted).map(({ state }) => state?.name),
      ['deleted', 'same'],
    );
    t.ok(channels.every(({ damage }) => damage === ''));
  }
  for (const maxEvents of [1, 7, 1_000]) {
    for (const { state, deleted } of await listed(partition)) {
      if (state === undefined || deleted) continue;
      const { events, damages } = await scanned(partition, state, maxEvents);
      const range = { fromSeq: 1, toSeq: 1e9, reverse: false, maxEvents: 1e9, maxBytes: 1e9 };
      t.same(damages, []);
      t.same(events.map(plain), (await partition.events(state, range)).map(plain), state.name);
    }
  }
  const wrong = await scanned(partition, { tenant: 'default', name: 'long', uid: 'c0000000000000099' });
  t.equal(wrong.channel, undefined, 'another uid is another channel');
  const some = await partition.scanChannels({ tenant: 'default', prefix: 'l', after: undefined, limit: 9 });
  t.same(
    some.channels.map(({ state }) => state?.name),
    ['long'],
  );
  const others = await partition.scanChannels({ tenant: 'acme', prefix: '', after: undefined, limit: 9 });
  t.same(others.channels, []);
  t.equal(others.appliedIndex, partition.appliedIndex);
  await checkpoint;
  await store.close();
});

t.test('each lost or flipped block is told with its seqs, all other events are there', async (t) => {
  const disk = await filled();
  const store = await opened(disk);
  const partition = store.partition(0);
  const channels = (await listed(partition)).flatMap(({ state, deleted }) =>
    state === undefined || deleted ? [] : [state],
  );
  const sound = new Map<string, Awaited<ReturnType<typeof scanned>>>();
  for (const channel of channels) sound.set(channel.name, await scanned(partition, channel));
  // Reading has them in the caches now, which must not hide what is wrong.
  const range = { fromSeq: 1, toSeq: 1e9, reverse: false, maxEvents: 1e9, maxBytes: 1e9 };
  for (const channel of channels) await partition.events(channel, range);
  const blocks = [...disk.rows.map].filter(([key]) => key.charCodeAt(0) === RowKind.block);
  t.ok(blocks.length > 10, `${blocks.length} blocks`);
  let found = 0;
  for (const [key, value] of blocks) {
    const firstSeq = firstSeqOfBlockKey(Buffer.from(key, 'latin1'));
    const flipped = Buffer.from(value);
    flipped[flipped.length >> 1] = (flipped[flipped.length >> 1] as number) ^ 1;
    for (const [harm, bytes] of [
      ['lost', undefined],
      ['flipped', flipped],
      ['cut', flipped.subarray(0, 4)],
    ] as const) {
      disk.rows.apply([[key, bytes]]);
      for (const channel of channels) {
        const { events, damages } = await scanned(partition, channel, 9);
        if (damages.length === 0) continue;
        found++;
        const bad = damages[0];
        t.equal(bad?.firstSeq, firstSeq, `${channel.name} ${harm}`);
        const isBad = (seq: number) => damages.some((d) => seq >= d.firstSeq && seq <= d.lastSeq);
        const rest = sound.get(channel.name)?.events.filter(({ seq }) => !isBad(seq)) ?? [];
        if (JSON.stringify(events.map(plain)) !== JSON.stringify(rest.map(plain)))
          t.fail(`${channel.name}, block ${firstSeq} ${harm}: other events differ`);
        const block = sound.get(channel.name)?.events.filter(({ seq }) => isBad(seq)) ?? [];
        t.ok(block.length < 40, 'no more than a block');
      }
      disk.rows.apply([[key, value]]);
    }
  }
  // Blocks of the channel that had the name before are nobody's.
  t.ok(found >= 3 * (blocks.length - 6), `${found} of ${3 * blocks.length} harms told`);
  for (const channel of channels)
    t.same((await scanned(partition, channel)).damages, [], 'put back, all is well');
  await store.close();
});

t.test('damaged rows of channels are told by name, and hide no other channel', async (t) => {
  const disk = await filled();
  const store = await opened(disk);
  const partition = store.partition(0);
  const before = await listed(partition);
  for (const kind of [RowKind.channel, RowKind.channelName]) {
    for (const [key, value] of [...disk.rows.map].filter(([k]) => k.charCodeAt(0) === kind)) {
      const name = key.slice(7);
      const flipped = Buffer.from(value);
      flipped[flipped.length - 1] = (flipped[flipped.length - 1] as number) ^ 1;
      for (const bytes of [undefined, flipped, Buffer.alloc(3)]) {
        disk.rows.apply([[key, bytes]]);
        const now = await listed(partition);
        t.equal(now.length, before.length);
        for (const { key: other, damage } of now) {
          if ((damage !== '') !== (other.toString('latin1') === name)) t.fail(`${name} ${other}: ${damage}`);
        }
        const whose = before.find((each) => each.key.toString('latin1') === name);
        if (whose?.state !== undefined && !whose.deleted) {
          const { channel } = await scanned(partition, whose.state);
          t.not(channel?.damage, '', 'its events say so, too');
        }
        disk.rows.apply([[key, value]]);
      }
    }
  }
  await store.close();
});
