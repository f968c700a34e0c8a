/** Real folders that are damaged twice over, or whose repair is interrupted: nothing that was promised is forgotten. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { HansardError } from '../../src/common/errors.js';
import type { ReplicaFault } from '../../src/common/faults.js';
import { silentLogger } from '../../src/common/logger.js';
import { openDirectory } from '../../src/node/directory.js';
import { FaultLedger } from '../../src/node/fault-ledger.js';
import { initNode } from '../../src/node/open.js';
import { PartsOpener } from '../../src/node/open-parts.js';
import { realFolder } from '../../src/node/parts-folder.js';
import { realClock, realRandom } from '../../src/node/real-env.js';
import { newFault, replaceLog } from '../../src/node/replace-log.js';
import { resolveSettings } from '../../src/node/settings.js';
import type { Store } from '../../src/store/types.js';
import { formatWal, openDiskDevice, openWal } from '../../src/wal/index.js';
import { entry, identity, write } from '../wal/harness.js';

const segmentBytes = 4 * 1024 * 1024;
const partitions = [0, 1];

async function init(t: Test): Promise<string> {
  const dir = join(t.testdir(), 'node');
  const members = [1, 2, 3].map((nodeId) => ({
    nodeId,
    peerAddress: `127.0.0.1:${4000 + nodeId}`,
    clientAddress: `127.0.0.1:${5000 + nodeId}`,
  }));
  const counts = { partitionCount: partitions.length, replicationFactor: 3 };
  await initNode({ dir, clusterId: 'c1'.repeat(16), nodeId: 1, members, segmentBytes, ...counts });
  return dir;
}

/** As a start does, as far as the database. */
async function storeOpened<T>(dir: string, use: (parts: PartsOpener) => Promise<T>): Promise<T> {
  const { settings } = await resolveSettings({ flags: { logSegment: '4MiB', logMax: '64MiB' } });
  const closing: (() => Promise<unknown>)[] = [];
  const parts = new PartsOpener({
    folder: realFolder({ directory: await openDirectory(dir), settings, watch: new SharedArrayBuffer(8) }),
    settings,
    logger: silentLogger,
    firstPartitions: partitions,
    onFailure: (error) => t.fail(String(error)),
    opened: closing,
  });
  try {
    await parts.openStore();
    return await use(parts);
  } finally {
    for (const close of closing.reverse()) await close();
  }
}

function opened<T>(
  dir: string,
  use: (parts: PartsOpener, found: Awaited<ReturnType<PartsOpener['openLog']>>) => Promise<T>,
): Promise<T> {
  return storeOpened(dir, async (parts) => use(parts, await parts.openLog()));
}

const kindsOf = (faults: readonly ReplicaFault[], partition: number): string[] =>
  faults.filter((fault) => fault.partition === partition).map(({ kind }) => kind);

const segmentsOf = (dir: string): string[] =>
  readdirSync(join(dir, 'log'))
    .filter((name) => readFileSync(join(dir, 'log', name)).readUInt32LE(16) === Number(name.slice(4, 20)))
    .map((name) => join(dir, 'log', name));

t.test(
  'the record of faults and the database with its copy are lost, and the start is interrupted',
  async (t) => {
    const dir = await init(t);
    await opened(dir, async ({ ledger }, { wal }) => {
      for (const partition of partitions) {
        wal.addGroup(partition, 1);
        await write(wal, { partition, hardState: { term: 3, vote: 1, commit: 0 }, entries: [] });
      }
      await ledger.add([newFault({ partition: 1, replicaId: 1 }, 'term-or-vote-lost', 'it was', 0)]);
    });
    rmSync(join(dir, 'FAULTS'));
    rmSync(join(dir, 'db', 'CURRENT'));
    await storeOpened(dir, async () => undefined);
    const faults = await opened(dir, async ({ ledger }) => ledger.faults);
    for (const partition of partitions)
      t.ok(kindsOf(faults, partition).includes('term-or-vote-lost'), `partition ${partition} votes no more`);
    const again = await opened(dir, async ({ ledger }) => ledger.faults);
    t.same(again, faults, 'and so it stays');
  },
);

t.test('a fresh log is in its place, and the process ends before that is written down', async (t) => {
  const dir = await init(t);
  await opened(dir, async ({ ledger }) => {
    // What a start finds that ended right behind the move: the old log's notes, and a move under way.
    await ledger.update({ logMove: 1, segments: { current: 50, next: 51 } });
  });
  const record = await opened(dir, async ({ ledger }) => ledger.record);
  t.same(record.faults, [], 'the fresh log is not taken for one that has lost its end');
  t.equal(record.logMove, 0, 'the move is over: another one begins anew');
});

t.test('a second process comes while the first one replaces the database', async (t) => {
  const dir = await init(t);
  rmSync(join(dir, 'db', 'CURRENT'));
  await storeOpened(dir, async () => {
    const second = await openDirectory(dir).catch((error: unknown) => error);
    t.match(second, { reason: 'DIRECTORY_IN_USE' });
    t.ok(readdirSync(join(dir, 'db')).includes('CURRENT'), 'its files are there still');
  });
  const faults = await opened(dir, async ({ ledger }) => ledger.faults);
  for (const partition of partitions)
    t.same(kindsOf(faults, partition), ['state-damaged'], 'another start ends what was begun');
});

t.test('a replica was removed, and then the database that knew it is lost', async (t) => {
  const dir = await init(t);
  await opened(dir, async ({ ledger }, { wal }) => {
    for (const partition of partitions) {
      wal.addGroup(partition, 1);
      await write(wal, { partition, hardState: { term: 3, vote: 1, commit: 0 }, entries: [] });
    }
    await ledger.noteGone([{ partition: 1, replicaId: 1 }]);
  });
  rmSync(join(dir, 'db', 'CURRENT'));
  const found = await opened(dir, async ({ ledger }, { store }) => ({
    hosted: store.hosted(),
    faults: kindsOf(ledger.faults, 1),
    gone: ledger.goneOf(1),
  }));
  t.strictSame(found, {
    hosted: [
      { partition: 0, replicaId: 1, removed: false },
      { partition: 1, replicaId: 1, removed: true },
    ],
    faults: [],
    gone: 1,
  });
  const again = await opened(dir, async (_, { store }) => store.hosted());
  t.same(again, found.hosted, 'and so it stays');
});

t.test(
  'a replica was removed by a program that had no place to note it outside of the database',
  async (t) => {
    const dir = await init(t);
    await opened(dir, async (_, { store }) => store.dropPartition(1, 1));
    const gone = await opened(dir, async ({ ledger }) => ledger.goneOf(1));
    t.equal(gone, 1);
  },
);

t.test('a replica was removed, a later one came, and then the database is lost', async (t) => {
  const dir = await init(t);
  await opened(dir, async ({ ledger }, { wal }) => {
    await ledger.noteGone([{ partition: 1, replicaId: 1 }]);
    wal.addGroup(1, 5);
    await write(wal, { partition: 1, hardState: { term: 3, vote: 1, commit: 0 }, entries: [] });
  });
  rmSync(join(dir, 'db', 'CURRENT'));
  const { hosted, faults } = await opened(dir, async ({ ledger }, { store }) => ({
    hosted: store.hosted(),
    faults: kindsOf(ledger.faults, 1),
  }));
  t.match(hosted[1], { partition: 1, replicaId: 5, removed: false });
  t.same(faults, ['state-damaged'], 'it waits for a snapshot');
});

t.test('a segment is damaged, and the newest one is gone', async (t) => {
  const dir = await init(t);
  await opened(dir, async (_, { wal }) => {
    wal.addGroup(0, 1);
    wal.addGroup(1, 1);
    for (let index = 1; index <= 12; index++) {
      const hardState = { term: index, vote: 1, commit: 0 };
      const entries = [entry(0, index, index, Buffer.alloc(900_000, index))];
      await write(wal, { partition: 0, hardState, entries }, { partition: 1, hardState, entries: [] });
    }
  });
  const used = segmentsOf(dir);
  t.ok(used.length > 2);
  const [first = '', newest = ''] = [used.at(-2), used.at(-1)];
  const bytes = readFileSync(first);
  bytes[20_000] = (bytes[20_000] as number) ^ 1;
  writeFileSync(first, bytes);
  rmSync(newest);
  const faults = await opened(dir, async ({ ledger }) => ledger.faults);
  for (const partition of partitions)
    t.same(kindsOf(faults, partition), ['term-or-vote-lost'], `partition ${partition}`);
});

t.test('the newest segments are gone, and with them the database', async (t) => {
  const dir = await init(t);
  await opened(dir, async (_, { wal }) => {
    for (const partition of partitions) wal.addGroup(partition, 1);
    for (let index = 1; index <= 12; index++) {
      const hardState = { term: index, vote: 1, commit: 0 };
      const entries = [entry(0, index, index, Buffer.alloc(900_000, index))];
      await write(wal, { partition: 0, hardState, entries }, { partition: 1, hardState, entries: [] });
    }
  });
  const used = segmentsOf(dir);
  t.ok(used.length > 2);
  for (const newest of used.slice(-2)) rmSync(newest);
  rmSync(join(dir, 'db', 'CURRENT'));
  const faults = await opened(dir, async ({ ledger }) => ledger.faults);
  for (const partition of partitions)
    t.same(kindsOf(faults, partition), ['state-damaged', 'term-or-vote-lost'], `partition ${partition}`);
});

t.test(
  'a replica whose coming is lost with a part of the log is not taken for the one before it',
  async (t) => {
    const dir = t.testdir({ log: {}, fresh: {} });
    const device = openDiskDevice({ directory: join(dir, 'log') });
    await formatWal(device, { ...identity, random: realRandom, segmentBytes });
    const onFailure = (error: Error): void => {
      t.fail(error.message);
    };
    const wal = await openWal({ ...identity, device, clock: realClock, segmentBytes, onFailure });
    wal.addGroup(0, 1);
    await write(wal, { partition: 0, hardState: { term: 2, vote: 1, commit: 0 }, entries: [] });
    wal.addGroup(0, 7);
    const entries = [entry(0, 3, 1, 'its coming')];
    await write(wal, { partition: 0, hardState: { term: 3, vote: 7, commit: 0 }, entries });
    await write(wal, { partition: 0, hardState: { term: 4, vote: 7, commit: 0 }, entries: [] });
    await wal.close();
    const [path = ''] = segmentsOf(dir).slice(-1);
    const bytes = readFileSync(path);
    const at = Math.floor(bytes.indexOf('its coming') / 4096) * 4096;
    bytes.fill(0, at, at + 4096);
    writeFileSync(path, bytes);
    const faults = await replaceLog({
      ...identity,
      error: new HansardError('LOG_DAMAGED', 'for the test'),
      old: openDiskDevice({ directory: join(dir, 'log') }),
      fresh: openDiskDevice({ directory: join(dir, 'fresh') }),
      segmentBytes,
      clock: realClock,
      random: realRandom,
      logger: silentLogger,
      ledger: FaultLedger.inMemory(),
      store: undefined,
      hosted: [{ partition: 0, replicaId: 7 }],
    });
    t.ok(
      faults.some(({ kind, replicaId }) => kind === 'term-or-vote-lost' && replicaId === 7),
      JSON.stringify(faults),
    );
  },
);

t.test('a damaged log that ends before what is sealed of one partition has lost votes of all', async (t) => {
  const dir = await init(t);
  const damage = (name: string): void => {
    const bytes = readFileSync(name);
    const at = bytes.indexOf('to be damaged');
    bytes[at] = (bytes[at] as number) ^ 1;
    writeFileSync(name, bytes);
  };
  for (const [sealed, kind] of [
    [2, 'log-damaged'],
    [3, 'term-or-vote-lost'],
  ] as const) {
    const log = join(dir, `log-${sealed}`);
    const fresh = join(dir, `fresh-${sealed}`);
    mkdirSync(log);
    mkdirSync(fresh);
    const device = openDiskDevice({ directory: log });
    await formatWal(device, { ...identity, random: realRandom, segmentBytes });
    const onFailure = (error: Error): void => {
      t.fail(error.message);
    };
    const wal = await openWal({ ...identity, device, clock: realClock, segmentBytes, onFailure });
    for (const partition of partitions) wal.addGroup(partition, 1);
    const text = (index: number): string => (index === 1 ? 'to be damaged' : 'text');
    for (const index of [1, 2])
      for (const partition of partitions)
        await write(wal, { partition, entries: [entry(partition, 1, index, text(index))] });
    await wal.close();
    for (const name of readdirSync(log)) damage(join(log, name));
    const store = {
      setAsidePartitions: () => new Map(),
      hosted: () => [{ partition: 0, replicaId: 1, removed: false }],
      partition: () => ({ sealedIndex: sealed, sealedTerm: 1 }),
    };
    const faults = await replaceLog({
      ...identity,
      error: new HansardError('LOG_DAMAGED', 'for the test'),
      old: openDiskDevice({ directory: log }),
      fresh: openDiskDevice({ directory: fresh }),
      segmentBytes,
      clock: realClock,
      random: realRandom,
      logger: silentLogger,
      ledger: FaultLedger.inMemory(),
      store: store as unknown as Store,
      hosted: partitions.map((partition) => ({ partition, replicaId: 1 })),
    });
    t.same(kindsOf(faults, 0), [kind], `sealed up to ${sealed}: ${JSON.stringify(faults)}`);
    if (sealed === 3) t.same(kindsOf(faults, 1), [kind]);
  }
});
