/**
 * Applied state of a store's partitions: recent events in memory (the tail),
 * everything else in LevelDB, sealed by checkpoints.
 */
import type { HansardError } from '../common/errors.js';
import type {
  ChannelId,
  Index,
  PartitionId,
  ProducerId,
  ReplicaId,
  Seq,
  Term,
  TimeUs,
} from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { Membership } from '../common/membership.js';
import type { DecodedEntry } from '../conversation/decoded-entry.js';
import type { SubscriptionState } from '../conversation/subscription-state.js';
import type { ApplyState, ChannelState, CursorKind, ReadCursor, StoredEvent } from '../conversation/types.js';
import type { ChangePage, ChangeQuery, ChannelsAt } from './changes.js';
import type { CursorQuery } from './cursors.js';
import type { FindQuery } from './find-channels.js';
import type { LostEvents } from './give-up.js';
import type { ChannelQuery } from './list-channels.js';
import type { Pace } from './pace.js';
import type { ScanEventsQuery, ScannedChannels, ScannedEvents, ScanQuery } from './scan.js';
import type { SnapshotPosition } from './snapshot-format.js';
import type { RowDamage } from './sweep.js';
import type { WatchAllListener } from './watches.js';

export interface Store {
  readonly storeId: string;
  partition(partition: PartitionId): PartitionStore;
  partitions(): readonly PartitionStore[];
  /** Every partition of which this store holds a replica, or held one. */
  hosted(): readonly HostedReplica[];
  /**
   * A new, empty replica, durable when it resolves: no configuration, nothing
   * applied; it starts from a snapshot. The partition is not held here (any more).
   */
  addPartition(partition: PartitionId, replicaId: ReplicaId): Promise<PartitionStore>;
  /**
   * The replica is no member any more. Durable when it resolves; its rows go in
   * slices, in this life or the next. Nothing may be applied to it any more; reads of it fail.
   */
  dropPartition(partition: PartitionId, replicaId: ReplicaId): Promise<void>;
  /** Bytes of all tails, frozen ones included. */
  readonly tailBytes: number;
  /** Of all tails, by the channels that are to be sealed; without any: infinite. What sealing a byte costs falls with it. */
  readonly tailBytesPerChannel: number;
  /** Above this the node stops admission and applying until a checkpoint has resolved. */
  readonly tailLimitBytes: number;
  /**
   * Freezes and seals several partitions in one synced batch (one fsync for all
   * of them; those with nothing unsealed cost nothing). Rejects: the process must end.
   */
  checkpoint(partitions: readonly PartitionId[]): Promise<void>;
  /**
   * One view of what the partition's last checkpoint sealed, to be read in
   * chunks; undefined: nothing was sealed yet. Held until it is closed.
   */
  exportSnapshot(partition: PartitionId): Promise<SnapshotExport | undefined>;
  /**
   * Begins to take in a snapshot under a new generation; what was there goes on
   * serving. One per partition at a time: waits for the end of the one before. Rejects MalformedError where the
   * manifest is damaged or of another partition, INVALID_SETTINGS where its
   * store cuts blocks differently.
   */
  beginInstall(partition: PartitionId, manifest: Uint8Array): Promise<SnapshotInstall>;
  /**
   * Told of damage that a read or a checkpoint met; the call that met it is told to go
   * elsewhere where the listener takes care of it, else it is told of the damage. Called
   * in the midst of a turn, perhaps again and again.
   */
  onDamage(listener: (partition: PartitionId, error: HansardError) => boolean): void;
  /**
   * Told when the database gives errors in the place of rows that it was given in this life: damage in its tables lies
   * near them, and nothing that is fetched into it will be sound.
   */
  onUnfit(listener: (error: HansardError) => void): void;
  /** From here on reads of the partition fail (NOT_LEADER), and nothing of it is sealed; `setAside` is to follow. */
  distrust(partition: PartitionId, why: string): void;
  /**
   * The partition's rows are not to be trusted: what is in memory of them is dropped, reads
   * fail (NOT_LEADER), nothing may be applied or is sealed, until a snapshot is installed.
   * Lasts for this life; `untrusted` of the options is how the next one knows.
   */
  setAside(partition: PartitionId, why: string): void;
  /** By partition, why; found damaged at open, or since. */
  setAsidePartitions(): ReadonlyMap<PartitionId, string>;
  /** Under which the partition's rows are, those that count or are set aside; every snapshot brings a higher one. */
  generationOf(partition: PartitionId): number;
  /**
   * For `hansard repair`, in a folder that no node runs on: events of damaged blocks; rejects STORE_DAMAGED
   * where other rows are damaged, which nothing can take the place of.
   */
  findLostEvents(partition: PartitionId, pace: Pace): Promise<readonly LostEvents[]>;
  /** Erased events take their place, synced when it resolves. */
  giveUpLostEvents(partition: PartitionId, pace: Pace): Promise<readonly LostEvents[]>;
  /**
   * As the above for the change list: where it has a gap the next checkpoint begins it anew, and who follows the
   * partition from before is refused (TOKEN_TOO_OLD). True: it has one.
   */
  giveUpBrokenChanges(partition: PartitionId): Promise<boolean>;
  /** Small durable facts of the node (peers' store ids …), synced. */
  getFact(name: string): Uint8Array | undefined;
  putFact(name: string, value: Uint8Array): Promise<void>;
  /**
   * Writes anew what the database has beside its replicas' rows (the format record, facts, what is known of value
   * files), from memory: it was found damaged where it lies. Synced when it resolves. Rejects: the process must end.
   */
  rewriteRecords(): Promise<void>;
  stats(): StoreStats;
  close(): Promise<void>;
}

export interface HostedReplica {
  readonly partition: PartitionId;
  /** 0: the one that the store was formatted with (its id is its node's). */
  readonly replicaId: ReplicaId;
  /** It was here, and its data is gone or goes. */
  readonly removed: boolean;
}

export interface StoreStats {
  tailBytes: number;
  checkpoints: number;
  checkpointBytes: number;
  /** Lookups in apply that had to block the loop. */
  syncReads: number;
  blocksRead: number;
  /** Since the start, replay included. */
  eventsApplied: number;
}

export interface PartitionStore extends ApplyState, PartitionReader {
  readonly partition: PartitionId;
  readonly appliedIndex: Index;
  readonly appliedTerm: Term;
  /** What the last finished checkpoint holds: the log may drop up to here. */
  readonly sealedIndex: Index;
  readonly sealedTerm: Term;
  /** Members as of `sealedIndex`. */
  readonly sealedConfState: ConfState;
  /** Where the snapshot stood that this partition was last installed from; 0: never. */
  readonly installedIndex: Index;
  readonly confState: ConfState;
  /** Where the replicas are that `confState` names. */
  readonly membership: Membership;
  /** `membership` as of `sealedIndex`. */
  readonly sealedMembership: Membership;
  /** A configuration change, in its entry: both in one step. */
  setConfState(confState: ConfState, membership: Membership): void;
  /** Brackets the changes of one entry; every entry has its turn, also an empty one and a configuration change. */
  beginEntry(): void;
  endEntry(index: Index, term: Term): void;
  /**
   * Loads what applying the entry will look up into the cache; undefined where all
   * of it is there already.
   */
  prefetch(entry: DecodedEntry): Promise<void> | undefined;
  /**
   * A producer's last applied counter, 0 where it is unknown. Unlike
   * `producer()` it may be asked outside an entry: it leaves the tail alone.
   */
  lastCounterOf(id: ProducerId): number;
  /**
   * Has `listener` called whenever the channel of that name has changed or come
   * to be, in the midst of applying: it may only take a note. Gives what ends it.
   */
  watch(tenant: string, name: string, listener: () => void): () => void;
  /** The same for whatever changes in the partition; without a channel anything may have. */
  watchAll(listener: WatchAllListener): () => void;
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
  /** `digestAt`, where nobody asks for the index (tests). */
  digest(): Promise<string>;
  /**
   * The digest of the state at exactly `index`, taken when that entry is applied, or now
   * where it is the last one; writes go on. Undefined: it had been passed, a checkpoint ran
   * just then, another call took this one's place, or the state is gone.
   */
  digestWhen(index: Index, pace: Pace): Promise<PartitionDigest | undefined>;
  /** Reads and verifies every row that counts (sweep.ts). */
  sweepRows(pace: Pace, found: (damage: RowDamage) => void): Promise<number>;
}

export interface SnapshotExport {
  readonly partition: PartitionId;
  readonly index: Index;
  readonly term: Term;
  readonly confState: ConfState;
  /** For `beginInstall`. */
  readonly manifest: Uint8Array;
  readonly start: SnapshotPosition;
  /** The chunk at `from`, at least one row, else at most about `maxBytes`; the same bytes each time. */
  read(
    from: SnapshotPosition,
    maxBytes: number,
  ): Promise<{ chunk: Uint8Array; next: SnapshotPosition; last: boolean }>;
  close(): Promise<void>;
}

export interface SnapshotInstall {
  readonly partition: PartitionId;
  readonly index: Index;
  readonly term: Term;
  readonly confState: ConfState;
  /** Where the next chunk begins. */
  readonly offset: number;
  /** All of it is there and counted. */
  readonly isComplete: boolean;
  /**
   * The next chunk, synced when it resolves. Rejects MalformedError where it is
   * not the one that is due, or damaged (nothing has changed then);
   * STORE_DAMAGED where the last one has come and the whole does not add up.
   */
  add(chunk: Uint8Array): Promise<void>;
  /**
   * Decides, in one batch: from its resolving on the partition is what the
   * snapshot was. No entry may be applied while it runs. Rejects: the process must end.
   */
  finish(): Promise<void>;
  /** Gives it up; its rows are deleted in slices. */
  abandon(): void;
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
  /** The same in this very turn; 'unknown' where that takes a read. */
  channelNow(tenant: string, name: string): ChannelState | undefined | 'unknown';
  /** Ascending, dense; ends early at a limit (never empty where the range has an event). */
  events(channel: ChannelState, range: PageRange): Promise<StoredEvent[]>;
  /** The same in this very turn; undefined where that takes a read, or something is wrong. */
  eventsNow(channel: ChannelState, range: PageRange): StoredEvent[] | undefined;
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
  /** In the same way those that were deleted and may be brought back. */
  listDeleted(query: ChannelQuery): Promise<ChannelState[]>;
  /** `listChannels`, with the index as of which it is. */
  channelsAt(query: ChannelQuery): Promise<ChannelsAt>;
  /** What changed behind a place; rejects TOKEN_TOO_OLD where the change list no longer reaches back so far. */
  changes(query: ChangeQuery): Promise<ChangePage>;
  /** How far a reader or recipient has got in the channel of that name; undefined: it has none. */
  readCursor(
    tenant: string,
    channel: string,
    reader: string,
    kind?: CursorKind,
  ): Promise<ReadCursor | undefined>;
  /** All of a channel, by reader. */
  listCursors(query: CursorQuery): Promise<ReadCursor[]>;
  /** As it stands; changes with every step, so it is not to be kept. Throws NOT_LEADER. */
  subscriptionNow(tenant: string, name: string): Readonly<SubscriptionState> | undefined;
  /** By name. Throws NOT_LEADER. */
  subscriptionsOf(tenant: string): Readonly<SubscriptionState>[];
  /** By label, participant or activity; rejects TOO_MANY_CHANNELS. */
  findChannels(query: FindQuery): Promise<ChannelState[]>;
  /** For verification (scan.ts): the database itself, damage told instead of thrown. */
  scanChannels(query: ScanQuery): Promise<ScannedChannels>;
  scanEvents(query: ScanEventsQuery): Promise<ScannedEvents>;
  /**
   * Digest of the whole logical state, the same on every replica at that index. Reads
   * everything. Rejects STORE_DAMAGED.
   */
  digestAt(): Promise<PartitionDigest>;
}

export interface PartitionDigest {
  readonly appliedIndex: Index;
  readonly digest: string;
}
