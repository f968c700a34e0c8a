/**
 * Damage to what a node's log had synced, while no process runs on it: bits, sectors, pages
 * and whole segments. Never to the last batch of all: that is a torn write, as far as anybody
 * can tell, and one batch behind it, or the next segment, is what proves that it was synced.
 */
import { readBatch } from '../../src/wal/batch.js';
import { decodeHeader, segmentSeed } from '../../src/wal/segment-header.js';
import type { SimRandom } from './sim-clock.js';
import type { SimDisk } from './sim-disk.js';

const sectorBytes = 512;
const pageBytes = 4096;

/** What happened, for the history; undefined: there is nothing yet that could be damaged. */
export function damageLog(disk: SimDisk, random: SimRandom): string | undefined {
  const used = disk.segments().flatMap(({ segment }) => usedPart(disk, segment));
  const newest = used.at(-1);
  const kind = random.below(6);
  // Behind the newest one nothing tells of what is gone: among many segments chance seldom meets it.
  const isNewest = kind === 0 && random.below(2) === 0;
  const chosen = isNewest ? newest : used[random.below(Math.max(1, used.length))];
  if (newest === undefined || chosen === undefined) return undefined;
  const { segment } = chosen;
  const end = chosen === newest ? chosen.lastBatch : chosen.end;
  if (kind === 0) {
    disk.lose(segment);
    return `segment ${segment} is gone`;
  }
  const bytes = kind === 1 ? pageBytes : sectorBytes;
  const count = Math.floor(end / bytes);
  if (kind <= 3 && count > 0) {
    const offset = random.below(count) * bytes;
    // A write that went astray: what should stand there is lost, and something else of the log is there.
    const from = kind === 3 ? used[random.below(used.length)] : undefined;
    const content =
      from === undefined
        ? Buffer.alloc(bytes)
        : Buffer.from(disk.bytes(from.segment).subarray(...sectorOf(random, from.end)));
    disk.overwrite(segment, offset, content);
    const what = from === undefined ? 'lost' : `written over by some of segment ${from.segment}`;
    return `${bytes} bytes at ${offset} of segment ${segment}, which ends at ${chosen.end}, are ${what}`;
  }
  const offset = random.below(end);
  disk.flip(segment, offset, 1 << random.below(8));
  return `a bit of byte ${offset} of segment ${segment}, which ends at ${chosen.end}, is flipped`;
}

function sectorOf(random: SimRandom, end: number): [from: number, to: number] {
  const from = random.below(Math.max(1, Math.floor(end / sectorBytes))) * sectorBytes;
  return [from, from + sectorBytes];
}

interface UsedPart {
  readonly segment: number;
  readonly lastBatch: number;
  readonly end: number;
}

/** Of a segment that holds batches. */
function usedPart(disk: SimDisk, segment: number): UsedPart[] {
  const bytes = disk.bytes(segment);
  const decoded = decodeHeader(bytes, segment);
  if (decoded === undefined) return [];
  const place = { segment, seed: segmentSeed(decoded.header.salt, segment) };
  let lastBatch = 0;
  let end = decoded.length;
  for (;;) {
    const batch = readBatch(bytes, end, place);
    if (batch === undefined) break;
    lastBatch = end;
    end += batch.bytes;
  }
  return lastBatch === 0 ? [] : [{ segment, lastBatch, end }];
}
