/** A channel as applications use it. */

import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { limits } from '../common/limits.js';
import {
  type DeletedChannel,
  readChannelResponse,
  readDeleteChannelResponse,
  readGetChannelResponse,
} from './channel-responses.js';
import { checkMessage, checkOptions, checkRef, invalid } from './check-input.js';
import { type DeliverOptions, type DeliveryHandler, deliver, redeliver } from './deliver.js';
import {
  type DeliveryPage,
  type DeliveryQuery,
  type DeliveryReport,
  encodeListDeliveries,
  encodeReportDelivery,
  type FailedEvent,
  type ReportedDelivery,
  readDeliveryPage,
  readReportedDelivery,
  requireRecipient,
} from './delivery.js';
import {
  type CursorPage,
  encodeListCursors,
  encodeMoveCursor,
  type MovedCursor,
  readCursorPage,
  readMovedCursor,
} from './inbox.js';
import { Append } from './lane.js';
import type { LaneSet } from './producers.js';
import { read, type Served } from './reads.js';
import {
  type AppendCondition,
  type ChannelChanges,
  encodeAppend,
  encodeBatchGet,
  encodeChannelState,
  encodeDeleteChannel,
  encodeGet,
  encodeGetChannel,
  encodeList,
  encodeTarget,
  encodeUpdateChannel,
  type GetRef,
  type ListRequest,
  type Method,
  methods,
  requireChannelName,
} from './requests.js';
import { type AppendResponse, readBatchGetResponse, readGetResponse, readListResponse } from './responses.js';
import { type Router, Target } from './router.js';
import { Tail, type TailOptions } from './tail.js';
import type { ChannelInfo, Event, NewMessage, ReadOptions, ServedBy } from './types.js';

export interface AppendOptions {
  /** What the channel must be like; else CONDITION_FAILED and nothing is stored. */
  readonly condition?: AppendCondition;
  /** For an append of one message: its idempotency key. */
  readonly key?: string;
  /** For an append of one message: its id. */
  readonly messageId?: string;
  /** How long it may take, retries included, ms. Default 5,000. */
  readonly timeoutMs?: number;
}

export interface AppendResult {
  /** Seq of the first message; 0 where an old repeat was recognised without it. */
  readonly seq: number;
  readonly seqs: readonly number[];
  /** µs since 1970. */
  readonly commitTimeUs: number;
  /** Pass it to a read that must see this append. Not to be written to: results may share one. */
  readonly commitToken: Uint8Array;
  /** The append had been applied before (by its key, or by an attempt whose answer was lost). */
  readonly duplicate: boolean;
  /** xxh64 of each message's content, as the server keeps it. */
  readonly checksums: readonly bigint[];
  readonly checksum: bigint;
  readonly channelUid: string;
}

export interface ListOptions extends ReadOptions {
  /** Events before the anchor, per page; without anchor: before the end. At most 1,000. */
  readonly before?: number;
  /** Events at and after the anchor, per page; without anchor: from the first. At most 1,000. */
  readonly after?: number;
  /** A seq, or a time. */
  readonly anchor?: number | Date | { readonly timeUs: number };
  /** Newest first. */
  readonly descending?: boolean;
  /** Goes on where a page ended; the other options must be the same. */
  readonly pageToken?: string;
}

export interface Page {
  readonly events: readonly Event[];
  /** Empty: there is no more in this direction. */
  readonly nextPageToken: string;
  readonly headSeq: number;
  readonly servedBy: ServedBy;
  readonly channelUid: string;
}

export interface MarkReadOptions {
  /** It may go back: something is marked as unread. */
  readonly allowBack?: boolean;
  readonly timeoutMs?: number;
}

export interface ListCursorsOptions extends ReadOptions {
  /** Default 100, at most 1,000. */
  readonly pageSize?: number;
  /** From an earlier page. */
  readonly pageToken?: string;
}

export interface DeleteOptions {
  /** The channel must still have it. */
  readonly etag?: string;
  /** A channel that is not there is no error. */
  readonly allowMissing?: boolean;
  /** Not to be brought back. */
  readonly permanent?: boolean;
  /** Deletes nothing: tells what would be deleted. */
  readonly dryRun?: boolean;
  readonly timeoutMs?: number;
}

export interface StateOptions {
  /** What the channel must still have, or had when it was deleted. */
  readonly etag?: string;
  readonly timeoutMs?: number;
}

const noOptions: AppendOptions = Object.freeze({});

/** Events of a page size that iteration uses where none is given. */
const iterationPageSize = 500;

/**
 * A listing: await `page()` for one page, or iterate over events or pages.
 * @example
 * for await (const event of channel.list()) print(event);          // all, in order
 * const { events } = await channel.list({ before: 20 }).page();    // the latest 20
 * for await (const event of channel.list({ descending: true })) …  // newest first
 */
export class Listing implements AsyncIterable<Event> {
  readonly #read: (request: ListRequest) => Promise<Page>;
  readonly #options: ListOptions;
  constructor(read: (request: ListRequest) => Promise<Page>, options: ListOptions) {
    this.#read = read;
    this.#options = options;
  }

  /** One page, as the options say; without `before` and `after` the latest 50 events. */
  page(): Promise<Page> {
    return this.#read(listRequest(this.#options));
  }

  /**
   * Pages to the end of the listing. Without `before`, `after`, `descending` and
   * anchor: from the first event on. With `before` each page is older than the
   * one before it, its events in rising order unless `descending`.
   */
  async *pages(): AsyncGenerator<Page, void, void> {
    const { before, after, descending, pageToken } = this.#options;
    const isOpen = before === undefined && after === undefined && pageToken === undefined;
    const size = isOpen ? (descending ? { before: iterationPageSize } : { after: iterationPageSize }) : {};
    const request: ListRequest = { ...listRequest(this.#options), ...size };
    let token = pageToken;
    do {
      const page: Page = await this.#read(token === undefined ? request : { ...request, pageToken: token });
      yield page;
      token = page.nextPageToken;
    } while (token !== '');
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void, void> {
    for await (const page of this.pages()) yield* page.events;
  }
}

export class Channel {
  readonly name: string;
  readonly #router: Router;
  readonly #lanes: LaneSet;
  readonly #target: Target;

  /** Made by `client.channel(name)`. */
  constructor(name: string, router: Router, lanes: LaneSet) {
    requireChannelName(name);
    this.name = name;
    this.#router = router;
    this.#lanes = lanes;
    this.#target = new Target(name, encodeTarget(router.tenant, name));
  }

  /**
   * Appends one message or several (all or none). Calls take effect in their
   * order, whether awaited or not. Resolves when a majority has the messages on
   * disk. Rejects with a HansardError; `DEADLINE_EXCEEDED` with
   * `fields.outcome` `unknown` alone leaves open whether they were stored.
   * @example
   * const { seq } = await channel.append({ role: 'user', text: 'hello' });
   */
  append(
    messages: NewMessage | readonly NewMessage[],
    options: AppendOptions = noOptions,
  ): Promise<AppendResult> {
    return new Promise((resolve, reject) => {
      if (options !== noOptions) checkOptions('append', options);
      const encoded = encodeAppend(this.#prefix, withIds(messages, options), options.condition);
      const deadlineMs = Math.ceil(performance.now() + (options.timeoutMs ?? this.#router.options.timeoutMs));
      this.#lanes.submit(
        new Append(encoded, this.#target, deadlineMs, 0, this.#lanes, appendResult, resolve, reject),
      );
    });
  }

  get #prefix(): Buffer {
    return this.#target.prefix;
  }

  /** Events of the channel. */
  list(options: ListOptions = {}): Listing {
    checkOptions('list', options);
    return new Listing(
      (request) =>
        this.#read(
          methods.list,
          options,
          (asked) => encodeList(this.#prefix, request, asked),
          readListResponse,
        ),
      options,
    );
  }

  /** One event, by seq or message id. Rejects MESSAGE_NOT_FOUND, CHANNEL_NOT_FOUND. */
  async get(ref: number | { readonly messageId: string }, options: ReadOptions = {}): Promise<Event> {
    checkRef(ref);
    checkOptions('read', options);
    const by: GetRef = typeof ref === 'number' ? { seq: ref } : ref;
    const { event } = await this.#read(
      methods.get,
      options,
      (asked) => encodeGet(this.#prefix, by, asked),
      readGetResponse,
    );
    if (event === undefined) throw new HansardError('INTERNAL', 'the server answered without an event');
    return event;
  }

  /**
   * The channel's events as they come, from a place on: all of them, in order,
   * each once, whatever happens to nodes and connections meanwhile. Without
   * `afterSeq` or `resumeToken` only what is appended from now on.
   */
  tail(options: TailOptions = {}): Tail {
    checkOptions('tail', options);
    return new Tail(this.#router, this.name, this.#prefix, options);
  }

  /**
   * Many events, in the order of `refs`; undefined where there is none. Asks again
   * for what did not fit into one answer (3 MiB, 1,000 refs).
   */
  async batchGet(
    refs: readonly (number | { readonly messageId: string })[],
    options: ReadOptions = {},
  ): Promise<(Event | undefined)[]> {
    if (!Array.isArray(refs)) throw invalid('refs', 'must be an array of seqs and { messageId }');
    for (const ref of refs) checkRef(ref);
    checkOptions('read', options);
    const wanted = (refs as readonly (number | { readonly messageId: string })[]).map(
      (ref): GetRef => (typeof ref === 'number' ? { seq: ref } : ref),
    );
    const found = new Array<Event | undefined>(refs.length).fill(undefined);
    let places = wanted.map((_, place) => place);
    while (places.length > 0) {
      const now = places.slice(0, limits.batchGetItems);
      const these = now.map((place) => wanted[place] as GetRef);
      const { events, deferred } = await this.#read(
        methods.batchGet,
        options,
        (asked) => encodeBatchGet(this.#prefix, these, asked),
        readBatchGetResponse,
      );
      if (events.length !== now.length || deferred.length === now.length)
        throw new HansardError('INTERNAL', 'the server answered for other messages');
      for (const [i, event] of events.entries()) found[now[i] as number] = event;
      places = [...deferred.map((i) => now[i] as number), ...places.slice(now.length)];
    }
    return found;
  }

  /**
   * Changes the channel's own fields: those that are given; labels and participants
   * are replaced whole. Rejects CONDITION_FAILED where `etag` is not the channel's any
   * more, CHANNEL_NOT_FOUND.
   * @example
   * const { etag, labels } = await channel.info();
   * await channel.update({ labels: { ...labels, pinned: 'yes' }, etag });
   */
  async update(changes: ChannelChanges, options: { readonly timeoutMs?: number } = {}): Promise<ChannelInfo> {
    checkOptions('changes', changes);
    checkOptions('call', options);
    const request = encodeUpdateChannel(this.#router.tenant, this.name, changes, crypto.randomUUID());
    const { channel } = await this.#write(
      methods.updateChannel,
      request,
      options.timeoutMs,
      readChannelResponse,
    );
    if (channel === undefined) throw new HansardError('INTERNAL', 'the server answered without a channel');
    return channel;
  }

  /**
   * Deletes the channel with all its events; for seven days `undelete()` brings it back.
   * Its head is kept: what is appended later goes on behind it, in a channel with another
   * uid. Rejects CHANNEL_NOT_FOUND unless `allowMissing`, CONDITION_FAILED where `etag` is
   * not the channel's any more.
   */
  async delete(options: DeleteOptions = {}): Promise<DeletedChannel> {
    checkOptions('deleteChannel', options);
    const request = encodeDeleteChannel(this.#prefix, options, crypto.randomUUID());
    return this.#write(methods.deleteChannel, request, options.timeoutMs, readDeleteChannelResponse);
  }

  /**
   * Brings the deleted channel back as it was. Rejects CHANNEL_NOT_FOUND where none can be
   * brought back, CHANNEL_EXISTS where the name is in use again.
   */
  undelete(options: StateOptions = {}): Promise<ChannelInfo> {
    return this.#changeState(methods.undeleteChannel, options);
  }

  /** From here on the channel takes no more events: appends reject CHANNEL_SEALED. */
  seal(options: StateOptions = {}): Promise<ChannelInfo> {
    return this.#changeState(methods.sealChannel, options);
  }

  async #changeState(method: Method, options: StateOptions): Promise<ChannelInfo> {
    checkOptions('channelState', options);
    const request = encodeChannelState(this.#prefix, options, crypto.randomUUID());
    const { channel } = await this.#write(method, request, options.timeoutMs, readChannelResponse);
    if (channel === undefined) throw new HansardError('INTERNAL', 'the server answered without a channel');
    return channel;
  }

  /**
   * Notes that the reader has read up to `seq`; it only goes forward, unless `allowBack`. Rejects
   * CHANNEL_NOT_FOUND, INVALID_ARGUMENT where there is no such event yet.
   * @example
   * await channel.markRead('ann', event.seq);
   */
  async markRead(reader: string, seq: number, options: MarkReadOptions = {}): Promise<MovedCursor> {
    checkOptions('markRead', options);
    const allowBack = options.allowBack === true;
    // One that only goes forward may be repeated as it is.
    const request = encodeMoveCursor(
      this.#prefix,
      reader,
      seq,
      allowBack,
      allowBack ? crypto.randomUUID() : '',
    );
    return this.#write(methods.moveReadCursor, request, options.timeoutMs, readMovedCursor);
  }

  /** How far its readers have got, a page of them, by reader. Rejects CHANNEL_NOT_FOUND. */
  async readCursors(options: ListCursorsOptions = {}): Promise<CursorPage> {
    checkOptions('readCursors', options);
    return this.#read(
      methods.listReadCursors,
      options,
      (asked) => encodeListCursors(this.#prefix, options, asked),
      readCursorPage,
    );
  }

  /**
   * Hands the channel's events to `handler`, one after the other, each at least once, and reports for the recipient
   * what became of them, until the signal. Begins where the recipient's last report ended. Rejects what no retry can mend.
   * @example
   * await channel.deliver('ann', (event) => push(event), { signal });
   */
  async deliver(recipient: string, handler: DeliveryHandler, options: DeliverOptions = {}): Promise<void> {
    requireRecipient(recipient);
    checkOptions('deliver', options);
    await deliver(this, recipient, handler, options);
  }

  /** Hands out once more what has failed, and reports what became of it. */
  async redeliver(
    recipient: string,
    handler: DeliveryHandler,
  ): Promise<{ readonly recovered: readonly number[]; readonly failed: readonly FailedEvent[] }> {
    return redeliver(this, recipient, handler);
  }

  /**
   * Notes up to where a recipient is done with the channel's events, and what failed. Takes nothing back: it may be repeated.
   * Rejects CHANNEL_NOT_FOUND, INVALID_ARGUMENT, TOO_MANY_FAILED_DELIVERIES.
   */
  async reportDelivery(
    recipient: string,
    report: DeliveryReport,
    options: { readonly timeoutMs?: number } = {},
  ): Promise<ReportedDelivery> {
    const request = encodeReportDelivery(this.#prefix, recipient, report);
    return this.#write(methods.reportDelivery, request, options.timeoutMs, readReportedDelivery);
  }

  /**
   * How far the channel's events have got, by recipient; with `seq` or `messageId` the state of that event: pending,
   * delivered or failed. Rejects CHANNEL_NOT_FOUND, MESSAGE_NOT_FOUND.
   */
  async deliveries(options: DeliveryQuery & ReadOptions = {}): Promise<DeliveryPage> {
    checkOptions('deliveries', options);
    return this.#read(
      methods.listDeliveries,
      options,
      (asked) => encodeListDeliveries(this.#prefix, options, asked),
      readDeliveryPage,
    );
  }

  /** The channel's own fields. Rejects CHANNEL_NOT_FOUND. */
  async info(options: ReadOptions = {}): Promise<ChannelInfo> {
    checkOptions('read', options);
    const { channel } = await this.#read(
      methods.getChannel,
      options,
      (asked) => encodeGetChannel(this.#prefix, asked),
      readGetChannelResponse,
    );
    if (channel === undefined) throw new HansardError('INTERNAL', 'the server answered without a channel');
    return channel;
  }

  async #read<T extends Served>(
    method: Method,
    options: ReadOptions,
    encode: (read: ReadOptions) => Uint8Array,
    decode: (bytes: Uint8Array) => T,
  ): Promise<T> {
    await this.#router.known(performance.now() + (options.timeoutMs ?? this.#router.options.timeoutMs));
    const partition = this.#router.partitionOfTarget(this.#target) as PartitionId;
    return read(this.#router, method, partition, options, encode, decode);
  }

  async #write<T extends { readonly commitToken: Uint8Array }>(
    method: Method,
    request: Uint8Array,
    timeoutMs: number | undefined,
    decode: (bytes: Uint8Array) => T,
  ): Promise<T> {
    const deadlineMs = performance.now() + (timeoutMs ?? this.#router.options.timeoutMs);
    await this.#router.known(deadlineMs);
    const partition = this.#router.partitionOfTarget(this.#target) as PartitionId;
    return this.#router.write(method, request, partition, deadlineMs, decode);
  }
}

function withIds(
  messages: NewMessage | readonly NewMessage[],
  options: AppendOptions,
): readonly NewMessage[] {
  const list = isList(messages) ? messages : [messages];
  const { key, messageId } = options;
  if (key === undefined && messageId === undefined) return list;
  if (list.length !== 1)
    throw invalid(
      'key',
      'key and messageId as options are for an append of one message; give each message its own',
    );
  checkMessage(list[0], undefined);
  const ids = { ...(key === undefined ? {} : { key }), ...(messageId === undefined ? {} : { messageId }) };
  return [{ ...(list[0] as NewMessage), ...ids }];
}

function isList(messages: NewMessage | readonly NewMessage[]): messages is readonly NewMessage[] {
  return Array.isArray(messages);
}

function appendResult(append: Append, response: AppendResponse): AppendResult {
  return resultOf(append.encoded.checksums, response);
}

export function resultOf(checksums: readonly bigint[], response: AppendResponse): AppendResult {
  return {
    seq: response.seqs[0] ?? 0,
    seqs: response.seqs,
    commitTimeUs: response.commitTimeUs,
    commitToken: response.commitToken,
    duplicate: response.duplicate,
    checksums,
    checksum: checksums[0] as bigint,
    channelUid: response.channelUid,
  };
}

function listRequest(options: ListOptions): ListRequest {
  const { anchor, before, after, descending, pageToken } = options;
  const base: ListRequest = { before, after, descending, pageToken };
  if (anchor === undefined) return base;
  if (typeof anchor === 'number') return { ...base, anchorSeq: anchor };
  return { ...base, anchorTimeUs: anchor instanceof Date ? anchor.getTime() * 1000 : anchor.timeUs };
}
