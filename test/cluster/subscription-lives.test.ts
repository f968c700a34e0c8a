/** Durable subscriptions that were paused, deleted, or led by another node meanwhile: nothing is passed over. */
import t from 'tap';
import { testCluster } from '../../src/index.js';
import { until } from './subscription-help.js';

t.setTimeout(120_000);

t.test('what came in several pages while an event was in flight is handled in order and whole', async (t) => {
  const cluster = await testCluster({ nodes: 1, partitions: 1 });
  const client = cluster.connect();
  const subscription = client.subscription('w');
  await subscription.create({ prefix: 'c', fromBeginning: true });
  const seen: number[] = [];
  let release = () => {};
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  const worker = subscription.consume({
    handler: async ({ event }) => {
      seen.push(event.seq);
      if (event.seq === 1) await gate;
    },
  });
  t.teardown(async () => {
    release();
    await worker.stop();
    await cluster.close();
  });
  await client.channel('c').append({ text: '1' });
  await until('the first event', () => seen.length === 1);
  await subscription.update({ paused: true });
  const hundred = Array.from({ length: 100 }, (_, i) => ({ text: `${i}` }));
  for (let i = 0; i < 15; i++) await client.channel('c').append(hundred);
  await subscription.update({ paused: false });
  await until(
    'all of it to be taken',
    async () => (await subscription.info()).progress.pendingEvents > 1_400,
  );
  release();
  await until('the end', async () => (await subscription.info()).progress.pendingEvents === 0);
  t.same(
    seen,
    Array.from({ length: 1_501 }, (_, i) => i + 1),
  );
});

t.test(
  'a name that is used again at once is another subscription: consumers of the last one end',
  async (t) => {
    const cluster = await testCluster({ nodes: 1, partitions: 1 });
    t.teardown(() => cluster.close());
    const client = cluster.connect();
    await client.channel('c').append(Array.from({ length: 20 }, (_, i) => ({ text: `${i}` })));
    const subscription = client.subscription('w');
    for (let round = 0; round < 4; round++) {
      await subscription.create({ prefix: 'c', fromBeginning: true });
      let seen = 0;
      const worker = subscription.consume({ handler: () => void seen++ });
      const ended = worker.done.then(
        () => 'well',
        ({ reason }) => reason,
      );
      await until('all of it', () => seen === 20);
      const [, made] = await Promise.all([
        subscription.delete(),
        subscription.create({ prefix: 'c', fromBeginning: true }).then(
          () => true,
          () => false,
        ),
      ]);
      // They may also come in the other order.
      if (!made) await subscription.create({ prefix: 'c', fromBeginning: true });
      t.equal(await ended, 'SUBSCRIPTION_NOT_FOUND');
      let again = 0;
      const next = subscription.consume({ handler: () => void again++ });
      await until('all of it once more', () => again === 20);
      await next.stop();
      await subscription.delete();
    }
  },
);
