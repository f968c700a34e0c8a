/** Who answers a read: preferences, replicas that lag, and many readers of one page. */
import t from 'tap';
import { Tokens } from '../../src/api/tokens.js';
import { HansardError } from '../../src/common/errors.js';
import { standstill, until } from '../support/until.js';
import { FakeNode } from './fake-node.js';
import { Harness, text } from './harness.js';

t.test('reads go where their preference says; a replica that lags hands them over', async (t) => {
  const [a, b, c] = await Promise.all([1, 2, 3].map((id) => Harness.start(new FakeNode(id))));
  if (a === undefined || b === undefined || c === undefined) throw new Error('three nodes');
  const all = [a, b, c];
  t.teardown(() => Promise.all(all.map((each) => each.stop())));
  for (const each of all) {
    each.node.leader = 1;
    // One state: these nodes have no consensus.
    each.node.partitions = a.node.partitions;
    each.node.members = [1, 2, 3];
    for (const other of all) if (other !== each) each.node.peers.set(other.node.identity.nodeId, other.node);
  }
  const { commit_token } = await a.append({ channel: 'c', messages: [text('x')] });
  const served = async (asked: Harness, read: object) => {
    const page = await asked.call('MessageService/ListMessages', { channel: 'c', before: 1, read });
    t.equal(page.events.length, 1);
    return page.served_by;
  };
  const refused = async (asked: Harness, read: object) =>
    (await asked.failure('MessageService/GetMessage', { channel: 'c', seq: 1, read })).error?.reason;
  const names = { primary: 1, primaryPreferred: 2, secondary: 3, secondaryPreferred: 4, nearest: 5 };
  for (const level of [1, 2, 4]) {
    t.match(await served(b, { level, preference: names.nearest }), { node_id: 2, role: 2 });
    t.match(await served(b, { level, preference: names.primary }), { node_id: 1, role: 1 });
    t.match(await served(b, { level, preference: names.primaryPreferred }), { node_id: 1 });
    t.match(await served(b, { level, preference: names.secondary }), { node_id: 2 });
    t.match(await served(a, { level, preference: names.secondary }), { node_id: 2, role: 2 });
    t.match(await served(a, { level, preference: names.secondaryPreferred }), { node_id: 2 });
    t.match(await served(a, { level }), { node_id: 1 });
  }

  // Node 2 lags: what it can't meet it hands over.
  b.node.barrierError = new HansardError('DEADLINE_EXCEEDED', 'the index is not reached');
  const session = { level: 2, commit_tokens: [commit_token] };
  t.match(await served(b, { ...session }), { node_id: 1 });
  t.match(await served(b, { ...session, preference: names.nearest }), { node_id: 1 });
  t.match(await served(b, { ...session, preference: names.secondary }), { node_id: 3, role: 2 });
  t.match(await served(b, { ...session, preference: names.secondaryPreferred }), { node_id: 3 });
  t.match(await served(a, { ...session, preference: names.secondary }), { node_id: 3 });
  c.node.barrierError = b.node.barrierError;
  t.match(await served(b, { ...session, preference: names.secondaryPreferred }), { node_id: 1 });
  t.equal(await refused(b, { ...session, preference: names.secondary }), 'DEADLINE_EXCEEDED');
  // The leader fails: another one that meets the level answers where the primary is only preferred.
  b.node.barrierError = undefined;
  a.node.barrierError = new HansardError('NO_QUORUM', 'alone');
  t.match(await served(b, { ...session, preference: names.primaryPreferred }), { node_id: 2 });
  t.equal(await refused(b, { ...session, preference: names.primary }), 'NO_QUORUM');
  for (const each of all) each.node.members = [1];
  t.equal(await refused(a, { preference: names.secondary }), 'NO_SECONDARY');
  t.equal(await refused(a, { preference: 99 }), 'INVALID_ARGUMENT');
});

t.test('a token covers all that the answer shows, also what was applied while it was read', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  // All in one partition.
  const names = ['{p}a', '{p}b'];
  const grow = () => h.append({ channel: '{p}b', messages: [text('more')] });
  for (const channel of names) await h.append({ channel, messages: [text('first')] });
  const partition = h.node.partitions[h.node.partitionOf('default', '{p}a')];
  if (partition === undefined) throw new Error('no partition');
  const { reader } = partition;
  const channelByName = reader.channelByName.bind(reader);
  let isGrowing = true;
  reader.channelByName = async (tenant, name) => {
    if (isGrowing && name === '{p}b') {
      isGrowing = false;
      await grow();
    }
    return channelByName(tenant, name);
  };
  const indexOf = ({ applied_index, commit_token }: { applied_index: string; commit_token: Buffer }) => {
    const tokens = new Tokens(h.node.identity.clusterId, h.node.identity.incarnation);
    t.same([...tokens.merge([commit_token]).values()], [Number(applied_index)]);
    return Number(applied_index);
  };

  const { entries } = await h.call('InboxService/GetInbox', { reader: 'ann', channels: names });
  t.equal(entries[1].channel.head_seq, '2');
  t.ok(indexOf(entries[1].served_by) >= partition.index, 'GetInbox');

  isGrowing = true;
  const got = await h.call('MessageService/BatchGetMessages', {
    channel: '{p}a',
    items: names.map((channel, i) => ({ channel, seq: 1 + 2 * i })),
  });
  t.equal(got.results[1].event.seq, '3');
  t.ok(indexOf(got.served_by) >= partition.index, 'BatchGetMessages');

  const listChannels = reader.listChannels.bind(reader);
  reader.listChannels = async (query) => {
    await grow();
    return listChannels(query);
  };
  const listed = await h.call('ChannelService/ListChannels', { prefix: '{p}' });
  t.equal(listed.channels[1].head_seq, '4');
  t.ok(indexOf(listed.served_by[0]) >= partition.index, 'ListChannels');
});

t.test('many readers of one page at a time cost one read; each is told who answered', async (t) => {
  const h = await Harness.start();
  t.teardown(() => h.stop());
  for (let i = 0; i < 20; i++) await h.append({ channel: 'hot', messages: [text(`m${i}`)] });
  const held: (() => void)[] = [];
  for (const { reader } of h.node.partitions) {
    const events = reader.events.bind(reader);
    reader.events = async (channel, range) => {
      await new Promise<void>((resolve) => held.push(resolve));
      return events(channel, range);
    };
  }
  const ask = (before: number) => h.call('MessageService/ListMessages', { channel: 'hot', before });
  const settle = async (calls: number) => {
    await until('all have come', () => h.api.callsInFlight === calls);
    await standstill(() => held.length);
  };
  const early = Array.from({ length: 30 }, () => ask(5));
  const others = ask(6);
  await settle(31);
  t.equal(held.length, 2, 'one read for thirty, one for another page');
  // Who comes behind an append must see it: another head, another read.
  await h.append({ channel: 'hot', messages: [text('new')] });
  const late = Array.from({ length: 10 }, () => ask(5));
  await settle(41);
  t.equal(held.length, 3);
  for (const release of held) release();
  const seqs = (page: { events: { seq: string }[] }) => page.events.map(({ seq }) => Number(seq));
  for (const page of await Promise.all(early)) {
    t.same(seqs(page), [16, 17, 18, 19, 20]);
    t.match(page, { head_seq: '20', served_by: { node_id: 1, applied_index: '20' } });
  }
  for (const page of await Promise.all(late)) {
    t.same(seqs(page), [17, 18, 19, 20, 21]);
    t.match(page, { head_seq: '21', served_by: { applied_index: '21' } });
  }
  t.equal((await others).events.length, 6);
});
