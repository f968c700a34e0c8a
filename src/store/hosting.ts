/** Replicas that come to a store and go from it. Which are held here changes one at a time: they share the format record. */
import type { KvBatch } from '../common/env.js';
import { assert, HansardError } from '../common/errors.js';
import type { PartitionId, ReplicaId } from '../common/ids.js';
import { type FormatRecord, formatRow } from './format.js';
import { type Generations, putGenerations } from './generations.js';
import type { HeldPartitions } from './held.js';
import type { Installs } from './installs.js';
import { formatKey, partitionKey } from './keys.js';
import { loadSealed } from './open.js';
import { PartitionState, type StoreShared } from './partition-state.js';
import type { PartitionStoreImpl } from './partition-store.js';
import { rowWriter, sealRow } from './rows.js';
import { emptyRecord, noConfiguration } from './set-aside.js';
import { partitionRowVersion, writePartition } from './state-codec.js';
import { cloneMeta } from './tail.js';
import type { HostedReplica, PartitionStore } from './types.js';
import { outcome, type Writes } from './writes.js';

export interface HostingContext {
  readonly shared: StoreShared;
  readonly format: FormatRecord;
  readonly held: HeldPartitions;
  readonly writes: Writes;
  readonly installs: Installs;
  newStore(state: PartitionState): PartitionStoreImpl;
}

export class Hosting {
  readonly #context: HostingContext;
  #format: FormatRecord;
  #changing: Promise<void> = Promise.resolve();

  constructor(context: HostingContext) {
    this.#context = context;
    this.#format = context.format;
  }

  get hosted(): readonly HostedReplica[] {
    return this.#format.hosted;
  }

  add(partition: PartitionId, replicaId: ReplicaId): Promise<PartitionStore> {
    return this.change(async () => {
      const { shared, held, writes, installs, newStore } = this.#context;
      assert(!held.has(partition), `partition ${partition} is held here already`);
      // It looks for rows of any generation but the one that counts: none does yet.
      await installs.sweeping.underWay(partition);
      writes.refuseAfterFailure();
      if (writes.isClosing) throw new HansardError('SHUTTING_DOWN', 'the store closes');
      const before = held.generationsOf(partition);
      const generations = { ...before, highest: before.highest + 1, installedIndex: 0 };
      const record = emptyRecord(partition, generations.highest, noConfiguration, undefined);
      await this.#rehost({ partition, replicaId, removed: false }, generations, (batch, key) => {
        const row = rowWriter(256, partitionRowVersion(record));
        writePartition(row, record);
        batch.put(key, sealRow(key, row));
      });
      const sealed = await loadSealed(shared.kv, record, this.#format.storeId);
      const state = new PartitionState(shared, sealed, cloneMeta(record.meta), 0);
      const store = newStore(state);
      held.add(state, store);
      return store;
    });
  }

  drop(partition: PartitionId, replicaId: ReplicaId): Promise<void> {
    return this.change(async () => {
      const { held, writes, installs } = this.#context;
      // A checkpoint or install that began before ends before: neither may write behind the sweep.
      let state = held.state(partition);
      for (;;) {
        const installing = installs.underWay(partition);
        if (state.sealing === undefined && installing === undefined) break;
        await state.sealing;
        await installing;
        state = held.state(partition);
      }
      writes.refuseAfterFailure();
      held.store(partition).drop();
      const generations = { ...held.generationsOf(partition), swept: false, installedIndex: 0 };
      const work = this.#rehost({ partition, replicaId, removed: true }, generations, (batch, key) =>
        batch.del(key),
      );
      // Nobody seals what is about to go.
      state.sealing = outcome(work);
      await work;
      // Only now: a sweep that runs must not take rows of a generation whose record is still there.
      held.delete(partition);
      installs.sweeping.begin(partition);
    });
  }

  /** The format record as it is in memory; none other is being written meanwhile. */
  putFormat(batch: KvBatch): void {
    batch.put(formatKey(), sealRow(formatKey(), formatRow(this.#format)));
  }

  /** One after the other. */
  change<T>(work: () => Promise<T>): Promise<T> {
    this.#context.writes.refuseAfterFailure();
    const done = this.#changing.then(work);
    this.#changing = outcome(done);
    return done;
  }

  /** The decision: the format record, the partition's record and its generations in one synced batch. */
  async #rehost(
    replica: HostedReplica,
    generations: Generations,
    put: (batch: KvBatch, partitionKey: Uint8Array) => void,
  ): Promise<void> {
    const { shared, held, writes, installs } = this.#context;
    const { partition } = replica;
    held.setGenerations(partition, generations);
    // What a sweep notes of it meanwhile must not land behind this.
    await installs.sweeping.noted(partition);
    const hosted = this.#format.hosted.filter((one) => one.partition !== partition);
    const format = {
      ...this.#format,
      hosted: [...hosted, replica].sort((a, b) => a.partition - b.partition),
    };
    const batch = shared.kv.batch();
    batch.put(formatKey(), sealRow(formatKey(), formatRow(format)));
    put(batch, partitionKey(partition));
    putGenerations(batch, partition, generations);
    await writes.write(batch);
    this.#format = format;
  }
}
