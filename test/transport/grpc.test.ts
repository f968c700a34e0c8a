/** What only real sockets show: strangers on the peers' port, a killed process, a reader that stops. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect as http2Connect } from 'node:http2';
import { connect, createServer, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Client, credentials, type ServiceError, status } from '@grpc/grpc-js';
import t from 'tap';
import { MalformedError } from '../../src/common/bytes.js';
import { createGrpcNetwork } from '../../src/transport/grpc-network.js';
import { encodeHello, noBootId } from '../../src/transport/hello.js';
import { unwrap, wrap } from '../../src/transport/wrapper.js';
import { untilReal } from '../support/real-env.js';
import { grpcHarness } from './harness.js';
import { isUp, makeNodes } from './transport-suite.js';

const receive = '/hansard.internal.v1.PeerService/Receive';
const raw = (bytes: Uint8Array) => Buffer.from(bytes);

t.test('the wrapper is valid protobuf, and refuses what is not', async (t) => {
  for (const size of [0, 1, 127, 128, 16_383, 16_384, 300_000]) {
    const payload = Buffer.alloc(size, 7);
    t.ok(unwrap(wrap(payload)).equals(payload), `${size} bytes`);
  }
  t.equal(wrap(Buffer.from('abc')).toString('hex'), '0a03616263');
  t.equal(wrap(Buffer.alloc(300)).subarray(0, 3).toString('hex'), '0aac02');
  t.equal(unwrap(Buffer.alloc(0)).length, 0, 'an absent field is an empty one');
  for (const bad of [
    '12 03 61 62 63',
    '0a 04 61 62 63',
    '0a 02 61 62 63',
    '0a',
    '0a ff ff ff ff ff ff ff ff ff',
  ]) {
    t.throws(() => unwrap(Buffer.from(bad.replaceAll(' ', ''), 'hex')), MalformedError, bad);
  }
});

t.test('strangers on the peers’ port get an error or nothing, and harm nobody', async (t) => {
  const pair = await makeNodes(grpcHarness(), 2);
  const a = await pair.boot(pair.nodes[0]!);
  const { address } = a.transport;
  const [host, port] = [address.split(':')[0]!, Number(address.split(':')[1])];

  const sockets: Socket[] = [];
  const shouts = [
    'GET / HTTP/1.1\r\n\r\n',
    '\x16\x03\x01\x02\x00',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    '',
    '\0'.repeat(5000),
  ];
  for (let i = 0; i < 300; i++) {
    const socket = connect(port, host);
    socket.on('error', () => {});
    socket.on('connect', () => socket.write(shouts[i % shouts.length]!));
    sockets.push(socket);
  }
  await untilReal(() => sockets.every((socket) => !socket.connecting));

  const client = new Client(address, credentials.createInsecure());
  const call = (path: string, request: Buffer) =>
    new Promise<ServiceError>((resolve) => {
      const stream = client.makeServerStreamRequest(path, raw, raw, request);
      stream.on('data', () => t.fail('nothing is sent to a stranger'));
      stream.on('error', (error) => resolve(error as ServiceError));
    });
  t.match(await call('/hansard.internal.v1.PeerService/Nothing', Buffer.alloc(0)), {
    code: status.UNIMPLEMENTED,
  });
  t.match(await call('/hansard.v1.MessageService/GetMessage', Buffer.alloc(9)), {
    code: status.UNIMPLEMENTED,
  });
  const rejected = { code: status.FAILED_PRECONDITION };
  for (const garbage of ['', 'garbage', '\x0a\x05hello', '\x0a\xff', '\x0a\x00']) {
    const error = await call(receive, Buffer.from(garbage, 'latin1'));
    t.match(error, { ...rejected, details: /^MALFORMED_HELLO: / }, JSON.stringify(garbage));
  }
  const hello = {
    clusterId: 'c1'.repeat(16),
    from: 2,
    to: 1,
    storeId: '0000000000000002',
    bootId: '22'.repeat(8),
    incarnation: 1,
    answersBootId: noBootId,
  };
  const say = (changes: Partial<typeof hello>) => call(receive, wrap(encodeHello({ ...hello, ...changes })));
  t.match(await say({ from: 9 }), { ...rejected, details: /^UNKNOWN_NODE/ });
  t.match(await say({ from: 1 }), { ...rejected, details: /^UNKNOWN_NODE/ }, 'this node itself');
  t.match(await say({ to: 2 }), { ...rejected, details: /^WRONG_NODE/ });
  t.match(await say({ clusterId: 'd1'.repeat(16) }), { ...rejected, details: /^FOREIGN_CLUSTER/ });
  const future = encodeHello(hello);
  future[4] = 9;
  t.match(await call(receive, wrap(future)), { ...rejected, details: /^PROTOCOL_VERSION/ });
  t.match(await call(receive, Buffer.alloc(100_000)), { code: status.RESOURCE_EXHAUSTED }, 'a huge hello');
  client.close();

  const session = http2Connect(`http://${address}`);
  session.on('error', () => {});
  const plain = session.request({ ':method': 'POST', ':path': receive, 'content-type': 'text/html' });
  plain.on('error', () => {});
  plain.end('x');
  await Promise.race([once(plain, 'response'), once(plain, 'close')]);
  session.destroy();

  t.same(pair.nodes[0]!.pins.size, 0, 'no stranger was pinned');
  const b = await pair.boot(pair.nodes[1]!);
  t.ok(await untilReal(() => isUp(a, 2) && isUp(b, 1)), 'the peer is let in beside them');
  b.transport.send(1, Buffer.from('hello'));
  t.ok(await untilReal(() => a.messages.length === 1));
  for (const socket of sockets) socket.destroy();
  await Promise.all([a.transport.stop(), b.transport.stop()]);
});

t.test('kill -9: the survivor hears broken, then refused', async (t) => {
  const h = grpcHarness();
  const pair = await makeNodes(h, 2);
  const a = await pair.boot(pair.nodes[0]!, { stableMs: 1 });
  const path = fileURLToPath(new URL('./peer-process.js', import.meta.url));
  const child = spawn(process.execPath, [path, pair.nodes[1]!.address, pair.nodes[0]!.address], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  t.ok(await untilReal(() => isUp(a, 2)));
  a.events.length = 0;
  child.kill('SIGKILL');
  t.ok(await untilReal(() => a.events.length === 2));
  t.match(a.events, [/^down 2 broken/, /^down 2 refused/]);
  t.notOk(isUp(a, 2));
  await a.transport.stop();
});

t.test('a peer that does not read costs a bounded queue, and no other peer anything', async (t) => {
  const pair = await makeNodes(grpcHarness(), 3);
  const a = await pair.boot(pair.nodes[0]!, { bulkQueueBytes: 4_000_000 });
  const c = await pair.boot(pair.nodes[2]!);
  t.ok(await untilReal(() => isUp(a, 3) && isUp(c, 1)));
  const client = new Client(a.transport.address, credentials.createInsecure());
  const hello = {
    clusterId: 'c1'.repeat(16),
    from: 2,
    to: 1,
    storeId: '0000000000000002',
    bootId: '22'.repeat(8),
    incarnation: 1,
    answersBootId: noBootId,
  };
  const lazy = client.makeServerStreamRequest(receive, raw, raw, wrap(encodeHello(hello)));
  lazy.on('error', () => {});
  await once(lazy, 'readable'); // the welcome, and never a read after it
  const state = () => a.transport.peers().find((peer) => peer.nodeId === 2)!;
  let dropped = 0;
  let toOther = 0;
  for (let i = 0; i < 400 && dropped < 20; i++) {
    if (!a.transport.send(2, Buffer.alloc(100_000))) dropped++;
    if (a.transport.send(3, Buffer.from(`${i}`))) toOther++;
    await new Promise(setImmediate);
  }
  t.equal(dropped, 20, 'the queue is full');
  t.ok(
    state().queuedBytes <= 4_000_000 && state().queuedBytes > 3_000_000,
    `${state().queuedBytes} bytes wait`,
  );
  t.equal(state().droppedMessages, 20);
  t.ok(
    toOther >= 20 && (await untilReal(() => c.messages.length === toOther)),
    'the other peer gets all of its own',
  );
  lazy.cancel();
  t.ok(await untilReal(() => state().queuedBytes === 0), 'and the end of the link empties it');
  client.close();
  await Promise.all([a.transport.stop(), c.transport.stop()]);
});

t.test('a server that accepts and says nothing is given up, and tried again', async (t) => {
  const h = grpcHarness();
  const pair = await makeNodes(h, 2);
  let connections = 0;
  const sockets: Socket[] = [];
  const silent = createServer((socket) => {
    connections++;
    sockets.push(socket);
    socket.on('error', () => {});
  });
  silent.listen(Number(pair.nodes[1]!.address.split(':')[1]), '127.0.0.1');
  const a = await pair.boot(pair.nodes[0]!, { handshakeMs: 50, backoffMinMs: 10 });
  t.ok(await untilReal(() => connections >= 3));
  t.match(a.events, [/^down 2 broken no welcome/], 'said once');
  for (const socket of sockets) socket.destroy();
  silent.close();
  await a.transport.stop();
});

t.test('a port that is taken is said so', async (t) => {
  const first = await createGrpcNetwork({ bindAddress: '127.0.0.1:0' }).listen(() => {});
  t.match(first.address, /^127\.0\.0\.1:[1-9]/);
  await t.rejects(
    createGrpcNetwork({ bindAddress: first.address }).listen(() => {}),
    { name: 'HansardError', reason: 'ADDRESS_IN_USE' },
  );
  await t.rejects(
    createGrpcNetwork({ bindAddress: '203.0.113.1:1' }).listen(() => {}),
    { name: 'HansardError', reason: 'INVALID_SETTINGS' },
  );
  await first.close();
});
