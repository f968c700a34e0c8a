/**
 * All that one partition's store has: tails in memory, what is sealed (rows,
 * runs, names), and lookups through both. Applying, reading, sealing and the
 * digest work on this; nothing else changes it.
 *
 * Order of every lookup: active tail, frozen tail, cache, database. The frozen
 * tail is dropped, and the caches brought up to date, in the one turn in which
 * its batch has resolved (`dropFrozen`). So a sealed row at hand is at most as
 * new as any iterator that is made after it was read: what a reader takes in
 * one turn (tails, row, iterator) has overlaps but no gaps.
 */
import { ByteReader } from '../common/bytes.js';
import type { Clock, Kv } from '../common/env.js';
import { assert, type HansardError } from '../common/errors.js';
import type { ChannelId, Index, ProducerId, Seq, TimeUs } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { Logger } from '../common/logger.js';
import type { Membership } from '../common/membership.js';
import type { SubscriptionState } from '../conversation/subscription-state.js';
import type {
  KeyRecord,
  PartitionMeta,
  ProducerState,
  ReadCursor,
  StoredEvent,
} from '../conversation/types.js';
import { readUnit } from './block.js';
import type { ChangeRow } from './change-rows.js';
import { hashForFilter } from './filter.js';
import { GatheredReads } from './gathered-reads.js';
import {
  nameBytes,
  nameKey,
  type Place,
  producerKey,
  RowKind,
  type RunKind,
  RunPart,
  runKey,
} from './keys.js';
import type { LruCache } from './lru.js';
import type { NameSet } from './name-set.js';
import { damaged, openRow } from './rows.js';
import { compositeKey, type RunEntry } from './run-entry.js';
import { chunkFor, findEntry, type Run, readChunk } from './runs.js';
import type { Settling } from './settling.js';
import {
  type EndedChannel,
  type PartitionRecord,
  readChannel,
  readProducer,
  type SealedChannel,
} from './state-codec.js';
import { Subscriptions } from './subscriptions.js';
import {
  channelName,
  type FrozenTail,
  Tail,
  type TailSum,
  weightOfChannel,
  weightOfProducer,
} from './tail.js';

/** What a store's partitions share. */
export interface StoreShared {
  readonly kv: Kv;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly blockBytes: number;
  /** How long the change list is kept, of commit time. */
  readonly changeRetentionUs: TimeUs;
  /** Clean rows; keys name the partition. */
  readonly channelCache: LruCache<SealedChannel>;
  readonly producerCache: LruCache<ProducerState>;
  readonly chunkCache: LruCache<RunEntry[]>;
  /** Blocks by their first seq; by their last seq, the first one. */
  readonly blockCache: LruCache<CachedBlock | Seq>;
  readonly cursorCache: LruCache<ReadCursor>;
  readonly counters: StoreCounters;
  readonly tails: TailSum;
}

export interface CachedBlock {
  readonly events: readonly StoredEvent[];
  /** Of its row. */
  readonly checksum: bigint;
}

export interface StoreCounters {
  checkpoints: number;
  checkpointBytes: number;
  syncReads: number;
  blocksRead: number;
  eventsApplied: number;
}

/** What is known of the sealed rows without reading them; complete, so absence is provable. */
export interface SealedIndex {
  record: PartitionRecord;
  readonly names: NameSet;
  /** By `cursorName`. */
  readonly cursors: NameSet;
  readonly producers: Set<ProducerId>;
  /** Deleted channels of which rows are left. */
  readonly ended: Map<ChannelId, EndedChannel>;
  /** By `channelName(tenant, name)`, named producers only. */
  readonly producerNames: Map<string, ProducerId>;
  /** By `channelName`: as they were loaded. */
  readonly subscriptions: ReadonlyMap<string, SubscriptionState>;
  /** Oldest first. */
  keyRuns: readonly Run[];
  messageIdRuns: readonly Run[];
}

export class PartitionState {
  active: Tail;
  frozen: FrozenTail | undefined;
  appliedIndex: number;
  appliedTerm: number;
  confState: ConfState;
  membership: Membership;
  readonly meta: PartitionMeta;
  readonly subscriptions: Subscriptions;
  dirtySinceMs: number | undefined;
  /** Counts the turns in which a frozen tail was dropped. */
  seals = 0;
  /** What the last checkpoint sealed, as far as the cache does not have it yet. */
  settling: Settling | undefined;
  /** Of rows deleted for good, until LevelDB is asked to give their space back. */
  readonly removedBytes = new Map<RowKind, number>();
  /** Settles, never rejects, when the running checkpoint ends. */
  sealing: Promise<void> | undefined;
  readonly place: Place;
  /** The next checkpoint begins the change list anew: it has a gap, and no sound replica has the rest (change-rows.ts). */
  dropsChanges = false;
  /** Of the change list's oldest row, where it was looked at. */
  oldestChangeUs: TimeUs | undefined;
  /** Whoever catches up takes many pages of one row. */
  lastChangeRow: ChangeRow | undefined;
  readonly #cachePrefix: string;
  /** Chunks that are being read. */
  readonly #loading = new Map<string, Promise<RunEntry[] | undefined>>();
  /** Channels and producers that are being read, by what they are cached under. */
  readonly #channelsLoading = new Map<string, Promise<SealedChannel | undefined>>();
  readonly #producersLoading = new Map<ProducerId, Promise<ProducerState | undefined>>();
  readonly #rows: GatheredReads;

  constructor(
    readonly shared: StoreShared,
    readonly sealed: SealedIndex,
    meta: PartitionMeta,
    /** Where the snapshot stood that this generation came as; 0: it did not. */
    readonly installedIndex: Index = 0,
  ) {
    const { record } = sealed;
    this.#rows = new GatheredReads(shared.kv);
    this.active = new Tail(shared.tails);
    this.place = { partition: record.partition, generation: record.generation };
    this.appliedIndex = record.appliedIndex;
    this.appliedTerm = record.appliedTerm;
    this.confState = record.confState;
    this.membership = record.membership;
    this.meta = meta;
    this.subscriptions = new Subscriptions(sealed.subscriptions);
    // With the generation: a reader of the one before must not leave its rows to this one.
    this.#cachePrefix = `${record.partition}.${record.generation}/`;
    this.planRemoval();
  }

  get tailBytes(): number {
    return this.active.bytes + (this.frozen?.tail.bytes ?? 0);
  }

  /** Rows of deleted channels go with checkpoints: where some are left, one is due even if nothing happens. */
  planRemoval(): void {
    for (const { nextSeq } of this.sealed.ended.values()) {
      if (nextSeq === 0) continue;
      this.dirtySinceMs ??= this.shared.clock.monotonicMs();
      return;
    }
  }

  countRemoved(kind: RowKind, bytes: number): void {
    this.removedBytes.set(kind, (this.removedBytes.get(kind) ?? 0) + bytes);
  }

  // ---- channels

  cacheKey(name: string | number): string {
    return this.#cachePrefix + name;
  }

  /** The newest sealed row, by `channelName`, where it is in memory. */
  cachedChannel(name: string): SealedChannel | undefined {
    const { settling } = this;
    if (settling?.has(name)) return settling.get(name);
    return this.shared.channelCache.get(this.cacheKey(name));
  }

  /** False: surely not sealed, neither there nor deleted. */
  maySealed(tenant: string, name: string): boolean {
    return this.sealed.names.has(nameBytes(tenant, name));
  }

  /** Without reading anything; 'unknown' where that would take a read. */
  sealedChannelAtHand(tenant: string, name: string): SealedChannel | undefined | 'unknown' {
    const cached = this.cachedChannel(channelName(tenant, name));
    return cached ?? (this.maySealed(tenant, name) ? 'unknown' : undefined);
  }

  sealedChannelSync(tenant: string, name: string): SealedChannel | undefined {
    const cached = this.cachedChannel(channelName(tenant, name));
    if (cached !== undefined) return cached;
    const bytes = nameBytes(tenant, name);
    if (!this.sealed.names.has(bytes)) return undefined;
    this.shared.counters.syncReads++;
    const key = nameKey(RowKind.channel, this.place, bytes);
    const row = this.shared.kv.getSync(key);
    if (row === undefined) {
      const named = this.shared.kv.getSync(nameKey(RowKind.channelName, this.place, bytes));
      // Nothing lands unseen here: what a batch on its way brings, the frozen tail has answered.
      if (named !== undefined) throw missingChannel(bytes, key);
      return undefined;
    }
    return this.#keepChannel(key, row, tenant, name);
  }

  /** One read for all who ask meanwhile: what waits to be applied may want a channel thousands of times. */
  sealedChannel(tenant: string, name: string): Promise<SealedChannel | undefined> {
    const cacheName = channelName(tenant, name);
    const cached = this.cachedChannel(cacheName);
    if (cached !== undefined) return Promise.resolve(cached);
    let loading = this.#channelsLoading.get(cacheName);
    if (loading === undefined) {
      loading = this.#loadChannel(tenant, name, cacheName).finally(() =>
        this.#channelsLoading.delete(cacheName),
      );
      this.#channelsLoading.set(cacheName, loading);
    }
    return loading;
  }

  /** What `sealedChannel` will give, where somebody asks for it now. */
  channelLoading(tenant: string, name: string): Promise<SealedChannel | undefined> | undefined {
    return this.#channelsLoading.size === 0
      ? undefined
      : this.#channelsLoading.get(channelName(tenant, name));
  }

  async #loadChannel(tenant: string, name: string, cacheName: string): Promise<SealedChannel | undefined> {
    const bytes = nameBytes(tenant, name);
    const key = nameKey(RowKind.channel, this.place, bytes);
    for (;;) {
      const cached = this.cachedChannel(cacheName);
      if (cached !== undefined) return cached;
      if (!this.sealed.names.has(bytes)) return undefined;
      const seals = this.seals;
      let row = await this.#rows.get(key);
      if (row === undefined && (await this.#hasNameRow(bytes))) {
        // The batch that makes the channel may have landed between the two.
        row = await this.#rows.get(key);
        if (row === undefined) throw missingChannel(bytes, key);
      }
      // A checkpoint ended meanwhile: the row may be the one before it.
      if (seals !== this.seals) continue;
      return row === undefined ? undefined : this.#keepChannel(key, row, tenant, name);
    }
  }

  /** A name in the set without rows is a collision of hashes, or one whose batch is on its way. */
  async #hasNameRow(name: Uint8Array): Promise<boolean> {
    return (await this.#rows.get(nameKey(RowKind.channelName, this.place, name))) !== undefined;
  }

  #keepChannel(key: Uint8Array, row: Uint8Array, tenant: string, name: string): SealedChannel {
    const channel = openChannelRow(key, row);
    if (channel.state.tenant !== tenant || channel.state.name !== name) {
      throw damaged(`channel ${name}`, 'its row names another channel', key);
    }
    const cacheName = channelName(tenant, name);
    this.settling?.forget(cacheName);
    this.shared.channelCache.set(this.cacheKey(cacheName), channel, weightOfSealed(channel));
    return channel;
  }

  // ---- producers

  sealedProducerSync(id: ProducerId): ProducerState | undefined {
    if (!this.sealed.producers.has(id)) return undefined;
    const cached = this.shared.producerCache.get(this.cacheKey(id));
    if (cached !== undefined) return cached;
    this.shared.counters.syncReads++;
    const key = producerKey(this.place, id);
    return this.#keepProducer(key, this.shared.kv.getSync(key), id);
  }

  /** Undefined also where it was deleted while it was read. */
  sealedProducer(id: ProducerId): Promise<ProducerState | undefined> {
    let loading = this.#producersLoading.get(id);
    if (loading === undefined) {
      loading = this.#loadProducer(id).finally(() => this.#producersLoading.delete(id));
      this.#producersLoading.set(id, loading);
    }
    return loading;
  }

  async #loadProducer(id: ProducerId): Promise<ProducerState | undefined> {
    for (;;) {
      if (!this.sealed.producers.has(id)) return undefined;
      const seals = this.seals;
      const key = producerKey(this.place, id);
      const row = await this.#rows.get(key);
      if (seals === this.seals) {
        // A batch on its way may have deleted it already; the frozen tail knows.
        if (row === undefined && this.frozen?.tail.producers.get(id)?.deleted) return undefined;
        return this.#keepProducer(key, row, id);
      }
    }
  }

  #keepProducer(key: Uint8Array, row: Uint8Array | undefined, id: ProducerId): ProducerState {
    if (row === undefined) throw damaged(`producer ${id}`, 'its row is missing', key);
    const producer = openProducerRow(key, row);
    if (producer.id !== id) throw damaged(`producer ${id}`, 'its row names another producer', key);
    this.shared.producerCache.set(this.cacheKey(id), producer, weightOfProducer(producer));
    return producer;
  }

  // ---- keys and message ids

  /** In the tails alone. */
  tailKey(channelId: ChannelId, key: string): KeyRecord | undefined {
    return this.active.keys.get(channelId)?.get(key) ?? this.frozen?.tail.keys.get(channelId)?.get(key);
  }

  tailMessageId(channelId: ChannelId, messageId: string): number | undefined {
    return (
      this.active.messageIds.get(channelId)?.get(messageId) ??
      this.frozen?.tail.messageIds.get(channelId)?.get(messageId)
    );
  }

  runEntrySync(kind: RunKind, channelId: ChannelId, text: string): RunEntry | undefined {
    const runs = this.runs(kind);
    if (runs.length === 0) return undefined;
    const key = compositeKey(channelId, text);
    for (const { run, chunk } of this.#candidates(runs, key)) {
      const entries = this.#cachedChunk(run, chunk) ?? this.#chunkSync(run, chunk);
      const entry = findEntry(entries, key);
      if (entry !== undefined) return entry;
    }
    return undefined;
  }

  async runEntry(kind: RunKind, channelId: ChannelId, text: string): Promise<RunEntry | undefined> {
    const key = compositeKey(channelId, text);
    for (;;) {
      const seals = this.seals;
      for (const { run, chunk } of this.#candidates(this.runs(kind), key)) {
        const entries = this.#cachedChunk(run, chunk) ?? (await this.loadChunk(run, chunk));
        // Undefined: a merge has removed the run.
        if (entries === undefined) break;
        const entry = findEntry(entries, key);
        if (entry !== undefined) return entry;
      }
      if (seals === this.seals) return undefined;
    }
  }

  /** Chunks that a lookup would have to read. */
  missingChunks(kind: RunKind, channelId: ChannelId, text: string): { run: Run; chunk: number }[] {
    const runs = this.runs(kind);
    if (runs.length === 0) return [];
    const key = compositeKey(channelId, text);
    return [...this.#candidates(runs, key)].filter(
      ({ run, chunk }) => !this.shared.chunkCache.has(this.#chunkKey(run, chunk)),
    );
  }

  runs(kind: RunKind): readonly Run[] {
    return kind === RowKind.keyRun ? this.sealed.keyRuns : this.sealed.messageIdRuns;
  }

  /** Newest first: an expired key that was used again is in a newer run. */
  *#candidates(runs: readonly Run[], key: Uint8Array): Generator<{ run: Run; chunk: number }> {
    const hash = hashForFilter(key);
    for (let i = runs.length - 1; i >= 0; i--) {
      const run = runs[i] as Run;
      const chunk = chunkFor(run, key, hash);
      if (chunk !== undefined) yield { run, chunk };
    }
  }

  #cachedChunk(run: Run, chunk: number): RunEntry[] | undefined {
    return this.shared.chunkCache.get(this.#chunkKey(run, chunk));
  }

  #chunkSync(run: Run, chunk: number): RunEntry[] {
    this.shared.counters.syncReads++;
    const key = runKey(run.info.kind, this.place, run.info.run, RunPart.chunk, chunk);
    const row = this.shared.kv.getSync(key);
    // A batch that merges runs may be in LevelDB before this turn knows of it:
    // that is why a run's rows outlive its use by one checkpoint (`retired`).
    return this.#keepChunk(run, chunk, key, row);
  }

  /** Undefined: a merge has removed the run. One read for all who ask meanwhile: a batch of keys may want a chunk thousands of times. */
  loadChunk(run: Run, chunk: number): Promise<RunEntry[] | undefined> {
    const name = this.#chunkKey(run, chunk);
    let loading = this.#loading.get(name);
    if (loading === undefined) {
      loading = this.#loadChunk(run, chunk).finally(() => this.#loading.delete(name));
      this.#loading.set(name, loading);
    }
    return loading;
  }

  async #loadChunk(run: Run, chunk: number): Promise<RunEntry[] | undefined> {
    const key = runKey(run.info.kind, this.place, run.info.run, RunPart.chunk, chunk);
    const row = await this.shared.kv.get(key);
    if (row === undefined && !this.runs(run.info.kind).includes(run)) return undefined;
    return this.#keepChunk(run, chunk, key, row);
  }

  #keepChunk(run: Run, chunk: number, key: Uint8Array, row: Uint8Array | undefined): RunEntry[] {
    const entries = readChunk(key, row, run.info);
    this.shared.chunkCache.set(
      this.#chunkKey(run, chunk),
      entries,
      (row?.length ?? 0) + 100 * entries.length,
    );
    return entries;
  }

  #chunkKey(run: Run, chunk: number): string {
    return this.cacheKey(`${run.info.kind}/${run.info.run}/${chunk}`);
  }

  // ---- the checkpoint's two turns

  /** First: what was active is frozen, as of the applied index. */
  freeze(meta: PartitionMeta): FrozenTail {
    assert(this.frozen === undefined, 'one frozen tail at a time');
    this.frozen = {
      tail: this.active,
      appliedIndex: this.appliedIndex,
      appliedTerm: this.appliedTerm,
      confState: this.confState,
      membership: this.membership,
      meta,
    };
    this.active = new Tail(this.shared.tails);
    this.dirtySinceMs = undefined;
    return this.frozen;
  }
}

function missingChannel(name: Uint8Array, key: Uint8Array): HansardError {
  return damaged(`channel ${JSON.stringify(Buffer.from(name).toString())}`, 'its row is missing', key);
}

export function openChannelRow(key: Uint8Array, row: Uint8Array): SealedChannel {
  return openRow(key, row, 'a channel row', readChannel);
}

export function openProducerRow(key: Uint8Array, row: Uint8Array): ProducerState {
  return openRow(key, row, 'a producer row', readProducer);
}

/** Events of a row's open block: decoded once, since many pages begin in it. */
export function openEvents(channel: SealedChannel): readonly StoredEvent[] {
  if (channel.openUnit === undefined) return [];
  let events = decoded.get(channel);
  if (events === undefined) {
    events = readUnit(new ByteReader(channel.openUnit));
    decoded.set(channel, events);
  }
  return events;
}
/** Views onto the open units, for as long as the rows are cached. */
const decoded = new WeakMap<SealedChannel, readonly StoredEvent[]>();
/** The decoded events' share of a cached row, for each byte of its open block: 150 for an event of 300. */
const decodedShare = 0.5;
/** Of one in a row's list. */
const smallBlockBytes = 40;

export function weightOfSealed(channel: SealedChannel): number {
  return (
    weightOfChannel(channel.state) +
    (1 + decodedShare) * (channel.openUnit?.length ?? 0) +
    smallBlockBytes * channel.smallBlocks.length
  );
}
