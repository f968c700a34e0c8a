/** Partitions in which nothing happens say nothing, and are there at once when something does. */
import t from 'tap';
import type { Vouching } from '../../src/node/peer-codec.js';
import { Quiescence, type QuietReplica } from '../../src/node/quiescence.js';
import { append, Cluster } from './cluster.js';

const partitions = 12;
const nodes = [1, 2, 3];

const soonMs = (cluster: Cluster) => cluster.clock.monotonicMs() + 5_000;

async function quietCluster(): Promise<Cluster> {
  const cluster = await Cluster.start({ nodes: 3, partitions });
  await cluster.led();
  if (!(await cluster.clock.until(() => isAllQuiet(cluster), 20_000)))
    throw new Error('it does not fall quiet');
  return cluster;
}

function isAllQuiet(cluster: Cluster): boolean {
  for (const { node } of cluster.running.values()) if (node.quiescentReplicas < partitions) return false;
  return true;
}

function terms(cluster: Cluster): number[] {
  return cluster
    .get(1)
    .node.replicas()
    .map(({ term }) => term);
}

function sentBytes(cluster: Cluster): number {
  let sum = 0;
  for (const { transport } of cluster.running.values())
    for (const peer of transport.peers()) sum += peer.sentBytes;
  return sum;
}

async function mustHold(cluster: Cluster, partition: number): Promise<void> {
  // Whoever asks a leader that is none any more asks again.
  const endMs = cluster.clock.monotonicMs() + 10_000;
  for (;;) {
    const { node } = await cluster.led(partition);
    try {
      await cluster.settled(
        node.propose(partition, append(`c${partition}`, 'one'), { deadlineMs: soonMs(cluster) }),
      );
      return;
    } catch (error) {
      if (cluster.clock.monotonicMs() > endMs) throw error;
      await cluster.clock.run(50);
    }
  }
}

t.test('an idle cluster falls quiet, keeps its leaders, and says next to nothing', async (t) => {
  const cluster = await quietCluster();
  const before = terms(cluster);
  const bytes = sentBytes(cluster);
  await cluster.clock.run(60_000);
  t.same(terms(cluster), before, 'nobody stood for election');
  t.ok(isAllQuiet(cluster));
  // Heartbeats of 12 partitions are 100 bytes and more, ten times a second on each of six ways.
  t.ok(sentBytes(cluster) - bytes < 60 * 6 * 400, `${sentBytes(cluster) - bytes} bytes in a minute`);
  await cluster.stopAll();
});

t.test('an append finds its partition at once, wakes no other, and it falls quiet again', async (t) => {
  const cluster = await quietCluster();
  const startMs = cluster.clock.monotonicMs();
  const { node } = await cluster.led(5);
  await cluster.settled(node.propose(5, append('c5', 'one'), { deadlineMs: soonMs(cluster) }));
  t.ok(cluster.clock.monotonicMs() - startMs < 100, 'without waiting for a tick or an election');
  for (const { node: each } of cluster.running.values()) t.equal(each.quiescentReplicas, partitions - 1);
  t.ok(await cluster.clock.until(() => isAllQuiet(cluster), 10_000));
  for (const { node: each } of cluster.running.values()) t.equal(each.replicas()[5]?.appliedIndex, 2);
  await cluster.stopAll();
});

t.test('linearizable reads of a quiet partition are answered by followers and leaders', async (t) => {
  const cluster = await quietCluster();
  for (const id of nodes) {
    const replica = cluster.get(id).node.replicas()[7];
    await cluster.settled(replica?.readBarrier('linearizable', 0, soonMs(cluster)) ?? Promise.reject(id));
  }
  t.pass();
  await cluster.stopAll();
});

t.test(
  'a quiet leader that is cut off is replaced within an election timeout or two, and steps down',
  async (t) => {
    const cluster = await quietCluster();
    const old = await cluster.led(0);
    const { nodeId } = old.node.identity;
    cluster.network.isolate(
      nodeId,
      nodes.filter((id) => id !== nodeId),
    );
    const isReplaced = () =>
      nodes.some(
        (id) =>
          id !== nodeId &&
          cluster
            .get(id)
            .node.replicas()
            .some((r) => r.partition === 0 && r.isLeader),
      );
    t.ok(await cluster.clock.until(isReplaced, 4_000), 'another one leads');
    const hasSteppedDown = () => !old.node.replicas()[0]?.isLeader;
    t.ok(await cluster.clock.until(hasSteppedDown, 4_000), 'the old one knows that it is cut off');
    cluster.network.healAll();
    for (let partition = 0; partition < partitions; partition++) await mustHold(cluster, partition);
    t.ok(await cluster.clock.until(() => isAllQuiet(cluster), 30_000), 'and all is quiet again');
    await cluster.stopAll();
  },
);

t.test('a node that only hears nothing is not vouched for, nor does its leader lead on alone', async (t) => {
  const cluster = await quietCluster();
  const leader = await cluster.led(0);
  const { nodeId } = leader.node.identity;
  // What it says arrives, what is said to it does not: its vouching is heard, and the answers get lost.
  for (const id of nodes) if (id !== nodeId) cluster.network.block(id, nodeId);
  t.ok(
    await cluster.clock.until(() => !leader.node.replicas()[0]?.isLeader, 6_000),
    'hearing from nobody, it steps down',
  );
  cluster.network.healAll();
  await mustHold(cluster, 0);
  await cluster.stopAll();
});

t.test('a node that comes back is caught up with before anything falls quiet', async (t) => {
  const cluster = await quietCluster();
  await cluster.stop(3);
  for (let partition = 0; partition < partitions; partition++) await mustHold(cluster, partition);
  await cluster.clock.run(20_000);
  for (const { node } of cluster.running.values())
    t.equal(node.quiescentReplicas, 0, 'with one member away nobody is quiet: it may come back any time');
  await cluster.open(3);
  t.ok(await cluster.clock.until(() => isAllQuiet(cluster), 30_000));
  const applied = (id: number) =>
    cluster
      .get(id)
      .node.replicas()
      .map((r) => [r.partition, r.appliedIndex]);
  t.same(applied(3).sort(), applied(1).sort());
  await cluster.stopAll();
});

t.test('a leader that nobody hears steps down in time, however soon it falls quiet', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 4, settings: { quiesceAfterMs: 100 } });
  const leader = await cluster.led(0);
  await cluster.clock.run(20_000);
  const { nodeId } = (await cluster.led(0)).node.identity;
  t.equal(nodeId, leader.node.identity.nodeId);
  for (const id of nodes) if (id !== nodeId) cluster.network.block(id, nodeId);
  t.ok(await cluster.clock.until(() => !leader.node.replicas()[0]?.isLeader, 4_000));
  cluster.network.healAll();
  await cluster.stopAll();
});

t.test('processes that stood still together elect nobody', async (t) => {
  const cluster = await quietCluster();
  const before = terms(cluster);
  const real = cluster.clock.monotonicMs.bind(cluster.clock);
  cluster.clock.monotonicMs = () => real() + 1_500;
  await cluster.clock.run(5_000);
  t.same(terms(cluster), before);
  t.ok(isAllQuiet(cluster), 'nor does anything wake');
  await cluster.stopAll();
});

/** One partition as its leader on node 1, or as a follower of node 2. */
class FakeReplica implements QuietReplica {
  readonly partition = 0;
  term = 4;
  commitIndex = 9;
  isIdle = true;
  hearsAll = true;
  isQuiescent = false;
  vouchedMs = 0;
  believes = true;
  readonly members = nodes.map((nodeId) => ({ nodeId }));
  constructor(readonly leader: number) {}
  get isLeader(): boolean {
    return this.leader === 1;
  }
  fallQuiet(): void {
    this.isQuiescent = true;
  }
  vouchedFor(_by: number, _term: number, _commit: number, tickedMs: number): boolean {
    if (this.believes) {
      this.vouchedMs = tickedMs;
      this.isQuiescent = true;
    }
    return this.believes;
  }
  wake(): void {
    this.isQuiescent = false;
  }
}

function nodeOf(replica: FakeReplica) {
  const said: { peer: number; vouchings: readonly Vouching[] }[] = [];
  const answers: { peer: number; refused: readonly number[] }[] = [];
  const quiescence = new Quiescence({
    nodeId: 1,
    settings: { quiesceAfterMs: 500, electionTimeoutMs: 1_000, heartbeatMs: 100 },
    replicas: () => [replica],
    replica: () => replica,
    isConnected: () => true,
    vouch: (peer, vouchings) => said.push({ peer, vouchings }),
    answer: (peer, refused) => answers.push({ peer, refused }),
  });
  let nowMs = 0;
  const pass = (ms: number): void => {
    for (const endMs = nowMs + ms; nowMs < endMs; ) {
      nowMs += 50;
      quiescence.isTicked(replica, nowMs);
      quiescence.tick(nowMs);
    }
  };
  return { quiescence, said, answers, pass, now: () => nowMs };
}

t.test('a refused word wakes the leader; an answered one does not', async (t) => {
  const replica = new FakeReplica(1);
  const { quiescence, said, pass, now } = nodeOf(replica);
  pass(900);
  t.ok(replica.isQuiescent);
  t.same(said[0], { peer: 2, vouchings: [{ partition: 0, term: 4, commit: 9 }] });
  quiescence.answered(2, [], now());
  t.ok(replica.isQuiescent);
  quiescence.answered(3, [0], now());
  t.notOk(replica.isQuiescent);
});

t.test('a leader whose peer is silent for an election timeout wakes', async (t) => {
  const replica = new FakeReplica(1);
  const { quiescence, pass, now } = nodeOf(replica);
  pass(600);
  for (let i = 0; i < 10; i++) {
    pass(200);
    quiescence.answered(2, [], now());
    if (i < 3) quiescence.answered(3, [], now());
    if (i === 6) t.ok(replica.isQuiescent, 'a few lost answers are none');
  }
  replica.isIdle = false;
  t.notOk(replica.isQuiescent);
});

t.test('a follower rests while it is vouched for, and one that knows better refuses', async (t) => {
  const replica = new FakeReplica(2);
  const { quiescence, answers, pass, now } = nodeOf(replica);
  const word = [{ partition: 0, term: 4, commit: 9 }];
  quiescence.heard(2, word, now());
  t.same(answers, [{ peer: 2, refused: [] }]);
  pass(900);
  t.ok(replica.isQuiescent);
  pass(200);
  t.notOk(replica.isQuiescent, 'the last word was too long ago');
  replica.believes = false;
  quiescence.heard(2, word, now());
  t.same(answers[1], { peer: 2, refused: [0] });
});
