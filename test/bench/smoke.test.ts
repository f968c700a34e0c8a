/** What an append and a page cost in things that can be counted has not changed: `npm run bench -- smoke`. */
import t from 'tap';
import { isWithin, smoke, smokeTable } from '../../bench/harness/smoke.js';

t.setTimeout(600_000);

t.test('every count is in its band', async (t) => {
  const counts = await smoke(() => {});
  for (const count of counts)
    t.ok(
      isWithin(count),
      `${count.load}: ${count.what}: ${count.value.toFixed(1)}, ${count.from} to ${count.to}`,
    );
  t.match(smokeTable([{ load: 'a', what: 'b', value: 3, from: 1, to: 2, why: '' }]), /OUT .*\n1 of 1/);
});
