/** Which tenants a cluster has: there is no list of them, so the leaders' channels are gone through. */
import type { ClusterInfo } from '../client/index.js';
import { ReplicaClient } from '../client/replica.js';
import { HansardError } from '../common/errors.js';

const pageSize = 1_000;

/** By name. Rejects where a partition has no leader. */
export async function allTenants(cluster: ClusterInfo, timeoutMs: number): Promise<string[]> {
  const tenants = new Set<string>();
  const clients = new Map(cluster.nodes.map((node) => [node.nodeId, new ReplicaClient(node.clientAddress)]));
  try {
    for (const { partition, leaderNodeId } of cluster.partitions) {
      const client = clients.get(leaderNodeId);
      if (client === undefined)
        throw new HansardError(
          'NO_QUORUM',
          `partition ${partition} has no leader: not all channels are known`,
          {
            partition,
          },
        );
      for (let pageToken = ''; ; ) {
        const query = { minAppliedIndex: 0, tenant: '', prefix: '', pageSize, pageToken };
        const page = await client.channels(partition, query, timeoutMs);
        for (const { tenant, deleted } of page.channels) if (!deleted) tenants.add(tenant);
        if (page.nextPageToken === '') break;
        pageToken = page.nextPageToken;
      }
    }
  } finally {
    for (const client of clients.values()) client.close();
  }
  return [...tenants].sort();
}
