/** Replicas come to nodes and go from them while a partition works; what was acknowledged stays, and nobody votes who must not. */
import t, { type Test } from 'tap';
import type { HansardError } from '../../src/common/errors.js';
import type { ReplicaChange } from '../../src/node/change-replicas.js';
import type { Replica } from '../../src/partition/replica.js';
import { RowKind } from '../../src/store/keys.js';
import { append, Cluster } from './cluster.js';

t.setTimeout(600_000);

/** Five nodes; the one partition lives on three. */
async function five(t: Test, seed = 1): Promise<World> {
  const cluster = await Cluster.start({
    nodes: 5,
    partitions: 1,
    replicationFactor: 3,
    seed,
    settings: { checkpointAgeMs: 500 },
  });
  t.teardown(() => cluster.stopAll());
  const world = new World(cluster);
  await cluster.led();
  return world;
}

/** Of whoever asks again. */
const mayPass: ReadonlySet<string> = new Set([
  'DEADLINE_EXCEEDED',
  'COMMIT_UNKNOWN',
  'NOT_LEADER',
  'MEMBERSHIP_BUSY',
  'LEARNER_LAGS',
]);

class World {
  #texts = 0;
  constructor(readonly cluster: Cluster) {}

  async append(): Promise<string> {
    const text = `text ${++this.#texts}`;
    for (let attempt = 0; attempt < 50; attempt++) {
      const { node } = await this.cluster.led();
      const options = { deadlineMs: node.monotonicMs() + 2_000 };
      try {
        await this.cluster.settled(node.propose(0, append('a', text), options));
        return text;
      } catch (error) {
        if (!['NOT_LEADER', 'SHUTTING_DOWN'].includes((error as HansardError).reason)) throw error;
        await this.cluster.clock.run(100);
      }
    }
    throw new Error('nobody takes an append');
  }

  /** Where it leads, until nothing is left to wait for. */
  async change(changes: ReplicaChange | ReplicaChange[], force = false): Promise<void> {
    const list = Array.isArray(changes) ? changes : [changes];
    for (let attempt = 0; attempt < 100; attempt++) {
      const { node } = await this.cluster.led();
      const options = { deadlineMs: node.monotonicMs() + 5_000, force };
      try {
        const { done } = await this.cluster.settled(node.changeReplicas(0, list, options));
        if (done) return;
      } catch (error) {
        const { reason } = error as HansardError;
        if (reason !== 'NOT_LEADER' && reason !== 'COMMIT_UNKNOWN') throw error;
      }
      await this.cluster.clock.run(50);
    }
    throw new Error('a change does not end');
  }

  /** Why it is refused. */
  async refusal(change: ReplicaChange): Promise<string> {
    try {
      await this.change(change);
      return 'done';
    } catch (error) {
      return (error as HansardError).reason ?? String(error);
    }
  }

  /** What the refusal says. */
  async refusalText(change: ReplicaChange): Promise<string> {
    try {
      await this.change(change);
      return 'done';
    } catch (error) {
      return (error as Error).message;
    }
  }

  replicaOn(nodeId: number): Replica | undefined {
    return this.cluster.running.get(nodeId)?.node.replicas()[0];
  }

  async leader(): Promise<Replica> {
    return (await this.cluster.led()).node.replicas()[0] as Replica;
  }

  /** Nodes with members, ascending. */
  async nodes(): Promise<number[]> {
    return (await this.leader()).members.map(({ nodeId }) => nodeId).sort((a, b) => a - b);
  }

  async freeNode(): Promise<number> {
    const taken = await this.nodes();
    return [1, 2, 3, 4, 5].find((node) => !taken.includes(node) && this.cluster.running.has(node)) as number;
  }

  async idOn(nodeId: number): Promise<number> {
    return (await this.leader()).members.find((member) => member.nodeId === nodeId)?.replicaId ?? 0;
  }

  async caughtUp(nodeId: number): Promise<void> {
    const leader = await this.leader();
    const found = await this.cluster.clock.until(
      () => (this.replicaOn(nodeId)?.appliedIndex ?? 0) >= leader.commitIndex,
      20_000,
    );
    if (!found) throw new Error(`the replica on node ${nodeId} does not catch up`);
  }

  /** Equal on all members, and as many events as were appended. */
  async check(t: Test): Promise<void> {
    await this.append();
    const leader = await this.leader();
    for (const { nodeId } of leader.members)
      if (this.cluster.running.has(nodeId)) await this.caughtUp(nodeId);
    const digests = new Set<string>();
    for (const { nodeId } of leader.members) {
      const replica = this.replicaOn(nodeId);
      if (replica === undefined) continue;
      digests.add(await this.cluster.settled(replica.store.digest()));
      const channel = await this.cluster.settled(replica.store.channelByName('default', 'a'));
      t.equal(channel?.headSeq, this.#texts, `node ${nodeId} has all of it`);
    }
    t.equal(digests.size, 1, 'all replicas have the same state');
    for (const { fatal } of this.cluster.running.values()) t.same(fatal, []);
  }
}

t.test('a replica is added, takes a snapshot, gets its vote; another goes', async (t) => {
  const world = await five(t);
  for (let i = 0; i < 20; i++) await world.append();
  const node = await world.freeNode();
  await world.change({ kind: 'addLearner', nodeId: node });
  const id = await world.idOn(node);
  t.ok(id > 5, 'ids of nodes are not used again');
  await world.caughtUp(node);
  t.ok(world.replicaOn(node)?.membership.isLearner);
  t.ok((world.replicaOn(node)?.store.installedIndex ?? 0) > 0, 'it began with a snapshot');
  await world.change({ kind: 'promote', replicaId: id });
  t.same((await world.leader()).conf.voters.length, 4);
  const leader = await world.leader();
  await world.change({ kind: 'remove', replicaId: leader.replicaId });
  const now = await world.leader();
  t.not(now.replicaId, leader.replicaId, 'the leader went only after another led');
  t.same(now.conf.voters.length, 3);
  t.notOk(now.conf.voters.includes(leader.replicaId));
  await world.check(t);
  await world.change({ kind: 'remove', replicaId: leader.replicaId });
  t.pass('what is done already may be asked for again');
});

t.test('whoever gave up on a change of members asks again, and it is made once', async (t) => {
  const world = await five(t, 6);
  for (let i = 0; i < 5; i++) await world.append();
  const node = await world.freeNode();
  const doubts: string[] = [];
  /** Given up a little later each time, and asked again. Then once more, when it is done. */
  const inDoubt = async (change: ReplicaChange): Promise<void> => {
    const { membership: before } = (await world.leader()).store;
    for (let attempt = 1; !(await given(change, 1.5 ** Math.min(attempt, 20))); attempt++) {
      if (attempt > 200) throw new Error(`${change.kind} does not end`);
      await world.cluster.clock.run(20);
    }
    const { membership } = (await world.leader()).store;
    const isPlaced = change.kind === 'addLearner' || change.kind === 'replace';
    t.equal(
      membership.nextReplicaId,
      before.nextReplicaId + (isPlaced ? 1 : 0),
      `${change.kind}: one at most`,
    );
    await world.change(change);
    t.equal((await world.leader()).store.membership.changes, membership.changes, 'nothing is left to do');
  };
  const given = async (change: ReplicaChange, givenMs: number): Promise<boolean> => {
    const { node } = await world.cluster.led();
    const options = { deadlineMs: node.monotonicMs() + givenMs, force: false };
    try {
      return (await world.cluster.settled(node.changeReplicas(0, [change], options))).done;
    } catch (error) {
      const { reason } = error as HansardError;
      if (!mayPass.has(reason)) throw error;
      doubts.push(reason);
      return false;
    }
  };
  await inDoubt({ kind: 'addLearner', nodeId: node });
  const added = await world.idOn(node);
  await inDoubt({ kind: 'promote', replicaId: added });
  t.same((await world.leader()).conf.voters.length, 4);
  await inDoubt({ kind: 'demote', replicaId: added });
  await inDoubt({ kind: 'remove', replicaId: added });
  t.same(await world.idOn(node), 0);
  const leader = await world.leader();
  await inDoubt({ kind: 'replace', replicaId: leader.replicaId, nodeId: await world.freeNode() });
  t.same((await world.leader()).conf.voters.length, 3);
  t.notOk((await world.leader()).conf.voters.includes(leader.replicaId));
  t.ok(doubts.includes('DEADLINE_EXCEEDED'), `proposed, and given up: ${doubts}`);
  await world.check(t);
});

/** A leader that is cut off makes two empty replicas on the free nodes, and is deposed before they become members. */
async function unusedReplicas(t: Test) {
  const world = await five(t);
  const { cluster } = world;
  await world.append();
  const { node: leader } = await cluster.led();
  const self = leader.identity.nodeId;
  const members = await world.nodes();
  const others = members.filter((node) => node !== self);
  const [first = 0, second = 0] = [1, 2, 3, 4, 5].filter((node) => !members.includes(node));
  const learners = (...nodes: number[]) =>
    nodes.map((nodeId): ReplicaChange => ({ kind: 'addLearner', nodeId }));
  cluster.network.isolate(self, others);
  const options = { deadlineMs: leader.monotonicMs() + 2_000, force: true };
  await cluster.settled(
    leader.changeReplicas(0, learners(first, second), options).catch((error: HansardError) => error.reason),
  );
  const elected = (): boolean => others.some((node) => world.replicaOn(node)?.isLeader);
  t.ok(await cluster.clock.until(elected, 20_000), 'the others go on without it');
  cluster.network.healAll();
  await cluster.clock.run(5_000);
  t.same(await world.nodes(), members, 'the change came to nothing');
  const ids = [first, second].map((node) => world.replicaOn(node)?.replicaId ?? 0);
  t.ok(
    ids.every((id) => id > 0),
    'what was made for it is there',
  );
  return { world, cluster, first, second, ids, learners };
}

t.test('an empty replica of a change that came to nothing is taken for the next one', async (t) => {
  const { world, cluster, first, second, ids, learners } = await unusedReplicas(t);
  await world.change(learners(second));
  t.equal(await world.idOn(second), ids[1], 'an id was passed over');
  t.ok(await cluster.clock.until(() => world.replicaOn(first) === undefined, 20_000), 'which nobody gets');
  await world.change(learners(first));
  t.ok((await world.idOn(first)) > (ids[1] as number));
  await world.check(t);
});

t.test('two of them are taken by the nodes that have them, whatever their order', async (t) => {
  const { world, first, second, ids, learners } = await unusedReplicas(t);
  await world.change(learners(second, first));
  t.same([await world.idOn(first), await world.idOn(second)], ids);
  await world.check(t);
});

t.test('the node of a removed replica drops it, and may get another', async (t) => {
  const world = await five(t, 2);
  for (let i = 0; i < 5; i++) await world.append();
  const leader = await world.leader();
  const gone = leader.members.find(({ replicaId }) => replicaId !== leader.replicaId) as {
    replicaId: number;
    nodeId: number;
  };
  const free = await world.freeNode();
  await world.change({ kind: 'replace', replicaId: gone.replicaId, nodeId: free });
  t.ok(await world.cluster.clock.until(() => world.replicaOn(gone.nodeId) === undefined, 5_000));
  await world.cluster.clock.run(1_000);
  t.same(world.cluster.get(gone.nodeId).store.hosted().at(0)?.removed, true);
  await world.check(t);
  // After a restart, too.
  await world.cluster.stop(gone.nodeId);
  await world.cluster.open(gone.nodeId);
  t.equal(world.replicaOn(gone.nodeId), undefined);
  await world.cluster.clock.run(2_000);
  // And back again, as a new one: it shares nothing with the one before.
  await world.change({ kind: 'addLearner', nodeId: gone.nodeId });
  await world.change({ kind: 'replace', replicaId: await world.idOn(free), nodeId: gone.nodeId });
  const back = await world.idOn(gone.nodeId);
  t.ok(back > gone.replicaId);
  await world.check(t);
  await world.cluster.stop(gone.nodeId, { seal: false });
  await world.cluster.open(gone.nodeId);
  t.equal(world.replicaOn(gone.nodeId)?.replicaId, back);
  await world.check(t);
});

t.test('a removed replica goes at once though its partition is quiet as its node comes back', async (t) => {
  const world = await five(t, 3);
  const { cluster } = world;
  await world.append();
  const leader = await world.leader();
  const gone = leader.members.find(({ replicaId }) => replicaId !== leader.replicaId) as {
    replicaId: number;
    nodeId: number;
  };
  await cluster.stop(gone.nodeId);
  await world.change({ kind: 'remove', replicaId: gone.replicaId }, true);
  const isQuiet = () => leader.isLeader && leader.isQuiescent;
  t.ok(await cluster.clock.until(isQuiet, 20_000), 'those that are left fall quiet');
  await cluster.clock.run(20_000);
  await cluster.open(gone.nodeId);
  t.ok(
    await cluster.clock.until(() => world.replicaOn(gone.nodeId) === undefined, 5_000),
    'two words of the leader within seconds, not one in a quarter of a minute',
  );
});

t.test('who was away while it was removed hears of it when it is back', async (t) => {
  const world = await five(t, 3);
  await world.append();
  const leader = await world.leader();
  const gone = leader.members.filter(({ replicaId }) => replicaId !== leader.replicaId);
  const away = gone[0] as { replicaId: number; nodeId: number };
  await world.cluster.stop(away.nodeId);
  await world.change({ kind: 'replace', replicaId: away.replicaId, nodeId: await world.freeNode() });
  await world.check(t);
  const term = (await world.leader()).term;
  await world.cluster.open(away.nodeId);
  t.equal(world.replicaOn(away.nodeId)?.replicaId, away.replicaId, 'it does not know yet');
  t.ok(await world.cluster.clock.until(() => world.replicaOn(away.nodeId) === undefined, 10_000));
  await world.cluster.clock.run(5_000);
  t.equal((await world.leader()).term, term, 'it deposed nobody');
  await world.check(t);
});

t.test(
  'a removed replica is here again as its database forgets that it went: it is mute, and goes again',
  async (t) => {
    const world = await five(t, 7);
    await world.append();
    await world.cluster.clock.run(1_000);
    const leader = await world.leader();
    const gone = leader.members.find(({ replicaId }) => replicaId !== leader.replicaId) as {
      replicaId: number;
      nodeId: number;
    };
    const rows = world.cluster.folder(gone.nodeId).database.disk('db');
    let before: Buffer = Buffer.alloc(0);
    rows.damage((key, value) => {
      if (key[0] === RowKind.format) before = Buffer.from(value);
      return value;
    });
    await world.change({
      kind: 'replace',
      replicaId: gone.replicaId,
      nodeId: await world.freeNode(),
    });
    t.ok(await world.cluster.clock.until(() => world.replicaOn(gone.nodeId) === undefined, 10_000));
    await world.cluster.clock.run(1_000);
    await world.cluster.stop(gone.nodeId);
    t.equal(world.cluster.ledger(gone.nodeId).goneOf(0), gone.replicaId);
    rows.damage((key, value) => (key[0] === RowKind.format ? before : value));
    await world.cluster.open(gone.nodeId);
    t.match(world.replicaOn(gone.nodeId), { replicaId: gone.replicaId, isMute: true });
    t.ok(await world.cluster.clock.until(() => world.replicaOn(gone.nodeId) === undefined, 10_000));
    await world.check(t);
  },
);

t.test('a damaged replica that was removed is not damaged any more: nothing of it is', async (t) => {
  const world = await five(t, 6);
  await world.append();
  await world.cluster.clock.run(1_000);
  const leader = await world.leader();
  const gone = leader.members.filter(({ replicaId }) => replicaId !== leader.replicaId);
  const away = gone[0] as { replicaId: number; nodeId: number };
  await world.cluster.stop(away.nodeId);
  await world.change({ kind: 'replace', replicaId: away.replicaId, nodeId: await world.freeNode() });
  const rows = world.cluster.folder(away.nodeId).database.disk('db');
  t.ok(rows.damage((key, value) => (key[0] === RowKind.channelName ? undefined : value)) > 0);
  const { node } = await world.cluster.open(away.nodeId);
  const own = () => node.faults().filter(({ nodeId }) => nodeId === away.nodeId);
  t.same(
    own().map(({ kind }) => kind),
    ['state-damaged'],
  );
  t.ok(await world.cluster.clock.until(() => world.replicaOn(away.nodeId) === undefined, 10_000));
  t.ok(await world.cluster.clock.until(() => own().length === 0, 5_000), JSON.stringify(own()));
  await world.check(t);
});

t.test('gates say what is in the way', async (t) => {
  const world = await five(t, 4);
  await world.append();
  const leader = await world.leader();
  const leaderNode = leader.nodeOf(leader.replicaId) as number;
  const free = await world.freeNode();
  t.equal(await world.refusal({ kind: 'addLearner', nodeId: 9 }), 'NODE_UNKNOWN');
  t.equal(await world.refusal({ kind: 'promote', replicaId: 77 }), 'NOT_A_MEMBER');
  t.equal(await world.refusal({ kind: 'remove', replicaId: 77 }), 'NOT_A_MEMBER');
  const [other] = leader.members.filter(({ replicaId }) => replicaId !== leader.replicaId);
  t.equal(
    await world.refusal({ kind: 'replace', replicaId: leader.replicaId, nodeId: other?.nodeId ?? 0 }),
    'ALREADY_A_MEMBER',
  );
  await world.cluster.stop(free);
  t.equal(await world.refusal({ kind: 'addLearner', nodeId: free }), 'NODE_UNREACHABLE');
  await world.cluster.open(free);
  await world.cluster.clock.run(2_000);
  await world.change({ kind: 'addLearner', nodeId: free });
  const id = await world.idOn(free);
  await world.caughtUp(free);
  await world.cluster.stop(free);
  await world.cluster.clock.run(3_000);
  t.equal(await world.refusal({ kind: 'promote', replicaId: id }), 'LEARNER_LAGS');
  // One voter is away: without another one no majority of two would be left.
  const [dead, lives] = leader.voters.filter(({ nodeId }) => nodeId !== leaderNode);
  await world.cluster.stop(dead?.nodeId ?? 0);
  await world.cluster.clock.run(3_000);
  t.equal(await world.refusal({ kind: 'remove', replicaId: lives?.replicaId ?? 0 }), 'WOULD_LOSE_QUORUM');
  await world.change({ kind: 'remove', replicaId: dead?.replicaId ?? 0 });
  await world.append();
});

t.test(
  'a lost replica is replaced also where the only free node still holds one that was removed',
  async (t) => {
    const world = await five(t, 5);
    await world.append();
    const leader = await world.leader();
    const [lost] = leader.members.filter(({ replicaId }) => replicaId !== leader.replicaId);
    const node = await world.freeNode();
    await world.change({ kind: 'addLearner', nodeId: node });
    await world.caughtUp(node);
    await world.change({ kind: 'promote', replicaId: await world.idOn(node) });
    await world.cluster.stop(await world.freeNode());
    await world.cluster.stop(lost?.nodeId ?? 0);
    await world.cluster.clock.run(3_000);
    // Not all members know of it: the lost one never will, and so the replica stays.
    await world.change({ kind: 'remove', replicaId: await world.idOn(node) });
    await world.cluster.clock.run(3_000);
    t.ok(world.replicaOn(node)?.isInitialised);
    t.match(
      await world.refusalText({ kind: 'addLearner', nodeId: node }),
      new RegExp(`replica ${lost?.replicaId} on node ${lost?.nodeId} does not answer`),
      'who only adds one is told what is in the way',
    );
    await world.change({ kind: 'replace', replicaId: lost?.replicaId ?? 0, nodeId: node });
    t.ok((await world.nodes()).includes(node));
    t.notOk((await world.nodes()).includes(lost?.nodeId ?? 0));
    t.equal((await world.leader()).conf.voters.length, 3);
    await world.check(t);
  },
);
