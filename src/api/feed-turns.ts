import type { FeedSource } from './feed-source.js';

/**
 * Feeds take turns, so that none waits for another; those that read what was there before
 * the start go one after the other, as the place of each under way makes the token longer.
 */
export class FeedTurns {
  readonly #feeds: readonly FeedSource[];
  #turn = 0;

  constructor(feeds: readonly FeedSource[]) {
    this.#feeds = feeds;
  }

  /** That may have something, and `isFree`; undefined: none. */
  next(isFree: (feed: FeedSource) => boolean = () => true): FeedSource | undefined {
    const found = this.#find(isFree);
    if (found === undefined) return undefined;
    this.#turn = found;
    return this.#feeds[found];
  }

  /** Would one have its turn? Not each that may have something: it may have to wait for another one. */
  get hasNext(): boolean {
    return this.#find(() => true) !== undefined;
  }

  #find(isFree: (feed: FeedSource) => boolean): number | undefined {
    const count = this.#feeds.length;
    const backfilling = this.#feeds.find((feed) => feed.isBackfilling);
    for (let i = 1; i <= count; i++) {
      const at = (this.#turn + i) % count;
      const feed = this.#feeds[at] as FeedSource;
      if (feed.isDirty && (!feed.isBackfilling || feed === backfilling) && isFree(feed)) return at;
    }
    return undefined;
  }
}
