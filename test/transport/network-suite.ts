/** What every Network promises (src/common/env.ts). */
import type { Test } from 'tap';
import type { InStream, Network, NetworkListener, OutStream } from '../../src/common/env.js';
import type { Harness } from './harness.js';

interface Dialled {
  stream: InStream;
  opened: boolean;
  frames: Uint8Array[];
  closes: [string, string][];
}

function dial(network: Network, address: string, hello: Uint8Array): Dialled {
  const dialled: Dialled = { stream: { close() {} }, opened: false, frames: [], closes: [] };
  dialled.stream = network.dial({ nodeId: 1, address }, hello, {
    onOpen: () => {
      dialled.opened = true;
    },
    onFrame: (frame) => dialled.frames.push(Uint8Array.from(frame)),
    onClose: (kind, reason) => dialled.closes.push([kind, reason]),
  });
  return dialled;
}

interface Accepted {
  hello: Buffer;
  stream: OutStream;
  closes: number;
  drains: number;
}

async function listenOn(h: Harness): Promise<{
  accepted: Accepted[];
  listener: NetworkListener;
  dialler: Network;
}> {
  const address = await h.freeAddress();
  const accepted: Accepted[] = [];
  const listener = await h.network(1, address).listen((hello, stream) => {
    const one: Accepted = { hello: Buffer.from(hello), stream, closes: 0, drains: 0 };
    stream.onClose(() => one.closes++);
    stream.onDrain(() => one.drains++);
    accepted.push(one);
  });
  return { accepted, listener, dialler: h.network(2, await h.freeAddress()) };
}

export function networkSuite(t: Test, makeHarness: () => Harness): void {
  const { name } = makeHarness();

  t.test(`${name}: frames arrive whole and in order, whatever their size`, async (t) => {
    const h = makeHarness();
    const { accepted, listener, dialler } = await listenOn(h);
    const hello = Buffer.from('hello \u0000 there');
    const dialled = dial(dialler, listener.address, hello);
    t.equal(dialled.opened, false, 'no handler runs before dial returns');
    t.ok(await h.until(() => dialled.opened && accepted.length === 1));
    t.same(accepted[0]?.hello, hello);
    const sizes = [0, 1, 127, 128, 16_383, 16_384, 70_000, 1_048_576, 4_194_304, 3];
    for (const [i, size] of sizes.entries()) accepted[0]?.stream.write(Buffer.alloc(size, i + 1));
    t.ok(await h.until(() => dialled.frames.length === sizes.length), 'all came');
    t.same(
      dialled.frames.map((frame) => [frame.length, frame[0], frame.at(-1)]),
      sizes.map((size, i) => (size === 0 ? [0, undefined, undefined] : [size, i + 1, i + 1])),
    );
    dialled.stream.close();
    t.ok(await h.until(() => accepted[0]?.closes === 1), 'the sender learns that the dialler left');
    t.equal(accepted[0]?.stream.write(Buffer.alloc(1)), false, 'nothing is taken after the end');
    t.same(dialled.closes, [], 'who closes is not told so');
    await listener.close();
  });

  t.test(`${name}: what was written is the writer's again, in however many pieces it came`, async (t) => {
    const h = makeHarness();
    const { accepted, listener, dialler } = await listenOn(h);
    const dialled = dial(dialler, listener.address, Buffer.from('x'));
    t.ok(await h.until(() => accepted.length === 1));
    const sizes = [1, 100, 4_091, 4_096, 65_531, 300_000, 1_500_000, 3_000_000];
    // Each twice, so that memory which was used for a frame is used for another.
    for (const size of [...sizes, ...sizes]) {
      const pieces = [Buffer.alloc(size, size % 251), Buffer.alloc(0), Buffer.alloc(7, 1)];
      accepted[0]?.stream.write(pieces[0] as Buffer, pieces.slice(1));
      for (const piece of pieces) piece.fill(0xee);
    }
    t.ok(await h.until(() => dialled.frames.length === 2 * sizes.length), 'all came');
    for (const [i, frame] of dialled.frames.entries()) {
      const size = sizes[i % sizes.length] as number;
      t.ok(
        Buffer.concat([Buffer.alloc(size, size % 251), Buffer.alloc(7, 1)]).equals(frame),
        `frame ${i} of ${size} bytes`,
      );
    }
    dialled.stream.close();
    await listener.close();
  });

  t.test(`${name}: a full stream says so and drains`, async (t) => {
    const h = makeHarness();
    const { accepted, listener, dialler } = await listenOn(h);
    const dialled = dial(dialler, listener.address, Buffer.from('x'));
    t.ok(await h.until(() => accepted.length === 1));
    const one = accepted[0] as Accepted;
    let sent = 0;
    for (let i = 0; i < 64; i++) {
      sent++;
      if (!one.stream.write(Buffer.alloc(1_000_000, 7))) break;
    }
    t.ok(sent < 64, `false after ${sent} MB`);
    t.ok(await h.until(() => one.drains === 1), 'drained');
    t.ok(await h.until(() => dialled.frames.length === sent), 'nothing was lost');
    dialled.stream.close();
    await listener.close();
  });

  t.test(`${name}: how a stream ends is told apart`, async (t) => {
    const h = makeHarness();
    const { accepted, listener, dialler } = await listenOn(h);
    const nobody = dial(dialler, await h.freeAddress(), Buffer.from('x'));
    t.ok(await h.until(() => nobody.closes.length === 1));
    t.equal(nobody.closes[0]?.[0], 'refused');

    const unwanted = dial(dialler, listener.address, Buffer.from('x'));
    t.ok(await h.until(() => accepted.length === 1));
    accepted[0]?.stream.close('REPLICA_LOST: tenant “ü”, 100 % gone');
    t.ok(await h.until(() => unwanted.closes.length === 1));
    t.same(unwanted.closes[0], ['rejected', 'REPLICA_LOST: tenant “ü”, 100 % gone']);
    t.ok(await h.until(() => accepted[0]?.closes === 1), 'the sender is told too');

    const left = dial(dialler, listener.address, Buffer.from('x'));
    t.ok(await h.until(() => accepted.length === 2 && left.opened));
    accepted[1]?.stream.close();
    accepted[1]?.stream.close('twice does nothing');
    t.ok(await h.until(() => left.closes.length === 1));
    t.equal(left.closes[0]?.[0], 'broken');

    const open = dial(dialler, listener.address, Buffer.from('x'));
    t.ok(await h.until(() => accepted.length === 3 && open.opened));
    await listener.close();
    t.ok(
      await h.until(() => open.closes.length === 1 && accepted[2]?.closes === 1),
      'ends with its listener',
    );
    t.equal(open.closes[0]?.[0], 'broken');
    const late = dial(dialler, listener.address, Buffer.from('x'));
    t.ok(await h.until(() => late.closes.length === 1));
    t.equal(late.closes[0]?.[0], 'refused', 'nobody listens any more');
    await h.pass(20);
    t.same(
      [nobody, unwanted, left, open, late].map((d) => d.closes.length),
      [1, 1, 1, 1, 1],
      'each told once',
    );
    t.same(
      accepted.map((a) => a.closes),
      [1, 1, 1],
    );
  });

  t.test(`${name}: many streams, one listener`, async (t) => {
    const h = makeHarness();
    const { accepted, listener, dialler } = await listenOn(h);
    const all = Array.from({ length: 30 }, (_, i) => dial(dialler, listener.address, Buffer.from([i])));
    t.ok(await h.until(() => accepted.length === 30));
    for (const one of accepted) one.stream.write(one.hello);
    t.ok(await h.until(() => all.every((d) => d.frames.length === 1)));
    t.ok(all.every((d, i) => d.frames[0]?.[0] === i));
    for (const d of all) d.stream.close();
    t.ok(await h.until(() => accepted.every((a) => a.closes === 1)));
    await listener.close();
  });
}
