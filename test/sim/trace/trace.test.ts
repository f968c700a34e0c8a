/**
 * Histories of real nodes under faults, line by line, against the protocol; and
 * the follower itself against a trace that it did not write, and against wrong ones.
 */
import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { EntryType } from '../../../src/common/log-types.js';
import type { Raft } from '../../../src/raft/raft.js';
import { type Message, MessageType, message as newMessage, Role } from '../../../src/raft/types.js';
import { type TraceEvent, traceEvent } from './event.js';
import { traceSeed } from './run.js';
import { followTrace } from './spec.js';

t.setTimeout(600_000);

for (const [seed, nodes] of [
  [1, 3],
  [2, 3],
  [3, 5],
] as const) {
  t.test(`seed ${seed}: what ${nodes} nodes do are steps of Raft`, async (t) => {
    const { events, violations, acknowledged, crashes } = await traceSeed({ seed, nodes });
    t.same(violations, []);
    t.equal(followTrace(events), events.length);
    t.ok(acknowledged > 20 && crashes > 0, `${acknowledged} acknowledged, ${crashes} crashes`);
  });
}

t.test('replicas come with snapshots, get their votes and go: steps of Raft, too', async (t) => {
  const { events, violations, changes } = await traceSeed({ seed: 1, members: true });
  t.same(violations, []);
  t.equal(followTrace(events), events.length);
  t.ok(changes > 2, `${changes} changes of members`);
  t.ok(events.some(({ msg }) => msg?.type === 'MsgSnap'));
  const at = events.findIndex(({ name }) => name === 'ChangeConf');
  t.throws(() => followTrace(events.toSpliced(at, 1)), { name: 'TraceProblem' }, 'not without the change');
});

t.test(
  'sorted as text from `ts` on, as before a validation with TLC, the lines keep their order',
  async (t) => {
    const { text } = await traceSeed({ seed: 4, lines: 500 });
    const lines = text.trimEnd().split('\n');
    // sort -t: -k3
    const key = (line: string): string => line.split(':').slice(2).join(':');
    t.same(
      lines.toSorted((a, b) => (key(a) < key(b) ? -1 : 1)),
      lines,
    );
    t.ok(lines.every((line) => JSON.parse(line).tag === 'trace'));
  },
);

t.test('an append that carries less than is committed names no more than it carries', async (t) => {
  const config = { voters: [1, 2], votersOutgoing: [] };
  const log = { committed: 15, lastIndex: () => 15 };
  const raft = { id: 1, term: 3, vote: 1, role: Role.leader, log, tracker: { config } } as unknown as Raft;
  const entries = [{ index: 13, term: 3, type: EntryType.normal, data: new Uint8Array(0), sizeBytes: 0 }];
  const message = { ...newMessage(MessageType.MsgApp, 2), from: 1, term: 3, index: 12, commit: 15, entries };
  const told = (sent: Message): number | undefined =>
    traceEvent('SendAppendEntriesRequest', raft, { kind: 'message', message: sent }).msg?.commit;
  t.equal(told(message), 13, 'as the receiver takes it, and as the specification has it sent');
  t.equal(told({ ...message, commit: 7 }), 7);
  t.equal(told({ ...message, type: MessageType.MsgHeartbeat, index: 0, entries: [] }), 15);
});

t.test('the same seed writes the same trace', async (t) => {
  const [first, second] = [
    await traceSeed({ seed: 4, lines: 500 }),
    await traceSeed({ seed: 4, lines: 500 }),
  ];
  t.equal(first.text, second.text);
});

t.test('a trace with one line changed, lost or put elsewhere is no history of Raft', async (t) => {
  const { events } = await traceSeed({ seed: 1, lines: 800 });
  const wrong = (name: string, change: (event: TraceEvent, at: number, all: TraceEvent[]) => void) => {
    const all = structuredClone(events) as TraceEvent[];
    const at = all.findLastIndex((event) => event.name === name && event.state.commit > 2);
    change(all[at] as TraceEvent, at, all);
    t.throws(() => followTrace(all), { name: 'TraceProblem' }, `${name}, line ${at + 1}`);
  };
  wrong('Commit', (event, at, all) => {
    all[at] = { ...event, state: { ...event.state, commit: event.state.commit + 1 } };
  });
  // More often than an equal message can have been lost before.
  wrong('ReceiveAppendEntriesResponse', (event, at, all) =>
    all.splice(at, 0, ...new Array<TraceEvent>(100).fill(event)),
  );
  wrong('Replicate', (_, at, all) => all.splice(at, 1));
  wrong('SendAppendEntriesRequest', (event, at, all) => {
    if (event.msg !== undefined) all[at] = { ...event, msg: { ...event.msg, commit: event.msg.commit + 1 } };
  });
  wrong('Ready', (event, at, all) => {
    all[at] = { ...event, name: 'BecomeLeader' };
  });
});

const example = path.join(
  process.env.HANSARD_SHARED ?? '../shared',
  'oracles',
  'etcd-raft',
  'trace',
  'example.ndjson',
);
const isThere = fs.existsSync(example);
t.test(
  "etcd's own example is followed to its end",
  { skip: !isThere && `${example} is not there` },
  async (t) => {
    const events = fs
      .readFileSync(example, 'utf8')
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { event: TraceEvent }).event);
    t.equal(followTrace(events), 1_000);
  },
);
