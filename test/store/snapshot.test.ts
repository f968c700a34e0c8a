/**
 * A partition's way from one store to another: what comes out is what went in,
 * whatever breaks on the way; a crash at any point leaves before or after.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { MalformedError } from '../../src/common/bytes.js';
import type { Kv, KvIterator, KvRange } from '../../src/common/env.js';
import { silentLogger } from '../../src/common/logger.js';
import { kindRange, RowKind } from '../../src/store/keys.js';
import { levelKvFactory } from '../../src/store/level-kv.js';
import { unreadable } from '../../src/store/rows.js';
import type { SnapshotPosition } from '../../src/store/snapshot-format.js';
import { formatStore, openStore } from '../../src/store/store.js';
import type { SnapshotExport, SnapshotInstall, Store } from '../../src/store/types.js';
import { madeAppend, madeEntry, madeEvent } from '../conversation/make.js';
import { SimKv, type SimKvDisk } from '../sim/sim-kv.js';
import { until } from '../support/until.js';
import {
  applyTo,
  confState,
  entryNumber,
  formatted,
  handleOf,
  ids,
  opened,
  rejectsWith,
  seededRandom,
  simDisk,
  TurnClock,
  whileDying,
} from './help.js';

// A crash at each of many points: seconds where the machine is busy with other tests.
t.setTimeout(600_000);

const entries = 400;

async function filled(disk: SimKvDisk, count = entries, from = 1): Promise<Store> {
  const store = await opened(disk);
  const partition = store.partition(0);
  for (let n = from; n <= count; n++) {
    applyTo(partition, entryNumber(n));
    if (n % 90 === 0) await partition.checkpoint();
  }
  await partition.checkpoint();
  return store;
}

async function source(count = entries, seed = 1): Promise<Store> {
  return filled(await formatted(simDisk(seed), [0, 1]), count);
}

/** Iterators of all views from here to the test's end are what `wrapped` makes of them. */
function watchIterators(t: Test, wrapped: (rows: KvIterator, range: KvRange) => KvIterator): void {
  const prototype = SimKv.prototype as Kv;
  const { snapshot } = prototype;
  t.teardown(() => {
    prototype.snapshot = snapshot;
  });
  prototype.snapshot = function watched(this: Kv) {
    const view = snapshot.call(this);
    return {
      close: () => view.close(),
      iterator: (range) => wrapped(view.iterator(range), range),
    };
  };
}

async function must(store: Store): Promise<SnapshotExport> {
  const found = await store.exportSnapshot(0);
  if (found === undefined) throw new Error('there is a snapshot');
  return found;
}

async function transfer(from: SnapshotExport, to: SnapshotInstall, chunkBytes = 3_000): Promise<number> {
  let position = from.start;
  for (let chunks = 1; ; chunks++) {
    const { chunk, next, last } = await from.read(position, chunkBytes);
    await to.add(chunk);
    position = next;
    if (last) return chunks;
  }
}

/** As a sender does, whoever takes it. */
async function readAll(from: SnapshotExport): Promise<void> {
  for (let position = from.start, last = false; !last; )
    ({ next: position, last } = await from.read(position, 3_000));
}

/** As where the receiver dials anew again and again, and chunks are cut anew: as large as the rate of the moment says. */
async function readInBits(from: SnapshotExport): Promise<void> {
  const random = seededRandom(3);
  for (let position = from.start, last = false; !last; ) {
    await from.read(position, 500 + (random.u32() % 5_000));
    ({ next: position, last } = await from.read(position, 500 + (random.u32() % 5_000)));
  }
}

function generations(disk: SimKvDisk): Set<number> {
  const found = new Set<number>();
  disk.damage((key, value) => {
    const kind = key[0] as number;
    if (kind >= RowKind.channel && kind <= RowKind.checkpoint) found.add(key.readUInt32BE(3));
    return value;
  });
  return found;
}

async function sweptClean(disk: SimKvDisk): Promise<void> {
  for (let i = 0; i < 2_000 && generations(disk).size > 1; i++) {
    for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve));
  }
}

t.test('what is read ahead is bounded, whatever the rows before were like', async (t) => {
  const disk = simDisk();
  const store = await opened(await formatted(disk, [0], 16 * 1024));
  // Many short rows first, and blocks of one channel that are large behind many that are small.
  for (let n = 0; n < 1_500; n++)
    applyTo(store.partition(0), madeEntry([madeAppend(`c${n}`, [madeEvent('x')])]));
  const random = seededRandom(9);
  const large = Array.from({ length: 60_000 }, () => String.fromCharCode(33 + (random.u32() % 90))).join('');
  for (let n = 0; n < 60; n++)
    applyTo(store.partition(0), madeEntry([madeAppend('large', [madeEvent(large)])]));
  await store.checkpoint([0]);
  const asked: { kind: number; bytes: number }[] = [];
  watchIterators(t, (rows, range) => ({
    close: () => rows.close(),
    next: async (count) => {
      const found = await rows.next(count);
      asked.push({
        kind: range.gte[0] as number,
        bytes: found.reduce((sum, [, row]) => sum + row.length, 0),
      });
      return found;
    },
  }));
  const exported = await must(store);
  await readAll(exported);
  await exported.close();
  const most = Math.max(...asked.map(({ bytes }) => bytes));
  t.ok(most < 2.5 * 1024 * 1024, `${most} bytes in one step`);
  const steps = asked.filter(({ kind }) => kind === RowKind.channelName).length;
  t.ok(steps < 20, `${steps} steps for 1,501 names: short rows come many at a time`);
  await store.close();
});

t.test(
  'a list that lacks a row in its midst fails the read that meets it, and leaves nothing open',
  async (t) => {
    const disk = await formatted(simDisk(), [0, 1]);
    const before = await filled(disk, 400);
    await before.close();
    let changes = 0;
    disk.damage((key, value) => (key[0] === RowKind.change && ++changes === 2 ? undefined : value));
    t.ok(changes > 3, `${changes} rows of changes`);
    let open = 0;
    watchIterators(t, (rows) => {
      open++;
      return {
        next: (count) => rows.next(count),
        close: () => {
          open--;
          return rows.close();
        },
      };
    });
    const store = await opened(disk);
    const exported = await must(store);
    await rejectsWith(t, readAll(exported), 'STORE_DAMAGED');
    await exported.close();
    t.equal(open, 0);
  },
);

t.test('a part reads the same for whoever goes on, begins anew, or asks while another asks', async (t) => {
  const store = await source();
  const all: Uint8Array[] = [];
  const whole = await must(store);
  const starts = [whole.start];
  for (let last = false; !last; ) {
    const part = await whole.read(starts[starts.length - 1] as SnapshotPosition, 3_000);
    all.push(part.chunk);
    starts.push(part.next);
    last = part.last;
  }
  t.ok(all.length > 5, `${all.length} chunks`);
  const random = seededRandom(7);
  const other = await must(store);
  for (let i = 0; i < 60; i++) {
    const at = random.u32() % all.length;
    // Two that go on from one place, as where a receiver dialled anew while its last part was being read.
    const parts = await Promise.all([0, 1].map(() => other.read(starts[at] as SnapshotPosition, 3_000)));
    for (const { chunk, next } of parts) {
      t.same(chunk, all[at]);
      t.equal(next.offset, starts[at + 1]?.offset);
    }
    const behind = starts[at + 1] as SnapshotPosition;
    if (at + 1 < all.length) t.same((await other.read(behind, 3_000)).chunk, all[at + 1], 'and goes on');
  }
  await whole.close();
  const [read] = await Promise.all([other.read(other.start, 3_000), other.close()]);
  t.same(read.chunk, all[0], 'one that was under way when it was closed ends as it would have');
  await store.close();
});

t.test('what comes out is what went in, and applying goes on from it', async (t) => {
  const from = await source();
  const want = await from.partition(0).digest();
  const disk = await formatted(simDisk(2), [0, 1]);
  const to = await filled(disk, 120);
  const partition = to.partition(0);
  // Unsealed, to be replaced as well.
  applyTo(partition, entryNumber(121));
  const snapshot = await must(from);
  t.equal(snapshot.index, entries);
  // The sender goes on meanwhile: the view stays.
  for (let n = entries + 1; n <= entries + 40; n++) applyTo(from.partition(0), entryNumber(n));
  await from.partition(0).checkpoint();

  const install = await to.beginInstall(0, snapshot.manifest);
  const chunks = await transfer(snapshot, install);
  t.ok(chunks > 5, `${chunks} chunks`);
  t.ok(install.isComplete);
  t.equal(partition.appliedIndex, 121, 'nothing is decided yet');
  await install.finish();
  await snapshot.close();
  t.equal(partition.appliedIndex, entries);
  t.equal(partition.sealedIndex, entries);
  t.equal(partition.installedIndex, entries);
  t.same(partition.confState, confState);
  t.equal(partition.tailBytes, 0);
  t.equal(await partition.digest(), want);

  for (let n = entries + 1; n <= entries + 40; n++) applyTo(partition, entryNumber(n));
  t.equal(await partition.digest(), await from.partition(0).digest());
  await partition.checkpoint();
  t.equal(await partition.digest(), await from.partition(0).digest());
  await sweptClean(disk);
  t.equal(generations(disk).size, 1, 'the old rows are gone');
  await to.close();
  const again = await opened(disk);
  t.equal(await again.partition(0).digest(), await from.partition(0).digest());
  // A second one, from what was itself installed.
  const back = await must(again);
  const third = await opened(await formatted(simDisk(3), [0, 1]));
  const second = await third.beginInstall(0, back.manifest);
  await transfer(back, second, 100_000);
  await second.finish();
  t.equal(await third.partition(0).digest(), await again.partition(0).digest());
});

t.test('nothing sealed, nothing to send', async (t) => {
  const store = await opened(await formatted(simDisk(1), [0]));
  applyTo(store.partition(0), entryNumber(1));
  t.equal(await store.exportSnapshot(0), undefined);
});

t.test(
  'a damaged, repeated, skipped or foreign chunk changes nothing, and the right one may follow',
  async (t) => {
    const from = await source();
    const other = await must(await source(300, 7));
    const snapshot = await must(from);
    const to = await opened(await formatted(simDisk(2), [0, 1]));
    const install = await to.beginInstall(0, snapshot.manifest);
    const random = seededRandom(5);
    let position = snapshot.start;
    let foreign = other.start;
    let refused = 0;
    for (;;) {
      const { chunk, next, last } = await snapshot.read(position, 4_000);
      const damaged = Buffer.from(chunk);
      const at = random.u32() % damaged.length;
      damaged[at] = (damaged[at] as number) ^ (1 << (random.u32() % 8));
      const wrong: Uint8Array[] = [damaged, chunk.subarray(0, random.u32() % chunk.length)];
      if (!last) wrong.push((await snapshot.read(next, 4_000)).chunk);
      if (position !== snapshot.start) {
        const strange = await other.read(foreign, 4_000);
        wrong.push(strange.chunk);
        if (!strange.last) foreign = strange.next;
      }
      for (const bytes of wrong) {
        await t.rejects(install.add(bytes), MalformedError);
        refused++;
      }
      t.equal(install.offset, position.offset);
      await install.add(chunk);
      if (last) break;
      await t.rejects(install.add(chunk), MalformedError, 'a second time');
      position = next;
    }
    t.ok(refused > 20);
    await install.finish();
    t.equal(await to.partition(0).digest(), await from.partition(0).digest());
    const bent = Buffer.from(snapshot.manifest);
    bent[20] = (bent[20] as number) ^ 1;
    await t.rejects(to.beginInstall(0, bent), MalformedError);
    await t.rejects(to.beginInstall(1, snapshot.manifest), MalformedError, 'of another partition');
    const coarse = await opened(await formatted(simDisk(2), [0], 4096));
    await rejectsWith(t, coarse.beginInstall(0, snapshot.manifest), 'INVALID_SETTINGS');
  },
);

t.test('any part can be read again, the same bytes each time', async (t) => {
  const snapshot = await must(await source());
  let position = snapshot.start;
  for (let i = 0; i < 8; i++) {
    const first = await snapshot.read(position, 2_500);
    const second = await snapshot.read(position, 2_500);
    t.ok(Buffer.compare(first.chunk, second.chunk) === 0);
    position = first.next;
  }
});

t.test('a row that is damaged where it lies is not sent', async (t) => {
  const disk = await formatted(simDisk(1), [0, 1]);
  const from = await filled(disk);
  let done = false;
  disk.damage((key, value) => {
    if (done || key[0] !== RowKind.block) return value;
    done = true;
    value[value.length - 1] = (value[value.length - 1] as number) ^ 1;
    return value;
  });
  const snapshot = await must(from);
  const to = await opened(await formatted(simDisk(2), [0, 1]));
  await rejectsWith(t, transfer(snapshot, await to.beginInstall(0, snapshot.manifest)), 'STORE_DAMAGED');
});

t.test('a snapshot with a hole is neither sent nor taken in', async (t) => {
  // LevelDB loses rows in silence: a leader with a hole handed it to replicas that were sound (seed 6 of the simulator).
  // Nobody but who follows reads the change list: holes in it went from replica to replica (seeds 50253, 50332 and 50515).
  for (const kind of [RowKind.block, RowKind.channel, RowKind.channelName, RowKind.keyRun, RowKind.change]) {
    const disk = await formatted(simDisk(1), [0, 1]);
    const from = await filled(disk);
    // The last one: rows of earlier runs may be waiting for their end.
    let last: Buffer | undefined;
    disk.damage((key, value) => {
      if (key[0] === kind && (last === undefined || Buffer.compare(key, last) > 0)) last = Buffer.from(key);
      return value;
    });
    disk.damage((key, value) => (last !== undefined && key.equals(last) ? undefined : value));
    t.ok(last, `there are rows of kind ${kind}`);
    const snapshot = await must(from);
    await rejectsWith(t, readAll(snapshot), 'STORE_DAMAGED');
    await rejectsWith(t, readInBits(await must(from)), 'STORE_DAMAGED');
    const to = await opened(await formatted(simDisk(2), [0, 1]));
    const sound = await must(await source());
    const first = await to.beginInstall(0, snapshot.manifest);
    await rejectsWith(t, transfer(snapshot, first), 'STORE_DAMAGED');
    first.abandon();
    t.equal(to.partition(0).appliedIndex, 0);
    // Read from the middle on, as after a broken stream: the sender has not counted all, the receiver has.
    const install = await to.beginInstall(0, snapshot.manifest);
    let position = snapshot.start;
    const add = async (): Promise<void> => {
      for (let end = false; !end; ) {
        await snapshot.read(position, 1_000);
        await snapshot.read(snapshot.start, 1_000);
        const part = await snapshot.read(position, 1_000);
        await install.add(part.chunk);
        position = part.next;
        end = part.last;
      }
    };
    await rejectsWith(t, add(), 'STORE_DAMAGED');
    install.abandon();
    t.ok((await transfer(sound, await to.beginInstall(0, sound.manifest))) > 1);
  }
});

t.test('an install that is given up leaves what was there, and its rows go', async (t) => {
  const snapshot = await must(await source());
  const disk = await formatted(simDisk(2), [0, 1]);
  const to = await filled(disk, 100);
  const want = await to.partition(0).digest();
  for (let round = 0; round < 3; round++) {
    const install = await to.beginInstall(0, snapshot.manifest);
    const { chunk, next } = await snapshot.read(snapshot.start, 6_000);
    await install.add(chunk);
    const second = install.add((await snapshot.read(next, 6_000)).chunk);
    // In mid-batch, too.
    if (round === 1) install.abandon();
    await second;
    install.abandon();
    t.equal(await to.partition(0).digest(), want);
  }
  await sweptClean(disk);
  t.equal(generations(disk).size, 1);
  const install = await to.beginInstall(0, snapshot.manifest);
  await transfer(snapshot, install);
  await install.finish();
  t.equal(to.partition(0).appliedIndex, entries);
});

t.test('old rows that can not be read are left where they are, and harm nothing', async (t) => {
  const from = await source();
  const want = await from.partition(0).digest();
  const snapshot = await must(from);
  const disk = await formatted(simDisk(2), [0, 1]);
  await (await filled(disk, 100)).close();
  const kv = handleOf(disk);
  const to = await openStore({ kv, ...ids, clock: new TurnClock(), logger: silentLogger });
  const old = kindRange(RowKind.channel, { partition: 0, generation: 1 });
  const iterator = kv.iterator.bind(kv);
  let met = 0;
  kv.iterator = (range) => {
    if (!old.gte.every((byte, i) => range.gte[i] === byte)) return iterator(range);
    met++;
    const bad = () => Promise.reject(unreadable('bad block type', undefined));
    return { next: bad, close: () => Promise.resolve() };
  };
  const install = await to.beginInstall(0, snapshot.manifest);
  await transfer(snapshot, install);
  await install.finish();
  await until('the sweep has met them', () => met > 0);
  // It ends some turns later.
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  await to.putFact('a', Buffer.from('b'));
  applyTo(to.partition(0), entryNumber(entries + 1));
  await to.partition(0).checkpoint();
  t.equal(to.partition(0).sealedIndex, entries + 1, 'it writes on');
  t.equal(generations(disk).size, 2);
  await to.close();
  const again = await opened(disk);
  applyTo(from.partition(0), entryNumber(entries + 1));
  t.not(await again.partition(0).digest(), want);
  t.equal(await again.partition(0).digest(), await from.partition(0).digest());
});

t.test('a write fails that only the sweep of old rows waits for: the process is told at once', async (t) => {
  const from = await source();
  const snapshot = await must(from);
  const disk = await formatted(simDisk(2), [0, 1]);
  await (await filled(disk, 100)).close();
  const failures: unknown[] = [];
  const onFailure = (error: unknown) => failures.push(error);
  const kv = handleOf(disk);
  const to = await openStore({ kv, ...ids, clock: new TurnClock(), logger: silentLogger, onFailure });
  const install = await to.beginInstall(0, snapshot.manifest);
  await transfer(snapshot, install);
  await install.finish();
  disk.failWrites = true;
  await until('it is told', () => failures.length > 0);
  t.match(failures, [{ reason: 'DISK_FAILED' }], 'once');
  await rejectsWith(t, to.partition(0).checkpoint(), 'DISK_FAILED');
  t.equal(failures.length, 1);
  await to.close();
});

t.test('readers meet one state or the other while a snapshot takes the place', async (t) => {
  const from = await source();
  const snapshot = await must(from);
  const disk = await formatted(simDisk(2, 3), [0, 1]);
  const to = await filled(disk, 200);
  const partition = to.partition(0);
  let reading = true;
  let reads = 0;
  const readers = Array.from({ length: 4 }, async (_, r) => {
    for (let i = r; reading; i++) {
      const name = `channel ${i % 9}`;
      const channel = await partition.channelByName('default', name);
      if (channel === undefined) throw new Error(`${name} is there`);
      const page = await partition.events(channel, {
        fromSeq: 1,
        toSeq: channel.headSeq,
        reverse: false,
        maxEvents: 1e6,
        maxBytes: 1e9,
      });
      if (page.length !== channel.headSeq) throw new Error(`${page.length} of ${channel.headSeq} in ${name}`);
      const list = await partition.listChannels({
        tenant: 'default',
        prefix: '',
        after: undefined,
        limit: 100,
      });
      if (list.length !== 9) throw new Error(`${list.length} channels`);
      const digest = await partition.seqOfMessageId(channel.id, `id ${i % 9 === 0 ? 9 : i % 9}`);
      if (digest === undefined) throw new Error('a message id is missing');
      reads++;
    }
  });
  const install = await to.beginInstall(0, snapshot.manifest);
  await transfer(snapshot, install);
  await install.finish();
  await sweptClean(disk);
  reading = false;
  await Promise.all(readers);
  t.ok(reads > 20, `${reads} reads`);
  t.equal(generations(disk).size, 1);
});

for (const kind of ['process', 'power'] as const) {
  t.test(`a crash (${kind}) at any point leaves before or after`, async (t) => {
    const from = await source(200);
    const after = await from.partition(0).digest();
    const snapshot = await must(from);
    let befores = 0;
    let afters = 0;
    for (let dieAt = 0; dieAt < 120; dieAt += 5) {
      const disk = await formatted(simDisk(100 + dieAt, 3), [0, 1]);
      const to = await filled(disk, 60);
      const before = await to.partition(0).digest();
      let finished = false;
      let dead = false;
      const work = (async () => {
        const install = await to.beginInstall(0, snapshot.manifest);
        await transfer(snapshot, install, 8_000);
        await install.finish();
        finished = true;
      })();
      whileDying(work);
      // Turns of the loop: each simulated read or write takes one to three.
      for (let turn = 0; turn < dieAt * 2 && !dead; turn++) await new Promise((r) => setImmediate(r));
      dead = true;
      if (kind === 'process') disk.processDeath();
      else disk.powerLoss();
      const again = await opened(disk);
      const partition = again.partition(0);
      const got = await partition.digest();
      if (finished) t.equal(got, after, 'what has resolved is there');
      t.ok(got === before || got === after, `before or after, dying at ${dieAt}`);
      if (got === after) afters++;
      else befores++;
      t.equal(partition.installedIndex, got === after ? 200 : 0);
      // The next try works, and nothing of the first is left.
      if (got === before) {
        const install = await again.beginInstall(0, snapshot.manifest);
        await transfer(snapshot, install, 8_000);
        await install.finish();
        t.equal(await partition.digest(), after);
      }
      await sweptClean(disk);
      t.equal(generations(disk).size, 1);
      await again.close();
    }
    t.ok(befores > 3 && afters > 3, `${befores} before, ${afters} after`);
  });
}

t.test('from one LevelDB to another', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'hansard-snapshot-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const stores: Store[] = [];
  const make = async (name: string) => {
    const path = join(folder, name);
    const formatting = await levelKvFactory().open(path, { create: true });
    await formatStore({ kv: formatting, ...ids, partitions: [{ partition: 0, confState }] });
    await formatting.close();
    const kv = await levelKvFactory().open(path, { create: false });
    const store = await openStore({ kv, ...ids, clock: new TurnClock(), logger: silentLogger });
    stores.push(store);
    return store;
  };
  const from = await make('a');
  const to = await make('b');
  for (let n = 1; n <= 3_000; n++) applyTo(from.partition(0), entryNumber(n));
  await from.partition(0).checkpoint();
  const snapshot = await must(from);
  const sealed = await from.partition(0).digest();
  for (let n = 3_001; n <= 3_500; n++) applyTo(from.partition(0), entryNumber(n));
  await from.partition(0).checkpoint();
  const install = await to.beginInstall(0, snapshot.manifest);
  const chunks = await transfer(snapshot, install, 64 * 1024);
  await install.finish();
  await snapshot.close();
  t.ok(chunks > 2, `${chunks} chunks`);
  t.equal(await to.partition(0).digest(), sealed, 'as of the export, not of now');
  const given = await must(from);
  const { next } = await given.read(given.start, 8_000);
  const [part] = await Promise.all([given.read(next, 8_000), given.close()]);
  t.ok(part.chunk.length > 0, 'closed while a part was being read, and nothing is left open');
  for (const store of stores) await store.close();
});
