/** The small parts of a replica: proposals, the producers' order, shared read rounds. */
import fc from 'fast-check';
import t from 'tap';
import type { HansardError } from '../../src/common/errors.js';
import type { CommandAnswer } from '../../src/conversation/types.js';
import { ProducerGate, type Stamped } from '../../src/partition/producer-gate.js';
import { type Proposal, Proposals } from '../../src/partition/proposals.js';
import { ReadQueue } from '../../src/partition/reads.js';

const done: CommandAnswer = { kind: 'done' };

function proposal(bytes = 10, deadlineMs = 1e9): Proposal & { ends: string[] } {
  const ends: string[] = [];
  return {
    command: new Uint8Array(bytes),
    deadlineMs,
    ended: false,
    ends,
    producerId: 0,
    firstCounter: 0,
    count: 0,
    applied: () => ends.push('applied'),
    failed: (error: HansardError) => ends.push(error.reason),
  };
}

t.test('a proposal ends exactly once, whatever the order of events', async (t) => {
  fc.assert(
    fc.property(
      fc.array(
        fc.constantFrom('add', 'propose', 'apply', 'applyOther', 'expire', 'giveUp', 'truncate', 'drop'),
        {
          maxLength: 60,
        },
      ),
      (steps) => {
        const budget = { usedBytes: 0, proposals: 0, limitBytes: 1e9 };
        const table = new Proposals(budget);
        const all: ReturnType<typeof proposal>[] = [];
        let index = 0;
        let applied = 0;
        let term = 1;
        let now = 0;
        for (const step of steps) {
          if (step === 'add') {
            const one = proposal(10, now + 5);
            all.push(one);
            table.add(one);
          } else if (step === 'propose') {
            if (table.hasPending) table.proposed(++index, term, table.takeEntry(25));
          } else if (step === 'apply' && applied < index) {
            applied++;
            table.applied(applied, term, [done, done, done]);
          } else if (step === 'applyOther' && applied < index) {
            applied++;
            table.applied(applied, term + 1, []);
          } else if (step === 'expire') {
            now += 3;
            table.expire(now);
          } else if (step === 'giveUp') table.giveUp(term, 'test');
          else if (step === 'truncate' && index > applied) {
            index = applied;
            term++;
          } else if (step === 'drop') table.rejectPending({ reason: 'NOT_LEADER' } as HansardError);
        }
        table.rejectPending({ reason: 'NOT_LEADER' } as HansardError);
        while (applied < index + 100) table.applied(++applied, term, [done, done, done]);
        table.giveUp(Number.MAX_SAFE_INTEGER, 'end');
        const isGivenBack = budget.usedBytes === 0 && budget.proposals === 0;
        return isGivenBack && all.every((one) => one.ends.length === 1);
      },
    ),
    { numRuns: 500 },
  );
  t.pass('every end is one');
});

t.test('bytes and number of all proposals come back to the budget', async (t) => {
  const budget = { usedBytes: 0, proposals: 0, limitBytes: 1e9 };
  const table = new Proposals(budget);
  for (let i = 0; i < 5; i++) table.add(proposal(100));
  t.match(budget, { usedBytes: 500, proposals: 5 });
  table.proposed(1, 1, table.takeEntry(250));
  table.proposed(2, 1, table.takeEntry(250));
  table.applied(1, 1, [done, done]);
  t.match(budget, { usedBytes: 300, proposals: 3 });
  // A new leader's entry at index 2 proves that ours was cut off.
  table.proposed(2, 3, table.takeEntry(250));
  table.applied(2, 3, [done]);
  t.match(budget, { usedBytes: 0, proposals: 0 });
});

t.test('an entry that was cut off here may still be elsewhere: its outcome is unknown', async (t) => {
  const table = new Proposals({ usedBytes: 0, proposals: 0, limitBytes: 1e9 });
  const one = proposal();
  table.add(one);
  table.proposed(5, 3, table.takeEntry(100));
  table.add(proposal());
  table.proposed(5, 5, table.takeEntry(100));
  // With five replicas one of them may still hold (5, 3), be elected after us, and commit it.
  t.same(one.ends, ['COMMIT_UNKNOWN']);
});

t.test('what was given up no longer counts, whenever its index is reached', async (t) => {
  const budget = { usedBytes: 0, proposals: 0, limitBytes: 1e9 };
  const table = new Proposals(budget);
  for (let i = 1; i <= 3; i++) {
    table.add(proposal(100));
    table.proposed(i, 2, table.takeEntry(100));
  }
  table.applied(1, 2, [done]);
  table.giveUp(2, 'test');
  t.match(budget, { usedBytes: 0, proposals: 0 });
  table.applied(2, 4, []);
  t.match(budget, { usedBytes: 0, proposals: 0 });
  table.add(proposal(100));
  table.proposed(3, 4, table.takeEntry(100));
  table.applied(3, 4, [done]);
  t.match(budget, { usedBytes: 0, proposals: 0 });
});

t.test('an append that waits to be proposed ends by its deadline', async (t) => {
  const budget = { usedBytes: 0, proposals: 0, limitBytes: 1e9 };
  const table = new Proposals(budget);
  const [early, late] = [proposal(10, 50), proposal(10, 500)];
  table.add(early);
  table.add(late);
  table.expire(60);
  t.same([early.ends, late.ends], [['DEADLINE_EXCEEDED'], []]);
  t.match(budget, { usedBytes: 10, proposals: 1 });
  t.same(table.takeEntry(100), [late]);
});

function fakeClock() {
  let now = 0;
  const timers: { at: number; fn: () => void; off: boolean }[] = [];
  return {
    nowUs: () => now * 1000,
    monotonicMs: () => now,
    after(delay: number, fn: () => void) {
      const timer = { at: now + delay, fn, off: false };
      timers.push(timer);
      return {
        cancel() {
          timer.off = true;
        },
      };
    },
    defer: (fn: () => void) => fn(),
    pass(ms: number) {
      now += ms;
      for (const timer of timers.splice(0)) {
        if (timer.off) continue;
        if (timer.at <= now) timer.fn();
        else timers.push(timer);
      }
    },
  };
}

t.test('appends of one producer that overtook one another leave in order', async (t) => {
  fc.assert(
    fc.property(
      fc.shuffledSubarray(
        Array.from({ length: 12 }, (_, i) => i),
        { minLength: 12 },
      ),
      (order) => {
        const went: number[] = [];
        const go = ({ place }: { place: number }) => went.push(place);
        const gate = new ProducerGate<Stamped & { place: number }>(fakeClock(), 200, () => 0, go);
        for (const i of order) gate.enter({ producerId: 7, firstCounter: 1 + i * 3, count: 3, place: i });
        return went.length === 12 && went.every((value, at) => value === at);
      },
    ),
  );
  t.pass('in order');
});

t.test('an append whose predecessor never comes is let go to its refusal', async (t) => {
  const clock = fakeClock();
  const went: string[] = [];
  const gate = new ProducerGate(
    clock,
    200,
    () => 0,
    (_append, wasHeld) => went.push(wasHeld ? 'late' : ''),
  );
  gate.enter({ producerId: 7, firstCounter: 5, count: 1 });
  clock.pass(100);
  t.same(went, []);
  clock.pass(150);
  t.same(went, ['late']);
});

t.test('what rounds tell bounded reads: complete as of the round, once its index is applied', async (t) => {
  const reads = new ReadQueue(0);
  t.equal(reads.stalenessMs(0), undefined);
  t.notOk(reads.isFresh(1e9, 0), 'nothing is known: not even of the longest ago');
  t.resolves(reads.linearizable(0, 1e9));
  const first = reads.startRound(100);
  t.resolves(reads.linearizable(0, 1e9));
  reads.confirmed(first, 10);
  reads.applied(9);
  t.equal(reads.stalenessMs(150), undefined, 'confirmed is not applied');
  const second = reads.startRound(200);
  reads.confirmed(second, 20);
  reads.applied(10);
  t.equal(reads.stalenessMs(250), 150, 'of the first round, by its beginning');
  t.ok(reads.isFresh(400, 250));
  t.notOk(reads.isFresh(149, 250));
  reads.applied(20);
  t.equal(reads.stalenessMs(250), 50);

  t.ok(reads.isFresh(200, 260));
  t.notOk(reads.wantsRound, 'young enough');
  t.ok(reads.isFresh(200, 310), 'older than half of the bound');
  t.ok(reads.wantsRound && reads.isWaiting, 'renewed ahead, nobody waits');
  const renewal = reads.startRound(310);
  t.notOk(reads.wantsRound);
  t.ok(reads.isFresh(200, 399));
  reads.roundFailed(renewal);
  t.notOk(reads.wantsRound, 'a renewal that failed is not repeated by itself');
  t.notOk(reads.isFresh(200, 401), 'a round without an answer renews nothing');
  // Rounds that are confirmed faster than they are applied: the first and the newest count.
  for (const [at, index] of [
    [500, 30],
    [600, 40],
    [700, 50],
  ] as const)
    reads.confirmed(reads.startRound(at), index);
  reads.applied(30);
  t.equal(reads.stalenessMs(700), 200);
  reads.applied(49);
  t.equal(reads.stalenessMs(700), 200);
  reads.applied(50);
  t.equal(reads.stalenessMs(700), 0);
});

t.test('reads that arrive during a round share the next one', async (t) => {
  const reads = new ReadQueue(0);
  const answered: string[] = [];
  const ask = (name: string) =>
    reads.linearizable(0, 1000).then(
      () => answered.push(name),
      (error: HansardError) => answered.push(`${name}: ${error.reason}`),
    );
  ask('a');
  ask('b');
  const first = reads.startRound(0);
  ask('c');
  t.notOk(reads.wantsRound, 'one round at a time');
  reads.confirmed(first, 10);
  reads.applied(9);
  await undefined;
  t.same(answered, [], 'not before the index is applied');
  reads.applied(10);
  await new Promise(setImmediate);
  t.same(answered, ['a', 'b']);
  const second = reads.startRound(100);
  reads.confirmed(first, 10);
  reads.applied(10);
  await new Promise(setImmediate);
  t.same(answered, ['a', 'b'], "an old round's answer confirms nothing");
  reads.confirmed(second, 10);
  reads.applied(10);
  await new Promise(setImmediate);
  t.same(answered, ['a', 'b', 'c']);
  ask('d');
  reads.startRound(200);
  reads.tick(500, 250);
  t.ok(reads.wantsRound, 'an unanswered round is asked again');
  reads.tick(1000, 250);
  await new Promise(setImmediate);
  t.equal(answered[3], 'd: NO_QUORUM');
});
