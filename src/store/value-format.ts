/**
 * Value files: rows that are too large to be rewritten by every compaction of LevelDB lie one behind the
 * other in files of their own, and LevelDB has a pointer in their place (docs/format.md, "Value files").
 */
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import { xxh32, xxh64 } from '../common/hash.js';
import { asBuffer, RowKind, readU64BE, writeU64BE } from './keys.js';
import { bodyAt, checksumOfRow, elsewhere, isRowSound, rowWriter, sealRow } from './rows.js';

const magic = 'HANSARDV';
const formatVersion = 1;
/** checksum u32, key bytes u16, value bytes u32. */
export const recordHeadBytes = 10;
/** A header has two ids and some numbers; a longer one is damage. */
export const valueHeaderBytesMax = 1024;
const recordBytesMax = 128 * 1024 * 1024;
/** Blocks from this size on lie in value files, unless they are to merge, which leaves holes there. */
export const valueBytesMin = 4 * 1024;
/** Of what stands in LevelDB in the place of a value. */
export const pointerBytes = 9 + 28;

export interface ValueFileOwner {
  readonly clusterId: string;
  readonly storeId: string;
}

/** Where a value lies, and the checksum that it states of itself: another one in its place is damage. */
export interface ValuePlace {
  readonly file: number;
  readonly offset: number;
  readonly bytes: number;
  readonly checksum: bigint;
}

/** What LevelDB says of a file. */
export interface ValueFileRecord {
  /** Up to where it is in use; what lies behind was never decided. */
  readonly end: number;
  /** Bytes that no pointer leads to any more. */
  readonly dead: number;
}

export function valueFileName(file: number): string {
  return `values-${String(file).padStart(10, '0')}.val`;
}

/** Undefined: the name is none of a value file. */
export function numberOfValueFile(name: string): number | undefined {
  const match = /^values-(\d{10,16})\.val$/.exec(name);
  return match === null ? undefined : Number(match[1]);
}

export function encodeValueHeader(file: number, owner: ValueFileOwner): Buffer {
  const writer = new ByteWriter(128);
  writer.bytes(Buffer.from(magic)).u16(formatVersion).u16(0).u64(file);
  writer.string(owner.clusterId).string(owner.storeId);
  const bytes = writer.length + 8;
  const view = writer.view(0);
  view.writeUInt16LE(bytes, magic.length + 2);
  return Buffer.from(writer.u64big(xxh64(view)).finish());
}

export interface ValueHeader extends ValueFileOwner {
  readonly file: number;
  /** Where the first record begins. */
  readonly bytes: number;
}

/** Of a file's first bytes, as many as `valueHeaderBytesMax`. Throws MalformedError, FORMAT_TOO_NEW. */
export function decodeValueHeader(start: Uint8Array): ValueHeader {
  const bytes = asBuffer(start);
  if (bytes.length < 20 || bytes.toString('latin1', 0, magic.length) !== magic)
    throw new MalformedError('its header does not begin as one of a value file');
  const length = bytes.readUInt16LE(magic.length + 2);
  if (length < 28 || length > bytes.length) throw new MalformedError('its header is cut short');
  const header = bytes.subarray(0, length - 8);
  if (xxh64(header) !== bytes.readBigUInt64LE(length - 8))
    throw new MalformedError('the checksum of its header does not match');
  const version = bytes.readUInt16LE(magic.length);
  if (version > formatVersion)
    throw new HansardError(
      'FORMAT_TOO_NEW',
      `a value file has version ${version}; this program knows ${formatVersion}`,
    );
  const reader = new ByteReader(header, magic.length + 4);
  const file = reader.u64();
  const clusterId = reader.string();
  const storeId = reader.string();
  reader.end();
  return { file, clusterId, storeId, bytes: length };
}

export function recordBytes(keyBytes: number, valueBytes: number): number {
  return recordHeadBytes + keyBytes + valueBytes;
}

/** Gives where the value begins. */
export function putRecord(target: Buffer, at: number, key: Uint8Array, value: Uint8Array): number {
  const valueAt = at + recordHeadBytes + key.length;
  target.writeUInt16LE(key.length, at + 4);
  target.writeUInt32LE(value.length, at + 6);
  target.set(key, at + recordHeadBytes);
  target.writeUInt32LE(xxh32(target.subarray(at + 4, valueAt)), at);
  target.set(value, valueAt);
  return valueAt;
}

export interface ValueRecord {
  readonly at: number;
  readonly end: number;
  readonly key: Buffer;
  /** Views into what was read. */
  readonly value: Buffer;
}

/**
 * The record at `at` of `bytes`; a number: so many bytes from `at` on are needed first. Throws MalformedError
 * where its head is damaged: what follows can't be found then.
 */
export function readRecord(bytes: Buffer, at: number): ValueRecord | number {
  if (bytes.length - at < recordHeadBytes) return recordHeadBytes;
  const keyBytes = bytes.readUInt16LE(at + 4);
  const valueBytes = bytes.readUInt32LE(at + 6);
  const valueAt = at + recordHeadBytes + keyBytes;
  if (valueBytes > recordBytesMax) throw new MalformedError(`a record of ${valueBytes} bytes`);
  if (bytes.length < valueAt) return valueAt - at;
  if (xxh32(bytes.subarray(at + 4, valueAt)) !== bytes.readUInt32LE(at))
    throw new MalformedError("the checksum of a record's head does not match");
  const end = valueAt + valueBytes;
  if (bytes.length < end) return end - at;
  return { at, end, key: bytes.subarray(at + recordHeadBytes, valueAt), value: bytes.subarray(valueAt, end) };
}

/** What stands in LevelDB in the place of a value. */
export function pointerRow(key: Uint8Array, { file, offset, bytes, checksum }: ValuePlace): Buffer {
  const writer = rowWriter(32, elsewhere).u64(file).u64(offset).u32(bytes).u64big(checksum);
  return sealRow(key, writer);
}

/** Undefined: the row is one itself, or a damaged pointer, which no reader takes for a row. */
export function placeIn(key: Uint8Array, row: Uint8Array): ValuePlace | undefined {
  if (row[0] !== elsewhere || !isRowSound(key, row)) return undefined;
  const reader = new ByteReader(row, bodyAt);
  const place = { file: reader.u64(), offset: reader.u64(), bytes: reader.u32(), checksum: reader.u64big() };
  reader.end();
  return place;
}

/** Is `value` what the place says? */
export function isValueOf({ bytes, checksum }: ValuePlace, value: Uint8Array): boolean {
  return value.length === bytes && checksumOfRow(value) === checksum;
}

export function valueFileKey(file: number): Buffer {
  const key = Buffer.alloc(9);
  key[0] = RowKind.valueFile;
  writeU64BE(key, file, 1);
  return key;
}

export function fileOfKey(key: Uint8Array): number {
  return readU64BE(key, 1);
}

export function valueFileRow(key: Uint8Array, { end, dead }: ValueFileRecord): Buffer {
  return sealRow(key, rowWriter(16).u64(end).u64(dead));
}

export function readValueFileRow(reader: ByteReader): ValueFileRecord {
  const record = { end: reader.u64(), dead: reader.u64() };
  reader.end();
  return record;
}
