/**
 * Who belongs to the group, as far as this replica has applied it, and where they are. Configuration (which
 * replicas vote) and places (on which nodes they are) change together, in one entry.
 */
import type { Index, NodeId, PartitionId, ReplicaId } from '../common/ids.js';
import type { ConfState, Entry } from '../common/log-types.js';
import { changedMembership, decodePlaced, isRemoved, type ReplicaMember } from '../common/membership.js';
import { decodeConfChange } from '../raft/conf-codec.js';
import type { RawNode } from '../raft/raw-node.js';
import type { PartitionStore } from '../store/types.js';
import type { ReplicaHost } from './types.js';

const noBytes = new Uint8Array(0);

/** Majorities of both halves of a configuration. */
export function isQuorumAlive(
  { voters, votersOutgoing }: Pick<ConfState, 'voters' | 'votersOutgoing'>,
  isAlive: (id: ReplicaId) => boolean,
): boolean {
  const half = (ids: readonly ReplicaId[]): boolean =>
    ids.length === 0 || ids.filter(isAlive).length * 2 > ids.length;
  return voters.length > 0 && half(voters) && half(votersOutgoing);
}

export class ReplicaMembers {
  readonly #partition: PartitionId;
  readonly #replicaId: ReplicaId;
  readonly #store: PartitionStore;
  readonly #host: Pick<ReplicaHost, 'rank' | 'logger'>;
  /** Where replicas are whose coming this one has not applied yet; ids are never used twice, so it never changes. */
  readonly #heard = new Map<ReplicaId, NodeId>();
  #all: readonly ReplicaMember[] = [];
  #voters: readonly ReplicaMember[] = [];
  #changedAt: Index;

  constructor(
    partition: PartitionId,
    replicaId: ReplicaId,
    store: PartitionStore,
    host: Pick<ReplicaHost, 'rank' | 'logger'>,
  ) {
    this.#partition = partition;
    this.#replicaId = replicaId;
    this.#store = store;
    this.#host = host;
    this.#changedAt = store.appliedIndex;
    this.#place();
  }

  /** In the order in which they should lead; learners too. */
  get all(): readonly ReplicaMember[] {
    return this.#all;
  }

  /** Those that vote, in either half of a joint configuration; in the same order. */
  get voters(): readonly ReplicaMember[] {
    return this.#voters;
  }

  get conf(): ConfState {
    return this.#store.confState;
  }

  /** Where the last change of members was applied, or later. */
  get changedAt(): Index {
    return this.#changedAt;
  }

  /** Of this replica. */
  get isLearner(): boolean {
    return this.conf.learners.includes(this.#replicaId);
  }

  /** May lead now and after a change that is under way. */
  isHeir(replicaId: ReplicaId): boolean {
    return this.conf.voters.includes(replicaId);
  }

  nodeOf(replicaId: ReplicaId): NodeId | undefined {
    const members = this.#all;
    for (let i = 0; i < members.length; i++) {
      const member = members[i] as ReplicaMember;
      if (member.replicaId === replicaId) return member.nodeId;
    }
    return this.#heard.get(replicaId);
  }

  /** Have both halves of the configuration a majority of nodes of which this is true? */
  hasQuorum(isAlive: (node: NodeId) => boolean): boolean {
    return isQuorumAlive(this.conf, (id) => {
      const node = this.nodeOf(id);
      return node !== undefined && isAlive(node);
    });
  }

  /**
   * Is what replica `from` says, on `node`, to be believed? One that this replica
   * has not heard of may be new: it lags itself. One that was removed is not
   * heard: it may not know it, and must not disturb.
   */
  hears(from: ReplicaId, node: NodeId): boolean {
    const known = this.nodeOf(from);
    if (known !== undefined) return known === node;
    if (isRemoved(this.#store.membership, from)) return false;
    this.#heard.set(from, node);
    return true;
  }

  /** Told by who made this replica: to whom its answers go. */
  learnPlaces(members: readonly ReplicaMember[]): void {
    for (const { replicaId, nodeId } of members) this.#heard.set(replicaId, nodeId);
  }

  /** In the change's own entry. False: it was passed over, alike on all replicas, as all that it depends on is. */
  apply(entry: Entry, raft: Pick<RawNode, 'changeOutcome' | 'applyConfChange'>): boolean {
    const change = decodeConfChange(entry.data ?? noBytes);
    const placed = decodePlaced(change.context);
    const outcome = raft.changeOutcome(change);
    const membership =
      placed === undefined || typeof outcome === 'string'
        ? undefined
        : changedMembership(this.#store.membership, outcome, placed);
    if (membership === undefined) {
      // Its proposer should have known better.
      const problem = typeof outcome === 'string' ? outcome : 'a replica that is nowhere';
      this.#host.logger.error(
        { partition: this.#partition, index: entry.index, problem },
        'a change of members was not applied',
      );
      return false;
    }
    this.#store.setConfState(raft.applyConfChange(change), membership);
    this.replaced(entry.index);
    return true;
  }

  /** The store has others as of `index`: by a change, or by a snapshot. */
  replaced(index: Index): void {
    this.#changedAt = index;
    this.#place();
  }

  #place(): void {
    const { membership, confState } = this.#store;
    this.#all = this.#host.rank(this.#partition, membership.members);
    this.#voters = this.#all.filter(
      ({ replicaId }) => confState.voters.includes(replicaId) || confState.votersOutgoing.includes(replicaId),
    );
    for (const { replicaId } of membership.members) this.#heard.delete(replicaId);
  }
}
