/** Durable subscriptions as JSON: as commands show them, and as an export keeps them. */
import type { CreateSubscriptionOptions, SubscriptionInfo } from '../client/index.js';
import { HansardError } from '../common/errors.js';
import { formatTime } from './times.js';

export interface SubscriptionRecord {
  readonly subscription: string;
  readonly selector: {
    readonly channels: readonly string[];
    readonly prefix: string;
    readonly label: { readonly key: string; readonly value: string } | null;
    readonly types: NonNullable<SubscriptionInfo['selector']['types']>;
  };
  readonly settings: {
    readonly description: string;
    readonly ack_deadline_seconds: number;
    readonly max_deliveries: number;
    readonly retry_delay_seconds: number;
    readonly max_pending_channels: number;
    readonly paused: boolean;
  };
}

/** What it is, without how far it is. */
export function subscriptionRecord({ name, selector, settings }: SubscriptionInfo): SubscriptionRecord {
  return {
    subscription: name,
    selector: {
      channels: selector.channels ?? [],
      prefix: selector.prefix ?? '',
      label: selector.label ?? null,
      types: selector.types ?? [],
    },
    settings: {
      description: settings.description,
      ack_deadline_seconds: settings.ackDeadlineMs / 1_000,
      max_deliveries: settings.maxDeliveries,
      retry_delay_seconds: settings.retryDelayMs / 1_000,
      max_pending_channels: settings.maxPendingChannels,
      paused: settings.paused,
    },
  };
}

/** How to make it again; the SDK looks at what the fields hold. Throws INVALID_ARGUMENT where they are of another form. */
export function recreationOf(record: unknown): { name: string; options: CreateSubscriptionOptions } {
  if (!isRecord(record))
    throw new HansardError('INVALID_ARGUMENT', 'a subscription of the export is not in its form', {
      field: 'subscriptions',
    });
  const { subscription, selector, settings } = record;
  const { channels, prefix, label, types } = selector;
  return {
    name: subscription,
    options: {
      ...(channels.length === 0 ? {} : { channels }),
      ...(prefix === '' ? {} : { prefix }),
      ...(label === null ? {} : { label }),
      ...(types.length === 0 ? {} : { types }),
      description: settings.description,
      ackDeadlineMs: settings.ack_deadline_seconds * 1_000,
      maxDeliveries: settings.max_deliveries,
      retryDelayMs: settings.retry_delay_seconds * 1_000,
      maxPendingChannels: settings.max_pending_channels,
    },
  };
}

/** As far as is needed to hand it to the SDK; a selector without its fields would be one of all channels. */
function isRecord(record: unknown): record is SubscriptionRecord {
  if (!isFields(record)) return false;
  const { subscription, selector, settings } = record;
  if (typeof subscription !== 'string' || !isFields(selector) || !isFields(settings)) return false;
  const { channels, prefix, label, types } = selector;
  return (
    Array.isArray(channels) && typeof prefix === 'string' && typeof label === 'object' && Array.isArray(types)
  );
}

function isFields(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

export function subscriptionJson(info: SubscriptionInfo): object {
  const { progress } = info;
  const { subscription, selector, settings } = subscriptionRecord(info);
  return {
    subscription,
    uid: info.uid,
    partition: info.partition,
    etag: info.etag,
    create_time: formatTime(info.createTimeUs),
    update_time: formatTime(info.updateTimeUs),
    selector,
    settings,
    progress: {
      state: progress.idle,
      consumers: progress.consumers,
      caught_up: progress.caughtUp,
      pending_channels: progress.pendingChannels,
      pending_events: progress.pendingEvents,
      leased_channels: progress.leasedChannels,
      lag_seconds: progress.oldestPendingMs / 1_000,
      dead_letters: progress.deadLetters,
      last_progress_time: formatTime(progress.lastProgressTimeUs),
      delivered: progress.delivered,
      redelivered: progress.redelivered,
      acknowledged: progress.acknowledged,
      dead_lettered: progress.deadLettered,
      positions: Object.fromEntries(progress.positions),
    },
  };
}
