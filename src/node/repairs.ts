/**
 * Replicas of this node whose disk has lost or changed something (design rule 5),
 * and how they become sound again; docs/internals.md, "Damage". The ledger says
 * what is wrong; the replica holds itself back (partition/); here is who asks the
 * partition's leader for help until it is over, and who gives it as leader.
 *
 *   state damaged → ask for a snapshot → fetch → closed, decided, opened anew → sound
 *   log damaged   → tell the leader where the log ends → it sends what is missing → sound
 *   vote lost     → the leader removes the replica, adds a learner here, promotes it → sound
 */
import type { Clock, Timer } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import { type FaultKind, noPlace, type ReplicaFault, unknownIndex } from '../common/faults.js';
import type { NodeId, PartitionId, ReplicaId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import type { StagedSnapshot } from '../partition/install-gate.js';
import type { Replica } from '../partition/replica.js';
import type { HeldBack } from '../partition/types.js';
import { type Message, MessageType, message as newMessage } from '../raft/types.js';
import type { Store } from '../store/types.js';
import type { Wal } from '../wal/types.js';
import type { ReplicaChange } from './change-replicas.js';
import type { FaultLedger } from './fault-ledger.js';
import {
  decodeRepairAnswer,
  decodeRepairRequest,
  encodeRepairAnswer,
  encodeRepairRequest,
  type RepairRequest,
  repairReplicaMethod,
} from './repair-codec.js';
import { newFault } from './replace-log.js';

export interface RepairsContext {
  readonly nodeId: NodeId;
  readonly replicationFactor: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly ledger: FaultLedger;
  readonly store: Store;
  readonly wal: Wal;
  /** Of this process's life. */
  readonly life: number;
  replica(partition: PartitionId): Replica | undefined;
  leaderOf(partition: PartitionId): NodeId | undefined;
  isConnected(node: NodeId): boolean;
  ask(node: NodeId, method: string, request: Uint8Array, deadlineMs: number): Promise<Uint8Array>;
  /** Behind whatever else changes about the partition's replica here. */
  queued(partition: PartitionId, job: () => Promise<void>): Promise<void>;
  /** The replica takes part no more in this form. */
  close(replica: Replica): void;
  /** It takes part again, held back as the ledger says. */
  open(partition: PartitionId, replicaId: ReplicaId): void;
  /** Tries to hand its leadership to another. */
  handOver(replica: Replica): void;
  /** As though its leader had offered a snapshot. */
  offered(replica: Replica, from: NodeId, message: Message): void;
  wantCheckpoint(partition: PartitionId): void;
  /** See NodeOptions. */
  readonly giveUpDatabase: (() => Promise<void>) | undefined;
  change(replica: Replica, change: ReplicaChange, deadlineMs: number): Promise<unknown>;
  /** The set of faults is another one. */
  changed(): void;
  fatal(error: unknown): void;
}

/** Between two looks at what is still faulty, ms; each costs a small call for each faulty replica. */
const lookMs = 500;
/** Questions of one look: a store of thousands of faulty replicas asks for them by and by. */
const asksPerLook = 32;
const askDeadlineMs = 5_000;
/** A leader whose state is damaged tries for this long to hand over before it just goes, ms. */
const handOverMs = 1_000;
const handOverPollMs = 20;
/** Behind that, for answers to what it had proposed, ms. */
const answerGraceMs = 500;

const noConfState = Object.freeze({
  voters: [],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
});

export class Repairs {
  readonly #context: RepairsContext;
  readonly #marking = new Set<PartitionId>();
  /** As leader: of which members it is known already that their logs lost entries; key: partition/replica. */
  readonly #told = new Map<string, { readonly life: number; readonly term: number }>();
  readonly #replacing = new Set<PartitionId>();
  readonly #asking = new Set<string>();
  #isGivingUp = false;
  #timer: Timer | undefined;
  #recording: Promise<void> = Promise.resolve();
  #next = 0;
  #stopped = false;
  /** Replicas that became sound again in this life. */
  repaired = 0;

  constructor(context: RepairsContext) {
    this.#context = context;
  }

  get faults(): readonly ReplicaFault[] {
    return this.#context.ledger.faults;
  }

  /** How a replica that is about to be opened has to be held back; undefined: it is sound. */
  heldBack(partition: PartitionId, replicaId: ReplicaId): HeldBack | undefined {
    const { ledger, store } = this.#context;
    const log = ledger.of(partition, 'log-damaged');
    const votes = ledger.of(partition, 'term-or-vote-lost');
    const state = store.setAsidePartitions().has(partition);
    const floor = log?.replicaId === replicaId ? log.floor : undefined;
    // Of a later one that was here: what this one says nobody may count any more either.
    const lostVote = votes !== undefined && votes.replicaId >= replicaId;
    // One that is gone is here again where the database went back to what it was before.
    const mute = lostVote || ledger.goneOf(partition) >= replicaId;
    return state || floor !== undefined || mute ? { state, floor, mute } : undefined;
  }

  /**
   * Before anything is promised: what was found at open is on record, and what was
   * mended just before the last end is not any more. Rejects: the process must end.
   */
  async start(): Promise<void> {
    const { ledger, store } = this.#context;
    await this.#recording;
    for (const { partition, replicaId, kind, generation } of ledger.faults) {
      const replica = this.#context.replica(partition);
      // One that lost its vote goes before its successor comes: until that has a vote, it is asked for.
      const isGone = kind !== 'term-or-vote-lost' && (replica === undefined || replica.replicaId > replicaId);
      const isMended = kind === 'state-damaged' && store.generationOf(partition) > generation;
      if (isGone || isMended) await ledger.clear(partition, [kind]);
    }
    const found: ReplicaFault[] = [];
    for (const [partition, why] of store.setAsidePartitions()) {
      const replica = this.#context.replica(partition);
      if (replica === undefined || ledger.of(partition, 'state-damaged') !== undefined) continue;
      found.push(this.#stateFault(replica, why));
    }
    if (found.length > 0) await ledger.add(found);
    for (const fault of ledger.faults) this.#logFault(fault);
    this.#watch();
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  // ---- damage is found

  /**
   * The state of this node's replica is not to be used from here on: its bytes are not
   * what was written. It becomes sound by itself. Resolves when it is held back; at once
   * where that is so already, or no replica is here.
   */
  async markStateDamaged(partition: PartitionId, why: string): Promise<void> {
    const { ledger, store, logger } = this.#context;
    const replica = this.#context.replica(partition);
    if (replica === undefined || replica.isStateDamaged || replica.isMute) return;
    if (this.#marking.has(partition) || this.#stopped) return;
    this.#marking.add(partition);
    try {
      store.distrust(partition, why);
      const fault = this.#stateFault(replica, why);
      this.#logFault(fault);
      await ledger.add([fault]);
      this.#context.changed();
      await this.#handOver(replica);
      await this.#context.queued(partition, async () => {
        if (this.#context.replica(partition) !== replica) return;
        this.#context.close(replica);
        await this.#logWritten();
        store.setAside(partition, why);
        this.#context.open(partition, replica.replicaId);
      });
      this.#watch();
    } catch (error) {
      if (!this.#stopped) this.#context.fatal(error);
    } finally {
      this.#marking.delete(partition);
      if (!this.#stopped) logger.info({ partition }, 'the damaged state is set aside');
    }
  }

  /**
   * At open: the log has lost its end unnoticed, and nobody knows what was promised there.
   * In force at once; on record when `start` has resolved.
   */
  votesLost(replicas: readonly { partition: PartitionId; replicaId: ReplicaId }[], why: string): void {
    const sinceUs = this.#context.clock.nowUs();
    const faults = replicas.map((one) => newFault(one, 'term-or-vote-lost', why, sinceUs));
    const recorded = this.#context.ledger.add(faults);
    this.#recording = Promise.all([this.#recording, recorded]).then(() => undefined);
    this.#recording.catch(() => undefined);
  }

  /**
   * A leader names a replica on this node that is later than all that this node knows of: the
   * record of its coming is lost, and with it what it promised.
   */
  replicaLost(partition: PartitionId, replicaId: ReplicaId): void {
    const known = this.#context.ledger.of(partition, 'term-or-vote-lost');
    if (this.#stopped || (known !== undefined && known.replicaId >= replicaId)) return;
    const why = `nothing is here of replica ${replicaId}, which the partition's leader names as this node's`;
    const fault = newFault({ partition, replicaId }, 'term-or-vote-lost', why, this.#context.clock.nowUs());
    this.#logFault(fault);
    this.#context.ledger
      .add([fault])
      .then(() => {
        this.#context.changed();
        this.#watch();
      })
      .catch((error: unknown) => {
        if (!this.#stopped) this.#context.fatal(error);
      });
  }

  /** What was to be mended of it went with it; whether its vote is missed, its partition's leader tells. */
  async replicaGone(partition: PartitionId, replicaId: ReplicaId): Promise<void> {
    const { ledger } = this.#context;
    const kinds = (['state-damaged', 'log-damaged'] as const).filter(
      (kind) => ledger.of(partition, kind)?.replicaId === replicaId,
    );
    if (kinds.length === 0) return;
    await ledger.clear(partition, kinds);
    this.#context.changed();
  }

  /**
   * What is fetched into the database meets the same damage again: it goes as a whole, and that takes a start. Only once,
   * though each replica may tell it.
   */
  databaseUnfit(error: HansardError): void {
    const { giveUpDatabase, replicationFactor, fatal } = this.#context;
    if (this.#isGivingUp || this.#stopped || giveUpDatabase === undefined || replicationFactor < 2) return;
    this.#isGivingUp = true;
    const what = `the database can not take in what is fetched anew: the next start moves it aside, and fetches all of it (${error.message})`;
    giveUpDatabase().then(() => fatal(new HansardError('STORE_DAMAGED', what)), fatal);
  }

  /** Somebody else holds the data: only then this replica may stop answering. */
  canBeMended(partition: PartitionId): boolean {
    const replica = this.#context.replica(partition);
    return replica !== undefined && (replica.isStateDamaged || replica.members.length > 1);
  }

  #stateFault(replica: Replica, why: string): ReplicaFault {
    const { partition, replicaId } = replica;
    const generation = this.#context.store.generationOf(partition);
    const sinceUs = this.#context.clock.nowUs();
    return { partition, replicaId, kind: 'state-damaged', sinceUs, why, generation, floor: noPlace };
  }

  #logFault({ partition, replicaId, kind, why }: ReplicaFault): void {
    this.#context.logger.error({ partition, replicaId, kind, why }, 'a replica is damaged');
  }

  async #handOver(replica: Replica): Promise<void> {
    const { clock } = this.#context;
    const endMs = clock.monotonicMs() + handOverMs;
    while (replica.isLeader && clock.monotonicMs() < endMs && !this.#stopped) {
      this.#context.handOver(replica);
      await this.#sleep(handOverPollMs);
    }
    // What it had proposed may be committed by the next leader: whoever waits should hear of it.
    const graceMs = clock.monotonicMs() + answerGraceMs;
    while (replica.owesAnswers && clock.monotonicMs() < graceMs && !this.#stopped)
      await this.#sleep(handOverPollMs);
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.#context.clock.after(ms, resolve));
  }

  // ---- it is over

  /** All rows are in the store: the replica leaves the loop, the snapshot becomes its state, and it comes back sound. */
  mendState(replica: Replica, staged: StagedSnapshot): void {
    const { partition, replicaId, log } = replica;
    const { ledger, logger } = this.#context;
    const mended = this.#context.queued(partition, async () => {
      if (this.#context.replica(partition) !== replica) return staged.abandon();
      this.#context.close(replica);
      await this.#logWritten();
      await staged.finish();
      if (log.term(staged.index) !== staged.term) {
        // What was committed stands there now: the log held something else, or nothing.
        log.reset(staged.index, staged.term);
        await this.#logWritten();
      }
      await ledger.clear(partition, ['state-damaged']);
      this.#context.open(partition, replicaId);
      this.repaired++;
      this.#context.changed();
      logger.info({ partition, replicaId, index: staged.index }, 'a damaged replica has a sound state again');
    });
    mended.catch((error: unknown) => {
      if (!this.#stopped) this.#context.fatal(error);
    });
  }

  /** The log has all again. */
  caughtUpWithFloor(replica: Replica): void {
    const { partition, replicaId } = replica;
    this.#context.logger.info({ partition, replicaId }, "a damaged replica's log is whole again");
    this.#over(partition, 'log-damaged');
  }

  #over(partition: PartitionId, kind: FaultKind): void {
    const { ledger } = this.#context;
    this.repaired++;
    const cleared =
      kind === 'term-or-vote-lost' ? ledger.replaced(partition) : ledger.clear(partition, [kind]);
    cleared
      .then(() => this.#context.changed())
      .catch((error: unknown) => {
        if (!this.#stopped) this.#context.fatal(error);
      });
  }

  // ---- asking for help

  #watch(): void {
    if (this.#timer !== undefined || this.#stopped || this.faults.length === 0) return;
    this.#timer = this.#context.clock.after(lookMs, () => {
      this.#timer = undefined;
      this.#look();
      this.#watch();
    });
  }

  /** Turn about, so that those whose leader is away hold up nobody. */
  #look(): void {
    const { faults } = this;
    const count = Math.min(asksPerLook, faults.length);
    const from = this.#next;
    for (let i = 0; i < count; i++) {
      const fault = faults[(from + i) % faults.length] as ReplicaFault;
      this.#ask(fault).catch((error: unknown) => {
        if (!(error instanceof HansardError)) this.#context.fatal(error);
        else
          this.#context.logger.debug(
            { partition: fault.partition, error: error.message },
            'no help for a damaged replica yet',
          );
      });
    }
    this.#next = faults.length === 0 ? 0 : (from + count) % faults.length;
  }

  async #ask(fault: ReplicaFault): Promise<void> {
    const { partition, kind } = fault;
    const { nodeId, clock, isConnected, leaderOf } = this.#context;
    const replica = this.#context.replica(partition);
    const key = `${partition}/${kind}`;
    if (this.#stopped || this.#asking.has(key)) return;
    if (kind !== 'term-or-vote-lost' && replica !== undefined && replica.replicaId > fault.replicaId)
      return this.#context.ledger.clear(partition, [kind]);
    if (replica !== undefined && !this.#isFaulty(replica, fault)) return;
    const leader = leaderOf(partition);
    if (leader === undefined || leader === nodeId || !isConnected(leader)) return;
    const request = this.#request(fault, replica);
    this.#asking.add(key);
    try {
      const deadlineMs = clock.monotonicMs() + askDeadlineMs;
      const bytes = await this.#context.ask(
        leader,
        repairReplicaMethod,
        encodeRepairRequest(request),
        deadlineMs,
      );
      if (!this.#stopped && replica === this.#context.replica(partition))
        this.#answered(fault, replica, leader, bytes);
    } catch (error) {
      const isOver = error instanceof HansardError && error.reason === 'NOT_A_MEMBER';
      if (!isOver || kind !== 'term-or-vote-lost' || this.#stopped) throw error;
      // Others are in its place: nothing is left to be mended, once what is here is gone.
      if (this.#context.replica(partition) === undefined) this.#over(partition, kind);
    } finally {
      this.#asking.delete(key);
    }
  }

  /** Of a later replica in its place, or one that is sound already, nothing is asked. */
  #isFaulty(replica: Replica, { partition, replicaId, kind }: ReplicaFault): boolean {
    if (kind === 'state-damaged') return replica.isStateDamaged;
    if (kind === 'log-damaged') return replica.floor !== undefined;
    if (replica.replicaId <= replicaId) return true;
    // Its successor: with a vote it is what the lost one was.
    if (!replica.isInitialised || !replica.conf.voters.includes(replica.replicaId)) return true;
    this.#context.logger.info(
      { partition, replicaId: replica.replicaId, instead: replicaId },
      'a replica took the place of a damaged one',
    );
    this.#over(partition, kind);
    return false;
  }

  #request({ partition, replicaId, kind }: ReplicaFault, replica: Replica | undefined): RepairRequest {
    return {
      partition,
      replicaId,
      kind,
      term: replica === undefined || replica.isMute ? 0 : replica.term,
      baseIndex: (replica?.log.firstIndex() ?? 1) - 1,
      lastIndex: replica?.log.lastIndex() ?? 0,
      life: this.#context.life,
    };
  }

  #answered(fault: ReplicaFault, replica: Replica | undefined, from: NodeId, bytes: Uint8Array): void {
    if (replica === undefined) return;
    const { term, leader, lastIndex, snapshot } = decodeRepairAnswer(bytes);
    if (fault.kind === 'log-damaged' && replica.floor?.index === unknownIndex) {
      // Who leads the term made all of its entries: none that was acknowledged is above its last one.
      replica.lowerFloor({ term, index: lastIndex });
    }
    if (fault.kind !== 'state-damaged' || snapshot === undefined || term < replica.term) return;
    const message = newMessage(MessageType.MsgSnap, replica.replicaId);
    message.from = leader;
    message.term = term;
    message.snapshot = { metadata: { ...snapshot, confState: noConfState }, data: undefined };
    if (replica.wantsSnapshot(snapshot)) this.#context.offered(replica, from, message);
  }

  // ---- giving help, as leader

  async handle(from: NodeId, bytes: Uint8Array): Promise<Uint8Array> {
    const request = decodeRepairRequest(bytes);
    const { partition, replicaId, kind } = request;
    const replica = this.#context.replica(partition);
    if (replica === undefined || !replica.isLeader || replica.term < request.term)
      throw (
        replica?.notLeader() ?? new HansardError('NOT_LEADER', `no replica of partition ${partition} here`)
      );
    let snapshot: { index: number; term: number } | undefined;
    if (kind === 'term-or-vote-lost') this.#replace(replica, replicaId, from);
    else if (replica.nodeOf(replicaId) !== from) {
      throw notThere(partition, replicaId);
    } else if (kind === 'state-damaged') snapshot = this.#snapshotFor(replica, request.baseIndex);
    else this.#lostEntries(replica, request);
    const { term, replicaId: leader } = replica;
    return encodeRepairAnswer({ term, leader, lastIndex: replica.lastIndex, snapshot });
  }

  /** What is sealed, if the other's log goes on from there. */
  #snapshotFor(
    { store, partition }: Replica,
    baseIndex: number,
  ): { index: number; term: number } | undefined {
    const { sealedIndex: index, sealedTerm: term } = store;
    const isOfToday = store.sealedMembership.changes === store.membership.changes;
    if (index > 0 && index >= baseIndex && isOfToday) return { index, term };
    this.#context.wantCheckpoint(partition);
    return undefined;
  }

  /** Once for each life of the asking process: what it has acknowledged since is true. */
  #lostEntries(replica: Replica, { partition, replicaId, lastIndex, life }: RepairRequest): void {
    const key = `${partition}/${replicaId}`;
    const told = this.#told.get(key);
    if (told?.life === life && told.term === replica.term) return;
    this.#told.set(key, { life, term: replica.term });
    replica.reportLostEntries(replicaId, lastIndex);
  }

  /** The next step: the lost one goes, another comes on the same node, and gets its vote. */
  #replace(replica: Replica, lost: ReplicaId, nodeId: NodeId): void {
    const { partition, store, conf } = replica;
    if (this.#replacing.has(partition)) return;
    const { members } = store.membership;
    const there = members.find((member) => member.nodeId === nodeId);
    const named = members.find((member) => member.replicaId === lost);
    // Of a life of the cluster that was given up: the id is another's by now.
    if (named !== undefined && named.nodeId !== nodeId) throw notThere(partition, lost);
    let change: ReplicaChange;
    if (named !== undefined) change = { kind: 'remove', replicaId: lost };
    else if (there === undefined && members.length >= this.#context.replicationFactor) {
      // It was replaced elsewhere meanwhile: an old fault must not bring one more.
      throw new HansardError('NOT_A_MEMBER', `partition ${partition} has all its replicas, without ${lost}`, {
        partition,
        replica: lost,
      });
    } else if (there === undefined) change = { kind: 'addLearner', nodeId };
    else if (conf.learners.includes(there.replicaId))
      change = { kind: 'promote', replicaId: there.replicaId };
    else return;
    this.#replacing.add(partition);
    const { clock, logger } = this.#context;
    this.#context
      .change(replica, change, clock.monotonicMs() + askDeadlineMs)
      .then(() => logger.info({ partition, lost, ...change }, 'a damaged replica is being replaced'))
      .catch((error: unknown) => {
        if (!(error instanceof HansardError)) return this.#context.fatal(error);
        // A learner that lags, another change under way: it is asked for again.
        logger.debug({ partition, lost, error: error.message }, 'replacing a damaged replica has to wait');
      })
      .finally(() => this.#replacing.delete(partition));
  }

  #logWritten(): Promise<void> {
    return new Promise((resolve) => this.#context.wal.write([], resolve));
  }
}

function notThere(partition: PartitionId, replica: ReplicaId): HansardError {
  const what = `partition ${partition} has no replica ${replica} there`;
  return new HansardError('NOT_A_MEMBER', what, { partition, replica });
}
