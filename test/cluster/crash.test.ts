/**
 * Processes that die, stop or hang while clients append: what was acknowledged
 * stays, in the order sent, once, and every append ends.
 */
import t, { type Test } from 'tap';
import type { Client } from '../../src/client/index.js';
import { Direct, differingCopies } from './direct.js';
import { ProcessCluster, sleep, until } from './harness.js';
import { faults, readAll, Writer, type WriterOptions } from './workload.js';

const isLong = process.env.HANSARD_LONG === '1';
t.setTimeout(600_000);
/** Enough load to catch up behind, without all of the processors. */
const calmMs = 50;
const names = (count: number, prefix: string): string[] =>
  Array.from({ length: count }, (_, i) => `${prefix}/${i}`);

/** Of them all: each scenario begins with every node up, and leaves it so. */
const cluster = await ProcessCluster.start(t, { args: ['--checkpoint-age', '1s'] });
t.beforeEach(() => cluster.forgetStarvation());

/** Stopped with its scenario: one that goes on would keep the file from ending. */
function write(t: Test, client: Client, name: string, options: WriterOptions): Writer {
  const writer = new Writer(client, name, options);
  t.teardown(() => writer.stop());
  return writer;
}

/** The promise of the default deadline; a machine that gives the nodes no processor can't show it. */
function noneFailed(t: Test, writers: readonly Writer[]): void {
  const errors = writers.flatMap((writer) => writer.errors);
  const total = writers.reduce((sum, writer) => sum + writer.acknowledged, 0);
  const what = `${total} appends, none failed within the default deadline`;
  if (errors.length > 0 && cluster.starved) t.pass(what, { skip: cluster.starved });
  else t.same(errors.slice(0, 5), [], what);
}

for (const transport of ['exchange', 'unary'] as const) {
  t.test(`the leader is killed with 256 appends in flight, ${transport}`, async (t) => {
    const client = cluster.connect({ transport });
    const writer = write(t, client, `busy-${transport}`, { inFlight: 256 });
    const rounds = isLong ? 5 : transport === 'exchange' ? 2 : 1;
    for (let round = 0; round < rounds; round++) {
      const before = writer.acknowledged;
      await until('appends go on', () => writer.acknowledged > before + 500);
      const leader = await cluster.leaderOf(writer.name);
      writer.pauseMs = 1;
      await until('all are in flight', () => writer.acknowledged > before + 1_000);
      await leader.kill();
      const atKill = writer.acknowledged;
      await until('another leader serves', () => writer.acknowledged > atKill + 500);
      writer.pauseMs = calmMs;
      cluster.startNode(leader);
      await leader.ready();
    }
    await writer.stop();
    const events = await readAll(client, writer.name);
    t.same(faults(writer, events), [], `${events.length} events, ${writer.sent.length} sent`);
    noneFailed(t, [writer]);
    t.comment(`slowest append ${writer.slowestMs.toFixed(0)} ms`);
  });
}

t.test('all nodes are killed under load and come back', async (t) => {
  const client = cluster.connect();
  for (let round = 0; round < (isLong ? 3 : 1); round++) {
    const writers = names(12, `all-${round}`).map((name) =>
      write(t, client, name, { inFlight: 16, pauseMs: 10 }),
    );
    await until('all write', () => writers.every((writer) => writer.acknowledged > 100));
    // Some tails are sealed by now, some are not.
    await sleep(1_200);
    await Promise.all(cluster.nodes.map((node) => node.kill()));
    cluster.startAll();
    await cluster.ready();
    await Promise.all(writers.map((writer) => writer.stop()));
    for (const writer of writers) {
      const events = await readAll(client, writer.name);
      const found = faults(writer, events);
      if (found.length > 0) t.same(found, [], writer.name);
    }
    t.pass(`round ${round}: ${writers.reduce((sum, writer) => sum + writer.acknowledged, 0)} acknowledged`);
    const differing = await Promise.all(
      writers.map(async ({ name, acknowledged }) => differingCopies(cluster.nodes, name, acknowledged)),
    );
    t.same(differing.flat(), [], 'all copies are equal');
  }
});

t.test('each node is stopped and started in turn under load', async (t) => {
  const client = cluster.connect();
  const writers = names(12, 'rolling').map((name) => write(t, client, name, { inFlight: 8, pauseMs: 40 }));
  await until('all write', () => writers.every((writer) => writer.acknowledged > 50));
  for (const node of cluster.nodes) {
    t.same(await node.stop(), { code: 0, signal: null }, `node ${node.id} ends in order`);
    const before = writers.map((writer) => writer.acknowledged);
    await until('the others serve all', () =>
      writers.every((w, i) => w.acknowledged > (before[i] ?? 0) + 50),
    );
    cluster.startNode(node);
    await node.ready();
    const after = writers.map((writer) => writer.acknowledged);
    await until('it goes on', () => writers.every((w, i) => w.acknowledged > (after[i] ?? 0) + 50));
  }
  await Promise.all(writers.map((writer) => writer.stop()));
  for (const writer of writers) {
    const events = await readAll(client, writer.name);
    const found = faults(writer, events);
    if (found.length > 0) t.same(found, [], writer.name);
  }
  noneFailed(t, writers);
  t.comment(`slowest append ${Math.max(...writers.map((w) => w.slowestMs)).toFixed(0)} ms`);
});

t.test('the leader hangs for 3 s: others take over, and its reads never go back', async (t) => {
  const client = cluster.connect();
  const writer = write(t, client, 'hanging', { inFlight: 32, pauseMs: 20 });
  await until('appends go on', () => writer.acknowledged > 200);
  const old = await cluster.leaderOf(writer.name);
  const reader = new Direct(old.clientAddress);
  t.teardown(() => reader.close());
  old.pause();
  const atPause = writer.acknowledged;
  // Asked while it hangs: read from its socket in the turn in which it wakes, before it hears of anybody else.
  const seen: { floor: number; head: number }[] = [];
  const ask = async (): Promise<void> => {
    const floor = writer.highestSeq;
    const answer = await reader
      .call('MessageService/ListMessages', { channel: writer.name, before: 1, read: { level: 1 } })
      .catch(() => undefined);
    if (answer !== undefined) seen.push({ floor, head: Number(answer.head_seq) });
  };
  await sleep(3_000);
  const asked = Array.from({ length: 20 }, ask);
  const leader = await cluster.leaderOf(writer.name, old);
  await until('appends go on elsewhere', () => writer.acknowledged > atPause + 200);
  for (let i = 0; i < 20; i++) asked.push(ask());
  old.resume();
  for (let i = 0; i < 100; i++) {
    asked.push(ask());
    await sleep(10);
  }
  await Promise.all(asked);
  await writer.stop();
  t.same(
    seen.filter(({ floor, head }) => head < floor),
    [],
    `${seen.length} reads of what was acknowledged before`,
  );
  t.ok(seen.length > 100, 'it answers again');
  const events = await readAll(client, writer.name);
  t.same(faults(writer, events), []);
  noneFailed(t, [writer]);
  t.same(await differingCopies(cluster.nodes, writer.name, events.length), []);
  t.comment(`node ${leader.id} took over from ${old.id}; slowest append ${writer.slowestMs.toFixed(0)} ms`);
});
