/** Changing, deleting and finding channels, and batches of reads, through the door. */
import t from 'tap';
import { limits } from '../../src/common/limits.js';
import { type Decoded, Harness, text, words } from './harness.js';

const create = (name: string, more: object = {}) => ({ channel: { name, ...more } });
const update = (name: string, more: object, rest: object = {}) => ({ channel: { name, ...more }, ...rest });

t.test('a channel changes by mask and etag, and a repeat changes nothing', async (t) => {
  const h = await Harness.start();
  const call = (request: object) => h.call('ChannelService/UpdateChannel', request);
  const refused = async (request: object) => (await h.failure('ChannelService/UpdateChannel', request)).error;
  const made = (await h.call('ChannelService/CreateChannel', create('c', { title: 'T', labels: { a: 'b' } })))
    .channel;
  t.match(made, { first_seq: '1', head_seq: '0', activity_time: made.create_time });
  const first = (await call(update('c', { title: 'U', etag: made.etag }, { request_id: 'r' }))).channel;
  t.match(first, { title: 'U', labels: { a: 'b' } }, 'without a mask: what is given');
  t.not(first.etag, made.etag);
  t.same((await call(update('c', { title: 'U', etag: made.etag }, { request_id: 'r' }))).channel, first);
  t.match(await refused(update('c', { title: 'V', etag: made.etag })), { reason: 'CONDITION_FAILED' });
  t.match(await refused(update('c', { title: 'V', etag: 'other' })), { reason: 'INVALID_ARGUMENT' });
  const cleared = await call(update('c', { title: 'W' }, { update_mask: { paths: ['labels', 'class'] } }));
  t.match(cleared.channel, { title: 'U', labels: {} });
  const whole = update('c', { participants: [{ id: 'p' }] }, { update_mask: { paths: ['*'] } });
  t.match((await call(whole)).channel, { title: '', participants: [{ id: 'p' }] });
  for (const bad of [
    update('c', {}),
    update('c', { title: 'x' }, { update_mask: { paths: ['head_seq'] } }),
    update('c', { title: 'x' }, { update_mask: { paths: ['*', 'title'] } }),
    update('c', { title: 'x'.repeat(limits.titleBytes + 1) }),
    update('c', { participants: [{ id: '' }] }),
    { update_mask: { paths: ['title'] } },
  ]) {
    t.match(await refused(bad), { reason: 'INVALID_ARGUMENT' });
  }
  t.match(await refused(update('none', { title: 'x' })), { reason: 'CHANNEL_NOT_FOUND' });
  await h.stop();
});

t.test('a deleted name goes on behind its head; nothing of before comes back', async (t) => {
  const h = await Harness.start();
  const remove = (more: object = {}) => h.call('ChannelService/DeleteChannel', { channel: 'c', ...more });
  const list = (more: object = {}) => h.call('MessageService/ListMessages', { channel: 'c', ...more });
  const refused = async (method: string, request: object) => (await h.failure(method, request)).error;
  await h.append({ channel: 'c', messages: [text('one', { message_id: 'm1' }), text('two'), text('three')] });
  const oldPage = await list({ before: 1 });
  t.not(oldPage.next_page_token, '');
  const { channel } = await h.call('ChannelService/GetChannel', { channel: 'c' });
  await h.call('ChannelService/UpdateChannel', update('c', { title: 'x' }));
  t.match(await refused('ChannelService/DeleteChannel', { channel: 'c', etag: channel.etag }), {
    reason: 'CONDITION_FAILED',
  });
  t.match(await remove({ request_id: 'd' }), { head_seq: '3' });
  t.match(await remove({ request_id: 'd' }), { head_seq: '3' });
  t.match(await remove({ allow_missing: true }), { head_seq: '3' });
  t.match(await refused('ChannelService/DeleteChannel', { channel: 'c' }), { reason: 'CHANNEL_NOT_FOUND' });
  t.match(await refused('MessageService/ListMessages', { channel: 'c' }), { reason: 'CHANNEL_NOT_FOUND' });

  t.match(await h.append({ channel: 'c', messages: [text('four'), text('five')] }), { first_seq: '4' });
  const now = (await h.call('ChannelService/GetChannel', { channel: 'c' })).channel;
  t.match(now, { first_seq: '4', head_seq: '5', message_count: '2', title: '' });
  t.not(now.uid, channel.uid);
  const all = ['four', 'five'];
  t.same((await list()).events.map(words), all);
  t.same((await list({ after: 10 })).events.map(words), all, 'from the first that there is');
  t.same((await list({ anchor_seq: 1, after: 10 })).events.map(words), all);
  const down = await list({ before: 1 });
  t.same(down.events.map(words), ['five']);
  const last = await list({ before: 1, page_token: down.next_page_token });
  t.same([last.events.map(words), last.next_page_token], [['four'], ''], 'pages end at the first');
  t.match(
    await refused('MessageService/ListMessages', {
      channel: 'c',
      before: 1,
      page_token: oldPage.next_page_token,
    }),
    {
      reason: 'INVALID_TOKEN',
    },
  );
  for (const ref of [{ seq: 2 }, { message_id: 'm1' }, { seq: 6 }]) {
    t.match(await refused('MessageService/GetMessage', { channel: 'c', ...ref }), {
      reason: 'MESSAGE_NOT_FOUND',
    });
  }
  t.match(await remove({ request_id: 'd' }), { head_seq: '3' }, 'a late repeat');
  t.same((await list()).events.map(words), all);
  await h.stop();
});

t.test('channels are found by label, participant and activity, in pages over all partitions', async (t) => {
  const h = await Harness.start();
  const list = (request: object) => h.call('ChannelService/ListChannels', request);
  const names = async (request: object): Promise<string[]> => {
    const found: string[] = [];
    let page_token = '';
    do {
      const page = await list({ page_size: 3, ...request, page_token });
      found.push(...page.channels.map((channel: Decoded) => channel.name));
      page_token = page.next_page_token;
    } while (page_token !== '');
    return found;
  };
  const all = Array.from({ length: 20 }, (_, i) => `c${String(i).padStart(2, '0')}`);
  for (const [i, name] of all.entries()) {
    await h.call(
      'ChannelService/CreateChannel',
      create(name, {
        labels: { color: i % 2 === 0 ? 'red' : 'blue' },
        participants: i % 3 === 0 ? [{ id: 'ann' }, { id: 'bob' }] : [{ id: 'bob' }],
      }),
    );
  }
  const red = all.filter((_, i) => i % 2 === 0);
  const ann = all.filter((_, i) => i % 3 === 0);
  t.same(await names({ label_key: 'color', label_value: 'red' }), red);
  t.same(await names({ participant: 'ann' }), ann);
  t.same(
    await names({ participant: 'ann', label_key: 'color', label_value: 'red' }),
    red.filter((c) => ann.includes(c)),
  );
  t.same(
    await names({ participant: 'ann', prefix: 'c1' }),
    ann.filter((c) => c.startsWith('c1')),
  );
  t.same(await names({ participant: 'nobody' }), []);
  t.same(await names({ order_by: 2 }), [...all].reverse());
  await h.append({ channel: 'c07', messages: [text('x')] });
  await h.append({ channel: 'c09', messages: [text('x')] });
  t.same(await names({ order_by: 2, participant: 'ann' }), [
    'c09',
    ...ann.filter((c) => c !== 'c09').reverse(),
  ]);
  t.same(
    (await list({ order_by: 2, page_size: 2 })).channels.map((c: Decoded) => c.name),
    ['c09', 'c07'],
  );
  await h.call('ChannelService/DeleteChannel', { channel: 'c09' });
  t.same(
    (await list({ order_by: 2, page_size: 2 })).channels.map((c: Decoded) => c.name),
    ['c07', 'c19'],
  );

  h.node.barriers.length = 0;
  await list({ prefix: 'user{42}/', order_by: 2, participant: 'ann' });
  t.equal(h.node.barriers.length, 1, 'a tag asks one partition');
  const { next_page_token } = await list({ page_size: 1, order_by: 2 });
  const failure = async (request: object) => (await h.failure('ChannelService/ListChannels', request)).error;
  t.match(await failure({ page_size: 1, page_token: next_page_token }), { reason: 'INVALID_TOKEN' });
  t.match(await failure({ label_value: 'red' }), { reason: 'INVALID_ARGUMENT' });
  t.match(await failure({ order_by: 9 }), { reason: 'INVALID_ARGUMENT' });
  await h.stop();
});

t.test('a batch of reads answers for each item', async (t) => {
  const h = await Harness.start();
  const get = (request: object) => h.call('MessageService/BatchGetMessages', request);
  const refused = async (request: object) =>
    (await h.failure('MessageService/BatchGetMessages', request)).error;
  const plain = ({ results }: Decoded) =>
    results.map((result: Decoded) => (result.event ? words(result.event) : result.absence));
  for (const name of ['{t}a', '{t}b']) {
    await h.append({
      channel: name,
      messages: Array.from({ length: 9 }, (_, i) => text(`${name} ${i + 1}`, { message_id: `m${i + 1}` })),
    });
  }
  const answer = await get({
    channel: '{t}a',
    items: [
      { seq: 3 },
      { seq: 4 },
      { seq: 5 },
      { message_id: 'm9' },
      { seq: 10 },
      { message_id: 'none' },
      { seq: 3 },
      { channel: '{t}b', seq: 1 },
      { channel: '{t}none', seq: 1 },
      { seq: 0 },
    ],
  });
  t.same(plain(answer), ['{t}a 3', '{t}a 4', '{t}a 5', '{t}a 9', 2, 2, '{t}a 3', '{t}b 1', 1, 2]);
  t.match(answer.served_by, { node_id: 1, role: 1 });
  t.same(plain(await get({ channel: '{t}none', items: [{ seq: 1 }] })), [1]);
  const elsewhere = ['x', 'y', 'z', 'w', 'v'].find(
    (c) => h.node.partitionOf('default', c) !== h.node.partitionOf('default', '{t}a'),
  );
  t.match(await refused({ channel: '{t}a', items: [{ seq: 1 }, { channel: elsewhere, seq: 1 }] }), {
    reason: 'INVALID_ARGUMENT',
    fields: { field: 'items[1].channel' },
  });
  const many = (n: number) => Array.from({ length: n }, () => ({ seq: 1 }));
  t.equal(
    (await get({ channel: '{t}a', items: many(limits.batchGetItems) })).results.length,
    limits.batchGetItems,
  );
  for (const items of [[], many(limits.batchGetItems + 1), [{}], [{ message_id: '' }]]) {
    t.match(await refused({ channel: '{t}a', items }), { reason: 'INVALID_ARGUMENT' });
  }
  // 6 MiB of events come in two answers and a bit.
  for (let i = 0; i < 8; i++) await h.append({ channel: 'large', messages: [text('x'.repeat(800_000))] });
  let items: object[] = Array.from({ length: 8 }, (_, i) => ({ seq: i + 1 }));
  let calls = 0;
  while (items.length > 0 && calls < 9) {
    const { results } = await get({ channel: 'large', items });
    calls++;
    t.ok(results[0].event, 'never none');
    items = items.filter((_, i) => results[i].absence === 3);
  }
  t.equal(calls, 3);
  await h.stop();
});
