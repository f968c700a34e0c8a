/**
 * Pages that several calls want at the same moment are read and encoded once: many
 * readers of one hot channel cost one read. Only calls whose barriers let them see
 * the same head share, so nobody is answered from before what it must see; what
 * says who answered, and from which state, is each call's own.
 */

import type { StoredEvent } from '../conversation/types.js';
import { encodeListMessages, encodeServedAfter, type Served } from './encode.js';

/** A page as it was read, without who answered. */
export interface Page {
  /** In the answer's order. */
  readonly events: readonly StoredEvent[];
  readonly nextPageToken: string;
  readonly headSeq: number;
  readonly channelUid: string;
}

interface Flight {
  /** Undefined when it has landed: former tables of the Map hold no pages (ActiveCall says why). */
  page: Promise<Buffer> | undefined;
}

export class PageFlights {
  readonly #flights = new Map<string, Flight>();
  /** Pages read, and calls that were answered with one that was being read for another call. */
  reads = 0;
  shared = 0;

  /** `key`: all that the page follows from, the channel's id and head included. */
  async answer(key: string, served: Served, read: () => Promise<Page>): Promise<Buffer> {
    const flying = this.#flights.get(key);
    if (flying?.page !== undefined) {
      this.shared++;
      return encodeServedAfter(await flying.page, served);
    }
    this.reads++;
    const page = read().then(({ events, nextPageToken, headSeq, channelUid }) =>
      encodeListMessages(events, nextPageToken, headSeq, channelUid),
    );
    const flight: Flight = { page };
    this.#flights.set(key, flight);
    try {
      return encodeServedAfter(await page, served);
    } finally {
      this.#flights.delete(key);
      flight.page = undefined;
    }
  }
}
