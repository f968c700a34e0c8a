/**
 * LevelDB gives space back when it compacts, and that follows writes: of what was deleted in a
 * quiet partition nothing might ever go. So where checkpoints have deleted a good part of a
 * partition's rows, their range is compacted, one at a time. What was counted is forgotten at a start: the
 * rest waits for the next deletions.
 */
import type { Kv } from '../common/env.js';
import { kindRange, type RowKind } from './keys.js';
import type { PartitionState } from './partition-state.js';

/** Below it is not worth the call. */
const worthBytes = 256 * 1024;
/** Compacting rewrites what is left of the partition's rows of that kind: at most three bytes for one that it gives back. */
const worthShare = 0.25;

export class GiveBack {
  readonly #kv: Kv;
  readonly #due: { readonly state: PartitionState; readonly kind: RowKind; readonly bytes: number }[] = [];
  #running = false;

  constructor(kv: Kv) {
    this.#kv = kv;
  }

  /** Behind a checkpoint. Gives the work where there is some and none runs; it rejects where LevelDB fails. */
  look(states: readonly PartitionState[], goOn: () => boolean): Promise<void> | undefined {
    for (const state of states) {
      for (const [kind, bytes] of state.removedBytes) {
        if (bytes < worthBytes) continue;
        state.removedBytes.delete(kind);
        this.#due.push({ state, kind, bytes });
      }
    }
    if (this.#running || (this.#due.length === 0 && !this.#kv.reclaimable)) return undefined;
    return this.#run(goOn);
  }

  async #run(goOn: () => boolean): Promise<void> {
    this.#running = true;
    try {
      for (let next = this.#due.shift(); next !== undefined && goOn(); next = this.#due.shift()) {
        const range = kindRange(next.kind, next.state.place);
        // Too little yet: it counts on.
        if (next.bytes < worthShare * (await this.#kv.sizeOf(range)))
          next.state.countRemoved(next.kind, next.bytes);
        else await this.#kv.compact(range);
      }
      while (this.#kv.reclaimable && goOn()) await this.#kv.reclaim(goOn);
    } finally {
      this.#running = false;
    }
  }
}
