import t from 'tap';
import { affinityOf, partitionOf } from '../../src/common/partitioning.js';

t.test('the tag between the first braces decides, if it is not empty', async (t) => {
  const cases: [string, string][] = [
    ['plain', 'plain'],
    ['user{42}/a', '42'],
    ['{}x', '{}x'],
    ['a{b', 'a{b'],
    ['a}b{c}', 'c'],
    ['{{x}}', '{x'],
  ];
  for (const [name, expected] of cases) t.equal(affinityOf(name), expected, name);
  t.equal(partitionOf('acme', 'user{42}/a', 64), partitionOf('acme', 'other{42}', 64));
});

t.test('places are settled: these never change', async (t) => {
  t.equal(partitionOf('', 'general', 64), partitionOf('default', 'general', 64));
  const golden = ['general', 'user{42}/a', '频道', 'ubuntu/2004-11-15_03'].map((name) =>
    partitionOf('', name, 64),
  );
  t.same(golden, [20, 1, 27, 1]);
});
