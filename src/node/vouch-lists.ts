/**
 * What one node vouches for to another is a list that both know. It has a number, which
 * changes whenever the list does and never stands for another one; so a word that names
 * nothing but the number vouches for exactly the (partition, term, commit index) of that
 * list (design rule 17). What changed since the list that the peer is known to have goes
 * along until the peer has said that it has it.
 *
 * Both ends forget their lists with the link. A word that builds on a list that its hearer
 * does not have is not believed; then the teller begins anew.
 */
import type { PartitionId } from '../common/ids.js';
import type { Vouching, VouchWord } from './peer-codec.js';

/** The teller's end, for one peer. */
export class ToldList {
  readonly #newNumber: () => number;
  readonly #vouchings = new Map<PartitionId, Vouching>();
  /** Partitions that came or went since list `#known`, and in which list they last did. */
  readonly #changes = new Map<PartitionId, number>();
  readonly #first: number;
  #number: number;
  /** The newest list that the peer said it has; 0: none. */
  #known = 0;

  /** `newNumber` never gives the same one twice, nor one that another life of this node gave. */
  constructor(newNumber: () => number) {
    this.#newNumber = newNumber;
    this.#number = newNumber();
    this.#first = this.#number;
  }

  get isEmpty(): boolean {
    return this.#vouchings.size === 0;
  }

  /** Nothing is vouched for, and the peer knows. */
  get isOver(): boolean {
    return this.isEmpty && this.#known === this.#number;
  }

  add(vouching: Vouching): void {
    this.#vouchings.set(vouching.partition, vouching);
    this.#changed(vouching.partition);
  }

  drop(partition: PartitionId): void {
    if (this.#vouchings.delete(partition)) this.#changed(partition);
  }

  #changed(partition: PartitionId): void {
    this.#number = this.#newNumber();
    this.#changes.set(partition, this.#number);
  }

  /** What to say now: good on the list `since` and on each that the peer may have taken over since. */
  word(): Pick<VouchWord, 'number' | 'since' | 'gone' | 'vouchings'> {
    const number = this.#number;
    const since = this.#known;
    if (since === 0) return { number, since, gone: [], vouchings: [...this.#vouchings.values()] };
    const gone: PartitionId[] = [];
    const vouchings: Vouching[] = [];
    for (const partition of this.#changes.keys()) {
      const vouching = this.#vouchings.get(partition);
      if (vouching === undefined) gone.push(partition);
      else vouchings.push(vouching);
    }
    return { number, since, gone, vouchings };
  }

  /** The peer has list `number`. False: it is none of these. */
  taken(number: number): boolean {
    if (number < this.#first || number > this.#number) return false;
    // Said twice, or overtaken.
    if (number <= this.#known) return true;
    this.#known = number;
    for (const [partition, changedIn] of this.#changes)
      if (changedIn <= number) this.#changes.delete(partition);
    return true;
  }

  /** The peer has none of these lists: the next word says all. */
  beginAnew(): void {
    this.#known = 0;
  }
}

/** The hearer's end, of one peer. */
export class HeardList {
  #number = 0;
  readonly #vouchings = new Map<PartitionId, Vouching>();
  /**
   * Those whose replica here has not been found to rest on this word, or has stirred since: looked at
   * with each word. All others rest: nothing of theirs has changed since they were looked at.
   */
  readonly #unsettled = new Set<PartitionId>();
  /** The last word, in the time of ticks. */
  heardMs = 0;
  /** It has not been answered. */
  isUnanswered = false;

  get number(): number {
    return this.#number;
  }

  get partitions(): Iterable<PartitionId> {
    return this.#vouchings.keys();
  }

  /** Partitions that are no longer in the list; undefined: the word builds on a list that is not known here. */
  take({ number, since, gone, vouchings }: VouchWord): readonly PartitionId[] | undefined {
    if (since !== 0 && (since > this.#number || number < this.#number)) return undefined;
    const ended = since === 0 ? this.#replacedBy(vouchings) : gone;
    for (const partition of ended) {
      this.#vouchings.delete(partition);
      this.#unsettled.delete(partition);
    }
    for (const vouching of vouchings) {
      this.#vouchings.set(vouching.partition, vouching);
      this.#unsettled.add(vouching.partition);
    }
    this.#number = number;
    return ended;
  }

  #replacedBy(vouchings: readonly Vouching[]): PartitionId[] {
    const named = new Set(vouchings.map(({ partition }) => partition));
    return [...this.#vouchings.keys()].filter((partition) => !named.has(partition));
  }

  /** To be looked at. */
  unsettled(): Vouching[] {
    const found: Vouching[] = [];
    for (const partition of this.#unsettled) found.push(this.#vouchings.get(partition) as Vouching);
    return found;
  }

  settle(partition: PartitionId): void {
    this.#unsettled.delete(partition);
  }

  /** The replica here stirred. */
  unsettle(partition: PartitionId): void {
    if (this.#vouchings.has(partition)) this.#unsettled.add(partition);
  }
}
