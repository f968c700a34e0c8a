/**
 * The real Kv: LevelDB through classic-level. What LevelDB does not promise is
 * added here: a batch is only done when the data *and* the directory are synced,
 * and an existing database is never created anew because CURRENT is missing
 * (LevelDB would delete its tables).
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Level } from 'level';
import type { Kv, KvBatch, KvFactory, KvIterator, KvRange, KvSnapshot } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import { after, formatKey, RowKind } from './keys.js';
import { readOwner } from './level-owner.js';
import { PendingValues } from './pending-values.js';
import { checksumOfRow, openRow } from './rows.js';
import { type PointingDatabase, syncDirectory, ValueFiles } from './value-files.js';
import {
  fileOfKey,
  numberOfValueFile,
  placeIn,
  pointerRow,
  readValueFileRow,
  recordBytes,
  type ValueFileOwner,
  type ValueFileRecord,
  type ValuePlace,
  valueBytesMin,
  valueFileKey,
  valueFileRow,
} from './value-format.js';

const MiB = 1024 * 1024;

/** Large buffer and tables: small rows are rewritten fewer times. */
export const levelDefaults = Object.freeze({
  /** Rows in memory before LevelDB writes a table; up to two of them are held. */
  writeBufferBytes: 128 * MiB,
  tableBytes: 64 * MiB,
  /** LevelDB's cache of table blocks. */
  blockCacheBytes: 32 * MiB,
  maxOpenFiles: 500,
  /** Bytes that an iterator reads ahead in one step. */
  readAheadBytes: 256 * 1024,
});

export interface LevelOptions {
  writeBufferBytes?: number;
  tableBytes?: number;
  blockCacheBytes?: number;
}

/** Rows of one native step. */
const nextvRows = 1000;

const bytesAreBytes = { keyEncoding: 'view', valueEncoding: 'view' } as const;

/** Others are small, or are rewritten often. */
function mayLieElsewhere(key: Uint8Array): boolean {
  return key[0] === RowKind.block;
}

type Database = Level<Uint8Array, Uint8Array>;
/** Of LevelDB's alone: `level` does not name it, since browsers have none. */
interface Compacting {
  compactRange(from: Uint8Array, to: Uint8Array): Promise<void>;
  approximateSize(from: Uint8Array, to: Uint8Array): Promise<number>;
}
type LevelSnapshot = ReturnType<Database['snapshot']>;
/** `batch()` without operations is the chained one; ReturnType sees only the last of its forms. */
type LevelChainedBatch = ReturnType<typeof chained>;
const chained = (database: Database) => database.batch();

export function levelKvFactory(options: LevelOptions = {}): KvFactory {
  return { open: (path, how) => openLevel(path, how.create, options) };
}

async function openLevel(path: string, create: boolean, options: LevelOptions): Promise<Kv> {
  if (!create) await refuseMissing(path);
  const database: Database = new Level<Uint8Array, Uint8Array>(path, bytesAreBytes);
  try {
    await database.open({
      createIfMissing: create,
      errorIfExists: false,
      // Content is compressed before LevelDB sees it.
      compression: false,
      writeBufferSize: options.writeBufferBytes ?? levelDefaults.writeBufferBytes,
      maxFileSize: options.tableBytes ?? levelDefaults.tableBytes,
      cacheSize: options.blockCacheBytes ?? levelDefaults.blockCacheBytes,
      maxOpenFiles: levelDefaults.maxOpenFiles,
    });
  } catch (error) {
    throw openError(path, error);
  }
  try {
    await syncDirectory(path);
    return await LevelKv.open(database, path);
  } catch (error) {
    await database.close();
    throw error;
  }
}

/** Looks before LevelDB does: its own check comes after it has begun to change files. */
async function refuseMissing(path: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    names = [];
  }
  if (names.includes('CURRENT')) return;
  if (names.some((name) => /^(MANIFEST-\d+|\d+\.(ldb|sst|log))$/.test(name) || numberOfValueFile(name))) {
    throw new HansardError('STORE_DAMAGED', `the database in ${path} has lost its file CURRENT`, { path });
  }
  throw new HansardError('REPLICA_LOST', `there is no database in ${path}`, { path });
}

function openError(path: string, error: unknown): HansardError {
  const cause = (error as { cause?: { code?: string; message?: string } }).cause;
  if (cause?.code === 'LEVEL_LOCKED') {
    return new HansardError(
      'DIRECTORY_IN_USE',
      `another process has ${path} open`,
      { path },
      { cause: error },
    );
  }
  const problem = cause?.message ?? (error instanceof Error ? error.message : String(error));
  // One of its own files is gone.
  const isMissing = problem.includes('No such file');
  const kind = cause?.code === 'LEVEL_IO_ERROR' && !isMissing ? 'DISK_FAILED' : 'STORE_DAMAGED';
  return new HansardError(
    kind,
    `the database in ${path} does not open: ${problem}`,
    { path },
    { cause: error },
  );
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

class LevelKv implements Kv, PointingDatabase {
  readonly readers = new Readers();
  /** Set once, by `open`. */
  values!: ValueFiles;
  #owner: ValueFileOwner | undefined;

  private constructor(
    readonly database: Database,
    readonly path: string,
  ) {}

  static async open(database: Database, path: string): Promise<LevelKv> {
    const kv = new LevelKv(database, path);
    const known = new Map<number, ValueFileRecord>();
    const kind = Buffer.of(RowKind.valueFile);
    const rows = await database
      .iterator({ gte: kind, lt: after(kind) })
      .all()
      .catch(readFailed);
    for (const [key, row] of rows) {
      const file = fileOfKey(key);
      known.set(file, openRow(key, row, `what is known of value file ${file}`, readValueFileRow));
    }
    kv.values = await ValueFiles.open(path, kv, known);
    return kv;
  }

  async get(key: Uint8Array): Promise<Uint8Array | undefined> {
    const reader = this.readers.begin();
    try {
      const row = await this.database.get(key).catch(readFailed);
      const place = row === undefined ? undefined : placeIn(key, row);
      return place === undefined ? row : (await this.values.read([place]))[0];
    } finally {
      this.readers.end(reader);
    }
  }

  getSync(key: Uint8Array): Uint8Array | undefined {
    try {
      const row = this.database.getSync(key);
      const place = row === undefined ? undefined : placeIn(key, row);
      return place === undefined ? row : this.values.readSync(place);
    } catch (error) {
      return readFailed(error);
    }
  }

  async getMany(keys: Uint8Array[]): Promise<(Uint8Array | undefined)[]> {
    const reader = this.readers.begin();
    try {
      const rows = await this.database.getMany(keys).catch(readFailed);
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
    return new LevelBatch(this);
  }

  iterator(range: KvRange): KvIterator {
    return new LevelIterator(this, range, this.readers.begin());
  }

  snapshot(): KvSnapshot {
    const snapshot = this.database.snapshot();
    const reader = this.readers.begin();
    let closed = false;
    return {
      iterator: (range) => new LevelIterator(this, range, this.readers.begin(reader), snapshot),
      close: async () => {
        if (!closed) this.readers.end(reader);
        closed = true;
        await snapshot.close();
      },
    };
  }

  async compact(range: KvRange): Promise<void> {
    try {
      await (this.database as unknown as Compacting).compactRange(range.gte, range.lt);
    } catch (error) {
      throw failed('a compaction of', error);
    }
  }

  sizeOf(range: KvRange): Promise<number> {
    return (this.database as unknown as Compacting).approximateSize(range.gte, range.lt);
  }

  get reclaimable(): boolean {
    return this.values.reclaimable;
  }

  async reclaim(goOn: () => boolean): Promise<void> {
    try {
      await this.values.reclaim(goOn);
    } catch (error) {
      throw failed('a write to', error);
    }
  }

  async close(): Promise<void> {
    await this.values.close();
    await this.database.close();
  }

  // ---- for the value files

  owner(): ValueFileOwner {
    const key = formatKey();
    try {
      const row = this.#owner === undefined ? this.database.getSync(key) : undefined;
      if (row !== undefined) this.#owner = readOwner(key, row);
    } catch (error) {
      readFailed(error);
    }
    // A database that no store was made in is nobody's.
    return this.#owner ?? { clusterId: '', storeId: '' };
  }

  async placesOf(keys: Uint8Array[]): Promise<(ValuePlace | undefined)[]> {
    const rows = await this.database.getMany(keys).catch(readFailed);
    return rows.map((row, i) => (row === undefined ? undefined : placeIn(keys[i] as Uint8Array, row)));
  }

  async decide(
    pointers: Iterable<[Uint8Array, ValuePlace]>,
    files: ReadonlyMap<number, ValueFileRecord | undefined>,
  ): Promise<void> {
    await this.writeSynced(this.database.batch(), pointers, files);
  }

  afterReaders(work: () => void): void {
    this.readers.after(work);
  }

  async writeSynced(
    batch: LevelChainedBatch,
    pointers: Iterable<[Uint8Array, ValuePlace]>,
    files: ReadonlyMap<number, ValueFileRecord | undefined>,
  ): Promise<void> {
    for (const [key, place] of pointers) batch.put(key, pointerRow(key, place));
    for (const [file, record] of files) {
      const key = valueFileKey(file);
      if (record === undefined) batch.del(key);
      else batch.put(key, valueFileRow(key, record));
    }
    await batch.write({ sync: true });
    // LevelDB changes its own log file without syncing the directory: after
    // a power loss the batch's file could be gone.
    await syncDirectory(this.path);
  }
}

class LevelBatch implements KvBatch {
  readonly #kv: LevelKv;
  readonly #batch: LevelChainedBatch;
  readonly #values = new PendingValues();
  /** Whose values may lie in files. */
  readonly #deleted: Uint8Array[] = [];
  /** Beside the moving of values between files, an older value could come back over what this writes. */
  #isAlone = false;
  constructor(kv: LevelKv) {
    this.#kv = kv;
    this.#batch = kv.database.batch();
  }

  put(key: Uint8Array, value: Uint8Array, soonGone = false): void {
    if (mayLieElsewhere(key)) {
      this.#isAlone = true;
      if (!soonGone && value.length >= valueBytesMin) {
        this.#values.put(key, value, checksumOfRow(value));
        return;
      }
      this.#values.del(key);
    }
    this.#batch.put(key, value);
  }

  del(key: Uint8Array, bytes = valueBytesMin): void {
    if (mayLieElsewhere(key)) {
      this.#isAlone = true;
      this.#values.del(key);
      if (bytes >= valueBytesMin) this.#deleted.push(Uint8Array.prototype.slice.call(key));
    }
    this.#batch.del(key);
  }

  get length(): number {
    return this.#batch.length + this.#values.size;
  }

  async write(): Promise<void> {
    try {
      if (this.#isAlone) await this.#kv.values.alone(() => this.#writeValues());
      else await this.#kv.writeSynced(this.#batch, [], new Map());
    } catch (error) {
      throw failed('a write to', error);
    }
  }

  async #writeValues(): Promise<void> {
    const { values } = this.#kv;
    const places = await this.#kv.placesOf(this.#deleted).catch((error: unknown) => {
      // Only what they leave is not counted then. Who reads them tells the damage, and LevelDB whether it still writes.
      if (isCorruption(error)) return [];
      throw error;
    });
    const dead = places.flatMap((place, i) => {
      if (place === undefined) return [];
      const key = this.#deleted[i] as Uint8Array;
      return [{ file: place.file, bytes: recordBytes(key.length, place.bytes) }];
    });
    const { places: pointers, files } = await values.append(this.#values, dead);
    await this.#kv.writeSynced(this.#batch, pointers, files);
    values.decided(files);
  }

  abandon(): Promise<void> {
    return this.#batch.close();
  }
}

function failed(what: string, error: unknown): HansardError {
  const problem = error instanceof Error ? error.message : String(error);
  if (isCorruption(error)) {
    // Not of what was asked: LevelDB has met damage in its own files, and takes nothing more.
    return new HansardError('STORE_DAMAGED', `the database: ${problem}`, {}, { cause: error });
  }
  return new HansardError('DISK_FAILED', `${what} the database failed: ${problem}`, {}, { cause: error });
}

class LevelIterator implements KvIterator {
  readonly #kv: LevelKv;
  readonly #reader: number;
  readonly #iterator;
  #closed = false;

  constructor(kv: LevelKv, range: KvRange, reader: number, snapshot?: LevelSnapshot) {
    this.#kv = kv;
    this.#reader = reader;
    // The native iterator takes its snapshot in this very call.
    this.#iterator = kv.database.iterator({
      gte: range.gte,
      lt: range.lt,
      reverse: range.reverse ?? false,
      limit: range.limit ?? -1,
      highWaterMarkBytes: levelDefaults.readAheadBytes,
      ...(snapshot === undefined ? {} : { snapshot }),
    });
  }

  async next(count: number): Promise<[Uint8Array, Uint8Array][]> {
    // The native side reserves room for all the rows that are asked for.
    // nextv may stop early at its high-water mark; only nothing means the end.
    const rows: [Uint8Array, Uint8Array][] = [];
    while (rows.length < count) {
      const more = await this.#iterator.nextv(Math.min(count - rows.length, nextvRows)).catch(readFailed);
      if (more.length === 0) break;
      rows.push(...(more as [Uint8Array, Uint8Array][]));
    }
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
    await this.#iterator.close();
  }
}

/** LevelDB can't decode what it reads, or a table is gone, or ends before the place that is read. */
function isCorruption(error: unknown): boolean {
  const { code, message } = error as { code?: unknown; message?: unknown };
  return code === 'LEVEL_CORRUPTION' || corruptionText.test(String(message));
}
const corruptionText = /Corruption: |No such file or directory|\.(ldb|sst): Invalid argument/;

function readFailed(error: unknown): never {
  if (!isCorruption(error)) throw error;
  const problem = error instanceof Error ? error.message : String(error);
  throw new HansardError('STORE_DAMAGED', `the database: ${problem}`, {}, { cause: error });
}

/** Where a store's database lies in its folder. */
export function databasePath(storeFolder: string): string {
  return join(storeFolder, 'db');
}
