/**
 * Large buffers that are used again and again. A new one costs the kernel's zeroing of its pages, and V8 collects the whole
 * heap once 64 MiB of new ones have been made since the last time, however little else there is to collect: at 60,000
 * messages a second that was two thirds of a second (docs/performance.md, "What buffers cost").
 */
import { assert } from './errors.js';

/** Lent until it is given back; afterwards its bytes are somebody else's. */
export interface Lent {
  /** At least as long as asked for; not zeroed. */
  readonly bytes: Buffer;
}

interface Owned extends Lent {
  readonly rank: number;
  isLent: boolean;
}

const smallestBits = 12;
const largestBits = 21;
/** Below, Node's own pool is as good. */
export const pooledBytesMin = 1 << smallestBits;

export class BufferPool {
  readonly #free: Owned[][] = Array.from({ length: largestBits - smallestBits + 1 }, () => []);
  #freeBytes = 0;

  /** `freeBytesMax`: what is kept while nobody uses it. */
  constructor(private readonly freeBytesMax: number) {}

  take(bytes: number): Lent {
    const rank = Math.max(0, 32 - Math.clz32(bytes - 1) - smallestBits);
    const known = this.#free[rank]?.pop();
    if (known === undefined) {
      const length = rank < this.#free.length ? 1 << (rank + smallestBits) : bytes;
      const made: Owned = { bytes: Buffer.allocUnsafeSlow(length), rank, isLent: true };
      return made;
    }
    this.#freeBytes -= known.bytes.length;
    known.isLent = true;
    return known;
  }

  /** Once, by whoever took it, when nobody reads it any more. */
  give(lent: Lent): void {
    const owned = lent as Owned;
    // Two users of one buffer would each write over what the other one says.
    assert(owned.isLent, 'a buffer is given back once');
    owned.isLent = false;
    const { length } = owned.bytes;
    if (owned.rank >= this.#free.length || this.#freeBytes + length > this.freeBytesMax) return;
    this.#freeBytes += length;
    this.#free[owned.rank]?.push(owned);
  }
}
