/** What apply version 3 brought: channels that are sealed, that come back, and batches over several of them. */
import t, { type Test } from 'tap';
import type { AppendInput } from '../../src/conversation/append-command.js';
import { applyEntry } from '../../src/conversation/apply.js';
import { applyLimits } from '../../src/conversation/apply-limits.js';
import {
  encodeAppendMany,
  encodeCreateChannel,
  encodeDeleteChannel,
  encodeNoop,
  encodeSealChannel,
  encodeSetSettings,
  encodeUndeleteChannel,
} from '../../src/conversation/command.js';
import { madeAppend, madeEntry, madeEvent } from './make.js';
import { ModelState } from './model-state.js';

const dayUs = 24 * 3_600_000_000;

class Bench {
  readonly state = new ModelState();
  timeUs = 1_700_000_000_000_000;
  #index = 0;

  // biome-ignore lint/suspicious/noExplicitAny: answers are matched, not used
  one(command: Uint8Array): any {
    const data = madeEntry([command], ++this.timeUs);
    const { answers } = applyEntry(this.state, { index: ++this.#index, term: 1, data });
    this.state.check();
    return answers[0];
  }

  append(channel: string, words: string, more: Partial<AppendInput> = {}) {
    return this.one(madeAppend(channel, [madeEvent(words)], more));
  }
}

const named = { tenant: 'default', channel: 'c', requestId: '' };
const deletion = (more = {}) => encodeDeleteChannel({ ...named, allowMissing: false, ...more });
const refused = (reason: string, fields = {}) => ({ kind: 'refused', reason, fields });

t.test('a sealed channel takes no more events; repeats get their first answer', async (t) => {
  const b = new Bench();
  const keyed = madeAppend('c', [madeEvent('one', { key: 'k' })]);
  t.match(b.one(keyed), { firstSeq: 1 });
  t.match(b.one(encodeSealChannel({ ...named, requestId: 's' })), {
    kind: 'channel',
    channel: { revision: 2, sealedTimeUs: b.timeUs },
  });
  t.match(b.append('c', 'two'), refused('CHANNEL_SEALED', { channel: 'c' }));
  t.match(b.one(keyed), { firstSeq: 1, duplicate: true });
  t.match(b.one(encodeSealChannel({ ...named, requestId: 's' })), { channel: { revision: 2 } }, 'a repeat');
  t.match(b.one(encodeSealChannel(named)), { channel: { revision: 2 } }, 'sealed already: nothing changes');
  t.match(
    b.one(encodeSealChannel({ ...named, expected: { uid: 'c0000000000000001', revision: 1 } })),
    refused('CONDITION_FAILED'),
  );
  t.match(b.one(encodeSealChannel({ ...named, channel: 'none' })), refused('CHANNEL_NOT_FOUND'));
  t.same(b.state.texts('c'), ['one']);
  t.match(b.one(deletion()), { kind: 'deleted', headSeq: 1 });
  t.match(b.append('c', 'new life'), { firstSeq: 2 }, "the seal was the deleted one's");
});

t.test('a deleted channel comes back as it was, within its time', async (t) => {
  const b = new Bench();
  b.one(madeAppend('c', [madeEvent('one', { key: 'k', messageId: 'm' }), madeEvent('two')]));
  t.match(b.one(deletion()), {
    kind: 'deleted',
    headSeq: 2,
    was: { eventCount: 2, messageCount: 2, purgeTimeUs: b.timeUs + 7 * dayUs },
  });
  t.same(b.state.texts('c'), []);
  t.match(b.one(deletion()), refused('CHANNEL_NOT_FOUND'));
  t.match(b.append('c', 'x', { condition: { kind: 'mustExist' } }), refused('CONDITION_FAILED'));
  const back = encodeUndeleteChannel({ ...named, requestId: 'u' });
  t.match(b.one(back), { kind: 'channel', channel: { headSeq: 2, revision: 2, uid: 'c0000000000000001' } });
  t.match(b.one(back), { kind: 'channel', channel: { revision: 2 } }, 'a repeat');
  t.match(b.one(encodeUndeleteChannel(named)), refused('CHANNEL_EXISTS'));
  t.same(b.state.texts('c'), ['one', 'two']);
  t.match(b.one(madeAppend('c', [madeEvent('one', { key: 'k' })])), { duplicate: true, firstSeq: 1 });
  t.match(b.append('c', 'three'), { firstSeq: 3 });

  b.one(deletion());
  b.timeUs += 7 * dayUs - 2;
  t.match(b.one(encodeUndeleteChannel(named)), { channel: { headSeq: 3 } }, 'to the last microsecond');
  b.one(deletion());
  const expected = { uid: 'c0000000000000001', revision: 1 };
  t.match(b.one(encodeUndeleteChannel({ ...named, expected })), refused('CONDITION_FAILED'));
  b.timeUs += 7 * dayUs;
  t.match(b.one(encodeUndeleteChannel(named)), refused('CHANNEL_NOT_FOUND'));
  t.same(
    [b.state.meta.channelCount, b.state.meta.deletedCount, b.state.events.size],
    [0, 1, 0],
    'gone for good',
  );
  t.match(b.append('c', 'next life'), { firstSeq: 4, channelUid: 'c0000000000000002' });
});

t.test('what ends the way back: the name used again, permanent deletion, and too many others', async (t) => {
  const b = new Bench();
  b.append('c', 'one');
  b.one(deletion());
  t.match(b.append('c', 'again'), { firstSeq: 2, channelUid: 'c0000000000000002' });
  t.match(b.one(encodeUndeleteChannel(named)), refused('CHANNEL_EXISTS'));
  b.one(deletion());
  const created = encodeCreateChannel({ ...named, title: '', class: '', labels: [], participants: [] });
  t.match(b.one(created), { channel: { baseSeq: 2, headSeq: 2 } });
  b.one(deletion());
  t.match(b.one(deletion({ permanent: true })), { kind: 'deleted', was: { purgeTimeUs: 0 } });
  t.match(b.one(encodeUndeleteChannel(named)), refused('CHANNEL_NOT_FOUND'));
  b.append('c', 'third');
  t.match(b.one(deletion({ permanent: true })), { headSeq: 3, was: { eventCount: 1, purgeTimeUs: 0 } });
  t.match(b.one(encodeUndeleteChannel(named)), refused('CHANNEL_NOT_FOUND'));

  const many = applyLimits.trashedChannels + 3;
  for (let i = 0; i < many; i++) {
    b.append(`d${i}`, 'x');
    b.one(deletion({ channel: `d${i}` }));
  }
  t.equal(b.state.meta.trash?.length, applyLimits.trashedChannels);
  t.match(b.one(encodeUndeleteChannel({ ...named, channel: 'd2' })), refused('CHANNEL_NOT_FOUND'));
  t.match(b.one(encodeUndeleteChannel({ ...named, channel: 'd3' })), { kind: 'channel' });
  // Their time is up: a bounded number goes with each entry.
  b.timeUs += 8 * dayUs;
  for (let left = applyLimits.trashedChannels - 1; left > 0; left -= applyLimits.purgesPerEntry) {
    t.equal(b.state.meta.trash?.length, left);
    b.one(encodeNoop());
  }
  t.equal(b.state.meta.trash, undefined);
  t.equal(b.state.meta.channelCount, 1);
});

t.test('a batch over several channels takes effect as a whole or not at all', async (t) => {
  const b = new Bench();
  b.append('b', 'first');
  const batch = (requestId: string, items: [string, string, Partial<AppendInput>?][]) =>
    encodeAppendMany(
      'default',
      requestId,
      items.map(([channel, words, more = {}]) => madeAppend(channel, [madeEvent(words)], more)),
    );
  const both = batch('r', [
    ['a', 'to a', { condition: { kind: 'mustNotExist' } }],
    ['b', 'to b', { condition: { kind: 'expectedHeadSeq', seq: 1 } }],
  ]);
  const answer = {
    kind: 'appendedMany',
    appended: [
      { firstSeq: 1, count: 1 },
      { firstSeq: 2, count: 1 },
    ],
  };
  t.match(b.one(both), answer);
  t.match(b.one(both), {
    ...answer,
    appended: [
      { firstSeq: 1, duplicate: true },
      { firstSeq: 2, duplicate: true },
    ],
  });
  t.same([b.state.texts('a'), b.state.texts('b')], [['to a'], ['first', 'to b']], 'once');
  t.match(b.one(batch('r', [['a', 'other']])), refused('DUPLICATE_KEY_DIFFERENT_CONTENT'));

  const before = JSON.stringify(b.state.dump());
  const untouched = (t: Test, what: string) => {
    const now = b.state.dump() as { meta: { lastCommitTimeUs: number; keyHorizonUs: number } };
    const then = JSON.parse(before) as typeof now;
    Object.assign(then.meta, {
      lastCommitTimeUs: now.meta.lastCommitTimeUs,
      keyHorizonUs: now.meta.keyHorizonUs,
    });
    t.equal(JSON.stringify(now), JSON.stringify(then), what);
  };
  t.match(
    b.one(
      batch('s', [
        ['new', 'x'],
        ['b', 'y', { condition: { kind: 'expectedHeadSeq', seq: 9 } }],
      ]),
    ),
    refused('CONDITION_FAILED', { item: 1, actual: 2 }),
  );
  untouched(t, 'the first one was not made');
  t.match(
    b.one(
      batch('s', [
        ['a', 'x'],
        ['a', 'y'],
      ]),
    ),
    refused('INVALID_ARGUMENT', { item: 1 }),
  );
  t.match(
    b.one(batch('s', [['a', 'x', { producer: { id: 5, firstCounter: 1 } }]])),
    refused('INVALID_ARGUMENT', { item: 0 }),
  );
  untouched(t, 'neither did these');
  t.match(
    b.one(
      batch('', [
        ['a', 'z'],
        ['fresh', 'z'],
      ]),
    ),
    { appended: [{ firstSeq: 2 }, { firstSeq: 1 }] },
  );
});

t.test("a batch's request id and those of commands that look like its items do not meet", async (t) => {
  const batch = encodeAppendMany('default', 'x', [madeAppend('a', [madeEvent('to a')])]);
  const appended = (duplicate: boolean) => ({ appended: [{ firstSeq: 1, count: 1, duplicate }] });
  for (const requestId of ['x#0', '#0/x', '#0/default/x']) {
    const after = new Bench();
    after.append('c', 'one');
    t.match(after.one(batch), appended(false));
    t.match(after.one(deletion({ requestId })), { kind: 'deleted', headSeq: 1 }, `${requestId} after it`);
    t.match(after.one(batch), appended(true));

    const before = new Bench();
    before.append('c', 'one');
    t.match(before.one(deletion({ requestId })), { kind: 'deleted', headSeq: 1 });
    t.match(before.one(batch), appended(false));
    t.match(before.one(deletion({ requestId })), { kind: 'deleted', headSeq: 1 }, `${requestId} again`);
    t.match(before.one(batch), appended(true));
  }
});

t.test('an older apply version knows none of it, and deletes for good', async (t) => {
  const b = new Bench();
  b.state.meta.settings.applyVersion = 2;
  b.append('c', 'one');
  for (const command of [
    encodeSealChannel(named),
    encodeUndeleteChannel(named),
    encodeAppendMany('default', '', [madeAppend('c', [madeEvent('x')])]),
  ])
    t.match(b.one(command), refused('NOT_IMPLEMENTED'));
  t.match(b.one(deletion()), { kind: 'deleted', headSeq: 1 });
  t.equal(b.state.meta.trash, undefined);
  t.match(b.one(encodeSetSettings({ applyVersion: 3 })), { kind: 'done' });
  t.match(b.one(encodeUndeleteChannel(named)), refused('CHANNEL_NOT_FOUND'));
});
