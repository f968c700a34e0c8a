/**
 * A batch: what one write and one fdatasync make durable. Its directory stands at
 * both ends, so that damage in one place leaves it readable; its last eight bytes
 * are the checksum of all before them (docs/format.md, "The log").
 *
 *   'HBAT' | directory | entries | zeros | directory again | its length, 'HEND', checksum
 */
import { ByteReader, MalformedError, ofHalves } from '../common/bytes.js';
import { entryChecksum } from '../common/entry-checksum.js';
import { assert } from '../common/errors.js';
import { xxh64Seeded } from '../common/hash.js';
import { loadScratch, xxh64OfStretch } from '../common/hash-scratch.js';
import type { Index, PartitionId, ReplicaId, Term } from '../common/ids.js';
import type { Entry, HardState } from '../common/log-types.js';
import { writeVarint } from '../common/varint.js';
import { alignBytes, alignUp } from './segment-header.js';

/** What one batch says about one group; a group may have several rows, which count in order. */
export interface BatchRow {
  readonly partition: PartitionId;
  /** Present where the group is new to the log. */
  readonly replicaId?: ReplicaId | undefined;
  /** The log starts behind this entry now: the rest is sealed, or (reset) a snapshot took its place. */
  readonly start?: { readonly index: Index; readonly term: Term; readonly reset: boolean } | undefined;
  readonly hardState?: HardState | undefined;
  readonly entries?: RowEntries | undefined;
}

export interface RowEntries {
  readonly first: Index;
  readonly count: number;
  readonly firstTerm: Term;
  readonly lastTerm: Term;
  /** Length of the entries in the payload, headers included. */
  readonly bytes: number;
}

/** A row to be written. */
export interface RowSource extends Omit<BatchRow, 'entries'> {
  readonly entries: readonly Entry[];
}

export interface BatchPlace {
  readonly segment: number;
  readonly seed: bigint;
  readonly number: number;
  readonly previous: bigint;
}

export interface Batch {
  readonly number: number;
  readonly previous: bigint;
  readonly checksum: bigint;
  readonly bytes: number;
  readonly flags: number;
  readonly rows: readonly BatchRow[];
  /** Offset of the first entry within the batch. */
  readonly payloadAt: number;
}

export const BatchFlag = { closing: 1, rewritten: 2 } as const;

/** checksum u32, size u32, term u48, kind u8, zero u8. */
export const entryHeaderBytes = 16;
const frontMagic = 0x54414248; // 'HBAT'
const endMagic = 0x444e4548; // 'HEND'
const fieldsBytes = 48;
const footBytes = 16;
const flagsAt = 40;
const Has = { replica: 1, start: 2, reset: 4, hardState: 8, entries: 16 } as const;
/** A row at its longest: kind and 13 varints of up to 8 bytes. */
const rowBytesMax = 1 + 13 * 8;

/** Bytes of an entry in the payload. */
export function storedBytes(entry: { readonly sizeBytes: number }): number {
  return entryHeaderBytes + entry.sizeBytes;
}

/** What a batch of `rows` rows and `payload` bytes takes at most, unaligned. */
export function batchBytesMax(rows: number, payload: number): number {
  return 4 + 2 * (fieldsBytes + rows * rowBytesMax + 8) + payload + footBytes;
}

export interface EncodedBatch {
  readonly bytes: number;
  readonly checksum: bigint;
  /** Where its entries begin. */
  readonly payloadAt: number;
}

/**
 * Packs a batch into `target`, which must have room for `batchBytesMax`, aligned.
 * Entries lie in the payload in the rows' order, from `payloadAt` on.
 */
export function encodeBatch(
  target: Buffer,
  place: BatchPlace,
  flags: number,
  rows: readonly RowSource[],
): EncodedBatch {
  let at = 4 + fieldsBytes;
  for (const row of rows) at = putRow(target, at, row);
  const directoryBytes = at + 8 - 4;
  const payloadAt = at + 8;
  at = payloadAt;
  for (const row of rows) {
    for (const entry of row.entries) at = putEntry(target, at, row.partition, entry);
  }
  const bytes = alignUp(at + directoryBytes + footBytes);
  target.fill(0, at, bytes - footBytes - directoryBytes);
  target.writeUInt32LE(frontMagic, 0);
  target.writeUInt32LE(bytes, 4);
  target.writeUInt32LE(directoryBytes, 8);
  target.writeUInt32LE(at - payloadAt, 12);
  target.writeUInt32LE(rows.length, 16);
  putU64(target, 20, place.segment);
  putU64(target, 28, place.number);
  target.writeUInt32LE(flags, flagsAt + 4);
  target.writeUInt32LE(0, flagsAt + 8);
  return { bytes, checksum: finish(target, bytes, directoryBytes, place), payloadAt };
}

/** Moves a batch as it is to another place in the log: the start's rewriting of the last one. */
export function moveBatch(target: Buffer, bytes: number, place: BatchPlace): bigint {
  const directoryBytes = target.readUInt32LE(8);
  putU64(target, 20, place.segment);
  putU64(target, 28, place.number);
  target.writeUInt32LE(target.readUInt32LE(flagsAt + 4) | BatchFlag.rewritten, flagsAt + 4);
  return finish(target, bytes, directoryBytes, place);
}

/** The batch that starts at `at`, wholly verified; undefined where there is none. */
export function readBatch(
  bytes: Buffer,
  at: number,
  place: { segment: number; seed: bigint },
): Batch | undefined {
  const front = readFrontDirectory(bytes, at, place);
  return front === undefined ? undefined : completeBatch(bytes, at, front, place);
}

/** The rest of a batch whose directory was read; leaves it loaded for those who verify its entries. */
export function completeBatch(
  bytes: Buffer,
  at: number,
  front: Batch,
  place: { segment: number; seed: bigint },
): Batch | undefined {
  const end = at + front.bytes;
  if (end > bytes.length || bytes.readUInt32LE(end - 12) !== endMagic) return undefined;
  const checksum = bytes.readBigUInt64LE(end - 8);
  loadScratch(bytes, at, end);
  if (xxh64OfStretch(bytes, at, end - 8, place.seed) !== checksum) return undefined;
  return checksum === front.checksum ? front : { ...front, checksum };
}

/** How much `readFrontDirectory` needs, by what the first bytes say. */
export function directoryReach(bytes: Buffer, at: number, segment: number): number {
  return isFrontOf(bytes, at, segment) ? 4 + bytes.readUInt32LE(at + 8) : alignBytes;
}

/** Looks like the beginning of a batch of this segment; what fails here is none. */
export function isFrontOf(bytes: Buffer, at: number, segment: number): boolean {
  if (at + alignBytes > bytes.length || bytes.readUInt32LE(at) !== frontMagic) return false;
  return readU64(bytes, at + 20) === segment;
}

/** The same of the end of one that ends at `end`; true also where its directory begins before what is at hand. */
export function isEndOf(bytes: Buffer, end: number, segment: number): boolean {
  if (bytes.readUInt32LE(end - 12) !== endMagic) return false;
  const length = bytes.readUInt32LE(end - footBytes);
  if (length < fieldsBytes + 8) return false;
  const at = end - footBytes - length;
  return at < 0 || readU64(bytes, at + 16) === segment;
}

/** The directory at a batch's beginning, whatever became of the rest. */
export function readFrontDirectory(
  bytes: Buffer,
  at: number,
  place: { segment: number; seed: bigint },
): Batch | undefined {
  if (at + alignBytes > bytes.length || bytes.readUInt32LE(at) !== frontMagic) return undefined;
  const length = bytes.readUInt32LE(at + 8);
  const found = readDirectory(bytes, at + 4, length, place);
  if (found === undefined) return undefined;
  const end = at + found.bytes;
  return { ...found, checksum: end <= bytes.length ? bytes.readBigUInt64LE(end - 8) : 0n };
}

/** The directory at the end of a batch that ends at `end`, whatever became of the rest. */
export function readEndDirectory(
  bytes: Buffer,
  end: number,
  place: { segment: number; seed: bigint },
): Batch | undefined {
  if (end < alignBytes || end > bytes.length || bytes.readUInt32LE(end - 12) !== endMagic) return undefined;
  const length = bytes.readUInt32LE(end - footBytes);
  if (length > end - footBytes) return undefined;
  const found = readDirectory(bytes, end - footBytes - length, length, place);
  return found === undefined ? undefined : { ...found, checksum: bytes.readBigUInt64LE(end - 8) };
}

function readDirectory(
  bytes: Buffer,
  at: number,
  length: number,
  place: { segment: number; seed: bigint },
): Batch | undefined {
  if (length < fieldsBytes + 8 || at + length > bytes.length) return undefined;
  if (bytes.readUInt32LE(at + 4) !== length || readU64(bytes, at + 16) !== place.segment) return undefined;
  const covered = bytes.subarray(at, at + length - 8);
  if (xxh64Seeded(covered, place.seed) !== bytes.readBigUInt64LE(at + length - 8)) return undefined;
  const total = bytes.readUInt32LE(at);
  const payload = bytes.readUInt32LE(at + 8);
  if (total % alignBytes !== 0 || total < 4 + 2 * length + payload + footBytes) return undefined;
  try {
    const rows = readRows(new ByteReader(covered, fieldsBytes), bytes.readUInt32LE(at + 12));
    return {
      number: readU64(bytes, at + 24),
      previous: bytes.readBigUInt64LE(at + 32),
      checksum: 0n,
      bytes: total,
      flags: bytes.readUInt32LE(at + flagsAt),
      rows,
      payloadAt: 4 + length,
    };
  } catch (error) {
    if (error instanceof MalformedError) return undefined;
    throw error;
  }
}

function readRows(reader: ByteReader, count: number): BatchRow[] {
  const rows: BatchRow[] = [];
  for (let i = 0; i < count; i++) {
    const has = reader.u8();
    const partition = reader.uvarint();
    const replicaId = has & Has.replica ? reader.uvarint() : undefined;
    const start =
      has & (Has.start | Has.reset)
        ? { index: reader.uvarint(), term: reader.uvarint(), reset: (has & Has.reset) !== 0 }
        : undefined;
    const hardState =
      has & Has.hardState
        ? { term: reader.uvarint(), vote: reader.uvarint(), commit: reader.uvarint() }
        : undefined;
    const entries =
      has & Has.entries
        ? {
            first: reader.uvarint(),
            count: reader.uvarint(),
            firstTerm: reader.uvarint(),
            lastTerm: reader.uvarint(),
            bytes: reader.uvarint(),
          }
        : undefined;
    rows.push({ partition, replicaId, start, hardState, entries });
  }
  reader.end();
  return rows;
}

function putRow(target: Buffer, from: number, row: RowSource): number {
  let has = 0;
  let at = writeVarint(target, from + 1, row.partition);
  if (row.replicaId !== undefined) {
    has |= Has.replica;
    at = writeVarint(target, at, row.replicaId);
  }
  if (row.start !== undefined) {
    has |= row.start.reset ? Has.reset : Has.start;
    at = writeVarint(target, writeVarint(target, at, row.start.index), row.start.term);
  }
  if (row.hardState !== undefined) {
    has |= Has.hardState;
    at = writeVarint(target, at, row.hardState.term);
    at = writeVarint(target, at, row.hardState.vote);
    at = writeVarint(target, at, row.hardState.commit);
  }
  const first = row.entries[0];
  if (first !== undefined) {
    has |= Has.entries;
    let bytes = 0;
    for (const entry of row.entries) bytes += storedBytes(entry);
    at = writeVarint(target, at, first.index);
    at = writeVarint(target, at, row.entries.length);
    at = writeVarint(target, at, first.term);
    at = writeVarint(target, at, (row.entries.at(-1) as Entry).term);
    at = writeVarint(target, at, bytes);
  }
  target[from] = has;
  return at;
}

function putEntry(target: Buffer, at: number, partition: PartitionId, entry: Entry): number {
  const data = entry.data;
  assert(data !== undefined && data.length === entry.sizeBytes, 'an entry to be written brings its data');
  const checksum =
    entry.checksum ??
    entryChecksum(partition, { term: entry.term, index: entry.index, type: entry.type, data });
  target.writeUInt32LE(checksum, at);
  target.writeUInt32LE(data.length, at + 4);
  target.writeUIntLE(entry.term, at + 8, 6);
  target[at + 14] = entry.type;
  target[at + 15] = 0;
  target.set(data, at + entryHeaderBytes);
  return at + entryHeaderBytes + data.length;
}

/** Fills in what is known last: the chain, both directories' checksum, the batch's own. */
function finish(target: Buffer, bytes: number, directoryBytes: number, place: BatchPlace): bigint {
  target.writeBigUInt64LE(place.previous, 36);
  const end = 4 + directoryBytes;
  target.writeBigUInt64LE(xxh64Seeded(target.subarray(4, end - 8), place.seed), end - 8);
  target.copy(target, bytes - footBytes - directoryBytes, 4, end);
  target.writeUInt32LE(directoryBytes, bytes - footBytes);
  target.writeUInt32LE(endMagic, bytes - 12);
  const checksum = xxh64Seeded(target.subarray(0, bytes - 8), place.seed);
  target.writeBigUInt64LE(checksum, bytes - 8);
  return checksum;
}

function putU64(target: Buffer, at: number, value: number): void {
  target.writeUInt32LE(value % 0x1_0000_0000, at);
  target.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4);
}

function readU64(bytes: Buffer, at: number): number {
  return ofHalves(bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4));
}
