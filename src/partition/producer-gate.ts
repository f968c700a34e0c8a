/**
 * Appends of one producer may overtake one another between client and leader
 * (separate calls, forwarding). Applying refuses a gap, so the leader holds an
 * append that came too early until its predecessor has been proposed, or for
 * `holdMs`. The gate orders; it never decides: what it gets wrong, applying
 * refuses.
 */
import type { Clock, Timer } from '../common/env.js';
import type { ProducerId } from '../common/ids.js';

interface Held {
  readonly firstCounter: number;
  readonly count: number;
  readonly go: () => void;
}

interface Lane {
  /** Counter that the next new append should begin with. */
  next: number;
  /** By firstCounter, ascending. */
  held: Held[];
  timer: Timer | undefined;
}

/** Producers that the gate remembers; beyond it, the oldest lane without waiters goes. */
const maxLanes = 10_000;
/** Appends held per producer; more pass through (and are refused as a gap by applying). */
const maxHeld = 1_024;

export class ProducerGate {
  readonly #lanes = new Map<ProducerId, Lane>();
  readonly #clock: Clock;
  readonly #holdMs: number;
  readonly #lastCounter: (producer: ProducerId) => number;

  /** `lastCounter`: what has applied of the producer here, 0 where it is unknown. */
  constructor(clock: Clock, holdMs: number, lastCounter: (producer: ProducerId) => number) {
    this.#clock = clock;
    this.#holdMs = holdMs;
    this.#lastCounter = lastCounter;
  }

  /** Calls `go` when it is the append's turn: at once (true), or within the hold time (false). */
  enter(producer: ProducerId, firstCounter: number, count: number, go: () => void): boolean {
    const lane = this.#lane(producer);
    if (firstCounter > lane.next && lane.held.length < maxHeld) {
      // What has applied since (a leader before us proposed it) moves the lane on.
      lane.next = Math.max(lane.next, this.#lastCounter(producer) + 1);
      if (firstCounter > lane.next) {
        insert(lane.held, { firstCounter, count, go });
        lane.timer ??= this.#clock.after(this.#holdMs, () => this.#release(lane));
        return false;
      }
    }
    go();
    lane.next = Math.max(lane.next, firstCounter + count);
    if (lane.held.length > 0) this.#drain(lane);
    return true;
  }

  /** Leadership changed: nobody's turn is known any more; those who wait go on to their refusal. */
  clear(): void {
    for (const lane of this.#lanes.values()) {
      lane.timer?.cancel();
      for (const held of lane.held) held.go();
    }
    this.#lanes.clear();
  }

  #lane(producer: ProducerId): Lane {
    const known = this.#lanes.get(producer);
    if (known !== undefined) return known;
    if (this.#lanes.size >= maxLanes) {
      for (const [id, lane] of this.#lanes) {
        if (lane.held.length > 0) continue;
        this.#lanes.delete(id);
        break;
      }
    }
    const lane: Lane = { next: this.#lastCounter(producer) + 1, held: [], timer: undefined };
    this.#lanes.set(producer, lane);
    return lane;
  }

  #drain(lane: Lane): void {
    while (lane.held.length > 0 && (lane.held[0] as Held).firstCounter <= lane.next) {
      const held = lane.held.shift() as Held;
      held.go();
      lane.next = Math.max(lane.next, held.firstCounter + held.count);
    }
    if (lane.held.length === 0) {
      lane.timer?.cancel();
      lane.timer = undefined;
    }
  }

  /** The predecessor did not come: let the first one go to its refusal, which tells the client. */
  #release(lane: Lane): void {
    lane.timer = undefined;
    const waiting = lane.held;
    lane.held = [];
    for (const held of waiting) held.go();
  }
}

function insert(held: Held[], one: Held): void {
  let at = held.length;
  while (at > 0 && (held[at - 1] as Held).firstCounter > one.firstCounter) at--;
  held.splice(at, 0, one);
}
