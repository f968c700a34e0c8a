/** Responses about nodes, partitions and their replicas, from bytes. */
import { readTimestamp } from './content-decode.js';
import { readPacked, type Writable } from './response-parts.js';
import type {
  ChangedReplicas,
  ClusterInfo,
  MemberRole,
  NodeInfo,
  PartitionDetail,
  PartitionInfo,
  RefusedPartitionInfo,
  ReplicaFaultInfo,
  UpgradedCluster,
} from './types.js';
import { ProtoReader, WireError } from './wire-reader.js';

export function readClusterResponse(bytes: Uint8Array): ClusterInfo {
  const r = new ProtoReader(bytes);
  const nodes: NodeInfo[] = [];
  const pools: ClusterInfo['pools'][number][] = [];
  const partitions: PartitionInfo[] = [];
  const faults: ReplicaFaultInfo[] = [];
  const refused: RefusedPartitionInfo[] = [];
  const cluster: Writable<ClusterInfo> = {
    clusterId: '',
    incarnation: 0,
    answeredByNodeId: 0,
    version: '',
    nodes,
    pools,
    partitionMapVersion: 0,
    partitions,
    faults,
    refused,
  };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) cluster.clusterId = r.string();
    else if (tag === 16) cluster.incarnation = r.uint();
    else if (tag === 24) cluster.answeredByNodeId = r.uint();
    else if (tag === 34) cluster.version = r.string();
    else if (tag === 42) nodes.push(r.message(readNode));
    else if (tag === 50) pools.push(r.message(readPool));
    else if (tag === 56) cluster.partitionMapVersion = r.uint();
    else if (tag === 66) partitions.push(r.message(readPartition));
    else if (tag === 74) faults.push(r.message(readFault));
    else if (tag === 82) refused.push(r.message(readRefused));
    else r.skip();
  }
  return cluster;
}

const faultKinds = ['unspecified', 'state-damaged', 'log-damaged', 'term-or-vote-lost'] as const;

function readFault(r: ProtoReader): ReplicaFaultInfo {
  const fault: Writable<ReplicaFaultInfo> = {
    partition: 0,
    nodeId: 0,
    kind: 'unspecified',
    sinceTimeUs: 0,
    reason: '',
  };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) fault.partition = r.uint();
    else if (tag === 16) fault.nodeId = r.uint();
    else if (tag === 24) fault.kind = faultKinds[r.uint()] ?? 'unspecified';
    else if (tag === 34) fault.sinceTimeUs = r.message(readTimestamp);
    else if (tag === 42) fault.reason = r.string();
    else r.skip();
  }
  return fault;
}

function readRefused(r: ProtoReader): RefusedPartitionInfo {
  const damagedNodeIds: number[] = [];
  const channels: RefusedPartitionInfo['channels'][number][] = [];
  const refused = { partition: 0, damagedNodeIds, channels, moreChannels: false, reason: '' };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) refused.partition = r.uint();
    else if (tag === 16) damagedNodeIds.push(r.uint());
    else if (tag === 18) readPacked(r, damagedNodeIds);
    else if (tag === 26) channels.push(r.message(readKnownChannel));
    else if (tag === 32) refused.moreChannels = r.uint() !== 0;
    else if (tag === 42) refused.reason = r.string();
    else r.skip();
  }
  return refused;
}

function readKnownChannel(r: ProtoReader): RefusedPartitionInfo['channels'][number] {
  const known = { tenant: '', channel: '', knownSeq: 0 };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) known.tenant = r.string();
    else if (tag === 18) known.channel = r.string();
    else if (tag === 24) known.knownSeq = r.uint();
    else r.skip();
  }
  return known;
}

const nodeStates = ['unspecified', 'connected', 'unreachable'] as const;

function readNode(r: ProtoReader): NodeInfo {
  const node: Writable<NodeInfo> = {
    nodeId: 0,
    clientAddress: '',
    peerAddress: '',
    state: 'unspecified',
    storeId: '',
    applyVersion: 0,
    diskFull: false,
  };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) node.nodeId = r.uint();
    else if (tag === 18) node.clientAddress = r.string();
    else if (tag === 26) node.peerAddress = r.string();
    else if (tag === 32) node.state = nodeStates[r.uint()] ?? 'unspecified';
    else if (tag === 42) node.storeId = r.string();
    else if (tag === 48) node.applyVersion = r.uint();
    else if (tag === 56) node.diskFull = r.uint() !== 0;
    else r.skip();
  }
  return node;
}

function readPool(r: ProtoReader): ClusterInfo['pools'][number] {
  const pool = { name: '', partitionCount: 0, replicationFactor: 0 };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) pool.name = r.string();
    else if (tag === 16) pool.partitionCount = r.uint();
    else if (tag === 24) pool.replicationFactor = r.uint();
    else r.skip();
  }
  return pool;
}

function readPartition(r: ProtoReader): PartitionInfo {
  const replicas: PartitionInfo['replicas'][number][] = [];
  const partition = {
    pool: '',
    partition: 0,
    leaderNodeId: 0,
    term: 0,
    replicas,
    commitIndex: 0,
    appliedIndex: 0,
    applyVersion: 0,
  };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) partition.pool = r.string();
    else if (tag === 16) partition.partition = r.uint();
    else if (tag === 24) partition.leaderNodeId = r.uint();
    else if (tag === 32) partition.term = r.uint();
    else if (tag === 42) replicas.push(r.message(readReplica));
    else if (tag === 48) partition.commitIndex = r.uint();
    else if (tag === 56) partition.appliedIndex = r.uint();
    else if (tag === 64) partition.applyVersion = r.uint();
    else r.skip();
  }
  return partition;
}

export function readUpgradeResponse(bytes: Uint8Array): UpgradedCluster {
  const r = new ProtoReader(bytes);
  const partitions: UpgradedCluster['partitions'][number][] = [];
  let applyVersion = 0;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) applyVersion = r.uint();
    else if (tag === 18) partitions.push(r.message(readUpgraded));
    else r.skip();
  }
  return { applyVersion, partitions };
}

function readUpgraded(r: ProtoReader): UpgradedCluster['partitions'][number] {
  const upgraded = { partition: 0, fromVersion: 0 };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) upgraded.partition = r.uint();
    else if (tag === 16) upgraded.fromVersion = r.uint();
    else r.skip();
  }
  return upgraded;
}

const memberRoles: readonly MemberRole[] = ['unspecified', 'voter', 'learner', 'incoming', 'outgoing'];

export function readPartitionResponse(bytes: Uint8Array): PartitionDetail {
  const r = new ProtoReader(bytes);
  const members: PartitionDetail['members'][number][] = [];
  let partition: PartitionInfo | undefined;
  const rest = { answeredByNodeId: 0, toldByLeader: false, joint: false, changes: 0 };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) partition = r.message(readPartition);
    else if (tag === 18) members.push(r.message(readMember));
    else if (tag === 24) rest.answeredByNodeId = r.uint();
    else if (tag === 32) rest.toldByLeader = r.bool();
    else if (tag === 40) rest.joint = r.bool();
    else if (tag === 48) rest.changes = r.uint();
    else r.skip();
  }
  if (partition === undefined) throw new WireError('an answer without a partition');
  return { ...partition, members, ...rest };
}

function readMember(r: ProtoReader): PartitionDetail['members'][number] {
  const member = {
    replicaId: 0,
    nodeId: 0,
    role: 'unspecified' as MemberRole,
    connected: false,
    matchIndex: 0,
    caughtUp: false,
  };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) member.replicaId = r.uint();
    else if (tag === 16) member.nodeId = r.uint();
    else if (tag === 24) member.role = memberRoles[r.uint()] ?? 'unspecified';
    else if (tag === 32) member.connected = r.bool();
    else if (tag === 40) member.matchIndex = r.uint();
    else if (tag === 48) member.caughtUp = r.bool();
    else r.skip();
  }
  return member;
}

export function readChangeReplicasResponse(bytes: Uint8Array): ChangedReplicas {
  const r = new ProtoReader(bytes);
  const changed = { done: false, waitsForReplicaId: 0 };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) changed.done = r.bool();
    else if (tag === 16) changed.waitsForReplicaId = r.uint();
    else r.skip();
  }
  return changed;
}

function readReplica(r: ProtoReader): PartitionInfo['replicas'][number] {
  const replica = { replicaId: 0, nodeId: 0, learner: false };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) replica.replicaId = r.uint();
    else if (tag === 16) replica.nodeId = r.uint();
    else if (tag === 24) replica.learner = r.bool();
    else r.skip();
  }
  return replica;
}
