/**
 * Folders of a stopped cluster that were put back from a copy. What was acknowledged
 * after the copy is gone, and clients must hear of it: a higher incarnation makes
 * their tokens fail, and keeps nodes of before and after from talking to each other.
 */
import { HansardError } from '../common/errors.js';
import type { NodeId } from '../common/ids.js';
import { levelKvFactory } from '../store/level-kv.js';
import { type NodeDirectory, openDirectory, writeIncarnation } from './directory.js';

export interface RestoredFolder {
  readonly dir: string;
  readonly nodeId: NodeId;
  readonly before: number;
}

export interface Restored {
  readonly clusterId: string;
  readonly incarnation: number;
  readonly folders: readonly RestoredFolder[];
  /** Of the cluster, and not among the folders. */
  readonly missing: readonly NodeId[];
}

/**
 * Raises the incarnation in all these folders to one number: that which is given, else
 * the next one. Where not all of the cluster's folders are here the number must be given, the
 * same on each machine. Refuses where all have it already. Changes nothing where it refuses.
 */
export async function raiseIncarnation(
  dirs: readonly string[],
  given: number | undefined,
): Promise<Restored> {
  const opened: NodeDirectory[] = [];
  for (const dir of dirs) opened.push(await openDirectory(dir));
  const [first] = opened;
  if (first === undefined) throw new HansardError('INVALID_SETTINGS', 'no folder is named');
  const { clusterId, members } = first.identity;
  for (const [i, { dir, identity }] of opened.entries()) {
    if (identity.clusterId !== clusterId) {
      const what = `${dir} is of cluster ${identity.clusterId}, ${first.dir} of ${clusterId}`;
      throw new HansardError('INVALID_SETTINGS', what, { directory: dir });
    }
    const twin = opened.slice(i + 1).find((each) => each.identity.nodeId === identity.nodeId);
    if (twin !== undefined) {
      const what = `${dir} and ${twin.dir} are both of node ${identity.nodeId}`;
      throw new HansardError('INVALID_SETTINGS', what, { directory: dir });
    }
  }
  const here = new Set(opened.map(({ identity }) => identity.nodeId));
  const missing = members.map(({ nodeId }) => nodeId).filter((nodeId) => !here.has(nodeId));
  const highest = Math.max(...opened.map(({ identity }) => identity.incarnation));
  if (given === undefined && missing.length > 0) {
    throw new HansardError(
      'INVALID_SETTINGS',
      `the folders of nodes ${missing.join(', ')} are not here: give all nodes the same number, with --incarnation ${highest + 1} or higher`,
      { incarnation: highest },
    );
  }
  const incarnation = given ?? highest + 1;
  if (incarnation < highest) {
    throw new HansardError(
      'INVALID_SETTINGS',
      `a folder has incarnation ${highest} already: it never goes back`,
      {
        incarnation: highest,
      },
    );
  }
  if (opened.every(({ identity }) => identity.incarnation === incarnation)) {
    // Tokens of before would go on being taken: it must not look as if they failed from now on.
    throw new HansardError(
      'INVALID_SETTINGS',
      `${opened.length === 1 ? 'the folder has' : 'all folders have'} incarnation ${incarnation} already, nothing was changed: if an earlier run for this very copy raised it, start the nodes; else give all nodes --incarnation ${incarnation + 1} or higher`,
      { incarnation },
    );
  }
  for (const { dbPath } of opened) await refuseInUse(dbPath);
  for (const { dir, identity } of opened) {
    // The same command again goes on where it was.
    if (identity.incarnation !== incarnation) await writeIncarnation(dir, incarnation);
  }
  const folders = opened.map(({ dir, identity }) => ({
    dir,
    nodeId: identity.nodeId,
    before: identity.incarnation,
  }));
  return { clusterId, incarnation, folders, missing };
}

/** LevelDB's lock is what a running node holds. */
async function refuseInUse(dbPath: string): Promise<void> {
  try {
    await (await levelKvFactory().open(dbPath, { create: false })).close();
  } catch (error) {
    // Damage is for the node's start.
    if (error instanceof HansardError && error.reason !== 'DIRECTORY_IN_USE') return;
    throw error;
  }
}
