import t from 'tap';
import type { Client } from '../../src/client/client.js';
import type { ClientOptions } from '../../src/client/index.js';
import { connect, HansardError } from '../../src/client/index.js';
import { patienceMs } from '../support/until.js';
import { FakeCluster, type Fate } from './fake-cluster.js';

async function start(
  t: { teardown(fn: () => unknown): void },
  nodes: number,
  options: ClientOptions & { serverWindow?: number } = {},
): Promise<{ cluster: FakeCluster; client: Client }> {
  const { serverWindow, ...clientOptions } = options;
  const cluster = new FakeCluster(serverWindow === undefined ? {} : { window: serverWindow });
  await cluster.start(nodes);
  const client = connect(cluster.url, { timeoutMs: patienceMs, ...clientOptions });
  t.teardown(async () => {
    await client.close();
    await cluster.stop();
  });
  return { cluster, client };
}

const names = (count: number, from = 0): string[] => Array.from({ length: count }, (_, i) => `m${from + i}`);

async function reasonOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'none';
  } catch (error) {
    return error instanceof HansardError ? error.reason : String(error);
  }
}

for (const transport of ['exchange', 'unary'] as const) {
  t.test(`${transport}: appends of one turn, answers, reads`, async (t) => {
    const { cluster, client } = await start(t, 3, { transport });
    cluster.leaders = [2, 1, 0, 2];
    const channel = client.channel('talk/1');
    const first = await channel.append({ role: 'user', author: 'ann', text: 'hello', metadata: { a: 1 } });
    t.match(first, {
      seq: 1,
      seqs: [1],
      duplicate: false,
      commitTimeUs: 1_700_000_000_000_005,
      channelUid: 'uid',
    });
    t.equal(Buffer.from(first.commitToken).toString(), 'token');
    cluster.frames.length = 0;
    const results = await Promise.all(names(64).map((text) => channel.append({ role: 'assistant', text })));
    t.same(
      results.map((result) => result.seq),
      Array.from({ length: 64 }, (_, i) => i + 2),
      'seqs in the order of the calls',
    );
    if (transport === 'exchange') t.same(cluster.frames, [64], 'one frame for all calls of a turn');
    const batch = await channel.append([{ text: 'x' }, { text: 'y', messageId: 'the-y' }]);
    t.same(batch.seqs, [66, 67]);
    t.same(cluster.texts('talk/1'), ['hello', ...names(64), 'x', 'y']);

    const page = await channel.list({ before: 3 }).page();
    t.same(
      page.events.map((event) => event.seq),
      [65, 66, 67],
    );
    t.equal(page.headSeq, 67);
    t.equal(page.servedBy.appliedIndex, Number.MAX_SAFE_INTEGER);
    const all: number[] = [];
    for await (const event of channel.list()) all.push(event.seq);
    t.same(
      all,
      Array.from({ length: 67 }, (_, i) => i + 1),
      'iteration reads all, in order',
    );
    const back: number[] = [];
    for await (const event of channel.list({ before: 10, descending: true })) back.push(event.seq);
    t.same(
      back,
      Array.from({ length: 67 }, (_, i) => 67 - i),
      'newest first across pages',
    );

    const event = await channel.get(1);
    t.match(event, { type: 'message-completed', commitTimeUs: 1_700_000_000_000_005, producerCounter: 1 });
    t.same(event.message, {
      role: 'user',
      author: 'ann',
      parts: [{ type: 'text', text: 'hello' }],
      metadataJson: '{"a":1}',
    });
    t.equal(event.checksum, first.checksum);
    t.equal((await channel.get({ messageId: 'the-y' })).seq, 67);
    t.equal(await reasonOf(channel.get(1000)), 'MESSAGE_NOT_FOUND');
    t.equal(await reasonOf(client.channel('nobody').list().page()), 'CHANNEL_NOT_FOUND');
    cluster.corrupt = true;
    t.equal(await reasonOf(channel.get(1)), 'CHECKSUM_MISMATCH', 'changed content is not handed out');
  });

  t.test(`${transport}: a refused condition reaches its caller alone`, async (t) => {
    const { client } = await start(t, 1, { transport });
    const channel = client.channel('c');
    const appends = [
      channel.append({ text: 'a' }, { condition: { expectedHeadSeq: 0 } }),
      channel.append({ text: 'b' }, { condition: { expectedHeadSeq: 0 } }),
      channel.append({ text: 'c' }, { condition: { expectedHeadSeq: 1 } }),
    ];
    const outcomes = await Promise.allSettled(appends);
    t.same(
      outcomes.map((each) => each.status),
      ['fulfilled', 'rejected', 'fulfilled'],
    );
    const error = (outcomes[1] as PromiseRejectedResult).reason as HansardError;
    t.match(error, { reason: 'CONDITION_FAILED', code: 10, fields: { expected: '0', actual: '1' } });
  });

  t.test(
    `${transport}: whatever happens to attempts, each append takes effect once and in order`,
    async (t) => {
      for (let seed = 1; seed <= 6; seed++) {
        const { cluster, client } = await start(t, 3, { transport, window: 32 });
        const random = xorshift(seed * 7919);
        let trouble = 60;
        cluster.fate = (): Fate => {
          if (trouble <= 0 || random() % 4 > 0) return { do: 'apply' };
          trouble--;
          const kind = random() % 8;
          if (kind === 0) moveLeaders(cluster, random);
          if (kind <= 1) return { do: 'refuse', answer: new HansardError('NO_QUORUM', 'none') };
          if (kind === 2)
            return { do: 'refuse', answer: new HansardError('OVERLOADED', 'full', {}, { retryDelayMs: 3 }) };
          if (kind === 3)
            return { do: 'apply', answer: new HansardError('COMMIT_UNKNOWN', 'lost the leader') };
          if (kind === 4)
            return { do: 'refuse', answer: new HansardError('COMMIT_UNKNOWN', 'lost the leader') };
          if (kind === 5) return { do: 'apply', answer: 'cut' };
          if (kind === 6) return { do: 'refuse', answer: 'cut' };
          return { do: 'apply' };
        };
        cluster.delay = () => (random() % 3 === 0 ? random() % 6 : 0);
        const channels = ['a', 'b{x}', 'c{x}'].map((name) => client.channel(name));
        const results = await Promise.all(
          names(240).map((text, i) => (channels[i % 3] as (typeof channels)[0]).append({ text })),
        );
        for (let c = 0; c < 3; c++) {
          const expected = names(240).filter((_, i) => i % 3 === c);
          const name = (channels[c] as (typeof channels)[0]).name;
          t.same(cluster.texts(name), expected, `seed ${seed}: channel ${name}`);
          t.same(
            results.filter((_, i) => i % 3 === c).map((result) => result.seq),
            expected.map((_, i) => i + 1),
            `seed ${seed}: the answers are those of the appends`,
          );
        }
        await client.close();
        await cluster.stop();
      }
    },
  );
}

// On a loaded machine its many short tests take longer than a file may by default.
t.setTimeout(600_000);

function moveLeaders(cluster: FakeCluster, random: () => number): void {
  cluster.leaders = cluster.leaders.map(() => random() % cluster.nodes.length);
  cluster.term++;
  cluster.hints = random() % 2 === 0;
}

function xorshift(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
}

t.test(
  'leaders move, and who led passes calls on: the client goes to the new leader by itself',
  async (t) => {
    const { cluster, client } = await start(t, 3, { mapRefreshMs: 1e9 });
    cluster.forwards = true;
    // Nobody's map has the news: the hops alone tell.
    cluster.view = () => ({ leader: 0, term: 1 });
    const channel = client.channel('moving');
    for (const text of names(20)) await channel.append({ text });
    t.equal(cluster.forwarded, 0);
    cluster.leaders = [2, 2, 2, 2];
    const together = names(60, 20).map((text) => channel.append({ text }));
    await Promise.all(together);
    const afterBurst = cluster.forwarded;
    t.ok(afterBurst > 0, 'the first ones took the hop');
    await new Promise((resolve) => setTimeout(resolve, 20));
    for (const text of names(40, 80)) await channel.append({ text });
    t.equal(cluster.forwarded, afterBurst, 'the later ones did not');
    t.same(cluster.texts('moving'), names(120), 'each once, in order');
    cluster.leaders = [1, 1, 1, 1];
    await channel.list({ before: 5, level: 'linearizable' }).page();
    await new Promise((resolve) => setTimeout(resolve, 20));
    const before = cluster.forwarded;
    await channel.list({ before: 5, level: 'linearizable' }).page();
    t.equal(cluster.forwarded, before, 'reads that are the leader’s learn it too');
  },
);
