/**
 * The value files of a database: writing, reading, and giving their space back. Whoever writes does so alone
 * (`alone`): what LevelDB is told of a file must never go back.
 */
import { MalformedError } from '../common/bytes.js';
import { PendingValues } from './pending-values.js';
import { isRowSound, isStoreDamage } from './rows.js';
import type { ValueFolder, WritableValues } from './value-folder.js';
import {
  decodeValueHeader,
  encodeValueHeader,
  isValueOf,
  readRecord,
  type ValueFileOwner,
  type ValueFileRecord,
  type ValuePlace,
  type ValueRecord,
  valueBytesMin,
  valueHeaderBytesMax,
} from './value-format.js';
import { ValueReader } from './value-reader.js';

const KiB = 1024;
const MiB = 1024 * KiB;

/** Of a file of which this share is dead the rest is written anew: at most two bytes for one that it gives back. */
const deadShare = 1 / 3;

export interface ValueLimits {
  /** Blocks from this size on lie in value files. */
  readonly valueBytesMin: number;
  /** A file takes no more once it has reached this. */
  readonly fileBytes: number;
  /** Fewer dead bytes are not worth the work. */
  readonly deadBytesMin: number;
  /** Read and written again in one step of giving space back; batches wait for it. */
  readonly reclaimBytes: number;
}

export const valueLimits: ValueLimits = Object.freeze({
  valueBytesMin,
  fileBytes: 64 * MiB,
  deadBytesMin: 256 * KiB,
  reclaimBytes: 4 * MiB,
});

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

/** Of a file that is to be given up. */
interface Found {
  readonly live: PendingValues;
  /** Of their records. */
  readonly bytes: number;
  /** Where the next records begin. */
  readonly next: number;
}

interface Active {
  readonly file: number;
  readonly handle: WritableValues;
  size: number;
}

export class ValueFiles {
  readonly limits: ValueLimits;
  readonly #folder: ValueFolder;
  readonly #database: PointingDatabase;
  readonly #known: Map<number, ValueFileRecord>;
  /** Files that LevelDB knows nothing of: an earlier process ended before it was told, or before they were removed. */
  readonly #strays: Set<number>;
  readonly #reader: ValueReader;
  /** Of which something can not be read: never removed. */
  readonly #damaged = new Set<number>();
  /**
   * Bytes behind a file's end, by file: what a crash or a failed write left. They count as dead, and are neither cut
   * off nor written over: should what LevelDB says of the file be an older word than its pointers, they are values.
   */
  readonly #behind: ReadonlyMap<number, number>;
  #next: number;
  #active: Active | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #removal: Promise<void> = Promise.resolve();
  #failure: unknown;

  private constructor(
    folder: ValueFolder,
    limits: ValueLimits,
    database: PointingDatabase,
    known: Map<number, ValueFileRecord>,
    there: ReadonlyMap<number, number>,
  ) {
    this.#folder = folder;
    this.limits = limits;
    this.#database = database;
    this.#reader = new ValueReader(folder, () => database.owner());
    this.#known = known;
    this.#strays = new Set([...there.keys()].filter((file) => !known.has(file)));
    this.#behind = new Map(
      [...there]
        .map(([file, bytes]) => [file, bytes - (known.get(file)?.end ?? bytes)] as const)
        .filter(([, bytes]) => bytes > 0),
    );
    this.#next = Math.max(0, ...there.keys(), ...known.keys()) + 1;
  }

  static async open(
    folder: ValueFolder,
    limits: ValueLimits,
    database: PointingDatabase,
    known: Map<number, ValueFileRecord>,
  ): Promise<ValueFiles> {
    const there = new Map<number, number>();
    for (const file of await folder.list()) {
      const end = known.get(file)?.end ?? 0;
      // A full one has nothing behind its end: the last that was written to it was decided for, and reached the limit.
      there.set(file, end < limits.fileBytes ? await folder.bytesOf(file) : end);
    }
    const files = new ValueFiles(folder, limits, database, known, there);
    const newest = Math.max(0, ...there.keys());
    const size = there.get(newest) ?? 0;
    // Goes on with the last one unless it is full, or has something behind its end.
    if (size < limits.fileBytes && size === known.get(newest)?.end)
      files.#active = { file: newest, handle: await folder.goOn(newest), size };
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
      await active.handle.sync();
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

  /** By number. */
  get known(): ReadonlyMap<number, ValueFileRecord> {
    return this.#known;
  }

  // ---- reading

  read(places: readonly ValuePlace[]): Promise<Uint8Array[]> {
    return this.#reader.read(places);
  }

  readSync(place: ValuePlace): Uint8Array {
    return this.#reader.readSync(place);
  }

  // ---- writing

  async #room(): Promise<Active> {
    const full = this.#active;
    if (full !== undefined && full.size < this.limits.fileBytes) return full;
    if (full !== undefined) {
      await full.handle.sync();
      await full.handle.close();
    }
    // On a full disk a checkpoint that fails leaves one at every start: the next one needs the room.
    await this.#removeStrays();
    const file = this.#next++;
    const active: Active = { file, handle: await this.#folder.create(file), size: 0 };
    this.#active = active;
    await this.#write(active, encodeValueHeader(file, this.#database.owner()));
    // The name too, before LevelDB points into it.
    await this.#folder.syncNames();
    return active;
  }

  async #write(active: Active, bytes: Buffer): Promise<void> {
    await active.handle.write(bytes, active.size);
    active.size += bytes.length;
  }

  // ---- space

  get reclaimable(): boolean {
    return this.#failure === undefined && (this.#strays.size > 0 || this.#victim() !== undefined);
  }

  /** The rest of one file that is mostly dead is written anew, and the file removed. */
  async reclaim(goOn: () => boolean): Promise<void> {
    await this.#removeStrays();
    const file = this.#victim();
    if (file === undefined) return;
    await this.alone(() => this.#retire(file));
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
    if (!(await this.#isUnusedBehind(file))) {
      this.#damaged.add(file);
      return;
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

  /** Not when they are found: by now whoever opened the database has verified it. */
  async #removeStrays(): Promise<void> {
    for (const file of [...this.#strays]) {
      this.#strays.delete(file);
      await this.#remove(file);
    }
  }

  /** Nothing more is written to it. */
  async #retire(file: number): Promise<void> {
    if (this.#active?.file !== file) return;
    await this.#active.handle.close();
    this.#active = undefined;
  }

  #victim(): number | undefined {
    for (const [file, record] of this.#known) {
      const behind = this.#behind.get(file) ?? 0;
      const dead = record.dead + behind;
      if (dead < this.limits.deadBytesMin || dead < deadShare * (record.end + behind)) continue;
      if (!this.#damaged.has(file)) return file;
    }
    return undefined;
  }

  /** Records from `at` on: those that count go to the active file. Gives where the next ones begin; undefined: damage. */
  async #moveSome(file: number, at: number): Promise<number | undefined> {
    let found: Found | undefined;
    try {
      found = await this.#liveFrom(file, at);
    } catch (error) {
      // Whoever reads it tells it; here it only keeps the file.
      if (!isStoreDamage(error) && !(error instanceof MalformedError)) throw error;
    }
    if (found === undefined) return undefined;
    if (found.live.size === 0) return found.next;
    const record = this.#known.get(file) as ValueFileRecord;
    const { places, files } = await this.append(found.live, []);
    files.set(file, { end: record.end, dead: record.dead + found.bytes });
    await this.#database.decide(places, files);
    this.decided(files);
    found.live.release();
    return found.next;
  }

  /** Does no pointer lead to what lies behind the file's end? From where nothing can be read on it is a torn write. */
  async #isUnusedBehind(file: number): Promise<boolean> {
    const from = this.#known.get(file)?.end ?? 0;
    const end = from + (this.#behind.get(file) ?? 0);
    for (let at = from; at < end; ) {
      const records = await this.#recordsFrom(file, at, end, true);
      if (records === undefined) return true;
      const places = await this.#database.placesOf(records.map(({ key }) => key));
      for (const [i, record] of records.entries()) {
        const place = places[i];
        if (place?.file === file && place.offset === at + record.end - record.value.length) return false;
      }
      at += records.at(-1)?.end ?? end;
    }
    return true;
  }

  /** Undefined: there is damage. */
  async #liveFrom(file: number, at: number): Promise<Found | undefined> {
    const record = this.#known.get(file) as ValueFileRecord;
    const from = at > 0 ? at : await this.#firstRecord(file);
    if (from === undefined) return undefined;
    const records = await this.#recordsFrom(file, from, record.end);
    if (records === undefined) return undefined;
    const places = await this.#database.placesOf(records.map(({ key }) => key));
    const live = new PendingValues();
    let bytes = 0;
    for (const [i, { key, value, at, end }] of records.entries()) {
      const place = places[i];
      const offset = from + end - value.length;
      if (place === undefined || place.file !== file || place.offset !== offset) continue;
      if (!isRowSound(key, value) || !isValueOf(place, value)) return undefined;
      live.put(key, value, place.checksum);
      bytes += end - at;
    }
    return { live, bytes, next: from + (records.at(-1)?.end ?? 0) };
  }

  async #firstRecord(file: number): Promise<number | undefined> {
    const start = await this.#reader.bytesOf(file, 0, valueHeaderBytesMax);
    // A header that is not right was told when the file was opened to be read.
    return start.length === 0 ? undefined : decodeValueHeader(start).bytes;
  }

  /** Whole records, at least one; undefined: there is damage. `mayBeTorn`: those before it count all the same. */
  async #recordsFrom(
    file: number,
    from: number,
    end: number,
    mayBeTorn = false,
  ): Promise<ValueRecord[] | undefined> {
    let wanted = Math.min(this.limits.reclaimBytes, end - from);
    for (;;) {
      const bytes = await this.#reader.bytesOf(file, from, from + wanted);
      if (bytes.length < wanted) return undefined;
      const records: ValueRecord[] = [];
      try {
        let at = 0;
        while (at < bytes.length) {
          const record = readRecord(bytes, at);
          if (typeof record === 'number') {
            if (from + at + record > end) throw new MalformedError('a record that ends behind the file');
            if (records.length === 0) wanted = record;
            break;
          }
          records.push(record);
          at = record.end;
        }
      } catch (error) {
        if (!(error instanceof MalformedError)) throw error;
        return mayBeTorn && records.length > 0 ? records : undefined;
      }
      if (records.length > 0) return records;
      if (wanted <= bytes.length) return undefined;
    }
  }

  async #remove(file: number): Promise<void> {
    this.#reader.forget(file);
    await this.#folder.remove(file);
  }

  async close(): Promise<void> {
    await this.#turn.catch(() => {});
    await this.#removal;
    this.#reader.close();
    await this.#active?.handle.close();
    this.#active = undefined;
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
