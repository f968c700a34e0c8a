/** The format as it was released: read back for ever, and written the same. UPDATE_GOLDEN=1 writes the file anew. */
import fs from 'node:fs';
import t from 'tap';
import { formatWal } from '../../src/wal/index.js';
import { SimClock, SimRandom } from '../sim/sim-clock.js';
import { SimDisk } from '../sim/sim-disk.js';
import { contents, entry, identity, open, settleOn } from './harness.js';

const golden = new URL('../../../test/wal/golden/log-v1.hex', import.meta.url);
const segmentBytes = 64 * 1024;
const lineBytes = 32;

t.test('a log of version 1', async (t) => {
  const clock = new SimClock();
  const disk = new SimDisk({ clock, random: new SimRandom(1) });
  await settleOn(clock, formatWal(disk.device(), { ...identity, segmentBytes, random: new SimRandom(2) }));
  const wal = await settleOn(clock, open(disk.device(), { clock, segmentBytes }));
  wal.addGroup(3, 0x1_0000_0001);
  wal.addGroup(60, 2);
  const put = (...writes: Parameters<typeof wal.write>[0]): Promise<void> =>
    settleOn(clock, new Promise((resolve) => wal.write(writes, resolve)));
  await put(
    {
      partition: 3,
      hardState: { term: 7, vote: 0x1_0000_0001, commit: 0 },
      entries: [entry(3, 6, 1, 'hello'), entry(3, 7, 2, '')],
    },
    {
      partition: 60,
      hardState: { term: 1, vote: 2, commit: 0 },
      entries: [entry(60, 1, 1, 'x'.repeat(300))],
    },
  );
  wal.group(3)?.compact(1, 6);
  wal.group(60)?.reset(40, 2);
  await put({
    partition: 60,
    hardState: { term: 3, vote: 0, commit: 41 },
    entries: [entry(60, 3, 41, '好')],
  });
  await settleOn(clock, wal.close());
  const segment = disk.segments().find((file) => disk.bytes(file.segment).includes('hello'))?.segment ?? 0;
  const written = dump(segment, disk.bytes(segment));
  if (process.env.UPDATE_GOLDEN === '1') fs.writeFileSync(golden, written);
  const kept = fs.readFileSync(golden, 'utf8');
  t.equal(written, kept, 'is written as it was released');

  const old = new SimDisk({ clock, random: new SimRandom(3) });
  const device = old.device();
  const { segment: number, bytes } = load(kept);
  await settleOn(clock, device.create(number, bytes.length));
  await settleOn(clock, device.write(number, 0, bytes));
  const read = await settleOn(clock, open(old.device(), { clock, segmentBytes }));
  t.same(
    read.groups().map(({ partition, replicaId, hardState }) => ({ partition, replicaId, hardState })),
    [
      { partition: 3, replicaId: 0x1_0000_0001, hardState: { term: 7, vote: 0x1_0000_0001, commit: 1 } },
      { partition: 60, replicaId: 2, hardState: { term: 3, vote: 0, commit: 41 } },
    ],
  );
  const [three, sixty] = read.groups();
  t.same(three && (await settleOn(clock, contents(three))), [{ term: 7, index: 2, text: '' }]);
  t.same(sixty && (await settleOn(clock, contents(sixty))), [{ term: 3, index: 41, text: '好' }]);
  t.equal(three?.term(1), 6);
  t.equal(sixty?.term(40), 2);
});

/** Lines of `offset bytes`, all zeros left out. */
function dump(segment: number, bytes: Buffer): string {
  const lines = [`segment ${segment} ${bytes.length}`];
  for (let at = 0; at < bytes.length; at += lineBytes) {
    const line = bytes.subarray(at, at + lineBytes);
    if (line.some((byte) => byte !== 0))
      lines.push(`${at.toString(16).padStart(6, '0')} ${line.toString('hex')}`);
  }
  return `${lines.join('\n')}\n`;
}

function load(text: string): { segment: number; bytes: Buffer } {
  const [first, ...lines] = text.trim().split('\n');
  const [, segment, size] = (first ?? '').split(' ').map(Number);
  const bytes = Buffer.alloc(size ?? 0);
  for (const line of lines) {
    const [at, hex] = line.split(' ');
    bytes.write(hex ?? '', Number.parseInt(at ?? '', 16), 'hex');
  }
  return { segment: segment ?? 0, bytes };
}
