/**
 * The value files of a database: writing, reading, and giving their space back. Whoever writes does so alone
 * (`alone`): what LevelDB is told of a file must never go back.
 */
import { closeSync, open as openForReading, openSync, read, readSync } from 'node:fs';
import { type FileHandle, open, readdir, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { MalformedError } from '../common/bytes.js';
import { isRowSound } from './rows.js';
import {
  decodeValueHeader,
  encodeValueHeader,
  isValueOf,
  numberOfValueFile,
  putRecord,
  readRecord,
  recordBytes,
  type ValueFileOwner,
  type ValueFileRecord,
  type ValuePlace,
  type ValueRecord,
  valueFileName,
  valueHeaderBytesMax,
} from './value-format.js';

const KiB = 1024;
const MiB = 1024 * KiB;

/** A file takes no more once it has reached this. */
const fileBytes = 64 * MiB;
/** Of records on their way, allocated at once. */
const slabBytes = 1 * MiB;
/** Files that are open for reading at most. */
const openFilesMax = 100;
/** Values so near to each other are read at once, up to so much. */
const gapBytesMax = 4 * KiB;
const readBytesMax = 1 * MiB;
/**
 * What the page cache holds the loop reads by itself in 5 µs; asking a thread takes 40 of its time. Where a read came
 * from the disk, longer than this, so many of the next ones are left to threads.
 */
const quickReadMs = 0.2;
const quickReadBytesMax = 64 * KiB;
const readsBesideAfterSlow = 64;

/** Of a file of which this share is dead the rest is written anew: at most two bytes for one that it gives back. */
const deadShare = 1 / 3;
/** Less is not worth the work. */
const deadBytesMin = 256 * KiB;
/** Read and written again in one step of giving space back; batches wait for it. */
const reclaimBytes = 4 * MiB;

/** Stands in for a value that can't be read: its row is cut short, which every reader takes for damage. */
const unreadable = new Uint8Array(0);

/** Records of one batch. */
export class PendingValues {
  readonly #slabs: { readonly bytes: Buffer; used: number }[] = [];
  readonly #places = new Map<
    string,
    {
      readonly key: Uint8Array;
      readonly slab: number;
      readonly at: number;
      readonly value: Pick<ValuePlace, 'bytes' | 'checksum'>;
    }
  >();
  /** Of values that were put and deleted again. */
  dead = 0;

  put(key: Uint8Array, value: Uint8Array, checksum: bigint): void {
    this.del(key);
    const bytes = recordBytes(key.length, value.length);
    let slab = this.#slabs.at(-1);
    if (slab === undefined || slab.used + bytes > slab.bytes.length) {
      const room = Math.max(bytes, this.#slabs.length === 0 ? slabBytes / 16 : slabBytes);
      slab = { bytes: Buffer.allocUnsafeSlow(room), used: 0 };
      this.#slabs.push(slab);
    }
    const at = putRecord(slab.bytes, slab.used, key, value);
    slab.used += bytes;
    const copy = slab.bytes.subarray(at - key.length, at);
    this.#places.set(copy.toString('latin1'), {
      key: copy,
      slab: this.#slabs.length - 1,
      at,
      value: { bytes: value.length, checksum },
    });
  }

  del(key: Uint8Array): void {
    if (this.#places.size === 0) return;
    const name = Buffer.from(key.buffer, key.byteOffset, key.length).toString('latin1');
    const known = this.#places.get(name);
    if (known === undefined) return;
    this.dead += recordBytes(key.length, known.value.bytes);
    this.#places.delete(name);
  }

  get size(): number {
    return this.#places.size;
  }

  get slabs(): readonly Buffer[] {
    return this.#slabs.map(({ bytes, used }) => bytes.subarray(0, used));
  }

  /** `slabs`: where each one lies now. */
  *placesIn(
    slabs: readonly { readonly file: number; readonly offset: number }[],
  ): Generator<[Uint8Array, ValuePlace]> {
    for (const { key, slab, at, value } of this.#places.values()) {
      const { file, offset } = slabs[slab] as (typeof slabs)[number];
      yield [key, { file, offset: offset + at, ...value }];
    }
  }
}

/** What the files need of the database that points into them. */
export interface PointingDatabase {
  owner(): ValueFileOwner;
  /** Where the values of these keys lie now; undefined: not in a file. */
  placesOf(keys: Uint8Array[]): Promise<(ValuePlace | undefined)[]>;
  /** One synced batch: pointers, and what is known of files from now on (undefined: nothing more). */
  decide(
    pointers: Iterable<[Uint8Array, ValuePlace]>,
    files: ReadonlyMap<number, ValueFileRecord | undefined>,
  ): Promise<void>;
  /** `work` runs when all that is being read now has been read. */
  afterReaders(work: () => void): void;
}

interface Active {
  readonly file: number;
  readonly handle: FileHandle;
  size: number;
}

/** A file that is open for reading: by number, since a FileHandle's promises cost more than the read. */
interface Reading {
  fd: number | undefined;
  readonly opening: Promise<number>;
  users: number;
  forgotten: boolean;
}

function closeUnused(reading: Reading): void {
  const { fd } = reading;
  if (reading.users > 0 || fd === undefined || fd < 0) return;
  reading.fd = -1;
  closeSync(fd);
}

/** Fewer bytes only at the file's end. */
function readAt(fd: number, bytes: Buffer, from: number): Promise<number> {
  return new Promise((resolve, reject) => {
    read(fd, bytes, 0, bytes.length, from, (error, count) => {
      if (error !== null) reject(error);
      else resolve(count);
    });
  });
}

/** -1: it is not there. */
function openFile(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    openForReading(path, 'r', (error, fd) => {
      if (error === null) resolve(fd);
      else if (isErrorOf(error, 'ENOENT')) resolve(-1);
      else reject(error);
    });
  });
}

export class ValueFiles {
  readonly #path: string;
  readonly #database: PointingDatabase;
  readonly #known: Map<number, ValueFileRecord>;
  /** Files that LevelDB knows nothing of: an earlier process ended before it was told, or before they were removed. */
  readonly #strays: Set<number>;
  /** For reading, used last behind. */
  readonly #open = new Map<number, Reading>();
  /** Of which something can not be read: never removed. */
  readonly #damaged = new Set<number>();
  /** Reads that threads make before the loop tries one again. */
  #readsBeside = 0;
  #next: number;
  #active: Active | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #removal: Promise<void> = Promise.resolve();
  #failure: unknown;

  private constructor(
    path: string,
    database: PointingDatabase,
    known: Map<number, ValueFileRecord>,
    there: readonly number[],
  ) {
    this.#path = path;
    this.#database = database;
    this.#known = known;
    this.#strays = new Set(there.filter((file) => !known.has(file)));
    this.#next = Math.max(0, ...there, ...known.keys()) + 1;
  }

  static async open(
    path: string,
    database: PointingDatabase,
    known: Map<number, ValueFileRecord>,
  ): Promise<ValueFiles> {
    const there = (await readdir(path)).map(numberOfValueFile).filter((file) => file !== undefined);
    const files = new ValueFiles(path, database, known, there);
    const newest = Math.max(0, ...there);
    const record = known.get(newest);
    // Goes on with the last one unless it is full, or has something behind its end.
    if (record !== undefined && record.end < fileBytes) {
      const { size } = await stat(files.#pathOf(newest));
      if (size === record.end)
        files.#active = { file: newest, handle: await open(files.#pathOf(newest), 'r+'), size };
    }
    return files;
  }

  /** One after the other; behind a failure nobody. */
  async alone<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#turn;
    const run = async (): Promise<T> => {
      await before.catch(() => {});
      if (this.#failure !== undefined) throw this.#failure;
      try {
        return await work();
      } catch (error) {
        // Nothing is tried again on a file of which a write or sync failed.
        this.#failure = error;
        throw error;
      }
    };
    const turn = run();
    this.#turn = turn;
    return turn;
  }

  /**
   * Writes and syncs the values; gives their places, and what is to be written of the files in the batch that points
   * to them. `dead`: bytes that the batch's deletions leave. To be called in one's turn; `decided` follows.
   */
  async append(
    values: PendingValues,
    dead: readonly { readonly file: number; readonly bytes: number }[],
  ): Promise<{
    places: Iterable<[Uint8Array, ValuePlace]>;
    files: Map<number, ValueFileRecord>;
  }> {
    const files = new Map<number, ValueFileRecord>();
    const slabs: { file: number; offset: number }[] = [];
    let active: Active | undefined;
    if (values.size > 0) {
      for (const slab of values.slabs) {
        active = await this.#room();
        slabs.push({ file: active.file, offset: active.size });
        await this.#write(active, slab);
        const record = files.get(active.file) ?? this.#known.get(active.file);
        files.set(active.file, { end: active.size, dead: record?.dead ?? 0 });
      }
    }
    if (active !== undefined) {
      await this.#told(active.file, active.handle.datasync());
      addDead(files, this.#known, active.file, values.dead);
    }
    for (const { file, bytes } of dead) addDead(files, this.#known, file, bytes);
    return { places: values.placesIn(slabs), files };
  }

  /** The batch with what `append` gave is synced. */
  decided(files: ReadonlyMap<number, ValueFileRecord | undefined>): void {
    for (const [file, record] of files) {
      if (record === undefined) this.#known.delete(file);
      else this.#known.set(file, record);
    }
  }

  /** In the places' order; a value that can't be read, or is not the one that was put there, is empty. */
  async read(places: readonly ValuePlace[]): Promise<Uint8Array[]> {
    const order = places.map((_, i) => i);
    if (places.length > 1)
      order.sort((a, b) => {
        const [x, y] = [places[a] as ValuePlace, places[b] as ValuePlace];
        return x.file - y.file || x.offset - y.offset;
      });
    const values: Uint8Array[] = new Array<Uint8Array>(places.length).fill(unreadable);
    const reads: Promise<void>[] = [];
    for (let from = 0; from < order.length; ) {
      const first = places[order[from] as number] as ValuePlace;
      let end = first.offset + first.bytes;
      let to = from + 1;
      for (; to < order.length; to++) {
        const next = places[order[to] as number] as ValuePlace;
        const nextEnd = Math.max(end, next.offset + next.bytes);
        if (next.file !== first.file || next.offset - end > gapBytesMax) break;
        if (nextEnd - first.offset > readBytesMax) break;
        end = nextEnd;
      }
      reads.push(this.#readInto(values, places, order.slice(from, to), first, end));
      from = to;
    }
    await Promise.all(reads);
    return values;
  }

  /** Blocks the loop. */
  readSync(place: ValuePlace): Uint8Array {
    const value = Buffer.allocUnsafeSlow(place.bytes);
    let file: number;
    try {
      file = openSync(this.#pathOf(place.file), 'r');
    } catch (error) {
      if (isErrorOf(error, 'ENOENT')) return unreadable;
      throw error;
    }
    try {
      const bytes = readSync(file, value, 0, value.length, place.offset);
      return isValueOf(place, value.subarray(0, bytes)) ? value : unreadable;
    } finally {
      closeSync(file);
    }
  }

  async #readInto(
    values: Uint8Array[],
    places: readonly ValuePlace[],
    which: readonly number[],
    { file, offset }: ValuePlace,
    end: number,
  ): Promise<void> {
    const bytes = await this.#bytesOf(file, offset, end);
    for (const i of which) {
      const place = places[i] as ValuePlace;
      const at = place.offset - offset;
      const value = bytes.subarray(at, at + place.bytes);
      // Whoever keeps one of several does not keep the others.
      if (isValueOf(place, value))
        values[i] = which.length === 1 ? value : Uint8Array.prototype.slice.call(value);
    }
  }

  /** Fewer where the file is gone, ends sooner or can't be read. */
  async #bytesOf(file: number, from: number, to: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafeSlow(to - from);
    const reading = this.#toRead(file);
    reading.users++;
    try {
      // Waited for only where it is not open yet.
      const fd = reading.fd ?? (await reading.opening);
      if (fd < 0) return bytes.subarray(0, 0);
      if (bytes.length > quickReadBytesMax) return bytes.subarray(0, await readAt(fd, bytes, from));
      if (this.#readsBeside > 0) {
        this.#readsBeside--;
        return bytes.subarray(0, await readAt(fd, bytes, from));
      }
      const began = performance.now();
      const count = readSync(fd, bytes, 0, bytes.length, from);
      if (performance.now() - began > quickReadMs) this.#readsBeside = readsBesideAfterSlow;
      return bytes.subarray(0, count);
    } catch (error) {
      // A bad place of the disk: damage of these rows alone.
      if (isErrorOf(error, 'EIO')) return bytes.subarray(0, 0);
      throw error;
    } finally {
      reading.users--;
      if (reading.forgotten) closeUnused(reading);
    }
  }

  #toRead(file: number): Reading {
    let reading = this.#open.get(file);
    if (reading === undefined) {
      const made: Reading = { fd: undefined, opening: this.#openToRead(file), users: 0, forgotten: false };
      reading = made;
      made.opening.then(
        (fd) => {
          made.fd = fd;
        },
        () => this.#forget(file),
      );
      for (const oldest of this.#open.keys()) {
        if (this.#open.size < openFilesMax) break;
        this.#forget(oldest);
      }
      this.#open.set(file, reading);
    } else if (this.#open.size === openFilesMax) {
      // Used last: behind all others.
      this.#open.delete(file);
      this.#open.set(file, reading);
    }
    return reading;
  }

  /** -1: gone, or not the file of this name. */
  async #openToRead(file: number): Promise<number> {
    const fd = await openFile(this.#pathOf(file));
    if (fd < 0) return -1;
    try {
      const start = Buffer.alloc(valueHeaderBytesMax);
      const header = decodeValueHeader(start.subarray(0, await readAt(fd, start, 0)));
      const { clusterId, storeId } = this.#database.owner();
      if (header.file === file && header.clusterId === clusterId && header.storeId === storeId) return fd;
    } catch (error) {
      if (!(error instanceof MalformedError) && !isErrorOf(error, 'EIO')) {
        closeSync(fd);
        throw error;
      }
    }
    closeSync(fd);
    return -1;
  }

  #forget(file: number): void {
    const reading = this.#open.get(file);
    this.#open.delete(file);
    if (reading === undefined) return;
    reading.forgotten = true;
    closeUnused(reading);
  }

  // ---- writing

  async #room(): Promise<Active> {
    const full = this.#active;
    if (full !== undefined && full.size < fileBytes) return full;
    if (full !== undefined) {
      await this.#told(full.file, full.handle.datasync());
      await full.handle.close();
    }
    const file = this.#next++;
    const handle = await this.#told(file, open(this.#pathOf(file), 'wx+'));
    const active: Active = { file, handle, size: 0 };
    this.#active = active;
    await this.#write(active, encodeValueHeader(file, this.#database.owner()));
    // The name too, before LevelDB points into it.
    await syncDirectory(this.#path);
    return active;
  }

  async #write(active: Active, bytes: Buffer): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const writing = active.handle.write(bytes, done, bytes.length - done, active.size + done);
      done += (await this.#told(active.file, writing)).bytesWritten;
    }
    active.size += bytes.length;
  }

  /** Errors of a handle do not name its file. */
  async #told<T>(file: number, work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      const problem = error instanceof Error ? error.message : String(error);
      throw new Error(`${this.#pathOf(file)}: ${problem}`, { cause: error });
    }
  }

  // ---- space

  get reclaimable(): boolean {
    return this.#failure === undefined && (this.#strays.size > 0 || this.#victim() !== undefined);
  }

  /** The rest of one file that is mostly dead is written anew, and the file removed. */
  async reclaim(goOn: () => boolean): Promise<void> {
    for (const file of [...this.#strays]) {
      this.#strays.delete(file);
      await this.#remove(file);
    }
    const file = this.#victim();
    if (file === undefined) return;
    let at = 0;
    while (at < (this.#known.get(file)?.end ?? 0)) {
      if (!goOn()) return;
      const next = await this.alone(() => this.#moveSome(file, at));
      if (next === undefined) {
        this.#damaged.add(file);
        return;
      }
      at = next;
    }
    await this.alone(async () => {
      const gone = new Map([[file, undefined]]);
      await this.#database.decide([], gone);
      this.decided(gone);
    });
    // One that is not removed by the end of the process is a stray of the next.
    this.#database.afterReaders(() => {
      this.#removal = this.#removal
        .then(() => this.#remove(file))
        .catch((error: unknown) => {
          this.#failure ??= error;
        });
    });
  }

  #victim(): number | undefined {
    for (const [file, { end, dead }] of this.#known) {
      if (dead >= deadBytesMin && dead >= deadShare * end && !this.#damaged.has(file)) return file;
    }
    return undefined;
  }

  /** Records from `at` on: those that count go to the active file. Gives where the next ones begin; undefined: damage. */
  async #moveSome(file: number, at: number): Promise<number | undefined> {
    // Not into itself.
    if (this.#active?.file === file) {
      await this.#active.handle.close();
      this.#active = undefined;
    }
    const record = this.#known.get(file) as ValueFileRecord;
    const from = at > 0 ? at : await this.#firstRecord(file);
    if (from === undefined) return undefined;
    const records = await this.#recordsFrom(file, from, record.end);
    if (records === undefined) return undefined;
    const places = await this.#database.placesOf(records.map(({ key }) => key));
    const moving = new PendingValues();
    let moved = 0;
    for (const [i, { key, value, at, end }] of records.entries()) {
      const place = places[i];
      const offset = from + end - value.length;
      if (place === undefined || place.file !== file || place.offset !== offset) continue;
      if (!isRowSound(key, value) || !isValueOf(place, value)) return undefined;
      moving.put(key, value, place.checksum);
      moved += end - at;
    }
    if (moving.size > 0) {
      const { places: pointers, files } = await this.append(moving, []);
      files.set(file, { end: record.end, dead: record.dead + moved });
      await this.#database.decide(pointers, files);
      this.decided(files);
    }
    return from + (records.at(-1)?.end ?? 0);
  }

  async #firstRecord(file: number): Promise<number | undefined> {
    const start = await this.#bytesOf(file, 0, valueHeaderBytesMax);
    // A header that is not right was told when the file was opened to be read.
    return start.length === 0 ? undefined : decodeValueHeader(start).bytes;
  }

  /** Whole records, at least one; undefined: there is damage. */
  async #recordsFrom(file: number, from: number, end: number): Promise<ValueRecord[] | undefined> {
    let wanted = Math.min(reclaimBytes, end - from);
    for (;;) {
      const bytes = await this.#bytesOf(file, from, from + wanted);
      if (bytes.length < wanted) return undefined;
      const records: ValueRecord[] = [];
      try {
        let at = 0;
        while (at < bytes.length) {
          const record = readRecord(bytes, at);
          if (typeof record === 'number') {
            if (from + at + record > end) return undefined;
            if (records.length === 0) wanted = record;
            break;
          }
          records.push(record);
          at = record.end;
        }
      } catch (error) {
        if (error instanceof MalformedError) return undefined;
        throw error;
      }
      if (records.length > 0) return records;
      if (wanted <= bytes.length) return undefined;
    }
  }

  async #remove(file: number): Promise<void> {
    this.#forget(file);
    await unlink(this.#pathOf(file)).catch((error: unknown) => {
      if (!isErrorOf(error, 'ENOENT')) throw error;
    });
  }

  async close(): Promise<void> {
    await this.#turn.catch(() => {});
    await this.#removal;
    for (const file of [...this.#open.keys()]) this.#forget(file);
    await this.#active?.handle.close();
    this.#active = undefined;
  }

  #pathOf(file: number): string {
    return join(this.#path, valueFileName(file));
  }
}

function addDead(
  files: Map<number, ValueFileRecord>,
  known: ReadonlyMap<number, ValueFileRecord>,
  file: number,
  bytes: number,
): void {
  const record = files.get(file) ?? known.get(file);
  if (record !== undefined) files.set(file, { end: record.end, dead: record.dead + bytes });
}

function isErrorOf(error: unknown, code: string): boolean {
  return (error as NodeJS.ErrnoException).code === code;
}

export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
