/** Members of partitions in the store: sealed, carried in snapshots, part of the digest; replicas that come and go; the bytes of docs/format.md. */
import t from 'tap';
import { ByteReader, ByteWriter } from '../../src/common/bytes.js';
import { silentLogger } from '../../src/common/logger.js';
import {
  changedMembership,
  decodePlaced,
  encodePlaced,
  initialMembership,
  isRemoved,
  readMembership,
  writeMembership,
} from '../../src/common/membership.js';
import { formatKey, partitionKey } from '../../src/store/keys.js';
import { formatStore, openStore } from '../../src/store/store.js';
import { SimClock, SimRandom } from '../sim/sim-clock.js';
import { SimKvFactory } from '../sim/sim-kv.js';

const clusterId = 'c1'.repeat(16);
const storeId = '00000000000000ab';
const conf = (voters: number[], learners: number[] = []) => ({
  voters,
  votersOutgoing: [],
  learners,
  learnersNext: [],
  autoLeave: false,
});

t.test('the table follows the configuration, and refuses what is nowhere or was there before', async (t) => {
  const first = initialMembership(conf([1, 2, 4]));
  t.same(first, {
    members: [1, 2, 4].map((id) => ({ replicaId: id, nodeId: id })),
    nextReplicaId: 5,
    changes: 0,
  });
  t.equal(initialMembership(conf([])).nextReplicaId, 0, 'who knows nothing takes nobody for removed');
  const placed = [{ replicaId: 5, nodeId: 3 }];
  const added = changedMembership(first, conf([1, 2, 4], [5]), placed);
  t.same(added?.members.at(-1), { replicaId: 5, nodeId: 3 });
  t.match(added, { nextReplicaId: 6, changes: 1 });
  t.equal(changedMembership(first, conf([1, 2, 4], [5]), []), undefined, 'nowhere');
  t.equal(
    changedMembership(first, conf([1, 2, 4], [3]), [{ replicaId: 3, nodeId: 3 }]),
    undefined,
    'an old id',
  );
  const removed = changedMembership(added ?? first, conf([1, 2], [5]), []);
  t.same(
    removed?.members.map(({ replicaId }) => replicaId),
    [1, 2, 5],
  );
  t.ok(removed !== undefined && isRemoved(removed, 4) && !isRemoved(removed, 5) && !isRemoved(removed, 6));
  t.equal(changedMembership(removed ?? first, conf([1, 2, 4], [5]), placed), undefined, 'never again');
});

t.test('golden: places of new replicas, tables', async (t) => {
  const placed = [{ replicaId: 300, nodeId: 4 }];
  t.equal(Buffer.from(encodePlaced(placed)).toString('hex'), '0101ac0204');
  t.same(decodePlaced(Buffer.from('0101ac0204', 'hex')), placed);
  t.same(decodePlaced(undefined), []);
  for (const bytes of ['02', '0101', '0105ac0204', '0101ac020400'])
    t.equal(
      decodePlaced(Buffer.from(bytes, 'hex')),
      undefined,
      `${bytes} is not understood, and does not throw`,
    );
  const table = {
    members: [
      { replicaId: 2, nodeId: 2 },
      { replicaId: 6, nodeId: 1 },
    ],
    nextReplicaId: 7,
    changes: 3,
  };
  const writer = new ByteWriter(16);
  writeMembership(writer, table);
  const bytes = writer.finish();
  t.equal(bytes.toString('hex'), '07030202020601');
  t.same(readMembership(new ByteReader(bytes)), table);
});

/** A store on a simulated database that can be looked into. */
async function store(partitions = [0]) {
  const clock = new SimClock();
  const factory = new SimKvFactory({ clock, random: new SimRandom(1), readMs: 0, writeMs: 0 });
  const settled = async <T>(promise: Promise<T>): Promise<T> => {
    let done = false;
    const mark = () => {
      done = true;
    };
    promise.then(mark, mark);
    if (!(await clock.until(() => done, 10_000))) throw new Error('not settled');
    return promise;
  };
  const kv = await settled(factory.open('db', { create: true }));
  await settled(
    formatStore({
      kv,
      clusterId,
      storeId,
      partitions: partitions.map((partition) => ({ partition, confState: conf([1, 2, 3]) })),
    }),
  );
  await settled(kv.close());
  const open = async () => {
    const opened = await settled(factory.open('db', { create: false }));
    return {
      kv: opened,
      store: await settled(openStore({ kv: opened, clusterId, storeId, clock, logger: silentLogger })),
    };
  };
  return { open, settled, clock };
}

t.test('sealed with the configuration, and in the digest once members have changed', async (t) => {
  const { open, settled } = await store();
  const first = await open();
  const partition = first.store.partition(0);
  const before = await settled(partition.digest());
  const sealed = async () => (await settled(first.kv.get(partitionKey(0))))?.[0];
  t.equal(await sealed(), 2, 'as before, while nothing has changed');
  const next = changedMembership(partition.membership, conf([1, 2, 3], [4]), [{ replicaId: 4, nodeId: 5 }]);
  if (next === undefined) throw new Error('refused');
  partition.beginEntry();
  partition.setConfState(conf([1, 2, 3], [4]), next);
  partition.endEntry(1, 1);
  t.equal(partition.sealedMembership.changes, 0);
  t.not(await settled(partition.digest()), before);
  const digest = await settled(partition.digest());
  await settled(first.store.checkpoint([0]));
  t.equal(await sealed(), 4, 'with the bounds of the change list, too');
  t.same(partition.sealedMembership, next);
  await settled(first.store.close());
  const again = await open();
  t.same(again.store.partition(0).membership, next);
  t.equal(await settled(again.store.partition(0).digest()), digest);
  await settled(again.store.close());
});

t.test('a replica goes, another comes: what the store holds is one record', async (t) => {
  const { open, settled } = await store([0, 1]);
  const first = await open();
  const formatVersion = async (kv: typeof first.kv) => (await settled(kv.get(formatKey())))?.[9];
  t.equal(await formatVersion(first.kv), 1);
  t.same(
    first.store.hosted(),
    [0, 1].map((partition) => ({ partition, replicaId: 0, removed: false })),
  );
  const old = first.store.partition(1);
  await settled(first.store.dropPartition(1, 2));
  t.equal(await formatVersion(first.kv), 2);
  t.same(first.store.hosted()[1], { partition: 1, replicaId: 2, removed: true });
  await t.rejects(settled(old.channelByName('default', 'a')), /no replica/, 'who still reads is told');
  t.throws(() => first.store.partition(1));
  await settled(first.store.checkpoint([0, 1]));
  t.equal(await settled(first.kv.get(partitionKey(1))), undefined);
  await settled(first.store.close());
  const second = await open();
  t.same(
    second.store.partitions().map(({ partition }) => partition),
    [0],
    'also after a start',
  );
  const fresh = await settled(second.store.addPartition(1, 9));
  t.same(fresh.confState, conf([]));
  t.match(fresh, { appliedIndex: 0, membership: { nextReplicaId: 0, members: [] } });
  const other = await settled(second.store.addPartition(7, 12));
  t.equal(other.partition, 7);
  await settled(second.store.close());
  const third = await open();
  t.same(third.store.hosted(), [
    { partition: 0, replicaId: 0, removed: false },
    { partition: 1, replicaId: 9, removed: false },
    { partition: 7, replicaId: 12, removed: false },
  ]);
  t.equal(third.store.partition(1).appliedIndex, 0);
  await settled(third.store.close());
});
