/** What calls about a durable subscription share: they go to the leader of the partition that its name falls into. */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import type { ExpectedSubscription } from '../conversation/subscription-command.js';
import type { SubscriptionState } from '../conversation/subscription-state.js';
import type { ReadView } from '../node/types.js';
import type { CallContext } from './calls.js';
import type { Services } from './services.js';
import type { SubscriptionLeaders } from './subscription-leaders.js';
import {
  Idle,
  type LiveProgress,
  type SubscriptionName,
  subscriptionMessage,
  subscriptionNotFound,
} from './subscription-message.js';
import { proposeFor } from './writes.js';

/** A change is worked out so often at most: whoever changes it each time in between is another one's loop. */
const changeTries = 5;

export class SubscriptionHome {
  readonly #services: Services;
  readonly #leaders: SubscriptionLeaders;
  readonly #encode: (value: object) => Buffer;

  constructor(services: Services, leaders: SubscriptionLeaders) {
    this.#services = services;
    this.#leaders = leaders;
    this.#encode = services.codecs.encoder('hansard.v1.SubscriptionResponse');
  }

  atHome(
    context: CallContext,
    { tenant, name }: SubscriptionName,
    request: Buffer,
    local: (partition: PartitionId) => Promise<Uint8Array>,
  ): Promise<Uint8Array> {
    const { node, router } = this.#services;
    const partition = node.partitionOf(tenant, name);
    return router.atLeader(context, partition, request, () => local(partition));
  }

  /** As of now: what was answered to any call before is seen. */
  read(
    context: CallContext,
    on: SubscriptionName,
    request: Buffer,
    show: (state: Readonly<SubscriptionState>, partition: PartitionId) => Uint8Array,
  ): Promise<Uint8Array> {
    return this.atHome(context, on, request, async (partition) =>
      show(await this.stateAt(context, on, partition), partition),
    );
  }

  viewAt(context: CallContext, partition: PartitionId): Promise<ReadView> {
    const { deadlineMs } = context;
    return this.#services.node.readBarrier(partition, { level: 'linearizable', minIndex: 0, deadlineMs });
  }

  async stateAt(
    context: CallContext,
    { tenant, name }: SubscriptionName,
    partition: PartitionId,
  ): Promise<Readonly<SubscriptionState>> {
    const view = await this.viewAt(context, partition);
    const state = view.reader.subscriptionNow(tenant, name);
    if (state !== undefined) return state;
    throw subscriptionNotFound({ tenant, name });
  }

  async change(
    context: CallContext,
    on: SubscriptionName,
    partition: PartitionId,
    command: Uint8Array,
  ): Promise<Uint8Array> {
    const { node } = this.#services;
    const { answer } = await proposeFor(node, partition, command, context.deadlineMs, 'subscription');
    this.#leaders.get(on)?.wake();
    return this.shown(answer.subscription, partition);
  }

  /**
   * For a change that is worked out from what the subscription is, which takes a while: it takes effect on just that. Where that
   * is no more it is worked out anew, unless the caller named what it must be.
   */
  async changeSeen(
    context: CallContext,
    on: SubscriptionName,
    partition: PartitionId,
    expected: ExpectedSubscription | undefined,
    commandFor: (state: Readonly<SubscriptionState>, seen: ExpectedSubscription) => Promise<Uint8Array>,
  ): Promise<Uint8Array> {
    for (let triesLeft = changeTries; ; ) {
      const state = await this.stateAt(context, on, partition);
      const { uid, revision } = state;
      const command = await commandFor(state, expected ?? { uid, revision });
      try {
        return await this.change(context, on, partition, command);
      } catch (error) {
        const isOutdated = error instanceof HansardError && error.reason === 'SUBSCRIPTION_CHANGED';
        if (!isOutdated || expected !== undefined || --triesLeft === 0) throw error;
      }
    }
  }

  shown(state: Readonly<SubscriptionState>, partition: PartitionId): Uint8Array {
    return this.#encode({ subscription: this.message(state, partition) });
  }

  message(state: Readonly<SubscriptionState>, partition: PartitionId): object {
    const live: LiveProgress = this.#leaders.get(state)?.live ?? nobody;
    return subscriptionMessage(state, partition, live, this.#services.node.nowUs());
  }
}

const nobody: LiveProgress = Object.freeze({ idle: Idle.noConsumers, caughtUp: false, consumers: 0 });
