/**
 * Within one life the commit index never falls and is never below what is applied;
 * what is applied is synced in the replica's own log (design, "The way of a write", 6);
 * what is sealed stays sealed in all lives (every write of the store is synced).
 */
import type { Replica } from '../../../src/partition/replica.js';
import type { Invariant, SeenNode } from './invariants.js';

export class CommitMonotonic implements Invariant {
  readonly #commits = new WeakMap<Replica, number>();
  /** By "node/partition/replica". */
  readonly #sealed = new Map<string, number>();

  look(nodes: readonly SeenNode[]): string | undefined {
    for (const node of nodes) {
      for (const replica of node.replicas()) {
        const problem = this.#lookAt(node, replica);
        if (problem !== undefined) return `node ${node.nodeId}, partition ${replica.partition}: ${problem}`;
      }
    }
    return undefined;
  }

  #lookAt({ nodeId, isDamaged }: SeenNode, replica: Replica): string | undefined {
    const { commitIndex, appliedIndex, log, partition, replicaId, store } = replica;
    const before = this.#commits.get(replica) ?? 0;
    if (commitIndex < before) return `the commit index went back from ${before} to ${commitIndex}`;
    this.#commits.set(replica, commitIndex);
    // A snapshot is the state before the log begins behind it.
    if (replica.isInstalling || replica.isMute) return undefined;
    if (appliedIndex > commitIndex) return `applied ${appliedIndex} beyond commit ${commitIndex}`;
    if (appliedIndex > log.lastIndex())
      return `applied ${appliedIndex} before it is synced, the log ends at ${log.lastIndex()}`;
    if (isDamaged) return undefined;
    const key = `${nodeId}/${partition}/${replicaId}`;
    const sealed = this.#sealed.get(key) ?? 0;
    if (store.sealedIndex < sealed) return `what is sealed went back from ${sealed} to ${store.sealedIndex}`;
    this.#sealed.set(key, store.sealedIndex);
    return undefined;
  }
}
