import fc from 'fast-check';
import t from 'tap';
import { ByteWriter, MalformedError } from '../../src/common/bytes.js';
import {
  type AppendCommand,
  type Command,
  commandPrefixBytes,
  decodeCommand,
  encodeAppend,
  encodeCreateChannel,
  encodeEntry,
  encodeExpireProducers,
  encodeNoop,
  encodeOpenProducer,
  encodeSetSettings,
  entryHeaderBytes,
  readEntry,
} from '../../src/conversation/command.js';
import { decodeEntry } from '../../src/conversation/decoded-entry.js';
import {
  contentPartLengthAt,
  decodeEventHeader,
  headerLengthAt,
  saltBytes,
  skimRecord,
  writeEventRecord,
} from '../../src/conversation/event-record.js';
import { lookupsOf } from '../../src/conversation/lookups.js';
import { EventType } from '../../src/conversation/types.js';
import { madeAppend, madeEntry, madeEvent } from './make.js';

const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 });
const maybe = <T>(arb: fc.Arbitrary<T>) => fc.option(arb, { nil: undefined });
const anyEvent = fc
  .record({
    content: fc.string({ unit: 'grapheme', maxLength: 200 }),
    extra: fc.record({
      type: fc.integer({ min: 1, max: 17 }) as fc.Arbitrary<1>,
      key: maybe(text),
      messageId: maybe(text),
      subject: maybe(text),
      actor: maybe(text),
      targetSeq: maybe(fc.maxSafeNat()),
      keyReference: maybe(fc.nat()),
      usesBatchPosition: fc.boolean(),
    }),
  })
  .map(({ content, extra }) => ({ content, event: madeEvent(content, extra) }));

t.test('records written one after another read back whole, each delimiting itself', async (t) => {
  fc.assert(
    fc.property(fc.array(anyEvent, { minLength: 1, maxLength: 6 }), (events) => {
      const writer = new ByteWriter(16);
      writer.u32(7); // records need not begin at 0
      for (const [i, { event }] of events.entries()) writeEventRecord(writer, event, i);
      const bytes = writer.finish();
      let at = 4;
      for (const [i, { content, event }] of events.entries()) {
        const skim = skimRecord(bytes, at, bytes.length, 128);
        const header = decodeEventHeader(bytes, at, skim.headerLength);
        const stored = bytes.subarray(skim.contentOffset + saltBytes, skim.end);
        if (
          headerLengthAt(bytes, at) !== skim.headerLength ||
          contentPartLengthAt(bytes, at) !== skim.contentLength ||
          stored.toString() !== content ||
          header.contentLength !== stored.length ||
          header.contentXxh64 !== event.contentXxh64 ||
          !header.commitment.equals(event.commitment) ||
          header.type !== event.type ||
          header.key !== (event.key ?? '') ||
          skim.key !== event.key ||
          header.messageId !== (event.messageId ?? '') ||
          header.subject !== (event.subject ?? '') ||
          header.actor !== (event.actor ?? '') ||
          header.targetSeq !== (event.targetSeq ?? 0) ||
          skim.targetSeq !== header.targetSeq ||
          header.keyReference !== (event.keyReference ?? 0) ||
          header.batchPosition !== i ||
          header.usesBatchPosition !== event.usesBatchPosition
        )
          return false;
        at = skim.end;
      }
      return at === bytes.length;
    }),
    { numRuns: 300 },
  );
  t.pass('round trip');
});

t.test('every command reads back as it was written, alone and in an entry', async (t) => {
  const expire = [{ id: 5, lastActiveUs: 99 }];
  const channel = {
    tenant: 'acme',
    channel: 'a/b',
    requestId: 'r1',
    title: 'Ein Titel',
    class: 'support',
    labels: [
      ['b', '2'],
      ['a', '1'],
    ] as [string, string][],
    participants: [{ id: 'u1', displayName: '\ufeffUte', role: 'agent' }],
  };
  const commands = [
    madeAppend('room', ['one', 'two'], {
      producer: { id: 77, firstCounter: 9 },
      condition: { kind: 'expectedHeadSeq', seq: 300 },
    }),
    encodeOpenProducer('acme', 'importer'),
    encodeExpireProducers(expire),
    encodeCreateChannel(channel),
    encodeSetSettings({ producerWindow: 12, keyRetentionUs: 5 }),
    encodeNoop(),
  ];
  const entry = encodeEntry(commands, 1234, 3);
  const size = commands.reduce((sum, c) => sum + c.length + commandPrefixBytes, entryHeaderBytes);
  t.equal(entry.length, size, 'the size that a packer counts with');
  const bytes = Buffer.from(entry);
  const frame = readEntry(bytes);
  t.equal(frame.leaderTimeUs, 1234);
  t.equal(frame.applyVersion, 3);
  const decoded: Command[] = [];
  for (let i = 0; i < frame.bounds.length; i += 2) {
    decoded.push(decodeCommand(bytes, frame.bounds[i]!, frame.bounds[i + 1]!));
  }
  t.match(decoded[0], {
    kind: 'append',
    tenant: 'default',
    channel: 'room',
    producerId: 77,
    firstCounter: 9,
    condition: { kind: 'expectedHeadSeq', seq: 300 },
    records: [{ batchPosition: 0 }, { batchPosition: 1 }],
  });
  t.same(decoded[1], { kind: 'openProducer', tenant: 'acme', name: 'importer' });
  t.same(decoded[2], { kind: 'expireProducers', producers: expire });
  t.match(decoded[3], {
    ...channel,
    kind: 'createChannel',
    labels: [
      ['a', '1'],
      ['b', '2'],
    ],
  });
  t.same(decoded[4], { kind: 'setSettings', settings: { producerWindow: 12, keyRetentionUs: 5 } });
  t.same(decoded[5], { kind: 'noop' });
  t.same(lookupsOf(decodeEntry(entry)), {
    channels: [
      { tenant: 'default', name: 'room' },
      { tenant: 'acme', name: 'a/b' },
    ],
    producers: [77, 5],
    producerNames: [{ tenant: 'acme', name: 'importer' }],
    keys: [],
    messageIds: [],
    requestKeys: ['acme/r1'],
    cursors: [],
  });
});

t.test('the digest tells other content from a retry that another leader packed', async (t) => {
  const digest = (command: Uint8Array) => {
    const decoded = decodeCommand(Buffer.from(command), 0, command.length);
    return decoded.kind === 'append' ? decoded.digest : undefined;
  };
  const event = (over: object) => madeEvent('hello', { key: 'k', subject: 's', ...over });
  const first = digest(madeAppend('c', [event({})]));
  t.equal(
    digest(madeAppend('c', [event({ saltSeed: 5, actor: 'bot', keyReference: 4 })])),
    first,
    'salts and actor differ',
  );
  t.equal(digest(madeAppend('c', [event({})], { producer: { id: 4, firstCounter: 2 } })), first, 'stamp');
  for (const [name, other] of Object.entries({
    channel: madeAppend('d', [event({})]),
    tenant: madeAppend('c', [event({})], { tenant: 'other' }),
    content: madeAppend('c', [madeEvent('hellp', { key: 'k', subject: 's' })]),
    key: madeAppend('c', [event({ key: 'l' })]),
    id: madeAppend('c', [event({ messageId: 'm' })]),
    type: madeAppend('c', [event({ type: 2 })]),
    target: madeAppend('c', [event({ targetSeq: 1 })]),
    condition: madeAppend('c', [event({})], { condition: { kind: 'mustExist' } }),
    count: madeAppend('c', [event({}), 'more']),
  })) {
    t.not(digest(other), first, name);
  }
});

t.test(
  'cut, lengthened or changed bytes are refused or read as something else, never past the end',
  async (t) => {
    const command = madeAppend('room', [madeEvent('x', { key: 'k', messageId: 'm' }), 'second'], {
      producer: { id: 1, firstCounter: 1 },
      condition: { kind: 'mustNotExist' },
    });
    for (let length = 0; length < command.length; length++) {
      t.throws(() => decodeCommand(Buffer.from(command), 0, length), MalformedError);
    }
    t.throws(
      () => decodeCommand(Buffer.concat([command, Buffer.of(0)]), 0, command.length + 1),
      MalformedError,
    );
    const entry = Buffer.from(madeEntry([command, encodeNoop()]));
    for (let length = 0; length < entry.length; length++) {
      t.throws(() => readEntry(entry.subarray(0, length)), MalformedError);
    }
    fc.assert(
      fc.property(fc.nat({ max: command.length - 1 }), fc.nat({ max: 255 }), (at, byte) => {
        const changed = Buffer.from(command);
        changed[at] = byte;
        try {
          decodeCommand(changed, 0, changed.length);
        } catch (error) {
          if (!(error instanceof MalformedError)) throw error;
        }
        lookupsOf(decodeEntry(changed));
      }),
      { numRuns: 2000 },
    );
  },
);

t.test('a record that only a later state could hold is refused in an append', async (t) => {
  const command = Buffer.from(madeAppend('c', ['first', 'second']));
  const [first, second] = (decodeCommand(command, 0, command.length) as AppendCommand).records;
  const changed = (at: number, byte: number) => {
    const copy = Buffer.from(command);
    copy[at] = byte;
    return () => decodeCommand(copy, 0, copy.length);
  };
  t.doesNotThrow(changed(first!.headerOffset + 1, EventType.custom));
  t.throws(changed(first!.headerOffset + 3, 1), /erased/);
  t.throws(changed(first!.headerOffset + 3, 2), /unknown flags/);
  t.throws(changed(first!.headerOffset, 2), /another version/);
  t.throws(changed(first!.headerOffset + 1, 18), /type 18/);
  t.throws(changed(second!.headerOffset + 50, 2), /place of another/);
  t.throws(changed(second!.headerOffset + 50, 0), /is 0/);
});

t.test('encoders tell their caller what it broke', async (t) => {
  t.throws(() => encodeAppend({ tenant: 'a', channel: 'b', events: [] }), RangeError);
  t.throws(() => madeAppend('c', [{ ...madeEvent('x'), salt: Buffer.alloc(3) }]), RangeError);
  t.throws(() => madeAppend('c', [{ ...madeEvent('x'), key: 'k' }]), RangeError);
});

t.test('a text is kept byte for byte, a leading byte order mark too', async (t) => {
  const command = madeAppend('\ufeffroom', [madeEvent('x', { key: '\ufeffk' })]);
  t.match(decodeCommand(Buffer.from(command), 0, command.length), {
    channel: '\ufeffroom',
    records: [{ key: '\ufeffk' }],
  });
});
