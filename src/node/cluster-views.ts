/** The cluster as this node knows it: nodes, and where the replicas of each partition are. */
import type { NodeId, PartitionId } from '../common/ids.js';
import type { Membership, ReplicaMember } from '../common/membership.js';
import { supportedApplyVersion } from '../conversation/command.js';
import type { Replica } from '../partition/replica.js';
import { hasCaughtUp } from './change-replicas.js';
import type { Hearsay } from './hearsay.js';
import type { NodeOptions } from './options.js';
import type { Places } from './peer-codec.js';
import { inLeadingOrder, placementOf } from './placement.js';
import type { ClusterView, PartitionDetail, PartitionView } from './types.js';

export interface ViewsHost {
  readonly options: NodeOptions;
  readonly hearsay: Hearsay;
  replica(partition: PartitionId): Replica | undefined;
  leaderOf(partition: PartitionId): NodeId | undefined;
  isConnected(node: NodeId): boolean;
  /** A leader's table of members; undefined: none was told. */
  told(partition: PartitionId): Places | undefined;
}

export class ClusterViews {
  readonly #host: ViewsHost;

  constructor(host: ViewsHost) {
    this.#host = host;
  }

  /** The newest that this build carries out. */
  get applyVersion(): number {
    return this.#host.options.applyVersion ?? supportedApplyVersion;
  }

  cluster(): ClusterView {
    const { options, hearsay } = this.#host;
    const { identity, partitionCount, replicationFactor, space } = options;
    const peers = new Map(options.transport.peers().map((peer) => [peer.nodeId, peer]));
    const self = identity.nodeId;
    return {
      nodes: options.nodes.map(({ nodeId, clientAddress, peerAddress }) => ({
        nodeId,
        clientAddress,
        peerAddress,
        connected: nodeId === self || (peers.get(nodeId)?.connected ?? false),
        storeId: nodeId === self ? identity.storeId : (peers.get(nodeId)?.storeId ?? ''),
        applyVersion: nodeId === self ? this.applyVersion : hearsay.applyVersionOf(nodeId),
        diskFull: nodeId === self ? space?.isLow === true : hearsay.hasFullDisk(nodeId),
      })),
      replicationFactor,
      partitionMapVersion: this.#partitionMapVersion(),
      partitions: Array.from({ length: partitionCount }, (_, partition) => this.#partitionView(partition)),
    };
  }

  partitionDetail(partition: PartitionId): PartitionDetail {
    const host = this.#host;
    const replica = host.replica(partition);
    const view = this.#partitionView(partition);
    const leads = replica?.isLeader === true;
    const conf = replica?.isInitialised ? replica.conf : undefined;
    const isOutgoing = (id: number): boolean => conf?.votersOutgoing.includes(id) ?? false;
    return {
      ...view,
      toldByLeader: leads,
      isJoint: (conf?.votersOutgoing.length ?? 0) > 0,
      changes: this.#membershipOf(partition)?.changes ?? 0,
      replicas: view.replicas.map(({ replicaId, nodeId, learner }) => {
        const progress = leads ? replica.progressOf(replicaId) : undefined;
        const isVoter = conf === undefined ? !learner : conf.voters.includes(replicaId);
        const isJoining =
          isVoter && conf !== undefined && conf.votersOutgoing.length > 0 && !isOutgoing(replicaId);
        const isSelf = replicaId === replica?.replicaId;
        return {
          replicaId,
          nodeId,
          role: isJoining ? 'incoming' : isVoter ? 'voter' : isOutgoing(replicaId) ? 'outgoing' : 'learner',
          connected: nodeId === host.options.identity.nodeId || host.isConnected(nodeId),
          matchIndex: isSelf ? view.commitIndex : (progress?.match ?? 0),
          caughtUp: leads && (isSelf || hasCaughtUp(replica, replicaId)),
        };
      }),
    };
  }

  placesOf(partition: PartitionId): Pick<Places, 'members' | 'learners'> {
    const { options } = this.#host;
    const { leaders } = options.settings;
    const inOrder = (members: readonly ReplicaMember[]): ReplicaMember[] =>
      inLeadingOrder(leaders, partition, members);
    const replica = this.#host.replica(partition);
    const told = this.#host.told(partition);
    if (told !== undefined && this.#membershipOf(partition) === told)
      return { members: inOrder(told.members), learners: told.learners };
    if (replica?.isInitialised) return { members: replica.members, learners: replica.conf.learners };
    const nodeIds = options.nodes.map(({ nodeId }) => nodeId);
    return { members: inOrder(placementOf(partition, nodeIds, options.replicationFactor)), learners: [] };
  }

  #partitionView(partition: PartitionId): PartitionView {
    const replica = this.#host.replica(partition);
    const { members, learners } = this.placesOf(partition);
    return {
      partition,
      leader: this.#host.leaderOf(partition),
      term: replica?.term ?? 0,
      commitIndex: replica?.commitIndex ?? 0,
      appliedIndex: replica?.appliedIndex ?? 0,
      applyVersion: replica?.store.meta.settings.applyVersion ?? 0,
      replicas: members.map(({ replicaId, nodeId }) => ({
        replicaId,
        nodeId,
        learner: learners.includes(replicaId),
      })),
    };
  }

  /** The newest table that this node knows: its own replica's, a leader's; undefined: as the cluster was made. */
  #membershipOf(partition: PartitionId): Membership | undefined {
    const own = this.#host.replica(partition)?.store.membership;
    const told = this.#host.told(partition);
    return told !== undefined && told.changes > (own?.changes ?? -1) ? told : own;
  }

  /** Rises with every change that this node hears of. */
  #partitionMapVersion(): number {
    let version = 1;
    for (let partition = 0; partition < this.#host.options.partitionCount; partition++)
      version += this.#membershipOf(partition)?.changes ?? 0;
    return version;
  }
}
