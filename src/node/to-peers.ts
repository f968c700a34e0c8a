/**
 * What leaves for the other nodes: the replicas' messages, gathered per turn, and what the
 * node itself has to say.
 */
import type { NodeId } from '../common/ids.js';
import type { CommitNotes } from '../partition/commit-notes.js';
import type { Replica } from '../partition/replica.js';
import { type Message, MessageType } from '../raft/types.js';
import type { Transport } from '../transport/types.js';
import { type BeatKind, Heartbeats } from './heartbeats.js';
import { LogSender } from './log-sender.js';
import { type Beat, encodePeerMessage, encodeRaftMessage, type PeerMessage } from './peer-codec.js';
import type { SnapshotSender } from './snapshot-sender.js';

export interface ToPeersContext {
  readonly transport: Transport;
  readonly commitNotes: CommitNotes;
  snapshotSender(): SnapshotSender;
  isStopped(): boolean;
  fatal(error: unknown): void;
}

/** Small, and worth more than what waits; the core takes them in any order with the rest. */
const urgent: ReadonlySet<MessageType> = new Set([
  MessageType.MsgVote,
  MessageType.MsgVoteResp,
  MessageType.MsgPreVote,
  MessageType.MsgPreVoteResp,
  MessageType.MsgTimeoutNow,
  MessageType.MsgReadIndex,
  MessageType.MsgReadIndexResp,
]);

export class ToPeers {
  readonly #context: ToPeersContext;
  readonly #transport: Transport;
  readonly #heartbeats = new Heartbeats();
  readonly #logSender: LogSender;
  /** This node's heartbeats leave with the turn, and whatever waited for them. */
  #beatsDue = false;
  /** Messages left in this turn: more go along for nothing. */
  #sentInTurn = false;
  /** Among them entries, or a commit index. */
  #entriesLeave = false;

  constructor(context: ToPeersContext) {
    this.#context = context;
    this.#transport = context.transport;
    this.#logSender = new LogSender({
      send: (replica, to, message) => this.#transmit(replica, to, message),
      isStopped: context.isStopped,
      fatal: context.fatal,
    });
  }

  /** A process that we can talk to both ways. */
  isConnected(node: NodeId): boolean {
    return this.#transport.isConnected(node);
  }

  // ---- in a turn

  sendRaft(replica: Replica, message: Message): void {
    const to = replica.nodeOf(message.to);
    if (to === undefined) return;
    if (this.#heartbeats.takes(to, replica.partition, message)) return;
    if (!this.#logSender.takes(replica, to, message)) this.#transmit(replica, to, message);
  }

  #transmit(replica: Replica, to: NodeId, message: Message): void {
    const bytes = encodeRaftMessage(replica.partition, message);
    this.#sentInTurn = true;
    if (message.type === MessageType.MsgApp) this.#entriesLeave = true;
    const sent = this.#transport.send(to, bytes, urgent.has(message.type));
    // Dropped, so that all that would follow is refused: the core probes instead.
    if (!sent && message.type === MessageType.MsgApp) replica.reportUnreachable(message.to);
    if (message.type === MessageType.MsgSnap && !sent) replica.reportSnapshotFailed(message.to);
    else if (message.type === MessageType.MsgSnap) {
      const index = message.snapshot?.metadata.index ?? 0;
      this.#context.snapshotSender().announced(replica, message.to, to, index);
    }
  }

  /** With entries on their way, followers hear at the same time what has been committed meanwhile. */
  commitsRide(): boolean {
    const { commitNotes } = this.#context;
    if (!this.#entriesLeave || !commitNotes.hasAny) return false;
    commitNotes.tellNow();
    return true;
  }

  /** Answers that waited leave with this node's heartbeats. */
  beat(): void {
    this.#beatsDue = true;
  }

  get areBeatsDue(): boolean {
    return this.#beatsDue;
  }

  /** Messages leave now: the transport's own end of turn would be a turn later. */
  endOfTurn(): void {
    this.#heartbeats.flush(this.#beatsDue || this.#sentInTurn, this.#sendBeats);
    this.#beatsDue = false;
    this.#sentInTurn = false;
    this.#entriesLeave = false;
    this.#transport.flush();
  }

  readonly #sendBeats = (to: NodeId, kind: BeatKind, beats: readonly Beat[]): void => {
    this.#transport.send(to, encodePeerMessage({ kind, beats }), true);
  };

  // ---- at any time

  linkUp(to: NodeId): void {
    this.#heartbeats.linkUp(to);
  }

  send(to: NodeId, message: PeerMessage): boolean {
    return this.#transport.send(to, encodePeerMessage(message), message.kind === 'gossip');
  }

  sendUrgent(to: NodeId, message: PeerMessage): boolean {
    return this.#transport.send(to, encodePeerMessage(message), true);
  }

  /** Outside of turns. */
  sendNow(to: NodeId, message: PeerMessage): void {
    this.sendUrgent(to, message);
    this.#transport.flush();
  }
}
