/** DeliveryService: what recipients report, what is pending, whom a listing names. */
import t from 'tap';
import { FakeNode } from './fake-node.js';
import { Harness, text } from './harness.js';

t.setTimeout(600_000);

async function start(t: { teardown(fn: () => unknown): void }): Promise<Harness> {
  const h = await Harness.start(new FakeNode());
  t.teardown(() => h.stop());
  return h;
}

t.test('reports, and the state of an event for each recipient', async (t) => {
  const h = await start(t);
  const participants = ['zoe', 'bob', 'ann'].map((id) => ({ id }));
  await h.call('ChannelService/CreateChannel', { channel: { name: 'c', participants } });
  await h.append({ channel: 'c', messages: [text('1'), text('2'), { ...text('3'), message_id: 'm3' }] });
  const report = (recipient: string, up_to_seq: number, more: object = {}) =>
    h.call('DeliveryService/ReportDelivery', { channel: 'c', recipient, up_to_seq, ...more });
  const list = (more: object = {}) => h.call('DeliveryService/ListDeliveries', { channel: 'c', ...more });
  const none = await list({ seq: 1 });
  t.match(
    none.deliveries.map((each: { recipient: string }) => each.recipient),
    ['ann', 'bob', 'zoe'],
    'participants that have said nothing',
  );
  t.ok(
    none.deliveries.every((each: { state: number }) => each.state === 1),
    'pending',
  );
  const first = await report('bob', 2, { failed: [{ seq: 2, reason: 'away' }] });
  t.match(first, {
    delivery: {
      recipient: 'bob',
      up_to_seq: '2',
      pending_events: '1',
      failed: [{ seq: '2', reason: 'away', attempts: 1 }],
    },
    head_seq: '3',
  });
  t.ok(first.commit_token.length > 0 && first.delivery.report_time.seconds > 0);
  await report('carl', 3);
  const states = async (more: object) =>
    (await list(more)).deliveries.map((each: { recipient: string; state: number }) => [
      each.recipient,
      each.state,
    ]);
  const [pending, delivered, failed] = [1, 2, 3];
  t.same(await states({ seq: 2 }), [
    ['ann', pending],
    ['bob', failed],
    ['carl', delivered],
    ['zoe', pending],
  ]);
  t.same(await states({ message_id: 'm3' }), [
    ['ann', pending],
    ['bob', pending],
    ['carl', delivered],
    ['zoe', pending],
  ]);
  t.same(await states({ seq: 1, recipient: 'bob' }), [['bob', delivered]]);
  t.same(await states({ seq: 1, recipient: 'nobody' }), [['nobody', pending]]);
  await report('bob', 0, { recovered: [2] });
  t.same(await states({ seq: 2, recipient: 'bob' }), [['bob', delivered]]);
  // In pages of any size the same.
  for (const page_size of [1, 2, 3]) {
    const seen: string[] = [];
    for (let page_token = ''; ; ) {
      const page = await list({ page_size, page_token });
      seen.push(...page.deliveries.map((each: { recipient: string }) => each.recipient));
      page_token = page.next_page_token;
      if (page_token === '') break;
    }
    t.same(seen, ['ann', 'bob', 'carl', 'zoe'], `pages of ${page_size}`);
  }
  const page = await list({ page_size: 1 });
  const reason = async (method: string, request: object) =>
    (await h.failure(`DeliveryService/${method}`, request)).error?.reason;
  t.equal(
    await reason('ReportDelivery', { channel: 'none', recipient: 'ann', up_to_seq: 1 }),
    'CHANNEL_NOT_FOUND',
  );
  t.equal(
    await reason('ReportDelivery', { channel: 'c', recipient: 'ann', up_to_seq: 4 }),
    'INVALID_ARGUMENT',
  );
  t.equal(await reason('ReportDelivery', { channel: 'c', up_to_seq: 1 }), 'INVALID_ARGUMENT');
  t.equal(await reason('ListDeliveries', { channel: 'none' }), 'CHANNEL_NOT_FOUND');
  t.equal(await reason('ListDeliveries', { channel: 'c', seq: 4 }), 'MESSAGE_NOT_FOUND');
  t.equal(await reason('ListDeliveries', { channel: 'c', message_id: 'm4' }), 'MESSAGE_NOT_FOUND');
  t.equal(
    await reason('ListDeliveries', { channel: 'd', page_token: page.next_page_token }),
    'INVALID_TOKEN',
  );
});
