/**
 * All heartbeats that a turn produced for a peer leave as one message, and so do
 * their answers. Each vouches for exactly the (partition, term) pairs that it
 * names, with commit index and read round; the receiver steps each one, and only
 * a match resets that follower's timer (design rule 17).
 *
 * Answers that no read waits for leave with the next thing that does, at the
 * latest with this node's own heartbeats: a leader asks for them once per election
 * timeout, and each frame on its own costs both processes a wake-up.
 */
import type { NodeId, PartitionId } from '../common/ids.js';
import { type Message, MessageType, message as newMessage } from '../raft/types.js';
import type { Beat } from './peer-codec.js';

export type BeatKind = 'heartbeats' | 'heartbeatResponses';

type Send = (to: NodeId, kind: BeatKind, beats: readonly Beat[]) => void;

export class Heartbeats {
  readonly #beats = new Map<NodeId, Beat[]>();
  readonly #answers = new Map<NodeId, Beat[]>();
  #readsWait = false;

  static isBeat(message: Message): boolean {
    return message.type === MessageType.MsgHeartbeat || message.type === MessageType.MsgHeartbeatResp;
  }

  add(to: NodeId, partition: PartitionId, message: Message): void {
    const { from, to: replica, term, commit, context } = message;
    const isAnswer = message.type === MessageType.MsgHeartbeatResp;
    if (isAnswer && context !== 0) this.#readsWait = true;
    const pending = isAnswer ? this.#answers : this.#beats;
    const beat: Beat = { partition, from, to: replica, term, commit, context };
    const list = pending.get(to);
    if (list === undefined) pending.set(to, [beat]);
    else list.push(beat);
  }

  /** `answersToo`: something else leaves now, or they have waited long enough. */
  flush(answersToo: boolean, send: Send): void {
    flushAll(this.#beats, 'heartbeats', send);
    if (!answersToo && !this.#readsWait) return;
    flushAll(this.#answers, 'heartbeatResponses', send);
    this.#readsWait = false;
  }

  /** The message that one beat stands for. */
  static toMessage(kind: BeatKind, beat: Beat): Message {
    const type = kind === 'heartbeats' ? MessageType.MsgHeartbeat : MessageType.MsgHeartbeatResp;
    const message = newMessage(type, beat.to);
    message.from = beat.from;
    message.term = beat.term;
    message.commit = beat.commit;
    message.context = beat.context;
    return message;
  }
}

function flushAll(pending: Map<NodeId, Beat[]>, kind: BeatKind, send: Send): void {
  if (pending.size === 0) return;
  for (const [to, beats] of pending) send(to, kind, beats);
  pending.clear();
}
