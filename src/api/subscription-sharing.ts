/** Which consumer gets which channel next, and how much of it: planned on the state as it is, told when it is written down. */
import type { TimeUs } from '../common/ids.js';
import { applyLimits } from '../conversation/apply-limits.js';
import type { Lease, PendingChannel, SubscriptionState } from '../conversation/subscription-state.js';
import type { Consumer } from './subscription-consumer.js';
import type { HeldEvent, HeldEvents } from './subscription-events.js';
import type { Delivery, Plan } from './subscription-plan.js';
import type { SubscriptionReads } from './subscription-reads.js';

/** Leases in one step; more wait for the next one. */
const leasesPerStep = 500;

export class SubscriptionSharing {
  readonly #consumers: ReadonlyMap<string, Consumer>;
  readonly #held: HeldEvents;
  readonly #reads: SubscriptionReads;
  readonly #deliver: (consumer: Consumer, lease: Lease, delivery: Delivery) => void;
  /** No consumer takes more in this step: what is planned only makes their room smaller. */
  #isFull = false;

  /** `deliver`: what a lease covers already and its consumer was not told. */
  constructor(
    consumers: ReadonlyMap<string, Consumer>,
    held: HeldEvents,
    reads: SubscriptionReads,
    deliver: (consumer: Consumer, lease: Lease, delivery: Delivery) => void,
  ) {
    this.#consumers = consumers;
    this.#held = held;
    this.#reads = reads;
    this.#deliver = deliver;
  }

  /** Gives channels that nobody has to consumers that have room, in the order in which they came. */
  share(state: Readonly<SubscriptionState>, plan: Plan, nowUs: TimeUs): void {
    this.#isFull = false;
    for (const [name, channel] of state.channels) {
      if (plan.leases.length >= leasesPerStep) return;
      if (plan.touched.has(name)) continue;
      if (channel.lease !== undefined) this.#goOn(name, channel, plan);
      else if (channel.retryUs > nowUs) plan.hasRetries = true;
      else this.#shareOne(state, name, channel, plan);
    }
    for (const [name, { acked, to }] of plan.fresh) {
      if (plan.leases.length >= leasesPerStep) return;
      const range = this.#held.range(name, acked + 1, to);
      // Dropped for want of room already: the next round reads it.
      if (range !== undefined) this.#lease(name, range.uid, range.events, 0, false, plan);
    }
  }

  #shareOne(state: Readonly<SubscriptionState>, name: string, channel: PendingChannel, plan: Plan): void {
    const [replay] = channel.replays;
    const deliveries = replay?.deliveries ?? channel.deliveries;
    const { maxDeliveries } = state.settings;
    const isDead = maxDeliveries > 0 && deliveries >= maxDeliveries;
    // It is not read for nothing, and does not drive out what was.
    if (!isDead && this.#freest() === undefined) {
      plan.hasWaiting = true;
      return;
    }
    const from = replay?.seq ?? channel.acked + 1;
    const to = replay?.seq ?? channel.to;
    const range = this.#held.range(name, from, to);
    if (range === undefined) {
      plan.isReading = true;
      return this.#reads.want(name, from, to);
    }
    const [first] = range.events;
    if (first === undefined) return plan.add({ kind: 'skip', channel: name, seq: range.through });
    if (isDead) {
      if (state.deadLetters.size >= applyLimits.deadLetters) plan.deadAreFull = true;
      else plan.add({ kind: 'bury', channel: name, seq: first.seq });
      return;
    }
    // What failed before goes alone: what is behind it must not be tried again and again for its sake.
    const events = deliveries > 0 ? range.events.slice(0, 1) : range.events;
    this.#lease(name, range.uid, events, deliveries, replay !== undefined, plan);
  }

  /** More of a channel for the consumer that has it; and what a broken step left untold. */
  #goOn(name: string, channel: PendingChannel, plan: Plan): void {
    const { lease, to, acked, replays, deliveries } = channel;
    if (lease === undefined || lease.isReplay || replays.length > 0) return;
    const consumer = this.#consumers.get(lease.consumer);
    const sentTo = consumer?.sentTo.get(lease.number);
    if (consumer === undefined || sentTo === undefined || !consumer.takes) return;
    const from = Math.max(sentTo, acked) + 1;
    const isUntold = sentTo < lease.toSeq;
    const upTo = isUntold ? lease.toSeq : to;
    // What failed before is not joined by what is behind it.
    if (from > upTo || (!isUntold && deliveries > 1)) return;
    const range = this.#held.range(name, from, upTo);
    if (range === undefined) {
      plan.isReading = true;
      return this.#reads.want(name, from, upTo);
    }
    const events = consumer.fitting(range.events, consumer.maxBatch);
    if (events.length === 0) return;
    if (!isUntold) return plan.lease(consumer, name, range.uid, events, 1, false);
    consumer.spend(events);
    this.#deliver(consumer, lease, { channel: name, uid: range.uid, deliveries, replayed: false, events });
  }

  #lease(
    name: string,
    uid: string,
    events: readonly HeldEvent[],
    before: number,
    replayed: boolean,
    plan: Plan,
  ): void {
    const consumer = this.#freest();
    if (consumer === undefined) {
      plan.hasWaiting = true;
      return;
    }
    plan.lease(consumer, name, uid, consumer.fitting(events, events.length), before + 1, replayed);
  }

  /** Who has most room. */
  #freest(): Consumer | undefined {
    if (this.#isFull) return undefined;
    let best: Consumer | undefined;
    for (const consumer of this.#consumers.values()) {
      if (consumer.takes && (best === undefined || consumer.room > best.room)) best = consumer;
    }
    this.#isFull = best === undefined;
    return best;
  }
}
