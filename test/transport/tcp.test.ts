/** What only real sockets show: strangers on the peers' port, a killed process, a reader that stops, a peer that falls silent. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Client, credentials, type ServiceError, status } from '@grpc/grpc-js';
import t from 'tap';
import { MalformedError } from '../../src/common/bytes.js';
import { encodeHello, noBootId } from '../../src/transport/hello.js';
import { createTcpNetwork } from '../../src/transport/tcp-network.js';
import { encodeRecord, preface, RecordKind, RecordReader } from '../../src/transport/tcp-records.js';
import { untilReal } from '../support/real-env.js';
import { tcpHarness } from './harness.js';
import { greeting, say } from './stranger.js';
import { isUp, makeNodes } from './transport-suite.js';

const helloOf2 = {
  clusterId: 'c1'.repeat(16),
  from: 2,
  to: 1,
  storeId: '0000000000000002',
  bootId: '22'.repeat(8),
  incarnation: 1,
  answersBootId: noBootId,
};

t.test('records come out as they went in, however the bytes arrive', async (t) => {
  const sizes = [0, 1, 5, 255, 70_000, 0, 3];
  const records = sizes.map((size, i) => encodeRecord(RecordKind.frame, Buffer.alloc(size, i + 1)));
  const bytes = Buffer.concat([preface, ...records]);
  for (const step of [1, 2, 7, 8, 9, 4096, bytes.length]) {
    const got: number[][] = [];
    let prefaces = 0;
    const reader = new RecordReader(100_000, {
      onPreface: () => prefaces++,
      onRecord: (kind, payload) => got.push([kind, payload.length, payload.at(-1) ?? 0]) > 0,
    });
    // One buffer for all of it, as the socket has it: what is handed on is good while it is handled.
    const buffer = Buffer.alloc(step);
    for (let at = 0; at < bytes.length; at += step) {
      const size = bytes.copy(buffer, 0, at, at + step);
      reader.take(buffer.subarray(0, size));
      buffer.fill(0xee);
    }
    t.equal(prefaces, 1);
    t.same(
      got,
      sizes.map((size, i) => [RecordKind.frame, size, size === 0 ? 0 : i + 1]),
      `${step} at a time`,
    );
  }
});

t.test(
  'a preface that is another is refused at its first wrong byte, a record too long at its header',
  async (t) => {
    const reader = (): RecordReader => new RecordReader(10, { onPreface: () => {}, onRecord: () => true });
    t.throws(() => reader().take(Buffer.from('G')), MalformedError);
    t.throws(() => reader().take(Buffer.from('HSNPEER2')), MalformedError);
    const tooLong = Buffer.concat([preface, Buffer.from([RecordKind.frame, 11, 0, 0, 0])]);
    t.throws(() => reader().take(tooLong), MalformedError);
    const one = reader();
    one.take(preface);
    t.throws(() => one.take(Buffer.from([2, 0xff, 0xff, 0xff, 0xff])), MalformedError);
  },
);

t.test('strangers on the peers’ port get nothing or the reason, and harm nobody', async (t) => {
  const pair = await makeNodes(tcpHarness(), 2);
  const a = await pair.boot(pair.nodes[0]!);
  const { address } = a.transport;
  const [host, port] = [address.split(':')[0]!, Number(address.split(':')[1])];

  const sockets: Socket[] = [];
  const shouts = [
    'GET / HTTP/1.1\r\n\r\n',
    '\x16\x03\x01\x02\x00',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    '',
    'HSNPE',
    'HSNPEER1',
    'HSNPEER1\x01\x10\x00\x00\x00half',
    '\0'.repeat(5000),
  ];
  for (let i = 0; i < 304; i++) {
    const socket = connect(port, host);
    socket.on('error', () => {});
    socket.on('connect', () => socket.write(shouts[i % shouts.length]!, 'latin1'));
    sockets.push(socket);
  }
  await untilReal(() => sockets.every((socket) => !socket.connecting));

  // An SDK that was given the wrong port.
  const client = new Client(address, credentials.createInsecure());
  const error = await new Promise<ServiceError | null>((resolve) => {
    const raw = (bytes: Uint8Array) => Buffer.from(bytes);
    const deadline = Date.now() + 60_000;
    client.makeUnaryRequest(
      '/hansard.v1.MessageService/GetMessage',
      raw,
      raw,
      Buffer.alloc(9),
      { deadline },
      resolve,
    );
  });
  t.equal(error?.code, status.UNAVAILABLE);
  client.close();

  for (const garbage of ['', 'garbage', '\x0a\x05hello', '\0'.repeat(200)]) {
    const heard = await say(address, greeting(Buffer.from(garbage, 'latin1')));
    t.match(
      heard,
      { opened: true, records: [[RecordKind.rejection, /^MALFORMED_HELLO: /]] },
      JSON.stringify(garbage),
    );
  }
  const rejected = async (changes: Partial<typeof helloOf2>, why: RegExp): Promise<void> => {
    const heard = await say(address, greeting(encodeHello({ ...helloOf2, ...changes })));
    t.match(heard.records, [[RecordKind.rejection, why]], String(why));
  };
  await rejected({ from: 9 }, /^UNKNOWN_NODE/);
  await rejected({ from: 1 }, /^UNKNOWN_NODE/);
  await rejected({ to: 2 }, /^WRONG_NODE/);
  await rejected({ clusterId: 'd1'.repeat(16) }, /^FOREIGN_CLUSTER/);
  const future = encodeHello(helloOf2);
  future[4] = 9;
  t.match((await say(address, greeting(future))).records, [[RecordKind.rejection, /^PROTOCOL_VERSION/]]);
  const huge = await say(address, greeting(Buffer.alloc(100_000)));
  t.same(huge.records, [], 'a huge hello is not waited for');
  const twice = Buffer.concat([greeting(Buffer.from('x')), encodeRecord(RecordKind.frame, Buffer.from('y'))]);
  t.equal((await say(address, twice)).opened, true, 'frames to who sends them end it');

  t.same(pair.nodes[0]!.pins.size, 0, 'no stranger was pinned');
  const b = await pair.boot(pair.nodes[1]!);
  t.ok(await untilReal(() => isUp(a, 2) && isUp(b, 1)), 'the peer is let in beside them');
  b.transport.send(1, Buffer.from('hello'));
  t.ok(await untilReal(() => a.messages.length === 1));
  for (const socket of sockets) socket.destroy();
  await Promise.all([a.transport.stop(), b.transport.stop()]);
});

t.test('who says no hello is put out of the door', async (t) => {
  const network = createTcpNetwork({ bindAddress: '127.0.0.1:0', limits: { helloMs: 50 } });
  const listener = await network.listen(() => t.fail('nobody said a hello'));
  for (const said of ['', 'HSNPEER1', 'HSNPEER1\x01\x10\x00\x00\x00half'])
    await say(listener.address, Buffer.from(said, 'latin1'));
  t.pass('each was ended by the listener');
  await listener.close();
});

t.test('a hello that came while the acceptor stood still was in time', async (t) => {
  const helloMs = 2_000;
  const network = createTcpNetwork({ bindAddress: '127.0.0.1:0', limits: { helloMs } });
  const dials: string[] = [];
  const listener = await network.listen((hello) => dials.push(hello.toString()));
  const peer = connect(Number(listener.address.split(':')[1]), '127.0.0.1');
  let ended = false;
  peer.on('error', () => {});
  peer.on('close', () => {
    ended = true;
  });
  const hello = greeting(Buffer.from('in time'));
  peer.write(hello.subarray(0, preface.length));
  await once(peer, 'data'); // so it was let in, and its time runs
  peer.write(hello.subarray(preface.length));
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, helloMs + 100);
  t.ok(await untilReal(() => dials.length === 1 || ended));
  t.same(dials, ['in time']);
  peer.destroy();
  await listener.close();
});

t.test('an address that is none says nothing of a process: not refused', async (t) => {
  const network = createTcpNetwork({ bindAddress: '127.0.0.1:0' });
  // A port left out must not end up as a dial of one on which nobody can listen.
  for (const address of ['127.0.0.1', '127.0.0.1:0', '', 'two words', '127.0.0.1:99999']) {
    const ends: string[] = [];
    network.dial({ nodeId: 1, address }, Buffer.from('x'), {
      onOpen: () => t.fail('nobody is there'),
      onFrame: () => t.fail('nobody is there'),
      onClose: (kind, reason) => ends.push(`${kind} ${reason}`),
    });
    t.same(ends, [], 'not before dial returns');
    t.ok(await untilReal(() => ends.length > 0));
    t.same(ends, [`broken nobody can be dialled at '${address}': it is no host:port`]);
  }
});

t.test('a peer that stands still is given up by both ends, one that has nothing to say is not', async (t) => {
  const limits = { aliveMs: 20, silentLooks: 4 };
  const network = createTcpNetwork({ bindAddress: '127.0.0.1:0', limits });
  const ends: string[] = [];
  const listener = await network.listen((hello, stream) => stream.onClose(() => ends.push(hello.toString())));
  const dialled = (address: string, name: string) =>
    network.dial({ nodeId: 1, address }, Buffer.from(name), {
      onOpen: () => {},
      onFrame: () => {},
      onClose: (kind, reason) => ends.push(`${name} ${kind} ${reason}`),
    });
  const quiet = dialled(listener.address, 'quiet');
  // Says its hello, and then nothing, not even that it lives.
  const still = connect(Number(listener.address.split(':')[1]), '127.0.0.1');
  still.write(greeting(Buffer.from('still')));
  still.resume();
  t.ok(await untilReal(() => ends.length === 1));
  t.same(ends, ['still'], 'the acceptor gave it up');
  const silent = createServer((socket) => socket.write(preface));
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  dialled(`127.0.0.1:${(silent.address() as { port: number }).port}`, 'asked');
  t.ok(await untilReal(() => ends.length === 2));
  t.match(ends[1], /^asked broken nothing heard/);
  t.equal(ends.includes('quiet'), false);
  quiet.close();
  t.ok(await untilReal(() => ends.includes('quiet')));
  silent.close();
  await listener.close();
});

t.test('kill -9: the survivor hears broken, then refused', async (t) => {
  const h = tcpHarness();
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
  const pair = await makeNodes(tcpHarness(), 3);
  const a = await pair.boot(pair.nodes[0]!, { bulkQueueBytes: 4_000_000 });
  const c = await pair.boot(pair.nodes[2]!);
  t.ok(await untilReal(() => isUp(a, 3) && isUp(c, 1)));
  const lazy = connect(Number(a.transport.address.split(':')[1]), '127.0.0.1');
  lazy.on('error', () => {});
  lazy.write(greeting(encodeHello(helloOf2)));
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
  lazy.destroy();
  t.ok(await untilReal(() => state().queuedBytes === 0), 'and the end of the link empties it');
  await Promise.all([a.transport.stop(), c.transport.stop()]);
});

t.test('a server that accepts and says nothing is given up, and tried again', async (t) => {
  const h = tcpHarness();
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
  const first = await createTcpNetwork({ bindAddress: '127.0.0.1:0' }).listen(() => {});
  t.match(first.address, /^127\.0\.0\.1:[1-9]/);
  await t.rejects(
    createTcpNetwork({ bindAddress: first.address }).listen(() => {}),
    { name: 'HansardError', reason: 'ADDRESS_IN_USE' },
  );
  await t.rejects(
    createTcpNetwork({ bindAddress: '203.0.113.1:1' }).listen(() => {}),
    { name: 'HansardError', reason: 'INVALID_SETTINGS' },
  );
  await first.close();
});
