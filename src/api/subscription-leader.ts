/**
 * A durable subscription at work, on the node that leads its partition: takes events from the feeds of all partitions, shares
 * channels among consumers, and writes all of it down in steps, one at a time, before anybody is told. What is here
 * besides the replicated state (events at hand, credits, who is connected) may be lost at any time.
 *
 * A step is refused where the state is not what it was planned on; a step whose outcome is unknown is followed by
 * reading the state anew. Whichever it was, leases that nobody was told of are given back.
 */
import { HansardError } from '../common/errors.js';
import type { PartitionId, Seq } from '../common/ids.js';
import { applyLimits } from '../conversation/apply-limits.js';
import { encodeStep } from '../conversation/subscription-command.js';
import type { Lease, SubscriptionState } from '../conversation/subscription-state.js';
import type { ReadView } from '../node/types.js';
import type { Services } from './services.js';
import type { Consumer } from './subscription-consumer.js';
import { type HeldEvent, HeldEvents } from './subscription-events.js';
import { SubscriptionFeeds } from './subscription-feeds.js';
import {
  Idle,
  type LiveProgress,
  type SubscriptionName,
  subscriptionNotFound,
} from './subscription-message.js';
import { type Delivery, type Note, Plan, type PlannedLease } from './subscription-plan.js';
import { SubscriptionReads } from './subscription-reads.js';
import { SubscriptionSharing } from './subscription-sharing.js';
import { SubscriptionTelling } from './subscription-telling.js';
import { Waker } from './waker.js';
import { proposalError } from './writes.js';

/** How long a consumer whose stream ended keeps its leases, ms: time to find the leader again. */
export const consumerGraceMs = 3_000;
/** Deadlines, retries and leadership are looked at so often, ms. */
export const tickMs = 200;
/** Progress is told so often where nothing changes, ms; and at most so often where it does. */
const progressMs = 5_000;
const progressSpacingMs = 500;
const stepTimeoutMs = 5_000;
/** Places that moved over what is not wanted are written down so often, ms: nobody waits for them. */
const placesMs = 10_000;
/** Without consumers it ends after this long, ms. */
const idleEndMs = 5_000;
/** Of events at hand that nobody was given yet, where all consumers have enough. */
const aheadBytesMax = 4 * 1024 * 1024;
/** What consumers say is gathered for so long behind a step that gave out so many leases, ms: a small part of what a step takes. */
const gatherMs = 2;
const manyLeases = 10;
/** Notes of consumers in one step. */
const notesPerStep = 2_000;

interface PendingNote {
  readonly note: Note;
  readonly done: (kept: boolean) => void;
  readonly failed: (error: unknown) => void;
}

export interface LeaderHooks {
  errorOf(error: unknown): HansardError;
  ended(leader: SubscriptionLeader): void;
  count(what: 'delivered' | 'redelivered' | 'acked' | 'dead' | 'steps', by: number): void;
}

export class SubscriptionLeader {
  readonly partition: PartitionId;
  readonly #services: Services;
  readonly #name: SubscriptionName;
  readonly #hooks: LeaderHooks;
  readonly #consumers = new Map<string, Consumer>();
  /** Consumers whose streams ended, and when; at the start all that have leases. */
  readonly #gone = new Map<string, number>();
  readonly #held = new HeldEvents();
  readonly #reads: SubscriptionReads;
  readonly #sharing: SubscriptionSharing;
  readonly #telling: SubscriptionTelling;
  #feeds: SubscriptionFeeds | undefined;
  #notes: PendingNote[] = [];
  /** When channels were shared last, some were left without a consumer that had room. */
  #hasWaiting = false;
  #view: ReadView | undefined;
  /** The life of the name that this is about: feeds, leases and consumers are nothing to a later one. */
  #uid: string | undefined;
  /** Of the settings and place that the feeds were made for. */
  #revision = 0;
  #isEnded = false;
  readonly #waker = new Waker();
  #ticker: NodeJS.Timeout | undefined;
  #emptySinceMs: number;
  #placesAtMs = 0;
  #idle: Idle = Idle.reading;
  #toldIdle: Idle | undefined;
  #toldAtMs = 0;

  constructor(services: Services, partition: PartitionId, name: SubscriptionName, hooks: LeaderHooks) {
    this.#services = services;
    this.partition = partition;
    this.#name = name;
    this.#hooks = hooks;
    this.#emptySinceMs = services.node.monotonicMs();
    this.#reads = new SubscriptionReads(services, name.tenant, this.#held, () => this.wake());
    this.#telling = new SubscriptionTelling(services);
    this.#sharing = new SubscriptionSharing(
      this.#consumers,
      this.#held,
      this.#reads,
      (consumer, lease, delivery) => this.#deliver(consumer, lease, delivery),
    );
  }

  get consumers(): number {
    return this.#consumers.size;
  }

  /** Undefined: not known yet, or not any more. */
  get state(): Readonly<SubscriptionState> | undefined {
    return this.#view?.reader.subscriptionNow(this.#name.tenant, this.#name.name);
  }

  /** The subscription was deleted, and made again: who comes now must not end with it. */
  get isOver(): boolean {
    const { state } = this;
    return this.#isEnded || (state !== undefined && this.#isOfOtherLife(state));
  }

  get live(): LiveProgress {
    return {
      idle: this.#consumers.size === 0 ? Idle.noConsumers : this.#idle,
      caughtUp: this.#feeds?.atEnd ?? false,
      consumers: this.#consumers.size,
    };
  }

  /** Commit time of the event behind `seq`; 0: not at hand. */
  nextTimeUs(channel: string, seq: Seq): number {
    return this.#held.range(channel, seq + 1, Number.MAX_SAFE_INTEGER)?.events[0]?.timeUs ?? 0;
  }

  wake(): void {
    this.#waker.wake();
  }

  join(consumer: Consumer): void {
    const before = this.#consumers.get(consumer.id);
    before?.fail(
      new HansardError('INVALID_ARGUMENT', 'another stream came with the same consumer_id', {
        field: 'start.consumer_id',
        problem: 'another stream came with the same one',
      }),
    );
    this.#consumers.set(consumer.id, consumer);
    this.#gone.delete(consumer.id);
    // Whoever comes hears at once where the subscription stands.
    this.#toldAtMs = 0;
    this.#toldIdle = undefined;
    this.wake();
  }

  leave(consumer: Consumer): void {
    if (this.#consumers.get(consumer.id) !== consumer) return;
    this.#consumers.delete(consumer.id);
    this.#gone.set(consumer.id, this.#nowMs());
    if (this.#consumers.size === 0) this.#emptySinceMs = this.#nowMs();
    this.wake();
  }

  /** Told with the next step: false where the lease was lost. */
  settle(note: Note): Promise<boolean> {
    if (this.#isEnded) return Promise.reject(this.#notLeader());
    return new Promise((done, failed) => {
      this.#notes.push({ note, done, failed });
      this.wake();
    });
  }

  /** Notes that wait: a consumer that says more than is written down is not read from. */
  get waitingNotes(): number {
    return this.#notes.length;
  }

  end(error: unknown): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    clearInterval(this.#ticker);
    this.#feeds?.end();
    this.#reads.end();
    const told = this.#hooks.errorOf(error);
    for (const consumer of this.#consumers.values()) consumer.fail(told);
    for (const { failed } of this.#notes.splice(0)) failed(told);
    this.#hooks.ended(this);
    this.wake();
  }

  /** To the end of leadership, of the subscription, or of all need. Never rejects. */
  async run(): Promise<void> {
    this.#ticker = setInterval(() => this.wake(), tickMs);
    try {
      await this.#load();
      while (!this.#isEnded) await this.#round();
    } catch (error) {
      this.end(error);
    }
  }

  #nowMs(): number {
    return this.#services.node.monotonicMs();
  }

  #notLeader(): HansardError {
    const { node, router } = this.#services;
    return router.notLeader(this.partition, node.leaderOf(this.partition));
  }

  #requireLeadership(): void {
    const { node } = this.#services;
    if (node.leaderOf(this.partition) !== node.identity.nodeId) throw this.#notLeader();
  }

  /** All that may be known of the state is applied here: also the outcome of a step that nobody told. */
  async #load(): Promise<void> {
    const { node } = this.#services;
    this.#requireLeadership();
    this.#view = await node.readBarrier(this.partition, {
      level: 'linearizable',
      minIndex: 0,
      deadlineMs: this.#nowMs() + stepTimeoutMs,
    });
    this.#requireLeadership();
    this.#resetFeeds(this.#current());
  }

  #current(): Readonly<SubscriptionState> {
    const { state } = this;
    if (state === undefined || this.#isOfOtherLife(state)) throw subscriptionNotFound(this.#name);
    this.#uid = state.uid;
    return state;
  }

  #isOfOtherLife({ uid }: Readonly<SubscriptionState>): boolean {
    return this.#uid !== undefined && this.#uid !== uid;
  }

  #resetFeeds(state: Readonly<SubscriptionState>): void {
    this.#feeds?.end();
    this.#held.clear();
    this.#reads.reset(state.selector.types);
    this.#feeds = new SubscriptionFeeds(this.#services, state, () => this.wake());
    this.#revision = state.revision;
    this.#placesAtMs = this.#nowMs();
    // Who is not here yet may be on the way.
    for (const { lease } of state.channels.values()) {
      if (lease !== undefined && !this.#consumers.has(lease.consumer) && !this.#gone.has(lease.consumer))
        this.#gone.set(lease.consumer, this.#nowMs());
    }
  }

  /** One look at everything, and one step where something is to be written down. */
  async #round(): Promise<void> {
    this.#requireLeadership();
    const state = this.#current();
    if (state.revision !== this.#revision) this.#resetFeeds(state);
    const nowMs = this.#nowMs();
    if (this.#consumers.size === 0 && this.#notes.length === 0 && nowMs - this.#emptySinceMs > idleEndMs)
      return this.end(this.#notLeader());
    const plan = new Plan();
    const notes = this.#notes.slice(0, notesPerStep);
    for (const { note } of notes) plan.note(note, state.settings);
    this.#recover(state, plan);
    let isMore = false;
    if (!state.settings.paused && this.#consumers.size > 0) {
      // While consumers have enough to do, more would only lie about, and what is due be driven out by it.
      const isEnough = this.#hasWaiting && this.#held.waitingBytes >= aheadBytesMax;
      if (!isEnough) this.#take(state, plan);
      this.#sharing.share(state, plan, this.#services.node.commitNowUs(this.partition));
      this.#hasWaiting = plan.hasWaiting;
      isMore = isEnough && !plan.hasWaiting;
    }
    this.#places(plan);
    this.#judgeIdle(state, plan);
    // What was taken before is worked off first: a seek would forget it.
    const failure = this.#feeds?.failure;
    if (failure !== undefined && plan.ops.length === 0 && state.channels.size === 0) throw failure.error;
    if (plan.ops.length === 0) {
      this.#tell(state);
      // What was not taken for once: nobody else says that it is there.
      if (isMore) this.wake();
      await this.#waker.woken();
      return;
    }
    await this.#step(state, plan, notes);
    this.#tell(this.#current());
    // The first of many answers must not have a step of its own, for which the others then wait.
    if (plan.leases.length >= manyLeases) await pause(gatherMs);
  }

  // ---- planning

  /** Leases whose time is up, whose consumer is gone, or of which nobody was told. */
  #recover(state: Readonly<SubscriptionState>, plan: Plan): void {
    const nowUs = this.#services.node.commitNowUs(this.partition);
    const nowMs = this.#nowMs();
    for (const [name, { lease }] of state.channels) {
      if (lease === undefined || plan.touched.has(name)) continue;
      const consumer = this.#consumers.get(lease.consumer);
      if (lease.deadlineUs <= nowUs) plan.add({ kind: 'expire', channel: name, lease: lease.number });
      else if (consumer === undefined) {
        const since = this.#gone.get(lease.consumer);
        if (since === undefined) this.#gone.set(lease.consumer, nowMs);
        else if (nowMs - since >= consumerGraceMs)
          plan.giveBack(name, lease.number, 'the consumer went away', true);
      } else if (!consumer.sentTo.has(lease.number)) plan.giveBack(name, lease.number, '', false);
    }
  }

  #take(state: Readonly<SubscriptionState>, plan: Plan): void {
    const room =
      Math.min(state.settings.maxPendingChannels, applyLimits.pendingChannels) - state.channels.size;
    if (this.#feeds?.exceeds(room) === true) this.#resetFeeds(state);
    const taken = this.#feeds?.take(room) ?? [];
    for (const { partition, place, channels } of taken) {
      const ranges = channels.map(({ channel, uid, events }) => {
        const firstSeq = (events[0] as HeldEvent).seq;
        const lastSeq = (events.at(-1) as HeldEvent).seq;
        const isNew = !state.channels.has(channel);
        // Pages come one after the other: the last one has taken further than the state says.
        const known = plan.taken.get(channel) ?? state.channels.get(channel);
        // Nothing of it was pending: what is still held of it is over.
        if (known === undefined) this.#held.drop(channel);
        // All that is wanted behind what was taken before is in here.
        const from = known === undefined ? firstSeq : Math.min(known.to + 1, firstSeq);
        this.#held.add(channel, { uid, from, through: lastSeq, events });
        plan.taken.set(channel, { to: lastSeq });
        if (isNew)
          plan.fresh.set(channel, { acked: plan.fresh.get(channel)?.acked ?? firstSeq - 1, to: lastSeq });
        return { channel, firstSeq, lastSeq, sinceUs: (events[0] as HeldEvent).timeUs };
      });
      plan.ops.push({ kind: 'take', partition, place, ranges });
    }
  }

  /** Places that have moved over what is not wanted. A feed that this step takes from says its own: were that refused, this would pass over what it took. */
  #places(plan: Plan): void {
    const feeds = this.#feeds;
    const nowMs = this.#nowMs();
    if (feeds === undefined || nowMs - this.#placesAtMs < placesMs) return;
    this.#placesAtMs = nowMs;
    feeds.touch();
    const taken = new Set(plan.ops.flatMap((op) => (op.kind === 'take' ? [op.partition] : [])));
    for (const [partition, place] of feeds.moved())
      if (!taken.has(partition)) plan.ops.push({ kind: 'take', partition, place, ranges: [] });
  }

  // ---- carrying it out

  async #step(state: Readonly<SubscriptionState>, plan: Plan, notes: readonly PendingNote[]): Promise<void> {
    const { node } = this.#services;
    const { tenant, name, uid, version } = state;
    const command = encodeStep({ tenant, name, uid, version, ops: plan.ops });
    let results: readonly number[];
    try {
      const { answer } = await node.propose(this.partition, command, {
        deadlineMs: this.#nowMs() + stepTimeoutMs,
      });
      if (answer.kind !== 'stepped') throw proposalError(answer);
      results = answer.results;
    } catch (error) {
      plan.refund();
      const reason = error instanceof HansardError ? error.reason : undefined;
      if (reason === 'SUBSCRIPTION_CHANGED') return this.#resetFeeds(this.#current());
      if (reason === undefined || !retried.has(reason)) throw error;
      await pause(tickMs);
      // Whether it applied is known behind this; notes are sent again, and what was done already does nothing.
      return this.#load();
    }
    this.#hooks.count('steps', 1);
    this.#notes.splice(0, notes.length);
    for (const [i, { note, done }] of notes.entries()) {
      const kept = results[i] !== 0;
      if (kept && note.kind !== 'extend') this.#settled(note);
      done(kept);
    }
    let isTaken = true;
    for (const [i, op] of plan.ops.entries()) {
      const hasWorked = results[i] !== 0;
      if (op.kind === 'take') {
        if (hasWorked) this.#feeds?.written(op.partition, op.place);
        else isTaken = false;
      } else if (op.kind === 'bury' && hasWorked) this.#hooks.count('dead', 1);
      else if (op.kind === 'expire' && hasWorked) this.#tellExpired(op.lease);
    }
    // What was granted is told first: else it would be given back, and its credit be lost.
    for (const lease of plan.leases) this.#send(lease, results[lease.op] as number);
    if (!isTaken) this.#resetFeeds(this.#current());
  }

  #settled(note: Note): void {
    if (note.kind !== 'ack') return;
    this.#hooks.count('acked', 1);
    this.#held.release(note.channel, note.seq);
  }

  #send({ consumer, channel, uid, deliveries, replayed, events }: PlannedLease, lease: number): void {
    if (lease === 0) return consumer.refund(events);
    // Not told any more: it is given back where the stream ended.
    if (consumer.out.isClosed) return;
    const deadlineUs = this.#current().channels.get(channel)?.lease?.deadlineUs ?? 0;
    this.#deliver(consumer, { number: lease, deadlineUs }, { channel, uid, deliveries, replayed, events });
  }

  #deliver(consumer: Consumer, lease: Pick<Lease, 'number' | 'deadlineUs'>, delivery: Delivery): void {
    this.#telling.deliver(consumer, lease, delivery);
    this.#held.sent(delivery.channel, (delivery.events.at(-1) as HeldEvent).seq);
    const isRepeat = delivery.deliveries > 1 || delivery.replayed;
    this.#hooks.count(isRepeat ? 'redelivered' : 'delivered', delivery.events.length);
  }

  tellLost(consumer: Consumer, leases: readonly number[]): void {
    this.#telling.lost(consumer, leases);
  }

  #tellExpired(lease: number): void {
    for (const consumer of this.#consumers.values())
      if (consumer.sentTo.has(lease)) this.tellLost(consumer, [lease]);
  }

  // ---- telling

  #judgeIdle(state: Readonly<SubscriptionState>, plan: Plan): void {
    if (plan.leases.length > 0) this.#idle = Idle.unspecified;
    else if (state.settings.paused) this.#idle = Idle.paused;
    else if (plan.deadAreFull) this.#idle = Idle.deadLettersFull;
    else if (plan.isReading || this.#feeds?.atEnd !== true) this.#idle = Idle.reading;
    else if (plan.hasWaiting || [...state.channels.values()].some(({ lease }) => lease !== undefined))
      this.#idle = Idle.consumersBusy;
    else this.#idle = plan.hasRetries ? Idle.waitingToRetry : Idle.caughtUp;
    // Room for further channels is what it waits for.
    if (this.#idle === Idle.reading && state.channels.size >= state.settings.maxPendingChannels)
      this.#idle = plan.hasRetries ? Idle.waitingToRetry : Idle.consumersBusy;
  }

  #tell(state: Readonly<SubscriptionState>): void {
    const nowMs = this.#nowMs();
    const silentMs = nowMs - this.#toldAtMs;
    if (silentMs < progressSpacingMs || (silentMs < progressMs && this.#toldIdle === this.#idle)) return;
    this.#toldAtMs = nowMs;
    this.#toldIdle = this.#idle;
    for (const consumer of this.#consumers.values()) pruneSent(consumer, state);
    // Their leases are long given back.
    for (const [id, sinceMs] of this.#gone) if (nowMs - sinceMs > 2 * consumerGraceMs) this.#gone.delete(id);
    this.#telling.progress(this.#consumers.values(), state, this.live, this.#services.node.nowUs());
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A step that failed so may have applied or not, or may be tried again. */
const retried: ReadonlySet<string> = new Set([
  'COMMIT_UNKNOWN',
  'DEADLINE_EXCEEDED',
  'OVERLOADED',
  'NO_QUORUM',
]);

/** Leases of a consumer that are over. */
function pruneSent(consumer: Consumer, state: Readonly<SubscriptionState>): void {
  const there = new Set<number>();
  for (const { lease } of state.channels.values()) {
    if (lease !== undefined) there.add(lease.number);
  }
  for (const lease of consumer.sentTo.keys()) if (!there.has(lease)) consumer.sentTo.delete(lease);
}
