/**
 * All heartbeats that a turn produced for a peer leave as one message, and so do
 * their answers, and all acknowledgements of entries: with many partitions nearly
 * every message between two nodes is one of these. A heartbeat vouches for exactly the (partition, term) pairs that it
 * names, with commit index and read round; the receiver steps each one, and only
 * a match resets that follower's timer (design rule 17).
 *
 * Answers that no read waits for leave with the next thing that does, at the
 * latest with this node's own heartbeats: a leader asks for them once per election
 * timeout, and each frame on its own costs both processes a wake-up. So do
 * acknowledgements of what was acknowledged before (a commit index that came along with
 * another partition's entries is answered so): they tell the leader nothing but that this replica lives.
 */
import type { NodeId, PartitionId } from '../common/ids.js';
import { type Message, MessageType, message as newMessage } from '../raft/types.js';
import type { Beat } from './peer-codec.js';

export type BeatKind = 'heartbeats' | 'heartbeatResponses' | 'acknowledgements';

type Send = (to: NodeId, kind: BeatKind, beats: readonly Beat[]) => void;

export class Heartbeats {
  readonly #beats = new Map<NodeId, Beat[]>();
  readonly #answers = new Map<NodeId, Beat[]>();
  readonly #acks = new Map<NodeId, Beat[]>();
  readonly #repeatedAcks = new Map<NodeId, Beat[]>();
  /** The last one to each peer since its link is up. */
  readonly #acked = new Map<NodeId, Map<PartitionId, Beat>>();
  #readsWait = false;

  /** True: taken, to leave with the turn. A refusal says more than a beat can. */
  takes(to: NodeId, partition: PartitionId, message: Message): boolean {
    const { type, from, to: replica, term, context } = message;
    let { commit } = message;
    let pending = this.#beats;
    if (type === MessageType.MsgAppResp) {
      if (message.reject) return false;
      pending = this.#acks;
      commit = message.index;
    } else if (type === MessageType.MsgHeartbeatResp) {
      pending = this.#answers;
      if (context !== 0) this.#readsWait = true;
    } else if (type !== MessageType.MsgHeartbeat) return false;
    const beat: Beat = { partition, from, to: replica, term, commit, context };
    if (pending === this.#acks && this.#isRepeated(to, beat)) pending = this.#repeatedAcks;
    const list = pending.get(to);
    if (list === undefined) pending.set(to, [beat]);
    else list.push(beat);
    return true;
  }

  /** What left before may not have come there: everything is news again. */
  linkUp(to: NodeId): void {
    this.#acked.delete(to);
  }

  #isRepeated(to: NodeId, ack: Beat): boolean {
    let acked = this.#acked.get(to);
    if (acked === undefined) {
      acked = new Map();
      this.#acked.set(to, acked);
    }
    const last = acked.get(ack.partition);
    acked.set(ack.partition, ack);
    return (
      last !== undefined &&
      last.commit === ack.commit &&
      last.term === ack.term &&
      last.from === ack.from &&
      last.to === ack.to
    );
  }

  /** `answersToo`: something else leaves now, or they have waited long enough. */
  flush(answersToo: boolean, send: Send): void {
    const hasAcks = this.#acks.size > 0;
    flushAll(this.#beats, 'heartbeats', send);
    flushAll(this.#acks, 'acknowledgements', send);
    if (!answersToo && !hasAcks && !this.#readsWait) return;
    flushAll(this.#answers, 'heartbeatResponses', send);
    flushAll(this.#repeatedAcks, 'acknowledgements', send);
    this.#readsWait = false;
  }

  /** The message that one beat stands for. */
  static toMessage(kind: BeatKind, beat: Beat): Message {
    const message = newMessage(typeOf[kind], beat.to);
    message.from = beat.from;
    message.term = beat.term;
    if (kind === 'acknowledgements') message.index = beat.commit;
    else message.commit = beat.commit;
    message.context = beat.context;
    return message;
  }
}

const typeOf = {
  heartbeats: MessageType.MsgHeartbeat,
  heartbeatResponses: MessageType.MsgHeartbeatResp,
  acknowledgements: MessageType.MsgAppResp,
} as const;

function flushAll(pending: Map<NodeId, Beat[]>, kind: BeatKind, send: Send): void {
  if (pending.size === 0) return;
  for (const [to, beats] of pending) send(to, kind, beats);
  pending.clear();
}
