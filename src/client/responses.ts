/** Responses of the API from bytes. Field numbers: proto/hansard/v1. Throws WireError on what is none. */
import { readTimestamp } from './content-decode.js';
import { readEvent } from './event-decode.js';
import type {
  ChangedReplicas,
  ChannelInfo,
  ClusterInfo,
  Event,
  MemberRole,
  NodeInfo,
  Participant,
  PartitionDetail,
  PartitionInfo,
  RefusedPartitionInfo,
  ReplicaFaultInfo,
  ServedBy,
  UpgradedCluster,
} from './types.js';
import { ProtoReader, WireError } from './wire-reader.js';

export interface AppendResponse {
  seqs: number[];
  commitTimeUs: number;
  commitToken: Uint8Array;
  duplicate: boolean;
  channelUid: string;
}

export function readAppendResponse(bytes: Uint8Array): AppendResponse {
  const r = new ProtoReader(bytes);
  let firstSeq = 0;
  let count = 0;
  let commitTimeUs = 0;
  let commitToken = none;
  let duplicate = false;
  let channelUid = '';
  const seqs: number[] = [];
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) firstSeq = r.uint();
    else if (tag === 16) count = r.uint();
    else if (tag === 26) {
      const outer = r.enter();
      commitTimeUs = readTimestamp(r);
      r.leave(outer);
    } else if (tag === 34) commitToken = r.bytes();
    else if (tag === 40) duplicate = r.bool();
    else if (tag === 48) seqs.push(r.uint());
    else if (tag === 50) readPacked(r, seqs);
    else if (tag === 58) channelUid = r.name();
    else r.skip();
  }
  // `count` is bounded by what was sent; an older repeat has neither seq nor count.
  if (firstSeq > 0 && seqs.length === 0) {
    if (count > 100_000) throw new WireError(`answer for ${count} messages`);
    for (let i = 0; i < count; i++) seqs.push(firstSeq + i);
  }
  return { seqs, commitTimeUs, commitToken, duplicate, channelUid };
}

function readPacked(r: ProtoReader, into: number[]): void {
  const inner = new ProtoReader(r.view());
  while (!inner.atEnd) into.push(inner.uint());
}

export interface GetResponse {
  event: Event | undefined;
  servedBy: ServedBy;
}

export function readGetResponse(bytes: Uint8Array): GetResponse {
  const r = ProtoReader.ofCopy(bytes);
  let event: Event | undefined;
  let servedBy = nobody;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) event = r.message(readEvent);
    else if (tag === 18) servedBy = r.message(readServedBy);
    else r.skip();
  }
  return { event, servedBy };
}

export interface BatchGetResponse {
  /** In the order of the request; undefined: no such channel or message. */
  readonly events: (Event | undefined)[];
  /** Places for which the answer had no room. */
  readonly deferred: number[];
  servedBy: ServedBy;
}

const absenceDeferred = 3;

export function readBatchGetResponse(bytes: Uint8Array): BatchGetResponse {
  const r = ProtoReader.ofCopy(bytes);
  const response: BatchGetResponse = { events: [], deferred: [], servedBy: nobody };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 18) response.servedBy = r.message(readServedBy);
    if (tag === 18) continue;
    if (tag !== 10) {
      r.skip();
      continue;
    }
    const { event, absence } = r.message(readBatchGetResult);
    if (absence === absenceDeferred) response.deferred.push(response.events.length);
    response.events.push(event);
  }
  return response;
}

function readBatchGetResult(r: ProtoReader): { event: Event | undefined; absence: number } {
  const result: { event: Event | undefined; absence: number } = { event: undefined, absence: 0 };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) result.event = r.message(readEvent);
    else if (tag === 16) result.absence = r.uint();
    else r.skip();
  }
  return result;
}

export interface DeletedChannel {
  /** The head that is kept for the name. */
  readonly headSeq: number;
  readonly commitToken: Uint8Array;
  /** How many events were deleted, or would be; 0 in the answer to a repeat. */
  readonly eventCount: number;
  readonly messageCount: number;
  /** Until then `undelete()` brings it back, µs since 1970; 0: nothing does. */
  readonly purgeTimeUs: number;
}

export function readDeleteChannelResponse(bytes: Uint8Array): DeletedChannel {
  const r = new ProtoReader(bytes);
  const response: Writable<DeletedChannel> = {
    headSeq: 0,
    commitToken: none,
    eventCount: 0,
    messageCount: 0,
    purgeTimeUs: 0,
  };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) response.headSeq = r.uint();
    else if (tag === 18) response.commitToken = r.bytes();
    else if (tag === 24) response.eventCount = r.uint();
    else if (tag === 32) response.messageCount = r.uint();
    else if (tag === 42) response.purgeTimeUs = r.message(readTimestamp);
    else r.skip();
  }
  return response;
}

export function readAppendBatchResponse(bytes: Uint8Array): {
  results: AppendResponse[];
  commitToken: Uint8Array;
} {
  const r = new ProtoReader(bytes);
  const response = { results: [] as AppendResponse[], commitToken: none };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) response.results.push(readAppendResponse(r.view()));
    else if (tag === 18) response.commitToken = r.bytes();
    else r.skip();
  }
  return response;
}

export interface ListResponse {
  events: Event[];
  nextPageToken: string;
  headSeq: number;
  servedBy: ServedBy;
  channelUid: string;
}

export function readListResponse(bytes: Uint8Array): ListResponse {
  const r = ProtoReader.ofCopy(bytes);
  const response: ListResponse = {
    events: [],
    nextPageToken: '',
    headSeq: 0,
    servedBy: nobody,
    channelUid: '',
  };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) response.events.push(r.message(readEvent));
    else if (tag === 18) response.nextPageToken = r.string();
    else if (tag === 24) response.headSeq = r.uint();
    else if (tag === 34) response.servedBy = r.message(readServedBy);
    else if (tag === 42) response.channelUid = r.string();
    else r.skip();
  }
  return response;
}

export interface TailResponse {
  resumeToken: string;
  /** Undefined: a heartbeat, or a kind that this version does not know. */
  update:
    | { kind: 'events'; events: Event[]; channelUid: string }
    | { kind: 'caught-up'; headSeq: number; channelUid: string; servedBy: ServedBy }
    | undefined;
}

export function readTailResponse(bytes: Uint8Array): TailResponse {
  const r = ProtoReader.ofCopy(bytes);
  const response: TailResponse = { resumeToken: '', update: undefined };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) response.resumeToken = r.string();
    else if (tag === 18) response.update = r.message(readTailEvents);
    else if (tag === 34) response.update = r.message(readCaughtUp);
    else r.skip();
  }
  return response;
}

function readTailEvents(r: ProtoReader): TailResponse['update'] {
  const events: Event[] = [];
  let channelUid = '';
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) events.push(r.message(readEvent));
    else if (tag === 18) channelUid = r.string();
    else r.skip();
  }
  return { kind: 'events', events, channelUid };
}

/** Events of one channel, ascending. */
export interface SubscribedEvents {
  readonly channel: string;
  /** Another one than before: the channel was deleted and created anew since. */
  readonly channelUid: string;
  /** Checksums verified. */
  readonly events: readonly Event[];
}

export interface SubscribeResponse {
  resumeToken: string;
  /** Undefined: a heartbeat, or a kind that this version does not know. */
  update:
    | { kind: 'events'; channels: SubscribedEvents[] }
    | { kind: 'caught-up'; nodeId: number }
    | undefined;
}

export function readSubscribeResponse(bytes: Uint8Array): SubscribeResponse {
  const r = ProtoReader.ofCopy(bytes);
  const response: SubscribeResponse = { resumeToken: '', update: undefined };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) response.resumeToken = r.string();
    else if (tag === 18) response.update = { kind: 'events', channels: r.message(readSubscribedEvents) };
    else if (tag === 34) response.update = { kind: 'caught-up', nodeId: r.message(readNodeId) };
    else r.skip();
  }
  return response;
}

function readSubscribedEvents(r: ProtoReader): SubscribedEvents[] {
  const channels: SubscribedEvents[] = [];
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) channels.push(r.message(readChannelEvents));
    else r.skip();
  }
  return channels;
}

function readChannelEvents(r: ProtoReader): SubscribedEvents {
  const events: Event[] = [];
  let channel = '';
  let channelUid = '';
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) channel = r.string();
    else if (tag === 18) channelUid = r.string();
    else if (tag === 26) events.push(r.message(readEvent));
    else r.skip();
  }
  return { channel, channelUid, events };
}

function readNodeId(r: ProtoReader): number {
  let nodeId = 0;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) nodeId = r.uint();
    else r.skip();
  }
  return nodeId;
}

function readCaughtUp(r: ProtoReader): TailResponse['update'] {
  const update = { kind: 'caught-up' as const, headSeq: 0, channelUid: '', servedBy: nobody };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) update.headSeq = r.uint();
    else if (tag === 18) update.channelUid = r.string();
    else if (tag === 26) update.servedBy = r.message(readServedBy);
    else r.skip();
  }
  return update;
}

const none: Uint8Array = new Uint8Array(0);
export const nobody: ServedBy = Object.freeze({
  nodeId: 0,
  role: 'unspecified',
  partition: 0,
  appliedIndex: 0,
  commitToken: none,
});
const servedRoles = ['unspecified', 'primary', 'secondary', 'learner'] as const;

export function readServedBy(r: ProtoReader): ServedBy {
  const served: Writable<ServedBy> = { ...nobody };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) served.nodeId = r.uint();
    else if (tag === 16) served.role = servedRoles[r.uint()] ?? 'unspecified';
    else if (tag === 24) served.partition = r.uint();
    else if (tag === 32) served.appliedIndex = r.uint();
    // A Duration has a Timestamp's fields.
    else if (tag === 42) served.stalenessMs = r.message(readTimestamp) / 1_000;
    else if (tag === 50) served.commitToken = r.bytes();
    else r.skip();
  }
  return served;
}

export type Writable<T> = { -readonly [K in keyof T]: T[K] };

export function readOpenProducerResponse(bytes: Uint8Array): {
  producerId: number;
  partition: number;
  nextCounter: number;
  window: number;
} {
  const r = new ProtoReader(bytes);
  const response = { producerId: 0, partition: 0, nextCounter: 1, window: 1 };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) response.producerId = r.uint();
    else if (tag === 16) response.partition = r.uint();
    else if (tag === 24) response.nextCounter = r.uint();
    else if (tag === 32) response.window = r.uint();
    else r.skip();
  }
  return response;
}

export function readChannel(r: ProtoReader): ChannelInfo {
  const participants: Participant[] = [];
  const labels: Record<string, string> = {};
  const channel: Writable<ChannelInfo> = {
    tenant: '',
    name: '',
    uid: '',
    title: '',
    labels,
    class: '',
    participants,
    createTimeUs: 0,
    updateTimeUs: 0,
    activityTimeUs: 0,
    firstSeq: 1,
    headSeq: 0,
    lastMessageSeq: 0,
    messageCount: 0,
    etag: '',
    partition: 0,
    sealTimeUs: 0,
  };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) channel.tenant = r.string();
    else if (tag === 18) channel.name = r.string();
    else if (tag === 26) channel.uid = r.string();
    else if (tag === 34) channel.title = r.string();
    else if (tag === 42) {
      const [key, value] = r.message(readMapEntry);
      // defineProperty: a label named __proto__ is data.
      Object.defineProperty(labels, key, { value, enumerable: true, writable: true, configurable: true });
    } else if (tag === 50) channel.class = r.string();
    else if (tag === 58) participants.push(r.message(readParticipant));
    else if (tag === 66) channel.createTimeUs = r.message(readTimestamp);
    else if (tag === 74) channel.updateTimeUs = r.message(readTimestamp);
    else if (tag === 80) channel.headSeq = r.uint();
    else if (tag === 88) channel.lastMessageSeq = r.uint();
    else if (tag === 96) channel.messageCount = r.uint();
    else if (tag === 106) channel.etag = r.string();
    else if (tag === 112) channel.partition = r.uint();
    else if (tag === 122) channel.activityTimeUs = r.message(readTimestamp);
    else if (tag === 128) channel.firstSeq = r.uint();
    else if (tag === 138) channel.sealTimeUs = r.message(readTimestamp);
    else r.skip();
  }
  return channel;
}

function readParticipant(r: ProtoReader): Participant {
  const participant = { id: '', displayName: '', role: '' };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) participant.id = r.string();
    else if (tag === 18) participant.displayName = r.string();
    else if (tag === 26) participant.role = r.string();
    else r.skip();
  }
  return participant;
}

export function readMapEntry(r: ProtoReader): [string, string] {
  let key = '';
  let value = '';
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) key = r.string();
    else if (tag === 18) value = r.string();
    else r.skip();
  }
  return [key, value];
}

/** CreateChannelResponse, UpdateChannelResponse and the like: a channel and a commit token. */
export function readChannelResponse(bytes: Uint8Array): {
  channel: ChannelInfo | undefined;
  commitToken: Uint8Array;
} {
  const r = new ProtoReader(bytes);
  let channel: ChannelInfo | undefined;
  let commitToken = none;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) channel = r.message(readChannel);
    else if (tag === 18) commitToken = r.bytes();
    else r.skip();
  }
  return { channel, commitToken };
}

export function readGetChannelResponse(bytes: Uint8Array): {
  channel: ChannelInfo | undefined;
  servedBy: ServedBy;
} {
  const r = new ProtoReader(bytes);
  let channel: ChannelInfo | undefined;
  let servedBy = nobody;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) channel = r.message(readChannel);
    else if (tag === 18) servedBy = r.message(readServedBy);
    else r.skip();
  }
  return { channel, servedBy };
}

export function readListChannelsResponse(bytes: Uint8Array): {
  channels: ChannelInfo[];
  nextPageToken: string;
  servedBy: ServedBy[];
} {
  const r = new ProtoReader(bytes);
  const response = { channels: [] as ChannelInfo[], nextPageToken: '', servedBy: [] as ServedBy[] };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) response.channels.push(r.message(readChannel));
    else if (tag === 18) response.nextPageToken = r.string();
    else if (tag === 26) response.servedBy.push(r.message(readServedBy));
    else r.skip();
  }
  return response;
}

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
