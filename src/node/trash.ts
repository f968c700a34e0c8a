/**
 * Deleted channels whose time is up go with the next entry; where none comes by
 * itself, one that does nothing else is proposed.
 */
import { purgeTimeUs } from '../conversation/apply-trash.js';
import { emptyProposal } from '../partition/proposals.js';
import type { Replica } from '../partition/replica.js';

/** As a leader, with `deadlineMs` for the entry. */
export function emptyTrash(replicas: readonly Replica[], deadlineMs: number): void {
  for (const replica of replicas) {
    const oldest = replica.isLeader ? replica.store.meta.trash?.[0] : undefined;
    if (oldest === undefined || purgeTimeUs(oldest.deletedTimeUs) > replica.commitNowUs()) continue;
    // Whatever becomes of it, it is looked at again.
    const nothing = (): void => {};
    replica.submit(emptyProposal(deadlineMs, nothing, nothing));
  }
}
