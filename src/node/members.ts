/**
 * Replicas that come to this node and go from it, and what is known of those
 * elsewhere. A replica is made before it becomes a member, by the leader that is
 * about to add it: empty, without a configuration, so that it neither votes nor
 * stands until a snapshot tells it who it is. It goes when a leader says that it
 * was removed, and that all members know: until then it stays, no member any more
 * but a voter when asked. For a member that has the removal in its log and does not
 * know that it is committed needs, if the leader dies, votes of the former members.
 */
import { ByteReader, ByteWriter } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import type { NodeId, PartitionId, ReplicaId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import {
  firstIdIfZero,
  isRemoved,
  type Membership,
  readMembership,
  writeMembership,
} from '../common/membership.js';
import type { Replica } from '../partition/replica.js';
import type { Store } from '../store/types.js';
import type { Wal } from '../wal/types.js';
import type { Places } from './peer-codec.js';

/** Asked of the node that is to hold a new replica, by a leader. */
export const createReplicaMethod = 'hansard.internal.v1/CreateReplica';

export interface CreateReplica {
  readonly partition: PartitionId;
  readonly replicaId: ReplicaId;
  /** As the leader has applied it; `replicaId` is its next one. */
  readonly membership: Membership;
}

export interface MembersContext {
  readonly nodeId: NodeId;
  readonly partitionCount: number;
  readonly store: Store;
  readonly wal: Wal;
  readonly logger: Logger;
  nowMs(): number;
  /** The replica that is open here. */
  replica(partition: PartitionId): Replica | undefined;
  /** Store and log have it: it takes part from now on. */
  open(partition: PartitionId, replicaId: ReplicaId): Replica;
  /** It takes part no more; nothing is written for it from here on. */
  close(replica: Replica): void;
  /** A member that should be here, and of which nothing is. */
  lost(partition: PartitionId, replicaId: ReplicaId): void;
  /** The replica is to go: outside of the database that is noted, too. Durable when it resolves. */
  going(partition: PartitionId, replicaId: ReplicaId): Promise<void>;
  /** The replica's removal is on record. Durable when it resolves. */
  gone(partition: PartitionId, replicaId: ReplicaId): Promise<void>;
  fatal(error: unknown): void;
}

/** From the first word that all members have a removal in their logs: heartbeats have told them by then that it is committed. */
const settleMs = 500;

const requestVersion = 1;

export function encodeCreateReplica({ partition, replicaId, membership }: CreateReplica): Uint8Array {
  const writer = new ByteWriter(64).u8(requestVersion).uvarint(partition).uvarint(replicaId);
  writeMembership(writer, membership);
  return writer.finish();
}

/** Throws MalformedError, or HansardError of a version that this node does not know. */
export function decodeCreateReplica(bytes: Uint8Array): CreateReplica {
  const reader = new ByteReader(bytes);
  const version = reader.u8();
  if (version !== requestVersion)
    throw new HansardError('NOT_IMPLEMENTED', `a request of version ${version} for a replica`);
  const request = {
    partition: reader.uvarint(),
    replicaId: reader.uvarint(),
    membership: readMembership(reader),
  };
  reader.end();
  return request;
}

export class Members {
  readonly #context: MembersContext;
  /** What leaders told of partitions whose members have changed; the newest of each. */
  readonly #told = new Map<PartitionId, Places>();
  /** By partition: what changes here, one after the other. */
  /** Since when a leader says that the removal of the replica here is settled. */
  readonly #settledSince = new Map<Replica, number>();
  readonly #work = new Map<PartitionId, Promise<void>>();
  #stopped = false;

  constructor(context: MembersContext) {
    this.#context = context;
  }

  /** Of a partition whose members have changed; undefined: nobody told. */
  told(partition: PartitionId): Places | undefined {
    return this.#told.get(partition);
  }

  /** A leader's table of a partition. */
  hear(partition: PartitionId, places: Places): void {
    const known = this.#told.get(partition);
    if (known === undefined || known.changes < places.changes) this.#told.set(partition, places);
    const replica = this.#context.replica(partition);
    if (replica !== undefined) this.#retireIfRemoved(replica, places);
    this.#lookForLost(partition, places, replica?.replicaId ?? 0);
  }

  /** A replica is durable on its node before it becomes a member. One that is later than all that was here ever is lost. */
  #lookForLost(partition: PartitionId, { members }: Places, open: ReplicaId): void {
    const { nodeId, store } = this.#context;
    const named = members.find((member) => member.nodeId === nodeId);
    if (named === undefined || named.replicaId <= open) return;
    const latest = store.hosted().find((one) => one.partition === partition);
    if (latest === undefined || named.replicaId > firstIdIfZero(latest.replicaId, nodeId))
      this.#context.lost(partition, named.replicaId);
  }

  /** Behind whatever else changes about the partition's replica here. */
  queued(partition: PartitionId, job: () => Promise<void>): Promise<void> {
    return this.#after(partition, job);
  }

  /** Durable when it resolves. Asked again for the same one, it is there already. */
  create(request: CreateReplica): Promise<void> {
    const { partition } = request;
    if (partition >= this.#context.partitionCount)
      throw new HansardError('INVALID_ARGUMENT', `there is no partition ${partition}`, { partition });
    return this.#after(partition, () => this.#create(request));
  }

  /** Resolves when nothing is under way any more; nothing begins from here on. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.allSettled([...this.#work.values()]);
  }

  // ---- how one goes

  /**
   * Removal is for ever, so also an old table proves it. A replica that was made and
   * never added is one whose id another got, or nobody ever will.
   */
  #retireIfRemoved(replica: Replica, places: Places): void {
    const { replicaId } = replica;
    const place = places.members.find((member) => member.replicaId === replicaId);
    const isElsewhere = place !== undefined && place.nodeId !== this.#context.nodeId;
    if (!isElsewhere && !isRemoved(places, replicaId)) return;
    // What was never a member, or lost its vote, has none that anybody counts.
    if (!replica.isInitialised || replica.isMute) return this.#retire(replica);
    if (!places.settled) return;
    const now = this.#context.nowMs();
    const since = this.#settledSince.get(replica) ?? now;
    this.#settledSince.set(replica, since);
    if (now - since >= settleMs) this.#retire(replica);
  }

  #retire(replica: Replica): void {
    const { partition, replicaId, log } = replica;
    const { store, logger } = this.#context;
    logger.info({ partition, replicaId }, 'this replica was removed');
    this.#settledSince.delete(replica);
    this.#context.close(replica);
    this.#after(partition, async () => {
      // First: a database that is made anew in between must not bring it back.
      await this.#context.going(partition, replicaId);
      await store.dropPartition(partition, replicaId);
      // Its segments may go, too.
      if (log.lastIndex() >= log.firstIndex())
        log.reset(log.lastIndex(), log.term(log.lastIndex()) as number);
      await this.#logWritten();
      await this.#context.gone(partition, replicaId);
      logger.info({ partition, replicaId }, "the removed replica's data is marked for deletion");
    }).catch((error: unknown) => {
      if (!this.#stopped) this.#context.fatal(error);
    });
  }

  // ---- how one comes

  async #create({ partition, replicaId, membership }: CreateReplica): Promise<void> {
    const { store, wal, logger } = this.#context;
    const held = this.#context.replica(partition);
    if (held?.replicaId === replicaId) {
      held.membership.learnPlaces(membership.members);
      return;
    }
    if (held !== undefined) {
      const problem = `node ${this.#context.nodeId} still holds replica ${held.replicaId} of it`;
      // Made for a change that came to nothing, with an id that the leader has not given out yet: that gossip would
      // never end it. It is as good as a new one.
      if (!held.isInitialised && held.replicaId >= membership.nextReplicaId)
        throw this.#busy(partition, problem, held.replicaId);
      // The leader's gossip ends the one that is no member; it asks again.
      throw this.#busy(partition, problem);
    }
    const last = store.hosted().find((one) => one.partition === partition);
    // Closed a moment ago; what ends it in the store stands behind this in the queue.
    if (last?.removed === false)
      throw this.#busy(
        partition,
        `replica ${last.replicaId} of it is going from node ${this.#context.nodeId}`,
      );
    if (last !== undefined && last.replicaId >= replicaId)
      throw this.#busy(partition, `replica ${last.replicaId} was here, ${replicaId} is no later one`);
    await store.addPartition(partition, replicaId).catch((error: unknown) => {
      // A failed write ends the process, whoever asked for it.
      if (!this.#stopped) this.#context.fatal(error);
      throw error;
    });
    await this.#logWritten();
    if (this.#stopped) return;
    wal.addGroup(partition, replicaId);
    const replica = this.#context.open(partition, replicaId);
    replica.membership.learnPlaces(membership.members);
    logger.info({ partition, replicaId }, 'a new replica is here, empty yet');
  }

  /** `unused`: an empty replica here, which the leader may take instead. */
  #busy(partition: PartitionId, problem: string, unused?: ReplicaId): HansardError {
    return new HansardError(
      'MEMBERSHIP_BUSY',
      `partition ${partition}: ${problem}`,
      unused === undefined ? { partition } : { partition, unused },
      { retryDelayMs: 200 },
    );
  }

  /** All that was queued for the log so far is synced. */
  #logWritten(): Promise<void> {
    return new Promise((resolve) => this.#context.wal.write([], resolve));
  }

  #after(partition: PartitionId, job: () => Promise<void>): Promise<void> {
    const before = this.#work.get(partition) ?? Promise.resolve();
    const work = before.then(() => {
      if (this.#stopped) throw new HansardError('SHUTTING_DOWN', 'the node is stopping');
      return job();
    });
    const settled = work.then(
      () => undefined,
      () => undefined,
    );
    this.#work.set(partition, settled);
    settled
      .then(() => {
        if (this.#work.get(partition) === settled) this.#work.delete(partition);
      })
      .catch(() => undefined);
    return work;
  }
}
