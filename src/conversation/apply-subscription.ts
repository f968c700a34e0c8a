/**
 * Durable subscriptions (from apply version 4 on). Who reads events, and who is connected, is not known here: the
 * leader proposes steps, each on the very state that it saw (`version`), and what is out of date does nothing.
 *
 * Of each channel the events in (acked, to] are taken and not acknowledged. One lease at a time covers the first of
 * them, so that no two consumers have the same channel; what is given back begins again at acked + 1.
 */
import type { Seq, TimeUs } from '../common/ids.js';
import { channelNameProblem, isTenantName } from '../common/names.js';
import { applyLimits } from './apply-limits.js';
import { refuse } from './refuse.js';
import type {
  CreateSubscriptionInput,
  DeadLettersInput,
  DeleteSubscriptionInput,
  ExpectedSubscription,
  SeekSubscriptionInput,
  StepInput,
  StepOp,
  SubscriptionStart,
  TakenRange,
  UpdateSubscriptionInput,
} from './subscription-command.js';
import {
  deadKey,
  type Lease,
  type PendingChannel,
  type SubscriptionSelector,
  type SubscriptionSettings,
  type SubscriptionState,
} from './subscription-state.js';
import type { ApplyState, CommandAnswer, Refused } from './types.js';

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
  const subscription: SubscriptionState = {
    tenant,
    name,
    uid: `s${meta.partition.toString(16).padStart(4, '0')}${commitTimeUs.toString(16).padStart(14, '0')}`,
    requestId,
    selector,
    settings,
    createTimeUs: commitTimeUs,
    updateTimeUs: commitTimeUs,
    revision: 1,
    version: 1,
    fromTimeUs: start.fromTimeUs,
    // Above all leases of an earlier life of the name: what was said under them counts for nothing here.
    nextLease: commitTimeUs,
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
  state.putSubscription(subscription);
  return { kind: 'subscription', subscription };
}

export function updateSubscription(
  state: ApplyState,
  { tenant, name, expected, settings }: UpdateSubscriptionInput,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const problem = settingsProblem(settings) ?? absent(state, tenant, name, expected);
  if (problem !== undefined) return problem;
  const subscription = changed(state, tenant, name);
  subscription.settings = settings;
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
  state.meta.subscriptionCount = (state.meta.subscriptionCount ?? 1) - 1;
  state.deleteSubscription(tenant, name);
  return { kind: 'done' };
}

/** All that is pending is forgotten: it is delivered again where the new place is before it. */
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
  subscription.channels.clear();
  if (dropDeadLetters) subscription.deadLetters.clear();
  subscription.revision++;
  subscription.updateTimeUs = commitTimeUs;
  return { kind: 'subscription', subscription };
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

/** Refused as a whole where anything has changed since the leader looked: it looks again. */
export function applyStep(
  state: ApplyState,
  { tenant, name, uid, version, ops }: StepInput,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const existing = state.subscription(tenant, name);
  if (existing === undefined) return notFound(name);
  if (existing.uid !== uid || existing.version !== version)
    return refuse('SUBSCRIPTION_CHANGED', 'the subscription has changed meanwhile', {
      subscription: name,
      version: existing.version,
    });
  if (ops.length > applyLimits.opsPerStep)
    return refuse('INVALID_ARGUMENT', 'too many steps at once', {
      field: 'ops',
      limit: applyLimits.opsPerStep,
    });
  const subscription = changed(state, tenant, name);
  const results = ops.map((op) => applyOp(subscription, op, commitTimeUs));
  return { kind: 'stepped', results, version: subscription.version };
}

function applyOp(subscription: SubscriptionState, op: StepOp, commitTimeUs: TimeUs): number {
  if (op.kind === 'take') return take(subscription, op);
  const channel = subscription.channels.get(op.channel);
  if (channel === undefined) return 0;
  if (op.kind === 'lease') return grant(subscription, channel, op, commitTimeUs);
  if (op.kind === 'bury') return bury(subscription, channel, op, commitTimeUs);
  if (op.kind === 'skip') return skip(subscription, channel, op);
  const { lease } = channel;
  if (lease === undefined || lease.number !== op.lease) return 0;
  switch (op.kind) {
    case 'ack':
      return acknowledge(subscription, channel, op, commitTimeUs);
    case 'nack':
      put(subscription, op.channel, {
        ...(op.counted ? channel : uncounted(channel, lease)),
        lease: undefined,
        retryUs:
          op.delayMs === 0 ? 0 : commitTimeUs + Math.min(op.delayMs, applyLimits.retryDelayMsMax) * 1_000,
        error: op.counted ? cut(op.error) : channel.error,
      });
      return 1;
    case 'extend': {
      const byMs = Math.min(op.byMs, applyLimits.ackDeadlineMsMax);
      put(subscription, op.channel, {
        ...channel,
        lease: { ...lease, deadlineUs: commitTimeUs + byMs * 1_000 },
      });
      return 1;
    }
    case 'expire':
      if (lease.deadlineUs > commitTimeUs) return 0;
      put(subscription, op.channel, {
        ...channel,
        lease: undefined,
        retryUs: commitTimeUs + subscription.settings.retryDelayMs * 1_000,
        error: 'no acknowledgement before the deadline',
      });
      return 1;
  }
}

/** Order is the leader's duty: ranges of a channel come ascending. What is already taken or done is cut off. */
function take(
  subscription: SubscriptionState,
  { partition, place, ranges }: Extract<StepOp, { kind: 'take' }>,
): number {
  if (!subscription.places.has(partition) || place.length > applyLimits.placeBytes) return 0;
  if (!ranges.every(isRange)) return 0;
  const fresh = ranges.filter(({ channel }) => !subscription.channels.has(channel));
  if (subscription.channels.size + fresh.length > applyLimits.pendingChannels) return 0;
  subscription.places.set(partition, place);
  for (const { channel: name, firstSeq, lastSeq, sinceUs } of ranges) {
    const pending = subscription.channels.get(name);
    if (pending === undefined) {
      subscription.channels.set(name, {
        partition,
        acked: firstSeq - 1,
        to: lastSeq,
        sinceUs,
        deliveries: 0,
        retryUs: 0,
        error: '',
        replays: [],
        lease: undefined,
      });
    } else if (pending.acked === pending.to) {
      // Nothing of it was pending but dead letters that are delivered again: behind a seek they say nothing of where it stands.
      subscription.channels.set(name, { ...pending, acked: firstSeq - 1, to: lastSeq });
    } else if (lastSeq > pending.to) {
      subscription.channels.set(name, { ...pending, to: lastSeq });
    }
  }
  return 1;
}

function isRange({ channel, firstSeq, lastSeq }: TakenRange): boolean {
  return firstSeq > 0 && firstSeq <= lastSeq && Buffer.byteLength(channel) <= applyLimits.channelNameBytes;
}

function grant(
  subscription: SubscriptionState,
  channel: PendingChannel,
  { channel: name, consumer, toSeq }: Extract<StepOp, { kind: 'lease' }>,
  commitTimeUs: TimeUs,
): number {
  const { lease, replays } = channel;
  const [replay] = replays;
  if (lease !== undefined) {
    // More of the same channel for who has it; a dead letter is delivered alone, and before them.
    const isMore = lease.consumer === consumer && toSeq > lease.toSeq && toSeq <= channel.to;
    if (!isMore || replay !== undefined) return 0;
    subscription.channels.set(name, { ...channel, lease: { ...lease, toSeq } });
    return lease.number;
  }
  if (!isNext(channel, toSeq) || consumer === '' || Buffer.byteLength(consumer) > applyLimits.idBytes)
    return 0;
  if (channel.retryUs > commitTimeUs) return 0;
  const number = subscription.nextLease++;
  const deadlineUs = commitTimeUs + subscription.settings.ackDeadlineMs * 1_000;
  const before = deliveriesOf(channel);
  put(subscription, name, {
    ...withDeliveries(channel, before + 1),
    lease: { number, consumer, toSeq, deadlineUs, isReplay: replay !== undefined },
  });
  if (before > 0 || replay !== undefined) subscription.redeliveredCount++;
  else subscription.deliveredCount++;
  return number;
}

function acknowledge(
  subscription: SubscriptionState,
  channel: PendingChannel,
  { channel: name, seq, nextUs }: Extract<StepOp, { kind: 'ack' }>,
  commitTimeUs: TimeUs,
): number {
  const lease = channel.lease as Lease;
  const answered = { ...channel, retryUs: 0, error: '' };
  if (lease.isReplay) {
    if (seq !== lease.toSeq) return 0;
    subscription.ackedCount++;
    put(subscription, name, { ...answered, lease: undefined, replays: without(channel, seq) });
  } else {
    if (seq <= channel.acked || seq > lease.toSeq) return 0;
    subscription.ackedCount += seq - channel.acked;
    const isAll = seq === lease.toSeq;
    const deadlineUs = commitTimeUs + subscription.settings.ackDeadlineMs * 1_000;
    put(subscription, name, {
      ...answered,
      acked: seq,
      sinceUs: Math.max(channel.sinceUs, nextUs),
      // What follows of the same lease was delivered once.
      deliveries: isAll ? 0 : 1,
      lease: isAll ? undefined : { ...lease, deadlineUs },
    });
  }
  subscription.progressTimeUs = commitTimeUs;
  return 1;
}

function bury(
  subscription: SubscriptionState,
  channel: PendingChannel,
  { channel: name, seq }: Extract<StepOp, { kind: 'bury' }>,
  commitTimeUs: TimeUs,
): number {
  const { maxDeliveries } = subscription.settings;
  const deliveries = deliveriesOf(channel);
  if (channel.lease !== undefined || !isNext(channel, seq)) return 0;
  if (maxDeliveries === 0 || deliveries < maxDeliveries) return 0;
  const key = deadKey(name, seq);
  if (subscription.deadLetters.size >= applyLimits.deadLetters && !subscription.deadLetters.has(key))
    return 0;
  const { partition, error } = channel;
  subscription.deadLetters.set(key, {
    channel: name,
    partition,
    seq,
    deliveries,
    timeUs: commitTimeUs,
    error,
  });
  subscription.deadCount++;
  subscription.progressTimeUs = commitTimeUs;
  pass(subscription, name, channel, seq);
  return 1;
}

function skip(
  subscription: SubscriptionState,
  channel: PendingChannel,
  { channel: name, seq }: Extract<StepOp, { kind: 'skip' }>,
): number {
  if (channel.lease !== undefined || !isNext(channel, seq)) return 0;
  pass(subscription, name, channel, seq);
  return 1;
}

/** What is due next is done with, or what is due up to `seq`. */
function pass(subscription: SubscriptionState, name: string, channel: PendingChannel, seq: Seq): void {
  const next = { ...channel, retryUs: 0, error: '' };
  if (channel.replays.length > 0) put(subscription, name, { ...next, replays: without(channel, seq) });
  else put(subscription, name, { ...next, acked: seq, deliveries: 0 });
}

/** May what is due next end with `seq`? Dead letters that are delivered again come first, each alone. */
function isNext({ replays, acked, to }: PendingChannel, seq: Seq): boolean {
  const [replay] = replays;
  return replay === undefined ? seq > acked && seq <= to : seq === replay.seq;
}

function deliveriesOf({ replays, deliveries }: PendingChannel): number {
  return replays[0]?.deliveries ?? deliveries;
}

function withDeliveries(channel: PendingChannel, deliveries: number): PendingChannel {
  const [replay, ...rest] = channel.replays;
  return replay === undefined
    ? { ...channel, deliveries }
    : { ...channel, replays: [{ ...replay, deliveries }, ...rest] };
}

/** The consumer that gives it back did not try. */
function uncounted(channel: PendingChannel, { isReplay, toSeq }: Lease): PendingChannel {
  if (!isReplay) return { ...channel, deliveries: Math.max(0, channel.deliveries - 1) };
  const replays = channel.replays.map((replay) =>
    replay.seq === toSeq ? { ...replay, deliveries: Math.max(0, replay.deliveries - 1) } : replay,
  );
  return { ...channel, replays };
}

function without({ replays }: PendingChannel, seq: Seq): PendingChannel['replays'] {
  return replays.filter((replay) => replay.seq !== seq);
}

/** A channel of which nothing is pending is forgotten. */
function put(subscription: SubscriptionState, name: string, channel: PendingChannel): void {
  if (channel.acked >= channel.to && channel.replays.length === 0) subscription.channels.delete(name);
  else subscription.channels.set(name, channel);
}

// ---- checks

/** Called behind `absent`. */
function changed(state: ApplyState, tenant: string, name: string): SubscriptionState {
  const subscription = state.subscriptionToChange(tenant, name) as SubscriptionState;
  subscription.version++;
  return subscription;
}

function absent(
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

function notFound(name: string): Refused {
  return refuse('SUBSCRIPTION_NOT_FOUND', 'there is no subscription of that name', { subscription: name });
}

function nameProblem(tenant: string, name: string): Refused | undefined {
  if (!isTenantName(tenant))
    return refuse('INVALID_NAME', 'a tenant name is not allowed', { field: 'tenant' });
  if (channelNameProblem(name, applyLimits.subscriptionNameBytes) === undefined) return undefined;
  return refuse('INVALID_NAME', 'a subscription has a name of 1 to 128 bytes without control characters', {
    field: 'subscription',
  });
}

function selectorProblem({ channels, prefix, label, types }: SubscriptionSelector): Refused | undefined {
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

function settingsProblem(settings: SubscriptionSettings): Refused | undefined {
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

function startProblem({ places }: SubscriptionStart): Refused | undefined {
  for (const place of places.values()) {
    if (place.length > applyLimits.placeBytes)
      return refuse('INVALID_ARGUMENT', 'a place is too long', { field: 'places' });
  }
  return undefined;
}

function tooLong(field: string, text: string, limit: number): Refused | undefined {
  if (Buffer.byteLength(text) <= limit) return undefined;
  return refuse('INVALID_ARGUMENT', `${field} is longer than ${limit} bytes`, { field, limit });
}

/** To its limit in UTF-16 units: at most three times as many bytes. */
function cut(text: string): string {
  return text.slice(0, applyLimits.subscriptionTextBytes);
}
