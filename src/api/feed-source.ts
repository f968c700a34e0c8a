/**
 * A subscription's part in one partition: from this node's replica or, where there
 * is none, from the partition's leader. Gives encoded pages; where it stands moves on
 * when a page is taken.
 */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import type { CallContext } from './calls.js';
import { decodeFetched, encodeFeedParts, eventsIn } from './encode-subscribe.js';
import { type FeedBudget, type FeedFilter, type FeedPage, type FeedPlace, wantsChannel } from './feed.js';
import { readPlace, writePlace } from './feed-place.js';
import { feedBound } from './feed-request.js';
import { fetchMethod, pullHere } from './fetch-events.js';
import type { Services } from './services.js';

/** How long the leader waits for news, and how much longer for its answer, ms. */
const remoteWaitMs = 2_000;
const remoteAnswerMs = 3_000;
/** Before a leader is asked again that could not answer, ms. */
const remoteRetryMs = 250;

interface Fetched {
  readonly events: Buffer | undefined;
  readonly place: FeedPlace;
  readonly atEnd: boolean;
}

export class FeedSource {
  place: FeedPlace;
  /** There may be something to take. */
  isDirty = true;
  /** All that was applied has been taken. */
  atEnd = false;
  /** The last page left something behind. */
  hasMore = false;
  readonly partition: PartitionId;
  readonly #services: Services;
  readonly #filter: FeedFilter;
  readonly #wake: () => void;
  readonly #onError: (error: unknown) => void;
  #unwatch: (() => void) | undefined;
  #retry: NodeJS.Timeout | undefined;
  /** What the leader has sent. */
  #fetched: Fetched | undefined;
  /** The request under way; the answer to another one is dropped. */
  #asking: object | undefined;
  #isEnded = false;

  constructor(
    services: Services,
    partition: PartitionId,
    filter: FeedFilter,
    place: FeedPlace,
    hooks: { wake(): void; failed(error: unknown): void },
  ) {
    this.#services = services;
    this.partition = partition;
    this.#filter = filter;
    this.place = place;
    this.#wake = hooks.wake;
    this.#onError = hooks.failed;
    this.#watch();
  }

  get isBackfilling(): boolean {
    return this.place.backfill !== undefined;
  }

  /** Events of a page that the leader has sent: with a smaller budget it is asked for again. */
  get fetchedEvents(): number {
    const events = this.#fetched?.events;
    return events === undefined ? 0 : eventsIn(events);
  }

  /** Has its place move on over what is not wanted, too. */
  touch(): void {
    if (this.#unwatch !== undefined) this.isDirty = true;
  }

  end(): void {
    this.#isEnded = true;
    this.#unwatch?.();
    clearTimeout(this.#retry);
  }

  /** The next page, encoded; undefined: nothing for now, or not yet. Moves the place on. */
  async take(budget: FeedBudget): Promise<Buffer | undefined> {
    this.isDirty = false;
    const page = await this.#pull(budget);
    if (page === undefined) return this.#takeFetched(budget);
    // From here on the replica is read: what the leader was asked for begins where the place no longer is.
    this.#fetched = undefined;
    this.#asking = undefined;
    this.place = page.place;
    this.atEnd = page.atEnd && !this.isDirty;
    this.hasMore = !page.atEnd;
    // A replica that has not got here says so again when it has applied more.
    if (!page.atEnd && page.isBehind !== true) this.isDirty = true;
    return page.parts.length === 0 ? undefined : encodeFeedParts(this.partition, page.parts);
  }

  /**
   * From this node's replica; undefined: none is here that answers. Tried each time anew,
   * as one comes here, or comes to lead: then there is nobody else to ask.
   */
  async #pull(budget: FeedBudget): Promise<FeedPage | undefined> {
    const wasRemote = this.#unwatch === undefined;
    // Watched before it is read: what comes in between is not missed.
    if (wasRemote) this.#watch();
    if (this.#unwatch === undefined) return undefined;
    try {
      const page = await pullHere(this.#services, this.partition, this.#filter, this.place, budget);
      // One that has just come here catches up first.
      if (!wasRemote || page.isBehind !== true) return page;
    } catch (error) {
      // Gone from here; or not to be had yet, and the leader is still there to be asked.
      if (!(error instanceof HansardError) || !(wasRemote || error.reason === 'NOT_LEADER')) throw error;
    }
    this.#unwatch?.();
    this.#unwatch = undefined;
    return undefined;
  }

  #watch(): void {
    try {
      this.#unwatch = this.#services.node.watchPartition(this.partition, (tenant, name) => {
        // In the midst of applying: only a note is taken.
        const isMine = tenant === undefined || name === undefined || wantsChannel(this.#filter, tenant, name);
        if (!isMine) return;
        this.isDirty = true;
        this.atEnd = false;
        this.#wake();
      });
    } catch (error) {
      if (!(error instanceof HansardError) || error.reason !== 'NOT_LEADER') throw error;
    }
  }

  // ---- where this node holds no replica

  #takeFetched(budget: FeedBudget): Buffer | undefined {
    // Asked for when there was more room than now: it is asked for again, less of it.
    const fetched = this.fetchedEvents > budget.events ? undefined : this.#fetched;
    this.#fetched = undefined;
    if (fetched !== undefined) {
      this.place = fetched.place;
      this.atEnd = fetched.atEnd;
      this.hasMore = !fetched.atEnd;
    }
    if (this.#asking === undefined) this.#fetch(budget);
    return fetched?.events;
  }

  #fetch(budget: FeedBudget): void {
    const asking = {};
    this.#asking = asking;
    this.#ask(budget, this.place).then(
      (fetched) => {
        if (this.#isEnded || this.#asking !== asking) return;
        this.#asking = undefined;
        this.#fetched = fetched;
        this.isDirty = true;
        this.#wake();
      },
      (error: unknown) => {
        if (this.#isEnded || this.#asking !== asking) return;
        this.#asking = undefined;
        if (!(error instanceof HansardError) || !passing.has(error.reason)) return this.#onError(error);
        this.atEnd = false;
        this.#retry = setTimeout(() => {
          this.isDirty = true;
          this.#wake();
        }, remoteRetryMs);
      },
    );
  }

  /** Where the partition's leader stands: for a feed that begins now. */
  async headAtLeader(deadlineMs: number): Promise<FeedPlace> {
    return (await this.#ask({ events: 1, bytes: 1 }, undefined, deadlineMs)).place;
  }

  /** `from` undefined: behind what is committed now. */
  async #ask(
    { events, bytes }: FeedBudget,
    from: FeedPlace | undefined,
    deadlineMs = this.#services.node.monotonicMs() + remoteWaitMs + remoteAnswerMs,
  ): Promise<Fetched> {
    const { node, codecs, router, tokens } = this.#services;
    const { tenant, names, prefix, label, types, fromTimeUs } = this.#filter;
    const bound = `${feedBound('FetchEvents', this.#filter)}/${this.partition}`;
    const request = codecs.encoder('hansard.v1.FetchEventsRequest')({
      tenant,
      channels: [...(names ?? [])],
      prefix,
      label_key: label?.[0] ?? '',
      label_value: label?.[1] ?? '',
      types: [...(types ?? [])],
      partition: this.partition,
      ...(from === undefined
        ? {}
        : { place: tokens.page(bound, (writer) => writePlace(writer.u64(fromTimeUs), from)) }),
      max_events: events,
      max_bytes: bytes,
      wait_ms: this.atEnd ? remoteWaitMs : 0,
    });
    const context: CallContext = {
      method: fetchMethod,
      deadlineMs,
      origin: 'grpc',
      traceparent: '',
      cancelled: false,
      forwardedTo: 0,
    };
    const notHere = () => Promise.reject(router.notLeader(this.partition, node.leaderOf(this.partition)));
    const answer = decodeFetched(await router.atLeader(context, this.partition, request, notHere));
    const place = tokens.openPage(bound, answer.place, (reader) => {
      reader.u64();
      return readPlace(reader);
    });
    return { events: answer.events, place, atEnd: answer.atEnd };
  }
}

/** A leader that is lost, away or busy comes back, or another one. */
const passing = new Set<string>([
  'NOT_LEADER',
  'NO_QUORUM',
  'COMMIT_UNKNOWN',
  'DEADLINE_EXCEEDED',
  'OVERLOADED',
  'SHUTTING_DOWN',
]);
