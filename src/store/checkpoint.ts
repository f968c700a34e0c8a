/** A checkpoint over several partitions: their frozen tails become rows, in one synced batch. */
import { assert } from '../common/errors.js';
import { DirtyChannels } from './dirty-channels.js';
import { GiveBack } from './give-back.js';
import { dropFrozen, type HeldPartitions } from './held.js';
import type { PartitionState, StoreShared } from './partition-state.js';
import { isStoreDamage } from './rows.js';
import { SealBatch } from './seal-batch.js';
import { finishSeal, type Sealed, sealPartition } from './sealer.js';
import { Slicer } from './slices.js';
import { cloneMeta } from './tail.js';
import { outcome, type Writes } from './writes.js';

/** What sealing may have of the loop's time: while tails are less than half full, and when they are full. */
const shareWithRoom = 0.2;
const shareWhenFull = 0.6;
/**
 * Full are tails at their limit, or earlier where little is sealed: at this multiple of it, for what comes meanwhile
 * is the next one's, and tails that grew as long as there is room would be old objects that V8 copies.
 */
const fullPerSealed = 8 / 3;
/** Less is never full: a small checkpoint is soon over. */
const neverFullBytes = 64 * 1024 * 1024;
/** Of the cache of channels, that one checkpoint's may take: the rest is for those that are only read. */
const keptShare = 0.75;

export class Checkpoint {
  readonly #shared: StoreShared;
  readonly #held: HeldPartitions;
  readonly #writes: Writes;
  readonly #tailLimitBytes: number;
  /** Where sealing gets most of the loop's time. */
  #fullBytes = 0;
  readonly #giveBack: GiveBack;
  /** Never rejects. */
  #settled: Promise<void> = Promise.resolve();

  constructor(shared: StoreShared, held: HeldPartitions, writes: Writes, tailLimitBytes: number) {
    this.#shared = shared;
    this.#held = held;
    this.#writes = writes;
    this.#tailLimitBytes = tailLimitBytes;
    this.#giveBack = new GiveBack(shared.kv);
  }

  /** `statesOf` is asked anew after each wait: an install may have taken a state's place. */
  async run(statesOf: () => PartitionState[]): Promise<void> {
    // One checkpoint of a partition at a time: its frozen tail is the only one.
    let states = statesOf();
    for (let busy = states; busy.length > 0; ) {
      await Promise.all(busy.map((state) => state.sealing));
      states = statesOf();
      busy = states.filter((state) => state.sealing !== undefined);
    }
    this.#writes.refuseAfterFailure();
    // One that is frozen still was found damaged a moment ago.
    const dirty = states.filter(
      (state) =>
        state.dirtySinceMs !== undefined &&
        state.frozen === undefined &&
        !this.#held.isSetAside(state.place.partition),
    );
    if (dirty.length === 0) return;
    const work = this.#seal(dirty);
    const settled = outcome(work);
    for (const state of dirty) state.sealing = settled;
    await this.#writes.track(work);
  }

  /**
   * Freezes all in one turn, builds one batch in slices, writes it, and drops the
   * frozen tails in one turn. A partition that turns out to be damaged is left out:
   * what was built for the others is built once more, from the same frozen tails.
   */
  async #seal(states: readonly PartitionState[]): Promise<void> {
    this.#fullBytes = Math.min(
      this.#tailLimitBytes,
      Math.max(fullPerSealed * this.#shared.tails.bytes, neverFullBytes),
    );
    for (const state of states) state.freeze(cloneMeta(state.meta));
    try {
      let sound = states;
      for (let harmed = await this.#sealFrozen(sound); harmed !== undefined; ) {
        const without = sound.filter((state) => state !== harmed);
        sound = without;
        harmed = sound.length === 0 ? undefined : await this.#sealFrozen(sound);
      }
    } catch (error) {
      // The frozen tails stay: reads still see them, until the process ends.
      this.#writes.fail(error);
      throw error;
    } finally {
      for (const state of states) {
        state.sealing = undefined;
        // Set aside meanwhile.
        if (!this.#held.isCurrent(state)) dropFrozen(state);
      }
    }
  }

  /** Resolves to the one whose rows are damaged; then nothing was written. */
  async #sealFrozen(states: readonly PartitionState[]): Promise<PartitionState | undefined> {
    const batch = this.#shared.kv.batch();
    const slicer = new Slicer(this.#shared.clock, () => this.#sealingShare());
    let bytes = 0;
    let current: PartitionState | undefined;
    try {
      // What the checkpoint before left over for the cache.
      await this.#settled;
      const room = { bytes: this.#shared.channelCache.maxBytes * keptShare };
      const sealed: Sealed[] = [];
      let ahead = dirtyOf(states[0]);
      for (const [i, state] of states.entries()) {
        current = state;
        const dirty = ahead;
        // Read while this one is sealed.
        ahead = dirtyOf(states[i + 1]);
        assert(state.frozen !== undefined && dirty !== undefined, 'every partition was frozen');
        const out = new SealBatch(batch, slicer, state.sealed.record.lastDigest, room);
        sealed.push(await sealPartition(state, state.frozen, dirty, out));
        bytes += out.bytes;
      }
      current = undefined;
      await batch.write();
      for (const [i, state] of states.entries()) {
        finishSeal(state, sealed[i] as Sealed);
        state.sealing = undefined;
      }
      this.#settled = this.#settled.then(() => this.#settle(states));
      this.#giveBackSpace(states);
    } catch (error) {
      await batch.abandon().catch((second: unknown) => {
        this.#shared.logger.warn({ error: String(second) }, 'giving up a batch failed');
      });
      const wasTaken = current !== undefined && isStoreDamage(error) && this.#held.foundIn(current, error);
      if (!wasTaken) throw error;
      return current;
    }
    this.#shared.counters.checkpoints++;
    this.#shared.counters.checkpointBytes += bytes;
    return undefined;
  }

  /** In slices; reads meanwhile find what is on its way. */
  async #settle(states: readonly PartitionState[]): Promise<void> {
    const slicer = new Slicer(this.#shared.clock);
    const isOver = (): boolean => this.#writes.isClosing;
    for (const state of states) {
      const keyOf = (name: string) => state.cacheKey(name);
      await state.settling?.settle(this.#shared.channelCache, keyOf, slicer, isOver);
      // Until then the cache is not to be believed alone.
      if (isOver()) return;
      state.settling = undefined;
    }
  }

  /** Beside everything else; a failure is like that of any write. */
  #giveBackSpace(states: readonly PartitionState[]): void {
    const work = this.#giveBack.look(states, () => this.#writes.goOn);
    if (work === undefined) return;
    this.#writes.track(work).catch((error: unknown) => {
      this.#shared.logger.error({ error: String(error) }, 'compacting the database failed');
      // Damage is told by the next write: LevelDB takes none after that.
      if (!isStoreDamage(error)) this.#writes.failUnasked(error);
    });
  }

  /** Of the loop's time: little while there is room, half where applying is about to wait for it. */
  #sealingShare(): number {
    const overHalf = Math.max(0, Math.min(1, (2 * this.#shared.tails.bytes) / this.#fullBytes - 1));
    return shareWithRoom + overHalf * (shareWhenFull - shareWithRoom);
  }
}

function dirtyOf(state: PartitionState | undefined): DirtyChannels | undefined {
  return state?.frozen === undefined ? undefined : new DirtyChannels(state, state.frozen);
}
