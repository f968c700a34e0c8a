/** When a batch begins: with `flush` at once, on the caller's thread where it waits for a quick disk; else as the turn ends. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import t, { type Test } from 'tap';
import { formatWal, type LogDevice, openDiskDevice, type Wal, type WalOptions } from '../../src/wal/index.js';
import { quickDiskDefaults } from '../../src/wal/quick-disk.js';
import { contents, entry, identity, open, seededRandom } from './harness.js';

const segmentBytes = 256 * 1024;
const always = { ...quickDiskDefaults, meanMs: Number.MAX_VALUE, slowMs: Number.MAX_VALUE };
const never = { ...quickDiskDefaults, meanMs: 0 };

async function logOn(
  t: Test,
  quick: typeof always,
  options: Partial<WalOptions> = {},
): Promise<{ wal: Wal; device: LogDevice; reopened(): Promise<string[]> }> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hansard-flush-'));
  t.teardown(() => fs.rmSync(directory, { recursive: true, force: true }));
  const first = openDiskDevice({ directory });
  await formatWal(first, { ...identity, segmentBytes, random: seededRandom(1) });
  await first.close();
  const device = openDiskDevice({ directory, quick });
  const wal = await open(device, { segmentBytes, ...options });
  wal.addGroup(3, 31);
  // The segment after this one is being made: that has the disk for itself.
  if (quick === always) await until(() => device.here?.suits(1) === true);
  const reopened = async (): Promise<string[]> => {
    await wal.close();
    const again = await open(openDiskDevice({ directory }), { segmentBytes });
    const found: string[] = [];
    for (const group of again.groups()) found.push(...(await contents(group)).map(({ text }) => text));
    await again.close();
    return found;
  };
  return { wal, device, reopened };
}

/** One entry; `done` gets its text once it is durable. */
function append(wal: Wal, index: number, text: string, done: string[], then = (): void => {}): void {
  wal.write([{ partition: 3, entries: [entry(3, 1, index, text)] }], () => {
    done.push(text);
    then();
  });
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn();
}

t.test('who waits for a quick disk has it synced when flush returns', async (t) => {
  const { wal, reopened } = await logOn(t, always);
  const done: string[] = [];
  append(wal, 1, 'a', done);
  append(wal, 2, 'b', done);
  const { batches } = wal.stats();
  t.equal(wal.flush(true), true);
  t.same(done, ['a', 'b'], 'no promise, no turn in between');
  t.same(
    [wal.stats().batches, wal.pendingBytes, wal.writing],
    [batches + 1, 0, 0],
    'one batch, and nothing is left',
  );
  t.equal(wal.flush(true), false, 'nothing to do');
  append(wal, 3, 'c', done, () => append(wal, 4, 'd', done));
  t.equal(wal.flush(true), true);
  t.same(done.slice(2), ['c'], 'what a callback adds follows');
  await until(() => done.length === 4);
  t.same(await reopened(), ['a', 'b', 'c', 'd']);
});

t.test(
  'a quick write that nobody waits for is made when the turn has ended, with what came meanwhile',
  async (t) => {
    const { wal, reopened } = await logOn(t, always);
    const done: string[] = [];
    const { batches } = wal.stats();
    append(wal, 1, 'a', done);
    t.equal(wal.flush(false), false);
    append(wal, 2, 'b', done);
    t.same(done, []);
    await until(() => done.length === 2);
    t.equal(wal.stats().batches, batches + 1);
    t.same(await reopened(), ['a', 'b']);
  },
);

t.test('a disk with a thread of its own begins at once: the turn goes on meanwhile', async (t) => {
  const { wal, reopened } = await logOn(t, never);
  const done: string[] = [];
  const { batches } = wal.stats();
  for (const here of [true, false]) {
    const index = done.length + 1;
    append(wal, index, `first ${here}`, done);
    t.equal(wal.writing, 0);
    t.equal(wal.flush(here), false);
    t.not(wal.writing, 0, 'it is on its way');
    append(wal, index + 1, `then ${here}`, done);
    t.equal(wal.flush(here), false, 'which follows it by itself');
    await until(() => done.length === index + 1);
  }
  t.equal(wal.stats().batches, batches + 4);
  t.same(await reopened(), ['first true', 'then true', 'first false', 'then false']);
});

t.test('a full segment, or a large batch, takes the usual way', async (t) => {
  const { wal, reopened } = await logOn(t, always);
  const done: string[] = [];
  let later = 0;
  for (let index = 1; index <= 150; index++) {
    const text = `${index}`.padEnd(index % 50 === 0 ? 20_000 : 3_000);
    append(wal, index, text, done);
    // Its first row, or the new segment's table, tells whose it is.
    if (index % 10 === 0) {
      wal.addGroup(index, 1);
      wal.write([{ partition: index, entries: [entry(index, 1, 1, 'first')] }], () => {});
    }
    if (!wal.flush(true)) later++;
    await until(() => done.length === index);
  }
  t.ok(later > 3 && later < 20, `${later} of 150 were too large, or began a segment`);
  const found = await reopened();
  t.equal(found.filter((text) => text === 'first').length, 15);
  t.same(
    found.filter((text) => text !== 'first').map((text) => Number(text)),
    Array.from({ length: 150 }, (_, i) => i + 1),
  );
});

t.test('at the end of a segment the first row of a group is there once, however near it comes', async (t) => {
  const pageBytes = 4_096;
  for (let length = 3_480; length <= 4_080; length += 16) {
    const { wal, device, reopened } = await logOn(t, always);
    const { here } = device;
    t.ok(here !== undefined);
    if (here === undefined) return;
    let end = 0;
    const write = here.write.bind(here);
    here.write = (segment, offset, bytes) => {
      end = offset + bytes.length;
      return write(segment, offset, bytes);
    };
    const done: string[] = [];
    let index = 0;
    while (end < segmentBytes - pageBytes) {
      append(wal, ++index, 'x'.repeat(end < segmentBytes - 4 * pageBytes ? 2.5 * pageBytes : 100), done);
      t.ok(wal.flush(true));
    }
    wal.addGroup(4, 2 ** 52 + 1);
    wal.write([{ partition: 4, entries: [entry(4, 1, 1, 'y'.repeat(length))] }], () => done.push('y'));
    wal.flush(true);
    await until(() => done.length === index + 1);
    t.equal((await reopened()).at(-1), 'y'.repeat(length));
  }
});

t.test('a disk that fails on this thread ends the process, and nobody is told of a sync', async (t) => {
  const failures: Error[] = [];
  const { wal, device } = await logOn(t, always, { onFailure: (error) => failures.push(error) });
  const done: string[] = [];
  const { here } = device;
  t.ok(here !== undefined);
  Object.assign(here ?? {}, {
    write: () => {
      throw new Error('EIO');
    },
  });
  append(wal, 1, 'a', done);
  t.equal(wal.flush(true), false);
  t.same(
    failures.map(({ message }) => message),
    ['EIO'],
  );
  append(wal, 2, 'b', done);
  t.equal(wal.flush(true), false);
  await turn();
  t.same([done, failures.length], [[], 1]);
  await wal.close().catch(() => {});
});
