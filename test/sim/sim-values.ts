/**
 * The folder of a simulated database's value files. What was written and not synced may be lost, torn or cut short, file by
 * file; a name that was made or removed and not synced may be the old one or the new one, also where the file itself was synced.
 */
import type { Random } from '../../src/common/env.js';
import { valueLimits } from '../../src/store/value-files.js';
import type { ReadableValues, ValueFolder, WritableValues } from '../../src/store/value-folder.js';

/** So small that a run of some hundred appends fills files and gives them up again. */
export const simValueLimits = Object.freeze({
  ...valueLimits,
  valueBytesMin: 300,
  fileBytes: 8 * 1024,
  deadBytesMin: 1024,
  reclaimBytes: 2 * 1024,
});

const sectorBytes = 512;

interface SimFile {
  /** What a read sees. */
  cache: Buffer;
  /** What a loss of power leaves. */
  durable: Buffer;
  unsynced: { readonly at: number; readonly bytes: Buffer }[];
}

/** The disk: it outlives processes. */
export class SimValueDisk {
  readonly #random: Random;
  #files = new Map<number, SimFile>();
  #durable = new Map<number, SimFile>();

  constructor(random: Random) {
    this.#random = random;
  }

  /** Names in no order, each as it was synced last or as it is now; bytes by sectors. */
  powerLoss(): void {
    for (const number of this.#numbers(this.#files, this.#durable)) {
      const [now, synced] = [this.#files.get(number), this.#durable.get(number)];
      const found = now === synced || this.#below(2) === 0 ? now : synced;
      if (found === undefined) this.#files.delete(number);
      else this.#files.set(number, found);
    }
    this.#durable = new Map(this.#files);
    for (const number of this.#numbers(this.#files)) {
      const file = this.#file(number);
      this.#settle(file);
      file.cache = Buffer.from(file.durable);
    }
  }

  /** Of a synced file; false where there is none. */
  damage(kind: 'file-lost' | 'value-flipped'): boolean {
    const numbers = this.#numbers(this.#files);
    const number = numbers[this.#below(Math.max(1, numbers.length))];
    if (number === undefined) return false;
    const { durable, cache } = this.#file(number);
    if (kind === 'file-lost') {
      this.#files.delete(number);
      this.#durable.delete(number);
    } else if (durable.length > 0) {
      const [at, bit] = [this.#below(durable.length), 1 << this.#below(8)];
      for (const bytes of [durable, cache]) (bytes[at] as number) ^= bit;
    }
    return true;
  }

  // ---- for processes

  list(): number[] {
    return this.#numbers(this.#files);
  }

  create(number: number): void {
    if (this.#files.has(number)) throw new Error(`value file ${number} is there already`);
    this.#files.set(number, { cache: Buffer.alloc(0), durable: Buffer.alloc(0), unsynced: [] });
  }

  remove(number: number): void {
    this.#files.delete(number);
  }

  syncNames(): void {
    this.#durable = new Map(this.#files);
  }

  write(number: number, at: number, bytes: Uint8Array): void {
    const file = this.#file(number);
    const copy = Buffer.from(bytes);
    file.unsynced.push({ at, bytes: copy });
    file.cache = written(file.cache, at, copy);
  }

  sync(number: number): void {
    const file = this.#file(number);
    file.durable = Buffer.from(file.cache);
    file.unsynced = [];
  }

  /** As Linux does: the pages count as clean now, whatever of them reached the disk. */
  failSync(number: number): void {
    this.#settle(this.#file(number));
  }

  /** Undefined: it is not there. */
  bytes(number: number): Buffer | undefined {
    return this.#files.get(number)?.cache;
  }

  #file(number: number): SimFile {
    const file = this.#files.get(number) ?? this.#durable.get(number);
    if (file === undefined) throw new Error(`there is no value file ${number}`);
    return file;
  }

  /** Decides what of the unsynced writes reached the disk. */
  #settle(file: SimFile): void {
    for (const { at, bytes } of file.unsynced) {
      const fate = this.#below(4);
      if (fate === 0) continue;
      if (fate === 1) {
        file.durable = written(file.durable, at, bytes);
        continue;
      }
      // The length first: what did not make it is zeros then.
      if (fate === 2) file.durable = written(file.durable, at + bytes.length, Buffer.alloc(0));
      for (let from = 0; from < bytes.length; from += sectorBytes) {
        if (this.#below(2) === 0) continue;
        file.durable = written(file.durable, at + from, bytes.subarray(from, from + sectorBytes));
      }
    }
    file.unsynced = [];
  }

  #numbers(...maps: ReadonlyMap<number, SimFile>[]): number[] {
    return [...new Set(maps.flatMap((map) => [...map.keys()]))].sort((a, b) => a - b);
  }

  #below(end: number): number {
    return this.#random.u32() % end;
  }
}

function written(file: Buffer, at: number, bytes: Buffer): Buffer {
  const grown = Buffer.alloc(Math.max(file.length, at + bytes.length));
  file.copy(grown);
  bytes.copy(grown, at);
  return grown;
}

/** How an operation of one process passes: see SimKvDisk. */
export interface ValueSteps {
  /** One change: before it the process may die, stand still, or be told that it failed, with `failed` done instead. */
  change(act: () => void, failed?: () => void): Promise<void>;
  read<T>(act: () => T): Promise<T>;
}

/** As one process has it. */
export function simValueFolder(disk: SimValueDisk, { change, read }: ValueSteps): ValueFolder {
  const writable = (number: number): WritableValues => ({
    async write(bytes, at) {
      // In two pieces: a process may die with one of them done.
      const half = bytes.length >>> 1;
      await change(() => disk.write(number, at, bytes.subarray(0, half)));
      await change(() => disk.write(number, at + half, bytes.subarray(half)));
    },
    sync: () =>
      change(
        () => disk.sync(number),
        () => disk.failSync(number),
      ),
    close: () => Promise.resolve(),
  });
  const copyTo = (target: Buffer, at: number, bytes: Buffer | undefined): number =>
    bytes?.copy(target, 0, Math.min(at, bytes.length)) ?? 0;
  const readable = (bytes: () => Buffer | undefined): ReadableValues => ({
    read: (target, at) => read(() => copyTo(target, at, bytes())),
    close: () => {},
  });
  return {
    list: () => read(() => disk.list()),
    bytesOf: (number) => read(() => disk.bytes(number)?.length ?? 0),
    goOn: async (number) => writable(number),
    async create(number) {
      await change(() => disk.create(number));
      return writable(number);
    },
    syncNames: () => change(() => disk.syncNames()),
    remove: (number) => change(() => disk.remove(number)),
    read: (number) =>
      read(() => (disk.bytes(number) === undefined ? undefined : readable(() => disk.bytes(number)))),
    readNow: (number, target, at) => copyTo(target, at, disk.bytes(number)),
  };
}
