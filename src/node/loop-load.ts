/**
 * What this node has to do, as far as leaderships go by it (leader-balance.ts). Measured in the last seconds, told to
 * the others every second.
 */

import type { NodeSettings } from './options.js';

/** Shares of the time since they were asked last, 0 to 1. */
export interface LoopMeters {
  /** The loop had something to do; that it waited for a core counts. */
  busyShare(): number;
  /** Its thread ran on a core. */
  cpuShare(): number;
}

/** As NodeSettings has them. */
type DeepSettings = Pick<NodeSettings, 'deepProposals' | 'deepForMs'>;

/** Never busy. */
export const idleMeters: LoopMeters = { busyShare: () => 0, cpuShare: () => 0 };

/** After this long without anything to do a share has fallen by two thirds, ms: a collection of the heap or a checkpoint is no load. */
const fadeMs = 1_000;
/** What was under way is told for one to two of these, ms. */
const spanMs = 1_000;
/** Looks at the meters that come closer together count as one, ms. */
const lookMs = 250;

export class LoopLoad {
  readonly #meters: LoopMeters;
  readonly #settings: DeepSettings;
  #lookedMs: number;
  #busy = 0;
  #cpu = 0;
  #deepUntilMs = Number.NEGATIVE_INFINITY;
  /** The most at one time, in the last whole span and in this one. */
  #mostBefore = 0;
  #most = 0;
  #spanFromMs: number;

  constructor(meters: LoopMeters, nowMs: number, settings: DeepSettings) {
    this.#meters = meters;
    this.#settings = settings;
    this.#lookedMs = this.#spanFromMs = nowMs;
  }

  /** In the last seconds. */
  get busy(): number {
    return this.#busy;
  }
  get cpu(): number {
    return this.#cpu;
  }

  /** Proposals that this node had under way at one time. */
  get proposals(): number {
    return Math.max(this.#most, this.#mostBefore);
  }

  /** As much as counts as deep was under way at one time, now or a while ago. */
  isDeep(nowMs: number): boolean {
    return nowMs < this.#deepUntilMs;
  }

  /** With each tick. `elsewhere`: what the others told of theirs. */
  look(nowMs: number, proposals: number, elsewhere: number): void {
    if (nowMs - this.#spanFromMs >= spanMs) {
      this.#mostBefore = this.#most;
      this.#most = 0;
      this.#spanFromMs = nowMs;
    }
    this.#most = Math.max(this.#most, proposals);
    const { deepProposals, deepForMs } = this.#settings;
    if (proposals + elsewhere >= deepProposals) this.#deepUntilMs = nowMs + deepForMs;
    const passedMs = nowMs - this.#lookedMs;
    if (passedMs < lookMs) return;
    this.#lookedMs = nowMs;
    const weight = 1 - Math.exp(-passedMs / fadeMs);
    this.#busy += (share(this.#meters.busyShare()) - this.#busy) * weight;
    this.#cpu += (share(this.#meters.cpuShare()) - this.#cpu) * weight;
  }
}

function share(value: number): number {
  return Number.isFinite(value) ? Math.min(1, Math.max(0, value)) : 0;
}
