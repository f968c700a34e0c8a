import { Duplex } from 'node:stream';
import {
  Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  credentials,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServiceError,
} from '@grpc/grpc-js';
import t from 'tap';
import { ChannelTails } from '../../src/api/channel-tails.js';
import { FramedWriter, OutMessage } from '../../src/api/framed.js';
import type { Services } from '../../src/api/services.js';
import type { TailStream } from '../../src/api/tail-stream.js';
import { defaultTailLimits, type TailLimits, type Tails } from '../../src/api/tails.js';
import { HansardError, reasons } from '../../src/common/errors.js';
import { encodeDeleteChannel } from '../../src/conversation/command.js';
import type { ReadView } from '../../src/node/types.js';
import { patienceMs, standstill, until } from '../support/until.js';
import { FakeNode } from './fake-node.js';
import {
  type Decoded,
  decode,
  encode,
  type Failure,
  failureOf,
  Harness,
  same,
  text,
  words,
} from './harness.js';

t.setTimeout(600_000);

function isStream(request: object): request is ClientDuplexStream<Buffer, Buffer> {
  return request instanceof Duplex;
}

/** One tail, as a plain gRPC client sees it. */
class Reader {
  readonly stream: ClientReadableStream<Buffer>;
  readonly responses: Decoded[] = [];
  /** Events so far. */
  count = 0;
  failure: Failure | undefined;
  isOver = false;
  #wake: () => void = () => {};

  constructor(
    h: Harness,
    request: object | ClientDuplexStream<Buffer, Buffer>,
    options: { deadline?: number } = {},
  ) {
    const bytesOf = (each: object): Buffer =>
      Buffer.isBuffer(each) ? each : encode('TailChannelRequest', each);
    const path = '/hansard.v1.EventService/TailChannel';
    this.stream = isStream(request)
      ? request
      : h.client.makeServerStreamRequest(path, same, same, bytesOf(request), options);
    this.stream.on('end', () => {
      this.isOver = true;
      this.#wake();
    });
    this.stream.on('data', (message: Buffer) => {
      const response = decode('TailChannelResponse', message);
      this.responses.push(response);
      this.count += response.events?.events.length ?? 0;
      this.#wake();
    });
    this.stream.on('error', (error: ServiceError) => {
      this.failure = failureOf(error);
      this.#wake();
    });
  }

  get seqs(): number[] {
    return this.events.map((event) => Number(event.seq));
  }
  get events(): Decoded[] {
    return this.responses.flatMap((each) => each.events?.events ?? []);
  }
  get kinds(): string[] {
    return this.responses.map((each) => each.update);
  }
  get token(): string {
    return this.responses.at(-1).resume_token;
  }
  async until(holds: (reader: Reader) => boolean, what: string): Promise<this> {
    // A loaded machine takes its time; what never comes is the failure.
    const deadline = Date.now() + patienceMs;
    while (!holds(this)) {
      if (Date.now() > deadline) throw new Error(`waited in vain for ${what}: ${this.kinds.join()}`);
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
    return this.until((r) => r.count >= count, `${count} events`);
  }
  said(kind: string, count = 1): Promise<this> {
    return this.until((r) => r.kinds.filter((each) => each === kind).length >= count, kind);
  }
  async failed(): Promise<HansardError | undefined> {
    await this.until((r) => r.failure !== undefined, 'the end');
    return this.failure?.error;
  }
}

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

const some = (count: number, words = 'x') => Array.from({ length: count }, () => text(words));

async function start(
  t: { teardown(fn: () => unknown): void },
  tail: Partial<TailLimits> = {},
  node = new FakeNode(),
): Promise<Harness> {
  const h = await Harness.start(node, { tailLimits: { ...defaultTailLimits, ...tail } });
  t.teardown(() => h.stop());
  return h;
}

t.test('from the first event, from a place, from the head: then each as it comes', async (t) => {
  const h = await start(t);
  const append = (words: string) => h.append({ tenant: 'acme', channel: 'c', messages: [text(words)] });
  for (const each of ['a', 'b', 'c']) await append(each);
  const at = { tenant: 'acme', channel: 'c' };
  const all = new Reader(h, { ...at, after_seq: 0 });
  const some = new Reader(h, { ...at, after_seq: 2 });
  const later = new Reader(h, at);
  const beyond = new Reader(h, { ...at, after_seq: 5 });
  for (const each of [all, some, later, beyond]) await each.said('caught_up');
  t.same([all.seqs, some.seqs, later.seqs, beyond.seqs], [[1, 2, 3], [3], [], []]);
  t.match(later.responses[0].caught_up, { head_seq: '3', served_by: { node_id: 1, role: 1 } });
  await h.append({ tenant: 'other', channel: 'c', messages: [text('not yours')] });
  for (const each of ['d', 'e', 'f', 'g']) await append(each);
  await Promise.all([all.has(7), some.has(5), later.has(4), beyond.has(2)]);
  t.same([all.seqs, some.seqs, later.seqs, beyond.seqs], [range(1, 7), range(3, 7), range(4, 7), [6, 7]]);
  t.same(all.events.map(words), ['a', 'b', 'c', 'd', 'e', 'f', 'g']);
  const { events } = await h.call('MessageService/ListMessages', at);
  t.same(all.events, events, 'the same events as in a page');
  const { channel } = await h.call('ChannelService/GetChannel', at);
  t.equal(all.responses[0].events.channel_uid, channel.uid);
  t.equal(all.kinds.filter((kind) => kind === 'caught_up').length, 1, 'said once');
});

t.test('a channel that is not there yet is waited for, unless it must exist', async (t) => {
  const h = await start(t);
  const waits = [new Reader(h, { channel: 'new', after_seq: 0 }), new Reader(h, { channel: 'new' })];
  for (const each of waits) await each.said('caught_up');
  t.match(waits[0]?.responses[0].caught_up, { head_seq: '0', channel_uid: '' });
  const must = new Reader(h, { channel: 'new', must_exist: true });
  t.match(await must.failed(), { reason: 'CHANNEL_NOT_FOUND', code: 5 });
  await h.append({ channel: 'new', messages: some(3) });
  for (const each of waits) t.same((await each.has(3)).seqs, [1, 2, 3]);
  const now = await new Reader(h, { channel: 'new', must_exist: true, after_seq: 1 }).has(2);
  t.same(now.seqs, [2, 3]);
});

t.test('a resume token goes on behind all that was sent, wherever the stream was broken', async (t) => {
  const h = await start(t);
  await h.append({ channel: 'c', messages: some(25) });
  const seqs: number[] = [];
  let request: object = { channel: 'c', after_seq: 0, max_batch: 4 };
  for (let i = 0; i < 5; i++) {
    const reader = await new Reader(h, request).has(1);
    reader.stream.cancel();
    const first = reader.responses[0];
    t.equal(first.events.events.length, 4, 'no more than asked for');
    seqs.push(...first.events.events.map((event: Decoded) => Number(event.seq)));
    request = { channel: 'c', resume_token: first.resume_token, max_batch: 4 };
  }
  t.same(seqs, range(1, 20));
  const head = await new Reader(h, { channel: 'c' }).said('caught_up');
  await h.append({ channel: 'c', messages: some(2) });
  t.same((await new Reader(h, { channel: 'c', resume_token: head.token }).has(2)).seqs, [26, 27]);
  const refused = async (request: object): Promise<string | undefined> =>
    (await new Reader(h, request).failed())?.reason;
  t.equal(await refused({ channel: 'd', resume_token: head.token }), 'INVALID_TOKEN');
  t.equal(await refused({ channel: 'c', resume_token: 'nonsense' }), 'INVALID_TOKEN');
  t.equal(await refused({ channel: 'c', resume_token: '' }), 'INVALID_TOKEN');
  const restored = await start(t, {}, new FakeNode(1, 'cluster-1', 2));
  const old = await new Reader(restored, { channel: 'c', resume_token: head.token }).failed();
  t.equal(old?.reason, 'INCARNATION_CHANGED');
});

t.test('a channel that is deleted and used again goes on under another uid', async (t) => {
  const h = await start(t);
  await h.append({ channel: 'c', messages: some(5) });
  const live = await new Reader(h, { channel: 'c', after_seq: 3 }).said('caught_up');
  const must = await new Reader(h, { channel: 'c', must_exist: true }).said('caught_up');
  const far = await new Reader(h, { channel: 'c', after_seq: 0, max_batch: 2 }).has(2);
  far.stream.cancel();
  const command = { tenant: 'default', channel: 'c', requestId: '', allowMissing: false };
  await h.node.propose(h.node.partitionOf('default', 'c'), encodeDeleteChannel(command), {
    deadlineMs: performance.now() + patienceMs,
  });
  t.match(await must.failed(), { reason: 'CHANNEL_NOT_FOUND' }, 'it no longer exists');
  const head = await new Reader(h, { channel: 'c' }).said('caught_up');
  const { resume_token } = far.responses[0];
  const lost = await new Reader(h, { channel: 'c', resume_token }).said('caught_up');
  t.match(lost.responses[0].caught_up, { head_seq: '0', channel_uid: '' });
  await h.append({ channel: 'c', messages: some(2) });
  for (const each of [head, lost]) t.same((await each.has(2)).seqs, [6, 7], 'what was deleted never comes');
  t.same((await live.has(4)).seqs, [4, 5, 6, 7]);
  const uids = live.responses.filter((each) => each.events).map((each) => each.events.channel_uid);
  t.equal(new Set(uids).size, 2, 'the uid tells the two apart');
});

t.test('bad requests are refused with a reason, and cost nothing', async (t) => {
  const h = await start(t);
  const cases: [object, string][] = [
    [{}, 'INVALID_NAME'],
    [{ channel: 'a\u0000' }, 'INVALID_NAME'],
    [{ channel: 'a', tenant: 'NO' }, 'INVALID_NAME'],
    [{ channel: 'a', read: { level: 3 } }, 'INVALID_ARGUMENT'],
    [{ channel: 'a', read: { commit_tokens: [Buffer.from('x')] } }, 'INVALID_TOKEN'],
    [Buffer.from([0x0a, 0xff]), 'INVALID_ARGUMENT'],
    [Buffer.from([0x12, 0x01, 0x61, 0x28, 0xff]), 'INVALID_ARGUMENT'],
    [Buffer.from([0x12, 0x01, 0x61, 0x22, 0x02, 0xc3, 0x28]), 'INVALID_UTF8'],
    // after_seq beyond 2^53
    [
      Buffer.from([0x12, 0x01, 0x61, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
      'INVALID_ARGUMENT',
    ],
  ];
  for (const [request, reason] of cases) {
    const error = await new Reader(h, request).failed();
    t.equal(error?.reason, reason, JSON.stringify(request));
  }
  t.equal(h.api.openTails, 0);
  t.equal(h.fatal, undefined);
  t.ok(h.ended.every((each) => each.method.endsWith('TailChannel') && each.reason !== undefined));
});

t.test('places are bounded and given back, however a tail ends', async (t) => {
  const h = await start(t, { streams: 3 });
  const readers = [1, 2, 3].map((n) => new Reader(h, { channel: `c${n}` }));
  for (const each of readers) await each.said('caught_up');
  const fourth = await new Reader(h, { channel: 'c4' }).failed();
  t.match(fourth, { reason: 'OVERLOADED', retryDelayMs: 1000 });
  readers[0]?.stream.cancel();
  await until('a place', () => h.api.openTails === 2);
  const late = new Reader(h, { channel: 'c4' }, { deadline: Date.now() + 4_000 });
  await late.said('caught_up');
  await late.failed();
  t.equal(late.failure?.code, 4, 'a deadline, where there is one, ends the stream');
  await until('the place of the one whose deadline passed', () => h.api.openTails === 2);
  for (const each of readers) each.stream.cancel();
  await until('all places', () => h.api.openTails === 0);
  for (const partition of h.node.partitions) t.equal(partition.watches.size, 0, 'nobody is told any more');
});

t.test('credits: no event beyond what was granted, and others go on', async (t) => {
  const h = await start(t, { heartbeatMs: 100 });
  const open = (request: object, later: readonly object[] = []): Reader => {
    const path = '/hansard.v1.EventService/TailChannel';
    const stream = h.client.makeBidiStreamRequest(path, same, same);
    for (const each of [request, ...later]) stream.write(encode('TailChannelRequest', each));
    return new Reader(h, stream);
  };
  const grant = (reader: Reader, flow: object) =>
    (reader.stream as ClientDuplexStream<Buffer, Buffer>).write(encode('TailChannelRequest', { flow }));
  await h.append({ channel: 'c', messages: some(10, 'x'.repeat(1_000)) });
  const all = { channel: 'c', after_seq: 0 };
  const free = new Reader(h, all);
  const byEvents = open({ ...all, flow: { events: 4 } });
  const byBytes = open({ ...all, max_batch: 1, flow: { bytes: 2_500 } });
  const both = open({ ...all, max_batch: 1, flow: { events: 100, bytes: 1 } });
  await Promise.all([free.has(10), byEvents.has(4), byBytes.has(3), both.has(1)]);
  const held = [byEvents, byBytes, both];
  for (const each of held) await each.said('heartbeat', 3);
  t.same(
    held.map((each) => each.count),
    [4, 3, 1],
    'a response may go beyond the bytes, by one event',
  );
  t.ok(
    held.every((each) => !each.kinds.includes('caught_up')),
    'who is held back is not told that it is at the head',
  );
  // What was taken too much is owed: about 700 bytes, and more than 1,000.
  for (const each of [byBytes, both]) grant(each, { bytes: 500 });
  grant(byEvents, { events: 5 });
  await byEvents.has(9);
  for (const each of held) await each.said('heartbeat', each.kinds.length);
  t.same(
    held.map((each) => each.count),
    [9, 3, 1],
  );
  grant(byEvents, { events: 2 });
  for (const each of [byBytes, both]) grant(each, { bytes: 1_000_000 });
  for (const each of held) await (await each.has(10)).said('caught_up');
  await h.append({ channel: 'c', messages: some(2) });
  await Promise.all([free, byBytes, both].map((each) => each.has(12)));
  await byEvents.has(11);
  t.same(byEvents.seqs, range(1, 11));

  const ten = open({ ...all, flow: { events: 10 } });
  (ten.stream as ClientDuplexStream<Buffer, Buffer>).end();
  await ten.until((r) => r.isOver, 'the end');
  t.same(
    [ten.failure, ten.seqs],
    [undefined, range(1, 10)],
    'who grants no more gets what was granted, then the end',
  );
  const surprised = open({ ...all }, [{ flow: { events: 1 } }]);
  t.match(await surprised.failed(), { reason: 'INVALID_ARGUMENT', fields: { field: 'flow' } });
  const silent = h.client.makeBidiStreamRequest('/hansard.v1.EventService/TailChannel', same, same);
  silent.end();
  t.match(await new Reader(h, silent).failed(), { reason: 'INVALID_ARGUMENT' });
  for (const each of [free, ...held]) each.stream.cancel();
  await until('all places', () => h.api.openTails === 0);
});

t.test('messages are framed once where grpc-js lets us', async (t) => {
  const server = new Server();
  const method = { path: '/a/b', requestStream: true, responseStream: true } as const;
  const codec = {
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  };
  const seen: boolean[] = [];
  const b = (call: ServerDuplexStream<Buffer, Buffer>): void => {
    const writer = new FramedWriter(call);
    seen.push(writer.isDirect);
    const message = new OutMessage(Buffer.from('hello'));
    for (let i = 0; i < 3; i++) writer.write(message, () => {});
    call.end();
  };
  server.addService({ b: { ...method, ...codec } }, { b });
  const port = await new Promise<number>((resolve, reject) => {
    const insecure = ServerCredentials.createInsecure();
    server.bindAsync('127.0.0.1:0', insecure, (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  t.teardown(() => {
    client.close();
    server.forceShutdown();
  });
  const got: string[] = [];
  const stream = client.makeBidiStreamRequest('/a/b', same, same);
  for await (const message of stream) got.push(String(message));
  t.same(got, ['hello', 'hello', 'hello']);
  t.same(seen, [true], 'grpc-js has the field that leads to the HTTP/2 stream');
});

t.test('a node that has had no leader for long sends its readers away, once', async (t) => {
  const h = await start(t, { leaderlessMs: 300, heartbeatMs: 100 });
  await h.append({ channel: 'c', messages: some(3) });
  const away = await new Reader(h, { channel: 'c', after_seq: 0 }).said('caught_up');
  const { leader } = h.node;
  h.node.leader = undefined;
  const anyState = { level: 4 };
  const back = await new Reader(h, { channel: 'c', after_seq: 0, read: anyState }).said('caught_up');
  t.match(await away.failed(), {
    reason: 'NO_QUORUM',
    fields: { partition: h.node.partitionOf('default', 'c') },
  });
  await back.said('heartbeat', 5);
  t.equal(back.failure, undefined, 'who comes while it lasts stays');
  h.node.leader = leader;
  await back.said('heartbeat', 10);
  h.node.leader = undefined;
  t.match(await back.failed(), { reason: 'NO_QUORUM' }, 'the next loss');
  h.node.leader = leader;
});

/** A channel's tails with one reader, who comes while no leader is known; and a hand to the leader and what the reader is told. */
function cameLeaderless() {
  let leader: number | undefined;
  const node = {
    monotonicMs: () => 0,
    leaderOf: () => leader,
    watchChannel: () => () => undefined,
  };
  const place = { tenant: 'default', channel: 'c' };
  const hub = { enqueue: () => undefined };
  const tails = new ChannelTails(
    { node, tokens: {} } as unknown as Services,
    hub as unknown as Tails,
    0,
    place,
    () => undefined,
  );
  let reason = 'none';
  const tail = {
    fail: (error: HansardError) => {
      reason = error.reason;
    },
  };
  tails.add(tail as unknown as TailStream);
  return {
    told: () => reason,
    /** A look at that time, with that leader. */
    look(nowMs: number, knownLeader?: number): void {
      leader = knownLeader;
      tails.handOver(nowMs, 3_000, 15_000);
    },
  };
}

t.test('a reader that came in a loss that nobody looked at is sent away by the next one', async (t) => {
  const { told, look } = cameLeaderless();
  look(100, 2);
  look(60_000);
  t.equal(told(), 'none');
  look(63_000);
  t.equal(told(), 'NO_QUORUM');
});

t.test(
  'who came back as nobody else had a leader is sent away again: others may have one by now',
  async (t) => {
    const { told, look } = cameLeaderless();
    look(14_999);
    t.equal(told(), 'none', 'it takes what is here for a while');
    look(15_000);
    t.equal(told(), 'NO_QUORUM');
  },
);

t.test('a node that drains sends its readers away', async (t) => {
  const h = await start(t);
  await h.append({ channel: 'c', messages: some(3) });
  const reader = await new Reader(h, { channel: 'c', after_seq: 0 }).said('caught_up');
  h.node.isDraining = true;
  t.match(await reader.failed(), { reason: 'SHUTTING_DOWN', code: reasons.SHUTTING_DOWN.code });
  t.match(await new Reader(h, { channel: 'c' }).failed(), { reason: 'SHUTTING_DOWN' });
  t.equal(h.api.openTails, 0);
});

t.test('without a replica here, or where the leader is asked for, the error says who has one', async (t) => {
  class Elsewhere extends FakeNode {
    override readBarrier(): Promise<ReadView> {
      return Promise.reject(new HansardError('NOT_LEADER', 'this node holds no replica'));
    }
  }
  const node = new Elsewhere();
  node.leader = 2;
  const h = await start(t, {}, node);
  const expected = { reason: 'NOT_LEADER', fields: { leader_address: '127.0.0.1:7002' } };
  t.match(await new Reader(h, { channel: 'c' }).failed(), expected);
  const secondary = new FakeNode();
  secondary.leader = 2;
  const h2 = await start(t, {}, secondary);
  t.match(await new Reader(h2, { channel: 'c', read: { preference: 1 } }).failed(), expected);
  const served = await new Reader(h2, { channel: 'c' }).said('caught_up');
  t.equal(served.responses[0].caught_up.served_by.role, 2, 'a secondary serves');
});

t.test('heartbeats come where nothing else does', async (t) => {
  const h = await start(t, { heartbeatMs: 200 });
  const reader = await new Reader(h, { channel: 'c' }).said('heartbeat', 3);
  t.same(reader.kinds.slice(0, 3), ['caught_up', 'heartbeat', 'heartbeat']);
  await h.append({ channel: 'c', messages: some(1) });
  t.same((await new Reader(h, { channel: 'c', resume_token: reader.token }).has(1)).seqs, [1]);
  t.same((await reader.has(1)).seqs, [1]);
});

t.test('a reader that takes nothing is not read for; others do not notice', async (t) => {
  const h = await start(t);
  const behind = 10_000;
  for (let i = 0; i < behind / 500; i++)
    await h.append({ channel: 'c', messages: some(500, 'y'.repeat(1_000)) });
  let bytesRead = 0;
  const partition = h.node.partitions[h.node.partitionOf('default', 'c')];
  const { reader } = partition as NonNullable<typeof partition>;
  const events = reader.events;
  reader.events = async (...args) => {
    const page = await events(...args);
    for (const event of page) bytesRead += event.contentLength;
    return page;
  };
  // 4 stand still; each with 10 MB before it.
  const slow = Array.from({ length: 4 }, () => new Reader(h, { channel: 'c', after_seq: 0 }));
  for (const each of slow) each.stream.pause();
  // gRPC's own client takes 16 messages before its reader has asked for one.
  await until('they are read for', () => bytesRead > 0);
  const held = await standstill(() => bytesRead);
  t.ok(
    held < 4 * 20 * defaultTailLimits.pageBytes,
    `${held} bytes were read for 4 readers that take nothing`,
  );
  const live = await new Reader(h, { channel: 'c' }).said('caught_up');
  for (let i = 1; i <= 20; i++) {
    await h.append({ channel: 'c', messages: some(1) });
    await live.has(i);
  }
  t.same(live.seqs, range(behind + 1, behind + 20), 'the one that keeps up gets each at once');
  t.ok(bytesRead - held < 1_000_000, 'nothing more was read for the others');
  for (const each of slow) each.stream.resume();
  for (const each of slow) {
    await each.has(behind + 20);
    t.same(each.seqs, range(1, behind + 20), 'all of it, in order, once');
    await each.said('caught_up');
  }
});

t.test('1,000 tails: one channel and many', async (t) => {
  const h = await start(t);
  await h.append({ channel: 'busy', messages: some(10) });
  let reads = 0;
  for (const { reader } of h.node.partitions) {
    const events = reader.events;
    reader.events = (...args) => {
      reads++;
      return events(...args);
    };
  }
  const busy = Array.from({ length: 500 }, () => new Reader(h, { channel: 'busy', after_seq: 0 }));
  const quiet = Array.from({ length: 500 }, (_, i) => new Reader(h, { channel: `quiet/${i}` }));
  for (const each of [...busy, ...quiet]) await each.said('caught_up');
  t.equal(h.api.openTails, 1_000);
  reads = 0;
  for (let i = 0; i < 10; i++) await h.append({ channel: 'busy', messages: some(1) });
  for (const each of busy) t.same((await each.has(20)).seqs, range(1, 20));
  t.ok(reads <= 40, `${reads} pages were read for 10 appends and 500 tails`);
  await Promise.all(range(0, 499).map((i) => h.append({ channel: `quiet/${i}`, messages: some(2) })));
  for (const each of quiet) t.same((await each.has(2)).seqs, [1, 2]);
  for (const each of [...busy, ...quiet]) each.stream.cancel();
  await until('all places', () => h.api.openTails === 0);
  t.equal(
    h.node.partitions.reduce((sum, each) => sum + each.watches.size, 0),
    0,
  );
});

t.test('damage of a channel ends its tails alone, with its reason', async (t) => {
  const h = await start(t);
  await h.append({ channel: 'bad{x}', messages: some(5) });
  await h.append({ channel: 'good{x}', messages: some(5) });
  const good = await new Reader(h, { channel: 'good{x}' }).said('caught_up');
  const partition = h.node.partitions[h.node.partitionOf('default', 'bad{x}')];
  const { reader } = partition as NonNullable<typeof partition>;
  const events = reader.events;
  reader.events = (channel, range) =>
    channel.name === 'bad{x}'
      ? Promise.reject(new HansardError('STORE_DAMAGED', 'a block is gone'))
      : events(channel, range);
  t.match(await new Reader(h, { channel: 'bad{x}', after_seq: 0 }).failed(), { reason: 'STORE_DAMAGED' });
  await h.append({ channel: 'good{x}', messages: some(1) });
  t.same((await good.has(1)).seqs, [6]);
  t.equal(h.fatal, undefined);
});
