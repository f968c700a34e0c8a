/**
 * Do a replica's state and its log belong together? Asked at every opening, by a node
 * and by `hansard repair`.
 */
import type { Index, PartitionId } from '../common/ids.js';
import type { PartitionStore } from '../store/types.js';
import type { GroupLog } from '../wal/types.js';

/**
 * A snapshot was decided, and the log did not follow before the process ended:
 * what it holds is not what the state goes on from (design rule 8). Only right
 * after an install: a checkpoint seals nothing that the log does not hold.
 */
export function isInstallAheadOfLog(
  log: Pick<GroupLog, 'firstIndex' | 'term'>,
  store: Pick<PartitionStore, 'appliedIndex' | 'appliedTerm' | 'installedIndex'>,
): boolean {
  const { appliedIndex, appliedTerm, installedIndex } = store;
  if (installedIndex === 0 || appliedIndex !== installedIndex) return false;
  // A log that begins behind the state is one that lost what lay between.
  if (log.firstIndex() > appliedIndex + 1) return false;
  return log.term(appliedIndex) !== appliedTerm;
}

/**
 * Why the state can't go on from what is in the log (design rule 7); undefined: they meet. A replica
 * without a configuration takes no entry before a snapshot has brought one: where its log has entries the database has
 * lost that snapshot (or what the partition was made with), and the log alone, from its first entry on, would apply
 * them for ever without ever voting or serving.
 */
export function gapBeforeLog(
  log: Pick<GroupLog, 'firstIndex' | 'lastIndex'>,
  store: Pick<PartitionStore, 'appliedIndex' | 'confState'>,
): string | undefined {
  if (store.appliedIndex + 1 < log.firstIndex())
    return `the store holds up to ${store.appliedIndex}, the log begins at ${log.firstIndex()}`;
  if (store.confState.voters.length === 0 && log.lastIndex() > 0)
    return `the store has no configuration, the log has entries up to ${log.lastIndex()}`;
  return undefined;
}

/** Of a replica whose log was never written. */
export const emptyLog: Pick<GroupLog, 'firstIndex' | 'lastIndex' | 'term'> = {
  firstIndex: () => 1,
  lastIndex: () => 0,
  term: (index) => (index === 0 ? 0 : 'unavailable'),
};

/** Why the log can't be the one that the state came from; undefined: it can. */
export function lostEnd(
  partition: PartitionId,
  log: Pick<GroupLog, 'firstIndex' | 'lastIndex' | 'term'>,
  { appliedIndex, appliedTerm }: { appliedIndex: Index; appliedTerm: number },
): string | undefined {
  if (appliedIndex + 1 < log.firstIndex()) return undefined;
  if (appliedIndex > log.lastIndex())
    return `partition ${partition}: the store holds up to ${appliedIndex}, the log ends at ${log.lastIndex()}`;
  const term = log.term(appliedIndex);
  if (term === appliedTerm) return undefined;
  return `partition ${partition}: the store holds entry ${appliedIndex} of term ${appliedTerm}, the log says ${term}`;
}
