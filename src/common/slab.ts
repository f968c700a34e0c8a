/**
 * Memory for many small buffers that live about equally long, such as the bytes
 * of entries. A buffer of its own costs 2 to 3 µs to make; a piece of the runtime's
 * pool holds whatever short-lived things were made beside it. A slab's memory goes
 * when the last of its pieces has gone.
 */

/** Small, so that a piece which outlives the others holds little; making one takes 2 to 3 µs, however small. */
const slabBytes = 32 * 1024;
/** What is larger than this part of a slab gets memory of its own. */
const piecesMin = 8;

export class Slab {
  readonly #slabBytes: number;
  #slab: Buffer = Buffer.alloc(0);
  #at = 0;

  constructor(bytes = slabBytes) {
    this.#slabBytes = bytes;
  }

  /** Not zeroed; the caller's own. */
  take(bytes: number): Buffer {
    if (bytes > this.#slabBytes / piecesMin) return Buffer.allocUnsafeSlow(bytes);
    if (this.#at + bytes > this.#slab.length) {
      this.#slab = Buffer.allocUnsafeSlow(this.#slabBytes);
      this.#at = 0;
    }
    const from = this.#at;
    this.#at += bytes;
    return this.#slab.subarray(from, this.#at);
  }
}

/** For the bytes of entries, as they are made or come in. */
export const entryMemory = new Slab();
