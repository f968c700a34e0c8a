import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { readChannelResponse } from '../../src/client/channel-responses.js';
import { readClusterResponse } from '../../src/client/cluster-responses.js';
import { readContent } from '../../src/client/content-decode.js';
import { type Call, decodeFrame, encodeFrame, encodeRequest } from '../../src/client/frames.js';
import { parseTarget } from '../../src/client/options.js';
import {
  bodyOf,
  encodeAppend,
  encodeCreateChannel,
  encodeList,
  encodeListChannels,
  encodeTarget,
  methods,
} from '../../src/client/requests.js';
import { readAppendResponse } from '../../src/client/responses.js';
import type { MessageContent, NewMessage, Part } from '../../src/client/types.js';
import { ProtoReader, WireError } from '../../src/client/wire-reader.js';
import { HansardError } from '../../src/common/errors.js';
import { xxh64 } from '../../src/common/hash.js';
import { codec } from './fake-cluster.js';

const shortText = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 20 });
const json = fc.json({ maxDepth: 2 });
const bytes = fc.uint8Array({ minLength: 1, maxLength: 40 });
const uint64 = fc.oneof(
  fc.maxSafeNat().filter((n) => n > 0),
  fc.bigInt({ min: 2n ** 53n, max: 2n ** 64n - 1n }),
);
const some = { requiredKeys: [] as never[], noNullPrototype: true };
const optional = <T extends Record<string, fc.Arbitrary<unknown>>>(model: T) => fc.record(model, some);

const base = { providerMetadataJson: json };
const part = fc
  .oneof(
    fc.tuple(
      fc.record({ type: fc.constant('text'), text: fc.string({ unit: 'grapheme' }) }),
      optional({ state: shortText, ...base }),
    ),
    fc.tuple(
      fc.record({ type: fc.constant('reasoning') }),
      optional({
        text: shortText,
        signature: bytes,
        encrypted: bytes,
        summary: fc.array(fc.string({ unit: 'grapheme' }), { minLength: 1 }),
        id: shortText,
        state: shortText,
        ...base,
      }),
    ),
    fc.tuple(
      fc.record({
        type: fc.constant('tool-call'),
        callId: shortText,
        name: shortText,
        arguments: fc.string(),
      }),
      optional({ id: shortText, state: shortText, providerExecuted: fc.constant(true), ...base }),
    ),
    fc.tuple(
      fc.record({ type: fc.constant('tool-result'), callId: shortText }),
      fc.oneof(
        fc.record({ outputJson: json }),
        fc.record({ outputText: fc.string() }),
        fc.record({ errorText: fc.string() }),
        fc.constant({}),
      ),
      optional({ name: shortText, isError: fc.constant(true), id: shortText, state: shortText, ...base }),
    ),
    fc.tuple(
      fc.record({ type: fc.constant('file') }),
      fc.oneof(
        fc.record({ url: fc.string() }),
        fc.record({ fileId: fc.string() }),
        fc.record({ inlineData: fc.uint8Array() }),
        fc.constant({}),
      ),
      optional({
        mediaType: shortText,
        filename: shortText,
        sizeBytes: uint64,
        sha256: fc.uint8Array({ minLength: 32, maxLength: 32 }),
        ...base,
      }),
    ),
    fc.tuple(
      fc.record({ type: fc.constant('source') }),
      optional({
        sourceId: shortText,
        kind: shortText,
        url: shortText,
        title: shortText,
        mediaType: shortText,
        filename: shortText,
        ...base,
      }),
    ),
    fc.tuple(
      fc.record({ type: fc.constant('data'), name: shortText }),
      optional({ id: shortText, json, ...base }),
    ),
    fc.tuple(
      fc.record({ type: fc.constant('custom'), kind: shortText }),
      fc.oneof(fc.record({ json }), fc.record({ binary: fc.uint8Array() }), fc.constant({})),
      optional(base),
    ),
  )
  .map((pieces) => Object.assign({}, ...pieces) as Part);

const plain = { noNullPrototype: true };
const ref = fc.oneof(fc.record({ seq: uint64 }, plain), fc.record({ messageId: shortText }, plain));
const content = optional({
  role: fc.constantFrom('user', 'assistant', 'system', 'tool', 'developer', 'other'),
  author: shortText,
  parts: fc.array(part, { minLength: 1, maxLength: 6 }),
  parent: ref,
  replyTo: ref,
  metadataJson: json,
  clientTimeUs: fc.maxSafeInteger(),
  usage: optional({
    model: shortText,
    inputTokens: uint64,
    outputTokens: uint64,
    cachedInputTokens: uint64,
    reasoningTokens: uint64,
    detailsJson: json,
  }),
}) as fc.Arbitrary<MessageContent>;

/** The content's bytes of a single message, taken out by protobufjs' own decoder. */
function contentOf(message: NewMessage): Buffer {
  const request = encodeRequest(appendCall(message));
  const decoded = codec('hansard.v1.AppendMessagesRequest').deserialize(request) as Record<string, never>;
  const [only] = decoded['messages'] as unknown as { message: object }[];
  return codec('hansard.v1.MessageContent').serialize((only as { message: object }).message);
}

function thrown(fn: () => unknown): string {
  try {
    fn();
    return 'nothing';
  } catch (error) {
    return error instanceof HansardError ? error.reason : String(error);
  }
}

function appendCall(message: NewMessage): Call {
  const encoded = encodeAppend(encodeTarget('', 'c'), [message], undefined);
  const ends = { answered: () => {}, failed: () => {} };
  return {
    ...encoded,
    ...ends,
    method: methods.append,
    producerId: 1,
    counter: 1,
    timeoutMs: 0,
    patienceMs: 0,
  };
}

t.test(
  'any content: protobufjs reads what we write, writes the same bytes, and we read it back',
  async () => {
    fc.assert(
      fc.property(content, (message) => {
        const encoded = encodeAppend(encodeTarget('', 'c'), [message], undefined);
        const canonical = contentOf(message);
        // Our bytes are inside the request; protobufjs made the same ones.
        if (!Buffer.from(bodyOf(encoded)).includes(canonical)) return false;
        if (encoded.checksums[0] !== xxh64(canonical)) return false;
        assert.deepEqual(readContent(canonical), message);
        return true;
      }),
      { numRuns: 300 },
    );
  },
);

t.test('a part of a kind that this version does not know keeps its bytes', async (t) => {
  // Part { 9: { 1: "x" }, provider_metadata: "{}" }, then a text part
  const unknown = Buffer.from([0x4a, 3, 0x0a, 1, 0x78, 0x7a, 2, 0x7b, 0x7d]);
  const bytes = Buffer.concat([
    Buffer.from([26, unknown.length]),
    unknown,
    Buffer.from([26, 5, 10, 3, 10, 1, 0x79]),
  ]);
  const message = readContent(bytes);
  t.same(message.parts, [
    { type: 'unknown', bytes: new Uint8Array(unknown) },
    { type: 'text', text: 'y' },
  ]);
  const encoded = encodeAppend(new Uint8Array(0), [message], undefined);
  t.ok(Buffer.from(bodyOf(encoded)).includes(bytes), 'and is written back');
});

t.test('frames: calls and answers', async (t) => {
  const outcomes: string[] = [];
  const calls: Call[] = Array.from({ length: 300 }, (_, i) => ({
    ...appendCall({ role: 'user', text: 'x'.repeat(i) }),
    counter: i * 1000 + 1,
    producerId: 2 ** 40 + i,
    timeoutMs: i,
    patienceMs: i,
  }));
  const frame = codec('hansard.v1.ExchangeRequest').deserialize(encodeFrame(calls, 100)) as never as {
    calls: { id: string; method: string; timeout_ms?: number; request: Buffer }[];
  };
  t.equal(frame.calls.length, 300);
  for (const [i, call] of frame.calls.entries()) {
    if (call.id !== String(100 + i) || (call.timeout_ms ?? 0) !== i || call.method !== methods.append)
      t.fail(`call ${i}`);
    const request = codec('hansard.v1.AppendMessagesRequest').deserialize(call.request) as never as {
      producer: object;
      channel: string;
    };
    const stamp = { producer_id: String(2 ** 40 + i), first_counter: String(i * 1000 + 1) };
    if (JSON.stringify(request.producer) !== JSON.stringify(stamp)) t.fail(`stamp ${i}`);
  }
  const info = codec('google.rpc.ErrorInfo').serialize({
    reason: 'PRODUCER_GAP',
    domain: 'hansard',
    metadata: { expected_counter: '7' },
  });
  const response = codec('hansard.v1.ExchangeResponse').serialize({
    answers: [
      { id: 100, code: 0, response: Buffer.from([1, 2]), forwarded_to_node_id: 3 },
      {
        id: 101,
        code: 9,
        message: 'gap',
        details: [{ type_url: 'type.googleapis.com/google.rpc.ErrorInfo', value: info }],
      },
      { id: 102, code: 14, message: 'proxy' },
      { id: 103, code: 9, details: [{ type_url: 'x/google.rpc.ErrorInfo', value: Buffer.from([10, 200]) }] },
    ],
  });
  decodeFrame(response, {
    answered: (id, bytes, from, to, forwardedTo) =>
      outcomes.push(`${id} ok ${bytes.toString('hex', from, to)} ${forwardedTo}`),
    failed: (id, error, inDoubt) =>
      outcomes.push(`${id} ${error.reason} ${error.fields['expected_counter'] ?? ''} ${inDoubt}`),
  });
  t.same(outcomes, [
    '100 ok 0102 3',
    '101 PRODUCER_GAP 7 false',
    '102 UNREACHABLE  true',
    '103 INTERNAL  true',
  ]);
});

t.test('what the door would refuse is refused before it is sent', async (t) => {
  const cases: [string, NewMessage][] = [
    ['INVALID_UTF8', { text: 'a\ud800b' }],
    ['INVALID_UTF8', { text: 'ok', author: '\udc00' }],
    ['INVALID_UTF8', { text: 'ok', messageId: '\ud800' }],
    ['INVALID_UTF8', { parts: [{ type: 'tool-call', callId: 'c', name: 'n', arguments: '\ud800' }] }],
    ['METADATA_NOT_JSON', { text: 'x', metadataJson: '{"a":' }],
    ['METADATA_NOT_JSON', { parts: [{ type: 'data', name: 'x', json: 'undefined' }] }],
    ['METADATA_TOO_LARGE', { text: 'x', metadata: 'y'.repeat(16 * 1024) }],
    [
      'METADATA_TOO_LARGE',
      { parts: [{ type: 'tool-call', callId: 'c', name: 'n', arguments: 'é'.repeat(9_000) }] },
    ],
    ['MESSAGE_TOO_LARGE', { text: 'x'.repeat(1024 * 1024) }],
    ['INVALID_NAME', { text: 'x', key: 'k'.repeat(129) }],
    ['INVALID_ARGUMENT', { text: 'x', author: 'a'.repeat(1025) }],
    ['INVALID_ARGUMENT', { text: 'x', parts: [] }],
    ['INVALID_ARGUMENT', { text: 'x', targetSeq: -1 }],
    ['INVALID_ARGUMENT', { text: 'x', targetSeq: 1.5 }],
    ['INVALID_ARGUMENT', { text: 'x', clientTimeUs: Number.NaN }],
    ['INVALID_ARGUMENT', { text: 'x', parent: { batchPosition: 0 } }],
    ['INVALID_ARGUMENT', { parts: [{ type: 'file', url: 'a', fileId: 'b' }] }],
    ['INVALID_ARGUMENT', { text: 'x', role: 'nobody' as never }],
    ['INVALID_ARGUMENT', { type: 'annotated', text: 'x' }],
  ];
  for (const [reason, message] of cases)
    t.equal(
      thrown(() => encodeAppend(new Uint8Array(0), [message], undefined)),
      reason,
      `${reason}: ${JSON.stringify(message).slice(0, 60)}`,
    );
  t.equal(
    thrown(() => encodeAppend(new Uint8Array(0), [], undefined)),
    'INVALID_ARGUMENT',
  );
  const big = { text: 'x'.repeat(900_000) };
  t.equal(
    thrown(() => encodeAppend(new Uint8Array(0), [big, big, big, big, big], undefined)),
    'FRAME_TOO_LARGE',
  );
  t.doesNotThrow(() => encodeAppend(new Uint8Array(0), [big, big, big, big], undefined));
});

t.test('garbage ends in WireError, never in a read past the end', async (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
      const readAppend = (these: Uint8Array) => readAppendResponse(new ProtoReader(these));
      for (const read of [readContent, readAppend, readChannelResponse, readClusterResponse]) {
        try {
          read(bytes);
        } catch (error) {
          if (!(error instanceof WireError || error instanceof HansardError)) throw error;
        }
      }
    }),
    { numRuns: 2_000 },
  );
  t.throws(() => new ProtoReader(Buffer.alloc(11, 0xff)).uint64(), WireError);
  t.throws(() => readContent(Buffer.from([26, 0xff, 0xff, 0xff, 0xff, 0x0f])), WireError);
});

t.test('requests as protobufjs reads them', async (t) => {
  const list = codec('hansard.v1.ListMessagesRequest').deserialize(
    encodeList(
      encodeTarget('acme', 'c'),
      { anchorTimeUs: 1_500_000, before: 3, after: 4, descending: true, pageToken: 'p' },
      {
        level: 'eventual',
        preference: 'nearest',
        commitTokens: [Buffer.from('a'), Buffer.from('b')],
        maxStalenessMs: 1500,
      },
    ),
  );
  t.same(JSON.parse(JSON.stringify(list)), {
    tenant: 'acme',
    channel: 'c',
    anchor: 'anchor_time',
    anchor_time: { seconds: '1', nanos: 500_000_000 },
    before: 3,
    after: 4,
    descending: true,
    page_token: 'p',
    read: {
      level: 4,
      preference: 5,
      commit_tokens: [Buffer.from('a'), Buffer.from('b')].map((each) => each.toJSON()),
      max_staleness: { seconds: '1', nanos: 500_000_000 },
    },
  });
  const create = codec('hansard.v1.CreateChannelRequest').deserialize(
    encodeCreateChannel(
      'acme',
      'c',
      {
        title: 't',
        class: 'k',
        labels: { a: '1', b: '' },
        participants: [{ id: 'p', displayName: 'P', role: 'r' }],
      },
      'id',
    ),
  );
  t.match(JSON.parse(JSON.stringify(create)), {
    channel: {
      tenant: 'acme',
      name: 'c',
      title: 't',
      class: 'k',
      labels: { a: '1', b: '' },
      participants: [{ id: 'p', display_name: 'P', role: 'r' }],
    },
    request_id: 'id',
  });
  const channels = codec('hansard.v1.ListChannelsRequest').deserialize(
    encodeListChannels('', { prefix: 'p', pageSize: 7 }, {}),
  );
  t.match(channels, { prefix: 'p', page_size: 7 });
});

t.test('connection strings', async (t) => {
  t.same(parseTarget('hansard://a:1,b:2/acme'), { endpoints: ['a:1', 'b:2'], tenant: 'acme' });
  t.same(parseTarget('127.0.0.1:4701'), { endpoints: ['127.0.0.1:4701'], tenant: '' });
  t.same(parseTarget('hansard://[::1]:80/'), { endpoints: ['[::1]:80'], tenant: '' });
  for (const bad of ['', 'hansard://', 'a', 'a:0', 'a:70000', 'a:1,', 'a b:1', 'http://a:1'])
    t.equal(
      thrown(() => parseTarget(bad)),
      'INVALID_ARGUMENT',
      bad,
    );
  t.equal(
    thrown(() => parseTarget('a:1/Acme')),
    'INVALID_NAME',
  );
});
