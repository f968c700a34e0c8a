/** Requests of the API to bytes. Field numbers: proto/hansard/v1. */
import { HansardError } from '../common/errors.js';
import { limits } from '../common/limits.js';
import { channelNameProblem, isTenantName } from '../common/names.js';
import { varintSize, writeVarint } from '../common/wire.js';
import { checkMessage, invalid } from './check-input.js';
import { limited, writeContent, writeTimestamp } from './content-encode.js';
import { Slabs } from './slab.js';
import type { EventType, NewMessage, Participant, ReadLevel, ReadOptions, ReadPreference } from './types.js';
import { BackWriter, requireWellFormed } from './wire.js';

export const methods = {
  append: 'hansard.v1.MessageService/AppendMessages',
  appendBatch: 'hansard.v1.MessageService/AppendBatch',
  get: 'hansard.v1.MessageService/GetMessage',
  batchGet: 'hansard.v1.MessageService/BatchGetMessages',
  list: 'hansard.v1.MessageService/ListMessages',
  openProducer: 'hansard.v1.MessageService/OpenProducer',
  getChannel: 'hansard.v1.ChannelService/GetChannel',
  listChannels: 'hansard.v1.ChannelService/ListChannels',
  createChannel: 'hansard.v1.ChannelService/CreateChannel',
  updateChannel: 'hansard.v1.ChannelService/UpdateChannel',
  deleteChannel: 'hansard.v1.ChannelService/DeleteChannel',
  undeleteChannel: 'hansard.v1.ChannelService/UndeleteChannel',
  sealChannel: 'hansard.v1.ChannelService/SealChannel',
  getCluster: 'hansard.v1.ClusterService/GetCluster',
  upgradeCluster: 'hansard.v1.ClusterService/UpgradeCluster',
  getPartition: 'hansard.v1.ClusterService/GetPartition',
  changeReplicas: 'hansard.v1.ClusterService/ChangeReplicas',
  replicaChannels: 'hansard.v1.ReplicaService/ListReplicaChannels',
  replicaEvents: 'hansard.v1.ReplicaService/ReadReplicaEvents',
  replicaDigest: 'hansard.v1.ReplicaService/DigestReplica',
  moveReadCursor: 'hansard.v1.InboxService/MoveReadCursor',
  listReadCursors: 'hansard.v1.InboxService/ListReadCursors',
  getInbox: 'hansard.v1.InboxService/GetInbox',
  createSubscription: 'hansard.v1.SubscriptionService/CreateSubscription',
  getSubscription: 'hansard.v1.SubscriptionService/GetSubscription',
  listSubscriptions: 'hansard.v1.SubscriptionService/ListSubscriptions',
  updateSubscription: 'hansard.v1.SubscriptionService/UpdateSubscription',
  deleteSubscription: 'hansard.v1.SubscriptionService/DeleteSubscription',
  seekSubscription: 'hansard.v1.SubscriptionService/SeekSubscription',
  acknowledge: 'hansard.v1.SubscriptionService/Acknowledge',
  negativeAcknowledge: 'hansard.v1.SubscriptionService/NegativeAcknowledge',
  extendDeadline: 'hansard.v1.SubscriptionService/ExtendDeadline',
  listPending: 'hansard.v1.SubscriptionService/ListPending',
  listDeadLetters: 'hansard.v1.SubscriptionService/ListDeadLetters',
  replayDeadLetters: 'hansard.v1.SubscriptionService/ReplayDeadLetters',
  reportDelivery: 'hansard.v1.DeliveryService/ReportDelivery',
  listDeliveries: 'hansard.v1.DeliveryService/ListDeliveries',
  scrubNode: 'hansard.v1.ReplicaService/ScrubNode',
} as const;
export type Method = (typeof methods)[keyof typeof methods];

/** What the channel must be like for an append to take effect. */
export type AppendCondition =
  /** The channel's last event is this one; 0: no event yet. */
  | { readonly expectedHeadSeq: number }
  /** The channel's last message is this one; 0: no message yet. */
  | { readonly expectedLastMessageSeq: number }
  | { readonly mustNotExist: true }
  | { readonly mustExist: true };

export const eventTypes = [
  'unspecified',
  'message-completed',
  'message-created',
  'message-started',
  'message-edited',
  'message-deleted',
  'message-redacted',
  'reaction-added',
  'reaction-removed',
  'feedback-given',
  'annotated',
  'participant-joined',
  'participant-left',
  'branch-selected',
  'delivery-state-changed',
  'channel-updated',
  'erased',
  'custom',
] as const;
const eventTypeNumbers = new Map<string, number>(eventTypes.map((type, number) => [type, number]));

/** Types whose content is a MessageContent: completed, created, started. */
export function isMessageType(type: number): boolean {
  return type >= 1 && type <= 3;
}

/** One append without its producer's stamp, which it gets when it is sent. */
export interface EncodedAppend {
  /** Encoded tenant and channel, shared by all appends of a channel. */
  readonly prefix: Uint8Array;
  /** Encoded condition and messages: from `bodyFrom` to `bodyTo`, beside those of other appends. */
  readonly body: Uint8Array;
  readonly bodyFrom: number;
  readonly bodyTo: number;
  readonly count: number;
  /** xxh64 of each message's content. */
  readonly checksums: readonly bigint[];
}

/** Room in a frame for what stands around an append's messages. */
const requestOverheadBytes = 1024;

// Encoding is synchronous, so one scratch buffer serves all clients.
const scratch = new BackWriter();
const slabs = new Slabs();

export function encodeTarget(tenant: string, channel: string): Buffer {
  scratch.reset();
  scratch.string(2, channel);
  scratch.string(1, tenant);
  return scratch.copy();
}

/**
 * Encodes and checks an append as the server's door would, so that a refusal
 * comes before a counter is assigned. About 2 µs for a text of 200 bytes
 * (dist/bench/client-encode.js).
 */
export function encodeAppend(
  prefix: Uint8Array,
  messages: readonly NewMessage[],
  condition: AppendCondition | undefined,
): EncodedAppend {
  if (messages.length === 0) throw invalid('messages', 'an append needs at least one message');
  for (let i = 0; i < messages.length; i++) checkMessage(messages[i], messages.length === 1 ? undefined : i);
  if (messages.length > limits.messagesPerAppend)
    throw new HansardError(
      'FRAME_TOO_LARGE',
      `${messages.length} messages, limit ${limits.messagesPerAppend}`,
      {
        limit: limits.messagesPerAppend,
      },
    );
  const checksums: bigint[] = new Array(messages.length);
  scratch.reset();
  for (let i = messages.length - 1; i >= 0; i--) {
    checksums[i] = writeNewMessage(scratch, messages[i] as NewMessage, i);
    // Checked here already, so that a huge batch is not encoded to its end first.
    if (scratch.length > limits.frameBytes - requestOverheadBytes)
      throw new HansardError('FRAME_TOO_LARGE', `the append has more than ${limits.frameBytes} bytes`, {
        limit: limits.frameBytes,
      });
  }
  if (condition !== undefined) writeCondition(scratch, condition);
  const { length } = scratch;
  slabs.take(length);
  const { bytes: body, at: bodyFrom } = slabs;
  scratch.copyTo(body, bodyFrom);
  return { prefix, body, bodyFrom, bodyTo: bodyFrom + length, count: messages.length, checksums };
}

/** A view of the append's own bytes. */
export function bodyOf({ body, bodyFrom, bodyTo }: EncodedAppend): Uint8Array {
  return body.subarray(bodyFrom, bodyTo);
}

function writeNewMessage(w: BackWriter, message: NewMessage, position: number): bigint {
  const start = w.length;
  const type = eventTypeNumber(message.type);
  const isMessage = type === 0 || isMessageType(type);
  if (message.contentBytes !== undefined) w.raw(message.contentBytes);
  else if (isMessage) writeContent(w, message, position);
  else throw invalid('contentBytes', 'events other than messages bring their encoded content');
  const size = w.length - start;
  if (size > limits.messageBytes)
    throw new HansardError(
      'MESSAGE_TOO_LARGE',
      `the message has ${size} bytes, limit ${limits.messageBytes}`,
      {
        limit: limits.messageBytes,
      },
    );
  const checksum = w.xxh64(start);
  w.nested(isMessage ? 20 : 21, start);
  w.fixed64(6, checksum);
  w.uint(5, message.targetSeq);
  id(w, 4, message.subject, 'subject');
  id(w, 3, message.messageId, 'message_id');
  id(w, 2, message.key, 'key');
  w.uint(1, type);
  w.nested(5, start);
  return checksum;
}

function writeCondition(w: BackWriter, condition: AppendCondition): void {
  const mark = w.length;
  if ('expectedHeadSeq' in condition) w.uintAlways(1, condition.expectedHeadSeq);
  else if ('expectedLastMessageSeq' in condition) w.uintAlways(2, condition.expectedLastMessageSeq);
  else if ('mustNotExist' in condition) w.bool(3, condition.mustNotExist);
  else w.bool(4, condition.mustExist);
  w.nested(4, mark);
}

/** Field 3 of AppendMessagesRequest; the rest of the request never changes. */
export function stampSize(producerId: number, firstCounter: number): number {
  return 2 + stampBodySize(producerId, firstCounter);
}

export function putStamp(buffer: Uint8Array, at: number, producerId: number, firstCounter: number): number {
  buffer[at] = 26;
  // At most 20 bytes: the length is one byte.
  buffer[at + 1] = stampBodySize(producerId, firstCounter);
  buffer[at + 2] = 8;
  const next = writeVarint(buffer, at + 3, producerId);
  buffer[next] = 16;
  return writeVarint(buffer, next + 1, firstCounter);
}

function stampBodySize(producerId: number, firstCounter: number): number {
  return 2 + varintSize(producerId) + varintSize(firstCounter);
}

export function encodeOpenProducer(tenant: string, channel: string, name: string): Buffer {
  scratch.reset();
  scratch.string(3, name);
  scratch.string(2, channel);
  scratch.string(1, tenant);
  return scratch.copy();
}

export type GetRef = { readonly seq: number } | { readonly messageId: string };

export function encodeGet(prefix: Uint8Array, ref: GetRef, read: ReadOptions): Buffer {
  scratch.reset();
  writeReadOptions(scratch, 5, read);
  if ('seq' in ref) scratch.uintAlways(3, ref.seq);
  else scratch.stringAlways(4, ref.messageId);
  scratch.raw(prefix);
  return scratch.copy();
}

export function encodeBatchGet(prefix: Uint8Array, refs: readonly GetRef[], read: ReadOptions): Buffer {
  scratch.reset();
  writeReadOptions(scratch, 4, read);
  for (let i = refs.length - 1; i >= 0; i--) {
    const ref = refs[i] as GetRef;
    const mark = scratch.length;
    if ('seq' in ref) scratch.uintAlways(2, ref.seq);
    else scratch.stringAlways(3, ref.messageId);
    scratch.nested(3, mark);
  }
  scratch.raw(prefix);
  return scratch.copy();
}

export interface ListRequest {
  readonly anchorSeq?: number | undefined;
  readonly anchorTimeUs?: number | undefined;
  readonly before?: number | undefined;
  readonly after?: number | undefined;
  readonly descending?: boolean | undefined;
  readonly pageToken?: string | undefined;
}

export function encodeList(prefix: Uint8Array, list: ListRequest, read: ReadOptions): Buffer {
  scratch.reset();
  writeReadOptions(scratch, 9, read);
  scratch.string(8, list.pageToken);
  scratch.bool(7, list.descending);
  scratch.uint(6, list.after);
  scratch.uint(5, list.before);
  if (list.anchorTimeUs !== undefined) {
    const mark = scratch.length;
    writeTimestamp(scratch, list.anchorTimeUs);
    scratch.nested(4, mark);
  }
  if (list.anchorSeq !== undefined) scratch.uintAlways(3, list.anchorSeq);
  scratch.raw(prefix);
  return scratch.copy();
}

/** How much may be on its way on a stream; what is left out is not bound. */
export interface StreamCredit {
  readonly events?: number | undefined;
  /** Of encoded answers. */
  readonly bytes?: number | undefined;
}

export interface TailRequest {
  /** Without it and `resumeToken`: from the head. */
  readonly afterSeq?: number | undefined;
  readonly resumeToken?: string | undefined;
  readonly mustExist?: boolean | undefined;
  readonly maxBatch?: number | undefined;
}

export function encodeTail(prefix: Uint8Array, tail: TailRequest, read: ReadOptions): Buffer {
  scratch.reset();
  writeReadOptions(scratch, 7, read);
  scratch.uint(6, tail.maxBatch);
  scratch.bool(5, tail.mustExist);
  if (tail.resumeToken !== undefined) scratch.stringAlways(4, tail.resumeToken);
  else if (tail.afterSeq !== undefined) scratch.uintAlways(3, tail.afterSeq);
  scratch.raw(prefix);
  return scratch.copy();
}

/** FlowControl as a field of a stream's request: appended to the first one, and alone in those that grant more. */
export function encodeFlow(field: number, { events, bytes }: StreamCredit): Buffer {
  scratch.reset();
  scratch.uint(2, bytes);
  scratch.uint(1, events);
  scratch.nested(field, 0);
  return scratch.copy();
}

/** Which channels and events a subscription follows; all that are given must hold. */
export interface SubscribeFilter {
  /** Only these, by name, at most 1,000; they need not exist yet. */
  readonly channels?: readonly string[];
  /** Only names that begin with this. */
  readonly prefix?: string;
  /** Only channels with this label, of exactly this value. */
  readonly label?: { readonly key: string; readonly value: string };
  /** Only events of these types. */
  readonly types?: readonly EventType[];
}

export interface SubscribeRequest extends SubscribeFilter {
  /** Without it and the others: from now on. */
  readonly fromBeginning?: boolean | undefined;
  readonly fromTimeUs?: number | undefined;
  readonly resumeToken?: string | undefined;
  readonly maxBatch?: number | undefined;
}

export function encodeSubscribe(tenant: string, request: SubscribeRequest, read: ReadOptions): Buffer {
  const { channels = [], prefix, label, types = [], resumeToken, fromTimeUs, fromBeginning } = request;
  scratch.reset();
  writeReadOptions(scratch, 11, read);
  scratch.uint(10, request.maxBatch);
  if (resumeToken !== undefined) scratch.stringAlways(9, resumeToken);
  else if (fromTimeUs !== undefined) {
    const mark = scratch.length;
    writeTimestamp(scratch, fromTimeUs);
    scratch.nested(8, mark);
  } else scratch.bool(7, fromBeginning);
  for (let i = types.length - 1; i >= 0; i--) scratch.uintAlways(6, eventTypeNumber(types[i]));
  scratch.string(5, label?.value);
  scratch.string(4, label?.key);
  scratch.string(3, prefix);
  for (let i = channels.length - 1; i >= 0; i--) {
    requireChannelName(channels[i] as string);
    scratch.string(2, channels[i]);
  }
  scratch.string(1, tenant);
  return scratch.copy();
}

export function encodeGetChannel(prefix: Uint8Array, read: ReadOptions): Buffer {
  scratch.reset();
  writeReadOptions(scratch, 3, read);
  scratch.raw(prefix);
  return scratch.copy();
}

/** What a listing of channels asks for. */
export interface ChannelQuery {
  /** Only names that begin with this. A closed `{tag}` in it asks one partition alone. */
  readonly prefix?: string | undefined;
  /** Only channels with this label, of exactly this value. */
  readonly label?: { readonly key: string; readonly value: string } | undefined;
  /** Only channels with a participant of this id. */
  readonly participant?: string | undefined;
  /** Default `name`. `activity`: those with the newest event first; rejects TOO_MANY_CHANNELS beyond a bound. */
  readonly orderBy?: 'name' | 'activity' | undefined;
  /** Those that were deleted and can be brought back, instead of those that are there; by name alone. */
  readonly deleted?: boolean | undefined;
  /** Default 100, at most 1,000. */
  readonly pageSize?: number | undefined;
  readonly pageToken?: string | undefined;
}

export function encodeListChannels(tenant: string, options: ChannelQuery, read: ReadOptions): Buffer {
  scratch.reset();
  if (options.deleted) scratch.uint(11, 1);
  if (options.orderBy === 'activity') scratch.uint(10, 2);
  scratch.string(9, options.participant);
  scratch.string(8, options.label?.value);
  scratch.string(7, options.label?.key);
  writeReadOptions(scratch, 5, read);
  scratch.string(4, options.pageToken);
  scratch.uint(3, options.pageSize);
  scratch.string(2, options.prefix);
  scratch.string(1, tenant);
  return scratch.copy();
}

export interface UpgradeRequest {
  /** Default: the newest that the answering node can carry out. */
  readonly to?: number;
  /** Default: all. */
  readonly partitions?: readonly number[];
  /** Tells what would be done, or why it can't. */
  readonly validateOnly?: boolean;
}

export function encodeUpgrade({ to, partitions = [], validateOnly }: UpgradeRequest): Buffer {
  scratch.reset();
  scratch.uint(3, validateOnly ? 1 : 0);
  for (const partition of partitions) scratch.uintAlways(2, partition);
  scratch.uint(1, to);
  return scratch.copy();
}

export function encodeGetPartition(partition: number): Buffer {
  scratch.reset();
  scratch.uint(1, partition);
  return scratch.copy();
}

/** What a partition's replicas are to be (docs/operations.md, "Moving and replacing replicas"). */
export type ReplicaChange =
  | { readonly kind: 'add-learner'; readonly nodeId: number }
  | { readonly kind: 'promote' | 'demote' | 'remove'; readonly replicaId: number }
  | { readonly kind: 'replace'; readonly replicaId: number; readonly nodeId: number };

const changeKinds = ['add-learner', 'promote', 'demote', 'remove', 'replace'] as const;

export function encodeChangeReplicas(
  partition: number,
  changes: readonly ReplicaChange[],
  force: boolean,
): Buffer {
  scratch.reset();
  scratch.uint(3, force ? 1 : 0);
  for (let i = changes.length - 1; i >= 0; i--) {
    const change = changes[i] as ReplicaChange;
    const mark = scratch.length;
    if ('nodeId' in change) scratch.uint(3, change.nodeId);
    if ('replicaId' in change) scratch.uint(2, change.replicaId);
    scratch.uint(1, changeKinds.indexOf(change.kind) + 1);
    scratch.nested(2, mark);
  }
  scratch.uint(1, partition);
  return scratch.copy();
}

export interface NewChannel {
  readonly title?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly class?: string;
  readonly participants?: readonly Participant[];
}

export function encodeCreateChannel(
  tenant: string,
  name: string,
  channel: NewChannel,
  requestId: string,
): Buffer {
  const w = scratch;
  w.reset();
  id(w, 2, requestId, 'request_id');
  const start = w.length;
  writeChannel(w, tenant, name, channel);
  w.nested(1, start);
  return w.copy();
}

/** What is to be set; what is left out stays as it is. Labels and participants are replaced whole. */
export interface ChannelChanges extends NewChannel {
  /** The channel must still have it, else CONDITION_FAILED. */
  readonly etag?: string;
}

const changeable = ['title', 'labels', 'class', 'participants'] as const;

export function encodeUpdateChannel(
  tenant: string,
  name: string,
  changes: ChannelChanges,
  requestId: string,
): Buffer {
  const paths = changeable.filter((field) => changes[field] !== undefined);
  if (paths.length === 0) throw invalid('changes', 'name nothing to change');
  const w = scratch;
  w.reset();
  id(w, 3, requestId, 'request_id');
  const mask = w.length;
  for (const path of paths) w.string(1, path);
  w.nested(2, mask);
  const start = w.length;
  w.string(13, changes.etag);
  writeChannel(w, tenant, name, changes);
  w.nested(1, start);
  return w.copy();
}

/** SealChannel and UndeleteChannel. */
export function encodeChannelState(
  prefix: Uint8Array,
  options: { readonly etag?: string },
  requestId: string,
): Buffer {
  scratch.reset();
  id(scratch, 4, requestId, 'request_id');
  scratch.string(3, options.etag);
  scratch.raw(prefix);
  return scratch.copy();
}

/** Items as AppendMessagesRequests without producers. */
export function encodeAppendBatch(
  tenant: string,
  items: readonly EncodedAppend[],
  requestId: string,
): Buffer {
  scratch.reset();
  id(scratch, 3, requestId, 'request_id');
  for (let i = items.length - 1; i >= 0; i--) {
    const item = items[i] as EncodedAppend;
    const mark = scratch.length;
    scratch.raw(bodyOf(item));
    scratch.raw(item.prefix);
    scratch.nested(2, mark);
  }
  scratch.string(1, tenant);
  return scratch.copy();
}

export function encodeDeleteChannel(
  prefix: Uint8Array,
  options: {
    readonly etag?: string;
    readonly allowMissing?: boolean;
    readonly permanent?: boolean;
    readonly dryRun?: boolean;
  },
  requestId: string,
): Buffer {
  scratch.reset();
  scratch.bool(7, options.permanent);
  scratch.bool(6, options.dryRun);
  id(scratch, 5, requestId, 'request_id');
  scratch.bool(4, options.allowMissing);
  scratch.string(3, options.etag);
  scratch.raw(prefix);
  return scratch.copy();
}

function writeChannel(w: BackWriter, tenant: string, name: string, channel: NewChannel): void {
  for (const participant of [...(channel.participants ?? [])].reverse()) {
    const mark = w.length;
    w.string(3, participant.role);
    w.string(2, participant.displayName);
    w.string(1, participant.id);
    w.nested(7, mark);
  }
  w.string(6, channel.class);
  for (const [key, value] of Object.entries(channel.labels ?? {}).reverse()) {
    const mark = w.length;
    w.stringAlways(2, value);
    w.stringAlways(1, key);
    w.nested(5, mark);
  }
  w.string(4, channel.title);
  w.string(2, name);
  w.string(1, tenant);
}

const levels: Record<ReadLevel, number> = { linearizable: 1, session: 2, bounded: 3, eventual: 4 };
const preferences: Record<ReadPreference, number> = {
  primary: 1,
  'primary-preferred': 2,
  secondary: 3,
  'secondary-preferred': 4,
  nearest: 5,
};

export function writeReadOptions(w: BackWriter, field: number, read: ReadOptions): void {
  const mark = w.length;
  const tokens = read.commitTokens ?? [];
  for (let i = tokens.length - 1; i >= 0; i--) w.bytesAlways(4, tokens[i] as Uint8Array);
  if (read.maxStalenessMs !== undefined) {
    const inner = w.length;
    writeTimestamp(w, Math.round(read.maxStalenessMs * 1000)); // a Duration has the same fields
    w.nested(3, inner);
  }
  if (read.preference !== undefined) w.uint(2, preferences[read.preference]);
  if (read.level !== undefined) w.uint(1, levels[read.level]);
  if (w.length > mark) w.nested(field, mark);
}

function id(w: BackWriter, field: number, value: string | undefined, name: string): void {
  if (value === undefined || value === '') return;
  limited(value, name, limits.idBytes, 'INVALID_NAME');
  w.string(field, value);
}

export function eventTypeNumber(type: EventType | undefined): number {
  if (type === undefined) return 0;
  if (typeof type === 'number') return type;
  const number = eventTypeNumbers.get(type);
  if (number === undefined) throw invalid('type', `no such event type: ${type}`);
  return number;
}

export function requireChannelName(name: string): void {
  if (typeof name !== 'string') throw invalid('channel', 'the name of a channel must be a string');
  requireWellFormed(name, 'channel');
  const problem = channelNameProblem(name);
  if (problem !== undefined) throw new HansardError('INVALID_NAME', problem, { field: 'channel' });
}

export function requireTenant(tenant: string): void {
  if (tenant !== '' && !isTenantName(tenant))
    throw new HansardError('INVALID_NAME', `not a tenant's name: ${JSON.stringify(tenant)}`, {
      field: 'tenant',
    });
}
