/**
 * One of two who work on one durable subscription, both as leader and as consumer, in each other's way: takes events from any
 * replica, leases, acknowledges, gives back, buries and replays, each step on the state that it saw last. What was told to
 * it under a lease counts as received. In the end every event was received, each channel's first receipts in
 * order, and nothing is acknowledged that nobody received.
 */
import { backfillStart, type FeedFilter, pullFeed } from '../../src/api/feed.js';
import { readPlace, writePlace } from '../../src/api/feed-place.js';
import { ByteReader, ByteWriter } from '../../src/common/bytes.js';
import { HansardError } from '../../src/common/errors.js';
import {
  encodeCreateSubscription,
  encodeDeadLetters,
  encodeStep,
  type StepOp,
} from '../../src/conversation/subscription-command.js';
import type { PendingChannel, SubscriptionState } from '../../src/conversation/subscription-state.js';
import type { HansardNode } from '../../src/node/node.js';
import { SimRandom } from './sim-clock.js';
import { askNode, callMs, Work, type WorkWorld } from './work.js';

const name = 'work';
const tenant = 'default';
const filter: FeedFilter = {
  tenant,
  names: undefined,
  prefix: '',
  label: undefined,
  types: undefined,
  fromTimeUs: 0,
};
const settings = {
  description: '',
  ackDeadlineMs: 1_000,
  maxDeliveries: 3,
  retryDelayMs: 100,
  maxPendingChannels: 100,
  paused: false,
};

/** What both have received: by channel, in its order. */
export type Received = Map<string, number[]>;

interface Told {
  readonly toSeq: number;
}

export class SimSubscriber {
  readonly counts = { steps: 0, refused: 0, unknown: 0, received: 0, buried: 0 };
  /** What the last step found, for who waits for the end in vain. */
  lastSeen = '';
  #why = '';
  /** By lease: what came under it. */
  readonly #told = new Map<number, Told>();
  readonly #random: SimRandom;
  readonly #work: Work;

  constructor(
    readonly id: string,
    private readonly received: Received,
    private readonly world: WorkWorld,
    seed: number,
  ) {
    this.#random = new SimRandom(seed);
    this.#work = new Work(world, this.#random, 60, () => this.step(false));
  }

  stop(): Promise<void> {
    return this.#work.stop();
  }

  /** Nothing is left to do: all is taken, and nothing is pending. `isLast`: all that can be done is done at once. */
  async step(isLast: boolean): Promise<boolean> {
    const state = await this.#state();
    if (state === undefined) return false;
    const taken = await this.#take(state, isLast);
    this.lastSeen = `${taken === undefined ? this.#why : `at the end: ${taken.atEnd}`}; pending: ${[...state.channels].map(([channel, { acked, to, lease }]) => `${channel} ${acked}-${to} ${lease?.consumer ?? ''}`).join(', ')}; dead: ${state.deadLetters.size}`;
    const ops: StepOp[] = taken?.op === undefined ? [] : [taken.op];
    for (const [channel, pending] of state.channels) {
      if (isLast || this.#random.below(3) > 0) ops.push(...this.#opsOf(channel, pending, isLast));
    }
    if (ops.length > 0) await this.#propose(state, ops);
    if (state.deadLetters.size > 0 && (isLast || this.#random.below(8) === 0)) await this.#replay();
    return ops.length === 0 && taken?.atEnd === true && state.deadLetters.size === 0;
  }

  /** As the leader has applied it, at least as new as all that was answered; a copy, as the real one goes on. */
  async #state(): Promise<SubscriptionState | undefined> {
    const home = this.world.partitionOf(name);
    const node = this.world.leaderOf(home);
    if (node === undefined) return undefined;
    const found = await this.#ask(node, async () => {
      const deadlineMs = node.monotonicMs() + callMs;
      const view = await node.readBarrier(home, { level: 'linearizable', minIndex: 0, deadlineMs });
      return { state: structuredClone(view.reader.subscriptionNow(tenant, name)) };
    });
    if (found === undefined || found instanceof HansardError) return undefined;
    if (found.state === undefined) await this.#create(home, node);
    return found.state;
  }

  async #create(home: number, node: HansardNode): Promise<void> {
    const places = new Map<number, Uint8Array>();
    for (let partition = 0; partition < this.world.partitionCount; partition++)
      places.set(partition, encoded(backfillStart));
    const selector = { channels: [], prefix: '', label: undefined, types: [] };
    const made = { tenant, name, requestId: 'r', selector, settings, fromTimeUs: 0, places };
    await this.#ask(node, () =>
      node.propose(home, encodeCreateSubscription(made), { deadlineMs: node.monotonicMs() + callMs }),
    );
  }

  /** The next events of some partition, from any replica; `isLast`: from its leader, since one that was removed and does not know it stays behind. */
  async #take(
    state: SubscriptionState,
    isLast: boolean,
  ): Promise<{ op: StepOp | undefined; atEnd: boolean } | undefined> {
    let atEnd = true;
    const from = this.#random.below(state.places.size);
    for (let i = 0; i < state.places.size; i++) {
      const partition = (i + from) % state.places.size;
      const place = readPlace(new ByteReader(state.places.get(partition) ?? new Uint8Array(0)));
      const leader = isLast ? this.world.leaderOf(partition) : undefined;
      const node = leader ?? this.world.anyNode(this.#random);
      if (node === undefined) return undefined;
      const page = await this.#ask(node, async () => {
        const deadlineMs = node.monotonicMs() + callMs;
        const view = await node.readBarrier(partition, {
          level: 'eventual',
          minIndex: place.index,
          deadlineMs,
        });
        return pullFeed(view.reader, filter, place, { events: 1 + this.#random.below(30), bytes: 10_000 });
      });
      if (page === undefined || page instanceof HansardError) {
        this.#why = `partition ${partition}: ${page?.message ?? 'no answer'}`;
        return undefined;
      }
      if (!page.atEnd) atEnd = false;
      if (page.parts.length === 0 && page.place.backfill === undefined && place.backfill === undefined)
        continue;
      const byName = new Map<string, { first: number; last: number }>();
      for (const { channel, events } of page.parts) {
        const first = byName.get(channel)?.first ?? events[0]?.seq ?? 0;
        byName.set(channel, { first, last: events.at(-1)?.seq ?? 0 });
      }
      const ranges = [...byName].map(([channel, { first, last }]) => {
        return { channel, firstSeq: first, lastSeq: last, sinceUs: 0 };
      });
      return { op: { kind: 'take', partition, place: encoded(page.place), ranges }, atEnd: false };
    }
    return { op: undefined, atEnd };
  }

  #opsOf(channel: string, pending: PendingChannel, isLast: boolean): StepOp[] {
    const { lease, acked, to, deliveries, replays } = pending;
    const drawn = isLast ? 0 : this.#random.below(10);
    if (lease === undefined) {
      const seq = replays[0]?.seq ?? acked + 1;
      if ((replays[0]?.deliveries ?? deliveries) >= settings.maxDeliveries)
        return [{ kind: 'bury', channel, seq }];
      const toSeq = replays[0]?.seq ?? (isLast ? to : Math.min(to, acked + 1 + this.#random.below(5)));
      return [{ kind: 'lease', channel, consumer: this.id, toSeq }];
    }
    const told = this.#told.get(lease.number);
    if (lease.consumer !== this.id || drawn === 9) return [{ kind: 'expire', channel, lease: lease.number }];
    // Nobody was told of it: it does not count.
    if (told === undefined)
      return [{ kind: 'nack', channel, lease: lease.number, delayMs: 0, counted: false, error: '' }];
    // Nor of the rest of it: that comes now, before anything behind it.
    if (told.toSeq < lease.toSeq) {
      this.#receive(channel, lease.number, told.toSeq + 1, lease.toSeq);
      return [];
    }
    if (drawn === 8)
      return [{ kind: 'nack', channel, lease: lease.number, delayMs: 50, counted: true, error: 'drawn' }];
    // More of it, as all before is known to have come.
    if (drawn === 7 && to > lease.toSeq && !lease.isReplay && replays.length === 0)
      return [{ kind: 'lease', channel, consumer: this.id, toSeq: to }];
    const last =
      lease.isReplay || isLast
        ? lease.toSeq
        : acked + 1 + this.#random.below(Math.max(1, lease.toSeq - acked));
    return [{ kind: 'ack', channel, lease: lease.number, seq: last, nextUs: 0 }];
  }

  async #propose(state: SubscriptionState, ops: readonly StepOp[]): Promise<void> {
    const home = this.world.partitionOf(name);
    const node = this.world.leaderOf(home);
    if (node === undefined) return;
    const command = encodeStep({ tenant, name, uid: state.uid, version: state.version, ops });
    const outcome = await this.#ask(node, () =>
      node.propose(home, command, { deadlineMs: node.monotonicMs() + callMs }),
    );
    if (outcome === undefined || outcome instanceof HansardError) {
      this.counts.unknown++;
      this.lastSeen += `; a step: ${outcome?.message ?? 'no answer'}`;
      return;
    }
    const { answer } = outcome;
    if (answer.kind !== 'stepped') {
      this.counts.refused++;
      this.lastSeen += `; a step: ${answer.kind === 'refused' ? answer.message : answer.kind}`;
      return;
    }
    this.counts.steps++;
    this.lastSeen += `; results: ${answer.results.join(' ')}`;
    for (const [i, op] of ops.entries()) this.#note(state, op, answer.results[i] ?? 0);
  }

  #note(state: SubscriptionState, op: StepOp, result: number): void {
    if (result === 0) return;
    if (op.kind === 'bury') this.counts.buried++;
    if (op.kind !== 'lease') return;
    const before = state.channels.get(op.channel);
    const from = before?.lease !== undefined ? before.lease.toSeq : (before?.acked ?? 0);
    const isReplay = before?.lease === undefined && (before?.replays.length ?? 0) > 0;
    const first = isReplay ? op.toSeq : from + 1;
    this.#receive(op.channel, result, first, op.toSeq);
  }

  #receive(channel: string, lease: number, firstSeq: number, toSeq: number): void {
    const list = this.received.get(channel) ?? [];
    this.received.set(channel, list);
    for (let seq = firstSeq; seq <= toSeq; seq++) list.push(seq);
    this.counts.received += toSeq - firstSeq + 1;
    this.#told.set(lease, { toSeq });
  }

  async #replay(): Promise<void> {
    const home = this.world.partitionOf(name);
    const node = this.world.leaderOf(home);
    if (node === undefined) return;
    const command = encodeDeadLetters({ tenant, name, replay: true, letters: [] });
    await this.#ask(node, () => node.propose(home, command, { deadlineMs: node.monotonicMs() + callMs }));
  }

  #ask<T>(node: HansardNode, ask: () => Promise<T>): Promise<T | HansardError | undefined> {
    return askNode(this.world, node, ask);
  }
}

/** What is wrong with what was received, where a channel's events are 1 to its head. */
export function checkReceived(received: Received, heads: ReadonlyMap<string, number>): string[] {
  const problems: string[] = [];
  for (const [channel, head] of heads) {
    const firsts = [...new Set(received.get(channel) ?? [])];
    const isWhole = firsts.length === head && firsts.every((seq, i) => seq === i + 1);
    if (!isWhole) {
      const missing = Array.from({ length: head }, (_, i) => i + 1).filter((seq) => !firsts.includes(seq));
      problems.push(
        `subscription: of ${channel} ${firsts.length} of ${head} events were received, or not in order; missing: ${missing.slice(0, 5)}`,
      );
    }
  }
  return problems;
}

function encoded(place: Parameters<typeof writePlace>[1]): Uint8Array {
  const writer = new ByteWriter(32);
  writePlace(writer, place);
  return writer.finish();
}
