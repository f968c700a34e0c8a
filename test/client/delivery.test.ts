/** A recipient at work: each event handed out, and what became of it reported. */
import t from 'tap';
import type { Event } from '../../src/client/index.js';
import { HansardError } from '../../src/common/errors.js';
import { until } from '../support/until.js';
import { start } from './doors.js';

t.setTimeout(600_000);

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

t.test('tries, reports, begins where it ended, delivers again what had failed', async (t) => {
  const { client, writer } = await start(t, 1);
  const channel = client.channel('c');
  await writer.channel('c').append(range(1, 20).map((i) => ({ text: `m${i}` })));
  const seen: [number, number][] = [];
  const run = async (lastSeq: number, fails: (seq: number, attempt: number) => boolean): Promise<void> => {
    const stop = new AbortController();
    const handler = ({ seq }: Event, attempt: number): void => {
      seen.push([seq, attempt]);
      if (seq === lastSeq) stop.abort();
      if (fails(seq, attempt)) throw new Error(`not ${seq}`);
    };
    await channel.deliver('ann', handler, {
      signal: stop.signal,
      attempts: 2,
      retryDelayMs: 1,
      reportEveryMs: 5,
    });
  };
  await run(10, (seq, attempt) => seq === 4 || (seq === 7 && attempt === 1));
  t.same(
    seen,
    range(1, 10).flatMap((seq) =>
      seq === 4 || seq === 7
        ? [
            [seq, 1],
            [seq, 2],
          ]
        : [[seq, 1]],
    ),
    'in order, twice where it failed',
  );
  const told = async () => (await channel.deliveries({ recipient: 'ann' })).deliveries[0];
  t.match(await told(), {
    upToSeq: 10,
    pendingEvents: 10,
    failed: [{ seq: 4, attempts: 2, reason: 'not 4' }],
  });
  seen.length = 0;
  await run(20, () => false);
  t.same(
    seen.map(([seq]) => seq),
    range(11, 20),
    'it goes on behind what was reported',
  );
  t.match(await told(), { upToSeq: 20, pendingEvents: 0, failed: [{ seq: 4 }] });
  const again: Event[] = [];
  t.match(await channel.redeliver('ann', (event) => Promise.reject(new Error(`still ${event.seq}`))), {
    recovered: [],
    failed: [{ seq: 4, attempts: 3, reason: 'still 4' }],
  });
  t.match(await told(), { failed: [{ seq: 4, attempts: 3 }] });
  t.match(await channel.redeliver('ann', (event) => again.push(event)), { recovered: [4], failed: [] });
  t.same(
    again.map(({ seq }) => seq),
    [4],
  );
  t.match(await told(), { failed: [] });
  t.match((await channel.deliveries({ recipient: 'ann', seq: 4 })).deliveries[0], { state: 'delivered' });
});

t.test('one that is ended in the midst of its tries leaves the event pending', async (t) => {
  const { client, writer } = await start(t, 1);
  await writer.channel('c').append([{ text: '1' }, { text: '2' }]);
  const stop = new AbortController();
  const handler = ({ seq }: Event): void => {
    if (seq === 1) return;
    stop.abort();
    throw new Error('not yet');
  };
  await client
    .channel('c')
    .deliver('ann', handler, { signal: stop.signal, attempts: 5, retryDelayMs: 60_000 });
  t.match((await client.channel('c').deliveries({ recipient: 'ann', seq: 2 })).deliveries[0], {
    upToSeq: 1,
    failed: [],
    state: 'pending',
  });
});

t.test(
  'more failures than are kept end it with an error, and nothing that was reported is lost',
  async (t) => {
    const { client, writer } = await start(t, 1);
    await writer.channel('c').append(range(1, 150).map((i) => ({ text: `m${i}` })));
    const always = (): void => {
      throw new Error('x'.repeat(300));
    };
    const run = client.channel('c').deliver('ann', always, { attempts: 1, reportEveryMs: 1 });
    const error = await run.then(
      () => undefined,
      (problem: unknown) => problem,
    );
    t.match(error, { reason: 'TOO_MANY_FAILED_DELIVERIES' });
    const { deliveries } = await client.channel('c').deliveries({ recipient: 'ann' });
    const [ann] = deliveries;
    t.ok(
      ann !== undefined && ann.upToSeq <= 100 && ann.failed.length === ann.upToSeq,
      `up to ${ann?.upToSeq}`,
    );
    t.ok(ann?.failed.every(({ reason }) => reason.length === 256));
  },
);

t.test('a report that did not get through is sent again with what one report may have', async (t) => {
  const { client, writer } = await start(t, 1);
  await writer.channel('c').append(range(1, 150).map((i) => ({ text: `m${i}` })));
  const channel = client.channel('c');
  const report = channel.reportDelivery.bind(channel);
  const sizes: number[] = [];
  let seen = 0;
  channel.reportDelivery = async (recipient, what) => {
    sizes.push(what.failed?.length ?? 0);
    if (sizes.length > 1) return report(recipient, what);
    // It takes until a hundred more have failed.
    await until('a hundred more', () => seen === 109);
    throw new HansardError('UNREACHABLE', 'the node is down');
  };
  const handler = async ({ seq }: Event): Promise<void> => {
    if (seq === 10) await until('the report', () => sizes.length === 1);
    seen = seq;
    throw new Error('not this one');
  };
  const error = await channel.deliver('ann', handler, { attempts: 1, reportEveryMs: 20 }).then(
    () => undefined,
    (problem: unknown) => problem,
  );
  t.match(error, { reason: 'TOO_MANY_FAILED_DELIVERIES' }, 'not refused for its size');
  t.same(sizes.slice(0, 2), [9, 100]);
  const { deliveries } = await channel.deliveries({ recipient: 'ann' });
  t.match(deliveries[0], { upToSeq: 100 }, 'as many as are kept were reported');
});
