/** A store's applied state: opening, and what a node does with it. The parts that do the work have files of their own. */
import type { Clock, Kv } from '../common/env.js';
import { assert, type HansardError } from '../common/errors.js';
import type { PartitionId, ReplicaId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import { areChangesBroken } from './change-rows.js';
import { Checkpoint } from './checkpoint.js';
import { Facts, readFacts } from './facts.js';
import { defaultBlockBytes, type FormatRecord, readFormat } from './format.js';
import { type Generations, readGenerations } from './generations.js';
import { fillLostBlocks, findLostBlocks, type LostEvents } from './give-up.js';
import { HeldPartitions } from './held.js';
import { Hosting } from './hosting.js';
import { Installs } from './installs.js';
import { LruCache } from './lru.js';
import { foreign, openPartition } from './open.js';
import type { Pace } from './pace.js';
import type { PartitionState, StoreShared } from './partition-state.js';
import { PartitionStoreImpl } from './partition-store.js';
import { damaged, isStoreDamage } from './rows.js';
import { highestGeneration, standIn } from './set-aside.js';
import { exportPartition } from './snapshot-export.js';
import { emptyTailSum } from './tail.js';
import type {
  HostedReplica,
  PartitionStore,
  SnapshotExport,
  SnapshotInstall,
  Store,
  StoreStats,
} from './types.js';
import { Writes } from './writes.js';

export { formatStore, storeFormatVersion } from './format.js';

const MiB = 1024 * 1024;
/** Partitions, each a dozen reads one after the other: LevelDB's threads read while this one counts. */
const openedAtOnce = 4;

export const storeDefaults = Object.freeze({
  /** Clean rows, chunks and decoded blocks: two fifths of it are the rows of about 100,000 channels. */
  cacheBytes: 256 * MiB,
  /** All tails of a node; then admission and applying wait for a checkpoint. */
  tailLimitBytes: 384 * MiB,
  /** 7 days: whoever follows many channels may be away for that long. */
  changeRetentionMs: 7 * 24 * 3_600_000,
  /** About the size of a block before compression. Fixed when a store is formatted. */
  blockBytes: defaultBlockBytes,
});

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
  /** A write failed that no caller waits for: the process must end. Once at most. Undefined: who writes next is told. */
  readonly onFailure?: (error: unknown) => void;
}

/**
 * Opens a formatted store. Rejects REPLICA_LOST where the database has no format
 * record or belongs to another cluster or store, FORMAT_TOO_NEW, STORE_DAMAGED.
 * The store owns `kv` from here on and closes it.
 */
export async function openStore(options: OpenStoreOptions): Promise<Store> {
  const { kv } = options;
  try {
    const format = await readFormat(kv);
    if (format.clusterId !== options.clusterId) throw foreign('cluster', format.clusterId, options.clusterId);
    if (format.storeId !== options.storeId) throw foreign('store', format.storeId, options.storeId);
    const shared = sharedBy(options, format);
    const opened = await openPartitions(shared, format, options);
    const facts = await readFacts(kv);
    return new StoreImpl(
      format,
      shared,
      opened,
      facts,
      options.tailLimitBytes ?? storeDefaults.tailLimitBytes,
      new Writes(kv, options.onFailure ?? (() => {})),
    );
  } catch (error) {
    await kv.close();
    throw error;
  }
}

function sharedBy(options: OpenStoreOptions, { blockBytes }: FormatRecord): StoreShared {
  const { kv, clock, logger } = options;
  const cacheBytes = options.cacheBytes ?? storeDefaults.cacheBytes;
  return {
    kv,
    clock,
    logger,
    blockBytes,
    changeRetentionUs: 1_000 * (options.changeRetentionMs ?? storeDefaults.changeRetentionMs),
    cursorCache: new LruCache(cacheBytes * 0.05),
    channelCache: new LruCache(cacheBytes * 0.4),
    producerCache: new LruCache(cacheBytes * 0.1),
    chunkCache: new LruCache(cacheBytes * 0.2),
    blockCache: new LruCache(cacheBytes * 0.3),
    counters: { checkpoints: 0, checkpointBytes: 0, syncReads: 0, blocksRead: 0, eventsApplied: 0 },
    tails: emptyTailSum(),
  };
}

interface Opened {
  readonly states: readonly PartitionState[];
  readonly generations: ReadonlyMap<PartitionId, Generations>;
  /** Why each was. */
  readonly setAside: ReadonlyMap<PartitionId, string>;
}

async function openPartitions(
  shared: StoreShared,
  { hosted }: FormatRecord,
  { storeId, untrusted }: OpenStoreOptions,
): Promise<Opened> {
  const { kv } = shared;
  const states: PartitionState[] = [];
  const setAside = new Map<PartitionId, string>();
  const unreadable = new Map<PartitionId, HansardError>();
  const generations = await readGenerations(kv, (partition, error) => unreadable.set(partition, error));
  const openOne = async (partition: PartitionId): Promise<PartitionState> => {
    const problem = unreadable.get(partition);
    try {
      if (problem !== undefined) throw problem;
      const installedIndex = generations.get(partition)?.installedIndex ?? 0;
      const state = await openPartition(shared, partition, storeId, installedIndex);
      if (state.place.generation <= (untrusted?.get(partition) ?? 0))
        throw damaged(`partition ${partition}`, 'it was found so before');
      return state;
    } catch (error) {
      if (!isStoreDamage(error) || untrusted === undefined) throw error;
      const known = generations.get(partition);
      const highest = Math.max(await highestGeneration(kv, partition), known?.highest ?? 0);
      generations.set(partition, { highest, swept: false, installedIndex: 0 });
      setAside.set(partition, error.message);
      return standIn(shared, partition, highest);
    }
  };
  const held = hosted.filter(({ removed }) => !removed).map(({ partition }) => partition);
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
  return { states, generations, setAside };
}

class StoreImpl implements Store {
  readonly #shared: StoreShared;
  readonly #writes: Writes;
  readonly #held: HeldPartitions;
  readonly #checkpoint: Checkpoint;
  readonly #installs: Installs;
  readonly #hosting: Hosting;
  readonly #facts: Facts;
  readonly storeId: string;
  readonly tailLimitBytes: number;

  constructor(
    format: FormatRecord,
    shared: StoreShared,
    { states, generations, setAside }: Opened,
    facts: Map<string, Uint8Array>,
    tailLimitBytes: number,
    writes: Writes,
  ) {
    const { storeId } = format;
    this.storeId = storeId;
    this.tailLimitBytes = tailLimitBytes;
    this.#shared = shared;
    this.#writes = writes;
    const held = new HeldPartitions(shared, generations, setAside);
    this.#held = held;
    this.#checkpoint = new Checkpoint(shared, held, writes, tailLimitBytes);
    const installs = new Installs(shared, storeId, held, writes);
    this.#installs = installs;
    const newStore = (state: PartitionState) => this.#newStore(state);
    this.#hosting = new Hosting({ shared, format, held, writes, installs, newStore });
    this.#facts = new Facts(shared.kv, writes, facts);
    for (const state of states) held.add(state, newStore(state));
    // Also of partitions that were here once: what is left of them is swept on, and their generations never come again.
    for (const [partition, { swept }] of generations) if (!swept) installs.sweeping.begin(partition);
  }

  #newStore(state: PartitionState): PartitionStoreImpl {
    const { partition } = state.place;
    return new PartitionStoreImpl(
      state,
      () => this.checkpoint([partition]),
      (error) => this.#held.found(partition, error),
      this.#held.isSetAside(partition),
    );
  }

  partition(partition: PartitionId): PartitionStore {
    return this.#held.store(partition);
  }

  partitions(): readonly PartitionStore[] {
    return this.#held.stores;
  }

  get tailBytes(): number {
    return this.#shared.tails.bytes;
  }

  get tailBytesPerChannel(): number {
    const { bytes, dirtyChannels } = this.#shared.tails;
    return dirtyChannels === 0 ? Number.POSITIVE_INFINITY : bytes / dirtyChannels;
  }

  checkpoint(partitions: readonly PartitionId[]): Promise<void> {
    return this.#checkpoint.run(() => this.#statesOf(partitions));
  }

  /** A replica that has gone meanwhile is nobody's loss. */
  #statesOf(partitions: readonly PartitionId[]): PartitionState[] {
    const states: PartitionState[] = [];
    for (const partition of new Set(partitions)) {
      const state = this.#held.stateIfHeld(partition);
      if (state !== undefined) states.push(state);
      else
        assert(
          this.hosted().some((one) => one.partition === partition),
          `this store has no partition ${partition}`,
        );
    }
    return states;
  }

  // ---- damage

  onDamage(listener: (partition: PartitionId, error: HansardError) => boolean): void {
    this.#held.onDamage(listener);
  }

  onUnfit(listener: (error: HansardError) => void): void {
    this.#held.onUnfit(listener);
  }

  setAsidePartitions(): ReadonlyMap<PartitionId, string> {
    return this.#held.setAsidePartitions;
  }

  generationOf(partition: PartitionId): number {
    return this.#held.generation(partition);
  }

  distrust(partition: PartitionId, why: string): void {
    this.#held.distrust(partition, why);
  }

  setAside(partition: PartitionId, why: string): void {
    this.#held.setAside(partition, why);
  }

  async findLostEvents(partition: PartitionId, pace: Pace): Promise<readonly LostEvents[]> {
    return (await findLostBlocks(this.#held.state(partition), pace)).map(({ lost }) => lost);
  }

  async giveUpLostEvents(partition: PartitionId, pace: Pace): Promise<readonly LostEvents[]> {
    const state = this.#held.state(partition);
    const blocks = await findLostBlocks(state, pace);
    await fillLostBlocks(state, blocks, (batch) => this.#writes.write(batch));
    return blocks.map(({ lost }) => lost);
  }

  async giveUpBrokenChanges(partition: PartitionId): Promise<boolean> {
    const state = this.#held.state(partition);
    state.dropsChanges = await areChangesBroken(state);
    return state.dropsChanges;
  }

  // ---- snapshots

  exportSnapshot(partition: PartitionId): Promise<SnapshotExport | undefined> {
    if (this.#held.isSetAside(partition)) return Promise.resolve(undefined);
    return exportPartition(() => this.#held.state(partition));
  }

  beginInstall(partition: PartitionId, manifest: Uint8Array): Promise<SnapshotInstall> {
    return this.#installs.begin(partition, manifest);
  }

  // ---- replicas that come and go

  hosted(): readonly HostedReplica[] {
    return this.#hosting.hosted;
  }

  addPartition(partition: PartitionId, replicaId: ReplicaId): Promise<PartitionStore> {
    return this.#hosting.add(partition, replicaId);
  }

  dropPartition(partition: PartitionId, replicaId: ReplicaId): Promise<void> {
    return this.#hosting.drop(partition, replicaId);
  }

  // ---- facts

  getFact(name: string): Uint8Array | undefined {
    return this.#facts.get(name);
  }

  putFact(name: string, value: Uint8Array): Promise<void> {
    return this.#facts.put(name, value);
  }

  /** The records of its replicas are not among them: those come anew with their states. */
  rewriteRecords(): Promise<void> {
    return this.#hosting.change(() =>
      this.#facts.keep(async () => {
        if (this.#writes.isClosing) return;
        const batch = this.#shared.kv.batch();
        this.#hosting.putFormat(batch);
        this.#facts.putAll(batch);
        await this.#writes.write(batch);
      }),
    );
  }

  stats(): StoreStats {
    return { tailBytes: this.tailBytes, ...this.#shared.counters };
  }

  /** Waits for what is being written, seals nothing more. */
  close(): Promise<void> {
    return this.#writes.close();
  }
}
