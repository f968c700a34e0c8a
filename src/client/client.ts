/** The way in: a client of one cluster and tenant. */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { limits } from '../common/limits.js';
import { type AppendResult, Channel, resultOf } from './channel.js';
import { readChannelResponse, readListChannelsResponse } from './channel-responses.js';
import { checkOptions, invalid } from './check-input.js';
import {
  readChangeReplicasResponse,
  readPartitionResponse,
  readUpgradeResponse,
} from './cluster-responses.js';
import { encodeInbox, type InboxEntry, readInboxResponse } from './inbox.js';
import { Budget } from './lane.js';
import { type ClientOptions, checkedOptions, parseTarget } from './options.js';
import { LaneSet, NamedProducer } from './producers.js';
import { read } from './reads.js';
import {
  type AppendCondition,
  type ChannelQuery,
  encodeAppend,
  encodeAppendBatch,
  encodeChangeReplicas,
  encodeCreateChannel,
  encodeGetPartition,
  encodeListChannels,
  encodeTarget,
  encodeUpgrade,
  methods,
  type NewChannel,
  type ReplicaChange,
  requireChannelName,
  type UpgradeRequest,
} from './requests.js';
import { readAppendBatchResponse } from './responses.js';
import { Router } from './router.js';
import { type SubscribeOptions, Subscription } from './subscribe.js';
import { DurableSubscription } from './subscription.js';
import { encodeListSubscriptions } from './subscription-requests.js';
import { readSubscriptionPage } from './subscription-responses.js';
import type { SubscriptionInfo } from './subscription-types.js';
import type {
  ChangedReplicas,
  ChannelInfo,
  ClusterInfo,
  NewMessage,
  PartitionDetail,
  ReadOptions,
  ServedBy,
  UpgradedCluster,
} from './types.js';

/**
 * A client of the cluster at `hansard://host:port,host:port/tenant`. Connects
 * with the first call; errors come from the calls. Close it when done.
 * @example
 * const client = connect('hansard://127.0.0.1:4701,127.0.0.1:4702/support');
 * await client.channel('ticket-17').append({ role: 'user', text: 'hello' });
 * await client.close();
 */
export function connect(url: string, options: ClientOptions = {}): Client {
  const { endpoints, tenant } = parseTarget(url);
  return new Client(endpoints, tenant, options);
}

export interface ListChannelsOptions extends ReadOptions, ChannelQuery {}

export interface ChannelPage {
  readonly channels: readonly ChannelInfo[];
  readonly nextPageToken: string;
  /** Of each partition that was asked. */
  readonly servedBy: readonly ServedBy[];
}

/** One append of a batch. */
export interface BatchItem {
  readonly channel: string;
  readonly messages: NewMessage | readonly NewMessage[];
  readonly condition?: AppendCondition;
}

export interface InboxOptions extends ReadOptions {
  readonly withoutLastMessage?: boolean;
}

export interface CreateChannelOptions extends NewChannel {
  readonly timeoutMs?: number;
}

export class Client {
  /** Empty means `default`. */
  readonly tenant: string;
  readonly #router: Router;
  readonly #budget: Budget;
  readonly #lanes: LaneSet;
  readonly #producers = new Set<NamedProducer>();

  /** Use `connect`. */
  constructor(endpoints: readonly string[], tenant: string, options: ClientOptions) {
    this.tenant = tenant;
    const checked = checkedOptions(options);
    this.#router = new Router(endpoints, tenant, checked);
    this.#budget = new Budget(checked.inFlightBytes);
    this.#lanes = new LaneSet('', this.#router, this.#budget);
  }

  /** A handle; sends nothing. Throws INVALID_NAME. */
  channel(name: string): Channel {
    return new Channel(name, this.#router, this.#lanes);
  }

  /**
   * The tenant's channels, by name or newest activity first.
   * @example
   * for await (const chat of client.channels({ participant: 'ann', orderBy: 'activity' })) show(chat);
   */
  async *channels(options: ListChannelsOptions = {}): AsyncGenerator<ChannelInfo, void, void> {
    let pageToken = options.pageToken;
    do {
      const page: ChannelPage = await this.channelPage({ ...options, ...(pageToken ? { pageToken } : {}) });
      yield* page.channels;
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
  }

  async channelPage(options: ListChannelsOptions = {}): Promise<ChannelPage> {
    checkOptions('channels', options);
    return read(
      this.#router,
      methods.listChannels,
      undefined,
      options,
      (asked) => encodeListChannels(this.tenant, options, asked),
      readListChannelsResponse,
    );
  }

  /**
   * Up to 200 channels as a reader sees them, in the order of the names: what is unread, the last message.
   * @example
   * const chats = await client.channelPage({ participant: 'ann', orderBy: 'activity', pageSize: 50 });
   * const inbox = await client.inbox('ann', chats.channels.map(({ name }) => name));
   */
  async inbox(
    reader: string,
    channels: readonly string[],
    options: InboxOptions = {},
  ): Promise<readonly InboxEntry[]> {
    checkOptions('inbox', options);
    const { entries } = await read(
      this.#router,
      methods.getInbox,
      undefined,
      options,
      (asked) => encodeInbox(this.tenant, reader, channels, options.withoutLastMessage === true, asked),
      readInboxResponse,
    );
    return entries;
  }

  /**
   * Events of many channels as they come, from now on or from a place.
   * @example
   * for await (const { channel, event } of client.subscribe({ prefix: 'support/' })) handle(channel, event);
   */
  subscribe(options: SubscribeOptions = {}): Subscription {
    checkOptions('subscribe', options);
    return new Subscription(this.#router, this.tenant, options);
  }

  /**
   * A durable subscription: the cluster keeps the place, and workers share its channels. A handle; sends nothing.
   * @example
   * const worker = client.subscription('mailer').consume({ handler: async ({ channel, event }) => mail(channel, event) });
   */
  subscription(name: string): DurableSubscription {
    return new DurableSubscription(this.#router, this.tenant, name);
  }

  /** The tenant's durable subscriptions, by name. */
  async *subscriptions(
    options: { readonly prefix?: string; readonly timeoutMs?: number } = {},
  ): AsyncGenerator<SubscriptionInfo, void, void> {
    let pageToken = '';
    do {
      const page: { subscriptions: SubscriptionInfo[]; nextPageToken: string } = await this.#router.call(
        methods.listSubscriptions,
        encodeListSubscriptions(this.tenant, options.prefix, pageToken),
        {},
        this.#deadline(options.timeoutMs),
        readSubscriptionPage,
      );
      yield* page.subscriptions;
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
  }

  /** Rejects CHANNEL_EXISTS. Safe to be repeated by the SDK; a second call of yours is a second creation. */
  async createChannel(name: string, options: CreateChannelOptions = {}): Promise<ChannelInfo> {
    requireChannelName(name);
    checkOptions('createChannel', options);
    const deadlineMs = this.#deadline(options.timeoutMs);
    const request = encodeCreateChannel(this.tenant, name, options, crypto.randomUUID());
    await this.#router.known(deadlineMs);
    const partition = this.#router.partitionOf(name) as PartitionId;
    const { channel } = await this.#router.write(
      methods.createChannel,
      request,
      partition,
      deadlineMs,
      readChannelResponse,
    );
    if (channel === undefined) throw new HansardError('INTERNAL', 'the server answered without a channel');
    return channel;
  }

  /**
   * Appends to several channels of one partition (names with the same `{tag}` are), all or
   * none: whoever sees one of them sees all. Rejects as `append` does; `fields.item` says
   * whose fault it was. Takes no part in the order of `append` calls that are under way. It is sent again until
   * its outcome is known, and takes effect once; with a `requestId` of your own that holds for whoever repeats it, within 24 hours.
   * @example
   * await client.appendBatch([
   *   { channel: '{user-42}/a', messages: { text: 'moved' }, condition: { mustExist: true } },
   *   { channel: '{user-42}/b', messages: { text: 'here now' } },
   * ]);
   */
  async appendBatch(
    items: readonly BatchItem[],
    options: { readonly requestId?: string; readonly timeoutMs?: number } = {},
  ): Promise<AppendResult[]> {
    if (!Array.isArray(items) || items.length === 0) throw invalid('items', 'must be an array of appends');
    checkOptions('batch', options);
    const encoded = items.map((item) => {
      checkOptions('batchItem', item);
      requireChannelName(item.channel);
      const list = Array.isArray(item.messages) ? item.messages : [item.messages];
      return encodeAppend(encodeTarget(this.tenant, item.channel), list as NewMessage[], item.condition);
    });
    const request = encodeAppendBatch(this.tenant, encoded, options.requestId ?? crypto.randomUUID());
    if (request.length > limits.frameBytes)
      throw new HansardError('FRAME_TOO_LARGE', `the batch has more than ${limits.frameBytes} bytes`, {
        limit: limits.frameBytes,
      });
    const deadlineMs = this.#deadline(options.timeoutMs);
    await this.#router.known(deadlineMs);
    const partition = this.#router.partitionOf((items[0] as BatchItem).channel) as PartitionId;
    const { results } = await this.#router.write(
      methods.appendBatch,
      request,
      partition,
      deadlineMs,
      readAppendBatchResponse,
    );
    if (results.length !== items.length)
      throw new HansardError('INTERNAL', 'the server answered for another batch');
    return results.map((each, i) => resultOf(encoded[i]?.checksums ?? [], each));
  }

  /**
   * A producer that the cluster keeps under this name. One process at a time
   * may use a name; two would refuse each other's counters.
   */
  openProducer(name: string): NamedProducer {
    if (typeof name !== 'string' || name === '' || Buffer.byteLength(name) > limits.idBytes)
      throw invalid('name', `a producer's name has 1 to ${limits.idBytes} bytes`);
    const producer = new NamedProducer(name, this.#router, this.#budget);
    this.#producers.add(producer);
    return producer;
  }

  /**
   * What this client has written and seen, for another client or process: with it
   * that one's reads at level `session` see no less.
   */
  sessionTokens(): Uint8Array[] {
    return this.#router.session.tokens();
  }

  /** Takes over what another client has written and seen: its `sessionTokens`, or single commit tokens. */
  observe(tokens: Uint8Array | readonly Uint8Array[]): void {
    const list = tokens instanceof Uint8Array ? [tokens] : tokens;
    checkOptions('read', { commitTokens: list });
    for (const token of list) this.#router.session.observe(token);
  }

  /** Nodes, partitions and leaders, as one node knows them. */
  cluster(options: { readonly timeoutMs?: number } = {}): Promise<ClusterInfo> {
    checkOptions('call', options);
    return this.#router.cluster(this.#deadline(options.timeoutMs));
  }

  /**
   * Raises the apply version of partitions, once every node can carry it out: for
   * operators, after all nodes were updated. Rejects UPGRADE_BLOCKED. Safe to be repeated.
   */
  upgradeCluster(request: UpgradeRequest & { readonly timeoutMs?: number } = {}): Promise<UpgradedCluster> {
    const deadlineMs = this.#deadline(request.timeoutMs);
    return this.#router.call(
      methods.upgradeCluster,
      encodeUpgrade(request),
      {},
      deadlineMs,
      readUpgradeResponse,
    );
  }

  /** A partition's replicas as its leader sees them: for operators. */
  partition(partition: number, options: { readonly timeoutMs?: number } = {}): Promise<PartitionDetail> {
    checkOptions('call', options);
    return this.#router.call(
      methods.getPartition,
      encodeGetPartition(partition),
      {},
      this.#deadline(options.timeoutMs),
      readPartitionResponse,
    );
  }

  /**
   * Changes where a partition's replicas are: for operators. Safe to be repeated,
   * also after COMMIT_UNKNOWN and DEADLINE_EXCEEDED; where `done` is false, it is to be.
   */
  changeReplicas(
    partition: number,
    changes: readonly ReplicaChange[],
    { force = false, timeoutMs }: { readonly force?: boolean; readonly timeoutMs?: number } = {},
  ): Promise<ChangedReplicas> {
    return this.#router.call(
      methods.changeReplicas,
      encodeChangeReplicas(partition, changes, force),
      {},
      this.#deadline(timeoutMs),
      readChangeReplicasResponse,
    );
  }

  /** Ends what is under way with CLIENT_CLOSED, and the connections. */
  async close(): Promise<void> {
    this.#lanes.close();
    for (const producer of this.#producers) producer.close();
    this.#router.close();
  }

  #deadline(timeoutMs = this.#router.options.timeoutMs): number {
    return performance.now() + timeoutMs;
  }
}
