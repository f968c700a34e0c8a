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
  const args = ['--log-max', `${logMax}`, '--checkpoint-age', '1s', '--snapshot-rate', '6MiB'];
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
});
