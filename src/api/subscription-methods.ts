/** hansard.v1.SubscriptionService: its unary calls. All go to the leader of the partition that the subscription's name falls into. */
import { ByteWriter } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import type { PartitionId, TimeUs } from '../common/ids.js';
import { limits } from '../common/limits.js';
import {
  type ExpectedSubscription,
  encodeCreateSubscription,
  encodeDeadLetters,
  encodeDeleteSubscription,
  encodeSeekSubscription,
  encodeUpdateSubscription,
  type Reselection,
  type SubscriptionStart,
} from '../conversation/subscription-command.js';
import type { SubscriptionSelector, SubscriptionState } from '../conversation/subscription-state.js';
import type { ReadView } from '../node/types.js';
import type { CallContext, Handler } from './calls.js';
import { readPlaces, type SubscriptionPlace, writePlace } from './feed-place.js';
import { feedBound, partitionsOf, startOf } from './feed-request.js';
import { startPlaces } from './feed-start.js';
import { compareBytewise } from './list-channels.js';
import { takeIdText } from './messages.js';
import { invalidArgument, takePageSize } from './names.js';
import { toNumber, toTimestamp } from './requests.js';
import type { Services } from './services.js';
import {
  type AckMessage,
  type ExtensionMessage,
  type NackMessage,
  notesOf,
  type SubscriptionLeaders,
} from './subscription-leaders.js';
import {
  expectedOf,
  filterOfSelector,
  Idle,
  type LiveProgress,
  pendingMessage,
  type SelectorMessage,
  type SettingsMessage,
  type SubscriptionName,
  selectorOf,
  settingsOf,
  subscriptionMessage,
  subscriptionNotFound,
  takeSubscription,
  takeTenantOf,
} from './subscription-message.js';
import type { Note } from './subscription-plan.js';
import { onceOnly, proposeFor } from './writes.js';

const service = 'hansard.v1.SubscriptionService';
/** A change is worked out so often at most: whoever changes it each time in between is another one's loop. */
const changeTries = 5;

export function subscriptionMethods(services: Services, leaders: SubscriptionLeaders): Map<string, Handler> {
  const methods = new SubscriptionMethods(services, leaders);
  return new Map<string, Handler>([
    [`${service}/CreateSubscription`, methods.create()],
    [`${service}/GetSubscription`, methods.get()],
    [`${service}/ListSubscriptions`, methods.list()],
    [`${service}/UpdateSubscription`, methods.update()],
    [`${service}/DeleteSubscription`, methods.delete()],
    [`${service}/SeekSubscription`, methods.seek()],
    [`${service}/Acknowledge`, methods.settle('AcknowledgeRequest')],
    [`${service}/NegativeAcknowledge`, methods.settle('NegativeAcknowledgeRequest')],
    [`${service}/ExtendDeadline`, methods.settle('ExtendDeadlineRequest')],
    [`${service}/ListPending`, methods.listPending()],
    [`${service}/ListDeadLetters`, methods.listDeadLetters()],
    [`${service}/ReplayDeadLetters`, methods.replay()],
  ]);
}

interface StartMessage {
  start?: 'from_beginning' | 'from_time' | 'resume_token';
  from_beginning: boolean;
  from_time: { seconds: string; nanos: number } | null;
  resume_token: string;
}

class SubscriptionMethods {
  readonly #services: Services;
  readonly #leaders: SubscriptionLeaders;
  readonly #encode: (value: object) => Buffer;

  constructor(services: Services, leaders: SubscriptionLeaders) {
    this.#services = services;
    this.#leaders = leaders;
    this.#encode = services.codecs.encoder('hansard.v1.SubscriptionResponse');
  }

  create(): Handler {
    const { codecs } = this.#services;
    const decode = codecs.decoder<{
      selector: SelectorMessage | null;
      settings: SettingsMessage | null;
      start: StartMessage | null;
      request_id: string;
    }>('hansard.v1.CreateSubscriptionRequest');
    return (context, request) => {
      const on = takeSubscription(request);
      const message = decode(request);
      const selector = selectorOf(message.selector);
      const settings = settingsOf(message.settings);
      const requestId = takeIdText(message.request_id, 'request_id');
      return this.#atHome(context, on, request, async (partition) => {
        const start = await this.#startOf(context, on.tenant, selector, message.start);
        const command = encodeCreateSubscription({ ...on, requestId, selector, settings, ...start });
        return this.#change(context, on, partition, onceOnly(requestId, context.method, request, command));
      });
    };
  }

  get(): Handler {
    const decode = this.#services.codecs.decoder<object>('hansard.v1.GetSubscriptionRequest');
    return (context, request) => {
      const on = takeSubscription(request);
      decode(request);
      return this.#read(context, on, request, (state, partition) => this.#shown(state, partition));
    };
  }

  update(): Handler {
    const decode = this.#services.codecs.decoder<{
      settings: SettingsMessage | null;
      etag: string;
      selector: SelectorMessage | null;
      request_id: string;
    }>('hansard.v1.UpdateSubscriptionRequest');
    return (context, request) => {
      const on = takeSubscription(request);
      const message = decode(request);
      const settings = settingsOf(message.settings);
      const selector = message.selector === null ? undefined : selectorOf(message.selector);
      const expected = expectedOf(message.etag);
      const requestId = takeIdText(message.request_id, 'request_id');
      const once = (command: Uint8Array) => onceOnly(requestId, context.method, request, command);
      return this.#atHome(context, on, request, async (partition) => {
        if (selector === undefined) {
          const command = encodeUpdateSubscription({ ...on, settings, expected });
          return this.#change(context, on, partition, once(command));
        }
        return this.#changeSeen(context, on, partition, expected, async (state, seen) => {
          const reselect = await this.#reselection(context, state, selector);
          return once(encodeUpdateSubscription({ ...on, settings, expected: seen, reselect }));
        });
      });
    };
  }

  delete(): Handler {
    const { node, codecs } = this.#services;
    const decode = codecs.decoder<{ etag: string; request_id: string }>(
      'hansard.v1.DeleteSubscriptionRequest',
    );
    const encode = codecs.encoder('hansard.v1.DeleteSubscriptionResponse');
    return (context, request) => {
      const on = takeSubscription(request);
      const { etag, request_id } = decode(request);
      const requestId = takeIdText(request_id, 'request_id');
      const deletion = encodeDeleteSubscription({ ...on, expected: expectedOf(etag) });
      const command = onceOnly(requestId, context.method, request, deletion);
      return this.#atHome(context, on, request, async (partition) => {
        await proposeFor(node, partition, command, context.deadlineMs, 'done');
        this.#leaders.get(on)?.wake();
        return encode({});
      });
    };
  }

  seek(): Handler {
    const decode = this.#services.codecs.decoder<{
      start: StartMessage | null;
      etag: string;
      drop_dead_letters: boolean;
      request_id: string;
    }>('hansard.v1.SeekSubscriptionRequest');
    return (context, request) => {
      const on = takeSubscription(request);
      const { start, etag, drop_dead_letters, request_id } = decode(request);
      const requestId = takeIdText(request_id, 'request_id');
      const expected = expectedOf(etag);
      return this.#atHome(context, on, request, async (partition) => {
        // Of another selector these places would be too few, and nothing adds those that are missing.
        return this.#changeSeen(context, on, partition, expected, async (state, seen) => {
          const places = await this.#startOf(context, on.tenant, state.selector, start);
          const dropDeadLetters = drop_dead_letters;
          const command = encodeSeekSubscription({ ...on, expected: seen, dropDeadLetters, ...places });
          return onceOnly(requestId, context.method, request, command);
        });
      });
    };
  }

  settle(type: string): Handler {
    const { codecs } = this.#services;
    const decode = codecs.decoder<{
      acks?: AckMessage[];
      nacks?: NackMessage[];
      extensions?: ExtensionMessage[];
    }>(`hansard.v1.${type}`);
    const encode = codecs.encoder('hansard.v1.SettledResponse');
    return (context, request) => {
      const on = takeSubscription(request);
      const message = decode(request);
      return this.#atHome(context, on, request, async (partition) => {
        await this.#stateAt(context, on, partition);
        const leader = this.#leaders.at(on);
        const notes = notesOf(message, leader);
        const kept = await Promise.all(notes.map((note) => leader.settle(note)));
        const open = notes.filter((_, i) => !kept[i]);
        if (open.length === 0) return encode({ lost: [] });
        const state = await this.#stateAt(context, on, partition);
        return encode({ lost: open.filter((note) => !isOver(state, note)).map(({ lease }) => lease) });
      });
    };
  }

  listPending(): Handler {
    const { codecs } = this.#services;
    const decode = codecs.decoder<PageMessage>('hansard.v1.ListPendingRequest');
    const encode = codecs.encoder('hansard.v1.ListPendingResponse');
    return (context, request) => {
      const on = takeSubscription(request);
      const page = decode(request);
      return this.#read(context, on, request, (state) => {
        const entries = [...state.channels];
        const { items, token } = this.#page('ListPending', on, page, entries, ([key]) => ({
          timeUs: 0,
          key,
        }));
        return encode({
          channels: items.map(([name, pending]) => pendingMessage(name, pending)),
          next_page_token: token,
        });
      });
    };
  }

  listDeadLetters(): Handler {
    const { codecs } = this.#services;
    const decode = codecs.decoder<PageMessage>('hansard.v1.ListDeadLettersRequest');
    const encode = codecs.encoder('hansard.v1.ListDeadLettersResponse');
    return (context, request) => {
      const on = takeSubscription(request);
      const page = decode(request);
      return this.#read(context, on, request, (state) => {
        const entries = [...state.deadLetters];
        const { items, token } = this.#page('ListDeadLetters', on, page, entries, ([key, { timeUs }]) => ({
          timeUs,
          key,
        }));
        return encode({
          dead_letters: items.map(([, { channel, seq, deliveries, timeUs, error }]) => ({
            channel,
            seq,
            deliveries,
            time: toTimestamp(timeUs),
            error,
          })),
          next_page_token: token,
        });
      });
    };
  }

  replay(): Handler {
    const { node, codecs } = this.#services;
    const decode = codecs.decoder<{
      dead_letters: { channel: string; seq: string }[];
      drop: boolean;
      request_id: string;
    }>('hansard.v1.ReplayDeadLettersRequest');
    const encode = codecs.encoder('hansard.v1.ReplayDeadLettersResponse');
    return (context, request) => {
      const on = takeSubscription(request);
      const { dead_letters, drop, request_id } = decode(request);
      const requestId = takeIdText(request_id, 'request_id');
      const letters = dead_letters.map(({ channel, seq }) => ({ channel, seq: toNumber(seq) }));
      const move = encodeDeadLetters({ ...on, replay: !drop, letters });
      const command = onceOnly(requestId, context.method, request, move);
      return this.#atHome(context, on, request, async (partition) => {
        const { answer } = await proposeFor(node, partition, command, context.deadlineMs, 'deadLettersMoved');
        this.#leaders.get(on)?.wake();
        return encode({ count: answer.count });
      });
    };
  }

  list(): Handler {
    const { node, codecs, tokens } = this.#services;
    const decode = codecs.decoder<PageMessage & { prefix: string; partitions: number[] }>(
      'hansard.v1.ListSubscriptionsRequest',
    );
    const encodeRequest = codecs.encoder('hansard.v1.ListSubscriptionsRequest');
    const encode = codecs.encoder('hansard.v1.ListSubscriptionsResponse');
    const decodeResponse = codecs.answerDecoder<{ subscriptions: { name: string }[] }>(
      'hansard.v1.ListSubscriptionsResponse',
    );
    return async (context, request) => {
      const tenant = takeTenantOf(request);
      const { prefix, page_size, page_token, partitions: asked } = decode(request);
      if (asked.some((partition) => partition >= node.partitionCount))
        throw invalidArgument('partitions', `partitions are 0 to ${node.partitionCount - 1}`);
      const partitions =
        asked.length > 0 ? [...new Set(asked)] : Array.from({ length: node.partitionCount }, (_, i) => i);
      const bound = JSON.stringify(['ListSubscriptions', tenant, prefix, asked]);
      const after = page_token === '' ? '' : tokens.openPage(bound, page_token, (reader) => reader.string());
      const size = takePageSize(page_size);
      // A partition has few: all of them are asked for, and the page is cut here.
      const found = await Promise.all(
        partitions.map(async (partition) => {
          const ofOne = encodeRequest({
            tenant,
            prefix,
            page_size: limits.channelPageSizeMax,
            partitions: [partition],
          });
          const answer = await this.#services.router.atLeader(context, partition, ofOne, async () => {
            const view = await this.#viewAt(context, partition);
            return encode({
              subscriptions: view.reader
                .subscriptionsOf(tenant)
                .filter(({ name }) => name.startsWith(prefix))
                .map((state) => this.#message(state, partition)),
              next_page_token: '',
            });
          });
          return decodeResponse(answer).subscriptions;
        }),
      );
      // One of many partitions: nowhere to send the next call.
      if (partitions.length > 1) context.forwardedTo = 0;
      const all = (found.flat() as { name: string }[])
        .filter(({ name }) => after === '' || compareBytewise(name, after) > 0)
        .sort((a, b) => compareBytewise(a.name, b.name));
      const subscriptions = all.slice(0, size);
      const last = subscriptions.at(-1);
      const more = all.length > size && last !== undefined;
      return encode({
        subscriptions,
        next_page_token: more ? tokens.page(bound, (writer) => writer.string(last.name)) : '',
      });
    };
  }

  // ---- what they share

  #atHome(
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
  #read(
    context: CallContext,
    on: SubscriptionName,
    request: Buffer,
    show: (state: Readonly<SubscriptionState>, partition: PartitionId) => Uint8Array,
  ): Promise<Uint8Array> {
    return this.#atHome(context, on, request, async (partition) =>
      show(await this.#stateAt(context, on, partition), partition),
    );
  }

  #viewAt(context: CallContext, partition: PartitionId): Promise<ReadView> {
    const { deadlineMs } = context;
    return this.#services.node.readBarrier(partition, { level: 'linearizable', minIndex: 0, deadlineMs });
  }

  async #stateAt(
    context: CallContext,
    { tenant, name }: SubscriptionName,
    partition: PartitionId,
  ): Promise<Readonly<SubscriptionState>> {
    const view = await this.#viewAt(context, partition);
    const state = view.reader.subscriptionNow(tenant, name);
    if (state !== undefined) return state;
    throw subscriptionNotFound({ tenant, name });
  }

  async #change(
    context: CallContext,
    on: SubscriptionName,
    partition: PartitionId,
    command: Uint8Array,
  ): Promise<Uint8Array> {
    const { node } = this.#services;
    const { answer } = await proposeFor(node, partition, command, context.deadlineMs, 'subscription');
    this.#leaders.get(on)?.wake();
    return this.#shown(answer.subscription, partition);
  }

  /**
   * For a change that is worked out from what the subscription is, which takes a while: it takes effect on just that. Where that
   * is no more it is worked out anew, unless the caller named what it must be.
   */
  async #changeSeen(
    context: CallContext,
    on: SubscriptionName,
    partition: PartitionId,
    expected: ExpectedSubscription | undefined,
    commandFor: (state: Readonly<SubscriptionState>, seen: ExpectedSubscription) => Promise<Uint8Array>,
  ): Promise<Uint8Array> {
    for (let triesLeft = changeTries; ; ) {
      const state = await this.#stateAt(context, on, partition);
      const { uid, revision } = state;
      const command = await commandFor(state, expected ?? { uid, revision });
      try {
        return await this.#change(context, on, partition, command);
      } catch (error) {
        const isOutdated = error instanceof HansardError && error.reason === 'SUBSCRIPTION_CHANGED';
        if (!isOutdated || expected !== undefined || --triesLeft === 0) throw error;
      }
    }
  }

  #shown(state: Readonly<SubscriptionState>, partition: PartitionId): Uint8Array {
    return this.#encode({ subscription: this.#message(state, partition) });
  }

  #message(state: Readonly<SubscriptionState>, partition: PartitionId): object {
    const live: LiveProgress = this.#leaders.get(state)?.live ?? nobody;
    return subscriptionMessage(state, partition, live, this.#services.node.nowUs());
  }

  /** In partitions that it has not followed yet it begins behind what is committed now. */
  async #reselection(
    context: CallContext,
    { tenant, places }: Readonly<SubscriptionState>,
    selector: SubscriptionSelector,
  ): Promise<Reselection> {
    const filter = filterOfSelector(tenant, selector, 0);
    const begun = await startPlaces(this.#services, {
      deadlineMs: context.deadlineMs,
      read: null,
      start: { kind: 'now' },
      resumed: undefined,
      partitions: partitionsOf(this.#services.node, filter).filter((each) => !places.has(each)),
    });
    return { selector, places: encodedPlaces(begun) };
  }

  async #startOf(
    context: CallContext,
    tenant: string,
    selector: SubscriptionSelector,
    message: StartMessage | null,
  ): Promise<SubscriptionStart> {
    const { node, tokens } = this.#services;
    const filter = filterOfSelector(tenant, selector, 0);
    const resumed =
      message?.start === 'resume_token'
        ? tokens.openPage(feedBound('Subscribe', filter), message.resume_token, readPlaces)
        : undefined;
    const begun = await startPlaces(this.#services, {
      deadlineMs: context.deadlineMs,
      read: null,
      start: message === null ? { kind: 'now' } : startOf(message),
      resumed,
      partitions: partitionsOf(node, filter),
    });
    return { fromTimeUs: begun.fromTimeUs, places: encodedPlaces(begun) };
  }

  /** The items behind the last one's order: what is there all the time is shown once, whatever comes and goes meanwhile. */
  #page<T>(
    method: string,
    { tenant, name }: SubscriptionName,
    { page_size, page_token }: PageMessage,
    all: readonly T[],
    orderOf: (item: T) => ListOrder,
  ): { items: readonly T[]; token: string } {
    const { tokens } = this.#services;
    const bound = JSON.stringify([method, tenant, name]);
    const after =
      page_token === ''
        ? undefined
        : tokens.openPage(bound, page_token, (reader) => ({ timeUs: reader.u64(), key: reader.string() }));
    const size = takePageSize(page_size);
    const rest = all
      .map((item) => ({ item, order: orderOf(item) }))
      .filter(({ order }) => after === undefined || compareOrder(order, after) > 0)
      .sort((a, b) => compareOrder(a.order, b.order));
    const page = rest.slice(0, size);
    const last = page.at(-1);
    const token =
      rest.length > size && last !== undefined
        ? tokens.page(bound, (writer) => writer.u64(last.order.timeUs).string(last.order.key))
        : '';
    return { items: page.map(({ item }) => item), token };
  }
}

/** Somebody said the same before, perhaps this call's first attempt: what it is about is done, or given back. */
function isOver({ channels, nextLease }: Readonly<SubscriptionState>, note: Note): boolean {
  if (note.lease >= nextLease) return false;
  const pending = channels.get(note.channel);
  if (note.kind === 'nack') return pending !== undefined && pending.lease === undefined;
  if (note.kind === 'extend') return false;
  if (pending === undefined) return true;
  return pending.acked >= note.seq && pending.replays.every(({ seq }) => seq !== note.seq);
}

/** By time, and among those of one time by key. */
interface ListOrder {
  readonly timeUs: TimeUs;
  readonly key: string;
}

function compareOrder(a: ListOrder, b: ListOrder): number {
  return a.timeUs - b.timeUs || compareBytewise(a.key, b.key);
}

function encodedPlaces({ places }: SubscriptionPlace): Map<PartitionId, Uint8Array> {
  return new Map(
    [...places].map(([partition, place]) => {
      const writer = new ByteWriter(32);
      writePlace(writer, place);
      return [partition, writer.finish()];
    }),
  );
}

interface PageMessage {
  page_size: number;
  page_token: string;
}

const nobody: LiveProgress = Object.freeze({ idle: Idle.noConsumers, caughtUp: false, consumers: 0 });
