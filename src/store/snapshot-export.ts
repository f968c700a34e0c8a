/**
 * Reading a partition's sealed state for another store: one view of LevelDB for
 * as long as the snapshot is held, from which any part can be read again. So a
 * receiver whose stream broke goes on from where it was.
 */
import type { KvIterator, KvRange, KvSnapshot } from '../common/env.js';
import type { Index, PartitionId, Term } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import { generationKinds, kindRange, ownPartOfKey, type Place, RowKind } from './keys.js';
import type { PartitionState } from './partition-state.js';
import { damaged, isRowSound } from './rows.js';
import { Slicer } from './slices.js';
import { ChunkWriter, encodeManifest, type SnapshotPosition, snapshotStart } from './snapshot-format.js';
import { SnapshotTally } from './snapshot-tally.js';
import type { SnapshotExport } from './types.js';

/**
 * All that a generation has but its checkpoints: the receiver's chain of them is its own.
 * Deleted channels first: what is left of their blocks is nobody's (snapshot-tally.ts).
 */
const exportedKinds: readonly RowKind[] = [
  RowKind.ended,
  ...generationKinds.filter((kind) => kind !== RowKind.checkpoint && kind !== RowKind.ended),
];
/** Rows asked for in one step, at first a quarter of a MiB of full blocks; then as many as make about `stepBytes`. */
const firstStepRows = 16;
const mostStepRows = 1024;
/** Blocks of one channel tell nothing of the next one's, which may be of a MiB each. */
const mostStepBlocks = 32;
const stepBytes = 256 * 1024;

type Row = readonly [Uint8Array, Uint8Array];

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
  /** Of the first `#countedRows` rows: only a reader that has left none of them out has them all counted here. */
  readonly #tally: SnapshotTally;
  #countedRows = 0;
  /** Of the last read that there was more behind. */
  #kept: { readonly at: SnapshotPosition; readonly rows: RowsInOrder } | undefined;
  #isClosed = false;
  readonly #reading = new Set<Promise<unknown>>();

  constructor(state: PartitionState, view: KvSnapshot) {
    const { record } = state.sealed;
    this.#state = state;
    this.#view = view;
    this.#tally = new SnapshotTally(record);
    this.#place = state.place;
    this.partition = record.partition;
    this.index = record.appliedIndex;
    this.term = record.appliedTerm;
    this.confState = record.confState;
    this.manifest = encodeManifest({ blockBytes: state.shared.blockBytes, record });
  }

  read(from: SnapshotPosition, maxBytes: number): ReturnType<SnapshotExport['read']> {
    const work = this.#read(from, maxBytes);
    const ended = () => this.#reading.delete(work);
    this.#reading.add(work);
    work.then(ended, ended);
    return work;
  }

  async #read(from: SnapshotPosition, maxBytes: number) {
    const chunk = new ChunkWriter(from, maxBytes);
    const taken: Row[] = [];
    const rows = this.#rowsFrom(from);
    try {
      const last = await this.#fill(chunk, rows, taken, maxBytes);
      const isCounted = this.#count(from, taken);
      if (last && isCounted) this.#tally.finish();
      const part = chunk.finish(last);
      if (!last) await this.#keep(part.next, rows);
      return { ...part, last };
    } catch (error) {
      await rows.close();
      throw error;
    }
  }

  /** Where the read before ended its iterator stands, with rows that it had read already. */
  #rowsFrom({ offset, rows, checksum, afterKey }: SnapshotPosition): RowsInOrder {
    const kept = this.#kept;
    const { at } = kept ?? {};
    if (kept === undefined || at?.offset !== offset || at.rows !== rows || at.checksum !== checksum)
      return new RowsInOrder(this.#view, this.#place, afterKey);
    // A read that its taker no longer waits for may still be under way beside the next one: neither shares its rows.
    this.#kept = undefined;
    return kept.rows;
  }

  async #keep(at: SnapshotPosition, rows: RowsInOrder): Promise<void> {
    const other = this.#isClosed ? rows : this.#kept?.rows;
    if (!this.#isClosed) this.#kept = { at, rows };
    await other?.close();
  }

  /** False: the chunk is full, and there is more. True: all rows have passed, and nothing is open any more. */
  async #fill(chunk: ChunkWriter, rows: RowsInOrder, taken: Row[], maxBytes: number): Promise<boolean> {
    const slicer = new Slicer(this.#state.shared.clock);
    for (;;) {
      if (!rows.hasRow) {
        if (!(await rows.more())) return true;
        slicer.begin();
      }
      const [key, row] = rows.row;
      if (chunk.rows > 0 && chunk.bytes + row.length > maxBytes) return false;
      // What is damaged here must not look sound elsewhere.
      if (!isRowSound(key, row)) {
        throw damaged(`a row of partition ${this.partition}`, 'its checksum does not match', key);
      }
      chunk.add(key, ownPartOfKey(key), row);
      taken.push([key, row]);
      rows.pass();
      if (slicer.spent(row.length + key.length)) await slicer.pause();
    }
  }

  /** False: some rows before were read by way of another export, or never. Chunks may be cut anew where one is read again. */
  #count({ rows: before }: SnapshotPosition, rows: readonly Row[]): boolean {
    const known = this.#countedRows - before;
    if (known < 0) return false;
    for (const [key, row] of rows.slice(known)) this.#tally.take(key[0] as RowKind, ownPartOfKey(key), row);
    this.#countedRows = Math.max(this.#countedRows, before + rows.length);
    return true;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const kept = this.#kept;
    this.#kept = undefined;
    await kept?.rows.close();
    // LevelDB reads on from a view that is released, whatever lies there by then.
    await Promise.allSettled(this.#reading);
    await this.#view.close();
  }
}

/** The rows that leave, from some key on: kind after kind, read ahead in steps. */
class RowsInOrder {
  readonly #view: KvSnapshot;
  readonly #place: Place;
  #kind: number;
  #afterKey: Uint8Array | undefined;
  #iterator: KvIterator | undefined;
  #rows: Row[] = [];
  #at = 0;
  #stepRows = firstStepRows;
  #stepBytes = 0;

  constructor(view: KvSnapshot, place: Place, afterKey: Uint8Array | undefined) {
    this.#view = view;
    this.#place = place;
    this.#afterKey = afterKey;
    this.#kind = afterKey === undefined ? 0 : exportedKinds.indexOf(afterKey[0] as RowKind);
  }

  get hasRow(): boolean {
    return this.#at < this.#rows.length;
  }

  get row(): Row {
    return this.#rows[this.#at] as Row;
  }

  pass(): void {
    this.#stepBytes += this.row[1].length;
    this.#at++;
  }

  /** Reads on where all are passed; false: there are no more. */
  async more(): Promise<boolean> {
    while (this.#kind < exportedKinds.length) {
      this.#iterator ??= this.#view.iterator(this.#range());
      this.#rows = await this.#iterator.next(this.#nextStepRows());
      this.#at = 0;
      if (this.hasRow) return true;
      await this.close();
      this.#kind++;
      this.#stepRows = firstStepRows;
    }
    return false;
  }

  #nextStepRows(): number {
    const rowBytes = this.#stepBytes / Math.max(1, this.#at);
    const most = exportedKinds[this.#kind] === RowKind.block ? mostStepBlocks : mostStepRows;
    if (rowBytes > 0) this.#stepRows = Math.min(most, 2 * this.#stepRows, Math.ceil(stepBytes / rowBytes));
    this.#stepBytes = 0;
    return this.#stepRows;
  }

  #range(): KvRange {
    const range = kindRange(exportedKinds[this.#kind] as RowKind, this.#place);
    const afterKey = this.#afterKey;
    this.#afterKey = undefined;
    // The smallest key after it is the same with a zero byte.
    return afterKey === undefined ? range : { gte: Buffer.concat([afterKey, Buffer.of(0)]), lt: range.lt };
  }

  async close(): Promise<void> {
    const iterator = this.#iterator;
    this.#iterator = undefined;
    await iterator?.close();
  }
}
