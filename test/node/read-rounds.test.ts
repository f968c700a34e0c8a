/** Reads of all partitions share one question to each peer, and none is answered by a leader of the past. */
import t from 'tap';
import type { HansardError } from '../../src/common/errors.js';
import { EntryType } from '../../src/common/log-types.js';
import type { ReadRoundQuestion } from '../../src/node/peer-codec.js';
import { ReadRounds, type RoundReplica } from '../../src/node/read-rounds.js';
import { MessageType, message } from '../../src/raft/types.js';
import { append, Cluster } from './cluster.js';

/** A partition led by node 1 on nodes 1, 2, 3; two of three must vouch, node 1 does. */
class FakeReplica implements RoundReplica {
  readonly voters = [1, 2, 3].map((id) => ({ replicaId: id * 10, nodeId: id }));
  ends: string[] = [];
  #context = 0;
  constructor(
    readonly partition: number,
    public term: number,
    readonly waiting = 1,
  ) {}
  readonly reads = {
    beginShared: () => ({ context: ++this.#context, term: this.term, reads: this.waiting }),
    vouched: (_context: number, term: number, by: readonly number[]) => {
      if (term !== this.term) this.ends.push('void');
      else if (by.length < 1) return false;
      else this.ends.push('confirmed');
      return true;
    },
    sharedFailed: () => void this.ends.push('failed'),
  };
}

function world(reachable = [2, 3]) {
  const asked: { peer: number; question: ReadRoundQuestion }[] = [];
  let deferred: (() => void)[] = [];
  let timers: { atMs: number; fn: () => void }[] = [];
  const now = { ms: 0 };
  const rounds = new ReadRounds(
    {
      nodeId: 1,
      monotonicMs: () => now.ms,
      defer: (fn) => deferred.push(fn),
      after: (ms, fn) => timers.push({ atMs: now.ms + ms, fn }),
      ask: (peer, question) => {
        if (reachable.includes(peer)) asked.push({ peer, question });
        return reachable.includes(peer);
      },
      flush() {},
    },
    1_000,
  );
  const turn = (): void => {
    const due = deferred;
    deferred = [];
    for (const fn of due) fn();
  };
  const pass = (ms: number): void => {
    now.ms += ms;
    const due = timers.filter(({ atMs }) => atMs <= now.ms);
    timers = timers.filter(({ atMs }) => atMs > now.ms);
    for (const { fn } of due) fn();
  };
  return { asked, rounds, turn, now, pass };
}

t.test('one question for all partitions, and what comes meanwhile shares the next', async (t) => {
  const { asked, rounds, turn } = world();
  const replicas = [0, 1, 2].map((partition) => new FakeReplica(partition, 5 + partition));
  for (const replica of replicas) rounds.want(replica);
  turn();
  t.same(
    asked.map(({ peer, question }) => [peer, question.number, question.pairs.length]),
    [[2, 1_001, 3]],
    'with node 1 itself one peer makes a quorum',
  );
  const late = new FakeReplica(7, 1);
  rounds.want(late);
  turn();
  t.equal(asked.length, 1, 'one round at a time');
  rounds.answered(2, { number: 1_001, refused: [1] });
  t.same(
    replicas.map(({ ends }) => ends),
    [['confirmed'], [], ['confirmed']],
    'a refusal confirms nothing',
  );
  t.same(
    asked[1],
    { peer: 3, question: { number: 1_001, pairs: [{ partition: 1, term: 6 }] } },
    'another one is asked',
  );
  rounds.answered(2, { number: 1_001, refused: [] });
  t.same(replicas[1]?.ends, [], 'a peer has one voice');
  rounds.answered(3, { number: 1_001, refused: [1] });
  t.same(replicas[1]?.ends, ['failed'], 'nobody is left who could vouch');
  turn();
  t.same(asked.at(-1)?.question, { number: 1_002, pairs: [{ partition: 7, term: 1 }] });
  rounds.answered(2, { number: 1_001, refused: [] });
  t.same(late.ends, [], "an old round's answer confirms nothing");
  rounds.answered(2, { number: 1_002, refused: [] });
  t.same(late.ends, ['confirmed']);
});

t.test('a round dies with its term, and silence does not hold up the next', async (t) => {
  const { asked, rounds, turn, now } = world();
  const replica = new FakeReplica(0, 5);
  rounds.want(replica);
  turn();
  replica.term = 6;
  rounds.answered(2, { number: 1_001, refused: [] });
  t.same(replica.ends, ['void']);
  const silent = new FakeReplica(1, 5);
  const next = new FakeReplica(2, 5);
  rounds.want(silent);
  turn();
  rounds.want(next);
  rounds.peerDown(2);
  rounds.tick(50);
  t.same(silent.ends, [], 'node 3 may still answer');
  now.ms = 100;
  rounds.tick(100);
  t.same(silent.ends, ['failed']);
  turn();
  t.equal(asked.at(-1)?.question.number, 1_003);
  rounds.answered(2, { number: 1_003, refused: [] });
  t.same(next.ends, ['confirmed']);
});

t.test('who does not answer soon is not waited for, and asked last the next time', async (t) => {
  const { asked, rounds, turn, pass } = world();
  const first = new FakeReplica(0, 5);
  rounds.want(first);
  turn();
  pass(19);
  t.same(
    asked.map(({ peer }) => peer),
    [2],
  );
  pass(1);
  t.same(
    asked.map(({ peer }) => peer),
    [2, 3],
  );
  rounds.answered(3, { number: 1_001, refused: [] });
  t.same(first.ends, ['confirmed']);
  rounds.want(first);
  turn();
  rounds.answered(3, { number: 1_002, refused: [] });
  rounds.want(first);
  turn();
  t.same(
    asked.slice(2).map(({ peer }) => peer),
    [3, 3],
  );
});

t.test('five voters: two are asked, and the third where one is out of reach', async (t) => {
  const { asked, rounds, turn } = world([3, 4, 5]);
  const voters = [1, 2, 3, 4, 5].map((id) => ({ replicaId: id * 10, nodeId: id }));
  const replica = Object.assign(new FakeReplica(0, 5), { voters });
  rounds.want(replica);
  turn();
  t.same(
    asked.map(({ peer }) => peer),
    [3, 4],
  );
});

t.test('where many read a round waits for more of them', async (t) => {
  const { asked, rounds, turn, pass } = world();
  const few = new FakeReplica(0, 5, 3);
  const many = new FakeReplica(1, 5, 4);
  const round = (replica: FakeReplica, number: number): void => {
    rounds.want(replica);
    turn();
    rounds.answered(2, { number, refused: [] });
  };
  round(few, 1_001);
  round(many, 1_002);
  t.equal(asked.length, 2, 'few wait for nobody');
  rounds.want(few);
  turn();
  t.equal(asked.length, 2);
  pass(0.5);
  t.equal(asked.length, 2);
  rounds.want(many);
  pass(0.5);
  t.same(
    asked[2]?.question.pairs.map(({ partition }) => partition),
    [0, 1],
  );
  rounds.answered(2, { number: 1_003, refused: [] });
  pass(100);
  round(many, 1_004);
  t.equal(asked.length, 4, 'after a while without any the first one goes at once');
});

t.test('where no peer can be reached the reads go the other way at once', async (t) => {
  const { rounds, turn } = world([]);
  const replica = new FakeReplica(0, 5);
  rounds.want(replica);
  turn();
  t.same(replica.ends, ['failed']);
  rounds.want(replica);
  turn();
  t.same(replica.ends, ['failed', 'failed'], 'and the next round begins');
});

t.test("bounded reads of a whole cluster: by the replica's own clock, never with less", async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1, settings: { balanceMs: 1e9 } });
  const { clock, network } = cluster;
  const leading = await cluster.led();
  const leader = leading.node.identity.nodeId;
  const [follower = 0, other = 0] = [1, 2, 3].filter((id) => id !== leader);
  const write = async (by: number, text: string): Promise<number> => {
    const deadlineMs = clock.monotonicMs() + 5_000;
    const written = await cluster.settled(cluster.get(by).node.propose(0, append('a', text), { deadlineMs }));
    return written.index;
  };
  const read = async (node: number, maxStalenessMs: number, ms = 1_000) => {
    const deadlineMs = clock.monotonicMs() + ms;
    const options = { level: 'bounded', minIndex: 0, deadlineMs, maxStalenessMs } as const;
    return cluster.settled(
      cluster
        .get(node)
        .node.readBarrier(0, options)
        .then(
          ({ appliedIndex, stalenessMs = -1, role }) => ({ appliedIndex, stalenessMs, role }),
          (error: HansardError) => error.reason,
        ),
    );
  };
  const first = await write(leader, 'one');
  const fresh = await read(follower, 1_000);
  if (typeof fresh === 'string') throw new Error(fresh);
  t.ok(fresh.appliedIndex >= first && fresh.role === 'secondary' && fresh.stalenessMs < 1_000);
  t.match(await read(leader, 1_000), { role: 'primary' });

  // The follower hears of nobody any more: its bound is kept by its own clock, then it says so.
  network.isolate(follower, [leader, other]);
  const atMs = clock.monotonicMs();
  const second = await write(leader, 'two');
  const old = await read(follower, 1_000);
  if (typeof old === 'string') throw new Error(old);
  t.ok(old.appliedIndex < second, 'not the newest');
  t.ok(old.stalenessMs <= 1_000, `${old.stalenessMs} ms behind`);
  await clock.run(1_000 - (clock.monotonicMs() - atMs) + 1);
  t.match(await read(follower, 1_000), /^(NO_QUORUM|DEADLINE_EXCEEDED)$/);
  t.match(await read(follower, 60_000), { role: 'secondary' }, 'a wider bound is still met');
  network.healAll();

  // A leader that was cut off, and the follower that it has with it, know no more than they did.
  await clock.run(3_000);
  t.match(await read(follower, 0), { role: 'secondary' }, 'a bound of nothing is a round');
  await cluster.stopAll();
});

t.test('linearizable reads of a whole cluster', async (t) => {
  const partitions = 12;
  const cluster = await Cluster.start({ nodes: 3, partitions, settings: { balanceMs: 1e9 } });
  // Nobody who stood at the start beside who leads deposes it any more.
  await cluster.clock.run(3_000);
  for (let partition = 0; partition < partitions; partition++) {
    const { node } = await cluster.led(partition);
    const deadlineMs = cluster.clock.monotonicMs() + 5_000;
    await cluster.settled(node.propose(partition, append('a', 'one'), { deadlineMs }));
  }
  const read = async (node = 0, partition = 0, ms = 2_000): Promise<string> => {
    const asked = node === 0 ? (await cluster.led(partition)).node : cluster.get(node).node;
    const deadlineMs = cluster.clock.monotonicMs() + ms;
    return asked.readBarrier(partition, { level: 'linearizable', minIndex: 0, deadlineMs }).then(
      (view) => `${view.role} ${view.appliedIndex > 0}`,
      (error: HansardError) => error.reason,
    );
  };
  const rounds = (): number => [1, 2, 3].reduce((sum, id) => sum + cluster.get(id).node.readRounds, 0);
  const before = rounds();
  const all = Array.from({ length: 240 }, (_, i) => read(0, i % partitions));
  const answers = await cluster.settled(Promise.all(all));
  t.same(new Set(answers), new Set(['primary true']));
  t.ok(rounds() - before <= 6, `${rounds() - before} rounds for 240 reads in 12 partitions`);

  // Who follows asks the leader, as ever.
  const leader = (await cluster.led(0)).node.identity.nodeId;
  const other = leader === 1 ? 2 : 1;
  t.equal(await cluster.settled(read(other)), 'secondary true');

  // The leader is cut off: what it still believes of itself answers nobody.
  const term = cluster.get(leader).node.replicas()[0]?.term as number;
  t.ok(cluster.get(other).node.replicas()[0]?.vouchesFor(leader, term));
  const others = [1, 2, 3].filter((id) => id !== leader);
  cluster.network.isolate(leader, others);
  const cut = read(leader, 0, 1_500);
  const elected = (): boolean =>
    others.some((id) =>
      cluster
        .get(id)
        .node.replicas()
        .some((one) => one.partition === 0 && one.isLeader),
    );
  t.ok(await cluster.clock.until(elected, 20_000));
  t.notOk(cluster.get(other).node.replicas()[0]?.vouchesFor(leader, term), 'nobody vouches for a past term');
  t.match(await cluster.settled(cut), /^(NO_QUORUM|NOT_LEADER)$/);
  t.equal(
    await cluster.settled(read(others.find((id) => cluster.get(id).node.replicas()[0]?.isLeader))),
    'primary true',
  );
  cluster.network.healAll();
  await cluster.clock.run(3_000);
  t.equal(await cluster.settled(read(leader)), 'secondary true', 'it has learned who leads');
  await cluster.stopAll();
});

/** A leader that has read its deposition and had no turn since: under load a turn may be some messages away. */
async function deposedInThisTurn() {
  const cluster = await Cluster.start({ nodes: 3, partitions: 1, settings: { balanceMs: 1e9 } });
  const leading = await cluster.led();
  await cluster.clock.run(500);
  const replica = leading.node.replicas()[0];
  if (replica === undefined) throw new Error('it holds the partition');
  const self = leading.node.identity.nodeId;
  const [next = 0, other = 0] = [1, 2, 3].filter((id) => id !== self);
  const { lastIndex: last, term } = replica;
  const depose = (): void => {
    const empty = { index: last + 1, term: term + 1, type: EntryType.normal, sizeBytes: 0 };
    const entries = [{ ...empty, data: new Uint8Array(0), checksum: undefined }];
    const from = { from: next, term: term + 1, index: last, logTerm: term, commit: last + 1 };
    replica.step({ ...message(MessageType.MsgApp, replica.replicaId), ...from, entries });
  };
  const deadlineMs = cluster.clock.monotonicMs() + 5_000;
  return { cluster, node: leading.node, replica, depose, next, other, term, deadlineMs };
}

t.test("who was deposed a moment ago confirms nothing by the next leader's term", async (t) => {
  for (const when of ['before its round', 'in its round']) {
    const { replica, depose, next, other, term, deadlineMs } = await deposedInThisTurn();
    let answered = false;
    replica.readBarrier('linearizable', 0, deadlineMs).then(() => {
      answered = true;
    }, t.error);
    if (when === 'before its round') depose();
    const begun = replica.reads.beginShared();
    if (when === 'in its round') depose();
    t.equal(begun?.term, when === 'in its round' ? term : undefined);
    // Everybody is in that term by now, and what that leader has committed since is not known here.
    if (begun !== undefined)
      t.ok(replica.reads.vouched(begun.context, begun.term, [next, other]), 'it is over');
    await new Promise(setImmediate);
    t.notOk(answered, when);
  }
});

t.test('what waits in a leader that is deposed hears of the next one, not of this one', async (t) => {
  const { cluster, node, depose, next, deadlineMs } = await deposedInThisTurn();
  const proposed = node.propose(0, append('a', 'text'), { deadlineMs });
  depose();
  const error = await cluster.settled(proposed.catch((each: HansardError) => each));
  t.match(error, { reason: 'NOT_LEADER', fields: { leader_node_id: next } });
});
