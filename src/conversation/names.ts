/** Names and numbers that the state machine makes. */

import { xxh64 } from '../common/hash.js';
import type { ChannelId, PartitionId, ProducerId } from '../common/ids.js';
import { applyLimits } from './apply-limits.js';

/** A channel's uid: unique in the cluster, the same on every replica. */
export function channelUid(partition: PartitionId, id: ChannelId): string {
  return `c${partition.toString(16).padStart(4, '0')}${id.toString(16).padStart(12, '0')}`;
}

/** A producer's id: unique in the cluster, as it holds its partition. */
export function producerId(partition: PartitionId, number: number): ProducerId {
  return partition * applyLimits.producersPerPartition + number;
}

/** The partition that opened the producer. */
export function partitionOfProducer(id: ProducerId): PartitionId {
  return Math.floor(id / applyLimits.producersPerPartition);
}

/** What a deletion for good keeps under its request id, as items: nothing else knows it any more. */
export const DeletedItem = { events: 0, messages: 1 } as const;

/**
 * Key, under channel id 0, of what one item of a batch under that request id was answered, or of a DeletedItem.
 * No tenant begins with #, so no request id of a client makes the same key.
 */
export function requestItemKey(tenant: string, requestId: string, item: number): string {
  return `#${item}/${requestKey(tenant, requestId)}`;
}

/**
 * Key, under channel id 0, of a request id that counts for one thing alone: whatever else has the same id is another request.
 * Its 16 digits are more than an item's number has.
 */
export function onceKey(tenant: string, requestId: string, of: string): string {
  return `#${xxh64(Buffer.from(of)).toString(16).padStart(16, '0')}/${requestKey(tenant, requestId)}`;
}

/** Key, under channel id 0, of the request id of a command on a channel. */
export function requestKey(tenant: string, requestId: string): string {
  return `${tenant}/${requestId}`;
}
