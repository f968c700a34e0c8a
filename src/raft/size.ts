/** What entries count for against limits in bytes. */
import type { Entry } from '../common/log-types.js';
import { varintSize } from '../common/varint.js';

/**
 * An entry's bytes with its header: tags, and varints of type, term, index and
 * length, as the usual encodings have it. An estimate that is equal on all
 * replicas; never the size of a file.
 */
export function entrySize(entry: Entry): number {
  const header = 2 + 1 + varintSize(entry.term) + 1 + varintSize(entry.index);
  return entry.sizeBytes === 0 ? header : header + 1 + varintSize(entry.sizeBytes) + entry.sizeBytes;
}

export function entriesSize(entries: readonly Entry[]): number {
  let size = 0;
  for (let i = 0; i < entries.length; i++) size += entrySize(entries[i]!);
  return size;
}

/** Data alone: an empty entry is free, so a new leader's first one is never refused. */
export function payloadsSize(entries: readonly Entry[]): number {
  let size = 0;
  for (let i = 0; i < entries.length; i++) size += entries[i]!.sizeBytes;
  return size;
}

/** How many of entries[from, to) fit into `maxSize`; at least one where there is one. */
export function countWithin(entries: readonly Entry[], from: number, to: number, maxSize: number): number {
  if (from >= to) return 0;
  let size = entrySize(entries[from]!);
  let i = from + 1;
  for (; i < to; i++) {
    size += entrySize(entries[i]!);
    if (size > maxSize) break;
  }
  return i - from;
}
