/**
 * What the outside world is to Hansard: clock, randomness, files of the log,
 * LevelDB and the network between nodes, as interfaces. Production gives the
 * real ones, test/sim simulated ones, and nothing below `node/` may reach the
 * world by another way.
 */
import type { NodeId, TimeUs } from './ids.js';

export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Wall time; may jump either way. */
  nowUs(): TimeUs;
  /** Milliseconds that only grow; for timeouts, leases and staleness. */
  monotonicMs(): number;
  /** Runs `fn` once, `delayMs` from now. Never keeps the process alive. */
  after(delayMs: number, fn: () => void): Timer;
  /** Runs `fn` when the events that are ready now have been handled. */
  defer(fn: () => void): void;
}

export interface Random {
  /** Uniform in [0, 2^32). */
  u32(): number;
  /** Fills with unpredictable bytes (salts, ids). */
  fill(bytes: Uint8Array): void;
}

/**
 * A sorted map of bytes to bytes: LevelDB, or its simulated stand-in. Keys
 * compare bytewise. `put` copies what it is given, so that the caller may use
 * its buffers again; buffers handed out belong to the caller.
 */
export interface Kv {
  get(key: Uint8Array): Promise<Uint8Array | undefined>;
  /** Blocks the loop; counted by its callers. */
  getSync(key: Uint8Array): Uint8Array | undefined;
  getMany(keys: Uint8Array[]): Promise<(Uint8Array | undefined)[]>;
  batch(): KvBatch;
  iterator(range: KvRange): KvIterator;
  /** All rows as they are in this very call, for as long as it is held. It keeps the database from giving space back. */
  snapshot(): KvSnapshot;
  /** Gives back the space of what was deleted in the range; the rest of it is written anew. */
  compact(range: KvRange): Promise<void>;
  /** Bytes on disk of the range's rows, about; what was written last does not count yet. */
  sizeOf(range: KvRange): Promise<number>;
  /** Values that were deleted hold space which no `compact` gives back, enough of it to be worth the work. */
  readonly reclaimable: boolean;
  /** Gives the space of some of them back, a bounded piece of work, and ends early where `goOn` says no. */
  reclaim(goOn: () => boolean): Promise<void>;
  close(): Promise<void>;
}

/** A `Kv` as far as it is LevelDB's: all values lie in it. */
export type RowsKv = Omit<Kv, 'reclaimable' | 'reclaim'>;

export interface KvSnapshot {
  iterator(range: KvRange): KvIterator;
  close(): Promise<void>;
}

export interface KvBatch {
  /** `soonGone`: it will be deleted or put again before long, so it is not worth a place where that leaves a hole. */
  put(key: Uint8Array, value: Uint8Array, soonGone?: boolean): void;
  /** `bytes`: of its value, where that was just read; it saves looking. */
  del(key: Uint8Array, bytes?: number): void;
  readonly length: number;
  /** Applies all or nothing, synced to the disk. Rejects at most once; the process must end then. */
  write(): Promise<void>;
  /** Gives the batch up unwritten. */
  abandon(): Promise<void>;
}

export interface KvRange {
  /** First key included. */
  gte: Uint8Array;
  /** First key excluded. */
  lt: Uint8Array;
  reverse?: boolean;
  limit?: number;
}

export interface KvIterator {
  /** Up to `count` rows, in order; fewer only at the end. */
  next(count: number): Promise<[Uint8Array, Uint8Array][]>;
  close(): Promise<void>;
}

export interface KvFactory {
  /**
   * `create: false` never makes a database where none is (design rule 7). What it finds
   * is durable when it resolves, also what an earlier process left in the page cache.
   */
  open(path: string, options: { create: boolean }): Promise<Kv>;
}

/**
 * The streams between nodes. One stream carries frames one way: the receiver
 * dials (grpc-js widens only the window of the side that dials), the dialled
 * side sends.
 */
export interface Network {
  /** Takes in peers that want to be sent to. */
  listen(onDial: (hello: Uint8Array, stream: OutStream) => void): Promise<NetworkListener>;
  /** Opens the stream on which `to` sends to this node. Handlers are never called before this returns. */
  dial(to: PeerAddress, hello: Uint8Array, handlers: InStreamHandlers): InStream;
}

export interface PeerAddress {
  nodeId: NodeId;
  /** host:port */
  address: string;
}

export interface NetworkListener {
  /** host:port as bound. */
  readonly address: string;
  close(): Promise<void>;
}

/** The sending end of a stream. */
export interface OutStream {
  /**
   * Queues one frame, which may come in several pieces; false: wait for `onDrain`
   * before the next, or it is closed already. All bytes are copied before this returns.
   */
  write(frame: Uint8Array, more?: readonly Uint8Array[]): boolean;
  onDrain(fn: () => void): void;
  /** Called once, whoever ends it. */
  onClose(fn: () => void): void;
  /** With a reason: the dialler sees `rejected` and it; without: `broken`. */
  close(reason?: string): void;
}

export interface InStreamHandlers {
  onOpen(): void;
  /** The frame is used anew once this has returned: copy what outlives it. */
  onFrame(frame: Uint8Array): void;
  /**
   * Called once, unless this side closed first. `refused`: nobody listens there (the process is gone);
   * `rejected`: the peer answered that it does not want us, with `reason`.
   */
  onClose(kind: 'refused' | 'rejected' | 'broken', reason: string): void;
}

export interface InStream {
  /** No handler is called from here on. */
  close(): void;
}
