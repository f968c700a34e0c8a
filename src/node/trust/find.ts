/** What a stopped node's folder holds of each partition, damaged or not: what a choice between replicas rests on. */
import { type FaultKind, type LogPlace, noPlace } from '../../common/faults.js';
import type { HostedId, NodeId, PartitionId, ReplicaId, Seq, Term } from '../../common/ids.js';
import type { ConfState } from '../../common/log-types.js';
import { firstIdIfZero, type ReplicaMember } from '../../common/membership.js';
import type { LostEvents } from '../../store/give-up.js';
import { Pace } from '../../store/pace.js';
import { isStoreDamage } from '../../store/rows.js';
import type { PartitionStore } from '../../store/types.js';
import type { GroupLog } from '../../wal/types.js';
import type { Member } from '../identity-file.js';
import { realClock } from '../real-env.js';
import { emptyLog, gapBeforeLog, isInstallAheadOfLog, lostEnd } from '../state-and-log.js';
import type { OpenFolder } from './open-folder.js';
import { replayRest } from './replay.js';

export interface FoundFault {
  readonly kind: FaultKind;
  readonly why: string;
  /** log-damaged: nothing above was ever acknowledged; its index may be `unknownIndex`. */
  readonly floor: LogPlace;
}

export interface FoundReplica {
  readonly partition: PartitionId;
  readonly nodeId: NodeId;
  readonly replicaId: ReplicaId;
  readonly faults: readonly FoundFault[];
  readonly term: Term;
  /** What its last checkpoint holds. */
  readonly sealed: LogPlace;
  /** Where its log ends, as far as it can be read. */
  readonly last: LogPlace;
  /** Where it would stand if it were trusted; undefined: nothing can go on from its state. */
  readonly end: LogPlace | undefined;
  /** Damaged events of its state, which erased ones would take the place of; undefined: it was not read. */
  readonly lostEvents: readonly LostEvents[] | undefined;
  readonly confState: ConfState;
  readonly members: readonly ReplicaMember[];
  /** All below were given out. */
  readonly nextReplicaId: ReplicaId;
  /** That led to its configuration; all that it knows to be committed. */
  readonly changes: number;
  /** In its log behind that. */
  readonly pendingChanges: number;
}

/** A channel as a replica has it, at its end. */
export interface FoundChannel {
  readonly tenant: string;
  readonly name: string;
  readonly headSeq: Seq;
  /** For good: of its events only the head is kept. */
  readonly deleted: boolean;
  /** Deleted so that it may come back: its events are still here. */
  readonly inTrash: boolean;
}

export interface FoundNode {
  readonly dir: string;
  readonly nodeId: NodeId;
  readonly clusterId: string;
  readonly incarnation: number;
  /** All nodes of the cluster. */
  readonly members: readonly Member[];
  readonly replicas: readonly FoundReplica[];
  /** That were here before; their ids are not given out again. */
  readonly removed: readonly HostedId[];
}

/** Brings the states to their ends on the way. */
export async function findReplicas(folder: OpenFolder): Promise<FoundNode> {
  const { dir, identity } = folder.directory;
  const held = heldBy(folder);
  const lost = votesLostBy(folder, held);
  const replicas: FoundReplica[] = [];
  for (const one of held) replicas.push(await findReplica(folder, one, lost));
  const { nodeId, clusterId, incarnation, members } = identity;
  return { dir, nodeId, clusterId, incarnation, members, replicas, removed: removedFrom(folder) };
}

/** Also what the database forgot again. */
export function removedFrom({ ledger }: OpenFolder): readonly HostedId[] {
  return ledger.record.gone;
}

interface Held {
  readonly partition: PartitionId;
  readonly replicaId: ReplicaId;
  readonly log: GroupLog | undefined;
}

export function heldBy({ directory, store, wal }: OpenFolder): Held[] {
  const { nodeId } = directory.identity;
  return store
    .hosted()
    .filter(({ removed }) => !removed)
    .map(({ partition, replicaId }) => ({
      partition,
      replicaId: firstIdIfZero(replicaId, nodeId),
      log: wal.group(partition),
    }));
}

/** As a start finds it (node.ts): a log that ends before what is sealed takes all partitions' votes with it. Empty: none does. */
export function votesLostBy({ store, ledger }: OpenFolder, held: readonly Held[]): string {
  for (const { partition, replicaId, log } of held) {
    // On record already, with all that it took with it: what was trusted since must not count as lost by it again.
    if ((ledger.of(partition, 'term-or-vote-lost')?.replicaId ?? 0) >= replicaId) continue;
    if (log !== undefined && log.replicaId > replicaId)
      return `the log has replica ${log.replicaId} of partition ${partition}, the database only ${replicaId}`;
    if (store.setAsidePartitions().has(partition)) continue;
    const state = store.partition(partition);
    const group = log === undefined || log.replicaId < replicaId ? emptyLog : log;
    if (isInstallAheadOfLog(group, state)) continue;
    const problem = lostEnd(partition, group, state);
    if (problem !== undefined) return problem;
  }
  return '';
}

async function findReplica(folder: OpenFolder, held: Held, lost: string): Promise<FoundReplica> {
  const { partition, replicaId, log } = held;
  const { store, ledger, directory } = folder;
  const state = store.partition(partition);
  const generation = store.generationOf(partition);
  const known = ledger.faults
    .filter((fault) => fault.partition === partition && fault.replicaId >= replicaId)
    .filter((fault) => fault.kind !== 'state-damaged' || generation <= fault.generation);
  const faults: FoundFault[] = known.map(({ kind, why, floor }) => ({ kind, why, floor }));
  const add = (kind: FaultKind, why: string): void => {
    if (!faults.some((fault) => fault.kind === kind)) faults.push({ kind, why, floor: noPlace });
  };
  if (lost !== '') add('term-or-vote-lost', lost);
  const sealed = { index: state.sealedIndex, term: state.sealedTerm };
  const last = lastPlaceOf(log);
  // A state that is older than the replica that its log belongs to has lost what it came with.
  const isOfLater = log !== undefined && log.replicaId > replicaId;
  let unusable = isOfLater ? lost : '';
  unusable ||= store.setAsidePartitions().get(partition) ?? gapBeforeLog(log ?? emptyLog, state) ?? '';
  let met = { count: 0, highestId: 0 };
  let lostEvents: readonly LostEvents[] | undefined;
  if (unusable === '' && state.confState.voters.length > 0) {
    try {
      // One that is alone is told of its damage by nobody.
      const isSuspect =
        state.confState.voters.length === 1 || faults.some(({ kind }) => kind === 'state-damaged');
      if (isSuspect) lostEvents = await store.findLostEvents(partition, new Pace(realClock, 0));
      if (log !== undefined) met = await replayRest(state, log);
    } catch (error) {
      if (!isStoreDamage(error)) throw error;
      unusable = error.message;
    }
  }
  if (unusable !== '') add('state-damaged', unusable);
  if (lostEvents !== undefined && lostEvents.length > 0) add('state-damaged', lostText(lostEvents));
  const isUsable = unusable === '' && state.confState.voters.length > 0;
  const { membership } = state;
  const ids = [replicaId, met.highestId, ...known.map((fault) => fault.replicaId)];
  return {
    partition,
    nodeId: directory.identity.nodeId,
    replicaId,
    faults,
    term: Math.max(log?.hardState.term ?? 0, last.term, sealed.term),
    sealed,
    last,
    lostEvents,
    end: isUsable ? { index: state.appliedIndex, term: state.appliedTerm } : undefined,
    confState: state.confState,
    members: membership.members,
    nextReplicaId: Math.max(membership.nextReplicaId, ...ids.map((id) => id + 1)),
    changes: membership.changes,
    pendingChanges: met.count,
  };
}

/** The same, with its state read to the last row: before it is offered as one to trust. */
export async function withStateRead({ store }: OpenFolder, replica: FoundReplica): Promise<FoundReplica> {
  if (replica.end === undefined || replica.lostEvents !== undefined) return replica;
  try {
    return { ...replica, lostEvents: await store.findLostEvents(replica.partition, new Pace(realClock, 0)) };
  } catch (error) {
    if (!isStoreDamage(error)) throw error;
    const fault = { kind: 'state-damaged', why: error.message, floor: noPlace } as const;
    return { ...replica, end: undefined, faults: [...replica.faults, fault] };
  }
}

function lostText(lost: readonly LostEvents[]): string {
  const [first] = lost;
  const more = lost.length > 1 ? `, and ${lost.length - 1} more ranges` : '';
  return `${first?.tenant}/${first?.channel}, events ${first?.firstSeq} to ${first?.lastSeq}: ${first?.problem}${more}`;
}

export function lastPlaceOf(log: GroupLog | undefined): LogPlace {
  if (log === undefined) return noPlace;
  const index = log.lastIndex();
  const term = log.term(index);
  return { index, term: typeof term === 'number' ? term : 0 };
}

const channelsAtOnce = 1_000;

/** The partition's channels as this replica has them, up to `limit`, by name. */
export async function findChannels(
  state: PartitionStore,
  limit: number,
): Promise<{ readonly channels: FoundChannel[]; readonly leftOut: boolean }> {
  const channels: FoundChannel[] = [];
  for (let after: Uint8Array | undefined; ; ) {
    const page = await state.scanChannels({ tenant: '', prefix: '', after, limit: channelsAtOnce });
    for (const { key, state: channel, deleted } of page.channels) {
      if (channels.length === limit) return { channels, leftOut: true };
      after = key;
      if (channel === undefined) continue;
      const { tenant, name, headSeq, deletedTimeUs } = channel;
      channels.push({ tenant, name, headSeq, deleted, inTrash: !deleted && deletedTimeUs !== undefined });
    }
    if (page.channels.length < channelsAtOnce) return { channels, leftOut: false };
  }
}
