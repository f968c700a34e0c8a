/** A page of events while it is put together: limits, order, and that nothing is missing in it. */
import type { Seq } from '../common/ids.js';
import type { StoredEvent } from '../conversation/types.js';
import { damaged } from './rows.js';
import type { PageRange } from './types.js';

/** Takes events in the order of reading, up to the limits; insists on density. */
export class Page {
  readonly events: StoredEvent[] = [];
  #bytes = 0;
  #next: Seq;
  #full = false;
  constructor(
    readonly fromSeq: Seq,
    readonly toSeq: Seq,
    readonly range: PageRange,
  ) {
    this.#next = range.reverse ? toSeq : fromSeq;
  }

  /** The seq that comes next. */
  get next(): Seq {
    return this.#next;
  }

  get done(): boolean {
    return this.#full || this.#next < this.fromSeq || this.#next > this.toSeq;
  }

  take(event: StoredEvent): void {
    const size = event.headerLength + event.contentLength;
    const { maxEvents, maxBytes, reverse } = this.range;
    const over = this.events.length >= maxEvents || this.#bytes + size > maxBytes;
    if (over && this.events.length > 0) {
      this.#full = true;
      return;
    }
    this.events.push(event);
    this.#bytes += size;
    this.#next += reverse ? -1 : 1;
  }

  /** From consecutive events, those that come next. */
  takeFrom(events: readonly StoredEvent[]): void {
    const first = events[0]?.seq;
    if (first === undefined) return;
    while (!this.done) {
      const event = events[this.#next - first];
      if (event === undefined) return;
      if (event.seq !== this.#next) throw damaged('a page', `event ${this.#next} is out of place`);
      this.take(event);
    }
  }

  finish(): StoredEvent[] {
    return this.range.reverse ? this.events.reverse() : this.events;
  }
}
