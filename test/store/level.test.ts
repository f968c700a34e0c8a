import { spawn } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import type { Kv, KvFactory } from '../../src/common/env.js';
import { silentLogger } from '../../src/common/logger.js';
import { levelKvFactory } from '../../src/store/level-kv.js';
import { formatStore, openStore } from '../../src/store/store.js';
import { madeAppend, madeEntry } from '../conversation/make.js';
import { SimKvFactory } from '../sim/sim-kv.js';
import {
  applyTo,
  confState,
  entryNumber,
  formatted,
  ids,
  opened,
  rejectsWith,
  seededRandom,
  simDisk,
  TurnClock,
} from './help.js';

const folder = await mkdtemp(join(tmpdir(), 'hansard-store-'));
t.teardown(() => rm(folder, { recursive: true, force: true }));

/** What every Kv must do. */
async function suite(t: Test, factory: KvFactory, path: string): Promise<void> {
  await rejectsWith(t, factory.open(path, { create: false }), 'REPLICA_LOST');
  let kv: Kv = await factory.open(path, { create: true });
  await rejectsWith(t, factory.open(path, { create: false }), 'DIRECTORY_IN_USE');
  const key = (...bytes: number[]) => Buffer.from(bytes);
  const batch = kv.batch();
  for (let i = 0; i < 600; i++) batch.put(key(7, i >> 8, i & 255), Buffer.alloc(2000, i & 255));
  batch.put(key(7, 255), Buffer.from('last'));
  batch.put(key(8), Buffer.alloc(0));
  t.equal(batch.length, 602);
  t.equal(kv.getSync(key(7, 255)), undefined, 'nothing is seen before the write');
  await batch.write();
  t.equal(Buffer.from((await kv.get(key(7, 255))) ?? []).toString(), 'last');
  t.equal(Buffer.from(kv.getSync(key(7, 255)) ?? []).toString(), 'last');
  t.equal((await kv.get(key(8)))?.length, 0, 'an empty value is a value');
  t.strictSame(
    (await kv.getMany([key(9), key(7, 0, 3)])).map((value) => value?.length),
    [undefined, 2000],
  );
  const abandoned = kv.batch();
  abandoned.put(key(9), key(9));
  await abandoned.abandon();
  t.equal(await kv.get(key(9)), undefined);

  const range = { gte: key(7), lt: key(8) };
  const iterator = kv.iterator(range);
  const down = kv.iterator({ ...range, reverse: true, limit: 3 });
  const deletion = kv.batch();
  deletion.del(key(7, 0, 0));
  deletion.put(key(7, 0, 1, 1), key(1));
  await deletion.write();
  const rows = await iterator.next(500);
  t.equal(rows.length, 500, 'as many as were asked for, however large');
  t.strictSame([...(rows[0]?.[0] ?? [])], [7, 0, 0], 'an iterator sees the state in which it was made');
  t.equal((await iterator.next(500)).length, 101);
  t.strictSame(await iterator.next(5), []);
  await iterator.close();
  t.strictSame(
    (await down.next(10)).map(([k]) => [...k]),
    [
      [7, 255],
      [7, 2, 87],
      [7, 2, 86],
    ],
  );
  await down.close();
  await kv.close();
  kv = await factory.open(path, { create: false });
  t.equal(await kv.get(key(7, 0, 0)), undefined);
  t.equal((await kv.get(key(7, 0, 1, 1)))?.length, 1);
  await kv.close();
}

t.test('LevelDB keeps the contract', (t) => suite(t, levelKvFactory(), join(folder, 'contract')));
t.test('the simulated one too', (t) =>
  suite(t, new SimKvFactory({ clock: new TurnClock(), random: seededRandom(3) }), 'contract'),
);

t.test('a store on real LevelDB, through reopening', async (t) => {
  const path = join(folder, 'store');
  const factory = levelKvFactory();
  const first = await factory.open(path, { create: true });
  await rejectsWith(
    t,
    openStore({ kv: first, ...ids, clock: new TurnClock(), logger: silentLogger }),
    'REPLICA_LOST',
  );
  const kv = await factory.open(path, { create: false });
  const partitions = [0, 1, 2].map((partition) => ({ partition, confState }));
  await formatStore({ kv, ...ids, partitions });
  await rejectsWith(t, formatStore({ kv, ...ids, partitions }), 'DIRECTORY_NOT_EMPTY');
  const options = { ...ids, clock: new TurnClock(), logger: silentLogger };
  let store = await openStore({ kv, ...options });
  for (let i = 0; i < 200; i++) {
    const data = madeEntry([
      madeAppend(
        `room ${i % 7}`,
        Array.from({ length: 20 }, (_, n) => `${i} ${n} some words that repeat, words that repeat`),
      ),
    ]);
    applyTo(store.partition(i % 2), data);
  }
  const before = await Promise.all(store.partitions().map((partition) => partition.digest()));
  await store.checkpoint([0, 1, 2]);
  t.equal(store.tailBytes, 0);
  t.equal(store.stats().checkpoints, 1, 'several partitions, one batch');
  await store.putFact('peer 2', Buffer.from('store-2'));
  await store.close();

  const again = (over: object) => async () => {
    const kv = await factory.open(path, { create: false });
    return openStore({ kv, ...options, ...over });
  };
  await rejectsWith(t, again({ clusterId: 'another' })(), 'REPLICA_LOST');
  await rejectsWith(t, again({ storeId: 'another' })(), 'REPLICA_LOST');
  store = await again({})();
  t.strictSame(await Promise.all(store.partitions().map((partition) => partition.digest())), before);
  t.equal(Buffer.from(store.getFact('peer 2') ?? []).toString(), 'store-2');
  t.equal(store.partition(0).sealedIndex, 100);
  t.equal(store.partition(2).sealedIndex, 0);
  await store.close();

  const current = await readFile(join(path, 'CURRENT'));
  await rm(join(path, 'CURRENT'));
  const names = (await readdir(path)).sort();
  await rejectsWith(t, factory.open(path, { create: false }), 'STORE_DAMAGED');
  t.strictSame((await readdir(path)).sort(), names, 'nothing was deleted');
  await writeFile(join(path, 'CURRENT'), current);
  store = await again({})();
  t.strictSame(await Promise.all(store.partitions().map((partition) => partition.digest())), before);
  await store.close();
});

t.test('a process killed while it seals has lost nothing that it had sealed', async (t) => {
  const path = join(folder, 'killed');
  const child = spawn(
    process.execPath,
    [fileURLToPath(new URL('./sealing-child.js', import.meta.url)), path],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  let printed = '';
  let locked: Promise<unknown> | undefined;
  for await (const chunk of child.stdout) {
    printed += chunk;
    const seals = printed.split('\n').length;
    if (seals > 10)
      locked ??= rejectsWith(t, levelKvFactory().open(path, { create: false }), 'DIRECTORY_IN_USE');
    if (seals > 40) {
      await locked;
      child.kill('SIGKILL');
    }
  }
  const sealed = Number(printed.trimEnd().split('\n').at(-1));
  const kv = await levelKvFactory().open(path, { create: false });
  const store = await openStore({ kv, ...ids, clock: new TurnClock(), logger: silentLogger });
  const partition = store.partition(0);
  t.ok(partition.appliedIndex >= sealed, `${partition.appliedIndex} is there, ${sealed} was reported`);
  const fresh = await opened(await formatted(simDisk(), [0], 4096));
  while (fresh.partition(0).appliedIndex < partition.appliedIndex) {
    applyTo(fresh.partition(0), entryNumber(fresh.partition(0).appliedIndex + 1));
  }
  t.equal(await partition.digest(), await fresh.partition(0).digest());
  await fresh.close();
  await store.close();
});
