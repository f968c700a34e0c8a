/** Transport on a network that the seed breaks, slows, blocks and kills. */
import t from 'tap';
import { MalformedError } from '../../src/common/bytes.js';
import type { InStreamHandlers } from '../../src/common/env.js';
import { silentLogger } from '../../src/common/logger.js';
import { decodeFrame, encodeFrameHeader, encodeWelcome, linkFence } from '../../src/transport/frame.js';
import { decodeHello, encodeHello, type Hello, maxHelloBytes, noBootId } from '../../src/transport/hello.js';
import { createTransport } from '../../src/transport/transport.js';
import { SimRandom } from '../sim/sim-clock.js';
import { simHarness } from './harness.js';
import { isUp, type Life, makeNodes } from './transport-suite.js';

/** One seed: three nodes talk while links break and nodes die. Returns all that was seen, as text. */
async function chaos(seed: number, steps = 400): Promise<{ transcript: string; sent: number; got: number }> {
  const h = simHarness(seed);
  Object.assign(h.net.faults, {
    breakChance: 0.01,
    delayMaxMs: 20,
    bytesPerSecond: seed % 2 ? 150_000 : 0,
  });
  const pair = await makeNodes(h, 3);
  const random = new SimRandom(seed ^ 0x5eed);
  const lives: Life[] = [];
  const current: Life[] = [];
  const boot = async (nodeId: number) => {
    const life = await pair.boot(pair.nodes[nodeId - 1]!, { bulkQueueBytes: 2_000_000 });
    current[nodeId] = life;
    lives.push(life);
  };
  for (const setup of pair.nodes) await boot(setup.nodeId);
  let sent = 0;
  for (let step = 0; step < steps; step++) {
    const a = 1 + (random.u32() % 3);
    const b = 1 + ((a + (random.u32() % 2)) % 3);
    const life = current[a] as Life;
    for (let i = random.u32() % 8; i > 0; i--) {
      // What is said names both lives, so that the check below sees a message of an earlier one.
      // Some are large: a slow link then holds a backlog when it breaks.
      const padding = random.chance(0.3) ? ' '.repeat(100_000) : '';
      const text = `${life.self.bootId}>${current[b]?.self.bootId} ${String(sent).padStart(6, '0')}${padding}`;
      if (life.transport.send(b, Buffer.from(text))) sent++;
    }
    const dice = random.fraction();
    if (dice < 0.01) h.net.breakStreams(a, b);
    else if (dice < 0.03) h.net.block(a, b);
    else if (dice < 0.06) h.net.healAll();
    else if (dice < 0.07) {
      h.net.kill(a);
      void life.transport.stop();
      await boot(a);
    }
    await h.pass(random.u32() % 40);
  }
  h.net.healAll();
  h.net.faults.breakChance = 0;
  const [, one, two, three] = current as [undefined, Life, Life, Life];
  const all = () => [isUp(one, 2), isUp(one, 3), isUp(two, 1), isUp(two, 3), isUp(three, 1), isUp(three, 2)];
  if (!(await h.until(() => all().every(Boolean), 30_000))) throw new Error(`seed ${seed}: links stay down`);
  await h.pass(60_000);
  let got = 0;
  const transcript: string[] = [];
  for (const life of lives) {
    const last = new Map<string, number>();
    for (const message of life.messages) {
      const [, from, to, number] = /^\d:(\w+)>(\w+) (\d+) *$/.exec(message) as unknown as string[];
      got++;
      if (to !== life.self.bootId) throw new Error(`seed ${seed}: ${message} came to ${life.self.bootId}`);
      const before = last.get(from as string) ?? -1;
      if (Number(number) <= before) throw new Error(`seed ${seed}: ${message} after ${before}`);
      last.set(from as string, Number(number));
    }
    transcript.push(life.self.bootId, ...life.messages.map((text) => text.trimEnd()), ...life.events);
    await life.transport.stop();
  }
  return { transcript: transcript.join('\n'), sent, got };
}

t.test('whatever breaks: in order, never twice, never for another life, and up again after', async (t) => {
  let sent = 0;
  let got = 0;
  for (let seed = 1; seed <= 6; seed++) {
    const run = await chaos(seed);
    sent += run.sent;
    got += run.got;
  }
  t.ok(got > sent / 3 && got < sent, `${got} of ${sent} arrived`);
});

t.test('the same seed, the same story', async (t) => {
  const [first, again, other] = [await chaos(77, 100), await chaos(77, 100), await chaos(78, 100)];
  t.equal(first.transcript, again.transcript);
  t.not(first.transcript, other.transcript);
});

t.test('a blocked direction is silence, not an end; both directions are needed to be up', async (t) => {
  const h = simHarness();
  const pair = await makeNodes(h, 2);
  const [a, b] = [await pair.boot(pair.nodes[0]!), await pair.boot(pair.nodes[1]!)];
  t.ok(await h.until(() => isUp(a, 2) && isUp(b, 1)));
  h.net.block(1, 2);
  a.transport.send(2, Buffer.from('held'));
  b.transport.send(1, Buffer.from('passes'));
  await h.pass(3_000);
  t.same([a.messages, b.messages], [['2:passes'], []]);
  t.ok(isUp(a, 2) && isUp(b, 1), 'TCP says nothing');
  h.net.unblock(1, 2);
  await h.pass(100);
  t.same(b.messages, ['1:held'], 'sent again');

  h.net.block(1, 2);
  h.net.breakStreams(1, 2);
  await h.pass(10_000);
  t.notOk(isUp(a, 2) || isUp(b, 1), 'a dial needs the answer too');
  t.equal(a.transport.send(2, Buffer.from('nowhere')), false);
  h.net.healAll();
  t.ok(await h.until(() => isUp(a, 2) && isUp(b, 1), 7_000));
  await Promise.all([a.transport.stop(), b.transport.stop()]);
});

t.test('a killed process is noticed within milliseconds, a silent one is not', async (t) => {
  const h = simHarness();
  const pair = await makeNodes(h, 2);
  const [a, b] = [await pair.boot(pair.nodes[0]!), await pair.boot(pair.nodes[1]!)];
  t.ok(await h.until(() => isUp(a, 2) && isUp(b, 1)));
  await h.pass(2_000);
  a.events.length = 0;
  const killedAt = h.clock.monotonicMs();
  h.net.kill(2);
  t.ok(await h.until(() => a.events.length === 2, 1_000));
  t.match(a.events, [/^down 2 broken/, /^down 2 refused/]);
  t.ok(h.clock.monotonicMs() - killedAt < 10, 'broken, dialled again at once, refused');
  await b.transport.stop();
  await a.transport.stop();
});

t.test('nothing is said before the store is pinned; what comes in the meantime waits', async (t) => {
  const h = simHarness();
  const pair = await makeNodes(h, 2);
  pair.nodes[0]!.pinDelayMs = 500;
  const [a, b] = [await pair.boot(pair.nodes[0]!), await pair.boot(pair.nodes[1]!)];
  await h.pass(300);
  t.notOk(isUp(a, 2) || isUp(b, 1));
  t.equal(a.transport.send(2, Buffer.from('early')), false, 'not pinned yet');
  t.ok(b.transport.send(1, Buffer.from('meanwhile')), 'the other one has pinned');
  await h.pass(100);
  t.same(a.messages, []);
  t.ok(await h.until(() => isUp(a, 2) && isUp(b, 1), 3_000));
  t.same(a.messages, ['2:meanwhile']);
  await Promise.all([a.transport.stop(), b.transport.stop()]);

  const setup = { ...pair.nodes[0]!, pins: new Map<number, string>() };
  const broken = createTransport({
    self: {
      clusterId: setup.clusterId,
      nodeId: 1,
      storeId: setup.storeId,
      bootId: '99'.repeat(8),
      incarnation: 1,
    },
    peers: pair.nodes,
    network: h.network(1, setup.address),
    clock: h.clock,
    random: h.random,
    pins: { getPinned: () => undefined, pin: () => Promise.reject(new Error('disk is gone')) },
    logger: silentLogger,
  });
  const downs: string[] = [];
  await broken.start({
    onMessage: () => t.fail('unpinned'),
    onUp: () => t.fail('unpinned'),
    onDown: (_peer, kind, reason) => downs.push(`${kind} ${reason}`),
  });
  const peer = await pair.boot(pair.nodes[1]!);
  t.ok(await h.until(() => downs.some((down) => down.includes('disk is gone')), 5_000));
  t.equal(broken.send(2, Buffer.from('x')), false);
  await Promise.all([broken.stop(), peer.transport.stop()]);
});

t.test('a peer that speaks nonsense is cut off, and the cut is told', async (t) => {
  const h = simHarness();
  const pair = await makeNodes(h, 2);
  const a = await pair.boot(pair.nodes[0]!);
  const address = pair.nodes[1]!.address;
  const nonsense: [string, (hello: Hello) => Uint8Array[]][] = [
    ['no welcome', () => [Buffer.from('hello?')]],
    ['an empty frame', () => [new Uint8Array(0)]],
    ['a welcome to another life', (hello) => [welcome(hello, { answersBootId: '77'.repeat(8) })]],
    ['a welcome of another node', (hello) => [welcome(hello, { from: 3 })]],
    ['frames of another life', (hello) => [welcome(hello), frameOf(1, 1, [])]],
    ['a frame too many', (hello) => [welcome(hello), frame(hello, 2)]],
    ['a count that lies', (hello) => [welcome(hello), lie(frame(hello, 1))]],
    ['two welcomes', (hello) => [welcome(hello), welcome(hello)]],
  ];
  for (const [what, frames] of nonsense) {
    let cut = false;
    const listener = await h.network(2, address).listen((bytes, stream) => {
      for (const one of frames(decodeHello(bytes))) stream.write(one);
      stream.onClose(() => {
        cut = true;
      });
    });
    t.ok(await h.until(() => cut, 5_000), what);
    t.same(a.messages, []);
    await listener.close();
    await h.pass(10);
  }
  t.ok(a.events.some((event) => event.startsWith('down 2 broken malformed frame')));
  t.ok(a.events.some((event) => event.startsWith('down 2 rejected PEER_WRONG_NODE')));
  const b = await pair.boot(pair.nodes[1]!);
  t.notOk(isUp(a, 2));
  t.ok(await h.until(() => isUp(a, 2) && isUp(b, 1), 5_000), 'and a sensible one is welcome');
  await Promise.all([a.transport.stop(), b.transport.stop()]);
});

t.test('a handler that finds a message malformed breaks the link; a defect goes up', async (t) => {
  const h = simHarness();
  const pair = await makeNodes(h, 2);
  const b = await pair.boot(pair.nodes[1]!);
  const setup = pair.nodes[0]!;
  const transport = createTransport({
    self: {
      clusterId: setup.clusterId,
      nodeId: 1,
      storeId: setup.storeId,
      bootId: '99'.repeat(8),
      incarnation: 1,
    },
    peers: pair.nodes,
    network: h.network(1, setup.address),
    clock: h.clock,
    random: h.random,
    pins: { getPinned: () => pair.nodes[1]!.storeId, pin: async () => {} },
    logger: silentLogger,
  });
  const downs: string[] = [];
  await transport.start({
    onMessage: () => {
      throw new MalformedError('what is this');
    },
    onUp: () => {},
    onDown: (_peer, kind, reason) => downs.push(`${kind} ${reason}`),
  });
  t.ok(await h.until(() => isUp(b, 1), 5_000));
  b.transport.send(1, Buffer.from('x'));
  t.ok(await h.until(() => downs.length > 0, 1_000));
  t.same(downs, ['broken malformed frame: what is this']);
  await Promise.all([transport.stop(), b.transport.stop()]);
});

t.test('a hello survives nothing but itself', async (t) => {
  const bytes = encodeHello(sample);
  t.same(decodeHello(bytes), sample);
  t.equal(
    bytes.toString('hex'),
    '48534e500100abababababababababababababababab010000000200000001020304050607080807060504030201' +
      `03000000000000000000000000000000${'00'}${bytes.subarray(-8).toString('hex')}`,
    'golden',
  );
  for (let at = 0; at < bytes.length; at++) {
    const damaged = Buffer.from(bytes);
    damaged[at]! ^= 1;
    t.throws(() => decodeHello(damaged), MalformedError) || t.fail(`byte ${at}`);
  }
  t.throws(() => decodeHello(Buffer.alloc(maxHelloBytes + 1)), MalformedError, 'too long');
  const frame = frameOf(5, 1, [Buffer.from('a'), Buffer.alloc(0)]);
  t.same(decodeFrame(frame, 5, 1).map(String), ['a', '']);
  t.equal(frame.toString('hex'), '0205000000010000000200000001000000' + '61' + '00000000', 'golden');
  for (let cut = 0; cut < frame.length; cut++) {
    t.throws(() => decodeFrame(frame.subarray(0, cut), 5, 1), MalformedError) || t.fail(`cut at ${cut}`);
  }
});

t.test('handlers of the simulated network are never called inside dial or write', async (t) => {
  const h = simHarness();
  let inside = false;
  const handlers: InStreamHandlers = {
    onOpen: () => t.notOk(inside),
    onFrame: () => t.notOk(inside),
    onClose: () => t.notOk(inside),
  };
  await h.network(1, 'x:1').listen((_hello, stream) => {
    inside = true;
    stream.write(Buffer.from('1'));
    stream.close();
    inside = false;
  });
  inside = true;
  h.network(2, 'y:1').dial({ nodeId: 1, address: 'x:1' }, Buffer.from('h'), handlers);
  h.network(2, 'y:1').dial({ nodeId: 1, address: 'z:1' }, Buffer.from('h'), handlers);
  inside = false;
  await h.pass(100);
});

const sample: Hello = {
  clusterId: 'ab'.repeat(16),
  from: 1,
  to: 2,
  storeId: '0102030405060708',
  bootId: '0807060504030201',
  incarnation: 3,
  answersBootId: noBootId,
};

function welcome(hello: Hello, changes: Partial<Hello> = {}): Buffer {
  return encodeWelcome(encodeHello({ ...reply(hello), ...changes }));
}

function reply(hello: Hello): Hello {
  return {
    ...hello,
    from: hello.to,
    to: hello.from,
    storeId: '0000000000000002',
    bootId: '66'.repeat(8),
    answersBootId: hello.bootId,
  };
}

function frame(hello: Hello, sequence: number): Buffer {
  const message = Buffer.from('x');
  return frameOf(linkFence(reply(hello).bootId, hello.bootId), sequence, [message]);
}

function frameOf(link: number, sequence: number, messages: readonly Buffer[]): Buffer {
  const behindLengths = messages.flatMap((message) => {
    const length = Buffer.alloc(4);
    length.writeUInt32LE(message.length);
    return [length, message];
  });
  return Buffer.concat([encodeFrameHeader(link, sequence, messages.length), ...behindLengths]);
}

function lie(bytes: Buffer): Buffer {
  bytes.writeUInt32LE(0xffff_ffff, 9);
  return bytes;
}
