import t, { type Test } from 'tap';
import { HansardError } from '../../src/common/errors.js';
import { RowKind } from '../../src/store/keys.js';
import { append, Cluster } from './cluster.js';

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
  const applied = () => nodes.map(({ node }) => node.replicas()[partition]?.appliedIndex ?? 0);
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
    await cluster.open(other?.[0] as number);
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
