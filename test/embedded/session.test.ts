/** What the SDK's reads promise, on three nodes in this process, over both transports. */
import t from 'tap';
import { type Client, type ServedBy, testCluster } from '../../src/index.js';
import { patienceMs } from '../support/until.js';

t.setTimeout(600_000);

t.test('a client sees its own writes and never less than before, on whichever replica', async (t) => {
  const cluster = await testCluster({ partitions: 4 });
  t.teardown(() => cluster.close());
  for (const transport of ['exchange', 'unary'] as const) {
    const client = cluster.connect('', { transport, timeoutMs: patienceMs });
    const served: ServedBy[] = [];
    const onServed = (by: ServedBy) => served.push(by);
    const channel = client.channel(`own/${transport}`);
    const servers = () => new Set(served.map(({ nodeId }) => nodeId)).size;
    // Replicas that lag on a busy machine are passed over, but not for ever.
    for (let i = 1; i <= 40 || (servers() === 1 && i < 2_000); i++) {
      const { seq } = await channel.append({ role: 'user', text: `m${i}` });
      t.equal(seq, i);
      const page = await channel.list({ before: 1, onServed }).page();
      if (page.headSeq !== i) t.fail(`append ${i} is not there on node ${page.servedBy.nodeId}`);
    }
    t.ok(servers() > 1, 'reads spread over replicas');
    t.ok(served.every(({ commitToken, appliedIndex }) => commitToken.length > 0 && appliedIndex > 0));

    // Another client knows nothing of it, until it is told.
    const other = cluster.connect('', { transport, timeoutMs: patienceMs });
    other.observe(client.sessionTokens());
    t.equal((await other.channel(`own/${transport}`).info()).headSeq, served.length);
    const listed = cluster.connect('', { transport, timeoutMs: patienceMs });
    listed.observe(client.sessionTokens());
    const page = await listed.channelPage({ prefix: `own/${transport}` });
    t.match(page.channels, [{ headSeq: served.length }]);
    t.equal(page.servedBy.length, 4);

    // What was refused for the state of a channel is seen by the read that follows.
    const rival = cluster.connect('', { transport, timeoutMs: patienceMs });
    const behind = client.channel('rivals');
    await behind.append({ text: 'one' });
    await rival.channel('rivals').append({ text: 'two' });
    const head = (await behind.info()).headSeq;
    await rival.channel('rivals').append({ text: 'three' });
    const late = behind.append({ text: 'late' }, { condition: { expectedHeadSeq: head } });
    t.match(await late.catch((error: unknown) => error), { reason: 'CONDITION_FAILED' });
    t.ok((await behind.info()).headSeq > head);
    await client.channel('rivals').delete();
  }
});

t.test('levels and preferences: who answers, and how fresh', async (t) => {
  const cluster = await testCluster({ partitions: 2 });
  t.teardown(() => cluster.close());
  const client = cluster.connect('', { timeoutMs: patienceMs });
  const channel = client.channel('c');
  await channel.append({ text: 'one' });
  const asked = async (by: Client, options: object): Promise<ServedBy> => {
    let served: ServedBy | undefined;
    const onServed = (one: ServedBy) => {
      served = one;
    };
    await by
      .channel('c')
      .list({ before: 1, ...options, onServed })
      .page();
    return served as ServedBy;
  };
  for (const level of ['linearizable', 'session', 'bounded', 'eventual'] as const) {
    const options = { level, ...(level === 'bounded' ? { maxStalenessMs: 2_000 } : {}) };
    t.match(await asked(client, { ...options, preference: 'primary' }), { role: 'primary' });
    t.match(await asked(client, { ...options, preference: 'secondary' }), { role: 'secondary' });
    for (let node = 1; node <= cluster.nodes; node++) {
      const one = cluster.connect('', { node, timeoutMs: patienceMs });
      t.match(await asked(one, { ...options, preference: 'secondary' }), { role: 'secondary' });
    }
    const nearest = await asked(client, { ...options, preference: 'nearest' });
    if (level === 'linearizable' || level === 'bounded')
      t.ok((nearest.stalenessMs ?? Number.POSITIVE_INFINITY) <= 2_000, `${nearest.stalenessMs} ms`);
  }
  const unbounded = await channel.info({ level: 'bounded' }).catch((error: unknown) => error);
  t.match(unbounded, { reason: 'INVALID_ARGUMENT' });

  // A follower that is cut off: it hands over nothing that it can't vouch for, and says so.
  const leader = cluster.leaderOf('c');
  const cut = [1, 2, 3].find((node) => node !== leader) ?? 0;
  await asked(client, { level: 'bounded', maxStalenessMs: 500, preference: 'secondary' });
  cluster.isolate(cut);
  const { seq } = await channel.append({ text: 'two' });
  await new Promise((resolve) => setTimeout(resolve, 600));
  t.match(await asked(client, { level: 'linearizable', preference: 'secondary', timeoutMs: patienceMs }), {
    role: 'secondary',
  });
  for (let i = 0; i < 6; i++) {
    const bounded = { level: 'bounded', maxStalenessMs: 500, preference: 'nearest' } as const;
    const page = await channel.list({ before: 1, ...bounded, timeoutMs: patienceMs }).page();
    t.equal(page.headSeq, seq, `bounded, by node ${page.servedBy.nodeId}`);
    t.equal((await channel.info({ timeoutMs: patienceMs })).headSeq, seq, 'session');
  }
  cluster.heal();
});
