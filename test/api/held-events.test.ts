/** Events that a subscription's leader has at hand: what is due first stays, however much feeds bring. */
import t from 'tap';
import { HeldEvents, type HeldRange } from '../../src/api/subscription-events.js';

const rangeOf = (from: number, through: number, eventBytes = 10): HeldRange => ({
  uid: 'u',
  from,
  through,
  events: Array.from({ length: through - from + 1 }, (_, i) => ({
    seq: from + i,
    type: 17,
    timeUs: 1,
    bytes: Buffer.alloc(eventBytes),
  })),
});
const seqsOf = (held: HeldEvents, from: number, to: number) =>
  held.range('c', from, to)?.events.map(({ seq }) => seq);

t.test(
  'what feeds bring is joined to what it follows, and never takes the place of what is due before',
  async (t) => {
    const held = new HeldEvents();
    held.add('c', rangeOf(1, 2));
    held.add('c', rangeOf(3, 4));
    t.same(seqsOf(held, 1, 9), [1, 2, 3, 4]);
    held.add('c', rangeOf(7, 8));
    t.same(seqsOf(held, 1, 9), [1, 2, 3, 4], 'what is behind a gap is read when it is due');
    held.release('c', 3);
    t.same(seqsOf(held, 4, 9), [4]);
    t.equal(held.range('c', 7, 9), undefined);
  },
);

t.test('the backlog of one channel is not taken into memory', async (t) => {
  const held = new HeldEvents();
  for (let from = 1; from <= 100_000; from += 500) held.add('c', rangeOf(from, from + 499, 1_000));
  const count = seqsOf(held, 1, 100_000)?.length ?? 0;
  t.ok(count >= 500 && count < 3_000, `${count} of 100,000 events are at hand`);
});

t.test('what was read because it is due takes the place of what is there', async (t) => {
  const held = new HeldEvents();
  held.add('c', rangeOf(1, 1));
  held.put('c', rangeOf(5, 6));
  t.same(seqsOf(held, 5, 9), [5, 6], 'behind a gap, too');
  held.put('c', rangeOf(7, 3_000, 1_000));
  t.equal(seqsOf(held, 7, 3_000)?.length, 2_994, 'and where both together are too much');
});

const nameOf = (i: number) => `of many ${i}`;
/** Of 20 channels of 800 KB each, which are at hand. */
const atHand = (held: HeldEvents) =>
  Array.from({ length: 20 }, (_, i) => i).filter((i) => held.range(nameOf(i), 1, 1) !== undefined);

t.test('of many channels those stay that came first: they are due first', async (t) => {
  const held = new HeldEvents();
  for (let i = 0; i < 20; i++) held.add(nameOf(i), rangeOf(1, 8, 100_000));
  const there = atHand(held);
  t.ok(there.length >= 8 && there.length < 12, `${there.length} of 20`);
  t.same(
    there,
    there.map((_, i) => i),
    'the first of them',
  );
  t.ok(held.waitingBytes >= there.length * 800_000);

  held.put(nameOf(19), rangeOf(1, 8, 100_000));
  held.put(nameOf(18), rangeOf(1, 8, 100_000));
  t.same(
    atHand(held),
    [...there.slice(0, -2), 18, 19],
    'what was read because it is due, and not what is due last',
  );
});

t.test('what was handed out makes room for what was not', async (t) => {
  const held = new HeldEvents();
  for (let i = 0; i < 10; i++) held.add(nameOf(i), rangeOf(1, 8, 100_000));
  const before = held.waitingBytes;
  held.sent(nameOf(0), 8);
  held.sent(nameOf(1), 8);
  held.sent(nameOf(2), 4);
  t.ok(held.waitingBytes < before - 1_900_000, `${held.waitingBytes}`);
  for (let i = 10; i < 12; i++) held.add(nameOf(i), rangeOf(1, 8, 100_000));
  t.same(atHand(held), [3, 4, 5, 6, 7, 8, 9, 10, 11], 'of two nothing is left, of the third no beginning');
  t.same(held.range(nameOf(2), 5, 8)?.events.length, 4);
  held.clear();
  t.equal(held.waitingBytes, 0);
});
