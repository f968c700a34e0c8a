/** Partitions in which nothing happens say nothing, and are there at once when something does. */
import fc from 'fast-check';
import t from 'tap';
import type { VouchAnswer, Vouching, VouchWord } from '../../src/node/peer-codec.js';
import { Quiescence, type QuietReplica } from '../../src/node/quiescence.js';
import { HeardList, ToldList } from '../../src/node/vouch-lists.js';
import { append, Cluster } from './cluster.js';

t.setTimeout(600_000);

const partitions = 12;
const nodes = [1, 2, 3];

const soonMs = (cluster: Cluster) => cluster.clock.monotonicMs() + 5_000;

async function quietCluster(): Promise<Cluster> {
  const cluster = await Cluster.start({ nodes: 3, partitions });
  await cluster.led();
  if (!(await cluster.clock.until(() => isAllQuiet(cluster), 20_000)))
    throw new Error('it does not fall quiet');
  return cluster;
}

function isAllQuiet(cluster: Cluster): boolean {
  for (const { node } of cluster.running.values()) if (node.quiescentReplicas < partitions) return false;
  return true;
}

function terms(cluster: Cluster): number[] {
  return cluster
    .get(1)
    .node.replicas()
    .map(({ term }) => term);
}

function sentBytes(cluster: Cluster): number {
  let sum = 0;
  for (const { transport } of cluster.running.values())
    for (const peer of transport.peers()) sum += peer.sentBytes;
  return sum;
}

async function mustHold(cluster: Cluster, partition: number): Promise<void> {
  // Whoever asks a leader that is none any more asks again.
  const endMs = cluster.clock.monotonicMs() + 10_000;
  for (;;) {
    const { node } = await cluster.led(partition);
    try {
      await cluster.settled(
        node.propose(partition, append(`c${partition}`, 'one'), { deadlineMs: soonMs(cluster) }),
      );
      return;
    } catch (error) {
      if (cluster.clock.monotonicMs() > endMs) throw error;
      await cluster.clock.run(50);
    }
  }
}

t.test('an idle cluster falls quiet, keeps its leaders, and says next to nothing', async (t) => {
  const cluster = await quietCluster();
  const before = terms(cluster);
  const bytes = sentBytes(cluster);
  await cluster.clock.run(60_000);
  t.same(terms(cluster), before, 'nobody stood for election');
  t.ok(isAllQuiet(cluster));
  // Heartbeats of 12 partitions are 100 bytes and more, ten times a second on each of six ways.
  t.ok(sentBytes(cluster) - bytes < 60 * 6 * 400, `${sentBytes(cluster) - bytes} bytes in a minute`);
  await cluster.stopAll();
});

t.test('an append finds its partition at once, wakes no other, and it falls quiet again', async (t) => {
  const cluster = await quietCluster();
  const startMs = cluster.clock.monotonicMs();
  const { node } = await cluster.led(5);
  await cluster.settled(node.propose(5, append('c5', 'one'), { deadlineMs: soonMs(cluster) }));
  t.ok(cluster.clock.monotonicMs() - startMs < 100, 'without waiting for a tick or an election');
  for (const { node: each } of cluster.running.values()) t.equal(each.quiescentReplicas, partitions - 1);
  t.ok(await cluster.clock.until(() => isAllQuiet(cluster), 10_000));
  for (const { node: each } of cluster.running.values()) t.equal(each.replicas()[5]?.appliedIndex, 2);
  await cluster.stopAll();
});

t.test('linearizable reads of a quiet partition are answered by followers and leaders', async (t) => {
  const cluster = await quietCluster();
  for (const id of nodes) {
    const replica = cluster.get(id).node.replicas()[7];
    await cluster.settled(replica?.readBarrier('linearizable', 0, soonMs(cluster)) ?? Promise.reject(id));
  }
  t.pass();
  await cluster.stopAll();
});

t.test(
  'a quiet leader that is cut off is replaced within an election timeout or two, and steps down',
  async (t) => {
    const cluster = await quietCluster();
    const old = await cluster.led(0);
    const { nodeId } = old.node.identity;
    cluster.network.isolate(
      nodeId,
      nodes.filter((id) => id !== nodeId),
    );
    const isReplaced = () =>
      nodes.some(
        (id) =>
          id !== nodeId &&
          cluster
            .get(id)
            .node.replicas()
            .some((r) => r.partition === 0 && r.isLeader),
      );
    t.ok(await cluster.clock.until(isReplaced, 4_000), 'another one leads');
    const hasSteppedDown = () => !old.node.replicas()[0]?.isLeader;
    t.ok(await cluster.clock.until(hasSteppedDown, 4_000), 'the old one knows that it is cut off');
    cluster.network.healAll();
    for (let partition = 0; partition < partitions; partition++) await mustHold(cluster, partition);
    t.ok(await cluster.clock.until(() => isAllQuiet(cluster), 30_000), 'and all is quiet again');
    await cluster.stopAll();
  },
);

t.test('followers that were woken together do not tick together, nor stand against each other', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 24, seed: 16 });
  await cluster.led();
  await cluster.clock.run(16_232);
  const { node: old } = await cluster.led(0);
  const { nodeId } = old.identity;
  const led = old.replicas().filter(({ isLeader }) => isLeader);
  t.ok(led.length > 5 && led.every(({ isQuiescent }) => isQuiescent), `${led.length} lead, and are quiet`);
  const others = nodes.filter((id) => id !== nodeId);
  cluster.network.isolate(nodeId, others);
  const isReplaced = () =>
    led.every(({ partition }) =>
      others.some((id) =>
        cluster
          .get(id)
          .node.replicas()
          .some((replica) => replica.partition === partition && replica.isLeader),
      ),
    );
  t.ok(await cluster.clock.until(isReplaced, 2_500), 'nobody needs a second election');
  await cluster.stopAll();
});

t.test('a node that only hears nothing is not vouched for, nor does its leader lead on alone', async (t) => {
  const cluster = await quietCluster();
  const leader = await cluster.led(0);
  const { nodeId } = leader.node.identity;
  // What it says arrives, what is said to it does not: its vouching is heard, and the answers get lost.
  for (const id of nodes) if (id !== nodeId) cluster.network.block(id, nodeId);
  t.ok(
    await cluster.clock.until(() => !leader.node.replicas()[0]?.isLeader, 6_000),
    'hearing from nobody, it steps down',
  );
  cluster.network.healAll();
  await mustHold(cluster, 0);
  await cluster.stopAll();
});

t.test('a node that comes back is caught up with before anything falls quiet', async (t) => {
  const cluster = await quietCluster();
  await cluster.stop(3);
  for (let partition = 0; partition < partitions; partition++) await mustHold(cluster, partition);
  await cluster.clock.run(20_000);
  for (const { node } of cluster.running.values())
    t.equal(node.quiescentReplicas, 0, 'with one member away nobody is quiet: it may come back any time');
  await cluster.open(3);
  t.ok(await cluster.clock.until(() => isAllQuiet(cluster), 30_000));
  const applied = (id: number) =>
    cluster
      .get(id)
      .node.replicas()
      .map((r) => [r.partition, r.appliedIndex]);
  t.same(applied(3).sort(), applied(1).sort());
  await cluster.stopAll();
});

t.test('a leader that nobody hears steps down in time, however soon it falls quiet', async (t) => {
  const cluster = await Cluster.start({ nodes: 3, partitions: 4, settings: { quiesceAfterMs: 100 } });
  const leader = await cluster.led(0);
  await cluster.clock.run(20_000);
  const { nodeId } = (await cluster.led(0)).node.identity;
  t.equal(nodeId, leader.node.identity.nodeId);
  for (const id of nodes) if (id !== nodeId) cluster.network.block(id, nodeId);
  t.ok(await cluster.clock.until(() => !leader.node.replicas()[0]?.isLeader, 4_000));
  cluster.network.healAll();
  await cluster.stopAll();
});

t.test('processes that stood still together elect nobody', async (t) => {
  const cluster = await quietCluster();
  const before = terms(cluster);
  const real = cluster.clock.monotonicMs.bind(cluster.clock);
  cluster.clock.monotonicMs = () => real() + 1_500;
  await cluster.clock.run(5_000);
  t.same(terms(cluster), before);
  t.ok(isAllQuiet(cluster), 'nor does anything wake');
  await cluster.stopAll();
});

/** One partition as its leader on node 1, or as a follower of node 2. */
class FakeReplica implements QuietReplica {
  readonly partition = 0;
  term = 4;
  commitIndex = 9;
  isIdle = true;
  hearsAll = true;
  isQuiescent = false;
  believes = true;
  woke = (): void => {};
  readonly members = nodes.map((nodeId) => ({ nodeId }));
  constructor(readonly leader: number) {}
  get isLeader(): boolean {
    return this.leader === 1;
  }
  fallQuiet(): void {
    this.isQuiescent = true;
  }
  vouchedFor(_by: number, term: number, commit: number): boolean {
    const holds = this.believes && term === this.term && commit === this.commitIndex;
    if (holds) this.isQuiescent = true;
    return holds;
  }
  vouchEnded(): void {
    this.wake();
  }
  wake(): void {
    if (!this.isQuiescent) return;
    this.isQuiescent = false;
    this.woke();
  }
}

function nodeOf(replica: FakeReplica) {
  const said: { peer: number; word: VouchWord }[] = [];
  const answers: { peer: number; answer: VouchAnswer }[] = [];
  const quiescence = new Quiescence<FakeReplica>(
    {
      nodeId: 1,
      settings: { quiesceAfterMs: 500, electionTimeoutMs: 1_000, heartbeatMs: 100 },
      replicas: () => [replica],
      replica: () => replica,
      isConnected: () => true,
      vouch: (peer, word) => said.push({ peer, word }),
      answer: (peer, answer) => answers.push({ peer, answer }),
      awoke: () => {},
    },
    700,
  );
  replica.woke = () => quiescence.woke(replica);
  quiescence.opened(replica);
  let nowMs = 0;
  const pass = (ms: number): void => {
    for (const endMs = nowMs + ms; nowMs < endMs; ) {
      nowMs += 50;
      quiescence.tick(nowMs);
    }
  };
  const lastTo = (peer: number): VouchWord => {
    const word = said.findLast((each) => each.peer === peer)?.word;
    if (word === undefined) throw new Error(`nothing was said to ${peer}`);
    return word;
  };
  return { quiescence, said, answers, pass, lastTo, now: () => nowMs };
}

const wordOf = (number: number, since: number, more: Partial<VouchWord> = {}): VouchWord => ({
  number,
  since,
  heard: 0,
  gone: [],
  vouchings: [],
  ...more,
});

t.test('a list is said whole once, then only its number, until it changes', async (t) => {
  const replica = new FakeReplica(1);
  const { quiescence, pass, lastTo, now } = nodeOf(replica);
  pass(900);
  const first = lastTo(2);
  t.same(first, wordOf(first.number, 0, { vouchings: [{ partition: 0, term: 4, commit: 9 }] }));
  quiescence.answered(2, { number: first.number, refused: [] }, now());
  quiescence.answered(3, { number: lastTo(3).number, refused: [] }, now());
  pass(250);
  t.same(lastTo(2), wordOf(first.number, first.number));
  replica.wake();
  pass(250);
  const gone = lastTo(2);
  t.not(gone.number, first.number);
  t.same(gone, wordOf(gone.number, first.number, { gone: [0] }));
  quiescence.answered(2, { number: gone.number, refused: [] }, now());
  replica.commitIndex = 10;
  pass(900);
  const again = lastTo(2);
  t.same(again.vouchings, [{ partition: 0, term: 4, commit: 10 }]);
  t.ok(again.number > gone.number, 'no list has the number of another');
});

t.test('a refused word wakes the leader; an answered one does not', async (t) => {
  const replica = new FakeReplica(1);
  const { quiescence, pass, lastTo, now } = nodeOf(replica);
  pass(900);
  t.ok(replica.isQuiescent);
  quiescence.answered(2, { number: lastTo(2).number, refused: [] }, now());
  t.ok(replica.isQuiescent);
  quiescence.answered(3, { number: lastTo(3).number, refused: [0] }, now());
  t.notOk(replica.isQuiescent);
});

t.test('a leader whose peer is silent for an election timeout wakes', async (t) => {
  const replica = new FakeReplica(1);
  const { quiescence, pass, lastTo, now } = nodeOf(replica);
  pass(800);
  for (let i = 0; i < 10; i++) {
    pass(200);
    quiescence.answered(2, { number: lastTo(2).number, refused: [] }, now());
    if (i < 3) quiescence.answered(3, { number: lastTo(3).number, refused: [] }, now());
    if (i === 6) t.ok(replica.isQuiescent, 'a few lost answers are none');
    if (i === 8) t.notOk(replica.isQuiescent);
  }
});

t.test('that a peer has no list of ours, or an earlier one, is no sign of who follows', async (t) => {
  const replica = new FakeReplica(1);
  const { quiescence, pass, lastTo, now } = nodeOf(replica);
  let hasWoken = false;
  replica.woke = () => {
    hasWoken = true;
  };
  pass(800);
  for (let i = 0; i < 6; i++) {
    pass(200);
    quiescence.answered(2, { number: lastTo(2).number, refused: [] }, now());
    quiescence.answered(3, { number: i % 2 === 0 ? 0 : 17, refused: [] }, now());
  }
  t.ok(hasWoken);
});

t.test('a follower rests while it is vouched for, and one that knows better refuses', async (t) => {
  const replica = new FakeReplica(2);
  const { quiescence, answers, pass, now } = nodeOf(replica);
  const vouchings = [{ partition: 0, term: 4, commit: 9 }];
  quiescence.heard(2, wordOf(31, 0, { vouchings }), now());
  t.same(answers, [], 'answered with the next word');
  pass(300);
  t.same(answers, [{ peer: 2, answer: { number: 31, refused: [] } }]);
  pass(650);
  t.ok(replica.isQuiescent);
  quiescence.heard(2, wordOf(31, 31), now());
  pass(900);
  t.ok(replica.isQuiescent, 'the number alone vouches as well');
  pass(200);
  t.notOk(replica.isQuiescent, 'the last word was too long ago');
  replica.believes = false;
  answers.length = 0;
  quiescence.heard(2, wordOf(32, 0, { vouchings }), now());
  t.same(answers, [{ peer: 2, answer: { number: 32, refused: [0] } }]);
});

t.test('a follower that stirred is looked at anew, by what the list says of it', async (t) => {
  const replica = new FakeReplica(2);
  const { quiescence, answers, now } = nodeOf(replica);
  quiescence.heard(2, wordOf(31, 0, { vouchings: [{ partition: 0, term: 4, commit: 9 }] }), now());
  replica.wake();
  quiescence.heard(2, wordOf(31, 31), now());
  t.ok(replica.isQuiescent, 'nothing had changed');
  replica.wake();
  replica.term = 5;
  quiescence.heard(2, wordOf(31, 31), now());
  t.notOk(replica.isQuiescent);
  t.same(answers, [{ peer: 2, answer: { number: 31, refused: [0] } }]);
});

t.test('a word that builds on a list that is not known here vouches for nothing', async (t) => {
  const replica = new FakeReplica(2);
  const { quiescence, answers, pass, now } = nodeOf(replica);
  const vouchings = [{ partition: 0, term: 4, commit: 9 }];
  quiescence.heard(2, wordOf(32, 31, { vouchings }), now());
  t.notOk(replica.isQuiescent);
  t.same(answers, [{ peer: 2, answer: { number: 0, refused: [] } }]);
  quiescence.heard(2, wordOf(32, 0, { vouchings }), now());
  t.ok(replica.isQuiescent);
  for (let i = 0; i < 5; i++) {
    pass(250);
    quiescence.heard(2, wordOf(40, 39), now());
  }
  t.notOk(replica.isQuiescent, 'nor does it lengthen what an earlier one vouched for');
  quiescence.heard(2, wordOf(41, 0, { vouchings }), now());
  quiescence.wakeAll(2);
  quiescence.heard(2, wordOf(41, 41), now());
  t.notOk(replica.isQuiescent, 'lists die with the link');
});

t.test('whatever changes and gets lost, a word that is taken stands for the list as it was', async () => {
  type Step = { readonly kind: 'add' | 'drop' | 'say' | 'lose' | 'answer' | 'cut'; readonly at: number };
  const step: fc.Arbitrary<Step> = fc.record({
    kind: fc.constantFrom('add', 'drop', 'say', 'say', 'lose', 'answer', 'cut'),
    at: fc.nat({ max: 4 }),
  });
  const sorted = (list: Iterable<Vouching>) => [...list].sort((a, b) => a.partition - b.partition);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      let number = 100;
      let commit = 0;
      const newTold = () => new ToldList(() => ++number);
      const truth = new Map<number, Vouching>();
      let told = newTold();
      let heard = new HeardList();
      /** Answers on their way, and the words before that got lost. */
      const answers: number[] = [];
      for (const { kind, at } of steps) {
        if (kind === 'add') {
          truth.set(at, { partition: at, term: 1, commit: ++commit });
          told.add(truth.get(at) as Vouching);
        } else if (kind === 'drop') {
          truth.delete(at);
          told.drop(at);
        } else if (kind === 'say') {
          const word = { ...told.word(), heard: 0 };
          if (heard.take(word) === undefined) {
            answers.push(0);
            continue;
          }
          answers.push(word.number);
          for (const { partition } of heard.unsettled()) heard.settle(partition);
          for (const partition of heard.partitions) heard.unsettle(partition);
          if (JSON.stringify(sorted(heard.unsettled())) !== JSON.stringify(sorted(truth.values())))
            return false;
        } else if (kind === 'lose') told.word();
        else if (kind === 'answer') {
          const answer = answers.shift();
          if (answer === 0) told.beginAnew();
          else if (answer !== undefined) told.taken(answer);
        } else if (at < 2) heard = new HeardList();
        else {
          // The teller's end forgets; what was on its way arrives all the same.
          told = newTold();
          for (const vouching of truth.values()) told.add(vouching);
        }
      }
      return true;
    }),
    { numRuns: 2_000, seed: 7 },
  );
});
