/** What a subscription's leader tells its consumers: deliveries, leases that are lost, progress. */
import type { TimeUs } from '../common/ids.js';
import type { Lease, SubscriptionState } from '../conversation/subscription-state.js';
import { toTimestamp } from './requests.js';
import type { Services } from './services.js';
import type { Consumer } from './subscription-consumer.js';
import { type LiveProgress, progressMessage } from './subscription-message.js';
import type { Delivery } from './subscription-plan.js';

export class SubscriptionTelling {
  readonly #encodeDelivery: (value: object) => Buffer;
  readonly #encodeProgress: (value: object) => Buffer;
  readonly #encodeLost: (value: object) => Buffer;

  constructor({ codecs }: Pick<Services, 'codecs'>) {
    this.#encodeDelivery = codecs.encoder('hansard.v1.SubscriptionDelivery');
    this.#encodeProgress = codecs.encoder('hansard.v1.SubscriptionProgress');
    this.#encodeLost = codecs.encoder('hansard.v1.LostLeases');
  }

  deliver(
    consumer: Consumer,
    { number, deadlineUs }: Pick<Lease, 'number' | 'deadlineUs'>,
    { channel, uid, deliveries, replayed, events }: Delivery,
  ): void {
    const head = this.#encodeDelivery({
      channel,
      channel_uid: uid,
      lease: number,
      deliveries,
      deadline: toTimestamp(deadlineUs),
      replayed,
    });
    consumer.deliver(head, number, events);
  }

  /** A lease that is gone: its consumer should know that what it does is done again. */
  lost(consumer: Consumer, leases: readonly number[]): void {
    for (const lease of leases) consumer.sentTo.delete(lease);
    if (!consumer.out.isClosed) consumer.lost(this.#encodeLost({ leases }));
  }

  progress(
    consumers: Iterable<Consumer>,
    state: Readonly<SubscriptionState>,
    live: LiveProgress,
    nowUs: TimeUs,
  ): void {
    const message = this.#encodeProgress(progressMessage(state, live, nowUs));
    for (const consumer of consumers) consumer.progress(message);
  }
}
