/** Which partitions need an operator's choice, decided by the rules of votes alone. */
import t from 'tap';
import { noPlace, unknownIndex } from '../../src/common/faults.js';
import { encodeDeleteChannel } from '../../src/conversation/command.js';
import type { FoundChannel, FoundFault, FoundNode, FoundReplica } from '../../src/node/trust/find.js';
import { findChannels } from '../../src/node/trust/find.js';
import { decisions, incarnationAfter } from '../../src/node/trust/incarnation.js';
import { freshStart, judge, lossOf } from '../../src/node/trust/judge.js';
import { madeAppend, madeEntry, madeEvent } from '../conversation/make.js';
import { applyTo, formatted, opened, simDisk } from '../store/help.js';

const conf = (...voters: number[]) => ({
  voters,
  votersOutgoing: [] as number[],
  learners: [] as number[],
  learnersNext: [] as number[],
  autoLeave: false,
});

function replica(id: number, index: number, over: Partial<FoundReplica> = {}): FoundReplica {
  const place = { index, term: 2 };
  return {
    partition: 0,
    nodeId: id,
    replicaId: id,
    faults: [],
    term: 2,
    sealed: noPlace,
    last: place,
    end: place,
    lostEvents: undefined,
    confState: conf(1, 2, 3),
    members: [1, 2, 3].map((one) => ({ replicaId: one, nodeId: one })),
    nextReplicaId: 4,
    changes: 0,
    pendingChanges: 0,
    ...over,
  };
}

const fault = (kind: FoundFault['kind'], floor = noPlace): FoundFault => ({
  kind,
  why: 'for the test',
  floor,
});
const mute = [fault('term-or-vote-lost')];

t.test('what elects a leader by itself needs nobody', async (t) => {
  t.equal(judge(0, [replica(1, 10), replica(2, 10), replica(3, 10)]), undefined);
  t.equal(judge(0, [replica(1, 10), replica(2, 12)]), undefined, 'two of three');
  t.equal(judge(0, [replica(1, 10), replica(2, 10), replica(3, 10, { faults: mute })]), undefined);
  const state = { faults: [fault('state-damaged')], end: undefined };
  t.equal(
    judge(0, [replica(1, 10), replica(2, 10, state), replica(3, 9, state)]),
    undefined,
    'the sound one leads',
  );
  const floor = [fault('log-damaged', { term: 2, index: 20 })];
  t.equal(
    judge(0, [replica(1, 5, { faults: floor }), replica(2, 20), replica(3, 4)]),
    undefined,
    'it has the floor',
  );
  t.equal(
    judge(0, [replica(1, 20, { faults: floor }), replica(2, 9), replica(3, 4)]),
    undefined,
    'it reaches it again',
  );
});

t.test('what elects nobody is refused, and who could be trusted comes the furthest first', async (t) => {
  const refusedBy = (...replicas: FoundReplica[]) =>
    judge(0, replicas)?.candidates.map(({ nodeId }) => nodeId);
  t.strictSame(refusedBy(replica(1, 10)), [1], 'the others are missing');
  t.strictSame(
    refusedBy(replica(1, 10, { faults: mute }), replica(2, 12, { faults: mute }), replica(3, 11)),
    [2, 3, 1],
  );
  const floor = [fault('log-damaged', { term: 2, index: unknownIndex })];
  t.strictSame(
    refusedBy(replica(1, 5, { faults: floor }), replica(2, 9), replica(3, 3, { faults: floor })),
    [2, 1, 3],
  );
  const gone = { faults: [fault('state-damaged')], end: undefined };
  t.strictSame(
    refusedBy(replica(1, 9, gone), replica(2, 9, gone), replica(3, 9, gone)),
    [],
    'no state at all',
  );
  t.strictSame(
    refusedBy(
      replica(1, 9, { term: 3, last: { index: 8, term: 3 }, end: { index: 8, term: 3 } }),
      replica(2, 12, { faults: mute }),
    ),
    [1, 2],
    'a later term is further',
  );
});

t.test('both halves of a joint configuration count, and who was removed is no candidate', async (t) => {
  const joint = { confState: { ...conf(1, 4), votersOutgoing: [1, 2, 3] }, changes: 2 };
  const four = replica(4, 10, joint);
  t.ok(judge(0, [replica(1, 10, joint), four]), 'no majority of the outgoing half');
  t.equal(judge(0, [replica(1, 10, joint), four, replica(2, 9)]), undefined);
  const later = { confState: conf(1, 4, 5), changes: 3 };
  const refused = judge(0, [replica(1, 10, later), replica(2, 30), replica(3, 30)]);
  t.strictSame(
    refused?.candidates.map(({ nodeId }) => nodeId),
    [1],
    'two of three here were removed long ago',
  );
});

t.test('a choice says what it loses, and begins above all that is known', async (t) => {
  const one = replica(1, 10, {
    faults: [fault('log-damaged', { term: 4, index: 30 })],
    nextReplicaId: 9,
    changes: 5,
  });
  const two = replica(2, 20, { faults: mute });
  const refused = judge(0, [one, two]);
  if (refused === undefined) throw new Error('it is not refused');
  const found = (name: string, headSeq: number, deleted = false, inTrash = false) => ({
    tenant: 'x',
    name,
    headSeq,
    deleted,
    inTrash,
  });
  const kept = (...channels: FoundChannel[]) => [...channels, found('gone on both', 3, true)];
  const channels = new Map([
    [1, kept(found('a', 4), found('b', 5), found('c', 2, true))],
    [2, kept(found('a', 7), found('b', 5, true), found('c', 2))],
  ]);
  const loss = lossOf(one, refused, channels);
  t.strictSame(loss.events, [
    { tenant: 'x', channel: 'a', firstSeq: 5, lastSeq: 7, nodes: [2] },
    { tenant: 'x', channel: 'c', firstSeq: 1, lastSeq: 2, nodes: [2] },
  ]);
  t.strictSame(loss.back, [{ tenant: 'x', channel: 'b', nodes: [2] }], 'a deletion that it does not know');
  t.strictSame(lossOf(two, refused, channels).back, [], 'the further one knows of an undeletion');
  const trash = new Map([
    [1, [found('d', 4), found('e', 5, false, true), found('f', 3), found('g', 6, false, true)]],
    [2, [found('d', 7, false, true), found('e', 5, true), found('f', 3, false, true), found('g', 7)]],
  ]);
  t.strictSame(
    lossOf(one, refused, trash).back,
    ['d', 'e', 'f'].map((channel) => ({ tenant: 'x', channel, nodes: [2] })),
    'deletions to the trash, and one out of it',
  );
  t.strictSame(
    lossOf(one, refused, trash).events,
    [
      { tenant: 'x', channel: 'd', firstSeq: 5, lastSeq: 7, nodes: [2] },
      { tenant: 'x', channel: 'g', firstSeq: 7, lastSeq: 7, nodes: [2] },
    ],
    'what is in the trash is still there, on both sides',
  );
  t.strictSame(lossOf(two, refused, trash).back, []);
  t.match(
    loss.gone.join('\n'),
    /node 2 is further: at index 20 of term 2.*\n.*11 to 30.*node 1.*\n.*node 2 had acknowledged.*\n.*node 3/s,
  );
  t.strictSame(freshStart(refused, []), { term: 5, nextReplicaId: 9, changes: 6 });
  const removed = [
    { partition: 0, replicaId: 11 },
    { partition: 1, replicaId: 20 },
  ];
  t.equal(freshStart(refused, removed).nextReplicaId, 12, 'one that was removed had the highest id');
});

t.test('a replica that does not know a deletion brings the channel back, of either kind', async (t) => {
  for (const permanent of [true, false]) {
    const store = await opened(await formatted(simDisk()));
    const partition = store.partition(0);
    applyTo(partition, madeEntry([madeAppend('c', [madeEvent('secret')])], 1));
    const { channels: before } = await findChannels(partition, 10);
    const name = { tenant: 'default', channel: 'c' };
    const command = encodeDeleteChannel({ ...name, requestId: '', allowMissing: false, permanent });
    applyTo(partition, madeEntry([command], 2));
    const { channels: after } = await findChannels(partition, 10);
    await store.close();
    const refused = judge(0, [replica(1, 1, { faults: mute }), replica(2, 2, { faults: mute })]);
    const [one] = refused?.replicas ?? [];
    if (refused === undefined || one === undefined) throw new Error('it is not refused');
    const channels = new Map([
      [1, before],
      [2, after],
    ]);
    t.strictSame(lossOf(one, refused, channels).back, [{ ...name, nodes: [2] }], `permanent: ${permanent}`);
    t.strictSame(lossOf(one, refused, channels).events, []);
  }
});

t.test(
  'the incarnation is that of what was decided, and an interrupted repair comes to it again',
  async (t) => {
    const of = (nodeId: number, partition: number, over: Partial<FoundReplica> = {}) =>
      replica(nodeId, 10, { partition, faults: mute, ...over });
    const node = (nodeId: number, incarnation: number, replicas: FoundReplica[]): FoundNode => ({
      dir: '',
      nodeId,
      clusterId: '',
      incarnation,
      members: [],
      replicas,
      removed: [],
    });
    const after = (nodes: FoundNode[], trusted: (partition: number) => number | undefined): number => {
      const refused = [0, 1].map((partition) =>
        judge(
          partition,
          nodes.flatMap(({ replicas }) => replicas),
        ),
      );
      return incarnationAfter(
        nodes,
        decisions(
          refused.filter((one) => one !== undefined),
          nodes,
          trusted,
        ),
      );
    };
    const others = [2, 3].map((id) => node(id, 4, [of(id, 0), of(id, 1)]));
    const before = [node(1, 4, [of(1, 0), of(1, 1)]), ...others];
    const decided = after(before, () => 1);
    t.ok(decided >= 2 ** 20 && decided < 2 ** 21);
    t.equal(
      after(before, (partition) => [1, 1][partition]),
      decided,
    );
    for (const other of [[2, 1], [1, 2], [1], []])
      t.not(
        after(before, (partition) => other[partition]),
        decided,
        `${other}`,
      );
    const alone = of(1, 0, { faults: [], confState: conf(1), changes: 1 });
    const begun = [node(1, decided, [alone, of(1, 1)]), ...others];
    t.equal(
      after(begun, () => 1),
      decided,
      'one partition is done',
    );
    const whole = begun.map((one) => ({ ...one, incarnation: decided }));
    const later = after(whole, () => 1);
    t.equal(later, decided + 2 ** 20, 'another repair, which decides the same');
  },
);
