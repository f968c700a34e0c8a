/**
 * Clusters that began with an older apply version, as one in three does, and the operator who raises it, partition by
 * partition and version by version, while everything else goes on. Commands that a version lacks
 * are refused; what is there must be applied alike before, during and after.
 */
import { encodeSetSettings, supportedApplyVersion } from '../../src/conversation/command.js';
import type { HansardNode } from '../../src/node/node.js';
import { type SimClock, SimRandom } from './sim-clock.js';

/** Keeps what a seed draws here apart from all else that it draws. */
const versionSalt = 0x7e25;
/** The operator looks again after so long, simulated ms. */
const lookMs = 250;
/** The first of them, at most. */
const firstMaxMs = 8_000;
const deadlineMs = 2_000;

export class SimUpgrade {
  /** With which the cluster is made. */
  readonly from: number;
  readonly #firstMs: number;
  readonly #clock: SimClock;
  readonly #partitions: number;
  readonly #leaderOf: (partition: number) => HansardNode | undefined;

  /** `oldest`: what all clients of this run need. */
  constructor(
    seed: number,
    oldest: number,
    clock: SimClock,
    partitions: number,
    leaderOf: (partition: number) => HansardNode | undefined,
  ) {
    const random = new SimRandom(seed ^ versionSalt);
    const span = supportedApplyVersion - oldest;
    this.from = random.below(3) === 0 && span > 0 ? oldest + random.below(span) : supportedApplyVersion;
    this.#firstMs = random.below(firstMaxMs);
    this.#clock = clock;
    this.#partitions = partitions;
    this.#leaderOf = leaderOf;
  }

  get isDone(): boolean {
    return this.from === supportedApplyVersion || this.#behind().length === 0;
  }

  start(): void {
    if (this.from < supportedApplyVersion) this.#clock.after(this.#firstMs, () => this.#look());
  }

  #look(): void {
    if (this.isDone) return;
    for (const { node, partition, version } of this.#behind())
      node
        ?.propose(partition, encodeSetSettings({ applyVersion: version + 1 }), {
          deadlineMs: node.monotonicMs() + deadlineMs,
        })
        // Refused, or nobody knows: the next look tells.
        .catch(() => {});
    this.#clock.after(lookMs, () => this.#look());
  }

  /** Partitions that have an older version, as far as their leader has applied; or no leader. */
  #behind() {
    return Array.from({ length: this.#partitions }, (_, partition) => {
      const node = this.#leaderOf(partition);
      const version = node?.partitionDetail(partition).applyVersion ?? 0;
      return { node, partition, version };
    }).filter(({ version }) => version < supportedApplyVersion);
  }
}
