/** What a repair looks at: the folders, replica by replica, and what other machines told of theirs. */
import { readFile } from 'node:fs/promises';
import { HansardError } from '../../common/errors.js';
import { silentLogger } from '../../common/logger.js';
import {
  type FoundChannel,
  type FoundNode,
  type FoundReplica,
  findChannels,
  findReplicas,
  withStateRead,
} from '../../node/trust/find.js';
import { judge, type Loss, lossOf, type Refused } from '../../node/trust/judge.js';
import { closeFolders, type OpenFolder, openFolders } from '../../node/trust/open-folder.js';
import { standingOf } from '../../node/trust/standing.js';

/** Of one partition and node: nobody compares more of them by eye. */
const channelsMax = 10_000;
/** Of what `--json` says, for `--with`. */
export const format = 2;

/** A node as it was found, and what it has of the partitions that are refused. */
export interface Told extends FoundNode {
  /** standing.ts */
  readonly standing: string;
  readonly channels: Readonly<
    Record<string, { readonly all: readonly FoundChannel[]; readonly leftOut: boolean }>
  >;
}

export interface Option {
  readonly replica: FoundReplica;
  readonly loss: Loss;
}

export interface Case {
  readonly refused: Refused;
  readonly options: readonly Option[];
}

export async function look(dirs: readonly string[], others: readonly Told[]): Promise<Told[]> {
  const folders = await openFolders(dirs, () => 'look', silentLogger);
  try {
    const standings = folders.map(standingOf);
    const found: FoundNode[] = [];
    for (const folder of folders) found.push(await findReplicas(folder));
    await readCandidates(folders, found, others);
    const refused = refusedOf([...found, ...others]);
    const told: Told[] = [];
    for (const [i, node] of found.entries()) {
      const channels: Record<string, { all: FoundChannel[]; leftOut: boolean }> = {};
      for (const { partition, replicas } of refused) {
        const mine = replicas.find(({ nodeId }) => nodeId === node.nodeId);
        const store = folders[i]?.store;
        if (mine?.end === undefined || store === undefined) continue;
        const { channels: all, leftOut } = await findChannels(store.partition(partition), channelsMax);
        channels[partition] = { all, leftOut };
      }
      told.push({ ...node, channels, standing: standings[i] as string });
    }
    return told;
  } finally {
    await closeFolders(folders);
  }
}

/** Whoever may be trusted is read to the last row first. */
async function readCandidates(
  folders: readonly OpenFolder[],
  found: FoundNode[],
  others: readonly Told[],
): Promise<void> {
  for (const { partition, replicas } of refusedOf([...found, ...others])) {
    for (const [i, folder] of folders.entries()) {
      const node = found[i] as FoundNode;
      const mine = replicas.find(({ nodeId }) => nodeId === node.nodeId);
      if (mine === undefined) continue;
      const read = await withStateRead(folder, mine);
      found[i] = {
        ...node,
        replicas: node.replicas.map((one) => (one.partition === partition ? read : one)),
      };
    }
  }
}

export function refusedOf(nodes: readonly FoundNode[]): Refused[] {
  const replicas = nodes.flatMap((node) => node.replicas);
  const partitions = [...new Set(replicas.map(({ partition }) => partition))].sort((a, b) => a - b);
  return partitions.map((partition) => judge(partition, replicas)).filter((one) => one !== undefined);
}

export function caseOf(refused: Refused, nodes: readonly Told[]): Case {
  const told = nodes.map((node) => ({ nodeId: node.nodeId, ...node.channels[refused.partition] }));
  const channels = new Map(told.map(({ nodeId, all }) => [nodeId, all ?? []]));
  const cut = told.filter(({ leftOut }) => leftOut).map(({ nodeId }) => nodeId);
  const notCompared = `of nodes ${cut.join(', ')} only the first ${channelsMax} channels, by name, were compared`;
  const options = refused.candidates.map((replica) => {
    const { gone, ...known } = lossOf(replica, refused, channels);
    return { replica, loss: { ...known, gone: cut.length > 0 ? [...gone, notCompared] : gone } };
  });
  return { refused, options };
}

export async function readOthers(files: readonly string[]): Promise<Told[]> {
  const told: Told[] = [];
  for (const file of files) {
    const { format: found, found: nodes } = parse(await readFile(file, 'utf8').catch(() => ''));
    if (found !== format || !Array.isArray(nodes))
      throw wrong(`${file} is not what \`hansard repair --json\` of this version says`, 'with');
    told.push(...(nodes as Told[]));
  }
  return told;
}

function parse(text: string): { readonly format?: unknown; readonly found?: unknown } {
  try {
    return (JSON.parse(text) as object | null) ?? {};
  } catch (error) {
    if (error instanceof SyntaxError) return {};
    throw error;
  }
}

export function checkNodes(nodes: readonly FoundNode[]): void {
  for (const [i, { nodeId, clusterId, dir }] of nodes.entries()) {
    if (clusterId !== nodes[0]?.clusterId)
      throw wrong(`${dir} is of another cluster than ${nodes[0]?.dir}`, 'with');
    const twin = nodes.slice(i + 1).find((other) => other.nodeId === nodeId);
    if (twin !== undefined) throw wrong(`${dir} and ${twin.dir} are both of node ${nodeId}`, 'folder');
  }
}

export function wrong(what: string, setting: string): HansardError {
  return new HansardError('INVALID_SETTINGS', what, { setting });
}
