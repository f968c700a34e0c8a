/**
 * Durable subscriptions (from apply version 4 on): making, changing and deleting them, setting their place, moving their
 * dead letters. What their leader does is in apply-subscription-step.ts.
 */
import type { TimeUs } from '../common/ids.js';
import { applyLimits } from './apply-limits.js';
import { refuse } from './refuse.js';
import {
  absent,
  changed,
  nameProblem,
  selectorProblem,
  settingsProblem,
  startProblem,
  tooLong,
} from './subscription-checks.js';
import type {
  CreateSubscriptionInput,
  DeadLettersInput,
  DeleteSubscriptionInput,
  SeekSubscriptionInput,
  UpdateSubscriptionInput,
} from './subscription-command.js';
import {
  deadKey,
  type PendingChannel,
  type SubscriptionState,
  subscriptionUid,
} from './subscription-state.js';
import type { ApplyState, CommandAnswer } from './types.js';

export function createSubscription(
  state: ApplyState,
  { tenant, name, requestId, selector, settings, ...start }: CreateSubscriptionInput,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const problem =
    nameProblem(tenant, name) ??
    tooLong('request_id', requestId, applyLimits.idBytes) ??
    selectorProblem(selector) ??
    settingsProblem(settings) ??
    startProblem(start);
  if (problem !== undefined) return problem;
  const existing = state.subscription(tenant, name);
  if (existing !== undefined) {
    if (requestId !== '' && existing.requestId === requestId)
      return { kind: 'subscription', subscription: existing };
    return refuse('SUBSCRIPTION_EXISTS', 'a subscription of that name exists', { subscription: name });
  }
  const { meta } = state;
  const count = meta.subscriptionCount ?? 0;
  if (count >= applyLimits.subscriptionsPerPartition)
    return refuse('TOO_MANY_SUBSCRIPTIONS', 'this partition has as many subscriptions as it may', {
      partition: meta.partition,
      limit: applyLimits.subscriptionsPerPartition,
    });
  // Commit time may stand still: what was said under a uid or lease of an earlier life of the name counts for nothing here.
  const number = Math.max(commitTimeUs, meta.nextSubscription ?? 0);
  const subscription: SubscriptionState = {
    tenant,
    name,
    uid: subscriptionUid(meta.partition, number),
    requestId,
    selector,
    settings,
    createTimeUs: commitTimeUs,
    updateTimeUs: commitTimeUs,
    revision: 1,
    version: 1,
    fromTimeUs: start.fromTimeUs,
    nextLease: number,
    sinceLease: 0,
    places: new Map(start.places),
    channels: new Map(),
    deadLetters: new Map(),
    deliveredCount: 0,
    redeliveredCount: 0,
    ackedCount: 0,
    deadCount: 0,
    progressTimeUs: commitTimeUs,
  };
  meta.subscriptionCount = count + 1;
  meta.nextSubscription = number + 1;
  state.putSubscription(subscription);
  return { kind: 'subscription', subscription };
}

export function updateSubscription(
  state: ApplyState,
  { tenant, name, expected, settings, reselect }: UpdateSubscriptionInput,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const problem =
    settingsProblem(settings) ??
    (reselect === undefined ? undefined : (selectorProblem(reselect.selector) ?? startProblem(reselect))) ??
    absent(state, tenant, name, expected);
  if (problem !== undefined) return problem;
  const subscription = changed(state, tenant, name);
  subscription.settings = settings;
  if (reselect !== undefined) {
    subscription.selector = reselect.selector;
    // Where it stands already it goes on from there.
    for (const [partition, place] of reselect.places)
      if (!subscription.places.has(partition)) subscription.places.set(partition, place);
  }
  subscription.revision++;
  subscription.updateTimeUs = commitTimeUs;
  return { kind: 'subscription', subscription };
}

export function deleteSubscription(
  state: ApplyState,
  { tenant, name, expected }: DeleteSubscriptionInput,
): CommandAnswer {
  const problem = absent(state, tenant, name, expected);
  if (problem !== undefined) return problem;
  const { meta } = state;
  meta.subscriptionCount = (meta.subscriptionCount ?? 1) - 1;
  const { nextLease } = state.subscription(tenant, name) as SubscriptionState;
  meta.nextSubscription = Math.max(meta.nextSubscription ?? 0, nextLease);
  state.deleteSubscription(tenant, name);
  return { kind: 'done' };
}

/**
 * All that is pending is forgotten: it is delivered again where the new place is before it. Dead letters are kept, also those
 * that were to be delivered again: the new place may be behind them.
 */
export function seekSubscription(
  state: ApplyState,
  { tenant, name, expected, dropDeadLetters, ...start }: SeekSubscriptionInput,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const problem = startProblem(start) ?? absent(state, tenant, name, expected);
  if (problem !== undefined) return problem;
  const subscription = changed(state, tenant, name);
  subscription.places.clear();
  for (const [partition, place] of start.places) subscription.places.set(partition, place);
  subscription.fromTimeUs = start.fromTimeUs;
  if (dropDeadLetters) subscription.deadLetters.clear();
  else
    for (const [channel, pending] of subscription.channels)
      putBack(subscription, channel, pending, commitTimeUs);
  subscription.channels.clear();
  subscription.sinceLease = subscription.nextLease;
  subscription.revision++;
  subscription.updateTimeUs = commitTimeUs;
  return { kind: 'subscription', subscription };
}

/** Perhaps more than there may be: no further ones are made until there is room. */
function putBack(
  { deadLetters }: SubscriptionState,
  channel: string,
  { partition, replays }: PendingChannel,
  timeUs: TimeUs,
): void {
  const error = 'the place was set anew before it was delivered again';
  for (const { seq, deliveries } of replays) {
    const key = deadKey(channel, seq);
    // The oldest are first.
    deadLetters.delete(key);
    deadLetters.set(key, { channel, partition, seq, deliveries, timeUs, error });
  }
}

export function moveDeadLetters(
  state: ApplyState,
  { tenant, name, replay, letters }: DeadLettersInput,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const problem = absent(state, tenant, name, undefined);
  if (problem !== undefined) return problem;
  const subscription = changed(state, tenant, name);
  const keys =
    letters.length > 0
      ? letters.map(({ channel, seq }) => deadKey(channel, seq))
      : [...subscription.deadLetters.keys()];
  let count = 0;
  for (const key of keys) {
    if (replay ? replayLetter(subscription, key, commitTimeUs) : subscription.deadLetters.delete(key))
      count++;
  }
  return { kind: 'deadLettersMoved', count };
}

/** False where it is not there, or as many wait as may. */
function replayLetter(subscription: SubscriptionState, key: string, commitTimeUs: TimeUs): boolean {
  const letter = subscription.deadLetters.get(key);
  if (letter === undefined) return false;
  const { channel: name, partition, seq } = letter;
  const pending = subscription.channels.get(name);
  if (pending === undefined && subscription.channels.size >= applyLimits.pendingChannels) return false;
  if ((pending?.replays.length ?? 0) >= applyLimits.replaysPerChannel) return false;
  const known = pending ?? {
    partition,
    acked: seq,
    to: seq,
    sinceUs: commitTimeUs,
    deliveries: 0,
    retryUs: 0,
    error: '',
    replays: [],
    lease: undefined,
  };
  const replays = [...known.replays, { seq, deliveries: 0 }].sort((a, b) => a.seq - b.seq);
  subscription.channels.set(name, { ...known, replays });
  subscription.deadLetters.delete(key);
  return true;
}
