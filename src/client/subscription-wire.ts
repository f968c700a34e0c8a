/** Durable subscriptions: the protocol's bytes. Field numbers: proto/hansard/v1/subscription_service.proto. */
import { varintSize } from '../common/wire.js';
import { invalid } from './check-input.js';
import { readTimestamp } from './content-decode.js';
import { readEvent } from './event-decode.js';
import { eventTypeNumber, eventTypes, requireChannelName } from './requests.js';
import type { Writable } from './response-parts.js';
import type { Event, EventType } from './types.js';
import { BackWriter } from './wire.js';
import { ProtoReader } from './wire-reader.js';

/** Which events; all that are given must hold, none means all of the tenant. */
export interface SubscriptionSelector {
  readonly channels?: readonly string[];
  readonly prefix?: string;
  readonly label?: { readonly key: string; readonly value: string };
  readonly types?: readonly EventType[];
}

/** What is left out has its default. */
export interface SubscriptionSettings {
  readonly description?: string;
  /** How long a consumer may take for the first event that it has not acknowledged; default 30,000. */
  readonly ackDeadlineMs?: number;
  /** Deliveries after which an event becomes a dead letter; default 10, 0: never. */
  readonly maxDeliveries?: number;
  /** Before an event that failed is delivered again; default 1,000. */
  readonly retryDelayMs?: number;
  /** Channels with events that are taken and not acknowledged; default 1,000, which is also the most. */
  readonly maxPendingChannels?: number;
  /** Nothing is delivered. */
  readonly paused?: boolean;
}

const idles = [
  'delivering',
  'caught-up',
  'paused',
  'consumers-busy',
  'waiting-to-retry',
  'dead-letters-full',
  'no-consumers',
  'reading',
] as const;
/** Why nothing is delivered, as far as the answering node knows. */
export type SubscriptionIdle = (typeof idles)[number];

export interface SubscriptionProgress {
  readonly idle: SubscriptionIdle;
  readonly pendingChannels: number;
  readonly pendingEvents: number;
  readonly leasedChannels: number;
  readonly deadLetters: number;
  readonly caughtUp: boolean;
  /** Age of the oldest event that is taken and not acknowledged; 0: none. */
  readonly oldestPendingMs: number;
  readonly lastProgressTimeUs: number;
  readonly consumers: number;
  readonly delivered: number;
  readonly redelivered: number;
  readonly acknowledged: number;
  readonly deadLettered: number;
  /** Index up to which all was taken, by partition. */
  readonly positions: ReadonlyMap<number, number>;
}

export interface SubscriptionInfo {
  readonly name: string;
  readonly uid: string;
  readonly selector: SubscriptionSelector;
  readonly settings: Required<SubscriptionSettings>;
  readonly createTimeUs: number;
  readonly updateTimeUs: number;
  readonly etag: string;
  readonly progress: SubscriptionProgress;
  readonly partition: number;
}

export interface PendingChannel {
  readonly channel: string;
  readonly acknowledgedSeq: number;
  readonly takenSeq: number;
  readonly deliveries: number;
  /** Empty: nobody has it. */
  readonly consumerId: string;
  readonly deliveredSeq: number;
  readonly deadlineUs: number;
  readonly retryTimeUs: number;
  readonly error: string;
  readonly replayedSeqs: readonly number[];
  readonly sinceUs: number;
}

export interface DeadLetter {
  readonly channel: string;
  readonly seq: number;
  readonly deliveries: number;
  readonly timeUs: number;
  readonly error: string;
}

export interface Start {
  readonly fromBeginning?: boolean | undefined;
  readonly fromTimeUs?: number | undefined;
  readonly resumeToken?: string | undefined;
}

export interface Credit {
  readonly events: number;
  readonly bytes: number;
}

export interface Ack {
  readonly channel: string;
  readonly lease: number;
  readonly seq: number;
}

export interface Nack {
  readonly channel: string;
  readonly lease: number;
  readonly delayMs?: number | undefined;
  readonly untried?: boolean | undefined;
  readonly error?: string | undefined;
}

export interface Extension {
  readonly channel: string;
  readonly lease: number;
  readonly byMs?: number | undefined;
}

const scratch = new BackWriter(4 * 1024);

/** Fields 1 and 2 of every request, written last. */
function named(tenant: string, name: string): Buffer {
  scratch.string(2, name);
  scratch.string(1, tenant);
  return scratch.copy();
}

export function encodeCreateSubscription(
  tenant: string,
  name: string,
  selector: SubscriptionSelector,
  settings: SubscriptionSettings,
  start: Start,
  requestId: string,
): Buffer {
  scratch.reset();
  scratch.string(6, requestId);
  nest(5, () => writeStart(start));
  nest(4, () => writeSettings(settings));
  nest(3, () => writeSelector(selector));
  return named(tenant, name);
}

export function encodeSubscriptionName(tenant: string, name: string): Buffer {
  scratch.reset();
  return named(tenant, name);
}

export function encodeListSubscriptions(
  tenant: string,
  prefix: string | undefined,
  pageToken: string,
): Buffer {
  scratch.reset();
  scratch.string(4, pageToken);
  scratch.string(2, prefix);
  scratch.string(1, tenant);
  return scratch.copy();
}

export function encodeUpdateSubscription(
  tenant: string,
  name: string,
  settings: SubscriptionSettings,
  etag: string | undefined,
  selector: SubscriptionSelector | undefined,
  requestId: string,
): Buffer {
  scratch.reset();
  scratch.string(6, requestId);
  if (selector !== undefined) nest(5, () => writeSelector(selector));
  scratch.string(4, etag);
  nest(3, () => writeSettings(settings));
  return named(tenant, name);
}

export function encodeDeleteSubscription(
  tenant: string,
  name: string,
  etag: string | undefined,
  requestId: string,
): Buffer {
  scratch.reset();
  scratch.string(4, requestId);
  scratch.string(3, etag);
  return named(tenant, name);
}

export function encodeSeekSubscription(
  tenant: string,
  name: string,
  start: Start,
  options: { readonly etag?: string | undefined; readonly dropDeadLetters?: boolean | undefined },
  requestId: string,
): Buffer {
  scratch.reset();
  scratch.string(6, requestId);
  scratch.bool(5, options.dropDeadLetters);
  scratch.string(4, options.etag);
  nest(3, () => writeStart(start));
  return named(tenant, name);
}

export function encodeSubscriptionPage(
  tenant: string,
  name: string,
  pageToken: string,
  pageSize?: number,
): Buffer {
  scratch.reset();
  scratch.string(4, pageToken);
  scratch.uint(3, pageSize);
  return named(tenant, name);
}

export function encodeReplay(
  tenant: string,
  name: string,
  letters: readonly { readonly channel: string; readonly seq: number }[],
  drop: boolean,
  requestId: string,
): Buffer {
  scratch.reset();
  scratch.string(5, requestId);
  scratch.bool(4, drop);
  for (let i = letters.length - 1; i >= 0; i--)
    nest(3, () => {
      scratch.uint(2, letters[i]?.seq);
      scratch.string(1, letters[i]?.channel);
    });
  return named(tenant, name);
}

export function encodeAcknowledge(tenant: string, name: string, acks: readonly Ack[]): Buffer {
  scratch.reset();
  writeEach(3, acks, writeAck);
  return named(tenant, name);
}

export function encodeNegativeAcknowledge(tenant: string, name: string, nacks: readonly Nack[]): Buffer {
  scratch.reset();
  writeEach(3, nacks, writeNack);
  return named(tenant, name);
}

export function encodeExtendDeadline(tenant: string, name: string, extensions: readonly Extension[]): Buffer {
  scratch.reset();
  writeEach(3, extensions, writeExtension);
  return named(tenant, name);
}

export interface ConsumeStart {
  readonly tenant: string;
  readonly name: string;
  readonly consumerId: string;
  readonly credit: Credit;
  readonly held: readonly { readonly lease: number; readonly seq: number }[];
  readonly maxBatch: number;
}

export interface Consume {
  readonly start?: ConsumeStart;
  readonly credit?: Credit | undefined;
  readonly acks?: readonly Ack[];
  readonly nacks?: readonly Nack[];
  readonly extensions?: readonly Extension[];
  readonly leaving?: boolean;
}

export function encodeConsume({ start, credit, acks, nacks, extensions, leaving }: Consume): Buffer {
  scratch.reset();
  scratch.bool(6, leaving);
  writeEach(5, extensions ?? [], writeExtension);
  writeEach(4, nacks ?? [], writeNack);
  writeEach(3, acks ?? [], writeAck);
  if (credit !== undefined) nest(2, () => writeCredit(credit));
  if (start !== undefined)
    nest(1, () => {
      scratch.uint(6, start.maxBatch);
      writeEach(5, start.held, ({ lease, seq }) => {
        scratch.uint(2, seq);
        scratch.uint(1, lease);
      });
      nest(4, () => writeCredit(start.credit));
      scratch.string(3, start.consumerId);
      scratch.string(2, start.name);
      scratch.string(1, start.tenant);
    });
  return scratch.copy();
}

function nest(field: number, write: () => void): void {
  const mark = scratch.length;
  write();
  scratch.nested(field, mark);
}

function writeEach<T>(field: number, items: readonly T[], write: (item: T) => void): void {
  for (let i = items.length - 1; i >= 0; i--) nest(field, () => write(items[i] as T));
}

function writeCredit({ events, bytes }: Credit): void {
  scratch.uint(2, bytes);
  scratch.uint(1, events);
}

function writeAck({ channel, lease, seq }: Ack): void {
  scratch.uint(3, seq);
  scratch.uint(2, lease);
  scratch.string(1, channel);
}

function writeNack({ channel, lease, delayMs, untried, error }: Nack): void {
  scratch.string(5, error);
  scratch.bool(4, untried);
  if (delayMs !== undefined) nest(3, () => writeDuration(delayMs));
  scratch.uint(2, lease);
  scratch.string(1, channel);
}

function writeExtension({ channel, lease, byMs }: Extension): void {
  if (byMs !== undefined) nest(3, () => writeDuration(byMs));
  scratch.uint(2, lease);
  scratch.string(1, channel);
}

function writeDuration(ms: number): void {
  const seconds = Math.floor(ms / 1_000);
  scratch.uint(2, Math.round((ms - seconds * 1_000) * 1e6));
  scratch.uint(1, seconds);
}

function writeSelector({ channels = [], prefix, label, types = [] }: SubscriptionSelector): void {
  for (let i = types.length - 1; i >= 0; i--) scratch.uintAlways(5, eventTypeNumber(types[i]));
  scratch.string(4, label?.value);
  scratch.string(3, label?.key);
  scratch.string(2, prefix);
  for (let i = channels.length - 1; i >= 0; i--) {
    requireChannelName(channels[i] as string);
    scratch.string(1, channels[i]);
  }
}

function writeSettings(settings: SubscriptionSettings): void {
  const { ackDeadlineMs, retryDelayMs, maxDeliveries } = settings;
  scratch.bool(7, settings.paused);
  scratch.uint(6, settings.maxPendingChannels);
  if (retryDelayMs !== undefined) nest(5, () => writeDuration(retryDelayMs));
  scratch.bool(4, maxDeliveries === 0);
  scratch.uint(3, maxDeliveries);
  if (ackDeadlineMs !== undefined) nest(2, () => writeDuration(ackDeadlineMs));
  scratch.string(1, settings.description);
}

function writeStart({ fromBeginning, fromTimeUs, resumeToken }: Start): void {
  if (resumeToken !== undefined) scratch.stringAlways(3, resumeToken);
  else if (fromTimeUs !== undefined) {
    if (!Number.isSafeInteger(fromTimeUs) || fromTimeUs < 0) throw invalid('fromTime', 'must be a time');
    const seconds = Math.floor(fromTimeUs / 1e6);
    nest(2, () => {
      scratch.uint(2, (fromTimeUs - seconds * 1e6) * 1_000);
      scratch.uint(1, seconds);
    });
  } else scratch.bool(1, fromBeginning);
}

// ---- answers

function each(r: ProtoReader, take: (tag: number) => boolean): void {
  for (let tag = r.next(); tag !== 0; tag = r.next()) if (!take(tag)) r.skip();
}

export function readSubscriptionResponse(bytes: Uint8Array): SubscriptionInfo {
  const r = ProtoReader.ofCopy(bytes);
  let found: SubscriptionInfo | undefined;
  each(r, (tag) => {
    if (tag !== 10) return false;
    found = r.message(readSubscription);
    return true;
  });
  return found ?? emptyInfo();
}

export function readSubscriptionPage(bytes: Uint8Array): {
  subscriptions: SubscriptionInfo[];
  nextPageToken: string;
} {
  const r = ProtoReader.ofCopy(bytes);
  const page = { subscriptions: [] as SubscriptionInfo[], nextPageToken: '' };
  each(r, (tag) => {
    if (tag === 10) page.subscriptions.push(r.message(readSubscription));
    else if (tag === 18) page.nextPageToken = r.string();
    else return false;
    return true;
  });
  return page;
}

function emptyInfo(): Writable<SubscriptionInfo> {
  return {
    name: '',
    uid: '',
    selector: {},
    settings: {
      description: '',
      ackDeadlineMs: 0,
      maxDeliveries: 0,
      retryDelayMs: 0,
      maxPendingChannels: 0,
      paused: false,
    },
    createTimeUs: 0,
    updateTimeUs: 0,
    etag: '',
    progress: emptyProgress(),
    partition: 0,
  };
}

function readSubscription(r: ProtoReader): SubscriptionInfo {
  const info = emptyInfo();
  each(r, (tag) => {
    if (tag === 10) info.name = r.string();
    else if (tag === 18) info.uid = r.string();
    else if (tag === 26) info.selector = r.message(readSelector);
    else if (tag === 34) info.settings = r.message(readSettings);
    else if (tag === 42) info.createTimeUs = r.message(readTimestamp);
    else if (tag === 50) info.updateTimeUs = r.message(readTimestamp);
    else if (tag === 58) info.etag = r.string();
    else if (tag === 66) info.progress = r.message(readProgress);
    else if (tag === 72) info.partition = r.uint();
    else return false;
    return true;
  });
  return info;
}

function readSelector(r: ProtoReader): SubscriptionSelector {
  const channels: string[] = [];
  const types: EventType[] = [];
  let prefix = '';
  const label = { key: '', value: '' };
  each(r, (tag) => {
    if (tag === 10) channels.push(r.string());
    else if (tag === 18) prefix = r.string();
    else if (tag === 26) label.key = r.string();
    else if (tag === 34) label.value = r.string();
    else if (tag === 40) types.push(eventTypes[r.uint()] ?? 'unspecified');
    else return false;
    return true;
  });
  return {
    ...(channels.length === 0 ? {} : { channels }),
    ...(prefix === '' ? {} : { prefix }),
    ...(label.key === '' ? {} : { label }),
    ...(types.length === 0 ? {} : { types }),
  };
}

function readSettings(r: ProtoReader): Required<SubscriptionSettings> {
  const settings: Writable<Required<SubscriptionSettings>> = { ...emptyInfo().settings };
  each(r, (tag) => {
    if (tag === 10) settings.description = r.string();
    else if (tag === 18) settings.ackDeadlineMs = r.message(readDuration);
    else if (tag === 24) settings.maxDeliveries = r.uint();
    else if (tag === 42) settings.retryDelayMs = r.message(readDuration);
    else if (tag === 48) settings.maxPendingChannels = r.uint();
    else if (tag === 56) settings.paused = r.bool();
    else return false;
    return true;
  });
  return settings;
}

function readDuration(r: ProtoReader): number {
  let ms = 0;
  each(r, (tag) => {
    if (tag === 8) ms += r.uint() * 1_000;
    else if (tag === 16) ms += r.uint() / 1e6;
    else return false;
    return true;
  });
  return ms;
}

function emptyProgress(): Writable<SubscriptionProgress> {
  return {
    idle: 'delivering',
    pendingChannels: 0,
    pendingEvents: 0,
    leasedChannels: 0,
    deadLetters: 0,
    caughtUp: false,
    oldestPendingMs: 0,
    lastProgressTimeUs: 0,
    consumers: 0,
    delivered: 0,
    redelivered: 0,
    acknowledged: 0,
    deadLettered: 0,
    positions: new Map(),
  };
}

function readProgress(r: ProtoReader): SubscriptionProgress {
  const progress = emptyProgress();
  const positions = new Map<number, number>();
  progress.positions = positions;
  each(r, (tag) => {
    if (tag === 8) progress.idle = idles[r.uint()] ?? 'delivering';
    else if (tag === 16) progress.pendingChannels = r.uint();
    else if (tag === 24) progress.pendingEvents = r.uint();
    else if (tag === 32) progress.leasedChannels = r.uint();
    else if (tag === 40) progress.deadLetters = r.uint();
    else if (tag === 48) progress.caughtUp = r.bool();
    else if (tag === 58) progress.oldestPendingMs = r.message(readDuration);
    else if (tag === 66) progress.lastProgressTimeUs = r.message(readTimestamp);
    else if (tag === 72) progress.consumers = r.uint();
    else if (tag === 80) progress.delivered = r.uint();
    else if (tag === 88) progress.redelivered = r.uint();
    else if (tag === 96) progress.acknowledged = r.uint();
    else if (tag === 104) progress.deadLettered = r.uint();
    else if (tag === 114) positions.set(...r.message(readPosition));
    else return false;
    return true;
  });
  return progress;
}

function readPosition(r: ProtoReader): [number, number] {
  const entry: [number, number] = [0, 0];
  each(r, (tag) => {
    if (tag === 8) entry[0] = r.uint();
    else if (tag === 16) entry[1] = r.uint();
    else return false;
    return true;
  });
  return entry;
}

export function readPendingPage(bytes: Uint8Array): { items: PendingChannel[]; nextPageToken: string } {
  return readItems(bytes, (r) => {
    const replayedSeqs: number[] = [];
    const pending: Writable<PendingChannel> = {
      channel: '',
      acknowledgedSeq: 0,
      takenSeq: 0,
      deliveries: 0,
      consumerId: '',
      deliveredSeq: 0,
      deadlineUs: 0,
      retryTimeUs: 0,
      error: '',
      replayedSeqs,
      sinceUs: 0,
    };
    each(r, (tag) => {
      if (tag === 10) pending.channel = r.string();
      else if (tag === 16) pending.acknowledgedSeq = r.uint();
      else if (tag === 24) pending.takenSeq = r.uint();
      else if (tag === 32) pending.deliveries = r.uint();
      else if (tag === 42) pending.consumerId = r.string();
      else if (tag === 48) pending.deliveredSeq = r.uint();
      else if (tag === 58) pending.deadlineUs = r.message(readTimestamp);
      else if (tag === 66) pending.retryTimeUs = r.message(readTimestamp);
      else if (tag === 74) pending.error = r.string();
      else if (tag === 80) replayedSeqs.push(r.uint());
      else if (tag === 90) pending.sinceUs = r.message(readTimestamp);
      else return false;
      return true;
    });
    return pending;
  });
}

export function readDeadLetterPage(bytes: Uint8Array): { items: DeadLetter[]; nextPageToken: string } {
  return readItems(bytes, (r) => {
    const letter: Writable<DeadLetter> = { channel: '', seq: 0, deliveries: 0, timeUs: 0, error: '' };
    each(r, (tag) => {
      if (tag === 10) letter.channel = r.string();
      else if (tag === 16) letter.seq = r.uint();
      else if (tag === 24) letter.deliveries = r.uint();
      else if (tag === 34) letter.timeUs = r.message(readTimestamp);
      else if (tag === 42) letter.error = r.string();
      else return false;
      return true;
    });
    return letter;
  });
}

function readItems<T>(bytes: Uint8Array, read: (r: ProtoReader) => T): { items: T[]; nextPageToken: string } {
  const r = ProtoReader.ofCopy(bytes);
  const page = { items: [] as T[], nextPageToken: '' };
  each(r, (tag) => {
    if (tag === 10) page.items.push(r.message(read));
    else if (tag === 18) page.nextPageToken = r.string();
    else return false;
    return true;
  });
  return page;
}

export function readCount(bytes: Uint8Array): number {
  const r = ProtoReader.ofCopy(bytes);
  let count = 0;
  each(r, (tag) => {
    if (tag !== 8) return false;
    count = r.uint();
    return true;
  });
  return count;
}

export function readLost(bytes: Uint8Array): number[] {
  return readLeases(ProtoReader.ofCopy(bytes));
}

function readLeases(r: ProtoReader): number[] {
  const leases: number[] = [];
  each(r, (tag) => {
    if (tag !== 8) return false;
    leases.push(r.uint());
    return true;
  });
  return leases;
}

export interface Delivery {
  readonly channel: string;
  readonly channelUid: string;
  readonly lease: number;
  readonly deliveries: number;
  readonly deadlineUs: number;
  readonly replayed: boolean;
  readonly events: readonly Event[];
  /** As the credits count it. */
  readonly bytes: number;
}

export type ConsumeUpdate =
  | { readonly kind: 'delivery'; readonly delivery: Delivery }
  | { readonly kind: 'progress'; readonly progress: SubscriptionProgress }
  | { readonly kind: 'lost'; readonly leases: readonly number[] }
  | { readonly kind: 'unknown' };

export function readConsumeResponse(bytes: Uint8Array): ConsumeUpdate {
  const r = ProtoReader.ofCopy(bytes);
  let update: ConsumeUpdate = { kind: 'unknown' };
  each(r, (tag) => {
    if (tag === 10) update = { kind: 'delivery', delivery: r.message(readDelivery) };
    else if (tag === 18) update = { kind: 'progress', progress: r.message(readProgress) };
    else if (tag === 26) update = { kind: 'lost', leases: r.message(readLeases) };
    else return false;
    return true;
  });
  return update;
}

function readDelivery(r: ProtoReader): Delivery {
  const events: Event[] = [];
  const delivery: Writable<Delivery> = {
    channel: '',
    channelUid: '',
    lease: 0,
    deliveries: 0,
    deadlineUs: 0,
    replayed: false,
    events,
    bytes: 0,
  };
  each(r, (tag) => {
    if (tag === 10) delivery.channel = r.string();
    else if (tag === 18) delivery.channelUid = r.string();
    else if (tag === 24) delivery.lease = r.uint();
    else if (tag === 32) delivery.deliveries = r.uint();
    else if (tag === 42) delivery.deadlineUs = r.message(readTimestamp);
    else if (tag === 48) delivery.replayed = r.bool();
    else if (tag === 58) {
      const before = r.position;
      events.push(r.message(readDeliveredEvent));
      delivery.bytes += withoutLength(r.position - before);
    } else return false;
    return true;
  });
  return delivery;
}

function readDeliveredEvent(r: ProtoReader): Event {
  return readEvent(r);
}

/** Of a field's value with its length before it: the value's bytes. */
function withoutLength(size: number): number {
  for (let prefix = 1; ; prefix++) if (varintSize(size - prefix) <= prefix) return size - prefix;
}
