/**
 * Taking in a snapshot: rows go under a new generation while the current one
 * serves, and one batch decides (design rule 8). Until that batch nothing of it
 * counts, after it nothing of the generation before does.
 */
import { MalformedError } from '../common/bytes.js';
import type { KvBatch } from '../common/env.js';
import { assert, type HansardError } from '../common/errors.js';
import { xxh64Seeded } from '../common/hash.js';
import type { Index, PartitionId, Term } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import { checkpointKey, generationKinds, keyOfOwnPart, type Place, partitionKey, RowKind } from './keys.js';
import { loadSealed } from './open.js';
import type { SealedIndex, StoreShared } from './partition-state.js';
import { isRowSound, isUnreadable, moveRow, rowWriter, sealRow } from './rows.js';
import { Slicer } from './slices.js';
import { openChunk, type SnapshotManifest, snapshotStart } from './snapshot-format.js';
import { SnapshotTally } from './snapshot-tally.js';
import { type PartitionRecord, partitionRowVersion, writeCheckpoint, writePartition } from './state-codec.js';
import type { SnapshotInstall } from './types.js';

/** What an install needs of the store. */
export interface InstallHost {
  readonly shared: StoreShared;
  readonly storeId: string;
  /** Runs a write of the store's; its failure ends the store. */
  write(batch: KvBatch): Promise<void>;
  /** Decides: puts what `put` says into one batch and lets `sealed` take the partition over. */
  flip(sealed: SealedIndex, put: (batch: KvBatch) => void): Promise<void>;
  /** The database does not give back what was written to it. */
  unfit(error: HansardError): void;
  /** Nothing more comes: its rows may go. */
  giveUp(generation: number): void;
}

/** Chunks gather for a batch of this size: each is synced, beside what else the disk has to sync. */
const batchBytes = 2 * 1024 * 1024;

const installedKinds: ReadonlySet<number> = new Set(
  generationKinds.filter((kind) => kind !== RowKind.checkpoint),
);

export class PartitionInstall implements SnapshotInstall {
  readonly partition: PartitionId;
  readonly index: Index;
  readonly term: Term;
  readonly confState: ConfState;
  readonly #host: InstallHost;
  readonly #record: PartitionRecord;
  readonly #from: Place;
  readonly #to: Place;
  readonly #tally: SnapshotTally;
  #offset = 0;
  #rows = 0;
  #checksum = snapshotStart.checksum;
  #state: 'open' | 'busy' | 'complete' | 'ended' = 'open';
  #sealed: SealedIndex | undefined;
  /** Taken in, and in no batch yet. */
  #unwritten: [Buffer, Uint8Array][] = [];
  #unwrittenBytes = 0;

  constructor(host: InstallHost, manifest: SnapshotManifest, generation: number) {
    const { record } = manifest;
    this.#host = host;
    this.#record = record;
    this.#tally = new SnapshotTally(record);
    this.partition = record.partition;
    this.index = record.appliedIndex;
    this.term = record.appliedTerm;
    this.confState = record.confState;
    this.#from = { partition: record.partition, generation: record.generation };
    this.#to = { partition: record.partition, generation };
  }

  get offset(): number {
    return this.#offset;
  }

  get isComplete(): boolean {
    return this.#state === 'complete';
  }

  async add(chunk: Uint8Array): Promise<void> {
    assert(this.#state === 'open', 'one chunk at a time, none after the last');
    this.#state = 'busy';
    try {
      await this.#add(chunk);
    } finally {
      // A chunk that was refused has changed nothing: the right one may follow.
      if (this.#state === 'busy') this.#state = this.#sealed === undefined ? 'open' : 'complete';
      else this.#host.giveUp(this.#to.generation);
    }
  }

  async #add(chunk: Uint8Array): Promise<void> {
    const { shared } = this.#host;
    const at = { offset: this.#offset, rows: this.#rows, checksum: this.#checksum };
    const opened = openChunk(chunk, at);
    const slicer = new Slicer(shared.clock);
    const taken: { kind: number; ownPart: Buffer; row: Buffer }[] = [];
    const moved: [Buffer, Uint8Array][] = [];
    for (let next = opened.next(); next !== undefined; next = opened.next()) {
      moved.push(this.#move(next));
      taken.push(next);
      if (slicer.spent(next.row.length + next.ownPart.length)) await slicer.pause();
    }
    // All of the chunk is sound: from here on it counts.
    this.#offset += chunk.length;
    this.#rows += taken.length;
    for (const { kind, ownPart, row } of taken) this.#tally.take(kind as RowKind, ownPart, row);
    for (const row of moved) this.#unwritten.push(row);
    this.#unwrittenBytes += chunk.length;
    this.#checksum = opened.checksum;
    if (opened.last || this.#unwrittenBytes >= batchBytes) await this.#write();
    if (opened.last) await this.#load();
  }

  async #write(): Promise<void> {
    const rows = this.#unwritten;
    this.#unwritten = [];
    this.#unwrittenBytes = 0;
    if (rows.length === 0) return;
    const { shared } = this.#host;
    const batch = shared.kv.batch();
    const slicer = new Slicer(shared.clock);
    for (const [key, row] of rows) {
      batch.put(key, row);
      if (slicer.spent(key.length + row.length)) await slicer.pause();
    }
    await this.#host.write(batch);
  }

  /** Every row is verified as it stood at its old place, then sealed for the new one. */
  #move({ kind, ownPart, row }: { kind: number; ownPart: Buffer; row: Buffer }): [Buffer, Uint8Array] {
    if (!installedKinds.has(kind)) throw new MalformedError(`a row of kind ${kind} in a snapshot`);
    if (!isRowSound(keyOfOwnPart(kind as RowKind, this.#from, ownPart), row)) {
      throw new MalformedError('a row of a snapshot does not match its checksum');
    }
    const key = keyOfOwnPart(kind as RowKind, this.#to, ownPart);
    return [key, moveRow(key, Buffer.from(row))];
  }

  /** All rows are there: reads and counts what an open would, before anything is decided. */
  async #load(): Promise<void> {
    const { shared, storeId } = this.#host;
    this.#tally.finish();
    const number = this.#record.lastCheckpoint + 1;
    const record: PartitionRecord = {
      ...this.#record,
      generation: this.#to.generation,
      firstCheckpoint: number,
      lastCheckpoint: number,
      // A chain of its own begins with all that came.
      lastDigest: xxh64Seeded(Buffer.from(`install ${this.#rows}`), this.#checksum),
    };
    try {
      this.#sealed = await loadSealed(shared.kv, record, storeId);
    } catch (error) {
      if (isUnreadable(error)) this.#host.unfit(error);
      throw error;
    }
  }

  async finish(): Promise<void> {
    const sealed = this.#sealed;
    assert(this.#state === 'complete' && sealed !== undefined, 'an install ends when all of it is there');
    this.#state = 'ended';
    await this.#host.flip(sealed, (batch) => this.#putRecords(batch, sealed.record));
  }

  #putRecords(batch: KvBatch, record: PartitionRecord): void {
    const { lastCheckpoint: number, appliedIndex, appliedTerm, lastDigest } = record;
    const checkpoint = rowWriter(64);
    writeCheckpoint(checkpoint, {
      number,
      appliedIndex,
      appliedTerm,
      rowCount: this.#rows,
      digest: lastDigest,
      previousDigest: 0n,
    });
    const numberKey = checkpointKey(this.#to, number);
    batch.put(numberKey, sealRow(numberKey, checkpoint));
    const writer = rowWriter(512, partitionRowVersion(record));
    writePartition(writer, record);
    const key = partitionKey(record.partition);
    batch.put(key, sealRow(key, writer));
  }

  abandon(): void {
    if (this.#state === 'ended') return;
    const wasBusy = this.#state === 'busy';
    this.#state = 'ended';
    this.#unwritten = [];
    // A batch on its way would land behind the sweep: then `add` gives it up.
    if (!wasBusy) this.#host.giveUp(this.#to.generation);
  }
}
