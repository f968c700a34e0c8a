/**
 * Appends of one producer may overtake one another between client and leader
 * (separate calls, forwarding). Applying refuses a gap, so the leader holds an
 * append that came too early until its predecessor has been proposed, or for
 * `holdMs`. The gate orders; it never decides: what it gets wrong, applying
 * refuses.
 */
import type { Clock, Timer } from '../common/env.js';
import type { ProducerId } from '../common/ids.js';

/** What the gate orders: an append by its producer's stamp. */
export interface Stamped {
  readonly producerId: ProducerId;
  readonly firstCounter: number;
  readonly count: number;
}

interface Lane<T> {
  /** Counter that the next new append should begin with. */
  next: number;
  /** By firstCounter, ascending. */
  held: T[];
  timer: Timer | undefined;
}

/** Producers that the gate remembers; beyond it, the oldest lane without waiters goes. */
const maxLanes = 10_000;
/** Appends held per producer; more pass through (and are refused as a gap by applying). */
const maxHeld = 1_024;

export class ProducerGate<T extends Stamped> {
  readonly #lanes = new Map<ProducerId, Lane<T>>();
  readonly #clock: Clock;
  readonly #holdMs: number;
  readonly #lastCounter: (producer: ProducerId) => number;

  readonly #go: (append: T, wasHeld: boolean) => void;

  /**
   * `lastCounter`: what has applied of the producer here, 0 where it is unknown.
   * `go`: called when it is an append's turn.
   */
  constructor(
    clock: Clock,
    holdMs: number,
    lastCounter: (producer: ProducerId) => number,
    go: (append: T, wasHeld: boolean) => void,
  ) {
    this.#go = go;
    this.#clock = clock;
    this.#holdMs = holdMs;
    this.#lastCounter = lastCounter;
  }

  /** Has the append go on when it is its turn: at once (true), or within the hold time (false). */
  enter(append: T): boolean {
    const { firstCounter } = append;
    const lane = this.#lane(append.producerId);
    if (firstCounter > lane.next && lane.held.length < maxHeld) {
      // What has applied since (a leader before us proposed it) moves the lane on.
      lane.next = Math.max(lane.next, this.#lastCounter(append.producerId) + 1);
      if (firstCounter > lane.next) {
        insert(lane.held, append);
        lane.timer ??= this.#clock.after(this.#holdMs, () => this.#release(lane));
        return false;
      }
    }
    this.#go(append, false);
    lane.next = Math.max(lane.next, firstCounter + append.count);
    if (lane.held.length > 0) this.#drain(lane);
    return true;
  }

  /** Leadership changed: nobody's turn is known any more; those who wait go on to their refusal. */
  clear(): void {
    for (const lane of this.#lanes.values()) {
      lane.timer?.cancel();
      for (const held of lane.held) this.#go(held, true);
    }
    this.#lanes.clear();
  }

  #lane(producer: ProducerId): Lane<T> {
    const known = this.#lanes.get(producer);
    if (known !== undefined) return known;
    if (this.#lanes.size >= maxLanes) {
      for (const [id, lane] of this.#lanes) {
        if (lane.held.length > 0) continue;
        this.#lanes.delete(id);
        break;
      }
    }
    const lane: Lane<T> = { next: this.#lastCounter(producer) + 1, held: [], timer: undefined };
    this.#lanes.set(producer, lane);
    return lane;
  }

  #drain(lane: Lane<T>): void {
    while (lane.held.length > 0 && (lane.held[0] as T).firstCounter <= lane.next) {
      const held = lane.held.shift() as T;
      this.#go(held, true);
      lane.next = Math.max(lane.next, held.firstCounter + held.count);
    }
    if (lane.held.length === 0) {
      lane.timer?.cancel();
      lane.timer = undefined;
    }
  }

  /** The predecessor did not come: let the first one go to its refusal, which tells the client. */
  #release(lane: Lane<T>): void {
    lane.timer = undefined;
    const waiting = lane.held;
    lane.held = [];
    for (const held of waiting) this.#go(held, true);
  }
}

function insert<T extends Stamped>(held: T[], one: T): void {
  let at = held.length;
  while (at > 0 && (held[at - 1] as T).firstCounter > one.firstCounter) at--;
  held.splice(at, 0, one);
}
