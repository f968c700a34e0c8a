/** The node as api/ and cli/ see it: partitions to propose to and read from, and where their leaders are. */
import type { NodeId, PartitionId, ReplicaId, Seq, Term, TimeUs } from '../common/ids.js';
import type { CommandAnswer } from '../conversation/types.js';
import type { Proposal } from '../partition/proposals.js';
import type { ReadBarrierLevel } from '../partition/reads.js';
import type { PartitionReader } from '../store/types.js';
import type { ChangeReplicasOptions, ChangeReplicasResult, ReplicaChange } from './change-replicas.js';
import type { ToldFault } from './peer-codec.js';
import type { Scrubber } from './scrubber.js';

export interface NodeService {
  readonly identity: NodeIdentity;
  /** Microseconds, for stamps that clients see. */
  nowUs(): TimeUs;
  monotonicMs(): number;
  /** The commit time that a proposal gets now, where this node leads: by it deadlines of what is replicated are judged. */
  commitNowUs(partition: PartitionId): TimeUs;
  partitionOf(tenant: string, channel: string): PartitionId;
  readonly partitionCount: number;
  cluster(): ClusterView;
  /** Damaged replicas: this node's, and the others' as they told. */
  faults(): readonly NodeFault[];
  /** Partitions that can elect no leader: damage is on a majority of their replicas. */
  refusals(): readonly Refusal[];
  /** Who leads, as this node knows it; undefined: nobody known. */
  leaderOf(partition: PartitionId): NodeId | undefined;
  addressOf(node: NodeId): string | undefined;
  readonly isDraining: boolean;
  /** `listener` is called when the node begins to drain. */
  onDrain(listener: () => void): void;
  readonly scrubber: Pick<Scrubber, 'status' | 'scrubNow'>;
  /**
   * Changes members of a partition that this node leads, and waits until that is in
   * force. Asking again for what is done already is fine. Rejects NOT_LEADER,
   * MEMBERSHIP_BUSY, WOULD_LOSE_QUORUM, LEARNER_LAGS and the like where nothing was
   * changed; COMMIT_UNKNOWN, DEADLINE_EXCEEDED where that is not known.
   */
  changeReplicas(
    partition: PartitionId,
    changes: readonly ReplicaChange[],
    options: ChangeReplicasOptions,
  ): Promise<ChangeReplicasResult>;
  /** How far each replica is, as this node knows; its leader knows most. */
  partitionDetail(partition: PartitionId): PartitionDetail;
  /**
   * Proposes a command (conversation/command.ts) to this node's replica, which
   * must lead. Resolves once applied here. Ends exactly once:
   * rejects NOT_LEADER, NO_QUORUM, OVERLOADED, SHUTTING_DOWN where nothing was
   * proposed (or it surely never applies), COMMIT_UNKNOWN or DEADLINE_EXCEEDED
   * where the outcome is unknown. `producer`: appends of one producer that
   * overtook one another on the way wait shortly for their turn.
   */
  propose(partition: PartitionId, command: Uint8Array, options: ProposeOptions): Promise<ProposeResult>;
  /**
   * The same without promises, for what comes most often. The proposal may end before
   * this returns; its deadline has not passed yet.
   */
  submit(partition: PartitionId, proposal: Proposal): void;
  /**
   * Waits until this node's replica may answer a read. `minIndex`: from commit
   * tokens. Rejects NO_QUORUM, DEADLINE_EXCEEDED.
   */
  readBarrier(partition: PartitionId, options: ReadBarrierOptions): Promise<ReadView>;
  /**
   * Has `listener` called whenever this node's replica has changed the channel
   * of that name, or made it; it may only take a note, and read in a later turn.
   * Gives what ends the watch. Throws NOT_LEADER where no replica is here.
   */
  watchChannel(partition: PartitionId, tenant: string, channel: string, listener: () => void): () => void;
  /** The same for whatever changes in a partition; without a channel anything may have. */
  watchPartition(partition: PartitionId, listener: (tenant?: string, channel?: string) => void): () => void;
  /**
   * Has another node handle a unary call of the API: `method` is the full name,
   * request and response are encoded. Rejects with the other node's HansardError.
   */
  forward(to: NodeId, method: string, request: Uint8Array, deadlineMs: number): Promise<Uint8Array>;
  /** api/ registers what answers forwarded calls. */
  onForward(handler: (method: string, request: Uint8Array, deadlineMs: number) => Promise<Uint8Array>): void;
}

export interface NodeIdentity {
  readonly clusterId: string;
  readonly incarnation: number;
  readonly nodeId: NodeId;
  readonly storeId: string;
  /** A number of this process's own; fences messages of an earlier life. */
  readonly bootId: string;
  readonly version: string;
}

/** A replica whose disk lost or changed something; `why` where it is the answering node's own. */
export interface NodeFault extends ToldFault {
  readonly nodeId: NodeId;
  readonly why?: string;
}

/** A partition that can elect no leader, and what this node knows of what may be lost there. */
export interface Refusal {
  readonly partition: PartitionId;
  readonly damagedNodes: readonly NodeId[];
  /** Events behind `knownSeq` may be lost. Of up to 100 channels; empty where this node has no sound state. */
  readonly channels: readonly { readonly tenant: string; readonly channel: string; readonly knownSeq: Seq }[];
  readonly moreChannels: boolean;
  /** All of it for people. */
  readonly text: string;
}

export interface SnapshotStats {
  /** What may leave a second now; less than is set where appends would wait. */
  readonly bytesPerSecond: number;
  readonly sent: number;
  readonly sentBytes: number;
  /** Now. */
  readonly sending: number;
  readonly received: number;
  readonly receivedBytes: number;
  readonly receiving: number;
}

export interface ProposeOptions {
  /** On the node's monotonic clock. */
  readonly deadlineMs: number;
  readonly producer?:
    | { readonly id: number; readonly firstCounter: number; readonly count: number }
    | undefined;
}

export interface ProposeResult {
  readonly answer: CommandAnswer;
  /** The entry's index and term: what a commit token names. */
  readonly index: number;
  readonly term: Term;
}

export interface ReadBarrierOptions {
  readonly level: ReadBarrierLevel;
  readonly minIndex: number;
  readonly deadlineMs: number;
  /** For 'bounded': how old the state may be when this is asked, by this node's monotonic clock. */
  readonly maxStalenessMs?: number | undefined;
}

export interface ReadView {
  readonly reader: PartitionReader;
  /** As it is now: at or above that of the barrier and of all that was read up to here. */
  readonly appliedIndex: number;
  readonly role: 'primary' | 'secondary' | 'learner';
  /** How far behind the state is at most; undefined: not known. */
  readonly stalenessMs?: number | undefined;
}

export interface ClusterView {
  readonly nodes: readonly {
    nodeId: NodeId;
    clientAddress: string;
    peerAddress: string;
    connected: boolean;
    storeId: string;
    /** The newest apply version that it can carry out; 0: it has not told. */
    applyVersion: number;
    /** Its disk has less room than its reserve. */
    diskFull: boolean;
  }[];
  readonly replicationFactor: number;
  readonly partitionMapVersion: number;
  readonly partitions: readonly PartitionView[];
}

export interface PartitionView {
  readonly partition: PartitionId;
  readonly leader: NodeId | undefined;
  readonly term: Term;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  /** That its entries are applied with, as this node's replica has it; 0: none here. */
  readonly applyVersion: number;
  readonly replicas: readonly { replicaId: ReplicaId; nodeId: NodeId; learner: boolean }[];
}

/** In a joint configuration: 'incoming' votes in the new half alone, 'outgoing' in the old one alone. */
export type ReplicaRole = 'voter' | 'learner' | 'incoming' | 'outgoing';

export interface PartitionDetail extends Omit<PartitionView, 'replicas'> {
  /** Otherwise nobody's progress is known, and members may have changed since. */
  readonly toldByLeader: boolean;
  readonly isJoint: boolean;
  /** Changes of members since the cluster was made. */
  readonly changes: number;
  readonly replicas: readonly {
    readonly replicaId: ReplicaId;
    readonly nodeId: NodeId;
    readonly role: ReplicaRole;
    /** The answering node can reach its node. */
    readonly connected: boolean;
    /** Entries up to here are known to be there; 0 where this is not the leader's answer. */
    readonly matchIndex: number;
    /** As a learner it may get a vote. */
    readonly caughtUp: boolean;
  }[];
}
