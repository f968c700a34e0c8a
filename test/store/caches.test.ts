/** What caches keep in memory stays near what they count: a bound that is not kept ends a node by and by. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import t from 'tap';
import { decodeEntry } from '../../src/conversation/decoded-entry.js';
import { madeAppend, madeEntry, madeEvent } from '../conversation/make.js';
import { applyTo, formatted, opened, simDisk } from './help.js';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;
const KiB = 1024;
const page = { fromSeq: 1, toSeq: Number.MAX_SAFE_INTEGER, maxEvents: 1_000, maxBytes: 1e9 };

/** Bytes of buffers that are alive. */
function bufferBytes(): number {
  gc();
  gc();
  return process.memoryUsage().arrayBuffers;
}

t.test('the block cache holds no more than its share, whichever way blocks are read', async (t) => {
  const channels = 100;
  const cacheBytes = 500 * KiB;
  const disk = await formatted(simDisk(), [0], 4 * KiB);
  const store = await opened(disk, cacheBytes);
  const partition = store.partition(0);
  for (let n = 0; n < channels; n++) {
    // Text that compresses: what is unpacked must not bring more memory than it has bytes.
    const events = Array.from({ length: 12 }, (_, i) => madeEvent(`message ${i} of ${n} `.repeat(30)));
    const time = 1_700_000_000_000_000 + n;
    applyTo(partition, Buffer.from(madeEntry([madeAppend(`channel ${n}`, events)], time)));
  }
  await partition.checkpoint();
  const found = await Promise.all(
    Array.from({ length: channels }, (_, n) => partition.channelByName('default', `channel ${n}`)),
  );
  const before = bufferBytes();
  // Latest pages of ever more channels, all of them polled again and again.
  let read = 0;
  for (let n = 0; n < channels; n++)
    for (let again = n; again >= 0; again--) {
      const channel = found[again];
      if (channel === undefined) throw new Error('a channel is missing');
      read += (await partition.events(channel, { ...page, reverse: true })).length;
    }
  t.equal(read, (12 * channels * (channels + 1)) / 2);
  const kept = bufferBytes() - before;
  t.comment(`${Math.round(kept / KiB)} KiB of buffers are kept by caches of ${cacheBytes / KiB} KiB`);
  t.ok(kept < 0.75 * cacheBytes, `${Math.round(kept / KiB)} KiB are kept`);
  await store.close();
});

t.test('a batch of many keys reads each chunk of them once', async (t) => {
  const disk = await formatted(simDisk(), [0], 4 * KiB);
  let store = await opened(disk, 4_000 * KiB);
  const events = Array.from({ length: 2_000 }, (_, i) => madeEvent(`text ${i}`, { key: `key ${i}` }));
  const entry = Buffer.from(madeEntry([madeAppend('c', events)]));
  applyTo(store.partition(0), entry);
  await store.partition(0).checkpoint();
  await store.close();
  store = await opened(disk, 4_000 * KiB);
  const { handle } = disk;
  if (handle === undefined) throw new Error('the disk has no handle');
  let reads = 0;
  const get = handle.get.bind(handle);
  handle.get = (key) => {
    reads++;
    return get(key);
  };
  await store.partition(0).prefetch(decodeEntry(entry));
  t.ok(reads < 20, `${reads} reads for 2,000 keys in a run of some 100 KiB`);
  const outcome = applyTo(store.partition(0), entry);
  t.match(outcome.answers, [{ kind: 'appended', duplicate: true, firstSeq: 1, count: 2_000 }]);
  t.equal(store.stats().syncReads, 0, 'applying found all of it at hand');
  await store.close();
});

t.test('entries that wait together read each channel once, and all of them together', async (t) => {
  const disk = await formatted(simDisk(), [0], 4 * KiB);
  let store = await opened(disk, 4_000 * KiB);
  const channels = 200;
  const append = (n: number) => madeAppend(`channel ${n}`, [madeEvent(`text ${n}`)]);
  for (let n = 0; n < channels; n++) applyTo(store.partition(0), Buffer.from(madeEntry([append(n)])));
  await store.partition(0).checkpoint();
  await store.close();
  store = await opened(disk, 4_000 * KiB);
  const { handle } = disk;
  if (handle === undefined) throw new Error('the disk has no handle');
  let rows = 0;
  let reads = 0;
  const get = handle.get.bind(handle);
  handle.get = (key) => {
    rows++;
    reads++;
    return get(key);
  };
  const getMany = handle.getMany.bind(handle);
  handle.getMany = (keys) => {
    rows += keys.length;
    reads++;
    return getMany(keys);
  };
  const entries = Array.from({ length: 10 * channels }, (_, n) =>
    Buffer.from(madeEntry([append(n % channels)])),
  );
  const partition = store.partition(0);
  await Promise.all(entries.map((entry) => partition.prefetch(decodeEntry(entry))));
  t.equal(rows, channels, 'rows that were asked for');
  t.ok(reads <= 2, `${reads} reads`);
  for (const entry of entries) applyTo(partition, entry);
  t.equal(store.stats().syncReads, 0, 'applying found all of it at hand');
  await store.close();
});
