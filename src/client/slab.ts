/**
 * Memory for the bytes of appends. A Buffer of its own for each is 100 bytes of objects that the
 * collector copies as long as the append is under way; here it is three numbers. A slab goes when
 * the last append in it has ended, so it is small: one that waits for a stuck partition holds its
 * slab back, as it would hold Node's own pool.
 */
const slabBytes = 16 * 1024;
/** Larger ones get memory of their own. */
const shareMax = slabBytes / 8;

export class Slabs {
  /** Of the last `take`: the place is from `at` on. */
  bytes: Uint8Array = Buffer.allocUnsafeSlow(slabBytes);
  at = 0;
  #next = 0;
  #slab = this.bytes;

  /** A place for so many bytes. */
  take(length: number): void {
    if (length > shareMax) {
      this.bytes = Buffer.allocUnsafeSlow(length);
      this.at = 0;
      return;
    }
    if (this.#next + length > slabBytes) {
      this.#slab = Buffer.allocUnsafeSlow(slabBytes);
      this.#next = 0;
    }
    this.bytes = this.#slab;
    this.at = this.#next;
    this.#next += length;
  }
}
