/** Durable subscriptions on real nodes: consumers share channels, and whoever is killed, nothing is lost or out of order. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type SubscriptionWorker, testCluster, type WorkItem } from '../../src/index.js';
import { patienceMs, sleep, until } from './harness.js';

t.setTimeout(600_000);

/** What was handled of each channel, in its order. */
class Seen {
  readonly byChannel = new Map<string, number[]>();
  add(channel: string, seq: number): void {
    const seqs = this.byChannel.get(channel);
    if (seqs === undefined) this.byChannel.set(channel, [seq]);
    else seqs.push(seq);
  }
  /** Each event's first time, without repeats. */
  firsts(channel: string): number[] {
    return [...new Set(this.byChannel.get(channel) ?? [])];
  }
}

t.test(
  'two consumers share channels; consumers and leaders are killed, and each event comes in order',
  async (t) => {
    const cluster = await testCluster({ nodes: 3, partitions: 4, settings: { checkpointAge: '1s' } });
    const processes: ChildProcess[] = [];
    t.teardown(async () => {
      for (const child of processes) child.kill('SIGKILL');
      await cluster.close();
    });
    const client = cluster.connect();
    const channels = Array.from({ length: 6 }, (_, i) => `order/${i}`);
    const perChannel = 40;
    const subscription = client.subscription('mailer');
    await subscription.create({
      prefix: 'order/',
      fromBeginning: true,
      ackDeadlineMs: 5_000,
      retryDelayMs: 100,
    });
    const seen = new Seen();
    const byConsumer = new Map<string, number>();
    const script = fileURLToPath(new URL('subscription-consumer.js', import.meta.url));
    const startConsumer = (id: string): ChildProcess => {
      const child = spawn(process.execPath, [script, cluster.endpoint, 'mailer', id], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
        const [channel = '', seq = ''] = line.split(' ');
        seen.add(channel, Number(seq));
        byConsumer.set(id, (byConsumer.get(id) ?? 0) + 1);
      });
      processes.push(child);
      return child;
    };
    const first = startConsumer('first');
    startConsumer('second');
    let isWritten = false;
    const writing = (async () => {
      for (let i = 1; i <= perChannel; i++) {
        await Promise.all(
          channels.map((name) => client.channel(name).append({ text: `${i}` }, { timeoutMs: patienceMs })),
        );
        await sleep(40);
      }
      isWritten = true;
    })();
    await until(
      'work of both',
      () => (byConsumer.get('first') ?? 0) > 3 && (byConsumer.get('second') ?? 0) > 3,
    );
    first.kill('SIGKILL');
    const home = cluster.leaderOf('mailer') as number;
    await sleep(200);
    await cluster.kill(home);
    await sleep(500);
    startConsumer('third');
    await cluster.restart(home);
    const next = cluster.leaderOf('mailer');
    if (next !== undefined && !isWritten) {
      await cluster.kill(next);
      await sleep(500);
      await cluster.restart(next);
    }
    await writing;
    const wanted = Array.from({ length: perChannel }, (_, i) => i + 1);
    await until(
      'every event',
      () => channels.every((name) => seen.firsts(name).length === perChannel),
      90_000,
    );
    for (const name of channels) t.same(seen.firsts(name), wanted, `${name} came in order and whole`);
    await until(
      'the last acknowledgement',
      async () => (await subscription.info()).progress.pendingChannels === 0,
    );
    const { progress } = await subscription.info();
    t.ok(progress.acknowledged >= channels.length * perChannel, 'all of it is acknowledged');
    t.equal(progress.deadLetters, 0);
  },
);

t.test('failures, dead letters, replay, seek, pause: a subscription as its users see it', async (t) => {
  const cluster = await testCluster({ nodes: 1, partitions: 2 });
  const workers: SubscriptionWorker[] = [];
  t.teardown(async () => {
    await Promise.all(workers.map((worker) => worker.stop()));
    await cluster.close();
  });
  const client = cluster.connect();
  const subscription = client.subscription('jobs');
  await subscription.create({
    prefix: 'job/',
    ackDeadlineMs: 1_000,
    retryDelayMs: 50,
    maxDeliveries: 3,
    fromBeginning: true,
  });
  await t.rejects(subscription.create(), { message: /exists/ });
  t.equal((await subscription.create({ ifMissing: true })).settings.maxDeliveries, 3, 'it is as it was');
  await t.rejects(client.subscription('other').info(), { message: /no subscription/ });
  const items: WorkItem[] = [];
  let isPoison = true;
  const consume = (handler: (item: WorkItem) => unknown): SubscriptionWorker => {
    const worker = subscription.consume({ handler });
    workers.push(worker);
    return worker;
  };
  for (const name of ['job/a', 'job/b'])
    await client.channel(name).append([{ text: '1' }, { text: '2' }, { text: '3' }]);
  await client.channel('elsewhere').append({ text: 'not wanted' });
  const worker = consume((item) => {
    items.push(item);
    if (isPoison && item.channel === 'job/b' && item.event.seq === 2) throw new Error('poison');
  });
  const letters = async () => {
    const found = [];
    for await (const letter of subscription.deadLetters()) found.push(letter);
    return found;
  };
  await until('the dead letter', async () => (await letters()).length === 1);
  await until('the rest', () => items.some(({ channel, event }) => channel === 'job/b' && event.seq === 3));
  t.match(await letters(), [{ channel: 'job/b', seq: 2, deliveries: 3, error: 'poison' }]);
  const ofB = items
    .filter(({ channel }) => channel === 'job/b')
    .map(({ event, deliveries }) => `${event.seq}.${deliveries}`);
  t.same(ofB, ['1.1', '2.1', '2.2', '2.3', '3.1'], 'in order, and counted');
  isPoison = false;
  t.equal(await subscription.replayDeadLetters(), 1);
  await until('the replay', () => items.some(({ replayed }) => replayed));
  t.match(items.at(-1), { channel: 'job/b', event: { seq: 2 }, deliveries: 1, replayed: true });
  t.same(await letters(), []);
  await worker.stop();
  t.match(worker.stats, { failed: 3, lost: 0 });
  const before = items.length;
  await subscription.update({ paused: true });
  await subscription.seek({ fromBeginning: true });
  let idle = '';
  const second = subscription.consume({
    handler: (item) => {
      items.push(item);
    },
    onProgress: (progress) => {
      idle = progress.idle;
    },
  });
  workers.push(second);
  await until('why it is idle', () => idle === 'paused');
  t.equal(items.length, before);
  await subscription.update({ paused: false });
  await until('all of it again', () => items.length === before + 6);
  await until('why it is idle', () => idle === 'caught-up');
  await second.stop();
  // A handler that hangs: its deadline is prolonged, but not for ever.
  await client.channel('job/a').append({ text: '4' });
  let hung: AbortSignal | undefined;
  const hanging = subscription.consume({
    handler: ({ signal }) => {
      hung = signal;
      return new Promise(() => undefined);
    },
    maxHandlerMs: 500,
  });
  await until('its delivery', async () => (await subscription.info()).progress.leasedChannels === 1);
  let redelivered = 0;
  const third = consume((item) => {
    if (item.event.seq === 4) redelivered = item.deliveries;
  });
  await until('the next delivery', () => redelivered > 1);
  t.equal(redelivered, 2);
  await until('word that its lease is lost', () => hung?.aborted === true, 5_000);
  await third.stop();
  await hanging.stop({ timeoutMs: 10 });
  // No more is sent than a consumer has credit for, and by single calls it is as by the stream.
  await client.channel('job/c').append(Array.from({ length: 10 }, (_, i) => ({ text: `${i}` })));
  const narrow = subscription.consume({
    handler: () => new Promise(() => undefined),
    creditEvents: 3,
    consumerId: 'narrow',
  });
  const leased = async () => {
    for await (const each of subscription.pending()) if (each.consumerId === 'narrow') return each;
    return undefined;
  };
  await until('a delivery', async () => (await leased()) !== undefined);
  await sleep(300);
  t.match(await leased(), { channel: 'job/c', deliveredSeq: 3, takenSeq: 10, deliveries: 1 });
  t.same(
    await subscription.acknowledge([{ channel: 'job/c', lease: 1, seq: 3 }]),
    [1],
    'an old lease is lost',
  );
  await narrow.stop({ timeoutMs: 10 });
  await subscription.delete();
  await t.rejects(subscription.consume({ handler: () => undefined }).done, { message: /no subscription/ });
});
