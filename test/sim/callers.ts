/**
 * The way of a call between a client and a node: it takes its time, so that
 * calls overtake one another; it may be lost, and so may its answer. A process
 * that is stopped takes it up when it goes on, a dead one never.
 */
import type { HansardNode } from '../../src/node/node.js';
import type { NodeClock } from './node-clock.js';
import type { SimClock, SimRandom } from './sim-clock.js';

export interface CallFaults {
  /** Of each way, ms; 0: at once. */
  delayMaxMs: number;
  /** Of each way. */
  lossChance: number;
}

/** The process that runs on a node's folder now. */
export interface CalledNode {
  readonly node: HansardNode | undefined;
  readonly clock: NodeClock;
}

/** Nobody calls for so long, ms, once in each period: long enough for partitions to fall quiet. */
const lullMs = 900;
const lullPeriodMs = 3_000;

/** A partition that is mostly left alone is appended to for so long, ms, once in each of its periods. */
const seldomMs = 100;
const seldomPeriodMs = 1_000;

/**
 * `all`: there are times in which nobody calls. `one`: one partition, each in its turn, is seldom appended to for a whole period
 * while the others fill the log: what it has sealed is written down by nothing but the table of the log's next segment.
 */
export type Lulls = 'none' | 'all' | 'one';

export class Callers {
  readonly faults: CallFaults = { delayMaxMs: 0, lossChance: 0 };
  lulls: Lulls = 'none';

  constructor(
    private readonly clock: SimClock,
    private readonly random: SimRandom,
    private readonly nodes: readonly CalledNode[],
    private readonly partitions: number,
  ) {}

  /** Never settles where the call, its answer or the process is lost: patience is the caller's. */
  call<T>(node: HansardNode, ask: () => Promise<T>): Promise<T> {
    const called = this.nodes.find((one) => one.node === node);
    return new Promise((resolve, reject) => {
      if (called === undefined) return;
      this.#travel(() => {
        if (called.node !== node) return;
        called.clock.whenRunning(() => {
          ask().then(
            (answer) => this.#travel(() => resolve(answer)),
            (error: unknown) => this.#travel(() => reject(error as Error)),
          );
        });
      });
    });
  }

  /** What a caller does before its next call; it outlasts a lull. */
  rest(ms: number): Promise<void> {
    const intoMs = (this.clock.monotonicMs() + ms) % lullPeriodMs;
    const restMs = this.lulls === 'all' && intoMs < lullMs ? ms + lullMs - intoMs : ms;
    return new Promise((resolve) => {
      this.clock.after(restMs, resolve);
    });
  }

  /** Nobody appends to this partition now. */
  isLeftAlone(partition: number): boolean {
    const nowMs = this.clock.monotonicMs();
    const alone = Math.floor(nowMs / lullPeriodMs) % this.partitions;
    return this.lulls === 'one' && partition === alone && nowMs % seldomPeriodMs >= seldomMs;
  }

  #travel(arrive: () => void): void {
    const { delayMaxMs, lossChance } = this.faults;
    if (lossChance > 0 && this.random.chance(lossChance)) return;
    if (delayMaxMs === 0) arrive();
    else this.clock.after(this.random.fraction() * delayMaxMs, arrive);
  }
}
