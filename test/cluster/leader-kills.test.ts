/**
 * The leader is killed with hundreds of appends in flight on one channel, again and
 * again: each append is there once, in the order of the calls, none is refused, and
 * none that was acknowledged is missing or elsewhere.
 *
 * `npm run leaderkills` does 50 rounds; HANSARD_ROUNDS says how many.
 */
import t, { type Test } from 'tap';
import { differingCopies } from './direct.js';
import { ProcessCluster, patienceMs, sleep, type TestNode, until } from './harness.js';
import { faults, readAll, Writer } from './workload.js';

const rounds = Number(process.env.HANSARD_ROUNDS ?? 2);
/** A round takes 10 s, and a minute and more where ten processes share each core. */
t.setTimeout(600_000 + rounds * 240_000);

const inFlight = 400;
/** Between two looks at how many are in flight: so that enough of them are, and while a node starts. */
const busyMs = 5;
const calmMs = 50;
/** Longer than any failover: no outcome stays open. */
const timeoutMs = patienceMs;

/** A node whose disk stalls too long ends by itself, by design: its supervisor starts it again, here as anywhere. */
async function allReady(t: Test, cluster: ProcessCluster): Promise<void> {
  for (const node of cluster.nodes) {
    if (node.isUp) continue;
    t.comment(`node ${node.id} had ended by itself: ${lastWords(node)}`);
    cluster.startNode(node);
  }
  await cluster.ready().catch((error: unknown) => {
    for (const node of cluster.nodes) t.comment(`node ${node.id}, up ${node.isUp}: ${lastWords(node)}`);
    throw error;
  });
}

function lastWords({ process }: TestNode): string {
  return (process.stdout + process.stderr).trim().split('\n').slice(-3).join(' | ');
}

t.test(`${rounds} leaders killed, ${inFlight} appends in flight`, async (t) => {
  const cluster = await ProcessCluster.start(t, { partitions: 2 });
  const client = cluster.connect({ window: inFlight });
  const writer = new Writer(client, 'one channel', { inFlight, timeoutMs, pauseMs: busyMs });
  // Where a check has failed before.
  t.teardown(() => {
    void writer.stop();
  });
  let killedInFlight = 0;
  for (let round = 1; round <= rounds; round++) {
    writer.pauseMs = busyMs;
    const before = writer.acknowledged;
    await until('appends go on', () => writer.acknowledged > before + 2 * inFlight, 120_000);
    const leader = await cluster.leaderOf(writer.name);
    // Not always at the same point of a batch.
    await sleep(Math.random() * 20);
    let open = 0;
    // All may have just been answered together, and the writer be about to send the next ones.
    await until('many are under way', () => {
      open = writer.sent.length - writer.acknowledged;
      return open >= inFlight / 2;
    });
    await leader.kill();
    killedInFlight += open;
    const atKill = writer.acknowledged;
    await until('appends go on elsewhere', () => writer.acknowledged > atKill + inFlight, 120_000);
    writer.pauseMs = calmMs;
    cluster.startNode(leader);
    await allReady(t, cluster);
    if (round % 10 === 0 || round === rounds) t.pass(`${round} rounds`);
  }
  await writer.stop();
  const events = await readAll(client, writer.name);
  t.same(faults(writer, events), [], 'dense, in order, each once, where it was acknowledged');
  t.same(writer.errors, [], 'none failed');
  t.equal(events.length, writer.sent.length, 'as many as were sent');
  t.same(await differingCopies(cluster.nodes, writer.name, events.length), [], 'all copies are equal');
  t.comment(
    `${events.length} appends, ${Math.round(killedInFlight / rounds)} in flight at a kill, slowest ${writer.slowestMs.toFixed(0)} ms`,
  );
});
