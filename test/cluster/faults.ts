/**
 * Real processes under faults (faults-three.test.ts and faults-five.test.ts): partitions that heal
 * and move, leaders killed and stopped, all nodes killed. Clients write and read meanwhile, and a checker
 * judges whether one order of all they did explains every answer.
 *
 * Each node has a network namespace where the machine allows it; elsewhere
 * proxies stand between the nodes (HANSARD_TEST_NETWORK=proxies asks for them).
 * HANSARD_LONG=1 runs many more rounds.
 */
import type { Test } from 'tap';
import type { Client } from '../../src/client/index.js';
import { levels } from '../linearizability/channel-history.js';
import { differingCopies } from './direct.js';
import { ProcessCluster, sleep, type TestNode, until } from './harness.js';
import { draw, JudgedClient, judge, Notes } from './judged.js';
import { openNetwork, partition, type TestNetwork } from './network.js';

const isLong = process.env.HANSARD_LONG === '1';
export const timeoutMs = isLong ? 3_600_000 : 600_000;

/** How long a fault lasts: longer than an election. */
const faultMs = 2_500;
const calmMs = 1_000;
const partitions = 8;
const channels = ['order/1', 'order/2', 'order/3', 'order/4', 'order/5', 'order/6'];
const clients = 6;

interface World {
  readonly cluster: ProcessCluster;
  readonly network: TestNetwork;
  readonly client: Client;
  /** Of a channel that is drawn. */
  leader(): Promise<TestNode>;
}

type Fault = readonly [name: string, run: (world: World) => Promise<void>];

function shuffled<T>(from: readonly T[]): T[] {
  const keyed = from.map((each) => [Math.random(), each] as const);
  return keyed.sort(([a], [b]) => a - b).map(([, each]) => each);
}

function idsOf(nodes: readonly TestNode[]): number[] {
  return nodes.map(({ id }) => id);
}

// ---- faults; each leaves all nodes up and the network whole

export const leaderCutOff: Fault = [
  'a leader hears of no other node; clients still reach it where they can be told apart',
  async ({ cluster, network, leader }) => {
    const cut = await leader();
    await partition(network, [cut.id], idsOf(cluster.others(cut)));
    await sleep(faultMs);
  },
];

export const leaderGone: Fault = [
  'a leader is reached by nobody',
  async ({ cluster, network, leader }) => {
    const cut = await leader();
    await partition(network, [cut.id], idsOf(cluster.others(cut)));
    await network.cutFromClients?.(cut.id);
    await until('others lead', () => cluster.leaderOf(draw(channels), cut));
    if (network.cutFromClients !== undefined && (await cut.readiness()) !== undefined)
      throw new Error(`node ${cut.id} is cut off, and answers`);
    await sleep(faultMs / 2);
  },
];

export const movingPartition: Fault = [
  'a partition that moves before it heals',
  async ({ cluster, network }) => {
    for (let i = 0; i < 3; i++) {
      const nodes = idsOf(shuffled(cluster.nodes));
      const minority = (nodes.length - 1) / 2;
      await partition(network, nodes.slice(0, minority), nodes.slice(minority));
      await sleep(faultMs / 2);
      await network.heal();
    }
  },
];

export const oneWay: Fault = [
  'a leader is heard by all and hears nobody',
  async ({ cluster, network, leader }) => {
    const deaf = await leader();
    await Promise.all(cluster.others(deaf).map((other) => network.cut(other.id, deaf.id)));
    await sleep(faultMs);
  },
];

export const noMajority: Fault = [
  'no two nodes hear of one another',
  async ({ cluster, network }) => {
    await partition(network, ...cluster.nodes.map(({ id }) => [id]));
    await sleep(faultMs);
  },
];

export const ring: Fault = [
  'each node hears of its neighbours only',
  async ({ cluster, network }) => {
    const ids = idsOf(shuffled(cluster.nodes));
    for (const [i, from] of ids.entries())
      for (const [j, to] of ids.entries()) {
        const apart = Math.abs(i - j);
        if (apart > 1 && apart < ids.length - 1) await network.cut(from, to);
      }
    await sleep(faultMs);
  },
];

export const killed: Fault = [
  'a leader is killed',
  async ({ cluster, leader }) => {
    const dead = await leader();
    await dead.kill();
    await sleep(faultMs / 2);
    cluster.startNode(dead);
  },
];

export const stopped: Fault = [
  'a leader stands still and wakes up believing that it leads',
  async ({ leader }) => {
    const still = await leader();
    still.pause();
    await sleep(faultMs);
    still.resume();
  },
];

/** Both believe in a leadership that has passed: neither may answer with less than a read's level. */
export const stoppedWithFollower: Fault = [
  'a leader stands still, cut off with one follower, and wakes up there',
  async ({ cluster, network, leader }) => {
    const still = await leader();
    const follower = draw(cluster.others(still));
    const together = [still.id, follower.id];
    await partition(
      network,
      together,
      idsOf(cluster.nodes).filter((id) => !together.includes(id)),
    );
    still.pause();
    await sleep(faultMs);
    still.resume();
    await sleep(faultMs / 2);
  },
];

export const allKilled: Fault = [
  'all nodes are killed at once',
  async ({ cluster }) => {
    await Promise.all(cluster.nodes.map((node) => node.kill()));
    cluster.startAll();
  },
];

export const killedBehindPartition: Fault = [
  'a leader is cut off, and one of the others killed meanwhile',
  async ({ cluster, network, leader }) => {
    const cut = await leader();
    await partition(network, [cut.id], idsOf(cluster.others(cut)));
    await sleep(faultMs / 2);
    const dead = draw(cluster.others(cut));
    await dead.kill();
    cluster.startNode(dead);
    await sleep(faultMs / 2);
  },
];

export const slowLines: Fault = [
  'what a leader sends goes over a slow line',
  async ({ network, leader }) => {
    const slow = await leader();
    await network.slowDown?.(slow.id, 256_000);
    await sleep(faultMs);
  },
];

// ---- the run

export async function runFaults(t: Test, nodes: number, faults: readonly Fault[]): Promise<void> {
  const { network, whyProxies } = await openNetwork(nodes);
  t.comment(`network: ${network.kind}${whyProxies === '' ? '' : `: ${whyProxies}`}`);
  const replicationFactor = nodes;
  const cluster = await ProcessCluster.start(t, { nodes, partitions, replicationFactor, network });
  const notes = new Notes();
  const world: World = {
    cluster,
    network,
    client: cluster.connect(),
    leader: () => cluster.leaderOf(draw(channels)),
  };
  const load = Array.from(
    { length: clients },
    (_, i) => new JudgedClient(`c${i}`, cluster.connect(), channels, notes),
  );
  const rounds = isLong ? 10 : 1;
  for (let round = 0; round < rounds; round++)
    for (const [name, fault] of isLong ? shuffled(faults) : faults) {
      const before = notes.acknowledged;
      await until('appends go on', () => notes.acknowledged > before + 20);
      const begun = performance.now();
      await fault(world);
      await network.heal();
      await cluster.ready();
      const after = notes.acknowledged;
      await until(`appends go on after: ${name}`, () => notes.acknowledged > after + 20);
      t.pass(`round ${round}: ${name} (${((performance.now() - begun) / 1000).toFixed(1)} s)`);
      await sleep(calmMs);
    }
  await Promise.all(load.map((each) => each.stop()));
  const { problems, reads } = await judge(world.client, channels, notes, `faults-${nodes}`);
  t.same(problems, [], 'one order explains every answer, and nothing acknowledged is lost');
  const copies = await Promise.all(
    channels.map(async (name) => {
      const { headSeq } = await world.client.channel(name).list({ before: 1 }).page();
      return await differingCopies(cluster.nodes, name, headSeq);
    }),
  );
  t.same(copies.flat(), [], 'all copies are equal');
  const { acknowledged, conflicts, unknown } = notes;
  t.ok(acknowledged > 100 && reads.linearizable > 25 && conflicts > 0, 'there was something to judge');
  for (const level of levels) t.ok(reads[level] > 5, `${reads[level]} reads of level ${level}`);
  t.comment(`${acknowledged} appended, ${conflicts} conditions refused, ${unknown} unknown`);
}
