/** Five nodes, three replicas of each partition: every channel is served through every node. */
import t from 'tap';
import { text, words } from '../api/harness.js';
import { Direct, differingCopies } from './direct.js';
import { ProcessCluster } from './harness.js';

t.setTimeout(600_000);

t.test('channels whose replicas are elsewhere are served through any node', async (t) => {
  const cluster = await ProcessCluster.start(t, { nodes: 5, partitions: 10, replicationFactor: 3 });
  const client = cluster.connect();
  const { partitions } = await client.cluster();
  const replicasOf = (channel: string): number[] =>
    (partitions[cluster.partitionOf(channel)]?.replicas ?? []).map(({ nodeId }) => nodeId);
  t.ok(partitions.every(({ replicas }) => replicas.length === 3));

  // One channel per partition, each node's turn in each.
  const channels = new Map<number, string>();
  for (let i = 0; channels.size < cluster.partitions; i++)
    channels.set(cluster.partitionOf(`c${i}`), channels.get(cluster.partitionOf(`c${i}`)) ?? `c${i}`);
  const directs = cluster.nodes.map((node) => new Direct(node.clientAddress));
  t.teardown(() => {
    for (const direct of directs) direct.close();
  });
  let forwarded = 0;
  for (const channel of channels.values()) {
    for (const [i, direct] of directs.entries()) {
      const isElsewhere = !replicasOf(channel).includes(i + 1);
      const { first_seq } = await direct.call('MessageService/AppendMessages', {
        channel,
        messages: [text(`by way of ${i + 1}`)],
      });
      const read = await direct.call('MessageService/ListMessages', { channel, before: 1 });
      const info = await direct.call('ChannelService/GetChannel', { channel });
      const found = {
        seq: Number(first_seq),
        text: words(read.events[0]),
        head: Number(info.channel.head_seq),
        byReplica: replicasOf(channel).includes(Number(read.served_by.node_id)),
      };
      const wanted = { seq: i + 1, text: `by way of ${i + 1}`, head: i + 1, byReplica: true };
      if (JSON.stringify(found) !== JSON.stringify(wanted))
        t.same(found, wanted, `${channel} by way of ${i + 1}`);
      if (isElsewhere) forwarded++;
    }
  }
  t.equal(forwarded, 2 * cluster.partitions, 'two of the five nodes hold no replica of a partition');

  await t.test('all channels are listed by each node', async (t) => {
    for (const direct of directs) {
      const list = await direct.call('ChannelService/ListChannels', { page_size: 100 });
      t.same(
        list.channels.map((channel: { name: string }) => channel.name),
        [...channels.values()].sort(),
      );
    }
  });

  await t.test('a reader may ask for less, and is served by who has it', async (t) => {
    for (const channel of channels.values()) {
      for (const level of [1, 4]) {
        const answers = directs.map((direct) =>
          direct.call('MessageService/ListMessages', { channel, before: 5, read: { level } }),
        );
        for (const { head_seq, served_by } of await Promise.all(answers)) {
          if (level === 1 && head_seq !== '5') t.fail(`${channel}: linearizable saw ${head_seq}`);
          if (!replicasOf(channel).includes(Number(served_by.node_id)))
            t.fail(`${channel}: by ${served_by.node_id}`);
        }
      }
      const holders = replicasOf(channel).map((id) => cluster.node(id));
      t.same(await differingCopies(holders, channel, 5), [], `${channel}: copies are equal`);
    }
  });

  await t.test('a node is killed: its channels go on, by way of the others', async (t) => {
    const victim = await cluster.leaderOf('c0');
    await victim.kill();
    await cluster.leaderOf('c0', victim);
    const alive = directs.filter((direct) => direct.address !== victim.clientAddress);
    for (const direct of alive) {
      const { first_seq } = await direct.call('MessageService/AppendMessages', {
        channel: 'c0',
        messages: [text('x')],
      });
      t.ok(Number(first_seq) > 5, `seq ${first_seq}`);
    }
  });
});
