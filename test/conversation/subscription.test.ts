/** Durable subscriptions in the state machine: what each step does, and a model's random life against what it promises. */
import fc from 'fast-check';
import t from 'tap';
import { ByteReader, ByteWriter } from '../../src/common/bytes.js';
import { applyEntry } from '../../src/conversation/apply.js';
import { applyLimits } from '../../src/conversation/apply-limits.js';
import { decodeCommand, encodeEntry, encodeMoveCursor, encodeOnce } from '../../src/conversation/command.js';
import {
  encodeCreateSubscription,
  encodeDeadLetters,
  encodeDeleteSubscription,
  encodeSeekSubscription,
  encodeStep,
  encodeUpdateSubscription,
  type StepOp,
} from '../../src/conversation/subscription-command.js';
import {
  deadKey,
  isOwnLease,
  readSubscription,
  type SubscriptionState,
  writeSubscription,
} from '../../src/conversation/subscription-state.js';
import type { CommandAnswer } from '../../src/conversation/types.js';
import { ModelState } from './model-state.js';

const on = { tenant: 'default', name: 's' };
const settings = {
  description: '',
  ackDeadlineMs: 10_000,
  maxDeliveries: 2,
  retryDelayMs: 1_000,
  maxPendingChannels: 100,
  paused: false,
};
const selector = { channels: [], prefix: '', label: undefined, types: [] };
const place = (n: number) => Uint8Array.of(n);
const start = { fromTimeUs: 0, places: new Map([[0, place(0)]]) };
const startUs = 1_700_000_000_000_000;

class Bench {
  readonly state = new ModelState();
  nowUs = startUs;
  index = 0;

  one(command: Uint8Array): CommandAnswer {
    const data = encodeEntry([command], this.nowUs, 4);
    const { answers } = applyEntry(this.state, { index: ++this.index, term: 1, data });
    return answers[0] as CommandAnswer;
  }

  create(more: Partial<typeof settings> = {}): this {
    this.one(
      encodeCreateSubscription({
        ...on,
        requestId: 'r',
        selector,
        settings: { ...settings, ...more },
        ...start,
      }),
    );
    return this;
  }

  get it(): SubscriptionState {
    return this.state.subscription(on.tenant, on.name) as SubscriptionState;
  }

  step(...ops: StepOp[]): readonly number[] {
    const { uid, version } = this.it;
    const answer = this.one(encodeStep({ ...on, uid, version, ops }));
    return answer.kind === 'stepped' ? answer.results : [];
  }

  take(channel: string, firstSeq: number, lastSeq: number): readonly number[] {
    const ranges = [{ channel, firstSeq, lastSeq, sinceUs: this.nowUs }];
    return this.step({ kind: 'take', partition: 0, place: place(lastSeq), ranges });
  }

  lease(channel: string, toSeq: number, consumer = 'a'): number {
    return this.step({ kind: 'lease', channel, consumer, toSeq })[0] as number;
  }

  ack(channel: string, lease: number, seq: number): number {
    return this.step({ kind: 'ack', channel, lease, seq, nextUs: 0 })[0] as number;
  }

  nack(channel: string, lease: number, counted = true): number {
    return this.step({ kind: 'nack', channel, lease, delayMs: 0, counted, error: 'no' })[0] as number;
  }
}

t.test('a subscription is made once, changed under its revision, and gone when it is deleted', async (t) => {
  const b = new Bench().create();
  const { uid } = b.it;
  const again = (requestId: string) =>
    b.one(encodeCreateSubscription({ ...on, requestId, selector, settings, ...start }));
  t.match(again('r'), { kind: 'subscription', subscription: { uid } }, 'the first answer again');
  t.match(again('other'), { kind: 'refused', reason: 'SUBSCRIPTION_EXISTS' });
  const wrong = { uid, revision: 7 };
  t.match(b.one(encodeUpdateSubscription({ ...on, expected: wrong, settings })), {
    reason: 'SUBSCRIPTION_CHANGED',
  });
  const changed = { ...settings, paused: true };
  b.one(encodeUpdateSubscription({ ...on, expected: { uid, revision: 1 }, settings: changed }));
  t.match(b.it, { revision: 2, settings: { paused: true } });
  const reselect = {
    selector: { ...selector, prefix: 'other/' },
    places: new Map([
      [0, place(9)],
      [3, place(7)],
    ]),
  };
  const kept = b.it.places.get(0);
  b.one(encodeUpdateSubscription({ ...on, expected: undefined, settings, reselect }));
  t.match(b.it, { revision: 3, selector: { prefix: 'other/' } });
  t.same(
    [...b.it.places],
    [
      [0, kept],
      [3, place(7)],
    ],
    'it goes on where it stands, and begins elsewhere',
  );
  const long = { ...reselect, selector: { ...selector, prefix: 'x'.repeat(300) } };
  t.match(b.one(encodeUpdateSubscription({ ...on, expected: undefined, settings, reselect: long })), {
    reason: 'INVALID_ARGUMENT',
    fields: { field: 'selector' },
  });
  t.match(
    b.one(
      encodeUpdateSubscription({ ...on, expected: undefined, settings: { ...settings, ackDeadlineMs: 1 } }),
    ),
    {
      reason: 'INVALID_ARGUMENT',
      fields: { field: 'ack_deadline' },
    },
  );
  t.match(b.one(encodeDeleteSubscription({ ...on, expected: undefined })), { kind: 'done' });
  t.match(b.one(encodeDeleteSubscription({ ...on, expected: undefined })), {
    reason: 'SUBSCRIPTION_NOT_FOUND',
  });
  t.equal(b.state.meta.subscriptionCount, 0);
  b.create();
  t.not(b.it.uid, uid, 'another life of the name');
});

t.test(
  'commands of apply version 4 are refused before it, and there is a bound on how many there are',
  async (t) => {
    const old = new Bench();
    old.state.meta.settings.applyVersion = 3;
    t.match(old.one(encodeCreateSubscription({ ...on, requestId: '', selector, settings, ...start })), {
      kind: 'refused',
      reason: 'NOT_IMPLEMENTED',
    });
    const b = new Bench();
    for (let i = 0; i < applyLimits.subscriptionsPerPartition; i++) {
      const name = `s${i}`;
      b.one(
        encodeCreateSubscription({ tenant: 'default', name, requestId: '', selector, settings, ...start }),
      );
    }
    t.match(b.one(encodeCreateSubscription({ ...on, requestId: '', selector, settings, ...start })), {
      reason: 'TOO_MANY_SUBSCRIPTIONS',
    });
  },
);

t.test('one consumer has a channel; what it says under a lost lease counts for nothing', async (t) => {
  const b = new Bench().create();
  b.take('c', 1, 5);
  const lease = b.lease('c', 3);
  t.ok(lease > 0);
  t.equal(b.lease('c', 5, 'b'), 0, 'not to another one meanwhile');
  t.equal(b.lease('c', 5, 'a'), lease, 'more of it to the same one');
  t.equal(b.ack('c', lease, 6), 0, 'not beyond what was delivered');
  t.equal(b.ack('c', lease, 2), 1);
  t.equal(b.ack('c', lease, 1), 1, 'said again: it stays done');
  t.equal(b.nack('c', lease), 1);
  t.equal(b.ack('c', lease, 5), 0, 'it was given back');
  const next = b.lease('c', 5, 'b');
  t.ok(next > lease);
  t.match(b.it.channels.get('c'), { acked: 2, deliveries: 2, lease: { consumer: 'b', toSeq: 5 } });
  t.equal(b.ack('c', next, 5), 1);
  t.notOk(b.it.channels.has('c'), 'all of it is done');
  t.match(b.it, { ackedCount: 5, deliveredCount: 1, redeliveredCount: 1 });
});

t.test(
  'a deadline is of commit time; it can be extended, and an acknowledgement begins it anew',
  async (t) => {
    const b = new Bench().create();
    b.take('c', 1, 5);
    const lease = b.lease('c', 5);
    const expire = () => b.step({ kind: 'expire', channel: 'c', lease })[0];
    b.nowUs += 9_999_999;
    t.equal(expire(), 0, 'not yet');
    t.equal(b.step({ kind: 'extend', channel: 'c', lease, byMs: 5_000 })[0], 1);
    b.nowUs += 4_999_999;
    t.equal(expire(), 0);
    b.ack('c', lease, 1);
    b.nowUs += 9_999_999;
    t.equal(expire(), 0);
    b.nowUs += 1;
    t.equal(expire(), 1);
    t.match(b.it.channels.get('c'), {
      acked: 1,
      deliveries: 1,
      retryUs: b.nowUs + 1_000_000,
      lease: undefined,
    });
    t.equal(b.lease('c', 5), 0, 'not before its delay');
    b.nowUs += 1_000_000;
    t.ok(b.lease('c', 5));
  },
);

t.test(
  'what fails too often becomes a dead letter, and can be delivered again alone and first',
  async (t) => {
    const b = new Bench().create();
    b.take('c', 1, 3);
    const bury = (seq: number) => b.step({ kind: 'bury', channel: 'c', seq })[0];
    b.nack('c', b.lease('c', 3));
    t.equal(bury(1), 0, 'not before it was delivered so often');
    b.nack('c', b.lease('c', 1), false);
    t.equal(bury(1), 0, 'a delivery that was not tried does not count');
    b.nack('c', b.lease('c', 1));
    t.equal(bury(1), 1);
    t.match([...b.it.deadLetters.values()], [{ channel: 'c', seq: 1, deliveries: 2, error: 'no' }]);
    t.match(b.it.channels.get('c'), { acked: 1, deliveries: 0 });
    t.match(b.one(encodeDeadLetters({ ...on, replay: true, letters: [{ channel: 'c', seq: 1 }] })), {
      count: 1,
    });
    t.equal(b.lease('c', 3), 0, 'the dead letter first');
    const lease = b.lease('c', 1);
    t.match(b.it.channels.get('c')?.lease, { isReplay: true });
    t.equal(b.ack('c', lease, 1), 1);
    b.ack('c', b.lease('c', 3), 3);
    t.equal(b.it.channels.size, 0);
    t.match(b.one(encodeDeadLetters({ ...on, replay: false, letters: [] })), { count: 0 });
  },
);

t.test('a seek forgets what is pending, and acknowledgements from before it', async (t) => {
  const b = new Bench().create();
  b.take('c', 1, 3);
  const lease = b.lease('c', 3);
  b.one(encodeSeekSubscription({ ...on, expected: undefined, dropDeadLetters: false, ...start }));
  t.equal(b.it.channels.size, 0);
  b.take('c', 1, 3);
  t.equal(b.ack('c', lease, 3), 0);
  t.notOk(isOwnLease(b.it, lease), 'nor is it said to be done');
  t.ok(isOwnLease(b.it, b.lease('c', 3)));
  const { uid } = b.it;
  t.match(b.one(encodeStep({ ...on, uid, version: 1, ops: [] })), { reason: 'SUBSCRIPTION_CHANGED' });
  t.match(b.one(encodeStep({ ...on, uid: 'other', version: b.it.version, ops: [] })), {
    reason: 'SUBSCRIPTION_CHANGED',
  });
});

t.test('what was said under a lease of an earlier life of the name counts for nothing', async (t) => {
  const b = new Bench().create();
  b.take('c', 1, 5);
  const lease = b.lease('c', 5);
  const { uid } = b.it;
  b.one(encodeDeleteSubscription({ ...on, expected: undefined }));
  // In the same moment: commit time may stand still.
  b.create();
  t.not(b.it.uid, uid);
  b.take('c', 1, 5);
  t.ok(b.lease('c', 5, 'b') > lease);
  t.notOk(isOwnLease(b.it, lease));
  t.equal(b.ack('c', lease, 5), 0);
  t.match(b.it.channels.get('c'), { acked: 0, lease: { consumer: 'b' } });
});

t.test('a dead letter that is delivered again says nothing of what a seek has gone back to', async (t) => {
  const b = new Bench().create({ maxDeliveries: 1 });
  b.take('c', 1, 5);
  b.ack('c', b.lease('c', 4), 4);
  b.nack('c', b.lease('c', 5));
  t.equal(b.step({ kind: 'bury', channel: 'c', seq: 5 })[0], 1);
  b.one(encodeSeekSubscription({ ...on, expected: undefined, dropDeadLetters: false, ...start }));
  t.match(b.one(encodeDeadLetters({ ...on, replay: true, letters: [] })), { count: 1 });
  b.take('c', 1, 3);
  t.match(b.it.channels.get('c'), { acked: 0, to: 3, replays: [{ seq: 5 }] });
});

t.test('a seek keeps dead letters, also those that were to be delivered again', async (t) => {
  for (const dropDeadLetters of [false, true]) {
    const b = new Bench().create({ maxDeliveries: 1 });
    for (const channel of ['d', 'c'])
      for (const seq of [1, 2]) {
        b.take(channel, seq, seq);
        b.nack(channel, b.lease(channel, seq));
        t.equal(b.step({ kind: 'bury', channel, seq })[0], 1);
      }
    const letters = [
      { channel: 'c', seq: 2 },
      { channel: 'c', seq: 1 },
      { channel: 'd', seq: 2 },
    ];
    t.match(b.one(encodeDeadLetters({ ...on, replay: true, letters })), { count: 3 });
    const lease = b.lease('c', 1);
    b.nowUs += 5_000_000;
    b.one(encodeSeekSubscription({ ...on, expected: undefined, dropDeadLetters, ...start }));
    t.equal(b.it.channels.size, 0);
    const kept = [...b.it.deadLetters.values()].map(({ channel, seq }) => [channel, seq]);
    t.same(
      kept,
      dropDeadLetters
        ? []
        : [
            ['d', 1],
            ['c', 1],
            ['c', 2],
            ['d', 2],
          ],
    );
    t.equal(b.ack('c', lease, 1), 0, 'what was said of it before counts for nothing');
    if (dropDeadLetters) continue;
    t.match(b.it.deadLetters.get(deadKey('c', 1)), { deliveries: 1, timeUs: b.nowUs });
    t.match(b.one(encodeDeadLetters({ ...on, replay: true, letters: [] })), { count: 4 });
  }
});

t.test('odd steps do nothing', async (t) => {
  const b = new Bench().create();
  t.same(b.take('c', 0, 3), [0]);
  t.same(b.take('c', 4, 3), [0]);
  t.same(b.take('c'.repeat(applyLimits.channelNameBytes + 1), 1, 3), [0]);
  t.match(b.it, { channels: new Map(), places: start.places });
  b.take('c', 1, 3);
  const lease = b.lease('c', 3);
  const delayMs = Number.MAX_SAFE_INTEGER;
  b.step({ kind: 'nack', channel: 'c', lease, delayMs, counted: true, error: '' });
  t.equal(b.it.channels.get('c')?.retryUs, b.nowUs + applyLimits.retryDelayMsMax * 1_000);
});

/** A life of random steps, right and wrong ones, of several channels and consumers. */
const anyOp = fc.record({
  what: fc.constantFrom('take', 'lease', 'ack', 'nack', 'expire', 'bury', 'replay', 'wait', 'seek'),
  channel: fc.constantFrom('x', 'y'),
  consumer: fc.constantFrom('a', 'b'),
  n: fc.nat(4),
  old: fc.boolean(),
});

t.test(
  'whatever comes, no event is passed over, none is acknowledged out of order, and bytes keep all of it',
  async (t) => {
    fc.assert(
      fc.property(
        fc.array(anyOp, { maxLength: 120 }),
        fc.integer({ min: 1, max: 2 }),
        (ops, maxDeliveries) => {
          const b = new Bench().create({ maxDeliveries });
          const heads = new Map<string, number>();
          /** By channel, since the last seek: what was acknowledged in its turn, and at all; and each lease that was ever given. */
          const done = new Map<string, number[]>([
            ['x', []],
            ['y', []],
          ]);
          const acknowledged = new Set<string>();
          let hasKept = false;
          const leases = new Map<string, number[]>();
          const judge = () => {
            for (const [channel, head] of heads) {
              const acked = new Set(done.get(channel));
              const pending = b.it.channels.get(channel);
              const dead = [...b.it.deadLetters.values()]
                .filter((each) => each.channel === channel)
                .map(({ seq }) => seq);
              const replayed = pending?.replays.map(({ seq }) => seq) ?? [];
              for (let seq = 1; seq <= head; seq++) {
                const isPending = pending !== undefined && seq > pending.acked && seq <= pending.to;
                const isAcked = acked.has(seq) || acknowledged.has(`${channel} ${seq}`);
                const places = [isAcked, isPending, dead.includes(seq), replayed.includes(seq)].filter(
                  Boolean,
                );
                // Dead letters that were kept over a seek come in their turn as well.
                if (places.length === 0 || (places.length > 1 && !hasKept))
                  throw new Error(`event ${seq} of ${channel} is in ${places.length} places`);
              }
              const inTurn = done.get(channel) ?? [];
              if (inTurn.some((seq, i) => i > 0 && seq <= (inTurn[i - 1] as number)))
                throw new Error('acknowledged out of order');
            }
          };
          for (const { what, channel, consumer, n, old } of ops) {
            const pending = b.it.channels.get(channel);
            const given = leases.get(channel) ?? [];
            const lease = (old ? given[0] : pending?.lease?.number) ?? 99_999;
            if (what === 'take') {
              const head = heads.get(channel) ?? 0;
              b.take(channel, head + 1, head + 1 + n);
              heads.set(channel, head + 1 + n);
            } else if (what === 'lease' && pending !== undefined) {
              const toSeq = pending.replays[0]?.seq ?? pending.acked + 1 + n;
              const number = b.lease(channel, toSeq, consumer);
              if (number > 0 && pending.lease !== undefined && pending.lease.consumer !== consumer)
                throw new Error('two consumers have a channel');
              if (number > 0) leases.set(channel, [...given, number]);
            } else if (what === 'ack' && pending !== undefined) {
              const isReplay = pending.lease?.isReplay === true;
              const seq = isReplay ? (pending.lease?.toSeq ?? 0) : pending.acked + n;
              if (b.ack(channel, lease, seq) === 1) {
                if (pending.lease?.number !== lease) throw new Error('an old lease counts');
                if (isReplay) acknowledged.add(`${channel} ${seq}`);
                else for (let i = pending.acked + 1; i <= seq; i++) done.get(channel)?.push(i);
              }
            } else if (what === 'nack') b.nack(channel, lease, n > 0);
            else if (what === 'expire') b.step({ kind: 'expire', channel, lease });
            else if (what === 'bury') {
              const seq = pending?.replays[0]?.seq ?? (pending?.acked ?? 0) + 1;
              b.step({ kind: 'bury', channel, seq });
            } else if (what === 'replay') b.one(encodeDeadLetters({ ...on, replay: true, letters: [] }));
            else if (what === 'seek' && n === 0) {
              judge();
              b.one(encodeSeekSubscription({ ...on, expected: undefined, dropDeadLetters: old, ...start }));
              hasKept = b.it.deadLetters.size > 0;
              heads.clear();
              acknowledged.clear();
              for (const each of done.values()) each.length = 0;
            } else if (what === 'wait') b.nowUs += 4_000_000 * (n + 1);
            const writer = new ByteWriter();
            writeSubscription(writer, b.it);
            const back = readSubscription(new ByteReader(writer.finish()), on.tenant, on.name);
            t.same(back, b.it);
          }
          judge();
        },
      ),
      { numRuns: 300 },
    );
  },
);

t.test('what is acknowledged again under a lease that holds is kept, and changes nothing', async (t) => {
  const b = new Bench().create();
  b.step({
    kind: 'take',
    partition: 0,
    place: place(1),
    ranges: [{ channel: 'c', firstSeq: 1, lastSeq: 5, sinceUs: 1 }],
  });
  const [lease] = b.step({ kind: 'lease', channel: 'c', consumer: 'a', toSeq: 5 }) as [number];
  const ack = (seq: number) => b.step({ kind: 'ack', channel: 'c', lease, seq, nextUs: 0 })[0];
  t.equal(ack(3), 1);
  const before = b.it.channels.get('c');
  t.equal(ack(3), 1, 'nobody knew whether it was written down');
  t.equal(ack(2), 1);
  t.equal(b.it.channels.get('c'), before);
  t.equal(b.it.ackedCount, 3);
  t.equal(ack(6), 0);
});

t.test('a command under a request id is carried out once, for the one that it is about', async (t) => {
  const b = new Bench().create();
  const [digest, otherDigest] = [new Uint8Array(16), new Uint8Array(16).fill(1)];
  const deletion = encodeDeleteSubscription({ ...on, expected: undefined });
  const wrong = encodeDeleteSubscription({ ...on, expected: { uid: b.it.uid, revision: 7 } });
  t.match(b.one(encodeOnce('id', digest, wrong)), { reason: 'SUBSCRIPTION_CHANGED' });
  t.same(
    b.one(encodeOnce('id', otherDigest, deletion)),
    { kind: 'done' },
    'a refusal has not used the id up',
  );
  b.create();
  t.same(b.one(encodeOnce('id', otherDigest, deletion)), { kind: 'done' }, 'the first answer again');
  t.ok(b.it, 'what was made since is still there');
  t.match(b.one(encodeOnce('id', digest, wrong)), {
    reason: 'DUPLICATE_KEY_DIFFERENT_CONTENT',
    fields: { field: 'request_id' },
  });
  const move = encodeMoveCursor({
    tenant: on.tenant,
    channel: on.name,
    reader: 'ann',
    seq: 0,
    mayGoBack: true,
  });
  t.match(
    b.one(encodeOnce('id', digest, move)),
    { reason: 'CHANNEL_NOT_FOUND' },
    'of a channel it is another one',
  );
  t.match(b.one(encodeOnce('x'.repeat(200), digest, deletion)), { fields: { field: 'request_id' } });
  const { uid, version } = b.it;
  const step = encodeStep({ ...on, uid, version, ops: [] });
  const nested = encodeOnce('a', digest, encodeOnce('b', digest, deletion));
  for (const bytes of [
    encodeOnce('', digest, deletion),
    encodeOnce('id', digest, step),
    nested,
    encodeOnce('id', digest, Buffer.alloc(0)),
  ])
    t.throws(() => decodeCommand(Buffer.from(bytes), 0, bytes.length), { name: 'MalformedError' });
});
