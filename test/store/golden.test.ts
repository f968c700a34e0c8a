/**
 * Databases as they were released: read back for ever. store-v1: rows of version 1,
 * under apply version 1, blocks compressed by brotli. store-v2: with deleted channels and
 * the index of labels and participants, blocks by lz4, open blocks in the channels' rows. store-v3: channels' rows that
 * name small blocks. store-v8: what came up to partition rows of version 8, under apply version 4: channels that are sealed
 * or may come back, cursors, deliveries, durable subscriptions. To make one for a new format:
 * GOLDEN=write node dist/test/store/golden.test.js (GOLDEN=write-8: that one)
 */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import {
  encodeCreateChannel,
  encodeDeleteChannel,
  encodeMoveCursor,
  encodeOpenProducer,
  encodeSealChannel,
  encodeUpdateChannel,
} from '../../src/conversation/command.js';
import { encodeReportDelivery } from '../../src/conversation/delivery-command.js';
import {
  encodeCreateSubscription,
  encodeDeleteSubscription,
  encodeStep,
  type StepOp,
} from '../../src/conversation/subscription-command.js';
import { deadKey } from '../../src/conversation/subscription-state.js';
import type { FindQuery } from '../../src/store/find-channels.js';
import { RowKind } from '../../src/store/keys.js';
import type { PartitionStore } from '../../src/store/types.js';
import { madeAppend, madeEntry, madeEvent } from '../conversation/make.js';
import type { SimKvDisk } from '../sim/sim-kv.js';
import { applyTo, formatted, opened, plain, simDisk } from './help.js';

const fileOf = (version: number) =>
  fileURLToPath(new URL(`../../../test/store/golden/store-v${version}.json`, import.meta.url));

interface Golden {
  digest: string;
  /** First and last content of "a room". */
  texts: [string, string];
  rows: [key: string, value: string][];
}

/** Some of everything, the same each time. */
async function build(applyVersion: number): Promise<{ disk: SimKvDisk; digest: string }> {
  const disk = await formatted(simDisk(), [3], 4096, { applyVersion });
  const store = await opened(disk);
  const partition = store.partition(3);
  const timeUs = 1_700_000_000_000_000;
  const opened3 = applyTo(partition, madeEntry([encodeOpenProducer('default', 'importer')], timeUs))
    .answers[0];
  const id = opened3?.kind === 'producer' ? opened3.producerId : 0;
  applyTo(
    partition,
    madeEntry(
      [
        encodeCreateChannel({
          tenant: 'default',
          channel: 'described',
          requestId: 'request-1',
          title: 'Ein Titel',
          class: 'support',
          labels: [['color', 'grün']],
          participants: [{ id: 'p1', displayName: 'Ann', role: 'user' }],
        }),
      ],
      timeUs + 1,
    ),
  );
  for (let n = 0; n < 90; n++) {
    const event = madeEvent(`text ${n} ${'and so on '.repeat(n)}`, { key: `key-${n}`, messageId: `id-${n}` });
    const producer = { id, firstCounter: n + 1 };
    applyTo(partition, madeEntry([madeAppend('a room', [event], { producer })], timeUs + 1000 * n));
    if (n % 30 === 29) await partition.checkpoint();
  }
  // A refusal among the producer's answers.
  const refused = madeAppend('a room', [madeEvent('late')], {
    producer: { id, firstCounter: 91 },
    condition: { kind: 'mustNotExist' },
  });
  applyTo(partition, madeEntry([refused], timeUs + 1_000_000));
  await partition.checkpoint();
  if (applyVersion > 1) await changeChannels(partition, timeUs + 2_000_000);
  await store.putFact('peer 2', Buffer.from('store-2'));
  const digest = await partition.digest();
  await store.close();
  return { disk, digest };
}

/** What came with apply version 2. */
async function changeChannels(partition: PartitionStore, timeUs: number): Promise<void> {
  const named = { tenant: 'default', requestId: '' };
  const apply = (...commands: Uint8Array[]) => applyTo(partition, madeEntry(commands, timeUs));
  const long = Array.from({ length: 9 }, (_, n) =>
    madeEvent(`long ${n} ${'and on '.repeat(400)}`, { messageId: `long-${n}` }),
  );
  for (const channel of ['used again', 'deleted', 'short-lived']) apply(madeAppend(channel, long));
  await partition.checkpoint();
  for (const channel of ['used again', 'deleted']) {
    apply(encodeDeleteChannel({ ...named, channel, allowMissing: false }));
  }
  apply(
    madeAppend('used again', [madeEvent('second life', { messageId: 'long-1' })]),
    encodeUpdateChannel({
      ...named,
      channel: 'used again',
      labels: [
        ['color', 'grün'],
        ['team', ''],
      ],
      participants: [
        { id: 'p1', displayName: 'Ann', role: 'user' },
        { id: 'p2', displayName: '', role: '' },
      ],
    }),
    encodeDeleteChannel({ ...named, channel: 'short-lived', requestId: 'deletion-1', allowMissing: false }),
  );
  await partition.checkpoint();
}

async function restored(version: number): Promise<{ golden: Golden; disk: SimKvDisk }> {
  const golden = JSON.parse(await readFile(fileOf(version), 'utf8')) as Golden;
  const disk = simDisk();
  disk.rows.apply(
    golden.rows.map(([key, value]) => [
      Buffer.from(key, 'hex').toString('latin1'),
      Buffer.from(value, 'hex'),
    ]),
  );
  return { golden, disk };
}

async function save(version: number, disk: SimKvDisk, digest: string, texts: Golden['texts']): Promise<void> {
  const rows = [...disk.rows.map]
    .map(([key, value]): [string, string] => [
      Buffer.from(key, 'latin1').toString('hex'),
      Buffer.from(value).toString('hex'),
    ])
    .sort();
  await writeFile(fileOf(version), `${JSON.stringify({ digest, texts, rows }, undefined, 1)}\n`);
}

/** Rows that compression does not touch are written today as they were then. */
function sameRows(t: Test, golden: Golden, today: SimKvDisk, kinds: readonly number[]): void {
  for (const [key, value] of golden.rows) {
    if (!kinds.includes(Number.parseInt(key.slice(0, 2), 16))) continue;
    const now = today.rows.map.get(Buffer.from(key, 'hex').toString('latin1'));
    t.equal(now && Buffer.from(now).toString('hex'), value, `row ${key.slice(0, 20)}`);
  }
}

/** What came with apply versions 3 and 4, no row of it in a value file. */
async function buildLater(): Promise<{ disk: SimKvDisk; digest: string }> {
  const disk = await formatted(simDisk(), [3], 4096, { applyVersion: 4 });
  const store = await opened(disk);
  const partition = store.partition(3);
  let timeUs = 1_700_000_000_000_000;
  const apply = (...commands: Uint8Array[]): void => {
    timeUs += 1_000;
    applyTo(partition, madeEntry(commands, timeUs));
  };
  const tenant = 'default';
  const named = (channel: string) => ({ tenant, channel, requestId: '' });
  apply(encodeOpenProducer(tenant, 'importer'));
  for (const channel of ['talk', 'closed', 'gone']) apply(madeAppend(channel, ['one', 'two', 'three']));
  await partition.checkpoint();
  apply(encodeSealChannel(named('closed')));
  apply(encodeDeleteChannel({ ...named('gone'), allowMissing: false }));
  apply(encodeMoveCursor({ tenant, channel: 'talk', reader: 'ann', seq: 2, mayGoBack: false }));
  const failed = [{ seq: 2, attempts: 3, reason: 'away' }];
  apply(
    encodeReportDelivery({ tenant, channel: 'talk', recipient: 'bob', upToSeq: 3, failed, recovered: [] }),
  );
  const settings = {
    description: 'all of it',
    ackDeadlineMs: 1_000,
    maxDeliveries: 1,
    retryDelayMs: 0,
    maxPendingChannels: 10,
    paused: false,
  };
  const selector = { channels: ['talk'], prefix: 't', label: ['color', 'grün'] as const, types: [1] };
  const places = new Map([[3, Uint8Array.of(0, 1, 0)]]);
  for (const name of ['worker', 'short-lived'])
    apply(
      encodeCreateSubscription({ tenant, name, requestId: 'r', selector, settings, fromTimeUs: 0, places }),
    );
  await partition.checkpoint();
  const step = (...ops: StepOp[]): void => {
    const { uid, version } = partition.subscriptionNow(tenant, 'worker') ?? { uid: '', version: 0 };
    apply(encodeStep({ tenant, name: 'worker', uid, version, ops }));
  };
  const ranges = [{ channel: 'talk', firstSeq: 1, lastSeq: 3, sinceUs: timeUs }];
  step({ kind: 'take', partition: 3, place: Uint8Array.of(0, 9, 0), ranges });
  step({ kind: 'lease', channel: 'talk', consumer: 'ann', toSeq: 1 });
  const { lease } = partition.subscriptionNow(tenant, 'worker')?.channels.get('talk') ?? {};
  const given = { channel: 'talk', lease: lease?.number ?? 0 };
  step({ kind: 'nack', ...given, delayMs: 0, counted: true, error: 'no use for it' });
  step({ kind: 'bury', channel: 'talk', seq: 1 });
  step({ kind: 'lease', channel: 'talk', consumer: 'bob', toSeq: 2 });
  apply(encodeDeleteSubscription({ tenant, name: 'short-lived', expected: undefined }));
  await partition.checkpoint();
  const digest = await partition.digest();
  await store.close();
  return { disk, digest };
}

t.test('the database of row version 8', async (t) => {
  if (process.env.GOLDEN === 'write-8') {
    const { disk, digest } = await buildLater();
    await save(8, disk, digest, ['', '']);
  }
  const { golden, disk } = await restored(8);
  const record = golden.rows.find(([key]) => key.startsWith('10'));
  t.equal(record?.[1].slice(0, 2), '08', "the partition's row is of that version");
  const store = await opened(disk);
  const partition = store.partition(3);
  t.equal(await partition.digest(), golden.digest, 'reads back to the same state');
  t.match(partition.meta, { cursorCount: 2, subscriptionCount: 1, trash: [{ name: 'gone' }] });
  t.match(await partition.channelByName('default', 'closed'), { headSeq: 3, sealedTimeUs: Number });
  t.match(await partition.readCursor('default', 'talk', 'ann', 'read'), { seq: 2 });
  t.match(await partition.readCursor('default', 'talk', 'bob', 'delivery'), { seq: 3, failed: [{ seq: 2 }] });
  const [worker, ...others] = partition.subscriptionsOf('default');
  t.same(others, []);
  t.match(worker, {
    name: 'worker',
    settings: { description: 'all of it' },
    deadLetters: new Map([[deadKey('talk', 1), { seq: 1 }]]),
  });
  t.match(worker?.channels.get('talk'), { acked: 1, to: 3, lease: { consumer: 'bob' } });
  // Goes on with what stands there: the numbers of those that are gone are not given out again.
  const numberBefore = partition.meta.nextSubscription ?? 0;
  applyTo(partition, madeEntry([madeAppend('talk', ['four'])]));
  await partition.checkpoint();
  t.equal((await partition.channelByName('default', 'talk'))?.headSeq, 4);
  t.ok(numberBefore > 2 && partition.meta.nextSubscription === numberBefore);
  await store.close();

  const today = await buildLater();
  t.equal(today.digest, golden.digest);
  const { partition: record8, channel, cursor, subscription, ended } = RowKind;
  sameRows(t, golden, today.disk, [...plainKinds, record8, channel, cursor, subscription, ended]);
});

t.test('the database of row version 3', async (t) => {
  if (process.env.GOLDEN === 'write') {
    const { disk, digest } = await build(2);
    await save(3, disk, digest, ['', '']);
  }
  const { golden, disk } = await restored(3);
  await readsBack(t, golden, disk);
  const today = await build(2);
  t.equal(today.digest, golden.digest);
  sameRows(t, golden, today.disk, [...plainKinds, RowKind.channel, RowKind.ended, RowKind.term]);
});

t.test('the database of row version 2', async (t) => {
  const { golden, disk } = await restored(2);
  await readsBack(t, golden, disk);
  const today = await build(2);
  t.equal(today.digest, golden.digest);
  sameRows(t, golden, today.disk, [...plainKinds, RowKind.term]);
});

async function readsBack(t: Test, golden: Golden, disk: SimKvDisk): Promise<void> {
  const store = await opened(disk);
  const partition = store.partition(3);
  t.equal(await partition.digest(), golden.digest, 'reads back to the same state');
  t.match(partition.meta, { channelCount: 3, deletedCount: 2, settings: { applyVersion: 2 } });
  t.match(partition.deletedChannel('default', 'deleted'), { headSeq: 9, revision: 1 });
  t.equal(await partition.channelByName('default', 'deleted'), undefined);
  const channel = await partition.channelByName('default', 'used again');
  t.match(channel, { baseSeq: 9, headSeq: 10, revision: 2 });
  if (channel === undefined) return;
  const range = { fromSeq: 1, toSeq: 90, reverse: false, maxEvents: 100, maxBytes: 1e9 };
  t.match((await partition.events(channel, range)).map(plain), [{ seq: 10 }]);
  t.equal(await partition.seqOfMessageId(channel.id, 'long-1'), 10);
  const query = {
    tenant: 'default',
    prefix: '',
    order: 'name',
    after: undefined,
    limit: 9,
    scanMax: 9,
  } as const;
  const names = async (filter: Partial<FindQuery>) =>
    (await partition.findChannels({ ...query, ...filter })).map(({ name }) => name);
  t.same(await names({ label: ['color', 'grün'] }), ['described', 'used again']);
  t.same(await names({ participant: 'p2' }), ['used again']);
  // Goes on with what stands there, whatever wrote it.
  const talk = await partition.channelByName('default', 'a room');
  for (let n = 0; n < 12; n++) {
    applyTo(partition, madeEntry([madeAppend('a room', [`more ${n}`])]));
    await partition.checkpoint();
  }
  const page = { fromSeq: 1, toSeq: 200, reverse: false, maxEvents: 200, maxBytes: 1e9 };
  const now = await partition.channelByName('default', 'a room');
  t.equal(talk?.headSeq, 90);
  t.equal(now?.headSeq, 102);
  if (now !== undefined) {
    t.same(
      (await partition.events(now, page)).map(({ seq }) => seq),
      Array.from({ length: 102 }, (_, n) => n + 1),
    );
  }
  await partition.digest();
  await store.close();
}

const plainKinds: number[] = [RowKind.channelName, RowKind.producer, RowKind.keyRun, RowKind.messageIdRun];

t.test('the database of format 1', async (t) => {
  if (process.env.GOLDEN === 'write-1') {
    const { disk, digest } = await build(1);
    await save(1, disk, digest, ['text 0 ', `text 89 ${'and so on '.repeat(89)}`]);
  }
  const { golden, disk } = await restored(1);
  const store = await opened(disk);
  const partition = store.partition(3);
  t.equal(await partition.digest(), golden.digest, 'reads back to the same state');
  const query = {
    tenant: 'default',
    prefix: '',
    order: 'activity',
    after: undefined,
    limit: 9,
    scanMax: 9,
  } as const;
  const find = async () =>
    (await partition.findChannels({ ...query, label: ['color', 'grün'], participant: 'p1' })).map(
      (c) => c.name,
    );
  t.same(await find(), ['described'], 'found without the index, which there was none then');
  t.equal(Buffer.from(store.getFact('peer 2') ?? []).toString(), 'store-2');
  const channel = await partition.channelByName('default', 'a room');
  t.equal(channel?.headSeq, 90);
  if (channel === undefined) return;
  const range = { fromSeq: 1, toSeq: 90, reverse: false, maxEvents: 100, maxBytes: 1e9 };
  const contents = (await partition.events(channel, range)).map((event) =>
    Buffer.from(plain(event).content, 'hex').subarray(16).toString(),
  );
  t.strictSame([contents[0], contents.at(-1)], golden.texts);
  const importer = partition.producerByName('default', 'importer');
  t.equal(importer?.lastCounter, 91);
  const answers = [...(importer?.answers ?? [])].map(({ answer }) => answer);
  t.match(
    answers.slice(0, 90),
    Array.from({ length: 90 }, (_, n) => ({ kind: 'appended', firstSeq: n + 1 })),
  );
  t.match(answers[90], { kind: 'refused', reason: 'CONDITION_FAILED' });
  t.equal(await partition.seqOfMessageId(channel.id, 'id-44'), 45);
  t.equal(partition.key(channel.id, 'key-44')?.seq, 45);
  // The next checkpoint makes the index; the digest compares it with the channels.
  applyTo(partition, madeEntry([madeAppend('described', ['x'])]));
  await partition.checkpoint();
  t.same(await find(), ['described']);
  t.equal([...disk.rows.map.keys()].filter((key) => key.charCodeAt(0) === RowKind.term).length, 2);
  await partition.digest();
  await store.close();

  const { disk: today, digest } = await build(1);
  t.equal(digest, golden.digest);
  sameRows(t, golden, today, plainKinds);
});
