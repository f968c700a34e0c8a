/** Whole nodes on simulated parts: what a node promises when its surroundings misbehave. */
import t from 'tap';
import { supportedApplyVersion } from '../../src/conversation/command.js';
import { encodePeerMessage } from '../../src/node/peer-codec.js';
import { append, Cluster } from './cluster.js';

async function reasonOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'none',
    (error: { reason: string }) => error.reason,
  );
}

const soon = (cluster: Cluster, ms = 5_000): { deadlineMs: number } => ({
  deadlineMs: cluster.clock.monotonicMs() + ms,
});

t.test('calls on a node that has stopped end at once', async (t) => {
  const cluster = await Cluster.start({ nodes: 1, partitions: 1 });
  const { node } = await cluster.led();
  await cluster.settled(node.propose(0, append('a', 'one'), soon(cluster)));
  const waits = node.readBarrier(0, { level: 'eventual', minIndex: 1e9, ...soon(cluster, 1e6) });
  const stops = cluster.stop(1);
  t.equal(await cluster.settled(reasonOf(waits)), 'SHUTTING_DOWN');
  await stops;
  for (const level of ['linearizable', 'eventual'] as const) {
    const read = node.readBarrier(0, { level, minIndex: 1e9, ...soon(cluster) });
    t.equal(await cluster.settled(reasonOf(read)), 'SHUTTING_DOWN', level);
  }
  t.equal(await reasonOf(node.propose(0, append('a', 'two'), soon(cluster))), 'SHUTTING_DOWN');
});

t.test("a view's index covers what is read of it later", async (t) => {
  const cluster = await Cluster.start({ nodes: 1, partitions: 1 });
  const { node } = await cluster.led();
  await cluster.settled(node.propose(0, append('a', 'one'), soon(cluster)));
  const options = { level: 'linearizable', minIndex: 0, ...soon(cluster) } as const;
  const view = await cluster.settled(node.readBarrier(0, options));
  const { index } = await cluster.settled(node.propose(0, append('a', 'two'), soon(cluster)));
  t.match(await cluster.settled(view.reader.channelByName('default', 'a')), { headSeq: 2 });
  t.ok(view.appliedIndex >= index, `${view.appliedIndex} of ${index}`);
  await cluster.stopAll();
});

t.test('a command that no segment of the log takes ends its call, and nothing else', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1 });
  const { node } = await cluster.led();
  const propose = (bytes: number) =>
    cluster.settled(reasonOf(node.propose(0, append('a', 'x'.repeat(bytes)), soon(cluster))));
  t.equal(await propose(1024 * 1024), 'FRAME_TOO_LARGE');
  t.equal(await propose(900 * 1024), 'none', 'the largest ones go through');
  t.same(
    [1, 2, 3].flatMap((id) => cluster.get(id).fatal),
    [],
  );
  await cluster.stopAll();
});

t.test('a broken invariant ends the process by one call, and nothing more is done', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 2 });
  const leader = await cluster.led(0);
  const { term } = leader.node.replicas()[0] as { term: number };
  const from: number = leader.node.identity.nodeId;
  const to = from === 1 ? 2 : 1;
  const victim = cluster.get(to);
  await cluster.clock.until(() => leader.transport.isConnected(to), 5_000);
  // A commit index beyond its log: either of the two has lost what it acknowledged.
  const beat = { partition: 0, from, to, term, commit: 1e6, context: 0 };
  leader.transport.send(to, encodePeerMessage({ kind: 'heartbeats', beats: [beat, beat] }), true);
  t.ok(await cluster.clock.until(() => victim.fatal.length > 0, 5_000));
  const { sentBytes } = victim.transport.peers()[0] as { sentBytes: number };
  await cluster.clock.run(3_000);
  t.equal(victim.fatal.length, 1);
  t.match(victim.fatal[0], { reason: 'REPLICA_LOST' });
  t.ok(
    (victim.transport.peers()[0] as { sentBytes: number }).sentBytes - sentBytes < 1_000,
    'it fell silent',
  );
  await cluster.stopAll();
});

t.test('a drain ends although the node fails meanwhile', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1 });
  const { node, fatal } = await cluster.led();
  const self = node.identity.nodeId;
  // Nobody takes leadership over: it would wait for its full time.
  cluster.network.isolate(
    self,
    [1, 2, 3].filter((id) => id !== self),
  );
  const drained = node.drain();
  await cluster.clock.run(60);
  node.fail(new Error('the disk failed'));
  await cluster.settled(drained, 1_000);
  t.equal(fatal.length, 1);
  cluster.network.healAll();
  await cluster.stopAll();
});

t.test('a malformed message costs the link, not the process', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1 });
  const leader = await cluster.led();
  const peer = leader.node.identity.nodeId === 1 ? 2 : 1;
  await cluster.clock.until(() => leader.transport.isConnected(peer), 5_000);
  leader.transport.send(peer, Uint8Array.of(99, 1, 2, 3));
  t.ok(await cluster.clock.until(() => !leader.transport.isConnected(peer), 1_000), 'the link is dropped');
  t.ok(await cluster.clock.until(() => leader.transport.isConnected(peer), 5_000), 'and comes back');
  const { node } = await cluster.led();
  await cluster.settled(node.propose(0, append('a', 'one'), soon(cluster)));
  for (const { fatal } of cluster.running.values()) t.same(fatal, []);
  await cluster.stopAll();
});

t.test(
  'a follower that was away catches up from the disk, with a cache that holds next to nothing',
  async (t) => {
    const cluster = await Cluster.start({ nodes: 3, partitions: 3, cacheBytes: 2_000 });
    const { node } = await cluster.led();
    const away = node.identity.nodeId === 1 ? 2 : 1;
    await cluster.stop(away);
    // Leaderships go where they belong first: one that is handed over meanwhile leaves a call unknown.
    await cluster.clock.run(3_000);
    for (let i = 0; i < 60; i++) {
      for (let partition = 0; partition < 3; partition++) {
        const leader = await cluster.led(partition);
        const sent = leader.node.propose(
          partition,
          append(`c${partition}`, `${i} `.repeat(300)),
          soon(cluster),
        );
        await cluster.settled(sent);
      }
    }
    await cluster.open(away);
    for (let partition = 0; partition < 3; partition++) {
      const goal = (await cluster.led(partition)).node.replicas()[partition]?.appliedIndex as number;
      const caught = () => (cluster.get(away).node.replicas()[partition]?.appliedIndex ?? 0) >= goal;
      t.ok(await cluster.clock.until(caught, 10_000), `partition ${partition} is caught up`);
    }
    await cluster.clock.run(2_000);
    for (let partition = 0; partition < 3; partition++) {
      const digests = new Set<string>();
      for (const { node: each } of cluster.running.values()) {
        digests.add(
          await cluster.settled(each.replicas()[partition]?.store.digest() ?? Promise.resolve('none')),
        );
      }
      t.equal(digests.size, 1, 'all replicas are equal');
    }
    for (const { wal, fatal } of cluster.running.values()) {
      t.same(fatal, []);
      t.ok(wal.stats().cachedBytes <= 2_000);
    }
    await cluster.stopAll();
  },
);

t.test('appends that come while leadership is handed over wait for its end', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1 });
  const first = await cluster.led();
  await cluster.settled(first.node.propose(0, append('a', 'one'), soon(cluster)));
  await cluster.clock.run(500);
  const replica = (await cluster.led()).node.replicas()[0] as NonNullable<
    ReturnType<typeof first.node.replicas>[0]
  >;
  const leader = await cluster.led();
  const heir = replica.members.find(({ nodeId }) => nodeId !== leader.node.identity.nodeId) as {
    nodeId: number;
    replicaId: number;
  };
  // The heir hears nothing: the handover fails after an election timeout, and the leader leads on.
  cluster.network.block(leader.node.identity.nodeId, heir.nodeId);
  replica.transferLeadership(heir.replicaId);
  const { answer } = await cluster.settled(leader.node.propose(0, append('a', 'two'), soon(cluster)));
  t.match(answer, { kind: 'append' });
  // With a deadline before that end it is told that nothing was proposed.
  replica.transferLeadership(heir.replicaId);
  const late = leader.node.propose(0, append('a', 'three'), soon(cluster, 100));
  t.equal(await cluster.settled(reasonOf(late)), 'DEADLINE_EXCEEDED');
  cluster.network.healAll();
  await cluster.stopAll();
});

t.test('a node that drains is not handed leadership back', async (t) => {
  const cluster = await Cluster.start({
    nodes: 3,
    partitions: 4,
    settings: { balanceMs: 50, drainMs: 3_000 },
  });
  for (let partition = 0; partition < 4; partition++) await cluster.led(partition);
  await cluster.clock.run(2_000);
  const node = (await cluster.led()).node;
  // Under load: nobody has all that is committed at the moment in which the drain begins.
  const load = node
    .replicas()
    .filter((replica) => replica.isLeader)
    .map((replica) => {
      const sent = node.propose(replica.partition, append('a', 'x'.repeat(1_000)), soon(cluster));
      return sent.catch(() => {});
    });
  await cluster.clock.until(() => node.replicas().some((one) => one.isLeader && one.commitIndex > 2), 1_000);
  let end = false;
  const drained = node.drain().then(() => {
    end = true;
  });
  await cluster.clock.until(() => end, 5_000);
  await drained;
  await cluster.settled(Promise.all(load));
  let led = 0;
  for (let i = 0; i < 100; i++) {
    await cluster.clock.run(20);
    led += node.replicas().filter((replica) => replica.isLeader).length;
  }
  t.equal(led, 0);
  await cluster.stopAll();
});

t.test('a process that hangs is not handed leadership', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 6, settings: { balanceMs: 200 } });
  for (let partition = 0; partition < 6; partition++) await cluster.led(partition);
  await cluster.clock.run(5_000);
  // Node 1 leads something by rank; it hangs with its links open, loses it, and stays best by rank.
  const lost = cluster
    .get(1)
    .node.replicas()
    .filter((replica) => replica.isLeader)
    .map((one) => one.partition);
  t.ok(lost.length > 0);
  cluster.network.isolate(1, [2, 3]);
  await cluster.clock.run(6_000);
  let slowest = 0;
  for (let i = 0; i < 100; i++) {
    for (const partition of lost) {
      const leader = [2, 3]
        .map((id) => cluster.get(id))
        .find(({ node }) => node.replicas()[partition]?.isLeader);
      if (leader === undefined) continue;
      const began = cluster.clock.monotonicMs();
      await cluster.settled(leader.node.propose(partition, append('a', 'x'), soon(cluster)));
      slowest = Math.max(slowest, cluster.clock.monotonicMs() - began);
    }
    await cluster.clock.run(30);
  }
  t.ok(slowest < 500, `no append waits for a handover (slowest ${slowest} ms)`);
  cluster.network.healAll();
  await cluster.stopAll();
});

t.test('appends that the order gate holds count as admitted bytes', async (t) => {
  const cluster = await Cluster.start({
    nodes: 1,
    partitions: 1,
    settings: { uncommittedBytesPerPartition: 10_000 },
  });
  const { node } = await cluster.led();
  const ends: string[] = [];
  const waiting: Promise<unknown>[] = [];
  for (let i = 0; i < 20; i++) {
    const producer = { id: 77, firstCounter: 10 + i, count: 1 };
    const one = node.propose(0, append('a', 'x'.repeat(1_000)), { ...soon(cluster), producer });
    waiting.push(
      one.then(
        () => ends.push('applied'),
        (error: { reason: string }) => ends.push(error.reason),
      ),
    );
  }
  await cluster.settled(Promise.all(waiting));
  t.equal(ends.filter((end) => end === 'OVERLOADED').length, 11);
  t.equal(ends.length, 20);
  // And are given back.
  await cluster.settled(node.propose(0, append('a', 'y'.repeat(9_000)), soon(cluster)));
  await cluster.stopAll();
});

t.test(
  'nodes tell each other which apply version they can carry out, anew after each connection',
  async (t) => {
    const cluster = await Cluster.start({ nodes: 3, partitions: 2, applyVersions: { 3: 1 } });
    const seen = (by: number) =>
      cluster
        .get(by)
        .node.cluster()
        .nodes.map(({ applyVersion }) => applyVersion);
    t.ok(await cluster.clock.until(() => !seen(1).includes(0) && !seen(3).includes(0), 10_000));
    const newest = supportedApplyVersion;
    t.same(seen(1), [newest, newest, 1]);
    t.same(seen(3), [newest, newest, 1]);
    t.same(
      cluster
        .get(1)
        .node.cluster()
        .partitions.map(({ applyVersion }) => applyVersion),
      [newest, newest],
    );
    await cluster.stop(3);
    t.ok(await cluster.clock.until(() => seen(1)[2] === 0, 10_000), 'it may come back as another build');
    await cluster.open(3);
    t.ok(await cluster.clock.until(() => seen(1)[2] === 1, 10_000));
    await cluster.stopAll();
  },
);

t.test('elections are counted by what began them', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1, settings: { balanceMs: 1e9 } });
  const total = () => {
    const sum = { silence: 0, gone: 0, handover: 0 };
    for (const { node } of cluster.running.values())
      for (const cause of ['silence', 'gone', 'handover'] as const) sum[cause] += node.electionCounts[cause];
    return sum;
  };
  const leads = async (not: number): Promise<number> => {
    const other = () => cluster.leaderOf(0)?.node.identity.nodeId;
    await cluster.clock.until(() => (other() ?? not) !== not, 20_000);
    await cluster.led();
    await cluster.clock.run(1_000);
    return other() ?? 0;
  };
  const first = await leads(0);
  const atStart = total();
  t.ok(atStart.gone > 0 && atStart.handover === 0 && atStart.silence === 0, 'nobody led');
  const replica = cluster.get(first).node.replicas()[0];
  const heir = replica?.voters.find(({ nodeId }) => nodeId !== first);
  replica?.transferLeadership(heir?.replicaId ?? 0);
  const second = await leads(first);
  t.same(total(), { ...atStart, handover: 1 });

  cluster.network.isolate(
    second,
    [1, 2, 3].filter((id) => id !== second),
  );
  await leads(second);
  t.match(total(), { gone: atStart.gone, handover: 1 });
  t.ok(total().silence > 0, 'cut off, with its process alive');
  await cluster.stopAll();
});
