import { createHash } from 'node:crypto';
import { Metadata } from '@grpc/grpc-js';
import t from 'tap';
import { HansardError, InvariantError, type Reason, reasons } from '../../src/common/errors.js';
import { xxh64 } from '../../src/common/hash.js';
import { FakeNode } from './fake-node.js';
import { type Decoded, decode, encode, Harness, same, text, words } from './harness.js';

t.setTimeout(600_000);

t.test('what is appended is read back: checksum, commitment, content byte for byte', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  // Unknown fields within the content (99) and beside it.
  const content = Buffer.concat([
    encode('MessageContent', { role: 2, author: 'ada', parts: [{ text: { text: 'héllo 你好 😀' } }] }),
    Buffer.from([0x9a, 0x06, 0x03, 1, 2, 3]),
  ]);
  const message = Buffer.concat([Buffer.from([0xa2, 0x01, content.length]), content]);
  const request = Buffer.concat([
    encode('AppendMessagesRequest', { channel: '#ubuntu' }),
    Buffer.from([0x2a, message.length]),
    message,
    Buffer.from([0xf8, 0x07, 0x01]),
  ]);
  const appended = decode('AppendMessagesResponse', await h.raw('MessageService/AppendMessages', request));
  t.match(appended, { first_seq: '1', count: 1, duplicate: false, seqs: [] });
  t.ok(appended.commit_token.length > 0 && appended.commit_token.length <= 64, 'a short token');

  const bytes = await h.raw(
    'MessageService/GetMessage',
    encode('GetMessageRequest', { channel: '#ubuntu', seq: 1 }),
  );
  t.ok(bytes.includes(content), 'the content as it was sent, unknown fields included');
  const { event, served_by } = decode('GetMessageResponse', bytes);
  t.equal(words(event), 'héllo 你好 😀');
  t.match(event, { seq: '1', type: 1, erased: false, key: '', commit_time: appended.commit_time });
  t.equal(event.content_xxh64, xxh64(content).toString());
  t.same(event.commitment, createHash('sha256').update(event.salt).update(content).digest());
  t.match(served_by, { node_id: 1, role: 1, applied_index: '1' });
});

t.test('every field of an event comes back', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const key = 'ü'.repeat(64);
  const id = `m-${'x'.repeat(126)}`;
  await h.append({
    tenant: 'acme',
    channel: 'c',
    messages: [
      text('one'),
      text('two', { key, message_id: id, subject: 'user-7', target_seq: 1 }),
      { type: 7, raw: Buffer.from('👍'), target_seq: 1, message_id: 'r1' },
    ],
  });
  const list = await h.call('MessageService/ListMessages', { tenant: 'acme', channel: 'c' });
  t.match(list.events[0], { seq: '1', batch_position: 0, message_id: '', subject: '' });
  t.match(list.events[1], {
    seq: '2',
    key,
    message_id: id,
    subject: 'user-7',
    target_seq: '1',
    batch_position: 1,
  });
  t.match(list.events[2], { type: 7, raw: Buffer.from('👍'), batch_position: 2, message_id: 'r1' });
  t.match(list, { head_seq: '3', next_page_token: '' });
  const byId = await h.call('MessageService/GetMessage', { tenant: 'acme', channel: 'c', message_id: 'r1' });
  t.equal(byId.event.seq, '3');
  const { channel } = await h.call('ChannelService/GetChannel', { tenant: 'acme', channel: 'c' });
  t.equal(list.channel_uid, channel.uid);
  for (const ref of [{ seq: 4 }, { seq: 0 }, { message_id: 'r2' }]) {
    const failure = await h.failure('MessageService/GetMessage', { tenant: 'acme', channel: 'c', ...ref });
    t.match(failure.error, { reason: 'MESSAGE_NOT_FOUND', code: 5 });
  }
});

t.test('pages: latest, older, newer, around an anchor, by time, descending', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  for (let i = 0; i < 10; i++)
    await h.append({ channel: 'c', messages: Array.from({ length: 10 }, () => text('x')) });
  const list = (request: object) => h.call('MessageService/ListMessages', { channel: 'c', ...request });
  const seqs = (page: Decoded): number[] => page.events.map((event: Decoded) => Number(event.seq));
  const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

  t.same(seqs(await list({})), range(51, 100), 'the latest 50');
  const down: number[] = [];
  let page_token = '';
  do {
    const page = await list({ before: 33, page_token });
    down.unshift(...seqs(page));
    page_token = page.next_page_token;
  } while (page_token !== '');
  t.same(down, range(1, 100), 'back to the first, none twice');
  const up: number[] = [];
  do {
    const page = await list({ after: 33, page_token });
    up.push(...seqs(page));
    page_token = page.next_page_token;
  } while (page_token !== '');
  t.same(up, range(1, 100), 'from the first to the last');
  t.same(seqs(await list({ anchor_seq: 50, before: 2, after: 3 })), [48, 49, 50, 51, 52]);
  t.same(seqs(await list({ anchor_seq: 50, before: 2, after: 3, descending: true })), [52, 51, 50, 49, 48]);
  t.same(seqs(await list({ anchor_seq: 1, before: 5 })), []);
  t.same(
    seqs(await list({ anchor_seq: 9_999, before: 2 })),
    [99, 100],
    'an anchor beyond the end is the end',
  );
  const anchor_time = (await list({ anchor_seq: 61, after: 1 })).events[0].commit_time;
  t.same(seqs(await list({ anchor_time, after: 2 })), [61, 62]);
  t.same(seqs(await list({ anchor_time, before: 1 })), [60]);

  await h.append({ channel: 'd', messages: [text('x')] });
  const { next_page_token: token } = await list({ before: 10 });
  const wrong = [{ descending: true }, { channel: 'd' }, { anchor_seq: 3 }].map((each) => ({
    page_token: token,
    ...each,
  }));
  for (const page_token of ['x', 'AAAAAAAAAAAAAAAA', `${token}AA`, '🤷']) wrong.push({ page_token } as never);
  for (const each of wrong) {
    const failure = await h.failure('MessageService/ListMessages', { channel: 'c', before: 10, ...each });
    t.equal(failure.error?.reason, 'INVALID_TOKEN', JSON.stringify(each));
  }
});

t.test('a page ends before it grows too large, and the next goes on', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  for (let i = 0; i < 8; i++) await h.append({ channel: 'c', messages: [text('x'.repeat(900_000))] });
  const seqs: string[] = [];
  let pages = 0;
  let page_token = '';
  do {
    const page = await h.call('MessageService/ListMessages', { channel: 'c', after: 100, page_token });
    seqs.push(...page.events.map((event: Decoded) => event.seq));
    page_token = page.next_page_token;
    pages++;
  } while (page_token !== '');
  t.same(seqs, ['1', '2', '3', '4', '5', '6', '7', '8']);
  t.ok(pages >= 2, 'in several pages');
});

t.test('producers: opened once by name, repeats get the first answer, gaps are refused', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const open = { channel: 'c', name: 'importer' };
  const producer = await h.call('MessageService/OpenProducer', open);
  t.equal(producer.next_counter, '1');
  t.ok(producer.window > 0);
  t.equal((await h.call('MessageService/OpenProducer', open)).producer_id, producer.producer_id);
  const stamp = (first_counter: number) => ({ producer_id: producer.producer_id, first_counter });
  const request = { channel: 'c', producer: stamp(1), messages: [text('a'), text('b')] };
  const first = await h.append(request);
  const again = await h.append(request);
  t.match(again, { first_seq: '1', count: 2, duplicate: true });
  t.same(again.commit_time, first.commit_time);
  t.match(await h.refused({ ...request, producer: stamp(9) }), { reason: 'PRODUCER_GAP', code: 9 });
  const unknown = { ...request, producer: { producer_id: 77, first_counter: 1 } };
  t.match(await h.refused(unknown), { reason: 'PRODUCER_EXPIRED' });
});

t.test('conditions and keys', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const append = (more: object) => h.append({ channel: 'c', messages: [text('m')], ...more });
  const refused = (more: object) => h.refused({ channel: 'c', messages: [text('m')], ...more });
  t.match(await refused({ condition: { must_exist: true } }), { code: 10, reason: 'CONDITION_FAILED' });
  await append({ condition: { expected_head_seq: 0 } });
  t.match(await refused({ condition: { expected_head_seq: 0 } }), {
    reason: 'CONDITION_FAILED',
    fields: { expected: '0', actual: '1' },
  });
  await append({ condition: { expected_last_message_seq: 1 } });
  t.match(await refused({ condition: { must_not_exist: true } }), { reason: 'CONDITION_FAILED' });
  const keyed = { messages: [text('k', { key: 'k1' })] };
  const first = await append(keyed);
  t.match(await append(keyed), { duplicate: true, first_seq: first.first_seq });
  t.match(await refused({ messages: [text('other', { key: 'k1' })] }), {
    reason: 'DUPLICATE_KEY_DIFFERENT_CONTENT',
    code: 6,
  });
});

t.test('channels: created with a request id, got, listed in the order of their bytes', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const channel = {
    tenant: 'acme',
    name: 'support/42',
    title: 'Help',
    labels: { team: 'blue', lang: 'zh' },
    class: 'support',
    participants: [{ id: 'u1', display_name: 'Ann', role: 'agent' }],
  };
  const made = await h.call('ChannelService/CreateChannel', { channel, request_id: 'r1' });
  t.match(made.channel, channel);
  t.ok(made.channel.uid !== '' && made.channel.etag !== '');
  const again = await h.call('ChannelService/CreateChannel', { channel, request_id: 'r1' });
  t.equal(again.channel.uid, made.channel.uid, 'the same request_id gives the first answer');
  t.match((await h.failure('ChannelService/CreateChannel', { channel })).error, {
    reason: 'CHANNEL_EXISTS',
    code: 6,
  });
  const got = await h.call('ChannelService/GetChannel', { tenant: 'acme', channel: 'support/42' });
  t.same(got.channel, made.channel);
  t.match((await h.failure('ChannelService/GetChannel', { channel: 'support/42' })).error, {
    reason: 'CHANNEL_NOT_FOUND',
    code: 5,
  });

  const names = Array.from({ length: 57 }, (_, i) => `n${String(i).padStart(3, '0')}`);
  names.push('n\ue000', 'n😀', 'né', 'user{7}/a', 'user{7}/b', 'user{8}/a');
  for (const name of names) await h.append({ tenant: 'list', channel: name, messages: [text('x')] });
  const collect = async (request: object) => {
    const found: string[] = [];
    let page_token = '';
    do {
      const page = await h.call('ChannelService/ListChannels', { tenant: 'list', page_token, ...request });
      found.push(...page.channels.map((each: Decoded) => each.name));
      page_token = page.next_page_token;
    } while (page_token !== '');
    return found;
  };
  const inOrder = [...names].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  t.same(await collect({}), inOrder);
  t.same(await collect({ page_size: 1 }), inOrder);
  t.same(
    await collect({ page_size: 7, prefix: 'n' }),
    inOrder.filter((name) => name.startsWith('n')),
  );
  h.node.barriers.length = 0;
  t.same(await collect({ prefix: 'user{7}/' }), ['user{7}/a', 'user{7}/b']);
  t.equal(h.node.barriers.length, 1, 'a tag in the prefix fixes the partition');
});

t.test('a page of large channels ends early', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const participants = Array.from({ length: 1_000 }, (_, i) => ({
    id: `u${i}`,
    display_name: 'x'.repeat(250),
    role: 'y'.repeat(250),
  }));
  for (let i = 0; i < 6; i++)
    await h.call('ChannelService/CreateChannel', { channel: { name: `large-${i}`, participants } });
  const sizes: number[] = [];
  let page_token = '';
  do {
    const page = await h.call('ChannelService/ListChannels', { page_token });
    sizes.push(page.channels.length);
    page_token = page.next_page_token;
  } while (page_token !== '');
  t.equal(
    sizes.reduce((a, b) => a + b, 0),
    6,
  );
  t.ok(sizes.length > 1 && !sizes.includes(0), `pages of ${sizes}`);
});

t.test('reads: levels and tokens', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const { commit_token } = await h.append({ channel: 'c', messages: [text('x')] });
  const get = (read: object) => h.call('MessageService/GetMessage', { channel: 'c', seq: 1, read });
  const refused = async (read: object, by = h) =>
    (await by.failure('MessageService/GetMessage', { channel: 'c', seq: 1, read })).error;
  for (const [level, expected] of [
    [0, 'linearizable'],
    [1, 'linearizable'],
    [2, 'eventual'],
    [4, 'eventual'],
  ] as const) {
    h.node.barriers.length = 0;
    await get({ level, commit_tokens: [commit_token] });
    t.match(h.node.barriers, [{ level: expected, minIndex: 1 }], `level ${level}`);
  }
  h.node.barriers.length = 0;
  await get({ level: 3, max_staleness: { seconds: 1, nanos: 500_000_000 } });
  t.match(h.node.barriers, [{ level: 'bounded', maxStalenessMs: 1_500 }]);
  t.match(await refused({ level: 3 }), { reason: 'INVALID_ARGUMENT' }, 'BOUNDED needs its bound');
  t.match(await refused({ level: 99 }), { reason: 'INVALID_ARGUMENT' });
  const broken = Buffer.from(commit_token);
  broken.writeUInt8(broken.readUInt8(3) ^ 1, 3);
  t.match(await refused({ commit_tokens: [broken] }), { reason: 'INVALID_TOKEN' });
  t.match(await refused({ commit_tokens: [Buffer.alloc(0)] }), { reason: 'INVALID_TOKEN' });
  t.match(await refused({ commit_tokens: Array(513).fill(commit_token) }), { reason: 'INVALID_TOKEN' });
  const restored = await Harness.start(new FakeNode(1, 'cluster-1', 2));
  const foreign = await Harness.start(new FakeNode(1, 'cluster-2'));
  t.teardown(() => Promise.all([restored.stop(), foreign.stop()]));
  t.match(await refused({ commit_tokens: [commit_token] }, restored), { reason: 'INCARNATION_CHANGED' });
  t.match(await refused({ commit_tokens: [commit_token] }, foreign), { reason: 'INVALID_TOKEN' });
});

t.test('not the leader: one hop, never two; without a leader a bounded wait', async (t) => {
  const leading = await Harness.start(new FakeNode(2));
  const other = await Harness.start(new FakeNode(1));
  t.teardown(() => Promise.all([leading.stop(), other.stop()]));
  leading.node.leader = 2;
  other.node.leader = 2;
  other.node.peers.set(2, leading.node);
  t.match(await other.append({ channel: 'c', messages: [text('x')] }), { first_seq: '1' });
  t.equal(leading.node.proposals, 1);
  t.equal(other.node.proposals, 0);
  const primary = { channel: 'c', seq: 1, read: { preference: 1 } };
  t.match((await other.call('MessageService/GetMessage', primary)).served_by, { node_id: 2, role: 1 });

  leading.node.leader = 3;
  t.match(await other.refused({ channel: 'c', messages: [text('x')] }), {
    reason: 'NOT_LEADER',
    code: 14,
    fields: { leader_node_id: '3', leader_address: '127.0.0.1:7003' },
  });
  t.equal(leading.node.forwards, 0);

  // Leadership moves while the call is on its way: the node that was asked tries again, its client never knows.
  setTimeout(() => {
    leading.node.leader = 2;
  }, 200);
  t.match(await other.append({ channel: 'c', messages: [text('moved')] }), { first_seq: '2' });

  other.node.leader = undefined;
  const none = await other.refused({ channel: 'c', messages: [text('x')] });
  t.match(none, { reason: 'NO_QUORUM', code: 14 });
  t.ok(none?.retryDelayMs, 'says when to try again');
  const waiting = [1, 2, 3].map((n) => other.append({ channel: 'w', messages: [text(`${n}`)] }));
  setTimeout(() => {
    other.node.leader = 1;
  }, 100);
  const seqs = (await Promise.all(waiting)).map((each) => each.first_seq);
  t.same(seqs, ['1', '2', '3'], 'in the order of arrival');
});

t.test('an unknown outcome invites a retry only where that is safe', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  h.node.proposeError = new HansardError('COMMIT_UNKNOWN', 'the leader was lost');
  t.match(await h.refused({ channel: 'c', messages: [text('x')] }), { code: 2, reason: 'COMMIT_UNKNOWN' });
  const keyed = { channel: 'c', messages: [text('x', { key: 'k' })] };
  t.match(await h.refused(keyed), { code: 14, reason: 'COMMIT_UNKNOWN' });
  const half = { channel: 'c', messages: [text('x', { key: 'k' }), text('y')] };
  t.match(await h.refused(half), { code: 2, reason: 'COMMIT_UNKNOWN' });
});

t.test('so does a link that breaks while the leader has the call', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  h.node.leader = 2;
  h.node.forward = () => Promise.reject(new HansardError('COMMIT_UNKNOWN', 'the link to node 2 broke'));
  const [keyed, half] = [[text('x', { key: 'k' })], [text('x', { key: 'k' }), text('y')]];
  t.match(await h.refused({ channel: 'c', messages: half }), { code: 2, reason: 'COMMIT_UNKNOWN' });
  t.match(await h.refused({ channel: 'c', messages: keyed }), { code: 14, reason: 'COMMIT_UNKNOWN' });

  const batch = async (messages: object[], more = {}) =>
    (await h.failure('MessageService/AppendBatch', { appends: [{ channel: 'c', messages }], ...more })).error;
  t.match(await batch(half), { code: 2, reason: 'COMMIT_UNKNOWN' });
  t.match(await batch(keyed), { code: 14, reason: 'COMMIT_UNKNOWN' });
  t.match(await batch(half, { request_id: 'r' }), { code: 14, reason: 'COMMIT_UNKNOWN' });
});

t.test('every reason reaches the client with its code, fields and delay', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  for (const reason of Object.keys(reasons) as Reason[]) {
    // Leadership that is lost again and again ends as itself, after a few looks.
    h.node.proposeError = new HansardError(
      reason,
      `because of ${reason} \ud800`,
      { partition: 3 },
      { retryDelayMs: 5 },
    );
    const failure = await h.failure('MessageService/OpenProducer', { channel: 'c' });
    t.match(failure, {
      code: reasons[reason].code,
      error: { reason, fields: { partition: '3' }, retryDelayMs: 5 },
    });
  }
});

t.test('a defect ends in INTERNAL; a broken invariant also ends the process', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  h.node.proposeError = new TypeError('oops: secret');
  const failure = await h.failure('MessageService/OpenProducer', { channel: 'c' });
  t.match(failure, { code: 13, error: { reason: 'INTERNAL' } });
  t.notMatch(failure.message, /secret/, 'what went wrong is in the log alone');
  t.equal(h.fatal, undefined);
  h.node.proposeError = new InvariantError('two leaders');
  t.match(await h.failure('MessageService/OpenProducer', { channel: 'c' }), { code: 13 });
  t.ok(h.fatal instanceof InvariantError);
  h.node.proposeError = undefined;
  t.ok(await h.append({ channel: 'c', messages: [text('still here')] }));
});

t.test('the hook for identity and rights refuses before the handler', async (t) => {
  const h = await Harness.start(new FakeNode(), {
    hooks: {
      admit(call) {
        if (call.method.endsWith('/AppendMessages'))
          throw new HansardError('NOT_IMPLEMENTED', `not ${call.origin}`);
      },
      onFatal() {},
    },
  });
  t.teardown(() => h.stop());
  t.match(await h.refused({ channel: 'c', messages: [text('x')] }), {
    reason: 'NOT_IMPLEMENTED',
    message: 'not grpc',
  });
  t.equal(h.node.proposals, 0);
  t.ok(await h.call('ClusterService/GetCluster', {}));
});

t.test('GetCluster, health and reflection', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  const cluster = await h.call('ClusterService/GetCluster', {});
  t.match(cluster, {
    cluster_id: 'cluster-1',
    answered_by_node_id: 1,
    nodes: [
      { node_id: 1, state: 1 },
      { node_id: 2, state: 2 },
    ],
    pools: [{ name: 'default', partition_count: 4, replication_factor: 2 }],
    partition_map_version: '7',
  });
  t.equal(cluster.partitions.length, 4);
  t.match(cluster.partitions[2], {
    partition: 2,
    leader_node_id: 1,
    term: '3',
    replicas: [{ replica_id: '5' }],
  });

  const check = (name: string) =>
    new Promise((resolve, reject) => {
      const request = Buffer.from([0x0a, name.length, ...Buffer.from(name)]);
      h.client.makeUnaryRequest('/grpc.health.v1.Health/Check', same, same, request, (error, response) =>
        error ? reject(error) : resolve((response as Buffer)[1]),
      );
    });
  t.equal(await check(''), 1);
  t.equal(await check('hansard.v1.MessageService'), 1);
  h.api.setServing(false);
  t.equal(await check(''), 2);
  t.equal(await check('hansard.v1.ExchangeService'), 2);
  h.api.setServing(true);
  t.equal(await check(''), 1);
  h.node.isDraining = true;
  while ((await check('')) !== 2) await new Promise((resolve) => setTimeout(resolve, 50));
  t.pass('a draining node shows it');
  await t.rejects(check('nobody'), { code: 5 });

  for (const version of ['v1', 'v1alpha']) {
    const path = `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`;
    const stream = h.client.makeBidiStreamRequest(path, same, same, new Metadata());
    const answer = new Promise<Buffer>((resolve, reject) => stream.on('data', resolve).on('error', reject));
    stream.write(Buffer.from([0x3a, 0x00]));
    t.match((await answer).toString('latin1'), /hansard\.v1\.MessageService/, version);
    stream.end();
  }
});

t.test('addresses: another machine needs leave, a taken port is named', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  for (const [address, reason] of [
    ['0.0.0.0:0', 'INVALID_SETTINGS'],
    [h.api.address, 'ADDRESS_IN_USE'],
  ] as const) {
    const failed = await Harness.start(new FakeNode(), { address }).catch((error: HansardError) => error);
    t.match(failed, { reason }, address);
  }
});

t.test('stopping: calls under way end, new ones are refused', async (t) => {
  const h = await Harness.start();
  let open = (): void => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  h.node.gate = () => opened;
  const pending = h.append({ channel: 'c', messages: [text('x')] });
  while (h.node.proposals === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  const stopped = h.api.stop(5_000);
  t.match(await h.refused({ channel: 'c', messages: [text('x')] }), { reason: 'SHUTTING_DOWN', code: 14 });
  open();
  t.match(await pending, { first_seq: '1' });
  h.client.close();
  await stopped;
});

/** The node that is asked, and the one that leads. */
async function askedAndLeading(t: { teardown(fn: () => Promise<void>): void }) {
  const asked = new FakeNode(1);
  const leading = new FakeNode(2);
  const h = await Harness.start(asked);
  const other = await Harness.start(leading);
  t.teardown(async () => {
    await h.stop();
    await other.stop();
  });
  asked.peers.set(2, leading);
  asked.leader = 2;
  leading.leader = 2;
  return { asked, leading, h };
}

t.test('GetPartition and ChangeReplicas: by the leader, what is missing said', async (t) => {
  const { asked, leading, h } = await askedAndLeading(t);
  t.match(await h.call('ClusterService/GetPartition', { partition: 3 }), {
    partition: { partition: 3, leader_node_id: 2 },
    answered_by_node_id: 2,
    told_by_leader: true,
    joint: false,
    changes: '2',
    replicas: [
      { replica_id: '1', node_id: 1, role: 1, connected: true, match_index: '40', caught_up: true },
      { replica_id: '7', node_id: 2, role: 2, connected: false, match_index: '12', caught_up: false },
    ],
  });
  asked.leader = undefined;
  t.match(
    await h.call('ClusterService/GetPartition', { partition: 0 }),
    { answered_by_node_id: 1, told_by_leader: false },
    'without a leader what there is',
  );
  asked.leader = 2;
  const change = (request: object) => h.call('ClusterService/ChangeReplicas', request);
  const refusal = async (request: object) =>
    (await h.failure('ClusterService/ChangeReplicas', request)).error;
  t.match(
    await change({
      partition: 1,
      changes: [
        { kind: 1, node_id: 3 },
        { kind: 4, replica_id: 9 },
      ],
    }),
    {
      done: true,
    },
  );
  leading.changeResult = { done: false, waitsFor: 7 };
  t.match(await change({ partition: 2, changes: [{ kind: 5, replica_id: 2, node_id: 4 }], force: true }), {
    done: false,
    waits_for_replica_id: '7',
  });
  t.same(leading.changesAsked, [
    {
      partition: 1,
      changes: [
        { kind: 'addLearner', nodeId: 3 },
        { kind: 'remove', replicaId: 9 },
      ],
      force: false,
    },
    { partition: 2, changes: [{ kind: 'replace', replicaId: 2, nodeId: 4 }], force: true },
  ]);
  t.same(asked.changesAsked, []);
  leading.changeResult = new HansardError('WOULD_LOSE_QUORUM', 'no', { living: '1' });
  t.match(await refusal({ partition: 1, changes: [{ kind: 4, replica_id: 9 }] }), {
    reason: 'WOULD_LOSE_QUORUM',
    fields: { living: '1' },
  });
  for (const changes of [
    [],
    [{ kind: 0 }],
    [{ kind: 1 }],
    [{ kind: 1, node_id: 1, replica_id: 2 }],
    [{ kind: 2 }],
    [{ kind: 3, node_id: 1, replica_id: 1 }],
    [{ kind: 5, replica_id: 1 }],
    [{ kind: 6, replica_id: 1 }],
  ])
    t.match(
      await refusal({ partition: 1, changes }),
      { reason: 'INVALID_ARGUMENT' },
      JSON.stringify(changes),
    );
  t.match(await refusal({ partition: 4, changes: [{ kind: 2, replica_id: 1 }] }), {
    reason: 'INVALID_ARGUMENT',
  });
});

t.test('UpgradeCluster: once all nodes can carry the version out, by each leader, once', async (t) => {
  const { asked, leading, h } = await askedAndLeading(t);
  for (const { meta } of leading.partitions) meta.settings.applyVersion = 1;
  const upgrade = (request: object) => h.call('ClusterService/UpgradeCluster', request);
  const refusal = async (request: object) =>
    (await h.failure('ClusterService/UpgradeCluster', request)).error;
  const versions = () => leading.partitions.map(({ meta }) => meta.settings.applyVersion);

  t.match(await refusal({}), { reason: 'UPGRADE_BLOCKED', fields: { too_old: '', unreachable: '2' } });
  asked.isTwoConnected = true;
  leading.isTwoConnected = true;
  asked.applyVersions.set(2, 1);
  t.match(await refusal({ to: 2 }), {
    reason: 'UPGRADE_BLOCKED',
    message: /node 2 .* version 1 at most/,
    fields: { too_old: '2', unreachable: '', apply_version: '2' },
  });
  t.match(await upgrade({ to: 1 }), { apply_version: 1 }, 'there already');
  asked.applyVersions.delete(2);
  leading.applyVersions.set(1, 1);
  t.match(
    await refusal({}),
    { reason: 'UPGRADE_BLOCKED', fields: { too_old: '1' } },
    'as the leader sees it',
  );
  leading.applyVersions.delete(1);
  t.match(await refusal({ to: 3 }), { fields: { too_old: '1 2' } });
  t.match(await refusal({ partitions: [4] }), { reason: 'INVALID_ARGUMENT' });

  t.match(await upgrade({ validate_only: true }), {
    apply_version: 2,
    partitions: [0, 1, 2, 3].map((partition) => ({ partition, from_version: 1 })),
  });
  t.same([versions(), leading.proposals], [[1, 1, 1, 1], 0], 'nothing was proposed so far');
  t.match(await upgrade({ partitions: [3, 1, 3] }), {
    partitions: [
      { partition: 1, from_version: 1 },
      { partition: 3, from_version: 1 },
    ],
  });
  t.same([versions(), leading.proposals], [[1, 2, 1, 2], 2]);
  t.match(await upgrade({}), {
    partitions: [1, 2, 1, 2].map((from_version, partition) => ({ partition, from_version })),
  });
  t.match(await upgrade({}), { partitions: [2, 2, 2, 2].map((from_version) => ({ from_version })) });
  t.same([versions(), leading.proposals], [[2, 2, 2, 2], 4], 'a repeat proposes nothing');
  t.match(await refusal({ to: 1 }), { reason: 'INVALID_SETTINGS' });
  leading.proposeError = new HansardError('COMMIT_UNKNOWN', 'lost');
  for (const { meta } of leading.partitions) meta.settings.applyVersion = 1;
  t.match(await refusal({}), { reason: 'COMMIT_UNKNOWN' });
});
