/** Who leads: by the loads that nodes tell of, one look after the other; then whole nodes on simulated parts. */
import { test } from 'tap';
import {
  type BalanceContext,
  LeaderBalance,
  type Led,
  type Standing,
} from '../../src/node/leader-balance.js';
import { LoopLoad } from '../../src/node/loop-load.js';
import { inLeadingOrder, type Leaders } from '../../src/node/placement.js';
import { append, Cluster } from './cluster.js';

const nodes = [1, 2, 3];
const idle: Standing = { busy: 0, proposals: 0, hasRoom: true };
const half: Standing = { busy: 0.5, proposals: 0, hasRoom: true };
const heldOff: Standing = { ...half, hasRoom: false };
const busy: Standing = { busy: 0.95, proposals: 0, hasRoom: false };

/** Partitions on three nodes, each led by the node of its place in `leaders`, as node `nodeId` sees them. */
function held(nodeId: number, leaders: readonly number[], order: Leaders = 'together'): Led[] {
  return leaders.map((leader, partition) => ({
    partition,
    leader,
    isLeader: leader === nodeId,
    isQuiescent: false,
    voters: inLeadingOrder(
      order,
      partition,
      nodes.map((id) => ({ replicaId: id, nodeId: id })),
    ),
    membership: { isHeir: () => true },
    isCaughtUp: () => true,
  }));
}

type Standings = Readonly<Record<number, Standing | undefined>>;

function balanceOf(nodeId: number, standings: Standings, more: Partial<BalanceContext> = {}): LeaderBalance {
  return new LeaderBalance({
    nodeId,
    leaders: 'together',
    monotonicMs: () => 0,
    load: () => ({
      busy: standings[nodeId]?.busy ?? 0,
      cpu: standings[nodeId]?.busy ?? 0,
      proposals: 0,
      isDeep: false,
    }),
    standingOf: (id) => standings[id],
    mayTake: () => true,
    ...more,
  });
}

/** What is handed over in a look: `partition>node`. */
const told = (balance: LeaderBalance, replicas: readonly Led[]) =>
  balance.due(replicas).map(({ replica, to }) => `${replica.partition}>${to.nodeId}`);

/** Looks of all nodes, one after the other, until none hands anything over: who leads then. */
function settled(
  leaders: readonly number[],
  standingsOf: (leaders: readonly number[]) => Standings,
): number[] {
  let now = [...leaders];
  for (let round = 0; round < 20; round++) {
    const before = now.join();
    for (const nodeId of nodes) {
      for (const move of told(balanceOf(nodeId, standingsOf(now)), held(nodeId, now))) {
        const [partition, to] = move.split('>').map(Number) as [number, number];
        now = now.map((leader, at) => (at === partition ? to : leader));
      }
    }
    if (now.join() === before) return now;
  }
  throw new Error(`leaderships go round and round: ${now}`);
}

const count = (leaders: readonly number[]) => nodes.map((id) => leaders.filter((one) => one === id).length);

test('idle nodes have the first one lead, a few partitions in a look', async (t) => {
  const leaders = [1, 2, 3, 2, 2, 2, 2, 2];
  const all = { 1: idle, 2: idle, 3: idle };
  t.same(told(balanceOf(2, all), held(2, leaders)), ['1>1', '3>1', '4>1', '5>1']);
  t.same(told(balanceOf(1, all), held(1, leaders)), [], 'the first one keeps what it has');
  const withoutFirst = { mayTake: (node: number) => node !== 1 };
  t.same(
    told(balanceOf(3, all, withoutFirst), held(3, leaders)),
    ['2>2'],
    'where it is gone, the second one',
  );
});

test('who has no room, or tells of none, is given nothing', async (t) => {
  t.same(told(balanceOf(2, { 1: heldOff, 2: idle, 3: idle }), held(2, [2, 2, 2])), []);
  t.same(
    told(balanceOf(3, { 1: heldOff, 2: idle, 3: idle }), held(3, [3, 3])),
    [],
    'nor who comes behind it',
  );
  t.same(told(balanceOf(2, { 1: undefined, 2: idle, 3: idle }), held(2, [2, 2, 2])), []);
});

test('a busy leader hands leaderships to those that are less so, until all have as many', async (t) => {
  const all = Array.from({ length: 12 }, () => 1);
  const first = told(balanceOf(1, { 1: busy, 2: half, 3: half }), held(1, all));
  t.same(first, ['0>2', '1>3', '2>2', '3>3', '4>2', '5>3'], 'half of them in one look');
  const byLed = (leaders: readonly number[]): Standings => {
    const [a = 0, b = 0, c = 0] = count(leaders).map((led) => 0.4 + led / 24);
    return { 1: { ...heldOff, busy: a }, 2: { ...half, busy: b }, 3: { ...half, busy: c } };
  };
  t.same(count(settled(all, byLed)), [6, 3, 3], 'no more than needed');
  for (const other of [half, heldOff])
    t.same(
      count(settled(all, () => ({ 1: busy, 2: other, 3: other }))),
      [4, 4, 4],
      'and never so much that it would be handed back',
    );
});

test('of a thousand partitions no more go at once than elections are borne', async (t) => {
  const all = Array.from({ length: 1_024 }, () => 1);
  t.equal(told(balanceOf(1, { 1: busy, 2: half, 3: half }), held(1, all)).length, 32);
  t.equal(
    told(
      balanceOf(2, { 1: idle, 2: half, 3: half }),
      held(
        2,
        all.map(() => 2),
      ),
    ).length,
    32,
  );
});

test('a busy leader keeps what nobody else has room for', async (t) => {
  const all = [1, 1, 1, 1];
  t.same(told(balanceOf(1, { 1: busy, 2: busy, 3: { ...busy, busy: 0.8 } }), held(1, all)), []);
  t.same(told(balanceOf(1, { 1: busy }), held(1, all)), [], 'nor who tells of no load');
  const others = { 1: busy, 2: idle, 3: idle };
  t.same(
    told(balanceOf(1, others), held(1, [1])),
    [],
    'nor a single one, that another would have in its place',
  );
  const quiet = held(1, all).map((replica, at) => ({ ...replica, isQuiescent: at < 3 }));
  t.same(told(balanceOf(1, others), quiet), [], 'what is quiet makes nobody busy');
});

test('what was too much is tried again after a while, then after twice as long', async (t) => {
  let nowMs = 1_000_000;
  let own = 0.5;
  const context = {
    monotonicMs: () => nowMs,
    load: () => ({ busy: own, cpu: own, proposals: 0, isDeep: false }),
  };
  const balance = balanceOf(1, { 2: half, 3: half }, context);
  const replicas = held(1, [1, 1, 1, 1, 1, 1]);
  /** It hands some on now: how long until it has room again, s. */
  const heldOffFor = (): number => {
    own = 0.95;
    t.ok(told(balance, replicas).length > 0);
    own = 0.5;
    const fromMs = nowMs;
    while (balance.standing?.hasRoom === false) nowMs += 1_000;
    return (nowMs - fromMs) / 1_000;
  };
  t.equal(balance.standing?.hasRoom, true);
  t.same([heldOffFor(), heldOffFor(), heldOffFor()], [10, 20, 40]);
  for (let i = 0; i < 7; i++) heldOffFor();
  t.equal(heldOffFor(), 960, 'at most');
  nowMs += 11 * 60_000;
  t.equal(heldOffFor(), 10, 'after ten good minutes it is another load');
  own = 0.92;
  t.equal(balance.standing?.hasRoom, false, 'nor has it room where it is busy');
});

test('leaders that are to be spread are, whatever the loads', async (t) => {
  const partitions = held(
    1,
    Array.from({ length: 64 }, () => 1),
    'spread',
  );
  const balance = balanceOf(1, { 1: busy, 2: busy, 3: busy }, { leaders: 'spread' });
  t.equal(balance.due(partitions).length, 4);
  t.equal(balance.standing, undefined, 'and nobody is told');
  const preferred = partitions.map(({ voters }) => voters[0]?.nodeId);
  for (const id of nodes)
    t.ok(preferred.filter((one) => one === id).length > 10, `node ${id} leads its share`);
});

test('while much is under way a busy leader hands some on, and nobody hands it back', async (t) => {
  const all = Array.from({ length: 6 }, () => 1);
  const deep = (own: number) => ({ load: () => ({ busy: own, cpu: 0.6, proposals: 0, isDeep: true }) });
  const others = { 1: half, 2: half, 3: half };
  const first = told(balanceOf(1, others, deep(0.85)), held(1, all));
  t.same(first, ['0>2', '1>3', '2>2'], 'it waits for cores as well as for itself');
  t.same(told(balanceOf(1, others, deep(0.7)), held(1, all)), [], 'no more than needed');
  t.same(told(balanceOf(2, others, deep(0.3)), held(2, [2, 2])), [], 'and it stays there');
  t.equal(balanceOf(1, others, deep(0.3)).standing?.hasRoom, false, 'also in a pause');
  const shallow = { load: () => ({ busy: 1, cpu: 0.6, proposals: 0, isDeep: false }) };
  t.same(
    told(balanceOf(1, others, shallow), held(1, all)),
    [],
    'few at a time: others would have the same cores, and less to share',
  );
});

test("a loop's load follows within seconds, how deep it was is remembered", async (t) => {
  let share = 1;
  const meters = { busyShare: () => share, cpuShare: () => share / 2 };
  const load = new LoopLoad(meters, 0, { deepProposals: 512, deepForMs: 60_000 });
  load.look(100, 0, 0);
  t.equal(load.busy, 0, 'too soon to say');
  for (let ms = 1_000; ms <= 3_000; ms += 1_000) load.look(ms, 200, 311);
  t.ok(load.busy > 0.9 && load.cpu > 0.45 && load.cpu < 0.5, 'busy after three seconds');
  t.notOk(load.isDeep(3_000));
  share = 0;
  load.look(4_000, 300, 212);
  t.ok(load.busy > 0.3, 'a moment is not enough');
  t.equal(load.proposals, 300);
  for (let ms = 5_000; ms <= 8_000; ms += 1_000) load.look(ms, 0, 0);
  t.ok(load.busy < 0.1, 'idle five seconds later');
  t.equal(load.proposals, 0);
  t.same([load.isDeep(8_000), load.isDeep(63_999), load.isDeep(64_000)], [true, true, false]);
});

test('leaderships move with the loads, and no append waits or fails for it', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 6 });
  const { clock } = cluster;
  const all = [0, 1, 2, 3, 4, 5];
  const leaders = () => all.map((partition) => cluster.leaderOf(partition)?.node.identity.nodeId ?? 0);
  for (const partition of all) await cluster.led(partition);
  t.ok(await clock.until(() => leaders().every((id) => id === 1), 20_000), 'the first node leads all');

  let slowest = 0;
  let done = 0;
  /** A partition in which nothing happens is no load. */
  const appendAll = async (): Promise<void> => {
    for (const partition of all) {
      const began = clock.monotonicMs();
      const leader = await cluster.led(partition);
      const deadlineMs = began + 5_000;
      await cluster.settled(
        leader.node.propose(partition, append(`channel ${partition}`, 'x'), { deadlineMs }),
      );
      slowest = Math.max(slowest, clock.monotonicMs() - began);
      done++;
    }
  };
  const appendWhile = async (isNotYet: () => boolean, limitMs: number): Promise<boolean> => {
    const endMs = clock.monotonicMs() + limitMs;
    while (isNotYet() && clock.monotonicMs() < endMs) {
      await appendAll();
      await clock.run(100);
    }
    return !isNotYet();
  };
  cluster.loopBusy.set(1, 0.95);
  t.ok(
    await appendWhile(() => count(leaders()).some((led) => led > 3), 20_000),
    `others lead some: ${leaders()}`,
  );
  cluster.loopBusy.set(1, 0.5);
  t.notOk(await appendWhile(() => leaders().some((id) => id !== 1), 5_000), 'it has them back not at once');
  t.ok(await appendWhile(() => leaders().some((id) => id !== 1), 30_000), 'but soon');
  cluster.loopBusy.set(1, 0.95);
  t.ok(await appendWhile(() => leaders().every((id) => id === 1), 20_000));
  cluster.loopBusy.set(1, 0.92);
  t.notOk(await appendWhile(() => leaders().some((id) => id !== 1), 120_000), 'never while it has no room');
  t.ok(slowest < 500, `${done} appends, the slowest took ${slowest} ms`);
  await cluster.stopAll();
});

test('nodes that spread leaders and nodes that do not leave each other alone', async (t) => {
  // As while a cluster is updated from a build that knows no loads.
  const cluster = await Cluster.start({
    nodes: 3,
    partitions: 12,
    settingsOf: (nodeId) => (nodeId === 1 ? { leaders: 'spread' } : {}),
  });
  for (let partition = 0; partition < 12; partition++) await cluster.led(partition);
  await cluster.clock.run(30_000);
  const terms = () =>
    [...cluster.running.values()].flatMap(({ node }) => node.replicas().map(({ term }) => term));
  const before = terms().join();
  await cluster.clock.run(60_000);
  t.equal(terms().join(), before, 'no leadership goes to and fro');
  await cluster.stopAll();
});
