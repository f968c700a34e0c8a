import fc from 'fast-check';
import t from 'tap';
import { BufferPool, type Lent } from '../../src/common/buffer-pool.js';
import { InvariantError } from '../../src/common/errors.js';

const MiB = 1024 * 1024;

t.test('what is lent is long enough, and nobody else’s until it is given back', async (t) => {
  fc.assert(
    fc.property(
      fc.array(
        fc.oneof(fc.record({ take: fc.integer({ min: 1, max: 3 * MiB }) }), fc.record({ give: fc.nat() })),
        { maxLength: 60 },
      ),
      (steps) => {
        const pool = new BufferPool(2 * MiB);
        const out: { lent: Lent; mark: number; bytes: number }[] = [];
        let mark = 0;
        for (const step of steps) {
          if ('take' in step) {
            const lent = pool.take(step.take);
            if (lent.bytes.length < step.take) throw new Error(`${lent.bytes.length} for ${step.take}`);
            mark = (mark % 250) + 1;
            lent.bytes.fill(mark, 0, step.take);
            out.push({ lent, mark, bytes: step.take });
          } else if (out.length > 0) {
            const [one] = out.splice(step.give % out.length, 1);
            pool.give(one!.lent);
          }
          for (const { lent, mark, bytes } of out) {
            const whole = lent.bytes[0] === mark && lent.bytes[bytes - 1] === mark;
            if (!whole) throw new Error('two have the same bytes');
          }
        }
      },
    ),
    { numRuns: 100 },
  );
  t.pass('no two share memory');
});

t.test('a buffer is used again, as far as the pool may keep any', async (t) => {
  const pool = new BufferPool(64 * 1024);
  const first = pool.take(60_000);
  const second = pool.take(60_000);
  pool.give(first);
  pool.give(second);
  t.equal(pool.take(50_000), second, 'the newest is kept');
  t.not(pool.take(50_000), first, 'the other was one too many');
});

t.test('sizes that nobody wants any more make room for those that are wanted', async (t) => {
  const pool = new BufferPool(MiB);
  const large = pool.take(MiB);
  const small = pool.take(10_000);
  pool.give(large);
  pool.give(small);
  t.equal(pool.take(10_000), small);
});

t.test('no buffer is longer than half as much again as what was asked for', async (t) => {
  const pool = new BufferPool(MiB);
  for (const asked of [
    4_097,
    6_144,
    6_145,
    8_192,
    8_193,
    65_536,
    65_537,
    MiB,
    MiB + 100,
    1.5 * MiB + 1,
    2 * MiB,
  ]) {
    const { length } = pool.take(asked).bytes;
    t.ok(length >= asked && length <= asked * 1.5, `${length} for ${asked}`);
  }
});

t.test('what is larger than any class is made for its taker alone', async (t) => {
  const pool = new BufferPool(64 * MiB);
  const large = pool.take(5 * MiB);
  t.equal(large.bytes.length, 5 * MiB);
  pool.give(large);
  t.not(pool.take(5 * MiB), large);
});

t.test('a buffer that is given back twice ends the process', async (t) => {
  const pool = new BufferPool(MiB);
  const lent = pool.take(10_000);
  pool.give(lent);
  t.throws(() => pool.give(lent), InvariantError, 'its next two takers would write over each other');
});
