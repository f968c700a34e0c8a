/** Promises of the core that deserve a story each, beside the scripts and the random networks. */
import fc from 'fast-check';
import t from 'tap';
import { InvariantError } from '../../src/common/errors.js';
import { EntryType } from '../../src/common/log-types.js';
import { type ChangeBase, enterJoint, leaveJoint, simple } from '../../src/raft/confchange.js';
import {
  type ConfChangeSingle,
  type Config,
  decodeConfChange,
  encodeConfChange,
  leaveJointChange,
  MessageType as M,
  type Message,
  message,
  NO_LIMIT,
  RawNode,
  type Ready,
  Role,
  Transition,
} from '../../src/raft/index.js';
import { Inflights } from '../../src/raft/inflights.js';
import { emptyConfig } from '../../src/raft/tracker.js';
import { emptyConfState, MemoryStorage } from './memory-storage.js';
import { runScript } from './oracle/run.js';

/** A member of voters 1 … n with a log that starts after index 10, term 1. */
function member(
  id: number,
  voters: number,
  more: Partial<Config> = {},
): { raw: RawNode; storage: MemoryStorage } {
  const storage = new MemoryStorage();
  const confState = { ...emptyConfState, voters: Array.from({ length: voters }, (_, i) => i + 1) };
  storage.applySnapshot({ metadata: { index: 10, term: 1, confState }, data: undefined });
  storage.hardState = { term: 1, vote: 0, commit: 10 };
  const config = { id, storage, random: (n: number) => n - 1, applied: 10, electionTick: 3, ...more };
  return { raw: new RawNode(config), storage };
}

/** Synchronous storage: one Ready, written, applied and advanced; returns it. */
function turn({ raw, storage }: ReturnType<typeof member>): Ready {
  const ready = raw.ready();
  storage.append(ready.entries);
  raw.advance();
  return ready;
}

/** Carries messages among synchronous members until all is still; returns the read states by member. */
function settle(members: ReturnType<typeof member>[]): [number, number, number][] {
  const reads: [number, number, number][] = [];
  for (let work = true; work; ) {
    work = false;
    for (const m of members) {
      while (m.raw.hasReady()) {
        work = true;
        const ready = turn(m);
        for (const { index, context } of ready.readStates) reads.push([m.raw.id, context, index]);
        for (const out of ready.messages) members.find(({ raw }) => raw.id === out.to)?.raw.step(out);
      }
    }
  }
  return reads;
}

function entry(
  term: number,
  index: number,
): { term: number; index: number; type: EntryType; sizeBytes: number; data: Uint8Array } {
  return { term, index, type: EntryType.normal, sizeBytes: 1, data: Uint8Array.of(term) };
}

function msgApp(from: number, term: number, entries: ReturnType<typeof entry>[]): Message {
  const m = message(M.MsgApp, 2);
  m.from = from;
  m.term = term;
  m.index = entries[0]!.index - 1;
  m.logTerm = 1;
  m.entries = entries;
  return m;
}

t.test('a stale acknowledgement of a write does not count (A, then B, then A again)', async (t) => {
  const { raw, storage } = member(2, 3, { asyncStorageWrites: true });
  const appends: Message[] = [];
  const hear = (m: Message) => {
    raw.step(m);
    appends.push(...raw.ready().messages.filter((out) => out.type === M.MsgStorageAppend));
  };
  hear(msgApp(1, 2, [entry(2, 11), entry(2, 12)]));
  hear(msgApp(3, 3, [entry(3, 11), entry(3, 12)]));
  // The first leader is back, in a later term, with the entries it had.
  hear(msgApp(1, 4, [entry(2, 11), entry(2, 12)]));
  t.equal(appends.length, 3);
  const carryOut = (m: Message) => {
    storage.append(m.entries);
    for (const response of m.responses) if (response.to === 2) raw.step(response);
  };
  carryOut(appends[0]!);
  t.equal(storage.term(12), 2);
  carryOut(appends[1]!);
  t.equal(storage.term(12), 3, 'the disk holds B for a moment');
  t.equal(raw.termAt(12), 2, 'the core never does');
  carryOut(appends[2]!);
  t.equal(raw.termAt(12), 2);
  t.equal(storage.term(12), 2);
  t.equal(raw.lastIndex, 12);
});

t.test('nor does one of this term for an entry that was replaced since', async (t) => {
  const { raw, storage } = member(2, 3, { asyncStorageWrites: true });
  const appends: Message[] = [];
  const hear = (m: Message) => {
    raw.step(m);
    appends.push(...raw.ready().messages.filter((out) => out.type === M.MsgStorageAppend));
  };
  hear(msgApp(1, 2, [entry(2, 11)]));
  const beat = message(M.MsgHeartbeat, 2);
  Object.assign(beat, { from: 3, term: 3, commit: 10 });
  hear(beat);
  hear(msgApp(3, 3, [entry(3, 11)]));
  t.equal(appends.length, 3);
  for (const m of appends.slice(0, 2)) {
    storage.append(m.entries);
    for (const response of m.responses) if (response.to === 2) raw.step(response);
  }
  t.equal(storage.term(11), 2);
  t.equal(raw.termAt(11), 3, 'its write is still to come');
});

t.test('an entry of an earlier term does not commit by counting (Raft, figure 8)', async (t) => {
  const one = member(1, 3);
  one.storage.append([entry(1, 11)]);
  const leader = {
    raw: new RawNode({ id: 1, storage: one.storage, random: (n) => n - 1, applied: 10 }),
    storage: one.storage,
  };
  leader.raw.campaign();
  turn(leader);
  const answer = (type: Message['type'], index: number) => {
    const m = message(type, 1);
    Object.assign(m, { from: 2, term: 2, index });
    leader.raw.step(m);
  };
  answer(M.MsgVoteResp, 0);
  t.equal(leader.raw.role, Role.leader);
  turn(leader);
  answer(M.MsgAppResp, 11);
  t.equal(leader.raw.commitIndex, 10, 'two of three have it, and another leader could still replace it');
  answer(M.MsgAppResp, 12);
  t.equal(leader.raw.commitIndex, 12);
});

t.test('votes and acknowledgements wait for the write, also of an earlier Ready', async (t) => {
  const { raw } = member(2, 3, { asyncStorageWrites: true });
  raw.step(msgApp(1, 2, [entry(2, 11)]));
  const first = raw.ready();
  t.notOk(
    first.messages.some((m) => m.to === 1),
    'nothing leaves before the write',
  );
  const append = first.messages.find((m) => m.type === M.MsgStorageAppend)!;
  t.match(
    append.responses.map((m) => m.type),
    [M.MsgAppResp, M.MsgStorageAppendResp],
  );
  // The same message again: nothing new to write, but the answer still waits behind the first write.
  raw.step(msgApp(1, 2, [entry(2, 11)]));
  const second = raw.ready();
  const empty = second.messages.find((m) => m.type === M.MsgStorageAppend)!;
  t.equal(empty.entries.length, 0);
  t.equal(empty.responses[0]!.type, M.MsgAppResp);
  t.notOk(second.messages.some((m) => m.to === 1));
});

t.test('a commit index alone asks for no sync', async (t) => {
  const { raw } = member(2, 3, { asyncStorageWrites: true });
  raw.step(msgApp(1, 2, [entry(2, 11)]));
  for (const m of raw.ready().messages) for (const r of m.responses) if (r.to === 2) raw.step(r);
  const beat = message(M.MsgHeartbeat, 2);
  Object.assign(beat, { from: 1, term: 2, commit: 10 });
  raw.step(beat);
  const ready = raw.ready();
  t.equal(ready.mustSync, false);
  t.notOk(ready.messages.some((m) => m.type === M.MsgStorageAppend && m.responses.length > 0));
});

t.test('reads', async (t) => {
  const members = [1, 2, 3].map((id) => member(id, 3));
  const [one, two] = members;
  t.equal(one!.raw.readIndex(1), 'no-leader');
  one!.raw.campaign();
  while (one!.raw.role !== Role.leader) {
    const ready = turn(one!);
    for (const m of ready.messages) {
      const to = members.find(({ raw }) => raw.id === m.to)!;
      to.raw.step(m);
      for (const back of turn(to).messages) one!.raw.step(back);
    }
  }
  // The leader's own entry has not committed yet.
  t.equal(one!.raw.readIndex(7), 'ok');
  t.notOk(one!.raw.committedInCurrentTerm);
  t.same(settle(members), [[1, 7, 11]], 'answered once an entry of the term has committed');

  // One context, asked for at two replicas: each gets its own answer.
  one!.raw.readIndex(9);
  two!.raw.readIndex(9);
  t.same(settle(members).sort(), [
    [1, 9, 11],
    [2, 9, 11],
  ]);

  // No quorum answers: no read, and it dies with the term.
  one!.raw.readIndex(10);
  settle([one!]);
  const beat = message(M.MsgHeartbeat, 1);
  Object.assign(beat, { from: 2, term: one!.raw.term + 1, commit: 11 });
  one!.raw.step(beat);
  t.same(settle(members), []);

  // Alone no round is needed, but the commit index of before a restart may be old.
  const alone = member(1, 1);
  alone.raw.campaign();
  turn(alone);
  t.equal(alone.raw.role, Role.leader);
  alone.raw.readIndex(3);
  t.same(turn(alone).readStates, []);
  t.same(settle([alone]), [[1, 3, 11]]);
});

t.test('a read waits for a quorum to answer its round, not an earlier one', async (t) => {
  const members = [1, 2, 3, 4, 5].map((id) => member(id, 5));
  const leader = members[0]!;
  leader.raw.campaign();
  settle(members);
  const round = (context: number) => {
    leader.raw.readIndex(context);
    return turn(leader).messages.filter((m) => m.type === M.MsgHeartbeat);
  };
  const answer = (beats: readonly Message[], from: number): readonly number[] => {
    const to = members[from - 1]!;
    to.raw.step(beats.find((m) => m.to === from)!);
    for (const m of turn(to).messages) leader.raw.step(m);
    return leader.raw.hasReady() ? turn(leader).readStates.map(({ context }) => context) : [];
  };
  const first = round(1);
  const second = round(2);
  t.same(answer(first, 2), []);
  t.same(answer(first, 3), [1], 'three of five, the leader included');
  t.same(answer(second, 2), []);
  t.same(answer(first, 4), []);
  t.same(answer(second, 5), [2]);
});

t.test('a removed leader that leads on answers no read by itself', async (t) => {
  const members = [1, 2].map((id) => member(id, 2));
  const [one, two] = members;
  one!.raw.campaign();
  settle(members);
  const change = { transition: Transition.auto, changes: [{ kind: 1, id: 1 }] } as const;
  t.equal(one!.raw.proposeConfChange(change), 'ok');
  settle(members);
  for (const { raw } of members) raw.applyConfChange(change);
  t.same(one!.raw.config.voters, [2]);
  t.equal(one!.raw.role, Role.leader, 'without step-down');
  one!.raw.readIndex(5);
  const out = turn(one!);
  t.same(out.readStates, []);
  for (const m of out.messages) two!.raw.step(m);
  t.same(settle(members), [[1, 5, 12]], 'the only voter confirms it');
});

t.test('a proposal that is dropped says why', async (t) => {
  const data = new Uint8Array(100);
  const lonely = member(1, 3);
  t.equal(lonely.raw.propose(data), 'no-leader');
  const follower = member(2, 3, { disableProposalForwarding: true });
  follower.raw.step(msgApp(1, 2, [entry(2, 11)]));
  t.equal(follower.raw.propose(data), 'not-leader');

  const limited = [1, 2, 3].map((id) => member(id, 3, { maxUncommittedEntriesSize: 250 }));
  const leader = limited[0]!;
  leader.raw.campaign();
  settle(limited);
  t.same(
    [1, 2, 3].map(() => leader.raw.propose(data)),
    ['ok', 'ok', 'too-much-uncommitted'],
  );
  t.equal(leader.raw.lastIndex, 13);
  settle(limited);
  t.equal(leader.raw.propose(data), 'ok', 'room again once applied');
  t.equal(leader.raw.proposeBatch([data, data]), 'too-much-uncommitted', 'all or none');
  leader.raw.transferLeader(2);
  t.equal(leader.raw.propose(data), 'transferring');
  settle(limited);
  t.equal(limited[1]!.raw.role, Role.leader);

  const foreign = message(M.MsgHup, 1);
  foreign.from = 2;
  t.equal(leader.raw.step(foreign), 'local-message');
  const stranger = message(M.MsgAppResp, 1);
  stranger.from = 99;
  t.equal(leader.raw.step(stranger), 'unknown-peer');
});

t.test('told by scripts', async (t) => {
  const group =
    'log-level none\n----\nok\n\nadd-nodes 3 voters=(1,2,3) index=10 ARGS\n----\nok\n\ncampaign 1\n----\nok\n\nstabilize\n----\nok\n\n';
  const script = (args: string, rest: string) => runScript(group.replace('ARGS', args) + rest);
  for (const async of [false, true]) {
    const args = `async-storage-writes=${async}`;
    t.equal(
      script(
        args,
        `report-unreachable 1 2
----
ok

log-level debug
----
ok

status 1
----
1: StateReplicate match=11 next=12
2: StateProbe match=11 next=12
3: StateReplicate match=11 next=12

tick-heartbeat 1
----
ok

stabilize log-level=none
----
ok

status 1
----
1: StateReplicate match=11 next=12
2: StateReplicate match=11 next=12
3: StateReplicate match=11 next=12
`,
      ),
      undefined,
      `a heartbeat's answer ends the probing of one that has all (${args})`,
    );
    t.equal(
      script(
        `${args} inflight=2`,
        `propose 1 a
----
ok

stabilize 1 2
----
ok

propose 1 b
----
ok

stabilize 1 2
----
ok

propose 1 c
----
ok

stabilize 1 2
----
ok

compact 1 13
----
ok

deliver-msgs drop=(3)
----
ok

log-level debug
----
ok

status 1
----
1: StateReplicate match=14 next=15
2: StateReplicate match=14 next=15
3: StateReplicate match=11 next=14 paused inflight=2[full]

tick-heartbeat 1
----
ok

stabilize log-level=none
----
ok

status 1
----
1: StateReplicate match=14 next=15
2: StateReplicate match=14 next=15
3: StateReplicate match=14 next=15

raft-log 3
----
log is empty: first index=15, last index=14
`,
      ),
      undefined,
      `one that lost all in flight is caught up by a snapshot (${args})`,
    );
    t.equal(
      script(
        `${args} prevote=true checkquorum=true`,
        `forget-leader 2
----
ok

set-randomized-election-timeout 2 timeout=3
----
ok

tick-election 2
----
ok

deliver-msgs drop=(1,2)
----
ok

stabilize 2 3
----
ok

log-level debug
----
ok

raft-state
----
1: StateLeader (Voter) Term:1 Lead:1
2: StatePreCandidate (Voter) Term:1 Lead:0
3: StateFollower (Voter) Term:1 Lead:1
`,
      ),
      undefined,
      `a pre-candidate gets nothing from those who hear a leader (${args})`,
    );
  }
});

t.test('bytes of configuration changes', async (t) => {
  const change = fc.record({
    transition: fc.constantFrom<Transition>(0, 1, 2),
    changes: fc.array(
      fc.record({
        kind: fc.constantFrom<ConfChangeSingle['kind']>(0, 1, 2, 3),
        id: fc.integer({ min: 0, max: 2 ** 48 }),
      }),
      { maxLength: 9 },
    ),
    context: fc.option(fc.uint8Array({ minLength: 1, maxLength: 40 }), { nil: undefined }),
  });
  fc.assert(
    fc.property(change, (c) => t.same(decodeConfChange(encodeConfChange(c)), c)),
    { numRuns: 50 },
  );
  const golden = encodeConfChange({
    transition: Transition.jointExplicit,
    changes: [
      { kind: 0, id: 1 },
      { kind: 3, id: 300 },
    ],
    context: Uint8Array.of(0xff),
  });
  t.equal(Buffer.from(golden).toString('hex'), '0102020001' + '03ac02' + 'ff');
  t.equal(encodeConfChange(leaveJointChange).length, 0, 'leaving is empty, so no limit can refuse it');
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
      try {
        decodeConfChange(bytes);
      } catch (error) {
        return error instanceof InvariantError;
      }
      return true;
    }),
  );
});

t.test('a joint change and one-at-a-time changes come to the same members', async (t) => {
  const base: ChangeBase = {
    config: emptyConfig,
    progress: [],
    lastIndex: 10,
    maxInflightMsgs: 8,
    maxInflightBytes: NO_LIMIT,
  };
  const changes = fc.array(
    fc.record({
      kind: fc.constantFrom<ConfChangeSingle['kind']>(0, 1, 2, 3),
      id: fc.integer({ min: 2, max: 8 }),
    }),
    { minLength: 1, maxLength: 9 },
  );
  fc.assert(
    fc.property(changes, changes, (before, list) => {
      // Voter 1 stays, so that no step is refused for want of voters.
      let start = base;
      for (const c of [{ kind: 0, id: 1 } as const, ...before]) {
        const outcome = simple(start, [c]);
        if (!outcome.ok) throw new Error(outcome.problem);
        start = { ...start, ...outcome };
      }
      let slow = start;
      for (const c of list) {
        const outcome = simple(slow, [c]);
        if (!outcome.ok) throw new Error(outcome.problem);
        slow = { ...slow, ...outcome };
      }
      const joint = enterJoint(start, true, list);
      if (!joint.ok) throw new Error(joint.problem);
      const fast = leaveJoint({ ...start, ...joint });
      if (!fast.ok) throw new Error(fast.problem);
      t.same(fast.config, slow.config);
      t.same(fast.progress.map(String).length, slow.progress.length);
      t.same(
        fast.progress.map((pr) => [pr.id, pr.isLearner]),
        slow.progress.map((pr) => [pr.id, pr.isLearner]),
      );
    }),
    { numRuns: 60 },
  );
});

t.test('the window is a queue with two limits', async (t) => {
  const action = fc.oneof(
    fc.record({ add: fc.integer({ min: 0, max: 50 }) }),
    fc.record({ free: fc.integer({ min: 0, max: 12 }) }),
  );
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 9 }), fc.array(action, { maxLength: 80 }), (size, actions) => {
      const window = new Inflights(size, 120);
      let model: { index: number; bytes: number }[] = [];
      let index = 0;
      for (const a of actions) {
        if ('add' in a) {
          if (window.full) continue;
          index += 1 + (a.add % 3);
          window.add(index, a.add);
          model.push({ index, bytes: a.add });
        } else {
          const to = (model[0]?.index ?? index) + a.free - 1;
          window.freeUpTo(to);
          model = model.filter((m) => m.index > to);
        }
        const bytes = model.reduce((sum, m) => sum + m.bytes, 0);
        if (window.count !== model.length) return false;
        if (window.full !== (model.length >= size || bytes >= 120)) return false;
      }
      return true;
    }),
  );
  t.pass('as the model');
});
