import { deepStrictEqual } from 'node:assert';
import fc from 'fast-check';
import t from 'tap';
import { MalformedError } from '../../src/common/bytes.js';
import { type ControlValue, packControl } from '../../src/common/control-record.js';
import { HansardError, InvariantError, type Reason, reasons } from '../../src/common/errors.js';
import { faultKinds } from '../../src/common/faults.js';
import { decodePeerMessage, encodePeerMessage, type PeerMessage } from '../../src/node/peer-codec.js';
import { isLocalMessage, type Message, MessageType, message } from '../../src/raft/types.js';

const n = fc.maxSafeNat();
const percent = fc.nat({ max: 100 }).map((each) => each / 100);
const ids = fc.array(n, { maxLength: 5 });
const data = fc.uint8Array({ maxLength: 300 });

const raftMessage = fc
  .record({
    type: fc.constantFrom(...Object.values(MessageType).filter((type) => !isLocalMessage(type))),
    to: n,
    from: n,
    term: n,
    logTerm: n,
    index: n,
    commit: n,
    vote: n,
    reject: fc.boolean(),
    rejectHint: n,
    context: n,
    entries: fc.array(
      fc.record({ type: fc.constantFrom(0, 1, 2), term: n, index: n, data }, { noNullPrototype: true }),
      { maxLength: 4 },
    ),
    snapshot: fc.option(
      fc.record({
        metadata: fc.record({
          index: n,
          term: n,
          confState: fc.record({
            voters: ids,
            votersOutgoing: ids,
            learners: ids,
            learnersNext: ids,
            autoLeave: fc.boolean(),
          }),
        }),
        data: fc.option(data, { nil: undefined }),
      }),
      { nil: undefined },
    ),
  })
  .map((fields): Message => {
    const entries = fields.entries.map((entry) => ({ ...entry, sizeBytes: entry.data.length }));
    return { ...message(fields.type, fields.to), ...fields, entries } as Message;
  });

const error = fc
  .record({
    reason: fc.constantFrom(...(Object.keys(reasons) as Reason[])),
    text: fc.string({ unit: 'grapheme' }),
    fields: fc.dictionary(
      fc.string(),
      fc.oneof(fc.string(), fc.boolean(), fc.integer(), fc.double({ noNaN: true, noDefaultInfinity: true })),
    ),
    retryDelayMs: fc.option(fc.nat(), { nil: undefined }),
  })
  .map(
    ({ reason, text, fields, retryDelayMs }) =>
      new HansardError(reason, text, fields, retryDelayMs === undefined ? {} : { retryDelayMs }),
  );

const beats = fc.array(fc.record({ partition: n, from: n, to: n, term: n, commit: n, context: n }));
const anyMessage: fc.Arbitrary<PeerMessage> = fc.oneof(
  fc.record({ kind: fc.constant('raft' as const), partition: n, message: raftMessage }),
  fc.record({
    kind: fc.constantFrom('heartbeats' as const, 'heartbeatResponses' as const, 'acknowledgements' as const),
    beats,
  }),
  fc.record({
    kind: fc.constant('request' as const),
    request: fc.record({
      id: n,
      method: fc.string({ unit: 'grapheme' }),
      timeoutMs: fc.nat(),
      body: data,
    }),
  }),
  fc.record({ kind: fc.constant('response' as const), response: fc.record({ id: n, body: data }) }),
  fc.record({ kind: fc.constant('response' as const), response: fc.record({ id: n, error }) }),
  fc.record({ kind: fc.constant('cancel' as const), id: n }),
  fc.record({
    kind: fc.constant('gossip' as const),
    gossip: fc.record({
      nowUs: n,
      unwilling: fc.boolean(),
      diskFull: fc.boolean(),
      led: fc.array(fc.record({ partition: n, term: n, keptByAll: n })),
      applyVersion: n,
      faults: fc.array(fc.record({ partition: n, kind: fc.constantFrom(...faultKinds), sinceUs: n })),
      standing: fc.option(fc.record({ busy: percent, hasRoom: fc.boolean(), proposals: n }), {
        nil: undefined,
      }),
    }),
  }),
  fc.record({
    kind: fc.constant('readRound' as const),
    question: fc.record({ number: n, pairs: fc.array(fc.record({ partition: n, term: n })) }),
  }),
  fc.record({
    kind: fc.constant('readRoundAnswer' as const),
    answer: fc.record({ number: n, refused: fc.array(n) }),
  }),
  fc.record({
    kind: fc.constant('vouch' as const),
    word: fc.record({
      number: n,
      since: n,
      heard: n,
      gone: fc.array(n),
      vouchings: fc.array(fc.record({ partition: n, term: n, commit: n })),
    }),
  }),
  fc.record({
    kind: fc.constant('vouchAnswer' as const),
    answer: fc.record({ number: n, refused: fc.array(n) }),
  }),
);

/** As plain values: bytes as hex, errors by what they say; checksums are the codec's own. */
function plain(value: unknown): unknown {
  return JSON.parse(
    JSON.stringify(value, function (this: Record<string, unknown>, key: string, encoded: unknown) {
      const raw = this[key];
      if (key === 'checksum') return undefined;
      if (raw instanceof Uint8Array) return Buffer.from(raw).toString('hex');
      if (raw instanceof HansardError) {
        const { reason, message: text, fields, code, retryDelayMs } = raw;
        return { reason, text, fields: Object.entries(fields), code, retryDelayMs };
      }
      return Object.is(raw, -0) ? 0 : encoded;
    }),
  );
}

t.test('what a node says, the other hears', async (t) => {
  fc.assert(
    fc.property(anyMessage, (said) => {
      const heard = decodePeerMessage(encodePeerMessage(said));
      deepStrictEqual(plain(heard), plain(said));
    }),
    { numRuns: 500 },
  );
  t.pass('round trip');
});

t.test('what is heard is a copy: the frame may be used again', async (t) => {
  const entry = { term: 3, index: 9, type: 0 as const, sizeBytes: 5, data: Buffer.from('bytes') };
  const said = { ...message(MessageType.MsgApp, 2), from: 1, term: 3, index: 8, entries: [entry] };
  const messages: PeerMessage[] = [
    { kind: 'raft', partition: 7, message: said },
    { kind: 'request', request: { id: 1, method: 'm', timeoutMs: 1.9, body: entry.data } },
    { kind: 'response', response: { id: 1, body: entry.data } },
  ];
  const heard = messages.map((said) => {
    const frame = encodePeerMessage(said);
    const got = decodePeerMessage(frame);
    frame.fill(0xff);
    return got;
  });
  t.match(heard[0], { message: { entries: [{ data: Buffer.from('bytes'), sizeBytes: 5 }] } });
  t.match(heard[1], { request: { body: Buffer.from('bytes'), timeoutMs: 1 } });
  t.match(heard[2], { response: { body: Buffer.from('bytes') } });
});

t.test('an entry carries its checksum, computed once and verified', async (t) => {
  const entry = { term: 3, index: 9, type: 0 as const, sizeBytes: 5, data: Buffer.from('bytes') };
  const said = { ...message(MessageType.MsgApp, 2), from: 1, term: 3, index: 8, entries: [entry] };
  const bytes = encodePeerMessage({ kind: 'raft', partition: 7, message: said });
  t.type((entry as { checksum?: number }).checksum, 'number', 'kept for the log and the other followers');
  const heard = decodePeerMessage(bytes);
  t.equal(
    heard.kind === 'raft' && heard.message.entries[0]?.checksum,
    (entry as { checksum?: number }).checksum,
  );
  const at = bytes.indexOf('bytes');
  for (const damage of [at, at + 4, 2]) {
    const copy = Buffer.from(bytes);
    copy[damage]! ^= 1;
    t.throws(() => decodePeerMessage(copy), MalformedError, `a flipped bit at ${damage} is seen`);
  }
  const proposal = { ...message(MessageType.MsgProp, 2), entries: [{ ...entry, term: 0, index: 0 }] };
  const forwarded = decodePeerMessage(encodePeerMessage({ kind: 'raft', partition: 7, message: proposal }));
  t.equal(
    forwarded.kind === 'raft' && forwarded.message.entries[0]?.checksum,
    undefined,
    'a proposal has no place yet, and no checksum to keep',
  );
});

t.test('what must not leave does not', async (t) => {
  const refused = (said: Message) => () => encodePeerMessage({ kind: 'raft', partition: 1, message: said });
  t.throws(refused(message(MessageType.MsgHup, 1)), InvariantError);
  t.throws(refused(message(MessageType.MsgApp, -1)), InvariantError, 'to a local thread');
  const empty = { term: 1, index: 1, type: 0 as const, sizeBytes: 9, data: undefined };
  t.throws(refused({ ...message(MessageType.MsgApp, 1), entries: [empty] }), InvariantError);
});

t.test('an error of a newer version keeps its code', async (t) => {
  const said = new HansardError('OVERLOADED', 'wait', { a: 1 }, { retryDelayMs: 0 });
  const bytes = encodePeerMessage({ kind: 'response', response: { id: 4, error: said } });
  bytes.write('OVERSIZED!', bytes.indexOf('OVERLOADED'));
  const heard = decodePeerMessage(bytes);
  t.match(heard, { response: { error: { reason: 'INTERNAL', message: 'OVERSIZED!: wait', code: 8 } } });
  t.equal(heard.kind === 'response' && heard.response.error?.retryDelayMs, 0);
});

t.test('garbage is malformed, whatever it looks like', async (t) => {
  let malformed = 0;
  const decode = (bytes: Uint8Array) => {
    try {
      decodePeerMessage(bytes);
    } catch (problem) {
      if (!(problem instanceof MalformedError)) throw problem;
      malformed++;
    }
  };
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), fc.integer({ min: 0, max: 9 }), (bytes, kind) =>
      decode(Buffer.concat([Uint8Array.of(kind, 1), bytes])),
    ),
    { numRuns: 3000 },
  );
  fc.assert(
    fc.property(anyMessage, fc.nat(), fc.nat({ max: 255 }), (said, at, value) => {
      const bytes = encodePeerMessage(said);
      bytes[at % bytes.length] = value;
      decode(bytes);
      decode(bytes.subarray(0, at % bytes.length));
    }),
    { numRuns: 1500 },
  );
  t.ok(malformed > 1000, `${malformed} refused`);
  const huge = [
    [2, 1, 0xff, 0xff, 0xff, 0xff, 0x7f],
    [8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f],
  ];
  for (const bytes of huge)
    t.throws(() => decodePeerMessage(Uint8Array.from(bytes)), MalformedError, 'a count that lies');
  t.throws(() => decodePeerMessage(Uint8Array.of(7, 2, 1)), MalformedError, 'another version');
});

t.test('gossip may grow: what an older build leaves out, and what a later one adds', async (t) => {
  const gossip = (...tuple: ControlValue[]) =>
    decodePeerMessage(Buffer.concat([Buffer.from([8, 1]), packControl(tuple)]));
  t.match(gossip(5, false, []), { gossip: { nowUs: 5, applyVersion: 1 } }, 'the first version at least');
  t.match(
    gossip(
      5,
      true,
      [[1, 2, 3, [4, 9, [[8, 2]], [8], true], 'more']],
      7,
      [[1, 1, 5, 'more']],
      true,
      [40, true, 7, 'more'],
      'and more',
    ),
    {
      gossip: {
        faults: [{ partition: 1, kind: 'log-damaged', sinceUs: 5 }],
        unwilling: true,
        diskFull: true,
        standing: { busy: 0.4, hasRoom: true, proposals: 7 },
        applyVersion: 7,
        led: [
          {
            partition: 1,
            term: 2,
            keptByAll: 3,
            places: {
              changes: 4,
              nextReplicaId: 9,
              members: [{ replicaId: 8, nodeId: 2 }],
              learners: [8],
              settled: true,
            },
          },
        ],
      },
    },
  );
  t.throws(() => gossip(5, true, [], -1));
  t.match(gossip(5, true, [], 1, [], false, false, 'what comes behind it'), {
    gossip: { standing: undefined },
  });
});
