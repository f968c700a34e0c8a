/** Requests about durable subscriptions, as bytes. Field numbers: proto/hansard/v1/subscription_service.proto. */
import { invalid } from './check-input.js';
import { eventTypeNumber, requireChannelName } from './requests.js';
import type {
  Ack,
  Credit,
  Extension,
  Nack,
  Start,
  SubscriptionSelector,
  SubscriptionSettings,
} from './subscription-types.js';
import { BackWriter } from './wire.js';

export const scratch = new BackWriter(4 * 1024);

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

export function nest(field: number, write: () => void): void {
  const mark = scratch.length;
  write();
  scratch.nested(field, mark);
}

export function writeEach<T>(field: number, items: readonly T[], write: (item: T) => void): void {
  for (let i = items.length - 1; i >= 0; i--) nest(field, () => write(items[i] as T));
}

export function writeCredit({ events, bytes }: Credit): void {
  scratch.uint(2, bytes);
  scratch.uint(1, events);
}

export function writeAck({ channel, lease, seq }: Ack): void {
  scratch.uint(3, seq);
  scratch.uint(2, lease);
  scratch.string(1, channel);
}

export function writeNack({ channel, lease, delayMs, untried, error }: Nack): void {
  scratch.string(5, error);
  scratch.bool(4, untried);
  if (delayMs !== undefined) nest(3, () => writeDuration(delayMs));
  scratch.uint(2, lease);
  scratch.string(1, channel);
}

export function writeExtension({ channel, lease, byMs }: Extension): void {
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
