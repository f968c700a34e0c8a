/**
 * The start of a segment: who it belongs to, where it stands in the chain of
 * batches, and the table of all groups (docs/format.md, "The log").
 */
import { ByteReader, ByteWriter } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import { xxh64Seeded } from '../common/hash.js';
import type { Index, PartitionId, ReplicaId, Term } from '../common/ids.js';

/** Version of header and batches. */
export const logFormatVersion = 1;
/**
 * Headers and batches begin and end on this boundary: nothing acknowledged ever
 * shares a sector, or a page of the kernel's cache, with a later write.
 */
export const alignBytes = 4096;

const magic = Buffer.from('HANSARDL', 'latin1');
const rowsAt = 88;
const rowBytes = 4 + 8 * 8;

/** One group as of the segment's start. */
export interface TableRow {
  readonly partition: PartitionId;
  readonly replicaId: ReplicaId;
  readonly term: Term;
  readonly vote: ReplicaId;
  readonly commit: Index;
  /** The entry before the first one. */
  readonly baseIndex: Index;
  readonly baseTerm: Term;
  readonly lastIndex: Index;
  readonly lastTerm: Term;
}

export interface SegmentHeader {
  readonly segment: number;
  readonly segmentBytes: number;
  /** 16 bytes. */
  readonly clusterId: Uint8Array;
  /** 16 hexadecimal digits. */
  readonly storeId: string;
  /** Random per store; with the segment's number it seeds every checksum, so that no content can look like a batch. */
  readonly salt: bigint;
  /** Number of the segment's first batch. A segment ends where a later one's first batch stands. */
  readonly firstBatch: number;
  /** Checksum of the batch before that one. */
  readonly previous: bigint;
  readonly table: readonly TableRow[];
}

export function headerBytes(groups: number): number {
  return alignUp(rowsAt + groups * rowBytes + 8);
}

export function encodeHeader(header: SegmentHeader): Buffer {
  const bytes = headerBytes(header.table.length);
  const writer = new ByteWriter(bytes)
    .bytes(magic)
    .u16(logFormatVersion)
    .u16(0)
    .u32(bytes)
    .u64(header.segment)
    .u64(header.segmentBytes)
    .bytes(header.clusterId)
    .u64big(BigInt(`0x${header.storeId}`))
    .u64big(header.salt)
    .u64(header.firstBatch)
    .u64big(header.previous)
    .u32(alignBytes)
    .u32(header.table.length);
  for (const row of header.table) {
    writer.u32(row.partition).u64(row.replicaId).u64(row.term).u64(row.vote).u64(row.commit);
    writer.u64(row.baseIndex).u64(row.baseTerm).u64(row.lastIndex).u64(row.lastTerm);
  }
  writer.bytes(Buffer.alloc(bytes - writer.length - 8));
  writer.u64big(xxh64Seeded(writer.view(), BigInt(header.segment)));
  return writer.finish();
}

/** How much of a segment's beginning `decodeHeader` needs, by what its first bytes say. */
export function headerReach(bytes: Buffer): number {
  if (bytes.length < alignBytes || bytes.compare(magic, 0, 8, 0, 8) !== 0) return alignBytes;
  return Math.max(alignBytes, bytes.readUInt32LE(12));
}

/**
 * Undefined where the bytes are not segment `segment`'s header: never written,
 * an older use of the file, torn or damaged. Throws FORMAT_TOO_NEW.
 */
export function decodeHeader(
  bytes: Buffer,
  segment: number,
): { header: SegmentHeader; length: number } | undefined {
  if (bytes.length < alignBytes || bytes.compare(magic, 0, 8, 0, 8) !== 0) return undefined;
  const version = bytes.readUInt16LE(8);
  const length = bytes.readUInt32LE(12);
  if (length < alignBytes || length > bytes.length || length % alignBytes !== 0) return undefined;
  const body = bytes.subarray(0, length - 8);
  if (bytes.readBigUInt64LE(length - 8) !== xxh64Seeded(body, BigInt(segment))) return undefined;
  if (version !== logFormatVersion) {
    throw new HansardError('FORMAT_TOO_NEW', `log segment ${segment} has format ${version}`, {
      format: version,
      known: logFormatVersion,
    });
  }
  const reader = new ByteReader(body, 16);
  const number = reader.u64();
  const segmentBytes = reader.u64();
  const clusterId = Buffer.from(reader.bytes(16));
  const storeId = reader.u64big().toString(16).padStart(16, '0');
  const salt = reader.u64big();
  const firstBatch = reader.u64();
  const previous = reader.u64big();
  const align = reader.u32();
  const count = reader.u32();
  if (number !== segment || align !== alignBytes || headerBytes(count) !== length) return undefined;
  const table: TableRow[] = [];
  for (let i = 0; i < count; i++) {
    table.push({
      partition: reader.u32(),
      replicaId: reader.u64(),
      term: reader.u64(),
      vote: reader.u64(),
      commit: reader.u64(),
      baseIndex: reader.u64(),
      baseTerm: reader.u64(),
      lastIndex: reader.u64(),
      lastTerm: reader.u64(),
    });
  }
  return {
    header: { segment, segmentBytes, clusterId, storeId, salt, firstBatch, previous, table },
    length,
  };
}

/** What seeds every checksum of a segment's batches. */
export function segmentSeed(salt: bigint, segment: number): bigint {
  return BigInt.asUintN(64, salt + BigInt(segment));
}

export function alignUp(bytes: number): number {
  return Math.ceil(bytes / alignBytes) * alignBytes;
}
