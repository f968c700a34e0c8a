/**
 * A simulated LevelDB: sorted rows in memory, with what a disk does to them.
 * `SimKvDisk` is the disk and outlives processes; `SimKv` is one process's
 * handle. Deterministic with the clock and randomness that it is given.
 *
 * A batch goes through three states: on its way (in the process), in the page
 * cache, synced. Process death keeps the page cache; power loss keeps what was
 * synced and, maybe, a prefix of what came after.
 */
import type {
  Clock,
  Kv,
  KvBatch,
  KvFactory,
  KvIterator,
  KvRange,
  KvSnapshot,
  Random,
} from '../../src/common/env.js';
import { HansardError } from '../../src/common/errors.js';
import { ValuesKv } from '../../src/store/values-kv.js';
import { SimValueDisk, simValueFolder, simValueLimits } from './sim-values.js';

type Change = readonly [key: string, value: Uint8Array | undefined];

export interface SimKvOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** Longest time of a read, ms; 0: the next turn. */
  readonly readMs?: number;
  /** Longest time of a synced batch, ms. */
  readonly writeMs?: number;
  /** Where no time is given: most turns of the loop that anything takes; 1 where absent. */
  readonly turns?: number;
  /** A write has just been failed. */
  readonly onFailure?: () => void;
}

/** What LevelDB 1.20 does in silence after a crash or on a bad disk (design rule 7), and what may happen to files beside it. */
export const kvDamages = [
  /** The newest log file is gone: the last few batches, synced as they were, never were. */
  'newest-lost',
  /** A damaged record is skipped: one synced batch in the middle never was. */
  'middle-skipped',
  /** CURRENT is missing: it opens empty. */
  'empty',
  /** One row is not found. */
  'row-missing',
  /** A bit of one row's value is another one. */
  'row-flipped',
  /** Of its value files: one is gone, a bit of one is another one. */
  'file-lost',
  'value-flipped',
] as const;
export type KvDamage = (typeof kvDamages)[number];

/** A synced batch, and what it replaced. */
interface Logged {
  readonly changes: Change[];
  readonly before: Change[];
}

/** Springs once, at the batch that follows `skip` others, or before the change of a value file; then the process should be dead. */
export interface KvTrap {
  readonly phase: KvPhase;
  skip: number;
  readonly spring: () => void;
}

export const kvPhases = ['begun', 'cached', 'synced', 'values'] as const;
export type KvPhase = (typeof kvPhases)[number];

/** As many batches as are taken to lie in LevelDB's own log. */
const loggedMax = 12;

/** Sorted rows with cheap snapshots of ranges. */
class Rows {
  readonly map = new Map<string, Uint8Array>();
  #sorted: string[] | undefined;

  apply(changes: readonly Change[]): void {
    for (const [key, value] of changes) {
      if (value === undefined) {
        if (this.map.delete(key)) this.#sorted = undefined;
      } else {
        if (!this.map.has(key)) this.#sorted = undefined;
        this.map.set(key, value);
      }
    }
  }

  range(range: KvRange): [string, Uint8Array][] {
    this.#sorted ??= [...this.map.keys()].sort();
    const from = lowerBound(this.#sorted, text(range.gte));
    const to = lowerBound(this.#sorted, text(range.lt));
    const length = Math.min(Math.max(to - from, 0), range.limit ?? Number.POSITIVE_INFINITY);
    const keys = range.reverse
      ? this.#sorted.slice(to - length, to).reverse()
      : this.#sorted.slice(from, from + length);
    return keys.map((key) => [key, this.map.get(key) as Uint8Array]);
  }

  copy(): Rows {
    const rows = new Rows();
    for (const [key, value] of this.map) rows.map.set(key, value);
    return rows;
  }
}

export class SimKvDisk {
  /** As the page cache has them. */
  rows = new Rows();
  #durable = new Rows();
  #unsynced: Change[][] = [];
  #onWay: Change[][] = [];
  /** The newest synced batches, oldest first. */
  #logged: Logged[] = [];
  handle: SimKv | undefined;
  exists = false;
  /** Every write fails until told otherwise. */
  failWrites = false;
  trap: KvTrap | undefined;
  #stalled: (() => void)[] | undefined;
  writes = 0;
  readonly values: SimValueDisk;

  constructor(readonly options: SimKvOptions) {
    this.values = new SimValueDisk(options.random);
  }

  /** Writes neither end nor fail until `resume`. */
  stall(): void {
    this.#stalled ??= [];
  }

  resume(): void {
    const waiting = this.#stalled ?? [];
    this.#stalled = undefined;
    for (const go of waiting) go();
  }

  /** The process is gone: what was on its way may or may not have reached the page cache. */
  processDeath(): void {
    this.#dropHandle();
    this.#takePrefix(this.#onWay, (changes) => {
      this.rows.apply(changes);
      this.#unsynced.push(changes);
    });
  }

  /** What was not synced is lost, or some of it, in order. */
  powerLoss(): void {
    this.#dropHandle();
    this.values.powerLoss();
    const rows = this.#durable.copy();
    this.#takePrefix([...this.#unsynced, ...this.#onWay], (changes) => rows.apply(changes));
    this.rows = rows;
    this.#durable = rows.copy();
    this.#unsynced = [];
    this.#logged = [];
  }

  /** Behind everybody's back, while no process runs. False: there was nothing to damage. */
  lose(damage: KvDamage): boolean {
    const { random } = this.options;
    if (damage === 'file-lost' || damage === 'value-flipped') return this.values.damage(damage);
    if (damage === 'row-missing' || damage === 'row-flipped') {
      const keys = [...this.#durable.map.keys()].sort();
      const key = keys[random.u32() % Math.max(1, keys.length)];
      if (key === undefined) return false;
      const value = Buffer.from(this.#durable.map.get(key) as Uint8Array);
      if (value.length > 0) (value[random.u32() % value.length] as number) ^= 1 << (random.u32() % 8);
      this.#durable.apply([[key, damage === 'row-missing' ? undefined : value]]);
    } else if (damage === 'empty') this.#durable = new Rows();
    else if (!this.#loseLogged(damage)) return false;
    this.#unsynced = [];
    this.#logged = [];
    this.rows = this.#durable.copy();
    return true;
  }

  #loseLogged(damage: 'newest-lost' | 'middle-skipped'): boolean {
    const { random } = this.options;
    if (this.#logged.length < 2) return false;
    const from = random.u32() % (this.#logged.length - 1);
    const undone = this.#logged.slice(from);
    for (const { before } of [...undone].reverse()) this.#durable.apply(before);
    if (damage === 'middle-skipped') for (const { changes } of undone.slice(1)) this.#durable.apply(changes);
    return true;
  }

  /** For tests of damage: changes a row where it lies, behind everybody's back. */
  damage(change: (key: Buffer, value: Buffer) => Buffer | undefined): number {
    let changed = 0;
    for (const [key, value] of [...this.rows.map]) {
      const made = change(bytes(key), Buffer.from(value));
      if (made !== undefined && Buffer.compare(made, value) === 0) continue;
      this.rows.apply([[key, made]]);
      this.#durable.apply([[key, made]]);
      changed++;
    }
    return changed;
  }

  async write(changes: Change[], handle: SimKv): Promise<void> {
    this.writes++;
    this.#onWay.push(changes);
    this.#spring('begun', handle);
    await turn(this.options, this.options.writeMs);
    if (this.#stalled !== undefined) await new Promise<void>((resolve) => this.#stalled?.push(resolve));
    handle.mustLive();
    const at = this.#onWay.indexOf(changes);
    if (this.failWrites) {
      this.#onWay.splice(at, 1);
      // It may be there all the same: a failed sync says nothing of the write before it.
      if (this.options.random.u32() % 2 === 0) {
        this.rows.apply(changes);
        this.#unsynced.push(changes);
      }
      this.options.onFailure?.();
      throw new HansardError('DISK_FAILED', 'a simulated write failed');
    }
    this.#onWay.splice(at, 1);
    this.rows.apply(changes);
    this.#unsynced.push(changes);
    this.#spring('cached', handle);
    await turn(this.options, this.options.writeMs);
    handle.mustLive();
    this.#sync();
    this.#spring('synced', handle);
  }

  /** The folder of value files as `handle`'s process has it. */
  valueFolder(handle: SimKv) {
    const { options } = this;
    return simValueFolder(this.values, {
      change: async (act, failed) => {
        this.#spring('values', handle);
        await turn(options, (options.writeMs ?? 0) / 2);
        if (this.#stalled !== undefined) await new Promise<void>((resolve) => this.#stalled?.push(resolve));
        handle.mustLive();
        if (this.failWrites) {
          failed?.();
          options.onFailure?.();
          throw new HansardError('DISK_FAILED', 'a simulated write of a value file failed');
        }
        act();
      },
      read: async (act) => {
        await turn(options, options.readMs);
        handle.mustLive();
        return act();
      },
    });
  }

  /** LevelDB makes tables of what it finds in its log, and level-kv.ts syncs the folder; or the process dies before. */
  async openedBy(handle: SimKv): Promise<void> {
    await turn(this.options, this.options.writeMs);
    handle.mustLive();
    this.#sync();
  }

  /** Takes all that came before with it: LevelDB's log is one sequence. */
  #sync(): void {
    for (;;) {
      const done = this.#unsynced.shift();
      if (done === undefined) break;
      this.#logged.push({ changes: done, before: done.map(([key]) => [key, this.#durable.map.get(key)]) });
      if (this.#logged.length > loggedMax) this.#logged.shift();
      this.#durable.apply(done);
    }
  }

  #spring(phase: KvTrap['phase'], handle: SimKv): void {
    const { trap } = this;
    if (trap?.phase !== phase || trap.skip-- > 0) return;
    this.trap = undefined;
    trap.spring();
    handle.mustLive();
  }

  #dropHandle(): void {
    if (this.handle !== undefined) this.handle.dead = true;
    this.handle = undefined;
    this.#stalled = undefined;
  }

  #takePrefix(batches: Change[][], take: (changes: Change[]) => void): void {
    const kept = this.options.random.u32() % (batches.length + 1);
    for (const changes of batches.slice(0, kept)) take(changes);
    this.#onWay = [];
  }
}

export class SimKv implements Kv {
  dead = false;
  constructor(readonly disk: SimKvDisk) {}

  async get(key: Uint8Array): Promise<Uint8Array | undefined> {
    const value = this.getSync(key);
    await this.#read();
    return value;
  }

  getSync(key: Uint8Array): Uint8Array | undefined {
    const value = this.disk.rows.map.get(text(key));
    return value === undefined ? undefined : Buffer.from(value);
  }

  async getMany(keys: Uint8Array[]): Promise<(Uint8Array | undefined)[]> {
    const values = keys.map((key) => this.getSync(key));
    await this.#read();
    return values;
  }

  batch(): KvBatch {
    return new SimBatch(this);
  }

  iterator(range: KvRange): KvIterator {
    return this.#iterate(this.disk.rows, range);
  }

  snapshot(): KvSnapshot {
    const rows = this.disk.rows.copy();
    return { iterator: (range) => this.#iterate(rows, range), close: () => Promise.resolve() };
  }

  #iterate(of: Rows, range: KvRange): KvIterator {
    const rows = of.range(range);
    let at = 0;
    return {
      next: async (count) => {
        await this.#read();
        const taken = rows.slice(at, at + count);
        at += taken.length;
        return taken.map(([key, value]) => [bytes(key), Buffer.from(value)]);
      },
      close: () => Promise.resolve(),
    };
  }

  /** Rows take no space that would have to be given back. */
  compact(): Promise<void> {
    return Promise.resolve();
  }

  sizeOf(): Promise<number> {
    return Promise.resolve(0);
  }

  readonly reclaimable = false;

  reclaim(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    if (this.disk.handle === this) this.disk.handle = undefined;
    return Promise.resolve();
  }

  /** A dead process never hears of the end of what it began. */
  mustLive(): void {
    if (this.dead) throw new ProcessIsDead();
  }

  async #read(): Promise<void> {
    await turn(this.disk.options, this.disk.options.readMs);
    this.mustLive();
  }
}

/** Thrown into what a dead process was doing; tests drop it. */
export class ProcessIsDead extends Error {
  override readonly name = 'ProcessIsDead';
}

class SimBatch implements KvBatch {
  readonly #changes: Change[] = [];
  constructor(readonly kv: SimKv) {}

  put(key: Uint8Array, value: Uint8Array): void {
    this.#changes.push([text(key), Buffer.from(value)]);
  }

  del(key: Uint8Array): void {
    this.#changes.push([text(key), undefined]);
  }

  get length(): number {
    return this.#changes.length;
  }

  write(): Promise<void> {
    this.kv.mustLive();
    return this.kv.disk.write(this.#changes, this.kv);
  }

  abandon(): Promise<void> {
    return Promise.resolve();
  }
}

/** Databases by path, on disks that live on when their process dies. */
export class SimKvFactory implements KvFactory {
  readonly disks = new Map<string, SimKvDisk>();
  constructor(readonly options: SimKvOptions) {}

  disk(path: string): SimKvDisk {
    let disk = this.disks.get(path);
    if (disk === undefined) {
      disk = new SimKvDisk(this.options);
      this.disks.set(path, disk);
    }
    return disk;
  }

  async open(path: string, { create }: { create: boolean }): Promise<Kv> {
    const disk = this.disk(path);
    await turn(this.options, this.options.readMs);
    if (disk.handle !== undefined) throw new HansardError('DIRECTORY_IN_USE', `${path} is open`);
    if (!disk.exists && !create) throw new HansardError('REPLICA_LOST', `there is no database in ${path}`);
    disk.exists = true;
    const handle = new SimKv(disk);
    disk.handle = handle;
    await disk.openedBy(handle);
    return ValuesKv.open(handle, disk.valueFolder(handle), simValueLimits);
  }
}

function turn(options: SimKvOptions, mostMs = 0): Promise<void> {
  return new Promise((resolve) => {
    if (mostMs === 0) defer(options, (options.random.u32() % (options.turns ?? 1)) + 1, resolve);
    else options.clock.after((options.random.u32() / 2 ** 32) * mostMs, resolve);
  });
}

function defer(options: SimKvOptions, turns: number, fn: () => void): void {
  options.clock.defer(turns <= 1 ? fn : () => defer(options, turns - 1, fn));
}

/** Keys as strings of bytes: they compare like the bytes. */
function text(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.length).toString('latin1');
}

function bytes(key: string): Buffer {
  return Buffer.from(key, 'latin1');
}

function lowerBound(sorted: readonly string[], key: string): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle] as string) < key) low = middle + 1;
    else high = middle;
  }
  return low;
}
