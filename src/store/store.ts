/** A store's applied state: formatting, opening, checkpoints over several partitions, facts. */
import { type ByteReader, type ByteWriter, MalformedError } from '../common/bytes.js';
import type { Clock, Kv, KvBatch } from '../common/env.js';
import { assert, HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { Logger } from '../common/logger.js';
import { initialMeta } from '../conversation/settings.js';
import type { ReplicatedSettings } from '../conversation/types.js';
import { type Generations, putGenerations, readGenerations, sweepGenerations } from './generations.js';
import { after, asBuffer, factKey, formatKey, partitionKey, RowKind } from './keys.js';
import { LruCache } from './lru.js';
import { foreign, openPartition } from './open.js';
import { PartitionState, type SealedIndex, type StoreShared } from './partition-state.js';
import { PartitionStoreImpl } from './partition-store.js';
import { damaged, openRow, rowWriter, sealRow } from './rows.js';
import { SealBatch } from './seal-batch.js';
import { finishSeal, type Sealed, sealPartition } from './sealer.js';
import { Slicer } from './slices.js';
import { exportPartition } from './snapshot-export.js';
import { decodeManifest } from './snapshot-format.js';
import { type InstallHost, PartitionInstall } from './snapshot-install.js';
import { partitionRowVersion, writePartition } from './state-codec.js';
import { cloneMeta } from './tail.js';
import type { PartitionStore, SnapshotExport, SnapshotInstall, Store, StoreStats } from './types.js';

const MiB = 1024 * 1024;

export const storeDefaults = Object.freeze({
  /** Clean rows, chunks and decoded blocks. */
  cacheBytes: 64 * MiB,
  /** All tails of a node; then admission and applying wait for a checkpoint. */
  tailLimitBytes: 64 * MiB,
  /** A block before compression. Equal on all replicas, so it is fixed when a store is formatted. */
  blockBytes: 4096,
});

const formatVersion = 1;

export interface FormatOptions {
  readonly kv: Kv;
  readonly clusterId: string;
  readonly storeId: string;
  readonly partitions: readonly { readonly partition: PartitionId; readonly confState: ConfState }[];
  readonly settings?: Readonly<ReplicatedSettings>;
  readonly blockBytes?: number;
}

export interface OpenStoreOptions {
  readonly kv: Kv;
  readonly clusterId: string;
  readonly storeId: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly cacheBytes?: number;
  readonly tailLimitBytes?: number;
}

interface FormatRecord {
  readonly clusterId: string;
  readonly storeId: string;
  readonly blockBytes: number;
  readonly partitions: readonly PartitionId[];
}

/**
 * Writes the format record and every partition's first record, in one batch.
 * From then on a missing record is damage, never a fresh start.
 */
export async function formatStore(options: FormatOptions): Promise<void> {
  const { kv, clusterId, storeId } = options;
  const iterator = kv.iterator({ gte: new Uint8Array(0), lt: Uint8Array.of(0xff), limit: 1 });
  const rows = await iterator.next(1).finally(() => iterator.close());
  if (rows.length > 0) {
    throw new HansardError('DIRECTORY_NOT_EMPTY', 'the database to format holds rows already');
  }
  const batch = kv.batch();
  const put = (key: Uint8Array, writer: ByteWriter) => batch.put(key, sealRow(key, writer));
  const writer = rowWriter().u16(formatVersion).string(clusterId).string(storeId);
  writer.u32(options.blockBytes ?? storeDefaults.blockBytes).uvarint(options.partitions.length);
  for (const { partition } of options.partitions) writer.u16(partition);
  put(formatKey(), writer);
  for (const { partition, confState } of options.partitions) {
    const record = rowWriter(256, partitionRowVersion);
    writePartition(record, {
      partition,
      generation: 1,
      appliedIndex: 0,
      appliedTerm: 0,
      confState,
      meta: initialMeta(partition, options.settings),
      producerCount: 0,
      eventCount: 0,
      termCount: 0,
      endedCount: 0,
      firstCheckpoint: 1,
      lastCheckpoint: 0,
      lastDigest: 0n,
      nextRun: 1,
      runs: [],
      retired: [],
    });
    put(partitionKey(partition), record);
  }
  await batch.write();
}

/**
 * Opens a formatted store. Rejects REPLICA_LOST where the database has no format
 * record or belongs to another cluster or store, FORMAT_TOO_NEW, STORE_DAMAGED.
 * The store owns `kv` from here on and closes it.
 */
export async function openStore(options: OpenStoreOptions): Promise<Store> {
  const { kv, clock, logger } = options;
  try {
    const format = await readFormat(kv);
    if (format.clusterId !== options.clusterId) throw foreign('cluster', format.clusterId, options.clusterId);
    if (format.storeId !== options.storeId) throw foreign('store', format.storeId, options.storeId);
    const cacheBytes = options.cacheBytes ?? storeDefaults.cacheBytes;
    const shared: StoreShared = {
      kv,
      clock,
      logger,
      blockBytes: format.blockBytes,
      channelCache: new LruCache(cacheBytes * 0.4),
      producerCache: new LruCache(cacheBytes * 0.1),
      chunkCache: new LruCache(cacheBytes * 0.2),
      blockCache: new LruCache(cacheBytes * 0.3),
      counters: { checkpoints: 0, checkpointBytes: 0, syncReads: 0, blocksRead: 0 },
      tails: { bytes: 0 },
    };
    const states: PartitionState[] = [];
    const generations = await readGenerations(kv);
    for (const partition of format.partitions) {
      const installedIndex = generations.get(partition)?.installedIndex ?? 0;
      states.push(await openPartition(shared, partition, options.storeId, installedIndex));
    }
    const facts = await readFacts(kv);
    return new StoreImpl(
      format,
      shared,
      states,
      facts,
      generations,
      options.tailLimitBytes ?? storeDefaults.tailLimitBytes,
    );
  } catch (error) {
    await kv.close();
    throw error;
  }
}

async function readFormat(kv: Kv): Promise<FormatRecord> {
  const key = formatKey();
  const row = await kv.get(key);
  if (row === undefined) {
    throw new HansardError(
      'REPLICA_LOST',
      'the database has no format record: it was never formatted, or is lost',
    );
  }
  return openRow(key, row, 'the format record', (reader) => {
    const version = reader.u16();
    if (version > formatVersion) {
      throw new HansardError(
        'FORMAT_TOO_NEW',
        `the database has format ${version}, this program knows ${formatVersion}`,
        { format: version, known: formatVersion },
      );
    }
    return {
      clusterId: reader.string(),
      storeId: reader.string(),
      blockBytes: reader.u32(),
      partitions: readPartitionList(reader),
    };
  });
}

function readPartitionList(reader: ByteReader): PartitionId[] {
  const count = reader.uvarint();
  if (count * 2 !== reader.remaining) throw damaged('the format record', `a list of ${count} partitions`);
  return Array.from({ length: count }, () => reader.u16());
}

async function readFacts(kv: Kv): Promise<Map<string, Uint8Array>> {
  const facts = new Map<string, Uint8Array>();
  const prefix = Uint8Array.of(RowKind.fact);
  const iterator = kv.iterator({ gte: prefix, lt: after(prefix) });
  try {
    for (;;) {
      const rows = await iterator.next(100);
      if (rows.length === 0) break;
      for (const [key, row] of rows) {
        const name = asBuffer(key).subarray(1).toString();
        const copy = (reader: ByteReader) => Uint8Array.from(reader.bytes(reader.remaining));
        facts.set(name, openRow(key, row, `fact ${name}`, copy));
      }
    }
  } finally {
    await iterator.close();
  }
  return facts;
}

class StoreImpl implements Store {
  readonly #shared: StoreShared;
  readonly #states = new Map<PartitionId, PartitionState>();
  readonly #stores = new Map<PartitionId, PartitionStoreImpl>();
  readonly #facts: Map<string, Uint8Array>;
  readonly storeId: string;
  readonly tailLimitBytes: number;
  /** After a failed write nothing may be sealed any more: the process must end. */
  #failure: unknown;
  #writes = new Set<Promise<unknown>>();
  #closing = false;
  /** Of partitions that ever took in a snapshot. */
  readonly #generations = new Map<PartitionId, Generations>();
  readonly #installing = new Map<PartitionId, Ending>();
  readonly #sweeping = new Set<PartitionId>();
  readonly #noting = new Map<PartitionId, Promise<void>>();

  constructor(
    format: FormatRecord,
    shared: StoreShared,
    states: readonly PartitionState[],
    facts: Map<string, Uint8Array>,
    generations: ReadonlyMap<PartitionId, Generations>,
    tailLimitBytes: number,
  ) {
    this.storeId = format.storeId;
    this.#shared = shared;
    this.#facts = facts;
    this.tailLimitBytes = tailLimitBytes;
    for (const state of states) {
      const { partition } = state.place;
      this.#states.set(partition, state);
      this.#stores.set(partition, new PartitionStoreImpl(state, () => this.checkpoint([partition])));
      const found = generations.get(partition);
      if (found === undefined) continue;
      this.#generations.set(partition, found);
      if (!found.swept) this.#sweep(partition);
    }
  }

  partition(partition: PartitionId): PartitionStore {
    const store = this.#stores.get(partition);
    assert(store !== undefined, `this store has no partition ${partition}`);
    return store;
  }

  partitions(): readonly PartitionStore[] {
    return [...this.#stores.values()];
  }

  get tailBytes(): number {
    return this.#shared.tails.bytes;
  }

  async checkpoint(partitions: readonly PartitionId[]): Promise<void> {
    // One checkpoint of a partition at a time: its frozen tail is the only one.
    // Looked up anew after each wait: an install may have taken the place.
    let states = this.#statesOf(partitions);
    for (let busy = states; busy.length > 0; ) {
      await Promise.all(busy.map((state) => state.sealing));
      states = this.#statesOf(partitions);
      busy = states.filter((state) => state.sealing !== undefined);
    }
    this.#refuseAfterFailure();
    const dirty = states.filter((state) => state.dirtySinceMs !== undefined);
    if (dirty.length === 0) return;
    const work = this.#seal(dirty);
    const settled = work.then(
      () => undefined,
      () => undefined,
    );
    for (const state of dirty) state.sealing = settled;
    await this.#track(work);
  }

  #statesOf(partitions: readonly PartitionId[]): PartitionState[] {
    return [...new Set(partitions)].map((partition) => this.#state(partition));
  }

  #state(partition: PartitionId): PartitionState {
    const state = this.#states.get(partition);
    assert(state !== undefined, `this store has no partition ${partition}`);
    return state;
  }

  /** Freezes all in one turn, builds one batch in slices, writes it, and drops the frozen tails in one turn. */
  async #seal(states: readonly PartitionState[]): Promise<void> {
    const frozen = states.map((state) => state.freeze(cloneMeta(state.meta)));
    const batch = this.#shared.kv.batch();
    const slicer = new Slicer(this.#shared.clock);
    let bytes = 0;
    try {
      const sealed: Sealed[] = [];
      for (const [i, state] of states.entries()) {
        const out = new SealBatch(batch, slicer, state.sealed.record.lastDigest);
        const frozenTail = frozen[i];
        assert(frozenTail !== undefined, 'every partition was frozen');
        sealed.push(await sealPartition(state, frozenTail, out));
        bytes += out.bytes;
      }
      await batch.write();
      for (const [i, state] of states.entries()) {
        finishSeal(state, sealed[i] as Sealed);
        state.sealing = undefined;
      }
    } catch (error) {
      // The frozen tails stay: reads still see them, until the process ends.
      this.#failure ??= error;
      for (const state of states) state.sealing = undefined;
      await batch.abandon().catch((second: unknown) => {
        this.#shared.logger.warn({ error: String(second) }, 'giving up a batch failed');
      });
      throw error;
    }
    this.#shared.counters.checkpoints++;
    this.#shared.counters.checkpointBytes += bytes;
  }

  // ---- snapshots

  exportSnapshot(partition: PartitionId): Promise<SnapshotExport | undefined> {
    return exportPartition(() => this.#state(partition));
  }

  async beginInstall(partition: PartitionId, manifest: Uint8Array): Promise<SnapshotInstall> {
    this.#refuseAfterFailure();
    const decoded = decodeManifest(manifest);
    const { record, blockBytes } = decoded;
    if (record.partition !== partition) {
      throw new MalformedError(`a snapshot of partition ${record.partition}, not ${partition}`);
    }
    if (blockBytes !== this.#shared.blockBytes) {
      throw new HansardError(
        'INVALID_SETTINGS',
        `the snapshot has blocks of ${blockBytes} bytes, this store of ${this.#shared.blockBytes}`,
        { partition },
      );
    }
    // One at a time; one that was given up may still have a batch on its way.
    for (let before = this.#installing.get(partition); before !== undefined; ) {
      await before.ended;
      before = this.#installing.get(partition);
    }
    this.#installing.set(partition, newEnding());
    const known = this.#generationsOf(partition);
    const next: Generations = { ...known, highest: known.highest + 1, swept: false };
    // Synced before the first row: an open that finds it knows what to sweep.
    await this.#note(partition, next);
    const host: InstallHost = {
      shared: this.#shared,
      storeId: this.storeId,
      write: (rows) => this.#write(rows),
      flip: (sealed, put) => this.#flip(sealed, put),
      giveUp: () => {
        this.#endInstall(partition);
        this.#sweep(partition);
      },
    };
    return new PartitionInstall(host, decoded, next.highest);
  }

  /** The decision of an install: one batch, and in the turn of its end all that stands beside the database. */
  async #flip(sealed: SealedIndex, put: (batch: KvBatch) => void): Promise<void> {
    const { partition, appliedIndex } = sealed.record;
    let before = this.#state(partition);
    for (; before.sealing !== undefined; before = this.#state(partition)) await before.sealing;
    assert(
      before.appliedIndex < appliedIndex,
      `partition ${partition} has applied ${before.appliedIndex}, the snapshot stands at ${appliedIndex}`,
    );
    const was = before.appliedIndex;
    const next: Generations = { ...this.#generationsOf(partition), installedIndex: appliedIndex };
    const batch = this.#shared.kv.batch();
    put(batch);
    putGenerations(batch, partition, next);
    const work = this.#write(batch);
    // Nobody seals what is about to be replaced.
    before.sealing = work.then(
      () => undefined,
      () => undefined,
    );
    await work;
    before.sealing = undefined;
    assert(
      before.appliedIndex === was,
      `partition ${partition} was applied to while a snapshot took its place`,
    );
    const state = new PartitionState(this.#shared, sealed, cloneMeta(sealed.record.meta), appliedIndex);
    before.active.drop();
    this.#generations.set(partition, next);
    this.#states.set(partition, state);
    this.#stores.get(partition)?.replaceState(state);
    this.#endInstall(partition);
    this.#sweep(partition);
  }

  #generationsOf(partition: PartitionId): Generations {
    const { generation } = this.#state(partition).place;
    return this.#generations.get(partition) ?? { highest: generation, swept: true, installedIndex: 0 };
  }

  #endInstall(partition: PartitionId): void {
    const ending = this.#installing.get(partition);
    this.#installing.delete(partition);
    ending?.end();
  }

  /** Deletes what is left of other generations, beside everything else. */
  #sweep(partition: PartitionId): void {
    if (this.#sweeping.has(partition)) return;
    this.#sweeping.add(partition);
    this.#sweepAll(partition).catch((error: unknown) => {
      // Reading or deleting failed: nothing is sealed any more, and the process ends.
      this.#failure ??= error;
      this.#shared.logger.error({ partition, error: String(error) }, 'sweeping old rows failed');
    });
  }

  async #sweepAll(partition: PartitionId): Promise<void> {
    const { kv, clock } = this.#shared;
    const pause = () => new Promise<void>((resolve) => clock.defer(resolve));
    const goOn = () => !this.#closing && this.#failure === undefined;
    try {
      // An install that began after the look has a higher generation; its end sweeps again.
      while (goOn() && !this.#installing.has(partition)) {
        const { highest } = this.#generationsOf(partition);
        const { generation } = this.#state(partition).place;
        const done =
          (await this.#track(sweepGenerations(kv, partition, 1, generation - 1, pause, goOn))) &&
          (await this.#track(sweepGenerations(kv, partition, generation + 1, highest, pause, goOn)));
        if (!done || this.#installing.has(partition)) return;
        const now = this.#generationsOf(partition);
        if (now.highest !== highest || this.#state(partition).place.generation !== generation) continue;
        await this.#note(partition, { ...now, swept: true });
        return;
      }
    } finally {
      // In the very turn of the last look: an install that ends from here on begins a sweep of its own.
      this.#sweeping.delete(partition);
    }
  }

  /** One such write of a partition after the other: two at once could land in either order. */
  #note(partition: PartitionId, generations: Generations): Promise<void> {
    this.#generations.set(partition, generations);
    const noted = (this.#noting.get(partition) ?? Promise.resolve()).then(() => {
      const batch = this.#shared.kv.batch();
      putGenerations(batch, partition, generations);
      return this.#write(batch);
    });
    this.#noting.set(
      partition,
      noted.catch(() => undefined),
    );
    return noted;
  }

  async #write(batch: KvBatch): Promise<void> {
    await this.#track(
      batch.write().catch((error: unknown) => {
        this.#failure ??= error;
        throw error;
      }),
    );
  }

  getFact(name: string): Uint8Array | undefined {
    return this.#facts.get(name);
  }

  async putFact(name: string, value: Uint8Array): Promise<void> {
    this.#refuseAfterFailure();
    const own = Uint8Array.from(value);
    const key = factKey(name);
    const batch = this.#shared.kv.batch();
    batch.put(key, sealRow(key, rowWriter(own.length).bytes(own)));
    await this.#write(batch);
    this.#facts.set(name, own);
  }

  stats(): StoreStats {
    return { tailBytes: this.tailBytes, ...this.#shared.counters };
  }

  /** Waits for what is being written, seals nothing more. */
  async close(): Promise<void> {
    this.#closing = true;
    while (this.#writes.size > 0) await Promise.allSettled([...this.#writes]);
    await this.#shared.kv.close();
  }

  async #track<T>(work: Promise<T>): Promise<T> {
    this.#writes.add(work);
    try {
      return await work;
    } finally {
      this.#writes.delete(work);
    }
  }

  #refuseAfterFailure(): void {
    if (this.#failure === undefined) return;
    throw new HansardError(
      'DISK_FAILED',
      'an earlier write to the database failed',
      {},
      { cause: this.#failure },
    );
  }
}

/** Something that others wait for the end of. */
interface Ending {
  readonly ended: Promise<void>;
  end(): void;
}

function newEnding(): Ending {
  let end = (): void => {};
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  return { ended, end: () => end() };
}
