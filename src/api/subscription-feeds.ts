/** The feeds of a durable subscription: one per partition, taken in turn; where they stand, as it is written down. */
import { ByteReader, ByteWriter } from '../common/bytes.js';
import type { PartitionId } from '../common/ids.js';
import type { SubscriptionState } from '../conversation/subscription-state.js';
import { readPlace, writePlace } from './feed-place.js';
import { FeedSource } from './feed-source.js';
import { FeedTurns } from './feed-turns.js';
import type { Services } from './services.js';
import { type FedChannel, readFed } from './subscription-events.js';
import { filterOfSelector } from './subscription-message.js';

export interface Taken {
  readonly partition: PartitionId;
  readonly place: Uint8Array;
  /** May be empty: only the place has moved. */
  readonly channels: readonly FedChannel[];
}

/** One take: about a step's worth. */
const takenEvents = 500;
const takenBytes = 256 * 1024;
/** Takes in one round, so that what consumers say does not wait long. */
const takesPerRound = 8;

export class SubscriptionFeeds {
  readonly #services: Services;
  readonly #feeds: FeedSource[];
  /** As written down last. */
  readonly #written: Map<PartitionId, Uint8Array>;
  readonly #turns: FeedTurns;
  #failure: { readonly error: unknown } | undefined;

  constructor(services: Services, state: Readonly<SubscriptionState>, wake: () => void) {
    const failed = (error: unknown): void => {
      this.#failure ??= { error };
      wake();
    };
    this.#services = services;
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
    return this.#feeds.every(
      (feed) => feed.atEnd && !feed.isBackfilling && node.leaderOf(feed.partition) !== undefined,
    );
  }

  /** At most `room` channels come from it: it is asked again when there is room. */
  async take(room: number): Promise<Taken[]> {
    const taken: Taken[] = [];
    let left = room;
    for (let i = 0; i < takesPerRound && left > 0 && this.#failure === undefined; i++) {
      const feed = this.#turns.next();
      if (feed === undefined) break;
      let events: Buffer | undefined;
      try {
        events = await feed.take({ events: Math.min(takenEvents, left), bytes: takenBytes });
      } catch (error) {
        this.#failure ??= { error };
        break;
      }
      if (events === undefined) continue;
      const channels = joined(readFed(events));
      left -= channels.length;
      taken.push({ partition: feed.partition, place: encodePlace(feed), channels });
    }
    return taken;
  }

  /** A round ended before all feeds had their turn. */
  get hasNext(): boolean {
    return this.#failure === undefined && this.#turns.hasNext;
  }

  /** Places that are not written down. */
  *moved(): Generator<[PartitionId, Uint8Array]> {
    for (const feed of this.#feeds) {
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
    for (const feed of this.#feeds) feed.end();
  }
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
