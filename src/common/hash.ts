/** xxHash for checksums. Import once; the WebAssembly module is ready when this module is. */
import xxhash from 'xxhash-wasm';

const hasher = await xxhash();

/** xxh64, seed 0. The BigInt costs about 80 ns; use `xxh32` for small records of our own. */
export function xxh64(bytes: Uint8Array): bigint {
  return hasher.h64Raw(bytes, 0n);
}

/** xxh64 with a seed, for chained checksums. */
export function xxh64Seeded(bytes: Uint8Array, seed: bigint): bigint {
  return hasher.h64Raw(bytes, seed);
}

/** xxh32, seed 0. */
export function xxh32(bytes: Uint8Array): number {
  return hasher.h32Raw(bytes, 0);
}

export function xxh32Seeded(bytes: Uint8Array, seed: number): number {
  return hasher.h32Raw(bytes, seed);
}
