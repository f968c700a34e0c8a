/**
 * Steps of durable subscriptions (from apply version 4 on). Who reads events, and who is connected, is not known here: the
 * leader proposes steps, each on the very state that it saw (`version`), and what is out of date does nothing.
 *
 * Of each channel the events in (acked, to] are taken and not acknowledged. One lease at a time covers the first of
 * them, so that no two consumers have the same channel; what is given back begins again at acked + 1.
 */
import type { Seq, TimeUs } from '../common/ids.js';
import { applyLimits } from './apply-limits.js';
import { refuse } from './refuse.js';
import { changed, notFound } from './subscription-checks.js';
import type { StepInput, StepOp, TakenRange } from './subscription-command.js';
import { deadKey, type Lease, type PendingChannel, type SubscriptionState } from './subscription-state.js';
import type { ApplyState, CommandAnswer } from './types.js';

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
    if (seq > lease.toSeq) return 0;
    // Said again, as nobody knew what had become of it.
    if (seq <= channel.acked) return 1;
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
  // One of an earlier place, before a seek: it is among the latest now.
  subscription.deadLetters.delete(key);
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

/** To its limit in UTF-16 units: at most three times as many bytes. */
function cut(text: string): string {
  return text.slice(0, applyLimits.subscriptionTextBytes);
}
