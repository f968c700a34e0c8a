/** A leader's commit index comes to rest on entries of its own term alone (Raft, section 5.4.2 and figure 8). */
import type { Replica } from '../../../src/partition/replica.js';
import type { Invariant, SeenNode } from './invariants.js';

interface Leading {
  readonly term: number;
  /** The commit index that it came with. */
  readonly from: number;
}

export class CommitByOwnTerm implements Invariant {
  readonly #leading = new WeakMap<Replica, Leading>();

  look(nodes: readonly SeenNode[]): string | undefined {
    for (const node of nodes) {
      for (const replica of node.replicas()) {
        if (!replica.isLeader) continue;
        const { term, commitIndex, log, partition } = replica;
        let leading = this.#leading.get(replica);
        if (leading?.term !== term) {
          leading = { term, from: commitIndex };
          this.#leading.set(replica, leading);
        }
        if (commitIndex <= leading.from) continue;
        const committed = log.term(commitIndex);
        if (typeof committed === 'number' && committed !== term)
          return `old term committed by counting: node ${node.nodeId} leads partition ${partition} in term ${term} and committed ${commitIndex} of term ${committed}`;
      }
    }
    return undefined;
  }
}
