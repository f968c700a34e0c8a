/**
 * A leader stands still, is cut off with one follower, and wakes up there. Both believe in a leadership that has passed,
 * while the others elect a new leader and go on. Whoever asks one of the two, at whatever level, gets an answer that
 * keeps the level, from whoever can give one, or is told that there is none; never less. All of it is noted down and judged.
 */
import t from 'tap';
import { levels } from '../linearizability/channel-history.js';
import { ProcessCluster, sleep, type TestNode, until } from './harness.js';
import { draw, JudgedClient, judge, Notes } from './judged.js';
import { openNetwork, partition } from './network.js';
import { type Answer, type Ask, AskingLoop, noAnswer, PinnedReader } from './pinned.js';

t.setTimeout(600_000);

const channel = 'order/1';
/** Shorter than the leader's pause, and longer than this test. */
const bounds = [200, 800, 3_600_000];
const asks: readonly Ask[] = [
  { level: 'eventual' },
  { level: 'session' },
  ...bounds.map((boundMs) => ({ level: 'bounded' as const, boundMs })),
  { level: 'linearizable', timeoutMs: 1_500 },
];
/** Longer than an election, and than the middle bound. */
const faultMs = 2_500;
/** After that nothing that the two know is as new as the longest of the bounds that they must refuse. */
const staleMs = 1_000;

/** Reasons by which a node says that it can't serve. */
const saysSo = /^(NO_QUORUM|NOT_LEADER|NO_SECONDARY|DEADLINE_EXCEEDED)$/;

function shown(answer: Answer): string {
  return 'reason' in answer ? answer.reason : `head ${answer.head} by node ${answer.node}, ${answer.role}`;
}

t.test('a paused leader and its follower in the minority', async (t) => {
  const { network, whyProxies } = await openNetwork(5);
  t.comment(`network: ${network.kind}${whyProxies === '' ? '' : `: ${whyProxies}`}`);
  const cluster = await ProcessCluster.start(t, { nodes: 5, partitions: 1, replicationFactor: 5, network });
  const notes = new Notes();
  const leader = await cluster.leaderOf(channel);
  const follower = draw(cluster.others(leader));
  const minority = [leader, follower];
  const majority = cluster.nodes.filter((node) => !minority.includes(node));
  const load = [0, 1].map((i) => new JudgedClient(`c${i}`, cluster.connect(), [channel], notes));
  await until('appends go on', () => notes.acknowledged > 20);

  const loops = [
    ...minority.map(
      (node) => new AskingLoop(new PinnedReader(`at ${node.id}`, channel, notes), [node], asks),
    ),
    // One session that goes to and fro: what it saw of the majority it must not miss in the minority.
    new AskingLoop(
      new PinnedReader('to and fro', channel, notes),
      [majority[0] as TestNode, ...minority],
      [{ level: 'session', timeoutMs: 1_500 }],
    ),
  ];
  const probe = new PinnedReader('probe', channel, notes);
  t.teardown(async () => {
    leader.resume();
    probe.close();
    await Promise.all([...loops.map((each) => each.stop()), ...load.map((each) => each.stop())]);
  });
  await until('all are answered at each level', () =>
    loops.every(({ asks, answers }) =>
      asks.every(({ level }) => answers.some((each) => each.level === level && 'head' in each.answer)),
    ),
  );

  leader.pause();
  await partition(
    network,
    minority.map(({ id }) => id),
    majority.map(({ id }) => id),
  );
  const atCut = notes.acknowledged;
  // The follower may have led at the cut.
  const next = await until('the others elect a leader', async () => {
    const found = await cluster.leaderOf(channel, leader);
    return majority.includes(found) && found;
  });
  await until('appends go on there', () => notes.acknowledged > atCut + 20);
  await sleep(faultMs);

  const inMinority = async (node: TestNode, name: string): Promise<void> => {
    for (const ask of asks) {
      // A session that has seen what the majority did since.
      const bySession = ask.level === 'session';
      if (bySession) await probe.ask(next, { level: 'linearizable' });
      const { timeoutMs: _, ...patient } = ask;
      const answer = await probe.ask(node, patient);
      const what = `${ask.level}${ask.boundMs === undefined ? '' : ` ${ask.boundMs} ms`}: ${shown(answer)}`;
      const isFree = ask.level === 'eventual' || ask.boundMs === bounds.at(-1);
      if ('reason' in answer && answer.reason === noAnswer && cluster.starved)
        t.pass(what, { skip: cluster.starved });
      else if (isFree) t.ok('head' in answer && answer.node === node.id, `${name}, ${what}`);
      else t.match('reason' in answer && answer.reason, saysSo, `${name}, ${what}`);
    }
  };
  await inMinority(follower, 'the follower, its leader paused');
  leader.resume();
  await inMinority(leader, 'the leader, awake and cut off');
  await inMinority(follower, 'the follower, its leader awake');
  await sleep(staleMs);

  await network.heal();
  await cluster.ready();
  const healed = notes.acknowledged;
  await until('appends go on', () => notes.acknowledged > healed + 20);
  for (const node of minority)
    for (const ask of asks) {
      const answer = await until('it answers', async () => {
        const each = await probe.ask(node, ask);
        return 'head' in each && each;
      });
      t.ok(answer.head > 0, `healed: node ${node.id}, ${ask.level}: ${shown(answer)}`);
    }
  await Promise.all([...loops.map((each) => each.stop()), ...load.map((each) => each.stop())]);
  const { problems, reads, appended } = await judge(cluster.connect(), [channel], notes, 'paused-leader');
  t.same(problems, [], 'every level kept its promise');
  for (const level of levels) t.ok(reads[level] > 10, `${reads[level]} reads of level ${level}`);
  t.comment(`${appended} appended`);
});

t.test(
  'a follower whose leader stands still hands over to the next leader within the deadline',
  async (t) => {
    const cluster = await ProcessCluster.start(t, { nodes: 3, partitions: 1 });
    const notes = new Notes();
    const client = cluster.connect();
    const { seq } = await client.channel(channel).append({ text: 'x/1' });
    const leader = await cluster.leaderOf(channel);
    const follower = draw(cluster.others(leader));
    const probe = new PinnedReader('probe', channel, notes);
    t.teardown(() => {
      leader.resume();
      probe.close();
    });
    t.match(await probe.ask(follower, { level: 'linearizable' }), { head: seq });
    leader.pause();
    // What it has applied is enough for these; nobody has to be asked.
    for (const ask of [{ level: 'session' }, { level: 'eventual' }] as const)
      t.match(await probe.ask(follower, ask), { head: seq, node: follower.id, role: 'secondary' }, ask.level);
    // These need a leader: the call waits for the election, or says so before its deadline has passed.
    for (const ask of [{ level: 'linearizable' }, { level: 'bounded', boundMs: 1 }] as const) {
      const told: string[] = [];
      const answer = await until(`${ask.level} is answered`, async () => {
        const each = await probe.ask(follower, ask);
        if ('reason' in each) told.push(each.reason);
        return 'head' in each && each;
      });
      t.match(answer, { head: seq }, ask.level);
      const untold = told.filter((reason) => !saysSo.test(reason));
      if (untold.length > 0 && cluster.starved) t.pass('it says so', { skip: cluster.starved });
      else t.same(untold, [], `until then it says so: ${told.join(' ') || 'answered at once'}`);
    }
    leader.resume();
  },
);
