import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import fc from 'fast-check';
import t from 'tap';
import { Checker } from '../../src/api/check.js';
import { Rules, special, toolArguments } from '../../src/api/rules.js';
import { limits } from '../../src/common/limits.js';
import { loadPublicProtos } from '../../src/common/proto.js';
import { decode, encode, Harness, text, words } from './harness.js';

const methods: [string, object][] = [
  ['MessageService/AppendMessages', { channel: 'c', messages: [text('x')] }],
  ['MessageService/GetMessage', { channel: 'c', seq: 1, read: { commit_tokens: [Buffer.from('x')] } }],
  [
    'MessageService/ListMessages',
    { channel: 'c', anchor_time: { seconds: 5, nanos: 7 }, before: 3, after: 4 },
  ],
  ['MessageService/OpenProducer', { channel: 'c', name: 'n' }],
  ['ChannelService/GetChannel', { channel: 'c' }],
  ['ChannelService/ListChannels', { prefix: 'c', page_size: 3 }],
  [
    'ChannelService/CreateChannel',
    { channel: { name: 'z', labels: { a: 'b' }, participants: [{ id: 'u' }] } },
  ],
  ['ClusterService/GetCluster', {}],
  ['ReplicaService/ListReplicaChannels', { partition: 1, tenant: 'default', prefix: 'c', page_size: 3 }],
  ['ReplicaService/ReadReplicaEvents', { partition: 1, channel: 'c', channel_uid: 'u', from_seq: 1 }],
  ['ReplicaService/DigestReplica', { partition: 1 }],
  ['ReplicaService/ScrubNode', { start: false }],
];

/** A length-delimited field. */
function field(number: number, bytes: Uint8Array): Buffer {
  const head: number[] = [];
  for (let rest = ((number << 3) | 2) >>> 0; ; rest >>>= 7) {
    head.push(rest >= 0x80 ? (rest & 0x7f) | 0x80 : rest);
    if (rest < 0x80) break;
  }
  for (let rest = bytes.length; ; rest >>>= 7) {
    head.push(rest >= 0x80 ? (rest & 0x7f) | 0x80 : rest);
    if (rest < 0x80) break;
  }
  return Buffer.concat([Buffer.from(head), bytes]);
}

const channelField = field(2, Buffer.from('c'));
const appendOf = (...contents: Uint8Array[]): Buffer =>
  Buffer.concat([channelField, ...contents.map((content) => field(5, field(20, content)))]);

t.test('names: each rule is kept on every method that takes one', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const append = 'MessageService/AppendMessages';
  for (const [name, channel] of [
    ['empty', ''],
    ['too long', 'x'.repeat(257)],
    ['too long in bytes', 'é'.repeat(129)],
    ['newline', 'a\nb'],
    ['NUL', 'a\0'],
    ['DEL', 'a\x7f'],
    ['C1', 'a\u0085b'],
  ] as const) {
    t.match(await h.refused({ channel, messages: [text('x')] }), { reason: 'INVALID_NAME', code: 3 }, name);
    for (const [method, request] of methods) {
      if ('channel' in request && typeof request.channel === 'string' && method !== append) {
        t.match(
          (await h.failure(method, { ...request, channel })).error,
          { reason: 'INVALID_NAME' },
          `${name} ${method}`,
        );
      }
    }
    t.match((await h.failure('ChannelService/CreateChannel', { channel: { name: channel } })).error, {
      reason: 'INVALID_NAME',
      fields: { field: 'channel.name' },
    });
  }
  for (const tenant of ['Acme', 'a_b', 'x'.repeat(64), 'ü', 'a b']) {
    t.match(
      await h.refused({ tenant, channel: 'c', messages: [text('x')] }),
      { reason: 'INVALID_NAME' },
      tenant,
    );
    t.match((await h.failure('ChannelService/ListChannels', { tenant })).error, { reason: 'INVALID_NAME' });
  }
  for (const channel of [
    'x'.repeat(256),
    'é'.repeat(128),
    '#ubuntu',
    'a/b {c}',
    '你好',
    '😀',
    '\u00a0',
    '../..',
  ]) {
    t.match(
      await h.append({ channel, messages: [text('x')] }),
      { first_seq: '1' },
      `allowed: ${channel.slice(0, 20)}`,
    );
  }
  for (const name of ['key', 'message_id', 'subject']) {
    const long = text('x', { [name]: 'x'.repeat(129) });
    t.match(await h.refused({ channel: 'c', messages: [text('x'), long] }), {
      reason: 'INVALID_NAME',
      fields: { field: `messages[1].${name}` },
    });
  }
});

t.test('UTF-8: lone surrogates, overlong forms and cut characters are refused by field', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const broken: [string, Buffer][] = [
    ['lone surrogate', Buffer.from([0xed, 0xa0, 0x80])],
    ['surrogate pair as two', Buffer.from([0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80])],
    ['overlong slash', Buffer.from([0xc0, 0xaf])],
    ['cut', Buffer.from([0xe4, 0xbd])],
    ['beyond U+10FFFF', Buffer.from([0xf4, 0x90, 0x80, 0x80])],
    ['lone continuation', Buffer.from([0x80])],
    ['long', Buffer.concat([Buffer.alloc(500, 0x61), Buffer.from([0xff])])],
  ];
  for (const [name, bytes] of broken) {
    const inText = appendOf(encode('MessageContent', {}), field(3, field(1, field(1, bytes))));
    t.match(
      await h.refused(inText),
      { reason: 'INVALID_UTF8', code: 3, fields: { field: 'messages[1].message.parts[0].text.text' } },
      name,
    );
    t.match(await h.refused(appendOf(field(2, bytes))), {
      reason: 'INVALID_UTF8',
      fields: { field: 'messages[0].message.author' },
    });
    if (bytes.length > 128) continue;
    const channel = Buffer.concat([field(2, bytes), field(5, field(20, Buffer.alloc(0)))]);
    t.match(await h.refused(channel), { reason: 'INVALID_UTF8', fields: { field: 'channel' } });
    const key = Buffer.concat([
      channelField,
      field(5, Buffer.concat([field(2, bytes), field(20, Buffer.alloc(0))])),
    ]);
    t.match(await h.refused(key), { reason: 'INVALID_UTF8', fields: { field: 'messages[0].key' } });
    for (const method of [
      'MessageService/GetMessage',
      'ChannelService/GetChannel',
      'MessageService/OpenProducer',
    ]) {
      t.match((await h.failure(method, field(2, bytes))).error, { reason: 'INVALID_UTF8' }, method);
    }
    const label = field(
      1,
      Buffer.concat([
        field(2, Buffer.from('n')),
        field(5, Buffer.concat([field(1, bytes), field(2, bytes)])),
      ]),
    );
    t.match((await h.failure('ChannelService/CreateChannel', label)).error, { reason: 'INVALID_UTF8' });
  }
  t.equal(h.node.proposals, 0, 'nothing was proposed');
});

t.test('content: JSON, sizes, references, ranges', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const refused = async (message: object) => h.refused({ channel: 'c', messages: [{ message }] });
  const large = JSON.stringify('x'.repeat(limits.jsonTextBytes));
  const at = (name: string) => ({ fields: { field: `messages[0].message.${name}` } });
  t.match(await refused({ metadata_json: '{"a":' }), { reason: 'METADATA_NOT_JSON', ...at('metadata_json') });
  t.match(await refused({ metadata_json: large }), { reason: 'METADATA_TOO_LARGE', ...at('metadata_json') });
  t.match(await refused({ usage: { details_json: 'no' } }), {
    reason: 'METADATA_NOT_JSON',
    ...at('usage.details_json'),
  });
  const part = async (each: object) => refused({ parts: [{ text: { text: '' } }, each] });
  t.match(await part({ provider_metadata: '[' }), {
    reason: 'METADATA_NOT_JSON',
    ...at('parts[1].provider_metadata'),
  });
  t.match(await part({ tool_result: { output_json: 'x' } }), { reason: 'METADATA_NOT_JSON' });
  t.match(await part({ data: { json: '{' } }), { reason: 'METADATA_NOT_JSON' });
  t.match(await part({ tool_call: { arguments: large } }), { reason: 'METADATA_TOO_LARGE' });
  t.match(await part({ tool_call: { name: 'x'.repeat(1025) } }), { reason: 'INVALID_ARGUMENT' });
  t.match(await refused({ role: 7 }), { reason: 'INVALID_ARGUMENT', ...at('role') });
  t.match(await refused({ client_time: { seconds: 1, nanos: 1e9 } }), { reason: 'INVALID_ARGUMENT' });
  t.match(await refused({ client_time: { seconds: '253402300800' } }), { reason: 'INVALID_ARGUMENT' });
  t.match(await refused({ parent: { batch_position: 0 } }), {
    reason: 'INVALID_ARGUMENT',
    ...at('parent.batch_position'),
  });
  t.match(await refused({ parent: { message_id: 'x'.repeat(129) } }), { reason: 'INVALID_ARGUMENT' });
  t.match(await refused({ parts: Array.from({ length: 1_001 }, () => ({ text: {} })) }), {
    reason: 'INVALID_ARGUMENT',
  });
  const tooLarge = { parts: [{ text: { text: 'x'.repeat(limits.messageBytes) } }] };
  t.match(await refused(tooLarge), { reason: 'MESSAGE_TOO_LARGE', fields: { field: 'messages[0]' } });
  const frame = Array.from({ length: 5 }, () => text('x'.repeat(900_000)));
  t.match(await h.refused({ channel: 'c', messages: frame }), { reason: 'FRAME_TOO_LARGE' });
  t.match(await h.refused({ channel: 'c', messages: Array(10_001).fill(text('')) }), {
    reason: 'FRAME_TOO_LARGE',
  });
  t.match(await h.refused({ channel: 'c' }), { reason: 'INVALID_ARGUMENT', fields: { field: 'messages' } });
  t.match(await h.refused({ channel: 'c', messages: [{}] }), { fields: { field: 'messages[0].message' } });
  t.match(await h.refused({ channel: 'c', messages: [text('x', { type: 18 })] }), {
    fields: { field: 'messages[0].type' },
  });
  t.match(await h.refused({ channel: 'c', messages: [text('x', { type: 7 })] }), {
    reason: 'INVALID_ARGUMENT',
  });
  t.match(await h.refused({ channel: 'c', messages: [{ raw: Buffer.from('x') }] }), {
    reason: 'INVALID_ARGUMENT',
  });
  t.match(await h.refused({ channel: 'c', messages: [text('x', { content_xxh64: '12345' })] }), {
    reason: 'CHECKSUM_MISMATCH',
    code: 15,
  });
  t.match(await h.refused({ channel: 'c', producer: { producer_id: 1 }, messages: [text('x')] }), {
    fields: { field: 'producer.first_counter' },
  });
  t.match(await h.refused({ channel: 'c', producer: { first_counter: 1 }, messages: [text('x')] }), {
    fields: { field: 'producer.producer_id' },
  });
  t.match(await h.refused({ channel: 'c', condition: { must_exist: false }, messages: [text('x')] }), {
    fields: { field: 'condition.must_exist' },
  });
  t.match((await h.failure('MessageService/GetMessage', { channel: 'c' })).error, {
    fields: { field: 'ref' },
  });
  t.match((await h.failure('MessageService/ListMessages', { channel: 'c', before: 1, after: 1 })).error, {
    fields: { field: 'after' },
  });
  t.match((await h.failure('ChannelService/ListChannels', { page_size: -1 })).error, {
    fields: { field: 'page_size' },
  });
  t.equal(h.node.proposals, 0, 'nothing was proposed');

  const allowed: object[] = [
    {},
    { metadata_json: '{"a":[1,"\\ud800"]}', client_time: { seconds: -5, nanos: 999_999_999 }, role: 6 },
    { parts: [{ tool_call: { arguments: '{"not": json' } }, { tool_result: { output_json: large } }] },
    { usage: { input_tokens: '18446744073709551615' }, parent: { batch_position: 2 }, reply_to: { seq: 1 } },
  ];
  await h.append({ channel: 'c', messages: allowed.map((message) => ({ message })) });
  const { events } = await h.call('MessageService/ListMessages', { channel: 'c' });
  t.match(events[3].message, {
    usage: { input_tokens: '18446744073709551615' },
    parent: { batch_position: 2 },
  });
  t.match(events[2].message.parts[0].tool_call, { arguments: '{"not": json' });
});

t.test('huge numbers are refused where they are used', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  for (const huge of ['9007199254740992', '18446744073709551615']) {
    for (const request of [
      { condition: { expected_head_seq: huge } },
      { producer: { producer_id: huge, first_counter: 1 } },
      { producer: { producer_id: 1, first_counter: huge } },
      { messages: [text('x', { target_seq: huge })] },
      { messages: [{ message: { parent: { seq: huge } } }] },
    ]) {
      const error = await h.refused({ channel: 'c', messages: [text('x')], ...request });
      t.match(error, { reason: 'INVALID_ARGUMENT' }, JSON.stringify(request));
    }
    t.match((await h.failure('MessageService/GetMessage', { channel: 'c', seq: huge })).error, {
      reason: 'INVALID_ARGUMENT',
    });
    const anchor = { channel: 'c', anchor_seq: huge };
    t.match((await h.failure('MessageService/ListMessages', anchor)).error, { reason: 'INVALID_ARGUMENT' });
  }
  const stamp = { producer_id: 1, first_counter: '9007199254740991' };
  t.match(await h.refused({ channel: 'c', producer: stamp, messages: [text('x')] }), {
    reason: 'INVALID_ARGUMENT',
  });
});

t.test('garbage as protobuf gets an error on every method and harms no other call', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const random = fc.sample(fc.uint8Array({ minLength: 1, maxLength: 80 }), { numRuns: 25, seed: 7 });
  const fixed = [
    Buffer.alloc(64, 0xff),
    Buffer.alloc(5_000, 0x0b),
    Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]),
    Buffer.from([0x00, 0x01]),
    Buffer.from([0x12, 0x80]),
    Buffer.from([0x10, 0x05]),
  ];
  for (const [method, request] of methods) {
    const name = method.split('/')[1] as string;
    const valid = encode(`${name}Request`, request);
    const cut = Array.from({ length: valid.length }, (_, i) => valid.subarray(0, i));
    const flipped = Array.from({ length: valid.length * 2 }, (_, i) => {
      const bytes = Buffer.from(valid);
      bytes.writeUInt8(bytes.readUInt8(i >> 1) ^ (i & 1 ? 0x80 : 0x03), i >> 1);
      return bytes;
    });
    const codes = new Set<number>();
    const inputs = [...fixed, ...random, ...cut, ...flipped];
    const results = await Promise.all(
      inputs.map((bytes) => h.raw(method, Buffer.from(bytes)).catch((error) => error as { code: number })),
    );
    for (const result of results) codes.add(Buffer.isBuffer(result) ? 0 : result.code);
    t.notOk(codes.has(13) || codes.has(2), `${method}: no defect (${[...codes].sort().join(' ')})`);
    if (name !== 'GetCluster') t.ok(codes.has(3), `${method}: refused`);
    t.match(await h.append({ channel: `after-${name}`, messages: [text('fine')] }), { first_seq: '1' });
  }
  t.equal(h.fatal, undefined);
});

t.test('an expired deadline is told before anything is proposed; a late one cuts the call', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const handler = h.node.handler;
  const request = encode('AppendMessagesRequest', { channel: 'c', messages: [text('x')] });
  const expired = handler?.('hansard.v1.MessageService/AppendMessages', request, h.node.monotonicMs() - 1);
  t.match(await expired?.catch((error) => error), { reason: 'DEADLINE_EXCEEDED', code: 4 });
  t.equal(h.node.proposals, 0);
  h.node.gate = () => new Promise((resolve) => setTimeout(resolve, 700));
  const late = await h.failure('MessageService/AppendMessages', request, 100);
  t.equal(late.code, 4);
  t.match(
    await handler?.('hansard.v1.MessageService/AppendMessages', request, h.node.monotonicMs() + 50).catch(
      (e) => e,
    ),
    {
      reason: 'DEADLINE_EXCEEDED',
    },
  );
  while (h.api.callsInFlight > 0) await new Promise((resolve) => setTimeout(resolve, 20));
  t.pass('what the calls held is free again');
  const unknown = await handler?.(
    '/hansard.v1.MessageService/Nope',
    request,
    h.node.monotonicMs() + 50,
  ).catch((e) => e);
  t.match(unknown, { reason: 'NOT_IMPLEMENTED' });
});

t.test('10,000 calls at once: bounded, refused with a delay, and none lost', async (t) => {
  const script = fileURLToPath(new URL('./flood.js', import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [script], { timeout: 700_000 });
  t.same(JSON.parse(stdout), {
    appended: 256,
    overloaded: 9_744,
    mostInFlight: 256,
    others: 0,
    other: '',
    after: '257',
  });
});

t.test('the tables follow the protos', async (t) => {
  const rules = new Rules(loadPublicProtos());
  for (const key of [...Object.keys(special), toolArguments]) {
    const [message, name] = key.split('.') as [string, string];
    t.ok(
      rules.message(`hansard.v1.${message}`).fields.some((each) => each?.name === name),
      key,
    );
  }
  const content = rules.message('hansard.v1.MessageContent');
  t.ok(content.fields.filter(Boolean).length >= 8);
  const checker = new Checker();
  const sample = encode('MessageContent', { parts: [{ custom: { kind: 'x', json: '1' } }] });
  t.doesNotThrow(() => checker.check(content, sample, 0, sample.length));
  t.equal(
    words({
      message: decode('MessageContent', encode('MessageContent', { parts: [{ text: { text: 'a' } }] })),
    }),
    'a',
  );
});
