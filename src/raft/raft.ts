/**
 * The state of one replica, how it changes roles, and the order in which a
 * message is judged: its term first, then what every role answers alike, then
 * the role's own step.
 */
import { assert, InvariantError } from '../common/errors.js';
import type { Index, ReplicaId, Term } from '../common/ids.js';
import { type Entry, EntryType, type HardState } from '../common/log-types.js';
import { encodeConfChange, leaveJointChange } from './conf-codec.js';
import { restore } from './confchange.js';
import { campaign, handleVoteRequest } from './election.js';
import { RaftLog } from './log.js';
import { switchTo } from './membership.js';
import { ReadOnly } from './read-only.js';
import { entriesSize, payloadsSize } from './size.js';
import { stepCandidate, stepFollower } from './step-follower.js';
import { stepLeader } from './step-leader.js';
import { traceReceive, traceSend } from './trace.js';
import { describeConfig, Tracker } from './tracker.js';
import {
  CAMPAIGN_TRANSFER,
  type Config,
  configDefaults,
  MessageType as M,
  type Message,
  message,
  messageTypeNames,
  NO_LIMIT,
  NONE,
  type ReadState,
  Role,
  type Snapshot,
  type StepResult,
} from './types.js';

const NO_DATA = new Uint8Array(0);

export class Raft {
  readonly id: ReplicaId;
  term: Term = 0;
  vote: ReplicaId = NONE;
  role: Role = Role.follower;
  lead: ReplicaId = NONE;
  /** Whom the leader is handing over to. */
  leadTransferee: ReplicaId = NONE;
  readonly log: RaftLog;
  readonly tracker = new Tracker();
  readonly readOnly = new ReadOnly();

  /** May leave at once. Never to this replica itself. */
  msgs: Message[] = [];
  /**
   * Answers that promise something kept: they leave when all that is unstable
   * now (term, vote, entries, snapshot; also what is being written) is synced.
   * Some are to this replica itself.
   */
  msgsAfterAppend: Message[] = [];
  readStates: ReadState[] = [];
  /** Reads that came before this leader had committed an entry of its term. */
  pendingReads: Message[] = [];

  /** At or above the last configuration change that may be unapplied; none is taken until applied gets there. */
  pendingConfIndex: Index = 0;
  /** Bytes of data that this leader has appended and not seen applied; never too high. */
  #uncommittedSize = 0;

  electionElapsed = 0;
  #heartbeatElapsed = 0;
  randomizedElectionTimeout = 0;

  readonly electionTick: number;
  readonly #heartbeatTick: number;
  readonly #random: (n: number) => number;
  readonly #maxUncommittedSize: number;
  readonly maxSizePerMsg: number;
  readonly maxInflightMsgs: number;
  readonly maxInflightBytes: number;
  readonly checkQuorum: boolean;
  readonly preVote: boolean;
  readonly leaseReads: boolean;
  readonly disableProposalForwarding: boolean;
  readonly disableConfChangeValidation: boolean;
  readonly stepDownOnRemoval: boolean;
  readonly tellsCommitWhenAsked: boolean;
  readonly #mayCampaign: () => boolean;
  readonly logger: Config['logger'];
  /** Set once the start is over: what came before is told as one state. */
  readonly tracer: Config['tracer'];

  constructor(config: Config) {
    this.id = config.id;
    this.electionTick = config.electionTick ?? configDefaults.electionTick;
    this.#heartbeatTick = config.heartbeatTick ?? configDefaults.heartbeatTick;
    this.#random = config.random;
    this.maxSizePerMsg = config.maxSizePerMsg ?? configDefaults.maxSizePerMsg;
    this.maxInflightMsgs = config.maxInflightMsgs ?? configDefaults.maxInflightMsgs;
    this.maxInflightBytes = config.maxInflightBytes || NO_LIMIT;
    this.#maxUncommittedSize = config.maxUncommittedEntriesSize || NO_LIMIT;
    this.checkQuorum = config.checkQuorum ?? false;
    this.preVote = config.preVote ?? false;
    this.leaseReads = config.readOnly === 'lease-based';
    this.disableProposalForwarding = config.disableProposalForwarding ?? false;
    this.disableConfChangeValidation = config.disableConfChangeValidation ?? false;
    this.stepDownOnRemoval = config.stepDownOnRemoval ?? false;
    this.tellsCommitWhenAsked = config.tellsCommitWhenAsked ?? false;
    this.#mayCampaign = config.mayCampaign ?? (() => true);
    this.logger = config.logger;
    this.#validate();

    this.log = new RaftLog(
      config.storage,
      Math.max(1, config.maxCommittedSizePerReady || this.maxSizePerMsg),
      this.logger,
    );
    const { hardState, confState } = config.storage.initialState();
    const lastIndex = this.log.lastIndex();
    const { config: members, progress } = restore(confState, { ...this.limits, lastIndex });
    switchTo(this, members, progress);
    this.#loadState(hardState);
    if (config.applied !== undefined && config.applied > 0) this.log.appliedTo(config.applied, 0);
    this.becomeFollower(this.term, NONE);
    this.tracer = config.tracer;
    this.tracer?.('InitState', this);
    this.logger?.info(
      `newRaft ${this.id} [peers: [${this.tracker.voters().join(',')}], term: ${this.term}, commit: ${this.log.committed}, applied: ${this.log.applied}, lastindex: ${lastIndex}, lastterm: ${this.log.lastTerm()}]`,
    );
  }

  get limits(): { maxInflightMsgs: number; maxInflightBytes: number } {
    return { maxInflightMsgs: this.maxInflightMsgs, maxInflightBytes: this.maxInflightBytes };
  }

  #validate(): void {
    if (!(this.id > 0 && Number.isSafeInteger(this.id)))
      throw new InvariantError(`replica id ${this.id} is not positive`);
    assert(this.#heartbeatTick > 0, 'heartbeatTick must be positive');
    assert(this.electionTick > this.#heartbeatTick, 'electionTick must be above heartbeatTick');
    assert(this.maxInflightMsgs > 0, 'maxInflightMsgs must be positive');
    assert(
      this.maxInflightBytes === NO_LIMIT || this.maxInflightBytes >= this.maxSizePerMsg,
      'maxInflightBytes must hold a message of maxSizePerMsg',
    );
    assert(!this.leaseReads || this.checkQuorum, 'lease-based reads need checkQuorum');
  }

  #loadState(state: HardState): void {
    if (state.term === 0 && state.vote === NONE && state.commit === 0) return;
    if (!(state.commit >= this.log.committed && state.commit <= this.log.lastIndex()))
      throw new InvariantError(
        `stored commit ${state.commit} is outside [${this.log.committed}, ${this.log.lastIndex()}]`,
      );
    this.log.committed = state.commit;
    this.term = state.term;
    this.vote = state.vote;
  }

  // ---------------------------------------------------------------- roles

  becomeFollower(term: Term, lead: ReplicaId): void {
    this.#reset(term);
    this.lead = lead;
    this.role = Role.follower;
    this.tracer?.('BecomeFollower', this);
    this.logger?.info(`${this.id} became follower at term ${this.term}`);
  }

  becomePreCandidate(): void {
    assert(this.role !== Role.leader, 'a leader can not become pre-candidate');
    // Neither term nor vote change: a pre-vote promises nothing.
    this.tracker.resetVotes();
    this.lead = NONE;
    this.role = Role.preCandidate;
    this.logger?.info(`${this.id} became pre-candidate at term ${this.term}`);
  }

  becomeCandidate(): void {
    assert(this.role !== Role.leader, 'a leader can not become candidate');
    this.#reset(this.term + 1);
    this.vote = this.id;
    this.role = Role.candidate;
    this.tracer?.('BecomeCandidate', this);
    this.logger?.info(`${this.id} became candidate at term ${this.term}`);
  }

  becomeLeader(): void {
    assert(this.role !== Role.follower, 'a follower can not become leader');
    this.#reset(this.term);
    this.lead = this.id;
    this.role = Role.leader;
    const self = this.tracker.get(this.id);
    assert(self !== undefined, 'a leader that is no member');
    self.becomeReplicate();
    self.recentActive = true;
    // There may be a configuration change in the tail; rather than look for it,
    // take no other until all of the tail is applied.
    this.pendingConfIndex = this.log.lastIndex();
    this.tracer?.('BecomeLeader', this);
    const accepted = this.appendEntries([emptyEntry()]);
    assert(accepted, "the new leader's own entry was refused");
    this.logger?.info(`${this.id} became leader at term ${this.term}`);
  }

  #reset(term: Term): void {
    if (this.term !== term) {
      this.term = term;
      this.vote = NONE;
    }
    this.lead = NONE;
    this.electionElapsed = 0;
    this.#heartbeatElapsed = 0;
    this.randomizedElectionTimeout = this.electionTick + this.#random(this.electionTick);
    this.leadTransferee = NONE;
    this.tracker.resetVotes();
    const last = this.log.lastIndex();
    for (const pr of this.tracker.progress) pr.restart(pr.id === this.id ? last : 0, last + 1);
    this.pendingConfIndex = 0;
    this.#uncommittedSize = 0;
    this.readOnly.reset();
    this.pendingReads = [];
  }

  /** Can this replica lead? Not while a snapshot is pending: its configuration is not known to be applied. */
  promotable(): boolean {
    const self = this.tracker.get(this.id);
    const isVoter = self !== undefined && !self.isLearner;
    return isVoter && !this.log.hasNextOrInProgressSnapshot() && this.#mayCampaign();
  }

  // ---------------------------------------------------------------- time

  tick(): void {
    if (this.role === Role.leader) this.#tickLeader();
    else this.#tickOthers();
  }

  #tickOthers(): void {
    this.electionElapsed++;
    if (this.electionElapsed < this.randomizedElectionTimeout || !this.promotable()) return;
    this.electionElapsed = 0;
    this.step(this.#local(M.MsgHup));
  }

  #tickLeader(): void {
    this.#heartbeatElapsed++;
    this.electionElapsed++;
    if (this.electionElapsed >= this.electionTick) {
      this.electionElapsed = 0;
      if (this.checkQuorum) this.step(this.#local(M.MsgCheckQuorum));
      // A transfer that took an election timeout has failed: lead on.
      if (this.role === Role.leader) this.leadTransferee = NONE;
    }
    if (this.role !== Role.leader) return;
    if (this.#heartbeatElapsed >= this.#heartbeatTick) {
      this.#heartbeatElapsed = 0;
      this.step(this.#local(M.MsgBeat));
    }
  }

  /** A follower's leader lives: told by a word that vouches for many groups at once, and is no message of any. */
  leaderHeard(): void {
    if (this.role === Role.follower && this.lead !== NONE) this.electionElapsed = 0;
  }

  /**
   * The owner has not ticked this group, and goes on to. A follower has heard nothing of its
   * leader for `silentTicks`. What a leader knows of who follows it is old: it asks, and has an
   * election timeout to hear it.
   */
  endQuiet(silentTicks: number): void {
    if (this.role === Role.follower && this.lead !== NONE) this.electionElapsed = silentTicks;
    if (this.role !== Role.leader) return;
    this.electionElapsed = 0;
    for (const pr of this.tracker.progress) if (pr.id !== this.id) pr.recentActive = false;
  }

  /** Sets when a leader beats next: in `ticks`, of at most a heartbeat's own. */
  heartbeatIn(ticks: number): void {
    if (!(ticks >= 1 && ticks <= this.#heartbeatTick))
      throw new InvariantError(`a heartbeat in ${ticks} ticks`);
    this.#heartbeatElapsed = this.#heartbeatTick - ticks;
  }

  #local(type: M): Message {
    const m = message(type, NONE);
    m.from = this.id;
    return m;
  }

  // ---------------------------------------------------------------- messages

  /** Puts a message of this replica's own making on its way. */
  send(m: Message): void {
    if (m.from === NONE) m.from = this.id;
    switch (m.type) {
      case M.MsgVote:
      case M.MsgVoteResp:
      case M.MsgPreVote:
      case M.MsgPreVoteResp:
        // Pre-votes are about a term that is not ours yet, so the sender sets it.
        if (m.term === 0) throw new InvariantError(`${messageTypeNames[m.type]} without a term`);
        break;
      case M.MsgProp:
      case M.MsgReadIndex:
        // Forwarded to the leader, whichever term it is in.
        if (m.term !== 0) throw new InvariantError(`${messageTypeNames[m.type]} with a term`);
        break;
      default:
        if (m.term !== 0)
          throw new InvariantError(`${messageTypeNames[m.type]} with a term set by its sender`);
        m.term = this.term;
    }
    if (m.type === M.MsgAppResp || m.type === M.MsgVoteResp || m.type === M.MsgPreVoteResp) {
      // Raft, section 3.8 of the thesis: a vote or an acknowledgement that is
      // seen before it is kept can be given twice, or taken back, by a crash.
      // Refusals wait too; they are rare, and may rest on what is unsynced.
      this.msgsAfterAppend.push(m);
      traceSend(this, m);
    } else {
      if (m.to === this.id) throw new InvariantError(`${messageTypeNames[m.type]} to itself`);
      this.msgs.push(m);
      traceSend(this, m);
    }
  }

  step(m: Message): StepResult {
    if (m.term > this.term) {
      if (!this.#raiseTerm(m)) return 'ok';
    } else if (m.term !== 0 && m.term < this.term) {
      this.#stepLowerTerm(m);
      return 'ok';
    } else {
      traceReceive(this, m);
    }
    switch (m.type) {
      case M.MsgHup:
        campaign(this, this.preVote ? 'pre-election' : 'election');
        return 'ok';
      case M.MsgStorageAppendResp:
        if (m.index !== 0 && !this.log.unstable.stableTo(m.logTerm, m.index)) {
          this.logger?.info(`${this.id} ignored stale append of ${m.logTerm}/${m.index}`);
        }
        if (m.snapshot !== undefined) this.#appliedSnapshot(m.snapshot);
        return 'ok';
      case M.MsgStorageApplyResp:
        if (m.entries.length > 0) {
          this.#appliedTo(m.entries[m.entries.length - 1]!.index, entriesSize(m.entries));
          this.#uncommittedSize = Math.max(0, this.#uncommittedSize - payloadsSize(m.entries));
        }
        return 'ok';
      case M.MsgVote:
      case M.MsgPreVote:
        handleVoteRequest(this, m);
        return 'ok';
      default:
        if (this.role === Role.leader) return stepLeader(this, m);
        if (this.role === Role.follower) return stepFollower(this, m);
        return stepCandidate(this, m);
    }
  }

  /** A message of a later term; false: it is to be ignored. */
  #raiseTerm(m: Message): boolean {
    if (m.type === M.MsgVote || m.type === M.MsgPreVote) {
      const inLease = this.checkQuorum && this.lead !== NONE && this.electionElapsed < this.electionTick;
      if (inLease && m.context !== CAMPAIGN_TRANSFER) {
        // Thesis, section 4.2.3: who hears a leader does not help to depose it.
        this.logger?.info(
          `${this.id} [logterm: ${this.log.lastTerm()}, index: ${this.log.lastIndex()}, vote: ${this.vote}] ignored ${messageTypeNames[m.type]} from ${m.from} [logterm: ${m.logTerm}, index: ${m.index}] at term ${this.term}: lease is not expired (remaining ticks: ${this.electionTick - this.electionElapsed})`,
        );
        return false;
      }
    }
    // A pre-vote never changes our term; nor does one granted to us, whose term
    // is the one we asked for. A refused one tells of a real later term.
    if (m.type === M.MsgPreVote || (m.type === M.MsgPreVoteResp && !m.reject)) return true;
    traceReceive(this, m);
    this.logger?.info(
      `${this.id} [term: ${this.term}] received a ${messageTypeNames[m.type]} message with higher term from ${m.from} [term: ${m.term}]`,
    );
    const fromLeader = m.type === M.MsgApp || m.type === M.MsgHeartbeat || m.type === M.MsgSnap;
    this.becomeFollower(m.term, fromLeader ? m.from : NONE);
    return true;
  }

  #stepLowerTerm(m: Message): void {
    if ((this.checkQuorum || this.preVote) && (m.type === M.MsgHeartbeat || m.type === M.MsgApp)) {
      // A leader of an earlier term, perhaps the only one there is: our term ran
      // ahead while we were cut off, and nobody votes for us against its lease.
      // Our answer carries our term, deposes it, and so frees us.
      this.send(message(M.MsgAppResp, m.from));
    } else if (m.type === M.MsgPreVote) {
      // Not dropped: with mixed settings, a group could wait for itself for ever.
      const m2 = message(M.MsgPreVoteResp, m.from);
      m2.term = this.term;
      m2.reject = true;
      this.logger?.info(`${this.id} rejected MsgPreVote from ${m.from} of lower term ${m.term}`);
      this.send(m2);
    } else if (m.type === M.MsgStorageAppendResp) {
      // The entries may have been replaced, in the log and on their way to the
      // disk, by those of a later term (A, B, then A again): they are not
      // stable. See `storageAppendResponse`. A snapshot holds in any term.
      if (m.index !== 0) {
        this.logger?.info(`${this.id} [term: ${this.term}] ignored entry appends of lower term ${m.term}`);
      }
      if (m.snapshot !== undefined) this.#appliedSnapshot(m.snapshot);
    } else {
      this.logger?.info(
        `${this.id} [term: ${this.term}] ignored a ${messageTypeNames[m.type]} message with lower term from ${m.from} [term: ${m.term}]`,
      );
    }
  }

  // ---------------------------------------------------------------- own log

  /** Appends at the leader, giving out term and index; false: too many uncommitted bytes. */
  appendEntries(proposed: readonly Entry[]): boolean {
    const size = payloadsSize(proposed);
    // An empty tail takes any one proposal, and empty data is never refused.
    if (this.#uncommittedSize > 0 && size > 0 && this.#uncommittedSize + size > this.#maxUncommittedSize) {
      this.logger?.warn(`${this.id} has too many uncommitted bytes; dropping proposal`);
      return false;
    }
    this.#uncommittedSize += size;
    if (this.tracer !== undefined) {
      for (const { type } of proposed) if (type === EntryType.normal) this.tracer('Replicate', this);
    }
    let index = this.log.lastIndex();
    const entries: Entry[] = [];
    for (const { type, sizeBytes, data } of proposed) {
      // With all fields from the start: the same shape as entries that come in.
      entries.push({ term: this.term, index: ++index, type, sizeBytes, data, checksum: undefined });
    }
    this.log.append(entries);
    // The leader acknowledges to itself, as a follower would: once synced.
    const ack = message(M.MsgAppResp, this.id);
    ack.index = index;
    this.send(ack);
    return true;
  }

  #appliedTo(index: Index, size: number): void {
    const applied = Math.max(index, this.log.applied);
    this.log.appliedTo(applied, size);
    const { config } = this.tracker;
    if (!config.autoLeave || this.role !== Role.leader || applied < this.pendingConfIndex) return;
    // The joint configuration is applied: leave it. A proposal without data can
    // only be dropped for a leadership transfer; then the next applied entry, or
    // the next leader, tries again.
    const m = message(M.MsgProp, NONE);
    m.from = this.id;
    const data = encodeConfChange(leaveJointChange);
    m.entries = [{ term: 0, index: 0, type: EntryType.confChangeV2, sizeBytes: data.length, data }];
    const result = this.step(m);
    this.logger?.info(`leaving joint configuration ${describeConfig(config)} by itself: ${result}`);
  }

  #appliedSnapshot(snapshot: Snapshot): void {
    const { index } = snapshot.metadata;
    this.log.unstable.stableSnapTo(index);
    this.#appliedTo(index, 0);
  }

  /** False until an entry of this leader's own term has committed: till then its commit index may lag. */
  committedInCurrentTerm(): boolean {
    return this.log.term(this.log.committed) === this.term;
  }
}

function emptyEntry(): Entry {
  return { term: 0, index: 0, type: EntryType.normal, sizeBytes: 0, data: NO_DATA };
}
