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

const smallestLog2 = 12;
/** Below, Node's own pool is as good. */
export const pooledBytesMin = 2 ** smallestLog2;
const largestBytes = 2 * 1024 * 1024;
/** Powers of two and the middles between them: a message of a MiB and what surrounds it does not take two. */
const classes: readonly number[] = classBytes();

function classBytes(): number[] {
  const sizes: number[] = [];
  for (let bytes = pooledBytesMin; bytes < largestBytes; bytes *= 2) sizes.push(bytes, bytes * 1.5);
  return [...sizes, largestBytes];
}

function rankOf(bytes: number): number {
  if (bytes <= pooledBytesMin) return 0;
  const log2 = 31 - Math.clz32(bytes - 1);
  const rank = 2 * (log2 - smallestLog2);
  return bytes <= 1.5 * 2 ** log2 ? rank + 1 : rank + 2;
}

export class BufferPool {
  readonly #free: Owned[][] = classes.map(() => []);
  #freeBytes = 0;

  /** `freeBytesMax`: what is kept while nobody uses it. */
  constructor(private readonly freeBytesMax: number) {}

  take(bytes: number): Lent {
    const rank = rankOf(bytes);
    const known = this.#free[rank]?.pop();
    if (known === undefined) {
      const made: Owned = { bytes: Buffer.allocUnsafeSlow(classes[rank] ?? bytes), rank, isLent: true };
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
    const free = this.#free[owned.rank];
    if (free === undefined || length > this.freeBytesMax) return;
    while (this.#freeBytes + length > this.freeBytesMax) this.#dropOne();
    this.#freeBytes += length;
    free.push(owned);
  }

  /** One of the largest: sizes that are not asked for any more must not keep out those that are. */
  #dropOne(): void {
    for (let rank = this.#free.length - 1; rank >= 0; rank--) {
      const dropped = this.#free[rank]?.pop();
      if (dropped === undefined) continue;
      this.#freeBytes -= dropped.bytes.length;
      return;
    }
    assert(this.#freeBytes === 0, 'what is free is counted');
  }
}
