/**
 * What is replicated of a durable subscription: how far it has taken events from each partition, and of
 * each channel with events that are taken and not acknowledged how far its consumers have got.
 * docs/internals.md, "Durable subscriptions".
 */
import { type ByteReader, type ByteWriter, MalformedError } from '../common/bytes.js';
import type { PartitionId, Seq, TimeUs } from '../common/ids.js';

/** Which events. All that are given must hold. */
export interface SubscriptionSelector {
  /** Empty: channels of whatever name. */
  readonly channels: readonly string[];
  readonly prefix: string;
  readonly label: readonly [string, string] | undefined;
  /** Empty: of whatever type. */
  readonly types: readonly number[];
}

/** What may be changed later. */
export interface SubscriptionSettings {
  readonly description: string;
  /** How long a consumer may take for the first event that it has not acknowledged. */
  readonly ackDeadlineMs: number;
  /** Deliveries after which an event becomes a dead letter; 0: never. */
  readonly maxDeliveries: number;
  /** Before an event that failed is delivered again, unless the consumer says how long. */
  readonly retryDelayMs: number;
  /** Channels with events that are taken and not acknowledged. */
  readonly maxPendingChannels: number;
  /** Nothing is delivered. */
  readonly paused: boolean;
}

/** A channel's events that one consumer has, and nobody else. */
export interface Lease {
  /** Never given out twice by a subscription: what is acknowledged under another one counts for nothing. */
  readonly number: number;
  readonly consumer: string;
  /** Events up to here were delivered. */
  readonly toSeq: Seq;
  readonly deadlineUs: TimeUs;
  /** `toSeq` alone, a dead letter. */
  readonly isReplay: boolean;
}

/** A dead letter that is delivered again. */
export interface Replay {
  readonly seq: Seq;
  readonly deliveries: number;
}

/** Replaced by whoever changes it, never changed. */
export interface PendingChannel {
  readonly partition: PartitionId;
  /** All up to here is acknowledged, a dead letter or gone. */
  readonly acked: Seq;
  /** The last event that was taken. */
  readonly to: Seq;
  /** Commit time of the first event that was taken and is perhaps not acknowledged. */
  readonly sinceUs: TimeUs;
  /** Of the first event that is not acknowledged. */
  readonly deliveries: number;
  /** Not to be delivered before. */
  readonly retryUs: TimeUs;
  /** What the last consumer said that gave it back. */
  readonly error: string;
  /** Dead letters that are delivered again, before all others. */
  readonly replays: readonly Replay[];
  readonly lease: Lease | undefined;
}

export interface DeadLetter {
  readonly channel: string;
  readonly partition: PartitionId;
  readonly seq: Seq;
  readonly deliveries: number;
  readonly timeUs: TimeUs;
  readonly error: string;
}

export interface SubscriptionState {
  readonly tenant: string;
  readonly name: string;
  readonly uid: string;
  /** Of its creation, which is recognised by it; may be empty. */
  readonly requestId: string;
  readonly createTimeUs: TimeUs;
  selector: SubscriptionSelector;
  settings: SubscriptionSettings;
  updateTimeUs: TimeUs;
  /** Counts changes of its settings and place. */
  revision: number;
  /** Counts all changes: a step is refused where another one came before. */
  version: number;
  /** Of what was there at the start: only what was committed at or after this. */
  fromTimeUs: TimeUs;
  nextLease: number;
  /** Leases below this one were given out before the last seek; 0: there was none. */
  sinceLease: number;
  /** How far events were taken, in the form of api/feed-place.ts. */
  readonly places: Map<PartitionId, Uint8Array>;
  /** By channel name, in the order in which they came. */
  readonly channels: Map<string, PendingChannel>;
  /** By channel name and seq (`deadKey`), the oldest first. */
  readonly deadLetters: Map<string, DeadLetter>;
  deliveredCount: number;
  redeliveredCount: number;
  ackedCount: number;
  deadCount: number;
  /** Commit time of the last acknowledgement or dead letter. */
  progressTimeUs: TimeUs;
}

/** Was the lease given out by this life of the subscription, and at the place where it stands since? */
export function isOwnLease(state: Readonly<SubscriptionState>, lease: number): boolean {
  return lease >= Math.max(subscriptionNumber(state), state.sinceLease) && lease < state.nextLease;
}

/** Of a life of its name: no other one of the partition has the same. Its uid holds it. */
export function subscriptionUid(partition: PartitionId, number: number): string {
  return `s${partition.toString(16).padStart(4, '0')}${number.toString(16).padStart(14, '0')}`;
}

export function subscriptionNumber({ uid }: Pick<SubscriptionState, 'uid'>): number {
  return Number.parseInt(uid.slice(5), 16);
}

export function deadKey(channel: string, seq: Seq): string {
  return `${channel}\0${seq}`;
}

/** Shares only what never changes. */
export function cloneSubscription(state: SubscriptionState): SubscriptionState {
  return {
    ...state,
    places: new Map(state.places),
    channels: new Map(state.channels),
    deadLetters: new Map(state.deadLetters),
  };
}

const Bit = { lease: 1, replays: 2, error: 4 } as const;

/** Also what the digest sees. */
export function writeSubscription(writer: ByteWriter, state: SubscriptionState): void {
  writer.string(state.uid).string(state.requestId);
  writeSelector(writer, state.selector);
  writeSettings(writer, state.settings);
  writer.u64(state.createTimeUs).u64(state.updateTimeUs).uvarint(state.revision).uvarint(state.version);
  writer.u64(state.fromTimeUs).uvarint(state.nextLease);
  writePlaces(writer, state.places);
  writer.uvarint(state.channels.size);
  for (const [name, channel] of state.channels) writeChannel(writer, name, channel);
  writer.uvarint(state.deadLetters.size);
  for (const { channel, partition, seq, deliveries, timeUs, error } of state.deadLetters.values())
    writer.string(channel).uvarint(partition).uvarint(seq).uvarint(deliveries).u64(timeUs).string(error);
  writer.uvarint(state.deliveredCount).uvarint(state.redeliveredCount).uvarint(state.ackedCount);
  writer.uvarint(state.deadCount).u64(state.progressTimeUs);
  // Absent from the rows of before it was kept.
  if (state.sinceLease > 0) writer.uvarint(state.sinceLease);
}

export function readSubscription(reader: ByteReader, tenant: string, name: string): SubscriptionState {
  const head = {
    tenant,
    name,
    uid: reader.string(),
    requestId: reader.string(),
    selector: readSelector(reader),
    settings: readSettings(reader),
    createTimeUs: reader.u64(),
    updateTimeUs: reader.u64(),
    revision: reader.uvarint(),
    version: reader.uvarint(),
    fromTimeUs: reader.u64(),
    nextLease: reader.uvarint(),
    places: readPlaces(reader),
  };
  const channels = new Map<string, PendingChannel>();
  for (let left = listLength(reader, 20); left > 0; left--)
    channels.set(reader.string(), readChannel(reader));
  const deadLetters = new Map<string, DeadLetter>();
  for (let left = listLength(reader, 13); left > 0; left--) {
    const letter = {
      channel: reader.string(),
      partition: reader.uvarint(),
      seq: reader.uvarint(),
      deliveries: reader.uvarint(),
      timeUs: reader.u64(),
      error: reader.string(),
    };
    deadLetters.set(deadKey(letter.channel, letter.seq), letter);
  }
  const state = {
    ...head,
    channels,
    deadLetters,
    deliveredCount: reader.uvarint(),
    redeliveredCount: reader.uvarint(),
    ackedCount: reader.uvarint(),
    deadCount: reader.uvarint(),
    progressTimeUs: reader.u64(),
    sinceLease: reader.remaining > 0 ? reader.uvarint() : 0,
  };
  reader.end();
  return state;
}

export function writeSelector(writer: ByteWriter, selector: SubscriptionSelector): void {
  writer.uvarint(selector.channels.length);
  for (const name of selector.channels) writer.string(name);
  writer.string(selector.prefix).u8(selector.label === undefined ? 0 : 1);
  if (selector.label !== undefined) writer.string(selector.label[0]).string(selector.label[1]);
  writer.uvarint(selector.types.length);
  for (const type of selector.types) writer.uvarint(type);
}

export function readSelector(reader: ByteReader): SubscriptionSelector {
  const channels = Array.from({ length: listLength(reader, 1) }, () => reader.string());
  const prefix = reader.string();
  const hasLabel = readFlag(reader);
  return {
    channels,
    prefix,
    label: hasLabel ? [reader.string(), reader.string()] : undefined,
    types: Array.from({ length: listLength(reader, 1) }, () => reader.uvarint()),
  };
}

export function writeSettings(writer: ByteWriter, settings: SubscriptionSettings): void {
  writer.string(settings.description).uvarint(settings.ackDeadlineMs).uvarint(settings.maxDeliveries);
  writer
    .uvarint(settings.retryDelayMs)
    .uvarint(settings.maxPendingChannels)
    .u8(settings.paused ? 1 : 0);
}

export function readSettings(reader: ByteReader): SubscriptionSettings {
  return {
    description: reader.string(),
    ackDeadlineMs: reader.uvarint(),
    maxDeliveries: reader.uvarint(),
    retryDelayMs: reader.uvarint(),
    maxPendingChannels: reader.uvarint(),
    paused: readFlag(reader),
  };
}

export function writePlaces(writer: ByteWriter, places: ReadonlyMap<PartitionId, Uint8Array>): void {
  writer.uvarint(places.size);
  for (const [partition, place] of places) writer.uvarint(partition).sized(place);
}

/** Copies: an entry's buffer must not live as long as a place. */
export function readPlaces(reader: ByteReader): Map<PartitionId, Uint8Array> {
  const places = new Map<PartitionId, Uint8Array>();
  for (let left = listLength(reader, 2); left > 0; left--)
    places.set(reader.uvarint(), Uint8Array.from(reader.sized()));
  return places;
}

function writeChannel(writer: ByteWriter, name: string, channel: PendingChannel): void {
  const { lease, replays, error } = channel;
  writer.string(name).uvarint(channel.partition).uvarint(channel.acked).uvarint(channel.to);
  writer.u64(channel.sinceUs).uvarint(channel.deliveries).u64(channel.retryUs);
  writer.u8(
    (lease === undefined ? 0 : Bit.lease) |
      (replays.length === 0 ? 0 : Bit.replays) |
      (error === '' ? 0 : Bit.error),
  );
  if (lease !== undefined)
    writer
      .uvarint(lease.number)
      .string(lease.consumer)
      .uvarint(lease.toSeq)
      .u64(lease.deadlineUs)
      .u8(lease.isReplay ? 1 : 0);
  if (replays.length > 0) {
    writer.uvarint(replays.length);
    for (const { seq, deliveries } of replays) writer.uvarint(seq).uvarint(deliveries);
  }
  if (error !== '') writer.string(error);
}

function readChannel(reader: ByteReader): PendingChannel {
  const head = {
    partition: reader.uvarint(),
    acked: reader.uvarint(),
    to: reader.uvarint(),
    sinceUs: reader.u64(),
    deliveries: reader.uvarint(),
    retryUs: reader.u64(),
  };
  const bits = reader.u8();
  if (bits > 7) throw new MalformedError('a pending channel of unknown form');
  const lease =
    (bits & Bit.lease) === 0
      ? undefined
      : {
          number: reader.uvarint(),
          consumer: reader.string(),
          toSeq: reader.uvarint(),
          deadlineUs: reader.u64(),
          isReplay: readFlag(reader),
        };
  const replays =
    (bits & Bit.replays) === 0
      ? []
      : Array.from({ length: listLength(reader, 2) }, () => ({
          seq: reader.uvarint(),
          deliveries: reader.uvarint(),
        }));
  return { ...head, lease, replays, error: (bits & Bit.error) === 0 ? '' : reader.string() };
}

/** Each item takes at least `minBytes`, so a damaged count can't make us allocate. */
export function listLength(reader: ByteReader, minBytes: number): number {
  const count = reader.uvarint();
  if (count * minBytes > reader.remaining) throw new MalformedError(`a list of ${count}`);
  return count;
}

export function readFlag(reader: ByteReader): boolean {
  const value = reader.u8();
  if (value > 1) throw new MalformedError('flags that are unknown');
  return value === 1;
}
