/**
 * All heartbeats (and their answers) that a turn produced for a peer leave as
 * one message. It vouches for exactly the (partition, term) pairs that it
 * names, with commit index and read round; the receiver steps each one, and only
 * a match resets that follower's timer (design rule 17).
 */
import type { NodeId, PartitionId } from '../common/ids.js';
import { type Message, MessageType, message as newMessage } from '../raft/types.js';
import type { Beat } from './peer-codec.js';

export type BeatKind = 'heartbeats' | 'heartbeatResponses';

export class Heartbeats {
  readonly #pending: Record<BeatKind, Map<NodeId, Beat[]>> = {
    heartbeats: new Map(),
    heartbeatResponses: new Map(),
  };

  static isBeat(message: Message): boolean {
    return message.type === MessageType.MsgHeartbeat || message.type === MessageType.MsgHeartbeatResp;
  }

  add(to: NodeId, partition: PartitionId, message: Message): void {
    const kind = message.type === MessageType.MsgHeartbeat ? 'heartbeats' : 'heartbeatResponses';
    const beat: Beat = {
      partition,
      from: message.from,
      to: message.to,
      term: message.term,
      commit: message.commit,
      context: message.context,
    };
    const list = this.#pending[kind].get(to);
    if (list === undefined) this.#pending[kind].set(to, [beat]);
    else list.push(beat);
  }

  flush(send: (to: NodeId, kind: BeatKind, beats: readonly Beat[]) => void): void {
    for (const kind of ['heartbeats', 'heartbeatResponses'] as const) {
      const pending = this.#pending[kind];
      if (pending.size === 0) continue;
      for (const [to, beats] of pending) send(to, kind, beats);
      pending.clear();
    }
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
