/**
 * Committed means synced on a majority (design, "Log, restart, damage", rule 1): also
 * the logs of nodes that are down count, as their disks have them for certain.
 */
import type { Replica } from '../../../src/partition/replica.js';
import type { GroupLog } from '../../../src/wal/index.js';
import type { Invariant, SeenNode } from './invariants.js';

export class CommittedOnMajority implements Invariant {
  look(nodes: readonly SeenNode[]): string | undefined {
    const furthest = new Map<number, Replica>();
    for (const node of nodes) {
      for (const replica of node.replicas()) {
        const known = furthest.get(replica.partition);
        if (known === undefined || replica.commitIndex > known.commitIndex)
          furthest.set(replica.partition, replica);
      }
    }
    for (const replica of furthest.values()) {
      const problem = check(nodes, replica);
      if (problem !== undefined) return problem;
    }
    return undefined;
  }
}

function check(nodes: readonly SeenNode[], replica: Replica): string | undefined {
  const { partition, commitIndex } = replica;
  const isOf = (log: GroupLog): boolean => log.partition === partition;
  const logs = nodes.flatMap((node) => node.lastLogs().filter(isOf));
  // What it had it may have lost since; that nothing acknowledged is gone is looked at in the end.
  const lossy = nodes.filter(({ isDamaged }) => isDamaged).flatMap((node) => node.lastLogs().filter(isOf));
  const { voters, votersOutgoing, learners } = replica.store.confState;
  // A change counts from when a leader applies it: what was committed by the members before may be on fewer of
  // today's, and which members an index was committed by is not to be seen from here. So only while none ever changed.
  const isStatic =
    replica.store.membership.changes === 0 &&
    votersOutgoing.length === 0 &&
    learners.length === 0 &&
    voters.length === logs.length;
  if (!isStatic || !logs.every((log) => voters.includes(log.replicaId))) return undefined;
  const holding = logs.filter((log) => log.lastIndex() >= commitIndex || lossy.includes(log)).length;
  if (holding * 2 > logs.length) return undefined;
  return `committed before it is synced: partition ${partition}, index ${commitIndex} is on ${holding} of ${logs.length} disks`;
}
