import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import type { Client } from '../../src/client/client.js';
import type { ClientOptions } from '../../src/client/index.js';
import { connect, HansardError } from '../../src/client/index.js';
import { patienceMs, standstill, until } from '../support/until.js';
import { type AppendSeen, FakeCluster, type Fate } from './fake-cluster.js';

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

const names = (count: number): string[] => Array.from({ length: count }, (_, i) => `m${i}`);
const apply: Fate = { do: 'apply' };

/** The reason of each rejection, the first seq of each success. */
async function outcomes(promises: Promise<{ seq: number }>[]): Promise<(string | number)[]> {
  const settled = await Promise.allSettled(promises);
  return settled.map((each) =>
    each.status === 'fulfilled' ? each.value.seq : (each.reason as HansardError).reason,
  );
}

async function reasonOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'none',
    (error: unknown) => (error instanceof HansardError ? error.reason : String(error)),
  );
}

/** `fate` for the nth time that an append with this text arrives, from 1. */
function script(cluster: FakeCluster, fates: Record<string, (Fate | undefined)[]>): void {
  const times = new Map<string, number>();
  cluster.fate = (seen) => {
    const text = seen.texts[0] as string;
    const time = (times.get(text) ?? 0) + 1;
    times.set(text, time);
    return fates[text]?.[time - 1] ?? apply;
  };
}

const refuse = (reason: ConstructorParameters<typeof HansardError>[0]): Fate => ({
  do: 'refuse',
  answer: new HansardError(reason, 'scripted'),
});

// Those that wait for seconds and do nothing meanwhile.
t.jobs = 2;

t.test('an append that got lost is sent again before those after it, which met a gap', async (t) => {
  const { cluster, client } = await start(t, 1);
  script(cluster, { m3: [refuse('COMMIT_UNKNOWN')] });
  const channel = client.channel('c');
  const seqs = await outcomes(names(10).map((text) => channel.append({ text })));
  t.same(seqs, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  t.same(cluster.texts('c'), names(10));
  t.equal(cluster.producers.size, 1, 'by the same producer');
  const counters = cluster.seen.filter((seen) => seen.texts[0] === 'm3').map((seen) => seen.counter);
  t.same(counters, [4, 4], 'under the same counter');
});

t.test('an answer that got lost: the repeat is recognised, the caller learns the first seq', async (t) => {
  const { cluster, client } = await start(t, 1);
  script(cluster, { m1: [{ do: 'apply', answer: new HansardError('COMMIT_UNKNOWN', 'scripted') }] });
  const channel = client.channel('c');
  const results = await Promise.all(names(3).map((text) => channel.append({ text })));
  t.same(
    results.map(({ seq, duplicate }) => [seq, duplicate]),
    [
      [1, false],
      [2, true],
      [3, false],
    ],
  );
});

t.test('a refused condition that was answered twice stays refused', async (t) => {
  const { cluster, client } = await start(t, 1);
  script(cluster, { m1: [{ do: 'apply', answer: new HansardError('COMMIT_UNKNOWN', 'scripted') }] });
  const channel = client.channel('c');
  const appends = [
    channel.append({ text: 'm0' }),
    channel.append({ text: 'm1' }, { condition: { expectedHeadSeq: 7 } }),
    channel.append({ text: 'm2' }),
  ];
  t.same(await outcomes(appends), [1, 'CONDITION_FAILED', 2]);
});

t.test('answers may come in any order', async (t) => {
  const { cluster, client } = await start(t, 1);
  cluster.delay = (seen) => (seen.counter % 7) * 4;
  const channel = client.channel('c');
  const seqs = await outcomes(names(50).map((text) => channel.append({ text })));
  t.same(
    seqs,
    names(50).map((_, i) => i + 1),
  );
});

t.test('NOT_LEADER: the leader that is named is used at once, the order kept', async (t) => {
  const { cluster, client } = await start(t, 3);
  const channel = client.channel('c');
  await channel.append({ text: 'first' });
  cluster.leaders = [2, 2, 2, 2];
  // No map has the news: the hint alone tells.
  cluster.view = () => ({ leader: 0, term: 1 });
  await Promise.all(names(100).map((text) => channel.append({ text })));
  t.same(cluster.texts('c'), ['first', ...names(100)]);
  t.same(cluster.seen.at(-1)?.node, 2);
});

t.test('a node that dies with appends in flight, and another that leads after it', async (t) => {
  const { cluster, client } = await start(t, 3);
  const channel = client.channel('c');
  await channel.append({ text: 'first' });
  let arrived = 0;
  cluster.fate = () => (++arrived > 40 ? { do: 'apply', answer: 'none' } : apply);
  const appends = names(100).map((text) => channel.append({ text }));
  await sleep(100);
  cluster.nodes[0]?.stop();
  cluster.fate = () => apply;
  cluster.leaders = [-1, -1, -1, -1];
  await sleep(150);
  cluster.leaders = [1, 1, 1, 1];
  cluster.term++;
  await Promise.all(appends);
  t.same(cluster.texts('c'), ['first', ...names(100)]);
});

t.test('a leader that falls silent with its connection open costs no call its whole time', async (t) => {
  const { cluster, client } = await start(t, 3);
  const channel = client.channel('c');
  await channel.append({ text: 'first' });
  cluster.silent.add(0);
  const appends = names(20).map((text) => channel.append({ text }));
  const page = channel.list({ before: 1 }).page();
  await sleep(300);
  cluster.leaders = [1, 1, 1, 1];
  cluster.term++;
  await Promise.all([...appends, page]);
  t.same(cluster.texts('c'), ['first', ...names(20)]);
});

t.test('a view of a term that has passed does not hide the leader of the present one', async (t) => {
  const { cluster, client } = await start(t, 3);
  const channel = client.channel('c');
  await channel.append({ text: 'first' });
  cluster.silent.add(0);
  cluster.leaders = [1, 1, 1, 1];
  cluster.term = 2;
  let asked = 0;
  const seen = [0, 0, 0];
  // Node 1 votes in term 2, node 2 has not heard of it, and names the silent one of term 1.
  cluster.view = (node) => {
    seen[node] = (seen[node] ?? 0) + 1;
    if (++asked > 6 && seen[1] !== 0) return undefined;
    return node === 1 ? { leader: -1, term: 2 } : { leader: 0, term: 1 };
  };
  await channel.append({ text: 'second' });
  t.same(cluster.texts('c'), ['first', 'second']);
});

t.test('all nodes die and come back', async (t) => {
  const { cluster, client } = await start(t, 2);
  const channel = client.channel('c');
  await channel.append({ text: 'first' });
  for (const node of cluster.nodes) node.stop();
  const appends = names(20).map((text) => channel.append({ text }));
  await sleep(300);
  for (const node of cluster.nodes) await node.restart();
  await Promise.all(appends);
  t.same(cluster.texts('c'), ['first', ...names(20)]);
});

t.test('a refusal at the door: its caller learns it, those after it go under a new producer', async (t) => {
  const { cluster, client } = await start(t, 1);
  script(cluster, { m2: [refuse('INVALID_ARGUMENT')] });
  const channel = client.channel('c');
  t.same(await outcomes(names(6).map((text) => channel.append({ text }))), [
    1,
    2,
    'INVALID_ARGUMENT',
    3,
    4,
    5,
  ]);
  t.same(cluster.texts('c'), ['m0', 'm1', 'm3', 'm4', 'm5']);
  t.equal(cluster.producers.size, 2, 'a late copy of m3 under its old counter could never apply');
});

t.test('a refusal at the door of the last append frees its counter', async (t) => {
  const { cluster, client } = await start(t, 1);
  script(cluster, { m1: [refuse('METADATA_NOT_JSON')] });
  const channel = client.channel('c');
  t.same(await outcomes([channel.append({ text: 'm0' })]), [1]);
  t.same(await outcomes([channel.append({ text: 'm1' })]), ['METADATA_NOT_JSON']);
  t.same(await outcomes([channel.append({ text: 'm2' })]), [2]);
  t.equal(cluster.producers.size, 1);
});

t.test('a refusal at the door after an attempt in doubt leaves the outcome open', async (t) => {
  const { cluster, client } = await start(t, 1);
  script(cluster, { m1: [refuse('COMMIT_UNKNOWN'), refuse('INVALID_ARGUMENT')] });
  const channel = client.channel('c');
  t.same(await outcomes(names(4).map((text) => channel.append({ text }))), [1, 'COMMIT_UNKNOWN', 2, 3]);
  t.same(cluster.texts('c'), ['m0', 'm2', 'm3']);
});

t.test(
  'an expired producer: what is not in doubt goes under a new one, what is ends with the error',
  async (t) => {
    const { cluster, client } = await start(t, 1);
    const channel = client.channel('c');
    await channel.append({ text: 'first' });
    cluster.producers.clear();
    t.same(
      await outcomes(names(3).map((text) => channel.append({ text }))),
      [2, 3, 4],
      'nothing was in doubt',
    );
    script(cluster, { x0: [{ do: 'apply', answer: new HansardError('COMMIT_UNKNOWN', 'scripted') }] });
    const lost = channel.append({ text: 'x0' });
    while (!cluster.texts('c').includes('x0')) await sleep(1);
    cluster.producers.clear();
    const later = channel.append({ text: 'x1' });
    t.same(await outcomes([lost, later]), ['PRODUCER_EXPIRED', 6]);
    t.same(cluster.texts('c'), ['first', 'm0', 'm1', 'm2', 'x0', 'x1'], 'no silent second append');
  },
);

t.test('deadline: the last typed error where nothing can have happened, else an open outcome', async (t) => {
  // Only what is to run out of time has little of it: a busy machine may take some for the others.
  const short = { timeoutMs: 600 };
  /** Where an attempt is under way at the deadline, as on a busy machine it may be, the outcome is open: not the case that is meant. */
  const refused = async () => {
    const { cluster, client } = await start(t, 1);
    const channel = client.channel('c');
    await channel.append({ text: 'first' });
    cluster.fate = () => refuse('NO_QUORUM');
    const ends = await outcomes(['a', 'b'].map((text) => channel.append({ text }, short)));
    return { cluster, channel, ends };
  };
  let last = await refused();
  for (let left = 20; left > 0 && last.ends.includes('DEADLINE_EXCEEDED'); left--) last = await refused();
  const { cluster, channel, ends } = last;
  t.same(ends, ['NO_QUORUM', 'NO_QUORUM']);
  cluster.fate = () => apply;
  t.same(await outcomes([channel.append({ text: 'c' })]), [2], 'their counters are free again');

  cluster.fate = () => ({ do: 'apply', answer: new HansardError('COMMIT_UNKNOWN', 'scripted') });
  const error = await channel.append({ text: 'd' }, short).catch((each: HansardError) => each);
  t.match(error, { reason: 'DEADLINE_EXCEEDED', fields: { outcome: 'unknown' } });
  cluster.fate = () => apply;
  t.same(await outcomes([channel.append({ text: 'e' })]), [4], 'settled first, then the next');
  t.same(cluster.texts('c'), ['first', 'c', 'd', 'e']);
});

t.test('nobody there: UNREACHABLE within the deadline', async (t) => {
  const client = connect('hansard://127.0.0.1:1,127.0.0.1:2', { timeoutMs: 300 });
  t.teardown(() => client.close());
  t.same(await outcomes([client.channel('c').append({ text: 'x' })]), ['UNREACHABLE']);
  t.equal(await reasonOf(client.cluster()), 'UNREACHABLE');
  t.equal(await reasonOf(client.channel('c').get(1)), 'UNREACHABLE');
});

t.test('the window of the server and the bytes in flight are respected', async (t) => {
  const { cluster, client } = await start(t, 1, { serverWindow: 8 });
  cluster.delay = () => 2;
  const channel = client.channel('c');
  await Promise.all(names(100).map((text) => channel.append({ text })));
  t.same(cluster.texts('c'), names(100));
  t.ok(cluster.maxOutstanding <= 8, `${cluster.maxOutstanding} at once`);

  const narrow = connect(cluster.url, { inFlightBytes: 3_000, timeoutMs: patienceMs });
  t.teardown(() => narrow.close());
  cluster.maxOutstanding = 0;
  const wide = names(40).map((text, i) => narrow.channel(`n${i % 5}`).append({ text: text.padEnd(1_000) }));
  await Promise.all(wide);
  t.ok(cluster.maxOutstanding <= 2, `${cluster.maxOutstanding} of 1,000 bytes at once`);
  const bounded = connect(cluster.url, { queuedBytes: 5_000, timeoutMs: patienceMs });
  t.teardown(() => bounded.close());
  const ends = await outcomes(
    names(10).map((text) => bounded.channel('q').append({ text: text.padEnd(1_000) })),
  );
  t.same(ends.slice(4), Array(6).fill('OVERLOADED'));
  t.same(cluster.texts('q').length, 4);
});

t.test('under way is little at first and behind a failure, and more as answers come', async (t) => {
  const { cluster, client } = await start(t, 1);
  const channel = client.channel('c');
  const text = 'x'.repeat(10_000);
  const room = 64 * 1024;
  /** Appends that come before any of them is answered. */
  const atOnce = async (count: number): Promise<number> => {
    let answer: (() => void) | undefined;
    const held = new Promise<void>((resolve) => {
      answer = resolve;
    });
    cluster.held = held;
    const from = cluster.seen.length;
    const appends = Array.from({ length: count }, () => channel.append({ text }));
    await until('the first have come', () => cluster.seen.length > from);
    const came = (await standstill(() => cluster.seen.length)) - from;
    cluster.held = undefined;
    answer?.();
    await Promise.all(appends);
    return came;
  };
  const first = await atOnce(30);
  t.ok(first > 1 && first * text.length < room, `${first} of 30`);
  t.equal(await atOnce(30), 30, 'as much as was answered');
  let refusals = 0;
  const wentAgain: number[] = [];
  cluster.fate = () => {
    if (++refusals > 60) return apply;
    if (refusals > 30) wentAgain.push(cluster.frames.at(-1) ?? 0);
    return refuse('NO_QUORUM');
  };
  await Promise.all(Array.from({ length: 30 }, () => channel.append({ text })));
  t.ok(
    wentAgain.length > 0 && Math.max(...wentAgain) * text.length < room,
    'what waits does not go again at once',
  );
  t.equal(cluster.texts('c').length, 90);
});

/** Longer than a node is waited for that says nothing. */
const slowMs = 7_000;

t.test(
  'a node that is slow gets each append once: more copies would only make it slower',
  { buffered: true },
  async (t) => {
    const { cluster, client } = await start(t, 1);
    const count = 28;
    let busyUntilMs = performance.now();
    cluster.delay = () => {
      busyUntilMs += slowMs / count;
      return busyUntilMs - performance.now();
    };
    const channel = client.channel('c');
    await Promise.all(names(count).map((text) => channel.append({ text })));
    t.same(cluster.seen.map(({ texts }) => texts[0]).sort(), names(count).sort());
  },
);

t.test(
  'an answer that comes after its attempt was given up is the outcome all the same',
  { buffered: true },
  async (t) => {
    const { cluster, client } = await start(t, 1);
    const channel = client.channel('c');
    await channel.append({ text: 'first' });
    cluster.lateMs = slowMs;
    // It goes again after 5.5 s: the last attempt's answer would come behind this.
    const timeoutMs = slowMs + 5_000;
    const appends = [
      channel.append({ text: 'm0' }, { timeoutMs }),
      channel.append({ text: 'm1' }, { condition: { expectedHeadSeq: 7 }, timeoutMs }),
    ];
    t.same(await outcomes(appends), [2, 'CONDITION_FAILED']);
    t.ok(cluster.seen.length > 3, 'they went again');
  },
);

t.test('close ends what is under way', async (t) => {
  const { cluster, client } = await start(t, 1);
  cluster.fate = () => ({ do: 'apply', answer: 'none' });
  const append = client.channel('c').append({ text: 'x' });
  const other = client.channel('c2').append({ text: 'x' });
  await sleep(50);
  await client.close();
  t.same(await outcomes([append, other]), ['CLIENT_CLOSED', 'CLIENT_CLOSED']);
  t.same(await outcomes([client.channel('c').append({ text: 'y' })]), ['CLIENT_CLOSED']);
  t.equal(await reasonOf(client.channel('c').get(1)), 'CLIENT_CLOSED');
});

t.test('a named producer: a second run adds only what is missing', async (t) => {
  const { cluster, client } = await start(t, 2);
  const lines = names(60).map((text, i) => ({ channel: i % 3 === 0 ? 'a' : 'b{a}', text }));
  const seen: AppendSeen[] = cluster.seen;

  /** One message per append, counters by partition; stops after `stop` lines. */
  const run = async (by: Client, stop: number): Promise<(number | string)[]> => {
    const producer = by.openProducer('file:abc');
    const appends = lines.slice(0, stop).map(({ channel, text }, i) =>
      producer.append(channel, [{ text }], { counter: i + 1 }).then((result) => {
        t.equal(result.nextCounter, i + 2);
        return { seq: result.duplicate ? -1 : (result.seqs[0] as number) };
      }),
    );
    return outcomes(appends);
  };
  t.equal(cluster.partitionOf('a'), cluster.partitionOf('b{a}'), 'one partition');
  await run(client, 25);
  cluster.fate = (append) =>
    append.counter === 40 && seen.length < 200 ? { do: 'apply', answer: 'cut' } : apply;
  const second = connect(cluster.url, { timeoutMs: patienceMs });
  t.teardown(() => second.close());
  const again = await run(second, 60);
  t.same(again.slice(0, 25), Array(25).fill(-1), 'known lines are not sent again');
  for (const channel of ['a', 'b{a}'])
    t.same(
      cluster.texts(channel),
      lines.filter((line) => line.channel === channel).map((line) => line.text),
    );
  const third = connect(cluster.url, { timeoutMs: patienceMs });
  t.teardown(() => third.close());
  const producer = third.openProducer('file:abc');
  t.equal(await producer.nextCounter('a'), 61);
  const straddling = await producer.append('a', [{ text: 'm58' }, { text: 'm59' }, { text: 'new' }], {
    counter: 59,
  });
  t.match(straddling, { skipped: 2, counter: 59, nextCounter: 62 });
  t.equal(cluster.texts('a').at(-1), 'new');
  t.equal(await reasonOf(producer.append('a', [{ text: 'x' }], { counter: 70 })), 'PRODUCER_GAP');
  cluster.fate = () => refuse('INVALID_ARGUMENT');
  const failing = ['p', 'q'].map((text) => producer.append('a', [{ text }]).then(() => ({ seq: 0 })));
  t.same(
    await outcomes(failing),
    ['INVALID_ARGUMENT', 'PRODUCER_GAP'],
    'what follows a refused line is not sent',
  );
});

t.test('an append that waits for its next try goes on as soon as the map names another leader', async (t) => {
  const { cluster, client } = await start(t, 3);
  const channel = client.channel('talk/1');
  await channel.append({ text: 'm0' });
  // Asked to wait for longer than it has time: only the map can end that.
  const waitLong = new HansardError('NOT_LEADER', 'scripted', {}, { retryDelayMs: 2 * patienceMs });
  const refused = new Promise<void>((resolve) => {
    cluster.fate = ({ node }) => {
      if (node !== 0) return apply;
      resolve();
      return { do: 'refuse', answer: waitLong };
    };
  });
  const appended = channel.append({ text: 'm1' });
  await refused;
  cluster.term++;
  cluster.leaders = [1, 1, 1, 1];
  t.match(await appended, { seq: 2 });
});
