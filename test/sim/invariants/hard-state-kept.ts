/**
 * Term and vote never go back on disk (Raft, figure 2: persistent state), whatever crashes come between.
 * The last entry's term is known, or votes would be given to candidates with less (Raft, 5.4.1).
 */
import type { GroupLog } from '../../../src/wal/index.js';
import type { Invariant, SeenNode } from './invariants.js';

function isMute({ faults }: SeenNode, log: GroupLog): boolean {
  return names(
    faults.filter(({ kind }) => kind === 'term-or-vote-lost'),
    log,
  );
}

function names(
  replicas: readonly { readonly partition: number; readonly replicaId: number }[],
  { partition, replicaId }: GroupLog,
): boolean {
  return replicas.some((one) => one.partition === partition && one.replicaId >= replicaId);
}

function isInUse(node: SeenNode, { partition, replicaId }: GroupLog): boolean {
  return node.replicas().some((one) => one.partition === partition && one.replicaId === replicaId);
}

export class HardStateKept implements Invariant {
  /** By "node/partition/replica". */
  readonly #seen = new Map<string, { term: number; vote: number }>();
  readonly #muted = new Set<string>();

  look(nodes: readonly SeenNode[]): string | undefined {
    for (const node of nodes) {
      for (const log of node.lastLogs()) {
        const key = `${node.nodeId}/${log.partition}/${log.replicaId}`;
        // Its term or its vote is lost, and known to be: this id is never used again.
        if (isMute(node, log)) {
          this.#muted.add(key);
          continue;
        }
        // Removed, and mute if it is here again. A crash may come before that is kept: then it is what it was.
        if (names(node.gone, log)) continue;
        if (this.#muted.has(key)) {
          // Removed with its fault; what is left of its log counts for nothing.
          if (!isInUse(node, log)) continue;
          return `mute no more: node ${node.nodeId}, partition ${log.partition}: replica ${log.replicaId}`;
        }
        const { term, vote } = log.hardState;
        if (log.lastIndex() > 0 && log.term(log.lastIndex()) === 0)
          return `term unknown: node ${node.nodeId}, partition ${log.partition}: of its last entry ${log.lastIndex()}`;
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
