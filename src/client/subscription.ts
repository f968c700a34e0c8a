/** A durable subscription as the SDK shows it: making and changing it, what is pending and dead, and workers. */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { checkOptions, invalid } from './check-input.js';
import { type Method, methods } from './requests.js';
import type { Router } from './router.js';
import {
  encodeAcknowledge,
  encodeCreateSubscription,
  encodeDeleteSubscription,
  encodeExtendDeadline,
  encodeNegativeAcknowledge,
  encodeReplay,
  encodeSeekSubscription,
  encodeSubscriptionName,
  encodeSubscriptionPage,
  encodeUpdateSubscription,
} from './subscription-requests.js';
import {
  readCount,
  readDeadLetterPage,
  readLost,
  readPendingPage,
  readSubscriptionResponse,
} from './subscription-responses.js';
import type {
  Ack,
  DeadLetter,
  Extension,
  Nack,
  PendingChannel,
  Start,
  SubscriptionInfo,
  SubscriptionSelector,
  SubscriptionSettings,
} from './subscription-types.js';
import { type ConsumeOptions, SubscriptionWorker } from './subscription-worker.js';

export type { ConsumeOptions } from './subscription-worker.js';

/** Where to begin; none of them: with what is committed from now on. */
export interface SubscriptionStart {
  readonly fromBeginning?: boolean;
  readonly fromTime?: Date | { readonly timeUs: number };
  /** Of a `client.subscribe()` with the same channels, prefix, label and types. */
  readonly resumeToken?: string;
}

interface CallOptions {
  readonly timeoutMs?: number;
}

export interface CreateSubscriptionOptions
  extends SubscriptionSelector,
    SubscriptionSettings,
    SubscriptionStart,
    CallOptions {
  /** One that is there already is as good, whatever its settings are. */
  readonly ifMissing?: boolean;
  /** A repeat with the same one gets the subscription that the first made, where it is still there. */
  readonly requestId?: string;
}

/** Made by `client.subscription()`. */
export class DurableSubscription {
  readonly name: string;
  readonly #router: Router;
  readonly #tenant: string;

  constructor(router: Router, tenant: string, name: string) {
    if (typeof name !== 'string' || name === '' || Buffer.byteLength(name) > 128)
      throw invalid('name', 'a subscription has a name of 1 to 128 bytes');
    this.name = name;
    this.#router = router;
    this.#tenant = tenant;
  }

  /** Rejects SUBSCRIPTION_EXISTS, TOO_MANY_SUBSCRIPTIONS. Safe to be repeated by the SDK. */
  async create(options: CreateSubscriptionOptions = {}): Promise<SubscriptionInfo> {
    checkOptions('subscriptionCreate', options);
    const request = encodeCreateSubscription(
      this.#tenant,
      this.name,
      options,
      options,
      startOf(options),
      options.requestId ?? crypto.randomUUID(),
    );
    try {
      return await this.#call(methods.createSubscription, request, options, readSubscriptionResponse);
    } catch (error) {
      const isThere = error instanceof HansardError && error.reason === 'SUBSCRIPTION_EXISTS';
      if (!isThere || options.ifMissing !== true) throw error;
      return this.info(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs });
    }
  }

  /** Rejects SUBSCRIPTION_NOT_FOUND. */
  info(options: CallOptions = {}): Promise<SubscriptionInfo> {
    checkOptions('subscriptionCall', options);
    const request = encodeSubscriptionName(this.#tenant, this.name);
    return this.#call(methods.getSubscription, request, options, readSubscriptionResponse);
  }

  /**
   * Changes what is given: settings, and what it follows from where it stands on; what was taken stays pending. No channels, or an
   * empty prefix: of whatever name. Rejects SUBSCRIPTION_CHANGED where somebody else changed it meanwhile, or since it had the `etag` that is given.
   */
  async update(
    changes: SubscriptionSelector & SubscriptionSettings & CallOptions & { readonly etag?: string } = {},
  ): Promise<SubscriptionInfo> {
    checkOptions('subscriptionUpdate', changes);
    const { timeoutMs, etag, channels, prefix, label, types, ...settings } = changes;
    const call = timeoutMs === undefined ? {} : { timeoutMs };
    const current = await this.info(call);
    const selector = {
      ...current.selector,
      ...(channels === undefined ? {} : { channels }),
      ...(prefix === undefined ? {} : { prefix }),
      ...(label === undefined ? {} : { label }),
      ...(types === undefined ? {} : { types }),
    };
    const isOther = [channels, prefix, label, types].some((each) => each !== undefined);
    const request = encodeUpdateSubscription(
      this.#tenant,
      this.name,
      { ...current.settings, ...settings },
      etag ?? current.etag,
      isOther ? selector : undefined,
      crypto.randomUUID(),
    );
    return this.#call(methods.updateSubscription, request, call, readSubscriptionResponse);
  }

  async delete(options: CallOptions & { readonly etag?: string } = {}): Promise<void> {
    checkOptions('subscriptionCall', options);
    const request = encodeDeleteSubscription(this.#tenant, this.name, options.etag, crypto.randomUUID());
    await this.#call(methods.deleteSubscription, request, options, () => undefined);
  }

  /** Sets the place anew: what is pending is forgotten, dead letters stay unless they are dropped. */
  seek(
    to: SubscriptionStart & CallOptions & { readonly etag?: string; readonly dropDeadLetters?: boolean },
  ): Promise<SubscriptionInfo> {
    checkOptions('subscriptionSeek', to);
    const request = encodeSeekSubscription(this.#tenant, this.name, startOf(to), to, crypto.randomUUID());
    return this.#call(methods.seekSubscription, request, to, readSubscriptionResponse);
  }

  /** Channels of which events are taken and not acknowledged. */
  pending(options: CallOptions & { readonly pageSize?: number } = {}): AsyncGenerator<PendingChannel> {
    return this.#pages(methods.listPending, options, readPendingPage);
  }

  /** Events that failed too often, the oldest first. */
  deadLetters(options: CallOptions & { readonly pageSize?: number } = {}): AsyncGenerator<DeadLetter> {
    return this.#pages(methods.listDeadLetters, options, readDeadLetterPage);
  }

  /** Has these dead letters delivered again, or all. Resolves to how many. */
  replayDeadLetters(letters: readonly Pick<DeadLetter, 'channel' | 'seq'>[] = [], options: CallOptions = {}) {
    return this.#moveLetters(letters, false, options);
  }

  /** Drops these dead letters, or all. Resolves to how many. */
  dropDeadLetters(letters: readonly Pick<DeadLetter, 'channel' | 'seq'>[] = [], options: CallOptions = {}) {
    return this.#moveLetters(letters, true, options);
  }

  /** Elsewhere than on the stream; resolves to the leases that were lost before. */
  acknowledge(acks: readonly Ack[], options: CallOptions = {}): Promise<number[]> {
    return this.#call(
      methods.acknowledge,
      encodeAcknowledge(this.#tenant, this.name, acks),
      options,
      readLost,
    );
  }

  negativeAcknowledge(nacks: readonly Nack[], options: CallOptions = {}): Promise<number[]> {
    const request = encodeNegativeAcknowledge(this.#tenant, this.name, nacks);
    return this.#call(methods.negativeAcknowledge, request, options, readLost);
  }

  extendDeadline(extensions: readonly Extension[], options: CallOptions = {}): Promise<number[]> {
    const request = encodeExtendDeadline(this.#tenant, this.name, extensions);
    return this.#call(methods.extendDeadline, request, options, readLost);
  }

  /**
   * Starts a worker: events of a channel one after the other, of several channels side by side. What the handler
   * resolves is acknowledged, what it rejects is delivered again.
   */
  consume(options: ConsumeOptions): SubscriptionWorker {
    checkOptions('consume', options);
    return new SubscriptionWorker(this.#router, this.#tenant, this.name, options, (call) => this.info(call));
  }

  async *#pages<T>(
    method: Method,
    { pageSize, ...options }: CallOptions & { readonly pageSize?: number },
    read: (bytes: Uint8Array) => { items: T[]; nextPageToken: string },
  ): AsyncGenerator<T, void, void> {
    checkOptions('subscriptionList', { pageSize, ...options });
    let token = '';
    do {
      const request = encodeSubscriptionPage(this.#tenant, this.name, token, pageSize);
      const page = await this.#call(method, request, options, read);
      yield* page.items;
      token = page.nextPageToken;
    } while (token !== '');
  }

  #moveLetters(
    letters: readonly Pick<DeadLetter, 'channel' | 'seq'>[],
    drop: boolean,
    options: CallOptions,
  ): Promise<number> {
    const request = encodeReplay(this.#tenant, this.name, letters, drop, crypto.randomUUID());
    return this.#call(methods.replayDeadLetters, request, options, readCount);
  }

  async #call<T>(
    method: Method,
    request: Uint8Array,
    { timeoutMs = this.#router.options.timeoutMs }: CallOptions,
    read: (response: Uint8Array) => T,
  ): Promise<T> {
    const deadlineMs = performance.now() + timeoutMs;
    await this.#router.known(deadlineMs);
    const partition = this.#router.partitionOf(this.name) as PartitionId;
    return this.#router.call(method, request, { partition }, deadlineMs, read);
  }
}

function startOf({ fromBeginning, fromTime, resumeToken }: SubscriptionStart): Start {
  const starts = [fromBeginning || undefined, fromTime, resumeToken].filter((each) => each !== undefined);
  if (starts.length > 1) throw invalid('fromBeginning', 'one of fromBeginning, fromTime and resumeToken');
  const fromTimeUs = fromTime instanceof Date ? fromTime.getTime() * 1_000 : fromTime?.timeUs;
  return { fromBeginning, fromTimeUs, resumeToken };
}
