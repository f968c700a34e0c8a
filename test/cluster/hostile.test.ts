/**
 * A cluster under what no client should send, on the clients' and the peers'
 * port: every call gets a typed error, a client beside it notices nothing, the
 * processes live on and keep no more memory or sockets than before.
 */
import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import { connect, type Socket } from 'node:net';
import t from 'tap';
import { reasons } from '../../src/common/errors.js';
import { encodeHello, noBootId } from '../../src/transport/hello.js';
import { RecordKind } from '../../src/transport/tcp-records.js';
import { encode, type Failure, text } from '../api/harness.js';
import { greeting, say } from '../transport/stranger.js';
import { Direct } from './direct.js';
import { ProcessCluster, sleep, type TestNode, until } from './harness.js';
import { faults, readAll, Writer } from './workload.js';

t.setTimeout(600_000);

const methods = [
  'MessageService/AppendMessages',
  'MessageService/GetMessage',
  'MessageService/ListMessages',
  'MessageService/OpenProducer',
  'ChannelService/GetChannel',
  'ChannelService/ListChannels',
  'ChannelService/CreateChannel',
  'ClusterService/GetCluster',
];

/** Deterministic noise. */
function noise(seed: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = (seed + 1) * 2_654_435_761;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

const surrogate = Buffer.from([0x12, 0x03, 0xed, 0xa0, 0x80]); // channel: a lone surrogate
const hugeVarint = Buffer.from([0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
const endlessVarint = Buffer.alloc(64, 0xff);
const lengthBeyondEnd = Buffer.from([0x12, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x61]);
const nested = (() => {
  let bytes = Buffer.from([0x2a, 0x00]);
  for (let i = 0; i < 60; i++)
    bytes = Buffer.concat([Buffer.from([0x2a, bytes.length]), bytes]).subarray(0, 120);
  return bytes;
})();

/** Requests that each must be refused, by method. */
function requests(method: string): [string, Buffer][] {
  const append = (channel: string): Buffer =>
    encode('AppendMessagesRequest', { channel, messages: [text('x')] });
  const all: [string, Buffer][] = [
    ['lone surrogate', surrogate],
    ['a varint without end', endlessVarint],
    ['a length beyond the end', lengthBeyondEnd],
    ['group tags', Buffer.from([0x0b, 0x0b, 0x0b, 0x0b])],
  ];
  if (method !== 'MessageService/AppendMessages') return all;
  return [
    ...all,
    ['empty name', append('')],
    ['a name of 100 KB', append('n'.repeat(100_000))],
    ['control characters', append('a\u0000b\u0007')],
    ['a huge number', Buffer.concat([append('c'), hugeVarint])],
    ['nested', Buffer.concat([append('c'), nested])],
    ['no message', encode('AppendMessagesRequest', { channel: 'c' })],
    [
      'a message of 2 MiB',
      encode('AppendMessagesRequest', { channel: 'c', messages: [text('x'.repeat(2 * 1024 * 1024))] }),
    ],
    [
      'a request of 20 MiB',
      encode('AppendMessagesRequest', { channel: 'c', messages: [text('x'.repeat(20 * 1024 * 1024))] }),
    ],
  ];
}

function isTyped(failure: Failure | undefined): boolean {
  if (failure === undefined) return false;
  // Of grpc-js itself, before any code of ours: the message is larger than any that it takes.
  if (failure.error === undefined) return failure.code === 8 && /larger/.test(failure.message);
  return Object.hasOwn(reasons, failure.error.reason) && failure.error.reason !== 'INTERNAL';
}

function port(address: string): number {
  return Number(address.slice(address.lastIndexOf(':') + 1));
}

async function open(address: string): Promise<Socket> {
  const socket = connect(port(address), '127.0.0.1');
  socket.on('error', () => {});
  await Promise.race([once(socket, 'connect'), once(socket, 'close')]);
  return socket;
}

/** What the server does with raw bytes does not matter, as long as it lives; `linger` leaves the end to it. */
async function sendRaw(address: string, bytes: Buffer): Promise<void> {
  const socket = await open(address);
  socket.resume();
  socket.end(bytes);
  await Promise.race([once(socket, 'close'), sleep(1_000)]);
  socket.destroy();
}

async function http1(address: string): Promise<string> {
  const socket = await open(address);
  let answer = '';
  socket.setEncoding('latin1').on('data', (chunk: string) => {
    answer += chunk;
  });
  socket.write('GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n');
  await Promise.race([once(socket, 'close'), sleep(1_500)]);
  socket.destroy();
  return answer;
}

/** A correct HTTP/2 client that asks for nothing gRPC knows. */
async function http2(address: string): Promise<void> {
  const session = connectHttp2(`http://${address}`);
  session.on('error', () => {});
  for (const headers of [
    { ':method': 'GET', ':path': '/' },
    { ':method': 'POST', ':path': '/hansard.v1.MessageService/AppendMessages', 'content-type': 'text/plain' },
    { ':method': 'POST', ':path': '/no.such/Method', 'content-type': 'application/grpc' },
    {
      ':method': 'POST',
      ':path': '/hansard.v1.MessageService/AppendMessages',
      'content-type': 'application/grpc',
      'grpc-timeout': 'x',
    },
  ]) {
    // The peers' port ends the connection at its first bytes.
    if (session.destroyed) return;
    const stream = session.request(headers, { endStream: false });
    stream.on('error', () => {});
    stream.resume();
    // A gRPC prefix that promises 4 GiB.
    stream.end(Buffer.from([0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]));
    await Promise.race([once(stream, 'close'), sleep(1_000)]);
  }
  session.destroy();
}

const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const rawInputs: Buffer[] = [
  Buffer.alloc(0),
  noise(1, 10_000),
  preface.subarray(0, 10),
  preface,
  Buffer.concat([preface, noise(2, 5_000)]),
  // A SETTINGS frame of 16 MiB - 1, and HEADERS without SETTINGS.
  Buffer.concat([preface, Buffer.from([0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0])]),
  Buffer.concat([preface, Buffer.from([0, 0, 1, 1, 4, 0, 0, 0, 1, 0xff])]),
  // A TLS client hello's beginning.
  Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]),
];

function helloes(cluster: ProcessCluster, to: TestNode): [string, Buffer][] {
  const hello = {
    clusterId: cluster.clusterId,
    from: to.id === 1 ? 2 : 1,
    to: to.id,
    storeId: '00112233aabbccdd',
    bootId: '0102030405060708',
    incarnation: 1,
    answersBootId: noBootId,
  };
  const good = encodeHello(hello);
  return [
    ['nothing', Buffer.alloc(0)],
    ['noise', noise(3, 500)],
    ['cut', good.subarray(0, 40)],
    ['another cluster', encodeHello({ ...hello, clusterId: 'ff'.repeat(16) })],
    ['another store', good],
    ['another node', encodeHello({ ...hello, to: to.id + 1 })],
    ['an unknown node', encodeHello({ ...hello, from: 77 })],
    ['itself', encodeHello({ ...hello, from: to.id })],
    ['another incarnation', encodeHello({ ...hello, incarnation: 9 })],
  ];
}

t.test('hostile input on all ports', async (t) => {
  const cluster = await ProcessCluster.start(t);
  const client = cluster.connect();
  const writer = new Writer(client, 'innocent', { inFlight: 8, pauseMs: 20 });
  await until('appends go on', () => writer.acknowledged > 100);
  const node = await cluster.leaderOf(writer.name);
  const direct = new Direct(node.clientAddress);
  const peer = new Direct(node.peerAddress);
  t.teardown(() => {
    direct.close();
    peer.close();
  });

  await t.test('requests', async (t) => {
    for (const method of methods) {
      const untyped: string[] = [];
      for (const [name, bytes] of requests(method)) {
        const failure = await direct.failure(`hansard.v1.${method}`, bytes);
        // GetCluster has no fields: what it does not know it may skip.
        const isEmptyRequest = method === 'ClusterService/GetCluster' && failure === undefined;
        if (!isTyped(failure) && !isEmptyRequest) untyped.push(`${name}: ${JSON.stringify(failure)}`);
      }
      const noisy = await Promise.all(
        Array.from({ length: 50 }, (_, i) => direct.failure(`hansard.v1.${method}`, noise(i, 1 + i * 7))),
      );
      // Noise may happen to be a request; whatever is refused has a reason.
      for (const failure of noisy)
        if (failure !== undefined && !isTyped(failure)) untyped.push(`noise: ${JSON.stringify(failure)}`);
      t.same(untyped, [], method);
    }
    const late = await direct.failure(
      'hansard.v1.MessageService/AppendMessages',
      encode('AppendMessagesRequest', { channel: 'late', messages: [text('x')] }),
      -1_000,
    );
    t.equal(late?.code, 4, 'an expired deadline');
    const unknown = await direct.failure('hansard.v1.MessageService/NoSuchMethod', Buffer.alloc(0));
    t.equal(unknown?.code, 12, 'no such method');
  });

  await t.test("the peers' port", async (t) => {
    for (const [name, hello] of helloes(cluster, node)) {
      const { records } = await say(node.peerAddress, greeting(hello));
      t.match(records, [[RecordKind.rejection, /^[A-Z_]+: /]], name);
      t.equal(records.length, 1, name);
    }
    const { records } = await say(node.peerAddress, greeting(Buffer.alloc(4_000, 1)));
    t.same(records, [], 'too long to be a hello: ended without a word');
    const public1 = await peer.failure(
      'hansard.v1.MessageService/AppendMessages',
      encode('AppendMessagesRequest', { channel: 'c', messages: [text('x')] }),
    );
    t.equal(public1?.code, 14, 'a client gets no connection there');
  });

  await t.test('raw bytes, again and again: nothing is kept', async (t) => {
    const round = async (): Promise<void> => {
      for (const address of [node.clientAddress, node.peerAddress]) {
        await Promise.all(rawInputs.map((bytes) => sendRaw(address, bytes)));
        await http2(address);
        t.notMatch(await http1(address), /^HTTP\/1.1 200/, 'no answer to HTTP/1');
      }
      await Promise.all(rawInputs.map((bytes) => sendRaw(node.httpAddress, bytes)));
    };
    await round();
    await sleep(500);
    const handles = node.handles();
    const rss = node.rssBytes();
    for (let i = 0; i < 3; i++) await round();
    await until(
      `handles ${node.handles()} come down to ${handles}`,
      () => node.handles() <= handles + 10,
      10_000,
    );
    const grown = (node.rssBytes() - rss) / 1e6;
    t.ok(grown < 150, `grew by ${grown.toFixed(0)} MB`);
  });

  await t.test('idle and half-open connections', async (t) => {
    const handles = node.handles();
    const sockets: Socket[] = [];
    for (const address of [node.clientAddress, node.peerAddress])
      for (let i = 0; i < 150; i++) {
        const socket = await open(address);
        // Every other one says how HTTP/2 begins, and then nothing.
        if (i % 2 === 0) socket.write(preface);
        sockets.push(socket);
      }
    await sleep(200);
    const before = writer.acknowledged;
    await until(
      'appends go on beside 300 idle connections',
      () => writer.acknowledged > before + 100,
      10_000,
    );
    t.match(
      await direct.call('MessageService/AppendMessages', { channel: 'beside', messages: [text('x')] }),
      { first_seq: /\d/ },
    );
    for (const socket of sockets) socket.destroy();
    await until('their handles go', () => node.handles() <= handles + 10, 10_000);
    t.pass('their handles go');
  });

  for (const each of cluster.nodes)
    t.ok(each.isUp && (await each.readiness())?.ready, `node ${each.id} lives`);
  await writer.stop();
  t.same(faults(writer, await readAll(client, writer.name)), [], 'the writer noticed nothing');
  if (writer.errors.length > 0 && cluster.starved) t.pass('no append failed', { skip: cluster.starved });
  else t.same(writer.errors.slice(0, 5), [], 'no append failed');
  const { signal } = await node.stop();
  t.equal(signal, null, 'and it stops in order');
});
