/**
 * What a caller without types may give: every wrong shape ends in INVALID_ARGUMENT
 * (or another documented reason) that names the field, before anything is sent.
 */
import t from 'tap';
import { connect, type NewMessage } from '../../src/client/index.js';
import { encodeAppend } from '../../src/client/requests.js';
import { HansardError } from '../../src/common/errors.js';

const cycle: Record<string, unknown> = {};
cycle.self = cycle;

/** [what is given, the field that the error names, a word of the cure] */
type Case = readonly [unknown, string, string];

const wrongMessages: readonly Case[] = [
  ['hello', 'message', "text: '…'"],
  [null, 'message', 'object'],
  [42, 'message', 'object'],
  [[{ text: 'x' }], 'message', 'object'],
  [{ content: 'hello' }, 'content', 'text, parts'],
  [{ text: 'x', Role: 'user' }, 'Role', 'role'],
  [{ text: 42 }, 'text', 'string'],
  [{ text: null }, 'text', 'leave it out'],
  [{ text: ['a'] }, 'text', 'string'],
  [{ text: 'x', role: 'robot' }, 'role', 'robot'],
  [{ text: 'x', role: 1.5 }, 'role', 'user'],
  [{ text: 'x', role: -1 }, 'role', 'user'],
  [{ text: 'x', role: {} }, 'role', 'user'],
  [{ text: 'x', author: 7 }, 'author', 'string'],
  [{ text: 'x', author: { id: 'ann' } }, 'author', 'string'],
  [{ parts: 'x' }, 'parts', 'array'],
  [{ parts: { type: 'text', text: 'x' } }, 'parts', 'array'],
  [{ parts: ['x'] }, 'parts[0]', "type: 'text'"],
  [{ parts: [null] }, 'parts[0]', 'object'],
  [{ parts: [{ text: 'x' }] }, 'parts[0].type', "missing; must be one of 'text'"],
  [{ parts: [{ type: 'text', text: 'x' }, { type: 'txt' }] }, 'parts[1].type', "'tool-call'"],
  [{ parts: [{ type: 'toString' }] }, 'parts[0].type', "'text'"],
  [{ parts: [{ type: 'text' }] }, 'parts[0].text', 'missing'],
  [{ parts: [{ type: 'text', text: 5 }] }, 'parts[0].text', 'string'],
  [{ parts: [{ type: 'text', content: 'x' }] }, 'parts[0].content', 'text'],
  [{ parts: [{ type: 'text', text: 'x', state: 1 }] }, 'parts[0].state', 'string'],
  [
    { parts: [{ type: 'tool-call', callId: 'c', name: 'n', arguments: { a: 1 } }] },
    'parts[0].arguments',
    'JSON.stringify',
  ],
  [{ parts: [{ type: 'tool-call', name: 'n', arguments: '{}' }] }, 'parts[0].callId', 'missing'],
  [
    { parts: [{ type: 'tool-call', callId: 'c', name: 'n', arguments: '{}', providerExecuted: 'yes' }] },
    'parts[0].providerExecuted',
    'true or false',
  ],
  [
    { parts: [{ type: 'tool-result', callId: 'c', outputJson: {} }] },
    'parts[0].outputJson',
    'JSON.stringify',
  ],
  [{ parts: [{ type: 'reasoning', signature: 'abc' }] }, 'parts[0].signature', 'Uint8Array'],
  [{ parts: [{ type: 'reasoning', summary: 'abc' }] }, 'parts[0].summary', 'array'],
  [{ parts: [{ type: 'reasoning', summary: ['a', 1] }] }, 'parts[0].summary[1]', 'string'],
  [{ parts: [{ type: 'file', inlineData: 'abc' }] }, 'parts[0].inlineData', 'Uint8Array'],
  [{ parts: [{ type: 'file', inlineData: new ArrayBuffer(3) }] }, 'parts[0].inlineData', 'Uint8Array'],
  [{ parts: [{ type: 'file', sizeBytes: -1 }] }, 'parts[0].sizeBytes', 'whole number'],
  [{ parts: [{ type: 'file', sizeBytes: 1n << 64n }] }, 'parts[0].sizeBytes', 'whole number'],
  [{ parts: [{ type: 'custom', json: '{}' }] }, 'parts[0].kind', 'missing'],
  [{ parts: [{ type: 'unknown' }] }, 'parts[0].bytes', 'missing'],
  [{ parts: [{ type: 'data', name: 'd', json: { a: 1 } }] }, 'parts[0].json', 'string'],
  [{ text: 'x', metadataJson: { a: 1 } }, 'metadataJson', 'metadata'],
  [{ text: 'x', metadata: cycle }, 'metadata', 'JSON'],
  [{ text: 'x', metadata: 5n }, 'metadata', 'JSON'],
  [{ text: 'x', metadata: () => 1 }, 'metadata', 'function'],
  [{ text: 'x', clientTime: '2026-01-01' }, 'clientTime', 'Date'],
  [{ text: 'x', clientTime: new Date('never') }, 'clientTime', 'Date'],
  [{ text: 'x', clientTimeUs: '5' }, 'clientTimeUs', 'number'],
  [{ text: 'x', usage: 5 }, 'usage', 'object'],
  [{ text: 'x', usage: { tokens: 5 } }, 'usage.tokens', 'inputTokens'],
  [{ text: 'x', usage: { inputTokens: '5' } }, 'usage.inputTokens', 'whole number'],
  [{ text: 'x', replyTo: 5 }, 'replyTo', '{ seq }'],
  [{ text: 'x', replyTo: {} }, 'replyTo', '{ seq }'],
  [{ text: 'x', parent: { seq: 1, messageId: 'a' } }, 'parent', '{ seq }'],
  [{ text: 'x', parent: { id: 'a' } }, 'parent.id', 'messageId'],
  [{ text: 'x', parent: { seq: 'a' } }, 'parent.seq', 'whole number'],
  [{ text: 'x', type: 'note' }, 'type', 'note'],
  [{ text: 'x', type: true }, 'type', 'event type'],
  [{ text: 'x', key: 5 }, 'key', 'string'],
  [{ text: 'x', messageId: 5 }, 'messageId', 'string'],
  [{ text: 'x', subject: {} }, 'subject', 'string'],
  [{ text: 'x', targetSeq: '5' }, 'targetSeq', 'whole number'],
  [{ contentBytes: 'abc' }, 'contentBytes', 'Uint8Array'],
  [{ contentBytes: [1, 2] }, 'contentBytes', 'Uint8Array'],
];

/** The field that a call's INVALID_ARGUMENT names. */
function refusedField(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    const { reason, fields } = named(error);
    return reason === 'INVALID_ARGUMENT' ? fields.field : reason;
  }
  return 'not refused';
}

function named(error: unknown): HansardError {
  if (error instanceof HansardError) return error;
  throw error;
}

t.test('a message of another shape is refused by the field that is wrong', async (t) => {
  for (const [message, field, word] of wrongMessages) {
    let error: HansardError | undefined;
    try {
      encodeAppend(new Uint8Array(0), [message as NewMessage], undefined);
    } catch (thrown) {
      error = named(thrown);
    }
    const what = `${field}: ${typeof message === 'object' ? Object.keys(message ?? {}) : String(message)}`;
    t.equal(error?.reason, 'INVALID_ARGUMENT', what);
    t.equal(error?.fields.field, field, what);
    t.ok(String(error?.message).includes(word), `${error?.message} speaks of ${word}`);
  }
  const second = (): unknown =>
    encodeAppend(new Uint8Array(0), [{ text: 'x' }, { parts: [{ text: 'x' } as never] }], undefined);
  t.equal(refusedField(second), 'messages[1].parts[0].type');
});

t.test('what is right passes: absent and undefined fields, empty messages, all kinds', async (t) => {
  const right: unknown[] = [
    {},
    { text: undefined, parts: [], author: undefined },
    { role: 99, text: '' },
    Object.create({ inherited: undefined }, {}),
    { parts: [{ type: 'file', inlineData: Buffer.from('x'), sizeBytes: 5n }] },
    { parts: [{ type: 'unknown', bytes: Uint8Array.of(0x9a, 6, 0) }] },
    { text: 'x', metadata: null, usage: {}, replyTo: { seq: 3 } },
  ];
  for (const message of right)
    t.doesNotThrow(() => encodeAppend(new Uint8Array(0), [message as NewMessage], undefined));
});

t.test('targets and options', async (t) => {
  for (const url of [{ endpoints: ['127.0.0.1:4701'] }, undefined, 4701, ['127.0.0.1:4701']])
    t.equal(
      refusedField(() => connect(url as never)),
      'url',
    );
  for (const [options, field] of [
    [null, 'options'],
    [{ timeout: 5 }, 'timeout'],
    [{ timeoutMs: '5' }, 'timeoutMs'],
    [{ constructor: 5 }, 'constructor'],
    [{ transport: 'http' }, 'transport'],
  ] as const)
    t.equal(
      refusedField(() => connect('127.0.0.1:1', options as never)),
      field,
    );

  const client = connect('127.0.0.1:1');
  t.equal(
    refusedField(() => client.channel(5 as never)),
    'channel',
  );
  t.equal(
    refusedField(() => client.openProducer(5 as never)),
    'name',
  );
  const channel = client.channel('c');
  const subscription = client.subscription('w');
  const hi = { text: 'hi' };
  const calls: readonly (readonly [string, () => unknown, string])[] = [
    ['append', () => channel.append('hi' as never), 'message'],
    ['append', () => channel.append(null as never, { key: 'k' }), 'message'],
    ['append', () => channel.append({ role: 'user', parts: [{ text: 'x' } as never] }), 'parts[0].type'],
    ['append', () => channel.append(hi, { timeoutMs: 0 }), 'timeoutMs'],
    ['append', () => channel.append(hi, { idempotencyKey: 'k' } as never), 'idempotencyKey'],
    [
      'append',
      () => channel.append(hi, { condition: { expectedHead: 5 } as never }),
      'condition.expectedHead',
    ],
    ['append', () => channel.append(hi, { condition: {} as never }), 'condition'],
    ['append', () => channel.append(hi, { condition: { expectedHeadSeq: -1 } }), 'condition.expectedHeadSeq'],
    ['append', () => channel.append(hi, 5 as never), 'options'],
    ['list', () => channel.list({ limit: 5 } as never), 'limit'],
    ['list', () => channel.list({ before: 1.5 }), 'before'],
    ['list', () => channel.list({ before: -1 }), 'before'],
    ['list', () => channel.list({ anchor: 'x' as never }), 'anchor'],
    ['list', () => channel.list({ anchor: new Date('never') }), 'anchor'],
    ['list', () => channel.list({ level: 'strong' as never }), 'level'],
    ['list', () => channel.list({ preference: 'leader' as never }), 'preference'],
    ['list', () => channel.list({ commitTokens: Buffer.from('a') as never }), 'commitTokens'],
    ['list', () => channel.list({ commitTokens: ['a'] as never }), 'commitTokens[0]'],
    ['get', () => channel.get('7' as never), 'ref'],
    ['get', () => channel.get(-7), 'ref'],
    ['get', () => channel.get({ id: 'a' } as never), 'id'],
    ['get', () => channel.get(7, { level: 1 as never }), 'level'],
    ['batchGet', () => channel.batchGet(7 as never), 'refs'],
    ['batchGet', () => channel.batchGet([7, '8' as never]), 'ref'],
    ['tail', () => channel.tail({ after: 5 } as never), 'after'],
    ['tail', () => channel.tail({ afterSeq: '5' as never }), 'afterSeq'],
    ['update', () => channel.update({ labels: { a: 1 } as never }), 'labels.a'],
    ['update', () => channel.update({ participants: [{ name: 'ann' } as never] }), 'participants[0].name'],
    ['update', () => channel.update({ label: {} } as never), 'label'],
    ['delete', () => channel.delete({ force: true } as never), 'force'],
    ['info', () => channel.info({ timeoutMs: Number.NaN }), 'timeoutMs'],
    [
      'appendBatch',
      () => client.appendBatch([{ channel: 'c', messages: hi }], { requestId: '' }),
      'requestId',
    ],
    ['append', () => channel.append(hi, { key: '' }), 'key'],
    ['append', () => channel.append(hi, { messageId: '' }), 'messageId'],
    ['create', () => subscription.create({ requestId: '' }), 'requestId'],
    ['update', () => subscription.update({ etag: '' }), 'etag'],
    ['seek', () => subscription.seek({ fromBeginning: true, etag: '' }), 'etag'],
    ['delete', () => subscription.delete({ etag: '' }), 'etag'],
    ['delete', () => channel.delete({ etag: '' }), 'etag'],
    ['createChannel', () => client.createChannel('c', { title: 5 as never }), 'title'],
    ['createChannel', () => client.createChannel(undefined as never), 'channel'],
    ['channelPage', () => client.channelPage({ orderBy: 'newest' as never }), 'orderBy'],
    ['channelPage', () => client.channelPage({ label: 'a' as never }), 'label'],
    ['cluster', () => client.cluster({ timeout: 5 } as never), 'timeout'],
    ['producer', () => client.openProducer('p').append('c', hi as never), 'messages'],
    ['producer', () => client.openProducer('q').append('c', [hi], { key: 'k' } as never), 'key'],
  ];
  for (const [name, call, field] of calls) {
    const error = await Promise.resolve()
      .then(call)
      .then(
        () => undefined,
        (thrown: unknown) => named(thrown),
      );
    t.equal(error?.reason, 'INVALID_ARGUMENT', `${name}: ${field}`);
    t.equal(error?.fields.field, field, `${name}: ${error?.message}`);
  }
  await client.close();
});
