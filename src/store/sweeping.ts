/** Deletes what is left of other generations than those that count, beside everything else. */
import type { PartitionId } from '../common/ids.js';
import { type Generations, putGenerations, sweepGenerations } from './generations.js';
import type { HeldPartitions } from './held.js';
import type { StoreShared } from './partition-state.js';
import { isStoreDamage } from './rows.js';
import type { Writes } from './writes.js';

export class Sweeping {
  readonly #shared: StoreShared;
  readonly #held: HeldPartitions;
  readonly #writes: Writes;
  /** A snapshot is being taken in. */
  readonly #isInstalling: (partition: PartitionId) => boolean;
  readonly #isSweeping = new Set<PartitionId>();
  readonly #sweeping = new Map<PartitionId, Promise<void>>();
  readonly #noting = new Map<PartitionId, Promise<void>>();

  constructor(
    shared: StoreShared,
    held: HeldPartitions,
    writes: Writes,
    isInstalling: (partition: PartitionId) => boolean,
  ) {
    this.#shared = shared;
    this.#held = held;
    this.#writes = writes;
    this.#isInstalling = isInstalling;
  }

  begin(partition: PartitionId): void {
    // What is damaged is kept until something sound has taken its place.
    if (this.#isSweeping.has(partition) || this.#held.isSetAside(partition)) return;
    this.#isSweeping.add(partition);
    const swept = this.#sweepAll(partition).catch((error: unknown) => {
      if (isStoreDamage(error)) {
        // What is damaged may be why they are left. They stay until the next start; nobody reads them.
        this.#shared.logger.warn({ partition, error: error.message }, 'old rows can not be swept');
        return;
      }
      // Reading or deleting failed: nothing is sealed any more, and the process ends.
      this.#shared.logger.error({ partition, error: String(error) }, 'sweeping old rows failed');
      this.#writes.failUnasked(error);
    });
    if (this.#isSweeping.has(partition)) this.#sweeping.set(partition, swept);
  }

  /** Undefined: none is under way. */
  underWay(partition: PartitionId): Promise<void> | undefined {
    return this.#sweeping.get(partition);
  }

  async #sweepAll(partition: PartitionId): Promise<void> {
    const { kv, clock } = this.#shared;
    const pause = () => new Promise<void>((resolve) => clock.defer(resolve));
    const goOn = () => this.#writes.goOn;
    const isAnothers = () => this.#isInstalling(partition) || this.#held.isSetAside(partition);
    try {
      // An install that began after the look has a higher generation; its end sweeps again.
      while (goOn() && !isAnothers()) {
        const { highest } = this.#held.generationsOf(partition);
        const generation = this.#held.generation(partition);
        const sweep = (from: number, to: number) =>
          this.#writes.track(sweepGenerations(kv, partition, from, to, pause, goOn));
        const done = (await sweep(1, generation - 1)) && (await sweep(generation + 1, highest));
        if (!done || isAnothers()) return;
        const now = this.#held.generationsOf(partition);
        if (now.highest !== highest || this.#held.generation(partition) !== generation) continue;
        await this.note(partition, { ...now, swept: true });
        return;
      }
    } finally {
      // In the very turn of the last look: an install that ends from here on begins a sweep of its own.
      this.#isSweeping.delete(partition);
      this.#sweeping.delete(partition);
    }
  }

  /** One such write of a partition after the other: two at once could land in either order. */
  note(partition: PartitionId, generations: Generations): Promise<void> {
    this.#held.setGenerations(partition, generations);
    const noted = (this.#noting.get(partition) ?? Promise.resolve()).then(() => {
      const batch = this.#shared.kv.batch();
      putGenerations(batch, partition, generations);
      return this.#writes.write(batch);
    });
    this.#noting.set(
      partition,
      noted.catch(() => undefined),
    );
    return noted;
  }

  /** All that was to be noted of the partition. */
  async noted(partition: PartitionId): Promise<void> {
    await this.#noting.get(partition);
  }
}
