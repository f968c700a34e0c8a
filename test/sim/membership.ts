/**
 * Members of partitions change at random while everything else goes on: replicas
 * are added, promoted, demoted, replaced and removed by whoever leads, and nobody
 * waits for the outcome. Never by force: that may lose what only others had.
 */
import { HansardError } from '../../src/common/errors.js';
import type { ReplicaChange } from '../../src/node/change-replicas.js';
import type { HansardNode } from '../../src/node/node.js';
import type { Replica } from '../../src/partition/replica.js';
import type { SimCluster } from './cluster.js';

const callMs = 2_000;

export class SimMembership {
  readonly #cluster: SimCluster;
  /** By kind and outcome, for the trace and for who wonders whether anything happened. */
  readonly outcomes = new Map<string, number>();

  /** Removals stop there: more would leave partitions on single nodes for most of a run. */
  readonly #votersMin: number;
  /** A node that never comes back. */
  lost: number | undefined;

  /** `mayLose`: every partition must have a majority without any one of its voters, so they never become fewer. */
  constructor(cluster: SimCluster, mayLose: boolean) {
    this.#cluster = cluster;
    this.#votersMin = mayLose ? Number.POSITIVE_INFINITY : 2;
  }

  /** Begins a change somewhere, or two at once. */
  begin(): void {
    const { random, options } = this.#cluster;
    const partition = random.below(options.partitions);
    const node = this.#cluster.leaderOf(partition);
    const replica = replicaOf(node, partition);
    if (node === undefined || replica === undefined) return;
    const change = this.#replaceLost(replica) ?? this.#draw(replica);
    if (change === undefined) return;
    const changes = [change];
    if (change.kind !== 'replace' && random.below(4) === 0) {
      const second = this.#draw(replica);
      if (second !== undefined && second.kind !== 'replace' && !isAboutSame(change, second))
        changes.push(second);
    }
    this.#carryOut(node, partition, changes);
  }

  /** Each partition's first voter goes to a free node; true: all have. Called again until then. */
  moveOne(moved: Map<number, { replicaId: number; nodeId: number }>): boolean {
    let isDone = true;
    for (let partition = 0; partition < this.#cluster.options.partitions; partition++) {
      const node = this.#cluster.leaderOf(partition);
      const replica = replicaOf(node, partition);
      if (node === undefined || replica === undefined) return false;
      const repair = this.#replaceLost(replica);
      if (repair !== undefined) {
        isDone = false;
        this.#carryOut(node, partition, [repair]);
        continue;
      }
      let plan = moved.get(partition);
      if (plan === undefined) {
        const [free] = this.#freeNodes(replica);
        const voter = replica.voters[0];
        // All nodes have one: nothing to show here.
        if (free === undefined || voter === undefined) continue;
        plan = { replicaId: voter.replicaId, nodeId: free };
        moved.set(partition, plan);
      }
      const { replicaId, nodeId } = plan;
      const { members } = replica;
      const isThere = members.some(
        (member) => member.nodeId === nodeId && replica.membership.isHeir(member.replicaId),
      );
      if (isThere && !members.some((member) => member.replicaId === replicaId)) continue;
      isDone = false;
      this.#carryOut(node, partition, [{ kind: 'replace', replicaId, nodeId }]);
    }
    return isDone;
  }

  /** What the operator of a dead machine does, again and again until it is done. */
  #replaceLost(replica: Replica): ReplicaChange | undefined {
    const gone = replica.members.find(({ nodeId }) => nodeId === this.lost);
    const [free] = this.#freeNodes(replica);
    if (gone === undefined) return undefined;
    if (!replica.voters.includes(gone)) return { kind: 'remove', replicaId: gone.replicaId };
    if (free !== undefined) return { kind: 'replace', replicaId: gone.replicaId, nodeId: free };
    const learner = replica.conf.learners.find((id) => id !== gone.replicaId);
    return learner === undefined
      ? { kind: 'remove', replicaId: gone.replicaId }
      : { kind: 'promote', replicaId: learner };
  }

  #draw(replica: Replica): ReplicaChange | undefined {
    const { random } = this.#cluster;
    const pick = <T>(list: readonly T[]): T | undefined => list[random.below(Math.max(1, list.length))];
    const free = pick(this.#freeNodes(replica));
    const voter = pick(replica.voters)?.replicaId;
    const learner = pick(replica.conf.learners);
    const hasSpare = replica.conf.voters.length > this.#votersMin;
    switch (random.below(6)) {
      case 0:
        return free === undefined ? undefined : { kind: 'addLearner', nodeId: free };
      case 1:
      case 2:
        return learner === undefined ? undefined : { kind: 'promote', replicaId: learner };
      case 3:
        return voter === undefined || !hasSpare ? undefined : { kind: 'demote', replicaId: voter };
      case 4: {
        const goes = learner !== undefined && random.below(2) === 0 ? learner : hasSpare ? voter : undefined;
        return goes === undefined ? undefined : { kind: 'remove', replicaId: goes };
      }
      default:
        if (voter === undefined || free === undefined) return undefined;
        return { kind: 'replace', replicaId: voter, nodeId: free };
    }
  }

  #freeNodes(replica: Replica): number[] {
    const taken = new Set(replica.members.map(({ nodeId }) => nodeId));
    if (this.lost !== undefined) taken.add(this.lost);
    return this.#cluster.nodes.map(({ nodeId }) => nodeId).filter((nodeId) => !taken.has(nodeId));
  }

  #carryOut(node: HansardNode, partition: number, changes: readonly ReplicaChange[]): void {
    const what = changes.map(textOf).join(' and ');
    const kind = changes.length > 1 ? 'several' : (changes[0]?.kind ?? '');
    const ended = (outcome: string, why = ''): void => {
      const name = `${kind} ${outcome}`;
      this.outcomes.set(name, (this.outcomes.get(name) ?? 0) + 1);
      this.#cluster.log(`partition ${partition}: ${what}: ${outcome} ${why}`);
    };
    node.changeReplicas(partition, changes, { deadlineMs: node.monotonicMs() + callMs, force: false }).then(
      ({ done }) => ended(done ? 'done' : 'waits'),
      (error: unknown) => {
        // A dead process's calls end in all ways, and say nothing.
        if (error instanceof HansardError) ended(error.reason, error.message);
        else if ((error as Error).name !== 'ProcessIsDead') {
          this.#cluster.violations.push(`${what}: ${error instanceof Error ? error.stack : String(error)}`);
        }
      },
    );
  }
}

function replicaOf(node: HansardNode | undefined, partition: number): Replica | undefined {
  return node?.replicas().find((replica) => replica.partition === partition);
}

function isAboutSame(a: ReplicaChange, b: ReplicaChange): boolean {
  return 'replicaId' in a && 'replicaId' in b && a.replicaId === b.replicaId;
}

function textOf(change: ReplicaChange): string {
  const replica = 'replicaId' in change ? ` ${change.replicaId}` : '';
  return `${change.kind}${replica}${'nodeId' in change ? ` on node ${change.nodeId}` : ''}`;
}
