/**
 * The incarnation that a repair raises its cluster to. Machines that repair a folder each
 * must all have decided the same: else one would go on with what another gave up. So the
 * number depends on what was decided, and nodes of other decisions never talk to each other.
 */
import { xxh64 } from '../../common/hash.js';
import type { NodeId, PartitionId } from '../../common/ids.js';
import type { FoundNode, FoundReplica } from './find.js';
import type { Refused } from './judge.js';

/** Below it: what was decided, one in a million for two to be alike; above: repairs, more than 2^32 fit into a safe integer. */
const spread = 2 ** 20;

export type TrustedNode = (partition: PartitionId) => NodeId | undefined;

/** Of each partition that is refused, or was until an interrupted repair was done with it: both give the same. */
export function decisions(
  refused: readonly Refused[],
  nodes: readonly FoundNode[],
  trusted: TrustedNode,
): string[] {
  const lines: string[] = [];
  const all = nodes.flatMap(({ replicas }) => replicas);
  for (const partition of new Set(all.map((one) => one.partition))) {
    const isRefused = refused.some((one) => one.partition === partition);
    const replica = all.find((one) => one.partition === partition && one.nodeId === trusted(partition));
    if (replica !== undefined && (isRefused || isAlone(replica)))
      lines.push(`${partition}=${replica.nodeId}/${replica.replicaId}`);
    else if (isRefused) lines.push(`${partition}=`);
  }
  return lines.sort();
}

/** As one that was trusted is, and one that has been so ever since. */
function isAlone({ confState: { voters, votersOutgoing }, replicaId }: FoundReplica): boolean {
  return voters.length === 1 && voters[0] === replicaId && votersOutgoing.length === 0;
}

export function incarnationAfter(nodes: readonly FoundNode[], decided: readonly string[]): number {
  const found = nodes.map(({ incarnation }) => incarnation);
  const highest = Math.max(...found);
  const part = Number(xxh64(Buffer.from(decided.join('\n'))) % BigInt(spread));
  // Raised by this very repair, which was interrupted: other folders, or what is told of them, are of before.
  const isBegun = highest >= spread && highest % spread === part && found.some((one) => one < highest);
  return isBegun ? highest : (Math.floor(highest / spread) + 1) * spread + part;
}
