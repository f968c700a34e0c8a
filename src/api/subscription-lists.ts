/** Listings of durable subscriptions, and of what is pending in one and what it gave up: cut into pages. */
import type { TimeUs } from '../common/ids.js';
import { limits } from '../common/limits.js';
import type { Handler } from './calls.js';
import { compareBytewise } from './list-channels.js';
import { invalidArgument, takePageSize } from './names.js';
import { toTimestamp } from './requests.js';
import type { Services } from './services.js';
import type { SubscriptionHome } from './subscription-home.js';
import {
  pendingMessage,
  type SubscriptionName,
  takeSubscription,
  takeTenantOf,
} from './subscription-message.js';

interface PageMessage {
  page_size: number;
  page_token: string;
}

export class SubscriptionLists {
  readonly #services: Services;
  readonly #home: SubscriptionHome;

  constructor(services: Services, home: SubscriptionHome) {
    this.#services = services;
    this.#home = home;
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
            const view = await this.#home.viewAt(context, partition);
            return encode({
              subscriptions: view.reader
                .subscriptionsOf(tenant)
                .filter(({ name }) => name.startsWith(prefix))
                .map((state) => this.#home.message(state, partition)),
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

  listPending(): Handler {
    const { codecs } = this.#services;
    const decode = codecs.decoder<PageMessage>('hansard.v1.ListPendingRequest');
    const encode = codecs.encoder('hansard.v1.ListPendingResponse');
    return (context, request) => {
      const on = takeSubscription(request);
      const page = decode(request);
      return this.#home.read(context, on, request, (state) => {
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
      return this.#home.read(context, on, request, (state) => {
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

/** By time, and among those of one time by key. */
interface ListOrder {
  readonly timeUs: TimeUs;
  readonly key: string;
}

function compareOrder(a: ListOrder, b: ListOrder): number {
  return a.timeUs - b.timeUs || compareBytewise(a.key, b.key);
}
