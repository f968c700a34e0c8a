/**
 * What waits to be sent to one peer, bounded in bytes. Urgent messages (votes,
 * heartbeats) have a bound of their own and go first in a frame; order is kept
 * within each of the two classes, not between them.
 */
import { messageHeaderBytes } from './frame.js';

export interface Batch {
  readonly messages: Uint8Array[];
  /** Sum of their lengths. */
  readonly bytes: number;
}

class Fifo {
  #messages: Uint8Array[] = [];
  #head = 0;
  bytes = 0;
  get length(): number {
    return this.#messages.length - this.#head;
  }
  push(message: Uint8Array): void {
    this.#messages.push(message);
    this.bytes += cost(message);
  }
  peek(): Uint8Array | undefined {
    return this.#messages[this.#head];
  }
  shift(): void {
    this.bytes -= cost(this.#messages[this.#head] as Uint8Array);
    this.#messages[this.#head++] = emptyBytes; // let go of it before the array is trimmed
    if (this.#head === this.#messages.length) this.clear();
    else if (this.#head >= 1024 && this.#head * 2 >= this.#messages.length) {
      this.#messages = this.#messages.slice(this.#head);
      this.#head = 0;
    }
  }
  clear(): void {
    this.#messages = [];
    this.#head = 0;
    this.bytes = 0;
  }
}

const emptyBytes = new Uint8Array(0);

/** Empty messages count too: a flood of them is bounded as well. */
function cost(message: Uint8Array): number {
  return message.length + messageHeaderBytes;
}

export class SendQueue {
  readonly #bulk = new Fifo();
  readonly #urgent = new Fifo();
  constructor(
    private readonly bulkBytes: number,
    private readonly urgentBytes: number,
  ) {}

  get bytes(): number {
    return this.#bulk.bytes + this.#urgent.bytes;
  }
  get length(): number {
    return this.#bulk.length + this.#urgent.length;
  }

  /** False: full. One message is always taken by an empty queue. */
  push(message: Uint8Array, urgent: boolean): boolean {
    const fifo = urgent ? this.#urgent : this.#bulk;
    const limit = urgent ? this.urgentBytes : this.bulkBytes;
    if (fifo.length > 0 && fifo.bytes + cost(message) > limit) return false;
    fifo.push(message);
    return true;
  }

  /** Urgent ones first, up to `maxBytes` with their headers, at least one. */
  take(maxBytes: number): Batch {
    const messages: Uint8Array[] = [];
    let bytes = 0;
    let room = maxBytes;
    for (const fifo of [this.#urgent, this.#bulk]) {
      for (let next = fifo.peek(); next !== undefined; next = fifo.peek()) {
        if (messages.length > 0 && cost(next) > room) return { messages, bytes };
        room -= cost(next);
        bytes += next.length;
        messages.push(next);
        fifo.shift();
      }
    }
    return { messages, bytes };
  }

  /** How many messages were dropped. */
  clear(): number {
    const dropped = this.length;
    this.#bulk.clear();
    this.#urgent.clear();
    return dropped;
  }
}
