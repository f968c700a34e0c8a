/**
 * A disk for the log that loses what a real one may lose. It belongs to a
 * machine, not to a process: each life of a process takes a `device()` of its own,
 * and the device of an earlier life is dead (its promises never settle).
 *
 *   const disk = new SimDisk({ clock, random: random.fork() });
 *   const device = disk.device();        // formatWal(device, …), openWal({ device, clock, … })
 *   disk.crash();                        // kill -9: what was written stays in the page cache, unsynced
 *   disk.losePower();                    // also the cache goes: each unsynced write is kept, lost or torn
 *   const next = disk.device();          // the next life
 *
 * Faults: `failNext('sync', 'EIO')` (the pages read back clean, and no later sync
 * writes them), `failNext('write' | 'read' | 'create' | 'rename')`, `stallNext(ms)`, `slowMs`,
 * `capacityBytes` (ENOSPC), `flip` (bit rot), `trap` (a crash just before or after an operation). Time passes on the clock alone and all
 * chance comes from `random`: a seed decides everything.
 */
import type { Clock } from '../../src/common/env.js';
import type { LogDevice, SegmentFile, WritesHere } from '../../src/wal/device.js';
import { diskFailed } from '../../src/wal/disk-device.js';
import type { SimRandom } from './sim-clock.js';

export interface SimDiskOptions {
  readonly clock: Pick<Clock, 'after'>;
  readonly random: SimRandom;
  /** Smallest piece that is written whole. */
  readonly sectorBytes?: number;
  /** A write with its sync takes from this … */
  readonly syncMinMs?: number;
  /** … to this. */
  readonly syncMaxMs?: number;
  /** A write or sync has just been failed by plan. */
  readonly onFailure?: () => void;
}

/** `table`: the write that begins a segment. */
export type SimOperation = 'write' | 'table' | 'sync' | 'read' | 'create' | 'rename' | 'remove';

/** Springs once, at the operation of this kind that follows `skip` others; then the process should be dead. */
export interface DiskTrap {
  readonly operation: SimOperation;
  readonly when: 'before' | 'after';
  skip: number;
  readonly spring: () => void;
}

interface UnsyncedWrite {
  readonly offset: number;
  readonly bytes: Buffer;
}

interface SimFile {
  /** What a read sees. */
  readonly cache: Buffer;
  /** What a power loss leaves. */
  readonly disk: Buffer;
  unsynced: UnsyncedWrite[];
}

/** What a crash does to the operation that runs. */
interface Running {
  cut(): void;
}

export class SimDisk {
  readonly #clock: Pick<Clock, 'after'>;
  readonly #random: SimRandom;
  readonly #sectorBytes: number;
  readonly #syncMinMs: number;
  readonly #syncMaxMs: number;
  readonly #onFailure: (() => void) | undefined;
  readonly #files = new Map<number, SimFile>();
  readonly #faults: { operation: SimOperation; errno: string }[] = [];
  #stallMs = 0;
  #segmentStallMs = 0;
  #life = 0;
  #running = new Set<Running>();
  /** All files together; above it `create` fails. */
  capacityBytes = Number.POSITIVE_INFINITY;
  /** Every operation takes up to this much longer. */
  slowMs = 0;
  trap: DiskTrap | undefined;
  syncs = 0;

  constructor(options: SimDiskOptions) {
    this.#clock = options.clock;
    this.#random = options.random;
    this.#sectorBytes = options.sectorBytes ?? 512;
    this.#onFailure = options.onFailure;
    this.#syncMinMs = options.syncMinMs ?? 0.1;
    this.#syncMaxMs = options.syncMaxMs ?? 0.5;
  }

  /** A process's own; `crash` and `losePower` end it. */
  device(): LogDevice {
    return new SimDevice(this, ++this.#life);
  }

  /** The process dies. What it wrote stays in the cache, unsynced; a write that runs may be cut short. */
  crash(): void {
    this.#life++;
    const running = [...this.#running];
    this.#running = new Set();
    for (const operation of running) operation.cut();
  }

  /** The machine loses power: each unsynced write is kept, lost or torn, independently. */
  losePower(): void {
    this.crash();
    for (const file of this.#files.values()) {
      for (const write of file.unsynced) this.#settle(file, write);
      file.unsynced = [];
      file.disk.copy(file.cache);
    }
  }

  failNext(operation: SimOperation, errno = 'EIO'): void {
    this.#faults.push({ operation, errno });
  }
  clearFaults(): void {
    this.#faults.length = 0;
    this.#stallMs = 0;
    this.#segmentStallMs = 0;
    this.slowMs = 0;
    this.trap = undefined;
  }
  /** As `stallNext`, at the next write that begins a segment. */
  stallNextSegment(ms: number): void {
    this.#segmentStallMs = ms;
  }
  /** A segment's first write is about to run. */
  beginSegment(): void {
    this.#stallMs += this.#segmentStallMs;
    this.#segmentStallMs = 0;
  }
  /** The next operation takes this much longer. */
  stallNext(ms: number): void {
    this.#stallMs = ms;
  }
  /** Bit rot: on the disk, and seen by the next read. */
  flip(segment: number, offset: number, mask = 1): void {
    const file = this.#file(segment);
    file.disk[offset] = (file.disk[offset] as number) ^ mask;
    file.cache[offset] = (file.cache[offset] as number) ^ mask;
  }
  /** Whatever was there: on the disk, and seen by the next read. */
  overwrite(segment: number, offset: number, bytes: Uint8Array): void {
    const file = this.#file(segment);
    file.disk.set(bytes, offset);
    file.cache.set(bytes, offset);
  }
  /** A segment's bytes as a read would see them; the disk's own. */
  bytes(segment: number): Buffer {
    return this.#file(segment).cache;
  }
  segments(): SegmentFile[] {
    return [...this.#files]
      .map(([segment, file]) => ({ segment, bytes: file.cache.length }))
      .sort((a, b) => a.segment - b.segment);
  }
  /** Loses a whole file. */
  lose(segment: number): void {
    this.#files.delete(segment);
  }
  /** The same disk, byte by byte, everything on it synced; for trying many damages. */
  clone(): SimDisk {
    const copy = new SimDisk({ clock: this.#clock, random: this.#random.fork() });
    for (const [segment, { cache }] of this.#files) {
      copy.#files.set(segment, { cache: Buffer.from(cache), disk: Buffer.from(cache), unsynced: [] });
    }
    return copy;
  }

  // What the devices ask for.

  isAlive(life: number): boolean {
    return life === this.#life;
  }

  list(): SegmentFile[] {
    return this.segments();
  }

  create(segment: number, bytes: number): void {
    this.#spring('create', 'before');
    this.#check('create');
    let used = bytes;
    for (const file of this.#files.values()) used += file.cache.length;
    if (used > this.capacityBytes) throw diskFailed('no space left', 'ENOSPC');
    this.#files.set(segment, { cache: Buffer.alloc(bytes), disk: Buffer.alloc(bytes), unsynced: [] });
    this.#spring('create', 'after');
  }

  rename(from: number, to: number): void {
    this.#spring('rename', 'before');
    this.#check('rename');
    const file = this.#file(from);
    this.#files.delete(from);
    this.#files.set(to, file);
    this.#spring('rename', 'after');
  }

  remove(segment: number): void {
    this.#spring('remove', 'before');
    this.#file(segment);
    this.#files.delete(segment);
    this.#spring('remove', 'after');
  }

  read(segment: number, offset: number, target: Uint8Array): number {
    this.#check('read');
    const { cache } = this.#file(segment);
    const end = Math.min(offset + target.length, cache.length);
    if (end <= offset) return 0;
    target.set(cache.subarray(offset, end));
    return end - offset;
  }

  /** Into the cache. */
  write(segment: number, offset: number, bytes: Uint8Array): void {
    const operation = offset === 0 ? 'table' : 'write';
    this.#spring(operation, 'before');
    this.#check('write');
    this.put(segment, offset, bytes);
    this.#spring(operation, 'after');
  }

  /** As much of a write as was done when its process died. */
  put(segment: number, offset: number, bytes: Uint8Array): void {
    const file = this.#file(segment);
    if (offset + bytes.length > file.cache.length) throw diskFailed('segments never grow', 'EFBIG');
    const copy = Buffer.from(bytes);
    copy.copy(file.cache, offset);
    file.unsynced.push({ offset, bytes: copy });
  }

  sync(segment: number): void {
    this.#spring('sync', 'before');
    const file = this.#file(segment);
    const { unsynced } = file;
    file.unsynced = [];
    this.syncs++;
    try {
      this.#check('sync');
    } catch (error) {
      // As Linux does: the pages count as clean now, whatever reached the disk.
      for (const write of unsynced) this.#settle(file, write);
      throw error;
    }
    for (const write of unsynced) write.bytes.copy(file.disk, write.offset);
    this.#spring('sync', 'after');
  }

  /** Runs `steps` one after the other, with time in between; a crash cuts it short. */
  run(
    life: number,
    steps: (() => void)[],
    cutShort: (done: number) => void,
    end: (error?: unknown) => void,
  ): void {
    let done = 0;
    const running: Running = { cut: () => cutShort(done) };
    const next = (): void => {
      if (!this.isAlive(life)) return;
      try {
        steps[done]?.();
        done++;
      } catch (error) {
        this.#running.delete(running);
        if (this.isAlive(life)) end(error);
        return;
      }
      if (done === steps.length) {
        this.#running.delete(running);
        end();
      } else this.#clock.after(this.#latencyMs() / 2, next);
    };
    this.#running.add(running);
    this.#clock.after(this.#latencyMs() / 2, next);
  }

  /** Half of the writes that find a disk without plans are made at once, by the one who asks; no crash comes in their midst. */
  isQuickNow(): boolean {
    const isPlanned = this.trap !== undefined || this.#stallMs > 0 || this.slowMs > 0;
    return !isPlanned && this.#random.chance(0.5);
  }

  fraction(): number {
    return this.#random.fraction();
  }

  #latencyMs(): number {
    const stall = this.#stallMs;
    this.#stallMs = 0;
    const slow = this.slowMs === 0 ? 0 : this.#random.fraction() * this.slowMs;
    return stall + slow + this.#syncMinMs + this.#random.fraction() * (this.#syncMaxMs - this.#syncMinMs);
  }

  /** Decides what of an unsynced write reached the disk. */
  #settle(file: SimFile, write: UnsyncedWrite): void {
    const fate = this.#random.fraction();
    if (fate < 0.3) return;
    const kept = fate < 0.6 ? 1 : this.#random.fraction();
    for (let at = 0; at < write.bytes.length; at += this.#sectorBytes) {
      if (kept < 1 && !this.#random.chance(kept)) continue;
      write.bytes.copy(file.disk, write.offset + at, at, at + this.#sectorBytes);
    }
  }

  /** Throws where that was the end of the process: what it was about to do is not done. */
  #spring(operation: SimOperation, when: 'before' | 'after'): void {
    const { trap } = this;
    if (trap?.operation !== operation || trap.when !== when || trap.skip-- > 0) return;
    this.trap = undefined;
    const life = this.#life;
    trap.spring();
    if (life !== this.#life) throw new Error(`the process has died ${when} a ${operation}`);
  }

  #check(operation: SimOperation): void {
    const at = this.#faults.findIndex((fault) => fault.operation === operation);
    if (at < 0) return;
    const [fault] = this.#faults.splice(at, 1);
    // A segment that can't be made ahead is tried once more: not the end yet.
    if (operation === 'write' || operation === 'sync') this.#onFailure?.();
    throw diskFailed(`${operation} failed by plan`, fault?.errno);
  }

  #file(segment: number): SimFile {
    const file = this.#files.get(segment);
    if (file === undefined) throw diskFailed(`segment ${segment} does not exist`, 'ENOENT');
    return file;
  }
}

/** As the real one's (quick-disk.ts). */
const hereBytesMax = 16 * 1024;

class SimDevice implements LogDevice {
  readonly #disk: SimDisk;
  readonly #life: number;
  /** Operations wait for the one before, as in the real worker thread. */
  #queue: (() => void)[] = [];
  #busy = false;
  /** A change has failed: as with the real one, none behind it is tried. */
  #isBroken = false;
  #closed = false;

  constructor(disk: SimDisk, life: number) {
    this.#disk = disk;
    this.#life = life;
  }

  list(): Promise<SegmentFile[]> {
    return this.#inOrder((settle) => this.#steps([() => settle.value(this.#disk.list())], settle));
  }
  create(segment: number, bytes: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = { value: resolve, error: reject };
      this.#steps([() => {}, () => this.#disk.create(segment, bytes), () => settle.value()], settle);
    });
  }
  rename(from: number, to: number): Promise<void> {
    return this.#inOrder((settle) =>
      this.#steps(
        [
          () => {
            this.#checkWhole();
            this.#disk.rename(from, to);
            settle.value();
          },
        ],
        this.#breaking(settle),
      ),
    );
  }
  remove(segment: number): Promise<void> {
    return this.#inOrder((settle) =>
      this.#steps(
        [
          () => {
            this.#checkWhole();
            this.#disk.remove(segment);
            settle.value();
          },
        ],
        this.#breaking(settle),
      ),
    );
  }
  read(segment: number, offset: number, target: Uint8Array): Promise<number> {
    return this.#inOrder((settle) =>
      this.#steps([() => settle.value(this.#disk.read(segment, offset, target))], settle),
    );
  }
  write(segment: number, offset: number, bytes: Uint8Array): Promise<number> {
    const sync = (settle: Settle<number>): void => {
      this.#disk.sync(segment);
      settle.value(1);
    };
    return this.#inOrder((settle) => {
      if (offset === 0) this.#disk.beginSegment();
      const write = (): void => this.#disk.write(segment, offset, bytes);
      const steps = [() => this.#checkWhole() ?? write(), () => sync(settle)];
      this.#steps(steps, this.#breaking(settle), (done) => {
        // Killed in mid-call: any part of the bytes may have reached the cache.
        if (done > 0 || this.#disk.fraction() >= 0.5) return;
        this.#disk.put(segment, offset, bytes.subarray(0, Math.floor(this.#disk.fraction() * bytes.length)));
      });
    });
  }
  readonly here: WritesHere = {
    suits: (bytes) =>
      bytes <= hereBytesMax &&
      !this.#busy &&
      !this.#closed &&
      this.#disk.isAlive(this.#life) &&
      this.#disk.isQuickNow(),
    write: (segment, offset, bytes) => {
      this.#checkWhole();
      try {
        this.#disk.write(segment, offset, bytes);
        this.#disk.sync(segment);
      } catch (error) {
        this.#isBroken = true;
        throw error;
      }
      return 0.1;
    },
  };
  allocate(bytes: number): Buffer {
    return Buffer.alloc(bytes);
  }
  close(): Promise<void> {
    return this.#inOrder((settle) =>
      this.#steps(
        [
          () => {
            this.#closed = true;
            settle.value();
          },
        ],
        settle,
      ),
    );
  }

  #checkWhole(): undefined {
    if (this.#isBroken) throw diskFailed('not tried: a change of the log before it has failed', 'ECANCELED');
  }

  #breaking<T>(settle: Settle<T>): Settle<T> {
    return {
      value: settle.value,
      error: (error) => {
        this.#isBroken = true;
        settle.error(error);
      },
    };
  }

  /** One promise per operation, settled by the clock's event itself: few microtasks, so that steps stay in their moment. */
  #steps<T>(steps: (() => void)[], settle: Settle<T>, cutShort: (done: number) => void = () => {}): void {
    // A dead process's promises never settle.
    if (!this.#disk.isAlive(this.#life)) return;
    if (this.#closed) {
      settle.error(new Error('the device is closed'));
      return;
    }
    this.#disk.run(this.#life, steps, cutShort, (error) => {
      if (error !== undefined) settle.error(error as Error);
    });
  }

  #inOrder<T>(start: (settle: Settle<T>) => void): Promise<T> {
    return new Promise((resolve, reject) => {
      const settle: Settle<T> = {
        value: (value) => {
          resolve(value);
          this.#next();
        },
        error: (error) => {
          reject(error);
          this.#next();
        },
      };
      this.#queue.push(() => start(settle));
      if (!this.#busy) this.#next();
    });
  }

  #next(): void {
    const run = this.#queue.shift();
    this.#busy = run !== undefined;
    run?.();
  }
}

interface Settle<T> {
  value(value: T): void;
  error(error: Error): void;
}
