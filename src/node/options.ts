/** Everything that a node is given. Defaults with unit and reason; settings.ts reads them from file, environment and flags. */
import type { Clock, Random } from '../common/env.js';
import type { NodeId, PartitionId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import { type RaftJudging, replicaDefaults } from '../partition/types.js';
import type { Store } from '../store/types.js';
import type { Transport } from '../transport/types.js';
import type { Wal } from '../wal/types.js';
import type { Space } from './disk-space.js';
import type { FaultLedger } from './fault-ledger.js';
import type { LoopMeters } from './loop-load.js';
import type { Leaders } from './placement.js';
import type { ScrubFiles } from './scrub-files.js';
import type { NodeIdentity } from './types.js';

export interface NodeSettings {
  /** One tick of every replica's clock. A busy loop delays heartbeats by tens of ms, so not shorter. */
  tickMs: number;
  /** Silence of a leader before an election; a multiple of the tick, at least ten heartbeats would be 2 s: five are enough on a LAN. */
  electionTimeoutMs: number;
  heartbeatMs: number;
  /** A leader with nothing to do for this long falls quiet. */
  quiesceAfterMs: number;
  /** A write of the log that takes this long: leaderships go to other nodes. */
  diskSlowMs: number;
  /** Ticks made up for after a stall; more would elect in panic. */
  maxTicksPerTurn: number;
  /** One entry's payload. */
  entryBytes: number;
  uncommittedBytesPerPartition: number;
  uncommittedBytesPerNode: number;
  /** Applied events in memory, all partitions; admission and applying stop above it. */
  tailBytes: number;
  /** A partition's unsealed changes wait at most this long for their checkpoint. */
  checkpointAgeMs: number;
  /** Unsealed bytes over all partitions at which the fullest are sealed. */
  checkpointBytes: number;
  /**
   * Size of the log, bytes of all segments, up to which it is kept for a follower
   * that is behind; beyond, it gets a snapshot. While it takes that, up to twice as much.
   */
  logBytes: number;
  /** Rows of snapshots to other nodes, bytes a second of the whole node, at most: less where appends would wait (snapshot-pace.ts). */
  snapshotBytesPerSecond: number;
  /** Snapshots that this node sends, and takes in, at a time. */
  snapshotsOut: number;
  snapshotsIn: number;
  /** One chunk: a batch of LevelDB on the other side. */
  snapshotChunkBytes: number;
  /** One stream carries about this much, which bounds what waits in the receiver's memory. */
  snapshotPartBytes: number;
  /** Without a sign of the other side for this long a snapshot is given up. */
  snapshotIdleMs: number;
  /** Step between campaigns of differently ranked followers when a leader's process is gone. */
  campaignStepMs: number;
  campaignJitterMs: number;
  /** Who leads: leader-balance.ts. */
  leaders: Leaders;
  /** Proposals under way, at all nodes together, that fill several leaders' entries as well as one's … */
  deepProposals: number;
  /** … and are taken to come again for so long: bulk loads have pauses. */
  deepForMs: number;
  /** How often a leader looks whether another replica should lead, at least; a half more at most. */
  balanceMs: number;
  producerHoldMs: number;
  /** Leadership is handed over within this time when the node stops. */
  drainMs: number;
  /** Everything is read and compared once in this time; 0: only when asked. */
  scrubPeriodMs: number;
  /** While the scrubber reads; between its steps it waits. */
  scrubBytesPerSecond: number;
}

export const nodeDefaults: Readonly<NodeSettings> = Object.freeze({
  tickMs: 50,
  electionTimeoutMs: 1_000,
  heartbeatMs: 100,
  quiesceAfterMs: 2_000,
  diskSlowMs: 1_500,
  maxTicksPerTurn: 3,
  entryBytes: replicaDefaults.entryBytes,
  uncommittedBytesPerPartition: replicaDefaults.uncommittedBytes,
  uncommittedBytesPerNode: 64 * 1024 * 1024,
  tailBytes: 384 * 1024 * 1024,
  checkpointAgeMs: 30_000,
  checkpointBytes: 32 * 1024 * 1024,
  logBytes: 1024 * 1024 * 1024,
  snapshotBytesPerSecond: 64 * 1024 * 1024,
  snapshotsOut: 2,
  snapshotsIn: 2,
  snapshotChunkBytes: 512 * 1024,
  snapshotPartBytes: 8 * 1024 * 1024,
  snapshotIdleMs: 10_000,
  campaignStepMs: 150,
  campaignJitterMs: 20,
  leaders: 'together',
  deepProposals: 512,
  deepForMs: 60_000,
  balanceMs: 2_000,
  producerHoldMs: replicaDefaults.producerHoldMs,
  drainMs: 2_000,
  scrubPeriodMs: 7 * 24 * 3600_000,
  scrubBytesPerSecond: 16 * 1024 * 1024,
});

export interface MemberAddress {
  readonly nodeId: NodeId;
  readonly peerAddress: string;
  readonly clientAddress: string;
}

export interface NodeOptions {
  readonly identity: NodeIdentity;
  readonly nodes: readonly MemberAddress[];
  readonly partitionCount: number;
  readonly replicationFactor: number;
  readonly settings: NodeSettings;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly wal: Wal;
  readonly store: Store;
  readonly transport: Transport;
  /** Of this process' loop; where undefined it is never busy. */
  readonly loopMeters?: LoopMeters | undefined;
  /** Room on the disk; where undefined there is always enough. */
  readonly space?: Space | undefined;
  /** What is known to be wrong with this node's replicas, durable; undefined: kept in memory alone (tests). */
  readonly faults?: FaultLedger | undefined;
  /** Has the next start move the database aside, and fetch all of it anew; durable when it resolves. */
  readonly giveUpDatabase?: (() => Promise<void>) | undefined;
  /** What the scrubber may read beside log and store; a simulated node has no files. */
  readonly scrubFiles?: ScrubFiles | undefined;
  /** The newest apply version that this build carries out; another one than its own only in tests. */
  readonly applyVersion?: number | undefined;
  /** For tests: how the cores of a partition differ from what a node runs. */
  readonly judging?: ((partition: PartitionId) => RaftJudging | undefined) | undefined;
  /** The process can't go on; called once. */
  readonly onFatal: (error: unknown) => void;
}
