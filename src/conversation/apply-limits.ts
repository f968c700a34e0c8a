/**
 * Hard limits of apply version 1, part of what applying means: another number
 * here needs another apply version. The door's limits (common/limits.ts) may be
 * lower and change freely; a test holds them at or below these.
 */
const MiB = 1024 * 1024;

export const applyLimits = Object.freeze({
  /** Bytes of one message's content. */
  contentBytes: 16 * MiB,
  /** Events in one append. */
  eventsPerAppend: 65_536,
  channelNameBytes: 256,
  /** Bytes of a key, message id, subject, actor, request id, producer name: index rows hold them. */
  idBytes: 128,
  /** Bytes of a channel's title, class, or one label or participant text. */
  channelTextBytes: 1024,
  labelsPerChannel: 64,
  participantsPerChannel: 1_000,
  /** Producers named in one expireProducers. */
  evictionsPerCommand: 10_000,
  /** Seqs that a producer's remembered answers name one by one (batches with repeats by key), in all. */
  rememberedSeqs: 65_536,
  /** How long a deleted channel may be brought back, of commit time: 7 days in µs. From apply version 3 on, like all below. */
  undeleteUs: 7 * 24 * 3_600_000_000,
  /** Deleted channels of one partition that may be brought back; beyond, the oldest one goes. About 90 KB of its record. */
  trashedChannels: 256,
  /** Deleted channels whose time is up that go with one entry: each may take a read of the disk. */
  purgesPerEntry: 16,
  /** Channels of one atomic batch. */
  channelsPerBatch: 100,
  /** Durable subscriptions of one partition: all of them are in memory. From apply version 4 on, like those below. */
  subscriptionsPerPartition: 64,
  /** Channels with taken events of one subscription: about 300 KB of its row. */
  pendingChannels: 1_000,
  /** Dead letters of one subscription; beyond, their channels wait. */
  deadLetters: 1_000,
  /** Dead letters of one channel that are delivered again. */
  replaysPerChannel: 100,
  /** Channels that a subscription names. */
  selectedChannels: 100,
  /** Event types that a subscription names. */
  selectedTypes: 64,
  subscriptionNameBytes: 128,
  subscriptionTextBytes: 256,
  /** Of one partition, in the form of the API. */
  placeBytes: 1_024,
  /** Steps of one command. */
  opsPerStep: 10_000,
  /** Bounds of what a subscription may be set to, ms. */
  ackDeadlineMsMin: 1_000,
  ackDeadlineMsMax: 3_600_000,
  retryDelayMsMax: 3_600_000,
  maxDeliveriesMax: 1_000,
  /** Failed deliveries of one recipient in one channel: at most about 30 KB of its row. From apply version 4 on. */
  failedDeliveries: 100,
  deliveryReasonBytes: 256,
  /** Producers of one partition, ever. The id holds the partition above these 36 bits. */
  producersPerPartition: 2 ** 36,
});
