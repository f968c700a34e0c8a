/**
 * Deleted channels whose time is up go with the next entry; where none comes by
 * itself, one that does nothing else is proposed.
 */
import { purgeTimeUs } from '../conversation/apply-trash.js';
import { encodeNoop } from '../conversation/command.js';
import type { Replica } from '../partition/replica.js';

/** As a leader, with `deadlineMs` for the entry. */
export function emptyTrash(replicas: readonly Replica[], deadlineMs: number): void {
  for (const replica of replicas) {
    const oldest = replica.isLeader ? replica.store.meta.trash?.[0] : undefined;
    if (oldest === undefined || purgeTimeUs(oldest.deletedTimeUs) > replica.commitNowUs()) continue;
    replica.submit({
      command: encodeNoop(),
      deadlineMs,
      producerId: 0,
      firstCounter: 0,
      count: 0,
      ended: false,
      // Whatever becomes of it, it is looked at again.
      applied: () => {},
      failed: () => {},
    });
  }
}
