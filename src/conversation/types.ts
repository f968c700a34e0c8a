/**
 * What applying sees and says. The state machine reads and changes a partition
 * through ApplyState (store/ keeps it); it never waits, and every byte string
 * yields events or a typed refusal.
 */
import type { ErrorFields, Reason } from '../common/errors.js';
import type { ChannelId, Index, PartitionId, ProducerId, Seq, Term, TimeUs } from '../common/ids.js';
import type { AnswerWindow } from './answer-window.js';
import type { SubscriptionState } from './subscription-state.js';

/** Numbers of hansard.v1.EventType; on disk the same. */
export const EventType = {
  messageCompleted: 1,
  messageCreated: 2,
  messageStarted: 3,
  messageEdited: 4,
  messageDeleted: 5,
  messageRedacted: 6,
  reactionAdded: 7,
  reactionRemoved: 8,
  feedbackGiven: 9,
  annotated: 10,
  participantJoined: 11,
  participantLeft: 12,
  branchSelected: 13,
  deliveryStateChanged: 14,
  channelUpdated: 15,
  erased: 16,
  custom: 17,
} as const;
export type EventType = (typeof EventType)[keyof typeof EventType];

/**
 * One applied event. The record's bytes (event-record.ts) stay where they came
 * from: `bytes` is the entry's or block's buffer, header and content are places
 * in it, so that a hot append makes no views.
 */
export interface StoredEvent {
  readonly seq: Seq;
  readonly commitTimeUs: TimeUs;
  readonly producerId: ProducerId;
  readonly producerCounter: number;
  readonly bytes: Uint8Array;
  /** The record's header: type, flags, ids, content checksum, commitment. */
  readonly headerOffset: number;
  readonly headerLength: number;
  /** Salt (16 bytes) and content. */
  readonly contentBytes: Uint8Array;
  readonly contentOffset: number;
  readonly contentLength: number;
}

export interface Participant {
  id: string;
  displayName: string;
  role: string;
}

/** A channel as the state machine and readers see it. */
export interface ChannelState {
  readonly id: ChannelId;
  readonly tenant: string;
  readonly name: string;
  /** Server-made, derived from partition and id. */
  readonly uid: string;
  title: string;
  labels: [string, string][];
  class: string;
  participants: Participant[];
  readonly createTimeUs: TimeUs;
  updateTimeUs: TimeUs;
  /** Commit time of the last event, or creation. */
  activityTimeUs: TimeUs;
  /**
   * The head of the deleted channel that had the name before; 0: there was none. The
   * first event of this one is `baseSeq + 1`: no seq of a name ever means two events.
   */
  readonly baseSeq: Seq;
  headSeq: Seq;
  lastMessageSeq: Seq;
  messageCount: number;
  /** Counts changes of the channel's own fields; the etag shows it. */
  revision: number;
  /** Since when it takes no more events; undefined: it does. */
  sealedTimeUs?: TimeUs | undefined;
  /** It is deleted and may still be brought back: to all but that it is not there. */
  deletedTimeUs?: TimeUs | undefined;
}

/** What is kept of a deleted channel: its name goes on where it ended. */
export interface DeletedChannel {
  readonly id: ChannelId;
  readonly uid: string;
  readonly headSeq: Seq;
  readonly revision: number;
}

/** One of a producer's last answers (answer-window.ts). */
export interface ProducerAnswer {
  /** Counters of the append: first … last. */
  readonly firstCounter: number;
  readonly lastCounter: number;
  /** xxh32 of the command without stamps: other content under a used counter is refused. */
  readonly digest: number;
  readonly answer: AppendAnswer;
}

export interface ProducerState {
  readonly id: ProducerId;
  /** Empty: anonymous. Named ones are per tenant. */
  readonly tenant: string;
  readonly name: string;
  lastCounter: number;
  lastActiveUs: TimeUs;
  /** The newest last; at most `settings.producerWindow`. */
  readonly answers: AnswerWindow;
}

export interface KeyRecord {
  seq: Seq;
  /** SHA-256 of the content, first 16 bytes; the proposer computed it. */
  contentDigest: Uint8Array;
  commitTimeUs: TimeUs;
}

/** Replicated settings: all that changes what applying does. */
export interface ReplicatedSettings {
  /** New behaviour starts with a replicated version entry. */
  applyVersion: number;
  /** Appends of one producer that are remembered, and may be in flight. */
  producerWindow: number;
  /** How long keys are kept, of commit time. */
  keyRetentionUs: number;
  /** Idleness after which the leader may propose to evict an anonymous producer. */
  producerIdleUs: number;
}

/** What a cursor says: up to where somebody has read a channel, or confirmed that its events came. */
export type CursorKind = 'read' | 'delivery';

/** An event that could not be delivered; from apply version 4 on. */
export interface FailedDelivery {
  readonly seq: Seq;
  /** Commit time of the report. */
  readonly timeUs: TimeUs;
  /** As the recipient counts them. */
  readonly attempts: number;
  readonly reason: string;
}

/** How far a reader or recipient has got in a channel; belongs to the channel's name. */
export interface ReadCursor {
  readonly tenant: string;
  readonly channel: string;
  /** The application's own id of who reads or receives. */
  readonly reader: string;
  /** The last event that was read, or is done with; 0: none. */
  readonly seq: Seq;
  /** Commit time of the move. */
  readonly timeUs: TimeUs;
  /** Of a cursor of deliveries alone, and there always: the exceptions up to `seq`, ascending. */
  readonly failed?: readonly FailedDelivery[];
}

export interface TrashedChannel {
  readonly tenant: string;
  readonly name: string;
  readonly deletedTimeUs: TimeUs;
}

/**
 * The partition's own numbers. Apply changes this object (commit time, counters,
 * channel count, settings); the store only keeps it. `initialMeta` gives the first.
 */
export interface PartitionMeta {
  readonly partition: PartitionId;
  lastCommitTimeUs: TimeUs;
  /** Keys put before this commit time are forgotten; only rises. Replicated: to be kept with the rest. */
  keyHorizonUs: TimeUs;
  nextChannelId: ChannelId;
  /** Low part of the next producer's id. */
  nextProducer: number;
  channelCount: number;
  /** Names of deleted channels that are not in use; their heads are kept. */
  deletedCount: number;
  /** Deleted channels that may be brought back, the oldest first; they count as channels. Undefined: none. */
  trash?: readonly TrashedChannel[] | undefined;
  /** Read cursors. Undefined: none. */
  cursorCount?: number | undefined;
  /** Durable subscriptions. Undefined: there was never one. */
  subscriptionCount?: number | undefined;
  /** Above all that subscriptions were made from, and the leases of those that were deleted. Undefined: there was never one. */
  nextSubscription?: number | undefined;
  settings: ReplicatedSettings;
}

/**
 * A partition's replicated state under apply. Objects handed out may be changed
 * only through `put…` of the same object; a command is checked whole before the
 * first change.
 */
export interface ApplyState {
  readonly meta: PartitionMeta;
  /** Also one that is deleted and may be brought back (`deletedTimeUs`). */
  channel(tenant: string, name: string): ChannelState | undefined;
  /** A new or changed channel. */
  putChannel(channel: ChannelState): void;
  /** What is kept of a deleted channel whose name is not in use again. */
  deletedChannel(tenant: string, name: string): DeletedChannel | undefined;
  /**
   * The channel, its events, keys and message ids are gone for all that asks from here
   * on; its name, id, uid, head and revision stay as its DeletedChannel.
   */
  deleteChannel(channel: ChannelState): void;
  /**
   * `event.seq` is the channel's head + 1; the caller has set the head in `channel`,
   * and calls `putChannel` before the first event of a new channel and after the last
   * event of an append.
   */
  append(channel: ChannelState, event: StoredEvent): void;
  producer(id: ProducerId): ProducerState | undefined;
  producerByName(tenant: string, name: string): ProducerState | undefined;
  putProducer(producer: ProducerState): void;
  deleteProducer(id: ProducerId): void;
  /**
   * Undefined where unknown. Those put before `meta.keyHorizonUs` do not count: apply
   * passes over them, and the store may have dropped them or not.
   * Channel id 0 holds the request ids of commands on channels (`requestKey`, up to 200 bytes).
   */
  key(channelId: ChannelId, key: string): KeyRecord | undefined;
  putKey(channelId: ChannelId, key: string, record: KeyRecord): void;
  messageId(channelId: ChannelId, messageId: string): Seq | undefined;
  putMessageId(channelId: ChannelId, messageId: string, seq: Seq): void;
  cursor(tenant: string, channel: string, reader: string, kind?: CursorKind): ReadCursor | undefined;
  putCursor(cursor: ReadCursor): void;
  subscription(tenant: string, name: string): Readonly<SubscriptionState> | undefined;
  /** The same, to be changed in place in this entry alone. */
  subscriptionToChange(tenant: string, name: string): SubscriptionState | undefined;
  putSubscription(subscription: SubscriptionState): void;
  deleteSubscription(tenant: string, name: string): void;
}

export interface Appended {
  readonly kind: 'appended';
  /** 0 where `seqs` is set, and in the answer to a repeat older than the producer's window. */
  readonly firstSeq: Seq;
  readonly count: number;
  readonly commitTimeUs: TimeUs;
  /** Set where the seqs are not firstSeq … firstSeq + count - 1 (repeats by key). */
  readonly seqs?: readonly Seq[] | undefined;
  readonly duplicate: boolean;
  readonly channelUid: string;
}

/**
 * Where a producer was given and `fields.counter_consumed` is true, the refusal took
 * the append's counters like an answer does, and a repeat gets it again.
 */
export interface Refused {
  readonly kind: 'refused';
  readonly reason: Reason;
  readonly message: string;
  readonly fields: ErrorFields;
}

export type AppendAnswer = Appended | Refused;

export type CommandAnswer =
  | AppendAnswer
  | {
      readonly kind: 'producer';
      readonly producerId: ProducerId;
      readonly nextCounter: number;
      readonly window: number;
    }
  | { readonly kind: 'channel'; readonly channel: ChannelState }
  /**
   * Deleted now or before; `headSeq` is the head that is kept. `was`: what was deleted
   * now (from apply version 3 on). `purgeTimeUs`: until when it may be brought back; 0: it may not.
   */
  | {
      readonly kind: 'deleted';
      readonly headSeq: Seq;
      readonly was?: {
        readonly eventCount: number;
        readonly messageCount: number;
        readonly purgeTimeUs: TimeUs;
      };
    }
  | { readonly kind: 'cursor'; readonly cursor: ReadCursor; readonly headSeq: Seq }
  /** In the order of the batch's items. */
  | { readonly kind: 'appendedMany'; readonly appended: readonly Appended[] }
  | { readonly kind: 'subscription'; readonly subscription: Readonly<SubscriptionState> }
  /** Of each op: 0 where it no longer made sense, else 1; of a lease its number. */
  | { readonly kind: 'stepped'; readonly results: readonly number[]; readonly version: number }
  /** Dead letters that were moved. */
  | { readonly kind: 'deadLettersMoved'; readonly count: number }
  | { readonly kind: 'done' };

/** What one entry did; answers in the order of its commands. */
export interface ApplyOutcome {
  readonly commitTimeUs: TimeUs;
  /** A malformed entry has one refusal, whatever it may have meant to hold. */
  readonly answers: CommandAnswer[];
  /**
   * Set where this build is too old for the entry: nothing was changed, and the
   * replica must stop applying (before `endEntry`) until a newer build runs.
   */
  readonly unsupportedVersion?: number | undefined;
}

/** What applying a command will look up: prefetched when the entry is received. */
export interface Lookups {
  channels: { tenant: string; name: string }[];
  producers: ProducerId[];
  producerNames: { tenant: string; name: string }[];
  /** Need the channel's id first. */
  keys: { tenant: string; name: string; key: string }[];
  messageIds: { tenant: string; name: string; messageId: string }[];
  /** Keys under channel id 0: request ids of commands on channels. */
  requestKeys: string[];
  cursors: { tenant: string; name: string; reader: string; kind: CursorKind }[];
}

export interface AppliedEntry {
  readonly index: Index;
  readonly term: Term;
  readonly data: Uint8Array;
}
