/** What commands on durable subscriptions are held against: names, bounds, and whether what they are about is as they expect it. */
import { channelNameProblem, isTenantName } from '../common/names.js';
import { applyLimits } from './apply-limits.js';
import { refuse } from './refuse.js';
import type { ExpectedSubscription, SubscriptionStart } from './subscription-command.js';
import type { SubscriptionSelector, SubscriptionSettings, SubscriptionState } from './subscription-state.js';
import type { ApplyState, Refused } from './types.js';

/** Called behind `absent`. */
export function changed(state: ApplyState, tenant: string, name: string): SubscriptionState {
  const subscription = state.subscriptionToChange(tenant, name) as SubscriptionState;
  subscription.version++;
  return subscription;
}

export function absent(
  state: ApplyState,
  tenant: string,
  name: string,
  expected: ExpectedSubscription | undefined,
): Refused | undefined {
  const existing = state.subscription(tenant, name);
  if (existing === undefined) return notFound(name);
  if (expected === undefined || (expected.uid === existing.uid && expected.revision === existing.revision))
    return undefined;
  return refuse('SUBSCRIPTION_CHANGED', 'the subscription has changed meanwhile', {
    subscription: name,
    revision: existing.revision,
  });
}

export function notFound(name: string): Refused {
  return refuse('SUBSCRIPTION_NOT_FOUND', 'there is no subscription of that name', { subscription: name });
}

export function nameProblem(tenant: string, name: string): Refused | undefined {
  if (!isTenantName(tenant))
    return refuse('INVALID_NAME', 'a tenant name is not allowed', { field: 'tenant' });
  if (channelNameProblem(name, applyLimits.subscriptionNameBytes) === undefined) return undefined;
  return refuse('INVALID_NAME', 'a subscription has a name of 1 to 128 bytes without control characters', {
    field: 'subscription',
  });
}

export function selectorProblem({
  channels,
  prefix,
  label,
  types,
}: SubscriptionSelector): Refused | undefined {
  const { selectedChannels, selectedTypes, channelNameBytes, channelTextBytes } = applyLimits;
  if (channels.length > selectedChannels || types.length > selectedTypes)
    return refuse('INVALID_ARGUMENT', 'the subscription names too many channels or types', {
      field: 'selector',
    });
  for (const text of [...channels, prefix]) {
    const problem = tooLong('selector', text, channelNameBytes);
    if (problem !== undefined) return problem;
  }
  return tooLong('label', `${label?.[0] ?? ''}${label?.[1] ?? ''}`, 2 * channelTextBytes);
}

export function settingsProblem(settings: SubscriptionSettings): Refused | undefined {
  const { ackDeadlineMs, maxDeliveries, retryDelayMs, maxPendingChannels, description } = settings;
  const bounds = [
    ['ack_deadline', ackDeadlineMs, applyLimits.ackDeadlineMsMin, applyLimits.ackDeadlineMsMax],
    ['max_deliveries', maxDeliveries, 0, applyLimits.maxDeliveriesMax],
    ['retry_delay', retryDelayMs, 0, applyLimits.retryDelayMsMax],
    ['max_pending_channels', maxPendingChannels, 1, applyLimits.pendingChannels],
  ] as const;
  for (const [field, value, min, max] of bounds) {
    if (value < min || value > max)
      return refuse('INVALID_ARGUMENT', `${field} is out of its range`, { field, value, min, max });
  }
  return tooLong('description', description, applyLimits.subscriptionTextBytes);
}

export function startProblem({ places }: Pick<SubscriptionStart, 'places'>): Refused | undefined {
  for (const place of places.values()) {
    if (place.length > applyLimits.placeBytes)
      return refuse('INVALID_ARGUMENT', 'a place is too long', { field: 'places' });
  }
  return undefined;
}

export function tooLong(field: string, text: string, limit: number): Refused | undefined {
  if (Buffer.byteLength(text) <= limit) return undefined;
  return refuse('INVALID_ARGUMENT', `${field} is longer than ${limit} bytes`, { field, limit });
}
