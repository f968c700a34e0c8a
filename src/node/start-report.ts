/**
 * What a start does after the log was read: applies what is committed and not sealed.
 * Says how far it is every few seconds, and at the end how long it took, and at what rate.
 */
import type { Clock } from '../common/env.js';
import type { Index } from '../common/ids.js';
import type { Logger } from '../common/logger.js';

/** How often it looks, ms: the precision of what it says. */
const lookMs = 10;
/** How often it says how far it is. */
const sayMs = 3_000;

/** What it looks at of a replica. */
export interface StartingReplica {
  readonly log: { readonly hardState: { readonly commit: Index } };
  readonly store: { readonly appliedIndex: Index };
  readonly isStateDamaged: boolean;
  readonly isMute: boolean;
}

export interface Starting {
  readonly clock: Pick<Clock, 'after' | 'monotonicMs'>;
  readonly logger: Logger;
  readonly store: { stats(): { readonly eventsApplied: number } };
  /** Those that are here now; one that has gone, or was replaced, has nothing left to do. */
  replicas(): readonly StartingReplica[];
  /** Nobody wants to know any more. */
  isOver(): boolean;
  /** All of it is applied. */
  done(): void;
}

export class StartReport {
  readonly #context: Starting;
  /** Up to where the log knew entries to be committed when it was opened. */
  readonly #goals = new Map<StartingReplica, Index>();
  #entries = 0;
  #eventsBefore = 0;
  #startedMs = 0;
  #saidMs = 0;

  constructor(context: Starting) {
    this.#context = context;
  }

  /** To be called before anything is applied. */
  begin(): void {
    const { clock, store, replicas } = this.#context;
    for (const replica of replicas()) {
      const { commit } = replica.log.hardState;
      const isHeldBack = replica.isStateDamaged || replica.isMute;
      if (isHeldBack || commit <= replica.store.appliedIndex) continue;
      this.#entries += commit - replica.store.appliedIndex;
      this.#goals.set(replica, commit);
    }
    this.#startedMs = clock.monotonicMs();
    this.#saidMs = this.#startedMs;
    this.#eventsBefore = store.stats().eventsApplied;
    this.#look();
  }

  get isRunning(): boolean {
    return this.#goals.size > 0;
  }

  /** Entries that were committed when the log was opened, and how many of them are not applied yet; undefined: none. */
  get progress(): { readonly left: number; readonly entries: number } | undefined {
    if (this.#goals.size === 0) return undefined;
    let left = 0;
    for (const [replica, goal] of this.#goals) left += Math.max(0, goal - replica.store.appliedIndex);
    return { left, entries: this.#entries };
  }

  #look(): void {
    const { clock, logger, replicas, isOver, done } = this.#context;
    if (isOver()) return;
    for (const [replica, goal] of this.#goals) {
      if (replica.store.appliedIndex >= goal || !replicas().includes(replica)) this.#goals.delete(replica);
    }
    const nowMs = clock.monotonicMs();
    if (this.#goals.size === 0) {
      logger.info({ entries: this.#entries, ...this.#figures(nowMs) }, 'log applied');
      done();
      return;
    }
    if (nowMs - this.#saidMs >= sayMs) {
      this.#saidMs = nowMs;
      logger.info({ ...this.progress, ...this.#figures(nowMs) }, 'applying the log');
    }
    clock.after(lookMs, () => this.#look());
  }

  #figures(nowMs: number): Record<string, number> {
    const durationMs = Math.round(nowMs - this.#startedMs);
    const events = this.#context.store.stats().eventsApplied - this.#eventsBefore;
    return {
      events,
      durationMs,
      eventsPerSecond: durationMs === 0 ? 0 : Math.round((events * 1000) / durationMs),
    };
  }
}
