/**
 * The parts of a node and what each needs of the others: wiring, in the order in which they
 * are made. What a part says to one that is made later it says once all are there.
 */
import type { Clock } from '../common/env.js';
import type { NodeId, PartitionId } from '../common/ids.js';
import { CommitNotes } from '../partition/commit-notes.js';
import type { Proposal } from '../partition/proposals.js';
import type { Replica } from '../partition/replica.js';
import {
  commitNotePeriodMs,
  type DecodedAhead,
  type ElectionCounts,
  type ProposalBudget,
  type ReplicaHost,
} from '../partition/types.js';
import { ReplicaChanges } from './change-replicas.js';
import { Checkpoints } from './checkpoints.js';
import { ClockWatch } from './clock-watch.js';
import { ClusterViews } from './cluster-views.js';
import { DiskStall } from './disk-stall.js';
import { Elections } from './elections.js';
import { FaultLedger } from './fault-ledger.js';
import { Forwarding } from './forwarding.js';
import { FromPeers } from './from-peers.js';
import { Gossiping, gossipMs } from './gossiping.js';
import { Guard } from './guard.js';
import { HandOver } from './hand-over.js';
import { Hearsay } from './hearsay.js';
import { LeaderBalance } from './leader-balance.js';
import { idleMeters, LoopLoad } from './loop-load.js';
import { createReplicaMethod, decodeCreateReplica, Members } from './members.js';
import type { NodeOptions } from './options.js';
import { inLeadingOrder } from './placement.js';
import { Quiescence, type QuiescenceContext } from './quiescence.js';
import { ReadRounds, type ReadRoundsContext } from './read-rounds.js';
import { Refusals } from './refusals.js';
import { repairReplicaMethod } from './repair-codec.js';
import { Repairs } from './repairs.js';
import { ReplicaSet } from './replica-set.js';
import { createScrubber } from './scrub-wiring.js';
import type { Scrubber } from './scrubber.js';
import { SnapshotReceiver } from './snapshot-receiver.js';
import { SnapshotSender } from './snapshot-sender.js';
import { StartReport } from './start-report.js';
import { Ticks } from './ticks.js';
import { ToPeers } from './to-peers.js';
import { emptyTrash } from './trash.js';
import { TurnLoop } from './turn-loop.js';
import type { NodeFault } from './types.js';

/** Where the node is in its life; it goes one way. */
export interface NodeLife {
  isDraining: boolean;
  isStopped: boolean;
}

type Submit = (partition: PartitionId, proposal: Proposal) => void;

export class NodeParts {
  readonly life: NodeLife = { isDraining: false, isStopped: false };
  readonly #options: NodeOptions;
  readonly #submit: Submit;
  readonly guard: Guard;
  /** The given one, guarded. */
  readonly #clock: Clock;
  readonly #heartbeatTicks: number;
  readonly #budget: ProposalBudget;
  readonly #decodedAhead: DecodedAhead = { bytes: 0 };
  readonly electionCounts: ElectionCounts = { silence: 0, gone: 0, handover: 0 };
  readonly #stall: DiskStall;
  readonly #toPeers: ToPeers;
  readonly commitNotes: CommitNotes;
  readonly load: LoopLoad;
  readonly clockWatch: ClockWatch;
  readonly hearsay: Hearsay;
  readonly ledger: FaultLedger;
  readonly replicas: ReplicaSet;
  readonly loop: TurnLoop;
  readonly readRounds: ReadRounds;
  readonly quiescence: Quiescence<Replica>;
  readonly forwarding: Forwarding;
  readonly handOver: HandOver;
  readonly balance: LeaderBalance;
  readonly elections: Elections;
  readonly checkpoints: Checkpoints;
  readonly startReport: StartReport;
  readonly snapshotSender: SnapshotSender;
  readonly snapshotReceiver: SnapshotReceiver;
  readonly views: ClusterViews;
  readonly members: Members;
  readonly replicaChanges: ReplicaChanges;
  readonly repairs: Repairs;
  readonly refusals: Refusals;
  readonly scrubber: Scrubber;
  readonly gossiping: Gossiping;
  readonly ticks: Ticks;
  readonly fromPeers: FromPeers;

  constructor(options: NodeOptions, submit: Submit) {
    this.#options = options;
    this.#submit = submit;
    const { identity, nodes, settings, wal, logger } = options;
    this.guard = new Guard((error) => options.onFatal(error));
    this.#clock = this.guard.clock(options.clock);
    this.#heartbeatTicks = Math.max(1, Math.round(settings.heartbeatMs / settings.tickMs));
    this.#budget = { usedBytes: 0, proposals: 0, limitBytes: settings.uncommittedBytesPerNode };
    this.#stall = new DiskStall(wal, settings.diskSlowMs, logger);
    this.commitNotes = new CommitNotes(this.#clock, commitNotePeriodMs);
    this.load = new LoopLoad(options.loopMeters ?? idleMeters, this.#clock.monotonicMs(), settings);
    this.clockWatch = new ClockWatch(identity.nodeId, nodes.length, this.#clock);
    this.hearsay = new Hearsay(options.partitionCount);
    this.ledger = options.faults ?? FaultLedger.inMemory();
    this.replicas = this.#newReplicas();
    this.#toPeers = new ToPeers({
      transport: options.transport,
      commitNotes: this.commitNotes,
      snapshotSender: () => this.snapshotSender,
      isStopped: this.#isStopped,
      fatal: this.guard.fail,
    });
    this.loop = new TurnLoop(
      this.#clock,
      wal,
      this.#budget,
      (replica, message) => this.#toPeers.sendRaft(replica, message),
      () => this.#toPeers.endOfTurn(),
      () => this.#toPeers.commitsRide(),
      (ms) => this.snapshotSender.committedIn(ms),
    );
    this.readRounds = this.#newReadRounds();
    this.quiescence = this.#newQuiescence();
    this.forwarding = this.#newForwarding();
    this.handOver = this.#newHandOver();
    this.balance = this.#newBalance();
    this.elections = this.#newElections();
    this.checkpoints = this.#newCheckpoints();
    this.startReport = this.#newStartReport();
    const snapshots = { clock: this.#clock, logger, settings, store: options.store, fatal: this.guard.fail };
    this.snapshotSender = new SnapshotSender(
      {
        ...snapshots,
        replicaFor: (peer, partition) => this.#replicaFor(peer, partition),
        isLogTooLarge: () => wal.stats().segmentBytes > settings.logBytes,
        damaged: (partition, error) => this.damagedState(partition, error.message),
      },
      options.random.u32(),
    );
    this.snapshotReceiver = new SnapshotReceiver({
      ...snapshots,
      transport: options.transport,
      random: this.#random,
    });
    this.views = this.#newViews();
    this.members = this.#newMembers();
    this.replicaChanges = this.#newReplicaChanges();
    this.repairs = this.#newRepairs();
    this.refusals = this.#newRefusals();
    this.scrubber = this.#newScrubber();
    this.gossiping = this.#newGossiping();
    this.ticks = this.#newTicks();
    this.fromPeers = this.#newFromPeers();
  }

  readonly #isStopped = (): boolean => this.life.isStopped;
  readonly #isConnected = (node: NodeId): boolean => this.#toPeers.isConnected(node);
  readonly #mayLead = (node: NodeId, partition: PartitionId): boolean =>
    this.handOver.mayLead(node, partition);
  readonly #replica = (partition: PartitionId): Replica | undefined => this.replicas.at(partition);
  readonly #leaderOf = (partition: PartitionId): NodeId | undefined => this.replicas.leaderOf(partition);
  /** Uniform in [0, n). */
  readonly #random = (n: number): number => Math.floor((this.#options.random.u32() / 0x1_0000_0000) * n);

  stirAll(): void {
    for (const replica of this.replicas.held) this.loop.stir(replica);
  }

  /** Of this node's replicas, with all that is known; those of peers as they told. */
  faults(): readonly NodeFault[] {
    const { nodeId } = this.#options.identity;
    const own = this.ledger.faults.map((fault) => ({ nodeId, ...fault }));
    return [...own, ...this.hearsay.faults].sort((a, b) => a.partition - b.partition || a.nodeId - b.nodeId);
  }

  /** Of a partition's state here bytes are damaged. False: nobody else has the data, so nothing was done. */
  damagedState(partition: PartitionId, why: string): boolean {
    if (!this.repairs.canBeMended(partition)) return false;
    this.repairs.markStateDamaged(partition, why).catch(this.guard.fail);
    return true;
  }

  // ---- replicas and their turns

  #newReplicas(): ReplicaSet {
    return new ReplicaSet({
      options: this.#options,
      hearsay: this.hearsay,
      heartbeatTicks: this.#heartbeatTicks,
      repairs: () => this.repairs,
      replicaHost: () => this.#newReplicaHost(),
      opened: (replica) => this.quiescence.opened(replica),
      closed: (replica) => {
        this.elections.forget(replica);
        this.quiescence.forget(replica);
        this.gossiping.stirred(replica);
        this.snapshotSender.forget(replica);
        this.snapshotReceiver.forget(replica);
      },
    });
  }

  #newReplicaHost(): ReplicaHost {
    const { logger, store, settings } = this.#options;
    return {
      clock: this.#clock,
      trustedUs: () => this.clockWatch.stampUs(),
      logger,
      random: this.#random,
      stir: (replica) => this.loop.stir(replica),
      woke: (replica) => this.quiescence.woke(replica),
      proposes: (replica) => this.loop.proposes(replica),
      wantReadRound: (replica) => this.readRounds.want(replica),
      ticksToBeat: () => this.ticks.toBeat,
      noteCommit: (replica) => this.commitNotes.note(replica),
      leadershipChanged: (replica) => {
        logger.debug(
          { partition: replica.partition, leader: replica.leader ?? null, term: replica.term },
          'leader changed',
        );
      },
      rank: (partition, members) => inLeadingOrder(settings.leaders, partition, members),
      membersChanged: (replica) =>
        // Not in the midst of its turn.
        this.#clock.defer(() => {
          if (this.life.isStopped) return;
          // Those who are no members any more, or not yet, hear it from a leader alone.
          if (replica.isLeader) this.gossiping.tell();
        }),
      wantCheckpoint: (partition) => this.checkpoints.want(partition),
      stateDamaged: ({ partition }, error) => {
        // Where nobody else has the data, going on would make this the only copy of something wrong.
        if (!this.damagedState(partition, error.message)) this.guard.fail(error);
      },
      mendState: (replica, staged) => this.repairs.mendState(replica, staged),
      caughtUpWithFloor: (replica) => this.repairs.caughtUpWithFloor(replica),
      budget: this.#budget,
      decodedAhead: this.#decodedAhead,
      elections: this.electionCounts,
      tailHasRoom: () => {
        if (store.tailBytes < this.checkpoints.tailLimitBytes) return true;
        this.checkpoints.look();
        return false;
      },
      fatal: this.guard.fail,
    };
  }

  #newReadRounds(): ReadRounds {
    const { identity, transport, random } = this.#options;
    const context: ReadRoundsContext = {
      nodeId: identity.nodeId,
      monotonicMs: () => this.#clock.monotonicMs(),
      defer: (fn) => this.#clock.defer(fn),
      after: (delayMs, fn) => void this.#clock.after(delayMs, fn),
      ask: (peer, question) =>
        this.#isConnected(peer) && this.#toPeers.sendUrgent(peer, { kind: 'readRound', question }),
      flush: () => transport.flush(),
    };
    return new ReadRounds(context, random.u32() * 0x1000);
  }

  #newQuiescence(): Quiescence<Replica> {
    const { identity, settings, random } = this.#options;
    const context: QuiescenceContext<Replica> = {
      nodeId: identity.nodeId,
      settings,
      replicas: () => this.replicas.held,
      replica: this.#replica,
      isConnected: this.#isConnected,
      vouch: (peer, word) => this.#toPeers.sendNow(peer, { kind: 'vouch', word }),
      answer: (peer, answer) => this.#toPeers.sendNow(peer, { kind: 'vouchAnswer', answer }),
      awoke: (replica) => {
        this.ticks.hasten();
        this.gossiping.stirred(replica);
      },
    };
    return new Quiescence(context, random.u32() * 0x1000);
  }

  #newTicks(): Ticks {
    return new Ticks({
      clock: this.#clock,
      settings: this.#options.settings,
      heartbeatTicks: this.#heartbeatTicks,
      loop: this.loop,
      toPeers: this.#toPeers,
      readRounds: this.readRounds,
      quiescence: this.quiescence,
      stall: this.#stall,
      gossiping: this.gossiping,
      lookAtLoad: (nowMs) => this.load.look(nowMs, this.#budget.proposals, this.hearsay.proposalsElsewhere),
      isStopped: this.#isStopped,
    });
  }

  // ---- state and log

  #newCheckpoints(): Checkpoints {
    const { identity, settings, store, wal, logger } = this.#options;
    return new Checkpoints({
      nodeId: identity.nodeId,
      clock: this.#clock,
      settings,
      store,
      wal,
      logger,
      replicas: () => this.replicas.held,
      keptByAll: (replica) =>
        replica.isLeader ? replica.matchedByAll() : this.hearsay.keptByAll(replica.partition),
      wantedFrom: (replica) => this.snapshotSender.wantedFrom(replica.partition),
      roomAgain: () => this.stirAll(),
      isStarting: () => this.startReport.isRunning,
      fatal: this.guard.fail,
    });
  }

  #newStartReport(): StartReport {
    return new StartReport({
      clock: this.#clock,
      logger: this.#options.logger,
      store: this.#options.store,
      replicas: () => this.replicas.held,
      isOver: this.#isStopped,
      done: () => this.checkpoints.look(),
    });
  }

  #replicaFor(peer: NodeId, partition: PartitionId): Replica | undefined {
    const replica = this.replicas.at(partition);
    return replica?.members.some(({ nodeId }) => nodeId === peer) ? replica : undefined;
  }

  // ---- other nodes

  #newForwarding(): Forwarding {
    return new Forwarding({
      clock: this.#clock,
      logger: this.#options.logger,
      // With one direction open the answer would be lost.
      sendRequest: (to, request) =>
        this.#isConnected(to) && this.#toPeers.send(to, { kind: 'request', request }),
      sendResponse: (to, response) => this.#toPeers.send(to, { kind: 'response', response }),
      fatal: this.guard.fail,
    });
  }

  #newHandOver(): HandOver {
    return new HandOver({
      options: this.#options,
      hearsay: this.hearsay,
      clockWatch: this.clockWatch,
      ledger: this.ledger,
      replicas: () => this.replicas.held,
      isConnected: this.#isConnected,
      isOver: () => this.life.isStopped || this.guard.hasFailed,
    });
  }

  #newElections(): Elections {
    const { identity, random, settings, logger } = this.#options;
    return new Elections({
      nodeId: identity.nodeId,
      clock: this.#clock,
      random,
      settings,
      replicas: () => this.replicas.held,
      isConnected: this.#isConnected,
      balance: this.balance,
      logger,
    });
  }

  #newBalance(): LeaderBalance {
    const { identity, settings } = this.#options;
    const { nodeId } = identity;
    return new LeaderBalance({
      nodeId,
      leaders: settings.leaders,
      monotonicMs: () => this.#clock.monotonicMs(),
      load: () => {
        const { busy, cpu, proposals } = this.load;
        return { busy, cpu, proposals, isDeep: this.load.isDeep(this.#clock.monotonicMs()) };
      },
      standingOf: (node) => this.hearsay.standingOf(node),
      mayTake: (node, partition) =>
        (node === nodeId || this.#isConnected(node)) && this.#mayLead(node, partition),
    });
  }

  #newViews(): ClusterViews {
    return new ClusterViews({
      options: this.#options,
      hearsay: this.hearsay,
      replica: this.#replica,
      leaderOf: this.#leaderOf,
      isConnected: this.#isConnected,
      told: (partition) => this.members.told(partition),
    });
  }

  #newGossiping(): Gossiping {
    return new Gossiping({
      options: this.#options,
      clock: this.#clock,
      replicas: this.replicas,
      toPeers: this.#toPeers,
      hearsay: this.hearsay,
      views: this.views,
      members: this.members,
      clockWatch: this.clockWatch,
      stall: this.#stall,
      ledger: this.ledger,
      handOver: this.handOver,
      isDraining: () => this.life.isDraining,
      balance: this.balance,
      also: () => {
        this.refusals.look();
        if (this.life.isDraining) return;
        emptyTrash(this.replicas.held, this.#options.clock.monotonicMs() + gossipMs);
      },
    });
  }

  #newFromPeers(): FromPeers {
    return new FromPeers({
      options: this.#options,
      guard: this.guard,
      replicas: this.replicas,
      toPeers: this.#toPeers,
      ticks: this.ticks,
      gossiping: this.gossiping,
      hearsay: this.hearsay,
      elections: this.elections,
      quiescence: this.quiescence,
      readRounds: this.readRounds,
      forwarding: this.forwarding,
      snapshotSender: this.snapshotSender,
      snapshotReceiver: this.snapshotReceiver,
      isStopped: this.#isStopped,
    });
  }

  // ---- members

  #newMembers(): Members {
    const { identity, partitionCount, store, wal, logger } = this.#options;
    const members = new Members({
      nodeId: identity.nodeId,
      partitionCount,
      store,
      wal,
      logger,
      nowMs: () => this.#clock.monotonicMs(),
      replica: this.#replica,
      open: (partition, replicaId) => this.replicas.open(partition, replicaId),
      close: (replica) => this.replicas.close(replica),
      lost: (partition, replicaId) => this.repairs.replicaLost(partition, replicaId),
      going: (partition, replicaId) => this.ledger.noteGone([{ partition, replicaId }]),
      gone: (partition, replicaId) => this.repairs.replicaGone(partition, replicaId),
      fatal: this.guard.fail,
    });
    this.forwarding.serve(createReplicaMethod, async (_from, request) => {
      await members.create(decodeCreateReplica(request));
      return new Uint8Array(0);
    });
    return members;
  }

  #newReplicaChanges(): ReplicaChanges {
    const { identity, nodes, settings, logger } = this.#options;
    return new ReplicaChanges({
      nodeId: identity.nodeId,
      clock: this.#clock,
      logger,
      heartbeatMs: settings.heartbeatMs,
      electionTimeoutMs: settings.electionTimeoutMs,
      isNode: (node) => nodes.some(({ nodeId }) => nodeId === node),
      isConnected: this.#isConnected,
      mayLead: this.#mayLead,
      ask: async (node, method, request, deadlineMs) => {
        if (node !== identity.nodeId) return this.forwarding.forward(node, method, request, deadlineMs);
        await this.members.create(decodeCreateReplica(request));
        return new Uint8Array(0);
      },
    });
  }

  // ---- damage

  #newRepairs(): Repairs {
    const { identity, replicationFactor, logger, store, wal, space } = this.#options;
    const repairs = new Repairs({
      nodeId: identity.nodeId,
      replicationFactor,
      clock: this.#clock,
      logger,
      ledger: this.ledger,
      store,
      wal,
      // 48 of its bits.
      life: Number.parseInt(identity.bootId.slice(-12), 16),
      replica: this.#replica,
      leaderOf: this.#leaderOf,
      isConnected: this.#isConnected,
      ask: (node, method, request, deadlineMs) => this.forwarding.forward(node, method, request, deadlineMs),
      queued: (partition, job) => this.members.queued(partition, job),
      close: (replica) => this.replicas.close(replica),
      open: (partition, replicaId) => {
        if (!this.life.isStopped) this.loop.stir(this.replicas.open(partition, replicaId));
      },
      handOver: (replica) => this.handOver.transfer(replica),
      offered: (replica, from, message) => {
        // As for all that leaders send: it asks again.
        if (space?.isCritical !== true) this.snapshotReceiver.offered(replica, from, message);
      },
      wantCheckpoint: (partition) => this.checkpoints.want(partition),
      giveUpDatabase: this.#options.giveUpDatabase,
      change: (replica, change, deadlineMs) =>
        this.replicaChanges.change(replica, [change], { deadlineMs, force: false }),
      changed: () => {
        if (!this.life.isStopped) this.gossiping.tell();
      },
      fatal: this.guard.fail,
    });
    this.forwarding.serve(repairReplicaMethod, (from, request) => repairs.handle(from, request));
    return repairs;
  }

  #newRefusals(): Refusals {
    return new Refusals({
      nodeId: this.#options.identity.nodeId,
      clock: this.#clock,
      logger: this.#options.logger,
      replica: this.#replica,
      leaderOf: this.#leaderOf,
      votersOf: (partition) => this.views.placesOf(partition).members.length,
      faults: () => this.faults(),
      // While it stops the database closes under its readers.
      fatal: (error) => {
        if (!this.life.isStopped) this.guard.fail(error);
      },
    });
  }

  #newScrubber(): Scrubber {
    return createScrubber({
      options: this.#options,
      forwarding: this.forwarding,
      replica: this.#replica,
      replicas: () => this.replicas.held,
      isConnected: this.#isConnected,
      submit: this.#submit,
      markDamaged: (partition, why) => {
        this.damagedState(partition, why);
      },
      wantCheckpoint: (partition) => this.checkpoints.want(partition),
      fatal: this.guard.fail,
    });
  }
}
