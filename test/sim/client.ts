/**
 * Clients of the simulator. Each appends unique texts in order, several in
 * flight, and repeats what has no known outcome until it has one: by its
 * producer's counters, or by keys. What it was told goes into the history.
 */
import { createHash } from 'node:crypto';
import { HansardError } from '../../src/common/errors.js';
import { encodeAppend, encodeDeleteChannel, encodeOpenProducer } from '../../src/conversation/command.js';
import type { CommandAnswer } from '../../src/conversation/types.js';
import type { HansardNode } from '../../src/node/node.js';
import type { Callers } from './callers.js';
import { textEvent } from './content.js';
import type { History } from './history.js';
import type { SimClock, SimRandom } from './sim-clock.js';

export interface ClientWorld {
  readonly clock: SimClock;
  readonly random: SimRandom;
  readonly history: History;
  readonly partitionCount: number;
  /** A living node that believes itself leader of the partition. */
  leaderOf(partition: number): HansardNode | undefined;
  partitionOf(channel: string): number;
  readonly callers: Callers;
}

/** `deleter`: a producer that deletes its channel after every few appends. */
export type ClientKind = 'producer' | 'keys' | 'deleter';

/** How long one try may take before the client tries again, ms. */
const attemptMs = 2_000;
const channelTenant = 'default';

export class SimClient {
  #stopped = false;
  #serial = 0;
  readonly #done: Promise<unknown>;

  constructor(
    readonly name: string,
    private readonly kind: ClientKind,
    channels: readonly string[],
    private readonly inFlight: number,
    private readonly world: ClientWorld,
  ) {
    // One lane per channel: order within a channel is what a client may rely on.
    this.#done = Promise.all(channels.map((channel) => this.#lane(channel)));
  }

  /** Takes no new work; resolves once all under way has ended. */
  stop(): Promise<unknown> {
    this.#stopped = true;
    return this.#done;
  }

  async #lane(channel: string): Promise<void> {
    const partition = this.world.partitionOf(channel);
    let producer = this.kind !== 'keys' ? await this.#openProducer(partition, channel) : 0;
    let counter = 0;
    while (!this.#stopped) {
      const batch: Promise<boolean>[] = [];
      for (let i = 0; i < this.inFlight; i++) {
        const text = `${this.name}/${channel}/${++this.#serial}`;
        batch.push(this.#append(partition, channel, text, producer, producer === 0 ? 0 : ++counter));
      }
      const settled = await Promise.all(batch);
      if (settled.includes(false) && producer !== 0) {
        // The producer is gone or confused: a new one starts at 1.
        producer = await this.#openProducer(partition, channel);
        counter = 0;
      }
      if (this.kind === 'deleter') await this.#delete(partition, channel);
      do await this.world.callers.rest(this.world.random.below(150));
      while (!this.#stopped && this.world.callers.isLeftAlone(partition));
    }
  }

  /** Repeated by its request id until its outcome is known. */
  async #delete(partition: number, channel: string): Promise<void> {
    const { history, clock } = this.world;
    const requestId = `${this.name}:${this.#serial}`;
    const command = encodeDeleteChannel({ tenant: channelTenant, channel, requestId, allowMissing: true });
    for (let attempt = 0; !this.#stopped || attempt <= 40; attempt++) {
      const answer = await this.#try(partition, command);
      if (answer !== undefined && !(answer instanceof HansardError) && answer.kind === 'deleted') {
        history.deletedUpTo.set(channel, Math.max(answer.headSeq, history.deletedUpTo.get(channel) ?? 0));
        history.log(clock.monotonicMs(), `${this.name} deleted ${channel} up to ${answer.headSeq}`);
        return;
      }
      await this.#pause(50);
    }
    // It may be deleted or not: nothing is known of it any more.
    history.deletedUpTo.set(channel, Number.POSITIVE_INFINITY);
  }

  async #openProducer(partition: number, channel: string): Promise<number> {
    while (!this.#stopped) {
      const answer = await this.#try(
        partition,
        encodeOpenProducer(channelTenant, `${this.name}:${channel}:${this.#serial}`),
      );
      if (answer !== undefined && !(answer instanceof HansardError) && answer.kind === 'producer')
        return answer.producerId;
      await this.#pause(50);
    }
    return 0;
  }

  /** False: refused for good. */
  async #append(
    partition: number,
    channel: string,
    text: string,
    producer: number,
    counter: number,
  ): Promise<boolean> {
    const { history, clock, random } = this.world;
    const event = {
      ...textEvent(text, random.below(256)),
      ...(this.kind === 'keys'
        ? { key: text, keyDigest: createHash('sha256').update(text).digest().subarray(0, 16) }
        : {}),
    };
    for (let attempt = 0; ; attempt++) {
      // Salts and commitments are made anew by whoever proposes: a repeat is not the same bytes.
      const command = encodeAppend({
        tenant: channelTenant,
        channel,
        events: [event],
        ...(producer === 0 ? {} : { producer: { id: producer, firstCounter: counter } }),
      });
      const answer = await this.#try(
        partition,
        command,
        producer === 0 ? undefined : { id: producer, firstCounter: counter, count: 1 },
      );
      if (answer !== undefined && !(answer instanceof HansardError)) {
        if (answer.kind === 'appended') {
          history.sawHead(channel, answer.firstSeq);
          history.acknowledged.push({ client: this.name, channel, seq: answer.firstSeq, text });
          history.log(
            clock.monotonicMs(),
            `${this.name} ok ${text} seq ${answer.firstSeq}${answer.duplicate ? ' (repeat)' : ''}`,
          );
          return true;
        }
        if (answer.kind === 'refused' && answer.reason !== 'PRODUCER_GAP') {
          history.refused.add(text);
          if (answer.reason === 'PRODUCER_REUSED') history.refusedAsReused.push(text);
          history.log(clock.monotonicMs(), `${this.name} refused ${text}: ${answer.reason}`);
          return false;
        }
      }
      if (this.#stopped && attempt > 40) {
        history.unknown.add(text);
        return false;
      }
      await this.#pause(20 + random.below(60));
    }
  }

  async #try(
    partition: number,
    command: Uint8Array,
    producer?: { id: number; firstCounter: number; count: number },
  ): Promise<CommandAnswer | HansardError | undefined> {
    const node = this.world.leaderOf(partition);
    if (node === undefined) return undefined;
    // A killed node answers nobody: the caller's own clock ends the wait.
    return new Promise((resolve, reject) => {
      const timer = this.world.clock.after(attemptMs + 50, () => resolve(undefined));
      const propose = () =>
        node.propose(partition, command, { deadlineMs: node.monotonicMs() + attemptMs, producer });
      this.world.callers.call(node, propose).then(
        (result) => {
          timer.cancel();
          resolve(result.answer);
        },
        (error) => {
          timer.cancel();
          if (error instanceof HansardError) resolve(error);
          else reject(error);
        },
      );
    });
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.world.clock.after(ms, resolve);
    });
  }
}
