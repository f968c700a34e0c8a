/** Replicated settings: their defaults and bounds. */
import type { PartitionId } from '../common/ids.js';
import type { PartitionMeta, ReplicatedSettings } from './types.js';

const hourUs = 3_600_000_000;

export const defaultSettings: Readonly<ReplicatedSettings> = Object.freeze({
  applyVersion: 4,
  /** Appends: an SDK with 256 in flight on four streams; about 100 KB for a producer that fills it. */
  producerWindow: 1_024,
  /** 48 h in µs: the promise is 24 h, and a client's outage over a day still finds its keys. */
  keyRetentionUs: 48 * hourUs,
  /** 7 days in µs: longer than any process is expected to hold an append back. */
  producerIdleUs: 7 * 24 * hourUs,
});

/** What a replicated setting may be; below 24 h keys would break the API's promise. */
export const settingBounds = Object.freeze({
  producerWindow: { min: 1, max: 65_536 },
  keyRetentionUs: { min: 24 * hourUs, max: 365 * 24 * hourUs },
  producerIdleUs: { min: hourUs, max: 3_650 * 24 * hourUs },
});

/** The meta of a partition without history. */
export function initialMeta(
  partition: PartitionId,
  settings: Readonly<ReplicatedSettings> = defaultSettings,
): PartitionMeta {
  return {
    partition,
    lastCommitTimeUs: 0,
    keyHorizonUs: 0,
    // 0 is no channel: it holds request keys. 0 is no producer.
    nextChannelId: 1,
    nextProducer: 1,
    channelCount: 0,
    deletedCount: 0,
    settings: { ...settings },
  };
}
