/** Messages between nodes as node/ sees them: opaque bytes, in order per link, lost when a link breaks. */
import type { NodeId } from '../common/ids.js';

export interface Transport {
  start(handlers: TransportHandlers): Promise<void>;
  /** host:port that peers dial. */
  readonly address: string;
  /**
   * Queues one message for the peer; all of a turn leave as one frame. False:
   * the link is down or its queue full, and the message was dropped (raft
   * sends again; a caller that needs an answer has a deadline).
   */
  send(to: NodeId, message: Uint8Array): boolean;
  peers(): readonly PeerState[];
  stop(): Promise<void>;
}

export interface TransportHandlers {
  /** `message` is its own copy only if `copied`; else it is valid for this turn. */
  onMessage(from: NodeId, message: Uint8Array): void;
  onUp(peer: NodeId): void;
  /**
   * The stream on which the peer sends to us ended. `refused`: an immediate
   * reconnect found nobody listening, so the process is gone (design rule 14).
   */
  onDown(peer: NodeId, kind: 'broken' | 'refused' | 'rejected', reason: string): void;
}

export interface PeerState {
  nodeId: NodeId;
  address: string;
  /** Both directions are open. */
  connected: boolean;
  queuedBytes: number;
  sentBytes: number;
  receivedBytes: number;
  droppedMessages: number;
  storeId: string | undefined;
}
