/**
 * The disk as the log sees it: numbered segment files in one folder. disk-device.ts
 * is the real one, test/sim/sim-disk.ts the simulated one; both pass
 * test/wal/device-suite.ts.
 *
 * Operations start in the order of the calls; `write`, `rename` and `remove` also
 * end in it. `create` runs in the background, in slices, so that it never delays
 * a write noticeably. A rejected operation leaves unknown what is on the disk: once
 * a `write`, `rename` or `remove` has failed, those behind it are rejected untried,
 * also those that were asked for before anybody could know. (A removal that goes on
 * behind a rename that failed would leave a log with a hole.)
 */
export interface SegmentFile {
  /** From the file's name, from 1. */
  readonly segment: number;
  /** The file's length. */
  readonly bytes: number;
}

/** Writes on the caller's thread, where asking another one would take longer than they do. */
export interface WritesHere {
  /** A write of about so many bytes is best made so now: nothing is under way, it is small, and the disk was quick lately. */
  suits(bytes: number): boolean;
  /** As LogDevice's, done when it returns; throws what that would reject with. Only at once after `suits` said so. */
  write(segment: number, offset: number, bytes: Uint8Array): number;
}

export interface LogDevice {
  /** Segment files by ascending number. Half-created ones are removed, not listed. */
  list(): Promise<SegmentFile[]>;
  /** A file of `bytes` zeros, written and synced, and its folder synced. */
  create(segment: number, bytes: number): Promise<void>;
  /** Renames within the folder and syncs the folder. The bytes stay as they are. */
  rename(from: number, to: number): Promise<void>;
  remove(segment: number): Promise<void>;
  /** Fills `target` from `offset` on; resolves to the bytes read, fewer only at the file's end. */
  read(segment: number, offset: number, target: Uint8Array): Promise<number>;
  /**
   * Writes all of `bytes`, then fdatasync. Resolves to the milliseconds that the
   * disk took. `bytes` must stay unchanged until then.
   */
  write(segment: number, offset: number, bytes: Uint8Array): Promise<number>;
  /** Undefined: every write has its own thread. */
  readonly here?: WritesHere | undefined;
  /** Memory that `read` and `write` take without a copy. Zeroed. */
  allocate(bytes: number): Buffer;
  /** Ends once everything asked before has ended. */
  close(): Promise<void>;
}
