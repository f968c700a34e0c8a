/** How busy a node's event loop is: seldom for long, and no more than a third of its time. */
import type { Toil } from './node-clock.js';
import type { SimClock, SimRandom } from './sim-clock.js';

/** One thing in so many takes its time. */
const oneIn = 4;
/** Rest after what took its time, in terms of that. */
const restShare = 2;

export class BusyLoop implements Toil {
  #idleToMs = 0;

  constructor(
    private readonly world: Pick<SimClock, 'monotonicMs'>,
    private readonly random: SimRandom,
    /** What one thing takes at most, ms; 0: nothing takes any time. */
    private readonly mostMs: () => number,
  ) {}

  nextMs(): number {
    const mostMs = this.mostMs();
    const nowMs = this.world.monotonicMs();
    if (mostMs === 0 || nowMs < this.#idleToMs || this.random.below(oneIn) > 0) return 0;
    const ms = this.random.fraction() * mostMs;
    this.#idleToMs = nowMs + ms * (1 + restShare);
    return ms;
  }

  share(): number {
    return this.random.fraction();
  }
}
