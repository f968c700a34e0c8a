/**
 * The last answers of a producer, so that a repeat gets the first one again. Nearly all are of one shape and lie in
 * columns of numbers: as objects they would be old by the time they go, two for each append on every replica.
 */
import type { TimeUs } from '../common/ids.js';
import type { AppendAnswer, ProducerAnswer } from './types.js';

/** Of an answer, one behind the other: numbers alone, which V8 keeps unboxed and the collector passes over. */
const Column = { firstCounter: 0, count: 1, digest: 2, firstSeq: 3, commitTimeUs: 4 } as const;
const columns = 5;

export class AnswerWindow {
  /** A ring of `columns` numbers each; it grows while it is full. */
  #numbers: number[] = [];
  #channelUids: string[] = [];
  /** Of what numbers do not say: refusals, repeats by key. By first counter. */
  #others: Map<number, AppendAnswer> = new Map();
  #head = 0;
  length = 0;

  /** Of answers in the order of their counters. */
  static of(answers: readonly ProducerAnswer[]): AnswerWindow {
    const window = new AnswerWindow();
    for (const { firstCounter, lastCounter, digest, answer } of answers)
      window.push(firstCounter, lastCounter, digest, answer);
    return window;
  }

  /** The newest. */
  push(firstCounter: number, lastCounter: number, digest: number, answer: AppendAnswer): void {
    if (this.length === this.#channelUids.length) this.#grow();
    const place = this.#placeOf(this.length++);
    const count = lastCounter - firstCounter + 1;
    const isUsual =
      answer.kind === 'appended' && answer.seqs === undefined && !answer.duplicate && answer.count === count;
    if (!isUsual) this.#others.set(firstCounter, answer);
    const at = place * columns;
    const numbers = this.#numbers;
    numbers[at + Column.firstCounter] = firstCounter;
    numbers[at + Column.count] = count;
    numbers[at + Column.digest] = digest;
    numbers[at + Column.firstSeq] = isUsual ? answer.firstSeq : 0;
    numbers[at + Column.commitTimeUs] = isUsual ? answer.commitTimeUs : 0;
    this.#channelUids[place] = isUsual ? answer.channelUid : '';
  }

  /** The `count` oldest go. */
  drop(count: number): void {
    for (let i = 0; i < count; i++) {
      if (this.#others.size > 0) this.#others.delete(this.firstCounterAt(0));
      this.#channelUids[this.#head] = '';
      this.#head = this.#placeOf(1);
      this.length--;
    }
  }

  firstCounterAt(i: number): number {
    return this.#number(i, Column.firstCounter);
  }

  /** Of the `i`th oldest. */
  at(i: number): ProducerAnswer {
    const firstCounter = this.firstCounterAt(i);
    const lastCounter = firstCounter + this.#number(i, Column.count) - 1;
    return { firstCounter, lastCounter, digest: this.#number(i, Column.digest), answer: this.#answerAt(i) };
  }

  /** Which one begins at `firstCounter`; undefined: none. Counters ascend. */
  find(firstCounter: number): ProducerAnswer | undefined {
    let low = 0;
    let high = this.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const counter = this.firstCounterAt(middle);
      if (counter === firstCounter) return this.at(middle);
      if (counter < firstCounter) low = middle + 1;
      else high = middle - 1;
    }
    return undefined;
  }

  /** Answers that are objects. */
  get otherCount(): number {
    return this.#others.size;
  }

  /** How many seqs the `i`th oldest names one by one. */
  seqsAt(i: number): number {
    if (this.#others.size === 0) return 0;
    const answer = this.#others.get(this.firstCounterAt(i));
    return answer?.kind === 'appended' ? (answer.seqs?.length ?? 0) : 0;
  }

  /** Answers themselves never change. */
  clone(): AnswerWindow {
    const clone = new AnswerWindow();
    clone.#numbers = inOrder(this.#numbers, this.#head * columns, this.length * columns);
    clone.#channelUids = inOrder(this.#channelUids, this.#head, this.length);
    if (this.#others.size > 0) clone.#others = new Map(this.#others);
    clone.length = this.length;
    return clone;
  }

  *[Symbol.iterator](): IterableIterator<ProducerAnswer> {
    for (let i = 0; i < this.length; i++) yield this.at(i);
  }

  #answerAt(i: number): AppendAnswer {
    const other = this.#others.size === 0 ? undefined : this.#others.get(this.firstCounterAt(i));
    if (other !== undefined) return other;
    return {
      kind: 'appended',
      firstSeq: this.#number(i, Column.firstSeq),
      count: this.#number(i, Column.count),
      commitTimeUs: this.#number(i, Column.commitTimeUs) as TimeUs,
      seqs: undefined,
      duplicate: false,
      channelUid: this.#channelUids[this.#placeOf(i)] as string,
    };
  }

  #number(i: number, column: number): number {
    return this.#numbers[this.#placeOf(i) * columns + column] as number;
  }

  #placeOf(i: number): number {
    const place = this.#head + i;
    const places = this.#channelUids.length;
    return place < places ? place : place - places;
  }

  /** One more place, behind the newest. */
  #grow(): void {
    if (this.#head > 0) {
      this.#numbers = inOrder(this.#numbers, this.#head * columns, this.length * columns);
      this.#channelUids = inOrder(this.#channelUids, this.#head, this.length);
      this.#head = 0;
    }
    for (let i = 0; i < columns; i++) this.#numbers.push(0);
    this.#channelUids.push('');
  }
}

/** `count` of a ring's values from `from` on. */
function inOrder<T>(ring: readonly T[], from: number, count: number): T[] {
  const first = ring.slice(from, from + count);
  return first.length === count ? first : first.concat(ring.slice(0, count - first.length));
}
