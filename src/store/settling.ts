/**
 * What a checkpoint sealed, on its way to the cache. The turn in which the batch has
 * resolved only names it as the newest; a hundred thousand channels go to the
 * cache afterwards, in slices: at once they would stop the loop for seconds.
 */
import type { LruCache } from './lru.js';
import { weightOfSealed } from './partition-state.js';
import type { Slicer } from './slices.js';
import type { SealedChannel } from './state-codec.js';

/** By `channelName`; undefined: there was no room to keep it, and what the cache has of it is old. */
export type SealedRows = Map<string, SealedChannel | undefined>;

/** Bytes that a row counts for on its way. */
const workBytes = 512;

export class Settling {
  readonly #rows: SealedRows;
  constructor(rows: SealedRows) {
    this.#rows = rows;
  }

  /** True: `get` answers for the cache. */
  has(name: string): boolean {
    return this.#rows.has(name);
  }

  get(name: string): SealedChannel | undefined {
    return this.#rows.get(name);
  }

  /** The cache has the newest now. */
  forget(name: string): void {
    this.#rows.delete(name);
  }

  /** Brings all of it to the cache; `isOver`: nobody asks any more. */
  async settle(
    cache: LruCache<SealedChannel>,
    keyOf: (name: string) => string,
    slicer: Slicer,
    isOver: () => boolean,
  ): Promise<void> {
    for (const [name, channel] of this.#rows) {
      if (channel === undefined) cache.delete(keyOf(name));
      else cache.set(keyOf(name), channel, weightOfSealed(channel));
      this.#rows.delete(name);
      if (slicer.spent(workBytes)) await slicer.pause();
      if (isOver()) return;
    }
  }
}
