/**
 * Which replica generations of a partition may have rows. A snapshot comes in
 * under a new one; whatever is not the current one (the one before it, or one
 * whose install never ended) is deleted in slices, in this life or the next.
 */
import type { ByteReader } from '../common/bytes.js';
import type { Kv, KvBatch } from '../common/env.js';
import type { HansardError } from '../common/errors.js';
import type { Index, PartitionId } from '../common/ids.js';
import { after, generationKey, generationKinds, generationsRange, partitionOfKey, RowKind } from './keys.js';
import { isStoreDamage, openRow, rowWriter, sealRow } from './rows.js';

export interface Generations {
  /** The highest that ever had rows; none is used twice. */
  readonly highest: number;
  /** Only the current one has rows. */
  readonly swept: boolean;
  /** Where the snapshot stood that the current one came as; 0: it was formatted. */
  readonly installedIndex: Index;
}

/** Rows deleted in one batch: a sync each, and a turn that stays short. */
const sweepRows = 256;

export function putGenerations(batch: KvBatch, partition: PartitionId, generations: Generations): void {
  const key = generationKey(partition);
  const writer = rowWriter(16)
    .u32(generations.highest)
    .u8(generations.swept ? 1 : 0);
  batch.put(key, sealRow(key, writer.uvarint(generations.installedIndex)));
}

/** Of the partitions that ever took in a snapshot. `onDamaged` is told of a row that can't be read. */
export async function readGenerations(
  kv: Kv,
  onDamaged: (partition: PartitionId, error: HansardError) => void,
): Promise<Map<PartitionId, Generations>> {
  const found = new Map<PartitionId, Generations>();
  const prefix = Uint8Array.of(RowKind.generation);
  const iterator = kv.iterator({ gte: prefix, lt: after(prefix) });
  const read = (reader: ByteReader): Generations => {
    const generations = { highest: reader.u32(), swept: reader.u8() === 1, installedIndex: reader.uvarint() };
    reader.end();
    return generations;
  };
  try {
    for (;;) {
      const rows = await iterator.next(100);
      if (rows.length === 0) return found;
      for (const [key, row] of rows) {
        const partition = partitionOfKey(key);
        try {
          found.set(partition, openRow(key, row, `the generations of partition ${partition}`, read));
        } catch (error) {
          if (!isStoreDamage(error)) throw error;
          onDamaged(partition, error);
        }
      }
    }
  } finally {
    await iterator.close();
  }
}

/**
 * Deletes the rows of generations `from` to `to`, a synced batch at a time.
 * False: `goOn` said no before the end.
 */
export async function sweepGenerations(
  kv: Kv,
  partition: PartitionId,
  from: number,
  to: number,
  pause: () => Promise<void>,
  goOn: () => boolean,
): Promise<boolean> {
  if (from > to) return true;
  for (const kind of generationKinds) {
    const iterator = kv.iterator(generationsRange(kind, partition, from, to));
    try {
      for (;;) {
        if (!goOn()) return false;
        const rows = await iterator.next(sweepRows);
        if (rows.length === 0) break;
        if (!goOn()) return false;
        const batch = kv.batch();
        for (const [key, row] of rows) batch.del(key, row.length);
        await batch.write();
        await pause();
      }
    } finally {
      await iterator.close();
    }
  }
  return true;
}
