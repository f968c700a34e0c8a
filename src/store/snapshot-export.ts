/**
 * Reading a partition's sealed state for another store: one view of LevelDB for
 * as long as the snapshot is held, from which any part can be read again. So a
 * receiver whose stream broke goes on from where it was.
 */
import type { KvSnapshot } from '../common/env.js';
import type { Index, PartitionId, Term } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import { generationKinds, kindRange, ownPartOfKey, type Place, RowKind } from './keys.js';
import type { PartitionState } from './partition-state.js';
import { damaged, isRowSound } from './rows.js';
import { Slicer } from './slices.js';
import { ChunkWriter, encodeManifest, type SnapshotPosition, snapshotStart } from './snapshot-format.js';
import type { SnapshotExport } from './types.js';

/** All that a generation has but its checkpoints: the receiver's chain of them is its own. */
const exportedKinds: readonly RowKind[] = generationKinds.filter((kind) => kind !== RowKind.checkpoint);
/** Rows asked for in one step: about a quarter of a MiB of full blocks. */
const rowsAtOnce = 64;

/** Undefined: nothing was ever sealed. Waits for a checkpoint that runs. */
export async function exportPartition(current: () => PartitionState): Promise<SnapshotExport | undefined> {
  // With a batch on its way LevelDB may be before or after it; the record at hand is before.
  for (let state = current(); state.sealing !== undefined; state = current()) await state.sealing;
  const state = current();
  if (state.sealed.record.lastCheckpoint === 0) return undefined;
  return new PartitionExport(state, state.shared.kv.snapshot());
}

class PartitionExport implements SnapshotExport {
  readonly partition: PartitionId;
  readonly index: Index;
  readonly term: Term;
  readonly confState: ConfState;
  readonly manifest: Uint8Array;
  readonly start = snapshotStart;
  readonly #place: Place;
  readonly #state: PartitionState;
  readonly #view: KvSnapshot;

  constructor(state: PartitionState, view: KvSnapshot) {
    const { record } = state.sealed;
    this.#state = state;
    this.#view = view;
    this.#place = state.place;
    this.partition = record.partition;
    this.index = record.appliedIndex;
    this.term = record.appliedTerm;
    this.confState = record.confState;
    this.manifest = encodeManifest({ blockBytes: state.shared.blockBytes, record });
  }

  async read(from: SnapshotPosition, maxBytes: number) {
    const chunk = new ChunkWriter(from, maxBytes);
    const slicer = new Slicer(this.#state.shared.clock);
    const at = from.afterKey === undefined ? 0 : exportedKinds.indexOf(from.afterKey[0] as RowKind);
    for (let i = at; i < exportedKinds.length; i++) {
      const after = i === at ? from.afterKey : undefined;
      if (!(await this.#readKind(exportedKinds[i] as RowKind, after, chunk, maxBytes, slicer))) {
        return { ...chunk.finish(false), last: false };
      }
    }
    return { ...chunk.finish(true), last: true };
  }

  /** False: the chunk is full, and there may be more. */
  async #readKind(
    kind: RowKind,
    afterKey: Uint8Array | undefined,
    chunk: ChunkWriter,
    maxBytes: number,
    slicer: Slicer,
  ): Promise<boolean> {
    const range = kindRange(kind, this.#place);
    // The smallest key after `afterKey` is the same with a zero byte.
    const gte = afterKey === undefined ? range.gte : Buffer.concat([afterKey, Buffer.of(0)]);
    const iterator = this.#view.iterator({ gte, lt: range.lt });
    try {
      for (;;) {
        const rows = await iterator.next(rowsAtOnce);
        slicer.begin();
        for (const [key, row] of rows) {
          if (chunk.rows > 0 && chunk.bytes + row.length > maxBytes) return false;
          // What is damaged here must not look sound elsewhere.
          if (!isRowSound(key, row)) {
            throw damaged(`a row of partition ${this.partition}`, 'its checksum does not match', key);
          }
          chunk.add(key, ownPartOfKey(key), row);
          if (slicer.spent(row.length + key.length)) await slicer.pause();
        }
        if (rows.length < rowsAtOnce) return true;
      }
    } finally {
      await iterator.close();
    }
  }

  close(): Promise<void> {
    return this.#view.close();
  }
}
