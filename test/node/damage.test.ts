import t, { type Test } from 'tap';
import { ByteWriter } from '../../src/common/bytes.js';
import { HansardError } from '../../src/common/errors.js';
import { noPlace } from '../../src/common/faults.js';
import { newFault } from '../../src/node/replace-log.js';
import { RowKind } from '../../src/store/keys.js';
import { append, Cluster } from './cluster.js';

t.setTimeout(600_000);

/** Appends through whoever leads, again and again until it is in. */
async function appendAll(cluster: Cluster, from: number, to: number, partition = 0): Promise<void> {
  for (let n = from; n <= to; n++) {
    for (;;) {
      const { node } = await cluster.led(partition);
      const deadlineMs = cluster.clock.monotonicMs() + 5_000;
      const done = await cluster
        .settled(node.propose(partition, append(`channel ${n % 3}`, `text ${n}`), { deadlineMs }))
        .catch((error: unknown) => {
          const again =
            error instanceof HansardError && ['NOT_LEADER', 'COMMIT_UNKNOWN'].includes(error.reason);
          if (!again) throw error;
        });
      if (done !== undefined) break;
      await cluster.clock.until(() => false, 50);
    }
  }
}

/** All nodes have the same state of the partition, and nobody has failed. */
async function sameEverywhere(t: Test, cluster: Cluster, partition = 0): Promise<void> {
  const nodes = [...cluster.running.values()];
  const applied = () =>
    nodes.map(({ node }) => node.replicas().find((one) => one.partition === partition)?.appliedIndex ?? 0);
  const isSame = await cluster.clock.until(() => new Set(applied()).size === 1 && applied()[0] !== 0, 20_000);
  t.ok(isSame, `applied: ${applied()}`);
  const digests = [];
  for (const { store } of nodes) digests.push(await cluster.settled(store.partition(partition).digest()));
  t.equal(new Set(digests).size, 1, 'one state');
  for (const { fatal } of nodes) t.strictSame(fatal, []);
}

const faultsOf = (cluster: Cluster, nodeId: number) =>
  cluster
    .get(nodeId)
    .node.faults()
    .filter((fault) => fault.nodeId === nodeId);

t.test(
  'a row that is damaged while the node is down: it votes and appends, and is mended from another',
  async (t) => {
    const cluster = await Cluster.start({ nodes: 3, partitions: 1, settings: { checkpointAgeMs: 500 } });
    await appendAll(cluster, 1, 30);
    await cluster.clock.until(() => false, 3_000);
    await cluster.stop(2);
    const disk = cluster.folder(2).database.disk('db');
    disk.damage((key, value) => {
      if (key[0] === RowKind.channelName) return undefined;
      return value;
    });
    await cluster.open(2);
    t.match(faultsOf(cluster, 2), [{ partition: 0, kind: 'state-damaged', why: /channels/ }]);
    const other = [...cluster.running].find(
      ([id]) => id !== 2 && cluster.leaderOf(0)?.node.identity.nodeId !== id,
    );
    await cluster.stop(other?.[0] as number);
    await appendAll(cluster, 31, 40);
    t.pass('with the damaged one it is a majority: it acknowledges');
    const { space } = cluster.get(2);
    space.isCritical = true;
    await cluster.open(other?.[0] as number);
    await cluster.clock.until(() => false, 3_000);
    t.equal(faultsOf(cluster, 2).length, 1, 'a disk that is full takes in no snapshot');
    space.isCritical = false;
    t.ok(await cluster.clock.until(() => faultsOf(cluster, 2).length === 0, 20_000), 'it is sound by itself');
    await appendAll(cluster, 41, 50);
    await sameEverywhere(t, cluster);
    await cluster.stop(2);
    await cluster.open(2);
    t.strictSame(faultsOf(cluster, 2), [], 'and so it stays');
    await sameEverywhere(t, cluster);
    await cluster.stopAll();
  },
);

for (const leads of [true, false]) {
  t.test(`damage met by a read, at ${leads ? 'the leader' : 'a follower'}`, async (t) => {
    const cluster = await Cluster.start({
      nodes: 3,
      partitions: 1,
      settings: { checkpointAgeMs: 500, balanceMs: 100_000_000 },
    });
    await appendAll(cluster, 1, 30);
    await cluster.clock.until(() => false, 3_000);
    const leader = (await cluster.led()).node.identity.nodeId;
    const harmed = leads ? leader : (leader % 3) + 1;
    // Without its caches, so that it reads.
    await cluster.stop(harmed);
    await cluster.open(harmed);
    await cluster.led();
    if (leads) {
      const { node } = cluster.get(harmed);
      const again = () => cluster.leaderOf(0)?.node.identity.nodeId === harmed;
      for (let i = 0; i < 100 && !again(); i++) {
        const now = cluster.leaderOf(0);
        for (const replica of now?.node.replicas() ?? []) replica.transferLeadership(harmed);
        await cluster.clock.until(again, 200);
      }
      t.ok(node.replicas()[0]?.isLeader);
    }
    const disk = cluster.folder(harmed).database.disk('db');
    disk.damage((key, value) => {
      if (key[0] !== RowKind.block && key[0] !== RowKind.channel) return value;
      const bytes = Buffer.from(value);
      bytes[bytes.length - 3] = (bytes[bytes.length - 3] as number) ^ 4;
      return bytes;
    });
    const { node, store } = cluster.get(harmed);
    const reading = async () => {
      const channel = await store.partition(0).channelByName('default', 'channel 1');
      if (channel === undefined) throw new Error('no channel');
      const all = { fromSeq: 1, toSeq: 1e9, reverse: false, maxEvents: 1e9, maxBytes: 1e9 };
      return store.partition(0).events(channel, all);
    };
    const answer = await cluster.settled(reading()).catch((error: unknown) => error);
    t.match(answer, { reason: 'NOT_LEADER' }, 'whoever asked goes elsewhere');
    t.match(faultsOf(cluster, harmed), [{ partition: 0, kind: 'state-damaged', why: /checksum/ }]);
    await appendAll(cluster, 31, 40);
    t.ok(
      await cluster.clock.until(() => faultsOf(cluster, harmed).length === 0, 20_000),
      'it is sound by itself',
    );
    t.equal(node.repaired, 1);
    await appendAll(cluster, 41, 50);
    await sameEverywhere(t, cluster);
    t.equal((await cluster.settled(reading())).length > 10, true);
    await cluster.stopAll();
  });
}

/** Where the used part of the node's newest segment ends. */
function newestSegment(cluster: Cluster, nodeId: number): { bytes: Buffer; used: number } {
  const { disk } = cluster.folder(nodeId);
  let newest: { bytes: Buffer; used: number } = { bytes: Buffer.alloc(0), used: 0 };
  for (const { segment } of disk.segments()) {
    const bytes = disk.bytes(segment);
    if (bytes.readUInt32LE(16) !== segment) continue;
    let used = bytes.length;
    while (used > 4096 && bytes.subarray(used - 4096, used).every((byte) => byte === 0)) used -= 4096;
    newest = { bytes, used };
  }
  return newest;
}

for (const kind of ['log-damaged', 'term-or-vote-lost'] as const) {
  t.test(`${kind}: it does no harm, and is made sound by the others`, async (t) => {
    const partitions = 2;
    const cluster = await Cluster.start({
      nodes: 3,
      partitions,
      settings: { checkpointAgeMs: 100_000_000, balanceMs: 100_000_000 },
    });
    for (const partition of [0, 1]) {
      await appendAll(cluster, 1, 20, partition);
      await cluster.clock.until(() => false, 500);
    }
    await cluster.stop(2, { seal: false });
    const { bytes } = newestSegment(cluster, 2);
    if (kind === 'log-damaged') {
      // One entry's bytes: the directories are there still.
      const at = bytes.indexOf('text 12', 0);
      t.ok(at > 0);
      bytes[at + 5] = 0x40;
    } else {
      // A batch of partition 1's with both its directories: what was voted there of 0, nothing tells again.
      const at = Math.floor(bytes.lastIndexOf('text 12') / 4096) * 4096;
      bytes.fill(0, at, at + 4096);
    }
    await cluster.open(2);
    const { node } = cluster.get(2);
    const found = faultsOf(cluster, 2);
    t.ok(
      found.some((fault) => fault.kind === kind),
      JSON.stringify(found),
    );
    for (const { partition } of found) {
      const replica = node.replicas().find((one) => one.partition === partition);
      replica?.campaign();
      t.notOk(replica?.isLeader);
    }
    t.ok(await cluster.clock.until(() => faultsOf(cluster, 2).length === 0, 60_000), 'it is sound by itself');
    for (const partition of [0, 1]) await appendAll(cluster, 21, 30, partition);
    // A majority with the one that was damaged.
    await cluster.stop(1);
    for (const partition of [0, 1]) await appendAll(cluster, 31, 35, partition);
    await cluster.open(1);
    for (let partition = 0; partition < partitions; partition++) await sameEverywhere(t, cluster, partition);
    const ids = node.replicas().map(({ partition, replicaId }) => [partition, replicaId]);
    if (kind === 'log-damaged')
      t.strictSame(
        ids,
        [
          [0, 2],
          [1, 2],
        ],
        'under its old id',
      );
    else
      t.ok(
        ids.some(([, replicaId]) => (replicaId ?? 0) > 3),
        'under a new id',
      );
    await cluster.stopAll();
  });
}

/** All of it stays in the log, and leaders stay where they are. */
const unsealed = {
  nodes: 3,
  partitions: 1,
  settings: { checkpointAgeMs: 100_000_000, balanceMs: 100_000_000 },
};

t.test('a replica that lost acknowledged entries votes for nobody who lacks them', async (t) => {
  const cluster = await Cluster.start(unsealed);
  await appendAll(cluster, 1, 10);
  const leader = (await cluster.led()).node.identity.nodeId;
  const [harmed, away] = [1, 2, 3].filter((id) => id !== leader) as [number, number];
  await cluster.stop(away, { seal: false });
  await appendAll(cluster, 11, 20);
  await cluster.clock.until(() => false, 500);
  // The entries from 11 on are on two disks: now one of them is damaged and the other is away.
  await cluster.stop(leader, { seal: false });
  await cluster.stop(harmed, { seal: false });
  const { bytes } = newestSegment(cluster, harmed);
  bytes[bytes.indexOf('text 12') + 5] = 0x40;
  await cluster.open(harmed);
  t.match(faultsOf(cluster, harmed), [{ kind: 'log-damaged' }]);
  await cluster.open(away);
  await cluster.clock.until(() => false, 15_000);
  t.equal(cluster.leaderOf(0), undefined, 'nobody is elected');
  await cluster.open(leader);
  t.equal((await cluster.led()).node.identity.nodeId, leader, 'but who has all of it');
  t.ok(await cluster.clock.until(() => faultsOf(cluster, harmed).length === 0, 30_000));
  await appendAll(cluster, 21, 25);
  await sameEverywhere(t, cluster);
  const { store } = cluster.get(away);
  const channel = await cluster.settled(store.partition(0).channelByName('default', 'channel 0'));
  t.equal(channel?.headSeq, 8, 'nothing is lost: 3, 6 … 24');
  await cluster.stopAll();
});

t.test('a replica that differs is told so also by who led it a moment ago, and is mended', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1 });
  await appendAll(cluster, 1, 10);
  const leader = (await cluster.led()).node.identity.nodeId;
  // Leadership may move between comparing and telling.
  const [teller, told] = [1, 2, 3].filter((id) => id !== leader) as [number, number];
  const tell = (from: number, partition: number) => {
    const request = new ByteWriter(64).u8(1).uvarint(partition).string('another digest').finish();
    const deadlineMs = cluster.clock.monotonicMs() + 5_000;
    return cluster.settled(
      cluster.get(from).node.forward(told, 'hansard.internal.v1/ReplicaDiffers', request, deadlineMs),
    );
  };
  await t.rejects(tell(teller, 7), /no replica of partition 7 on node \d/);
  await tell(teller, 0);
  t.match(faultsOf(cluster, told), [{ kind: 'state-damaged', partition: 0 }]);
  t.ok(await cluster.clock.until(() => faultsOf(cluster, told).length === 0, 30_000), 'it is mended');
  await sameEverywhere(t, cluster);
  await cluster.stopAll();
});

t.test('a leader does not send without end what a replica had acknowledged and lost', async (t) => {
  const cluster = await Cluster.start(unsealed);
  await appendAll(cluster, 1, 20);
  await cluster.clock.until(() => false, 500);
  const leader = await cluster.led();
  const harmed = (leader.node.identity.nodeId % 3) + 1;
  await cluster.stop(harmed, { seal: false });
  const { bytes } = newestSegment(cluster, harmed);
  bytes[bytes.indexOf('text 20') + 5] = 0x40;
  await cluster.open(harmed);
  t.match(faultsOf(cluster, harmed), [{ kind: 'log-damaged' }]);
  const { delivered } = cluster.network;
  // It has not told yet what it lost.
  await cluster.clock.until(() => false, 400);
  t.ok(leader.node.replicas()[0]?.isLeader);
  const frames = cluster.network.delivered - delivered;
  t.ok(frames < 150, `${frames} frames in 400 ms`);
  t.ok(await cluster.clock.until(() => faultsOf(cluster, harmed).length === 0, 30_000));
  await sameEverywhere(t, cluster);
  await cluster.stopAll();
});

t.test('a log that ends before what is sealed has lost votes without a trace', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 2, settings: { checkpointAgeMs: 500 } });
  for (const partition of [0, 1]) await appendAll(cluster, 1, 10, partition);
  await cluster.stop(2);
  const old = cluster.folder(2).disk.clone();
  await cluster.open(2);
  for (const partition of [0, 1]) await appendAll(cluster, 11, 30, partition);
  await cluster.clock.until(() => false, 3_000);
  await cluster.stop(2);
  cluster.folder(2).disk = old;
  await cluster.open(2);
  t.match(faultsOf(cluster, 2), [{ kind: 'term-or-vote-lost' }, { kind: 'term-or-vote-lost' }]);
  t.ok(await cluster.clock.until(() => faultsOf(cluster, 2).length === 0, 60_000), 'it is sound by itself');
  for (const partition of [0, 1]) await sameEverywhere(t, cluster, partition);
  await cluster.stopAll();
});

t.test(
  'the process ends between the going of a replica that lost its vote and the coming of another',
  async (t) => {
    const cluster = await Cluster.start({ nodes: 3, partitions: 1, settings: { checkpointAgeMs: 500 } });
    await appendAll(cluster, 1, 10);
    await cluster.clock.until(() => false, 3_000);
    await cluster.stop(2);
    const why = 'for the test';
    const kind = 'term-or-vote-lost';
    const fault = {
      partition: 0,
      replicaId: 2,
      kind,
      sinceUs: 0,
      why,
      generation: 0,
      floor: noPlace,
    } as const;
    await cluster.ledger(2).add([fault]);
    await cluster.open(2);
    const { node } = cluster.get(2);
    t.ok(await cluster.clock.until(() => node.replicas().length === 0, 20_000), 'it is removed');
    await cluster.stop(2);
    await cluster.open(2);
    t.ok(await cluster.clock.until(() => faultsOf(cluster, 2).length === 0, 60_000));
    t.match(
      cluster.get(2).node.replicas(),
      [{ partition: 0, membership: { isLearner: false } }],
      'another has come',
    );
    t.ok((cluster.get(2).node.replicas()[0]?.replicaId ?? 0) > 3);
    await appendAll(cluster, 11, 20);
    await sameEverywhere(t, cluster);
    await cluster.stopAll();
  },
);

for (const forgets of ['its coming', 'all since it was away'] as const) {
  t.test(`a later replica has come, and the node forgets ${forgets}`, async (t) => {
    const cluster = await Cluster.start({ nodes: 3, partitions: 1, settings: { checkpointAgeMs: 500 } });
    await appendAll(cluster, 1, 10);
    await cluster.clock.until(() => false, 3_000);
    await cluster.stop(2);
    const formatRow = (): Buffer => {
      let found: Buffer = Buffer.alloc(0);
      cluster
        .folder(2)
        .database.disk('db')
        .damage((key, value) => {
          if (key[0] === RowKind.format) found = Buffer.from(value);
          return value;
        });
      return found;
    };
    let before = formatRow();
    await cluster
      .ledger(2)
      .add([newFault({ partition: 0, replicaId: 2 }, 'term-or-vote-lost', 'for the test', 0)]);
    await cluster.open(2);
    const first = cluster.get(2).node;
    t.ok(await cluster.clock.until(() => first.replicas().length === 0, 20_000), 'it is removed');
    await cluster.stop(2);
    const { disk } = cluster.folder(2);
    const oldLog = disk.clone();
    // LevelDB loses its newest records: whose row says that it went (or is here still), and not that another came.
    if (forgets === 'all since it was away') before = formatRow();
    await cluster.open(2);
    t.ok(await cluster.clock.until(() => faultsOf(cluster, 2).length === 0, 60_000), 'another has come');
    const later = cluster.get(2).node.replicas()[0]?.replicaId ?? 0;
    t.ok(later > 3);
    await appendAll(cluster, 11, 20);
    await cluster.stop(2);
    cluster
      .folder(2)
      .database.disk('db')
      .damage((key, value) => (key[0] === RowKind.format ? before : value));
    if (forgets === 'all since it was away') cluster.folder(2).disk = oldLog;
    await cluster.open(2);
    const isTold = () => faultsOf(cluster, 2).some(({ kind }) => kind === 'term-or-vote-lost');
    t.ok(await cluster.clock.until(isTold, 20_000), 'it says that votes are lost');
    t.ok(await cluster.clock.until(() => faultsOf(cluster, 2).length === 0, 60_000), 'it is sound by itself');
    t.ok((cluster.get(2).node.replicas()[0]?.replicaId ?? 0) > later, 'under an id of its own');
    await appendAll(cluster, 21, 30);
    await sameEverywhere(t, cluster);
    await cluster.stopAll();
  });
}

t.test("a node that says another's replica is lost: that one is not removed", async (t) => {
  const cluster = await Cluster.start({ nodes: 5, partitions: 1 });
  await appendAll(cluster, 1, 10);
  const { node } = await cluster.led();
  const leader = node.identity.nodeId;
  const [asking = 0, other = 0] = [1, 2, 3, 4, 5].filter((id) => id !== leader);
  await cluster.stop(asking);
  await cluster
    .ledger(asking)
    .add([newFault({ partition: 0, replicaId: other }, 'term-or-vote-lost', 'for the test', 0)]);
  await cluster.open(asking);
  await cluster.clock.until(() => false, 20_000);
  const { replicas } = node.cluster().partitions[0] ?? { replicas: [] };
  t.ok(replicas.some((one) => one.replicaId === other && one.nodeId === other));
  await appendAll(cluster, 11, 20);
  await cluster.stopAll();
});

t.test('a fault of long ago: the partition has all its replicas elsewhere', async (t) => {
  const cluster = await Cluster.start({
    nodes: 4,
    partitions: 1,
    replicationFactor: 3,
    settings: { checkpointAgeMs: 500 },
  });
  await appendAll(cluster, 1, 10);
  const held = [1, 2, 3, 4].filter((id) => cluster.get(id).node.replicas().length > 0);
  const spare = [1, 2, 3, 4].find((id) => !held.includes(id)) as number;
  const harmed = held.find((id) => cluster.leaderOf(0)?.node.identity.nodeId !== id) as number;
  const lost = cluster.get(harmed).node.replicas()[0]?.replicaId ?? 0;
  await cluster.stop(harmed);
  const { node } = await cluster.led();
  const deadlineMs = cluster.clock.monotonicMs() + 60_000;
  await cluster.settled(
    node.changeReplicas(0, [{ kind: 'replace', replicaId: lost, nodeId: spare }], {
      deadlineMs,
      force: true,
    }),
    60_000,
  );
  await cluster
    .ledger(harmed)
    .add([newFault({ partition: 0, replicaId: lost }, 'term-or-vote-lost', 'so', 0)]);
  await cluster.open(harmed);
  t.ok(await cluster.clock.until(() => faultsOf(cluster, harmed).length === 0, 30_000), 'it is over');
  t.equal(cluster.get(harmed).node.replicas().length, 0);
  const leader = await cluster.led();
  t.equal(leader.node.replicas()[0]?.members.length, 3, 'no fourth one has come');
  await cluster.stopAll();
});

t.test('a leader meets damage in its log while it runs: it ends, and the next start mends it', async (t) => {
  const cluster = await Cluster.start({
    nodes: 3,
    partitions: 1,
    cacheBytes: 1,
    settings: { checkpointAgeMs: 100_000_000, balanceMs: 100_000_000 },
  });
  await appendAll(cluster, 1, 10);
  const leader = (await cluster.led()).node.identity.nodeId;
  const away = [1, 2, 3].find((id) => id !== leader) as number;
  await cluster.stop(away, { seal: false });
  await appendAll(cluster, 11, 30);
  await cluster.clock.until(() => false, 500);
  const { bytes } = newestSegment(cluster, leader);
  const at = bytes.indexOf('text 12');
  t.ok(at > 0);
  bytes[at + 5] = 0x40;
  // What the other lacks is in no cache any more.
  await cluster.open(away);
  const { fatal } = cluster.get(leader);
  t.ok(await cluster.clock.until(() => fatal.length > 0, 20_000), 'it does not send what is damaged');
  t.match(fatal, [{ reason: 'LOG_DAMAGED' }]);
  await cluster.stop(leader, { seal: false });
  await appendAll(cluster, 31, 35);
  await cluster.open(leader);
  t.match(faultsOf(cluster, leader), [{ kind: 'log-damaged' }]);
  t.ok(
    await cluster.clock.until(() => faultsOf(cluster, leader).length === 0, 60_000),
    'it is sound by itself',
  );
  await appendAll(cluster, 36, 40);
  await sameEverywhere(t, cluster);
  await cluster.stopAll();
});

t.test('a tail full of what is not sealed any more does not keep a node busy for ever', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1, settings: { checkpointBytes: 1 } });
  await appendAll(cluster, 1, 5);
  const leader = await cluster.led();
  const [, follower] = [...cluster.running].find(([, running]) => running !== leader) ?? [];
  const { store } = follower as NonNullable<typeof follower>;
  const checkpoint = store.checkpoint.bind(store);
  let asked = 0;
  store.checkpoint = (partitions) => {
    // No timer comes in between where it is asked for without end.
    if (++asked > 1_000) throw new Error('asked for checkpoints without end');
    return checkpoint(partitions);
  };
  store.distrust(0, 'as though a row of it were damaged');
  await appendAll(cluster, 6, 10);
  await cluster.clock.run(1_000);
  t.ok(asked < 50, `${asked} checkpoints asked for`);
  t.strictSame(follower?.fatal, []);
  await cluster.stopAll();
});
