/** Rows of one partition's checkpoint on their way into the (shared) LevelDB batch, counted and digested. */
import { ByteWriter } from '../common/bytes.js';
import type { KvBatch } from '../common/env.js';
import { assert } from '../common/errors.js';
import { xxh64Seeded } from '../common/hash.js';
import { beginRow, checksumOfRow, type RowVersion, sealRow } from './rows.js';
import type { Slicer } from './slices.js';

/** A row is begun and put within one turn, so all batches may share it. */
const rowScratch = new ByteWriter(32 * 1024);

/** What of a checkpoint's rows may stay in memory, all partitions together. */
export interface Room {
  bytes: number;
}

export class SealBatch {
  rowCount = 0;
  bytes = 0;
  /** Chain over the checksums of the rows, which cover key and value. */
  readonly #checksums = new ByteWriter(4096);
  readonly #writer = rowScratch;
  #writing = false;
  #digest: bigint;

  constructor(
    readonly batch: KvBatch,
    readonly slicer: Slicer,
    previousDigest: bigint,
    readonly room: Room,
  ) {
    this.#digest = previousDigest;
  }

  /** The writer for the next row, to be filled and put in this very turn: all rows share its memory. */
  row(version: RowVersion = 1): ByteWriter {
    assert(!this.#writing, 'one row at a time');
    this.#writing = true;
    return beginRow(this.#writer, version);
  }

  /** Completes and adds the row that `row` began; then, where the slice is over, a pause. */
  put(key: Uint8Array, writer: ByteWriter, soonGone = false): Promise<void> | undefined {
    assert(this.#writing && writer === this.#writer, 'a row is put with the writer it was begun with');
    this.#writing = false;
    const row = sealRow(key, writer);
    // Copied by the batch, so the memory is free for the next row.
    this.batch.put(key, row, soonGone);
    this.rowCount++;
    this.bytes += key.length + row.length;
    this.#checksums.u64big(checksumOfRow(row));
    if (this.#checksums.length >= 4096) this.#fold();
    return this.spent(key.length + row.length);
  }

  /** True: a row of this weight goes to the cache. */
  keeps(weight: number): boolean {
    if (this.room.bytes < weight) return false;
    this.room.bytes -= weight;
    return true;
  }

  /** `bytes`: of the row, where it was just read. */
  del(key: Uint8Array, bytes?: number): void {
    this.batch.del(key, bytes);
  }

  spent(bytes: number): Promise<void> | undefined {
    return this.slicer.spent(bytes) ? this.slicer.pause() : undefined;
  }

  get digest(): bigint {
    this.#fold();
    return this.#digest;
  }

  #fold(): void {
    if (this.#checksums.length === 0) return;
    this.#digest = xxh64Seeded(this.#checksums.finish(), this.#digest);
    this.#checksums.truncate(0);
  }
}
