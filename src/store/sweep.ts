/**
 * Reads every row of a partition that counts, and verifies each: also those that no
 * reader would meet for years. What is missing the digest finds, which counts.
 */
import type { KvRange } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import { asBuffer, generationKey, generationKinds, kindRange, partitionKey, type RowKind } from './keys.js';
import type { Pace } from './pace.js';
import type { PartitionState } from './partition-state.js';
import { damaged, isRowSound, rowVersion } from './rows.js';

export interface RowDamage {
  /** The row's key in hex; empty: the database gave no row at all. */
  readonly key: string;
  readonly kind: RowKind;
  readonly problem: string;
}

/** One step of an iterator: rows are small, blocks some KiB. */
const rowsAtOnce = 64;

/** Gives how many rows it read. Rejects with the database's own error where it can not be read on. */
export async function sweepRows(
  state: PartitionState,
  pace: Pace,
  found: (damage: RowDamage) => void,
): Promise<number> {
  let rows = 0;
  for (const kind of generationKinds) {
    rows += await sweepRange(state, kind, kindRange(kind, state.place), pace, found);
  }
  const { partition } = state.place;
  for (const key of [partitionKey(partition), generationKey(partition)]) {
    const row = await state.shared.kv.get(key);
    if (row !== undefined && !isRowSound(key, row)) {
      found({ key: key.toString('hex'), kind: key[0] as RowKind, problem: 'its checksum does not match' });
    }
  }
  return rows;
}

async function sweepRange(
  state: PartitionState,
  kind: RowKind,
  range: KvRange,
  pace: Pace,
  found: (damage: RowDamage) => void,
): Promise<number> {
  let rows = 0;
  let from = range.gte;
  for (;;) {
    // A new iterator each time: a long one would keep the database from giving space back.
    const iterator = state.shared.kv.iterator({ gte: from, lt: range.lt, limit: rowsAtOnce });
    let step: [Uint8Array, Uint8Array][];
    try {
      step = await iterator.next(rowsAtOnce);
    } catch (error) {
      if (error instanceof HansardError) throw error;
      throw damaged('the database', error instanceof Error ? error.message : String(error));
    } finally {
      await iterator.close();
    }
    let bytes = 0;
    for (const [key, row] of step) {
      bytes += key.length + row.length;
      const problem = problemOf(key, row);
      if (problem !== undefined) found({ key: asBuffer(key).toString('hex'), kind, problem });
    }
    rows += step.length;
    const last = step.at(-1);
    if (last === undefined || step.length < rowsAtOnce) return rows;
    from = Buffer.concat([last[0], Buffer.of(0)]);
    await pace.take(bytes);
  }
}

function problemOf(key: Uint8Array, row: Uint8Array): string | undefined {
  if (!isRowSound(key, row)) return 'its checksum does not match';
  const version = row[0] as number;
  return version > rowVersion ? `its version ${version} is not known` : undefined;
}
