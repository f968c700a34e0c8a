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
  t.equal(pool.take(40_000), first, 'the one that was kept');
  t.not(pool.take(40_000), second, 'the other was one too many');
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
