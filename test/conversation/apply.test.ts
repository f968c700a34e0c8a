import t from 'tap';
import { limits } from '../../src/common/limits.js';
import { applyEntry } from '../../src/conversation/apply.js';
import { applyLimits } from '../../src/conversation/apply-limits.js';
import {
  encodeCreateChannel,
  encodeDeleteChannel,
  encodeEntry,
  encodeExpireProducers,
  encodeNoop,
  encodeOpenProducer,
  encodeSetSettings,
  encodeUpdateChannel,
} from '../../src/conversation/command.js';
import { partitionOfProducer } from '../../src/conversation/names.js';
import { defaultSettings } from '../../src/conversation/settings.js';
import type { ApplyOutcome, CommandAnswer } from '../../src/conversation/types.js';
import { type MadeEvent, madeAppend, madeEvent } from './make.js';
import { ModelState } from './model-state.js';

const startUs = 1_700_000_000_000_000;
const hourUs = 3_600_000_000;

/** A partition under apply; `at` is the leader's clock. */
class Bench {
  readonly state: ModelState;
  at = startUs;
  #index = 0;
  constructor(partition = 0, settings: ConstructorParameters<typeof ModelState>[1] = {}) {
    this.state = new ModelState(partition, settings);
  }
  entry(...commands: Uint8Array[]): ApplyOutcome {
    this.#index++;
    const data = encodeEntry(commands, this.at, 1);
    const outcome = applyEntry(this.state, { index: this.#index, term: 1, data });
    this.state.check();
    return outcome;
  }
  one(command: Uint8Array): CommandAnswer {
    return this.entry(command).answers[0]!;
  }
  append(...args: Parameters<typeof madeAppend>): CommandAnswer {
    return this.one(madeAppend(...args));
  }
  open(name = ''): number {
    const answer = this.one(encodeOpenProducer('default', name));
    if (answer.kind !== 'producer') throw new Error('no producer');
    return answer.producerId;
  }
}

const refused = (reason: string, fields: object = {}) => ({ kind: 'refused', reason, fields });

t.test('a first append makes the channel; seqs are dense; time never runs back', async (t) => {
  const b = new Bench(0x1f);
  t.same(b.append('room', ['a', 'b']), {
    kind: 'appended',
    firstSeq: 1,
    count: 2,
    commitTimeUs: startUs,
    seqs: undefined,
    duplicate: false,
    channelUid: 'c001f000000000001',
  });
  b.at = startUs - 5 * hourUs;
  t.match(b.append('room', ['c']), { firstSeq: 3, commitTimeUs: startUs }, 'a leader with an earlier clock');
  b.at = startUs + 7;
  t.match(b.append('other', ['d']), { firstSeq: 1, channelUid: 'c001f000000000002' });
  t.same(b.state.texts('room'), ['a', 'b', 'c']);
  t.match(b.state.channel('default', 'room'), {
    headSeq: 3,
    lastMessageSeq: 3,
    messageCount: 3,
    createTimeUs: startUs,
    activityTimeUs: startUs,
    revision: 1,
  });
  t.equal(b.state.channel('other', 'room'), undefined, 'tenants are apart');
  t.equal(b.state.meta.channelCount, 2);
});

t.test('only messages count as messages; references must be to earlier events', async (t) => {
  const b = new Bench();
  const about = (type: number, targetSeq?: number) => madeEvent('x', { type: type as 1, targetSeq });
  t.match(
    b.append('c', [about(4)]),
    refused('INVALID_ARGUMENT', { field: 'target_seq' }),
    'an edit of nothing',
  );
  t.match(b.append('c', [about(7, 1)]), refused('INVALID_ARGUMENT', { head_seq: 0 }), 'a reaction to itself');
  t.equal(b.state.channels.size, 0, 'a refused append makes no channel');
  t.match(b.append('c', ['m', about(7, 1), about(2), about(10)]), { firstSeq: 1 });
  t.match(b.state.channel('default', 'c'), { headSeq: 4, lastMessageSeq: 3, messageCount: 2 });
  t.match(b.append('c', ['x', about(9, 6)]), refused('INVALID_ARGUMENT', { position: 1, head_seq: 4 }));
  for (const type of [4, 5, 6, 7, 8]) t.match(b.append('c', [about(type)]), refused('INVALID_ARGUMENT'));
  for (const type of [9, 10, 11, 17]) t.match(b.append('c', [about(type)]), { kind: 'appended' });
});

t.test('append conditions, and what was there instead', async (t) => {
  const b = new Bench();
  const when = (kind: string, seq?: number) => ({ condition: { kind, seq } as { kind: 'mustExist' } });
  t.match(
    b.append('c', ['x'], when('mustExist')),
    refused('CONDITION_FAILED', { condition: 'must_exist', expected: 'a channel', actual: 'no channel' }),
  );
  t.match(
    b.append('c', ['x'], when('expectedHeadSeq', 3)),
    refused('CONDITION_FAILED', { condition: 'expected_head_seq', expected: 3, actual: 0 }),
  );
  t.match(b.append('c', ['x'], when('expectedHeadSeq', 0)), { firstSeq: 1 });
  t.match(
    b.append('c', ['x'], when('mustNotExist')),
    refused('CONDITION_FAILED', { condition: 'must_not_exist' }),
  );
  t.match(b.append('c', ['x'], when('mustExist')), { firstSeq: 2 });
  t.match(b.append('c', [madeEvent('+1', { type: 7, targetSeq: 1 })], when('expectedHeadSeq', 2)), {
    firstSeq: 3,
  });
  t.match(
    b.append('c', ['x'], when('expectedLastMessageSeq', 3)),
    refused('CONDITION_FAILED', { expected: 3, actual: 2 }),
  );
  t.match(b.append('c', ['x'], when('expectedLastMessageSeq', 2)), { firstSeq: 4 });
  t.match(b.append('new', ['x'], when('expectedLastMessageSeq', 0)), { firstSeq: 1 });
  const racing = madeAppend('c', ['x'], when('expectedHeadSeq', 4));
  t.match(b.entry(racing, racing).answers, [{ firstSeq: 5 }, refused('CONDITION_FAILED', { actual: 5 })]);
});

t.test('producers: order, repeats, gaps, other content', async (t) => {
  const b = new Bench(3);
  const id = b.open();
  t.equal(partitionOfProducer(id), 3, 'the id holds its partition');
  const from = (firstCounter: number) => ({ producer: { id, firstCounter } });
  const first = b.append('c', ['1', '2', '3'], from(1));
  t.match(first, { firstSeq: 1, count: 3, duplicate: false });
  b.at += 1000;
  t.match(b.append('c', ['4'], from(4)), { firstSeq: 4 });

  t.same(b.append('c', ['1', '2', '3'], from(1)), { ...first, duplicate: true }, 'the first answer again');
  t.match(b.append('c', ['6'], from(6)), refused('PRODUCER_GAP', { expected_counter: 5 }));
  t.match(
    b.append('c', ['4', '5'], from(4)),
    refused('PRODUCER_GAP', { expected_counter: 5 }),
    'half old, half new',
  );
  t.match(b.append('c', ['1', '2', 'X'], from(1)), refused('PRODUCER_REUSED'), 'other content');
  t.match(b.append('c', ['1', '2'], from(1)), refused('PRODUCER_REUSED'), 'other bounds');
  t.match(b.append('c', ['2', '3'], from(2)), refused('PRODUCER_REUSED'), 'other bounds');
  t.match(b.append('d', ['4'], from(4)), refused('PRODUCER_REUSED'), 'other channel');
  t.match(b.append('c', ['5'], { producer: { id: id + 1, firstCounter: 1 } }), refused('PRODUCER_EXPIRED'));
  t.match(
    b.append('c', ['5'], { tenant: 'thief', ...from(5) }),
    refused('PRODUCER_EXPIRED'),
    "another tenant's",
  );
  t.same(b.state.texts('c'), ['1', '2', '3', '4'], 'none of these changed anything');
  t.match(b.append('c', ['5'], from(5)), { firstSeq: 5 }, 'and none took a counter');
  t.match(
    b.state.events.get(1)?.map((e) => [e.producerId, e.producerCounter]),
    [1, 2, 3, 4, 5].map((counter) => [id, counter]),
  );
});

t.test('a refusal takes the counter and is repeated as it was', async (t) => {
  const b = new Bench();
  const id = b.open();
  const attempt = () =>
    b.append('c', ['x'], {
      producer: { id, firstCounter: 1 },
      condition: { kind: 'expectedHeadSeq', seq: 1 },
    });
  const first = attempt();
  t.match(first, refused('CONDITION_FAILED', { actual: 0, counter_consumed: true }));
  b.append('c', ['made by someone else']);
  t.same(attempt(), first, 'although it would succeed now');
  t.match(b.append('c', ['y'], { producer: { id, firstCounter: 2 } }), { firstSeq: 2 });
});

t.test('what the window forgot is a duplicate without seqs, never a second append', async (t) => {
  const b = new Bench(0, { producerWindow: 2 });
  const id = b.open();
  for (let i = 1; i <= 5; i++) b.append('c', [`${i}`], { producer: { id, firstCounter: i } });
  t.match(b.append('c', ['3'], { producer: { id, firstCounter: 3 } }), {
    firstSeq: 0,
    count: 1,
    duplicate: true,
  });
  t.match(b.append('c', ['4'], { producer: { id, firstCounter: 4 } }), { firstSeq: 4, duplicate: true });
  t.equal(b.state.texts('c').length, 5);
  b.one(encodeSetSettings({ producerWindow: 5 }));
  b.append('c', ['6'], { producer: { id, firstCounter: 6 } });
  t.match(b.append('c', ['4'], { producer: { id, firstCounter: 4 } }), { firstSeq: 4 });
  b.one(encodeSetSettings({ producerWindow: 1 }));
  b.append('c', ['7'], { producer: { id, firstCounter: 7 } });
  t.match(b.append('c', ['6'], { producer: { id, firstCounter: 6 } }), { firstSeq: 0, duplicate: true });
});

t.test('answers that name many seqs are forgotten before they fill the memory', async (t) => {
  const b = new Bench();
  const id = b.open();
  b.append('c', [madeEvent('old', { key: 'k' })]);
  const batch = ['plain', 'x'].map((text) => madeEvent(text));
  batch.splice(1, 0, madeEvent('old', { key: 'k' }), ...Array<MadeEvent>(19_997).fill(madeEvent('x')));
  for (let n = 0; n < 5; n++) b.append('c', batch, { producer: { id, firstCounter: 1 + n * 20_000 } });
  const repeat = (n: number) => b.append('c', batch, { producer: { id, firstCounter: 1 + n * 20_000 } });
  t.match(repeat(4), { duplicate: true, seqs: { 1: 1 } });
  t.match(repeat(2), { duplicate: true, seqs: { 1: 1 } });
  t.match(repeat(1), { duplicate: true, firstSeq: 0, seqs: undefined });
  t.equal(b.state.producer(id)?.answers.length, 3);
  t.equal(b.state.channel('default', 'c')?.headSeq, 1 + 5 * 19_999);
});

t.test('producers are opened by name once, and evicted only where idle and anonymous', async (t) => {
  const b = new Bench();
  const named = b.open('importer');
  b.append('c', ['1', '2'], { producer: { id: named, firstCounter: 1 } });
  t.match(b.one(encodeOpenProducer('default', 'importer')), {
    producerId: named,
    nextCounter: 3,
    window: 1024,
  });
  const other = b.one(encodeOpenProducer('acme', 'importer'));
  t.not(other.kind === 'producer' && other.producerId, named, 'names are per tenant');
  const idle = b.open();
  const active = b.open();
  t.not(idle, active);
  const evict = [named, idle, active, 12345].map((id) => ({ id, lastActiveUs: startUs }));
  b.at += defaultSettings.producerIdleUs - 1;
  b.one(encodeExpireProducers(evict));
  t.ok(b.state.producer(idle), 'not idle for long enough');
  b.append('c', ['3'], { producer: { id: active, firstCounter: 1 } });
  b.at += 1;
  t.match(b.one(encodeExpireProducers(evict)), { kind: 'done' });
  t.notOk(b.state.producer(idle));
  t.ok(b.state.producer(active), 'it appended after the proposer looked');
  t.ok(b.state.producer(named), 'named ones stay');
  t.match(b.append('c', ['4'], { producer: { id: idle, firstCounter: 1 } }), refused('PRODUCER_EXPIRED'));
  t.not(b.open(), idle, 'ids are never used again');
  t.match(b.one(encodeOpenProducer('No Tenant', '')), refused('INVALID_NAME'));
  t.match(b.one(encodeOpenProducer('default', 'n'.repeat(129))), refused('INVALID_NAME'));
});

t.test('keys: repeats, other content, batches of both, and forgetting', async (t) => {
  const b = new Bench();
  const k = (key: string, text: string, extra = {}) => madeEvent(text, { key, saltSeed: b.at, ...extra });
  t.match(b.append('c', [k('a', '1'), k('b', '2')]), { firstSeq: 1, count: 2 });
  b.at += 10;
  t.match(
    b.append('c', [k('a', '1'), k('b', '2')], { condition: { kind: 'mustNotExist' } }),
    { firstSeq: 1, count: 2, seqs: undefined, duplicate: true, commitTimeUs: startUs },
    'a whole repeat, before the condition is asked',
  );
  t.match(b.append('c', [k('b', '2'), k('a', '1')]), { firstSeq: 0, seqs: [2, 1], duplicate: true });
  t.match(
    b.append('c', ['new', k('b', 'other')]),
    refused('DUPLICATE_KEY_DIFFERENT_CONTENT', { key: 'b', position: 1, seq: 2 }),
  );
  t.equal(b.state.texts('c').length, 2, 'the batch failed whole');
  t.match(b.append('c', [k('a', '1'), 'plain', k('c', '3')]), {
    firstSeq: 0,
    count: 3,
    seqs: [1, 3, 4],
    duplicate: false,
  });
  t.match(
    b.append('c', [k('c', '3'), 'next']),
    { firstSeq: 4, seqs: undefined, count: 2 },
    'by chance in a row',
  );
  t.match(b.append('c', [k('d', '4'), k('d', '4'), 'z']), { seqs: [6, 6, 7] }, 'twice in one batch');
  t.match(
    b.append('c', [k('e', '4'), k('e', '5')]),
    refused('DUPLICATE_KEY_DIFFERENT_CONTENT', { key: 'e' }),
  );
  t.match(
    b.append('c', [k('a', '1'), 'x'], { condition: { kind: 'expectedHeadSeq', seq: 1 } }),
    refused('CONDITION_FAILED', { actual: 7 }),
    'with something new the condition counts',
  );
  t.match(b.append('other', [k('a', 'unrelated')]), { firstSeq: 1 }, 'keys are per channel');
  t.match(
    b.append('c', [k('a', '1'), k('f', 'see 0', { usesBatchPosition: true })]),
    refused('INVALID_ARGUMENT', { field: 'batch_position' }),
    'places would mean other events',
  );
  t.match(b.append('c', [k('g', '7'), k('h', 'see 0', { usesBatchPosition: true })]), { firstSeq: 8 });
  t.match(b.append('c', [k('g', '7'), k('h', 'see 0', { usesBatchPosition: true })]), {
    firstSeq: 8,
    duplicate: true,
  });
  t.same(b.state.texts('c'), ['1', '2', 'plain', '3', 'next', '4', 'z', '7', 'see 0']);

  b.at = startUs + defaultSettings.keyRetentionUs;
  t.match(b.append('c', [k('a', '1')]), { duplicate: true }, 'kept to the end of the retention');
  b.at += 1;
  t.match(b.append('c', [k('a', 'free again')]), { firstSeq: 10, duplicate: false });
  b.at += 9;
  b.one(encodeNoop());
  b.one(encodeSetSettings({ keyRetentionUs: 96 * hourUs }));
  t.match(b.append('c', [k('b', 'gone')]), { firstSeq: 11 }, 'a longer retention brings no key back');
});

t.test(
  'message ids are unique in a channel for ever, except for the repeat of a keyed message',
  async (t) => {
    const b = new Bench();
    const m = (messageId: string, extra = {}) => madeEvent('x', { messageId, ...extra });
    t.match(b.append('c', [m('i1', { key: 'k' }), m('i2')]), { firstSeq: 1 });
    t.match(
      b.append('c', ['y', m('i2')]),
      refused('MESSAGE_ID_EXISTS', { message_id: 'i2', position: 1, seq: 2 }),
    );
    t.match(b.append('c', [m('i3'), m('i3')]), refused('MESSAGE_ID_EXISTS', { position: 1 }));
    t.match(b.append('c', [m('i1', { key: 'k' })]), { firstSeq: 1, duplicate: true });
    t.match(b.append('c', [m('i4', { key: 'l' }), m('i4', { key: 'l' })]), { seqs: [3, 3] });
    t.match(b.append('other', [m('i1')]), { firstSeq: 1 });
    b.at += defaultSettings.keyRetentionUs + 1;
    t.match(
      b.append('c', [m('i1', { key: 'k' })]),
      refused('MESSAGE_ID_EXISTS'),
      'the key is forgotten, the id is not',
    );
  },
);

t.test('channels are created once; a repeat of the request gets the channel', async (t) => {
  const b = new Bench();
  const input = {
    tenant: 'default',
    channel: 'c',
    requestId: 'r',
    title: 'T',
    class: 'support',
    labels: [['team', 'red']] as [string, string][],
    participants: [{ id: 'u', displayName: 'U', role: 'agent' }],
  };
  const first = b.one(encodeCreateChannel(input));
  t.match(first, {
    kind: 'channel',
    channel: { name: 'c', title: 'T', labels: [['team', 'red']], headSeq: 0 },
  });
  t.same(b.one(encodeCreateChannel(input)), first);
  t.match(b.one(encodeCreateChannel({ ...input, title: 'U' })), refused('DUPLICATE_KEY_DIFFERENT_CONTENT'));
  t.match(
    b.one(encodeCreateChannel({ ...input, requestId: '' })),
    refused('CHANNEL_EXISTS', { channel: 'c' }),
  );
  t.match(b.one(encodeCreateChannel({ ...input, requestId: 'r2' })), refused('CHANNEL_EXISTS'));
  t.match(b.append('c', ['x'], { condition: { kind: 'mustNotExist' } }), refused('CONDITION_FAILED'));
  t.match(b.append('c', ['x'], { condition: { kind: 'expectedHeadSeq', seq: 0 } }), { firstSeq: 1 });
  t.match(first, { channel: { headSeq: 0 } }, 'an answer given stays as it was');
  for (const [name, bad] of Object.entries({
    tenant: { tenant: 'Ä' },
    empty: { channel: '' },
    long: { channel: 'é'.repeat(129) },
    control: { channel: 'a\u0000b' },
    title: { title: 'x'.repeat(1025) },
    request: { requestId: 'x'.repeat(129) },
  })) {
    t.match(b.one(encodeCreateChannel({ ...input, requestId: '', ...bad })), { kind: 'refused' }, name);
  }
  t.equal(b.state.meta.channelCount, 1);
});

const named = { tenant: 'default', channel: 'c', requestId: '' };
const deletion = (more: Partial<Parameters<typeof encodeDeleteChannel>[0]> = {}) =>
  encodeDeleteChannel({ ...named, allowMissing: false, permanent: true, ...more });
const update = (more: Partial<Parameters<typeof encodeUpdateChannel>[0]> = {}) =>
  encodeUpdateChannel({ ...named, ...more });

t.test('a deleted name goes on behind its head, as another channel', async (t) => {
  const b = new Bench();
  const keyed = [madeEvent('one', { key: 'k', messageId: 'm' }), madeEvent('two')];
  t.match(b.append('c', keyed), { firstSeq: 1, channelUid: 'c0000000000000001' });
  t.match(b.one(deletion()), { kind: 'deleted', headSeq: 2 });
  t.same(b.state.texts('c'), []);
  t.match(b.one(deletion()), refused('CHANNEL_NOT_FOUND', { channel: 'c' }));
  t.match(b.one(deletion({ allowMissing: true })), { kind: 'deleted', headSeq: 2 });
  t.match(b.one(deletion({ channel: 'never', allowMissing: true })), { kind: 'deleted', headSeq: 0 });
  t.match(b.append('c', ['x'], { condition: { kind: 'mustExist' } }), refused('CONDITION_FAILED'));
  t.match(
    b.append('c', ['x'], { condition: { kind: 'expectedHeadSeq', seq: 2 } }),
    refused('CONDITION_FAILED', { actual: 0 }),
    'who knew the deleted channel does not append to the next one',
  );
  t.match(
    b.append('c', [madeEvent('y', { type: 5, targetSeq: 2 })]),
    refused('INVALID_ARGUMENT', { field: 'target_seq' }),
  );
  t.match(b.append('c', keyed), { firstSeq: 3, count: 2, duplicate: false, channelUid: 'c0000000000000002' });
  t.match(b.state.channel('default', 'c'), { id: 2, baseSeq: 2, headSeq: 4, messageCount: 2, revision: 1 });
  t.match(b.append('c', [madeEvent('y', { type: 5, targetSeq: 2 })]), refused('INVALID_ARGUMENT'));
  t.match(b.append('c', [madeEvent('y', { type: 5, targetSeq: 3 })]), { firstSeq: 5 });
  t.match(b.append('c', keyed), { duplicate: false, seqs: [3, 6] }, 'its own keys it knows');
  t.same([b.state.meta.channelCount, b.state.meta.deletedCount], [1, 0]);
  t.match(b.one(deletion()), { kind: 'deleted', headSeq: 6 });
  t.match(
    b.one(encodeCreateChannel({ ...named, title: 'T', class: '', labels: [], participants: [] })),
    { channel: { headSeq: 6, baseSeq: 6, uid: 'c0000000000000003' } },
    'created without an event, it is at the head that was kept',
  );
  t.match(b.append('c', ['x'], { condition: { kind: 'expectedHeadSeq', seq: 6 } }), { firstSeq: 7 });
});

t.test('deletions and changes may be sent again', async (t) => {
  const b = new Bench();
  b.append('c', ['one']);
  const etag = { uid: 'c0000000000000001', revision: 1 };
  t.match(b.one(update({ title: 'T', expected: etag, requestId: 'u' })), {
    channel: { title: 'T', revision: 2, headSeq: 1 },
  });
  b.at += 5;
  t.match(b.one(update({ title: 'T', expected: etag, requestId: 'u' })), { channel: { revision: 2 } });
  t.match(
    b.one(update({ title: 'T' })),
    { channel: { revision: 2, updateTimeUs: startUs } },
    'nothing changes',
  );
  t.match(
    b.one(update({ title: 'U', expected: etag })),
    refused('CONDITION_FAILED', { condition: 'etag', revision: 2 }),
  );
  t.match(b.one(update({ title: 'U', requestId: 'u' })), refused('DUPLICATE_KEY_DIFFERENT_CONTENT'));
  t.match(b.one(deletion({ requestId: 'u' })), refused('DUPLICATE_KEY_DIFFERENT_CONTENT'));
  t.match(b.one(update({ class: 'x', participants: [{ id: 'p', displayName: '', role: '' }] })), {
    channel: { title: 'T', class: 'x', participants: [{ id: 'p' }], revision: 3, updateTimeUs: startUs + 5 },
  });
  t.match(b.one(update({ participants: [] })), { channel: { class: 'x', participants: [], revision: 4 } });
  t.match(b.one(update({ title: 'x'.repeat(1025) })), refused('INVALID_ARGUMENT'));
  t.match(b.one(update({ channel: 'none', title: 'x' })), refused('CHANNEL_NOT_FOUND'));

  t.match(b.one(deletion({ expected: etag })), refused('CONDITION_FAILED'));
  const last = { ...etag, revision: 4 };
  t.match(b.one(deletion({ expected: last })), { kind: 'deleted', headSeq: 1 });
  t.match(b.one(deletion({ expected: last })), { kind: 'deleted', headSeq: 1 }, 'known by its etag');
  t.match(b.one(update({ title: 'T', expected: etag, requestId: 'u' })), refused('CHANNEL_NOT_FOUND'));
  b.append('c', ['two']);
  t.match(b.one(deletion({ expected: last })), refused('CONDITION_FAILED'), 'another channel has the name');
  t.match(b.one(deletion({ requestId: 'd' })), { headSeq: 2 });
  t.match(b.one(deletion({ requestId: 'd' })), { headSeq: 2 });
  b.append('c', ['three']);
  t.match(
    b.one(deletion({ requestId: 'd' })),
    { headSeq: 2 },
    'a late repeat does not delete what came since',
  );
  t.same(b.state.texts('c'), ['three']);
});

t.test('commands of apply version 2 are refused before it', async (t) => {
  const b = new Bench(0, { applyVersion: 1 });
  b.append('c', ['one']);
  t.match(b.one(deletion()), refused('NOT_IMPLEMENTED', { command: 9 }));
  t.match(b.one(update({ title: 'x' })), refused('NOT_IMPLEMENTED', { command: 8 }));
  t.match(b.one(encodeSetSettings({ applyVersion: 2 })), { kind: 'done' });
  t.match(b.one(update({ title: 'x' })), { channel: { title: 'x' } });
  t.match(b.one(deletion()), { kind: 'deleted' });
});

t.test('bad bytes are refused, harm no neighbour and take no counter', async (t) => {
  const b = new Bench();
  const id = b.open();
  const good = madeAppend('c', ['fine']);
  const damaged = Buffer.from(madeAppend('c', ['damaged'], { producer: { id, firstCounter: 1 } }));
  damaged[damaged.length - 1]! ^= 1;
  const cut = good.subarray(0, good.length - 1);
  const { answers } = b.entry(good, damaged, cut, Uint8Array.of(200, 1), new Uint8Array(0), good);
  t.match(answers, [
    { firstSeq: 1 },
    refused('CHECKSUM_MISMATCH', { position: 0 }),
    refused('INVALID_ARGUMENT'),
    refused('NOT_IMPLEMENTED', { command: 200 }),
    refused('INVALID_ARGUMENT'),
    { firstSeq: 2 },
  ]);
  t.match(b.append('c', ['again'], { producer: { id, firstCounter: 1 } }), { firstSeq: 3 });
  t.match(b.append('bad\nname', ['x']), refused('INVALID_NAME', { field: 'channel' }));
  t.match(b.append('c', ['x'], { tenant: '' }), refused('INVALID_NAME', { field: 'tenant' }));
  const before = b.state.dump();
  const entry = encodeEntry([good], b.at + 5, 1);
  const outcome = applyEntry(b.state, { index: 9, term: 1, data: entry.subarray(0, entry.length - 1) });
  t.match(outcome.answers, [refused('INVALID_ARGUMENT')]);
  t.same(b.state.dump(), before, 'an entry that is not whole changes nothing, not even the time');
  t.same(
    applyEntry(b.state, { index: 10, term: 2, data: new Uint8Array(0) }).answers,
    [],
    "a new leader's entry",
  );
});

t.test(
  'settings change whole or not at all; a version too new stops the replica before any change',
  async (t) => {
    const b = new Bench();
    const bad = { producerWindow: 7, keyRetentionUs: 23 * hourUs };
    t.match(b.one(encodeSetSettings(bad)), refused('INVALID_SETTINGS', { setting: 'keyRetentionUs' }));
    t.match(b.one(encodeSetSettings({ applyVersion: 0 })), refused('INVALID_SETTINGS'));
    t.same(b.state.meta.settings, defaultSettings);
    t.match(b.one(encodeSetSettings({ applyVersion: 4, producerWindow: 7 })), { kind: 'done' });
    t.equal(b.state.meta.settings.producerWindow, 7);
    const before = b.state.dump();
    const outcome = b.entry(madeAppend('c', ['x']), encodeSetSettings({ applyVersion: 5 }));
    t.match(outcome, { unsupportedVersion: 5, answers: [] });
    t.match(applyEntry(b.state, { index: 2, term: 1, data: Uint8Array.of(2, 0) }), { unsupportedVersion: 2 });
    t.same(b.state.dump(), before);
    b.state.meta.settings.applyVersion = 5;
    t.match(b.entry(madeAppend('c', ['x'])), { unsupportedVersion: 5 }, 'state made by a newer build');
  },
);

t.test("the door's limits are at or below those of applying", async (t) => {
  t.ok(limits.messageBytes <= applyLimits.contentBytes);
  t.ok(limits.messagesPerAppend <= applyLimits.eventsPerAppend);
  t.ok(limits.idBytes <= applyLimits.idBytes);
  t.ok(limits.channelNameBytes <= applyLimits.channelNameBytes);
  t.ok(limits.titleBytes <= applyLimits.channelTextBytes);
  t.ok(limits.labelBytes <= applyLimits.channelTextBytes);
  t.ok(limits.shortTextBytes <= applyLimits.channelTextBytes);
  t.ok(limits.labelsPerChannel <= applyLimits.labelsPerChannel);
  t.ok(limits.participantsPerChannel <= applyLimits.participantsPerChannel);
});
