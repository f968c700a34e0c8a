/**
 * A running node: its replicas, the loop that turns them, and what api/ needs
 * of them. Everything it is given (options.ts) may be real or simulated.
 */

import type { Clock, Timer } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import type { Index, NodeId, PartitionId, TimeUs } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import { firstIdIfZero } from '../common/membership.js';
import { partitionOf } from '../common/partitioning.js';
import { purgeTimeUs } from '../conversation/apply-trash.js';
import { encodeNoop } from '../conversation/command.js';
import { CommitNotes } from '../partition/commit-notes.js';
import { end, type Proposal } from '../partition/proposals.js';
import { Replica } from '../partition/replica.js';
import {
  commitNotePeriodMs,
  type ElectionCounts,
  type ProposalBudget,
  type ReplicaHost,
  replicaDefaults,
} from '../partition/types.js';
import { type Message, MessageType } from '../raft/types.js';
import { noRoom, takesRoom, takesRoomHere, tooLarge } from './admission.js';
import {
  type ChangeReplicasOptions,
  type ChangeReplicasResult,
  type ReplicaChange,
  ReplicaChanges,
} from './change-replicas.js';
import { Checkpoints } from './checkpoints.js';
import { ClockWatch } from './clock-watch.js';
import { ClusterViews } from './cluster-views.js';
import { DiskStall } from './disk-stall.js';
import { Elections } from './elections.js';
import { FaultLedger } from './fault-ledger.js';
import { type ForwardHandler, Forwarding } from './forwarding.js';
import { Guard } from './guard.js';
import { Hearsay } from './hearsay.js';
import { type BeatKind, Heartbeats } from './heartbeats.js';
import { LogSender } from './log-sender.js';
import { createReplicaMethod, decodeCreateReplica, Members } from './members.js';
import type { NodeOptions } from './options.js';
import {
  type Beat,
  decodePeerMessage,
  encodePeerMessage,
  encodeRaftMessage,
  type Gossip,
  type PeerMessage,
  type Places,
  type ReadRoundQuestion,
} from './peer-codec.js';
import { rankMembers } from './placement.js';
import { Quiescence } from './quiescence.js';
import { ReadRounds } from './read-rounds.js';
import { LiveView } from './read-view.js';
import { Refusals } from './refusals.js';
import { repairReplicaMethod } from './repair-codec.js';
import { Repairs } from './repairs.js';
import { createScrubber } from './scrub-wiring.js';
import type { Scrubber } from './scrubber.js';
import { SnapshotReceiver } from './snapshot-receiver.js';
import { SnapshotSender } from './snapshot-sender.js';
import { StartReport } from './start-report.js';
import { emptyLog, gapBeforeLog, isInstallAheadOfLog, lostEnd } from './state-and-log.js';
import { TurnLoop } from './turn-loop.js';
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

/** How often leaders tell what every member has, so that followers may cut their logs, and nodes their clocks. */
const gossipMs = 1_000;

/** Entries that wait for the disk here; above it those of other leaders are dropped, and sent again later. */
const walQueueBytes = 64 * 1024 * 1024;

/** What a peer's replica may say to ours; the rest is for the core's own use, or not built yet. */
const fromPeers: ReadonlySet<MessageType> = new Set([
  MessageType.MsgApp,
  MessageType.MsgAppResp,
  MessageType.MsgSnap,
  MessageType.MsgVote,
  MessageType.MsgVoteResp,
  MessageType.MsgPreVote,
  MessageType.MsgPreVoteResp,
  MessageType.MsgHeartbeat,
  MessageType.MsgHeartbeatResp,
  MessageType.MsgTimeoutNow,
  MessageType.MsgReadIndex,
  MessageType.MsgReadIndexResp,
]);

/** Small, and worth more than what waits; the core takes them in any order with the rest. */
const urgent: ReadonlySet<MessageType> = new Set([
  MessageType.MsgVote,
  MessageType.MsgVoteResp,
  MessageType.MsgPreVote,
  MessageType.MsgPreVoteResp,
  MessageType.MsgTimeoutNow,
  MessageType.MsgReadIndex,
  MessageType.MsgReadIndexResp,
]);

export class HansardNode implements NodeService {
  readonly identity: NodeIdentity;
  readonly partitionCount: number;
  readonly #options: NodeOptions;
  readonly #guard: Guard;
  /** The given one, guarded. */
  readonly #clock: Clock;
  /** By partition; undefined where this node holds no replica. */
  readonly #replicas: (Replica | undefined)[] = [];
  readonly #held: Replica[] = [];
  readonly #loop: TurnLoop;
  readonly #heartbeats = new Heartbeats();
  readonly #readRounds: ReadRounds;
  readonly #quiescence: Quiescence;
  readonly #commitNotes: CommitNotes;
  readonly #logSender: LogSender;
  readonly #forwarding: Forwarding;
  readonly #elections: Elections;
  readonly #checkpoints: Checkpoints;
  readonly #startReport: StartReport;
  readonly #clockWatch: ClockWatch;
  #wasClockAhead = false;
  readonly #stall: DiskStall;
  readonly #snapshotSender: SnapshotSender;
  readonly #snapshotReceiver: SnapshotReceiver;
  readonly #members: Members;
  readonly #replicaChanges: ReplicaChanges;
  readonly #ledger: FaultLedger;
  readonly #repairs: Repairs;
  readonly #refusals: Refusals;
  readonly #scrubber: Scrubber;
  readonly #hearsay: Hearsay;
  readonly #views: ClusterViews;
  #host: ReplicaHost | undefined;
  readonly #budget: ProposalBudget;
  readonly #electionCounts: ElectionCounts = { silence: 0, gone: 0, handover: 0 };
  #tickTimer: Timer | undefined;
  #gossipTimer: Timer | undefined;
  #lastTickMs = 0;
  #ticks = 0;
  readonly #heartbeatTicks: number;
  /** This node's heartbeats leave with the turn, and whatever waited for them. */
  #beatsDue = false;
  /** Messages left in this turn: more go along for nothing. */
  #sentInTurn = false;
  /** Among them entries, or a commit index. */
  #entriesLeave = false;
  #draining = false;
  #stopped = false;
  #stopping: Promise<void> | undefined;

  constructor(options: NodeOptions) {
    this.#options = options;
    this.identity = options.identity;
    this.partitionCount = options.partitionCount;
    const { settings, store, wal, logger } = options;
    this.#guard = new Guard((error) => options.onFatal(error));
    const fatal = this.#guard.fail;
    const clock = this.#guard.clock(options.clock);
    this.#clock = clock;
    this.#heartbeatTicks = Math.max(1, Math.round(settings.heartbeatMs / settings.tickMs));
    this.#budget = { usedBytes: 0, proposals: 0, limitBytes: settings.uncommittedBytesPerNode };
    this.#loop = new TurnLoop(
      clock,
      wal,
      this.#budget,
      (replica, message) => this.#sendRaft(replica, message),
      () => this.#endOfTurn(),
      () => this.#commitsRide(),
    );
    this.#readRounds = new ReadRounds(
      {
        nodeId: this.identity.nodeId,
        monotonicMs: () => clock.monotonicMs(),
        defer: (fn) => clock.defer(fn),
        ask: (peer, question) =>
          this.#isConnected(peer) && this.#sendUrgent(peer, { kind: 'readRound', question }),
        flush: () => options.transport.flush(),
      },
      options.random.u32() * 0x1000,
    );
    this.#quiescence = new Quiescence({
      nodeId: this.identity.nodeId,
      settings,
      replicas: () => this.#held,
      replica: (partition) => this.#replicas[partition],
      isConnected: (peer) => this.#isConnected(peer),
      vouch: (peer, vouchings) => this.#sendNow(peer, { kind: 'vouch', vouchings }),
      answer: (peer, refused) => this.#sendNow(peer, { kind: 'vouchAnswer', refused }),
    });
    this.#commitNotes = new CommitNotes(clock, commitNotePeriodMs);
    this.#logSender = new LogSender({
      send: (replica, to, message) => this.#transmit(replica, to, message),
      isStopped: () => this.#stopped,
      fatal,
    });
    this.#forwarding = new Forwarding({
      clock,
      logger,
      // With one direction open the answer would be lost.
      sendRequest: (to, request) => this.#isConnected(to) && this.#send(to, { kind: 'request', request }),
      sendResponse: (to, response) => this.#send(to, { kind: 'response', response }),
      fatal,
    });
    this.#elections = new Elections({
      nodeId: this.identity.nodeId,
      clock,
      random: options.random,
      settings,
      replicas: () => this.#held,
      isConnected: (node) => this.#isConnected(node),
      mayLead: (node, partition) => this.#mayLead(node, partition),
    });
    this.#checkpoints = new Checkpoints({
      clock,
      settings,
      store,
      wal,
      logger,
      replicas: () => this.#held,
      keptByAll: (replica) => this.#keptBy(replica),
      wantedFrom: (replica) => this.#snapshotSender.wantedFrom(replica.partition),
      roomAgain: () => this.#stirAll(),
      isStarting: () => this.#startReport.isRunning,
      fatal,
    });
    this.#startReport = new StartReport({
      clock,
      logger,
      store,
      replicas: () => this.#held,
      isOver: () => this.#stopped,
      done: () => this.#checkpoints.look(),
    });
    const snapshots = { clock, logger, settings, store, fatal };
    this.#snapshotSender = new SnapshotSender(
      { ...snapshots, replicaFor: (peer, partition) => this.#replicaFor(peer, partition) },
      options.random.u32(),
    );
    this.#snapshotReceiver = new SnapshotReceiver({
      ...snapshots,
      transport: options.transport,
      random: (n) => Math.floor((options.random.u32() / 0x1_0000_0000) * n),
    });
    this.#stall = new DiskStall(wal, settings.diskSlowMs, logger);
    this.#clockWatch = new ClockWatch(this.identity.nodeId, options.nodes.length, clock);
    this.#hearsay = new Hearsay(options.partitionCount);
    this.#views = new ClusterViews({
      options,
      hearsay: this.#hearsay,
      replica: (partition) => this.#replicas[partition],
      leaderOf: (partition) => this.leaderOf(partition),
      isConnected: (node) => this.#isConnected(node),
      told: (partition) => this.#members.told(partition),
    });
    this.#members = new Members({
      nodeId: this.identity.nodeId,
      partitionCount: options.partitionCount,
      store,
      wal,
      logger,
      nowMs: () => clock.monotonicMs(),
      replica: (partition) => this.#replicas[partition],
      open: (partition, replicaId) => this.#openReplica(partition, replicaId),
      close: (replica) => this.#closeReplica(replica),
      lost: (partition, replicaId) => this.#repairs.replicaLost(partition, replicaId),
      gone: (partition, replicaId) => this.#repairs.replicaGone(partition, replicaId),
      fatal,
    });
    this.#forwarding.serve(createReplicaMethod, async (_from, request) => {
      await this.#members.create(decodeCreateReplica(request));
      return new Uint8Array(0);
    });
    this.#replicaChanges = new ReplicaChanges({
      nodeId: this.identity.nodeId,
      clock,
      logger,
      heartbeatMs: settings.heartbeatMs,
      electionTimeoutMs: settings.electionTimeoutMs,
      isNode: (node) => options.nodes.some(({ nodeId }) => nodeId === node),
      isConnected: (node) => this.#isConnected(node),
      mayLead: (node, partition) => this.#mayLead(node, partition),
      ask: async (node, method, request, deadlineMs) => {
        if (node !== this.identity.nodeId) return this.#forwarding.forward(node, method, request, deadlineMs);
        await this.#members.create(decodeCreateReplica(request));
        return new Uint8Array(0);
      },
    });
    this.#ledger = options.faults ?? FaultLedger.inMemory();
    this.#repairs = new Repairs({
      nodeId: this.identity.nodeId,
      replicationFactor: options.replicationFactor,
      clock,
      logger,
      ledger: this.#ledger,
      store,
      wal,
      // 48 of its bits.
      life: Number.parseInt(this.identity.bootId.slice(-12), 16),
      replica: (partition) => this.#replicas[partition],
      leaderOf: (partition) => this.leaderOf(partition),
      isConnected: (node) => this.#isConnected(node),
      ask: (node, method, request, deadlineMs) => this.#forwarding.forward(node, method, request, deadlineMs),
      queued: (partition, job) => this.#members.queued(partition, job),
      close: (replica) => this.#closeReplica(replica),
      open: (partition, replicaId) => {
        if (!this.#stopped) this.#loop.stir(this.#openReplica(partition, replicaId));
      },
      handOver: (replica) => this.#transferAway(replica),
      offered: (replica, from, message) => {
        // As for all that leaders send: it asks again.
        if (this.#options.space?.isCritical !== true) this.#snapshotReceiver.offered(replica, from, message);
      },
      wantCheckpoint: (partition) => this.#checkpoints.want(partition),
      change: (replica, change, deadlineMs) =>
        this.#replicaChanges.change(replica, [change], { deadlineMs, force: false }),
      changed: () => {
        if (!this.#stopped) this.#gossip();
      },
      fatal,
    });
    this.#refusals = new Refusals({
      nodeId: this.identity.nodeId,
      clock,
      logger,
      replica: (partition) => this.#replicas[partition],
      leaderOf: (partition) => this.leaderOf(partition),
      votersOf: (partition) => this.#views.placesOf(partition).members.length,
      faults: () => this.faults(),
      // While it stops the database closes under its readers.
      fatal: (error) => {
        if (!this.#stopped) fatal(error);
      },
    });
    this.#forwarding.serve(repairReplicaMethod, (from, request) => this.#repairs.handle(from, request));
    this.#scrubber = createScrubber({
      options,
      forwarding: this.#forwarding,
      replica: (partition) => this.#replicas[partition],
      replicas: () => this.#held,
      isConnected: (node) => this.#isConnected(node),
      submit: (partition, proposal) => this.submit(partition, proposal),
      markDamaged: (partition, why) => {
        if (this.#repairs.canBeMended(partition)) this.markDamaged(partition, why).catch(fatal);
      },
      wantCheckpoint: (partition) => this.#checkpoints.want(partition),
      fatal,
    });
    store.onDamage((partition, error) => {
      if (!this.#repairs.canBeMended(partition)) return false;
      this.markDamaged(partition, error.message).catch(fatal);
      return true;
    });
    this.#openReplicas();
  }

  async start(): Promise<void> {
    await this.#repairs.start();
    await this.#options.transport.start({
      onMessage: (from, bytes) => this.#receive(from, bytes),
      onUp: (peer) => this.#guard.run(() => this.#peerUp(peer)),
      onDown: (peer, kind, reason) => this.#guard.run(() => this.#peerDown(peer, kind, reason)),
      onFetch: (peer, request, stream) =>
        this.#guard.run(() => this.#snapshotSender.onFetch(peer, request, stream)),
    });
    this.#startReport.begin();
    this.#lastTickMs = this.#clock.monotonicMs();
    this.#scheduleTick();
    this.#scheduleGossip();
    this.#checkpoints.start();
    this.#elections.start();
    this.#scrubber.start();
    this.#stirAll();
  }

  /** Of the entries that were committed when the log was opened; undefined once all of them are applied. */
  get replaying(): { readonly left: number; readonly entries: number } | undefined {
    return this.#startReport.progress;
  }

  /** Hands leadership away, as far as that goes within `drainMs`; new calls are refused from here on. */
  async drain(): Promise<void> {
    this.#draining = true;
    this.#elections.stop();
    this.#gossip();
    // Not the guarded clock: the wait ends also where something fails meanwhile.
    const { settings, clock } = this.#options;
    const endMs = clock.monotonicMs() + settings.drainMs;
    while (clock.monotonicMs() < endMs && !this.#stopped && !this.#guard.hasFailed) {
      const led = this.#held.filter((replica) => replica.isLeader);
      for (const replica of led) this.#transferAway(replica);
      // Who lags a little may catch up in time; where nobody else lives there is nothing to wait for.
      if (!led.some((replica) => this.#hasOtherMember(replica))) return;
      await new Promise<void>((resolve) => clock.after(settings.tickMs, resolve));
    }
  }

  /** Seals what is in memory where `seal` says so, then releases everything. */
  stop(options: { seal: boolean } = { seal: true }): Promise<void> {
    this.#stopping ??= this.#stop(options.seal);
    return this.#stopping;
  }

  async #stop(seal: boolean): Promise<void> {
    this.#draining = true;
    this.#elections.stop();
    this.#tickTimer?.cancel();
    this.#gossipTimer?.cancel();
    this.#commitNotes.stop();
    this.#forwarding.stop();
    this.#snapshotSender.stop();
    this.#snapshotReceiver.stop();
    this.#repairs.stop();
    const scrubberEnd = this.#scrubber.stop();
    for (const replica of this.#held) replica.stop();
    this.#stopped = true;
    const { store, wal, transport } = this.#options;
    try {
      await scrubberEnd;
      await this.#checkpoints.stop();
      await this.#members.stop();
      await transport.stop();
      if (seal && !this.#guard.hasFailed) {
        await store.checkpoint(this.#held.map((replica) => replica.partition));
      }
    } finally {
      await wal.close().finally(() => store.close());
    }
  }

  /** A part that the node was given has failed: nothing more is done here, and `onFatal` is told. */
  fail(error: unknown): void {
    this.#guard.fail(error);
  }

  // ---- NodeService ---------------------------------------------------------

  get isDraining(): boolean {
    return this.#draining;
  }

  nowUs(): TimeUs {
    return this.#options.clock.nowUs();
  }

  monotonicMs(): number {
    return this.#options.clock.monotonicMs();
  }

  commitNowUs(partition: PartitionId): TimeUs {
    return this.#replica(partition).commitNowUs();
  }

  partitionOf(tenant: string, channel: string): PartitionId {
    return partitionOf(tenant, channel, this.partitionCount);
  }

  leaderOf(partition: PartitionId): NodeId | undefined {
    const replica = this.#replicas[partition];
    if (replica === undefined) return this.#hearsay.leaderOf(partition);
    const isTold = !replica.isInitialised || replica.isMute;
    return replica.leader ?? (isTold ? this.#hearsay.leaderOf(partition) : undefined);
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
    if (this.#draining) return end(proposal, new HansardError('SHUTTING_DOWN', 'the node is stopping'));
    const replica = this.#replica(partition);
    const excess = tooLarge(proposal.command.length, this.#options.wal.entryBytesMax);
    if (excess !== undefined) return end(proposal, excess);
    if (takesRoom(proposal.command)) {
      const full = noRoom(replica, this.identity.nodeId, this.#options.space, this.#hearsay);
      if (full !== undefined) return end(proposal, full);
    }
    replica.submit(proposal);
  }

  async readBarrier(partition: PartitionId, options: ReadBarrierOptions): Promise<ReadView> {
    const replica = this.#replica(partition);
    const { level, minIndex, deadlineMs, maxStalenessMs } = options;
    await replica.readBarrier(level, minIndex, deadlineMs, maxStalenessMs);
    const role = replica.isLeader ? 'primary' : replica.isLearner ? 'learner' : 'secondary';
    return new LiveView(replica.store, role, replica.stalenessMs);
  }

  watchChannel(partition: PartitionId, tenant: string, channel: string, listener: () => void): () => void {
    return this.#replica(partition).store.watch(tenant, channel, listener);
  }

  watchPartition(partition: PartitionId, listener: (tenant?: string, channel?: string) => void): () => void {
    return this.#replica(partition).store.watchAll(listener);
  }

  forward(to: NodeId, method: string, request: Uint8Array, deadlineMs: number): Promise<Uint8Array> {
    return this.#forwarding.forward(to, method, request, deadlineMs);
  }

  onForward(handler: ForwardHandler): void {
    this.#forwarding.onForward(handler);
  }

  cluster(): ClusterView {
    return this.#views.cluster();
  }

  partitionDetail(partition: PartitionId): PartitionDetail {
    return this.#views.partitionDetail(partition);
  }

  async changeReplicas(
    partition: PartitionId,
    changes: readonly ReplicaChange[],
    options: ChangeReplicasOptions,
  ): Promise<ChangeReplicasResult> {
    if (this.#draining) throw new HansardError('SHUTTING_DOWN', 'the node is stopping');
    return this.#replicaChanges.change(this.#replica(partition), changes, options);
  }

  /** Snapshots sent and taken in by this life, and under way now. */
  snapshotStats(): SnapshotStats {
    const { sent, sentBytes, active: sending } = this.#snapshotSender;
    const { received, receivedBytes, active: receiving } = this.#snapshotReceiver;
    return { sent, sentBytes, sending, received, receivedBytes, receiving };
  }

  /** How far this node's clock is beyond what is tolerated, µs; 0: it is not. */
  get clockAheadUs(): number {
    return this.#clockWatch.aheadUs();
  }

  /** How often replicas of this node stood for election, in this life. */
  get electionCounts(): Readonly<ElectionCounts> {
    return this.#electionCounts;
  }

  /** Replicas here in whose partitions nothing happens. */
  get quiescentReplicas(): number {
    return this.#quiescence.count;
  }

  /** Rounds by which this node's leaders confirmed reads, in this life. */
  get readRounds(): number {
    return this.#readRounds.rounds;
  }

  // ---- damage

  /**
   * Whoever finds that bytes of a partition's state here are not what was written says so:
   * nobody is answered from them any more, and they are replaced from a healthy replica.
   * Resolves when the replica is held back.
   */
  markDamaged(partition: PartitionId, why: string): Promise<void> {
    return this.#repairs.markStateDamaged(partition, why);
  }

  /** Of this node's replicas, with all that is known; those of peers as they told. */
  faults(): readonly NodeFault[] {
    const own = this.#ledger.faults.map((fault) => ({ nodeId: this.identity.nodeId, ...fault }));
    return [...own, ...this.#hearsay.faults].sort((a, b) => a.partition - b.partition || a.nodeId - b.nodeId);
  }

  refusals(): readonly Refusal[] {
    return this.#refusals.all();
  }

  /** Damaged replicas of this node that became sound again, in this life. */
  get repaired(): number {
    return this.#repairs.repaired;
  }

  get scrubber(): Scrubber {
    return this.#scrubber;
  }

  /** Replicas of this node, for metrics, tests and the simulator's checks. */
  replicas(): readonly Replica[] {
    return this.#held;
  }

  // ---- replicas ------------------------------------------------------------

  #openReplicas(): void {
    const { partitionCount, store, wal } = this.#options;
    for (let partition = 0; partition < partitionCount; partition++) this.#replicas.push(undefined);
    this.#lookForLostComing();
    this.#lookForLostEnd();
    for (const { partition, replicaId, removed } of store.hosted()) {
      const id = firstIdIfZero(replicaId, this.identity.nodeId);
      const log = wal.group(partition);
      if (!removed) this.#openReplica(partition, id);
      else if (log !== undefined && log.lastIndex() >= log.firstIndex()) {
        // Its segments may go; before, the process had ended first.
        log.reset(log.lastIndex(), log.term(log.lastIndex()) as number);
      }
    }
  }

  /** The database has a replica first: where the log knows a later one, the record of its coming is lost, and its state. */
  #lookForLostComing(): void {
    const { store, wal, replicationFactor } = this.#options;
    for (const { partition, replicaId } of store.hosted()) {
      const inLog = wal.group(partition)?.replicaId ?? 0;
      const inStore = firstIdIfZero(replicaId, this.identity.nodeId);
      if (inLog <= inStore) continue;
      const problem = `the log has replica ${inLog} of partition ${partition}, the database only ${inStore}`;
      if (replicationFactor === 1) throw new HansardError('STORE_DAMAGED', problem, { partition });
      this.#repairs.votesLost([{ partition, replicaId: inLog }], problem);
    }
  }

  /**
   * What is sealed was in the log. One that ends before it, or has something else there,
   * has lost its end without a trace: then no partition's vote or acknowledgement can be relied on.
   */
  #lookForLostEnd(): void {
    const { store, wal, replicationFactor } = this.#options;
    const held = store
      .hosted()
      .filter(({ removed }) => !removed)
      .map(({ partition, replicaId }) => ({
        partition,
        replicaId: firstIdIfZero(replicaId, this.identity.nodeId),
      }));
    for (const { partition, replicaId } of held) {
      const group = wal.group(partition);
      const log = group === undefined || group.replicaId < replicaId ? emptyLog : group;
      const state = store.partition(partition);
      const heldBack = this.#repairs.heldBack(partition, replicaId);
      if (heldBack?.state || heldBack?.mute) continue;
      if (isInstallAheadOfLog(log, state)) continue;
      const problem = lostEnd(partition, log, state);
      if (problem === undefined) continue;
      // Nobody else has it: an operator has to look.
      if (replicationFactor === 1) throw new HansardError('LOG_DAMAGED', problem, { partition });
      return this.#repairs.votesLost(held, problem);
    }
  }

  #openReplica(partition: PartitionId, replicaId: number): Replica {
    const { settings, wal, store } = this.#options;
    let log = wal.group(partition);
    // The store had it, and the process ended before the log did.
    if (log === undefined || log.replicaId < replicaId) log = wal.addGroup(partition, replicaId);
    const state = store.partition(partition);
    let heldBack = this.#repairs.heldBack(partition, replicaId);
    if (heldBack === undefined || (!heldBack.state && !heldBack.mute)) {
      if (isInstallAheadOfLog(log, state)) log.reset(state.appliedIndex, state.appliedTerm);
      const gap = gapBeforeLog(log, state);
      if (gap !== undefined) {
        store.setAside(partition, gap);
        heldBack = this.#repairs.heldBack(partition, replicaId);
      }
    }
    this.#host ??= this.#replicaHost();
    const replica = new Replica({
      replicaId,
      heldBack,
      log,
      store: state,
      host: this.#host,
      judging: this.#options.judging?.(partition),
      settings: {
        ...replicaDefaults,
        partition,
        electionTicks: Math.max(2, Math.round(settings.electionTimeoutMs / settings.tickMs)),
        heartbeatTicks: this.#heartbeatTicks,
        entryBytes: settings.entryBytes,
        uncommittedBytes: settings.uncommittedBytesPerPartition,
        producerHoldMs: settings.producerHoldMs,
      },
    });
    this.#replicas[partition] = replica;
    this.#held.push(replica);
    return replica;
  }

  /** It is no member any more: who waits here goes on elsewhere. */
  #closeReplica(replica: Replica): void {
    this.#replicas[replica.partition] = undefined;
    this.#held.splice(this.#held.indexOf(replica), 1);
    replica.retire();
    this.#elections.forget(replica);
    this.#quiescence.forget(replica);
    this.#snapshotSender.forget(replica);
    this.#snapshotReceiver.forget(replica);
    const { leader } = replica;
    if (leader !== undefined && leader !== this.identity.nodeId)
      this.#hearsay.noteLeader(replica.partition, leader);
  }

  #replicaHost(): ReplicaHost {
    const { random, logger, store } = this.#options;
    return {
      clock: this.#clock,
      trustedUs: () => this.#clockWatch.stampUs(),
      logger,
      random: (n) => Math.floor((random.u32() / 0x1_0000_0000) * n),
      stir: (replica) => this.#loop.stir(replica),
      proposes: (replica) => this.#loop.proposes(replica),
      wantReadRound: (replica) => this.#readRounds.want(replica),
      ticksToBeat: () => this.#heartbeatTicks - (this.#ticks % this.#heartbeatTicks),
      noteCommit: (replica) => this.#commitNotes.note(replica),
      leadershipChanged: (replica) => {
        logger.debug(
          { partition: replica.partition, leader: replica.leader ?? null, term: replica.term },
          'leader changed',
        );
      },
      rank: rankMembers,
      membersChanged: (replica) =>
        // Not in the midst of its turn.
        this.#clock.defer(() => {
          if (this.#stopped) return;
          // Those who are no members any more, or not yet, hear it from a leader alone.
          if (replica.isLeader) this.#gossip();
        }),
      wantCheckpoint: (partition) => this.#checkpoints.want(partition),
      stateDamaged: (replica, error) => {
        const { partition } = replica;
        // Where nobody else has the data, going on would make this the only copy of something wrong.
        if (!this.#repairs.canBeMended(partition)) return this.#guard.fail(error);
        this.markDamaged(partition, error.message).catch(this.#guard.fail);
      },
      mendState: (replica, staged) => this.#repairs.mendState(replica, staged),
      caughtUpWithFloor: (replica) => this.#repairs.caughtUpWithFloor(replica),
      budget: this.#budget,
      elections: this.#electionCounts,
      tailHasRoom: () => {
        if (store.tailBytes < this.#checkpoints.tailLimitBytes) return true;
        this.#checkpoints.look();
        return false;
      },
      fatal: this.#guard.fail,
    };
  }

  #replica(partition: PartitionId): Replica {
    const replica = this.#replicas[partition];
    if (replica === undefined) {
      const leader = this.leaderOf(partition);
      throw new HansardError('NOT_LEADER', `this node holds no replica of partition ${partition}`, {
        partition,
        ...(leader === undefined ? {} : { leader_node_id: leader }),
      });
    }
    return replica;
  }

  get #isDiskLow(): boolean {
    return this.#options.space?.isLow === true;
  }

  #hasOtherMember(replica: Replica): boolean {
    return replica.voters.some(
      ({ nodeId }) =>
        nodeId !== this.identity.nodeId &&
        this.#isConnected(nodeId) &&
        this.#mayLead(nodeId, replica.partition),
    );
  }

  #transferAway(replica: Replica): void {
    const heir = replica.voters.find(
      ({ nodeId, replicaId }) =>
        nodeId !== this.identity.nodeId &&
        replica.isHeir(replicaId) &&
        this.#isConnected(nodeId) &&
        this.#mayLead(nodeId, replica.partition) &&
        replica.isCaughtUp(replicaId),
    );
    if (heir !== undefined) replica.transferLeadership(heir.replicaId);
  }

  #stirAll(): void {
    for (const replica of this.#held) this.#loop.stir(replica);
  }

  // ---- time ----------------------------------------------------------------

  #scheduleTick(): void {
    this.#tickTimer = this.#clock.after(this.#options.settings.tickMs, () => {
      // Messages that are ready come first: after a stall they say that the leader lives (design rule 15).
      this.#clock.defer(() => {
        if (this.#stopped) return;
        this.#tick();
        this.#scheduleTick();
      });
    });
  }

  /** Time as the replicas' ticks count it: of a stall, in which nothing could be heard, hardly anything (design rule 15). */
  get #tickedMs(): number {
    return this.#ticks * this.#options.settings.tickMs;
  }

  #tick(): void {
    const { settings } = this.#options;
    const now = this.#clock.monotonicMs();
    const due = Math.floor((now - this.#lastTickMs) / settings.tickMs);
    if (due < 1) return;
    this.#lastTickMs = due > settings.maxTicksPerTurn ? now : this.#lastTickMs + due * settings.tickMs;
    const ticks = Math.min(due, settings.maxTicksPerTurn);
    this.#readRounds.tick(now);
    // At once, and again until all are gone.
    if (this.#stall.look(now)) this.#gossip();
    for (let i = 0; i < ticks; i++) {
      this.#ticks++;
      if (this.#ticks % this.#heartbeatTicks === 0) this.#beatsDue = true;
      for (const replica of this.#held)
        if (this.#quiescence.isTicked(replica, this.#tickedMs)) replica.tick(now);
    }
    this.#quiescence.tick(this.#tickedMs);
    // Who leads nothing has no turn to send its answers in.
    if (this.#beatsDue && !this.#loop.isScheduled) this.#endOfTurn();
  }

  #scheduleGossip(): void {
    this.#gossipTimer = this.#clock.after(gossipMs, () => {
      if (this.#stopped) return;
      this.#gossip();
      this.#refusals.look();
      this.#emptyTrash();
      this.#scheduleGossip();
    });
  }

  /**
   * Deleted channels whose time is up go with the next entry; where none comes by
   * itself, one that does nothing else is proposed.
   */
  #emptyTrash(): void {
    if (this.#draining) return;
    for (const replica of this.#held) {
      const oldest = replica.isLeader ? replica.store.meta.trash?.[0] : undefined;
      if (oldest === undefined || purgeTimeUs(oldest.deletedTimeUs) > replica.commitNowUs()) continue;
      replica.submit({
        command: encodeNoop(),
        deadlineMs: this.monotonicMs() + gossipMs,
        producerId: 0,
        firstCounter: 0,
        count: 0,
        ended: false,
        // Whatever becomes of it, it is looked at again.
        applied: () => {},
        failed: () => {},
      });
    }
  }

  /** Told in the log when it begins and ends. */
  #isClockAhead(): boolean {
    const aheadUs = this.#clockWatch.aheadUs();
    const isAhead = aheadUs > 0;
    if (isAhead !== this.#wasClockAhead) {
      this.#wasClockAhead = isAhead;
      const { logger } = this.#options;
      const told = { ahead_ms: Math.round(aheadUs / 1_000) };
      if (isAhead)
        logger.warn(
          told,
          "this node's clock is far ahead of a majority's: it stamps less and leads nothing; set the clock",
        );
      else logger.info(told, "this node's clock is no longer far ahead");
    }
    return isAhead;
  }

  #gossip(): void {
    const led = this.#held
      .filter((replica) => replica.isLeader)
      .map((replica) => ({
        partition: replica.partition,
        term: replica.term,
        keptByAll: replica.matchedByAll(),
        places: placesToTell(replica),
      }));
    const diskFull = this.#isDiskLow;
    const mayNotLead = this.#isClockAhead() || diskFull || this.#stall.isStanding;
    const unwilling = this.#draining || mayNotLead;
    for (const { nodeId } of this.#options.nodes) {
      if (nodeId === this.identity.nodeId) continue;
      const { faults } = this.#ledger;
      const gossip = {
        nowUs: this.nowUs(),
        unwilling,
        diskFull,
        led,
        applyVersion: this.#views.applyVersion,
        faults,
      };
      this.#send(nodeId, { kind: 'gossip', gossip });
    }
    if (mayNotLead) {
      for (const replica of this.#held) if (replica.isLeader) this.#transferAway(replica);
    }
  }

  /** Index up to which every member has the partition's log. */
  #keptBy(replica: Replica): Index {
    return replica.isLeader ? replica.matchedByAll() : this.#hearsay.keptByAll(replica.partition);
  }

  // ---- peers ---------------------------------------------------------------

  #isConnected(node: NodeId): boolean {
    return this.#options.transport.isConnected(node);
  }

  #mayLead(node: NodeId, partition: PartitionId): boolean {
    if (this.#hearsay.isUnwilling(node) || this.#clockWatch.isPeerAhead(node)) return false;
    const faults = node === this.identity.nodeId ? this.#ledger.faults : this.#hearsay.faultsOf(node);
    return !faults.some((fault) => fault.partition === partition);
  }

  /** Comes again when only one direction was lost: what was on its way then will not be answered. */
  #peerUp(peer: NodeId): void {
    this.#forwarding.linkLost(peer);
    this.#quiescence.wakeAll(peer);
    this.#elections.peerUp();
    // Before it stamps anything by a clock that is ahead, or hands leadership to a replica that is damaged.
    this.#gossip();
  }

  #peerDown(peer: NodeId, kind: 'broken' | 'refused' | 'rejected', reason: string): void {
    this.#options.logger.info({ peer, kind, reason }, 'link down');
    this.#forwarding.linkLost(peer);
    this.#readRounds.peerDown(peer);
    this.#quiescence.wakeAll(peer);
    this.#hearsay.peerDown(peer);
    if (kind === 'refused') this.#elections.peerGone(peer);
    if (kind === 'rejected' && reason.startsWith('REPLICA_LOST')) {
      // The peer knew this node with another store: what that one had promised is gone (design rule 12).
      this.#guard.fail(
        new HansardError('REPLICA_LOST', `node ${peer} knows this node with another store: ${reason}`, {
          peer,
        }),
      );
    }
    for (const replica of this.#held) {
      if (!replica.isLeader) continue;
      for (const member of replica.members)
        if (member.nodeId === peer) replica.reportUnreachable(member.replicaId);
    }
    this.#snapshotSender.peerDown(peer, kind === 'refused');
  }

  #replicaFor(peer: NodeId, partition: PartitionId): Replica | undefined {
    const replica = this.#replicas[partition];
    return replica?.members.some(({ nodeId }) => nodeId === peer) ? replica : undefined;
  }

  #sendRaft(replica: Replica, message: Message): void {
    const to = replica.nodeOf(message.to);
    if (to === undefined) return;
    if (this.#heartbeats.takes(to, replica.partition, message)) return;
    if (!this.#logSender.takes(replica, to, message)) this.#transmit(replica, to, message);
  }

  #transmit(replica: Replica, to: NodeId, message: Message): void {
    const bytes = encodeRaftMessage(replica.partition, message);
    this.#sentInTurn = true;
    if (message.type === MessageType.MsgApp) this.#entriesLeave = true;
    const sent = this.#options.transport.send(to, bytes, urgent.has(message.type));
    // Dropped, so that all that would follow is refused: the core probes instead.
    if (!sent && message.type === MessageType.MsgApp) replica.reportUnreachable(message.to);
    if (message.type === MessageType.MsgSnap && !sent) replica.reportSnapshotFailed(message.to);
    else if (message.type === MessageType.MsgSnap) {
      const index = message.snapshot?.metadata.index ?? 0;
      this.#snapshotSender.announced(replica, message.to, to, index);
    }
  }

  /** With entries on their way, followers hear at the same time what has been committed meanwhile. */
  #commitsRide(): boolean {
    if (!this.#entriesLeave || !this.#commitNotes.hasAny) return false;
    this.#commitNotes.tellNow();
    return true;
  }

  /** Messages leave now: the transport's own end of turn would be a turn later. */
  #endOfTurn(): void {
    const { transport } = this.#options;
    this.#heartbeats.flush(this.#beatsDue || this.#sentInTurn, this.#sendBeats);
    this.#beatsDue = false;
    this.#sentInTurn = false;
    this.#entriesLeave = false;
    transport.flush();
  }

  readonly #sendBeats = (to: NodeId, kind: BeatKind, beats: readonly Beat[]): void => {
    this.#options.transport.send(to, encodePeerMessage({ kind, beats }), true);
  };

  #send(to: NodeId, message: PeerMessage): boolean {
    return this.#options.transport.send(to, encodePeerMessage(message), message.kind === 'gossip');
  }

  #sendUrgent(to: NodeId, message: PeerMessage): boolean {
    return this.#options.transport.send(to, encodePeerMessage(message), true);
  }

  /** Outside of turns. */
  #sendNow(to: NodeId, message: PeerMessage): void {
    this.#sendUrgent(to, message);
    this.#options.transport.flush();
  }

  #receive(from: NodeId, bytes: Uint8Array): void {
    if (this.#stopped || this.#guard.hasFailed) return;
    // What is malformed throws into the transport, which drops the link and says why; nothing of it was believed.
    const message = decodePeerMessage(bytes);
    this.#guard.run(() => this.#handle(from, message));
  }

  #handle(from: NodeId, message: PeerMessage): void {
    switch (message.kind) {
      case 'raft':
        return this.#stepRaft(from, message.partition, message.message);
      case 'heartbeats':
      case 'heartbeatResponses':
      case 'acknowledgements':
        for (const beat of message.beats)
          this.#stepRaft(from, beat.partition, Heartbeats.toMessage(message.kind, beat));
        return;
      case 'request':
        return this.#forwarding.handleRequest(from, message.request);
      case 'response':
        return this.#forwarding.handleResponse(from, message.response);
      case 'cancel':
        // What was proposed can't be taken back; the answer is dropped at the other end.
        return;
      case 'gossip':
        return this.#hear(from, message.gossip);
      case 'readRound':
        return this.#vouch(from, message.question);
      case 'readRoundAnswer':
        return this.#readRounds.answered(from, message.answer);
      case 'vouch':
        return this.#quiescence.heard(from, message.vouchings, this.#tickedMs);
      case 'vouchAnswer':
        return this.#quiescence.answered(from, message.refused, this.#tickedMs);
    }
  }

  #vouch(from: NodeId, { number, pairs }: ReadRoundQuestion): void {
    const refused: PartitionId[] = [];
    for (const { partition, term } of pairs)
      if (!this.#replicas[partition]?.vouchesFor(from, term)) refused.push(partition);
    this.#sendNow(from, { kind: 'readRoundAnswer', answer: { number, refused } });
  }

  /** A message is believed only for a member's replica that lives on the node it came from. */
  #stepRaft(from: NodeId, partition: PartitionId, message: Message): void {
    const replica = this.#replicas[partition];
    if (replica === undefined || message.to !== replica.replicaId || !replica.hears(message.from, from)) {
      // Of one that was removed and does not know it yet, or for one that has gone from here.
      this.#options.logger.debug(
        { from, partition, type: message.type },
        'message for another replica dropped',
      );
      return;
    }
    if (!fromPeers.has(message.type)) {
      this.#options.logger.warn(
        { from, partition, type: message.type },
        'message that no peer sends dropped',
      );
      return;
    }
    // With almost nothing left the process would end at the next segment; the others go on without it, and it catches up.
    if (this.#options.space?.isCritical === true && takesRoomHere(message)) return;
    // A disk that falls behind must not fill the memory; the leader finds out by its probes.
    if (
      message.type === MessageType.MsgApp &&
      message.entries.length > 0 &&
      this.#options.wal.pendingBytes > walQueueBytes
    )
      return;
    const metadata = message.snapshot?.metadata;
    if (message.type === MessageType.MsgSnap && metadata !== undefined && replica.wantsSnapshot(metadata)) {
      // The rows first; the core hears of it when they are here.
      if (message.term >= replica.term) this.#snapshotReceiver.offered(replica, from, message);
    } else if (message.type !== MessageType.MsgSnap || !replica.isInstalling) replica.step(message);
  }

  #hear(from: NodeId, gossip: Gossip): void {
    this.#clockWatch.heard(from, gossip.nowUs);
    this.#hearsay.heard(from, gossip);
    for (const { partition, places } of gossip.led) {
      if (partition >= this.partitionCount) continue;
      const replica = this.#replicas[partition];
      if (!replica?.isInitialised || replica.isMute) this.#hearsay.noteLeader(partition, from);
      if (places !== undefined) this.#members.hear(partition, places);
    }
  }
}

/** Undefined: as it was made, which everybody knows. */
function placesToTell(replica: Replica): Places | undefined {
  const { membership, confState } = replica.store;
  return membership.changes === 0
    ? undefined
    : { ...membership, learners: confState.learners, settled: replica.isChangeSettled };
}

export function initialConfState(voters: number[]): ConfState {
  return {
    voters: voters.sort((a, b) => a - b),
    votersOutgoing: [],
    learners: [],
    learnersNext: [],
    autoLeave: false,
  };
}
