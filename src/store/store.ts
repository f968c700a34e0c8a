/** A store's applied state: formatting, opening, checkpoints over several partitions, facts. */
import type { ByteReader, ByteWriter } from '../common/bytes.js';
import type { Clock, Kv } from '../common/env.js';
import { assert, HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { Logger } from '../common/logger.js';
import { initialMeta } from '../conversation/settings.js';
import type { ReplicatedSettings } from '../conversation/types.js';
import { after, asBuffer, factKey, formatKey, partitionKey, RowKind } from './keys.js';
import { LruCache } from './lru.js';
import { foreign, openPartition } from './open.js';
import type { PartitionState, StoreShared } from './partition-state.js';
import { PartitionStoreImpl } from './partition-store.js';
import { damaged, openRow, rowWriter, sealRow } from './rows.js';
import { SealBatch } from './seal-batch.js';
import { finishSeal, type Sealed, sealPartition } from './sealer.js';
import { Slicer } from './slices.js';
import { writePartition } from './state-codec.js';
import { cloneMeta } from './tail.js';
import type { PartitionStore, Store, StoreStats } from './types.js';

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
    const record = rowWriter();
    writePartition(record, {
      partition,
      generation: 1,
      appliedIndex: 0,
      appliedTerm: 0,
      confState,
      meta: initialMeta(partition, options.settings),
      producerCount: 0,
      eventCount: 0,
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
    };
    const states: PartitionState[] = [];
    for (const partition of format.partitions) {
      states.push(await openPartition(shared, partition, options.storeId));
    }
    const facts = await readFacts(kv);
    return new StoreImpl(
      format,
      shared,
      states,
      facts,
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
  #writes = new Set<Promise<void>>();

  constructor(
    format: FormatRecord,
    shared: StoreShared,
    states: readonly PartitionState[],
    facts: Map<string, Uint8Array>,
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
    let bytes = 0;
    for (const state of this.#states.values()) bytes += state.tailBytes;
    return bytes;
  }

  async checkpoint(partitions: readonly PartitionId[]): Promise<void> {
    const states = [...new Set(partitions)].map((partition) => {
      const state = this.#states.get(partition);
      assert(state !== undefined, `this store has no partition ${partition}`);
      return state;
    });
    // One checkpoint of a partition at a time: its frozen tail is the only one.
    for (let busy = states; busy.length > 0; busy = states.filter((state) => state.sealing !== undefined)) {
      await Promise.all(busy.map((state) => state.sealing));
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

  getFact(name: string): Uint8Array | undefined {
    return this.#facts.get(name);
  }

  async putFact(name: string, value: Uint8Array): Promise<void> {
    this.#refuseAfterFailure();
    const own = Uint8Array.from(value);
    const key = factKey(name);
    const batch = this.#shared.kv.batch();
    batch.put(key, sealRow(key, rowWriter(own.length).bytes(own)));
    await this.#track(
      batch.write().catch((error: unknown) => {
        this.#failure ??= error;
        throw error;
      }),
    );
    this.#facts.set(name, own);
  }

  stats(): StoreStats {
    return { tailBytes: this.tailBytes, ...this.#shared.counters };
  }

  /** Waits for what is being written, seals nothing more. */
  async close(): Promise<void> {
    while (this.#writes.size > 0) await Promise.allSettled([...this.#writes]);
    await this.#shared.kv.close();
  }

  async #track(work: Promise<void>): Promise<void> {
    this.#writes.add(work);
    try {
      await work;
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
