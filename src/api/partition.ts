/** ClusterService.GetPartition and ChangeReplicas: a partition's members, by its leader. */
import { faultKinds } from '../common/faults.js';
import type { PartitionId } from '../common/ids.js';
import type { ReplicaChange } from '../node/change-replicas.js';
import type { NodeFault, PartitionView, ReplicaRole } from '../node/types.js';
import type { Handler } from './calls.js';
import { invalidArgument } from './names.js';
import { toNumber, toTimestamp } from './requests.js';
import type { Services } from './services.js';

/** Today's only pool (design, "Words"). */
export const defaultPool = 'default';

const roleNumbers: Readonly<Record<ReplicaRole, number>> = {
  voter: 1,
  learner: 2,
  incoming: 3,
  outgoing: 4,
};

export function getPartition({ node, codecs, router }: Services): Handler {
  const decode = codecs.decoder<{ partition: number }>('hansard.v1.GetPartitionRequest');
  const encode = codecs.encoder('hansard.v1.GetPartitionResponse');
  return (context, request) => {
    const { partition } = decode(request);
    requirePartition(partition, node.partitionCount);
    const local = async (): Promise<Uint8Array> => {
      const detail = node.partitionDetail(partition);
      const learners = detail.replicas.map(({ replicaId, nodeId, role }) => ({
        replicaId,
        nodeId,
        learner: role === 'learner',
      }));
      return encode({
        partition: partitionMessage({ ...detail, replicas: learners }),
        replicas: detail.replicas.map((each) => ({
          replica_id: each.replicaId,
          node_id: each.nodeId,
          role: roleNumbers[each.role],
          connected: each.connected,
          match_index: each.matchIndex,
          caught_up: each.caughtUp,
        })),
        answered_by_node_id: node.identity.nodeId,
        told_by_leader: detail.toldByLeader,
        joint: detail.isJoint,
        changes: detail.changes,
        faults: node
          .faults()
          .filter((fault) => fault.partition === partition)
          .map(faultMessage),
      });
    };
    // Whoever looks at a partition without a leader wants to know what there is.
    if (node.leaderOf(partition) === undefined) return local();
    return router.atLeader(context, partition, request, local);
  };
}

interface ChangeRequest {
  partition: number;
  changes: { kind: number; replica_id: string; node_id: number }[];
  force: boolean;
}

export function changeReplicas({ node, codecs, router }: Services): Handler {
  const decode = codecs.decoder<ChangeRequest>('hansard.v1.ChangeReplicasRequest');
  const encode = codecs.encoder('hansard.v1.ChangeReplicasResponse');
  return (context, request) => {
    const { partition, changes, force } = decode(request);
    requirePartition(partition, node.partitionCount);
    if (changes.length === 0) throw invalidArgument('changes', 'no change is named');
    const wanted = changes.map(changeOf);
    const { deadlineMs } = context;
    return router.atLeader(context, partition, request, async () => {
      const { done, waitsFor } = await node.changeReplicas(partition, wanted, { deadlineMs, force });
      return encode({ done, waits_for_replica_id: waitsFor });
    });
  };
}

function changeOf(change: ChangeRequest['changes'][number], place: number): ReplicaChange {
  const field = `changes[${place}]`;
  const replicaId = toNumber(change.replica_id);
  const { kind, node_id: nodeId } = change;
  const needsReplica = kind >= 2;
  const needsNode = kind === 1 || kind === 5;
  if (needsReplica !== replicaId > 0)
    throw invalidArgument(
      `${field}.replica_id`,
      needsReplica ? 'is missing' : 'does not belong to this kind',
    );
  if (needsNode !== nodeId > 0)
    throw invalidArgument(`${field}.node_id`, needsNode ? 'is missing' : 'does not belong to this kind');
  switch (kind) {
    case 1:
      return { kind: 'addLearner', nodeId };
    case 2:
      return { kind: 'promote', replicaId };
    case 3:
      return { kind: 'demote', replicaId };
    case 4:
      return { kind: 'remove', replicaId };
    case 5:
      return { kind: 'replace', replicaId, nodeId };
    default:
      throw invalidArgument(`${field}.kind`, 'is missing, or not known here');
  }
}

function requirePartition(partition: PartitionId, count: number): void {
  if (partition >= count) throw invalidArgument('partition', `partitions are 0 to ${count - 1}`);
}

/** hansard.v1.ReplicaFault. */
export function faultMessage({ partition, nodeId, kind, sinceUs, why }: NodeFault): object {
  return {
    partition,
    node_id: nodeId,
    kind: faultKinds.indexOf(kind) + 1,
    since_time: toTimestamp(sinceUs),
    reason: why ?? '',
  };
}

/** hansard.v1.Partition. */
export function partitionMessage(view: PartitionView): object {
  return {
    pool: defaultPool,
    partition: view.partition,
    leader_node_id: view.leader ?? 0,
    term: view.term,
    replicas: view.replicas.map((replica) => ({
      replica_id: replica.replicaId,
      node_id: replica.nodeId,
      learner: replica.learner,
    })),
    commit_index: view.commitIndex,
    applied_index: view.appliedIndex,
    apply_version: view.applyVersion,
  };
}
