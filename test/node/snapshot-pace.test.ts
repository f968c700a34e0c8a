/** Snapshots leave as fast as appends do not mind. */
import t from 'tap';
import { SnapshotPace } from '../../src/node/snapshot-pace.js';

const MiB = 1024 * 1024;

/** A node that sends all the time, and commits a round each `everyMs`: in `besideMs`, or `aloneMs` where it has not sent for 200 ms. */
function sending(
  pace: SnapshotPace,
  fromMs: number,
  forMs: number,
  everyMs: number,
  besideMs: () => number,
  aloneMs = 1,
) {
  let sentBytes = 0;
  let freeAtMs = fromMs;
  let sentMs = fromMs;
  let longestRestMs = 0;
  for (let nowMs = fromMs; nowMs < fromMs + forMs; nowMs++) {
    if (everyMs > 0 && nowMs % everyMs === 0)
      pace.committed(nowMs > sentMs + 200 ? aloneMs : besideMs(), nowMs);
    while (freeAtMs <= nowMs) {
      const bytes = pace.chunkBytes(512 * 1024);
      sentBytes += bytes;
      sentMs = nowMs;
      const next = pace.take(bytes, nowMs);
      longestRestMs = Math.max(longestRestMs, next - nowMs);
      freeAtMs = next;
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
  sending(pace, 0, 4_000, 0, () => 0);
  t.equal(pace.bytesPerSecond, 64 * MiB);
  const { perSecond, longestRestMs } = sending(pace, 4_000, 30_000, 0, () => 0);
  t.ok(perSecond > 60 * MiB, `${perSecond}`);
  t.ok(longestRestMs < 50, 'and nobody looks how it would be without');
  t.end();
});

t.test('appends that do not mind leave it all of the rate', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  resting(pace, 0, 5_000, 10, 2);
  sending(pace, 5_000, 5_000, 10, () => 2.5);
  t.equal(pace.bytesPerSecond, 64 * MiB);
  t.end();
});

t.test('it yields to appends that take longer beside it, and finds the rate at which they do not', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  resting(pace, 0, 5_000, 10, 1);
  // Each MiB a second is a tenth of a ms: at 10 of them a round takes twice as long.
  const { perSecond } = sending(pace, 5_000, 60_000, 10, () => 1 + pace.bytesPerSecond / MiB / 10);
  t.ok(perSecond > 6 * MiB && perSecond < 13 * MiB, `${perSecond / MiB}`);
  t.end();
});

t.test('however long appends take, a sixteenth of the rate leaves', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  resting(pace, 0, 5_000, 10, 1);
  const { perSecond } = sending(pace, 5_000, 30_000, 10, () => 100);
  t.ok(perSecond > 3.5 * MiB && perSecond < 5 * MiB, `${perSecond / MiB}`);
  t.end();
});

t.test('appends that began after it, a few a second, are learned of in pauses', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  const begun = sending(pace, 0, 60_000, 90, () => (pace.bytesPerSecond > 20 * MiB ? 10 : 1));
  t.ok(begun.longestRestMs >= 500, 'there are pauses');
  const { perSecond } = sending(pace, 60_000, 60_000, 90, () => (pace.bytesPerSecond > 20 * MiB ? 10 : 1));
  t.ok(perSecond > 4 * MiB && perSecond < 25 * MiB, `${perSecond / MiB}`);
  t.end();
});

t.test('a node with more to do than before is not held at the least rate for ever', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  resting(pace, 0, 5_000, 10, 1);
  sending(pace, 5_000, 10_000, 10, () => 4, 4);
  t.equal(pace.bytesPerSecond, 4 * MiB, 'it takes what others do for its own');
  sending(pace, 15_000, 180_000, 10, () => 4, 4);
  t.equal(pace.bytesPerSecond, 64 * MiB);
  t.end();
});

t.test('chunks are what a few ms may have, and no more than is set', (t) => {
  const pace = new SnapshotPace(64 * MiB);
  t.equal(pace.chunkBytes(512 * 1024), 64 * 1024);
  t.equal(pace.chunkBytes(10_000), 10_000);
  sending(pace, 0, 5_000, 0, () => 0);
  t.equal(pace.chunkBytes(1024 * MiB), 64 * MiB * 0.008);
  t.end();
});

t.test('a rate below a MiB a second is kept as it is', (t) => {
  const pace = new SnapshotPace(64 * 1024);
  t.equal(pace.bytesPerSecond, 64 * 1024);
  const { perSecond } = sending(pace, 0, 60_000, 0, () => 0);
  t.ok(perSecond < 70 * 1024, `${perSecond}`);
  t.end();
});
