/** Feeds leave the event loop its turns, whatever there is to pass over or to wait for. */
import t from 'tap';
import type { FeedSource } from '../../src/api/feed-source.js';
import { FeedTurns } from '../../src/api/feed-turns.js';
import type { PartitionId } from '../../src/common/ids.js';
import type { ReadBarrierOptions, ReadView } from '../../src/node/types.js';
import { FakeNode } from './fake-node.js';
import { type Decoded, decode, encode, Harness, same, text } from './harness.js';

t.setTimeout(600_000);

/** Waits for an index as a real replica does, and notes in which turn of the loop it is read. */
class Replica extends FakeNode {
  /** Reads of each turn. */
  readonly turns: number[] = [0];

  override async readBarrier(p: PartitionId, options: ReadBarrierOptions): Promise<ReadView> {
    this.turns[this.turns.length - 1] = (this.turns.at(-1) as number) + 1;
    const isReached = () => (this.partitions[p]?.index ?? 0) >= options.minIndex;
    while (!isReached() && this.monotonicMs() < options.deadlineMs)
      await new Promise((resolve) => setTimeout(resolve, 5));
    return super.readBarrier(p, options);
  }

  /** Until what it gives is called. */
  countTurns(): () => void {
    let isOver = false;
    const next = (): void => {
      this.turns.push(0);
      if (!isOver) setImmediate(next);
    };
    setImmediate(next);
    return () => {
      isOver = true;
    };
  }
}

async function start(t: { teardown(fn: () => unknown): void }, node: Replica): Promise<Harness> {
  const h = await Harness.start(node);
  t.teardown(() => h.stop());
  return h;
}

async function append(h: Harness, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await h.append({ channel: 'a', messages: [text('x')] });
}

const seqsOf = (answer: Decoded): number[] =>
  (answer.events?.channels ?? []).flatMap((one: Decoded) =>
    one.events.map(({ seq }: Decoded) => Number(seq)),
  );

t.test('FetchEvents at a replica behind the place lets it catch up', async (t) => {
  const ahead = await start(t, new Replica(1));
  const behind = await start(t, new Replica(1));
  const partition = ahead.node.partitionOf('default', 'a');
  const fetch = (h: Harness, more: object) => h.call('EventService/FetchEvents', { partition, ...more });
  await append(ahead, 10);
  await append(behind, 5);
  const { place } = await fetch(ahead, { from_beginning: true });
  const node = behind.node as Replica;
  const readsBefore = node.barriers.length;
  const answer = fetch(behind, { place, wait_ms: 20_000 });
  // Its applying is a matter of timers and sockets.
  await new Promise((resolve) => setTimeout(resolve, 20));
  await append(behind, 6);
  t.same(seqsOf(await answer), [11]);
  t.ok(node.barriers.length - readsBefore < 20, `it read ${node.barriers.length - readsBefore} times`);
  t.same(
    node.barriers.filter(({ minIndex }) => minIndex > 0).map(({ level }) => level),
    ['eventual'],
  );

  const late = await start(t, new Replica(1));
  const nothing = await fetch(late, { place, wait_ms: 50 });
  t.match(nothing, { events: null, at_end: false });
  t.same(seqsOf(await fetch(ahead, { place: nothing.place })), [], 'the place is the same');
});

t.test('what waits for another one to be read from its beginning has no turn', async (t) => {
  const feed = (isDirty: boolean, isBackfilling: boolean) => ({ isDirty, isBackfilling });
  const turns = (...feeds: object[]) => new FeedTurns(feeds as unknown as FeedSource[]);
  const waiting = turns(feed(false, true), feed(true, true));
  t.same([waiting.hasNext, waiting.next()], [false, undefined]);
  const mixed = turns(feed(false, true), feed(true, true), feed(true, false));
  t.same([mixed.hasNext, mixed.next()], [true, feed(true, false)]);
  t.equal(turns(feed(false, false)).hasNext, false);
});

t.test('a long backlog of which nothing is wanted is passed over turn by turn', async (t) => {
  const node = new Replica(1);
  const h = await start(t, node);
  await append(h, 60);
  const partition = node.partitionOf('default', 'a');
  const request = { types: [17], from_beginning: true };
  const most = async (read: () => Promise<unknown>): Promise<number> => {
    const end = node.countTurns();
    node.turns.splice(0, node.turns.length, 0);
    await read();
    end();
    // Too many turns for arguments of one call, on a quick machine.
    return node.turns.reduce((most, reads) => Math.max(most, reads), 0);
  };
  const fetched = await most(() =>
    h.call('EventService/FetchEvents', { partition, max_events: 1, wait_ms: 300, ...request }),
  );
  t.ok(fetched <= 2, `${fetched} reads of one turn`);
  const subscribed = await most(
    () =>
      new Promise<void>((resolve, reject) => {
        const bytes = encode('SubscribeRequest', { channels: ['a'], max_batch: 1, ...request });
        const path = '/hansard.v1.EventService/Subscribe';
        const stream = h.client.makeServerStreamRequest(path, same, same, bytes, {});
        stream.on('error', reject);
        stream.on('data', (message: Buffer) => {
          if (decode('SubscribeResponse', message).update !== 'caught_up') return;
          stream.removeListener('error', reject).on('error', () => {});
          stream.cancel();
          resolve();
        });
      }),
  );
  t.ok(subscribed <= 2, `${subscribed} reads of one turn`);
});
