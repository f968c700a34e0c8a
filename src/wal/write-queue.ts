/** What waits for the next batch. */
import type { Index, Term } from '../common/ids.js';
import type { Entry, HardState } from '../common/log-types.js';
import { batchBytesMax, entryHeaderBytes, storedBytes } from './batch.js';
import type { Group } from './group-log.js';

/** A queued write of one group, or of none (a callback alone). */
export interface Item {
  readonly group: Group | undefined;
  readonly epoch: number;
  readonly hardState: HardState | undefined;
  entries: readonly Entry[];
  /** Of the entries: what they take in the payload. */
  stored: number;
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
  hasOf(group: Group): boolean {
    return this.#items.some((item) => item.group === group);
  }
  clear(): void {
    this.#items = [];
  }

  /** Takes what fits into one batch of `room` bytes; a single entry that is larger goes alone. */
  gather(room: number): Flight | undefined {
    if (this.#items.length === 0) return undefined;
    const items: Item[] = [];
    let payload = 0;
    for (let i = 0; i < this.#items.length; i++) {
      const item = this.#items[i] as Item;
      if (batchBytesMax(i + 1, payload + item.stored) > room) break;
      items.push(item);
      payload += item.stored;
    }
    if (items.length === 0) items.push(this.#takePart(this.#items[0] as Item, room));
    // One splice: shifting one by one would be quadratic under load.
    else if (items.length === this.#items.length) this.#items = [];
    else this.#items.splice(0, items.length);
    let bytes = 0;
    for (let i = 0; i < items.length; i++) {
      const { stored, entries } = items[i] as Item;
      bytes += stored - entries.length * entryHeaderBytes;
    }
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
    const first = item.entries.slice(0, count);
    const rest = item.entries.slice(count);
    this.#items[0] = { ...item, hardState: undefined, entries: rest, stored: storedSum(rest) };
    return { ...item, entries: first, stored: storedSum(first), done: undefined };
  }
}

/** An item of one shape, whatever it carries: the hot path sees no other. */
export function newItem(
  group: Group | undefined,
  hardState: HardState | undefined,
  entries: readonly Entry[],
  reset?: Item['reset'],
): Item {
  return {
    group,
    epoch: group === undefined ? 0 : group.epoch,
    hardState,
    entries,
    stored: storedSum(entries),
    reset,
    closing: false,
    done: undefined,
  };
}

export function closingItem(): Item {
  return { ...newItem(undefined, undefined, []), closing: true };
}

function storedSum(entries: readonly Entry[]): number {
  let bytes = 0;
  for (let i = 0; i < entries.length; i++) bytes += storedBytes(entries[i] as Entry);
  return bytes;
}
