/** Durable subscriptions as the API shows them, and what requests say of them. */
import { ByteReader } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import type { PartitionId, TimeUs } from '../common/ids.js';
import { limits } from '../common/limits.js';
import { channelNameProblem } from '../common/names.js';
import { WireReader } from '../common/wire.js';
import type { ExpectedSubscription } from '../conversation/subscription-command.js';
import type {
  PendingChannel,
  SubscriptionSelector,
  SubscriptionSettings,
  SubscriptionState,
} from '../conversation/subscription-state.js';
import { twoTexts } from './channel-message.js';
import type { FeedFilter } from './feed.js';
import { readPlace } from './feed-place.js';
import { invalidArgument, invalidName, takeChannelName, takeTenant } from './names.js';
import { toTimestamp } from './requests.js';

export interface DurationMessage {
  seconds: string;
  nanos: number;
}

export interface SelectorMessage {
  channels: string[];
  prefix: string;
  label_key: string;
  label_value: string;
  types: number[];
}

export interface SettingsMessage {
  description: string;
  ack_deadline: DurationMessage | null;
  max_deliveries: number;
  never_dead: boolean;
  retry_delay: DurationMessage | null;
  max_pending_channels: number;
  paused: boolean;
}

/** Numbers of hansard.v1.SubscriptionIdle. */
export const Idle = {
  unspecified: 0,
  caughtUp: 1,
  paused: 2,
  consumersBusy: 3,
  waitingToRetry: 4,
  deadLettersFull: 5,
  noConsumers: 6,
  reading: 7,
} as const;
export type Idle = (typeof Idle)[keyof typeof Idle];

const defaults = Object.freeze({
  ackDeadlineMs: 30_000,
  maxDeliveries: 10,
  retryDelayMs: 1_000,
  maxPendingChannels: 1_000,
});

export interface SubscriptionName {
  readonly tenant: string;
  readonly name: string;
}

/** Fields 1 and 2 of all requests. */
export function takeSubscription(request: Buffer): SubscriptionName {
  const { first, second } = twoTexts(new WireReader(request));
  return {
    tenant: takeTenant(request, first[0], first[1]),
    name: takeChannelName(request, second[0], second[1], 'name'),
  };
}

/** Field 1 of a request on many of them. */
export function takeTenantOf(request: Buffer): string {
  const { first } = twoTexts(new WireReader(request));
  return takeTenant(request, first[0], first[1]);
}

export function selectorOf(message: SelectorMessage | null): SubscriptionSelector {
  if (message === null) return { channels: [], prefix: '', label: undefined, types: [] };
  const { channels, prefix, label_key, label_value, types } = message;
  if (label_key === '' && label_value !== '')
    throw invalidArgument('selector.label_value', 'without a label_key');
  for (const [i, name] of channels.entries()) {
    const problem = channelNameProblem(name);
    if (problem !== undefined) throw invalidName(`selector.channels[${i}]`, problem);
  }
  const prefixProblem = prefix === '' ? undefined : channelNameProblem(prefix);
  if (prefixProblem !== undefined) throw invalidName('selector.prefix', prefixProblem);
  if (types.some((type) => type === 0)) throw invalidArgument('selector.types', 'a type that is no type');
  return {
    channels: [...new Set(channels)],
    prefix,
    label: label_key === '' ? undefined : [label_key, label_value],
    types: [...new Set(types)],
  };
}

export function settingsOf(message: SettingsMessage | null): SubscriptionSettings {
  if (message === null) return { description: '', paused: false, ...defaults };
  const { max_deliveries, never_dead } = message;
  if (never_dead && max_deliveries > 0)
    throw invalidArgument('settings.never_dead', 'with max_deliveries it says two things');
  return {
    description: message.description,
    ackDeadlineMs: millisecondsOf(message.ack_deadline, 'settings.ack_deadline') ?? defaults.ackDeadlineMs,
    maxDeliveries: never_dead ? 0 : max_deliveries === 0 ? defaults.maxDeliveries : max_deliveries,
    retryDelayMs: millisecondsOf(message.retry_delay, 'settings.retry_delay') ?? defaults.retryDelayMs,
    maxPendingChannels:
      message.max_pending_channels === 0 ? defaults.maxPendingChannels : message.max_pending_channels,
    paused: message.paused,
  };
}

export function subscriptionNotFound({ tenant, name }: SubscriptionName): HansardError {
  return new HansardError('SUBSCRIPTION_NOT_FOUND', `tenant ${tenant} has no subscription ${name}`, {
    tenant,
    subscription: name,
  });
}

export function filterOfSelector(
  tenant: string,
  { channels, prefix, label, types }: SubscriptionSelector,
  fromTimeUs: TimeUs,
): FeedFilter {
  return {
    tenant,
    names: channels.length === 0 ? undefined : new Set(channels),
    prefix,
    label,
    types: types.length === 0 ? undefined : new Set(types),
    fromTimeUs,
  };
}

/** Undefined: none given. */
export function millisecondsOf(duration: DurationMessage | null, field: string): number | undefined {
  if (duration === null) return undefined;
  const ms = Math.round(Number(duration.seconds) * 1_000 + duration.nanos / 1e6);
  if (ms < 0 || ms > limits.subscriptionDelayMs)
    throw invalidArgument(field, `must be 0 to ${limits.subscriptionDelayMs / 1_000} seconds`);
  return ms;
}

export function etagOf({ uid, revision }: Pick<SubscriptionState, 'uid' | 'revision'>): string {
  return `${uid}-${revision}`;
}

export function expectedOf(etag: string): ExpectedSubscription | undefined {
  if (etag === '') return undefined;
  const match = /^(s[0-9a-f]{1,40})-(\d{1,15})$/.exec(etag);
  if (match === null) throw invalidArgument('etag', 'not made by this service');
  return { uid: match[1] as string, revision: Number(match[2]) };
}

/** What only the leader that serves consumers knows. */
export interface LiveProgress {
  readonly idle: Idle;
  readonly caughtUp: boolean;
  readonly consumers: number;
}

export function subscriptionMessage(
  state: Readonly<SubscriptionState>,
  partition: PartitionId,
  live: LiveProgress,
  nowUs: TimeUs,
): object {
  const { selector, settings } = state;
  return {
    name: state.name,
    uid: state.uid,
    selector: {
      channels: selector.channels,
      prefix: selector.prefix,
      label_key: selector.label?.[0] ?? '',
      label_value: selector.label?.[1] ?? '',
      types: selector.types,
    },
    settings: {
      description: settings.description,
      ack_deadline: toDuration(settings.ackDeadlineMs),
      max_deliveries: settings.maxDeliveries,
      never_dead: settings.maxDeliveries === 0,
      retry_delay: toDuration(settings.retryDelayMs),
      max_pending_channels: settings.maxPendingChannels,
      paused: settings.paused,
    },
    create_time: toTimestamp(state.createTimeUs),
    update_time: toTimestamp(state.updateTimeUs),
    etag: etagOf(state),
    progress: progressMessage(state, live, nowUs),
    partition,
  };
}

export function progressMessage(
  state: Readonly<SubscriptionState>,
  { idle, caughtUp, consumers }: LiveProgress,
  nowUs: TimeUs,
): object {
  const sums = sumsOf(state);
  const positions: Record<number, number> = {};
  for (const [partition, place] of state.places)
    positions[partition] = readPlace(new ByteReader(place)).index;
  return {
    idle,
    pending_channels: state.channels.size,
    pending_events: sums.events,
    leased_channels: sums.leased,
    dead_letters: state.deadLetters.size,
    caught_up: caughtUp,
    oldest_pending: toDuration(sums.sinceUs === 0 ? 0 : Math.max(0, nowUs - sums.sinceUs) / 1_000),
    last_progress_time: toTimestamp(state.progressTimeUs),
    consumers,
    delivered: state.deliveredCount,
    redelivered: state.redeliveredCount,
    acknowledged: state.ackedCount,
    dead_lettered: state.deadCount,
    positions,
  };
}

export interface PendingSums {
  events: number;
  leased: number;
  /** 0: nothing is pending. */
  sinceUs: TimeUs;
}

export function sumsOf(state: Readonly<SubscriptionState>): PendingSums {
  const sums: PendingSums = { events: 0, leased: 0, sinceUs: 0 };
  for (const channel of state.channels.values()) {
    sums.events += channel.to - channel.acked + channel.replays.length;
    if (channel.lease !== undefined) sums.leased++;
    if (sums.sinceUs === 0 || channel.sinceUs < sums.sinceUs) sums.sinceUs = channel.sinceUs;
  }
  return sums;
}

export function pendingMessage(name: string, pending: PendingChannel): object {
  const { lease } = pending;
  return {
    channel: name,
    acknowledged_seq: pending.acked,
    taken_seq: pending.to,
    deliveries: pending.replays[0]?.deliveries ?? pending.deliveries,
    consumer_id: lease?.consumer ?? '',
    delivered_seq: lease?.toSeq ?? 0,
    deadline: lease === undefined ? null : toTimestamp(lease.deadlineUs),
    retry_time: pending.retryUs === 0 ? null : toTimestamp(pending.retryUs),
    error: pending.error,
    replayed_seqs: pending.replays.map(({ seq }) => seq),
    since: toTimestamp(pending.sinceUs),
  };
}

function toDuration(ms: number): { seconds: number; nanos: number } {
  const whole = Math.floor(ms);
  const seconds = Math.floor(whole / 1_000);
  return { seconds, nanos: (whole - seconds * 1_000) * 1e6 };
}
