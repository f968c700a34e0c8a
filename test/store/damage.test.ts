import assert from 'node:assert/strict';
import t from 'tap';
import { HansardError } from '../../src/common/errors.js';
import { encodeOpenProducer } from '../../src/conversation/command.js';
import { decodeEntry } from '../../src/conversation/decoded-entry.js';
import type { ChannelState } from '../../src/conversation/types.js';
import { RowKind, runPlaceOfKey } from '../../src/store/keys.js';
import type { PartitionStore } from '../../src/store/types.js';
import { madeAppend, madeEntry, madeEvent } from '../conversation/make.js';
import type { SimKvDisk } from '../sim/sim-kv.js';
import { applyTo, formatted, opened, plain, rejectsWith, seededRandom, simDisk } from './help.js';

let timeUs = 1_700_000_000_000_000;

/** Some of everything, sealed in a few checkpoints. */
async function filled(rounds = 4): Promise<SimKvDisk> {
  const disk = await formatted(simDisk());
  const store = await opened(disk);
  const partition = store.partition(0);
  applyTo(partition, madeEntry([encodeOpenProducer('default', 'importer')], timeUs));
  for (let round = 0; round < rounds; round++) await moreRounds(partition, round);
  await store.close();
  return disk;
}

async function moreRounds(partition: PartitionStore, round: number): Promise<void> {
  for (let i = 0; i < 30; i++) {
    const n = round * 30 + i;
    timeUs += 1_000_000;
    const event = madeEvent(`text ${n} ${'and more '.repeat(n % 20)}`, {
      key: `key ${n}`,
      messageId: `id ${n}`,
    });
    applyTo(partition, madeEntry([madeAppend(`channel ${n % 4}`, [event])], timeUs));
  }
  await partition.checkpoint();
}

/** All that can be asked, as plain data. */
async function readAll(disk: SimKvDisk): Promise<unknown> {
  const store = await opened(disk, 0);
  try {
    const partition = store.partition(0);
    const names = await partition.listChannels({
      tenant: 'default',
      prefix: '',
      after: undefined,
      limit: 100,
    });
    const pages: unknown[] = [];
    const all = { fromSeq: 1, toSeq: 1e9, maxEvents: 1e9, maxBytes: 1e9 };
    for (let i = 0; i < 5; i++) {
      const channel = await partition.channelByName('default', `channel ${i}`);
      if (channel === undefined) {
        pages.push(undefined);
        continue;
      }
      for (const reverse of [true, false]) {
        pages.push((await partition.events(channel, { ...all, reverse })).map(plain));
      }
      pages.push(await partition.seqAtTime(channel, timeUs - 50_000_000));
    }
    const found: unknown[] = [];
    for (let n = 0; n < 130; n += 3) {
      found.push(await partition.seqOfMessageId(1 + (n % 4), `id ${n}`));
      found.push(partition.key(1 + (n % 4), `key ${n}`)?.seq);
    }
    const producer = partition.producerByName('default', 'importer');
    return structuredClone({
      names,
      pages,
      found,
      producer,
      meta: partition.meta,
      digest: await partition.digest(),
    });
  } finally {
    await store.close();
  }
}

/** Damaged rows answer with damage, or the row did not matter to the answer. */
async function neverWrong(disk: SimKvDisk, expected: unknown, what: string): Promise<boolean> {
  try {
    assert.deepEqual(await readAll(disk), expected, what);
    return false;
  } catch (error) {
    if (!(error instanceof HansardError)) throw error;
    const allowed = ['STORE_DAMAGED', 'FORMAT_TOO_NEW', 'REPLICA_LOST'];
    assert.ok(allowed.includes(error.reason), `${what}: ${error.reason} ${error.message}`);
    return true;
  }
}

const kinds = Object.entries(RowKind);
const kindName = (key: Uint8Array) => kinds.find(([, kind]) => kind === key[0])?.[0] ?? 'unknown';

t.test('a flipped bit, a cut or a lost row is damage, never another answer', async (t) => {
  const disk = await filled();
  const expected = await readAll(disk);
  const rows = [...disk.rows.map].map(([key, value]) => [Buffer.from(key, 'latin1'), value] as const);
  const random = seededRandom(5);
  const seen = new Map<string, number>();
  for (const [key, value] of rows) {
    const harms: [string, Buffer | undefined][] = [['lost', undefined]];
    const flipped = Buffer.from(value);
    const at = random.u32() % value.length;
    flipped[at] = (flipped[at] as number) ^ (1 << (random.u32() % 8));
    harms.push(['flipped', flipped], ['cut', Buffer.from(value.subarray(0, random.u32() % value.length))]);
    const other = rows.find(([k]) => k[0] === key[0] && Buffer.compare(k, key) !== 0);
    if (other !== undefined) harms.push(['swapped', Buffer.from(other[1])]);
    for (const [harm, bytes] of harms) {
      disk.damage((k, v) => (Buffer.compare(k, key) === 0 ? bytes : v));
      const what = `${kindName(key)} ${harm}`;
      const noticed = await neverWrong(disk, expected, what);
      if (noticed) seen.set(what, (seen.get(what) ?? 0) + 1);
      disk.rows.apply([[key.toString('latin1'), value]]);
    }
  }
  t.strictSame(await readAll(disk), expected, 'put back, all is well');
  for (const kind of [
    'format',
    'partition',
    'channel',
    'channelName',
    'block',
    'producer',
    'keyRun',
    'messageIdRun',
    'checkpoint',
    'change',
  ]) {
    for (const harm of ['lost', 'flipped', 'cut'])
      t.ok(seen.get(`${kind} ${harm}`), `${kind} ${harm} was noticed`);
  }
});

t.test('a checkpoint that is gone as a whole, the last excepted, is noticed at open', async (t) => {
  const disk = await filled(2);
  const before = new Map(disk.rows.map);
  const store = await opened(disk);
  await moreRounds(store.partition(0), 2);
  const lost = new Map(disk.rows.map);
  await moreRounds(store.partition(0), 3);
  await store.close();
  // LevelDB skips a damaged record of its log: of the third batch nothing remains, the fourth is there.
  for (const [key, value] of lost) {
    if (before.get(key) === value || disk.rows.map.get(key) !== value) continue;
    disk.rows.apply([[key, before.get(key)]]);
  }
  await rejectsWith(t, opened(disk), 'STORE_DAMAGED');
});

t.test('an older row in the place of a newer one does not pass for the state', async (t) => {
  const disk = await filled(2);
  const isChannel = (key: string) => key.charCodeAt(0) === RowKind.channel;
  const old = [...disk.rows.map].filter(([key]) => isChannel(key));
  const store = await opened(disk);
  await moreRounds(store.partition(0), 2);
  await store.close();
  disk.rows.apply([old[1] as [string, Uint8Array]]);
  const again = await opened(disk);
  await rejectsWith(t, again.partition(0).digest(), 'STORE_DAMAGED');
  await again.close();
});

t.test('with prefetching, applying does not block; without, it does and answers the same', async (t) => {
  const disk = await filled(3);
  const entries = Array.from({ length: 60 }, (_, i) => {
    const event = madeEvent(`text ${i} ${'and more '.repeat(i % 20)}`, {
      key: `key ${i}`,
      messageId: `new ${i}`,
    });
    const repeated = madeEvent('other content', { messageId: `id ${i}` });
    return madeEntry(
      [
        encodeOpenProducer('default', 'importer'),
        madeAppend(`channel ${i % 4}`, [event]),
        madeAppend(`channel ${i % 4}`, [repeated]),
        madeAppend(`new channel ${i}`, [madeEvent('first', { key: 'a' })]),
      ],
      timeUs,
    );
  });
  const outcomes: unknown[] = [];
  for (const fetch of [true, false]) {
    const store = await opened(disk, 4 * 1024 * 1024);
    const partition = store.partition(0);
    const answers: unknown[] = [];
    for (const data of entries) {
      if (fetch) await partition.prefetch(decodeEntry(data));
      answers.push(applyTo(partition, data).answers);
    }
    const { syncReads } = store.stats();
    if (fetch) t.equal(syncReads, 0);
    else t.ok(syncReads > 0, `${syncReads} blocking reads`);
    const again = entries[0] as Uint8Array;
    t.equal(partition.prefetch(decodeEntry(again)), undefined, 'what is at hand needs no wait');
    outcomes.push(JSON.parse(JSON.stringify(answers)));
    await store.close();
  }
  t.strictSame(outcomes[0], outcomes[1]);
  t.match(JSON.stringify(outcomes[0]), /MESSAGE_ID_EXISTS/);
  t.match(JSON.stringify(outcomes[0]), /"duplicate":true/);
});

t.test('runs merge, so that their number stays small; keys expire by whole runs', async (t) => {
  const disk = await formatted(simDisk());
  const store = await opened(disk, 1024 * 1024);
  const partition = store.partition(0);
  const runsOf = (kind: number) =>
    new Set(
      [...disk.rows.map.keys()]
        .filter((key) => key.charCodeAt(0) === kind)
        .map((key) => runPlaceOfKey(Buffer.from(key, 'latin1')).run),
    ).size;
  let most = 0;
  for (let round = 0; round < 120; round++) {
    timeUs += 600_000_000;
    const events = Array.from({ length: 1 + (round % 40) }, (_, i) =>
      madeEvent(`${round} ${i}`, { key: `k ${round} ${i}`, messageId: `m ${round} ${i}` }),
    );
    applyTo(partition, madeEntry([madeAppend('c', events)], timeUs));
    await partition.checkpoint();
    most = Math.max(most, runsOf(RowKind.keyRun), runsOf(RowKind.messageIdRun));
  }
  t.ok(most < 30, `at most ${most} runs, retired ones included, after 120 checkpoints`);
  const channel = (await partition.channelByName('default', 'c')) as ChannelState;
  let seq = 0;
  for (let round = 0; round < 120; round++) {
    for (let i = 0; i < 1 + (round % 40); i++) {
      seq++;
      assert.equal(await partition.seqOfMessageId(channel.id, `m ${round} ${i}`), seq);
      assert.equal(partition.key(channel.id, `k ${round} ${i}`)?.seq, seq);
    }
  }
  // Two days on: a key may be used again, and the old runs go.
  timeUs += 49 * 3_600_000_000;
  const again = madeEntry([madeAppend('c', [madeEvent('again', { key: 'k 3 0' })])], timeUs);
  t.match(applyTo(partition, again).answers[0], { kind: 'appended', duplicate: false, firstSeq: seq + 1 });
  await partition.checkpoint();
  t.equal(partition.key(channel.id, 'k 3 0')?.seq, seq + 1, 'the newer use counts');
  applyTo(partition, madeEntry([madeAppend('c', ['x'])], timeUs));
  await partition.checkpoint();
  t.equal(runsOf(RowKind.keyRun), 1, 'one run of keys is left');
  t.equal(await partition.seqOfMessageId(channel.id, 'm 0 0'), 1, 'message ids stay');
  await store.close();
});

t.test('what was written by a newer version is refused by name', async (t) => {
  const disk = await filled(1);
  const { xxh64Seeded } = await import('../../src/common/hash.js');
  disk.damage((key, value) => {
    if (key[0] !== RowKind.format) return value;
    value.writeUInt16LE(3, 9);
    value.writeBigUInt64LE(xxh64Seeded(value.subarray(9), xxh64Seeded(key, 1n)), 1);
    return value;
  });
  await rejectsWith(t, opened(disk), 'FORMAT_TOO_NEW');
});
