/**
 * Verifies the segments that the log counts on, from their files, beside the log's
 * own writing: every batch that is synced must be there, whole and in its place.
 */
import type { PartitionId } from '../common/ids.js';
import type { Pace } from '../store/pace.js';
import type { PieceReader } from '../store/piece-reader.js';
import { type Batch, readBatch, readEndDirectory, readFrontDirectory } from '../wal/batch.js';
import { alignBytes, decodeHeader, type SegmentHeader, segmentSeed } from '../wal/segment-header.js';
import type { LogExtent } from '../wal/types.js';
import type { ScrubFiles } from './scrub-files.js';

export interface LogDamage {
  readonly segment: number;
  readonly offset: number;
  readonly problem: string;
  /** Whose entries it is; undefined: not known, so everybody's. */
  readonly partitions: readonly PartitionId[] | undefined;
}

/** One read; a batch that is larger is read by itself. */
const windowBytes = 1024 * 1024;
/** Enough for the table of 15,000 partitions. */
const headerBytesMax = 1024 * 1024;
/** A batch is at most a segment; what is longer is no length. */
const batchBytesMax = 1024 * 1024 * 1024;

export async function scrubLog(
  files: ScrubFiles,
  extent: () => LogExtent,
  pace: Pace,
  found: (damage: LogDamage) => void,
): Promise<void> {
  for (const segment of extent().segments) {
    const damage = await scrubSegment(files, extent(), segment, pace);
    if (damage === undefined) continue;
    // Given up, and perhaps used again, while it was read.
    if (!extent().segments.includes(segment)) continue;
    found(damage);
  }
}

/** `now`: as of the turn in which it begins, so that the last batch and its segment belong together. */
async function scrubSegment(
  files: ScrubFiles,
  now: LogExtent,
  segment: number,
  pace: Pace,
): Promise<LogDamage | undefined> {
  const damage = (offset: number, problem: string, partitions?: readonly PartitionId[]): LogDamage => ({
    segment,
    offset,
    problem,
    partitions,
  });
  const place = now.segments.indexOf(segment);
  if (place < 0) return undefined;
  const next = now.segments[place + 1];
  const following = next === undefined ? undefined : await headerOf(files, next);
  // The next one's own turn tells.
  if (next !== undefined && following === undefined) return undefined;
  const until = following?.header.firstBatch ?? now.nextBatch;
  const checked = await files.segment(segment, async (file) => {
    const decoded = decodeHeader(await file.read(0, headerBytesMax), segment);
    if (decoded === undefined) return damage(0, 'its header does not verify');
    return walk(file, decoded.header, decoded.length, until, pace, damage);
  });
  if (checked === undefined) return damage(0, 'its file is gone');
  return checked === 'sound' ? undefined : checked;
}

async function headerOf(
  files: ScrubFiles,
  segment: number,
): Promise<{ header: SegmentHeader; length: number } | undefined> {
  return files.segment(segment, async (file) => decodeHeader(await file.read(0, headerBytesMax), segment));
}

/** All batches below `until`. */
async function walk(
  file: PieceReader,
  header: SegmentHeader,
  from: number,
  until: number,
  pace: Pace,
  damage: (offset: number, problem: string, partitions?: readonly PartitionId[]) => LogDamage,
): Promise<LogDamage | 'sound'> {
  const place = { segment: header.segment, seed: segmentSeed(header.salt, header.segment) };
  let at = from;
  let expected = header.firstBatch;
  let chain = header.previous;
  while (expected < until) {
    const window = await file.read(at, at + windowBytes);
    let inWindow = 0;
    let batch = readBatch(window, 0, place) ?? (await readLarge(file, at, window, place));
    if (batch === undefined) {
      return damage(at, `batch ${expected} does not verify`, partitionsAt(window, place));
    }
    for (; batch !== undefined && expected < until; batch = readBatch(window, inWindow, place)) {
      if (batch.number !== expected || batch.previous !== chain) {
        return damage(at, `batch ${batch.number} stands where batch ${expected} should`);
      }
      expected++;
      chain = batch.checksum;
      at += batch.bytes;
      inWindow += batch.bytes;
    }
    await pace.take(inWindow);
  }
  return 'sound';
}

type Place = { readonly segment: number; readonly seed: bigint };

async function readLarge(
  file: PieceReader,
  at: number,
  window: Buffer,
  place: Place,
): Promise<Batch | undefined> {
  if (window.length < alignBytes) return undefined;
  const bytes = window.readUInt32LE(4);
  if (bytes <= window.length || bytes > batchBytesMax || at + bytes > file.size) return undefined;
  return readBatch(await file.read(at, at + bytes), 0, place);
}

/** Of the damaged batch at the window's beginning, where one of its directories can be read. */
function partitionsAt(window: Buffer, place: Place): readonly PartitionId[] | undefined {
  let batch = readFrontDirectory(window, 0, place);
  for (let end = alignBytes; batch === undefined && end <= window.length; end += alignBytes) {
    // The first end that can be read is its own: whatever else begins behind it.
    batch = readEndDirectory(window, end, place);
    if (batch !== undefined && batch.bytes !== end) return undefined;
  }
  return batch === undefined ? undefined : [...new Set(batch.rows.map((row) => row.partition))];
}
