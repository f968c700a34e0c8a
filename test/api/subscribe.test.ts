import type { ClientReadableStream, ServiceError } from '@grpc/grpc-js';
import t from 'tap';
import { defaultSubscribeLimits, type SubscribeLimits } from '../../src/api/subscribe.js';
import { HansardError, reasons } from '../../src/common/errors.js';
import { seededRandom } from '../store/help.js';
import { patienceMs } from '../support/until.js';
import { FakeNode } from './fake-node.js';
import { type Decoded, decode, encode, type Failure, failureOf, Harness, same, text } from './harness.js';

t.setTimeout(600_000);

/** One subscription, as a plain gRPC client sees it. */
class Subscriber {
  readonly stream: ClientReadableStream<Buffer>;
  readonly responses: Decoded[] = [];
  failure: Failure | undefined;
  #wake: () => void = () => {};

  constructor(h: Harness, request: object | Buffer) {
    const bytes = Buffer.isBuffer(request) ? request : encode('SubscribeRequest', request);
    this.stream = h.client.makeServerStreamRequest(
      '/hansard.v1.EventService/Subscribe',
      same,
      same,
      bytes,
      {},
    );
    this.stream.on('data', (message: Buffer) => {
      this.responses.push(decode('SubscribeResponse', message));
      this.#wake();
    });
    this.stream.on('error', (error: ServiceError) => {
      this.failure = failureOf(error);
      this.#wake();
    });
  }

  get lines(): string[] {
    return linesOf(this.responses);
  }
  get token(): string {
    return this.responses.at(-1).resume_token;
  }
  count(kind: string): number {
    return this.responses.filter((each) => each.update === kind).length;
  }
  async until(holds: () => boolean, what: string): Promise<this> {
    const deadline = Date.now() + patienceMs;
    while (!holds()) {
      if (Date.now() > deadline) throw new Error(`waited in vain for ${what}: ${this.lines.join()}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 100);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    return this;
  }
  has(count: number): Promise<this> {
    return this.until(() => this.lines.length >= count, `${count} events`);
  }
  caughtUp(times = 1): Promise<this> {
    return this.until(() => this.count('caught_up') >= times, 'caught_up');
  }
  async failed(): Promise<HansardError | undefined> {
    await this.until(() => this.failure !== undefined, 'the end');
    return this.failure?.error;
  }
}

const linesOf = (responses: Decoded[]): string[] =>
  responses.flatMap((each) =>
    (each.events?.channels ?? []).flatMap((one: Decoded) =>
      one.events.map((event: Decoded) => `${one.channel}#${event.seq}`),
    ),
  );
const seqsOf = (lines: readonly string[], channel: string): number[] =>
  lines.filter((line) => line.startsWith(`${channel}#`)).map((line) => Number(line.split('#')[1]));
const range = (from: number, to: number) =>
  Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i);

async function start(
  t: { teardown(fn: () => unknown): void },
  node = new FakeNode(),
  subscribeLimits: Partial<SubscribeLimits> = {},
): Promise<Harness> {
  const h = await Harness.start(node, { subscribeLimits: { ...defaultSubscribeLimits, ...subscribeLimits } });
  t.teardown(() => h.stop());
  return h;
}

const append = (h: Harness, channel: string, count = 1, more: object = {}) =>
  h.append({ channel, messages: Array.from({ length: count }, () => text('x', more)) });

t.test('from now, from the beginning, from a time; by name, prefix, label and type', async (t) => {
  const h = await start(t);
  await append(h, 'a/1', 3);
  await append(h, 'b/1', 2);
  const label = { labels: { team: 'red' } };
  await h.call('ChannelService/CreateChannel', { channel: { name: 'b/2', ...label } });
  await append(h, 'b/2', 2);
  h.node.timeUs += 1_000_000;
  const from_time = { seconds: Math.floor(h.node.timeUs / 1e6), nanos: 0 };
  h.node.timeUs += 1_000_000;
  await append(h, 'a/1', 1);
  const open = {
    now: {},
    all: { from_beginning: true },
    time: { from_time },
    names: { channels: ['b/1', 'c/1'], from_beginning: true },
    prefix: { prefix: 'a/', from_beginning: true },
    label: { label_key: 'team', label_value: 'red', from_beginning: true },
    type: { types: [17], from_beginning: true },
    other: { tenant: 'other', from_beginning: true },
  };
  const readers = Object.entries(open).map(([name, request]) => [name, new Subscriber(h, request)] as const);
  for (const [, reader] of readers) await reader.caughtUp();
  const seen = () => Object.fromEntries(readers.map(([name, reader]) => [name, [...reader.lines].sort()]));
  const before = ['a/1#1', 'a/1#2', 'a/1#3', 'a/1#4', 'b/1#1', 'b/1#2', 'b/2#1', 'b/2#2'];
  t.same(seen(), {
    now: [],
    all: before,
    time: ['a/1#4'],
    names: ['b/1#1', 'b/1#2'],
    prefix: ['a/1#1', 'a/1#2', 'a/1#3', 'a/1#4'],
    label: ['b/2#1', 'b/2#2'],
    type: [],
    other: [],
  });
  await append(h, 'c/1', 1);
  await append(h, 'b/2', 1);
  await h.append({ channel: 'c/1', messages: [{ type: 17, raw: Buffer.from('own') }] });
  await append(h, 'a/9', 1);
  const live = ['a/9#1', 'b/2#3', 'c/1#1', 'c/1#2'];
  await Promise.all(
    readers.map(([name, reader]) =>
      reader.has({ now: 4, all: 12, time: 5, names: 4, prefix: 5, label: 3, type: 1, other: 0 }[name] ?? 0),
    ),
  );
  t.match(seen(), {
    now: live,
    all: [...before, ...live].sort(),
    time: ['a/1#4', ...live].sort(),
    names: ['b/1#1', 'b/1#2', 'c/1#1', 'c/1#2'],
    prefix: ['a/1#1', 'a/1#2', 'a/1#3', 'a/1#4', 'a/9#1'],
    label: ['b/2#1', 'b/2#2', 'b/2#3'],
    type: ['c/1#2'],
    other: [],
  });
  const all = readers.find(([name]) => name === 'all')?.[1];
  const part = all?.responses
    .flatMap((each) => each.events?.channels ?? [])
    .find((one: Decoded) => one.channel === 'a/9');
  const { events } = await h.call('MessageService/ListMessages', { channel: 'a/9' });
  t.same(part.events, events, 'the same events as in a page');
  t.ok(part.channel_uid);
});

t.test(
  'while appends go on and the stream breaks anywhere, every event comes once and in order',
  async (t) => {
    for (let seed = 1; seed <= 4; seed++) {
      const random = seededRandom(seed);
      const below = (n: number) => random.u32() % n;
      const h = await start(t);
      const heads = new Map<string, number>();
      const grow = async () => {
        const channel = `${below(2) === 0 ? 'a' : 'b'}/${below(12)}`;
        const count = 1 + below(5);
        await append(h, channel, count);
        heads.set(channel, (heads.get(channel) ?? 0) + count);
      };
      for (let i = 0; i < 60; i++) await grow();
      const names = ['a/0', 'a/1', 'a/3', 'b/2', 'b/7', 'b/11'];
      const filter = [{}, { prefix: 'a/' }, { channels: names }, { max_batch: 3 }][seed % 4] as Decoded;
      const wanted = (name: string) =>
        filter.channels !== undefined ? names.includes(name) : name.startsWith(filter.prefix ?? '');
      const got: string[] = [];
      let request: object = { ...filter, from_beginning: true };
      for (let round = 0; round < 25; round++) {
        const reader = new Subscriber(h, request);
        const stopAt = 1 + below(4);
        const growing = round < 15 ? grow() : undefined;
        await reader.until(
          () => reader.responses.length >= stopAt || reader.count('caught_up') > 0,
          'messages',
        );
        reader.stream.cancel();
        // What came behind the message that is taken for the last one is asked for again.
        const taken = reader.responses.slice(0, stopAt);
        got.push(...linesOf(taken));
        if (taken.length > 0) request = { ...filter, resume_token: taken.at(-1).resume_token };
        await growing;
      }
      const last = await new Subscriber(h, request).caughtUp();
      got.push(...last.lines);
      for (const [name, head] of heads) {
        t.same(seqsOf(got, name), wanted(name) ? range(1, head) : [], `seed ${seed}, ${name}`);
      }
    }
  },
);

t.test('partitions that are not held here are fetched from their leader', async (t) => {
  const leader = new FakeNode(2);
  const h2 = await start(t, leader);
  const node = new FakeNode(1);
  node.leader = 2;
  node.notHere.add(1).add(2);
  node.peers.set(2, leader);
  leader.leader = 2;
  // The same replicas where it has them.
  node.partitions = leader.partitions;
  const h = await start(t, node);
  for (let i = 0; i < 20; i++) await append(h2, `c/${i}`, 3);
  const now = await new Subscriber(h, {}).caughtUp();
  const all = await new Subscriber(h, { from_beginning: true, max_batch: 7 }).caughtUp();
  t.equal(new Set(all.lines).size, 60);
  t.equal(all.lines.length, 60);
  for (let i = 0; i < 20; i++) await append(h2, `c/${i}`, 1);
  await Promise.all([all.has(80), now.has(20)]);
  t.same(seqsOf(all.lines, 'c/7'), [1, 2, 3, 4]);
  const resumed = await new Subscriber(h2, {
    max_batch: 9,
    resume_token: all.responses[0].resume_token,
  }).caughtUp();
  const rest = [...linesOf(all.responses.slice(0, 1)), ...resumed.lines];
  t.equal(new Set(rest).size, 80, 'a token is good on another node');
  t.equal(rest.length, 80);
});

t.test(
  'where a replica comes here and leads, or answers again, it is read on: once and in order',
  async (t) => {
    const gone = new HansardError('NOT_LEADER', 'the replica answers nobody');
    for (const how of ['hosted', 'answering'] as const) {
      const leader = new FakeNode(2);
      const h2 = await start(t, leader);
      leader.leader = 2;
      const node = new FakeNode(1);
      node.partitions = leader.partitions;
      node.peers.set(2, leader);
      node.leader = 2;
      if (how === 'hosted') for (let p = 0; p < node.partitionCount; p++) node.notHere.add(p);
      else node.barrierError = gone;
      const h = await start(t, node);
      await append(h2, 'a', 5);
      const reader = await new Subscriber(h, { from_beginning: true, max_batch: 2 }).caughtUp();
      t.same(seqsOf(reader.lines, 'a'), range(1, 5), 'the leader was asked');
      // The leader goes away for good; requests to it are under way.
      node.peers.clear();
      node.leader = 1;
      await append(h2, 'a', 3);
      node.notHere.clear();
      node.barrierError = undefined;
      await reader.has(8);
      await append(h2, 'a', 1);
      await reader.has(9);
      t.same(seqsOf(reader.lines, 'a'), range(1, 9), how);
      reader.stream.cancel();
    }
    // Nobody leads but this node, which holds nothing yet.
    const node = new FakeNode(1);
    for (let p = 0; p < node.partitionCount; p++) node.notHere.add(p);
    const h = await start(t, node);
    const reader = new Subscriber(h, { from_beginning: true });
    await new Promise((resolve) => setTimeout(resolve, 300));
    node.notHere.clear();
    await append(h, 'a', 1);
    t.same((await reader.has(1)).lines, ['a#1']);
  },
);

t.test('a reader that takes nothing is not read for, and loses nothing', async (t) => {
  const h = await start(t, new FakeNode(), { pageBytes: 16 * 1024 });
  const slow = new Subscriber(h, { from_beginning: true });
  await slow.caughtUp();
  slow.stream.pause();
  const fast = new Subscriber(h, {});
  await fast.caughtUp();
  const big = text('y'.repeat(4_000));
  for (let i = 0; i < 60; i++)
    await h.append({ channel: `c/${i % 5}`, messages: Array.from({ length: 10 }, () => big) });
  await fast.has(600);
  t.ok(slow.lines.length < 300, `${slow.lines.length} taken`);
  slow.stream.resume();
  await slow.has(600);
  for (let i = 0; i < 5; i++) t.same(seqsOf(slow.lines, `c/${i}`), range(1, 120));
  await slow.caughtUp(2);
});

t.test('heartbeats carry a token that has moved on; bad requests are refused with a reason', async (t) => {
  const h = await start(t, new FakeNode(), { heartbeatMs: 200, streams: 2 });
  const reader = await new Subscriber(h, { prefix: 'nothing/' }).caughtUp();
  const { token } = reader;
  await append(h, 'other', 5);
  await reader.until(() => reader.count('heartbeat') >= 2 && reader.token !== token, 'heartbeats');
  const refused = async (request: object) => {
    const error = await new Subscriber(h, request).failed();
    t.ok(error !== undefined && error.reason in reasons);
    return error?.reason;
  };
  t.equal(await refused({ resume_token: token }), 'INVALID_TOKEN', 'of another request');
  t.equal(await refused({ prefix: 'nothing/', resume_token: 'x' }), 'INVALID_TOKEN');
  t.equal(await refused({ label_value: 'x' }), 'INVALID_ARGUMENT');
  t.equal(await refused({ channels: ['\u0001'] }), 'INVALID_NAME');
  t.equal(await refused({ tenant: 'Not A Tenant' }), 'INVALID_NAME');
  t.equal(await refused({ channels: range(0, 1_000).map(String) }), 'INVALID_ARGUMENT');
  const second = await new Subscriber(h, {}).caughtUp();
  t.equal(await refused({}), 'OVERLOADED');
  second.stream.cancel();
  await second.until(() => h.api.openSubscriptions === 1, 'room');
  await new Subscriber(h, {}).caughtUp();
  h.node.isDraining = true;
  t.equal((await reader.failed())?.reason, 'SHUTTING_DOWN');
});

t.test('FetchEvents gives the same, step by step, and waits for news', async (t) => {
  const h = await start(t);
  await append(h, 'a', 5);
  const partition = h.node.partitionOf('default', 'a');
  const fetch = (more: object) => h.call('EventService/FetchEvents', { partition, ...more });
  const lines = (answer: Decoded) => linesOf([{ events: answer.events }]);
  const first = await fetch({ from_beginning: true, max_events: 3 });
  t.same(lines(first), ['a#1', 'a#2', 'a#3']);
  const second = await fetch({ place: first.place });
  t.same(lines(second), ['a#4', 'a#5']);
  t.equal(second.at_end, true);
  const waiting = fetch({ place: second.place, wait_ms: 4_000 });
  await append(h, 'a', 1);
  t.same(lines(await waiting), ['a#6']);
  const nothing = await fetch({ place: (await waiting).place, wait_ms: 50 });
  t.equal(nothing.events, null);
  const refused = (request: object) => h.failure('EventService/FetchEvents', request);
  t.equal((await refused({ partition: 99 })).error?.reason, 'INVALID_ARGUMENT');
  t.equal((await refused({ partition: partition ^ 1, place: second.place })).error?.reason, 'INVALID_TOKEN');
});

t.test(
  'events of a channel that is deleted when they are due do not come when it is brought back',
  async (t) => {
    const h = await start(t);
    await append(h, 'a', 2);
    const partition = h.node.partitionOf('default', 'a');
    const fetch = async (more: object) => {
      const answer = await h.call('EventService/FetchEvents', { partition, ...more });
      return { seqs: seqsOf(linesOf([answer]), 'a'), place: answer.place };
    };
    const begun = await fetch({ from_beginning: true, max_events: 1 });
    t.same(begun.seqs, [1]);
    await h.call('ChannelService/DeleteChannel', { channel: 'a' });
    const deleted = await fetch({ place: begun.place });
    t.same(deleted.seqs, []);
    await h.call('ChannelService/UndeleteChannel', { channel: 'a' });
    await append(h, 'a', 1);
    t.same((await fetch({ place: deleted.place })).seqs, [3], 'a gap tells of them');
    t.same((await fetch({ place: begun.place })).seqs, [2, 3], 'where they were not due meanwhile they come');
  },
);
