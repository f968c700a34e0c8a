/** Few events at a time become small blocks that merge: their number and how often an event is written are bounded. */
import t from 'tap';
import { RowKind } from '../../src/store/keys.js';
import { mergeFrom, smallBlocksMax } from '../../src/store/seal-events.js';
import type { SmallBlock } from '../../src/store/state-codec.js';
import { madeAppend, madeEntry } from '../conversation/make.js';
import { applyTo, formatted, opened, simDisk } from './help.js';

const blockBytes = 16 * 1024;

/** What many checkpoints of one channel do, by sizes alone. */
function grow(weights: readonly number[]): { written: number; brought: number; mostSmall: number } {
  let small: SmallBlock[] = [];
  let [written, brought, mostSmall] = [0, 0, 0];
  for (const [n, weight] of weights.entries()) {
    const from = mergeFrom(small, weight, blockBytes);
    const whole = small.slice(from).reduce((sum, block) => sum + block.weight, weight);
    written += whole;
    brought += weight;
    const firstSeq = small[from]?.firstSeq ?? n + 1;
    const isSmall = whole < blockBytes / 2;
    small = isSmall ? [...small.slice(0, from), { firstSeq, weight: whole }] : [];
    mostSmall = Math.max(mostSmall, small.length);
  }
  return { written, brought, mostSmall };
}

t.test('an event is written a few times, and few blocks are small', async (t) => {
  const cases: [string, number, (n: number) => number, number][] = [
    ['one of 90 bytes', 20_000, () => 90, 4.5],
    ['one of 290 bytes', 10_000, () => 290, 3.6],
    ['2 KiB', 2_000, () => 2_048, 2],
    ['half a block and more', 2_000, (n) => 8_192 + ((n * 37) % 9_000), 1],
    ['any size', 10_000, (n) => 60 + ((n * 7919) % 6_000), 3],
    ['ever larger', 300, (n) => n * 30, 3],
    ['ever smaller', 300, (n) => 9_000 - n * 30, 3],
    ['one large among many small', 5_000, (n) => (n % 50 === 49 ? 20_000 : 150), 3],
  ];
  for (const [what, count, weight, times] of cases) {
    const { written, brought, mostSmall } = grow(Array.from({ length: count }, (_, n) => weight(n)));
    t.ok(written <= times * brought, `${what}: each byte written ${(written / brought).toFixed(2)} times`);
    t.ok(mostSmall <= smallBlocksMax, `${what}: at most ${mostSmall} small blocks`);
  }
});

t.test('pages are whole while blocks merge under them, whatever is cached', async (t) => {
  const disk = await formatted(simDisk(), [0], blockBytes);
  const store = await opened(disk);
  const partition = store.partition(0);
  const timeUs = 1_700_000_000_000_000;
  const heads: number[] = [];
  let head = 0;
  let reading = true;
  /** Up and down, from the middle too, in every turn that a merge leaves them. */
  const reader = async (step: number) => {
    for (let n = step; reading; n += 7) {
      await new Promise((resolve) => setImmediate(resolve));
      const channel = await partition.channelByName('default', 'talk');
      if (channel === undefined) continue;
      const from = 1 + (n % channel.headSeq);
      for (const reverse of [false, true]) {
        const range = { fromSeq: from, toSeq: channel.headSeq, reverse, maxEvents: 40, maxBytes: 1e6 };
        const page = await partition.events(channel, range);
        const count = Math.min(40, channel.headSeq - from + 1);
        const first = reverse ? channel.headSeq - count + 1 : from;
        const seqs = page.map(({ seq }) => seq);
        if (seqs.length !== count || seqs.some((seq, i) => seq !== first + i)) {
          t.same(seqs, { first, count }, `a page from ${from}`);
          reading = false;
        }
      }
      heads.push(channel.headSeq);
    }
  };
  const readers = [1, 2, 3].map(reader);
  for (let n = 0; n < 300; n++) {
    const events = Array.from(
      { length: 1 + (n % 3) },
      (_, i) => `text ${n} ${i} ${'and on '.repeat((n * 31) % 40)}`,
    );
    applyTo(partition, madeEntry([madeAppend('talk', events)], timeUs + n));
    head += events.length;
    await partition.checkpoint();
    if (n % 60 === 59) await partition.digest();
  }
  reading = false;
  await Promise.all(readers);
  t.ok(new Set(heads).size > 20, `read at ${new Set(heads).size} places`);
  const blocks = [...disk.rows.map.keys()].filter((key) => key.charCodeAt(0) === RowKind.block);
  t.ok(blocks.length < 40, `${head} events are in ${blocks.length} blocks`);
  await store.close();
});

t.test('a merge that makes a large block leaves no small one before it', async (t) => {
  // The one before stayed in the list, and the next merge found a hole behind it (seed 42 of the simulator).
  const store = await opened(await formatted(simDisk(), [0], blockBytes));
  const partition = store.partition(0);
  // Sizes at which eight of them are more than half a block, and with the first less than a whole.
  const sizes = Array.from({ length: 30 }, (_, i) => 850 + 8 * i);
  const channelOf = (size: number): string => `of ${size}`;
  for (let n = 0; n < 30; n++) {
    const commands = sizes.map((size) =>
      madeAppend(channelOf(size), ['x'.repeat(n === 0 || n === 12 ? 7_450 : size)]),
    );
    applyTo(partition, madeEntry(commands, 1_700_000_000_000_000 + n));
    await partition.checkpoint();
  }
  await partition.digest();
  for (const size of sizes) {
    const channel = await partition.channelByName('default', channelOf(size));
    if (channel === undefined) throw new Error('the channel is there');
    const range = { fromSeq: 1, toSeq: 30, reverse: false, maxEvents: 100, maxBytes: 1e6 };
    t.equal((await partition.events(channel, range)).length, 30);
  }
  await store.close();
});
