/** State machine safety (Raft, figure 3): at one index all replicas apply the same entry, in all their lives. */
import type { Replica } from '../../../src/partition/replica.js';
import type { Invariant, SeenNode } from './invariants.js';

export class AppliedAgree implements Invariant {
  /** By partition: term of the entry that was applied at each index. */
  readonly #terms = new Map<number, number[]>();
  /** Compared up to here, by life. */
  readonly #done = new WeakMap<Replica, number>();

  look(nodes: readonly SeenNode[]): string | undefined {
    for (const node of nodes) {
      for (const replica of node.replicas()) {
        const problem = this.#lookAt(node, replica);
        if (problem !== undefined) return problem;
      }
    }
    return undefined;
  }

  #lookAt({ nodeId }: SeenNode, replica: Replica): string | undefined {
    const { partition, log, appliedIndex } = replica;
    // Between the store's decision for a snapshot and the log's new start the log is still that of before.
    if (replica.isInstalling) return undefined;
    const terms = this.#terms.get(partition) ?? [];
    this.#terms.set(partition, terms);
    for (let index = (this.#done.get(replica) ?? 0) + 1; index <= appliedIndex; index++) {
      const term = log.term(index);
      // Sealed or taken over as a snapshot: the digests at the end speak for it.
      // Neither is the entry before a log's first always known by its term (0).
      if (typeof term !== 'number' || term === 0) continue;
      const known = terms[index];
      if (known !== undefined && known !== term)
        return `applied differently: node ${nodeId} has partition ${partition}, index ${index} of term ${term}, another applied term ${known}`;
      terms[index] = term;
    }
    this.#done.set(replica, appliedIndex);
    return undefined;
  }
}
