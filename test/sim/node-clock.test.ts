/** A node's event loop as the simulator has it: what it does may take time, and all else waits its turn. */
import t from 'tap';
import { BusyLoop } from './busy-loop.js';
import { NodeClock } from './node-clock.js';
import { SimClock, SimRandom } from './sim-clock.js';

/** Everything takes `ms`, and half of it has passed whenever the clock is looked at. */
function busy(ms: number) {
  const world = new SimClock();
  return { world, clock: new NodeClock(world, 0, 1, { nextMs: () => ms, share: () => 0.5 }) };
}

t.test(
  'what comes while the loop is busy is handled in its order, and before the turn it asks for',
  async (t) => {
    const { world, clock } = busy(5);
    const done: string[] = [];
    const arrive = (name: string): void =>
      clock.whenRunning(() => {
        done.push(`${name} at ${world.monotonicMs()}`);
        if (name === 'first') world.defer(() => done.push('turn'));
      });
    world.after(1, () => arrive('first'));
    world.after(2, () => arrive('second'));
    world.after(6, () => arrive('third'));
    await world.run(100);
    t.same(done, ['first at 6', 'turn', 'second at 11', 'third at 16']);

    const quick = new SimClock();
    const order: string[] = [];
    quick.after(1, () => {
      quick.defer(() => order.push('turn'));
      order.push('first');
    });
    quick.after(1, () => order.push('second'));
    await quick.run(2);
    t.same(order, ['first', 'second', 'turn'], 'what is due at one moment comes before what was deferred');
  },
);

t.test('its clock moves on in what it does, never back, and is never ahead of the world', async (t) => {
  const { world, clock } = busy(8);
  const seen: number[] = [];
  const look = (): void => {
    seen.push(clock.monotonicMs());
    t.ok((seen.at(-1) ?? 0) <= world.monotonicMs(), 'what it says of the time is past when others hear it');
  };
  for (const atMs of [1, 3, 30])
    world.after(atMs, () =>
      clock.whenRunning(() => {
        look();
        look();
      }),
    );
  world.after(10, look);
  await world.run(100);
  t.equal(seen.length, 7);
  t.same(
    seen,
    [...seen].sort((a, b) => a - b),
  );
  t.ok((seen[1] ?? 0) > (seen[0] ?? 0));
});

t.test('a timer that is due and waits can be cancelled', async (t) => {
  const { world, clock } = busy(5);
  let fired = false;
  const timer = clock.after(2, () => {
    fired = true;
  });
  world.after(1, () => clock.whenRunning(() => timer.cancel()));
  await world.run(100);
  t.notOk(fired);
});

t.test('a loop is busy for no more than a third of its time, and not at all where nothing takes any', (t) => {
  for (const mostMs of [0, 20]) {
    let nowMs = 0;
    const loop = new BusyLoop({ monotonicMs: () => nowMs }, new SimRandom(1), () => mostMs);
    let sum = 0;
    for (; nowMs < 10_000; nowMs += 0.1) sum += loop.nextMs();
    t.equal(sum > 0, mostMs > 0);
    t.ok(sum <= nowMs / 3, `${sum} of ${nowMs} ms`);
  }
  t.end();
});
