/** A store's applied state: formatting, opening, checkpoints over several partitions, facts. */
import { type ByteReader, type ByteWriter, MalformedError } from '../common/bytes.js';
import type { Clock, Kv, KvBatch } from '../common/env.js';
import { assert, HansardError } from '../common/errors.js';
import type { PartitionId, ReplicaId } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { Logger } from '../common/logger.js';
import type { ReplicatedSettings } from '../conversation/types.js';
import { DirtyChannels } from './dirty-channels.js';
import { type Generations, putGenerations, readGenerations, sweepGenerations } from './generations.js';
import { GiveBack } from './give-back.js';
import { fillLostBlocks, findLostBlocks, type LostEvents } from './give-up.js';
import { after, asBuffer, factKey, formatKey, partitionKey, RowKind } from './keys.js';
import { LruCache } from './lru.js';
import { foreign, loadSealed, openPartition } from './open.js';
import type { Pace } from './pace.js';
import { PartitionState, type SealedIndex, type StoreShared } from './partition-state.js';
import { PartitionStoreImpl } from './partition-store.js';
import { damaged, openRow, rowWriter, sealRow } from './rows.js';
import { SealBatch } from './seal-batch.js';
import { finishSeal, type Sealed, sealPartition } from './sealer.js';
import { emptyRecord, highestGeneration, noConfiguration, standIn } from './set-aside.js';
import { Slicer } from './slices.js';
import { exportPartition } from './snapshot-export.js';
import { decodeManifest } from './snapshot-format.js';
import { type InstallHost, PartitionInstall } from './snapshot-install.js';
import { partitionRowVersion, writePartition } from './state-codec.js';
import { cloneMeta } from './tail.js';
import type {
  HostedReplica,
  PartitionStore,
  SnapshotExport,
  SnapshotInstall,
  Store,
  StoreStats,
} from './types.js';

const MiB = 1024 * 1024;
/** Partitions, each a dozen reads one after the other: LevelDB's threads read while this one counts. */
const openedAtOnce = 4;

/** What sealing may have of the loop's time: while tails are less than half full, and when they are full. */
const shareWithRoom = 0.2;
const shareWhenFull = 0.6;
/** Of the cache of channels, that one checkpoint's may take: the rest is for those that are only read. */
const keptShare = 0.75;

export const storeDefaults = Object.freeze({
  /** Clean rows, chunks and decoded blocks. */
  cacheBytes: 64 * MiB,
  /** All tails of a node; then admission and applying wait for a checkpoint. */
  tailLimitBytes: 64 * MiB,
  /** 7 days: whoever follows many channels may be away for that long. */
  changeRetentionMs: 7 * 24 * 3_600_000,
  /** About the size of a block before compression. Fixed when a store is formatted. */
  blockBytes: 16 * 1024,
});

/** 2: with the replicas that came or went since it was formatted. Written only where there are such. */
export const storeFormatVersion = 2;

export interface FormatOptions {
  readonly kv: Kv;
  readonly clusterId: string;
  readonly storeId: string;
  readonly partitions: readonly {
    readonly partition: PartitionId;
    readonly confState: ConfState;
    /** Of a replica that came later, or is formatted anew in the place of a lost database. */
    readonly replicaId?: ReplicaId;
  }[];
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
  /** How long the change list is kept, ms of commit time. */
  readonly changeRetentionMs?: number;
  /**
   * Given: a damaged partition is set aside, and the rest of the store opens. By
   * partition: rows of this generation and those before were found damaged in an earlier
   * life. Undefined: damage refuses the whole.
   */
  readonly untrusted?: ReadonlyMap<PartitionId, number> | undefined;
}

interface FormatRecord {
  readonly clusterId: string;
  readonly storeId: string;
  readonly blockBytes: number;
  /** What is held here, or was. A partition that is not named was never here. */
  readonly hosted: readonly HostedReplica[];
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
  const blockBytes = options.blockBytes ?? storeDefaults.blockBytes;
  const hosted = options.partitions.map(({ partition, replicaId = 0 }) => ({
    partition,
    replicaId,
    removed: false,
  }));
  put(formatKey(), formatRow({ clusterId, storeId, blockBytes, hosted }));
  for (const { partition, confState } of options.partitions) {
    const record = emptyRecord(partition, 1, confState, options.settings);
    const row = rowWriter(256, partitionRowVersion(record));
    writePartition(row, record);
    put(partitionKey(partition), row);
  }
  await batch.write();
}

/** The oldest version that can hold it. */
function formatRow({ clusterId, storeId, blockBytes, hosted }: FormatRecord): ByteWriter {
  const version = hosted.some(({ replicaId, removed }) => replicaId > 0 || removed) ? 2 : 1;
  const writer = rowWriter().u16(version).string(clusterId).string(storeId);
  writer.u32(blockBytes).uvarint(hosted.length);
  for (const { partition, replicaId, removed } of hosted) {
    writer.u16(partition);
    if (version >= 2) writer.uvarint(replicaId).u8(removed ? 1 : 0);
  }
  return writer;
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
      changeRetentionUs: 1_000 * (options.changeRetentionMs ?? storeDefaults.changeRetentionMs),
      cursorCache: new LruCache(cacheBytes * 0.05),
      channelCache: new LruCache(cacheBytes * 0.4),
      producerCache: new LruCache(cacheBytes * 0.1),
      chunkCache: new LruCache(cacheBytes * 0.2),
      blockCache: new LruCache(cacheBytes * 0.3),
      counters: { checkpoints: 0, checkpointBytes: 0, syncReads: 0, blocksRead: 0, eventsApplied: 0 },
      tails: { bytes: 0 },
    };
    const states: PartitionState[] = [];
    const setAside = new Map<PartitionId, string>();
    const unreadable = new Map<PartitionId, HansardError>();
    const generations = await readGenerations(kv, (partition, error) => unreadable.set(partition, error));
    const openOne = async (partition: PartitionId): Promise<PartitionState> => {
      const problem = unreadable.get(partition);
      try {
        if (problem !== undefined) throw problem;
        const installedIndex = generations.get(partition)?.installedIndex ?? 0;
        const state = await openPartition(shared, partition, options.storeId, installedIndex);
        const { generation } = state.place;
        const untrusted = options.untrusted?.get(partition) ?? 0;
        if (generation <= untrusted) throw damaged(`partition ${partition}`, 'it was found so before');
        return state;
      } catch (error) {
        if (!isStoreDamage(error) || options.untrusted === undefined) throw error;
        const known = generations.get(partition);
        const highest = Math.max(await highestGeneration(kv, partition), known?.highest ?? 0);
        generations.set(partition, { highest, swept: false, installedIndex: 0 });
        setAside.set(partition, error.message);
        return standIn(shared, partition, highest);
      }
    };
    const held = format.hosted.filter(({ removed }) => !removed).map(({ partition }) => partition);
    // Of partitions that were here once: the next replica's generation must be none that has rows.
    for (const partition of unreadable.keys()) {
      if (held.includes(partition)) continue;
      const highest = await highestGeneration(kv, partition);
      generations.set(partition, { highest, swept: false, installedIndex: 0 });
    }
    for (let from = 0; from < held.length; from += openedAtOnce) {
      // All of them end, whichever fails: nobody reads when the database closes.
      const opened = await Promise.allSettled(held.slice(from, from + openedAtOnce).map(openOne));
      for (const one of opened) {
        if (one.status === 'rejected') throw one.reason;
        states.push(one.value);
      }
    }
    const facts = await readFacts(kv);
    return new StoreImpl(
      format,
      shared,
      states,
      facts,
      generations,
      options.tailLimitBytes ?? storeDefaults.tailLimitBytes,
      setAside,
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
    if (version > storeFormatVersion) {
      throw new HansardError(
        'FORMAT_TOO_NEW',
        `the database has format ${version}, this program knows ${storeFormatVersion}`,
        { format: version, known: storeFormatVersion },
      );
    }
    return {
      clusterId: reader.string(),
      storeId: reader.string(),
      blockBytes: reader.u32(),
      hosted: readHosted(reader, version),
    };
  });
}

function readHosted(reader: ByteReader, version: number): HostedReplica[] {
  const count = reader.uvarint();
  if (count * (version >= 2 ? 4 : 2) > reader.remaining) {
    throw damaged('the format record', `a list of ${count} partitions`);
  }
  const hosted = Array.from({ length: count }, () => ({
    partition: reader.u16(),
    replicaId: version >= 2 ? reader.uvarint() : 0,
    removed: version >= 2 && reader.u8() === 1,
  }));
  reader.end();
  return hosted;
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
  /** Which partitions are held here changes one at a time: they share a record. */
  #format: FormatRecord;
  #hosting: Promise<void> = Promise.resolve();
  /** Facts are written one after the other: an older one must not land behind a newer one. */
  #keeping: Promise<void> = Promise.resolve();
  readonly storeId: string;
  readonly tailLimitBytes: number;
  /** After a failed write nothing may be sealed any more: the process must end. */
  #failure: unknown;
  #writes = new Set<Promise<unknown>>();
  readonly #giveBack: GiveBack;
  /** Never rejects. */
  #settled: Promise<void> = Promise.resolve();
  #closing = false;
  /** Of partitions that ever took in a snapshot. */
  readonly #generations = new Map<PartitionId, Generations>();
  readonly #installing = new Map<PartitionId, Ending>();
  readonly #isSweeping = new Set<PartitionId>();
  readonly #sweeping = new Map<PartitionId, Promise<void>>();
  readonly #noting = new Map<PartitionId, Promise<void>>();
  /** Why each was. */
  readonly #setAside = new Map<PartitionId, string>();
  #onDamage: ((partition: PartitionId, error: HansardError) => boolean) | undefined;
  /** Those of which a stand-in has taken the place; the others' states are only not asked any more. */
  readonly #standIns = new Set<PartitionId>();

  constructor(
    format: FormatRecord,
    shared: StoreShared,
    states: readonly PartitionState[],
    facts: Map<string, Uint8Array>,
    generations: ReadonlyMap<PartitionId, Generations>,
    tailLimitBytes: number,
    setAside: ReadonlyMap<PartitionId, string>,
  ) {
    this.storeId = format.storeId;
    this.#format = format;
    this.#shared = shared;
    this.#giveBack = new GiveBack(shared.kv);
    this.#facts = facts;
    this.tailLimitBytes = tailLimitBytes;
    for (const state of states) {
      const { partition } = state.place;
      this.#states.set(partition, state);
      this.#stores.set(partition, this.#newStore(state, setAside.has(partition)));
    }
    for (const [partition, why] of setAside) {
      this.#setAside.set(partition, why);
      this.#standIns.add(partition);
    }
    // Also of partitions that were here once: what is left of them is swept on, and their generations never come again.
    for (const [partition, found] of generations) {
      this.#generations.set(partition, found);
      if (!found.swept) this.#sweep(partition);
    }
  }

  #newStore(state: PartitionState, isSetAside: boolean): PartitionStoreImpl {
    const { partition } = state.place;
    return new PartitionStoreImpl(
      state,
      () => this.checkpoint([partition]),
      (error) => this.#found(partition, error),
      isSetAside,
    );
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
    // One that is frozen still was found damaged a moment ago.
    const dirty = states.filter(
      (state) =>
        state.dirtySinceMs !== undefined &&
        state.frozen === undefined &&
        !this.#setAside.has(state.place.partition),
    );
    if (dirty.length === 0) return;
    const work = this.#seal(dirty);
    const settled = outcome(work);
    for (const state of dirty) state.sealing = settled;
    await this.#track(work);
  }

  /** A replica that has gone meanwhile is nobody's loss. */
  #statesOf(partitions: readonly PartitionId[]): PartitionState[] {
    const states: PartitionState[] = [];
    for (const partition of new Set(partitions)) {
      const state = this.#states.get(partition);
      if (state !== undefined) states.push(state);
      else
        assert(
          this.#format.hosted.some((one) => one.partition === partition),
          `this store has no partition ${partition}`,
        );
    }
    return states;
  }

  #state(partition: PartitionId): PartitionState {
    const state = this.#states.get(partition);
    assert(state !== undefined, `this store has no partition ${partition}`);
    return state;
  }

  /**
   * Freezes all in one turn, builds one batch in slices, writes it, and drops the
   * frozen tails in one turn. A partition that turns out to be damaged is left out:
   * what was built for the others is built once more, from the same frozen tails.
   */
  async #seal(states: readonly PartitionState[]): Promise<void> {
    for (const state of states) state.freeze(cloneMeta(state.meta));
    try {
      let sound = states;
      for (let harmed = await this.#sealFrozen(sound); harmed !== undefined; ) {
        const without = sound.filter((state) => state !== harmed);
        sound = without;
        harmed = sound.length === 0 ? undefined : await this.#sealFrozen(sound);
      }
    } catch (error) {
      // The frozen tails stay: reads still see them, until the process ends.
      this.#failure ??= error;
      throw error;
    } finally {
      for (const state of states) {
        state.sealing = undefined;
        // Set aside meanwhile.
        if (this.#states.get(state.place.partition) !== state) dropFrozen(state);
      }
    }
  }

  /** Resolves to the one whose rows are damaged; then nothing was written. */
  async #sealFrozen(states: readonly PartitionState[]): Promise<PartitionState | undefined> {
    const batch = this.#shared.kv.batch();
    const slicer = new Slicer(this.#shared.clock, () => this.#sealingShare());
    let bytes = 0;
    let current: PartitionState | undefined;
    try {
      // What the checkpoint before left over for the cache.
      await this.#settled;
      const room = { bytes: this.#shared.channelCache.maxBytes * keptShare };
      const sealed: Sealed[] = [];
      let ahead = dirtyOf(states[0]);
      for (const [i, state] of states.entries()) {
        current = state;
        const dirty = ahead;
        // Read while this one is sealed.
        ahead = dirtyOf(states[i + 1]);
        assert(state.frozen !== undefined && dirty !== undefined, 'every partition was frozen');
        const out = new SealBatch(batch, slicer, state.sealed.record.lastDigest, room);
        sealed.push(await sealPartition(state, state.frozen, dirty, out));
        bytes += out.bytes;
      }
      current = undefined;
      await batch.write();
      for (const [i, state] of states.entries()) {
        finishSeal(state, sealed[i] as Sealed);
        state.sealing = undefined;
      }
      this.#settled = this.#settled.then(() => this.#settle(states));
      this.#giveBackSpace(states);
    } catch (error) {
      await batch.abandon().catch((second: unknown) => {
        this.#shared.logger.warn({ error: String(second) }, 'giving up a batch failed');
      });
      const wasTaken = current !== undefined && isStoreDamage(error) && this.#tellDamage(current, error);
      if (!wasTaken) throw error;
      return current;
    }
    this.#shared.counters.checkpoints++;
    this.#shared.counters.checkpointBytes += bytes;
    return undefined;
  }

  /** In slices; reads meanwhile find what is on its way. */
  async #settle(states: readonly PartitionState[]): Promise<void> {
    const slicer = new Slicer(this.#shared.clock);
    for (const state of states) {
      const keyOf = (name: string) => state.cacheKey(name);
      await state.settling?.settle(this.#shared.channelCache, keyOf, slicer, () => this.#closing);
      // Until then the cache is not to be believed alone.
      if (this.#closing) return;
      state.settling = undefined;
    }
  }

  /** Beside everything else; a failure is like that of any write. */
  #giveBackSpace(states: readonly PartitionState[]): void {
    const work = this.#giveBack.look(states, () => !this.#closing && this.#failure === undefined);
    if (work === undefined) return;
    this.#track(work).catch((error: unknown) => {
      this.#shared.logger.error({ error: String(error) }, 'compacting the database failed');
      // Damage is told by the next write: LevelDB takes none after that.
      if (!isStoreDamage(error)) this.#failure ??= error;
    });
  }

  /** Of the loop's time: little while there is room, half where applying is about to wait for it. */
  #sealingShare(): number {
    const overHalf = Math.max(0, Math.min(1, (2 * this.tailBytes) / this.tailLimitBytes - 1));
    return shareWithRoom + overHalf * (shareWhenFull - shareWithRoom);
  }

  // ---- damage

  onDamage(listener: (partition: PartitionId, error: HansardError) => boolean): void {
    this.#onDamage = listener;
  }

  setAsidePartitions(): ReadonlyMap<PartitionId, string> {
    return this.#setAside;
  }

  generationOf(partition: PartitionId): number {
    return this.#generation(partition);
  }

  distrust(partition: PartitionId, why: string): void {
    if (this.#setAside.has(partition)) return;
    this.#setAside.set(partition, why);
    this.#stores.get(partition)?.distrust();
  }

  setAside(partition: PartitionId, why: string): void {
    const before = this.#state(partition);
    if (this.#standIns.has(partition)) return;
    this.#standIns.add(partition);
    const { highest } = this.#generationsOf(partition);
    this.#generations.set(partition, { highest, swept: false, installedIndex: 0 });
    const state = standIn(this.#shared, partition, before.place.generation);
    // A checkpoint that is under way still writes: nothing may take the place of its rows before it has ended.
    const { sealing } = before;
    if (sealing !== undefined) {
      const over = (): void => {
        state.sealing = undefined;
      };
      state.sealing = sealing.then(over, over);
    }
    before.active.drop();
    if (sealing === undefined) dropFrozen(before);
    this.#setAside.set(partition, why);
    this.#states.set(partition, state);
    this.#stores.get(partition)?.setAside(state);
  }

  #trust(partition: PartitionId): void {
    this.#setAside.delete(partition);
    this.#standIns.delete(partition);
  }

  /** False: nobody listens; the error is the finder's. */
  #found(partition: PartitionId, error: HansardError): boolean {
    if (this.#setAside.has(partition)) return true;
    return this.#onDamage?.(partition, error) ?? false;
  }

  /** Of a state that may have been replaced meanwhile: then its damage is nobody's any more. */
  #tellDamage(state: PartitionState, error: HansardError): boolean {
    const { partition } = state.place;
    if (this.#states.get(partition) !== state) return true;
    return this.#found(partition, error);
  }

  async findLostEvents(partition: PartitionId, pace: Pace): Promise<readonly LostEvents[]> {
    return (await findLostBlocks(this.#state(partition), pace)).map(({ lost }) => lost);
  }

  async giveUpLostEvents(partition: PartitionId, pace: Pace): Promise<readonly LostEvents[]> {
    const state = this.#state(partition);
    const blocks = await findLostBlocks(state, pace);
    await fillLostBlocks(state, blocks, (batch) => this.#write(batch));
    return blocks.map(({ lost }) => lost);
  }

  // ---- snapshots

  exportSnapshot(partition: PartitionId): Promise<SnapshotExport | undefined> {
    if (this.#setAside.has(partition)) return Promise.resolve(undefined);
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
    before.sealing = outcome(work);
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
    this.#trust(partition);
    this.#stores.get(partition)?.replaceState(state);
    this.#endInstall(partition);
    this.#sweep(partition);
  }

  #generationsOf(partition: PartitionId): Generations {
    const highest = this.#generation(partition);
    return this.#generations.get(partition) ?? { highest, swept: true, installedIndex: 0 };
  }

  /** The one that counts; 0: none, no replica is here. */
  #generation(partition: PartitionId): number {
    return this.#states.get(partition)?.place.generation ?? 0;
  }

  // ---- replicas that come and go

  hosted(): readonly HostedReplica[] {
    return this.#format.hosted;
  }

  addPartition(partition: PartitionId, replicaId: ReplicaId): Promise<PartitionStore> {
    return this.#host(async () => {
      assert(!this.#states.has(partition), `partition ${partition} is held here already`);
      // It looks for rows of any generation but the one that counts: none does yet.
      await this.#sweeping.get(partition);
      this.#refuseAfterFailure();
      if (this.#closing) throw new HansardError('SHUTTING_DOWN', 'the store closes');
      const before = this.#generationsOf(partition);
      const generations = { ...before, highest: before.highest + 1, installedIndex: 0 };
      const record = emptyRecord(partition, generations.highest, noConfiguration, undefined);
      await this.#rehost({ partition, replicaId, removed: false }, generations, (batch, key) => {
        const row = rowWriter(256, partitionRowVersion(record));
        writePartition(row, record);
        batch.put(key, sealRow(key, row));
      });
      const sealed = await loadSealed(this.#shared.kv, record, this.storeId);
      const state = new PartitionState(this.#shared, sealed, cloneMeta(record.meta), 0);
      const store = this.#newStore(state, false);
      this.#states.set(partition, state);
      this.#stores.set(partition, store);
      return store;
    });
  }

  dropPartition(partition: PartitionId, replicaId: ReplicaId): Promise<void> {
    return this.#host(async () => {
      // A checkpoint or install that began before ends before: neither may write behind the sweep.
      let state = this.#state(partition);
      for (;;) {
        const installing = this.#installing.get(partition)?.ended;
        if (state.sealing === undefined && installing === undefined) break;
        await state.sealing;
        await installing;
        state = this.#state(partition);
      }
      this.#refuseAfterFailure();
      this.#stores.get(partition)?.drop();
      const generations = { ...this.#generationsOf(partition), swept: false, installedIndex: 0 };
      const work = this.#rehost({ partition, replicaId, removed: true }, generations, (batch, key) =>
        batch.del(key),
      );
      // Nobody seals what is about to go.
      state.sealing = outcome(work);
      await work;
      // Only now: a sweep that runs must not take rows of a generation whose record is still there.
      this.#trust(partition);
      this.#states.delete(partition);
      this.#stores.delete(partition);
      this.#sweep(partition);
    });
  }

  /** One after the other. */
  #host<T>(work: () => Promise<T>): Promise<T> {
    this.#refuseAfterFailure();
    const done = this.#hosting.then(work);
    this.#hosting = outcome(done);
    return done;
  }

  /** The decision: the format record, the partition's record and its generations in one synced batch. */
  async #rehost(
    replica: HostedReplica,
    generations: Generations,
    put: (batch: KvBatch, partitionKey: Uint8Array) => void,
  ): Promise<void> {
    const { partition } = replica;
    this.#generations.set(partition, generations);
    // What a sweep notes of it meanwhile must not land behind this.
    await this.#noting.get(partition);
    const hosted = this.#format.hosted.filter((one) => one.partition !== partition);
    const format = {
      ...this.#format,
      hosted: [...hosted, replica].sort((a, b) => a.partition - b.partition),
    };
    const batch = this.#shared.kv.batch();
    batch.put(formatKey(), sealRow(formatKey(), formatRow(format)));
    put(batch, partitionKey(partition));
    putGenerations(batch, partition, generations);
    await this.#write(batch);
    this.#format = format;
  }

  #endInstall(partition: PartitionId): void {
    const ending = this.#installing.get(partition);
    this.#installing.delete(partition);
    ending?.end();
  }

  /** Deletes what is left of other generations, beside everything else. */
  #sweep(partition: PartitionId): void {
    // What is damaged is kept until something sound has taken its place.
    if (this.#isSweeping.has(partition) || this.#setAside.has(partition)) return;
    this.#isSweeping.add(partition);
    const swept = this.#sweepAll(partition).catch((error: unknown) => {
      if (isStoreDamage(error)) {
        // What is damaged may be why they are left. They stay until the next start; nobody reads them.
        this.#shared.logger.warn({ partition, error: error.message }, 'old rows can not be swept');
        return;
      }
      // Reading or deleting failed: nothing is sealed any more, and the process ends.
      this.#failure ??= error;
      this.#shared.logger.error({ partition, error: String(error) }, 'sweeping old rows failed');
    });
    if (this.#isSweeping.has(partition)) this.#sweeping.set(partition, swept);
  }

  async #sweepAll(partition: PartitionId): Promise<void> {
    const { kv, clock } = this.#shared;
    const pause = () => new Promise<void>((resolve) => clock.defer(resolve));
    const goOn = () => !this.#closing && this.#failure === undefined;
    try {
      // An install that began after the look has a higher generation; its end sweeps again.
      while (goOn() && !this.#installing.has(partition) && !this.#setAside.has(partition)) {
        const { highest } = this.#generationsOf(partition);
        const generation = this.#generation(partition);
        const done =
          (await this.#track(sweepGenerations(kv, partition, 1, generation - 1, pause, goOn))) &&
          (await this.#track(sweepGenerations(kv, partition, generation + 1, highest, pause, goOn)));
        if (!done || this.#installing.has(partition) || this.#setAside.has(partition)) return;
        const now = this.#generationsOf(partition);
        if (now.highest !== highest || this.#generation(partition) !== generation) continue;
        await this.#note(partition, { ...now, swept: true });
        return;
      }
    } finally {
      // In the very turn of the last look: an install that ends from here on begins a sweep of its own.
      this.#isSweeping.delete(partition);
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

  putFact(name: string, value: Uint8Array): Promise<void> {
    const own = Uint8Array.from(value);
    return this.#keep(async () => {
      const batch = this.#shared.kv.batch();
      putFactRow(batch, name, own);
      await this.#write(batch);
      this.#facts.set(name, own);
    });
  }

  /** The records of its replicas are not among them: those come anew with their states. */
  rewriteRecords(): Promise<void> {
    return this.#host(() =>
      this.#keep(async () => {
        if (this.#closing) return;
        const batch = this.#shared.kv.batch();
        batch.put(formatKey(), sealRow(formatKey(), formatRow(this.#format)));
        for (const [name, value] of this.#facts) putFactRow(batch, name, value);
        await this.#write(batch);
      }),
    );
  }

  #keep(work: () => Promise<void>): Promise<void> {
    const done = this.#keeping.then(() => {
      this.#refuseAfterFailure();
      return work();
    });
    this.#keeping = outcome(done);
    // From this very turn on: who closes waits for it.
    return this.#track(done);
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

function putFactRow(batch: KvBatch, name: string, value: Uint8Array): void {
  const key = factKey(name);
  batch.put(key, sealRow(key, rowWriter(value.length).bytes(value)));
}

/** That it is over, whatever came of it. */
function outcome(work: Promise<unknown>): Promise<void> {
  return work.then(
    () => undefined,
    () => undefined,
  );
}

/** Its bytes count no more. */
function dropFrozen(state: PartitionState): void {
  state.frozen?.tail.drop();
  state.frozen = undefined;
}

export function isStoreDamage(error: unknown): error is HansardError {
  return error instanceof HansardError && error.reason === 'STORE_DAMAGED';
}

function dirtyOf(state: PartitionState | undefined): DirtyChannels | undefined {
  return state?.frozen === undefined ? undefined : new DirtyChannels(state, state.frozen);
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
