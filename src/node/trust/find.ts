/** What a stopped node's folder holds of each partition, damaged or not: what a choice between replicas rests on. */
import { HansardError } from '../../common/errors.js';
import { type FaultKind, type LogPlace, noPlace } from '../../common/faults.js';
import type { NodeId, PartitionId, ReplicaId, Seq, Term } from '../../common/ids.js';
import type { ConfState } from '../../common/log-types.js';
import { firstIdIfZero, type ReplicaMember } from '../../common/membership.js';
import type { PartitionStore } from '../../store/types.js';
import type { GroupLog } from '../../wal/types.js';
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
  readonly confState: ConfState;
  readonly members: readonly ReplicaMember[];
  /** All below were given out. */
  readonly nextReplicaId: ReplicaId;
  readonly changes: number;
}

/** A channel as a replica has it, at its end. */
export interface FoundChannel {
  readonly tenant: string;
  readonly name: string;
  readonly headSeq: Seq;
  /** Events that should be there and can't be read, or what else is wrong. */
  readonly damage: string;
}

export interface FoundNode {
  readonly dir: string;
  readonly nodeId: NodeId;
  readonly clusterId: string;
  readonly incarnation: number;
  /** All nodes of the cluster. */
  readonly nodes: readonly NodeId[];
  readonly replicas: readonly FoundReplica[];
}

/** Brings the states to their ends on the way. */
export async function findReplicas(folder: OpenFolder): Promise<FoundNode> {
  const { dir, identity } = folder.directory;
  const held = heldBy(folder);
  const lost = votesLostBy(folder, held);
  const replicas: FoundReplica[] = [];
  for (const one of held) replicas.push(await findReplica(folder, one, lost));
  const { nodeId, clusterId, incarnation, members } = identity;
  return { dir, nodeId, clusterId, incarnation, nodes: members.map((member) => member.nodeId), replicas };
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
export function votesLostBy({ store }: OpenFolder, held: readonly Held[]): string {
  for (const { partition, replicaId, log } of held) {
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
  const faults: FoundFault[] = ledger.faults
    .filter((fault) => fault.partition === partition && fault.replicaId >= replicaId)
    .map(({ kind, why, floor }) => ({ kind, why, floor }));
  const add = (kind: FaultKind, why: string): void => {
    if (!faults.some((fault) => fault.kind === kind)) faults.push({ kind, why, floor: noPlace });
  };
  if (lost !== '') add('term-or-vote-lost', lost);
  const sealed = { index: state.sealedIndex, term: state.sealedTerm };
  const last = lastPlaceOf(log);
  let unusable = store.setAsidePartitions().get(partition) ?? gapBeforeLog(log ?? emptyLog, state) ?? '';
  let met = { count: 0, highestId: 0 };
  if (unusable === '' && state.confState.voters.length > 0) {
    try {
      if (log !== undefined) met = await replayRest(state, log);
    } catch (error) {
      if (!(error instanceof HansardError) || error.reason !== 'STORE_DAMAGED') throw error;
      unusable = error.message;
    }
  }
  if (unusable !== '') add('state-damaged', unusable);
  const isUsable = unusable === '' && state.confState.voters.length > 0;
  const { membership } = state;
  return {
    partition,
    nodeId: directory.identity.nodeId,
    replicaId,
    faults,
    term: Math.max(log?.hardState.term ?? 0, last.term, sealed.term),
    sealed,
    last,
    end: isUsable ? { index: state.appliedIndex, term: state.appliedTerm } : undefined,
    confState: state.confState,
    members: membership.members,
    nextReplicaId: Math.max(membership.nextReplicaId, met.highestId + 1, replicaId + 1),
    changes: membership.changes + met.count,
  };
}

function lastPlaceOf(log: GroupLog | undefined): LogPlace {
  if (log === undefined) return noPlace;
  const index = log.lastIndex();
  const term = log.term(index);
  return { index, term: typeof term === 'number' ? term : 0 };
}

const channelsAtOnce = 1_000;
const eventsAtOnce = 1_000;
const eventBytesAtOnce = 4 * 1024 * 1024;

/**
 * The partition's channels as this replica has them; `readsEvents`: every event is read, and
 * those that are damaged are named. Up to `limit`, by name.
 */
export async function findChannels(
  state: PartitionStore,
  limit: number,
  readsEvents: boolean,
): Promise<{ readonly channels: FoundChannel[]; readonly leftOut: boolean }> {
  const channels: FoundChannel[] = [];
  for (let after: Uint8Array | undefined; ; ) {
    const page = await state.scanChannels({ tenant: '', prefix: '', after, limit: channelsAtOnce });
    for (const { key, state: channel, deleted, damage } of page.channels) {
      if (channels.length === limit) return { channels, leftOut: true };
      after = key;
      if (deleted) continue;
      if (channel === undefined) {
        const [tenant = '', name = ''] = key.toString().split('\0');
        channels.push({ tenant, name, headSeq: 0, damage });
        continue;
      }
      const { tenant, name, uid, headSeq } = channel;
      const lost = readsEvents ? await lostEvents(state, { tenant, name, uid }) : [];
      const all = damage === '' ? lost : [damage, ...lost];
      channels.push({ tenant, name, headSeq, damage: all.join('; ') });
    }
    if (page.channels.length < channelsAtOnce) return { channels, leftOut: false };
  }
}

async function lostEvents(
  state: PartitionStore,
  channel: { readonly tenant: string; readonly name: string; readonly uid: string },
): Promise<string[]> {
  const lost: string[] = [];
  for (let fromSeq: Seq = 1; fromSeq > 0; ) {
    const limits = { maxEvents: eventsAtOnce, maxBytes: eventBytesAtOnce };
    const page = await state.scanEvents({ ...channel, fromSeq, ...limits });
    for (const { firstSeq, lastSeq, problem } of page.damages)
      lost.push(`events ${firstSeq} to ${lastSeq}: ${problem}`);
    fromSeq = page.nextSeq;
  }
  return lost;
}
