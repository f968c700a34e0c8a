/**
 * Found by seed 8103 of the simulator: a sender that its own throttle held back for
 * longer than a silent snapshot is kept gave it up, and began anew for ever.
 */
import t from 'tap';
import { append, Cluster } from './cluster.js';

t.test('a snapshot that is throttled below a chunk per idle time comes through', async (t) => {
  const cluster = await Cluster.start({
    nodes: 3,
    partitions: 1,
    maxLogBytes: 4 * 1024 * 1024,
    settings: {
      logBytes: 4 * 1024 * 1024,
      checkpointAgeMs: 200,
      // One large event is a chunk of its own: 100 KB at 50 KB/s take two seconds.
      snapshotBytesPerSecond: 50_000,
      snapshotChunkBytes: 10_000,
      snapshotIdleMs: 500,
    },
  });
  const fill = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i++) {
      const { node } = await cluster.led();
      const command = append(`c${i % 2}`, noise(100_000, i));
      const options = { deadlineMs: node.monotonicMs() + 10_000, producer: undefined };
      await cluster.settled(node.propose(0, command, options), 30_000);
    }
  };
  await fill(2);
  await cluster.led();
  const away = [...cluster.running.values()].find(({ node }) => !node.replicas()[0]?.isLeader) as never as {
    node: { identity: { nodeId: number } };
  };
  const { nodeId } = away.node.identity;
  await cluster.stop(nodeId, { seal: false });
  await fill(60);
  await cluster.clock.run(2_000);
  const { node } = await cluster.led();
  const target = node.replicas()[0]?.appliedIndex ?? 0;
  await cluster.open(nodeId);
  const caughtUp = () => (cluster.get(nodeId).node.replicas()[0]?.appliedIndex ?? 0) >= target;
  // 6 MB at 50 KB/s: two minutes; what begins anew never ends.
  t.ok(await cluster.clock.until(caughtUp, 400_000), 'it has all that it missed');
  t.equal(cluster.get(nodeId).node.snapshotStats().received, 1, 'by one snapshot');
  for (const { fatal } of cluster.running.values()) t.same(fatal, []);
  await cluster.stopAll();
});

/** Text that hardly compresses, the same for the same number. */
function noise(length: number, seed: number): string {
  let state = seed + 1;
  const codes = new Uint8Array(length);
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    codes[i] = 33 + ((state >>> 24) % 90);
  }
  return Buffer.from(codes).toString('latin1');
}
