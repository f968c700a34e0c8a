/**
 * LevelDB gives space back when it compacts, and that follows writes: of what was deleted in a
 * quiet partition nothing might ever go. So where checkpoints have deleted enough of a partition's
 * rows, their range is compacted, one at a time. What was counted is forgotten at a start: the
 * rest waits for the next deletions.
 */
import type { Kv } from '../common/env.js';
import { kindRange, type RowKind } from './keys.js';
import type { PartitionState } from './partition-state.js';

/** Compacting rewrites what is left of the partition's rows of that kind: for less it is not worth it. */
const worthBytes = 8 * 1024 * 1024;

export class GiveBack {
  readonly #kv: Kv;
  readonly #due: { readonly state: PartitionState; readonly kind: RowKind }[] = [];
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
        this.#due.push({ state, kind });
      }
    }
    return this.#running || this.#due.length === 0 ? undefined : this.#run(goOn);
  }

  async #run(goOn: () => boolean): Promise<void> {
    this.#running = true;
    try {
      for (let next = this.#due.shift(); next !== undefined && goOn(); next = this.#due.shift()) {
        await this.#kv.compact(kindRange(next.kind, next.state.place));
      }
    } finally {
      this.#running = false;
    }
  }
}
