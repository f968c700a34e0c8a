/**
 * One replica of one partition: the joint between consensus, log and state.
 * Everything happens in turns: messages, proposals and durable writes stir the
 * replica, the node calls `collect` once per turn.
 */
import { HansardError, InvariantError } from '../common/errors.js';
import { isAtLeast, type LogPlace } from '../common/faults.js';
import type { Index, NodeId, PartitionId, ReplicaId, Term, TimeUs } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { ReplicaMember } from '../common/membership.js';
import { encodeEntry } from '../conversation/command.js';
import { type ConfChange, ConfChangeKind, leaveJointChange } from '../raft/conf-codec.js';
import { type Progress, ProgressState } from '../raft/progress.js';
import { RawNode, type WorkSink } from '../raft/raw-node.js';
import { type Message, MessageType, NONE, type ReadState, Role, type StepResult } from '../raft/types.js';
import { isStoreDamage } from '../store/rows.js';
import type { PartitionStore } from '../store/types.js';
import type { GroupLog } from '../wal/types.js';
import { Applier } from './applier.js';
import { CommitClock } from './commit-clock.js';
import { InstallGate, type StagedSnapshot, type StorageWork } from './install-gate.js';
import { ProducerGate } from './producer-gate.js';
import { end, type Proposal, Proposals } from './proposals.js';
import { nothingStored, RaftStorage } from './raft-storage.js';
import { ReadBarrier } from './read-barrier.js';
import type { ReadBarrierLevel } from './reads.js';
import { notLeader, notTaken, overloaded, stopping } from './refusals.js';
import { ReplicaMembers } from './replica-members.js';
import type { HeldBack, RaftJudging, ReplicaHost, ReplicaSettings, TurnOutput } from './types.js';

export interface ReplicaOptions {
  readonly replicaId: ReplicaId;
  readonly settings: ReplicaSettings;
  readonly log: GroupLog;
  readonly store: PartitionStore;
  readonly host: ReplicaHost;
  readonly judging?: RaftJudging | undefined;
  /** Undefined: it is sound. */
  readonly heldBack?: HeldBack | undefined;
}

const noMessages: readonly Message[] = Object.freeze([]);
/** Stands for whatever change is not a leave. */
const anyChange: ConfChange = Object.freeze({
  transition: 0,
  changes: [{ kind: ConfChangeKind.update, id: 0 }],
});

/** Outside a turn nothing is handed out. */
const outsideTurn = (): never => {
  throw new InvariantError('work is handed out in a turn');
};
const noOutput: TurnOutput = {
  send: outsideTurn,
  persist: outsideTurn,
  mayPropose: outsideTurn,
  allCommitted: outsideTurn,
  applies: outsideTurn,
};

export class Replica implements WorkSink {
  readonly partition: PartitionId;
  readonly replicaId: ReplicaId;
  readonly store: PartitionStore;
  readonly log: GroupLog;

  readonly #host: ReplicaHost;
  readonly #settings: ReplicaSettings;
  readonly #commitClock: CommitClock;
  readonly #raft: RawNode;
  readonly #proposals: Proposals;
  readonly #gate: ProducerGate<Proposal>;
  /** Who belongs to the group, and where they are. */
  readonly membership: ReplicaMembers;
  readonly reads: ReadBarrier;
  readonly #applier: Applier;
  readonly #install = new InstallGate();

  /** The loop's own mark: `collect` is due in this turn. */
  isStirred = false;

  /** Of each write that is not yet synced, oldest first: what is delivered then. */
  readonly #writes: Message[][] = [];
  /** Synced; delivered in the next turn, where there is an output to send with. */
  #afterSync: readonly Message[] = noMessages;
  /** Of the turn that runs. */
  #output: TurnOutput = noOutput;
  /** Vote requests of the work that is being handed out (design rule 9). */
  #heldVotes: Message[] | undefined;
  /** `tellCommit` will be called. */
  #isNoted = false;
  /** Newest commit index, to ride along with the next write. */
  #ridingCommit: Index = 0;
  /** As last handed to the log. */
  #hardTerm: Term;
  #hardVote: ReplicaId;
  /** As last observed. */
  #lead: ReplicaId = NONE;
  #role: Role = Role.follower;
  #term: Term = 0;
  /** A proposal made before this time, by a leader that we no longer are, ends as unknown. */
  #graceEndsMs = Number.POSITIVE_INFINITY;
  #graceTerm: Term = 0;
  /** Of appends that the gate holds. */
  #heldBytes = 0;
  #stopped = false;
  #isQuiescent = false;
  /** Its state is set aside: what is committed waits in the log for the snapshot that brings another. */
  readonly isStateDamaged: boolean;
  /** It must not say anything under its id. */
  readonly isMute: boolean;
  /** While its log lacks something that it may have acknowledged. */
  #floor: LogPlace | undefined;
  /** A snapshot is on its way into the place of the damaged state. */
  #isMending = false;

  constructor(options: ReplicaOptions) {
    const { settings, host, store, log } = options;
    this.partition = settings.partition;
    this.replicaId = options.replicaId;
    this.store = store;
    this.log = log;
    this.#host = host;
    this.#settings = settings;
    this.#commitClock = new CommitClock(
      () => host.trustedUs(),
      () => host.clock.monotonicMs(),
    );
    this.isStateDamaged = options.heldBack?.state ?? false;
    this.isMute = options.heldBack?.mute ?? false;
    this.#floor = options.heldBack?.floor;
    this.#raft = new RawNode({
      id: options.replicaId,
      storage: this.isMute
        ? nothingStored
        : new RaftStorage(log, store, () => host.wantCheckpoint(settings.partition)),
      random: (n) => host.random(n),
      electionTick: settings.electionTicks,
      heartbeatTick: settings.heartbeatTicks,
      // Of a state that is set aside nothing is handed out before it is back; then the core is made anew.
      applied: this.isMute ? 0 : this.isStateDamaged ? log.firstIndex() - 1 : store.appliedIndex,
      mayCampaign: () => this.#floor === undefined && !this.isMute && !this.isStateDamaged,
      asyncStorageWrites: true,
      maxSizePerMsg: settings.messageBytes,
      maxCommittedSizePerReady: settings.messageBytes,
      maxUncommittedEntriesSize: 0,
      maxInflightMsgs: settings.inflightMessages,
      maxInflightBytes: settings.inflightBytes,
      checkQuorum: true,
      preVote: true,
      ...options.judging,
      disableProposalForwarding: true,
      stepDownOnRemoval: true,
      tellsCommitWhenAsked: true,
    });
    this.#hardTerm = log.hardState.term;
    this.#hardVote = log.hardState.vote;
    this.#proposals = new Proposals(host.budget);
    this.#gate = new ProducerGate(
      host.clock,
      settings.producerHoldMs,
      (id) => store.lastCounterOf(id),
      (proposal, wasHeld) => this.#admitted(proposal, wasHeld),
    );
    this.reads = new ReadBarrier({
      partition: settings.partition,
      replicaId: options.replicaId,
      raft: this.#raft,
      clock: host.clock,
      retryMs: settings.readRetryMs,
      contextSeed: host.random(0x4000_0000) * 0x1000,
      appliedIndex: () => store.appliedIndex,
      stir: () => this.#stir(),
      wantSharedRound: () => host.wantReadRound(this),
    });
    this.#applier = new Applier(store, settings.applySliceBytes, host.decodedAhead, {
      fill: (entries) => log.fill(entries),
      applied: (index, term, answers) => this.#proposals.applied(index, term, answers),
      applyConfChange: (entry) => {
        if (this.membership.apply(entry, this.#raft)) host.membersChanged(this);
      },
      done: (message) => {
        this.#stepResponses(message.responses);
        this.#releaseCache();
      },
      mayApply: () => host.tailHasRoom(),
      later: () => this.#stir(),
      fatal: (error) => {
        if (isStoreDamage(error)) host.stateDamaged(this, error);
        else host.fatal(error);
      },
    });
    this.membership = new ReplicaMembers(settings.partition, options.replicaId, store, host);
    this.#observe();
  }

  // Of this moment, not as of the last turn: what is asked between a message and its turn (a round of reads that
  // begins, a proposal) must not be told what a leader was.

  get isLeader(): boolean {
    return this.#raft.role === Role.leader;
  }

  /** Nobody known: undefined. */
  get leader(): NodeId | undefined {
    const { lead } = this.#raft;
    return lead === NONE ? undefined : this.nodeOf(lead);
  }

  get term(): Term {
    return this.#raft.term;
  }

  /** Where the core's log ends, also what is not synced yet. */
  get lastIndex(): Index {
    return this.#raft.lastIndex;
  }

  get commitIndex(): Index {
    return this.#raft.commitIndex;
  }

  get appliedIndex(): Index {
    return this.store.appliedIndex;
  }

  /** The log may be cut up to here: sealed, and reported to the core as applied (it hands out nothing below again). */
  get cuttableIndex(): Index {
    return Math.min(this.store.sealedIndex, this.#raft.appliedIndex);
  }

  /** Where a replica is, as far as this one knows. */
  nodeOf(replicaId: ReplicaId): NodeId | undefined {
    return this.membership.nodeOf(replicaId);
  }

  // ---- members -------------------------------------------------------------

  /** In the order in which they should lead; learners too. */
  get members(): readonly ReplicaMember[] {
    return this.membership.all;
  }

  /** Those that vote, in either half of a joint configuration. */
  get voters(): readonly ReplicaMember[] {
    return this.membership.voters;
  }

  get conf(): ConfState {
    return this.store.confState;
  }

  /** It has a configuration. Without one it is new, knows nothing, and waits for a snapshot. */
  get isInitialised(): boolean {
    return this.store.confState.voters.length > 0;
  }

  /**
   * As leader: every member has the last change of members in its log, and hears
   * with the next heartbeats that it is committed. Until then one of them may have
   * to win an election by the votes of those whom that change removed.
   */
  get isChangeSettled(): boolean {
    return this.matchedByAll() >= this.membership.changedAt;
  }

  /** As leader: members that do not have the last change of members in their logs. */
  unaware(): readonly ReplicaMember[] {
    const match = (id: ReplicaId): Index => this.#raft.progressOf(id)?.match ?? 0;
    return this.members.filter(
      ({ replicaId }) => replicaId !== this.replicaId && match(replicaId) < this.membership.changedAt,
    );
  }

  /** As leader: how far a member is; not to be kept. */
  progressOf(replicaId: ReplicaId): Progress | undefined {
    return this.#raft.progressOf(replicaId);
  }

  /** Why no change of members may be proposed now (design rule 9); undefined: one may. */
  get changeGate(): 'not-leader' | 'new-term' | 'busy' | undefined {
    if (this.#stopped || !this.isLeader || this.#raft.isTransferring) return 'not-leader';
    if (this.store.appliedTerm !== this.#raft.term) return 'new-term';
    return this.#raft.confChangeProblem(anyChange) === undefined ? undefined : 'busy';
  }

  /** The configuration that `change` leads to, or why the core refuses it. */
  changeOutcome(change: ConfChange): ConfState | string {
    return this.#raft.changeOutcome(change);
  }

  /** Behind `changeGate` and `changeOutcome`. Its place in the log, or how it was not taken. */
  proposeChange(change: ConfChange): { readonly index: Index; readonly term: Term } | StepResult {
    const result = this.#raft.proposeConfChange(change);
    this.#stir();
    return result === 'ok' ? { index: this.#raft.lastIndex, term: this.#raft.term } : result;
  }

  /** The core leaves by itself as it applies the joint configuration; here, where a handover was in its way then. */
  #leaveJoint(): void {
    if (!this.isLeader || this.#raft.isTransferring) return;
    if (this.#raft.confChangeProblem(leaveJointChange) !== undefined) return;
    this.#raft.proposeConfChange(leaveJointChange);
    this.#stir();
  }

  // ---- what comes in -------------------------------------------------------

  /** A message of another replica. */
  step(given: Message): void {
    if (this.#stopped || this.isMute) return;
    const message = this.#floor === undefined ? given : this.#heldToFloor(given, this.#floor);
    if (message === undefined) return;
    // From the first entry on the log tells nothing to who does not know what was before it.
    if (message.type === MessageType.MsgApp && message.index === 0 && !this.isInitialised) return;
    if (message.type === MessageType.MsgHeartbeat && this.#lacksWhatItAcknowledged(message)) return;
    if (message.type === MessageType.MsgAppResp && this.#refusesWhatItHad(message)) return;
    if (message.type === MessageType.MsgTimeoutNow) this.#takeOver(message);
    else this.#raft.step(message);
    // An answer that was on its way when its leader fell quiet is no news.
    if (message.type === MessageType.MsgHeartbeatResp && this.isLeader) this.#host.stir(this);
    else this.#stir();
  }

  /** The leader hands over. */
  #takeOver(message: Message): void {
    const { term } = this.#raft;
    this.#raft.step(message);
    if (this.#raft.role === Role.candidate && this.#raft.term > term) this.#host.elections.handover++;
  }

  /**
   * A leader's heartbeat tells of no more than what this replica has acknowledged to it. Where
   * the log ends before that, it is one of an earlier time: an old copy of the folder, with
   * old votes. Nothing that it says from here on could be relied upon.
   */
  #lacksWhatItAcknowledged({ term, commit, from }: Message): boolean {
    if (term < this.#raft.term || commit <= this.log.lastIndex() || this.#floor !== undefined) return false;
    const { partition } = this;
    const what = `partition ${partition}: replica ${from} leads it and knows entries up to ${commit} to be kept here, the log ends at ${this.log.lastIndex()}: the folder is an older copy`;
    this.#host.fatal(new HansardError('REPLICA_LOST', what, { partition, expected: commit }));
    return true;
  }

  // ---- damage (docs/internals.md)

  /**
   * A refusal from before an acknowledgement, or of a member whose log lost what it had acknowledged and who
   * has not told yet (`reportLostEntries`). The core would send the same again at once, to be refused again,
   * without end; so the next heartbeat's answer brings it.
   */
  #refusesWhatItHad({ from, term, reject, index }: Message): boolean {
    if (!reject || !this.isLeader || term !== this.#raft.term) return false;
    return (this.#raft.progressOf(from)?.match ?? -1) >= index;
  }

  /** Where nothing above was ever acknowledged, while the log does not reach it; undefined: the log is sound. */
  get floor(): LogPlace | undefined {
    return this.#floor;
  }

  /** Told by its leader, where the index of the highest place was unknown. */
  lowerFloor(floor: LogPlace): void {
    if (this.#floor !== undefined && isAtLeast(this.#floor, floor)) this.#floor = floor;
    this.#stir();
  }

  /** Where its log ends, synced. */
  get lastPlace(): LogPlace {
    const index = this.log.lastIndex();
    const term = this.log.term(index);
    return { term: typeof term === 'number' ? term : 0, index };
  }

  /**
   * The log is as though it ended at the floor, where votes are asked for: whoever
   * lacks what this replica may have acknowledged does not get its vote. And it does
   * not stand, nor believe that what the leader once heard from it is there.
   */
  #heldToFloor(message: Message, floor: LogPlace): Message | undefined {
    switch (message.type) {
      case MessageType.MsgVote:
      case MessageType.MsgPreVote:
        return isAtLeast({ term: message.logTerm, index: message.index }, floor) ? message : undefined;
      case MessageType.MsgTimeoutNow:
        return undefined;
      case MessageType.MsgHeartbeat:
        return message.commit === 0 ? message : { ...message, commit: 0 };
      default:
        return message;
    }
  }

  /** As leader: a member told that its log lost entries, and where it ends now. */
  reportLostEntries(replicaId: ReplicaId, last: Index): void {
    this.#raft.reportLostEntries(replicaId, last);
    this.#stir();
  }

  /** Proposals whose end this replica still has to tell. */
  get owesAnswers(): boolean {
    return this.#proposals.unappliedBytes > 0;
  }

  /** The snapshot that was to take the place of the damaged state did not. */
  mendingFailed(): void {
    this.#isMending = false;
  }

  /** Due in the next turn; what has something to do is not quiescent. */
  #stir(): void {
    this.#endQuiet();
    this.#host.stir(this);
  }

  /** Whoever vouches by what was true until now hears of it before anything else happens. */
  #endQuiet(): void {
    if (!this.#isQuiescent) return;
    this.#isQuiescent = false;
    this.#host.woke(this);
  }

  // ---- quiescence (node/quiescence.ts)

  /** Not ticked: its leader's node vouches for it, until something comes. */
  get isQuiescent(): boolean {
    return this.#isQuiescent;
  }

  /** As leader: whether all is committed, applied, told and acknowledged, and nobody waits for anything. */
  get isIdle(): boolean {
    const raft = this.#raft;
    const last = raft.lastIndex;
    if (!this.isLeader || this.#stopped || this.isMute || this.isStateDamaged) return false;
    if (raft.commitIndex !== last || this.appliedIndex !== last || !raft.committedInCurrentTerm) return false;
    if (raft.isTransferring || raft.hasUntoldCommit) return false;
    if (!this.#hasNoneWaiting || !this.isInitialised || this.conf.votersOutgoing.length > 0) return false;
    return this.matchedByAll() === last;
  }

  /** As leader: all members answered since it last asked who follows it; false also right after it asked. */
  get hearsAll(): boolean {
    return this.members.every(
      ({ replicaId }) => replicaId === this.replicaId || this.#raft.progressOf(replicaId)?.recentActive,
    );
  }

  get #hasNoneWaiting(): boolean {
    return (
      this.#proposals.unappliedBytes === 0 &&
      !this.#proposals.hasPending &&
      this.#heldBytes === 0 &&
      !this.reads.isWaiting &&
      !this.#install.isBusy &&
      this.#graceEndsMs === Number.POSITIVE_INFINITY
    );
  }

  /** As an idle leader: from here on its node shows that it lives. */
  fallQuiet(): void {
    this.#isQuiescent = true;
  }

  /**
   * The node `by` says that it leads in `term`, and that nothing follows `commit`. True: this
   * replica knows that leader and has all of it, so this was as good as its heartbeat; it
   * is quiescent then, where nobody waits here. False: only the leader itself can help.
   */
  vouchedFor(by: NodeId, term: Term, commit: Index): boolean {
    const raft = this.#raft;
    if (this.#stopped || this.isMute || this.isLeader || this.#floor !== undefined) return false;
    if (raft.term !== term || this.leader !== by) return false;
    if (raft.commitIndex !== commit || raft.lastIndex !== commit) return false;
    raft.leaderHeard();
    if (this.#hasNoneWaiting && this.appliedIndex === commit && !raft.hasReady()) this.#isQuiescent = true;
    else this.#endQuiet();
    return true;
  }

  /** As a quiescent follower: its leader lives, and speaks for itself from now on. */
  vouchEnded(): void {
    this.#raft.leaderHeard();
    this.#endQuiet();
  }

  /**
   * Nothing vouches any more. A follower waits for what is left of its election timeout, which no
   * two have alike; a leader finds out anew who follows it.
   */
  wake(): void {
    if (!this.#isQuiescent) return;
    this.#endQuiet();
    this.#raft.endQuiet(this.#settings.electionTicks);
  }

  tick(nowMs: number): void {
    if (this.#stopped || this.isMute) return;
    this.#tickRaft();
    this.#proposals.expire(nowMs);
    if (this.conf.autoLeave) this.#leaveJoint();
    // A handover that failed: what waited for it goes on.
    if (this.#proposals.hasPending && !this.#raft.isTransferring) this.#stir();
    this.reads.tick(nowMs);
    if (nowMs >= this.#graceEndsMs) {
      this.#graceEndsMs = Number.POSITIVE_INFINITY;
      this.#proposals.giveUp(this.#graceTerm, 'this node lost leadership before it was committed');
    }
    if (this.#raft.hasReady()) this.#stir();
  }

  #tickRaft(): void {
    const raft = this.#raft;
    const led = this.isLeader;
    raft.tick();
    // A follower's time begins anew in its tick where it stands for election, and nowhere else.
    if (!led && raft.electionElapsed === 0 && raft.role !== Role.follower) this.#host.elections.silence++;
  }

  /** Ends exactly once; see NodeService.propose. */
  submit(proposal: Proposal): void {
    const refusal = this.#admission(proposal.command.length);
    if (refusal !== undefined) end(proposal, refusal);
    else if (proposal.producerId === 0) this.#admitted(proposal, false);
    else if (!this.#gate.enter(proposal)) this.#hold(proposal.command.length);
  }

  /** It is its turn, at once or after the gate has held it. */
  #admitted(proposal: Proposal, wasHeld: boolean): void {
    if (wasHeld) this.#hold(-proposal.command.length);
    if (!this.isLeader) return end(proposal, this.notLeader());
    this.#proposals.add(proposal);
    this.#endQuiet();
    this.#host.proposes(this);
  }

  /** What waits at the gate counts as much as what is proposed. */
  #hold(bytes: number): void {
    this.#heldBytes += bytes;
    this.#host.budget.usedBytes += bytes;
  }

  /** Resolves once this replica's state may answer. `maxStalenessMs`: for 'bounded'. */
  readBarrier(
    level: ReadBarrierLevel,
    minIndex: Index,
    deadlineMs: number,
    maxStalenessMs = 0,
  ): Promise<void> {
    // No tick would end it.
    if (this.#stopped) return Promise.reject(stopping());
    if (!this.isInitialised || this.isMute) return Promise.reject(this.notLeader());
    // While somebody waits, time counts here.
    this.#endQuiet();
    return this.reads.wait(level, minIndex, deadlineMs, maxStalenessMs);
  }

  campaign(): void {
    if (this.#stopped || this.isLeader || this.isMute) return;
    this.#raft.campaign();
    if (this.#raft.role !== Role.follower) this.#host.elections.gone++;
    this.#stir();
  }

  /** The leader's process is gone: an election need not wait for its timeout. */
  forgetLeader(): void {
    this.#raft.forgetLeader();
    this.#stir();
  }

  transferLeadership(to: ReplicaId): void {
    if (!this.isLeader) return;
    this.#raft.transferLeader(to);
    this.#stir();
  }

  reportUnreachable(replicaId: ReplicaId): void {
    this.#raft.reportUnreachable(replicaId);
    this.#stir();
  }

  /** As leader: what every member has acknowledged; followers learn it from the leader. */
  matchedByAll(): Index {
    let matched = this.#raft.lastIndex;
    for (const { replicaId } of this.members) {
      if (replicaId !== this.replicaId)
        matched = Math.min(matched, this.#raft.progressOf(replicaId)?.match ?? 0);
    }
    return matched;
  }

  /**
   * As leader: what the members have that take entries as they come. One that is
   * away, or waits for a snapshot, holds nothing back here.
   */
  matchedByThoseThatFollow(): Index {
    let matched = this.#raft.lastIndex;
    for (const { replicaId } of this.members) {
      const progress = replicaId === this.replicaId ? undefined : this.#raft.progressOf(replicaId);
      if (progress?.recentActive && progress.state === ProgressState.replicate) {
        matched = Math.min(matched, progress.match);
      }
    }
    return matched;
  }

  /**
   * As leader: has this member all that is committed, and was it heard lately? A
   * process that hangs keeps its links for seconds, and a handover to it stops
   * appends for an election timeout.
   */
  isCaughtUp(replicaId: ReplicaId): boolean {
    const progress = this.#raft.progressOf(replicaId);
    return progress?.recentActive === true && progress.match >= this.#raft.commitIndex;
  }

  stop(): void {
    this.#end(stopping(), 'the node is stopping');
  }

  /** It is no member any more: whoever waits here goes on elsewhere. */
  retire(): void {
    this.#end(this.notLeader(), 'this replica was removed');
    this.#install.abandon();
  }

  #end(error: HansardError, reason: string): void {
    this.#stopped = true;
    this.#applier.stop();
    this.#gate.clear();
    this.#proposals.rejectPending(error);
    this.#proposals.giveUp(Number.MAX_SAFE_INTEGER, reason);
    this.reads.stop(error);
  }

  // ---- the turn ------------------------------------------------------------

  /** Proposes what has gathered, then hands out all that the core wants done. */
  collect(output: TurnOutput): void {
    if (this.#stopped || this.isMute) return;
    this.#output = output;
    // What came before this turn may have deposed it: whoever waits here learns of the next leader, and not of this one.
    this.#observe();
    if (this.#floor !== undefined && isAtLeast(this.lastPlace, this.#floor)) {
      // All of it came from a leader that had it, and is synced here.
      this.#floor = undefined;
      this.#host.caughtUpWithFloor(this);
    }
    const afterSync = this.#afterSync;
    if (afterSync.length > 0) {
      this.#afterSync = noMessages;
      this.#deliver(afterSync);
    }
    if (this.#install.isBusy) this.#endInstall();
    // A handover takes a round trip; what comes meanwhile waits, and either goes on here or learns who leads.
    if (this.#proposals.hasPending && !this.#raft.isTransferring && output.mayPropose(this))
      this.#flushProposals();
    this.reads.startDue();
    while (this.#raft.drain(this));
    if (this.#install.isBusy) this.#startInstall();
    if (!this.#isNoted && this.#raft.hasUntoldCommit) {
      this.#isNoted = true;
      this.#host.noteCommit(this);
    }
    if (!this.#applier.isIdle) output.applies(this);
    this.reads.applied();
  }

  /** The other nodes and the disk work on what this turn gave them meanwhile. */
  applyCommitted(): void {
    if (this.#stopped || this.isMute) return;
    this.#applier.pump();
    if (this.#raft.hasReady() || (this.#install.isBusy && this.#applier.isIdle)) this.#stir();
  }

  /** What was noted is due: followers hear of the commit index that nothing has brought them meanwhile. */
  tellCommit(): void {
    this.#isNoted = false;
    if (this.#stopped || !this.#raft.hasUntoldCommit) return;
    this.#raft.tellCommit();
    this.#stir();
  }

  #flushProposals(): void {
    while (this.#proposals.hasPending) {
      const proposals = this.#proposals.takeEntry(this.#settings.entryBytes);
      const commands = proposals.map((proposal) => proposal.command);
      const data = encodeEntry(commands, this.commitNowUs(), this.store.meta.settings.applyVersion);
      const result = this.#raft.propose(data);
      if (result === 'ok') this.#proposals.proposed(this.#raft.lastIndex, this.#raft.term, proposals);
      else this.#proposals.notProposed(proposals, notTaken(this.partition, this.leader, result));
    }
  }

  /** What a leader stamps now: what waits for a commit time is due when this has reached it. */
  commitNowUs(): TimeUs {
    return this.#commitClock.nowUs(this.store.meta.lastCommitTimeUs);
  }

  /** For a peer that leads this partition in `term`, or did: nobody has been elected here since, as far as this replica goes. */
  vouchesFor(peer: NodeId, term: Term): boolean {
    if (this.#stopped || this.isMute || this.#raft.term !== term) return false;
    // Without a configuration it still knows whom it follows.
    if (!this.isInitialised) return this.leader === peer;
    return this.members.some(({ nodeId }) => nodeId === peer);
  }

  // What the core wants done, one after the other (WorkSink).

  observeState(): void {
    this.#observe();
  }

  readState(state: ReadState): void {
    this.reads.confirmed(state.context, state.index);
  }

  send(message: Message, mustSync: boolean): void {
    if (mustSync && message.type === MessageType.MsgVote) {
      // The candidate's new term and its own vote are in the write that follows:
      // nobody hears of them before (rule 9).
      this.#heldVotes ??= [];
      this.#heldVotes.push(message);
    } else this.#output.send(this, message);
  }

  /** Its responses, and what is held, wait for the write, or for those under way where nothing is written. */
  append(message: Message): void {
    const work = { message, held: this.#heldVotes };
    this.#heldVotes = undefined;
    this.#keep(work);
  }

  /** Rides along with the next write, or is recorded once the log is idle: a restart goes on from there by itself. */
  committed(index: Index): void {
    if (index <= this.#ridingCommit) return;
    this.#ridingCommit = index;
    this.log.recordCommit(index);
  }

  apply(message: Message): void {
    if (this.isLeader && this.#raft.commitIndex === this.#raft.lastIndex) this.#output.allCommitted();
    // It stays in the log.
    if (!this.isStateDamaged) this.#applier.push(message);
  }

  #keep(work: StorageWork): void {
    if (this.#install.holds(work)) return;
    if (work.message.snapshot !== undefined) this.#install.begin(work);
    else this.#write(work);
  }

  /** `always`: its responses wait for a write of its own. */
  #write({ message, held }: StorageWork, always = false): void {
    const termOrVote =
      message.term !== 0 && (message.term !== this.#hardTerm || message.vote !== this.#hardVote);
    if (message.term !== 0) {
      this.#hardTerm = message.term;
      this.#hardVote = message.vote;
      this.committed(message.commit);
    }
    const responses = held === undefined ? message.responses : message.responses.concat(held);
    if (message.entries.length === 0 && !termOrVote && held === undefined && !always) {
      const last = this.#writes[this.#writes.length - 1];
      if (last !== undefined) for (const response of responses) last.push(response);
      else this.#deliver(responses);
      return;
    }
    // The list is ours from here on: the core gives each away once.
    this.#writes.push(responses as Message[]);
    this.#output.persist(this, {
      partition: this.partition,
      hardState: { term: this.#hardTerm, vote: this.#hardVote, commit: this.#ridingCommit },
      entries: message.entries,
    });
  }

  // ---- snapshots

  /** As follower: would this snapshot bring it on? False: the core has a shorter answer to it. */
  wantsSnapshot({ index, term }: { readonly index: Index; readonly term: Term }): boolean {
    if (this.#stopped || this.#install.isBusy || this.#isMending || this.isMute) return false;
    // Any that the log goes on from.
    if (this.isStateDamaged) return index + 1 >= this.log.firstIndex();
    return index > this.#raft.commitIndex && this.#raft.termAt(index) !== term;
  }

  /** A snapshot is taking the state's place. */
  get isInstalling(): boolean {
    return this.#install.isBusy;
  }

  /**
   * All rows of a snapshot are in the store: `message` (MsgSnap) is stepped as
   * though it had just come with it. False: the core does not want it (any more,
   * or from this sender).
   */
  offerSnapshot(message: Message, staged: StagedSnapshot): boolean {
    if (!this.wantsSnapshot(staged)) return false;
    if (this.isStateDamaged) {
      this.#isMending = true;
      this.#host.mendState(this, staged);
      return true;
    }
    const { index, term, confState } = staged;
    this.#install.offer(staged);
    this.#raft.step({ ...message, snapshot: { metadata: { index, term, confState }, data: undefined } });
    const taken = this.#raft.pendingSnapshot?.metadata.index === index;
    if (!taken) this.#install.withdraw();
    this.#stir();
    return taken;
  }

  /** As leader: does the core wait for this member to take in a snapshot? */
  awaitsSnapshot(replicaId: ReplicaId): boolean {
    return this.isLeader && this.#raft.progressOf(replicaId)?.state === ProgressState.snapshot;
  }

  /** As leader: the member will not take in what it was sent; the core looks anew. */
  reportSnapshotFailed(replicaId: ReplicaId): void {
    this.#raft.reportSnapshot(replicaId, 'failed');
    this.#stir();
  }

  #startInstall(): void {
    this.#install.start(
      this.#applier.isIdle,
      () => this.#stir(),
      (error) => this.#host.fatal(error),
    );
  }

  /** The store has decided: the log follows, and what waited is carried out behind it. */
  #endInstall(): void {
    const decided = this.#install.takeDecided();
    if (decided === undefined) return;
    const { index, term } = decided.staged;
    this.log.reset(index, term);
    this.#proposals.skippedTo(index);
    this.membership.replaced(index);
    this.#host.membersChanged(this);
    // The responses tell of the snapshot: the log's new start must be synced with it.
    this.#write(decided.work, true);
    for (const work of decided.behind) this.#keep(work);
  }

  /** The oldest write that was handed out is synced. */
  durable(): void {
    if (this.#stopped) return;
    const responses = this.#writes.shift();
    if (responses === undefined)
      throw new InvariantError(`partition ${this.partition}: a write completed that was never begun`);
    this.#afterSync = this.#afterSync.length === 0 ? responses : this.#afterSync.concat(responses);
    this.#stir();
  }

  /** Acknowledgements to the same leader in the same term become one, the furthest: it says what all of them say. */
  #deliver(responses: readonly Message[]): void {
    let ack: Message | undefined;
    for (let i = 0; i < responses.length; i++) {
      const response = responses[i] as Message;
      if (response.to === this.replicaId) this.#raft.step(response);
      else if (response.type !== MessageType.MsgAppResp || response.reject) this.#output.send(this, response);
      else if (ack === undefined) ack = response;
      else if (ack.to === response.to && ack.term === response.term) {
        if (response.index > ack.index) ack = response;
      } else {
        this.#output.send(this, ack);
        ack = response;
      }
    }
    if (ack !== undefined) this.#output.send(this, ack);
  }

  #stepResponses(responses: readonly Message[]): void {
    for (const response of responses) this.#raft.step(response);
    this.reads.applied();
  }

  /** Payloads that nobody will ask for again soon may leave the cache; who lags further is read to from disk. */
  #releaseCache(): void {
    let index = this.appliedIndex;
    if (this.isLeader) {
      for (const { replicaId } of this.members) {
        const progress = replicaId === this.replicaId ? undefined : this.#raft.progressOf(replicaId);
        if (progress?.recentActive) index = Math.min(index, progress.match);
      }
    }
    this.log.releaseCache(index);
  }

  /** Role, leader or term may have changed. */
  #observe(): void {
    const wasLeader = this.#role === Role.leader;
    const { lead, role, term } = this.#raft;
    if (lead === this.#lead && role === this.#role && term === this.#term) return;
    const before = this.#term;
    this.#lead = lead;
    this.#role = role;
    this.#term = term;
    if (wasLeader && !this.isLeader) this.#lostLeadership(before);
    // Commit time goes on from here, not only from the first entry on.
    if (!wasLeader && this.isLeader) this.commitNowUs();
    if (this.isLeader) this.#raft.heartbeatIn(this.#host.ticksToBeat());
    this.#host.leadershipChanged(this);
  }

  #lostLeadership(term: Term): void {
    this.#proposals.rejectPending(this.notLeader());
    this.#gate.clear();
    this.#graceTerm = term;
    this.#graceEndsMs = this.#host.clock.monotonicMs() + this.#settings.outcomeGraceMs;
  }

  // ---- refusals ------------------------------------------------------------

  #admission(bytes: number): HansardError | undefined {
    if (this.#stopped) return stopping();
    if (!this.isLeader) return this.notLeader();
    const { budget } = this.#host;
    const waiting = this.#proposals.unappliedBytes + this.#heldBytes;
    // A single command may be larger than what is left of the limit, never wait for ever.
    const full = waiting > 0 && waiting + bytes > this.#settings.uncommittedBytes;
    // Full tails stop applying, so that these bytes stay and the limit is met: admission stops with them.
    if (full || budget.usedBytes + bytes > budget.limitBytes) {
      return overloaded(this.partition, `${waiting} bytes of appends that are not committed yet`);
    }
    return undefined;
  }

  notLeader(): HansardError {
    return notLeader(this.partition, this.leader);
  }
}
