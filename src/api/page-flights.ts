/**
 * Pages that several calls want at the same moment are read and encoded once: many
 * readers of one hot channel cost one read. Only calls whose barriers let them see
 * the same head share, so nobody is answered from before what it must see; what
 * says who answered, and from which state, is each call's own.
 */
import { type EncodedPage, PageAnswer, type Served } from './encode.js';
import type { Soon } from './soon.js';

interface Flight {
  /** Undefined when it has landed: former tables of the Map hold no pages (ActiveCall says why). */
  page: Soon<EncodedPage> | undefined;
}

export class PageFlights {
  readonly #flights = new Map<string, Flight>();
  /** Those that were over at once, and stay until the end of their turn. */
  #landed: string[] = [];
  /** Pages read, and calls that were answered with one that was read for another call. */
  reads = 0;
  shared = 0;

  /** `key`: all that the page follows from, the channel's id and head included. */
  answer(key: string, served: Served, read: () => Soon<EncodedPage>): Soon<PageAnswer> {
    const flying = this.#flights.get(key)?.page;
    if (flying !== undefined) {
      this.shared++;
      if (flying instanceof Promise) return flying.then((page) => new PageAnswer(page.share(), served));
      return new PageAnswer(flying.share(), served);
    }
    this.reads++;
    const page = read();
    const flight: Flight = { page };
    this.#flights.set(key, flight);
    if (page instanceof Promise) {
      return page.then((read) => new PageAnswer(read, served)).finally(() => this.#land(key, flight));
    }
    // Calls that one round has confirmed go on in one turn.
    if (this.#landed.length === 0) setImmediate(() => this.#landAll());
    this.#landed.push(key);
    return new PageAnswer(page, served);
  }

  #landAll(): void {
    for (const key of this.#landed) {
      const flight = this.#flights.get(key);
      if (flight !== undefined) this.#land(key, flight);
    }
    this.#landed = [];
  }

  #land(key: string, flight: Flight): void {
    this.#flights.delete(key);
    flight.page = undefined;
  }
}
