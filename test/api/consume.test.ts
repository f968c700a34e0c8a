/** A durable subscription's consumer, as a plain gRPC client sees it. */
import type { ClientDuplexStream, ServiceError } from '@grpc/grpc-js';
import t from 'tap';
import { HansardError } from '../../src/common/errors.js';
import type { PartitionId } from '../../src/common/ids.js';
import type { ReadBarrierOptions, ReadView } from '../../src/node/types.js';
import { patienceMs, sleep, until } from '../support/until.js';
import { FakeNode } from './fake-node.js';
import { type Decoded, decode, encode, type Failure, failureOf, Harness, same, text } from './harness.js';

class Consumer {
  readonly deliveries: Decoded[] = [];
  readonly lost: number[] = [];
  failure: Failure | undefined;
  readonly #stream: ClientDuplexStream<Buffer, Buffer>;

  constructor(h: Harness, start: object, more: object = {}) {
    this.#stream = h.client.makeBidiStreamRequest('/hansard.v1.SubscriptionService/Consume', same, same);
    this.#stream.on('data', (message: Buffer) => {
      const { delivery, lost } = decode('ConsumeResponse', message);
      if (delivery) this.deliveries.push(delivery);
      if (lost) this.lost.push(...lost.leases.map(Number));
    });
    this.#stream.on('error', (error: ServiceError) => {
      this.failure = failureOf(error);
    });
    const credit = { events: 100, bytes: 1_000_000 };
    this.say({ start: { name: 'w', consumer_id: 'me', credit, ...start }, ...more });
  }

  say(message: object): void {
    this.#stream.write(encode('ConsumeRequest', message));
  }

  async until(what: string, isSo: () => boolean): Promise<void> {
    const endMs = Date.now() + patienceMs;
    while (!isSo()) {
      if (Date.now() > endMs) throw new Error(`waited in vain for ${what}`);
      await sleep(10);
    }
  }
}

/** The list of changes can be made to reach no longer back. */
class Forgetful extends FakeNode {
  hasForgotten = false;
  override async readBarrier(partition: PartitionId, options: ReadBarrierOptions): Promise<ReadView> {
    const view = await super.readBarrier(partition, options);
    if (!this.hasForgotten) return view;
    const changes = () => Promise.reject(new HansardError('TOKEN_TOO_OLD', 'it reaches no longer back'));
    return { ...view, reader: { ...view.reader, changes } };
  }
}

async function started(t: { teardown(fn: () => unknown): void }) {
  const node = new Forgetful();
  const h = await Harness.start(node, {});
  t.teardown(() => h.stop());
  await h.raw(
    'SubscriptionService/CreateSubscription',
    encode('CreateSubscriptionRequest', {
      name: 'w',
      selector: { prefix: 'c' },
      start: { from_beginning: true },
    }),
  );
  await h.append({ channel: 'c', messages: [text('1'), text('2')] });
  return { h, node };
}

async function progressOf(h: Harness): Promise<Decoded> {
  const request = encode('GetSubscriptionRequest', { name: 'w' });
  const response = await h.raw('SubscriptionService/GetSubscription', request);
  return decode('SubscriptionResponse', response).subscription.progress;
}

t.test('where feeds can go no further, what was taken before is worked off first', async (t) => {
  const { h, node } = await started(t);
  const consumer = new Consumer(h, {});
  await consumer.until('a delivery', () => consumer.deliveries.length === 1);
  node.hasForgotten = true;
  await h.append({ channel: 'c', messages: [text('3')] });
  await sleep(300);
  const [{ lease }] = consumer.deliveries as [Decoded];
  consumer.say({ nacks: [{ channel: 'c', lease, delay: { seconds: 0 } }] });
  await consumer.until('what is tried again', () => consumer.deliveries.length === 2);
  t.equal(consumer.failure, undefined);
  consumer.say({ acks: [{ channel: 'c', lease: consumer.deliveries[1].lease, seq: 1 }] });
  await consumer.until('the second event', () => consumer.deliveries.length === 3);
  consumer.say({ acks: [{ channel: 'c', lease: consumer.deliveries[2].lease, seq: 2 }] });
  await consumer.until('the end', () => consumer.failure !== undefined);
  t.match(consumer.failure?.error, { reason: 'TOKEN_TOO_OLD' });
  t.same(consumer.lost, []);
});

t.test(
  'an extension that comes before the settings are read prolongs its lease by what they say',
  async (t) => {
    const { h, node } = await started(t);
    const first = new Consumer(h, {});
    await first.until('a delivery', () => first.deliveries.length === 1);
    const [{ lease }] = first.deliveries as [Decoded];
    const { leader } = node;
    node.leader = undefined;
    await first.until('the end', () => first.failure !== undefined);
    node.leader = leader;
    const held = [{ lease, seq: 2 }];
    const second = new Consumer(h, { held }, { extensions: [{ channel: 'c', lease }] });
    await sleep(500);
    second.say({ acks: [{ channel: 'c', lease, seq: 2 }] });
    await until('nothing is pending', async () => Number((await progressOf(h)).pending_channels) === 0);
    t.same([second.lost, second.deliveries], [[], []]);
  },
);

t.test('while a partition that it follows has no leader, nobody says that all is taken', async (t) => {
  const { h, node } = await started(t);
  const consumer = new Consumer(h, {});
  await consumer.until('a delivery', () => consumer.deliveries.length === 1);
  const isCaughtUp = async (wanted: boolean): Promise<void> => {
    t.ok(await until(`caught up: ${wanted}`, async () => (await progressOf(h)).caught_up === wanted));
  };
  await isCaughtUp(true);
  const home = node.partitionOf('default', 'w');
  node.leaderOf = (partition?: PartitionId) => (partition === (home + 1) % 4 ? undefined : node.leader);
  await isCaughtUp(false);
  node.leaderOf = () => node.leader;
  await isCaughtUp(true);
});
