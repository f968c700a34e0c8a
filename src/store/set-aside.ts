/**
 * A partition whose rows can't be trusted is set aside: an empty state without a
 * configuration stands in its place, which refuses reads and is never sealed, until
 * a snapshot comes in under a generation that no row ever had.
 */
import type { Kv } from '../common/env.js';
import type { PartitionId } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import { initialMembership } from '../common/membership.js';
import { initialMeta } from '../conversation/settings.js';
import type { ReplicatedSettings } from '../conversation/types.js';
import { asBuffer, generationKinds, generationsRange } from './keys.js';
import { NameSet } from './name-set.js';
import { PartitionState, type StoreShared } from './partition-state.js';
import type { PartitionRecord } from './state-codec.js';
import { cloneMeta } from './tail.js';

/** Of a replica that came later, or lost its state: it knows of no member, itself included, until it has a snapshot. */
export const noConfiguration: ConfState = Object.freeze({
  voters: [],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
});

/** Nothing was ever applied. */
export function emptyRecord(
  partition: PartitionId,
  generation: number,
  confState: ConfState,
  settings: Readonly<ReplicatedSettings> | undefined,
): PartitionRecord {
  return {
    partition,
    generation,
    appliedIndex: 0,
    appliedTerm: 0,
    confState,
    membership: initialMembership(confState),
    meta: initialMeta(partition, settings),
    producerCount: 0,
    eventCount: 0,
    termCount: 0,
    endedCount: 0,
    firstCheckpoint: 1,
    lastCheckpoint: 0,
    lastDigest: 0n,
    nextRun: 1,
    changesFrom: 0,
    changesTo: 0,
    runs: [],
    retired: [],
  };
}

/** What stands in for a state that is set aside; none of the rows of its generation belong to it. */
export function standIn(shared: StoreShared, partition: PartitionId, generation: number): PartitionState {
  const record = emptyRecord(partition, generation, noConfiguration, undefined);
  const sealed = {
    record,
    names: new NameSet(0, 0),
    cursors: new NameSet(0, 0),
    ended: new Map(),
    producers: new Set<number>(),
    producerNames: new Map<string, number>(),
    subscriptions: new Map(),
    keyRuns: [],
    messageIdRuns: [],
  };
  return new PartitionState(shared, sealed, cloneMeta(record.meta), 0);
}

/** The highest generation that any row of the partition names: the record that said so may be what is damaged. */
export async function highestGeneration(kv: Kv, partition: PartitionId): Promise<number> {
  let highest = 1;
  for (const kind of generationKinds) {
    const range = generationsRange(kind, partition, 0, 0xffff_fffe);
    const iterator = kv.iterator({ ...range, reverse: true, limit: 1 });
    try {
      const [row] = await iterator.next(1);
      if (row !== undefined) highest = Math.max(highest, asBuffer(row[0]).readUInt32BE(3));
    } finally {
      await iterator.close();
    }
  }
  return highest;
}
