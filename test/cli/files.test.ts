/** Lines of files: what an import reads, what an export writes, and that the two meet without loss. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import t from 'tap';
import {
  channelLine,
  type ExportedChannel,
  ExportSections,
  type ImportedChannel,
} from '../../src/cli/channel-record.js';
import { exportLine } from '../../src/cli/export-line.js';
import { type ExportSource, exportPages } from '../../src/cli/exporter.js';
import { type Ignored, type ImportedMessage, parseLine } from '../../src/cli/import-line.js';
import { type Line, maxLineBytes, memberText, openLines } from '../../src/cli/json-lines.js';
import { BadLine } from '../../src/cli/line-fields.js';
import { formatTime, parseTime } from '../../src/cli/times.js';
import { readContent } from '../../src/client/content-decode.js';
import { writeContent } from '../../src/client/content-encode.js';
import type { Event, NewMessage } from '../../src/client/types.js';
import { BackWriter } from '../../src/client/wire.js';
import { HansardError } from '../../src/common/errors.js';
import { xxh64 } from '../../src/common/hash.js';

const dir = mkdtempSync(join(tmpdir(), 'hansard-files-'));
t.teardown(() => rmSync(dir, { recursive: true, force: true }));

function lineOf(text: string, number = 1): Line {
  const bytes = Buffer.from(text);
  return { number, bytes, tooLong: bytes.length > maxLineBytes };
}
function parse(value: unknown, exported = false, ignored: Ignored = new Map()) {
  const line = lineOf(typeof value === 'string' ? value : JSON.stringify(value));
  return parseLine(line, { exported, ignored }) as ImportedMessage | undefined;
}
function parseChannel(value: unknown): ImportedChannel {
  const line = lineOf(typeof value === 'string' ? value : JSON.stringify(value));
  return parseLine(line, { exported: true, ignored: new Map() }) as ImportedChannel;
}
function problemOf(value: unknown, exported = false): string {
  try {
    parse(value, exported);
  } catch (error) {
    if (error instanceof BadLine) return error.message;
    throw error;
  }
  return 'accepted';
}
function encode(message: NewMessage): Buffer {
  const writer = new BackWriter();
  if (message.contentBytes !== undefined) return Buffer.from(message.contentBytes);
  writeContent(writer, message, 0);
  return writer.copy();
}
function eventOf(seq: number, message: NewMessage, more: Partial<Event> = {}): Event {
  const contentBytes = encode(message);
  return {
    seq,
    type: message.type ?? 'message-completed',
    commitTimeUs: 1_700_000_000_000_000,
    producerId: 0,
    producerCounter: 0,
    actor: '',
    subject: message.subject ?? '',
    targetSeq: 0,
    messageId: message.messageId ?? '',
    key: message.key ?? '',
    batchPosition: 0,
    erased: false,
    checksum: xxh64(contentBytes),
    commitment: new Uint8Array(32),
    salt: new Uint8Array(16),
    contentBytes,
    ...(message.type === undefined ? { message: readContent(contentBytes) } : {}),
    ...more,
  };
}

t.test('lines come out whole from plain and packed files, whatever the chunks', async (t) => {
  const lines = ['{"a":1}', '', 'é'.repeat(200_000), 'x\r', 'last without newline'];
  const text = lines.join('\n');
  writeFileSync(join(dir, 'plain.jsonl'), text);
  writeFileSync(join(dir, 'packed.jsonl.gz'), gzipSync(text));
  for (const name of ['plain.jsonl', 'packed.jsonl.gz']) {
    const got: string[] = [];
    let bytes = 0;
    const source = openLines(join(dir, name), (chunk) => {
      bytes += chunk.length;
    });
    for await (const chunk of source.lines())
      for (const line of chunk) got.push(`${line.number}:${line.bytes.toString()}`);
    t.same(
      got,
      lines.map((line, i) => `${i + 1}:${line.replace(/\r$/, '')}`),
    );
    t.equal(bytes, Buffer.byteLength(text));
    t.ok(source.bytesRead > 0);
  }
});

t.test('a line without end does not take the memory; a missing or broken file is told', async (t) => {
  writeFileSync(
    join(dir, 'long.jsonl'),
    Buffer.concat([Buffer.alloc(3 * maxLineBytes, 0x61), Buffer.from('\n{"ok":1}\n')]),
  );
  const seen: [number, boolean, number][] = [];
  for await (const chunk of openLines(join(dir, 'long.jsonl')).lines())
    for (const line of chunk) seen.push([line.number, line.tooLong, line.bytes.length]);
  t.equal(seen.length, 2);
  t.ok(seen[0]?.[1] && (seen[0]?.[2] ?? 0) < 2 * maxLineBytes);
  t.same(seen[1], [2, false, 8]);
  const read = async (name: string) => {
    for await (const chunk of openLines(name).lines()) void chunk;
  };
  await t.rejects(read(join(dir, 'none.jsonl')), { reason: 'INVALID_ARGUMENT', message: /there is no file/ });
  writeFileSync(join(dir, 'broken.gz'), 'no gzip at all');
  await t.rejects(read(join(dir, 'broken.gz')), { message: /can not be read/ });
  writeFileSync(join(dir, 'cut.gz'), gzipSync('{"a":1}\n'.repeat(10_000)).subarray(0, 50));
  await t.rejects(read(join(dir, 'cut.gz')), { message: /can not be read/ });
});

t.test('the fields of a line', async (t) => {
  const parsed = parse(
    '{"channel":"a/b","time":"2004-11-15T12:18:00+02:00","author":"|trey|","text":"","role":"assistant","metadata": {"n": 1.0, "big": 12345678901234567890},"key":"k","message_id":"m"}',
  );
  t.match(parsed, {
    channel: 'a/b',
    message: {
      role: 'assistant',
      author: '|trey|',
      text: '',
      key: 'k',
      messageId: 'm',
      clientTimeUs: 1100513880000000,
    },
  });
  t.equal(
    parsed?.message.metadataJson,
    '{"n": 1.0, "big": 12345678901234567890}',
    'metadata is kept byte for byte',
  );
  t.equal(parse({ channel: 'c', text: 't' })?.message.role, 'other', 'a missing role is other');
  t.equal(parse({ channel: 'c', text: 't', role: 'narrator' })?.message.role, 'other');
  t.equal(parse('   '), undefined, 'blank lines are none');
  const ignored: Ignored = new Map();
  parse({ channel: 'c', text: 't', mood: 'x' }, false, ignored);
  t.same([...ignored], [['mood', 1]]);
});

t.test('bad lines say what is wrong', async (t) => {
  const cases: [unknown, RegExp][] = [
    ['{', /line 1: not JSON/],
    ['[]', /not a JSON object/],
    ['null', /not a JSON object/],
    [{ text: 't' }, /channel is missing/],
    [{ channel: '', text: 't' }, /channel is empty/],
    [{ channel: 'x'.repeat(257), text: 't' }, /longer than 256/],
    [{ channel: 'a\u0007', text: 't' }, /control character/],
    [{ channel: 'c' }, /text is missing/],
    [{ channel: 'c', text: null }, /text is missing/],
    [{ channel: 'c', text: 5 }, /text is not a string/],
    ['{"channel":"c","text":"\\ud800"}', /lone surrogate/],
    [{ channel: 'c', text: 't', time: 'yesterday' }, /RFC 3339/],
    [{ channel: 'c', text: 't', time: '2023-02-30T00:00:00Z' }, /RFC 3339/],
    [{ channel: 'c', text: 't', metadata: 'x' }, /metadata is not an object/],
    [{ channel: 'c', text: 't', metadata_json: '{' }, /not JSON/],
    [{ channel: 'c', text: 't', metadata: { x: 'y'.repeat(17_000) } }, /metadata is longer/],
    [{ channel: 'c', text: 't', key: 'k'.repeat(129) }, /key is longer/],
    [{ channel: 'c', text: 't'.repeat(1024 * 1024 + 1) }, /text is longer/],
    // Each text within its limit, both together not within a message's.
    [{ channel: 'c', text: 't'.repeat(1024 * 1024) }, /the message has 1048590 bytes, at most 1048576/],
    [{ channel: 'c', text: 't', seq: 1, content_xxh64: '0'.repeat(16) }, /--exported/],
  ];
  for (const [value, problem] of cases) t.match(problemOf(value), problem);
  t.match(
    (() => {
      try {
        parseLine(
          { number: 7, bytes: Buffer.from([0x22, 0xff, 0x22]), tooLong: false },
          { exported: false, ignored: new Map() },
        );
      } catch (error) {
        return String(error);
      }
      return '';
    })(),
    /line 7: not UTF-8/,
  );
  t.match(problemOf({ channel: 'c', text: 't' }, true), /content_xxh64 is missing/);
  t.match(
    problemOf({ channel: 'c', text: 't', seq: 0, content_xxh64: '0'.repeat(16) }, true),
    /seq is no whole/,
  );
});

t.test('no line makes anything but a message or a BadLine', async (t) => {
  const json = fc.jsonValue({ maxDepth: 3 });
  const object = fc.record(
    { channel: json, text: json, time: json, metadata: json, role: json, key: json },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string({ unit: 'binary' }),
        json.map((v) => JSON.stringify(v)),
        object.map((v) => JSON.stringify(v)),
      ),
      fc.boolean(),
      (text, exported) => {
        problemOf(text, exported);
      },
    ),
    { numRuns: 500 },
  );
  t.pass('500 lines');
});

t.test('the text of a member is what was written', async (t) => {
  fc.assert(
    fc.property(
      fc.dictionary(fc.string(), fc.jsonValue()),
      fc.constantFrom(undefined, 1, '\t'),
      (object, indent) => {
        const text = JSON.stringify(object, undefined, indent);
        for (const [key, value] of Object.entries(JSON.parse(text) as Record<string, unknown>)) {
          const found = memberText(text, key);
          assert.deepEqual(JSON.parse(found ?? 'null'), value);
        }
      },
    ),
    { numRuns: 200 },
  );
  t.equal(memberText('{"a":"}\\"{","metadata" : [1,{"x":"]"}] ,"b":2}', 'metadata'), '[1,{"x":"]"}]');
  t.equal(memberText('{"metadata":1,"metadata":2}', 'metadata'), '2', 'the last counts, as in JSON.parse');
  t.equal(memberText('{"x":{"metadata":1}}', 'metadata'), undefined);
});

t.test('times', async (t) => {
  for (const text of [
    '2004-11-15T12:18:00Z',
    '1969-12-31T23:59:59.999999Z',
    '0001-01-01T00:00:00Z',
    '9999-12-31T23:59:59.500Z',
  ])
    t.equal(formatTime(parseTime(text) ?? 0), text);
  t.equal(parseTime('2004-11-15T12:18:00.1234567Z'), 1100521080123456);
  for (const bad of [
    '',
    '2004-11-15',
    '2004-13-01T00:00:00Z',
    '2004-11-15T24:00:00Z',
    '2004-11-15T12:18:00',
    '2004-11-15T12:18:00+24:00',
  ])
    t.equal(parseTime(bad), undefined, bad);
});

t.test('what is exported is loaded again with the same bytes', async (t) => {
  const text = fc.string({ unit: 'grapheme' });
  const plain = fc.record(
    {
      role: fc.constantFrom('user' as const, 'assistant' as const, 'other' as const),
      author: text.map((s) => s.slice(0, 50)),
      text,
      metadataJson: fc.oneof(
        fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 1 })).map((v) => JSON.stringify(v)),
        fc.constantFrom('[1]', ' {"a":\n1}', '"s"', '{"a":1.0}'),
      ),
      clientTimeUs: fc.integer({ min: -1e15, max: 4e15 }),
      key: fc.string({ minLength: 1, maxLength: 20, unit: 'grapheme-ascii' }),
      subject: fc.string({ minLength: 1, maxLength: 20, unit: 'grapheme-ascii' }),
    },
    { requiredKeys: ['text'] },
  );
  const rich = fc.constantFrom<NewMessage>(
    {
      role: 'assistant',
      parts: [
        { type: 'reasoning', text: 'r', signature: new Uint8Array([1, 2]) },
        { type: 'text', text: 'a' },
      ],
    },
    { role: 'tool', parts: [] },
    { parts: [{ type: 'tool-call', callId: 'c', name: 'n', arguments: '{not json' }] },
    { role: 'user', text: 'x', parent: { messageId: 'm' } },
    { role: 'user', text: 'x', usage: { inputTokens: 2n ** 60n } },
    { type: 'custom', contentBytes: new Uint8Array([0, 255, 1]) },
    { contentBytes: new Uint8Array([0xf8, 0x07, 0x01]) },
  );
  fc.assert(
    fc.property(fc.oneof(plain, rich), fc.boolean(), (message, full) => {
      const event = eventOf(1, message as NewMessage);
      const line = exportLine('c', event, { full });
      assert.equal(line.indexOf('\n'), line.length - 1, 'one line');
      const again = parse(line.trimEnd(), true);
      const bytes = encode(again?.message ?? {});
      assert.equal(Buffer.compare(bytes, event.contentBytes), 0, line);
      assert.equal(again?.message.type ?? 'message-completed', event.type);
      assert.equal(again?.message.key ?? '', event.key);
      assert.equal(again?.exported?.checksum, event.checksum.toString(16).padStart(16, '0'));
    }),
    { numRuns: 300 },
  );
  t.pass('300 messages');
  const simple = exportLine('c', eventOf(3, { role: 'user', author: 'a', text: 't' }), { full: false });
  t.notMatch(simple, /"content":/, 'a plain message has no base64');
});

t.test('an export reads channels in order and refuses holes', async (t) => {
  const stored = new Map<string, Event[]>(
    Array.from({ length: 40 }, (_, i) => [
      `c${String(i).padStart(2, '0')}`,
      Array.from({ length: i * 3 }, (_, k) => eventOf(k + 1, { text: `${i}/${k}` })),
    ]),
  );
  const listed = [...stored].map(([name, events]) => infoOf(name, 1, events.length));
  const source = (hole: boolean): ExportSource => ({
    async *channels() {
      yield* listed;
    },
    channel: async () => undefined,
    async page(channel, fromSeq) {
      const events = stored.get(channel) ?? [];
      return {
        headSeq: events.length,
        events: events.slice(fromSeq - 1, fromSeq + 6).filter((e) => !(hole && e.seq === 9)),
        channelUid: `${channel}@1`,
      };
    },
  });
  const got: string[] = [];
  for await (const page of exportPages(source(false), listed)) {
    if (page.isFirst) got.push(`${page.channel.name} to ${page.headSeq}`);
    for (const event of page.events) got.push(`${page.channel.name}/${event.seq}`);
  }
  t.same(
    got,
    [...stored].flatMap(([name, events]) => [
      `${name} to ${events.length}`,
      ...events.map((e) => `${name}/${e.seq}`),
    ]),
    'every channel, the empty one too, with all its events',
  );
  await t.rejects(
    (async () => {
      for await (const page of exportPages(source(true), listed)) void page;
    })(),
    { message: /event 9 is missing|no events from 9/ },
  );
});

function infoOf(name: string, firstSeq: number, headSeq: number): ExportedChannel {
  const uid = `${name}@${firstSeq}`;
  return {
    name,
    uid,
    title: '',
    labels: {},
    class: '',
    participants: [],
    createTimeUs: 0,
    sealTimeUs: 0,
    firstSeq,
    headSeq,
  };
}

t.test('a channel that is deleted or made anew while others are exported', async (t) => {
  const now = new Map([
    ['anew', infoOf('anew', 4, 5)],
    ['same', infoOf('same', 1, 1)],
  ]);
  const pages = (cutAt: number): ExportSource => ({
    async *channels() {},
    channel: async (name) => now.get(name),
    async page(name, fromSeq) {
      const info = now.get(name);
      if (info === undefined) throw new HansardError('CHANNEL_NOT_FOUND', name);
      const events = fromSeq > info.headSeq ? [] : [eventOf(fromSeq, { text: 'x' })];
      const channelUid = fromSeq >= cutAt ? 'another' : info.uid;
      return { events, headSeq: info.headSeq, channelUid };
    },
  });
  const got: string[] = [];
  const before = [infoOf('anew', 1, 3), infoOf('gone', 1, 2), infoOf('same', 1, 1)];
  for await (const { channel, isFirst, events } of exportPages(pages(100), before)) {
    if (isFirst) got.push(channel.uid);
    for (const event of events) got.push(`${channel.name}/${event.seq}`);
  }
  t.same(got, ['anew@4', 'anew/4', 'anew/5', 'same@1', 'same/1']);
  await t.rejects(
    (async () => {
      for await (const page of exportPages(pages(5), before)) void page;
    })(),
    { reason: 'CHANNEL_NOT_FOUND', message: /deleted while it was exported/ },
    'never half of one channel and half of another',
  );
});

t.test('what an export says of a channel is read again; a cut or shuffled one is told', async (t) => {
  const info: ExportedChannel = {
    ...infoOf('a/b', 7, 9),
    title: 'Ä "title"',
    class: 'support',
    labels: { team: 'north', empty: '' },
    participants: [
      { id: 'ada', displayName: 'Ada', role: 'customer' },
      { id: 'bot', displayName: '', role: '' },
    ],
  };
  const { title, labels, participants } = info;
  const line = channelLine(info, 8).trimEnd();
  t.same(parseChannel(line), {
    line: 1,
    channel: 'a/b',
    class: 'support',
    firstSeq: 7,
    headSeq: 8,
    title,
    labels,
    participants,
    sealed: false,
  });
  t.equal(JSON.parse(line).version, 1);
  const sealed = channelLine({ ...info, sealTimeUs: 1_700_000_000_000_000 }, 8);
  t.match(JSON.parse(sealed), { version: 2, seal_time: /^2023-11-14T22:13:20/ }, 'old loaders refuse it');
  t.equal(parseChannel(sealed.trimEnd()).sealed, true);
  const proto = parseChannel(line.replace('"team"', '"__proto__"'));
  t.same(Object.entries(proto.labels), Object.entries(JSON.parse('{"__proto__": "north", "empty": ""}')));
  t.match(problemOf(line), /--exported/);
  t.equal(problemOf({ channel: 'c', text: 't', record: 'mine' }), 'accepted', 'a field of somebody else');
  for (const [change, problem] of [
    [{ version: 3 }, /newer version/],
    [{ version: undefined }, /version is missing/],
    [{ record: 'node' }, /does not know/],
    [{ channel: undefined }, /channel is missing/],
    [{ first_seq: 0 }, /first_seq/],
    [{ head_seq: 5 }, /head_seq/],
    [{ labels: { a: 1 } }, /label "a"/],
    [{ participants: {} }, /participants/],
    [{ participants: [1] }, /participant/],
  ] as const)
    t.match(problemOf({ ...JSON.parse(line), ...change }, true), problem);

  const problemWith = (...seqs: (number | string)[]): string => {
    const sections = new ExportSections();
    try {
      sections.event(1, 'of an old export', 5);
      sections.channel(parseChannel(line));
      for (const seq of seqs)
        if (typeof seq === 'number') sections.event(2, 'a/b', seq);
        else sections.event(3, seq, 1);
      sections.end();
    } catch (error) {
      if (error instanceof BadLine) return error.message;
      throw error;
    }
    return '';
  };
  t.equal(problemWith(7, 8), '');
  t.equal(problemWith(7, 8, 'next'), '');
  t.match(problemWith(), /7 is not here/);
  t.match(problemWith(7), /8 is not here/);
  t.match(problemWith(7, 'next'), /8 is not here/);
  t.match(problemWith(8), /where 7 should be/);
  t.match(problemWith(7, 8, 9), /none any more/);
});
