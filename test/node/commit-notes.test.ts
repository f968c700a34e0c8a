/** Followers hear of a commit index with whatever entries leave next, of any partition; in an idle node a moment later. */
import t from 'tap';
import { append, Cluster } from './cluster.js';

t.test('a commit index goes along with the entries of another partition', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 2, settings: { balanceMs: 1e9 } });
  const leader = await cluster.led(0);
  if ((await cluster.led(1)) !== leader) {
    const { node } = await cluster.led(1);
    const other = node.replicas().find((replica) => replica.partition === 1);
    const heir = other?.members.find(({ nodeId }) => nodeId === leader.node.identity.nodeId);
    other?.transferLeadership(heir?.replicaId ?? 0);
    t.ok(await cluster.clock.until(() => cluster.leaderOf(1) === leader, 5_000), 'one node leads both');
  }
  await cluster.clock.run(500);
  const write = (partition: number) =>
    leader.node.propose(partition, append('a', 'text'), {
      deadlineMs: cluster.clock.monotonicMs() + 5_000,
    });
  const followers = [...cluster.running.values()].filter((running) => running !== leader);
  const replicaOf = (running: (typeof followers)[number], partition: number) =>
    running.node.replicas().find((replica) => replica.partition === partition);

  const first = await cluster.settled(write(0));
  t.ok(
    followers.every((running) => (replicaOf(running, 0)?.appliedIndex ?? 0) < first.index),
    'it is not told at once: that would be a message for nothing',
  );
  const second = write(1);
  const arrived = (): boolean =>
    followers.every((running) => (replicaOf(running, 1)?.log.lastIndex() ?? 0) > 1) &&
    followers.some((running) => (replicaOf(running, 0)?.appliedIndex ?? 0) >= first.index);
  const startMs = cluster.clock.monotonicMs();
  t.ok(await cluster.clock.until(arrived, 1_000));
  t.ok(cluster.clock.monotonicMs() - startMs < 4, 'the second one brought it, no timer');
  const { index } = await cluster.settled(second);

  const told = (): boolean =>
    followers.every((running) => (replicaOf(running, 1)?.appliedIndex ?? 0) >= index);
  t.ok(await cluster.clock.until(told, 20), 'the last one is told by the timer, long before a heartbeat');
  await cluster.stopAll();
});
