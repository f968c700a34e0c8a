/** Limits of the API, checked at the door; docs/limits.md is held against them. */
const KiB = 1024;
const MiB = 1024 * KiB;

export const limits = Object.freeze({
  /** A tenant's name, by /^[a-z0-9-]{1,63}$/. */
  tenantBytes: 63,
  channelNameBytes: 256,
  /** message_id, key, subject, request_id, a producer's name: index rows hold them. */
  idBytes: 128,
  /** An author's or tool's name and the like; texts have the message's own limit. */
  shortTextBytes: 1 * KiB,
  /** metadata, tool arguments, provider_metadata, usage details. */
  jsonTextBytes: 16 * KiB,
  /** One message's content. An entry holds at least one. */
  messageBytes: 1 * MiB,
  /** One request. */
  frameBytes: 4 * MiB,
  /** Messages in one append. */
  messagesPerAppend: 10_000,
  /** Parts of one message: bounds what a reader allocates. */
  partsPerMessage: 1_000,
  /** Depth of nested protobuf messages that the door follows. */
  nestingDepth: 16,
  pageSizeDefault: 50,
  pageSizeMax: 1_000,
  /** A page ends early at this size: an answer stays well under a frame. */
  pageBytes: 3 * MiB,
  /** The same for ReadReplicaEvents: `hansard verify` holds many pages at once. */
  replicaPageBytes: 512 * KiB,
  /** Items of one BatchGetMessages. */
  batchGetItems: 1_000,
  /** Names in one Subscribe. */
  subscribedChannels: 1_000,
  /** Deadlines and delays of durable subscriptions, ms. */
  subscriptionDelayMs: 3_600_000,
  /** Channels of one GetInbox. */
  inboxChannels: 200,
  channelPageSizeDefault: 100,
  channelPageSizeMax: 1_000,
  /** Channels of one partition that a listing by activity, or by label and participant, may look at: 10 to 20 ms. */
  channelsScannedPerPartition: 2_000,
  /** The same in all partitions together. */
  channelsScanned: 10_000,
  labelsPerChannel: 64,
  labelBytes: 256,
  participantsPerChannel: 1_000,
  titleBytes: 1 * KiB,
  /** A listing of channels may carry one of each partition. */
  commitTokensPerRequest: 512,
  /** Deadline of a call that brings none, ms. */
  defaultDeadlineMs: 5_000,
  /** gRPC's own limit; above ours, so that our error is the one that is seen. */
  grpcMessageBytes: 16 * MiB,
});

/**
 * Of a cluster that is made without saying how many. Fixed for ever, so there are enough for
 * six nodes to lead; and no more, because every partition has entries of its own, which cost more than what they
 * carry: with 12 of them, led by one node, 64 appends in flight are half as many a second (docs/performance.md).
 * Divisible by 2 and 3, so that so many nodes lead alike.
 */
export const defaultPartitions = 6;
