/** Durable subscriptions that were paused, deleted, or led by another node meanwhile: nothing is passed over. */
import grpc, { type ServiceError } from '@grpc/grpc-js';
import t from 'tap';
import { limits } from '../../src/common/limits.js';
import { testCluster, type WorkItem } from '../../src/index.js';
import { failureOf } from '../api/harness.js';
import { until } from './harness.js';

t.setTimeout(600_000);

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

t.test('what consumers say is looked at before it becomes part of an entry', async (t) => {
  const cluster = await testCluster({ nodes: 1, partitions: 1 });
  t.teardown(() => cluster.close());
  const client = cluster.connect();
  const subscription = client.subscription('w');
  await subscription.create({ prefix: 'c', fromBeginning: true });
  for (const channel of ['', 'x'.repeat(257), 'a\nb']) {
    const reason = await subscription.acknowledge([{ channel, lease: 1, seq: 1 }]).then(
      () => 'none',
      (error) => error.reason,
    );
    t.equal(reason, 'INVALID_NAME');
  }
  const raw = new grpc.Client(cluster.endpoint, grpc.credentials.createInsecure());
  t.teardown(() => raw.close());
  const same = (bytes: Buffer) => bytes;
  const field = (number: number, bytes: Buffer) => {
    const head = [(number << 3) | 2];
    let size = bytes.length;
    for (; size > 127; size = Math.floor(size / 128)) head.push((size & 127) | 128);
    return Buffer.concat([Buffer.from([...head, size]), bytes]);
  };
  const start = field(1, Buffer.concat([field(2, Buffer.from('w')), field(3, Buffer.from('me'))]));
  for (const [bytes, reason] of [
    [1_000, 'INVALID_NAME'],
    [limits.frameBytes, 'FRAME_TOO_LARGE'],
  ] as const) {
    const stream = raw.makeBidiStreamRequest('/hansard.v1.SubscriptionService/Consume', same, same);
    const failed = new Promise<ServiceError>((resolve) => stream.on('error', resolve));
    stream.on('data', () => undefined);
    stream.write(start);
    stream.write(field(3, field(1, Buffer.alloc(bytes, 0x78))));
    t.equal(failureOf(await failed).error?.reason, reason);
  }
  let seen = 0;
  const worker = subscription.consume({ handler: () => void seen++ });
  await client.channel('c').append({ text: '1' });
  await until('an event', () => seen === 1);
  await worker.stop();
});

t.test('what it follows can be changed; lists are whole though what they list goes away', async (t) => {
  const cluster = await testCluster({ nodes: 1, partitions: 4 });
  t.teardown(() => cluster.close());
  const client = cluster.connect();
  const subscription = client.subscription('w');
  await subscription.create({ channels: ['a/1'], maxDeliveries: 1, retryDelayMs: 10 });
  const append = (name: string, count = 1) =>
    client.channel(name).append(Array.from({ length: count }, (_, i) => ({ text: `${i}` })));
  await append('a/1');
  await append('b/1');
  await append('b/2');
  const seen: string[] = [];
  const handler = ({ channel, event }: WorkItem) => {
    seen.push(`${channel} ${event.seq}`);
    throw new Error('none of it');
  };
  const worker = subscription.consume({ handler });
  t.teardown(() => worker.stop());
  await until('the first', () => seen.length === 1);
  const changed = await subscription.update({ channels: [], prefix: 'b/' });
  t.match(changed.selector, { prefix: 'b/' });
  t.equal(changed.selector.channels, undefined);
  t.equal(changed.settings.maxDeliveries, 1, 'settings stay');
  await append('a/1');
  const names = Array.from({ length: 30 }, (_, i) => `b/${i + 1}`);
  for (const name of names) await append(name, 2);
  await until('all of it', async () => (await subscription.info()).progress.deadLetters === 61);
  t.notOk(seen.includes('a/1 2'), 'what is not followed any more does not come');
  t.notOk(seen.includes('b/3 0'));
  t.ok(seen.includes('b/30 2'));
  const dropped: string[] = [];
  for await (const { channel, seq } of subscription.deadLetters({ pageSize: 7 })) {
    t.equal(await subscription.dropDeadLetters([{ channel, seq }]), 1);
    dropped.push(`${channel} ${seq}`);
  }
  t.same(dropped.toSorted(), seen.toSorted(), 'each dead letter was listed once');
  t.equal((await subscription.info()).progress.deadLetters, 0);
});
