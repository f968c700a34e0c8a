/** Snapshots that take the place of partitions' states: one at a time for each, and the decision of each. */
import { MalformedError } from '../common/bytes.js';
import type { KvBatch } from '../common/env.js';
import { assert, HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { type Generations, putGenerations } from './generations.js';
import type { HeldPartitions } from './held.js';
import { PartitionState, type SealedIndex, type StoreShared } from './partition-state.js';
import { decodeManifest } from './snapshot-format.js';
import { type InstallHost, PartitionInstall } from './snapshot-install.js';
import { Sweeping } from './sweeping.js';
import { cloneMeta } from './tail.js';
import type { SnapshotInstall } from './types.js';
import { outcome, type Writes } from './writes.js';

export class Installs {
  readonly #shared: StoreShared;
  readonly #storeId: string;
  readonly #held: HeldPartitions;
  readonly #writes: Writes;
  readonly #underWay = new Map<PartitionId, Ending>();
  readonly sweeping: Sweeping;

  constructor(shared: StoreShared, storeId: string, held: HeldPartitions, writes: Writes) {
    this.#shared = shared;
    this.#storeId = storeId;
    this.#held = held;
    this.#writes = writes;
    this.sweeping = new Sweeping(shared, held, writes, (partition) => this.#underWay.has(partition));
  }

  /** Resolves at its end; undefined: none is under way. */
  underWay(partition: PartitionId): Promise<void> | undefined {
    return this.#underWay.get(partition)?.ended;
  }

  async begin(partition: PartitionId, manifest: Uint8Array): Promise<SnapshotInstall> {
    this.#writes.refuseAfterFailure();
    const decoded = decodeManifest(manifest);
    const { record, blockBytes } = decoded;
    if (record.partition !== partition) {
      throw new MalformedError(`a snapshot of partition ${record.partition}, not ${partition}`);
    }
    if (blockBytes !== this.#shared.blockBytes) {
      throw new HansardError(
        'INVALID_SETTINGS',
        `the snapshot has blocks of ${blockBytes} bytes, this store of ${this.#shared.blockBytes}`,
        { partition },
      );
    }
    // One at a time; one that was given up may still have a batch on its way.
    for (let before = this.#underWay.get(partition); before !== undefined; ) {
      await before.ended;
      before = this.#underWay.get(partition);
    }
    this.#underWay.set(partition, newEnding());
    const known = this.#held.generationsOf(partition);
    const next: Generations = { ...known, highest: known.highest + 1, swept: false };
    // Synced before the first row: an open that finds it knows what to sweep.
    await this.sweeping.note(partition, next);
    const host: InstallHost = {
      shared: this.#shared,
      storeId: this.#storeId,
      write: (rows) => this.#writes.write(rows),
      flip: (sealed, put) => this.#flip(sealed, put),
      unfit: (error) => this.#held.unfit(error),
      giveUp: () => {
        this.#end(partition);
        this.sweeping.begin(partition);
      },
    };
    return new PartitionInstall(host, decoded, next.highest);
  }

  /** The decision of an install: one batch, and in the turn of its end all that stands beside the database. */
  async #flip(sealed: SealedIndex, put: (batch: KvBatch) => void): Promise<void> {
    const { partition, appliedIndex } = sealed.record;
    let before = this.#held.state(partition);
    for (; before.sealing !== undefined; before = this.#held.state(partition)) await before.sealing;
    assert(
      before.appliedIndex < appliedIndex,
      `partition ${partition} has applied ${before.appliedIndex}, the snapshot stands at ${appliedIndex}`,
    );
    const was = before.appliedIndex;
    const next: Generations = { ...this.#held.generationsOf(partition), installedIndex: appliedIndex };
    const batch = this.#shared.kv.batch();
    put(batch);
    putGenerations(batch, partition, next);
    const work = this.#writes.write(batch);
    // Nobody seals what is about to be replaced.
    before.sealing = outcome(work);
    await work;
    before.sealing = undefined;
    assert(
      before.appliedIndex === was,
      `partition ${partition} was applied to while a snapshot took its place`,
    );
    const state = new PartitionState(this.#shared, sealed, cloneMeta(sealed.record.meta), appliedIndex);
    before.active.drop();
    this.#held.setGenerations(partition, next);
    this.#held.replace(state);
    this.#end(partition);
    this.sweeping.begin(partition);
  }

  #end(partition: PartitionId): void {
    const ending = this.#underWay.get(partition);
    this.#underWay.delete(partition);
    ending?.end();
  }
}

/** Something that others wait for the end of. */
interface Ending {
  readonly ended: Promise<void>;
  end(): void;
}

function newEnding(): Ending {
  let end = (): void => {};
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  return { ended, end: () => end() };
}
