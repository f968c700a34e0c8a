/**
 * The window of MsgApps under way to one follower: a ring of (last index, bytes)
 * that grows on demand, since most groups of a node are idle.
 */

import { assert } from '../common/errors.js';
import type { Index } from '../common/ids.js';

export class Inflights {
  #start = 0;
  #count = 0;
  #bytes = 0;
  #indexes: number[] = [];
  #sizes: number[] = [];

  constructor(
    private readonly maxMessages: number,
    /** A soft limit: one message may carry it over. */
    private readonly maxBytes: number,
  ) {}

  get count(): number {
    return this.#count;
  }

  get full(): boolean {
    return this.#count >= this.maxMessages || this.#bytes >= this.maxBytes;
  }

  /** `index` is the last one in the message; calls come in ascending order. */
  add(index: Index, bytes: number): void {
    assert(!this.full, 'a message added to a full window');
    if (this.#count === this.#indexes.length) this.#grow();
    const at = (this.#start + this.#count) % this.#indexes.length;
    this.#indexes[at] = index;
    this.#sizes[at] = bytes;
    this.#count++;
    this.#bytes += bytes;
  }

  /** Frees all messages whose last index is at or below `index`. */
  freeUpTo(index: Index): void {
    while (this.#count > 0 && this.#indexes[this.#start]! <= index) {
      this.#bytes -= this.#sizes[this.#start]!;
      this.#start = (this.#start + 1) % this.#indexes.length;
      this.#count--;
    }
    if (this.#count === 0) this.#start = 0;
  }

  reset(): void {
    this.#start = 0;
    this.#count = 0;
    this.#bytes = 0;
  }

  #grow(): void {
    const capacity = Math.min(Math.max(4, this.#indexes.length * 2), this.maxMessages);
    const indexes = new Array<number>(capacity).fill(0);
    const sizes = new Array<number>(capacity).fill(0);
    for (let i = 0; i < this.#count; i++) {
      const at = (this.#start + i) % this.#indexes.length;
      indexes[i] = this.#indexes[at]!;
      sizes[i] = this.#sizes[at]!;
    }
    this.#indexes = indexes;
    this.#sizes = sizes;
    this.#start = 0;
  }
}
