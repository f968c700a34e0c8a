/**
 * A clock far ahead would stamp commit times that all later ones have to follow,
 * and end the time of keys; so no node stamps more than a little beyond the clocks
 * of a majority, and one that is further ahead does not lead (design, "An event").
 * One far behind would do the same to whoever leads after it: its commit times are in
 * the past, and the first right stamp takes them on by all of it at once. So no node
 * stamps less than a little before the clocks of a majority, either.
 *
 * What the others' clocks show is carried on by our monotonic one between their
 * messages: a jump of our own wall clock is seen by the next stamp, not by the next
 * message.
 */
import type { Clock } from '../common/env.js';
import type { NodeId, TimeUs } from '../common/ids.js';

/** Off a majority's by more than this, µs. */
const toleratedUs = 5_000_000;

/** A node unheard for so long may show any time; and monotonic clocks drift by a second in some hours. */
const memoryMs = 3_600_000;

interface Heard {
  /** Their wall clock minus our monotonic one, µs: too low by the message's way. */
  readonly offsetUs: number;
  readonly atMs: number;
}

export class ClockWatch {
  readonly #self: NodeId;
  readonly #nodeCount: number;
  readonly #clock: Pick<Clock, 'nowUs' | 'monotonicMs'>;
  readonly #heard = new Map<NodeId, Heard>();
  /** Of the clocks that ours must not be far ahead of, and not far behind; undefined: too few are known. */
  #highestUs: number | undefined;
  #lowestUs: number | undefined;

  constructor(self: NodeId, nodeCount: number, clock: Pick<Clock, 'nowUs' | 'monotonicMs'>) {
    this.#self = self;
    this.#nodeCount = nodeCount;
    this.#clock = clock;
  }

  heard(node: NodeId, theirsUs: TimeUs): void {
    if (node === this.#self) return;
    const nowMs = this.#clock.monotonicMs();
    this.#heard.set(node, { offsetUs: theirsUs - usOf(nowMs), atMs: nowMs });
    for (const [other, { atMs }] of this.#heard) if (nowMs - atMs > memoryMs) this.#heard.delete(other);
    this.#measure();
  }

  /** Our wall clock, held back where it is far ahead, and moved up where it is far behind. */
  stampUs(): TimeUs {
    const nowUs = this.#clock.nowUs();
    return nowUs - this.#offUs(nowUs);
  }

  /** How far our wall clock is ahead beyond what is tolerated, µs; below 0: behind; 0: neither. */
  offUs(): number {
    return this.#offUs(this.#clock.nowUs());
  }

  /** The clock goes on between two readings: whoever compares has read it once. */
  #offUs(nowUs: TimeUs): number {
    const goneOnUs = usOf(this.#clock.monotonicMs());
    const mostUs = (this.#highestUs ?? Number.POSITIVE_INFINITY) + goneOnUs + toleratedUs;
    if (nowUs > mostUs) return nowUs - mostUs;
    const leastUs = (this.#lowestUs ?? Number.NEGATIVE_INFINITY) + goneOnUs - toleratedUs;
    return Math.min(0, nowUs - leastUs);
  }

  /** The node's clock is ahead of ours by more than is tolerated: nothing is handed to it. */
  isPeerAhead(node: NodeId): boolean {
    const theirs = this.#heard.get(node);
    if (theirs === undefined) return false;
    return theirs.offsetUs + usOf(this.#clock.monotonicMs()) - this.#clock.nowUs() > toleratedUs;
  }

  /**
   * The lowest clock that a majority's clocks do not exceed, without ours. Of those
   * that are not known the worst is believed, as long as one that is known agrees:
   * of two nodes that are left the one with the lower clock leads.
   *
   * And the highest one that a majority's, all of them known, do not fall short of:
   * were the unknown believed here, too, of those two each would follow the other.
   */
  #measure(): void {
    const offsets = [...this.#heard.values()].map(({ offsetUs }) => offsetUs).sort((a, b) => a - b);
    const majority = Math.floor(this.#nodeCount / 2) + 1;
    const unknown = this.#nodeCount - 1 - offsets.length;
    const behind = Math.min(majority, this.#nodeCount - 1) - unknown;
    this.#highestUs = offsets[Math.max(1, behind) - 1];
    this.#lowestUs = offsets.at(-majority);
  }
}

function usOf(ms: number): number {
  return Math.floor(ms * 1_000);
}
