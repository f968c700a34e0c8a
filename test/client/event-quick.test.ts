/** Events as most are take a way of their own through the SDK: it reads what the general one reads, or nothing. */
import t from 'tap';
import { encodeEvents } from '../../src/api/encode.js';
import { writeContent } from '../../src/client/content-encode.js';
import { readEvent, readNextEvent } from '../../src/client/event-decode.js';
import { readEventQuick } from '../../src/client/event-quick.js';
import type { Event, MessageContent, TextPart } from '../../src/client/types.js';
import { BackWriter } from '../../src/client/wire.js';
import { ProtoReader } from '../../src/client/wire-reader.js';
import { ByteWriter } from '../../src/common/bytes.js';
import { HansardError } from '../../src/common/errors.js';
import { xxh64 } from '../../src/common/hash.js';
import { loadPublicProtos } from '../../src/common/proto.js';
import { writeEventRecord } from '../../src/conversation/event-record.js';
import { producerId } from '../../src/conversation/names.js';
import { EventType } from '../../src/conversation/types.js';

const { serialize } = loadPublicProtos()['hansard.v1.Event'] as unknown as {
  serialize(event: object): Buffer;
};

/** Long numbers, all but those of partition 0. */
const firstProducerOf = (partition: number): number => producerId(partition, 1);

function contentOf(content: MessageContent): Uint8Array {
  const writer = new BackWriter();
  writeContent(writer, content, 0);
  return writer.copy();
}

/** Behind the length that it has in a page, and something behind it. */
function inPage(event: Buffer): Buffer {
  const head = new BackWriter();
  head.raw(event);
  head.nested(1, 0);
  return Buffer.concat([head.copy(), Buffer.from([0x12, 0x01, 0x61])]);
}

/** As a node writes it. */
function written(
  content: MessageContent,
  more: { batchPosition?: number; producerId?: number } = {},
): Buffer {
  const { batchPosition = 0, producerId: producer = firstProducerOf(23) } = more;
  const bytes = contentOf(content);
  const writer = new ByteWriter(256);
  const salt = Buffer.alloc(16, 9);
  const commitment = Buffer.alloc(32, 7);
  const record = {
    type: EventType.messageCompleted,
    content: bytes,
    contentXxh64: xxh64(bytes),
    salt,
    commitment,
  };
  writeEventRecord(writer, record, batchPosition);
  const stored = Buffer.from(writer.finish());
  const contentLength = salt.length + bytes.length;
  const headerLength = stored.length - contentLength;
  const page = encodeEvents([
    {
      seq: 1_049,
      commitTimeUs: 1_763_000_000_123_456,
      producerId: producer,
      producerCounter: 20_000,
      bytes: stored,
      headerOffset: 0,
      headerLength,
      contentBytes: stored,
      contentOffset: headerLength,
      contentLength,
    },
  ]);
  return Buffer.concat([page, Buffer.from([0x12, 0x01, 0x61])]);
}

/** In the order that protobuf's own writers have, with whatever else an event may hold. */
function encoded(content: Uint8Array, more: object = {}): Buffer {
  const event = serialize({
    seq: 1_049,
    type: 1,
    commit_time: { seconds: 1_763_000_000, nanos: 123_456_000 },
    producer_id: '4294967297',
    producer_counter: 20_000,
    content_xxh64: String(xxh64(content)),
    commitment: Buffer.alloc(32, 7),
    salt: Buffer.alloc(16, 9),
    ...more,
  });
  // The content is field 20, the last one: put behind by hand, whatever the message would say to it.
  const field = new BackWriter();
  field.raw(content);
  field.nested(20, 0);
  return inPage(Buffer.concat([event, field.copy()]));
}

type Outcome = Event | string;

function outcome(bytes: Buffer, read: (r: ProtoReader) => Event): Outcome {
  const r = ProtoReader.ofCopy(bytes);
  r.loadForHashes();
  r.next();
  try {
    return read(r);
  } catch (error) {
    if (error instanceof HansardError) return `${error.reason}: ${error.message}`;
    if (error instanceof Error) return `${error.name}: ${error.message}`;
    throw error;
  }
}

const general = (bytes: Buffer): Outcome => outcome(bytes, (r) => r.message(readEvent));
const usual = (bytes: Buffer): Outcome => outcome(bytes, readNextEvent);

function isQuick(bytes: Buffer): boolean {
  const r = ProtoReader.ofCopy(bytes);
  r.next();
  return r.quick(readEventQuick) !== undefined;
}

const text = (value: string): TextPart[] => [{ type: 'text', text: value }];
const hello = { role: 'user', author: 'ann', parts: text('hello') } as const;
const plain: readonly Buffer[] = [
  written(hello),
  written({ role: 'assistant', parts: text('grüße, 你好, 🙂'.repeat(40)) }),
  written({ author: 'an author with a name of more than 24 bytes', parts: text('x') }),
  written({ parts: text('no role') }),
  written(hello, { batchPosition: 63, producerId: 0 }),
  written(hello, { producerId: firstProducerOf(0) }),
  written(hello, { producerId: firstProducerOf(1) }),
  written(hello, { producerId: firstProducerOf(8_191) }),
  written({ ...hello, role: 9 }),
  encoded(contentOf(hello), { seq: '34359738367', commit_time: { seconds: 5 }, producer_counter: 0 }),
];

t.test('messages of one text are read by hand, to the same events', async (t) => {
  for (const [i, bytes] of plain.entries()) {
    t.ok(isQuick(bytes), `event ${i}`);
    const event = usual(bytes);
    t.strictSame(event, general(bytes));
    t.same(Object.keys(event as Event), Object.keys(general(bytes) as Event), 'fields in one order');
  }
  t.strictSame((usual(written(hello)) as Event).message, hello);
});

t.test('others are left to the general way', async (t) => {
  const others: readonly (readonly [MessageContent, object?])[] = [
    [{ role: 'user' }],
    [{ ...hello, metadataJson: '{}' }],
    [{ ...hello, parts: [...hello.parts, ...hello.parts] }],
    [{ ...hello, parts: [{ type: 'text', text: 'hello', state: 'done' }] }],
    [{ ...hello, parts: [{ type: 'reasoning', text: 'hello' }] }],
    [hello, { key: 'k' }],
    [hello, { message_id: 'm' }],
    [hello, { actor: 'a', subject: 's', target_seq: 3 }],
    [hello, { type: 5 }],
    [hello, { seq: '9007199254740991' }],
    [hello, { content_xxh64: '1' }],
  ];
  for (const [content, more] of others) {
    const bytes = encoded(contentOf(content), more);
    t.notOk(isQuick(bytes), JSON.stringify([content, more]).slice(0, 80));
    t.strictSame(usual(bytes), general(bytes));
  }
  t.match(general(encoded(contentOf(hello), { content_xxh64: '1' })), /^CHECKSUM_MISMATCH/);
});

t.test('of damaged bytes both ways make the same', async (t) => {
  let events = 0;
  for (const [from, bytes] of [written(hello), written(hello, { batchPosition: 3 })].entries()) {
    for (let i = 2; i < bytes.length; i++) {
      for (const change of [0x01, 0x80, 0xff, bytes[i] as number]) {
        const damaged = Buffer.from(bytes);
        damaged[i] = (damaged[i] as number) ^ change;
        const expected = general(damaged);
        if (typeof expected !== 'string') events++;
        const found = usual(damaged);
        // One check for each would be thousands.
        if (JSON.stringify(found, shown) !== JSON.stringify(expected, shown))
          t.same(found, expected, `case ${from}, byte ${i} changed by ${change}`);
      }
    }
  }
  t.ok(events > 100, `${events} of them are events`);
});

function shown(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? String(value) : value;
}
