/**
 * What a plan of a repair rests on, of one folder: who compares it with the folder's again knows whether the
 * plan still holds. It is taken before anything is replayed, and the same however often the folder is looked at.
 */
import { xxh64 } from '../../common/hash.js';
import type { NodeId } from '../../common/ids.js';
import type { Logger } from '../../common/logger.js';
import { heldBy, lastPlaceOf, removedFrom } from './find.js';
import { closeFolders, type HeldDatabases, type OpenFolder, openFolders } from './open-folder.js';

/** Of replicas, logs, votes, faults and the incarnation. Damaged rows of a state are compared when they are given up. */
export function standingOf(folder: OpenFolder): string {
  const { directory, store, ledger } = folder;
  const held = heldBy(folder).map(({ partition, replicaId, log }) => {
    const { sealedIndex, sealedTerm } = store.partition(partition);
    const { term, vote, commit } = log?.hardState ?? { term: 0, vote: 0, commit: 0 };
    const state = [store.generationOf(partition), sealedIndex, sealedTerm];
    return [partition, replicaId, state, log?.replicaId, lastPlaceOf(log), term, vote, commit];
  });
  const faults = ledger.faults.map(({ partition, replicaId, kind, floor }) => [
    partition,
    replicaId,
    kind,
    floor,
  ]);
  const { incarnation } = directory.identity;
  const all = [incarnation, held, removedFrom(folder), faults.map((one) => JSON.stringify(one)).sort()];
  return xxh64(Buffer.from(JSON.stringify(all))).toString(16);
}

export async function standingsOf(
  dirs: readonly string[],
  logger: Logger,
  held?: HeldDatabases,
): Promise<ReadonlyMap<NodeId, string>> {
  const folders = await openFolders(dirs, () => 'look', logger, held);
  try {
    return new Map(folders.map((folder) => [folder.directory.identity.nodeId, standingOf(folder)]));
  } finally {
    await closeFolders(folders);
  }
}
