/**
 * Changes of a partition's members, as its leader carries them out, one at a
 * time. A change names what is to be, so that asking again for what is done
 * already does nothing: whoever lost the answer may repeat the question.
 *
 *   gate → what is missing → new replicas made on their nodes → checks
 *        → leadership handed over where the leader itself goes → proposed → applied
 *
 * and round again, until nothing is missing.
 */
import type { Clock } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import type { NodeId, PartitionId, ReplicaId } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { Logger } from '../common/logger.js';
import { encodePlaced, idsOf, isRemoved, type Membership, type ReplicaMember } from '../common/membership.js';
import type { Replica } from '../partition/replica.js';
import { isQuorumAlive } from '../partition/replica-members.js';
import { type ConfChange, ConfChangeKind, type ConfChangeSingle, Transition } from '../raft/conf-codec.js';
import { ProgressState } from '../raft/progress.js';
import { createReplicaMethod, encodeCreateReplica } from './members.js';

export type ReplicaChange =
  /** A replica without a vote, on that node. */
  | { readonly kind: 'addLearner'; readonly nodeId: NodeId }
  /** A learner that has caught up gets its vote. */
  | { readonly kind: 'promote'; readonly replicaId: ReplicaId }
  /** A voter becomes a learner. */
  | { readonly kind: 'demote'; readonly replicaId: ReplicaId }
  | { readonly kind: 'remove'; readonly replicaId: ReplicaId }
  /** In its place one on that node: learner, and once that has caught up both changes at once. */
  | { readonly kind: 'replace'; readonly replicaId: ReplicaId; readonly nodeId: NodeId };

export interface ChangeReplicasOptions {
  /** On the node's monotonic clock. */
  readonly deadlineMs: number;
  /** Also where a learner lags, or no majority of the voters would be alive. */
  readonly force: boolean;
}

export interface ChangeReplicasResult {
  /** False: a learner of this partition has to catch up first; ask again. */
  readonly done: boolean;
  /** That learner; 0: none. */
  readonly waitsFor: ReplicaId;
}

export interface ReplicaChangesContext {
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly heartbeatMs: number;
  readonly electionTimeoutMs: number;
  isNode(node: NodeId): boolean;
  isConnected(node: NodeId): boolean;
  mayLead(node: NodeId, partition: PartitionId): boolean;
  /** Asks a peer; or this node itself. */
  ask(node: NodeId, method: string, request: Uint8Array, deadlineMs: number): Promise<Uint8Array>;
}

/** A learner has caught up when it lacks no more entries than these: under load some are always on their way. */
export const lagEntriesMax = 256;
/** How often it looks whether what it waits for has come, ms. */
const pollMs = 10;
/** A leader forgets once in an election timeout who was active: looks, a heartbeat apart, until it knows again. */
const looksMax = 5;
/** Each round makes one change; more than these would be a loop that gets nowhere. */
const roundsMax = 8;

/** What is to be proposed, or waited for. */
type Step =
  | { readonly kind: 'done' }
  | { readonly kind: 'wait'; readonly replicaId: ReplicaId }
  | {
      readonly kind: 'change';
      readonly changes: readonly ConfChangeSingle[];
      /** New replicas among them. */
      readonly placed: readonly ReplicaMember[];
      /** Learners among them that get a vote. */
      readonly promoted: readonly ReplicaId[];
      /** The member that the new one is to replace. */
      readonly replaces?: ReplicaId;
    };

export class ReplicaChanges {
  readonly #context: ReplicaChangesContext;
  readonly #running = new Set<PartitionId>();
  /** By partition and node: empty replicas that changes which came to nothing have left there. */
  readonly #unused = new Map<PartitionId, Map<NodeId, ReplicaId>>();

  constructor(context: ReplicaChangesContext) {
    this.#context = context;
  }

  /** At the leader; NOT_LEADER where this is none (any more). */
  async change(
    replica: Replica,
    changes: readonly ReplicaChange[],
    options: ChangeReplicasOptions,
  ): Promise<ChangeReplicasResult> {
    const { partition } = replica;
    checkRequest(changes);
    if (this.#running.has(partition)) throw busy(partition, 'another change of its members is under way');
    this.#running.add(partition);
    try {
      for (let round = 0; round < roundsMax; round++) {
        await this.#gate(replica, options.deadlineMs);
        const step = nextStep(replica, changes, options.force, this.#unused.get(partition) ?? new Map());
        if (step.kind === 'done') return { done: true, waitsFor: 0 };
        if (step.kind === 'wait') return { done: false, waitsFor: step.replicaId };
        await this.#carryOut(replica, step, options);
      }
      throw busy(partition, 'its members keep changing');
    } finally {
      this.#running.delete(partition);
    }
  }

  /** Waits until the leader may propose a change (design rule 9). */
  async #gate(replica: Replica, deadlineMs: number): Promise<void> {
    for (;;) {
      const gate = replica.changeGate;
      if (gate === undefined) return;
      if (gate === 'not-leader') throw replica.notLeader();
      if (this.#context.clock.monotonicMs() + pollMs >= deadlineMs) {
        throw busy(
          replica.partition,
          gate === 'busy' ? 'the change before is not over' : 'its leader is new and has applied nothing yet',
        );
      }
      await this.#sleep(pollMs);
    }
  }

  async #carryOut(
    replica: Replica,
    step: Extract<Step, { kind: 'change' }>,
    options: ChangeReplicasOptions,
  ): Promise<void> {
    const { partition } = replica;
    const change: ConfChange = {
      transition: Transition.auto,
      changes: step.changes,
      context: step.placed.length === 0 ? undefined : encodePlaced(step.placed),
    };
    const outcome = replica.changeOutcome(change);
    if (typeof outcome === 'string') {
      throw new HansardError('INVALID_ARGUMENT', `partition ${partition}: ${outcome}`, { partition });
    }
    if (!options.force) {
      for (const replicaId of step.promoted) await this.#requireCaughtUp(replica, replicaId);
      await this.#requireQuorum(replica, outcome);
    }
    const { changes } = replica.store.membership;
    for (const member of step.placed) {
      const made = await this.#create(replica, member, options.deadlineMs, step.replaces);
      if (made === 'there') continue;
      // Planned anew, with the id that it has.
      if (made === 'other') return;
      const changes = [{ kind: ConfChangeKind.remove, id: step.replaces as ReplicaId }];
      return this.#carryOut(replica, { kind: 'change', changes, placed: [], promoted: [] }, options);
    }
    // All may have changed meanwhile: then the plan is made anew.
    if (replica.changeGate !== undefined || replica.store.membership.changes !== changes) return;
    const proposed = replica.proposeChange(await this.#withoutSelf(replica, step, change, outcome));
    if (typeof proposed === 'string') throw busy(partition, `its leader takes no change now (${proposed})`);
    this.#context.logger.info(
      { partition, ...proposed, conf: describe(outcome) },
      'a change of members is proposed',
    );
    await this.#applied(replica, proposed, options.deadlineMs);
  }

  /**
   * The node has it before anybody counts on it. `other`: it has an empty one with another id that
   * may be given out, and is asked for that one. `blocked`: it can't, until `replaces` has gone.
   * For it still holds a replica that was removed, which stays while one member does not know
   * that; and the one that does not know is `replaces`, lost perhaps. Without it the partition
   * bears no fewer failures than with it silent.
   */
  async #create(
    replica: Replica,
    { replicaId, nodeId }: ReplicaMember,
    deadlineMs: number,
    replaces: ReplicaId | undefined,
  ): Promise<'there' | 'other' | 'blocked'> {
    const { partition } = replica;
    const { membership } = replica.store;
    const { isNode, isConnected, nodeId: self, ask, clock } = this.#context;
    if (!isNode(nodeId))
      throw new HansardError('NODE_UNKNOWN', `the cluster has no node ${nodeId}`, { node: nodeId });
    const request = encodeCreateReplica({ partition, replicaId, membership });
    for (;;) {
      if (nodeId !== self && !isConnected(nodeId)) {
        throw new HansardError('NODE_UNREACHABLE', `node ${nodeId} can't be reached from node ${self}`, {
          node: nodeId,
        });
      }
      try {
        await ask(nodeId, createReplicaMethod, request, deadlineMs);
        return 'there';
      } catch (error) {
        if (!(error instanceof HansardError) || error.reason !== 'MEMBERSHIP_BUSY') throw error;
        const unused = Number(error.fields.unused ?? 0);
        if (unused >= membership.nextReplicaId && this.#isNews(partition, nodeId, unused)) return 'other';
        // An earlier replica that is going from there takes a moment.
        const silent = await this.#silentUnaware(replica);
        if (!replica.isLeader) throw replica.notLeader();
        if (silent.some((member) => member.replicaId === replaces)) return 'blocked';
        if (clock.monotonicMs() + 200 >= deadlineMs) {
          const [first] = silent;
          if (first === undefined) throw error;
          throw busy(
            partition,
            `node ${nodeId} keeps a replica that was removed until all members know of it, and replica ${first.replicaId} on node ${first.nodeId} does not answer: remove or replace that one first`,
          );
        }
        await this.#sleep(100);
      }
    }
  }

  /** True: it was not known, and the plan is another one now. */
  #isNews(partition: PartitionId, nodeId: NodeId, unused: ReplicaId): boolean {
    const known = this.#unused.get(partition) ?? new Map<NodeId, ReplicaId>();
    this.#unused.set(partition, known);
    if (known.get(nodeId) === unused) return false;
    known.set(nodeId, unused);
    return true;
  }

  /** Members that do not know of the last change, and have not been heard for a few heartbeats. */
  async #silentUnaware(replica: Replica): Promise<readonly ReplicaMember[]> {
    const { isConnected, heartbeatMs } = this.#context;
    let silent = replica.unaware();
    for (let look = 0; look < looksMax && silent.length > 0; look++) {
      silent = silent.filter(
        ({ replicaId, nodeId }) =>
          !isConnected(nodeId) || replica.progressOf(replicaId)?.recentActive !== true,
      );
      await this.#sleep(heartbeatMs);
    }
    return silent.filter((one) => replica.unaware().some(({ replicaId }) => replicaId === one.replicaId));
  }

  /** A majority of each half must be alive behind the change; who was silent gets a few heartbeats to answer. */
  async #requireQuorum(replica: Replica, outcome: ConfState): Promise<void> {
    const { isConnected, nodeId: self, heartbeatMs } = this.#context;
    let living: ReplicaId[] = [];
    for (let look = 0; look < looksMax; look++) {
      living = idsOf(outcome).filter((id) => {
        const node = replica.nodeOf(id);
        if (node === self) return true;
        return node !== undefined && isConnected(node) && replica.progressOf(id)?.recentActive === true;
      });
      if (isQuorumAlive(outcome, (id) => living.includes(id))) return;
      await this.#sleep(heartbeatMs);
    }
    const { partition } = replica;
    throw new HansardError(
      'WOULD_LOSE_QUORUM',
      `partition ${partition} would have voters ${outcome.voters.join(' ')}, of which ${living.join(' ') || 'none'} can be reached`,
      { partition, voters: outcome.voters.join(' '), living: living.join(' ') },
    );
  }

  async #requireCaughtUp(replica: Replica, replicaId: ReplicaId): Promise<void> {
    for (let look = 0; look < looksMax; look++) {
      if (hasCaughtUp(replica, replicaId)) return;
      await this.#sleep(this.#context.heartbeatMs);
    }
    const { partition, commitIndex } = replica;
    const match = replica.progressOf(replicaId)?.match ?? 0;
    throw new HansardError(
      'LEARNER_LAGS',
      `replica ${replicaId} of partition ${partition} has ${match} of ${commitIndex} entries`,
      { partition, replica: replicaId, match, commit_index: commitIndex },
      { retryDelayMs: 500 },
    );
  }

  /**
   * The change as this leader may propose it. Where it is the only voter that could
   * lead, the others get their votes first; it goes in the next round, by one of them.
   */
  async #withoutSelf(
    replica: Replica,
    { promoted }: Extract<Step, { kind: 'change' }>,
    change: ConfChange,
    outcome: ConfState,
  ): Promise<ConfChange> {
    if (outcome.voters.includes(replica.replicaId)) return change;
    const stays = outcome.voters.some((id) => replica.membership.isHeir(id));
    if (stays || promoted.length === 0) return this.#handOver(replica, outcome);
    const changes = promoted.map((id) => ({ kind: ConfChangeKind.addVoter, id }));
    return { transition: Transition.auto, changes };
  }

  /** A leader does not remove itself: it would not know whether that has come to pass. */
  async #handOver(replica: Replica, outcome: ConfState): Promise<never> {
    const { isConnected, mayLead, clock, electionTimeoutMs } = this.#context;
    const { partition } = replica;
    const heir = (): ReplicaMember | undefined =>
      replica.voters.find(
        ({ replicaId, nodeId }) =>
          replicaId !== replica.replicaId &&
          outcome.voters.includes(replicaId) &&
          replica.membership.isHeir(replicaId) &&
          isConnected(nodeId) &&
          mayLead(nodeId, partition) &&
          replica.isCaughtUp(replicaId),
      );
    const endMs = clock.monotonicMs() + 2 * electionTimeoutMs;
    while (replica.isLeader && clock.monotonicMs() < endMs) {
      const to = heir();
      if (to !== undefined) replica.transferLeadership(to.replicaId);
      await this.#sleep(pollMs * 2);
    }
    if (!replica.isLeader) throw replica.notLeader();
    throw busy(partition, 'no other voter is ready to lead it in place of the replica that is to go');
  }

  async #applied(
    replica: Replica,
    { index, term }: { index: number; term: number },
    deadlineMs: number,
  ): Promise<void> {
    while (replica.appliedIndex < index) {
      const { partition } = replica;
      const isLate = this.#context.clock.monotonicMs() >= deadlineMs;
      if (isLate || !replica.isLeader || replica.term !== term) {
        throw new HansardError(
          isLate ? 'DEADLINE_EXCEEDED' : 'COMMIT_UNKNOWN',
          `partition ${partition}: the change of members was proposed; whether it is in force was not known ${isLate ? 'in time' : 'when this node lost leadership'}`,
          { partition },
        );
      }
      await this.#sleep(pollMs);
    }
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.#context.clock.after(ms, resolve));
  }
}

function checkRequest(changes: readonly ReplicaChange[]): void {
  if (changes.length === 0)
    throw new HansardError('INVALID_ARGUMENT', 'no change is named', { field: 'changes' });
  if (changes.length > 1 && changes.some(({ kind }) => kind === 'replace')) {
    throw new HansardError('INVALID_ARGUMENT', 'replace takes several steps, and stands alone', {
      field: 'changes',
    });
  }
}

// ---- what is missing

/** `unused`: by node, the empty replica that is there. */
type Unused = ReadonlyMap<NodeId, ReplicaId>;

/**
 * The id of a new replica on that node: of the empty one that is there already, which another node of this change may
 * get, or a new one. Ids may be passed over, and are never given out twice.
 */
function newId(
  { nextReplicaId }: Membership,
  placed: readonly ReplicaMember[],
  unused: Unused,
  nodeId: NodeId,
): ReplicaId {
  const there = unused.get(nodeId) ?? 0;
  if (there >= nextReplicaId) return there;
  const taken = [...placed.map(({ replicaId }) => replicaId), ...unused.values()];
  return Math.max(nextReplicaId, ...taken.map((id) => id + 1));
}

function nextStep(replica: Replica, wanted: readonly ReplicaChange[], force: boolean, unused: Unused): Step {
  const only = wanted[0];
  if (only?.kind === 'replace') return replaceStep(replica, only.replicaId, only.nodeId, force, unused);
  const { membership } = replica.store;
  const { voters } = replica.conf;
  const changes: ConfChangeSingle[] = [];
  const placed: ReplicaMember[] = [];
  const promoted: ReplicaId[] = [];
  for (const change of wanted) {
    if (change.kind === 'addLearner') {
      const { nodeId } = change;
      // In whatever role: what was asked for has been done, perhaps long ago.
      if (membership.members.some((member) => member.nodeId === nodeId)) continue;
      if (placed.some((member) => member.nodeId === nodeId)) continue;
      const id = newId(membership, placed, unused, nodeId);
      // The empty one there has the id of another new one, and goes once that is done: in the next round.
      if (placed.some(({ replicaId }) => replicaId === id)) continue;
      placed.push({ replicaId: id, nodeId });
      changes.push({ kind: ConfChangeKind.addLearner, id });
      continue;
    }
    const { replicaId: id, kind } = change;
    const isMember = membership.members.some((member) => member.replicaId === id);
    if (kind === 'remove' && !isMember && isRemoved(membership, id)) continue;
    if (!isMember) throw notAMember(replica, id);
    if (kind === 'remove') changes.push({ kind: ConfChangeKind.remove, id });
    else if (kind === 'promote' && !voters.includes(id)) {
      changes.push({ kind: ConfChangeKind.addVoter, id });
      promoted.push(id);
    } else if (kind === 'demote' && voters.includes(id))
      changes.push({ kind: ConfChangeKind.addLearner, id });
  }
  return changes.length === 0 ? { kind: 'done' } : { kind: 'change', changes, placed, promoted };
}

function replaceStep(
  replica: Replica,
  replicaId: ReplicaId,
  nodeId: NodeId,
  force: boolean,
  unused: Unused,
): Step {
  const { membership } = replica.store;
  const { voters } = replica.conf;
  const isMember = membership.members.some((member) => member.replicaId === replicaId);
  if (!isMember && !isRemoved(membership, replicaId)) throw notAMember(replica, replicaId);
  const there = membership.members.find((member) => member.nodeId === nodeId);
  const { partition } = replica;
  if (isMember && !voters.includes(replicaId)) {
    throw new HansardError(
      'INVALID_ARGUMENT',
      `replica ${replicaId} of partition ${partition} is a learner: remove it, and add another`,
      { partition, replica: replicaId },
    );
  }
  if (there === undefined) {
    const id = newId(membership, [], unused, nodeId);
    const placed = [{ replicaId: id, nodeId }];
    const changes = [{ kind: ConfChangeKind.addLearner, id }];
    return { kind: 'change', changes, placed, promoted: [], ...(isMember ? { replaces: replicaId } : {}) };
  }
  if (voters.includes(there.replicaId)) {
    if (!isMember) return { kind: 'done' };
    // The newest of all: it came for this, and had to vote first so that it could lead.
    const isNewest = membership.changes > 0 && there.replicaId === membership.nextReplicaId - 1;
    if (isNewest && there.replicaId > replicaId) {
      const changes = [{ kind: ConfChangeKind.remove, id: replicaId }];
      return { kind: 'change', changes, placed: [], promoted: [] };
    }
    throw new HansardError(
      'ALREADY_A_MEMBER',
      `node ${nodeId} holds replica ${there.replicaId} of partition ${partition}, which votes already`,
      { partition, node: nodeId, replica: there.replicaId },
    );
  }
  if (!force && !hasCaughtUp(replica, there.replicaId)) return { kind: 'wait', replicaId: there.replicaId };
  const changes: ConfChangeSingle[] = [{ kind: ConfChangeKind.addVoter, id: there.replicaId }];
  if (isMember) changes.push({ kind: ConfChangeKind.remove, id: replicaId });
  return { kind: 'change', changes, placed: [], promoted: [there.replicaId] };
}

/** As leader: would this learner's vote hold nothing up? */
export function hasCaughtUp(replica: Replica, replicaId: ReplicaId): boolean {
  const progress = replica.progressOf(replicaId);
  return (
    progress?.recentActive === true &&
    progress.state === ProgressState.replicate &&
    progress.match + lagEntriesMax >= replica.commitIndex
  );
}

function notAMember({ partition }: Replica, replicaId: ReplicaId): HansardError {
  return new HansardError('NOT_A_MEMBER', `partition ${partition} has no replica ${replicaId}`, {
    partition,
    replica: replicaId,
  });
}

function busy(partition: PartitionId, problem: string): HansardError {
  return new HansardError(
    'MEMBERSHIP_BUSY',
    `partition ${partition}: ${problem}`,
    { partition },
    { retryDelayMs: 200 },
  );
}

function describe({ voters, votersOutgoing, learners }: ConfState): string {
  const outgoing = votersOutgoing.length === 0 ? '' : ` && ${votersOutgoing.join(' ')}`;
  return `${voters.join(' ')}${outgoing}${learners.length === 0 ? '' : ` learners ${learners.join(' ')}`}`;
}
