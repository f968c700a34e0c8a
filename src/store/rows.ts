/**
 * The envelope of every LevelDB value: version u8, xxh64 of key and body, body.
 * The key is part of the checksum, so a value at the wrong place is damage too
 * (LevelDB itself verifies nothing on read).
 */
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import { xxh64Seeded } from '../common/hash.js';
import { rowMatches } from '../common/hash-scratch.js';
import { asBuffer } from './keys.js';

/** The newest that this program reads, of any kind of row. A row is written in the oldest version that can hold it. */
export const rowVersion = 8;
export type RowVersion = 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8;
/** In the place of the version: the row lies in a value file (value-format.ts). `Kv` resolves it; no reader of rows meets one. */
export const elsewhere = 0x80;
/** Where a row's body begins. */
export const bodyAt = 9;

/** A writer whose first bytes are kept for the envelope. */
export function rowWriter(initialBytes = 256, version: RowVersion | typeof elsewhere = 1): ByteWriter {
  return beginRow(new ByteWriter(initialBytes + bodyAt), version);
}

/** The same with a writer that was used before. */
export function beginRow(writer: ByteWriter, version: RowVersion | typeof elsewhere = 1): ByteWriter {
  return writer.truncate(0).u8(version).u64big(0n);
}

/** Completes what `rowWriter` began. */
export function sealRow(key: Uint8Array, writer: ByteWriter): Buffer {
  const row = writer.finish();
  row.writeBigUInt64LE(checksum(key, row), 1);
  return row;
}

/** The checksum that a row states of itself; 0 where it is cut short. */
export function checksumOfRow(row: Uint8Array): bigint {
  return row.length < bodyAt ? 0n : asBuffer(row).readBigUInt64LE(1);
}

/** Does the row's checksum match its key and bytes? */
export function isRowSound(key: Uint8Array, row: Uint8Array): boolean {
  return row.length >= bodyAt && (rowMatches(key, row) ?? checksumOfRow(row) === checksum(key, row));
}

/** The row as it stands under another key. `row` is changed in place. */
export function moveRow(toKey: Uint8Array, row: Buffer): Buffer {
  row.writeBigUInt64LE(checksum(toKey, row), 1);
  return row;
}

/** Verifies and opens a value; `what` names it in the error. */
export function openRow<T>(
  key: Uint8Array,
  row: Uint8Array,
  what: string,
  read: (body: ByteReader, version: number) => T,
): T {
  if (row.length < bodyAt) throw damaged(what, 'it is cut short', key);
  const version = row[0] as number;
  if (!isRowSound(key, row)) throw damaged(what, 'its checksum does not match', key);
  if (version > rowVersion) {
    throw new HansardError(
      'FORMAT_TOO_NEW',
      `${what} has version ${version}; this program knows ${rowVersion}`,
    );
  }
  try {
    return read(new ByteReader(row, bodyAt), version);
  } catch (error) {
    if (error instanceof MalformedError) throw damaged(what, error.message, key);
    throw error;
  }
}

export function damaged(what: string, problem: string, key?: Uint8Array): HansardError {
  const fields = key === undefined ? {} : { key: asBuffer(key).toString('hex') };
  return new HansardError('STORE_DAMAGED', `${what}: ${problem}`, fields);
}

/** The database gives an error in the place of rows: not of those alone that are damaged, but of all near them. */
export function unreadable(problem: string, cause: unknown): HansardError {
  return new HansardError('STORE_DAMAGED', `the database: ${problem}`, { unreadable: true }, { cause });
}

export function isStoreDamage(error: unknown): error is HansardError {
  return error instanceof HansardError && error.reason === 'STORE_DAMAGED';
}

export function isUnreadable(error: unknown): error is HansardError {
  return isStoreDamage(error) && error.fields.unreadable === true;
}

/** The version byte is covered through the seed. */
function checksum(key: Uint8Array, row: Uint8Array): bigint {
  const seed = xxh64Seeded(key, BigInt(row[0] as number));
  return row.length === bodyAt ? xxh64Seeded(empty, seed) : xxh64Seeded(row.subarray(bodyAt), seed);
}
const empty = new Uint8Array(0);
