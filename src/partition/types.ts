/** What a replica needs of the node that runs it. */
import type { Clock } from '../common/env.js';
import type { HansardError } from '../common/errors.js';
import type { LogPlace } from '../common/faults.js';
import type { PartitionId, TimeUs } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import type { ReplicaMember } from '../common/membership.js';
import type { Config, Message } from '../raft/types.js';
import type { GroupWrite } from '../wal/types.js';
import type { StagedSnapshot } from './install-gate.js';
import type { Replica } from './replica.js';

export interface ReplicaHost {
  readonly clock: Clock;
  /** The wall clock as far as it is trusted: never far off a majority's (node/clock-watch.ts). */
  trustedUs(): TimeUs;
  readonly logger: Logger;
  /** Uniform in [0, n). */
  random(n: number): number;
  /** Has `collect` called in this turn's loop. */
  stir(replica: Replica): void;
  /** It is not quiescent any more. */
  woke(replica: Replica): void;
  /** Has it called when the replica may make an entry of what was proposed. */
  proposes(replica: Replica): void;
  /** Reads of a leader wait for proof that it still leads: has `beginShared` called soon (node/read-rounds.ts). */
  wantReadRound(replica: Replica): void;
  /** Ticks until the leaders of this node beat: together, so that what they say to a peer is one frame. */
  ticksToBeat(): number;
  /** Has `tellCommit` called in a moment. */
  noteCommit(replica: Replica): void;
  /** Role or leader changed. */
  leadershipChanged(replica: Replica): void;
  /** In the order in which they should lead, the same everywhere. */
  rank(partition: PartitionId, members: readonly ReplicaMember[]): readonly ReplicaMember[];
  /** A change of members was applied, or a snapshot brought one; in the midst of a turn: it may only take a note. */
  membersChanged(replica: Replica): void;
  /** Somebody needs a snapshot, and what is sealed won't do. */
  wantCheckpoint(partition: PartitionId): void;
  /** Bytes of proposals that are not applied yet, over all partitions. */
  readonly budget: ProposalBudget;
  readonly elections: ElectionCounts;
  readonly decodedAhead: DecodedAhead;
  /** False while tails are full: nothing more is admitted or applied until a checkpoint has resolved. */
  tailHasRoom(): boolean;
  /** Applying met damage: the state is not to be used from here on. */
  stateDamaged(replica: Replica, error: HansardError): void;
  /** All rows of a snapshot are there for a replica whose state is set aside: it is closed, gets them, and is opened anew. */
  mendState(replica: Replica, staged: StagedSnapshot): void;
  /** The log has all again that this replica may ever have acknowledged. */
  caughtUpWithFloor(replica: Replica): void;
  /** The process can't go on: a broken invariant, a failed write. */
  fatal(error: unknown): void;
}

/** How a replica that fails design rule 5 is held back; docs/internals.md, "Damage". */
export interface HeldBack {
  /** Its state is set aside: it votes and appends, neither applies nor serves. */
  readonly state: boolean;
  /** Its log lost entries: nothing above this place was ever acknowledged. It votes for who has as much, and does not stand. */
  readonly floor?: LogPlace | undefined;
  /** Its term or vote may be lost: it says nothing. */
  readonly mute: boolean;
}

/** Since the start: how often replicas of this node stood for election, by what made them. */
export interface ElectionCounts {
  /** The leader was silent for an election timeout. */
  silence: number;
  /** The leader's process was gone, or nobody led. */
  gone: number;
  /** The leader handed over. */
  handover: number;
}

export interface ProposalBudget {
  usedBytes: number;
  /** How many there are, in entries or waiting for one. */
  proposals: number;
  readonly limitBytes: number;
}

/** Bytes of entries that are decoded and wait for their turn, of all partitions of a node. */
export interface DecodedAhead {
  bytes: number;
}

/** What a turn of all stirred replicas produced; the node carries it out as one. */
export interface TurnOutput {
  /** To other nodes, at once. */
  send(replica: Replica, message: Message): void;
  /** Into this turn's batch of the log; `durable` of the replica is called once it is synced, in the order of these calls. */
  persist(replica: Replica, write: GroupWrite): void;
  /**
   * May the replica turn what was proposed into an entry now? False: it gathers
   * until this node's last entries are synced, under load also committed; then the replica is stirred.
   */
  mayPropose(replica: Replica): boolean;
  /** As leader: all that this replica has proposed is committed. */
  allCommitted(): void;
  /** It has committed entries: `applyCommitted` of the replica is called once what this turn says and writes is on its way. */
  applies(replica: Replica): void;
}

/** What a judge of the core asks for: to be told, rules off that its specification does not know, limits as small as can be. */
export type RaftJudging = Pick<
  Config,
  'tracer' | 'preVote' | 'checkQuorum' | 'maxSizePerMsg' | 'maxInflightMsgs'
>;

export interface ReplicaSettings {
  readonly partition: PartitionId;
  readonly electionTicks: number;
  readonly heartbeatTicks: number;
  /** One entry's payload, unless one command is larger. */
  readonly entryBytes: number;
  /** Proposals of this partition that are not applied yet. */
  readonly uncommittedBytes: number;
  /** Entries' data in one message to a follower. */
  readonly messageBytes: number;
  /** Messages, and bytes of entries, in flight to one follower. */
  readonly inflightMessages: number;
  readonly inflightBytes: number;
  /** Applied per turn of the loop: about 3 ms of work. */
  readonly applySliceBytes: number;
  /** How long an append that overtook its predecessor waits for it. */
  readonly producerHoldMs: number;
  /** After losing leadership: how long a proposal may still learn its outcome. */
  readonly outcomeGraceMs: number;
  /** A read round without answer is asked again. */
  readonly readRetryMs: number;
}

export const replicaDefaults = Object.freeze({
  electionTicks: 20,
  heartbeatTicks: 2,
  entryBytes: 1024 * 1024,
  uncommittedBytes: 16 * 1024 * 1024,
  messageBytes: 1024 * 1024,
  inflightMessages: 128,
  // A follower with a slow disk holds this much of every partition.
  inflightBytes: 4 * 1024 * 1024,
  applySliceBytes: 256 * 1024,
  producerHoldMs: 200,
  outcomeGraceMs: 500,
  readRetryMs: 250,
});

/** Commit indexes that come without entries wait for one to two of these: longer than entries in a row are apart, shorter than anyone notices. */
export const commitNotePeriodMs = 4;
