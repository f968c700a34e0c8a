/** A worker of a durable subscription, against a node that says exactly what the test wants, in the order that it wants. */
import { Duplex } from 'node:stream';
import t from 'tap';
import type { ConsumeOptions, WorkItem } from '../../src/client/index.js';
import type { Router } from '../../src/client/router.js';
import type { SubscriptionInfo } from '../../src/client/subscription-types.js';
import { SubscriptionWorker } from '../../src/client/subscription-worker.js';
import { HansardError } from '../../src/common/errors.js';
import { xxh64 } from '../../src/common/hash.js';
import { patienceMs, until } from '../support/until.js';
import { codec } from './fake-cluster.js';

t.setTimeout(600_000);

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
    setImmediate(() => this.emit('status'));
  }
  cancel(): void {}
  /** Nothing that is said from here on is heard. */
  break(): void {
    this.push(null);
  }
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
  isDown = false;
  readonly worker: SubscriptionWorker;

  constructor(t: { teardown(fn: () => unknown): void }, options: ConsumeOptions, ackDeadlineMs = 30_000) {
    const duplex = (): Promise<Duplex | HansardError> => {
      if (this.isDown) return Promise.resolve(new HansardError('UNREACHABLE', 'the node is down'));
      const stream = new Stream();
      this.streams.push(stream);
      return Promise.resolve(stream);
    };
    const router = {
      options: { timeoutMs: patienceMs },
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
    await until('it comes', () => this.streams.length >= count);
    return this.streams[count - 1] as Stream;
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
  await until('it comes', () => stream.all('nacks').length === 1);
  // The node has not heard of it yet.
  stream.deliver('c', 7, 3, 4);
  stream.deliver('other', 8, 1);
  await until('it comes', () => stream.all('acks').some(({ channel }) => channel === 'other'));
  stream.deliver('c', 9, 2);
  stream.deliver('c', 9, 3);
  await until('it comes', () => stream.all('acks').some(({ lease, seq }) => lease === '9' && seq === '3'));
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

t.test('a failure is said again to the next leader, with its lease and what was done before', async (t) => {
  let fail = (): void => undefined;
  const stage = new Stage(t, {
    handler: ({ event }: WorkItem) =>
      event.seq === 1
        ? undefined
        : new Promise((_, reject) => {
            fail = () => reject(new Error('failed'));
          }),
  });
  const first = await stage.stream(1);
  first.deliver('c', 7, 1, 2, 3);
  await until('it comes', () => first.all('acks').length === 1);
  first.break();
  fail();
  const said = (stream: Stream) => stream.all('nacks').map(({ lease, error }) => `${lease} ${error}`);
  const second = await stage.stream(2);
  await until('it comes', () => said(second).length > 0);
  t.match(
    second.said[0]?.start,
    { held: [{ lease: '7', seq: '3' }] },
    'its lease is not given back as unheard of',
  );
  t.same(said(second), ['7 failed']);
  // Perhaps it was not heard.
  second.break();
  const third = await stage.stream(3);
  await until('it comes', () => said(third).length > 0);
  t.match(third.said[0]?.start, { held: [{ lease: '7', seq: '3' }] });
  t.same(said(third), ['7 failed']);
  t.match(third.all('acks'), [{ channel: 'c', lease: '7', seq: '1' }], 'what came before it stays done');
});

t.test('what was done of a lease is said before it is given back, however much is to be said', async (t) => {
  let open = (): void => undefined;
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  let waiting = 0;
  const stage = new Stage(t, {
    concurrency: 1_000,
    handler: async ({ channel, event }: WorkItem) => {
      if (channel === 'last' && event.seq === 2) throw new Error('failed');
      waiting++;
      await gate;
    },
  });
  const stream = await stage.stream(1);
  for (let i = 1; i <= 400; i++) stream.deliver(`c${i}`, i, 1);
  stream.deliver('last', 500, 1, 2);
  await until('it comes', () => waiting === 401);
  open();
  await until('it comes', () => stream.all('nacks').length === 1 && stream.all('acks').length === 401);
  const ackAt = stream.said.findIndex(({ acks }) => acks.some(({ channel }) => channel === 'last'));
  const nackAt = stream.said.findIndex(({ nacks }) => nacks.length > 0);
  t.ok(ackAt <= nackAt, `message ${ackAt} has the acknowledgement, message ${nackAt} the failure`);
});

t.test('a lease that is worked on through an outage is prolonged once behind it', async (t) => {
  const stage = new Stage(t, { handler: () => new Promise(() => undefined) }, 300);
  const first = await stage.stream(1);
  first.deliver('c', 7, 1);
  await until('it comes', () => first.all('extensions').length > 0);
  stage.isDown = true;
  first.break();
  await new Promise((resolve) => setTimeout(resolve, 1_200));
  stage.isDown = false;
  const second = await stage.stream(2);
  await until('it comes', () => second.all('extensions').length > 0);
  const [message] = second.said.filter(({ extensions }) => extensions.length > 0);
  t.equal(message?.extensions.length, 1);
});
