/** Those who work beside the clients: one thing after the other, with rests in between, until they are told to stop. */
import type { HansardError } from '../../src/common/errors.js';
import type { HansardNode } from '../../src/node/node.js';
import type { ClientWorld } from './client.js';
import type { SimRandom } from './sim-clock.js';
import { within } from './within.js';

export interface WorkWorld extends ClientWorld {
  readonly violations: string[];
  anyNode(random: SimRandom): HansardNode | undefined;
}

/** What a call gives a node, ms; its caller waits for twice as long. */
export const callMs = 1_500;

export class Work {
  #stopped = false;
  readonly #world: WorkWorld;
  readonly #done: Promise<void>;

  /** Begins at once. Rests last up to `restMaxMs`. */
  constructor(world: WorkWorld, random: SimRandom, restMaxMs: number, act: () => Promise<unknown>) {
    this.#world = world;
    this.#done = this.#run(random, restMaxMs, act);
  }

  /** Resolves when what is under way has ended. */
  stop(): Promise<void> {
    this.#stopped = true;
    return this.#done;
  }

  async #run(random: SimRandom, restMaxMs: number, act: () => Promise<unknown>): Promise<void> {
    while (!this.#stopped) {
      await act();
      await this.#world.callers.rest(1 + random.below(restMaxMs));
    }
  }
}

/** Undefined: no answer. */
export function askNode<T>(
  { clock, callers }: ClientWorld,
  node: HansardNode,
  ask: () => Promise<T>,
): Promise<T | HansardError | undefined> {
  return within(clock, 2 * callMs, callers.call(node, ask));
}
