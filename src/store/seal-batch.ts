/** Rows of one partition's checkpoint on their way into the (shared) LevelDB batch, counted and digested. */
import { ByteWriter } from '../common/bytes.js';
import type { KvBatch } from '../common/env.js';
import { xxh64Seeded } from '../common/hash.js';
import { checksumOfRow, sealRow } from './rows.js';
import type { Slicer } from './slices.js';

export class SealBatch {
  rowCount = 0;
  bytes = 0;
  /** Chain over the checksums of the rows, which cover key and value. */
  #checksums = new ByteWriter(4096);
  #digest: bigint;

  constructor(
    readonly batch: KvBatch,
    readonly slicer: Slicer,
    previousDigest: bigint,
  ) {
    this.#digest = previousDigest;
  }

  /** Completes and adds a row that `rowWriter` began; then, where the slice is over, a pause. */
  put(key: Uint8Array, writer: ByteWriter): Promise<void> | undefined {
    const row = sealRow(key, writer);
    this.batch.put(key, row);
    this.rowCount++;
    this.bytes += key.length + row.length;
    this.#checksums.u64big(checksumOfRow(row));
    if (this.#checksums.length >= 4096) this.#fold();
    return this.spent(key.length + row.length);
  }

  del(key: Uint8Array): void {
    this.batch.del(key);
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
    this.#checksums = new ByteWriter(4096);
  }
}
