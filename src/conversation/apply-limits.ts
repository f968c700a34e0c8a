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
  /** Producers of one partition, ever. The id holds the partition above these 36 bits. */
  producersPerPartition: 2 ** 36,
});
