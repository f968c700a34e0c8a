/** A worker of a durable subscription, against a node that says exactly what the test wants, in the order that it wants. */
import { Duplex } from 'node:stream';
import t from 'tap';
import type { ConsumeOptions, WorkItem } from '../../src/client/index.js';
import type { Router } from '../../src/client/router.js';
import type { SubscriptionInfo } from '../../src/client/subscription-wire.js';
import { SubscriptionWorker } from '../../src/client/subscription-worker.js';
import { xxh64 } from '../../src/common/hash.js';
import { codec } from './fake-cluster.js';

t.setTimeout(30_000);

const requests = codec('hansard.v1.ConsumeRequest');
const responses = codec('hansard.v1.ConsumeResponse');

interface Note {
  readonly channel: string;
  readonly lease: string;
  readonly seq?: string;
  readonly error?: string;
}
interface Said {
  readonly start?: { readonly held: readonly { readonly lease: string; readonly seq: string }[] };
  readonly acks: readonly Note[];
  readonly nacks: readonly Note[];
  readonly extensions: readonly Note[];
}

/** One stream at the node. */
class Stream extends Duplex {
  readonly said: Said[] = [];
  constructor() {
    super({ objectMode: true, writableHighWaterMark: 1_000 });
  }
  override _read(): void {}
  override _write(message: Buffer, _encoding: string, done: () => void): void {
    this.said.push(requests.deserialize(message) as unknown as Said);
    done();
  }
  override _final(done: () => void): void {
    done();
    this.emit('status');
  }
  cancel(): void {}
  deliver(channel: string, lease: number, ...seqs: number[]): void {
    const events = seqs.map((seq) => ({ seq, content_xxh64: String(xxh64(Buffer.alloc(0))) }));
    this.push(responses.serialize({ delivery: { channel, channel_uid: 'u', lease, deliveries: 1, events } }));
  }
  all<K extends 'acks' | 'nacks' | 'extensions'>(kind: K): Note[] {
    return this.said.flatMap((each) => each[kind]);
  }
}

class Stage {
  readonly streams: Stream[] = [];
  readonly worker: SubscriptionWorker;

  constructor(t: { teardown(fn: () => unknown): void }, options: ConsumeOptions, ackDeadlineMs = 30_000) {
    const duplex = (): Promise<Duplex> => {
      const stream = new Stream();
      this.streams.push(stream);
      return Promise.resolve(stream);
    };
    const router = {
      options: { timeoutMs: 5_000 },
      isClosed: false,
      partitionOf: () => 0,
      leaderLink: () => ({ address: 'node', duplex }),
      hint: () => undefined,
      distrust: () => undefined,
      refresh: () => undefined,
    } as unknown as Router;
    const info = { settings: { ackDeadlineMs } } as unknown as SubscriptionInfo;
    this.worker = new SubscriptionWorker(router, 'acme', 'work', options, () => Promise.resolve(info));
    t.teardown(() => this.worker.stop({ timeoutMs: 10 }));
  }

  /** The latest one, where there are so many. */
  async stream(count: number): Promise<Stream> {
    await until(() => this.streams.length >= count);
    return this.streams[count - 1] as Stream;
  }
}

async function until(isSo: () => boolean): Promise<void> {
  const endMs = Date.now() + 10_000;
  while (!isSo()) {
    if (Date.now() > endMs) throw new Error(`did not come: ${isSo}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

t.test('what was on its way when an event before it failed is not handled under that lease', async (t) => {
  const handled: number[] = [];
  const stage = new Stage(t, {
    creditEvents: 10,
    handler: ({ event }: WorkItem) => {
      handled.push(event.seq);
      if (event.seq === 2 && handled.length === 2) throw new Error('once');
    },
  });
  const stream = await stage.stream(1);
  stream.deliver('c', 7, 1, 2);
  await until(() => stream.all('nacks').length === 1);
  // The node has not heard of it yet.
  stream.deliver('c', 7, 3, 4);
  stream.deliver('other', 8, 1);
  await until(() => stream.all('acks').some(({ channel }) => channel === 'other'));
  stream.deliver('c', 9, 2);
  stream.deliver('c', 9, 3);
  await until(() => stream.all('acks').some(({ lease, seq }) => lease === '9' && seq === '3'));
  t.same(handled, [1, 2, 1, 2, 3], 'after 2 had failed, 2 is next');
  t.same(
    stream.all('acks').filter(({ lease, seq }) => lease === '7' && Number(seq) > 1),
    [],
    'what failed is not acknowledged with what is behind it',
  );
  const granted = stream.said.reduce((sum, said) => sum + creditOf(said), 0);
  t.equal(granted, 7, 'all that was received is granted again');
});

function creditOf(said: object): number {
  const { credit } = said as { credit?: { events?: string | number } };
  return Number(credit?.events ?? 0);
}
