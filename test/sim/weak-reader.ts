/**
 * A client of the weaker read levels, from any replica: at level session it must see its
 * own writes and never less than it saw before; bounded, all that anybody knew of so long
 * ago. It writes too, in batches over two channels of one tag: in the end both hold the
 * same messages in the same order, each acknowledged batch once.
 */
import { HansardError } from '../../src/common/errors.js';
import { encodeAppend, encodeAppendMany } from '../../src/conversation/command.js';
import type { HansardNode } from '../../src/node/node.js';
import { contentOf, textEvent } from './content.js';
import type { History } from './history.js';
import { type SimClock, SimRandom } from './sim-clock.js';
import { within } from './within.js';

export interface WeakWorld {
  readonly clock: SimClock;
  readonly history: History;
  readonly violations: string[];
  partitionOf(channel: string): number;
  anyNode(random: SimRandom): HansardNode | undefined;
  leaderOf(partition: number): HansardNode | undefined;
}

const callMs = 1_500;
/** Of bounded reads: some shorter than a round takes now and then, some longer than any fault. */
const boundsMs = [20, 200, 1_000, 5_000] as const;
const keptMs = 6_000;

interface Sample {
  readonly atMs: number;
  readonly heads: ReadonlyMap<string, number>;
}

export class SimWeakReader {
  readonly counts = { session: 0, bounded: 0, batches: 0 };
  readonly pair: readonly [string, string];
  #stopped = false;
  #serial = 0;
  readonly #random: SimRandom;
  /** What was known when, oldest first. */
  readonly #samples: Sample[] = [];
  /** Of this client's session. */
  readonly #seen = new Map<string, number>();
  readonly #tokens = new Map<number, number>();
  readonly #batched = new Set<string>();
  readonly #done: Promise<void>;

  constructor(
    readonly name: string,
    private readonly channels: readonly string[],
    private readonly world: WeakWorld,
    seed: number,
  ) {
    this.#random = new SimRandom(seed);
    this.pair = [`{${name}}/one`, `{${name}}/two`];
    this.#done = this.#run();
  }

  stop(): Promise<void> {
    this.#stopped = true;
    return this.#done;
  }

  /** What is wrong with the batches, as a node has them that has applied all. */
  async check(node: HansardNode): Promise<string[]> {
    const [one, two] = await Promise.all(this.pair.map((channel) => this.#textsOf(node, channel)));
    const found: string[] = [];
    if (one?.join() !== two?.join())
      found.push(`batch: ${this.pair[0]} has ${one}, ${this.pair[1]} has ${two}`);
    for (const text of this.#batched) {
      const times = one?.filter((each) => each === text).length;
      if (times !== 1) found.push(`batch: ${text} was acknowledged and is there ${times} times`);
    }
    return found;
  }

  async #run(): Promise<void> {
    const { clock, history } = this.world;
    while (!this.#stopped) {
      const nowMs = clock.monotonicMs();
      this.#samples.push({ atMs: nowMs, heads: new Map(history.headSeen) });
      while ((this.#samples[0] as Sample).atMs < nowMs - keptMs) this.#samples.shift();
      const node = this.world.anyNode(this.#random);
      const what = this.#random.below(5);
      const channel = this.channels[this.#random.below(this.channels.length)] as string;
      if (what === 0) await this.#batch();
      else if (node !== undefined && what <= 2) await this.#bounded(node, channel);
      else if (node !== undefined) await this.#session(node, what === 3 ? this.pair[0] : channel);
      await new Promise<void>((resolve) => clock.after(3 + this.#random.below(40), resolve));
    }
  }

  async #bounded(node: HansardNode, channel: string): Promise<void> {
    const maxStalenessMs = boundsMs[this.#random.below(boundsMs.length)] as number;
    const atMs = this.world.clock.monotonicMs();
    const floor =
      this.#samples.findLast((each) => each.atMs <= atMs - maxStalenessMs)?.heads.get(channel) ?? 0;
    const options = { level: 'bounded', minIndex: 0, maxStalenessMs } as const;
    const found = await this.#headOf(node, channel, options);
    if (found === undefined) return;
    this.counts.bounded++;
    if (found.head >= floor) return;
    this.world.violations.push(
      `bounded read: node ${node.identity.nodeId} says that ${channel} ends at ${found.head}, ${floor} was known ${maxStalenessMs} ms before (${atMs} ms)`,
    );
  }

  async #session(node: HansardNode, channel: string): Promise<void> {
    const partition = this.world.partitionOf(channel);
    const floor = this.#seen.get(channel) ?? 0;
    const minIndex = this.#tokens.get(partition) ?? 0;
    const found = await this.#headOf(node, channel, { level: 'eventual', minIndex });
    if (found === undefined) return;
    this.counts.session++;
    this.#saw(partition, found.appliedIndex);
    if (found.head < floor)
      this.world.violations.push(
        `session: node ${node.identity.nodeId} says that ${channel} ends at ${found.head}, its client saw ${floor}`,
      );
    this.#seen.set(channel, Math.max(floor, found.head));
  }

  async #headOf(
    node: HansardNode,
    channel: string,
    options: { level: 'bounded' | 'eventual'; minIndex: number; maxStalenessMs?: number },
  ): Promise<{ head: number; appliedIndex: number } | undefined> {
    const ask = async () => {
      const deadlineMs = node.monotonicMs() + callMs;
      const view = await node.readBarrier(this.world.partitionOf(channel), { ...options, deadlineMs });
      const head = (await view.reader.channelByName('default', channel))?.headSeq ?? 0;
      return { head, appliedIndex: view.appliedIndex };
    };
    const found = await within(this.world.clock, callMs * 4, ask());
    return found instanceof HansardError ? undefined : found;
  }

  /** Repeated by its request id until its outcome is known. */
  async #batch(): Promise<void> {
    const { clock, history } = this.world;
    const partition = this.world.partitionOf(this.pair[0]);
    const text = `${this.name}/${++this.#serial}`;
    const salt = this.#random.below(256);
    const appends = this.pair.map((channel) =>
      encodeAppend({ tenant: 'default', channel, events: [textEvent(text, salt)] }),
    );
    const command = encodeAppendMany('default', text, appends);
    for (let attempt = 0; !this.#stopped || attempt <= 20; attempt++) {
      const node = this.world.leaderOf(partition);
      const proposed =
        node === undefined
          ? undefined
          : await within(
              clock,
              callMs * 2,
              node.propose(partition, command, { deadlineMs: node.monotonicMs() + callMs }),
            );
      if (proposed !== undefined && !(proposed instanceof HansardError)) {
        const { answer, index } = proposed;
        if (answer.kind !== 'appendedMany') {
          this.world.violations.push(`batch: ${text} was answered with ${JSON.stringify(answer)}`);
          return;
        }
        this.counts.batches++;
        this.#batched.add(text);
        this.#saw(partition, index);
        for (const [i, { firstSeq }] of answer.appended.entries()) {
          const channel = this.pair[i] as string;
          this.#seen.set(channel, Math.max(firstSeq, this.#seen.get(channel) ?? 0));
        }
        history.log(clock.monotonicMs(), `${this.name} ok ${text} at ${index}`);
        return;
      }
      await new Promise<void>((resolve) => clock.after(50, resolve));
    }
  }

  #saw(partition: number, index: number): void {
    this.#tokens.set(partition, Math.max(index, this.#tokens.get(partition) ?? 0));
  }

  async #textsOf(node: HansardNode, name: string): Promise<string[]> {
    const replica = node.replicas().find((each) => each.partition === this.world.partitionOf(name));
    const channel = await replica?.store.channelByName('default', name);
    if (replica === undefined || channel === undefined) return [];
    const events = await replica.store.events(channel, {
      fromSeq: 1,
      toSeq: channel.headSeq,
      reverse: false,
      maxEvents: 1_000_000,
      maxBytes: 1 << 30,
    });
    return events.map(contentOf);
  }
}
