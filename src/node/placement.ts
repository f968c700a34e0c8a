/** Which nodes hold a partition, by hash, and in which order they should lead it: the same everywhere. */
import { ByteWriter } from '../common/bytes.js';
import { xxh32 } from '../common/hash.js';
import type { NodeId, PartitionId } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { ReplicaMember } from '../common/membership.js';

/**
 * The members of a partition by rank (highest random weight). A first replica's id is its node's; later ones get
 * new ids.
 */
export function placementOf(
  partition: PartitionId,
  nodes: readonly NodeId[],
  replicationFactor: number,
): ReplicaMember[] {
  const members = nodes.map((nodeId) => ({ replicaId: nodeId as number, nodeId }));
  return rankMembers(partition, members).slice(0, replicationFactor);
}

/** `leaders` of a node's settings. */
export type Leaders = 'together' | 'spread';

/** In the order in which they should lead the partition (leader-balance.ts says why). */
export function inLeadingOrder(
  leaders: Leaders,
  partition: PartitionId,
  members: readonly ReplicaMember[],
): ReplicaMember[] {
  if (leaders === 'spread') return rankMembers(partition, members);
  return [...members].sort((a, b) => a.nodeId - b.nodeId || a.replicaId - b.replicaId);
}

/** By weight. */
function rankMembers(partition: PartitionId, members: readonly ReplicaMember[]): ReplicaMember[] {
  const weighted = members.map((member) => ({ member, weight: weightOf(partition, member.nodeId) }));
  weighted.sort((a, b) => b.weight - a.weight || a.member.nodeId - b.member.nodeId);
  return weighted.map(({ member }) => member);
}

function weightOf(partition: PartitionId, nodeId: NodeId): number {
  return xxh32(new ByteWriter(16).u32(partition).u32(nodeId).finish());
}

/** What a partition begins with. */
export function initialConfState(voters: number[]): ConfState {
  return {
    voters: voters.sort((a, b) => a - b),
    votersOutgoing: [],
    learners: [],
    learnersNext: [],
    autoLeave: false,
  };
}
