/**
 * The feeds of a durable subscription: one per partition, taken in turn; where they stand, as it is written down. Pages are read
 * ahead of the steps that take them, several feeds at once: a step is not to wait for disks and other nodes.
 */
import { ByteReader, ByteWriter } from '../common/bytes.js';
import type { PartitionId } from '../common/ids.js';
import type { SubscriptionState } from '../conversation/subscription-state.js';
import { readPlace, writePlace } from './feed-place.js';
import { FeedSource } from './feed-source.js';
import { FeedTurns } from './feed-turns.js';
import type { Services } from './services.js';
import { type FedChannel, readFed } from './subscription-events.js';
import { filterOfSelector } from './subscription-message.js';
import { nextTurn } from './waker.js';

export interface Taken {
  readonly partition: PartitionId;
  readonly place: Uint8Array;
  readonly channels: readonly FedChannel[];
}

interface Page extends Taken {
  readonly feed: FeedSource;
  readonly bytes: number;
}

/** One page: about a step's worth. */
const pageEvents = 500;
const pageBytes = 256 * 1024;
/** Feeds that are read at once. */
const readsAtOnce = 8;
/** Of pages that wait for a step; then no more are read. */
const readyBytesMax = 2 * 1024 * 1024;
/** In one step, so that its entry stays small. */
const pagesPerStep = 64;

export class SubscriptionFeeds {
  readonly #services: Services;
  readonly #feeds: FeedSource[];
  /** As written down last. */
  readonly #written: Map<PartitionId, Uint8Array>;
  readonly #turns: FeedTurns;
  readonly #wake: () => void;
  /** In the order in which they are to be taken. */
  readonly #ready: Page[] = [];
  #readyBytes = 0;
  /** Feeds that are read now, with the channels that may come of it at most. */
  readonly #reading = new Map<FeedSource, number>();
  /** Channels for which there is room, beside those that are taken. */
  #room = 0;
  #failure: { readonly error: unknown } | undefined;
  #isEnded = false;

  constructor(services: Services, state: Readonly<SubscriptionState>, wake: () => void) {
    const failed = (error: unknown): void => this.#fail(error);
    this.#services = services;
    this.#wake = wake;
    const filter = filterOfSelector(state.tenant, state.selector, state.fromTimeUs);
    this.#written = new Map(state.places);
    this.#feeds = [...state.places].map(
      ([partition, place]) =>
        new FeedSource(services, partition, filter, readPlace(new ByteReader(place)), { wake, failed }),
    );
    this.#turns = new FeedTurns(this.#feeds);
  }

  /** Nothing more comes: what was taken before can still be worked off. */
  get failure(): { readonly error: unknown } | undefined {
    return this.#failure;
  }

  /** All that is committed was taken, as far as can be known: a replica that knows no leader may miss some of it. */
  get atEnd(): boolean {
    const { node } = this.#services;
    if (this.#ready.length > 0) return false;
    return this.#feeds.every(
      (feed) => feed.atEnd && !feed.isBackfilling && node.leaderOf(feed.partition) !== undefined,
    );
  }

  /** What is ready, of at most `room` channels; more is read meanwhile. */
  take(room: number): readonly Taken[] {
    const taken: Taken[] = [];
    this.#room = room;
    while (taken.length < pagesPerStep) {
      const [page] = this.#ready;
      if (page === undefined || page.channels.length > this.#room) break;
      this.#ready.shift();
      this.#readyBytes -= page.bytes;
      this.#room -= page.channels.length;
      taken.push(page);
    }
    this.#readAhead();
    return taken;
  }

  /** The next page was read for more room than there is now, as dead letters came back: smaller ones must be read. */
  exceeds(room: number): boolean {
    const [page] = this.#ready;
    return room > 0 && page !== undefined && page.channels.length > room;
  }

  /** Places that are not written down; where pages are yet to be taken they say it themselves. */
  *moved(): Generator<[PartitionId, Uint8Array]> {
    const isAhead = new Set([...this.#reading.keys(), ...this.#ready.map(({ feed }) => feed)]);
    for (const feed of this.#feeds) {
      if (isAhead.has(feed)) continue;
      const place = encodePlace(feed);
      const written = this.#written.get(feed.partition);
      if (written === undefined || Buffer.compare(place, written) !== 0) yield [feed.partition, place];
    }
  }

  written(partition: PartitionId, place: Uint8Array): void {
    this.#written.set(partition, place);
  }

  /** They look again, and their places move on over what is not wanted. */
  touch(): void {
    for (const feed of this.#feeds) feed.touch();
  }

  end(): void {
    this.#isEnded = true;
    for (const feed of this.#feeds) feed.end();
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
    this.#wake();
  }

  #readAhead(): void {
    while (this.#reading.size < readsAtOnce && this.#readyBytes < readyBytesMax) {
      // Each event may be of another channel.
      let room = this.#room;
      for (const events of this.#reading.values()) room -= events;
      for (const { channels } of this.#ready) room -= channels.length;
      if (room <= 0 || this.#isEnded || this.#failure !== undefined) return;
      const feed = this.#turns.next((one) => !this.#reading.has(one));
      if (feed === undefined) return;
      const share = Math.ceil(room / (readsAtOnce - this.#reading.size));
      // What another node has sent already fits as long as there is room for it at all.
      void this.#read(feed, Math.min(pageEvents, Math.max(share, Math.min(room, feed.fetchedEvents))));
    }
  }

  /** Never rejects. */
  async #read(feed: FeedSource, events: number): Promise<void> {
    this.#reading.set(feed, events);
    let page: Page | undefined;
    try {
      const bytes = await feed.take({ events, bytes: pageBytes });
      if (bytes !== undefined) page = pageOf(feed, bytes);
    } catch (error) {
      // It stays among those that are read: where it stands now is not written down.
      return this.#fail(error);
    }
    this.#reading.delete(feed);
    if (this.#isEnded) return;
    // Also where another feed has failed meanwhile: this one's place has moved on over what is in the page.
    if (page !== undefined) {
      this.#readyBytes += page.bytes;
      this.#ready.push(page);
    }
    // Whether there was something or nothing is left: both change what is told.
    if (page !== undefined || this.#reading.size === 0) this.#wake();
    // Much may be passed over of which nothing is wanted: others have their turn.
    await nextTurn();
    this.#readAhead();
  }
}

/** As taken from the feed just now. */
function pageOf(feed: FeedSource, events: Buffer): Page {
  const { partition } = feed;
  const channels = joined(readFed(events));
  return { feed, partition, place: encodePlace(feed), channels, bytes: events.length };
}

function encodePlace(feed: FeedSource): Uint8Array {
  const writer = new ByteWriter(32);
  writePlace(writer, feed.place);
  return writer.finish();
}

/** A channel may be in a page more than once. */
function joined(channels: readonly FedChannel[]): FedChannel[] {
  const byName = new Map<string, FedChannel>();
  for (const one of channels) {
    if (one.events.length === 0) continue;
    const known = byName.get(one.channel);
    byName.set(one.channel, known === undefined ? one : { ...one, events: [...known.events, ...one.events] });
  }
  return [...byName.values()];
}
