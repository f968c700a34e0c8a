/**
 * Durable subscriptions and real faults: node processes are killed with -9 and stopped, consumers are killed, and what they wrote to a
 * real database with their places is each event once and in order.
 */
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { ProcessCluster, type Running, run, sleep, until } from './harness.js';
import { findPostgres, Postgres } from './postgres.js';

t.setTimeout(300_000);

const found = findPostgres();
const skip = typeof found === 'string' ? `no PostgreSQL: ${found}` : false;
const channels = Array.from({ length: 6 }, (_, i) => `order/${i}`);
const perChannel = 30;
/** Transactions of a consumer, before it dies. */
const lastOnes = [25, 40];
/** A stopped follower is away for longer than an election takes. */
const stoppedMs = 2_500;

t.test(
  'each event takes effect once and in order, whoever is killed or stands still',
  { skip },
  async (t) => {
    if (typeof found === 'string') return;
    const database = await Postgres.start(found);
    t.teardown(() => database.stop());
    await database.query('CREATE TABLE place (channel text PRIMARY KEY, seq bigint NOT NULL)');
    await database.query('CREATE TABLE attempt (id serial, channel text, seq bigint, deliveries int)');
    await database.query('CREATE TABLE result (id serial, channel text, seq bigint, text text)');
    const cluster = await ProcessCluster.start(t, { partitions: 4 });
    const client = cluster.connect();
    const subscription = client.subscription('ledger');
    await subscription.create({ prefix: 'order/', fromBeginning: true, retryDelayMs: 50, maxDeliveries: 0 });
    const script = fileURLToPath(new URL('postgres-consumer.js', import.meta.url));
    const endpoint = cluster.nodes.map((node) => node.clientAddress).join(',');
    let isOver = false;
    let deaths = 0;
    const consumers = new Set<Running>();
    /** Another one comes for each that dies. */
    const consume = async (dies: number): Promise<void> => {
      while (!isOver) {
        const consumer = run(script, [endpoint, 'ledger', database.psql, `${database.port}`, `${dies}`]);
        consumers.add(consumer);
        const { signal } = await consumer.ended;
        consumers.delete(consumer);
        if (signal === 'SIGKILL') deaths++;
        else if (!isOver) throw new Error(`a consumer ended by itself: ${consumer.tail()}`);
      }
    };
    const consuming = Promise.all(lastOnes.map(consume));
    const end = async (): Promise<void> => {
      isOver = true;
      for (const consumer of consumers) consumer.signal('SIGKILL');
      await consuming;
    };
    t.teardown(end);
    const results = async (): Promise<number> =>
      Number((await database.query('SELECT count(*) FROM result'))[0]?.[0]);
    let isWritten = false;
    const writing = (async () => {
      for (let i = 1; i <= perChannel; i++) {
        await Promise.all(
          channels.map((name) =>
            client.channel(name).append({ text: `${name} ${i}` }, { timeoutMs: 120_000 }),
          ),
        );
        await sleep(50);
      }
      isWritten = true;
    })();
    let kills = 0;
    for (let round = 0; !isWritten || round < 3; round++) {
      const before = await results();
      // In the midst of the work, as far as there is some.
      for (let i = 0; i < 50 && (await results()) === before; i++) await sleep(50);
      const leader = await cluster.leaderOf('ledger');
      const [follower] = cluster.others(leader);
      if (round % 3 === 0) {
        await leader.kill();
        kills++;
        for (const consumer of consumers) consumer.signal('SIGKILL');
        cluster.startNode(leader);
        await leader.ready();
      } else if (round % 3 === 1) {
        follower?.pause();
        await sleep(stoppedMs);
        follower?.resume();
      } else {
        // Whoever leads stands still while others take over, and wakes up with leases that are somebody else's by then.
        leader.pause();
        await sleep(stoppedMs);
        leader.resume();
        await cluster.ready();
      }
    }
    await writing;
    const wanted = channels.length * perChannel;
    await until('every event', async () => (await results()) >= wanted, 120_000);
    await until(
      'the last acknowledgement',
      async () => (await subscription.info({ timeoutMs: 60_000 })).progress.pendingEvents === 0,
      120_000,
    );
    const diedInTheMidst = deaths;
    await end();
    const rows = await database.query('SELECT channel, seq, text FROM result ORDER BY id');
    for (const name of channels) {
      t.same(
        rows.filter(([channel]) => channel === name).map(([, seq, text]) => `${seq} ${text}`),
        Array.from({ length: perChannel }, (_, i) => `${i + 1} ${name} ${i + 1}`),
        name,
      );
    }
    const [[attempts] = []] = await database.query('SELECT count(*) FROM attempt');
    t.comment(
      `${kills} leaders and ${diedInTheMidst} consumers killed; ${wanted} events, ${attempts} attempts`,
    );
    t.ok(Number(attempts) > wanted, 'events came again whose consumers died, and took no effect');
    t.equal(rows.length, wanted);
    t.equal((await subscription.info()).progress.deadLetters, 0);
  },
);
