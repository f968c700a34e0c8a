/** Snapshots leave as fast as appends do not mind. */
import t from 'tap';
import { SnapshotPace } from '../../src/node/snapshot-pace.js';

const MiB = 1024 * 1024;

interface Sending {
  readonly fromMs: number;
  readonly forMs: number;
  /** Between two rounds; 0: nobody appends. */
  readonly everyMs: number;
  /** What a round takes, by whether something left in the last 200 ms. */
  readonly besideMs?: () => number;
  readonly aloneMs?: number;
  /** Chunks of this size at least, as where rows are large. */
  readonly rowBytes?: number;
  readonly transfers?: number;
  readonly isPressed?: boolean;
}

/** Transfers that each ask, read for 2 ms, and send, as the sender's do. */
function sending(pace: SnapshotPace, how: Sending) {
  const { fromMs, forMs, everyMs, besideMs = () => 1, aloneMs = 1, rowBytes = 0, transfers = 1 } = how;
  let sentBytes = 0;
  let sentMs = fromMs;
  let longestRestMs = 0;
  const wakeMs = Array<number>(transfers).fill(fromMs);
  const readingUntilMs = Array<number | undefined>(transfers).fill(undefined);
  for (let nowMs = fromMs; nowMs < fromMs + forMs; nowMs++) {
    if (everyMs > 0 && nowMs % everyMs === 0)
      pace.committed(nowMs > sentMs + 200 ? aloneMs : besideMs(), nowMs);
    for (let i = 0; i < transfers; i++) {
      if ((wakeMs[i] as number) > nowMs) continue;
      const until = readingUntilMs[i];
      if (until === undefined) {
        const waitMs = pace.waitMs(nowMs);
        if (waitMs >= 1) wakeMs[i] = nowMs + Math.min(Math.ceil(waitMs), 100);
        else {
          readingUntilMs[i] = nowMs + 2;
          wakeMs[i] = nowMs + 2;
        }
      } else {
        const bytes = Math.max(rowBytes, pace.chunkBytes(512 * 1024));
        sentBytes += bytes;
        longestRestMs = Math.max(longestRestMs, nowMs - sentMs);
        sentMs = nowMs;
        pace.left(bytes, nowMs, how.isPressed);
        readingUntilMs[i] = undefined;
      }
    }
  }
  return { perSecond: sentBytes / (forMs / 1000), longestRestMs };
}

/** Rounds while nothing is sent. */
function resting(pace: SnapshotPace, fromMs: number, forMs: number, everyMs: number, roundMs: number): void {
  for (let nowMs = fromMs; nowMs < fromMs + forMs; nowMs += everyMs) pace.committed(roundMs, nowMs);
}

t.test('where nobody appends all of the rate is used, after a slow start', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  t.equal(pace.bytesPerSecond, 4 * MiB);
  sending(pace, { fromMs: 0, forMs: 4_000, everyMs: 0 });
  t.equal(pace.bytesPerSecond, 64 * MiB);
  const { perSecond, longestRestMs } = sending(pace, { fromMs: 4_000, forMs: 30_000, everyMs: 0 });
  t.ok(perSecond > 45 * MiB, `${perSecond}`);
  t.ok(longestRestMs < 50, 'and nobody looks how it would be without');
  t.end();
});

t.test('appends that do not mind leave it all of the rate', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  resting(pace, 0, 5_000, 10, 2);
  sending(pace, { fromMs: 5_000, forMs: 5_000, everyMs: 10, besideMs: () => 2.5, aloneMs: 2 });
  t.equal(pace.bytesPerSecond, 64 * MiB);
  t.end();
});

for (const transfers of [1, 2]) {
  t.test(
    `it yields to appends that take longer beside it, and finds the rate at which they do not (${transfers})`,
    (t) => {
      const pace = new SnapshotPace(64 * MiB);
      resting(pace, 0, 5_000, 10, 1);
      // Each MiB a second is a tenth of a ms: at 10 of them a round takes twice as long.
      const besideMs = () => 1 + pace.bytesPerSecond / MiB / 10;
      const { perSecond } = sending(pace, { fromMs: 5_000, forMs: 60_000, everyMs: 10, besideMs, transfers });
      t.ok(perSecond > 6 * MiB && perSecond < 13 * MiB, `${perSecond / MiB}`);
      t.end();
    },
  );

  t.test(`appends that began with it, a few a second, are learned of in pauses (${transfers})`, (t) => {
    const pace = new SnapshotPace(64 * MiB);
    const besideMs = () => (pace.bytesPerSecond > 20 * MiB ? 10 : 1);
    const begun = sending(pace, { fromMs: 0, forMs: 60_000, everyMs: 90, besideMs, transfers });
    t.ok(begun.longestRestMs >= 490, `there are pauses: ${begun.longestRestMs}`);
    const { perSecond } = sending(pace, { fromMs: 60_000, forMs: 60_000, everyMs: 90, besideMs, transfers });
    t.ok(perSecond > 4 * MiB && perSecond < 25 * MiB, `${perSecond / MiB}`);
    t.end();
  });

  t.test(`a node with more to do than before is not held at the least rate for ever (${transfers})`, (t) => {
    const pace = new SnapshotPace(64 * MiB);
    resting(pace, 0, 5_000, 10, 1);
    const loaded = { everyMs: 10, besideMs: () => 4, aloneMs: 4, transfers };
    sending(pace, { fromMs: 5_000, forMs: 10_000, ...loaded });
    t.equal(pace.bytesPerSecond, 4 * MiB, 'it takes what others do for its own');
    sending(pace, { fromMs: 15_000, forMs: 180_000, ...loaded });
    t.equal(pace.bytesPerSecond, 64 * MiB);
    t.end();
  });
}

t.test('however long appends take, a sixteenth of the rate leaves', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  resting(pace, 0, 5_000, 10, 1);
  const { perSecond } = sending(pace, { fromMs: 5_000, forMs: 30_000, everyMs: 10, besideMs: () => 100 });
  t.ok(perSecond > 3 * MiB && perSecond < 5 * MiB, `${perSecond / MiB}`);
  t.end();
});

t.test('where the log grows too large for who waits for it, appends do not hold it back', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  resting(pace, 0, 5_000, 10, 1);
  sending(pace, { fromMs: 5_000, forMs: 5_000, everyMs: 10, besideMs: () => 100 });
  t.equal(pace.bytesPerSecond, 4 * MiB);
  const pressed = { fromMs: 10_000, forMs: 30_000, everyMs: 10, besideMs: () => 100, isPressed: true };
  const { longestRestMs } = sending(pace, pressed);
  t.equal(pace.bytesPerSecond, 64 * MiB);
  t.ok(longestRestMs < 100, 'without pauses');
  t.end();
});

t.test('rows of a MiB each leave pauses, too', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  resting(pace, 0, 5_000, 10, 1);
  const loaded = { everyMs: 10, besideMs: () => 4, aloneMs: 4, rowBytes: MiB };
  sending(pace, { fromMs: 5_000, forMs: 10_000, ...loaded });
  t.equal(pace.bytesPerSecond, 4 * MiB);
  sending(pace, { fromMs: 15_000, forMs: 180_000, ...loaded });
  t.equal(pace.bytesPerSecond, 64 * MiB);
  t.end();
});

t.test('a round of seconds says nothing of how long rounds take', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  pace.committed(30_000, 1);
  resting(pace, 2, 80, 10, 1);
  sending(pace, { fromMs: 1_000, forMs: 20_000, everyMs: 10, besideMs: () => 20 });
  t.equal(pace.bytesPerSecond, 4 * MiB);
  t.end();
});

t.test('chunks are what a few ms may have, and no more than is set', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  t.equal(pace.chunkBytes(512 * 1024), 64 * 1024);
  t.equal(pace.chunkBytes(10_000), 10_000);
  sending(pace, { fromMs: 0, forMs: 5_000, everyMs: 0 });
  t.equal(pace.chunkBytes(1024 * MiB), 64 * MiB * 0.008);
  t.end();
});

t.test('a rate of 64 KiB a second is kept as it is, without pauses', (t) => {
  const pace = new SnapshotPace(64 * 1024);
  t.equal(pace.bytesPerSecond, 64 * 1024);
  const { perSecond, longestRestMs } = sending(pace, { fromMs: 0, forMs: 60_000, everyMs: 10 });
  t.ok(perSecond < 70 * 1024, `${perSecond}`);
  t.ok(longestRestMs < 1_200, `${longestRestMs}`);
  t.end();
});
