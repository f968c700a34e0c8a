/**
 * Messages whose entries the cache has dropped: their bytes are read back from
 * the log before they leave. One message per peer is being read at a time (that
 * bounds the memory, whatever the number of partitions that catch up), and what a
 * partition sends after it waits its turn: a message that overtook would be
 * refused by the follower, and everything in flight sent again.
 */
import type { NodeId } from '../common/ids.js';
import type { Replica } from '../partition/replica.js';
import { type Message, MessageType } from '../raft/types.js';

export interface LogSenderContext {
  send(replica: Replica, to: NodeId, message: Message): void;
  isStopped(): boolean;
  fatal(error: unknown): void;
}

interface Lane {
  /** In order. Bounded by the core's windows: messages in flight per follower and partition. */
  readonly queue: { readonly replica: Replica; readonly message: Message }[];
  readonly waiting: Map<Replica, number>;
  running: boolean;
}

export class LogSender {
  readonly #context: LogSenderContext;
  readonly #lanes = new Map<NodeId, Lane>();

  constructor(context: LogSenderContext) {
    this.#context = context;
  }

  /** True: taken; false: nothing has to be read, and nothing of the partition waits. */
  takes(replica: Replica, to: NodeId, message: Message): boolean {
    if (message.type !== MessageType.MsgApp) return false;
    const lane = this.#lanes.get(to);
    if ((lane?.waiting.get(replica) ?? 0) === 0 && !isIncomplete(message)) return false;
    this.#enqueue(lane ?? this.#newLane(to), replica, to, message);
    return true;
  }

  #newLane(to: NodeId): Lane {
    const lane: Lane = { queue: [], waiting: new Map(), running: false };
    this.#lanes.set(to, lane);
    return lane;
  }

  #enqueue(lane: Lane, replica: Replica, to: NodeId, message: Message): void {
    lane.queue.push({ replica, message });
    lane.waiting.set(replica, (lane.waiting.get(replica) ?? 0) + 1);
    if (lane.running) return;
    lane.running = true;
    this.#run(lane, to).catch((error: unknown) => {
      // While the node stops, the log closes under its readers.
      if (!this.#context.isStopped()) this.#context.fatal(error);
    });
  }

  async #run(lane: Lane, to: NodeId): Promise<void> {
    for (let next = lane.queue.shift(); next !== undefined; next = lane.queue.shift()) {
      const { replica, message } = next;
      const isCurrent = (): boolean =>
        !this.#context.isStopped() && replica.isLeader && replica.term === message.term;
      const wanted = isCurrent() && (await this.#complete(replica, message)) && isCurrent();
      const left = (lane.waiting.get(replica) as number) - 1;
      if (left === 0) lane.waiting.delete(replica);
      else lane.waiting.set(replica, left);
      // Where the log changed under the reader, or leadership did, raft/ sends something else.
      if (wanted) this.#context.send(replica, to, message);
    }
    lane.running = false;
  }

  async #complete(replica: Replica, message: Message): Promise<boolean> {
    if (!isIncomplete(message)) return true;
    return replica.log.fill(message.entries);
  }
}

function isIncomplete(message: Message): boolean {
  return message.entries.some((entry) => entry.data === undefined && entry.sizeBytes > 0);
}
