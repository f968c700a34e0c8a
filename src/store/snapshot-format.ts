/**
 * A partition's sealed state on its way to another store: a manifest, then
 * chunks. A chunk's checksum covers all before it (each is seeded with the one
 * before), so the last one that matches proves that nothing is missing, doubled
 * or out of order. Rows travel with the checksum of the place they come from.
 *
 * Bytes: docs/format.md, "Snapshots".
 */
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import { assert } from '../common/errors.js';
import { xxh64, xxh64Seeded } from '../common/hash.js';
import { type PartitionRecord, partitionRowVersion, readPartition, writePartition } from './state-codec.js';

/** The record as a row of that version has it. */
const manifestVersionMax = 8;
const chunkVersion = 1;
const checksumBytes = 8;
const lastFlag = 1;

/** What a snapshot is of: the partition's record as its last checkpoint sealed it. */
export interface SnapshotManifest {
  /** Of the store that it comes from: blocks are cut alike on all replicas. */
  readonly blockBytes: number;
  readonly record: PartitionRecord;
}

export function encodeManifest({ blockBytes, record }: SnapshotManifest): Buffer {
  const writer = new ByteWriter(512).u8(partitionRowVersion(record)).u32(blockBytes);
  writePartition(writer, record);
  return writer.u64big(xxh64(writer.view())).finish();
}

/** Throws MalformedError. */
export function decodeManifest(bytes: Uint8Array): SnapshotManifest {
  if (bytes.length < checksumBytes + 5) throw new MalformedError('a manifest that is cut short');
  const end = bytes.length - checksumBytes;
  const body = bytes.subarray(0, end);
  if (new ByteReader(bytes, end).u64big() !== xxh64(body)) {
    throw new MalformedError("a manifest's checksum does not match");
  }
  const reader = new ByteReader(body);
  const version = reader.u8();
  if (version < 1 || version > manifestVersionMax)
    throw new MalformedError(`a snapshot of version ${version}`);
  return { blockBytes: reader.u32(), record: readPartition(reader, version) };
}

/** Between two chunks. Opaque to all but the store that made it. */
export interface SnapshotPosition {
  /** Bytes of all chunks before. */
  readonly offset: number;
  readonly rows: number;
  /** Checksum of the chunk before; 0 at the start. */
  readonly checksum: bigint;
  /** The last row before, as keyed where it comes from; undefined at the start. */
  readonly afterKey: Uint8Array | undefined;
}

export const snapshotStart: SnapshotPosition = Object.freeze({
  offset: 0,
  rows: 0,
  checksum: 0n,
  afterKey: undefined,
});

/** One chunk being made: rows in the order of their keys. */
export class ChunkWriter {
  readonly #writer: ByteWriter;
  readonly #from: SnapshotPosition;
  #rows = 0;
  #lastKey: Uint8Array | undefined;

  constructor(from: SnapshotPosition, bytes: number) {
    this.#from = from;
    this.#lastKey = from.afterKey;
    this.#writer = new ByteWriter(bytes + 4096);
    this.#writer.u8(chunkVersion).u8(0).u64(from.offset).u64(from.rows);
  }

  get bytes(): number {
    return this.#writer.length;
  }
  get rows(): number {
    return this.#rows;
  }

  add(key: Uint8Array, ownPart: Uint8Array, row: Uint8Array): void {
    this.#writer
      .u8(key[0] as number)
      .sized(ownPart)
      .sized(row);
    this.#lastKey = key;
    this.#rows++;
  }

  finish(last: boolean): { chunk: Buffer; next: SnapshotPosition } {
    const writer = this.#writer;
    if (last) writer.view()[1] = lastFlag;
    const checksum = xxh64Seeded(writer.view(), this.#from.checksum);
    const chunk = writer.u64big(checksum).finish();
    assert(chunk[1] === (last ? lastFlag : 0), 'the flag is in the chunk');
    return {
      chunk,
      next: {
        offset: this.#from.offset + chunk.length,
        rows: this.#from.rows + this.#rows,
        checksum,
        // Its own bytes: a position outlives the rows it was read with.
        afterKey: this.#lastKey === undefined ? undefined : Uint8Array.from(this.#lastKey),
      },
    };
  }
}

export interface OpenedChunk {
  readonly last: boolean;
  readonly checksum: bigint;
  /** Yields nothing after its last row; throws MalformedError. */
  next(): { kind: number; ownPart: Buffer; row: Buffer } | undefined;
}

/** Verifies that the chunk is the one at `offset` behind `rows` rows and a chunk of `checksum`. Throws MalformedError. */
export function openChunk(chunk: Uint8Array, at: Omit<SnapshotPosition, 'afterKey'>): OpenedChunk {
  const end = chunk.length - checksumBytes;
  if (end < 18) throw new MalformedError('a chunk that is cut short');
  const checksum = new ByteReader(chunk, end).u64big();
  const header = new ByteReader(chunk, 0, end);
  const version = header.u8();
  const flags = header.u8();
  const offset = header.u64();
  const rows = header.u64();
  if (version !== chunkVersion || flags > lastFlag) {
    throw new MalformedError(`a chunk of version ${version} with flags ${flags}`);
  }
  if (offset !== at.offset || rows !== at.rows) {
    throw new MalformedError(`a chunk at ${offset} (row ${rows}) where ${at.offset} (row ${at.rows}) is due`);
  }
  if (xxh64Seeded(chunk.subarray(0, end), at.checksum) !== checksum) {
    throw new MalformedError(`the chunk at ${offset} does not match its checksum`);
  }
  const next = () => {
    if (header.remaining === 0) return undefined;
    return { kind: header.u8(), ownPart: header.sized(), row: header.sized() };
  };
  return { last: flags === lastFlag, checksum, next };
}
