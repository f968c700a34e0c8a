/** The way of work that the owner takes: drained, and commit indexes told when asked. */
import t from 'tap';
import { type Message, MessageType, RawNode, Role } from '../../src/raft/index.js';
import { emptyConfState, MemoryStorage } from './memory-storage.js';

interface Drained {
  readonly sent: Message[];
  readonly appends: Message[];
  readonly applies: Message[];
  readonly committed: number[];
}

function makeLeader(): { raw: RawNode; storage: MemoryStorage; drain: () => Drained } {
  const storage = new MemoryStorage();
  storage.applySnapshot({
    metadata: { index: 5, term: 1, confState: { ...emptyConfState, voters: [1, 2, 3] } },
    data: undefined,
  });
  const raw = new RawNode({
    id: 1,
    storage,
    random: () => 0,
    asyncStorageWrites: true,
    tellsCommitWhenAsked: true,
    heartbeatTick: 3,
    electionTick: 40,
    applied: 5,
  });
  const drain = (): Drained => {
    const got: Drained = { sent: [], appends: [], applies: [], committed: [] };
    raw.drain({
      observeState: () => undefined,
      readState: () => undefined,
      send: (m) => got.sent.push(m),
      append: (m) => got.appends.push(m),
      committed: (index) => got.committed.push(index),
      apply: (m) => got.applies.push(m),
    });
    t.equal(raw.hasReady(), false, 'nothing is left');
    return got;
  };
  const keep = ({ appends }: Drained): void => {
    for (const append of appends) {
      storage.hardState = { ...storage.hardState, term: raw.term, vote: 1 };
      storage.append(append.entries);
      for (const response of append.responses) if (response.to === 1) raw.step(response);
    }
  };
  raw.campaign();
  keep(drain());
  raw.step(from(2, MessageType.MsgVoteResp, raw.term));
  t.equal(raw.role, Role.leader);
  keep(drain());
  return {
    raw,
    storage,
    drain: () => {
      const got = drain();
      keep(got);
      return got;
    },
  };
}

function from(id: number, type: MessageType, term: number, index = 0): Message {
  return {
    type,
    to: 1,
    from: id,
    term,
    logTerm: 0,
    index,
    entries: [],
    commit: 0,
    vote: 0,
    snapshot: undefined,
    reject: false,
    rejectHint: 0,
    context: 0,
    responses: [],
  };
}

t.test('a new commit index alone writes nothing and tells nobody until it is asked for', async (t) => {
  const { raw, drain } = makeLeader();
  const { term, lastIndex } = raw;
  raw.step(from(2, MessageType.MsgAppResp, term, lastIndex));
  raw.step(from(3, MessageType.MsgAppResp, term, lastIndex));
  // Both are probed until their first answer: they are told at once what it committed.
  const first = drain();
  t.same(first.committed, [lastIndex]);
  t.equal(raw.commitIndex, lastIndex);
  raw.tellCommit();
  drain();
  t.equal(raw.hasUntoldCommit, false);

  raw.propose(Buffer.from('a'));
  const proposed = drain();
  t.same(
    proposed.sent.map(({ to, entries }) => [to, entries.length]),
    [
      [2, 1],
      [3, 1],
    ],
  );
  raw.step(from(2, MessageType.MsgAppResp, term, lastIndex + 1));
  const committed = drain();
  t.same(committed.committed, [lastIndex + 1]);
  t.same(committed.sent, [], 'nobody is told');
  t.same(committed.appends, [], 'nothing is written');
  t.equal(committed.applies.length, 1);
  t.ok(raw.hasUntoldCommit);

  raw.tellCommit();
  const told = drain();
  t.same(
    told.sent.map(({ type, to, commit, entries }) => [type, to, commit, entries.length]),
    [
      [MessageType.MsgApp, 2, lastIndex + 1, 0],
      [MessageType.MsgApp, 3, lastIndex + 1, 0],
    ],
  );
  t.equal(raw.hasUntoldCommit, false);
  raw.tellCommit();
  t.same(drain().sent, [], 'once');
});

t.test('entries that follow make the telling superfluous', async (t) => {
  const { raw, drain } = makeLeader();
  const { term } = raw;
  for (const id of [2, 3]) raw.step(from(id, MessageType.MsgAppResp, term, raw.lastIndex));
  drain();
  raw.propose(Buffer.from('a'));
  drain();
  raw.step(from(2, MessageType.MsgAppResp, term, raw.lastIndex));
  t.ok(raw.hasUntoldCommit);
  raw.propose(Buffer.from('b'));
  const { sent } = drain();
  t.same(
    sent.map(({ to, commit, entries }) => [to, commit, entries.length]),
    [
      [2, raw.lastIndex - 1, 1],
      [3, raw.lastIndex - 1, 1],
    ],
  );
  t.equal(raw.hasUntoldCommit, false);
});

t.test('heartbeats leave in the tick that the owner names', async (t) => {
  const { raw, drain } = makeLeader();
  for (const ticks of [1, 2, 3]) {
    raw.heartbeatIn(ticks);
    for (let i = 1; i < ticks; i++) {
      raw.tick();
      t.same(drain().sent, [], `tick ${i} of ${ticks}`);
    }
    raw.tick();
    t.same(
      drain().sent.map(({ type }) => type),
      [MessageType.MsgHeartbeat, MessageType.MsgHeartbeat],
    );
  }
});
