/**
 * How much clients may have on its way to a server: seen from outside, by a client
 * that knows HTTP/2 alone, so that a grpc-js that moved what we hold on to is noticed.
 */
import { once } from 'node:events';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { connect as connectTcp, type Socket } from 'node:net';
import { credentials, Client as GrpcClient, Metadata, Server } from '@grpc/grpc-js';
import t from 'tap';
import { DelayProxy } from '../../bench/harness/delay-proxy.js';
import { defaultExchangeLimits } from '../../src/api/exchange.js';
import {
  defaultReceiveWindowBytes,
  narrowWindowBytes,
  widenReceiveWindow,
} from '../../src/api/receive-window.js';
import { connect } from '../../src/client/index.js';
import { silentLogger } from '../../src/common/logger.js';
import { settingsTable } from '../../src/node/settings-table.js';
import { patienceMs, standstill, until } from '../support/until.js';
import { FakeNode } from './fake-node.js';
import { decode, encode, Harness, same, text, words } from './harness.js';

const KiB = 1024;
const append = 'hansard.v1.MessageService/AppendMessages';
const exchangePath = '/hansard.v1.ExchangeService/Exchange';

/** What a new connection is told that it may send. */
async function windowsOf(address: string): Promise<{ stream: number; connection: number }> {
  const session = connectHttp2(`http://${address}`);
  await once(session, 'connect');
  // A stream whose answer came: all that the server says at first has been read by then.
  await answerOf(session, '/grpc.health.v1.Health/Check');
  const told = {
    stream: session.remoteSettings.initialWindowSize ?? 0,
    connection: session.state.remoteWindowSize ?? 0,
  };
  session.close();
  return told;
}

async function answerOf(session: ClientHttp2Session, path: string): Promise<void> {
  const stream = session.request({
    ':method': 'POST',
    ':path': path,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  stream.end(Buffer.alloc(5));
  stream.resume();
  await once(stream, 'end');
}

t.test('every new connection may send a whole window, on each stream and in all', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const told = await windowsOf(h.api.address);
  t.equal(told.stream, defaultReceiveWindowBytes);
  // Less what the request took and is not given back yet.
  t.ok(told.connection > defaultReceiveWindowBytes - KiB, `${told.connection}`);
  t.equal(defaultReceiveWindowBytes, settingsTable.clientWindow.default, 'what the settings say');

  const narrower = await Harness.start(undefined, { receiveWindowBytes: 128 * KiB });
  t.teardown(() => narrower.stop());
  t.equal((await windowsOf(narrower.api.address)).stream, 128 * KiB, 'as set');
  const asBefore = await Harness.start(undefined, { receiveWindowBytes: narrowWindowBytes });
  t.teardown(() => asBefore.stop());
  t.equal((await windowsOf(asBefore.api.address)).stream, narrowWindowBytes, 'not touched');
});

t.test('a grpc-js without the method that is held on to works as ever, and it is said', async (t) => {
  const server = new Server();
  Object.defineProperty(server, 'createHttp2Server', { value: undefined, writable: true });
  t.equal(widenReceiveWindow(server, defaultReceiveWindowBytes).isInForce, false);

  const lines: unknown[] = [];
  const logger = { ...silentLogger, warn: (...line: unknown[]) => lines.push(line) };
  const h = await Harness.start(undefined, { logger });
  t.teardown(() => h.stop());
  t.same(lines, [], 'here it is in force');
});

/** A stream of Exchange whose frames are written as fast as the transport takes them. */
class Uploader {
  sent = 0;
  answered = 0;
  status: number | undefined;
  readonly order: number[] = [];
  readonly client: GrpcClient;
  readonly stream;

  constructor(address: string) {
    this.client = new GrpcClient(address, credentials.createInsecure(), {
      'grpc.max_send_message_length': 64 * KiB * KiB,
      'grpc.use_local_subchannel_pool': 1,
    });
    this.stream = this.client.makeBidiStreamRequest<Buffer, Buffer>(exchangePath, same, same, new Metadata());
    this.stream.on('data', (bytes: Buffer) => {
      for (const answer of decode('ExchangeResponse', bytes).answers) {
        this.answered++;
        this.order.push(Number(decode('AppendMessagesResponse', answer.response).first_seq));
      }
    });
    this.stream.on('error', () => {});
    this.stream.on('status', ({ code }) => {
      this.status = code;
    });
  }

  send(frames: number, bytes: number): void {
    for (let i = 0; i < frames; i++) {
      const id = ++this.sent;
      const request = encode('AppendMessagesRequest', {
        channel: 'c',
        messages: [text(`${id}:`.padEnd(bytes, 'x'))],
      });
      this.stream.write(
        encode('ExchangeRequest', { calls: [{ id, method: append, request, timeout_ms: 60_000 }] }),
      );
    }
  }
}

for (const windowBytes of [256 * KiB, defaultReceiveWindowBytes])
  t.test(`of a stream that is not read a server takes ${windowBytes / KiB} KiB and no more`, async (t) => {
    const frame = 32 * KiB;
    const frames = 300;
    const h = await Harness.start(undefined, {
      receiveWindowBytes: windowBytes,
      exchangeLimits: { ...defaultExchangeLimits, callsInFlight: 4 },
    });
    t.teardown(() => h.stop());
    const proxy = await DelayProxy.start({ to: h.api.address, oneWayMs: 2 });
    t.teardown(() => proxy.close());
    let open = (): void => {};
    const opened = new Promise<void>((resolve) => {
      open = resolve;
    });
    h.node.gate = () => opened;
    const uploader = new Uploader(proxy.address);
    t.teardown(() => uploader.client.close());
    uploader.send(frames, frame);
    await until('the proposals', () => h.node.proposals === 4);
    const taken = await standstill(() => proxy.bytesToServer);
    // What is under way or waits in memory: 4 calls, a message that waits, one being put together.
    t.ok(taken < windowBytes + 8 * frame, `${taken} bytes went to the server`);
    t.ok(taken > windowBytes, 'it is the window that ended it');
    t.equal(h.node.proposals, 4, 'no call beyond the bound was begun');
    t.match(await h.call('ClusterService/GetCluster', {}), { cluster_id: 'cluster-1' }, 'others are served');
    open();
    await until('the answers', () => uploader.answered === frames);
    t.same(
      uploader.order,
      Array.from({ length: frames }, (_, i) => i + 1),
      'all of it arrives, in order',
    );
    uploader.stream.end();
    await until('its end', () => uploader.status !== undefined);
  });

t.test('a client that sends and never reads its answers is held up, too', async (t) => {
  const h = await Harness.start(undefined, {
    receiveWindowBytes: 256 * KiB,
    exchangeLimits: { ...defaultExchangeLimits, answerBytes: 64 * KiB, messageBytes: 32 * KiB },
  });
  t.teardown(() => h.stop());
  await h.append({ channel: 'c', messages: Array.from({ length: 16 }, () => text('y'.repeat(4 * KiB))) });
  const proxy = await DelayProxy.start({ to: h.api.address, oneWayMs: 0 });
  t.teardown(() => proxy.close());
  const session = connectHttp2(`http://${proxy.address}`);
  t.teardown(() => session.destroy());
  const stream = session.request({
    ':method': 'POST',
    ':path': exchangePath,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  stream.on('error', () => {});
  stream.pause();
  const list = encode('ListMessagesRequest', { channel: 'c', after: 16 });
  const pad = Buffer.concat([Buffer.from([0x7a, 0x80, 0x20]), Buffer.alloc(4 * KiB)]);
  for (let id = 1; id <= 500; id++) {
    const message = Buffer.concat([
      encode('ExchangeRequest', {
        calls: [{ id, method: 'hansard.v1.MessageService/ListMessages', request: list, timeout_ms: 60_000 }],
      }),
      pad,
    ]);
    const prefix = Buffer.alloc(5);
    prefix.writeUInt32BE(message.length, 1);
    stream.write(Buffer.concat([prefix, message]));
  }
  const taken = await standstill(() => proxy.bytesToServer);
  t.ok(taken < 1_000 * KiB, `${taken} of 2,000 KiB went to the server`);
  const ended = h.ended.length;
  t.ok(ended < 250, `${ended} pages were read for it`);
  let answers = 0;
  let rest = Buffer.alloc(0);
  stream.on('data', (bytes: Buffer) => {
    rest = Buffer.concat([rest, bytes]);
    while (rest.length >= 5 && rest.length >= 5 + rest.readUInt32BE(1)) {
      const end = 5 + rest.readUInt32BE(1);
      answers += decode('ExchangeResponse', rest.subarray(5, end)).answers.length;
      rest = rest.subarray(end);
    }
  });
  stream.resume();
  await until('all answers', () => answers === 500);
  t.pass('reading again, it gets every answer');
});

t.test('streams to methods that there are not are closed, however much they would send', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const proxy = await DelayProxy.start({ to: h.api.address, oneWayMs: 0 });
  t.teardown(() => proxy.close());
  const session = connectHttp2(`http://${proxy.address}`);
  session.on('error', () => {});
  t.teardown(() => session.destroy());
  const streams = Array.from({ length: 20 }, () => {
    const stream = session.request({
      ':method': 'POST',
      ':path': '/hansard.v1.MessageService/Nope',
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.on('error', () => {});
    stream.resume();
    stream.write(Buffer.alloc(8 * KiB * KiB, 1));
    return stream;
  });
  await until('their ends', () => streams.every((stream) => stream.closed));
  const taken = await standstill(() => proxy.bytesToServer);
  t.ok(taken < 2 * defaultReceiveWindowBytes, `${taken} bytes of 160 MiB went to the server`);
  t.match(await h.append({ channel: 'c', messages: [text('x')] }), { first_seq: '1' });
});

t.test('connections that break at once, stand half open or talk nonsense harm nobody', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const [host, port] = h.api.address.split(':') as [string, string];
  const dial = async (): Promise<Socket> => {
    const socket = connectTcp({ host, port: Number(port), allowHalfOpen: true });
    socket.on('error', () => {});
    await once(socket, 'connect');
    return socket;
  };
  const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
  const noSettings = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);
  const held: Socket[] = [];
  t.teardown(() => {
    for (const socket of held) socket.destroy();
  });
  for (let i = 0; i < 100; i++) {
    const socket = await dial();
    switch (i % 5) {
      case 0:
        socket.resetAndDestroy();
        break;
      case 1: // says nothing
        held.push(socket);
        break;
      case 2: // begins, then ends its side
        socket.end(preface.subarray(0, 10));
        held.push(socket);
        break;
      case 3: // begins well, acknowledges nothing, breaks
        socket.write(Buffer.concat([preface, noSettings]), () => socket.resetAndDestroy());
        break;
      case 4: // claims more settings than there are
        socket.write(
          Buffer.concat([preface, Buffer.from([0, 0xff, 0xff, 4, 0, 0, 0, 0, 0]), Buffer.alloc(100, 0xff)]),
        );
        held.push(socket);
    }
  }
  t.match(await h.append({ channel: 'c', messages: [text('x')] }), { first_seq: '1' });
  t.equal(h.fatal, undefined);
});

/** Its clients are told of a proxy. */
class DistantNode extends FakeNode {
  proxy = '';
  override cluster(): ReturnType<FakeNode['cluster']> {
    const view = super.cluster();
    return { ...view, nodes: view.nodes.slice(0, 1).map((node) => ({ ...node, clientAddress: this.proxy })) };
  }
}

for (const [name, proxyOptions, count, bytes] of [
  ['far away', { oneWayMs: 10 }, 600, 8 * KiB],
  ['in pieces of 7 bytes', { oneWayMs: 1, chunkBytes: 7 }, 100, 500],
  ['over a slow line', { oneWayMs: 5, bytesPerSecond: 2_000_000 }, 100, 16 * KiB],
] as const)
  t.test(`appends of the SDK arrive once and in order, ${name}`, async (t) => {
    const node = new DistantNode();
    const h = await Harness.start(node);
    t.teardown(() => h.stop());
    const proxy = await DelayProxy.start({ to: h.api.address, ...proxyOptions });
    t.teardown(() => proxy.close());
    node.proxy = proxy.address;
    const client = connect(proxy.address, { timeoutMs: patienceMs });
    const channel = client.channel('c');
    const results = await Promise.all(
      Array.from({ length: count }, (_, i) => channel.append({ text: `${i}:`.padEnd(bytes, 'x') })),
    );
    t.same(
      results.map(({ seq }) => seq),
      Array.from({ length: count }, (_, i) => i + 1),
    );
    const { events } = await h.call('MessageService/ListMessages', { channel: 'c', after: 1_000 });
    t.same(
      events.slice(0, 100).map((event: unknown) => Number(words(event).split(':')[0])),
      Array.from({ length: 100 }, (_, i) => i),
    );
    t.equal(proxy.connections, 1, 'over one connection');
    await client.close();
  });
