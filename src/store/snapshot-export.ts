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
import { SnapshotTally } from './snapshot-tally.js';
import type { PartitionRecord } from './state-codec.js';
import type { SnapshotExport } from './types.js';

/**
 * All that a generation has but its checkpoints: the receiver's chain of them is its own.
 * Deleted channels first: what is left of their blocks is nobody's (snapshot-tally.ts).
 */
const exportedKinds: readonly RowKind[] = [
  RowKind.ended,
  ...generationKinds.filter((kind) => kind !== RowKind.checkpoint && kind !== RowKind.ended),
];
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
  /** As it was when the view was taken. */
  readonly #record: PartitionRecord;
  /** Of the rows up to `#countedTo`: only a reader that goes on where it was has them all counted here. */
  #tally: SnapshotTally;
  #countedTo = 0;

  constructor(state: PartitionState, view: KvSnapshot) {
    const { record } = state.sealed;
    this.#state = state;
    this.#view = view;
    this.#record = record;
    this.#tally = new SnapshotTally(record);
    this.#place = state.place;
    this.partition = record.partition;
    this.index = record.appliedIndex;
    this.term = record.appliedTerm;
    this.confState = record.confState;
    this.manifest = encodeManifest({ blockBytes: state.shared.blockBytes, record });
  }

  async read(from: SnapshotPosition, maxBytes: number) {
    const chunk = new ChunkWriter(from, maxBytes);
    const rows: [Uint8Array, Uint8Array][] = [];
    const slicer = new Slicer(this.#state.shared.clock);
    const at = from.afterKey === undefined ? 0 : exportedKinds.indexOf(from.afterKey[0] as RowKind);
    for (let i = at; i < exportedKinds.length; i++) {
      const after = i === at ? from.afterKey : undefined;
      if (!(await this.#readKind(exportedKinds[i] as RowKind, after, chunk, rows, maxBytes, slicer))) {
        const cut = chunk.finish(false);
        this.#count(from.offset, cut.next.offset, rows);
        return { ...cut, last: false };
      }
    }
    const end = chunk.finish(true);
    if (this.#count(from.offset, end.next.offset, rows)) this.#tally.finish();
    return { ...end, last: true };
  }

  /** False: some rows before were read by way of another export, or never. */
  #count(from: number, to: number, rows: readonly (readonly [Uint8Array, Uint8Array])[]): boolean {
    if (from === 0) {
      this.#tally = new SnapshotTally(this.#record);
      this.#countedTo = 0;
    }
    if (from !== this.#countedTo) return false;
    for (const [key, row] of rows) this.#tally.take(key[0] as RowKind, ownPartOfKey(key), row);
    this.#countedTo = to;
    return true;
  }

  /** False: the chunk is full, and there may be more. */
  async #readKind(
    kind: RowKind,
    afterKey: Uint8Array | undefined,
    chunk: ChunkWriter,
    taken: [Uint8Array, Uint8Array][],
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
          taken.push([key, row]);
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
