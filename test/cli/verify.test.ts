/** What verifying finds, and what it must not: replicas in memory behind the client's edge, each with its own wrong. */
import { createHash } from 'node:crypto';
import t, { type Test } from 'tap';
import type { Finding } from '../../src/cli/verify/finding.js';
import { findingText, Ranges } from '../../src/cli/verify/finding.js';
import { type NodeClient, Throttle, VerifiedNode } from '../../src/cli/verify/replica.js';
import { Verifier, type VerifyOptions, type VerifySummary } from '../../src/cli/verify/verifier.js';
import type {
  ReplicaChannel,
  ReplicaChannelPage,
  ReplicaChannelsQuery,
  ReplicaEvents,
  ReplicaEventsQuery,
} from '../../src/client/replica.js';
import type { ChannelInfo, Event } from '../../src/client/types.js';
import { HansardError, type Reason } from '../../src/common/errors.js';
import { xxh64 } from '../../src/common/hash.js';

t.setTimeout(600_000);

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

interface FakeChannel {
  info: Mutable<ChannelInfo>;
  deleted: boolean;
  damage: string;
  events: Mutable<Event>[];
  damages: { firstSeq: number; lastSeq: number; problem: string }[];
}

function event(seq: number, text: string, type: Event['type'] = 'message-completed'): Mutable<Event> {
  const contentBytes = Buffer.from(text);
  const salt = Buffer.alloc(16, seq);
  const commitment = createHash('sha256').update(salt).update(contentBytes).digest();
  return {
    seq,
    type,
    commitTimeUs: 1_700_000_000_000_000 + seq * 1_000,
    producerId: 1,
    producerCounter: seq,
    actor: '',
    subject: '',
    targetSeq: 0,
    messageId: '',
    key: '',
    batchPosition: 0,
    erased: false,
    checksum: xxh64(contentBytes),
    commitment,
    salt,
    contentBytes,
  };
}

function channel(name: string, texts: readonly string[], uid = `uid of ${name}`): FakeChannel {
  const events = texts.map((text, i) => event(i + 1, text));
  const createTimeUs = 1_700_000_000_000_000;
  const info = {
    tenant: 'default',
    name,
    uid,
    title: '',
    labels: {},
    class: '',
    participants: [],
    createTimeUs,
    updateTimeUs: createTimeUs,
    activityTimeUs: events.at(-1)?.commitTimeUs ?? createTimeUs,
    firstSeq: 1,
    headSeq: events.length,
    lastMessageSeq: events.length,
    messageCount: events.length,
    etag: `"${uid}-1"`,
    partition: 0,
    sealTimeUs: 0,
    deleteTimeUs: 0,
    purgeTimeUs: 0,
  };
  return { info, deleted: false, damage: '', events, damages: [] };
}

/** One partition of one node. */
class FakeReplica implements NodeClient {
  applied = 100;
  digests = 'aaaaaaaaaaaaaaaa';
  channelsByName = new Map<string, FakeChannel>();
  /** Set: every call rejects so. */
  failure: HansardError | undefined;
  /** Called before every call, for what happens meanwhile. */
  meanwhile: (() => void) | undefined;
  calls = 0;

  constructor(channels: readonly FakeChannel[]) {
    for (const each of structuredClone(channels)) this.put(each);
  }

  put(each: FakeChannel): void {
    this.channelsByName.set(each.info.name, each);
  }

  get(name: string): FakeChannel {
    const found = this.channelsByName.get(name);
    if (found === undefined) throw new Error(`no ${name}`);
    return found;
  }

  async channels(_p: number, query: ReplicaChannelsQuery): Promise<ReplicaChannelPage> {
    this.#begin(query.minAppliedIndex);
    const all = [...this.channelsByName.values()]
      .filter(({ info }) => info.name.startsWith(query.prefix) && info.name > query.pageToken)
      .sort((a, b) => (a.info.name < b.info.name ? -1 : 1));
    const page = all.slice(0, query.pageSize);
    return {
      channels: page.map(shown),
      nextPageToken: page.length < all.length ? (page.at(-1)?.info.name ?? '') : '',
      servedBy: this.#servedBy(),
    };
  }

  async events(_p: number, query: ReplicaEventsQuery): Promise<ReplicaEvents> {
    this.#begin(query.minAppliedIndex);
    const found = this.channelsByName.get(query.channel);
    const servedBy = this.#servedBy();
    const nothing = { events: [], damages: [], nextSeq: 0, servedBy, bytes: 10 };
    if (found === undefined || found.deleted || found.info.uid !== query.uid)
      return { ...nothing, channel: undefined };
    // Small pages, so that windows take several.
    const rest = found.events.filter(({ seq }) => seq >= query.fromSeq);
    const page = rest.slice(0, Math.min(query.maxEvents, 60));
    const last = page.at(-1)?.seq ?? found.info.headSeq;
    return {
      ...nothing,
      events: page.map((each) => ({ ...each })),
      damages: found.damages.filter(({ lastSeq }) => lastSeq >= query.fromSeq),
      nextSeq: last < found.info.headSeq ? last + 1 : 0,
      channel: shown(found),
    };
  }

  async digest(_p: number, minAppliedIndex: number) {
    this.#begin(minAppliedIndex);
    return { digest: this.digests, servedBy: this.#servedBy() };
  }

  #servedBy() {
    const commitToken = new Uint8Array(0);
    return { nodeId: 0, role: 'secondary' as const, partition: 0, appliedIndex: this.applied, commitToken };
  }

  #begin(minAppliedIndex: number): void {
    this.calls++;
    this.meanwhile?.();
    if (this.failure !== undefined) throw this.failure;
    if (minAppliedIndex > this.applied)
      throw new HansardError('DEADLINE_EXCEEDED', 'the index is not reached');
  }
}

function shown({ info, deleted, damage }: FakeChannel): ReplicaChannel {
  return { tenant: info.tenant, name: info.name, info: { ...info }, deleted, damage };
}

const lines = (count: number, text: (i: number) => string): string[] =>
  Array.from({ length: count }, (_, i) => text(i));

/** Two conversations of a chat archive that break what is not careful: equal lines, and none with a text. */
const seed = (equalLines = 90): FakeChannel[] => [
  channel(
    'a',
    lines(10, (i) => `line ${i}`),
  ),
  channel(
    'empty messages',
    lines(40, () => ''),
  ),
  channel(
    'equal lines',
    lines(equalLines, () => 'the same line'),
  ),
  channel('no events', []),
];

interface Found {
  readonly findings: Finding[];
  readonly summary: VerifySummary;
}

class Three {
  readonly replicas: FakeReplica[];

  constructor(channels: readonly FakeChannel[] = seed(), count = 3) {
    this.replicas = Array.from({ length: count }, () => new FakeReplica(channels));
  }

  replica(node: number): FakeReplica {
    return this.replicas[node - 1] as FakeReplica;
  }

  async verify(options: Partial<VerifyOptions> = {}): Promise<Found> {
    const limits = { patienceMs: 250, lagMs: 50, bytesPerSecond: undefined };
    const throttle = new Throttle(undefined);
    const nodes = new Map(
      this.replicas.map((replica, i) => [
        i + 1,
        new VerifiedNode(i + 1, `127.0.0.1:${7_001 + i}`, replica, limits, throttle),
      ]),
    );
    const findings: Finding[] = [];
    const target = { nodes, partitions: [{ partition: 0, nodeIds: [...nodes.keys()] }] };
    const scope = { tenant: '', prefix: '', parallel: 2, digests: true, ...options };
    const verifier = new Verifier(target, scope, (finding) => findings.push(finding));
    return { findings, summary: await verifier.run() };
  }

  /** Exactly one finding, like this. */
  async finds(t: Test, like: Partial<Finding>, what = like.kind as string): Promise<Finding | undefined> {
    const { findings, summary } = await this.verify();
    t.match(findings, [like], `${what}: ${findings.map(findingText).join(' | ')}`);
    t.equal(findings.length, 1);
    t.equal(summary.findings, 1);
    return findings[0];
  }
}

t.test('sound replicas: everything is read, nothing is found', async (t) => {
  const three = new Three(seed(1_629));
  const { findings, summary } = await three.verify();
  t.same(findings, []);
  t.match(summary, { partitionsDone: 1, replicas: 3, channels: 4, events: 3 * 1_679, digestsEqual: 1 });
  const one = await three.verify({ tenant: 'default', channel: 'a', digests: false });
  t.match(one.summary, { channels: 1, events: 30, findings: 0 });
  t.match((await three.verify({ tenant: 'default', prefix: 'e' })).summary, { channels: 2, findings: 0 });
});

t.test('what one replica has wrong is told of that replica', async (t) => {
  const at = { partition: 0, tenant: 'default', channel: 'a' };
  const cases: [string, (wrong: FakeChannel) => void, Partial<Finding>][] = [
    [
      'a missing event',
      (wrong) => wrong.events.splice(4, 1),
      { kind: 'events-missing', firstSeq: 5, lastSeq: 5, found: 'event 6 in its place' },
    ],
    [
      'missing events at the end',
      (wrong) => {
        wrong.events.splice(8);
        wrong.info.headSeq = 8;
      },
      { kind: 'events-missing', firstSeq: 9, lastSeq: 10 },
    ],
    [
      'other content, all checksums right',
      (wrong) => {
        const { commitTimeUs } = wrong.events[6] as Event;
        wrong.events[6] = { ...event(7, 'other'), commitTimeUs };
      },
      {
        kind: 'event-differs',
        firstSeq: 7,
        lastSeq: 7,
        problem: 'the event differs from that of most replicas',
      },
    ],
    [
      'another header, content the same',
      (wrong) => {
        (wrong.events[2] as Mutable<Event>).messageId = 'changed';
      },
      {
        kind: 'event-differs',
        firstSeq: 3,
        lastSeq: 3,
        expected: 'message_id "" (node 1)',
        found: 'message_id "changed"',
      },
    ],
    [
      'a block that does not verify',
      (wrong) => {
        wrong.events.splice(3, 3);
        wrong.damages.push({ firstSeq: 4, lastSeq: 6, problem: 'block 4: its checksum does not match' });
      },
      { kind: 'events-damaged', firstSeq: 4, lastSeq: 6, problem: 'block 4: its checksum does not match' },
    ],
    ['a damaged record', (wrong) => (wrong.damage = 'a channel row: cut'), { kind: 'channel-damaged' }],
    [
      'a wrong count',
      (wrong) => (wrong.info.messageCount = 9),
      {
        kind: 'count-differs',
        expected: '10',
        found: '9',
        problem: 'message_count of the channel does not match its events',
      },
    ],
    ['another title under the same etag', (wrong) => (wrong.info.title = 'x'), { kind: 'channel-differs' }],
    [
      'another channel behind the name',
      (wrong) => (wrong.info.etag = '"other-1"'),
      { kind: 'channel-differs' },
    ],
    ['a channel that it takes for deleted', (wrong) => (wrong.deleted = true), { kind: 'channel-differs' }],
  ];
  for (const [what, harm, like] of cases) {
    const three = new Three();
    harm(three.replica(2).get('a'));
    await three.finds(t, { node: 2, ...at, ...like }, what);
  }
  const lost = new Three();
  lost.replica(3).channelsByName.delete('a');
  await lost.finds(t, {
    kind: 'channel-differs',
    node: 3,
    ...at,
    found: 'no such channel at applied index 100',
  });
  const digest = new Three();
  digest.replica(1).digests = 'bbbbbbbbbbbbbbbb';
  await digest.finds(t, {
    kind: 'digest-differs',
    node: 1,
    expected: 'aaaaaaaaaaaaaaaa',
    found: 'bbbbbbbbbbbbbbbb',
  });
});

t.test('what is wrong on every replica alike is found, too', async (t) => {
  const harms: [Finding['kind'], (wrong: FakeChannel) => void][] = [
    ['checksum-mismatch', (wrong) => ((wrong.events[4] as Mutable<Event>).checksum ^= 1n)],
    ['commitment-mismatch', (wrong) => ((wrong.events[4] as Mutable<Event>).salt = Buffer.alloc(16))],
    ['time-falls', (wrong) => ((wrong.events[4] as Mutable<Event>).commitTimeUs -= 1_001)],
    ['count-differs', (wrong) => (wrong.info.lastMessageSeq = 3)],
  ];
  for (const [kind, harm] of harms) {
    const three = new Three();
    for (const replica of three.replicas) harm(replica.get('a'));
    const { findings } = await three.verify();
    t.same(
      findings.map((finding) => [finding.kind, finding.node, finding.channel]).sort(),
      [1, 2, 3].map((node) => [kind, node, 'a']),
    );
  }
});

t.test('an erased event has no content to check', async (t) => {
  const three = new Three();
  for (const replica of three.replicas) {
    const erased = replica.get('a').events[4] as Mutable<Event>;
    Object.assign(erased, {
      erased: true,
      contentBytes: Buffer.alloc(0),
      salt: Buffer.alloc(0),
      checksum: 0n,
    });
  }
  t.same((await three.verify()).findings, []);
});

t.test('no majority: all that disagree are told', async (t) => {
  const two = new Three(seed(), 2);
  two.replica(1).get('a').events[4] = event(5, 'other');
  const { findings } = await two.verify();
  t.same(
    findings.map(({ kind, node, firstSeq }) => [kind, node, firstSeq]),
    [
      ['event-differs', 1, 5],
      ['event-differs', 2, 5],
    ],
  );
  t.match(findings[0]?.problem, /no majority/);
});

t.test('a node that is down is one finding, the others are verified', async (t) => {
  const three = new Three();
  three.replica(2).failure = new HansardError('UNREACHABLE', 'connection refused');
  three.replica(3).get('a').events[4] = event(5, 'other');
  const { findings, summary } = await three.verify();
  t.same(
    findings.map(({ kind, node }) => [kind, node]),
    [
      ['node-unreachable', 2],
      ['event-differs', 1],
      ['event-differs', 3],
    ],
  );
  t.match(findings[0]?.found, /connection refused/);
  t.equal(summary.replicas, 2);
  t.equal(summary.digestsEqual, 1, 'of those that are there');
});

t.test('a node that goes down in the middle, and one that comes back in time', async (t) => {
  const dying = new Three(seed(600));
  const dies = dying.replica(2);
  dies.meanwhile = () => {
    if (dies.calls > 10) dies.failure = new HansardError('UNREACHABLE', 'gone');
  };
  const { findings } = await dying.verify();
  t.same(
    findings.map(({ kind, node }) => [kind, node]),
    [['node-unreachable', 2]],
  );
  const restarting = new Three(seed(600));
  const back = restarting.replica(2);
  back.meanwhile = () => {
    back.failure = back.calls === 10 ? new HansardError('SHUTTING_DOWN', 'a restart') : undefined;
  };
  t.same((await restarting.verify()).findings, []);
});

t.test('a replica that stays behind is told and left out; errors of a node are told', async (t) => {
  const three = new Three();
  const behind = three.replica(3);
  behind.applied = 90;
  behind.get('a').events.splice(5);
  behind.get('a').info.headSeq = 5;
  await three.finds(t, {
    kind: 'replica-behind',
    node: 3,
    partition: 0,
    expected: 'applied index 100 or more',
  });
  for (const [reason, kind] of [
    ['NOT_LEADER', 'replica-missing'],
    ['INTERNAL', 'replica-error'],
    ['STORE_DAMAGED', 'channel-damaged'],
  ] as [Reason, Finding['kind']][]) {
    const failing = new Three();
    failing.replica(1).failure = new HansardError(reason, 'no');
    await failing.finds(t, { kind, node: 1, partition: 0 });
  }
});

t.test('replicas that are read one after the other while clients write agree', async (t) => {
  // One history of changes; each replica applies more of it at each call, at its own pace.
  const three = new Three(seed(600));
  const history: ((replica: FakeReplica) => void)[] = [];
  for (let i = 1; i <= 400; i++) {
    history.push((replica) => {
      if (i % 5 === 0) {
        // Deleted and made anew: another uid, seqs that go on.
        const before = replica.get('a');
        if (before.deleted) {
          const made = channel('a', [], `uid ${i}`);
          made.info.firstSeq = before.info.headSeq + 1;
          made.info.headSeq = before.info.headSeq;
          replica.put(made);
        } else {
          before.deleted = true;
          before.events = [];
          before.info.messageCount = 0;
        }
        return;
      }
      const target = replica.get(i % 2 === 0 && !replica.get('a').deleted ? 'a' : 'empty messages');
      const { info } = target;
      if (i % 7 === 0) {
        info.title = `title ${i}`;
        info.etag = `${info.etag}+`;
        return;
      }
      const seq = ++info.headSeq;
      target.events.push(event(seq, `late ${i}`));
      info.messageCount++;
      info.lastMessageSeq = seq;
      info.activityTimeUs = event(seq, '').commitTimeUs;
    });
  }
  for (const [i, replica] of three.replicas.entries()) {
    replica.meanwhile = () => {
      const step = replica.calls % (i + 2);
      for (let n = 0; n < step && replica.applied < 500; n++)
        (history[replica.applied++ - 100] as (r: FakeReplica) => void)(replica);
      // A call with a minimum waits until it is there.
      const most = Math.max(...three.replicas.map(({ applied }) => applied));
      while (replica.applied < most) (history[replica.applied++ - 100] as (r: FakeReplica) => void)(replica);
    };
  }
  const { findings, summary } = await three.verify();
  t.same(findings, []);
  t.ok(summary.events > 3 * 130);
  t.ok(Math.max(...three.replicas.map(({ applied }) => applied)) > 130, 'much happened meanwhile');
});

t.test('a channel that never stands still is told, not passed over', async (t) => {
  const three = new Three([channel('a', ['x'])]);
  for (const replica of three.replicas) {
    replica.meanwhile = () => {
      replica.applied = Math.max(...three.replicas.map(({ applied }) => applied)) + 1;
      replica.get('a').info.etag = `"at ${replica.applied}"`;
    };
  }
  const { findings } = await three.verify();
  t.same(
    findings.map(({ kind, channel: name }) => [kind, name]),
    [['unsettled', 'a']],
  );
});

t.test('a partition without any replica, and ranges of findings', async (t) => {
  const verifier = new Verifier(
    { nodes: new Map(), partitions: [{ partition: 4, nodeIds: [9] }] },
    { tenant: '', prefix: '', parallel: 1, digests: true },
    () => {},
  );
  t.equal((await verifier.run()).findings, 1);
  const told: Finding[] = [];
  const ranges = new Ranges((finding) => told.push(finding));
  for (let seq = 1; seq <= 100; seq++) ranges.add({ kind: 'events-damaged', node: 1, problem: 'p' }, seq);
  for (let seq = 200; seq <= 300; seq += 2)
    ranges.add({ kind: 'events-damaged', node: 1, problem: 'p' }, seq);
  ranges.end();
  t.match(told[0], { firstSeq: 1, lastSeq: 100 });
  t.equal(told.length, 21);
  t.match(told[20]?.problem, /^32 further ranges/);
});

t.test('the throttle holds to its rate', async (t) => {
  const throttle = new Throttle(100_000);
  const startedMs = performance.now();
  for (let i = 0; i < 5; i++) await throttle.take(2_000);
  t.ok(performance.now() - startedMs >= 95);
});
