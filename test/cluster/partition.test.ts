/** Replicas move between real processes while clients write: by the command that operators use, whoever is killed meanwhile. */
import t, { type Test } from 'tap';
import { hansard } from '../support/command.js';
import { differingCopies } from './direct.js';
import { mainScript, ProcessCluster, patienceMs, run, type TestNode, until } from './harness.js';
import { faults, readAll, Writer } from './workload.js';

t.setTimeout(600_000);

/** Of all scenarios: each but the last begins with every node up, and leaves it so. */
const cluster = await ProcessCluster.start(t, { nodes: 5, partitions: 4, replicationFactor: 3 });

interface Told {
  readonly leader: number;
  readonly joint: boolean;
  readonly done?: boolean;
  readonly replicas: { replica_id: number; node: number; role: string; caught_up: boolean }[];
}

function toldIn(out: string): Told {
  return JSON.parse(out.trim().split('\n').at(-1) ?? '') as Told;
}

class World {
  readonly partition: number;
  readonly writer: Writer;
  private constructor(readonly channel: string) {
    this.partition = cluster.partitionOf(channel, 'default');
    this.writer = new Writer(cluster.connect(), channel, { inFlight: 4, timeoutMs: patienceMs, pauseMs: 20 });
  }

  static async start(t: Test, channel: string): Promise<World> {
    const world = new World(channel);
    // Where a check throws: a writer that goes on would keep the file from ending.
    t.teardown(() => world.writer.stop());
    await until('some appends', () => world.writer.acknowledged > 20);
    return world;
  }

  get endpoint(): string {
    return cluster.nodes
      .filter((node) => node.isUp)
      .map((node) => node.clientAddress)
      .join(',');
  }

  #words(args: readonly string[]): string[] {
    return ['partition', ...args, '--json', '--endpoint', this.endpoint];
  }

  /** In a process of its own: others of this test are killed meanwhile. */
  begin(...args: string[]) {
    return run(mainScript, this.#words(args));
  }

  async command(...args: string[]): Promise<Told> {
    const { code, out, err } = await hansard(this.#words(args));
    if (code !== 0) throw new Error(`partition ${args.join(' ')} ended with ${code}: ${err}`);
    return toldIn(out);
  }

  /** Between two leaders there is a moment in which nobody can tell (exit 3). */
  async show(): Promise<Told> {
    return until('a leader tells', async () => {
      const { code, out, err } = await hansard(this.#words(['show', String(this.partition)]));
      if (code === 0) return toldIn(out);
      if (code !== 3) throw new Error(`partition show ended with ${code}: ${err}`);
      return undefined;
    });
  }

  /** Its id; where it is to go. */
  async plan(wants: (member: Told['replicas'][number], leader: number) => boolean) {
    const { replicas, leader } = await this.show();
    const from = replicas.find((member) => wants(member, leader));
    const taken = replicas.map(({ node }) => node);
    const to = cluster.nodes.find((node) => node.isUp && !taken.includes(node.id));
    if (from === undefined || to === undefined) throw new Error('no replica, or no node, to choose from');
    return { replica: String(from.replica_id), fromNode: cluster.node(from.node), to: String(to.id) };
  }

  replace(replica: string, to: string): Promise<Told> {
    return this.command('replace', String(this.partition), '--replica', replica, '--node', to);
  }

  /** Nothing lost, nothing twice, the same on all members. */
  async check(t: Test): Promise<Told> {
    await this.writer.stop();
    t.same(this.writer.errors, [], 'no append failed');
    const client = cluster.connect();
    t.same(faults(this.writer, await readAll(client, this.channel)), []);
    const told = await this.show();
    const members = told.replicas.map(({ node }) => cluster.node(node)).filter((node) => node.isUp);
    t.same(
      await differingCopies(members, this.channel, this.writer.highestSeq),
      [],
      'all members have all of it',
    );
    return told;
  }
}

/** Tells whether the node has said a text since this was called, or since its process began. */
function listen(node: TestNode): (text: string) => boolean {
  const { process } = node;
  const heard = process.stderr.length;
  return (text) => process.stderr.slice(heard).includes(text);
}

t.test('a replica goes from node to node under load, the leader too', async (t) => {
  const world = await World.start(t, 'moving/load');
  const before = await world.show();
  t.equal(before.replicas.length, 3);
  for (let move = 0; move < 2; move++) {
    const { replica, to } = await world.plan((member, leader) => member.node !== leader);
    const after = await world.replace(replica, to);
    t.match(after, { done: true, joint: false });
    t.ok(after.replicas.some(({ node, role }) => node === Number(to) && role === 'voter'));
    t.notOk(after.replicas.some(({ replica_id }) => String(replica_id) === replica));
    t.equal(after.replicas.length, 3);
  }
  const led = await world.plan((member, leader) => member.node === leader);
  await world.replace(led.replica, led.to);
  // Step by step, as one may do it by hand.
  const { to } = await world.plan(() => true);
  const added = await world.command('add-learner', String(world.partition), '--node', to);
  const learner = added.replicas.find(({ node }) => node === Number(to));
  t.match(learner, { role: 'learner', caught_up: true });
  const id = String(learner?.replica_id);
  t.equal((await world.command('promote', String(world.partition), '--replica', id)).replicas.length, 4);
  await world.command('demote', String(world.partition), '--replica', id);
  const said = listen(cluster.node(Number(to)));
  const after = await world.command('remove', String(world.partition), '--replica', id);
  t.equal(after.replicas.length, 3);
  await until('the removed one is marked', () => said("removed replica's data"));
  const told = await world.check(t);
  // All of it outlives the processes.
  await Promise.all(cluster.nodes.map((node) => node.kill()));
  cluster.startAll();
  await cluster.ready();
  const again = await until('the same members', async () => {
    const now = await world.show();
    return now.leader > 0 && now;
  });
  t.same(
    again.replicas.map(({ replica_id, node, role }) => [replica_id, node, role]).sort(),
    told.replicas.map(({ replica_id, node, role }) => [replica_id, node, role]).sort(),
  );
  const next = await cluster.connect().channel(world.channel).append({ text: 'after it' });
  t.equal(next.seq, world.writer.highestSeq + 1);
});

t.test('the leader is killed in the midst of a joint change', async (t) => {
  const world = await World.start(t, 'moving/joint');
  for (let round = 0; round < 2; round++) {
    const { replica, to } = await world.plan((member, leader) => member.node !== leader);
    // Whoever leads when it comes to that: leadership may go home meanwhile.
    const ears = cluster.nodes.map((node) => ({ node, said: listen(node) }));
    const command = world.begin('replace', String(world.partition), '--replica', replica, '--node', to);
    // The joint change is in its log, and perhaps nowhere else.
    const { node: leader } = await until('the change is proposed', () =>
      ears.find(({ said }) => said(' && ')),
    );
    await leader.kill();
    const { code } = await command.end(90_000);
    t.equal(code, 0, command.tail());
    cluster.startNode(leader);
    await leader.ready();
    const now = await until('it is over', async () => {
      const told = await world.show();
      return !told.joint && told.leader > 0 && told;
    });
    t.notOk(now.replicas.some(({ replica_id }) => String(replica_id) === replica));
    t.same(
      now.replicas.map(({ role }) => role),
      ['voter', 'voter', 'voter'],
    );
  }
  await world.check(t);
});

t.test('the replica of a node that is gone for good', async (t) => {
  const world = await World.start(t, 'moving/gone');
  const { replica, fromNode, to } = await world.plan((member, leader) => member.node === leader);
  await fromNode.kill();
  const after = await world.replace(replica, to);
  t.match(after, { done: true, joint: false });
  t.same(
    after.replicas.map(({ role }) => role),
    ['voter', 'voter', 'voter'],
  );
  t.notOk(after.replicas.some(({ node }) => node === fromNode.id));
  // With one of the three away it still has a majority: the new one votes.
  const other = after.replicas.find(({ node }) => node !== after.leader && node !== Number(to));
  await cluster.node(other?.node ?? 0).kill();
  const before = world.writer.acknowledged;
  await until('appends go on', () => world.writer.acknowledged > before + 20);
  cluster.startNode(cluster.node(other?.node ?? 0));
  // And the lost one comes back after all: it learns that it is no member, and disturbs nobody.
  cluster.startNode(fromNode);
  const said = listen(fromNode);
  await until('it is told', () => said('this replica was removed'));
  await world.check(t);
});
