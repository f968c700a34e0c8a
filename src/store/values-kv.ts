/**
 * A database whose large values lie in files beside it: a `Kv` over another one, which has pointers in their place.
 * Only this knows of value files; what lies above and below sees rows.
 */
import { ownCopy } from '../common/bytes.js';
import type { Kv, KvBatch, KvIterator, KvRange, KvSnapshot, RowsKv } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import { after, formatKey, RowKind } from './keys.js';
import { readOwner } from './level-owner.js';
import { PendingValues } from './pending-values.js';
import { checksumOfRow, isStoreDamage, openRow } from './rows.js';
import { type PointingDatabase, ValueFiles, type ValueLimits, valueLimits } from './value-files.js';
import type { ValueFolder } from './value-folder.js';
import {
  fileOfKey,
  placeIn,
  pointerRow,
  readValueFileRow,
  recordBytes,
  type ValueFileOwner,
  type ValueFileRecord,
  type ValuePlace,
  valueFileKey,
  valueFileRow,
} from './value-format.js';

/** Others are small, or are rewritten often. */
function mayLieElsewhere(key: Uint8Array): boolean {
  return key[0] === RowKind.block;
}

const rowsAtOnce = 1000;

export class ValuesKv implements Kv, PointingDatabase {
  readonly readers = new Readers();
  /** Set once, by `open`. */
  values!: ValueFiles;
  #owner: ValueFileOwner | undefined;

  private constructor(readonly rows: RowsKv) {}

  /** `rows` is its own from here on; where this fails it is still the caller's. */
  static async open(rows: RowsKv, folder: ValueFolder, limits: ValueLimits = valueLimits): Promise<ValuesKv> {
    const kv = new ValuesKv(rows);
    kv.#owner = await ownerIn(rows);
    kv.values = await ValueFiles.open(folder, limits, kv, await knownFiles(rows));
    return kv;
  }

  async get(key: Uint8Array): Promise<Uint8Array | undefined> {
    const reader = this.readers.begin();
    try {
      const row = await this.rows.get(key);
      const place = row === undefined ? undefined : placeIn(key, row);
      return place === undefined ? row : (await this.values.read([place]))[0];
    } finally {
      this.readers.end(reader);
    }
  }

  getSync(key: Uint8Array): Uint8Array | undefined {
    const row = this.rows.getSync(key);
    const place = row === undefined ? undefined : placeIn(key, row);
    return place === undefined ? row : this.values.readSync(place);
  }

  async getMany(keys: Uint8Array[]): Promise<(Uint8Array | undefined)[]> {
    const reader = this.readers.begin();
    try {
      const rows = await this.rows.getMany(keys);
      await this.resolve(
        rows.length,
        (i) => keys[i] as Uint8Array,
        (i) => rows[i],
        (i, row) => {
          rows[i] = row;
        },
      );
      return rows;
    } finally {
      this.readers.end(reader);
    }
  }

  /** Puts the values that lie in files in the place of their pointers. */
  async resolve(
    count: number,
    keyOf: (i: number) => Uint8Array,
    rowOf: (i: number) => Uint8Array | undefined,
    set: (i: number, row: Uint8Array) => void,
  ): Promise<void> {
    const which: number[] = [];
    const places: ValuePlace[] = [];
    for (let i = 0; i < count; i++) {
      const row = rowOf(i);
      const place = row === undefined ? undefined : placeIn(keyOf(i), row);
      if (place === undefined) continue;
      which.push(i);
      places.push(place);
    }
    if (places.length === 0) return;
    for (const [n, value] of (await this.values.read(places)).entries()) set(which[n] as number, value);
  }

  batch(): KvBatch {
    return new ValuesBatch(this);
  }

  iterator(range: KvRange): KvIterator {
    return new ValuesIterator(this, this.rows.iterator(range), this.readers.begin());
  }

  snapshot(): KvSnapshot {
    const snapshot = this.rows.snapshot();
    const reader = this.readers.begin();
    let closed = false;
    return {
      iterator: (range) => new ValuesIterator(this, snapshot.iterator(range), this.readers.begin(reader)),
      close: async () => {
        if (!closed) this.readers.end(reader);
        closed = true;
        await snapshot.close();
      },
    };
  }

  compact(range: KvRange): Promise<void> {
    return this.rows.compact(range);
  }

  sizeOf(range: KvRange): Promise<number> {
    return this.rows.sizeOf(range);
  }

  get reclaimable(): boolean {
    return this.values.reclaimable;
  }

  reclaim(goOn: () => boolean): Promise<void> {
    return this.values.reclaim(goOn);
  }

  async close(): Promise<void> {
    await this.values.close();
    await this.rows.close();
  }

  // ---- for the value files

  /** Known from the opening, or from the row as it was written: the row itself may be damaged later, and is not needed. */
  owner(): ValueFileOwner {
    // A database that no store was made in is nobody's.
    return this.#owner ?? { clusterId: '', storeId: '' };
  }

  tellOwner(key: Uint8Array, row: Uint8Array): void {
    const { clusterId, storeId } = readOwner(key, row);
    this.#owner = { clusterId, storeId };
  }

  async placesOf(keys: Uint8Array[]): Promise<(ValuePlace | undefined)[]> {
    const rows = await this.rows.getMany(keys);
    return rows.map((row, i) => (row === undefined ? undefined : placeIn(keys[i] as Uint8Array, row)));
  }

  async decide(
    pointers: Iterable<[Uint8Array, ValuePlace]>,
    files: ReadonlyMap<number, ValueFileRecord | undefined>,
  ): Promise<void> {
    await writePointing(this.rows.batch(), pointers, files);
  }

  afterReaders(work: () => void): void {
    this.readers.after(work);
  }
}

async function ownerIn(rows: RowsKv): Promise<ValueFileOwner | undefined> {
  const key = formatKey();
  const row = await rows.get(key);
  if (row === undefined) return undefined;
  try {
    return readOwner(key, row);
  } catch (error) {
    // Whoever opens the store in it tells that.
    if (error instanceof HansardError) return undefined;
    throw error;
  }
}

async function knownFiles(rows: RowsKv): Promise<Map<number, ValueFileRecord>> {
  const known = new Map<number, ValueFileRecord>();
  const kind = Buffer.of(RowKind.valueFile);
  const iterator = rows.iterator({ gte: kind, lt: after(kind) });
  try {
    for (;;) {
      const found = await iterator.next(rowsAtOnce);
      for (const [key, row] of found) {
        const file = fileOfKey(key);
        known.set(file, openRow(key, row, `what is known of value file ${file}`, readValueFileRow));
      }
      if (found.length < rowsAtOnce) return known;
    }
  } finally {
    await iterator.close();
  }
}

async function writePointing(
  batch: KvBatch,
  pointers: Iterable<[Uint8Array, ValuePlace]>,
  files: ReadonlyMap<number, ValueFileRecord | undefined>,
): Promise<void> {
  for (const [key, place] of pointers) batch.put(key, pointerRow(key, place));
  for (const [file, record] of files) {
    const key = valueFileKey(file);
    if (record === undefined) batch.del(key);
    else batch.put(key, valueFileRow(key, record));
  }
  await batch.write();
}

class ValuesBatch implements KvBatch {
  readonly #kv: ValuesKv;
  readonly #batch: KvBatch;
  readonly #values = new PendingValues();
  readonly #bytesMin: number;
  /** Whose values may lie in files. */
  readonly #deleted: Uint8Array[] = [];
  /** Beside the moving of values between files, an older value could come back over what this writes. */
  #isAlone = false;
  /** What is known of value files is written too, also of those that nothing changes about. */
  #withAllFiles = false;
  constructor(kv: ValuesKv) {
    this.#kv = kv;
    this.#batch = kv.rows.batch();
    this.#bytesMin = kv.values.limits.valueBytesMin;
  }

  put(key: Uint8Array, value: Uint8Array, soonGone = false): void {
    if (mayLieElsewhere(key)) {
      this.#isAlone = true;
      if (!soonGone && value.length >= this.#bytesMin) {
        this.#values.put(key, value, checksumOfRow(value));
        return;
      }
      this.#values.del(key);
    } else if (key[0] === RowKind.format) {
      // Whoever writes it anew may do so because LevelDB has lost what stands beside it.
      this.#kv.tellOwner(key, value);
      this.#isAlone = true;
      this.#withAllFiles = true;
    }
    this.#batch.put(key, value);
  }

  del(key: Uint8Array, bytes = this.#bytesMin): void {
    if (mayLieElsewhere(key)) {
      this.#isAlone = true;
      this.#values.del(key);
      if (bytes >= this.#bytesMin) this.#deleted.push(ownCopy(key));
    }
    this.#batch.del(key);
  }

  get length(): number {
    return this.#batch.length + this.#values.size;
  }

  async write(): Promise<void> {
    if (this.#isAlone) await this.#kv.values.alone(() => this.#writeValues());
    else await this.#batch.write();
  }

  async #writeValues(): Promise<void> {
    const { values } = this.#kv;
    const places = await this.#kv.placesOf(this.#deleted).catch((error: unknown) => {
      // Only what they leave is not counted then. Who reads them tells the damage, and LevelDB whether it still writes.
      if (isStoreDamage(error)) return [];
      throw error;
    });
    const dead = places.flatMap((place, i) => {
      if (place === undefined) return [];
      const key = this.#deleted[i] as Uint8Array;
      return [{ file: place.file, bytes: recordBytes(key.length, place.bytes) }];
    });
    const { places: pointers, files } = await values.append(this.#values, dead);
    if (this.#withAllFiles)
      for (const [file, record] of values.known) if (!files.has(file)) files.set(file, record);
    await writePointing(this.#batch, pointers, files);
    values.decided(files);
    this.#values.release();
  }

  abandon(): Promise<void> {
    this.#values.release();
    return this.#batch.abandon();
  }
}

class ValuesIterator implements KvIterator {
  readonly #kv: ValuesKv;
  readonly #rows: KvIterator;
  readonly #reader: number;
  #closed = false;

  constructor(kv: ValuesKv, rows: KvIterator, reader: number) {
    this.#kv = kv;
    this.#rows = rows;
    this.#reader = reader;
  }

  async next(count: number): Promise<[Uint8Array, Uint8Array][]> {
    const rows = await this.#rows.next(count);
    // Of a million rows that a start reads none lies elsewhere: closures for each would be felt.
    if (!rows.some(([key]) => mayLieElsewhere(key))) return rows;
    const at = (i: number): [Uint8Array, Uint8Array] => rows[i] as [Uint8Array, Uint8Array];
    await this.#kv.resolve(
      rows.length,
      (i) => at(i)[0],
      (i) => at(i)[1],
      (i, row) => {
        at(i)[1] = row;
      },
    );
    return rows;
  }

  async close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true;
      this.#kv.readers.end(this.#reader);
    }
    await this.#rows.close();
  }
}

/** Readers that may still follow pointers that are no more: a file is only removed behind them. */
class Readers {
  #next = 0;
  /** By when they began; the oldest first. */
  readonly #open = new Map<number, number>();
  #waiting: { readonly before: number; readonly work: () => void }[] = [];

  /** `at`: when the view was taken that is read from. */
  begin(at = this.#next++): number {
    this.#open.set(at, (this.#open.get(at) ?? 0) + 1);
    return at;
  }

  end(at: number): void {
    const left = (this.#open.get(at) as number) - 1;
    if (left > 0) this.#open.set(at, left);
    else this.#open.delete(at);
    if (this.#waiting.length > 0) this.#look();
  }

  after(work: () => void): void {
    this.#waiting.push({ before: this.#next, work });
    this.#look();
  }

  #look(): void {
    const [oldest = this.#next] = this.#open.keys();
    const due = this.#waiting.filter(({ before }) => before <= oldest);
    this.#waiting = this.#waiting.filter(({ before }) => before > oldest);
    for (const { work } of due) work();
  }
}
