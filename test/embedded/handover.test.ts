/** Who follows a node that is cut off from the others goes on elsewhere, though the node still answers and its streams live. */
import t from 'tap';
import { testCluster } from '../../src/index.js';
import { patienceMs } from '../support/until.js';

t.setTimeout(600_000);

t.test('tails and subscriptions of an isolated node, the leader and another', async (t) => {
  const cluster = await testCluster({ nodes: 3, partitions: 2 });
  t.teardown(() => cluster.close());
  const channel = 'c';
  await cluster.connect('', { timeoutMs: patienceMs }).channel(channel).append({ text: '1' });
  for (const isLeader of [true, false]) {
    const leader = cluster.leaderOf(channel) as number;
    const isolated = isLeader ? leader : [1, 2, 3].find((node) => node !== leader);
    const reader = cluster.connect('', { node: isolated as number, timeoutMs: patienceMs });
    const preference = isLeader ? ('primary-preferred' as const) : ('secondary' as const);
    const ends = new AbortController();
    const options = { fromHead: true, preference, signal: ends.signal };
    let tail = reader.channel(channel).tail(options).updates();
    const subscription = reader.subscribe({ prefix: channel, signal: ends.signal }).updates();
    // Of the two secondaries the one that will be isolated must serve.
    let first = await tail.next();
    while (!isLeader && first.value?.kind === 'caught-up' && first.value.servedBy.nodeId !== isolated) {
      await tail.return();
      tail = reader.channel(channel).tail(options).updates();
      first = await tail.next();
    }
    t.match(first.value, { kind: 'caught-up' });
    t.match((await subscription.next()).value, { kind: 'caught-up' });
    cluster.isolate(isolated as number);
    const other = [1, 2, 3].find((node) => node !== isolated) as number;
    const writer = cluster.connect('', { node: other, timeoutMs: patienceMs });
    const { seq } = await writer.channel(channel).append({ text: 'while it was cut off' });
    for (const [name, updates] of Object.entries({ tail, subscription })) {
      let found = 0;
      while (found === 0) {
        const { value } = await updates.next();
        if (value?.kind !== 'events') continue;
        found = ('events' in value ? value.events : value.channels[0]?.events)?.at(-1)?.seq ?? 0;
      }
      t.equal(found, seq, `the ${name} of ${isLeader ? 'the leader' : 'a follower'} goes on at another node`);
    }
    ends.abort();
    cluster.heal();
    await cluster.ready();
  }
});
