/**
 * The partitions that are held in a store: the state of each, who is asked of it, which generation of its rows
 * counts, and whether its state is set aside. What one of the others (checkpoint.ts, installs.ts, hosting.ts) puts
 * here the rest see in the same turn.
 */
import { assert, type HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import type { Generations } from './generations.js';
import type { PartitionState, StoreShared } from './partition-state.js';
import type { PartitionStoreImpl } from './partition-store.js';
import { isUnreadable } from './rows.js';
import { standIn } from './set-aside.js';

export class HeldPartitions {
  readonly #shared: StoreShared;
  readonly #states = new Map<PartitionId, PartitionState>();
  readonly #stores = new Map<PartitionId, PartitionStoreImpl>();
  /** Of partitions that ever took in a snapshot, also of those that were here once: theirs never come again. */
  readonly #generations: Map<PartitionId, Generations>;
  /** Why each was. */
  readonly #setAside: Map<PartitionId, string>;
  /** Those of which a stand-in has taken the place; the others' states are only not asked any more. */
  readonly #standIns: Set<PartitionId>;
  /** Those whose rows all came in this life. */
  readonly #fetched = new Set<PartitionId>();
  #onDamage: ((partition: PartitionId, error: HansardError) => boolean) | undefined;
  #onUnfit: ((error: HansardError) => void) | undefined;

  constructor(
    shared: StoreShared,
    generations: ReadonlyMap<PartitionId, Generations>,
    setAside: ReadonlyMap<PartitionId, string>,
  ) {
    this.#shared = shared;
    this.#generations = new Map(generations);
    this.#setAside = new Map(setAside);
    this.#standIns = new Set(setAside.keys());
  }

  add(state: PartitionState, store: PartitionStoreImpl): void {
    const { partition } = state.place;
    this.#states.set(partition, state);
    this.#stores.set(partition, store);
  }

  delete(partition: PartitionId): void {
    this.#trust(partition);
    this.#states.delete(partition);
    this.#stores.delete(partition);
  }

  has(partition: PartitionId): boolean {
    return this.#states.has(partition);
  }

  state(partition: PartitionId): PartitionState {
    const state = this.#states.get(partition);
    assert(state !== undefined, `this store has no partition ${partition}`);
    return state;
  }

  stateIfHeld(partition: PartitionId): PartitionState | undefined {
    return this.#states.get(partition);
  }

  /** False: another has taken its place, or none. */
  isCurrent(state: PartitionState): boolean {
    return this.#states.get(state.place.partition) === state;
  }

  store(partition: PartitionId): PartitionStoreImpl {
    const store = this.#stores.get(partition);
    assert(store !== undefined, `this store has no partition ${partition}`);
    return store;
  }

  get stores(): readonly PartitionStoreImpl[] {
    return [...this.#stores.values()];
  }

  /** The one that counts; 0: none, no replica is here. */
  generation(partition: PartitionId): number {
    return this.#states.get(partition)?.place.generation ?? 0;
  }

  generationsOf(partition: PartitionId): Generations {
    const highest = this.generation(partition);
    return this.#generations.get(partition) ?? { highest, swept: true, installedIndex: 0 };
  }

  setGenerations(partition: PartitionId, generations: Generations): void {
    this.#generations.set(partition, generations);
  }

  /** A sound state, out of rows of its own generation, takes the place of what was there. */
  replace(state: PartitionState): void {
    const { partition } = state.place;
    this.#states.set(partition, state);
    this.#trust(partition);
    this.#fetched.add(partition);
    this.#stores.get(partition)?.replaceState(state);
  }

  // ---- damage

  get setAsidePartitions(): ReadonlyMap<PartitionId, string> {
    return this.#setAside;
  }

  isSetAside(partition: PartitionId): boolean {
    return this.#setAside.has(partition);
  }

  onDamage(listener: (partition: PartitionId, error: HansardError) => boolean): void {
    this.#onDamage = listener;
  }

  onUnfit(listener: (error: HansardError) => void): void {
    this.#onUnfit = listener;
  }

  /** What was written in this life is not given back. */
  unfit(error: HansardError): void {
    this.#onUnfit?.(error);
  }

  distrust(partition: PartitionId, why: string): void {
    if (this.#setAside.has(partition)) return;
    this.#setAside.set(partition, why);
    this.#stores.get(partition)?.distrust();
  }

  setAside(partition: PartitionId, why: string): void {
    const before = this.state(partition);
    if (this.#standIns.has(partition)) return;
    this.#standIns.add(partition);
    const { highest } = this.generationsOf(partition);
    this.#generations.set(partition, { highest, swept: false, installedIndex: 0 });
    const state = standIn(this.#shared, partition, before.place.generation);
    // A checkpoint that is under way still writes: nothing may take the place of its rows before it has ended.
    const { sealing } = before;
    if (sealing !== undefined) {
      const over = (): void => {
        state.sealing = undefined;
      };
      state.sealing = sealing.then(over, over);
    }
    before.active.drop();
    if (sealing === undefined) dropFrozen(before);
    this.#setAside.set(partition, why);
    this.#states.set(partition, state);
    this.#stores.get(partition)?.setAside(state);
  }

  #trust(partition: PartitionId): void {
    this.#setAside.delete(partition);
    this.#standIns.delete(partition);
  }

  /** False: nobody listens; the error is the finder's. */
  found(partition: PartitionId, error: HansardError): boolean {
    if (this.#setAside.has(partition)) return true;
    // Fetched once more its rows would lie near the same damage.
    if (this.#fetched.has(partition) && isUnreadable(error)) this.unfit(error);
    return this.#onDamage?.(partition, error) ?? false;
  }

  /** Of a state that may have been replaced meanwhile: then its damage is nobody's any more. */
  foundIn(state: PartitionState, error: HansardError): boolean {
    return !this.isCurrent(state) || this.found(state.place.partition, error);
  }
}

/** Its bytes count no more. */
export function dropFrozen(state: PartitionState): void {
  state.frozen?.tail.drop();
  state.frozen = undefined;
}
