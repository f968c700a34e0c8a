/** What waits for the next batch. */
import type { Index, Term } from '../common/ids.js';
import type { Entry, HardState } from '../common/log-types.js';
import { batchBytesMax, storedBytes } from './batch.js';
import type { Group } from './group-log.js';

/** A queued write of one group, or of none (a callback alone). */
export interface Item {
  readonly group: Group | undefined;
  readonly epoch: number;
  readonly hardState: HardState | undefined;
  entries: readonly Entry[];
  readonly reset: { readonly index: Index; readonly term: Term } | undefined;
  /** The closing batch: no entries, but whatever is not on disk yet. */
  readonly closing: boolean;
  done: (() => void) | undefined;
}

/** What one batch carries. */
export interface Flight {
  readonly items: Item[];
  /** Payload, as counted in pendingBytes. */
  readonly bytes: number;
}

export class WriteQueue {
  #items: Item[] = [];

  get length(): number {
    return this.#items.length;
  }
  push(item: Item): void {
    this.#items.push(item);
  }
  clear(): void {
    this.#items = [];
  }

  /** Takes what fits into one batch of `room` bytes; a single entry that is larger goes alone. */
  gather(room: number): Flight | undefined {
    if (this.#items.length === 0) return undefined;
    const items: Item[] = [];
    let payload = 0;
    for (const item of this.#items) {
      const size = storedSum(item.entries);
      if (batchBytesMax(items.length + 1, payload + size) > room) break;
      items.push(item);
      payload += size;
    }
    if (items.length === 0) items.push(this.#takePart(this.#items[0] as Item, room));
    // One splice: shifting one by one would be quadratic under load.
    else if (items.length === this.#items.length) this.#items = [];
    else this.#items.splice(0, items.length);
    let bytes = 0;
    for (const item of items) bytes += payloadBytes(item.entries);
    return { items, bytes };
  }

  /** The first entries of an item that is too large for one batch; the rest stays in the queue. */
  #takePart(item: Item, room: number): Item {
    let count = 1;
    let size = storedBytes(item.entries[0] as Entry);
    for (; count < item.entries.length; count++) {
      size += storedBytes(item.entries[count] as Entry);
      if (batchBytesMax(1, size) > room) break;
    }
    if (count === item.entries.length) {
      this.#items.shift();
      return item;
    }
    const part: Item = { ...item, entries: item.entries.slice(0, count), done: undefined };
    this.#items[0] = { ...item, hardState: undefined, entries: item.entries.slice(count) };
    return part;
  }
}

export function closingItem(): Item {
  return { ...emptyItem(), closing: true };
}

export function emptyItem(): Item {
  return {
    group: undefined,
    epoch: 0,
    hardState: undefined,
    entries: [],
    reset: undefined,
    closing: false,
    done: undefined,
  };
}

export function payloadBytes(entries: readonly Entry[]): number {
  let bytes = 0;
  for (const entry of entries) bytes += entry.sizeBytes;
  return bytes;
}

export function storedSum(entries: readonly Entry[]): number {
  let bytes = 0;
  for (const entry of entries) bytes += storedBytes(entry);
  return bytes;
}
