/**
 * Time as the replicas count it: ticks, heartbeats, and the looks that go with them. While no replica
 * is awake the timer rests until the node has a word to say (quiescence.ts): each waking of a process
 * costs it more than all that it does then.
 */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import type { Clock, Timer } from '../common/env.js';
import type { Replica } from '../partition/replica.js';
import type { DiskStall } from './disk-stall.js';
import type { Gossiping } from './gossiping.js';
import type { NodeSettings } from './options.js';
import type { Quiescence } from './quiescence.js';
import type { ReadRounds } from './read-rounds.js';
import type { ToPeers } from './to-peers.js';
import type { TurnLoop } from './turn-loop.js';

export interface TicksContext {
  /** The guarded one. */
  readonly clock: Clock;
  readonly settings: NodeSettings;
  readonly heartbeatTicks: number;
  readonly loop: TurnLoop;
  readonly toPeers: ToPeers;
  readonly readRounds: ReadRounds;
  readonly quiescence: Quiescence<Replica>;
  readonly stall: DiskStall;
  readonly gossiping: Gossiping;
  lookAtLoad(nowMs: number): void;
  isStopped(): boolean;
}

export class Ticks {
  readonly #context: TicksContext;
  /** Undefined: it has fired, its tick is next. */
  #timer: Timer | undefined;
  #lastMs = 0;
  #ticks = 0;
  /** The timer was set for so many ticks; more than one while it rests. */
  #planned = 1;
  /** How late ticks come, ns: whatever held up the loop. */
  readonly lateNs: RecordableHistogram = createHistogram();

  constructor(context: TicksContext) {
    this.#context = context;
  }

  start(): void {
    this.#lastMs = this.#context.clock.monotonicMs();
    this.#schedule();
  }

  stop(): void {
    this.#timer?.cancel();
  }

  /** Of a stall, in which nothing could be heard, hardly anything counts (design rule 15). */
  get tickedMs(): number {
    return (this.#ticks + this.#restedTicks()) * this.#context.settings.tickMs;
  }

  /** Of the rest that goes on, if any. */
  #restedTicks(): number {
    return this.#planned === 1 ? 0 : Math.min(this.#most, this.#dueTicks(this.#context.clock.monotonicMs()));
  }

  #dueTicks(nowMs: number): number {
    return Math.floor((nowMs - this.#lastMs) / this.#context.settings.tickMs);
  }

  /** What is due beyond it was a stall (design rule 15). A rest begins within a tick, which ends with it. */
  get #most(): number {
    return Math.max(this.#planned + 1, this.#context.settings.maxTicksPerTurn);
  }

  /** How many of those that are due count; any rest is over. */
  #pass(due: number, nowMs: number): number {
    const most = this.#most;
    this.#planned = 1;
    this.#lastMs = due > most ? nowMs : this.#lastMs + due * this.#context.settings.tickMs;
    return Math.min(due, most);
  }

  /** A replica woke: the rest is over, and was none of its time. */
  hasten(): void {
    if (this.#planned === 1) return;
    const now = this.#context.clock.monotonicMs();
    this.#ticks += this.#pass(this.#dueTicks(now), now);
    if (this.#timer === undefined) return;
    this.#timer.cancel();
    // When it would have come without the rest: what wakes all followers of a partition at once must not have them tick at
    // once from then on, and stand for election against each other.
    this.#schedule(Math.max(0, this.#lastMs + this.#context.settings.tickMs - now));
  }

  /** Until this node's next heartbeats. */
  get toBeat(): number {
    const { heartbeatTicks } = this.#context;
    return heartbeatTicks - (this.#ticks % heartbeatTicks);
  }

  #schedule(delayMs = this.#planned * this.#context.settings.tickMs): void {
    const { clock, isStopped } = this.#context;
    const dueMs = clock.monotonicMs() + delayMs;
    this.#timer = clock.after(delayMs, () => {
      this.#timer = undefined;
      this.lateNs.record(Math.max(1, Math.round((clock.monotonicMs() - dueMs) * 1e6)));
      // Messages that are ready come first: after a stall they say that the leader lives (design rule 15).
      clock.defer(() => {
        if (isStopped()) return;
        this.#tick();
        this.#plan();
        this.#schedule();
      });
    });
  }

  #plan(): void {
    const { settings, quiescence, stall } = this.#context;
    const restMs = stall.isWatching ? 0 : quiescence.restMs(this.tickedMs);
    this.#planned = Math.max(1, Math.ceil(restMs / settings.tickMs));
  }

  #tick(): void {
    const { clock, heartbeatTicks, readRounds, quiescence, stall, toPeers, loop, gossiping } = this.#context;
    const now = clock.monotonicMs();
    const due = this.#dueTicks(now);
    if (due < 1) return;
    const ticks = this.#pass(due, now);
    readRounds.tick(now);
    // Everybody hears of it at once, and again until all leaderships are gone.
    if (stall.look(now)) gossiping.tell();
    for (let i = 0; i < ticks; i++) {
      this.#ticks++;
      if (this.#ticks % heartbeatTicks === 0) toPeers.beat();
      for (const replica of quiescence.awake) replica.tick(now);
    }
    this.#context.lookAtLoad(now);
    gossiping.tick(now);
    quiescence.tick(this.tickedMs);
    // Who leads nothing has no turn to send its answers in.
    if (toPeers.areBeatsDue && !loop.isScheduled) toPeers.endOfTurn();
  }
}
