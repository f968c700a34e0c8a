/**
 * Which entry brought which events of which channel, in the order of applying. In columns: as an object each would
 * live as long as the tail, one for nearly every append.
 */
import type { Index, Seq } from '../common/ids.js';
import type { ChannelState } from '../conversation/types.js';

/** Events that one entry brought to one channel; another one where others came between. */
export interface Change {
  readonly index: Index;
  readonly channel: ChangedChannel;
  readonly firstSeq: Seq;
  readonly lastSeq: Seq;
}

export type ChangedChannel = Pick<ChannelState, 'id' | 'tenant' | 'name'>;

/** Numbers alone in one list. */
const Column = { index: 0, firstSeq: 1, lastSeq: 2 } as const;
const columns = 3;

export class ChangeList {
  readonly #numbers: number[] = [];
  readonly #channels: ChangedChannel[] = [];

  get length(): number {
    return this.#channels.length;
  }

  push(index: Index, channel: ChangedChannel, firstSeq: Seq, lastSeq: Seq): void {
    this.#channels.push(channel);
    this.#numbers.push(index, firstSeq, lastSeq);
  }

  /** The last one goes on; false: it is another entry's or channel's. */
  extend(index: Index, channel: ChangedChannel, lastSeq: Seq): boolean {
    const last = this.length - 1;
    if (last < 0 || this.#channels[last] !== channel || this.indexAt(last) !== index) return false;
    this.#numbers[last * columns + Column.lastSeq] = lastSeq;
    return true;
  }

  indexAt(i: number): Index {
    return this.#numbers[i * columns + Column.index] as Index;
  }

  channelAt(i: number): ChangedChannel {
    return this.#channels[i] as ChangedChannel;
  }

  at(i: number): Change {
    const at = i * columns;
    return {
      index: this.#numbers[at + Column.index] as Index,
      channel: this.channelAt(i),
      firstSeq: this.#numbers[at + Column.firstSeq] as Seq,
      lastSeq: this.#numbers[at + Column.lastSeq] as Seq,
    };
  }

  /** Place of the first one behind `index`. */
  firstAfter(index: Index): number {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.indexAt(middle) <= index) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  *[Symbol.iterator](): IterableIterator<Change> {
    for (let i = 0; i < this.length; i++) yield this.at(i);
  }
}
