/**
 * Linearizable reads of channels' heads, from any replica: a read sees every
 * append that was acknowledged before it began, and everything that a read saw
 * which had ended before it began (linearizability of a counter that only grows).
 */
import { HansardError } from '../../src/common/errors.js';
import type { HansardNode } from '../../src/node/node.js';
import type { History } from './history.js';
import type { SimClock, SimRandom } from './sim-clock.js';
import { within } from './within.js';

export interface ReaderWorld {
  readonly clock: SimClock;
  readonly random: SimRandom;
  readonly history: History;
  readonly violations: string[];
  partitionOf(channel: string): number;
  anyNode(): HansardNode | undefined;
  /** 'eventual' is the planted bug. */
  readonly level: 'linearizable' | 'eventual';
}

const attemptMs = 1_500;

export class SimReader {
  #stopped = false;
  reads = 0;
  readonly #done: Promise<void>;

  constructor(
    private readonly channels: readonly string[],
    private readonly world: ReaderWorld,
  ) {
    this.#done = this.#run();
  }

  stop(): Promise<void> {
    this.#stopped = true;
    return this.#done;
  }

  async #run(): Promise<void> {
    const { random, clock } = this.world;
    while (!this.#stopped) {
      const channel = this.channels[random.below(this.channels.length)] as string;
      const node = this.world.anyNode();
      if (node !== undefined) await this.#read(node, channel);
      await new Promise<void>((resolve) => clock.after(5 + random.below(60), resolve));
    }
  }

  async #read(node: HansardNode, channel: string): Promise<void> {
    const { history, violations, clock } = this.world;
    const atLeast = history.headSeen.get(channel) ?? 0;
    const head = await this.#headOf(node, channel);
    if (head === undefined) return;
    this.reads++;
    if (head < atLeast) {
      violations.push(
        `stale read: node ${node.identity.nodeId} says that ${channel} ends at ${head}, ${atLeast} was known before (${clock.monotonicMs()} ms)`,
      );
    }
    history.sawHead(channel, head);
  }

  /** Undefined: no answer, or the node died meanwhile. */
  async #headOf(node: HansardNode, channel: string): Promise<number | undefined> {
    const ask = async (): Promise<number> => {
      const view = await node.readBarrier(this.world.partitionOf(channel), {
        level: this.world.level,
        minIndex: 0,
        deadlineMs: node.monotonicMs() + attemptMs,
      });
      return (await view.reader.channelByName('default', channel))?.headSeq ?? 0;
    };
    const head = await within(this.world.clock, attemptMs * 4, ask());
    return head instanceof HansardError ? undefined : head;
  }
}
