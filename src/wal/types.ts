/**
 * The store's one log, as partition/ and node/ see it. All partitions of a store
 * write into one sequence of segments; one batch is one write and one fdatasync.
 */
import type { Index, PartitionId, ReplicaId, Term } from '../common/ids.js';
import type { Entry, HardState } from '../common/log-types.js';

/** What one partition wants durable. */
export interface GroupWrite {
  readonly partition: PartitionId;
  /** Present where term or vote changed, or commit should ride along. */
  readonly hardState?: HardState | undefined;
  /** Contiguous, data at hand; replaces the group's entries at and after the first one's index. */
  readonly entries: readonly Entry[];
}

export interface Wal {
  /** Groups known from replay. */
  group(partition: PartitionId): GroupLog | undefined;
  /**
   * Makes a new one; its replica id goes into every table. Also for a later replica
   * of a partition that was held here before: its log is empty, its term and vote are
   * its own. Nothing of the earlier one may be on its way: `write([], …)` tells.
   */
  addGroup(partition: PartitionId, replicaId: ReplicaId): GroupLog;

  groups(): readonly GroupLog[];
  /**
   * Queues writes for the next batch. `onDurable` runs, in the order of the
   * calls, once they are synced, after the groups' indexes show them. A failed
   * write or sync never calls it: `onFailure` of the options ends the process.
   */
  write(writes: readonly GroupWrite[], onDurable: () => void): void;
  /**
   * Begins what is queued, where nothing is being written: else it begins when the caller's turn of the loop ends, and
   * what is still added shares it. `here`: the caller has nothing better to do than to wait for a quick disk. Then
   * true says that all of it is synced already, and its callbacks have run.
   */
  flush(here: boolean): boolean;
  /** Bytes queued or being written; admission control looks at it. */
  readonly pendingBytes: number;
  /** The largest entry that a segment takes: a larger one ends the process. */
  readonly entryBytesMax: number;
  /** Number of the batch that is being written, 0: none. The same one for long: the disk stands still. */
  readonly writing: number;
  /**
   * Partitions whose unsealed entries hold back the oldest segments while the
   * log is over its size; their checkpoint lets it go on.
   */
  holdingBack(): PartitionId[];
  stats(): WalStats;
  /** Which segments count, and up to where they are synced: for whoever reads the files beside the log. */
  extent(): LogExtent;
  /** Waits for what was queued, writes the closing batch, releases the files. */
  close(): Promise<void>;
}

/** One partition's part of the log: raft/'s storage without the snapshot. Synchronous. */
export interface GroupLog {
  readonly partition: PartitionId;
  readonly replicaId: ReplicaId;
  readonly hardState: HardState;
  /** Index of the first entry at hand; what is before it is sealed in the store. */
  firstIndex(): Index;
  lastIndex(): Index;
  /** Term of an entry, also of the one just before the first. */
  term(index: Index): Term | 'compacted' | 'unavailable';
  /**
   * Entries lo ≤ index < hi, at least one, up to `maxBytes` of data. `data` is
   * undefined where the cache has dropped it; `fill` reads it. The others are
   * the log's own: not to be changed.
   */
  entries(lo: Index, hi: Index, maxBytes: number): Entry[];
  /** Reads missing `data` from disk, checksums verified. False: the log has changed under it, drop them. */
  fill(entries: readonly Entry[]): Promise<boolean>;
  /** Everything up to `index` is sealed in the store (synced): the log may drop it. */
  compact(index: Index, term: Term): void;
  /** After a snapshot was installed: the log is empty and starts behind `index`. */
  reset(index: Index, term: Term): void;
  /** A new commit index: no write of its own, it goes with the next batch, or with a closing one once the log is idle. */
  recordCommit(index: Index): void;
  /** Data up to here may leave the cache (applied, and replicated to all that keep up). */
  releaseCache(index: Index): void;
  readonly cachedBytes: number;
}

/**
 * What is kept outside the log of which segments it has reached: a newest segment that
 * is gone, with all that was promised in it, would otherwise look like a shorter log.
 */
export interface SegmentNotes {
  /** `current` holds synced batches; `next` was made behind it (0: none). Undefined: nothing is known. */
  readonly noted: { readonly current: number; readonly next: number } | undefined;
  /** Synced when it resolves. */
  note(current: number, next: number): Promise<void>;
}

export interface LogExtent {
  /** Those that hold batches, oldest first. */
  readonly segments: readonly number[];
  /** All batches below this one are synced. */
  readonly nextBatch: number;
}

/** Which of the segments that were noted is gone; empty: none. `newest`: the last with batches in it. */
export function lostSegment(
  noted: SegmentNotes['noted'],
  newest: number,
  isThere: (segment: number) => boolean,
): string {
  const { current, next } = noted ?? { current: 0, next: 0 };
  const isNextThere = next === 0 || newest >= next || isThere(next);
  if (newest >= current && isNextThere) return '';
  const gone = newest < current ? current : next;
  return `the log ends in segment ${newest}, but had reached segment ${gone}: its newest segments are gone`;
}

export interface WalStats {
  batches: number;
  syncs: number;
  bytesWritten: number;
  /** Segments that hold batches. */
  segments: number;
  segmentBytes: number;
  /** Payloads in memory, all groups. */
  cachedBytes: number;
  lastSyncMs: number;
  replay: ReplayReport;
}

/** What the start found; printed at every start. */
export interface ReplayReport {
  segments: number;
  batches: number;
  entries: number;
  bytes: number;
  /** Of reading and verifying; before the last batch is written anew. */
  durationMs: number;
  /** A torn last batch was cut (normal after a crash). */
  tornTail: boolean;
}
