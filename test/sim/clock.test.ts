/** Wall clocks that are 25 h ahead: before anybody noticed, from the start on, and on a majority; and 25 h behind. */
import t from 'tap';
import { encodeAppend } from '../../src/conversation/command.js';
import type { HansardNode } from '../../src/node/node.js';
import { SimCluster, type SimNode } from './cluster.js';
import { textEvent } from './content.js';
import { History } from './history.js';

t.setTimeout(600_000);

const farUs = 25 * 3_600e6;

function start(seed: number, partitions = 1): SimCluster {
  const cluster = new SimCluster({ seed, nodes: 3, partitions, history: new History(), drift: false });
  for (const node of cluster.nodes) node.start();
  return cluster;
}

/** By whoever leads, asked again where a leader went. */
async function append(cluster: SimCluster, text: string, partition = 0): Promise<number> {
  const command = encodeAppend({
    tenant: 'default',
    channel: channelOf(cluster, partition),
    events: [textEvent(text, 7)],
  });
  let commitTimeUs: number | undefined;
  for (let i = 0; commitTimeUs === undefined && i < 100; i++) {
    const leader: HansardNode | undefined = cluster.leaderOf(partition);
    let isDone = leader === undefined;
    leader?.propose(partition, command, { deadlineMs: leader.monotonicMs() + 1_000 }).then(
      ({ answer }) => {
        if (answer.kind === 'appended') commitTimeUs = answer.commitTimeUs;
        isDone = true;
      },
      () => {
        isDone = true;
      },
    );
    await cluster.passUntil(() => isDone, 2_000);
    if (commitTimeUs === undefined) await cluster.pass(100);
  }
  if (commitTimeUs === undefined) throw new Error(`not appended: ${cluster.violations.join('; ')}`);
  return commitTimeUs;
}

function channelOf(cluster: SimCluster, partition: number): string {
  for (let i = 0; ; i++) if (cluster.partitionOf(`c${i}`) === partition) return `c${i}`;
}

const isNear = (cluster: SimCluster, timeUs: number): boolean => timeUs < cluster.clock.nowUs() + 10e6;

function leaderNode(cluster: SimCluster) {
  const node = cluster.nodes.find((one) => one.node !== undefined && one.node === cluster.leaderOf(0));
  if (node === undefined) throw new Error('nobody leads');
  return node;
}

t.test('a leader whose clock jumps stamps nothing of it, and goes on until another one leads', async (t) => {
  const cluster = start(1);
  await cluster.pass(2_000);
  await append(cluster, 'before');
  const jumped = leaderNode(cluster);
  jumped.clock.offsetUs = farUs;
  t.ok(isNear(cluster, await append(cluster, 'in the same moment')));
  t.ok(await cluster.passUntil(() => leaderNodeOf(cluster) !== jumped.nodeId, 10_000), 'it hands over');
  t.ok(isNear(cluster, await append(cluster, 'later')));
  t.same(cluster.violations, []);
});

t.test('a node that starts with a clock far ahead, among nodes that nobody has heard yet', async (t) => {
  const partitions = 6;
  for (const [seed, wrong] of [
    [2, 1],
    [3, 2],
    [4, 3],
  ] as const) {
    const cluster = start(seed, partitions);
    (cluster.nodes[wrong - 1] as SimNode).clock.offsetUs = farUs;
    const appendToAll = async (text: string): Promise<void> => {
      const all = Array.from({ length: partitions }, (_, partition) => append(cluster, text, partition));
      const times = await Promise.all(all);
      t.ok(
        times.every((timeUs) => isNear(cluster, timeUs)),
        `node ${wrong}: ${text}`,
      );
    };
    await appendToAll('first');
    // Of two that are left the other one's clock counts.
    const away = cluster.nodes.find(({ nodeId }) => nodeId !== wrong) as SimNode;
    away.kill('process');
    await appendToAll('second');
    await cluster.pass(3_000);
    await appendToAll('third');
    t.same(cluster.violations, []);
  }
});

t.test(
  'a leader whose clock is far behind stamps what the others show: nothing is taken on at once later',
  async (t) => {
    const partitions = 6;
    const cluster = start(6, partitions);
    // The one that leads something whichever way leaders are chosen.
    const behind = cluster.nodes[0] as SimNode;
    behind.clock.offsetUs = -farUs;
    await cluster.pass(8_000);
    const ledBy = (nodeId: number): number[] =>
      Array.from({ length: partitions }, (_, partition) => partition).filter(
        (partition) => cluster.leaderOf(partition)?.identity.nodeId === nodeId,
      );
    const led = ledBy(behind.nodeId);
    t.ok(led.length > 0, 'it leads something');
    for (const partition of led) {
      const lateUs = cluster.clock.nowUs() - (await append(cluster, 'by its clock', partition));
      t.ok(Math.abs(lateUs) < 10e6, `${lateUs} µs late`);
    }
    t.same(ledBy(behind.nodeId), led, 'and goes on leading');
    behind.kill('process');
    await cluster.pass(3_000);
    for (const partition of led) t.ok(isNear(cluster, await append(cluster, 'by another leader', partition)));
    t.same(cluster.violations, []);
  },
);

t.test('commit time that is far ahead goes on nevertheless, also with other leaders', async (t) => {
  const cluster = start(5);
  for (const { clock } of cluster.nodes) clock.offsetUs = farUs;
  await cluster.pass(2_000);
  let lastUs = await append(cluster, 'ahead');
  t.ok(lastUs > cluster.clock.nowUs() + farUs / 2);
  for (const { clock } of cluster.nodes) clock.offsetUs = 0;
  await append(cluster, 'set right');
  for (let i = 0; i < 3; i++) {
    await cluster.pass(4_000);
    const nextUs = await append(cluster, `later ${i}`);
    t.ok(nextUs > lastUs + 1_500_000 && nextUs < lastUs + 6_000_000, `${nextUs - lastUs} µs in 4 s`);
    lastUs = nextUs;
    if (i === 1) {
      leaderNode(cluster).kill('process');
      await cluster.pass(2_000);
      lastUs = await append(cluster, 'another leader');
    }
  }
  t.same(cluster.violations, []);
});

function leaderNodeOf(cluster: SimCluster): number | undefined {
  return cluster.leaderOf(0)?.identity.nodeId;
}
