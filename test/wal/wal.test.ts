import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import t, { type Test } from 'tap';
import { formatWal, type LogDevice, openDiskDevice } from '../../src/wal/index.js';
import { contents, entry, identity, open, refused, seededRandom, write } from './harness.js';

const segmentBytes = 256 * 1024;

async function formatted(t: Test): Promise<{ directory: string; device: () => LogDevice }> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hansard-wal-'));
  t.teardown(() => fs.rmSync(directory, { recursive: true, force: true }));
  const device = openDiskDevice({ directory });
  await formatWal(device, { ...identity, segmentBytes, random: seededRandom(1) });
  await device.close();
  return { directory, device: () => openDiskDevice({ directory }) };
}

t.test('what was written is there after a restart', async (t) => {
  const { device } = await formatted(t);
  const wal = await open(device(), { segmentBytes });
  t.same(wal.groups(), []);
  wal.addGroup(3, 31);
  wal.addGroup(5, 51);
  await write(
    wal,
    {
      partition: 3,
      hardState: { term: 2, vote: 31, commit: 0 },
      entries: [entry(3, 2, 1, 'a'), entry(3, 2, 2, '')],
    },
    { partition: 5, hardState: { term: 1, vote: 0, commit: 0 }, entries: [] },
  );
  await write(wal, {
    partition: 3,
    hardState: { term: 2, vote: 31, commit: 2 },
    entries: [entry(3, 2, 3, 'ccc')],
  });
  t.equal(wal.group(3)?.entries(1, 4, 1000)[2]?.data?.length, 3, 'cached');
  await wal.close();

  const again = await open(device(), { segmentBytes });
  const group = again.group(3);
  t.ok(group !== undefined);
  if (group === undefined) return;
  t.equal(group.replicaId, 31);
  t.same(group.hardState, { term: 2, vote: 31, commit: 2 });
  t.same(again.group(5)?.hardState, { term: 1, vote: 0, commit: 0 });
  t.same(await contents(group), [
    { term: 2, index: 1, text: 'a' },
    { term: 2, index: 2, text: '' },
    { term: 2, index: 3, text: 'ccc' },
  ]);
  t.equal(group.term(0), 0);
  t.equal(group.term(4), 'unavailable');
  // A new leader replaces what was not committed.
  await write(again, {
    partition: 3,
    hardState: { term: 4, vote: 0, commit: 2 },
    entries: [entry(3, 4, 3, 'C')],
  });
  group.compact(1, 2);
  t.equal(group.firstIndex(), 2);
  await again.close();

  const third = await open(device(), { segmentBytes });
  const last = third.group(3);
  t.ok(last !== undefined);
  if (last === undefined) return;
  t.equal(last.firstIndex(), 2, 'the closing batch records the start');
  t.equal(last.term(1), 2, 'the term before the first is known');
  t.same(await contents(last), [
    { term: 2, index: 2, text: '' },
    { term: 4, index: 3, text: 'C' },
  ]);
  last.reset(100, 9);
  await write(third, { partition: 3, entries: [entry(3, 9, 101, 'after')] });
  await third.close();

  const fourth = await open(device(), { segmentBytes });
  const reset = fourth.group(3);
  t.ok(reset !== undefined);
  if (reset === undefined) return;
  t.equal(reset.term(100), 9);
  t.same(await contents(reset), [{ term: 9, index: 101, text: 'after' }]);
  await fourth.close();
});

t.test('a later replica of a partition begins anew, and nothing of the earlier one comes back', async (t) => {
  const { device } = await formatted(t);
  const wal = await open(device(), { segmentBytes });
  wal.addGroup(3, 31);
  wal.addGroup(5, 51);
  await write(wal, {
    partition: 3,
    hardState: { term: 7, vote: 31, commit: 2 },
    entries: [entry(3, 7, 1, 'a'), entry(3, 7, 2, 'b')],
  });
  const late = write(wal, { partition: 3, entries: [entry(3, 7, 3, 'c')] });
  t.throws(() => wal.addGroup(3, 32), /still writes/, 'not while something of it is on its way');
  await late;
  t.throws(() => wal.addGroup(3, 31), /follows 31/, 'the same is no later one');
  t.throws(() => wal.addGroup(3, 30), /follows 31/, 'nor is an earlier one');
  const fresh = wal.addGroup(3, 32);
  t.match(fresh, { replicaId: 32, hardState: { term: 0, vote: 0, commit: 0 } });
  t.same([fresh.firstIndex(), fresh.lastIndex()], [1, 0]);
  // A term below that of the earlier one: it is another voter.
  fresh.reset(40, 2);
  await write(wal, {
    partition: 3,
    hardState: { term: 2, vote: 0, commit: 41 },
    entries: [entry(3, 2, 41, 'new')],
  });
  const check = async (from: typeof wal) => {
    const group = from.group(3);
    if (group === undefined) throw new Error('no group');
    t.match(group, { replicaId: 32, hardState: { term: 2, vote: 0, commit: 41 } });
    t.same(await contents(group), [{ term: 2, index: 41, text: 'new' }]);
  };
  await check(wal);
  await wal.close();
  // By the batches, and then by the table of a segment that the start opened.
  for (let start = 0; start < 3; start++) {
    const again = await open(device(), { segmentBytes });
    await check(again);
    await write(again, { partition: 5, hardState: { term: start + 1, vote: 0, commit: 0 }, entries: [] });
    await again.close();
  }
});

t.test('absence is a loss, never a fresh log', async (t) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hansard-wal-'));
  t.teardown(() => fs.rmSync(directory, { recursive: true, force: true }));
  const device = openDiskDevice({ directory });
  await refused(t, open(device), 'REPLICA_LOST');
  await device.close();

  const { device: foreign } = await formatted(t);
  const other = foreign();
  await refused(t, open(other, { storeId: 'ffffffffffffffff' }), 'REPLICA_LOST');
  await refused(t, formatWal(other, { ...identity, random: seededRandom(1) }), 'DIRECTORY_NOT_EMPTY');
  await other.close();
});

t.test('segments are used again once their entries are sealed', async (t) => {
  const { directory, device } = await formatted(t);
  const wal = await open(device(), { segmentBytes, maxLogBytes: 4 * segmentBytes });
  wal.addGroup(0, 1);
  wal.addGroup(1, 2);
  await write(wal, {
    partition: 1,
    hardState: { term: 1, vote: 2, commit: 0 },
    entries: [entry(1, 1, 1, 'holds')],
  });
  const data = Buffer.alloc(20_000, 'x');
  for (let index = 1; index <= 100; index++) {
    await write(wal, { partition: 0, entries: [entry(0, 1, index, data)] });
    if (index > 5) wal.group(0)?.compact(index - 5, 1);
  }
  t.same(wal.holdingBack(), [1], 'the idle partition holds back all segments');
  t.ok(wal.stats().segmentBytes > 4 * segmentBytes);
  wal.group(1)?.compact(1, 1);
  for (let index = 101; index <= 140; index++) {
    await write(wal, { partition: 0, entries: [entry(0, 1, index, data)] });
    wal.group(0)?.compact(index - 5, 1);
  }
  t.same(wal.holdingBack(), []);
  t.ok(wal.stats().segments <= 4, `${wal.stats().segments} segments`);
  await wal.close();
  t.ok(fs.readdirSync(directory).length <= 8, 'old files are gone');
  const again = await open(device(), { segmentBytes });
  t.same(
    again.group(1)?.hardState,
    { term: 1, vote: 2, commit: 1 },
    'votes outlive the segments they were in',
  );
  t.equal(again.group(1)?.firstIndex(), 2);
  t.equal((await contents(again.group(0) as NonNullable<ReturnType<typeof again.group>>)).length, 5);
  await again.close();
});

t.test('a commit index alone is not written, but rides along', async (t) => {
  const { device } = await formatted(t);
  const wal = await open(device(), { segmentBytes, closeAfterMs: 100_000 });
  wal.addGroup(0, 1);
  await write(wal, {
    partition: 0,
    hardState: { term: 1, vote: 1, commit: 0 },
    entries: [entry(0, 1, 1, 'a')],
  });
  const { batches } = wal.stats();
  const order: number[] = [];
  wal.write([{ partition: 0, hardState: { term: 1, vote: 1, commit: 1 }, entries: [] }], () => order.push(1));
  await write(wal, { partition: 0, hardState: { term: 1, vote: 1, commit: 1 }, entries: [] });
  t.equal(wal.stats().batches, batches);
  t.same(order, [1]);
  t.same(wal.group(0)?.hardState, { term: 1, vote: 1, commit: 1 });
  await wal.close();
  const again = await open(device(), { segmentBytes });
  t.same(again.group(0)?.hardState, { term: 1, vote: 1, commit: 1 }, 'by the closing batch');
  await again.close();
});

t.test('a write larger than a batch is split, its callback comes last', async (t) => {
  const { device } = await formatted(t);
  const wal = await open(device(), { segmentBytes, maxBatchBytes: 32 * 1024, cacheBytes: 10_000 });
  wal.addGroup(0, 1);
  const entries = Array.from({ length: 60 }, (_, i) =>
    entry(0, 1, i + 1, Buffer.alloc(i === 30 ? 50_000 : 5000, i)),
  );
  await write(wal, { partition: 0, entries });
  t.equal(wal.group(0)?.lastIndex(), 60);
  t.equal(wal.pendingBytes, 0);
  t.ok(wal.stats().cachedBytes <= 10_000, 'the cache is bounded, also where nothing was released');
  const log = wal.group(0);
  const missing = log?.entries(1, 61, 1e9) ?? [];
  t.ok(missing.some((e) => e.data === undefined));
  t.ok(await log?.fill(missing));
  for (const [i, e] of missing.entries())
    t.ok(Buffer.compare(e.data as Uint8Array, entries[i]?.data as Uint8Array) === 0);
  t.equal(log?.entries(1, 61, 12_000).length, 2, 'entries() stops at maxBytes');
  t.equal(log?.entries(1, 61, 1).length, 1, 'but gives at least one');
  await wal.close();
});
