/**
 * A running node: what api/ needs of its replicas (types.ts), its start and its end.
 * Everything it is given (options.ts) may be real or simulated; its parts are in node-parts.ts.
 */
import type { RecordableHistogram } from 'node:perf_hooks';
import { HansardError } from '../common/errors.js';
import type { NodeId, PartitionId, TimeUs } from '../common/ids.js';
import { partitionOf } from '../common/partitioning.js';
import { end, type Proposal } from '../partition/proposals.js';
import type { Replica } from '../partition/replica.js';
import type { ElectionCounts } from '../partition/types.js';
import { noRoom, takesRoom, tooLarge } from './admission.js';
import type { ChangeReplicasOptions, ChangeReplicasResult, ReplicaChange } from './change-replicas.js';
import type { ForwardHandler } from './forwarding.js';
import { NodeParts } from './node-parts.js';
import type { NodeOptions } from './options.js';
import { LiveView } from './read-view.js';
import type { ReplicaSet } from './replica-set.js';
import type { Scrubber } from './scrubber.js';
import type {
  ClusterView,
  NodeFault,
  NodeIdentity,
  NodeService,
  PartitionDetail,
  ProposeOptions,
  ProposeResult,
  ReadBarrierOptions,
  ReadView,
  Refusal,
  SnapshotStats,
} from './types.js';

export class HansardNode implements NodeService {
  readonly identity: NodeIdentity;
  readonly partitionCount: number;
  readonly #options: NodeOptions;
  readonly #parts: NodeParts;
  readonly #replicas: ReplicaSet;
  readonly #drainListeners: (() => void)[] = [];
  #stopping: Promise<void> | undefined;

  constructor(options: NodeOptions) {
    this.#options = options;
    this.identity = options.identity;
    this.partitionCount = options.partitionCount;
    this.#parts = new NodeParts(options, (partition, proposal) => this.submit(partition, proposal));
    this.#replicas = this.#parts.replicas;
    options.store.onUnfit((error) => this.#parts.repairs.databaseUnfit(error));
    options.store.onDamage((partition, error) => this.#parts.damagedState(partition, error.message));
    this.#replicas.openAll();
  }

  async start(): Promise<void> {
    const parts = this.#parts;
    const { guard, fromPeers } = parts;
    await parts.repairs.start();
    await this.#options.transport.start({
      onMessage: (from, bytes) => fromPeers.receive(from, bytes),
      onUp: (peer) => guard.run(() => fromPeers.peerUp(peer)),
      onDown: (peer, kind, reason) => guard.run(() => fromPeers.peerDown(peer, kind, reason)),
      onFetch: (peer, request, stream) =>
        guard.run(() => parts.snapshotSender.onFetch(peer, request, stream)),
    });
    parts.startReport.begin();
    parts.ticks.start();
    parts.checkpoints.start();
    parts.elections.start();
    parts.scrubber.start();
    parts.stirAll();
  }

  /** Of the entries that were committed when the log was opened; undefined once all of them are applied. */
  get replaying(): { readonly left: number; readonly entries: number } | undefined {
    return this.#parts.startReport.progress;
  }

  /** Hands leadership away, as far as that goes within `drainMs`; new calls are refused from here on. */
  async drain(): Promise<void> {
    const { life, elections, gossiping, handOver } = this.#parts;
    life.isDraining = true;
    for (const listener of this.#drainListeners) listener();
    elections.stop();
    gossiping.tell();
    await handOver.transferAll();
  }

  /** Seals what is in memory where `seal` says so, then releases everything. */
  stop(options: { seal: boolean } = { seal: true }): Promise<void> {
    this.#stopping ??= this.#stop(options.seal);
    return this.#stopping;
  }

  async #stop(seal: boolean): Promise<void> {
    const parts = this.#parts;
    parts.life.isDraining = true;
    parts.elections.stop();
    parts.ticks.stop();
    parts.commitNotes.stop();
    parts.forwarding.stop();
    parts.snapshotSender.stop();
    parts.snapshotReceiver.stop();
    parts.repairs.stop();
    const scrubberEnd = parts.scrubber.stop();
    for (const replica of this.#replicas.held) replica.stop();
    parts.life.isStopped = true;
    const { store, wal, transport } = this.#options;
    try {
      await scrubberEnd;
      await parts.checkpoints.stop();
      await parts.members.stop();
      await transport.stop();
      if (seal && !parts.guard.hasFailed) {
        await store.checkpoint(this.#replicas.held.map((replica) => replica.partition));
      }
    } finally {
      await wal.close().finally(() => store.close());
    }
  }

  /** A part that the node was given has failed: nothing more is done here, and `onFatal` is told. */
  fail(error: unknown): void {
    this.#parts.guard.fail(error);
  }

  // ---- NodeService

  get isDraining(): boolean {
    return this.#parts.life.isDraining;
  }

  onDrain(listener: () => void): void {
    this.#drainListeners.push(listener);
  }

  nowUs(): TimeUs {
    return this.#options.clock.nowUs();
  }

  monotonicMs(): number {
    return this.#options.clock.monotonicMs();
  }

  commitNowUs(partition: PartitionId): TimeUs {
    return this.#replicas.need(partition).commitNowUs();
  }

  partitionOf(tenant: string, channel: string): PartitionId {
    return partitionOf(tenant, channel, this.partitionCount);
  }

  leaderOf(partition: PartitionId): NodeId | undefined {
    return this.#replicas.leaderOf(partition);
  }

  addressOf(node: NodeId): string | undefined {
    return this.#options.nodes.find(({ nodeId }) => nodeId === node)?.clientAddress;
  }

  propose(
    partition: PartitionId,
    command: Uint8Array,
    { deadlineMs, producer }: ProposeOptions,
  ): Promise<ProposeResult> {
    return new Promise((resolve, reject) => {
      if (deadlineMs <= this.monotonicMs()) {
        throw new HansardError('DEADLINE_EXCEEDED', 'the deadline had passed before anything was proposed');
      }
      this.submit(partition, {
        command,
        deadlineMs,
        producerId: producer?.id ?? 0,
        firstCounter: producer?.firstCounter ?? 0,
        count: producer?.count ?? 0,
        ended: false,
        applied: (answer, index, term) => resolve({ answer, index, term }),
        failed: reject,
      });
    });
  }

  submit(partition: PartitionId, proposal: Proposal): void {
    if (this.isDraining) return end(proposal, new HansardError('SHUTTING_DOWN', 'the node is stopping'));
    const replica = this.#replicas.need(partition);
    const { wal, space } = this.#options;
    const excess = tooLarge(proposal.command.length, wal.entryBytesMax);
    if (excess !== undefined) return end(proposal, excess);
    if (takesRoom(proposal.command)) {
      const full = noRoom(replica, this.identity.nodeId, space, this.#parts.hearsay);
      if (full !== undefined) return end(proposal, full);
    }
    replica.submit(proposal);
  }

  async readBarrier(partition: PartitionId, options: ReadBarrierOptions): Promise<ReadView> {
    const replica = this.#replicas.need(partition);
    const { level, minIndex, deadlineMs, maxStalenessMs } = options;
    await replica.readBarrier(level, minIndex, deadlineMs, maxStalenessMs);
    const role = replica.isLeader ? 'primary' : replica.membership.isLearner ? 'learner' : 'secondary';
    return new LiveView(replica.store, role, replica.reads.stalenessMs);
  }

  watchChannel(partition: PartitionId, tenant: string, channel: string, listener: () => void): () => void {
    return this.#replicas.need(partition).store.watch(tenant, channel, listener);
  }

  watchPartition(partition: PartitionId, listener: (tenant?: string, channel?: string) => void): () => void {
    return this.#replicas.need(partition).store.watchAll(listener);
  }

  forward(to: NodeId, method: string, request: Uint8Array, deadlineMs: number): Promise<Uint8Array> {
    return this.#parts.forwarding.forward(to, method, request, deadlineMs);
  }

  onForward(handler: ForwardHandler): void {
    this.#parts.forwarding.onForward(handler);
  }

  cluster(): ClusterView {
    return this.#parts.views.cluster();
  }

  partitionDetail(partition: PartitionId): PartitionDetail {
    return this.#parts.views.partitionDetail(partition);
  }

  async changeReplicas(
    partition: PartitionId,
    changes: readonly ReplicaChange[],
    options: ChangeReplicasOptions,
  ): Promise<ChangeReplicasResult> {
    if (this.isDraining) throw new HansardError('SHUTTING_DOWN', 'the node is stopping');
    return this.#parts.replicaChanges.change(this.#replicas.need(partition), changes, options);
  }

  /** Snapshots sent and taken in by this life, and under way now. */
  snapshotStats(): SnapshotStats {
    const { sent, sentBytes, bytesPerSecond, active: sending } = this.#parts.snapshotSender;
    const { received, receivedBytes, active: receiving } = this.#parts.snapshotReceiver;
    return { bytesPerSecond, sent, sentBytes, sending, received, receivedBytes, receiving };
  }

  /** How far this node's clock is ahead beyond what is tolerated, µs; below 0: behind; 0: neither. */
  get clockAheadUs(): number {
    return this.#parts.clockWatch.offUs();
  }

  /** How often replicas of this node stood for election, in this life. */
  get electionCounts(): Readonly<ElectionCounts> {
    return this.#parts.electionCounts;
  }

  /** Replicas here in whose partitions nothing happens. */
  get quiescentReplicas(): number {
    return this.#parts.quiescence.count;
  }

  /** Share of the last seconds in which the loop had something to do. */
  get loopBusy(): number {
    return this.#parts.load.busy;
  }

  /** How late this node's ticks came since the last `reset`, ns. */
  get loopLag(): RecordableHistogram {
    return this.#parts.ticks.lateNs;
  }

  /** Rounds by which this node's leaders confirmed reads, in this life. */
  get readRounds(): number {
    return this.#parts.readRounds.rounds;
  }

  // ---- damage

  /**
   * Whoever finds that bytes of a partition's state here are not what was written says so:
   * nobody is answered from them any more, and they are replaced from a healthy replica.
   * Resolves when the replica is held back.
   */
  markDamaged(partition: PartitionId, why: string): Promise<void> {
    return this.#parts.repairs.markStateDamaged(partition, why);
  }

  /** Of this node's replicas, with all that is known; those of peers as they told. */
  faults(): readonly NodeFault[] {
    return this.#parts.faults();
  }

  refusals(): readonly Refusal[] {
    return this.#parts.refusals.all();
  }

  /** Damaged replicas of this node that became sound again, in this life. */
  get repaired(): number {
    return this.#parts.repairs.repaired;
  }

  get scrubber(): Scrubber {
    return this.#parts.scrubber;
  }

  /** Replicas of this node, for metrics, tests and the simulator's checks. */
  replicas(): readonly Replica[] {
    return this.#replicas.held;
  }
}
