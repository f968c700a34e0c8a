/** Time as the replicas count it: ticks, heartbeats, and the looks that go with them. */
import type { Clock, Timer } from '../common/env.js';
import type { DiskStall } from './disk-stall.js';
import type { NodeSettings } from './options.js';
import type { Quiescence } from './quiescence.js';
import type { ReadRounds } from './read-rounds.js';
import type { ReplicaSet } from './replica-set.js';
import type { ToPeers } from './to-peers.js';
import type { TurnLoop } from './turn-loop.js';

export interface TicksContext {
  /** The guarded one. */
  readonly clock: Clock;
  readonly settings: NodeSettings;
  readonly heartbeatTicks: number;
  readonly replicas: ReplicaSet;
  readonly loop: TurnLoop;
  readonly toPeers: ToPeers;
  readonly readRounds: ReadRounds;
  readonly quiescence: Quiescence;
  readonly stall: DiskStall;
  isStopped(): boolean;
  /** The disk stands still: everybody hears of it at once, and again until all leaderships are gone. */
  diskStands(): void;
}

export class Ticks {
  readonly #context: TicksContext;
  #timer: Timer | undefined;
  #lastMs = 0;
  #ticks = 0;

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
    return this.#ticks * this.#context.settings.tickMs;
  }

  /** Until this node's next heartbeats. */
  get toBeat(): number {
    const { heartbeatTicks } = this.#context;
    return heartbeatTicks - (this.#ticks % heartbeatTicks);
  }

  #schedule(): void {
    const { clock, settings, isStopped } = this.#context;
    this.#timer = clock.after(settings.tickMs, () => {
      // Messages that are ready come first: after a stall they say that the leader lives (design rule 15).
      clock.defer(() => {
        if (isStopped()) return;
        this.#tick();
        this.#schedule();
      });
    });
  }

  #tick(): void {
    const { clock, settings, heartbeatTicks, replicas, readRounds, quiescence, stall, toPeers, loop } =
      this.#context;
    const now = clock.monotonicMs();
    const due = Math.floor((now - this.#lastMs) / settings.tickMs);
    if (due < 1) return;
    this.#lastMs = due > settings.maxTicksPerTurn ? now : this.#lastMs + due * settings.tickMs;
    const ticks = Math.min(due, settings.maxTicksPerTurn);
    readRounds.tick(now);
    if (stall.look(now)) this.#context.diskStands();
    for (let i = 0; i < ticks; i++) {
      this.#ticks++;
      if (this.#ticks % heartbeatTicks === 0) toPeers.beat();
      for (const replica of replicas.held) if (quiescence.isTicked(replica, this.tickedMs)) replica.tick(now);
    }
    quiescence.tick(this.tickedMs);
    // Who leads nothing has no turn to send its answers in.
    if (toPeers.areBeatsDue && !loop.isScheduled) toPeers.endOfTurn();
  }
}
