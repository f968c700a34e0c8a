import { Duplex } from 'node:stream';
import { type ClientDuplexStream, Metadata, type ServerDuplexStream } from '@grpc/grpc-js';
import t from 'tap';
import { Calls, defaultCallLimits } from '../../src/api/calls.js';
import { defaultExchangeLimits, ExchangeStream } from '../../src/api/exchange.js';
import { silentLogger } from '../../src/common/logger.js';
import { patienceMs, until } from '../support/until.js';
import { FakeNode } from './fake-node.js';
import { type Decoded, decode, encode, Harness, same, text, words } from './harness.js';

const append = 'hansard.v1.MessageService/AppendMessages';

class Exchange {
  readonly answers = new Map<string, Decoded>();
  readonly order: string[] = [];
  messages = 0;
  status: { code: number; details: string } | undefined;
  readonly stream: ClientDuplexStream<Buffer, Buffer>;
  #wake: (() => void)[] = [];

  constructor(harness: Harness) {
    this.stream = harness.client.makeBidiStreamRequest(
      '/hansard.v1.ExchangeService/Exchange',
      same,
      same,
      new Metadata(),
    );
    this.stream.on('data', (bytes: Buffer) => {
      this.messages++;
      for (const answer of decode('ExchangeResponse', bytes).answers) {
        if (this.answers.has(answer.id)) throw new Error(`two answers to ${answer.id}`);
        this.answers.set(answer.id, answer);
        this.order.push(answer.id);
      }
      for (const wake of this.#wake.splice(0)) wake();
    });
    this.stream.on('error', () => {});
    this.stream.on('status', (status) => {
      this.status = status;
      for (const wake of this.#wake.splice(0)) wake();
    });
  }

  send(calls: object[]): void {
    this.stream.write(encode('ExchangeRequest', { calls }));
  }

  async until(done: () => boolean): Promise<void> {
    while (!done()) await new Promise<void>((resolve) => this.#wake.push(resolve));
  }
}

function appendCall(id: number, channel: string, words: string, more: object = {}): object {
  const request = encode('AppendMessagesRequest', { channel, messages: [text(words)] });
  return { id, method: append, request, timeout_ms: patienceMs, ...more };
}

t.test('1,000 calls in few messages, answered out of order; the channel keeps the order sent', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  h.node.gate = (proposal) => new Promise((resolve) => setTimeout(resolve, (proposal * 7919) % 50));
  const exchange = new Exchange(h);
  for (let m = 0; m < 10; m++) {
    exchange.send(
      Array.from({ length: 100 }, (_, i) => appendCall(m * 100 + i + 1, 'c', `${m * 100 + i + 1}`)),
    );
  }
  await exchange.until(() => exchange.answers.size === 1_000);
  t.notSame(
    exchange.order,
    Array.from({ length: 1_000 }, (_, i) => `${i + 1}`),
    'answers come as calls complete',
  );
  t.ok(exchange.messages < 500, `answers of a turn travel together (${exchange.messages} messages)`);
  for (const answer of exchange.answers.values()) {
    const response = decode('AppendMessagesResponse', answer.response);
    if (answer.code !== 0 || response.first_seq !== answer.id)
      t.fail(`call ${answer.id} became ${response.first_seq}`);
  }
  const { events } = await h.call('MessageService/ListMessages', { channel: 'c', after: 1_000 });
  t.same(
    events.map(words),
    Array.from({ length: 1_000 }, (_, i) => `${i + 1}`),
  );
  exchange.stream.end();
  await exchange.until(() => exchange.status !== undefined);
  t.equal(exchange.status?.code, 0, 'ends well');
});

t.test('each call has its own outcome: errors with details, timeouts, unknown methods', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  let open = (): void => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  h.node.gate = (proposal) => (proposal === 1 ? opened : Promise.resolve());
  const exchange = new Exchange(h);
  exchange.send([
    appendCall(1, 'slow', 'x', { timeout_ms: 2_000 }),
    appendCall(2, '', 'x'),
    appendCall(3, 'c', 'fine'),
    { id: 4, method: 'hansard.v1.MessageService/Nope' },
    { id: 5, method: 'hansard.v1.ExchangeService/Exchange' },
    { id: 6, method: 'hansard.v1.ClusterService/GetCluster' },
    { id: 7, method: append, request: Buffer.alloc(20, 0xff) },
    { id: 8, method: append, request: Buffer.alloc(5 * 1024 * 1024) },
  ]);
  await exchange.until(() => exchange.answers.size === 8);
  const code = (id: number) => exchange.answers.get(`${id}`).code;
  t.same([1, 2, 3, 4, 5, 6, 7, 8].map(code), [4, 3, 0, 12, 12, 0, 3, 3]);
  t.equal(exchange.order.at(-1), '1', 'a slow call holds up no other');
  const [info] = exchange.answers.get('2').details;
  t.match(info.type_url, /google\.rpc\.ErrorInfo$/);
  t.match(info.value.toString('latin1'), /INVALID_NAME/);
  const cluster = decode('GetClusterResponse', exchange.answers.get('6').response);
  t.equal(cluster.cluster_id, 'cluster-1');
  open();
  exchange.stream.end();
  await exchange.until(() => exchange.status !== undefined);
});

t.test('past its bounds a stream is not read, and goes on when answers are gone', async (t) => {
  const h = await Harness.start(undefined, {
    exchangeLimits: { ...defaultExchangeLimits, callsInFlight: 16, answerBytes: 64 * 1024 },
  });
  t.teardown(() => h.stop());
  let most = 0;
  h.node.gate = async () => {
    most = Math.max(most, h.api.callsInFlight);
    await new Promise((resolve) => setTimeout(resolve, 1));
  };
  const exchange = new Exchange(h);
  exchange.send(Array.from({ length: 500 }, (_, i) => appendCall(i + 1, 'c', 'x'.repeat(4_000))));
  await exchange.until(() => exchange.answers.size === 500);
  t.ok(most <= 16, `${most} calls at once`);
  // A reader that stops: what waits for it is bounded, other clients are served meanwhile.
  exchange.stream.pause();
  const list = {
    method: 'hansard.v1.MessageService/ListMessages',
    request: encode('ListMessagesRequest', { channel: 'c', after: 500 }),
  };
  exchange.send(Array.from({ length: 60 }, (_, i) => ({ id: 1_000 + i, ...list })));
  await new Promise((resolve) => setTimeout(resolve, 300));
  t.match(await h.append({ channel: 'other', messages: [text('x')] }), { first_seq: '1' });
  exchange.stream.resume();
  await exchange.until(() => exchange.answers.size === 560);
  const page = decode('ListMessagesResponse', exchange.answers.get('1059').response);
  t.equal(page.events.length, 500);
  exchange.stream.end();
  await exchange.until(() => exchange.status !== undefined);
});

t.test('what streams hold is bounded, each and together, whatever clients send', async (t) => {
  const megabyte = 1024 * 1024;
  const h = await Harness.start(undefined, {
    exchangeLimits: { ...defaultExchangeLimits, callsInFlight: 1, allRequestBytes: 3 * megabyte },
  });
  t.teardown(() => h.stop());
  const held: (() => void)[] = [];
  h.node.gate = () => new Promise<void>((resolve) => held.push(resolve));
  // One call goes, the other waits, and with it a megabyte in a field that nobody knows.
  const padding = Buffer.concat([Buffer.from([0x7a, 0x80, 0x80, 0x40]), Buffer.alloc(megabyte)]);
  const calls = encode('ExchangeRequest', { calls: [appendCall(1, 'c', 'x'), appendCall(2, 'c', 'y')] });
  const streams = [1, 2, 3].map(() => new Exchange(h));
  for (const { stream } of streams) stream.write(Buffer.concat([calls, padding]));
  const ended = () => streams.filter((each) => each.status !== undefined);
  await Promise.race(streams.map((each) => each.until(() => each.status !== undefined)));
  t.equal(ended().length, 1);
  t.match(ended()[0]?.status, { code: 8, details: /hold too many bytes/ });
  while (h.api.callsInFlight > 0) {
    for (const release of held.splice(0)) release();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  for (const each of streams) await each.until(() => each.status !== undefined || each.answers.size === 2);
  const later = new Exchange(h);
  h.node.gate = undefined;
  later.stream.write(Buffer.concat([calls, padding]));
  await later.until(() => later.answers.size === 2);
  t.pass('what was held is free again');
});

t.test('a stream that is not read takes no more from its client', async (t) => {
  const calls = new Calls(
    new Map([[append, () => new Promise<never>(() => {})]]),
    () => performance.now(),
    { onFatal: (error) => t.fail(String(error)) },
    defaultCallLimits,
    silentLogger,
  );
  const message = encode('ExchangeRequest', { calls: [appendCall(1, 'c', 'x'), appendCall(2, 'c', 'y')] });
  let taken = 0;
  // As grpc-js does it: the next message is asked for when the buffer has room.
  const stream = new Duplex({
    objectMode: true,
    read() {
      if (++taken < 100) setImmediate(() => this.push(message));
    },
    write: (_chunk, _encoding, done) => done(),
  });
  const bounds = { ...defaultExchangeLimits, callsInFlight: 1 };
  new ExchangeStream(calls, stream as unknown as ServerDuplexStream<Buffer, Buffer>, bounds);
  await new Promise((resolve) => setTimeout(resolve, 100));
  t.ok(taken <= 3, `${taken} messages were taken, one was begun`);
  stream.destroy();
});

t.test(
  'pages that are there at one time leave in messages of a few, each before the next is encoded',
  async (t) => {
    const messageBytes = 32 * 1024;
    const h = await Harness.start(undefined, {
      // However busy the machine is.
      exchangeLimits: { ...defaultExchangeLimits, messageBytes, longTurnMs: Number.POSITIVE_INFINITY },
    });
    t.teardown(() => h.stop());
    const page = 4 * 1024;
    await h.append({ channel: 'c', messages: [text('y'.repeat(page))] });
    const exchange = new Exchange(h);
    const sizes: number[] = [];
    exchange.stream.on('data', (bytes: Buffer) => sizes.push(bytes.length));
    const list = encode('ListMessagesRequest', { channel: 'c', after: 1 });
    const ids = Array.from({ length: 100 }, (_, i) => i + 1);
    const method = 'hansard.v1.MessageService/ListMessages';
    exchange.send(ids.map((id) => ({ id, method, request: list, timeout_ms: patienceMs })));
    let [before, most] = [h.api.exchangeMessages, 0];
    const turn = (): void => {
      most = Math.max(most, h.api.exchangeMessages - before);
      before = h.api.exchangeMessages;
      next = setImmediate(turn);
    };
    let next = setImmediate(turn);
    await exchange.until(() => exchange.answers.size === 100);
    clearImmediate(next);
    t.ok(most <= 2, `${most} messages in a turn at most: the calls, and one of answers`);
    t.ok(sizes.length >= 10, `${sizes.length} messages`);
    t.ok(Math.max(...sizes) < messageBytes + 2 * page, `of ${Math.max(...sizes)} bytes at most`);
    exchange.stream.end();
    await exchange.until(() => exchange.status !== undefined);
  },
);

t.test('a stream that makes no sense is ended with the reason; the others go on', async (t) => {
  const h = await Harness.start(undefined, { exchangeStreams: 3 });
  t.teardown(() => h.stop());
  const good = new Exchange(h);
  good.send([appendCall(1, 'c', 'x')]);
  await good.until(() => good.answers.size === 1);
  for (const bytes of [
    Buffer.alloc(30, 0xff),
    Buffer.from([0x08, 0x01]),
    encode('ExchangeRequest', { calls: [{ id: '18446744073709551615', method: append }] }),
  ]) {
    const bad = new Exchange(h);
    bad.stream.write(bytes);
    await bad.until(() => bad.status !== undefined);
    t.equal(bad.status?.code, 3, `${bad.status?.details}`);
  }
  h.node.gate = () => new Promise((resolve) => setTimeout(resolve, 100));
  const twice = new Exchange(h);
  twice.send([appendCall(1, 'c', 'x'), appendCall(1, 'c', 'x')]);
  await twice.until(() => twice.status !== undefined);
  t.equal(twice.status?.code, 3, 'an id that is under way');
  good.send([appendCall(2, 'c', 'y')]);
  await good.until(() => good.answers.size === 2);
  t.equal(good.answers.get('2').code, 0);

  const more = [new Exchange(h), new Exchange(h), new Exchange(h)];
  const last = more[2] as Exchange;
  await last.until(() => last.status !== undefined);
  t.equal(last.status?.code, 8, 'streams are bounded');
  for (const each of [good, ...more]) each.stream.cancel();
});

t.test('a client that goes away frees what its calls held', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  h.node.leader = undefined;
  const exchange = new Exchange(h);
  const call = (_: unknown, i: number) => appendCall(i + 1, 'c', 'x', { timeout_ms: 2 * patienceMs });
  exchange.send(Array.from({ length: 200 }, call));
  await until('all calls', () => h.api.callsInFlight === 200);
  exchange.stream.cancel();
  await until('their ends, before their deadline', () => h.api.callsInFlight === 0);
  t.equal(h.node.proposals, 0);
});

t.test('stopping answers what is under way, then ends the stream', async (t) => {
  const h = await Harness.start(new FakeNode());
  let open = (): void => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  h.node.gate = () => opened;
  const exchange = new Exchange(h);
  exchange.send([appendCall(1, 'c', 'x'), appendCall(2, 'c', 'y')]);
  await until('both are under way', () => h.node.proposals === 2);
  const stopped = h.api.stop(patienceMs);
  exchange.send([appendCall(3, 'c', 'z')]);
  await exchange.until(() => exchange.answers.size === 1);
  open();
  await exchange.until(() => exchange.status !== undefined);
  t.same([...exchange.answers.values()].map((answer) => [answer.id, answer.code]).sort(), [
    ['1', 0],
    ['2', 0],
    ['3', 14],
  ]);
  t.equal(exchange.status?.code, 0);
  h.client.close();
  await stopped;
});

t.test('an answer says where the call was passed on to', async (t) => {
  const leading = await Harness.start(new FakeNode(2));
  const other = await Harness.start(new FakeNode(1));
  t.teardown(() => Promise.all([leading.stop(), other.stop()]));
  leading.node.leader = 2;
  other.node.leader = 2;
  other.node.peers.set(2, leading.node);
  for (const [harness, forwarded] of [
    [other, '2'],
    [leading, undefined],
  ] as const) {
    const exchange = new Exchange(harness);
    exchange.send([appendCall(1, 'c', 'x')]);
    await exchange.until(() => exchange.answers.size === 1);
    const answer = exchange.answers.get('1');
    t.equal(answer?.code ?? 0, 0);
    t.equal(Number(answer?.forwarded_to_node_id ?? 0), Number(forwarded ?? 0));
    exchange.stream.end();
  }
});
