/**
 * Linearizable reads of channels' heads, from any replica: a read sees every
 * append that was acknowledged before it began, and everything that a read saw
 * which had ended before it began (linearizability of a counter that only grows).
 */
import { HansardError } from '../../src/common/errors.js';
import type { HansardNode } from '../../src/node/node.js';
import type { Callers } from './callers.js';
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
  leaderOf(partition: number): HansardNode | undefined;
  readonly callers: Callers;
  /** 'eventual' is the planted bug. */
  readonly level: 'linearizable' | 'eventual';
}

const attemptMs = 1_500;
/** How long a reader waits, ms: a loyal one asks the same node again soon, so that what it knows is new. */
const patienceMs = { any: 6_000, loyal: 200 } as const;
/** How often it does that before it looks for another leader. */
const loyalTries = 20;

/**
 * `any`: whichever node. `loyal`: the one that led when it was last looked for,
 * for as long as that answers: so are clients that know their leader.
 */
export type ReaderKind = 'any' | 'loyal';

export class SimReader {
  #stopped = false;
  /** Reads in a row that had no answer. */
  #failed = 0;
  reads = 0;
  readonly #done: Promise<void>;

  /** Of a loyal reader, by partition. */
  readonly #leaders = new Map<number, HansardNode>();

  constructor(
    private readonly kind: ReaderKind,
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
    const { random } = this.world;
    while (!this.#stopped) {
      const channel = this.channels[random.below(this.channels.length)] as string;
      const partition = this.world.partitionOf(channel);
      const node = this.#nodeFor(partition);
      if (node !== undefined) {
        const answered = await this.#read(node, channel);
        this.#failed = answered ? 0 : this.#failed + 1;
        if (this.#failed >= loyalTries) this.#leaders.delete(partition);
      }
      const restMs = this.kind === 'loyal' ? 1 + random.below(20) : 5 + random.below(60);
      await this.world.callers.rest(restMs);
    }
  }

  #nodeFor(partition: number): HansardNode | undefined {
    if (this.kind === 'any') return this.world.anyNode();
    const node = this.#leaders.get(partition) ?? this.world.leaderOf(partition);
    if (node !== undefined) this.#leaders.set(partition, node);
    return node;
  }

  /** False: no answer. */
  async #read(node: HansardNode, channel: string): Promise<boolean> {
    const { history, violations, clock } = this.world;
    const atLeast = history.headSeen.get(channel) ?? 0;
    const head = await this.#headOf(node, channel);
    if (head === undefined) return false;
    this.reads++;
    if (head < atLeast) {
      violations.push(
        `stale read: node ${node.identity.nodeId} says that ${channel} ends at ${head}, ${atLeast} was known before (${clock.monotonicMs()} ms)`,
      );
    }
    history.sawHead(channel, head);
    return true;
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
    const head = await within(this.world.clock, patienceMs[this.kind], this.world.callers.call(node, ask));
    return head instanceof HansardError ? undefined : head;
  }
}
