/**
 * Pages that several calls want are read and encoded once: at the same moment, so that
 * many readers of one hot channel cost one read, and again and again, as latest pages are
 * wanted whenever a conversation is opened. What a page holds follows from its key, the
 * channel's head included, for events never change; only calls whose barriers let them see
 * that head get it, so nobody is answered from before what it must see. What says
 * who answered, and from which state, is each call's own.
 */
import { LruCache } from '../store/lru.js';
import { type EncodedPage, PageAnswer, type Served } from './encode.js';
import type { Soon } from './soon.js';

interface Flight {
  /** Undefined when it has landed: former tables of the Map hold no pages (ActiveCall says why). */
  page: Promise<EncodedPage> | undefined;
}

/** A thousand pages of 50 short messages, encoded. One that is not here costs 50 µs more if its events are in memory, 300 else. */
const keptBytes = 16 * 1024 * 1024;
/** Of an entry beside its bytes. */
const entryBytes = 400;
/** Keys of pages that were wanted once, of late: a page is kept when it is wanted again. */
const onceMax = 4_096;

export class PageFlights {
  readonly #flights = new Map<string, Flight>();
  readonly #kept = new LruCache<EncodedPage>(keptBytes);
  /** In two halves, the older of which is dropped when the other is full. */
  #once = new Set<string>();
  #onceBefore = new Set<string>();
  /** Pages read, and calls that were answered with one that was read for another call. */
  reads = 0;
  shared = 0;

  /** `key`: all that the page follows from, the channel's id and head included. */
  answer(key: string, served: Served, read: () => Soon<EncodedPage>): Soon<PageAnswer> {
    const kept = this.#kept.get(key);
    if (kept !== undefined) {
      this.shared++;
      return new PageAnswer(kept, served);
    }
    const flying = this.#flights.get(key)?.page;
    if (flying !== undefined) {
      this.shared++;
      return flying.then((page) => new PageAnswer(page.share(), served));
    }
    this.reads++;
    const page = read();
    if (!(page instanceof Promise)) return new PageAnswer(this.#keep(key, page), served);
    const flight: Flight = { page };
    this.#flights.set(key, flight);
    return page
      .then((found) => new PageAnswer(this.#keep(key, found), served))
      .finally(() => {
        this.#flights.delete(key);
        flight.page = undefined;
      });
  }

  #keep(key: string, page: EncodedPage): EncodedPage {
    if (this.#once.has(key) || this.#onceBefore.has(key)) {
      this.#kept.set(key, page.share(), page.length + entryBytes);
      return page;
    }
    if (this.#once.size >= onceMax / 2) {
      this.#onceBefore = this.#once;
      this.#once = new Set();
    }
    this.#once.add(key);
    return page;
  }
}
