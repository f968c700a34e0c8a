/** Large rows in files beside LevelDB: docs/format.md, "Value files". Real files. */
import {
  appendFileSync,
  copyFileSync,
  cpSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import type { Kv } from '../../src/common/env.js';
import { blockKey, kindRange, RowKind } from '../../src/store/keys.js';
import { levelKvFactory } from '../../src/store/level-kv.js';
import { isRowSound, rowWriter, sealRow } from '../../src/store/rows.js';
import { formatStore } from '../../src/store/store.js';
import {
  decodeValueHeader,
  encodeValueHeader,
  pointerRow,
  putRecord,
  readRecord,
  recordBytes,
  valueFileKey,
  valueFileName,
  valueFileRow,
} from '../../src/store/value-format.js';
import { flipByte } from '../flips/damages.js';
import { until } from '../support/until.js';
import { confState, rejectsWith } from './help.js';

const place = { partition: 3, generation: 1 };
const blocks = kindRange(RowKind.block, place);
const keyOf = (n: number) => blockKey(place, n, 1);
const folders = mkdtempSync(join(tmpdir(), 'hansard-values-'));
t.teardown(() => rmSync(folders, { recursive: true, force: true }));

/** A row of block `n` as it stands in version `life`, of about `bytes`. */
function rowOf(n: number, bytes = 8_000, life = 0): Buffer {
  const writer = rowWriter(bytes);
  const body = Buffer.alloc(bytes, n & 0xff);
  body.writeUInt32LE(life, 4);
  return Buffer.from(sealRow(keyOf(n), writer.bytes(body)));
}

async function newKv(name: string): Promise<{ path: string; kv: Kv }> {
  const path = join(folders, name);
  const kv = await levelKvFactory().open(path, { create: true });
  await formatStore({
    kv,
    clusterId: 'cluster',
    storeId: `store-${name}`,
    partitions: [{ partition: 3, confState }],
  });
  return { path, kv };
}
const reopened = (path: string) => levelKvFactory().open(path, { create: false });

async function put(kv: Kv, rows: readonly (readonly [number, Buffer | undefined])[]): Promise<void> {
  const batch = kv.batch();
  for (const [n, row] of rows) {
    if (row === undefined) batch.del(keyOf(n));
    else batch.put(keyOf(n), row);
  }
  await batch.write();
}

/** As a value file has them. */
function records(which: readonly number[]): Buffer {
  return Buffer.concat(
    which.map((n) => {
      const [key, row] = [keyOf(n), rowOf(n)];
      const record = Buffer.alloc(recordBytes(key.length, row.length));
      putRecord(record, 0, key, row);
      return record;
    }),
  );
}

const headerOf = (name: string) => encodeValueHeader(1, { clusterId: 'cluster', storeId: `store-${name}` });
const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);
const valueFiles = (path: string) => readdirSync(path).filter((name) => name.endsWith('.val'));

/** Every block in every way of reading: sound, and of the expected life. */
async function expectBlocks(t: Test, kv: Kv, expected: ReadonlyMap<number, Buffer>): Promise<void> {
  const iterator = kv.iterator(blocks);
  const rows = await iterator.next(100_000);
  await iterator.close();
  t.equal(rows.length, expected.size);
  const wrong = rows.filter(([key, row]) => !isRowSound(key, row));
  t.equal(wrong.length, 0, 'all rows are sound');
  const keys = [...expected.keys()].map(keyOf);
  const got = await kv.getMany(keys);
  const different = [...expected.values()].filter(
    (row, i) => got[i] === undefined || row.compare(got[i]) !== 0,
  );
  t.equal(different.length, 0, 'and those that were put');
  const [first] = expected;
  if (first === undefined) return;
  t.ok(first[1].equals((await kv.get(keyOf(first[0]))) ?? Buffer.alloc(0)));
  t.ok(first[1].equals(kv.getSync(keyOf(first[0])) ?? Buffer.alloc(0)));
}

t.test('what is put, put again and deleted, in one batch and in several, through reopening', async (t) => {
  const { path, kv } = await newKv('contract');
  const expected = new Map<number, Buffer>();
  const rows = numbers(0, 300).map((n) => [n, rowOf(n, n % 3 === 0 ? 500 : 9_000)] as const);
  await put(kv, rows);
  for (const [n, row] of rows) expected.set(n, row);
  // As a merge does: away and there again, large for small and small for large; away for good; there and away.
  await put(kv, [
    [1, undefined],
    [1, rowOf(1, 30_000, 1)],
    [2, undefined],
    [2, rowOf(2, 100, 1)],
    [3, rowOf(3, 40_000, 1)],
    [4, undefined],
    [5, rowOf(5, 9_000, 1)],
    [5, rowOf(5, 9_000, 2)],
    [1_000, rowOf(1_000)],
    [1_000, undefined],
    [6, rowOf(6, 9_000, 1)],
    [6, rowOf(6, 100, 2)],
  ]);
  expected
    .set(1, rowOf(1, 30_000, 1))
    .set(2, rowOf(2, 100, 1))
    .set(3, rowOf(3, 40_000, 1));
  expected
    .set(5, rowOf(5, 9_000, 2))
    .set(6, rowOf(6, 100, 2))
    .delete(4);
  await expectBlocks(t, kv, expected);
  await kv.close();
  const again = await reopened(path);
  await expectBlocks(t, again, expected);
  await put(again, [[7, rowOf(7, 20_000, 1)]]);
  await expectBlocks(t, again, expected.set(7, rowOf(7, 20_000, 1)));
  t.equal(valueFiles(path).length, 1, 'it went on in the same file');
  await again.close();
});

t.test('space comes back, and not under whoever still reads', async (t) => {
  const { path, kv } = await newKv('space');
  const expected = new Map<number, Buffer>();
  for (let from = 0; from < 1_000; from += 100) {
    const rows = numbers(from, from + 100).map((n) => [n, rowOf(n, 9_000)] as const);
    await put(kv, rows);
    for (const [n, row] of rows) expected.set(n, row);
  }
  // Written twice in the same file.
  const twice = [10, 11, 15, 16].map((n) => [n, rowOf(n, 9_000, 1)] as const);
  await put(
    kv,
    twice.flatMap(([n, row]) => [[n, undefined] as const, [n, row] as const]),
  );
  for (const [n, row] of twice) expected.set(n, row);
  const before = new Map(expected);
  t.notOk(kv.reclaimable);
  const view = kv.snapshot();
  const [file] = valueFiles(path);
  await put(
    kv,
    numbers(0, 1_000)
      .filter((n) => n % 5 > 1)
      .map((n) => [n, undefined] as const),
  );
  for (const n of numbers(0, 1_000)) if (n % 5 > 1) expected.delete(n);
  t.ok(kv.reclaimable);
  // As kill -9 leaves it at each step.
  let steps = 0;
  await kv.reclaim(() => {
    cpSync(path, join(folders, `killed-${++steps}`), { recursive: true });
    return steps < 3;
  });
  t.equal(steps, 3);
  for (let step = 1; step <= steps; step++) {
    const killed = await reopened(join(folders, `killed-${step}`));
    await expectBlocks(t, killed, expected);
    while (killed.reclaimable) await killed.reclaim(() => true);
    await expectBlocks(t, killed, expected);
    await killed.close();
  }
  await expectBlocks(t, kv, expected);
  // Beside it is written what it has not come to yet.
  await Promise.all([
    kv.reclaim(() => true),
    put(kv, [
      [0, undefined],
      [1, rowOf(1, 9_000, 7)],
    ]),
  ]);
  expected.set(1, rowOf(1, 9_000, 7)).delete(0);
  await expectBlocks(t, kv, expected);
  t.notOk(kv.reclaimable, 'that was all');
  t.ok(valueFiles(path).includes(file ?? ''), 'the old file is there while somebody reads from it');
  const old = view.iterator(blocks);
  const rows = await old.next(10_000);
  t.equal(
    rows.filter(([key, row], i) => isRowSound(key, row) && before.get(i)?.compare(row) === 0).length,
    1_000,
  );
  await old.close();
  await view.close();
  const gone = () => !valueFiles(path).includes(file ?? '');
  await until('and goes behind the last reader', gone);
  await kv.close();
  const again = await reopened(path);
  await expectBlocks(t, again, expected);
  await again.close();
});

t.test('what is written small while values move is not overtaken by the old value', async (t) => {
  const { kv } = await newKv('overtaken');
  const expected = new Map(numbers(0, 100).map((n) => [n, rowOf(n)] as const));
  await put(kv, [...expected]);
  await put(
    kv,
    numbers(0, 60).map((n) => [n, undefined] as const),
  );
  for (const n of numbers(0, 60)) expected.delete(n);
  // Between the look at where the values lie and the batch that says where they lie now.
  const moving = kv as unknown as { decide: (...args: unknown[]) => Promise<void> };
  const decide = moving.decide.bind(kv);
  const small = rowOf(70, 1_000, 1);
  let written: Promise<void> | undefined;
  moving.decide = async (...args) => {
    written ??= put(kv, [[70, small]]);
    await Promise.race([written, sleep(100)]);
    return decide(...args);
  };
  await kv.reclaim(() => true);
  await written;
  expected.set(70, small);
  await expectBlocks(t, kv, expected);
  await kv.close();
});

t.test('a file of which nothing counts any more goes, and is not written to again', async (t) => {
  const { path, kv } = await newKv('dead');
  const [one, other] = [numbers(0, 100), numbers(100, 200)];
  await put(
    kv,
    one.map((n) => [n, rowOf(n)] as const),
  );
  await put(
    kv,
    one.map((n) => [n, undefined] as const),
  );
  await kv.reclaim(() => true);
  await until('the file is removed', () => valueFiles(path).length === 0);
  const expected = new Map(other.map((n) => [n, rowOf(n)] as const));
  await put(kv, [...expected]);
  await expectBlocks(t, kv, expected);
  await kv.close();
  const again = await reopened(path);
  await expectBlocks(t, again, expected);
  await again.close();
});

t.test('what a crash leaves behind: half a write, a file that nothing points to', async (t) => {
  const { path, kv } = await newKv('crash');
  const expected = new Map(numbers(0, 60).map((n) => [n, rowOf(n)] as const));
  await put(kv, [...expected]);
  await kv.close();
  const [file = ''] = valueFiles(path);
  appendFileSync(join(path, file), Buffer.alloc(5_000, 0xab));
  writeFileSync(join(path, valueFileName(77)), 'half a header');
  const again = await reopened(path);
  t.ok(valueFiles(path).includes(valueFileName(77)), 'opening alone removes nothing');
  await put(again, [[70, rowOf(70)]]);
  await expectBlocks(t, again, expected.set(70, rowOf(70)));
  t.same(valueFiles(path), [file, valueFileName(78)], 'the stray made room, its number is not used again');
  t.notOk(again.reclaimable);
  await again.close();
  // As one that ended between giving a file up and removing it.
  writeFileSync(join(path, valueFileName(40)), 'given up');
  const third = await reopened(path);
  await expectBlocks(t, third, expected);
  await put(third, [[71, rowOf(71)]]);
  expected.set(71, rowOf(71));
  t.same(valueFiles(path), [file, valueFileName(40), valueFileName(78)], 'it goes on in the last one');
  t.ok(third.reclaimable);
  await third.reclaim(() => true);
  t.same(valueFiles(path), [file, valueFileName(78)]);
  // What a crash left behind is no hindrance later.
  const most = numbers(5, 60);
  await put(
    third,
    most.map((n) => [n, undefined] as const),
  );
  for (const n of most) expected.delete(n);
  t.ok(third.reclaimable);
  await third.reclaim(() => true);
  await until('the file is removed', () => !valueFiles(path).includes(file));
  await expectBlocks(t, third, expected);
  await third.close();
});

t.test('what failed writes leave behind the end of a file gives its space back', async (t) => {
  const { path, kv } = await newKv('behind');
  const expected = new Map(numbers(0, 60).map((n) => [n, rowOf(n)] as const));
  await put(kv, [...expected]);
  await kv.close();
  const [file = ''] = valueFiles(path);
  // Whole records that no batch ever pointed to, and the last one torn.
  const half = records(numbers(100, 150));
  appendFileSync(join(path, file), half.subarray(0, half.length - 10));
  const again = await reopened(path);
  t.ok(again.reclaimable);
  await again.reclaim(() => true);
  await until('the file is removed', () => !valueFiles(path).includes(file));
  await expectBlocks(t, again, expected);
  await again.close();
  const third = await reopened(path);
  await expectBlocks(t, third, expected);
  t.notOk(third.reclaimable);
  await third.close();
});

t.test('behind an end that is older than the pointers lie values', async (t) => {
  const { path, kv } = await newKv('older');
  const expected = new Map(numbers(0, 100).map((n) => [n, rowOf(n)] as const));
  await put(kv, [...expected]);
  // As where LevelDB has lost the newest word on the file, and an older one stands there again.
  const key = valueFileKey(1);
  const end = 60 * (8_009 + 10 + 23) + headerOf('older').length;
  const batch = kv.batch();
  batch.put(key, valueFileRow(key, { end, dead: 0 }));
  await batch.write();
  await kv.close();
  appendFileSync(join(path, valueFileName(1)), 'torn');
  const again = await reopened(path);
  t.ok(again.reclaimable);
  await again.reclaim(() => true);
  await put(again, [[200, rowOf(200)]]);
  await expectBlocks(t, again, expected.set(200, rowOf(200)));
  t.ok(valueFiles(path).includes(valueFileName(1)), 'the file stays');
  t.notOk(again.reclaimable, 'and is not looked at again');
  await again.close();
});

t.test('damage is met as a row that is not sound, never as absence or as another value', async (t) => {
  const { path, kv } = await newKv('damage');
  const { path: otherPath, kv: other } = await newKv('other');
  const rows = numbers(0, 20).map((n) => [n, rowOf(n)] as const);
  await put(kv, rows);
  await put(other, rows);
  await kv.close();
  await other.close();
  const file = join(path, valueFiles(path)[0] ?? '');
  const kept = join(folders, 'kept');
  copyFileSync(file, kept);
  const soundIn = async (): Promise<number> => {
    const kv = await reopened(path);
    const iterator = kv.iterator(blocks);
    const found = await iterator.next(100);
    await iterator.close();
    t.equal(found.length, 20, 'no row is missing');
    const sound = found.filter(([key, row]) => isRowSound(key, row)).length;
    const got = await kv.getMany(rows.map(([n]) => keyOf(n)));
    t.equal(got.filter((row, i) => row !== undefined && rows[i]?.[1].compare(row) === 0).length, sound);
    await kv.close();
    return sound;
  };
  t.equal(await soundIn(), 20);
  flipByte(file, 100_000, 1);
  t.equal(await soundIn(), 19, 'a flipped byte');
  copyFileSync(kept, file);
  truncateSync(file, 100_000);
  t.equal(await soundIn(), 12, 'a file cut short');
  rmSync(file);
  t.equal(await soundIn(), 0, 'a missing file');
  copyFileSync(join(otherPath, valueFiles(otherPath)[0] ?? ''), file);
  t.equal(await soundIn(), 0, "another store's file");
  copyFileSync(kept, file);
  t.equal(await soundIn(), 20);
  const lost = await reopened(path);
  await put(
    lost,
    numbers(0, 12).map((n) => [n, undefined] as const),
  );
  await lost.close();
  rmSync(join(path, 'CURRENT'));
  await rejectsWith(t, reopened(path), 'STORE_DAMAGED');
});

t.test('a value that is damaged keeps its file from being given up', async (t) => {
  const { path, kv } = await newKv('head');
  await put(
    kv,
    numbers(0, 100).map((n) => [n, rowOf(n)] as const),
  );
  await put(
    kv,
    numbers(0, 60).map((n) => [n, undefined] as const),
  );
  t.ok(kv.reclaimable);
  const [file = ''] = valueFiles(path);
  // In the head of a live record.
  flipByte(join(path, file), 70 * (8_009 + 10 + 23) + headerOf('head').length, 4);
  await kv.reclaim(() => true);
  t.notOk(kv.reclaimable);
  t.ok(valueFiles(path).includes(file));
  const iterator = kv.iterator(blocks);
  const found = await iterator.next(100);
  await iterator.close();
  t.equal(found.filter(([key, row]) => isRowSound(key, row)).length, 40, 'a damaged head harms no reader');
  await kv.close();
});

t.test('the bytes are those of docs/format.md', (t) => {
  const header = encodeValueHeader(5, { clusterId: 'c1', storeId: 's2' });
  t.equal(header.toString('hex'), golden.header);
  t.same(decodeValueHeader(Buffer.concat([header, Buffer.alloc(50)])), {
    file: 5,
    clusterId: 'c1',
    storeId: 's2',
    bytes: header.length,
  });
  const key = keyOf(9);
  const value = Buffer.from('0102030405060708090a', 'hex');
  const record = Buffer.alloc(recordBytes(key.length, value.length));
  t.equal(putRecord(record, 0, key, value), 33);
  t.equal(record.toString('hex'), golden.record);
  t.same(readRecord(record, 0), { at: 0, end: record.length, key, value });
  t.equal(readRecord(record.subarray(0, 40), 0), record.length);
  t.equal(
    pointerRow(key, { file: 5, offset: 33, bytes: 10, checksum: 0x0908070605040302n }).toString('hex'),
    golden.pointer,
  );
  const fileKey = valueFileKey(5);
  t.equal(fileKey.toString('hex'), '030000000000000005');
  t.equal(valueFileRow(fileKey, { end: 1_000, dead: 43 }).toString('hex'), golden.fileRow);
  t.end();
});

const golden = {
  header: '48414e5341524456010022000500000000000000026331027332cdfe8af7aec1ec6c',
  record: 'e65ef41017000a00000022000300000001000000000000000900000000000000010102030405060708090a',
  pointer: '80ff08fbfaefd509af050000000000000021000000000000000a0000000203040506070809',
  fileRow: '018b3892ded48e1847e8030000000000002b00000000000000',
};
