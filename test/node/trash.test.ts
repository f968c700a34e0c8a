/** Deleted channels whose time is up go, also where nothing else happens. */
import t from 'tap';
import { encodeDeleteChannel } from '../../src/conversation/command.js';
import { append, Cluster } from './cluster.js';

t.test('an idle partition gives back what was deleted when its time is up', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1, settings: { balanceMs: 1e9 } });
  const { node } = await cluster.led();
  const deadlineMs = () => cluster.clock.monotonicMs() + 5_000;
  await cluster.settled(node.propose(0, append('a', 'one'), { deadlineMs: deadlineMs() }));
  const named = { tenant: 'default', channel: 'a', requestId: '', allowMissing: false };
  await cluster.settled(node.propose(0, encodeDeleteChannel(named), { deadlineMs: deadlineMs() }));
  await cluster.clock.run(3_000);
  const replicas = [1, 2, 3].flatMap((id) => cluster.get(id).node.replicas());
  const applied = replicas.map(({ appliedIndex }) => appliedIndex);
  t.same(
    replicas.map(({ store }) => store.meta.trash?.length),
    [1, 1, 1],
  );
  // As though it had been deleted long ago: the clock would take seven days of ticks.
  for (const { store } of replicas)
    store.meta.trash = store.meta.trash?.map((each) => ({ ...each, deletedTimeUs: 1 }));
  await cluster.clock.run(4_000);
  for (const [i, { store, appliedIndex }] of replicas.entries()) {
    t.match(store.meta, { trash: undefined, channelCount: 0, deletedCount: 1 });
    t.equal(appliedIndex, (applied[i] ?? 0) + 1, 'one entry, and no more');
  }
  await cluster.stopAll();
});
