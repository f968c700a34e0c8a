/** The checker against histories whose verdict is known: by hand, by trying all orders, and by others (../shared). */
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import t from 'tap';
import { judgeChannelHistory, readChannelHistory } from './channel-history.js';
import { check, type Model, type Operation } from './checker.js';
import { readRegisterHistory, readTextHistory } from './histories.js';
import { judgeFolder } from './judge.js';
import { absent, channel, type RegisterInput, type RegisterOutput, register } from './models.js';
import { ChannelRecorder } from './recorder.js';

const golden = fileURLToPath(new URL('../../../test/linearizability/golden', import.meta.url));

type RegisterOperation = Operation<RegisterInput, RegisterOutput>;

function op(
  process: string,
  callAt: number,
  returnAt: number,
  input: RegisterInput,
  output: RegisterOutput | undefined,
): RegisterOperation {
  return { process, callAt, returnAt, input, output };
}

t.test('a read that began after a write ended must see it', async (t) => {
  const write = op('a', 1, 2, { kind: 'write', value: '1' }, {});
  const read = (value: string) => op('b', 3, 4, { kind: 'read' }, { value });
  t.equal(check(register, [write, read('1')]).verdict, 'linearizable');
  const stale = check(register, [write, read(absent)]);
  t.equal(stale.verdict, 'not-linearizable');
  t.match(stale, { longest: ['a: write 1'], stuckAt: ['b: read nil'] }, 'it says where it got stuck');
});

t.test('concurrent reads may disagree about a write under way, but not turn back', async (t) => {
  const write = op('a', 1, 10, { kind: 'write', value: '1' }, {});
  const newer = op('b', 2, 3, { kind: 'read' }, { value: '1' });
  const older = op('c', 4, 5, { kind: 'read' }, { value: absent });
  t.equal(check(register, [write, newer, older]).verdict, 'not-linearizable');
  t.equal(check(register, [write, { ...newer, returnAt: 6 }, older]).verdict, 'linearizable');
});

t.test('an operation without a known outcome may have its effect at any time, or never', async (t) => {
  const lost = op('a', 1, Infinity, { kind: 'write', value: '1' }, undefined);
  const read = (at: number, value: string) => op('b', at, at + 1, { kind: 'read' }, { value });
  t.equal(check(register, [lost, read(2, absent)]).verdict, 'linearizable', 'never');
  t.equal(check(register, [lost, read(2, absent), read(4, '1')]).verdict, 'linearizable', 'late');
  t.equal(check(register, [lost, read(2, '1'), read(4, absent)]).verdict, 'not-linearizable', 'not undone');
});

t.test(
  'a cas that failed has seen another value; one of unknown outcome changes only what matches',
  async (t) => {
    const write = op('a', 1, 2, { kind: 'write', value: '1' }, {});
    const cas = (output: RegisterOutput | undefined) =>
      op('b', 3, output === undefined ? Infinity : 4, { kind: 'cas', from: '1', to: '2' }, output);
    const read = (value: string) => op('c', 5, 6, { kind: 'read' }, { value });
    t.equal(check(register, [write, cas({ changed: false })]).verdict, 'not-linearizable');
    t.equal(check(register, [write, cas({ changed: true }), read('1')]).verdict, 'not-linearizable');
    t.equal(check(register, [write, cas(undefined), read('1')]).verdict, 'linearizable');
    t.equal(check(register, [write, cas(undefined), read('2')]).verdict, 'linearizable');
  },
);

t.test('small random histories: the verdict is that of trying all orders', async (t) => {
  const value = fc.constantFrom('1', '2');
  const input: fc.Arbitrary<RegisterInput> = fc.oneof(
    fc.constant({ kind: 'read' as const }),
    value.map((v) => ({ kind: 'write' as const, value: v })),
    fc.tuple(value, value).map(([from, to]) => ({ kind: 'cas' as const, from, to })),
  );
  const operation = fc.record({
    input,
    callAt: fc.nat(12),
    lasts: fc.integer({ min: 1, max: 8 }),
    unknown: fc.nat(5).map((n) => n === 0),
    saw: fc.constantFrom(absent, '1', '2'),
    changed: fc.boolean(),
  });
  let [yes, no] = [0, 0];
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 6 }), (drawn) => {
      const history = drawn.map(({ input, callAt, lasts, unknown, saw, changed }, i) => {
        const output = unknown ? undefined : input.kind === 'read' ? { value: saw } : { changed };
        return op(`p${i}`, callAt, unknown ? Infinity : callAt + lasts, input, output);
      });
      const expected = existsOrder(register, history);
      if (expected) yes++;
      else no++;
      return (check(register, history).verdict === 'linearizable') === expected;
    }),
    { numRuns: 2_000 },
  );
  t.ok(yes > 100 && no > 100, `both verdicts were met: ${yes} and ${no}`);
});

/** Tries every order that time allows, without memory: slow and plainly right. */
function existsOrder<S, I, O>(model: Model<S, I, O>, history: readonly Operation<I, O>[]): boolean {
  const go = (left: readonly Operation<I, O>[], state: S): boolean => {
    if (left.every(({ returnAt }) => returnAt === Infinity)) return true;
    const firstReturn = Math.min(...left.map(({ returnAt }) => returnAt));
    return left.some((next) => {
      if (next.callAt > firstReturn) return false;
      const after = model.step(state, next.input, next.output);
      return (
        after !== undefined &&
        go(
          left.filter((one) => one !== next),
          after,
        )
      );
    });
  };
  return go(history, model.initial);
}

t.test('a search that takes too long says unknown', async (t) => {
  // Writes of equal outcome, all concurrent: as many orders as there are, and none fits the read.
  const writes = Array.from({ length: 18 }, (_, i) =>
    op(`w${i}`, 1, 100, { kind: 'write', value: String(i) }, {}),
  );
  const impossible = op('r', 101, 102, { kind: 'read' }, { value: 'never written' });
  t.equal(check(register, [...writes, impossible], { maxSteps: 10_000 }).verdict, 'unknown');
  t.equal(check(register, [...writes, impossible], { isExpired: () => true }).verdict, 'unknown');
});

t.test('a channel: seqs are given out once, in order, and conditions see the true head', async (t) => {
  const run = (fill: (recorder: ChannelRecorder) => void) => {
    const recorder = new ChannelRecorder();
    fill(recorder);
    return recorder.check().verdict;
  };
  const append = (r: ChannelRecorder, id: string, seq: number, expectedHead?: number) =>
    r.begin('w', { kind: 'append', channel: 'c', id, expectedHead }).returned({ kind: 'appended', seq });
  const read = (r: ChannelRecorder, head: number, ...newest: string[]) =>
    r.begin('r', { kind: 'read', channel: 'c' }).returned({ kind: 'page', head, newest });

  t.equal(
    run((r) => {
      append(r, 'x', 1);
      append(r, 'y', 2, 1);
      read(r, 2, 'x', 'y');
    }),
    'linearizable',
  );
  t.equal(
    run((r) => {
      append(r, 'x', 1);
      append(r, 'y', 1);
    }),
    'not-linearizable',
    'one seq, two messages',
  );
  t.equal(
    run((r) => {
      append(r, 'x', 1);
      append(r, 'y', 2, 0);
    }),
    'not-linearizable',
    'appended though the head was another',
  );
  t.equal(
    run((r) => {
      append(r, 'x', 1);
      r.begin('w', { kind: 'append', channel: 'c', id: 'y', expectedHead: 5 }).returned({
        kind: 'refused',
        actualHead: 0,
      });
    }),
    'not-linearizable',
    'refused with a head that it had before',
  );
  t.equal(
    run((r) => {
      r.begin('w', { kind: 'append', channel: 'c', id: 'lost' });
      append(r, 'x', 2);
      read(r, 2, 'lost', 'x');
    }),
    'linearizable',
    'an unknown append took place',
  );
  t.equal(
    run((r) => {
      r.begin('w', { kind: 'append', channel: 'c', id: 'lost' });
      append(r, 'x', 1);
      read(r, 1, 'x');
      append(r, 'y', 2);
      read(r, 2, 'lost', 'y');
    }),
    'not-linearizable',
    'content that changed',
  );
  t.equal(
    run((r) => {
      append(r, 'x', 1);
      r.begin('w', { kind: 'append', channel: 'c', id: 'z' }).hadNoEffect();
      read(r, 2, 'x', 'z');
    }),
    'not-linearizable',
    'what was surely not appended is there',
  );
});

t.test('a long channel with many writers is judged within the steps of one search', async (t) => {
  const recorder = new ChannelRecorder();
  let seq = 0;
  for (let round = 0; round < 400; round++) {
    const open = Array.from({ length: 8 }, (_, i) =>
      recorder.begin(`w${i}`, { kind: 'append', channel: 'c', id: `${round}/${i}` }),
    );
    for (const one of open) one.returned({ kind: 'appended', seq: ++seq });
    recorder
      .begin('r', { kind: 'read', channel: 'c' })
      .returned({ kind: 'page', head: seq, newest: [`${round}/7`] });
  }
  t.equal(check(channel, recorder.history(), { maxSteps: 200_000 }).verdict, 'linearizable');
});

t.test('malformed histories are named, not guessed at', async (t) => {
  t.throws(() => readTextHistory('{:process 0, :type :ok, :f :get, :key "0", :value "x"}'), {
    name: 'HistoryError',
  });
  t.throws(() => readTextHistory('hello'), { name: 'HistoryError' });
  t.throws(() => readRegisterHistory('x - 0\t:invoke\t:cas\t7'), { name: 'HistoryError' });
});

t.test('histories of channels at every level, one kept and one broken for each promise', async (t) => {
  let count = 0;
  // The sources: histories are not compiled.
  for (const { file, expected, found, detail } of judgeFolder(golden)) {
    count++;
    t.equal(found, expected, `${file} ${detail}`);
  }
  t.equal(count, fs.readdirSync(golden).length);
});

t.test('a history that says less than it must is refused', async (t) => {
  const call = { type: 'append', process: 'a', channel: 'c', id: 'a/c/1', ms: 1 } as const;
  const end = { type: 'appended', process: 'a', ms: 2, seq: 1 } as const;
  const content = { type: 'content', channel: 'c', ids: ['a/c/1'] } as const;
  t.same(judgeChannelHistory([call, end, content]).problems, []);
  t.throws(() => judgeChannelHistory([call, end]), /holds in the end/);
  t.throws(() => judgeChannelHistory([end, content]), /did not begin/);
  t.throws(() => judgeChannelHistory([call, call, content]), /within a call/);
  t.throws(() => readChannelHistory('{"type":"read"'), { name: 'HistoryError' });
});

const shared = path.join(process.env.HANSARD_SHARED ?? '../shared', 'oracles', 'linearizability');
const isThere = fs.existsSync(shared);
t.test(
  'the histories of others, every verdict',
  { skip: !isThere && `${shared} is not there` },
  async (t) => {
    let count = 0;
    for (const { file, expected, found, detail } of judgeFolder(shared)) {
      count++;
      t.equal(found, expected, `${file} ${detail}`);
    }
    t.ok(count >= 56, `${count} histories`);
  },
);
