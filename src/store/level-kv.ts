/**
 * The real Kv: LevelDB through classic-level. What LevelDB does not promise is
 * added here: a batch is only done when the data *and* the directory are synced,
 * and an existing database is never created anew because CURRENT is missing
 * (LevelDB would delete its tables).
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Level } from 'level';
import type { Kv, KvBatch, KvFactory, KvIterator, KvRange, KvSnapshot, RowsKv } from '../common/env.js';
import { assert, HansardError } from '../common/errors.js';
import { keepingWords, refuseWhatAborts } from './level-aborts.js';
import { unreadable } from './rows.js';
import { realValueFolder, syncDirectory } from './value-folder.js';
import { numberOfValueFile } from './value-format.js';
import { ValuesKv } from './values-kv.js';

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
  if (!create) {
    await refuseMissing(path);
    await refuseWhatAborts(path, () => refuseInUse(path));
  }
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
    return await ValuesKv.open(new LevelKv(database, path), realValueFolder(path));
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
  // Whoever is told of damage, or that nothing is there, puts another database in its place.
  if (names.includes('LOCK')) await refuseInUse(path);
  if (names.some((name) => /^(MANIFEST-\d+|\d+\.(ldb|sst|log))$/.test(name) || numberOfValueFile(name))) {
    throw new HansardError('STORE_DAMAGED', `the database in ${path} has lost its file CURRENT`, { path });
  }
  throw new HansardError('REPLICA_LOST', `there is no database in ${path}`, { path });
}

/**
 * Leaves the database as it is: LevelDB takes its lock, and finds a database, and was told that there must be none; or none,
 * and was told to make none.
 */
function refuseInUse(path: string): Promise<void> {
  return keepingWords(path, async () => {
    const database: Database = new Level<Uint8Array, Uint8Array>(path, bytesAreBytes);
    try {
      await database.open({ createIfMissing: false, errorIfExists: true });
    } catch (error) {
      const { cause } = error as { cause?: { message?: string } };
      if (/error_if_exists|create_if_missing/.test(cause?.message ?? '')) return;
      throw openError(path, error);
    }
    assert(false, 'LevelDB opens a database that must not be there');
  });
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

class LevelKv implements RowsKv {
  constructor(
    readonly database: Database,
    readonly path: string,
  ) {}

  get(key: Uint8Array): Promise<Uint8Array | undefined> {
    return this.database.get(key).catch(readFailed);
  }

  getSync(key: Uint8Array): Uint8Array | undefined {
    try {
      return this.database.getSync(key);
    } catch (error) {
      return readFailed(error);
    }
  }

  getMany(keys: Uint8Array[]): Promise<(Uint8Array | undefined)[]> {
    return this.database.getMany(keys).catch(readFailed);
  }

  batch(): KvBatch {
    return new LevelBatch(this);
  }

  iterator(range: KvRange): KvIterator {
    return new LevelIterator(this.database, range);
  }

  snapshot(): KvSnapshot {
    const snapshot = this.database.snapshot();
    return {
      iterator: (range) => new LevelIterator(this.database, range, snapshot),
      close: () => snapshot.close(),
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

  close(): Promise<void> {
    return this.database.close();
  }
}

class LevelBatch implements KvBatch {
  readonly #kv: LevelKv;
  readonly #batch: LevelChainedBatch;
  constructor(kv: LevelKv) {
    this.#kv = kv;
    this.#batch = kv.database.batch();
  }

  put(key: Uint8Array, value: Uint8Array): void {
    this.#batch.put(key, value);
  }

  del(key: Uint8Array): void {
    this.#batch.del(key);
  }

  get length(): number {
    return this.#batch.length;
  }

  async write(): Promise<void> {
    try {
      await this.#batch.write({ sync: true });
      // LevelDB changes its own log file without syncing the directory: after
      // a power loss the batch's file could be gone.
      await syncDirectory(this.#kv.path);
    } catch (error) {
      throw failed('a write to', error);
    }
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
  readonly #iterator;

  constructor(database: Database, range: KvRange, snapshot?: LevelSnapshot) {
    // The native iterator takes its snapshot in this very call.
    this.#iterator = database.iterator({
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
    let rows: [Uint8Array, Uint8Array][] = [];
    while (rows.length < count) {
      const more = (await this.#iterator
        .nextv(Math.min(count - rows.length, nextvRows))
        .catch(readFailed)) as [Uint8Array, Uint8Array][];
      if (more.length === 0) break;
      if (rows.length === 0) rows = more;
      else rows.push(...more);
    }
    return rows;
  }

  close(): Promise<void> {
    return this.#iterator.close();
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
  throw unreadable(problem, error);
}

/** Where a store's database lies in its folder. */
export function databasePath(storeFolder: string): string {
  return join(storeFolder, 'db');
}
