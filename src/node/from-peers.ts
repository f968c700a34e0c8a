/** What comes from the other nodes: links that come and go, and messages, each to whom it is for. */
import { HansardError } from '../common/errors.js';
import type { NodeId, PartitionId } from '../common/ids.js';
import type { Replica } from '../partition/replica.js';
import { type Message, MessageType } from '../raft/types.js';
import { takesRoomHere } from './admission.js';
import type { Elections } from './elections.js';
import type { Forwarding } from './forwarding.js';
import type { Gossiping } from './gossiping.js';
import type { Guard } from './guard.js';
import type { Hearsay } from './hearsay.js';
import { Heartbeats } from './heartbeats.js';
import type { NodeOptions } from './options.js';
import { decodePeerMessage, type PeerMessage, type ReadRoundQuestion } from './peer-codec.js';
import type { Quiescence } from './quiescence.js';
import type { ReadRounds } from './read-rounds.js';
import type { ReplicaSet } from './replica-set.js';
import type { SnapshotReceiver } from './snapshot-receiver.js';
import type { SnapshotSender } from './snapshot-sender.js';
import type { Ticks } from './ticks.js';
import type { ToPeers } from './to-peers.js';

/** Entries that wait for the disk here; above it those of other leaders are dropped, and sent again later. */
const walQueueBytes = 64 * 1024 * 1024;

/** What a peer's replica may say to ours; the rest is for the core's own use, or not built yet. */
const fromPeers: ReadonlySet<MessageType> = new Set([
  MessageType.MsgApp,
  MessageType.MsgAppResp,
  MessageType.MsgSnap,
  MessageType.MsgVote,
  MessageType.MsgVoteResp,
  MessageType.MsgPreVote,
  MessageType.MsgPreVoteResp,
  MessageType.MsgHeartbeat,
  MessageType.MsgHeartbeatResp,
  MessageType.MsgTimeoutNow,
  MessageType.MsgReadIndex,
  MessageType.MsgReadIndexResp,
]);

/** All who hear something. */
export interface FromPeersContext {
  readonly options: NodeOptions;
  readonly guard: Guard;
  readonly replicas: ReplicaSet;
  readonly toPeers: ToPeers;
  readonly ticks: Ticks;
  readonly gossiping: Gossiping;
  readonly hearsay: Hearsay;
  readonly elections: Elections;
  readonly quiescence: Quiescence<Replica>;
  readonly readRounds: ReadRounds;
  readonly forwarding: Forwarding;
  readonly snapshotSender: SnapshotSender;
  readonly snapshotReceiver: SnapshotReceiver;
  isStopped(): boolean;
}

export class FromPeers {
  readonly #context: FromPeersContext;

  constructor(context: FromPeersContext) {
    this.#context = context;
  }

  receive(from: NodeId, bytes: Uint8Array): void {
    const { guard, isStopped } = this.#context;
    if (isStopped() || guard.hasFailed) return;
    // What is malformed throws into the transport, which drops the link and says why; nothing of it was believed.
    const message = decodePeerMessage(bytes);
    guard.run(() => this.#handle(from, message));
  }

  #handle(from: NodeId, message: PeerMessage): void {
    const { forwarding, gossiping, readRounds, quiescence, ticks } = this.#context;
    switch (message.kind) {
      case 'raft':
        return this.#stepRaft(from, message.partition, message.message);
      case 'heartbeats':
      case 'heartbeatResponses':
      case 'acknowledgements':
        for (const beat of message.beats)
          this.#stepRaft(from, beat.partition, Heartbeats.toMessage(message.kind, beat));
        return;
      case 'request':
        return forwarding.handleRequest(from, message.request);
      case 'response':
        return forwarding.handleResponse(from, message.response);
      case 'cancel':
        // What was proposed can't be taken back; the answer is dropped at the other end.
        return;
      case 'gossip':
        return gossiping.hear(from, message.gossip);
      case 'readRound':
        return this.#vouch(from, message.question);
      case 'readRoundAnswer':
        return readRounds.answered(from, message.answer);
      case 'vouch':
        return quiescence.heard(from, message.word, ticks.tickedMs);
      case 'vouchAnswer':
        return quiescence.answered(from, message.answer, ticks.tickedMs);
    }
  }

  #vouch(from: NodeId, { number, pairs }: ReadRoundQuestion): void {
    const { replicas, toPeers } = this.#context;
    const refused: PartitionId[] = [];
    for (const { partition, term } of pairs)
      if (!replicas.at(partition)?.vouchesFor(from, term)) refused.push(partition);
    toPeers.sendNow(from, { kind: 'readRoundAnswer', answer: { number, refused } });
  }

  /** A message is believed only for a member's replica that lives on the node it came from. */
  #stepRaft(from: NodeId, partition: PartitionId, message: Message): void {
    const { replicas, options, snapshotReceiver } = this.#context;
    const replica = replicas.at(partition);
    if (
      replica === undefined ||
      message.to !== replica.replicaId ||
      !replica.membership.hears(message.from, from)
    ) {
      // Of one that was removed and does not know it yet, or for one that has gone from here.
      options.logger.debug({ from, partition, type: message.type }, 'message for another replica dropped');
      return;
    }
    if (!fromPeers.has(message.type)) {
      options.logger.warn({ from, partition, type: message.type }, 'message that no peer sends dropped');
      return;
    }
    // With almost nothing left the process would end at the next segment; the others go on without it, and it catches up.
    if (options.space?.isCritical === true && takesRoomHere(message)) return;
    // A disk that falls behind must not fill the memory; the leader finds out by its probes.
    if (
      message.type === MessageType.MsgApp &&
      message.entries.length > 0 &&
      options.wal.pendingBytes > walQueueBytes
    )
      return;
    const metadata = message.snapshot?.metadata;
    if (message.type === MessageType.MsgSnap && metadata !== undefined && replica.wantsSnapshot(metadata)) {
      // The rows first; the core hears of it when they are here.
      if (message.term >= replica.term) snapshotReceiver.offered(replica, from, message);
    } else if (message.type !== MessageType.MsgSnap || !replica.isInstalling) replica.step(message);
  }

  // ---- links

  /** Comes again when only one direction was lost: what was on its way then will not be answered. */
  peerUp(peer: NodeId): void {
    const { forwarding, quiescence, elections, gossiping, toPeers } = this.#context;
    forwarding.linkLost(peer);
    toPeers.linkUp(peer);
    quiescence.wakeAll(peer);
    elections.peerUp();
    // Before it stamps anything by a clock that is ahead, or hands leadership to a replica that is damaged.
    gossiping.tell();
  }

  peerDown(peer: NodeId, kind: 'broken' | 'refused' | 'rejected', reason: string): void {
    const { options, forwarding, readRounds, quiescence, hearsay, elections, guard } = this.#context;
    options.logger.info({ peer, kind, reason }, 'link down');
    forwarding.linkLost(peer);
    readRounds.peerDown(peer);
    quiescence.wakeAll(peer);
    hearsay.peerDown(peer);
    if (kind === 'refused') elections.peerGone(peer);
    if (kind === 'rejected' && reason.startsWith('REPLICA_LOST')) {
      // The peer knew this node with another store: what that one had promised is gone (design rule 12).
      guard.fail(
        new HansardError('REPLICA_LOST', `node ${peer} knows this node with another store: ${reason}`, {
          peer,
        }),
      );
    }
    this.#reportUnreachable(peer);
    this.#context.snapshotSender.peerDown(peer, kind === 'refused');
  }

  #reportUnreachable(peer: NodeId): void {
    for (const replica of this.#context.replicas.held) {
      if (!replica.isLeader) continue;
      for (const member of replica.members)
        if (member.nodeId === peer) replica.reportUnreachable(member.replicaId);
    }
  }
}
