/**
 * The checksum that a Raft entry carries from its leader to every disk. It
 * covers partition, term, index, kind and bytes, so that neither damage nor an
 * entry in the wrong place verifies. 32 bits: the frame and the log batch around
 * it have 64, and a BigInt per entry would cost more than the hash.
 */
import { xxh32Seeded } from './hash.js';
import { entriesMatch } from './hash-scratch.js';
import type { Index, PartitionId, Term } from './ids.js';

/** Unsigned 32 bits. `data` must be at hand. */
export function entryChecksum(
  partition: PartitionId,
  entry: { readonly term: Term; readonly index: Index; readonly type: number; readonly data: Uint8Array },
): number {
  return xxh32Seeded(entry.data, placeSeed(partition, entry.term, entry.index, entry.type));
}

/**
 * Do the entries that fill [from, to) of `bytes`, as a batch of the log has them (docs/format.md), match their
 * checksums? Their indexes are `first` and those that follow. False also where `bytes` is not loaded (hash-scratch.ts).
 */
export function areLoadedEntriesSound(
  bytes: Uint8Array,
  from: number,
  to: number,
  partition: PartitionId,
  first: Index,
  count: number,
): boolean {
  return entriesMatch(bytes, from, to, mix(partitionsSeed, partition), first, count);
}

const partitionsSeed = 0x48414e53;

/** Mixes an entry's place into a seed; each step is a bijection of the word mixed in (murmur's finaliser). */
function placeSeed(partition: PartitionId, term: Term, index: Index, type: number): number {
  let seed = mix(partitionsSeed, partition);
  seed = mix(seed, term >>> 0);
  seed = mix(seed, (term / 0x1_0000_0000) >>> 0);
  seed = mix(seed, index >>> 0);
  seed = mix(seed, (index / 0x1_0000_0000) >>> 0);
  return mix(seed, type);
}

function mix(seed: number, word: number): number {
  let h = Math.imul(seed, 5) ^ word;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
