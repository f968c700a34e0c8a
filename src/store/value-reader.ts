/** Values read from their files. A value that can't be read stands there empty: damage of its row alone. */
import { MalformedError, ownCopy } from '../common/bytes.js';
import { isErrorOf, type ReadableValues, type ValueFolder } from './value-folder.js';
import {
  decodeValueHeader,
  isValueOf,
  type ValueFileOwner,
  type ValuePlace,
  valueHeaderBytesMax,
} from './value-format.js';

const KiB = 1024;
const MiB = 1024 * KiB;

/** Files that are open for reading at most. */
const openFilesMax = 100;
/** Values so near to each other are read at once, up to so much. */
const gapBytesMax = 4 * KiB;
const readBytesMax = 1 * MiB;

/** Stands in for a value that can't be read: its row is cut short, which every reader takes for damage. */
const unreadable = new Uint8Array(0);

/** A file that is open for reading. */
interface Reading {
  /** 'none': gone, or not the file of this name; undefined: not open yet. */
  file: ReadableValues | 'none' | undefined;
  readonly opening: Promise<ReadableValues | 'none'>;
  users: number;
  forgotten: boolean;
}

function closeUnused(reading: Reading): void {
  const { file } = reading;
  if (reading.users > 0 || file === undefined || file === 'none') return;
  reading.file = 'none';
  file.close();
}

export class ValueReader {
  readonly #folder: ValueFolder;
  readonly #owner: () => ValueFileOwner;
  /** Used last behind. */
  readonly #open = new Map<number, Reading>();

  /** `owner`: whose files they must be. */
  constructor(folder: ValueFolder, owner: () => ValueFileOwner) {
    this.#folder = folder;
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
    const bytes = this.#folder.readNow(place.file, value, place.offset);
    return isValueOf(place, value.subarray(0, bytes)) ? value : unreadable;
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
      if (isValueOf(place, value)) values[i] = which.length === 1 ? value : ownCopy(value);
    }
  }

  /** Fewer where the file is gone, ends sooner or can't be read. */
  async bytesOf(file: number, from: number, to: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafeSlow(to - from);
    const reading = this.#toRead(file);
    reading.users++;
    try {
      // Waited for only where it is not open yet.
      const open = reading.file ?? (await reading.opening);
      if (open === 'none') return bytes.subarray(0, 0);
      const count = open.read(bytes, from);
      return bytes.subarray(0, typeof count === 'number' ? count : await count);
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
      const made: Reading = { file: undefined, opening: this.#openToRead(file), users: 0, forgotten: false };
      reading = made;
      made.opening.then(
        (open) => {
          made.file = open;
          if (made.forgotten) closeUnused(made);
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

  async #openToRead(file: number): Promise<ReadableValues | 'none'> {
    const open = await this.#folder.read(file);
    if (open === undefined) return 'none';
    try {
      const start = Buffer.alloc(valueHeaderBytesMax);
      const header = decodeValueHeader(start.subarray(0, await open.read(start, 0)));
      const { clusterId, storeId } = this.#owner();
      if (header.file === file && header.clusterId === clusterId && header.storeId === storeId) return open;
    } catch (error) {
      if (!(error instanceof MalformedError) && !isErrorOf(error, 'EIO')) {
        open.close();
        throw error;
      }
    }
    open.close();
    return 'none';
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
