/**
 * No commit time is far ahead of real time while the clocks of a majority are not
 * (design, "An event"): keys would be forgotten early, and deadlines of durable
 * subscriptions come late.
 */
import type { Clock } from '../../../src/common/env.js';
import type { Invariant, SeenNode } from './invariants.js';

/** A clock that was ever further ahead counts as wrong for the rest of the run. */
const wrongUs = 5_000_000;

/** What nodes allow one another, sane clocks that are off and drift, and some room. */
const allowedUs = 60_000_000;

export class CommitTimeNear implements Invariant {
  readonly #wrong = new Set<number>();

  constructor(private readonly clock: Pick<Clock, 'nowUs'>) {}

  look(nodes: readonly SeenNode[]): string | undefined {
    for (const { nodeId, clockOffsetUs } of nodes) if (clockOffsetUs > wrongUs) this.#wrong.add(nodeId);
    if (nodes.length - this.#wrong.size < Math.floor(nodes.length / 2) + 1) return undefined;
    const latestUs = this.clock.nowUs() + allowedUs;
    for (const node of nodes) {
      for (const { store, partition } of node.replicas()) {
        const timeUs = store.meta.lastCommitTimeUs;
        if (timeUs > latestUs)
          return `node ${node.nodeId}, partition ${partition}: a commit time is ${Math.round((timeUs - this.clock.nowUs()) / 1e6)} s ahead`;
      }
    }
    return undefined;
  }
}
