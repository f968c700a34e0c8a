/** Messages between nodes as node/ sees them: opaque bytes, in order per link, lost when a link breaks. */
import type { OutStream } from '../common/env.js';
import type { NodeId } from '../common/ids.js';

export interface Transport {
  start(handlers: TransportHandlers): Promise<void>;
  /** host:port that peers dial. */
  readonly address: string;
  /**
   * Queues one message for the peer; all of a turn leave as one frame. False:
   * the link is down or its queue full, and the message was dropped (raft
   * sends again; a caller that needs an answer has a deadline). The bytes are
   * copied. `urgent`: small and worth more than what waits
   * (votes, heartbeats): has a bound of its own and goes first; order holds
   * among the urgent and among the others.
   */
  send(to: NodeId, message: Uint8Array, urgent?: boolean): boolean;
  /** Hands what is queued to the streams now instead of at the end of the turn. */
  flush(): void;
  /**
   * Dials the peer for a stream of its own, beside the link and on another
   * connection. `request` (at most 512 bytes) is handed to its `onFetch`.
   * Handlers are never called before this returns.
   */
  fetch(from: NodeId, request: Uint8Array, handlers: FetchHandlers): FetchStream;
  /** Both directions are open. */
  isConnected(peer: NodeId): boolean;
  peers(): readonly PeerState[];
  stop(): Promise<void>;
}

export interface TransportHandlers {
  /** `message` is a view of what is used anew once this has returned: copy what outlives it. */
  onMessage(from: NodeId, message: Uint8Array): void;
  /**
   * Both directions are open, to the same life of the peer. Comes again when one
   * of them broke and is back: what was queued or on its way then is lost.
   */
  onUp(peer: NodeId): void;
  /**
   * The stream on which the peer sends to us ended (`broken`), or could not be
   * opened. `refused`: nobody listens there, so the process is gone (design rule
   * 14); follows a `broken` within one immediate reconnect. `rejected`: one of
   * the two does not want the other; `reason` begins with a word of Rejection
   * (hello.ts), and REPLICA_LOST means that this node's own store is not the one
   * that the peer knew. Each kind comes once until the stream is open again.
   */
  onDown(peer: NodeId, kind: 'broken' | 'refused' | 'rejected', reason: string): void;
  /** A known peer asks for a stream of its own; it has been welcomed. Absent: such dials are rejected. */
  onFetch?(peer: NodeId, request: Uint8Array, stream: OutStream): void;
}

export interface FetchHandlers {
  /** The frame is the receiver's own. A MalformedError ends the stream. */
  onFrame(frame: Uint8Array): void;
  /** Called once, unless this side closed first. `rejected`: the peer said why in `reason`. */
  onEnd(kind: 'refused' | 'rejected' | 'broken', reason: string): void;
}

export interface FetchStream {
  /** No handler is called from here on. */
  close(): void;
}

/** What fits into a hello beside the rest. */
export const maxRequestBytes = 512;

export interface PeerState {
  nodeId: NodeId;
  address: string;
  /** Both directions are open. */
  connected: boolean;
  /** Not yet handed to the stream. */
  queuedBytes: number;
  sentBytes: number;
  sentFrames: number;
  receivedBytes: number;
  droppedMessages: number;
  storeId: string | undefined;
  /** Why the stream from the peer is down, as far as known; undefined while it is open. */
  problem: string | undefined;
}

/** Which store each peer had when we first met it: one that comes back with another has lost its promises. */
export interface StorePins {
  /** Hex; undefined: not met yet. */
  getPinned(nodeId: NodeId): string | undefined;
  /** Resolves once it is durable: nothing is said to the peer before. */
  pin(nodeId: NodeId, storeId: string): Promise<void>;
}

export interface TransportLimits {
  readonly bulkQueueBytes: number;
  readonly urgentQueueBytes: number;
  readonly frameBytes: number;
  readonly messageBytes: number;
  readonly handshakeMs: number;
  readonly backoffMinMs: number;
  readonly backoffMaxMs: number;
  readonly stableMs: number;
}

const MiB = 1024 * 1024;

export const transportDefaults: TransportLimits = Object.freeze({
  /** Waiting for one peer: two windows of 16 MiB in flight. */
  bulkQueueBytes: 32 * MiB,
  /** Heartbeats and votes of thousands of partitions fit. */
  urgentQueueBytes: 4 * MiB,
  /** One frame, unless one message is larger: large enough to be cheap, small enough for a short turn. */
  frameBytes: MiB,
  /** One message: a request of 4 MiB (limits.frameBytes) that is forwarded, with room for what surrounds it. */
  messageBytes: 8 * MiB,
  /** From dialling to the welcome. */
  handshakeMs: 5_000,
  backoffMinMs: 100,
  backoffMaxMs: 1_000,
  /** A stream that lived this long is dialled again at once when it breaks; a shorter one waits. */
  stableMs: 1_000,
});
