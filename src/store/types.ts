/**
 * Applied state of a store's partitions: recent events in memory (the tail),
 * everything else in LevelDB, sealed by checkpoints.
 */
import type { ChannelId, Index, PartitionId, ProducerId, Seq, Term, TimeUs } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { ApplyState, ChannelState, StoredEvent } from '../conversation/types.js';

export interface Store {
  readonly storeId: string;
  partition(partition: PartitionId): PartitionStore;
  partitions(): readonly PartitionStore[];
  /** Bytes of all tails, frozen ones included. */
  readonly tailBytes: number;
  /** Above this the node stops admission and applying until a checkpoint has resolved. */
  readonly tailLimitBytes: number;
  /**
   * Freezes and seals several partitions in one synced batch (one fsync for all
   * of them; those with nothing unsealed cost nothing). Rejects: the process must end.
   */
  checkpoint(partitions: readonly PartitionId[]): Promise<void>;
  /** Small durable facts of the node (peers' store ids …), synced. */
  getFact(name: string): Uint8Array | undefined;
  putFact(name: string, value: Uint8Array): Promise<void>;
  stats(): StoreStats;
  close(): Promise<void>;
}

export interface StoreStats {
  tailBytes: number;
  checkpoints: number;
  checkpointBytes: number;
  /** Lookups in apply that had to block the loop. */
  syncReads: number;
  blocksRead: number;
}

export interface PartitionStore extends ApplyState, PartitionReader {
  readonly partition: PartitionId;
  readonly appliedIndex: Index;
  readonly appliedTerm: Term;
  /** What the last finished checkpoint holds: the log may drop up to here. */
  readonly sealedIndex: Index;
  readonly sealedTerm: Term;
  readonly confState: ConfState;
  setConfState(confState: ConfState): void;
  /** Brackets the changes of one entry; every entry has its turn, also an empty one and a configuration change. */
  beginEntry(): void;
  endEntry(index: Index, term: Term): void;
  /**
   * Loads what applying `data` will look up into the cache; undefined where all
   * of it is there already. Called when an entry is received.
   */
  prefetch(data: Uint8Array): Promise<void> | undefined;
  /**
   * A producer's last applied counter, 0 where it is unknown. Unlike
   * `producer()` it may be asked outside an entry: it leaves the tail alone.
   */
  lastCounterOf(id: ProducerId): number;
  readonly tailBytes: number;
  /** When the oldest unsealed change was applied, ms of the monotonic clock; undefined: nothing unsealed. */
  readonly dirtySinceMs: number | undefined;
  /** True while a checkpoint runs. A second one waits. */
  readonly sealing: boolean;
  /**
   * Freezes the tail at the applied index and seals it in slices; resolves when
   * it is synced and the frozen tail dropped. Waits for one that runs. Rejects: the process must end.
   */
  checkpoint(): Promise<void>;
  /** Digest of the whole logical state at the applied index, the same on every replica (tests, verify). */
  digest(): Promise<string>;
}

export interface PageRange {
  /** First seq wanted, inclusive. */
  fromSeq: Seq;
  /** Last seq wanted, inclusive. */
  toSeq: Seq;
  /** Start at `toSeq` and go down; answers are ascending either way. */
  reverse: boolean;
  maxEvents: number;
  maxBytes: number;
}

/** Reads of a partition's applied state; every call sees one state (taken in its first turn). */
export interface PartitionReader {
  channelByName(tenant: string, name: string): Promise<ChannelState | undefined>;
  /** Ascending, dense; ends early at a limit (never empty where the range has an event). */
  events(channel: ChannelState, range: PageRange): Promise<StoredEvent[]>;
  seqOfMessageId(channelId: ChannelId, messageId: string): Promise<Seq | undefined>;
  /** First seq whose commit time is at or after `timeUs`; head + 1 where there is none. */
  seqAtTime(channel: ChannelState, timeUs: TimeUs): Promise<Seq>;
  /** By name, bytewise ascending, after `after` (exclusive). */
  listChannels(query: {
    tenant: string;
    prefix: string;
    after: string | undefined;
    limit: number;
  }): Promise<ChannelState[]>;
}
