/**
 * Calls of one stream that have no answer yet, by id. Ids count up and most answers come in about
 * their order, so this is a ring: nothing is made or hashed for a call. It is as long as the oldest
 * call without an answer is old; a call is given up after seconds.
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
  /** When each counts as lost, by the same places. */
  #lostAtMs = new Float64Array(roomAtFirst);

  add(call: Call, lostAtMs: number): void {
    if (this.nextId - this.#first === this.#calls.length) this.#grow();
    const place = this.nextId++ % this.#calls.length;
    this.#calls[place] = call;
    this.#lostAtMs[place] = lostAtMs;
    this.size++;
  }

  /** Takes it out; undefined: it was given up, or never was. */
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

  /** Takes out those that count as lost at that time, the oldest first. */
  takeLost(nowMs: number): Call[] {
    const lost: Call[] = [];
    for (let id = this.#first; id < this.nextId; id++) {
      if ((this.#lostAtMs[id % this.#calls.length] as number) >= nowMs) continue;
      const call = this.take(id);
      if (call !== undefined) lost.push(call);
    }
    return lost;
  }

  takeAll(): Call[] {
    return this.takeLost(Number.POSITIVE_INFINITY);
  }

  #grow(): void {
    const room = this.#calls.length * 2;
    const calls = new Array<Call | undefined>(room).fill(undefined);
    const lostAtMs = new Float64Array(room);
    for (let id = this.#first; id < this.nextId; id++) {
      calls[id % room] = this.#calls[id % this.#calls.length];
      lostAtMs[id % room] = this.#lostAtMs[id % this.#calls.length] as number;
    }
    this.#calls = calls;
    this.#lostAtMs = lostAtMs;
  }
}
