/** A durable subscription's consumer, as a plain gRPC client sees it. */
import type { ClientDuplexStream, ServiceError } from '@grpc/grpc-js';
import t from 'tap';
import { tickMs } from '../../src/api/subscription-leader.js';
import { ByteReader } from '../../src/common/bytes.js';
import { HansardError } from '../../src/common/errors.js';
import type { PartitionId } from '../../src/common/ids.js';
import { applyLimits } from '../../src/conversation/apply-limits.js';
import {
  decodeSubscriptionCommand,
  encodeStep,
  SubscriptionCommandKind,
} from '../../src/conversation/subscription-command.js';
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
  await subscriptionOf(h, 'CreateSubscription', {
    selector: { prefix: 'c' },
    start: { from_beginning: true },
  });
  await h.append({ channel: 'c', messages: [text('1'), text('2')] });
  return { h, node };
}

/** A call that is answered by the subscription. */
async function subscriptionOf(h: Harness, method: string, more: object = {}): Promise<Decoded> {
  const request = encode(`${method}Request`, { name: 'w', ...more });
  const response = await h.raw(`SubscriptionService/${method}`, request);
  return decode('SubscriptionResponse', response).subscription;
}

async function progressOf(h: Harness): Promise<Decoded> {
  return (await subscriptionOf(h, 'GetSubscription')).progress;
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

/** Holds the first read of another partition than the subscription's own: where a place is worked out. */
class Held extends FakeNode {
  readonly home = this.partitionOf('default', 'w');
  /** Set: called for such a read, and waited for. */
  atRead: (() => Promise<unknown>) | undefined;

  override async readBarrier(partition: PartitionId, options: ReadBarrierOptions): Promise<ReadView> {
    const view = await super.readBarrier(partition, options);
    const { atRead } = this;
    if (partition === this.home || atRead === undefined) return view;
    this.atRead = undefined;
    await atRead();
    return view;
  }
}

t.test('a place is worked out for what the subscription is when it gets there', async (t) => {
  const one = (node: FakeNode): string => {
    const home = node.partitionOf('default', 'w');
    for (let i = 0; ; i++) if (node.partitionOf('default', `c${i}`) !== home) return `c${i}`;
  };
  const changes: Readonly<Record<string, (h: Harness) => Promise<unknown>>> = {
    'followed more': (h) => subscriptionOf(h, 'UpdateSubscription', { selector: { prefix: 'c' } }),
    'was made again': async (h) => {
      const request = encode('DeleteSubscriptionRequest', { name: 'w' });
      await h.raw('SubscriptionService/DeleteSubscription', request);
      await subscriptionOf(h, 'CreateSubscription', { selector: { prefix: 'c' } });
    },
  };
  const calls = [
    ['SeekSubscription', {}, 'c'],
    ['UpdateSubscription', { selector: { prefix: 'd' } }, 'd'],
  ] as const;
  for (const [what, change] of Object.entries(changes))
    for (const [method, request, prefix] of calls)
      await t.test(`it ${what} during ${method}`, async (t) => {
        const node = new Held();
        const h = await Harness.start(node, {});
        t.teardown(() => h.stop());
        const selector = { channels: [one(node)] };
        const { etag } = await subscriptionOf(h, 'CreateSubscription', { selector });
        node.atRead = () => change(h);
        // Who names what it must be is told.
        const named = await subscriptionOf(h, method, { ...request, etag }).catch(
          ({ error }: Failure) => error,
        );
        t.match(named, { reason: 'SUBSCRIPTION_CHANGED' });
        await h.raw(
          'SubscriptionService/DeleteSubscription',
          encode('DeleteSubscriptionRequest', { name: 'w' }),
        );
        await subscriptionOf(h, 'CreateSubscription', { selector });
        node.atRead = () => change(h);
        const changed = await subscriptionOf(h, method, request);
        t.equal(node.atRead, undefined, 'it was held');
        t.equal(changed.selector.prefix, prefix);
        t.equal(Object.keys(changed.progress.positions).length, 4);
      });
});

t.test('a partition that is read slowly holds up no other one, nor what consumers say', async (t) => {
  const node = new Held();
  const h = await Harness.start(node, {});
  t.teardown(() => h.stop());
  const [here] = namesIn(node, node.home, 1) as [string];
  const [away] = namesIn(node, (node.home + 1) % 4, 1) as [string];
  await subscriptionOf(h, 'CreateSubscription', { selector: { prefix: 'c' } });
  const consumer = new Consumer(h, {});
  await until('nothing is there', async () => (await progressOf(h)).caught_up);
  let open = (): void => undefined;
  const isHeld = new Promise<void>((resolve) => {
    node.atRead = () => {
      resolve();
      return new Promise<void>((read) => {
        open = read;
      });
    };
  });
  await h.append({ channel: away, messages: [text('1')] });
  await isHeld;
  await h.append({ channel: here, messages: [text('1')] });
  await consumer.until('what is here', () => consumer.deliveries.length === 1);
  const [{ lease, channel }] = consumer.deliveries as [Decoded];
  t.equal(channel, here);
  consumer.say({ acks: [{ channel, lease, seq: 1 }] });
  await until('it is acknowledged', async () => Number((await progressOf(h)).acknowledged) === 1);
  t.equal((await progressOf(h)).caught_up, false);
  open();
  await consumer.until('what was read slowly', () => consumer.deliveries.length === 2);
});

t.test('what was said of deliveries from before a seek is told lost, and moves nothing', async (t) => {
  const { h } = await started(t);
  const consumer = new Consumer(h, {});
  const settle = async (method: string, more: object): Promise<number[]> => {
    const request = encode(`${method}Request`, { name: 'w', ...more });
    const response = await h.raw(`SubscriptionService/${method}`, request);
    return decode('SettledResponse', response).lost.map(Number);
  };
  const delivered = async (count: number): Promise<number> => {
    await consumer.until(`delivery ${count}`, () => consumer.deliveries.length === count);
    return Number(consumer.deliveries[count - 1].lease);
  };
  const pending = async () => {
    const { pending_events, acknowledged } = await progressOf(h);
    return [Number(pending_events), Number(acknowledged)];
  };
  const before = await delivered(1);
  const acks = (lease: number) => ({ acks: [{ channel: 'c', lease, seq: 2 }] });
  const nacks = (lease: number) => ({ nacks: [{ channel: 'c', lease, delay: { seconds: 60 } }] });
  t.same(await settle('Acknowledge', acks(before)), []);
  t.same(await settle('Acknowledge', acks(before)), [], 'the first answer again');

  await subscriptionOf(h, 'SeekSubscription', { start: {} });
  t.same(await pending(), [0, 2]);
  t.same(await settle('Acknowledge', acks(before)), [before], 'where nothing is pending');
  await subscriptionOf(h, 'SeekSubscription', { start: { from_beginning: true } });
  const since = await delivered(2);
  t.same(await settle('Acknowledge', acks(before)), [before]);
  t.same(await settle('NegativeAcknowledge', nacks(before)), [before]);
  consumer.say(acks(before));
  await consumer.until('what is lost', () => consumer.lost.length === 1);
  t.same([consumer.lost, await pending()], [[before], [2, 2]], 'on the stream, too');

  t.same(await settle('NegativeAcknowledge', nacks(since)), []);
  t.same(await settle('NegativeAcknowledge', nacks(before)), [before], 'while nobody has it');
  t.same(await pending(), [2, 2]);
});

t.test('a seek that is always outdated ends', async (t) => {
  const node = new Held();
  const h = await Harness.start(node, {});
  t.teardown(() => h.stop());
  await subscriptionOf(h, 'CreateSubscription', { selector: { prefix: 'c' } });
  let changes = 0;
  const change = async (): Promise<void> => {
    changes++;
    await subscriptionOf(h, 'UpdateSubscription', {});
    node.atRead = change;
  };
  node.atRead = change;
  const failure = await h.failure('SubscriptionService/SeekSubscription', { name: 'w' });
  t.match(failure.error, { reason: 'SUBSCRIPTION_CHANGED' });
  t.equal(changes, 5);
});

t.test('feeds that have nothing do not hold up those behind them', async (t) => {
  // As if nothing ever looked again by itself.
  const { setInterval } = globalThis;
  t.intercept(globalThis, 'setInterval', {
    value: (run: () => void, ms: number) => setInterval(ms === tickMs ? () => {} : run, ms),
  });
  const node = new FakeNode(1, 'cluster-1', 1, 64);
  const h = await Harness.start(node, {});
  t.teardown(() => h.stop());
  await subscriptionOf(h, 'CreateSubscription', { selector: { prefix: 'c' } });
  // In one of the last.
  let channel = 'c0';
  for (let i = 1; node.partitionOf('default', channel) < 48; i++) channel = `c${i}`;
  await h.append({ channel, messages: [text('x')] });
  const consumer = new Consumer(h, {});
  await consumer.until('it', () => consumer.deliveries.length === 1);
  t.ok(await until('it is caught up', async () => (await progressOf(h)).caught_up));
});

/** A node that has no replica of some partitions, beside one that leads them. */
async function besideAnother(t: { teardown(fn: () => unknown): void }, node: FakeNode, away: PartitionId[]) {
  const other = new FakeNode(2);
  other.leader = 2;
  node.partitions = other.partitions;
  node.peers.set(2, other);
  for (const partition of away) node.notHere.add(partition);
  node.leaderOf = (partition?: PartitionId) =>
    partition !== undefined && node.notHere.has(partition) ? 2 : 1;
  const [h, h2] = [await Harness.start(node, {}), await Harness.start(other, {})];
  t.teardown(() => Promise.all([h.stop(), h2.stop()]));
  return { h, h2 };
}

function namesIn(node: FakeNode, partition: PartitionId, count: number): string[] {
  const names: string[] = [];
  for (let i = 0; names.length < count; i++) {
    const name = `c${i}`;
    if (node.partitionOf('default', name) === partition) names.push(name);
  }
  return names;
}

t.test(
  'a page that another node has sent is asked for again where there is less room for it by now',
  async (t) => {
    const node = new FakeNode();
    const away = (node.partitionOf('default', 'w') + 1) % 4;
    const { h, h2 } = await besideAnother(t, node, [away]);
    const maxPending = 20;
    await subscriptionOf(h, 'CreateSubscription', {
      selector: { prefix: 'c' },
      settings: { max_pending_channels: maxPending },
      start: { from_beginning: true },
    });
    const home = node.partitionOf('default', 'w');
    const pending = () => node.partitions[home]?.subscription('default', 'w')?.channels.size ?? 0;
    let most = 0;
    const propose = node.propose.bind(node);
    node.propose = async (partition, command, options) => {
      const result = await propose(partition, command, options);
      most = Math.max(most, pending());
      return result;
    };
    const consumer = new Consumer(h, { credit: { events: 1_000, bytes: 1_000_000 } });
    await until('nothing is there', async () => (await progressOf(h)).caught_up);
    let waiting = 0;
    let open = (): void => undefined;
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    const forward = node.forward.bind(node);
    node.forward = async (...call) => {
      waiting++;
      await gate;
      return forward(...call);
    };
    await until('all that there is room for is asked for', () => waiting > 0);
    const write = (to: Harness, channels: string[]) =>
      Promise.all(channels.map((channel) => to.append({ channel, messages: [text('x')] })));
    await write(h2, namesIn(node, away, 30));
    await write(h, namesIn(node, home, 15));
    await until('most of the room is taken', () => pending() === 15);
    open();
    await until('all are acknowledged', async () => {
      for (const { channel, lease, events } of consumer.deliveries.splice(0))
        consumer.say({ acks: [{ channel, lease, seq: events.at(-1).seq }] });
      return Number((await progressOf(h)).acknowledged) === 45;
    });
    t.ok(most > 15 && most <= maxPending, `${most} channels at once`);
  },
);

t.test(
  'what a refused step had taken is taken again, also where places are written down beside it',
  async (t) => {
    const { h, node } = await started(t);
    let laterMs = 0;
    node.monotonicMs = () => performance.now() + laterMs;
    const consumer = new Consumer(h, {});
    await consumer.until('a delivery', () => consumer.deliveries.length === 1);
    const propose = node.propose.bind(node);
    let refused = 0;
    node.propose = async (partition, command, options) => {
      if (refused > 0 || command[0] !== SubscriptionCommandKind.stepSubscription)
        return propose(partition, command, options);
      const step = decodeSubscriptionCommand(command[0], new ByteReader(command.subarray(1)));
      if (step.kind !== 'stepSubscription') return propose(partition, command, options);
      // As one that has more channels than there is room for.
      const tooLong = new Uint8Array(applyLimits.placeBytes + 1);
      const ops = step.ops.map((op) => {
        if (op.kind !== 'take' || op.ranges.length === 0) return op;
        refused++;
        return { ...op, place: tooLong };
      });
      return propose(partition, encodeStep({ ...step, ops }), options);
    };
    // Places are due to be written down, in the very step that takes this.
    laterMs = 60_000;
    await h.append({ channel: 'c9', messages: [text('1')] });
    await consumer.until('the second channel', () =>
      consumer.deliveries.some(({ channel }) => channel === 'c9'),
    );
    t.equal(refused, 1);
  },
);
