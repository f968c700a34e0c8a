/** Values read from their files. A value that can't be read stands there empty: damage of its row alone. */
import { closeSync, open, openSync, read, readSync } from 'node:fs';
import { join } from 'node:path';
import { MalformedError } from '../common/bytes.js';
import {
  decodeValueHeader,
  isValueOf,
  type ValueFileOwner,
  type ValuePlace,
  valueFileName,
  valueHeaderBytesMax,
} from './value-format.js';

const KiB = 1024;
const MiB = 1024 * KiB;

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

/** Stands in for a value that can't be read: its row is cut short, which every reader takes for damage. */
const unreadable = new Uint8Array(0);

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
    open(path, 'r', (error, fd) => {
      if (error === null) resolve(fd);
      else if (isErrorOf(error, 'ENOENT')) resolve(-1);
      else reject(error);
    });
  });
}

export class ValueReader {
  readonly #path: string;
  readonly #owner: () => ValueFileOwner;
  /** Used last behind. */
  readonly #open = new Map<number, Reading>();
  /** Reads that threads make before the loop tries one again. */
  #readsBeside = 0;

  /** `owner`: whose files they must be. */
  constructor(path: string, owner: () => ValueFileOwner) {
    this.#path = path;
    this.#owner = owner;
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
      file = openSync(join(this.#path, valueFileName(place.file)), 'r');
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
    const bytes = await this.bytesOf(file, offset, end);
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
  async bytesOf(file: number, from: number, to: number): Promise<Buffer> {
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
        () => this.forget(file),
      );
      for (const oldest of this.#open.keys()) {
        if (this.#open.size < openFilesMax) break;
        this.forget(oldest);
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
    const fd = await openFile(join(this.#path, valueFileName(file)));
    if (fd < 0) return -1;
    try {
      const start = Buffer.alloc(valueHeaderBytesMax);
      const header = decodeValueHeader(start.subarray(0, await readAt(fd, start, 0)));
      const { clusterId, storeId } = this.#owner();
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

  /** Closed once what is being read from it is read. */
  forget(file: number): void {
    const reading = this.#open.get(file);
    this.#open.delete(file);
    if (reading === undefined) return;
    reading.forgotten = true;
    closeUnused(reading);
  }

  close(): void {
    for (const file of [...this.#open.keys()]) this.forget(file);
  }
}

export function isErrorOf(error: unknown, code: string): boolean {
  return (error as NodeJS.ErrnoException).code === code;
}
