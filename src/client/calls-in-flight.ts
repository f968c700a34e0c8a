/**
 * Calls of one stream that have no answer yet, by id. Ids count up and most answers come in about
 * their order, so this is a ring: nothing is made or hashed for a call. It is as long as the oldest
 * call without an answer is old: a node that lives ends each by its time, and the connection to one that
 * does not breaks within half a minute (keepalive).
 */
import type { Call } from './frames.js';

const roomAtFirst = 256;

export class CallsInFlight {
  /** Of the next call. */
  nextId = 1;
  size = 0;
  /** Nothing before it is in flight. */
  #first = 1;
  #calls: (Call | undefined)[] = new Array<Call | undefined>(roomAtFirst).fill(undefined);
  /** When each left, by the same places; told as lost: infinity. */
  #sentAtMs = new Float64Array(roomAtFirst);

  add(call: Call, sentAtMs: number): void {
    if (this.nextId - this.#first === this.#calls.length) this.#grow();
    const place = this.nextId++ % this.#calls.length;
    this.#calls[place] = call;
    this.#sentAtMs[place] = sentAtMs;
    this.size++;
  }

  /** Takes it out; undefined: it is out, or never was in. */
  take(id: number): Call | undefined {
    if (id < this.#first || id >= this.nextId) return undefined;
    const place = id % this.#calls.length;
    const call = this.#calls[place];
    if (call === undefined) return undefined;
    this.#calls[place] = undefined;
    this.size--;
    while (this.#first < this.nextId && this.#calls[this.#first % this.#calls.length] === undefined)
      this.#first++;
    return call;
  }

  /** Those that count as lost now, the oldest first, each once. They stay in: an answer may come after all. */
  lost(nowMs: number, isSilent: boolean): Call[] {
    const lost: Call[] = [];
    for (let id = this.#first; id < this.nextId; id++) {
      const place = id % this.#calls.length;
      const call = this.#calls[place];
      if (call === undefined) continue;
      const waitMs = isSilent ? Math.min(call.patienceMs, call.timeoutMs) : call.timeoutMs;
      if ((this.#sentAtMs[place] as number) + waitMs >= nowMs) continue;
      this.#sentAtMs[place] = Number.POSITIVE_INFINITY;
      lost.push(call);
    }
    return lost;
  }

  /** Takes all out: those that were not told as lost. */
  takeAll(): Call[] {
    const calls: Call[] = [];
    for (let id = this.#first; id < this.nextId; id++) {
      const sentAtMs = this.#sentAtMs[id % this.#calls.length] as number;
      const call = this.take(id);
      if (call !== undefined && sentAtMs !== Number.POSITIVE_INFINITY) calls.push(call);
    }
    return calls;
  }

  #grow(): void {
    const room = this.#calls.length * 2;
    const calls = new Array<Call | undefined>(room).fill(undefined);
    const sentAtMs = new Float64Array(room);
    for (let id = this.#first; id < this.nextId; id++) {
      calls[id % room] = this.#calls[id % this.#calls.length];
      sentAtMs[id % room] = this.#sentAtMs[id % this.#calls.length] as number;
    }
    this.#calls = calls;
    this.#sentAtMs = sentAtMs;
  }
}
