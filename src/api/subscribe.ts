/** hansard.v1.EventService/Subscribe: opening a subscription, and all of a node. */
import { HansardError, type Reason } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import type { CallHooks } from './calls.js';
import type { FeedFilter } from './feed.js';
import { readPlaces, type SubscriptionPlace } from './feed-place.js';
import {
  budgetOf,
  type FeedRequestMessage,
  feedBound,
  filterOf,
  partitionsOf,
  startOf,
} from './feed-request.js';
import { FeedSource } from './feed-source.js';
import { startPlaces } from './feed-start.js';
import { type OutCall, OutStream } from './out-stream.js';
import type { ReadOptionsMessage } from './reads.js';
import type { Services } from './services.js';
import { streamContext } from './stream-context.js';
import { type FlowMessage, takeRequests } from './stream-requests.js';
import { SubscribeStream } from './subscribe-stream.js';
import { shuttingDown } from './tails.js';

export const subscribeMethod = 'hansard.v1.EventService/Subscribe';

interface SubscribeRequest extends FeedRequestMessage {
  resume_token: string;
  max_batch: number;
  read: ReadOptionsMessage | null;
  flow: FlowMessage | null;
}

export interface SubscribeLimits {
  /** Streams at once. */
  readonly streams: number;
  /** A stream on which nothing was sent for this long gets a heartbeat, ms. */
  readonly heartbeatMs: number;
  /** Where a partition has had no leader here for this long, its readers go on elsewhere, ms: an election takes less. */
  readonly leaderlessMs: number;
  /** Who comes back while that lasts has found nobody better, and stays for this long, ms: then others may have one. */
  readonly leaderlessStayMs: number;
  /** Bytes of one message's events, where few streams are open. */
  readonly pageBytes: number;
  /** With many streams pages are smaller, so that all of them together hold about this much at worst. */
  readonly untakenBytes: number;
  readonly leastPageBytes: number;
}

export const defaultSubscribeLimits: SubscribeLimits = Object.freeze({
  streams: 1_000,
  heartbeatMs: 5_000,
  leaderlessMs: 3_000,
  leaderlessStayMs: 15_000,
  pageBytes: 128 * 1024,
  untakenBytes: 48 * 1024 * 1024,
  leastPageBytes: 16 * 1024,
});

export class Subscriptions {
  readonly #services: Services;
  readonly #limits: SubscribeLimits;
  readonly #errorOf: (error: unknown) => HansardError;
  readonly #streams = new Set<SubscribeStream>();
  #open = 0;
  readonly #leaderlessSinceMs = new Map<PartitionId, number>();
  #closed = false;
  #sweep: NodeJS.Timeout | undefined;

  constructor(services: Services, bounds: SubscribeLimits, errorOf: (error: unknown) => HansardError) {
    this.#services = services;
    this.#limits = bounds;
    this.#errorOf = errorOf;
  }

  get open(): number {
    return this.#open;
  }

  /** Ends all with SHUTTING_DOWN; their readers go on elsewhere. Takes no further ones. */
  close(): void {
    this.#closed = true;
    clearInterval(this.#sweep);
    for (const stream of this.#streams) stream.fail(shuttingDown());
  }

  /** Handles one call, to its end. */
  handler(hooks: CallHooks): (call: OutCall) => void {
    const { node, codecs } = this.#services;
    const decode = codecs.decoder<SubscribeRequest>('hansard.v1.SubscribeRequest');
    return (call) => {
      const startedMs = node.monotonicMs();
      const context = streamContext(call, subscribeMethod, startedMs);
      const out = new OutStream(call, startedMs);
      let stream: SubscribeStream | undefined;
      let reserved = false;
      out.onClose = (reason: Reason | 'CANCELLED' | undefined) => {
        context.cancelled = true;
        if (reserved) this.#open--;
        if (stream !== undefined) this.#streams.delete(stream);
        // It ends its feeds.
        stream?.wake();
        hooks.onCall?.(subscribeMethod, 'grpc', reason, node.monotonicMs() - startedMs);
      };
      const open = async (request: SubscribeRequest, bytes: Buffer): Promise<void> => {
        hooks.admit?.(context);
        const wanted = filterOf(bytes, request);
        this.#reserve();
        reserved = true;
        const bound = feedBound('Subscribe', wanted);
        const partitions = partitionsOf(node, wanted);
        const { fromTimeUs, places } = await startPlaces(this.#services, {
          deadlineMs: context.deadlineMs,
          read: request.read,
          start: startOf(request),
          resumed:
            request.start === 'resume_token'
              ? this.#services.tokens.openPage(bound, request.resume_token, readPlaces)
              : undefined,
          partitions,
        });
        if (out.isClosed) return;
        if (this.#closed || node.isDraining) throw shuttingDown();
        stream = this.#begin(out, request, bound, { ...wanted, fromTimeUs }, places);
      };
      takeRequests(call, out, { decode, open, errorOf: this.#errorOf });
    };
  }

  #begin(
    out: OutStream,
    request: SubscribeRequest,
    bound: string,
    filter: FeedFilter,
    places: SubscriptionPlace['places'],
  ): SubscribeStream {
    const box: { stream?: SubscribeStream } = {};
    const hooks = { wake: () => box.stream?.wake(), failed: (error: unknown) => box.stream?.fail(error) };
    const feeds = [...places].map(
      ([partition, place]) => new FeedSource(this.#services, partition, filter, place, hooks),
    );
    const stream = new SubscribeStream(this.#services, out, feeds, {
      bound,
      fromTimeUs: filter.fromTimeUs,
      maxEvents: budgetOf(request.max_batch, 0).events,
      pageBytes: () => this.#pageBytes,
      errorOf: this.#errorOf,
    });
    box.stream = stream;
    this.#streams.add(stream);
    this.#sweep ??= setInterval(() => this.#sweepOnce(), this.#limits.heartbeatMs / 4).unref();
    void stream.run();
    return stream;
  }

  #reserve(): void {
    if (this.#closed || this.#services.node.isDraining) throw shuttingDown();
    if (this.#open >= this.#limits.streams) {
      throw new HansardError(
        'OVERLOADED',
        `${this.#open} subscriptions are open on this node`,
        { streams: this.#open },
        { retryDelayMs: 1_000 },
      );
    }
    this.#open++;
  }

  get #pageBytes(): number {
    const { pageBytes, untakenBytes, leastPageBytes } = this.#limits;
    return Math.max(leastPageBytes, Math.min(pageBytes, Math.floor(untakenBytes / (1.5 * this.#open))));
  }

  /** Partitions of which this node knows no leader; true: for so long that it may be cut off. */
  #leaderless(nowMs: number): ReadonlyMap<PartitionId, boolean> {
    const { node } = this.#services;
    const found = new Map<PartitionId, boolean>();
    for (let partition = 0; partition < node.partitionCount; partition++) {
      if (node.leaderOf(partition) !== undefined) {
        this.#leaderlessSinceMs.delete(partition);
        continue;
      }
      const sinceMs = this.#leaderlessSinceMs.get(partition) ?? nowMs;
      this.#leaderlessSinceMs.set(partition, sinceMs);
      found.set(partition, nowMs - sinceMs >= this.#limits.leaderlessMs);
    }
    return found;
  }

  #sweepOnce(): void {
    const nowMs = this.#services.node.monotonicMs();
    const lost = this.#leaderless(nowMs);
    for (const stream of this.#streams) {
      const silentMs = nowMs - stream.lastSentMs;
      stream.handOver(lost, nowMs - this.#limits.leaderlessStayMs);
      if (silentMs >= this.#limits.heartbeatMs) stream.heartbeat();
      else if (silentMs >= this.#limits.heartbeatMs / 2) stream.touch();
    }
    if (this.#streams.size > 0) return;
    clearInterval(this.#sweep);
    this.#sweep = undefined;
    // Nobody looks from here on: a loss that is seen next begins then.
    this.#leaderlessSinceMs.clear();
  }
}
