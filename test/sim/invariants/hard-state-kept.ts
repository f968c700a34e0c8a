/** Term and vote never go back on disk (Raft, figure 2: persistent state), whatever crashes come between. */
import type { Invariant, SeenNode } from './invariants.js';

export class HardStateKept implements Invariant {
  /** By "node/partition/replica". */
  readonly #seen = new Map<string, { term: number; vote: number }>();

  look(nodes: readonly SeenNode[]): string | undefined {
    for (const node of nodes) {
      for (const log of node.lastLogs()) {
        const key = `${node.nodeId}/${log.partition}/${log.replicaId}`;
        const { term, vote } = log.hardState;
        const before = this.#seen.get(key);
        this.#seen.set(key, { term, vote });
        if (before === undefined || term > before.term) continue;
        if (term < before.term)
          return `term went back: node ${node.nodeId}, partition ${log.partition}: ${before.term} to ${term}`;
        if (before.vote !== 0 && vote !== before.vote)
          return `vote changed: node ${node.nodeId}, partition ${log.partition}, term ${term}: ${before.vote} to ${vote}`;
      }
    }
    return undefined;
  }
}
