/** What raft/, wal/ and partition/ say to each other about a log. */
import type { Index, Term } from './ids.js';

export const EntryType = { normal: 0, confChange: 1, confChangeV2: 2 } as const;
export type EntryType = (typeof EntryType)[keyof typeof EntryType];

/**
 * One entry of a partition's Raft log. `data` is undefined where only the place
 * is known (the bytes are in the log on disk, not in the cache): whoever sends
 * or applies it fills it in first. raft/ never looks into `data` of a normal
 * entry; it needs `sizeBytes` alone.
 */
export interface Entry {
  readonly term: Term;
  readonly index: Index;
  readonly type: EntryType;
  /** Length of `data`, known even where `data` is not at hand. */
  readonly sizeBytes: number;
  data: Uint8Array | undefined;
  /**
   * `entryChecksum` of common/entry-checksum.ts: computed by the leader,
   * verified by followers on receipt and by everyone on replay. Where it is
   * missing, the log computes it.
   */
  readonly checksum?: number | undefined;
}

/** What must survive a crash beside the entries. */
export interface HardState {
  readonly term: Term;
  /** ReplicaId voted for in `term`, 0: none. */
  readonly vote: number;
  readonly commit: Index;
}

/** Members of a Raft group, by replica id; ascending. */
export interface ConfState {
  readonly voters: readonly number[];
  readonly votersOutgoing: readonly number[];
  readonly learners: readonly number[];
  readonly learnersNext: readonly number[];
  readonly autoLeave: boolean;
}

export interface SnapshotMetadata {
  readonly index: Index;
  readonly term: Term;
  readonly confState: ConfState;
}
