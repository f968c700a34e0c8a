/** Whose clock is ahead, by clocks that go on while they are read, as real ones do. */
import t from 'tap';
import { ClockWatch } from '../../src/node/clock-watch.js';
import { realClock } from '../../src/node/real-env.js';
import { LocalCluster } from '../support/local-cluster.js';
import { until } from '../support/until.js';

const hourUs = 3_600e6;

/** Moves by 1 µs with each reading. */
function goingClock(aheadUs = 0) {
  let us = 1e15;
  return { nowUs: () => ++us + aheadUs, monotonicMs: () => ++us / 1_000 };
}

t.test('a clock that goes right is not ahead, however often it is read', async (t) => {
  for (const clock of [goingClock(), realClock]) {
    for (const nodes of [1, 3, 5]) {
      const watch = new ClockWatch(1, nodes, clock);
      t.equal(watch.offUs(), 0, 'nobody is heard');
      for (let node = 2; node <= nodes; node++) {
        watch.heard(node, clock.nowUs());
        t.equal(watch.offUs(), 0);
        t.notOk(watch.isPeerAhead(node));
      }
      const before = clock.nowUs();
      t.ok(watch.stampUs() >= before, 'nothing is held back');
    }
  }
});

t.test('one that is an hour ahead of a majority is, and is held back', async (t) => {
  const clock = goingClock(hourUs);
  const watch = new ClockWatch(1, 3, clock);
  watch.heard(2, clock.nowUs() - hourUs);
  watch.heard(3, clock.nowUs() - hourUs);
  t.ok(watch.offUs() > hourUs - 6e6 && watch.offUs() < hourUs);
  t.ok(watch.stampUs() < clock.nowUs() - hourUs + 6e6);
  t.notOk(watch.isPeerAhead(2));
});

t.test(
  'one that is an hour behind a majority stamps what theirs show, and no majority is made of the unknown',
  async (t) => {
    for (const nodes of [3, 5]) {
      const clock = goingClock(-hourUs);
      const watch = new ClockWatch(1, nodes, clock);
      const majority = (nodes + 1) / 2;
      for (let node = 2; node <= majority; node++) watch.heard(node, clock.nowUs() + hourUs);
      t.equal(watch.offUs(), 0, 'too few are heard');
      // The one before has set its clock back meanwhile: of those that are left too few agree.
      watch.heard(2, clock.nowUs());
      watch.heard(majority + 1, clock.nowUs() + hourUs);
      t.equal(watch.offUs(), 0, 'too few agree');
      watch.heard(2, clock.nowUs() + hourUs);
      t.ok(watch.offUs() < 6e6 - hourUs && watch.offUs() > -hourUs);
      t.ok(watch.stampUs() > clock.nowUs() + hourUs - 6e6);
      t.ok(watch.stampUs() < clock.nowUs() + hourUs);
    }
  },
);

t.test('real nodes hand over what they lead when they drain', async (t) => {
  const cluster = await LocalCluster.format({ partitions: 6 });
  t.teardown(() => cluster.end());
  await cluster.startAll();
  const leads = (id: number) =>
    cluster
      .node(id)
      .door?.running.node.replicas()
      .filter((replica) => replica.isLeader).length ?? 0;
  const all = () => leads(1) + leads(2) + leads(3);
  await until('all partitions have leaders, some of them node 1', () => all() === 6 && leads(1) > 0);
  await cluster.node(1).door?.running.node.drain();
  t.equal(leads(1), 0, 'nothing is led where a node has drained');
});
