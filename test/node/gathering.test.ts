/** What is proposed while a round is on its way shares the next entry; where the round takes long, nobody waits for its end. */
import t from 'tap';
import { gatherFrom } from '../../src/node/turn-loop.js';
import { append, Cluster } from './cluster.js';

async function ledCluster() {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1, settings: { balanceMs: 1e9 } });
  const leader = await cluster.led(0);
  // Its first entry and all that followed is told.
  await cluster.clock.run(500);
  const replica = leader.node.replicas()[0];
  if (replica === undefined) throw new Error('it holds the partition');
  let proposed = 0;
  const propose = () =>
    leader.node.propose(0, append(`c${++proposed}`, 'text'), {
      deadlineMs: cluster.clock.monotonicMs() + 10_000,
    });
  return { cluster, leader, replica, propose };
}

t.test('appends that come while the last ones are on their way become one entry', async (t) => {
  const { cluster, replica, propose } = await ledCluster();
  // The disk is done long before the followers have answered.
  Object.assign(cluster.network.faults, { delayMinMs: 2, delayMaxMs: 2.1 });
  const before = replica.lastIndex;
  const first = Array.from({ length: gatherFrom }, propose);
  await cluster.clock.run(0.1);
  t.equal(replica.lastIndex, before + 1, 'who comes first waits for nothing');
  const later: ReturnType<typeof propose>[] = [];
  for (let i = 0; i < 5; i++) {
    await cluster.clock.run(0.5);
    later.push(propose());
  }
  t.equal(replica.lastIndex, before + 1, 'the others gather, also those that came after the sync');
  for (const one of first) t.equal((await cluster.settled(one)).index, before + 1);
  for (const one of later) t.equal((await cluster.settled(one)).index, before + 2);
  await cluster.stopAll();
});

t.test('where few are under way each leaves as soon as the disk is free', async (t) => {
  const { cluster, replica, propose } = await ledCluster();
  Object.assign(cluster.network.faults, { delayMinMs: 4, delayMaxMs: 4.1 });
  const before = replica.lastIndex;
  const first = propose();
  await cluster.clock.run(3);
  const second = propose();
  await cluster.clock.run(1);
  t.equal(replica.lastIndex, before + 2);
  t.equal(replica.commitIndex, before, 'nothing is committed yet');
  t.equal((await cluster.settled(first)).index, before + 1);
  t.equal((await cluster.settled(second)).index, before + 2);
  await cluster.stopAll();
});

t.test('with a majority far away, or gone, an append is on its way after a moment', async (t) => {
  const { cluster, leader, replica, propose } = await ledCluster();
  Object.assign(cluster.network.faults, { delayMinMs: 60, delayMaxMs: 61 });
  const before = replica.lastIndex;
  const first = Array.from({ length: gatherFrom }, propose);
  await cluster.clock.run(3);
  const second = propose();
  await cluster.clock.run(3);
  t.equal(replica.lastIndex, before + 1);
  await cluster.clock.run(10);
  t.equal(replica.lastIndex, before + 2, 'long before the first are committed');
  t.equal(replica.commitIndex, before);
  for (const one of first) t.equal((await cluster.settled(one)).index, before + 1);
  t.equal((await cluster.settled(second)).index, before + 2);

  const own = leader.node.identity.nodeId;
  cluster.network.isolate(
    own,
    [1, 2, 3].filter((node) => node !== own),
  );
  const ends: string[] = [];
  const lose = (): void => {
    propose().catch(({ reason }) => ends.push(reason));
  };
  for (let i = 0; i < 8; i++) lose();
  await cluster.clock.run(1);
  lose();
  await cluster.clock.run(20);
  t.equal(replica.lastIndex, before + 4, 'nobody answers, and it goes on');
  await cluster.clock.run(20_000);
  t.equal(ends.length, 9, 'each has an end');
  await cluster.stopAll();
});

t.test(
  'what gathers in a leader that loses its term ends, and holds nothing up in its next one',
  async (t) => {
    const { cluster, leader, replica, propose } = await ledCluster();
    const own = leader.node.identity.nodeId;
    const others = [1, 2, 3].filter((node) => node !== own);
    cluster.network.isolate(own, others);
    const ends: string[] = [];
    let lost = 0;
    const lose = (): void => {
      lost++;
      propose().catch(({ reason }) => ends.push(reason));
    };
    for (let i = 0; i < gatherFrom; i++) lose();
    await cluster.clock.run(1);
    // Round after round goes out and is answered by nobody; these gather behind the last one when it is deposed.
    const { term } = replica;
    while (replica.isLeader && replica.term === term) {
      lose();
      await cluster.clock.run(3);
    }
    await cluster.clock.run(2_000);
    t.equal(ends.length, lost, 'each has an end');
    t.same(
      ends.filter((reason) => reason !== 'COMMIT_UNKNOWN' && reason !== 'NOT_LEADER'),
      [],
    );
    cluster.network.healAll();
    await cluster.clock.run(3_000);
    const next = (await cluster.led()).node.replicas()[0];
    if (next !== replica) {
      next?.transferLeadership(replica.replicaId);
      t.ok(await cluster.clock.until(() => replica.isLeader, 5_000));
      await cluster.clock.run(200);
    }
    const before = replica.lastIndex;
    const first = Array.from({ length: gatherFrom }, propose);
    await cluster.clock.run(0.1);
    t.equal(replica.lastIndex, before + 1, 'nothing of the former term is waited for');
    for (const one of first) t.equal((await cluster.settled(one)).index, before + 1);
    await cluster.stopAll();
  },
);
