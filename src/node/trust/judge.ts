/**
 * Which partitions of a stopped cluster can't become whole by themselves, and what each
 * choice of a replica to trust would keep and lose. Pure: it decides on what find.ts read.
 */
import { isAtLeast, type LogPlace, unknownIndex } from '../../common/faults.js';
import type { HostedId, NodeId, PartitionId, ReplicaId, Seq, Term } from '../../common/ids.js';
import { isQuorumAlive } from '../../partition/replica-members.js';
import type { FoundChannel, FoundReplica } from './find.js';

export interface Refused {
  readonly partition: PartitionId;
  /** Whose configuration counts: the newest known. */
  readonly voters: readonly ReplicaId[];
  readonly replicas: readonly FoundReplica[];
  /** Of replicas that no folder is here of. */
  readonly missing: readonly NodeId[];
  /** What keeps it from electing a leader, for people. */
  readonly why: string;
  /** Who could be trusted, best first: the furthest in the log as Raft orders it. */
  readonly candidates: readonly FoundReplica[];
}

/** Undefined: it elects a leader by itself once enough of its nodes run, and mends what is damaged. */
export function judge(partition: PartitionId, all: readonly FoundReplica[]): Refused | undefined {
  const replicas = all.filter((one) => one.partition === partition);
  const newest = replicas.reduce<FoundReplica | undefined>(
    (best, one) => (best === undefined || one.changes > best.changes ? one : best),
    undefined,
  );
  if (newest === undefined) return undefined;
  const { confState } = replicas.find((one) => one.confState.voters.length > 0) ?? newest;
  const conf = newest.confState.voters.length > 0 ? newest.confState : confState;
  const byId = new Map(replicas.map((one) => [one.replicaId, one]));
  const elects = (candidate: FoundReplica): boolean =>
    isSound(candidate) &&
    conf.voters.includes(candidate.replicaId) &&
    isQuorumAlive(conf, (id) => {
      const voter = byId.get(id);
      return voter !== undefined && votesFor(voter, candidate);
    });
  if (replicas.some(elects)) return undefined;
  const ids = [...new Set([...conf.voters, ...conf.votersOutgoing])];
  const missing = ids
    .filter((id) => !byId.has(id))
    .map((id) => newest.members.find((member) => member.replicaId === id)?.nodeId ?? 0);
  const members = new Set([...ids, ...conf.learners, ...conf.learnersNext]);
  const candidates = replicas
    // One that was removed may hold a state of long ago.
    .filter((one) => one.end !== undefined && members.has(one.replicaId))
    .sort((a, b) => (isAtLeast(a.end as LogPlace, b.end as LogPlace) ? -1 : 1));
  const faulty = replicas.filter((one) => one.faults.length > 0);
  const parts = [
    ...faulty.map(({ nodeId, faults }) => `node ${nodeId}: ${faults.map(({ kind }) => kind).join(', ')}`),
    ...(missing.length > 0 ? [`nodes ${missing.join(', ')} are not here`] : []),
  ];
  const why = parts.length > 0 ? parts.join('; ') : 'no replica can win an election';
  return { partition, voters: ids, replicas, missing, why, candidates };
}

const has = (replica: FoundReplica, kind: string): boolean =>
  replica.faults.some((fault) => fault.kind === kind);

function isSound(replica: FoundReplica): boolean {
  if (replica.end === undefined || has(replica, 'state-damaged') || has(replica, 'term-or-vote-lost'))
    return false;
  return floorsOf(replica).every((floor) => isAtLeast(replica.last, floor));
}

function votesFor(voter: FoundReplica, candidate: FoundReplica): boolean {
  if (has(voter, 'term-or-vote-lost')) return false;
  return [voter.last, ...floorsOf(voter)].every((place) => isAtLeast(candidate.last, place));
}

function floorsOf({ faults }: FoundReplica): LogPlace[] {
  return faults.filter(({ kind }) => kind === 'log-damaged').map(({ floor }) => floor);
}

/** Events that the choice gives up and another replica here still has. */
export interface EventsElsewhere {
  readonly tenant: string;
  readonly channel: string;
  readonly firstSeq: Seq;
  readonly lastSeq: Seq;
  /** Who has them. */
  readonly nodes: readonly NodeId[];
}

/** A channel whose deletion the choice does not know. */
export interface ChannelBack {
  readonly tenant: string;
  readonly channel: string;
  /** Where it is deleted. */
  readonly nodes: readonly NodeId[];
}

export interface Loss {
  /** Known, and here: given up by this choice alone. */
  readonly events: readonly EventsElsewhere[];
  /** Deleted channels that would be there again; what was deleted for good also where it would be in the trash again. */
  readonly back: readonly ChannelBack[];
  /** Known to be gone whatever is chosen, or not known: for people. */
  readonly gone: readonly string[];
}

export function lossOf(
  chosen: FoundReplica,
  { replicas, missing }: Refused,
  channels: ReadonlyMap<NodeId, readonly FoundChannel[]>,
): Loss {
  const end = chosen.end as LogPlace;
  const mine = new Map((channels.get(chosen.nodeId) ?? []).map((one) => [keyOf(one), one]));
  const lost = new Map<string, EventsElsewhere>();
  const back = new Map<string, ChannelBack>();
  for (const { nodeId, end: their } of replicas) {
    if (nodeId === chosen.nodeId) continue;
    const isFurther = their !== undefined && !isAtLeast(end, their);
    for (const theirs of channels.get(nodeId) ?? []) {
      const own = mine.get(keyOf(theirs));
      // One that is not further knows no deletion that the chosen one does not know: it was undone since.
      if (isFurther && own !== undefined && deletionOf(theirs) > deletionOf(own)) {
        const { tenant, name: channel } = theirs;
        const nodes = [...(back.get(keyOf(theirs))?.nodes ?? []), nodeId];
        back.set(keyOf(theirs), { tenant, channel, nodes });
      }
      if (theirs.deleted) continue;
      // Deleted behind what the other one has.
      if (own?.deleted === true && !isFurther) continue;
      const head = own === undefined || own.deleted ? 0 : own.headSeq;
      if (theirs.headSeq <= head) continue;
      const before = lost.get(keyOf(theirs));
      lost.set(keyOf(theirs), {
        tenant: theirs.tenant,
        channel: theirs.name,
        firstSeq: head + 1,
        lastSeq: Math.max(before?.lastSeq ?? 0, theirs.headSeq),
        nodes: [...(before?.nodes ?? []), nodeId],
      });
    }
  }
  const gone: string[] = [];
  for (const { nodeId, end: theirs } of replicas)
    if (theirs !== undefined && !isAtLeast(end, theirs))
      gone.push(
        `node ${nodeId} is further: at index ${theirs.index} of term ${theirs.term}; where terms differ, other events may stand at the same seqs`,
      );
  for (const { tenant, channel, firstSeq, lastSeq, problem } of chosen.lostEvents ?? [])
    gone.push(
      `${tenant}/${channel}, events ${firstSeq} to ${lastSeq}: ${problem}; erased ones take their place`,
    );
  for (const replica of replicas) {
    for (const { kind, why, floor } of replica.faults) {
      if (kind === 'log-damaged' && !isAtLeast(end, floor))
        gone.push(goneEntries(replica.nodeId, end, floor));
      if (kind === 'term-or-vote-lost')
        gone.push(
          `what node ${replica.nodeId} had acknowledged behind index ${end.index} is not known (${why})`,
        );
    }
  }
  for (const nodeId of missing)
    gone.push(`what only node ${nodeId} had is not known: its folder is not here`);
  if (lost.size > 0)
    gone.push(
      'messages that lost events had edited, deleted or redacted are there again as they were before',
    );
  return { events: [...lost.values()], back: [...back.values()], gone };
}

function goneEntries(nodeId: NodeId, end: LogPlace, floor: LogPlace): string {
  const to = floor.index === unknownIndex ? 'on' : `to ${floor.index}`;
  return `entries from ${end.index + 1} ${to} (term ${floor.term}) may have been acknowledged by node ${nodeId}, and are damaged there`;
}

/** Not at all, to the trash, for good. */
function deletionOf({ deleted, inTrash }: FoundChannel): number {
  if (deleted) return 2;
  return inTrash ? 1 : 0;
}

const keyOf = ({ tenant, name }: FoundChannel): string => `${tenant}\0${name}`;

/** What the trusted replica begins anew with: above all that was ever given out or voted in. */
export interface FreshStart {
  readonly term: Term;
  readonly nextReplicaId: ReplicaId;
  readonly changes: number;
}

/** `removed`: of all partitions, on any node that was looked at. */
export function freshStart({ partition, replicas }: Refused, removed: readonly HostedId[]): FreshStart {
  const gone = removed.filter((one) => one.partition === partition);
  return {
    term:
      Math.max(...replicas.flatMap(({ term, faults }) => [term, ...faults.map(({ floor }) => floor.term)])) +
      1,
    nextReplicaId: Math.max(
      ...replicas.map(({ nextReplicaId }) => nextReplicaId),
      ...gone.map(({ replicaId }) => replicaId + 1),
    ),
    changes: Math.max(...replicas.map(({ changes, pendingChanges }) => changes + pendingChanges)) + 1,
  };
}
