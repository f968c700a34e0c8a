/** A Bloom filter over byte strings: about 1 % false positives at 10 bits an entry. */
import { xxh32Seeded } from '../common/hash.js';

const bitsPerEntry = 10;
const probes = 7;
/** On disk: changing them is a change of the format. */
const seedA = 0x48414e53;
const seedB = 0x41524421;

export function makeFilter(keys: readonly Uint8Array[]): Uint8Array {
  const filter = new Uint8Array(Math.max(1, Math.ceil((keys.length * bitsPerEntry) / 8)));
  for (const key of keys) {
    const hash = hashForFilter(key);
    for (let i = 0; i < probes; i++) {
      const bit = probe(hash, i, filter.length * 8);
      filter[bit >>> 3] = (filter[bit >>> 3] as number) | (1 << (bit & 7));
    }
  }
  return filter;
}

/** Computed once, asked of many filters. */
export interface FilterHash {
  readonly a: number;
  readonly b: number;
}

export function hashForFilter(key: Uint8Array): FilterHash {
  return { a: xxh32Seeded(key, seedA), b: xxh32Seeded(key, seedB) };
}

/** False: surely not in. */
export function mayContain(filter: Uint8Array, hash: FilterHash): boolean {
  const bits = filter.length * 8;
  for (let i = 0; i < probes; i++) {
    const bit = probe(hash, i, bits);
    if (((filter[bit >>> 3] as number) & (1 << (bit & 7))) === 0) return false;
  }
  return true;
}

/** a + i·b, exact in a double, so that the odd cases of 32-bit wrap-around do not matter. */
function probe(hash: FilterHash, i: number, bits: number): number {
  return (hash.a + i * hash.b) % bits;
}
