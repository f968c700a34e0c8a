/** hansard.v1.ClusterService: what this node knows, answered at once. */
import type { Handler } from './calls.js';
import { changeReplicas, defaultPool, faultMessage, getPartition, partitionMessage } from './partition.js';
import type { Services } from './services.js';
import { upgradeCluster } from './upgrade.js';

const NodeState = { connected: 1, unreachable: 2 } as const;

export function clusterMethods(services: Services): Map<string, Handler> {
  const { node, codecs } = services;
  const decode = codecs.decoder('hansard.v1.GetClusterRequest');
  const encode = codecs.encoder('hansard.v1.GetClusterResponse');
  const getCluster: Handler = (_context, request) => {
    decode(request);
    const { clusterId, incarnation, nodeId, version } = node.identity;
    const view = node.cluster();
    return encode({
      cluster_id: clusterId,
      incarnation,
      answered_by_node_id: nodeId,
      version,
      nodes: view.nodes.map((each) => ({
        node_id: each.nodeId,
        client_address: each.clientAddress,
        peer_address: each.peerAddress,
        state: each.connected ? NodeState.connected : NodeState.unreachable,
        store_id: each.storeId,
        apply_version: each.applyVersion,
        disk_full: each.diskFull,
      })),
      pools: [
        {
          name: defaultPool,
          partition_count: node.partitionCount,
          replication_factor: view.replicationFactor,
        },
      ],
      partition_map_version: view.partitionMapVersion,
      partitions: view.partitions.map(partitionMessage),
      faults: node.faults().map(faultMessage),
      refused: node.refusals().map(({ partition, damagedNodes, channels, moreChannels, text }) => ({
        partition,
        damaged_node_ids: damagedNodes,
        channels: channels.map(({ tenant, channel, knownSeq }) => ({ tenant, channel, known_seq: knownSeq })),
        more_channels: moreChannels,
        reason: text,
      })),
    });
  };
  return new Map([
    ['hansard.v1.ClusterService/GetCluster', getCluster],
    ['hansard.v1.ClusterService/UpgradeCluster', upgradeCluster(services)],
    ['hansard.v1.ClusterService/GetPartition', getPartition(services)],
    ['hansard.v1.ClusterService/ChangeReplicas', changeReplicas(services)],
  ]);
}
