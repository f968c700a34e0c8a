/** Commit times that are ahead of real time: all that waits for its time comes nevertheless. */
import t from 'tap';
import { CommitClock } from '../../src/partition/commit-clock.js';

t.test('where commit time is ahead it goes on at half speed, and real time catches up', async (t) => {
  let ms = 0;
  const clock = new CommitClock(
    () => ms * 1_000,
    () => ms,
  );
  t.equal(clock.nowUs(0), 0);
  const aheadUs = 10_000_000;
  t.equal(clock.nowUs(aheadUs), aheadUs, 'from what was applied');
  ms += 1;
  t.equal(clock.nowUs(aheadUs), aheadUs + 500);
  // What was stamped comes back as applied later: no time is lost.
  for (let i = 1; i <= 1_000; i++) {
    ms += 1;
    clock.nowUs(aheadUs + (i - 1) * 500);
  }
  t.equal(clock.nowUs(aheadUs), aheadUs + 1_001 * 500);
  ms = 20_000;
  t.equal(clock.nowUs(0), 20_000_000);
  ms = 20_003;
  t.equal(clock.nowUs(0), 20_003_000, 'at full speed from there on');
});

t.test('a wall clock that is set back takes no commit time back', async (t) => {
  let [ms, offsetMs] = [0, 90_000_000];
  const clock = new CommitClock(
    () => (ms + offsetMs) * 1_000,
    () => ms,
  );
  const beforeUs = clock.nowUs(0);
  offsetMs = 0;
  ms += 60_000;
  t.equal(clock.nowUs(beforeUs), beforeUs + 30_000_000);
});
