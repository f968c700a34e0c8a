/** In which order a turn does its work: nobody elsewhere waits for what can be done later. */
import t from 'tap';
import type { Clock } from '../../src/common/env.js';
import { TurnLoop } from '../../src/node/turn-loop.js';
import type { Replica } from '../../src/partition/replica.js';
import type { TurnOutput } from '../../src/partition/types.js';
import type { GroupWrite, Wal } from '../../src/wal/types.js';

/** A loop whose replicas each write something and apply something, which takes `applyMs`. `isQuick`: who waits has it synced. */
function loopOf(applyMs: number, isQuick = false) {
  const done: string[] = [];
  const turns: (() => void)[] = [];
  let nowMs = 0;
  const clock = {
    monotonicMs: () => nowMs,
    defer: (run: () => void) => void turns.push(run),
  } as unknown as Clock;
  let durable = (): void => {};
  const wal = {
    write(_: unknown, onDurable: () => void) {
      done.push('log');
      durable = onDurable;
    },
    flush(here: boolean) {
      done.push(here ? 'disk' : 'disk, unawaited');
      if (here && isQuick) durable();
      return here && isQuick;
    },
  } as unknown as Wal;
  const loop = new TurnLoop(
    clock,
    wal,
    { usedBytes: 0, limitBytes: 1, proposals: 0 },
    () => {},
    () => void done.push('messages'),
    () => false,
  );
  /** `leads`: what it writes, it proposed. */
  const replica = (name: string, leads = false): Replica => {
    let hasToApply = true;
    let isDurable = false;
    const self = {
      isStirred: false,
      durable() {
        isDurable = true;
        loop.stir(self as unknown as Replica);
      },
      collect(output: TurnOutput) {
        if (!hasToApply) return;
        if (isDurable) return void done.push(`acknowledge ${name}`);
        done.push(`visit ${name}`);
        if (leads) output.mayPropose(self as unknown as Replica);
        output.persist(self as unknown as Replica, {} as GroupWrite);
        output.applies(self as unknown as Replica);
      },
      applyCommitted() {
        hasToApply = false;
        nowMs += applyMs;
        done.push(`apply ${name}`);
      },
    };
    return self as unknown as Replica;
  };
  const pass = (ms: number): void => {
    nowMs += ms;
  };
  return { loop, replica, done, turns, pass };
}

t.test('what is committed is applied after the turn’s messages and entries have left', (t) => {
  const { loop, replica, done, turns } = loopOf(1);
  loop.stir(replica('a'));
  loop.stir(replica('b'));
  turns.shift()?.();
  t.same(
    done,
    ['visit a', 'visit b', 'log', 'messages', 'disk', 'apply a', 'apply b'],
    'and the disk is at work',
  );
  t.same(turns, [], 'and that is all');
  t.end();
});

t.test(
  'a follower’s acknowledgement leaves before it applies what is committed, where its disk is quick',
  (t) => {
    const { loop, replica, done, turns } = loopOf(1, true);
    loop.stir(replica('a'));
    turns.shift()?.();
    t.same(done, ['visit a', 'log', 'messages', 'disk', 'acknowledge a', 'messages', 'apply a']);
    t.same(turns, [], 'all in one turn');
    t.end();
  },
);

t.test('a leader waits for others anyway: its callers’ answers go before its own sync', (t) => {
  const { loop, replica, done, turns } = loopOf(1, true);
  loop.stir(replica('a', true));
  turns.shift()?.();
  t.same(done, ['visit a', 'log', 'messages', 'disk, unawaited', 'apply a']);
  t.end();
});

t.test('applying that takes long goes on in the next turn', (t) => {
  const { loop, replica, done, turns } = loopOf(4);
  for (const name of 'abcdefgh') loop.stir(replica(name));
  turns.shift()?.();
  const applied = () => done.filter((what) => what.startsWith('apply')).map((what) => what.slice(6));
  const first = applied().length;
  t.ok(first >= 1 && first < 8, `${first} of 8: sockets and timers get theirs`);
  while (turns.length > 0) turns.shift()?.();
  t.same(applied(), [...'abcdefgh'], 'nobody is forgotten');
  t.end();
});

t.test('those that always have more to apply do not go before those that wait for their turn', (t) => {
  const { loop, done, turns, pass } = loopOf(0);
  const applied = () => new Set(done.filter((what) => what.startsWith('apply')));
  const busy = (name: string): Replica => {
    const self = {
      isStirred: false,
      collect: (output: TurnOutput) => output.applies(self as unknown as Replica),
      applyCommitted() {
        pass(3);
        done.push(`apply ${name}`);
        // A slice of what waits: the rest in a later turn.
        loop.stir(self as unknown as Replica);
      },
    };
    return self as unknown as Replica;
  };
  for (const name of 'abcdefghijklmnopqrst') loop.stir(busy(name));
  for (let i = 0; i < 20; i++) turns.shift()?.();
  t.equal(applied().size, 20, `of 20 replicas these had a turn: ${[...applied()].join()}`);
  t.end();
});

/** Sixty-four replicas whose visits take 1 ms, each of which is visited once it stirs. */
function crowd() {
  let nowMs = 0;
  const turns: (() => void)[] = [];
  const clock = {
    monotonicMs: () => nowMs,
    defer: (run: () => void) => void turns.push(run),
    after: () => ({ cancel() {} }),
  } as unknown as Clock;
  const synced: (() => void)[] = [];
  const wal = {
    write: (_: unknown, done: () => void) => void synced.push(done),
    flush: () => false,
  } as unknown as Wal;
  const budget = { usedBytes: 0, limitBytes: 1, proposals: 64 };
  const riders: Replica[] = [];
  const loop: TurnLoop = new TurnLoop(
    clock,
    wal,
    budget,
    () => {},
    () => {},
    () => {
      const some = riders.splice(0);
      for (const each of some) loop.stir(each);
      return some.length > 0;
    },
  );
  const visited: number[] = [];
  const replica = (id: number, collect = (_: TurnOutput, __: Replica): void => {}): Replica => {
    const self = {
      isStirred: false,
      collect(output: TurnOutput) {
        nowMs += 1;
        visited.push(id);
        collect(output, self as unknown as Replica);
      },
    };
    return self as unknown as Replica;
  };
  /** How long each turn took, ms, until nobody stirs any more. */
  const run = (): number[] => {
    const took: number[] = [];
    while (turns.length > 0) {
      const fromMs = nowMs;
      turns.shift()?.();
      took.push(nowMs - fromMs);
    }
    return took;
  };
  return { loop, replica, run, riders, synced, visited, all: Array.from({ length: 64 }, (_, i) => i + 1) };
}

/** Of its own time and the visits between two looks at the clock; ms. */
const longestTurnMs = 15;

t.test('whoever rides along with the frames of a turn does not make it longer', (t) => {
  const { loop, replica, run, riders, visited, all } = crowd();
  riders.push(...all.map((id) => replica(id)));
  loop.stir(replica(0));
  const took = run();
  t.ok(Math.max(...took) <= longestTurnMs, took.join());
  t.same(visited, [0, ...all], 'each once, in their order');
  t.end();
});

t.test('whoever waited for the round that ends in a turn does not make it longer', (t) => {
  const { loop, replica, run, synced, visited, all } = crowd();
  const proposer = replica(-1, (output, self) => {
    if (output.mayPropose(self)) output.persist(self, {} as GroupWrite);
  });
  (proposer as unknown as { durable(): void }).durable = () => {};
  loop.stir(proposer);
  run();
  for (const done of synced.splice(0)) done();
  for (const id of all) loop.proposes(replica(id));
  t.same(run(), [], 'they gather');
  loop.stir(replica(0, (output) => output.allCommitted()));
  const took = run();
  t.ok(Math.max(...took) <= longestTurnMs, took.join());
  t.same(visited, [-1, 0, ...all], 'each once, in their order');
  t.end();
});

t.test('a round is timed from its log write to its commit, one at a time', (t) => {
  let nowMs = 0;
  const turns: (() => void)[] = [];
  const synced: (() => void)[] = [];
  const took: number[] = [];
  const loop = new TurnLoop(
    { monotonicMs: () => nowMs, defer: (run: () => void) => void turns.push(run) } as unknown as Clock,
    { write: (_: unknown, done: () => void) => void synced.push(done), flush: () => false } as unknown as Wal,
    { usedBytes: 0, limitBytes: 1, proposals: 1 },
    () => {},
    () => {},
    () => false,
    (ms) => void took.push(ms),
  );
  const proposing = {
    isStirred: false,
    durable() {},
    collect(output: TurnOutput) {
      if (output.mayPropose(proposing as unknown as Replica))
        output.persist(proposing as unknown as Replica, {} as GroupWrite);
    },
  };
  const round = (): void => {
    loop.stir(proposing as unknown as Replica);
    turns.shift()?.();
  };
  round();
  nowMs = 3;
  synced.shift()?.();
  nowMs = 5;
  // The next one leaves before the first is committed: it is not timed.
  round();
  nowMs = 7;
  loop.allCommitted();
  nowMs = 8;
  synced.shift()?.();
  loop.allCommitted();
  t.same(took, [7]);
  nowMs = 20;
  round();
  nowMs = 22;
  loop.allCommitted();
  t.same(took, [7, 2]);
  // Deposed before the commit: the next round of this node's is timed, not the time between.
  synced.shift()?.();
  round();
  synced.shift()?.();
  nowMs = 60_000;
  round();
  nowMs = 60_004;
  loop.allCommitted();
  t.same(took, [7, 2, 4]);
  t.end();
});
