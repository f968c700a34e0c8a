/** A node that was away for longer than the log is kept: it gets snapshots, whoever is killed meanwhile. */
import { randomBytes } from 'node:crypto';
import t from 'tap';
import { differingCopies } from './direct.js';
import { ProcessCluster, patienceMs, type TestNode, until } from './harness.js';

t.setTimeout(600_000);

const MiB = 1024 * 1024;
const channels = Array.from({ length: 8 }, (_, i) => `long/${i}`);
/** Four segments of the harness: the least that a log can have. */
const logMax = 16 * MiB;

function said(node: TestNode, text: string): boolean {
  return node.isUp && (node.process.stdout + node.process.stderr).includes(text);
}

t.test('behind the log, and sender and receiver are killed in mid-snapshot', async (t) => {
  // Two senders: where one leads all, and is killed, the other one's log may still have what is missing, and no snapshot comes through.
  const spread = ['--leaders', 'spread'];
  const args = ['--log-max', `${logMax}`, '--checkpoint-age', '1s', '--snapshot-rate', '6MiB', ...spread];
  const cluster = await ProcessCluster.start(t, { partitions: 4, args });
  const client = cluster.connect();
  const counts = new Map<string, number>();
  const fill = async (rounds: number): Promise<void> => {
    for (let round = 0; round < rounds; round++) {
      await Promise.all(
        channels.map(async (name) => {
          // What does not compress, or the log's size says little of the snapshot's.
          const text = randomBytes(75_000).toString('base64');
          await client.channel(name).append({ role: 'user', text }, { timeoutMs: patienceMs });
          counts.set(name, (counts.get(name) ?? 0) + 1);
        }),
      );
    }
  };
  await fill(2);
  // One durable subscription in each partition, with its place and what is done kept there.
  const [followed = ''] = channels;
  const names = Array.from({ length: 100 }, (_, i) => `of ${i}`);
  const subscriptions = Array.from({ length: 4 }, (_, partition) =>
    client.subscription(names.find((name) => cluster.partitionOf(name) === partition) ?? ''),
  );
  /** What comes up to the channel's head, each event's first time. */
  const worked = (): Promise<number[][]> =>
    Promise.all(
      subscriptions.map(async (subscription) => {
        const seqs = new Set<number>();
        const handler = ({ event }: { event: { seq: number } }) => void seqs.add(event.seq);
        const worker = subscription.consume({ handler, timeoutMs: patienceMs });
        await until(`the head, ${subscription.name}`, () => seqs.has(counts.get(followed) ?? 0));
        await until(`all of it acknowledged, ${subscription.name}`, async () => {
          const { progress } = await subscription.info({ timeoutMs: patienceMs });
          return progress.pendingEvents === 0;
        });
        await worker.stop();
        return [...seqs];
      }),
    );
  for (const subscription of subscriptions)
    await subscription.create({ channels: [followed], fromBeginning: true, timeoutMs: patienceMs });
  t.same(await worked(), [
    [1, 2],
    [1, 2],
    [1, 2],
    [1, 2],
  ]);
  const behind = cluster.node(3);
  await behind.kill();
  // 24 MiB and more: the log is cut behind the one that is away.
  await fill(30);

  cluster.startNode(behind);
  await until('a snapshot begins', () => said(behind, 'taking in a snapshot'));
  await behind.kill();
  cluster.startNode(behind);
  await until('it begins again', () => said(behind, 'taking in a snapshot'));
  const sender = await until('a sender', () =>
    cluster.others(behind).find((node) => said(node, 'sending a snapshot')),
  );
  // With two of three behind or down there is no majority: what is asked for waits.
  await sender.kill();
  const waiting = fill(1);
  cluster.startNode(sender);
  await waiting;
  await cluster.ready();
  await fill(1);
  for (const name of channels) {
    t.same(await differingCopies(cluster.nodes, name, counts.get(name) ?? 0), [], name);
  }
  await until('one came through', () => said(behind, 'a snapshot takes the place of the state'));
  // What came as a snapshot outlives the process like all else.
  await Promise.all(cluster.nodes.map((node) => node.kill()));
  cluster.startAll();
  await cluster.ready();
  await fill(1);
  for (const name of channels) {
    t.same(await differingCopies(cluster.nodes, name, counts.get(name) ?? 0), [], `${name} after a start`);
  }
  const leaders = await Promise.all(subscriptions.map(({ name }) => cluster.leaderOf(name)));
  t.comment(`subscriptions led by nodes ${leaders.map(({ id }) => id).join(', ')}; 3 had the snapshots`);
  const rest = Array.from({ length: (counts.get(followed) ?? 0) - 2 }, (_, i) => i + 3);
  t.same(await worked(), [rest, rest, rest, rest], 'subscriptions go on where they were');
});
