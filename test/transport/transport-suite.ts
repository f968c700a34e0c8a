/** Transport over either network: two or three nodes, their lives and their quarrels. */
import type { Test } from 'tap';
import type { PeerAddress } from '../../src/common/env.js';
import { storeIdBytes } from '../../src/common/hex-ids.js';
import type { NodeId } from '../../src/common/ids.js';
import { silentLogger } from '../../src/common/logger.js';
import type { SelfIdentity } from '../../src/transport/link.js';
import { createTransport } from '../../src/transport/transport.js';
import type { StorePins, Transport, TransportLimits } from '../../src/transport/types.js';
import type { Harness } from './harness.js';

export interface Life {
  readonly self: SelfIdentity;
  readonly transport: Transport;
  /** "from:text" */
  readonly messages: string[];
  readonly bytes: Buffer[];
  /** "up 2", "down 2 refused REPLICA_LOST" */
  readonly events: string[];
}

export interface NodeSetup {
  readonly nodeId: NodeId;
  readonly address: string;
  storeId: string;
  clusterId: string;
  incarnation: number;
  readonly pins: Map<NodeId, string>;
  pinDelayMs: number;
}

export interface Pair {
  readonly h: Harness;
  readonly nodes: NodeSetup[];
  boot(setup: NodeSetup, limits?: Partial<TransportLimits>): Promise<Life>;
}

const clusterId = 'c1'.repeat(16);
const id = (digit: number, bytes: number) => digit.toString(16).padStart(bytes * 2, '0');

export async function makeNodes(h: Harness, count: number): Promise<Pair> {
  const nodes: NodeSetup[] = [];
  for (let nodeId = 1; nodeId <= count; nodeId++) {
    const address = await h.freeAddress();
    nodes.push({
      nodeId,
      address,
      storeId: id(nodeId, storeIdBytes),
      clusterId,
      incarnation: 1,
      pins: new Map(),
      pinDelayMs: 1,
    });
  }
  let boots = 0;
  return {
    h,
    nodes,
    async boot(setup, limits = {}) {
      const { nodeId, address, storeId } = setup;
      const self: SelfIdentity = {
        clusterId: setup.clusterId,
        nodeId,
        storeId,
        bootId: id(++boots, storeIdBytes),
        incarnation: setup.incarnation,
      };
      const pins: StorePins = {
        getPinned: (peer) => setup.pins.get(peer),
        pin: (peer, pinned) =>
          new Promise((resolve) => {
            h.clock.after(setup.pinDelayMs, () => {
              setup.pins.set(peer, pinned);
              resolve();
            });
          }),
      };
      const peers: PeerAddress[] = nodes.map((node) => ({ nodeId: node.nodeId, address: node.address }));
      const network = h.network(nodeId, address);
      const transport = createTransport({
        self,
        peers,
        network,
        clock: h.clock,
        random: h.random,
        pins,
        logger: silentLogger,
        limits,
      });
      const life: Life = { self, transport, messages: [], bytes: [], events: [] };
      await transport.start({
        onMessage: (from, message) => {
          const copy = Buffer.from(message);
          life.bytes.push(copy);
          life.messages.push(`${from}:${copy.toString()}`);
        },
        onUp: (peer) => life.events.push(`up ${peer}`),
        onDown: (peer, kind, reason) => life.events.push(`down ${peer} ${kind} ${reason.split(':')[0]}`),
        onFetch: (peer, request, stream) => {
          const wanted = Number(Buffer.from(request).toString());
          life.events.push(`fetch ${peer} ${wanted}`);
          stream.onClose(() => life.events.push(`fetch of ${peer} over`));
          let next = 0;
          const pump = () => {
            while (next < wanted && stream.write(Buffer.alloc(100_000, next))) next++;
            if (next < wanted)
              next++; // the one that filled it
            else if (wanted === 13) stream.close('UNLUCKY: no');
          };
          stream.onDrain(pump);
          pump();
        },
      });
      return life;
    },
  };
}

export const isUp = (life: Life, peer: NodeId) =>
  life.transport.peers().find((state) => state.nodeId === peer)?.connected === true;
const say = (life: Life, to: NodeId, text: string, urgent = false) =>
  life.transport.send(to, Buffer.from(text), urgent);

export function transportSuite(t: Test, makeHarness: () => Harness): void {
  const { name } = makeHarness();

  t.test(`${name}: messages go both ways, in order, after the stores are pinned`, async (t) => {
    const pair = await makeNodes(makeHarness(), 3);
    const { h, nodes } = pair;
    const [a, b] = [await pair.boot(nodes[0]!), await pair.boot(nodes[1]!)];
    t.equal(say(a, 2, 'too early'), false, 'nothing is queued for a peer that is not there');
    t.ok(await h.until(() => isUp(a, 2) && isUp(b, 1)));
    t.same(nodes[0]!.pins, new Map([[2, nodes[1]!.storeId]]));
    t.same(nodes[1]!.pins, new Map([[1, nodes[0]!.storeId]]));
    t.ok(a.events.some((event) => event.startsWith('down 3 refused')));
    let taken = 0;
    for (let i = 0; i < 300; i++) if (say(a, 2, `a${i}`) && say(b, 1, `b${i}`)) taken++;
    t.equal(taken, 300);
    t.equal(say(a, 1, 'to myself'), false);
    t.equal(say(a, 9, 'to nobody'), false);
    t.ok(await h.until(() => a.messages.length === 300 && b.messages.length === 300));
    t.same(
      b.messages,
      Array.from({ length: 300 }, (_, i) => `1:a${i}`),
    );
    t.same(
      a.messages,
      Array.from({ length: 300 }, (_, i) => `2:b${i}`),
    );
    const state = a.transport.peers().find((peer) => peer.nodeId === 2)!;
    t.equal(state.storeId, nodes[1]!.storeId);
    t.equal(state.queuedBytes, 0);
    t.ok(state.sentBytes > 300 && state.receivedBytes > 300);
    t.equal(state.problem, undefined);
    const c = await pair.boot(nodes[2]!);
    t.ok(
      await h.until(() => [isUp(a, 3), isUp(b, 3), isUp(c, 1), isUp(c, 2)].every(Boolean)),
      'a third joins',
    );
    await Promise.all([a, b, c].map((life) => life.transport.stop()));
  });

  t.test(`${name}: a stream of its own beside the link, in order, ended by either side`, async (t) => {
    const pair = await makeNodes(makeHarness(), 3);
    const { h, nodes } = pair;
    const [a, b] = [await pair.boot(nodes[0]!), await pair.boot(nodes[1]!)];
    t.ok(await h.until(() => isUp(a, 2) && isUp(b, 1)));
    const fetch = (from: NodeId, request: string) => {
      const got = { frames: [] as number[], ends: [] as string[], stream: undefined as unknown };
      const stream = a.transport.fetch(from, Buffer.from(request), {
        onFrame: (frame) => got.frames.push(frame[0] as number),
        onEnd: (kind, reason) => got.ends.push(`${kind} ${reason.split(':')[0]}`),
      });
      return { ...got, close: () => stream.close() };
    };
    const bulk = fetch(2, '60');
    t.ok(await h.until(() => bulk.frames.length === 60), `${bulk.frames.length} frames`);
    t.same(
      bulk.frames,
      Array.from({ length: 60 }, (_, i) => i),
      'more than the stream takes at once, in order',
    );
    t.ok(say(a, 2, 'the link goes on'));
    t.ok(await h.until(() => b.messages.includes('1:the link goes on')));
    t.notOk(b.events.includes('fetch of 1 over'));
    bulk.close();
    t.ok(await h.until(() => b.events.includes('fetch of 1 over')), 'the sender learns of the end');
    t.same(bulk.ends, [], 'who closes hears no more');
    const unlucky = fetch(2, '13');
    t.ok(await h.until(() => unlucky.ends.length === 1));
    t.same(unlucky.ends, ['rejected UNLUCKY']);
    const gone = fetch(3, '1');
    t.ok(await h.until(() => gone.ends.length === 1));
    t.match(gone.ends[0], /^refused/);
    t.ok(isUp(a, 2) && isUp(b, 1), 'the links never noticed');
    const broken = fetch(2, '2');
    t.ok(await h.until(() => broken.frames.length === 2));
    await b.transport.stop();
    t.ok(await h.until(() => broken.ends.length === 1));
    t.match(broken.ends[0], /^broken/);
    await a.transport.stop();
  });

  t.test(`${name}: urgent ones overtake, bounds hold, order stays within a class`, async (t) => {
    const pair = await makeNodes(makeHarness(), 2);
    const { h, nodes } = pair;
    const limits = {
      bulkQueueBytes: 100_000,
      urgentQueueBytes: 1_000,
      frameBytes: 20_000,
      messageBytes: 300_000,
    };
    const [a, b] = [await pair.boot(nodes[0]!, limits), await pair.boot(nodes[1]!, limits)];
    t.ok(await h.until(() => isUp(a, 2) && isUp(b, 1)));
    const filler = 'x'.repeat(9_000);
    let bulk = 0;
    while (say(a, 2, `B${bulk}${filler}`)) bulk++;
    t.ok(bulk >= 10 && bulk <= 11, `${bulk} bulk messages fit`);
    let urgent = 0;
    while (say(a, 2, `U${urgent}`, true)) urgent++;
    t.ok(urgent > 100 && urgent < 200, `${urgent} urgent ones beside them`);
    t.equal(a.transport.peers()[0]?.droppedMessages, 2);
    t.ok(await h.until(() => b.messages.length === bulk + urgent));
    const got = b.messages.map((text) => text.replace(filler, ''));
    t.same(
      got.slice(0, urgent),
      Array.from({ length: urgent }, (_, i) => `1:U${i}`),
    );
    t.same(
      got.slice(urgent),
      Array.from({ length: bulk }, (_, i) => `1:B${i}`),
    );
    t.equal(say(a, 2, 'y'.repeat(300_001)), false, 'a message above the limit is refused');
    t.equal(say(a, 2, 'y'.repeat(300_000)), true, 'one above the queue but within the limit travels alone');
    t.ok(await h.until(() => b.messages.length === bulk + urgent + 1));
    t.equal(b.messages.at(-1)?.length, 300_002);
    await Promise.all([a.transport.stop(), b.transport.stop()]);
  });

  t.test(`${name}: a process that is gone is refused at once, and back after its start`, async (t) => {
    const pair = await makeNodes(makeHarness(), 2);
    const { h, nodes } = pair;
    const a = await pair.boot(nodes[0]!, { stableMs: 1 });
    let b = await pair.boot(nodes[1]!);
    t.ok(await h.until(() => isUp(a, 2) && isUp(b, 1)));
    await h.pass(5);
    a.events.length = 0;
    await b.transport.stop();
    t.ok(await h.until(() => a.events.some((event) => event.startsWith('down 2 refused'))));
    t.match(a.events[0], /^down 2 broken/, 'first broken, then refused');
    t.equal(a.events.length, 2, 'and each once');
    t.equal(say(a, 2, 'for the dead'), false);
    b = await pair.boot(nodes[1]!);
    t.ok(await h.until(() => isUp(a, 2) && isUp(b, 1)));
    t.ok(say(a, 2, 'for the living'));
    t.ok(await h.until(() => b.messages.length === 1));
    t.same(b.messages, ['1:for the living'], 'nothing of the earlier life arrives');
    t.same(a.events.slice(2), ['up 2']);
    await Promise.all([a.transport.stop(), b.transport.stop()]);
    t.equal(say(a, 2, 'after the end'), false);
    await a.transport.stop();
  });

  t.test(
    `${name}: who is foreign, lost, mistaken or of another time is rejected with the reason`,
    async (t) => {
      const cases: [string, (b: NodeSetup) => void, string][] = [
        [
          'another cluster',
          (b) => {
            b.clusterId = 'ff'.repeat(16);
          },
          'FOREIGN_CLUSTER',
        ],
        [
          'a new store',
          (b) => {
            b.storeId = 'ee'.repeat(8);
          },
          'REPLICA_LOST',
        ],
        [
          'another incarnation',
          (b) => {
            b.incarnation = 2;
          },
          'INCARNATION_CHANGED',
        ],
      ];
      for (const [what, change, reason] of cases) {
        const pair = await makeNodes(makeHarness(), 2);
        const { h, nodes } = pair;
        let b = await pair.boot(nodes[1]!);
        const a = await pair.boot(nodes[0]!);
        t.ok(await h.until(() => isUp(a, 2) && isUp(b, 1)));
        await b.transport.stop();
        change(nodes[1]!);
        b = await pair.boot(nodes[1]!);
        t.ok(await h.until(() => b.events.includes(`down 1 rejected ${reason}`)), `${what}: told so`);
        t.ok(
          await h.until(
            () =>
              a.events.includes(`down 2 rejected PEER_${reason}`) ||
              a.events.includes(`down 2 rejected ${reason}`),
          ),
          `${what}: the other side knows too`,
        );
        t.equal(say(a, 2, 'secret'), false, `${what}: nothing is sent to it`);
        say(b, 1, 'secret');
        await h.pass(30);
        t.same([...a.messages, ...b.messages], []);
        t.equal(nodes[0]!.pins.get(2), '0000000000000002', 'the pin stays');
        await Promise.all([a.transport.stop(), b.transport.stop()]);
      }
    },
  );

  t.test(`${name}: another node at the peer's address is not taken for it`, async (t) => {
    const pair = await makeNodes(makeHarness(), 3);
    const { h, nodes } = pair;
    const a = await pair.boot(nodes[0]!);
    const impostor = await pair.boot({ ...nodes[2]!, address: nodes[1]!.address });
    t.ok(await h.until(() => a.events.includes('down 2 rejected WRONG_NODE')));
    t.equal(isUp(a, 2), false);
    t.equal(nodes[0]!.pins.has(2), false, "its store is not pinned as the peer's");
    await Promise.all([a.transport.stop(), impostor.transport.stop()]);
  });

  t.test(`${name}: 40 MB in both directions through small windows`, async (t) => {
    const pair = await makeNodes(makeHarness(), 2);
    const { h, nodes } = pair;
    const [a, b] = [await pair.boot(nodes[0]!), await pair.boot(nodes[1]!)];
    t.ok(await h.until(() => isUp(a, 2) && isUp(b, 1)));
    const sizes = [3_000_000, 10, 70_000, 0, 500_000, 1_048_576, 1];
    const count = 60;
    const send = async (life: Life, to: NodeId) => {
      for (let i = 0; i < count; i++) {
        const message = Buffer.alloc(sizes[i % sizes.length]!, i);
        while (!life.transport.send(to, message)) await h.pass(2);
      }
    };
    await Promise.all([send(a, 2), send(b, 1)]);
    t.ok(await h.until(() => a.bytes.length === count && b.bytes.length === count, 20_000));
    for (const life of [a, b]) {
      t.ok(
        life.bytes.every((got, i) => got.equals(Buffer.alloc(sizes[i % sizes.length]!, i))),
        'as sent',
      );
    }
    await Promise.all([a.transport.stop(), b.transport.stop()]);
  });
}
