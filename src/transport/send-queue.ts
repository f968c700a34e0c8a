/**
 * What waits to be sent to one peer, bounded in bytes. Urgent messages (votes,
 * heartbeats) have a bound of their own and go first in a frame; order is kept
 * within each of the two classes, not between them. Messages lie one behind the
 * other, each behind its length, as a frame has them: no object and no memory of its own for any.
 */
import { BufferPool, type Lent } from '../common/buffer-pool.js';
import { messageHeaderBytes } from './frame.js';

export interface Batch {
  /** Messages behind their lengths, in order; valid until the queue is used again. */
  readonly runs: readonly Uint8Array[];
  readonly count: number;
}

/** What most turns send to a peer fits. */
const chunkBytes = 64 * 1024;
/** Of all links of the process: what is kept while nothing waits, for the next turns. */
const chunks = new BufferPool(8 * 1024 * 1024);

interface Chunk {
  readonly lent: Lent;
  from: number;
  to: number;
}

class Fifo {
  #chunks: Chunk[] = [];
  /** Taken to their ends, and looked at until the queue is used again. */
  #spent: Chunk[] = [];
  length = 0;
  bytes = 0;

  push(message: Uint8Array): void {
    this.#release();
    const bytes = cost(message);
    let last = this.#chunks.at(-1);
    if (last === undefined || last.to + bytes > last.lent.bytes.length) {
      last = { lent: chunks.take(Math.max(bytes, chunkBytes)), from: 0, to: 0 };
      this.#chunks.push(last);
    }
    const buffer = last.lent.bytes;
    buffer.set(message, buffer.writeUInt32LE(message.length, last.to));
    last.to += bytes;
    this.length++;
    this.bytes += bytes;
  }

  /** Adds messages while they fit, and the first of all in any case. Returns how much of `bytesMax` is left. */
  takeInto(taken: { runs: Uint8Array[]; count: number }, bytesMax: number): number {
    this.#release();
    let room = bytesMax;
    for (let chunk = this.#chunks[0]; chunk !== undefined; chunk = this.#chunks[0]) {
      const { bytes } = chunk.lent;
      const { from } = chunk;
      while (chunk.from < chunk.to) {
        const next = messageHeaderBytes + bytes.readUInt32LE(chunk.from);
        if (next > room && taken.count > 0) break;
        chunk.from += next;
        room -= next;
        taken.count++;
        this.length--;
      }
      if (chunk.from > from) taken.runs.push(bytes.subarray(from, chunk.from));
      this.bytes -= chunk.from - from;
      if (chunk.from < chunk.to) return 0;
      this.#chunks.shift();
      this.#spent.push(chunk);
    }
    return Math.max(0, room);
  }

  clear(): void {
    this.#spent.push(...this.#chunks);
    this.#chunks = [];
    this.#release();
    this.length = 0;
    this.bytes = 0;
  }

  #release(): void {
    if (this.#spent.length === 0) return;
    for (const { lent } of this.#spent) chunks.give(lent);
    this.#spent = [];
  }
}

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

  /** Copies the message. False: full. One message is always taken by an empty queue. */
  push(message: Uint8Array, urgent: boolean): boolean {
    const fifo = urgent ? this.#urgent : this.#bulk;
    const limit = urgent ? this.urgentBytes : this.bulkBytes;
    if (fifo.length > 0 && fifo.bytes + cost(message) > limit) return false;
    fifo.push(message);
    return true;
  }

  /** Urgent ones first, up to `bytesMax` with their headers, at least one. */
  take(bytesMax: number): Batch {
    const taken = { runs: [], count: 0 };
    const room = this.#urgent.takeInto(taken, bytesMax);
    if (this.#urgent.length === 0) this.#bulk.takeInto(taken, room);
    return taken;
  }

  /** How many messages were dropped. */
  clear(): number {
    const dropped = this.length;
    this.#bulk.clear();
    this.#urgent.clear();
    return dropped;
  }
}
