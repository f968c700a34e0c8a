/**
 * The core's door: events in, Ready out. Nothing here waits; the owner calls
 * `hasReady()` after each turn and carries `ready()` out.
 *
 * Asynchronous storage (`asyncStorageWrites`), in order:
 *   1. `ready()`; send its messages. MsgStorageAppend goes to the log's writer,
 *      MsgStorageApply to whoever applies; each in order, none lost.
 *   2. When the append is synced, deliver its `responses`: those to other
 *      replicas over the network, those to this one through `step()`. An append
 *      without responses needs no sync.
 *   3. When entries are applied (configuration changes through
 *      `applyConfChange` first), deliver the apply's responses the same way.
 */
import { assert } from '../common/errors.js';
import type { Index, ReplicaId, Term } from '../common/ids.js';
import { type ConfState, type Entry, EntryType, type HardState } from '../common/log-types.js';
import { type ConfChange, confChangeEntryType, encodeConfChange } from './conf-codec.js';
import { applyConfChange, changeOutcome, confChangeProblem } from './membership.js';
import type { Progress } from './progress.js';
import { Raft } from './raft.js';
import { hasUntoldCommit, tellCommit } from './replication.js';
import { entriesSize } from './size.js';
import type { MemberConfig } from './tracker.js';
import {
  type Config,
  isLocalMessage,
  isLocalTarget,
  isResponseMessage,
  LOCAL_APPEND_THREAD,
  LOCAL_APPLY_THREAD,
  MessageType as M,
  type Message,
  message,
  NONE,
  noEntries,
  type ReadState,
  type Ready,
  Role,
  type Snapshot,
  type SoftState,
  type StepResult,
} from './types.js';

const noReads: readonly ReadState[] = Object.freeze([]);

/**
 * Who carries work out as `drain` hands it over, in the order of these methods.
 * With asynchronous storage, the same as a Ready; without its making.
 */
export interface WorkSink {
  /** Role, leader or term may have changed. */
  observeState(): void;
  readState(state: ReadState): void;
  /** To another replica. `mustSync`: the `append` that follows holds entries, term or vote. */
  send(message: Message, mustSync: boolean): void;
  /** MsgStorageAppend. */
  append(message: Message): void;
  /** The commit index alone is new: nothing that would have to be written, or waited for. */
  committed(index: Index): void;
  /** MsgStorageApply. */
  apply(message: Message): void;
}

export interface Status {
  readonly id: ReplicaId;
  readonly term: Term;
  readonly vote: ReplicaId;
  readonly commit: Index;
  readonly applied: Index;
  readonly lead: ReplicaId;
  readonly role: Role;
  readonly leadTransferee: ReplicaId;
  readonly config: MemberConfig;
  /** Of all members, ascending; only the leader's is of use. Not to be kept: it changes with every step. */
  readonly progress: readonly Progress[];
}

export class RawNode {
  readonly #raft: Raft;
  readonly #async: boolean;
  // What the last Ready told, so that only news is told again.
  #prevLead: ReplicaId;
  #prevRole: Role;
  #prevTerm: Term;
  #prevVote: ReplicaId;
  #prevCommit: Index;
  #stepsOnAdvance: Message[] = [];
  /** Emptied list of messages, for the next time. */
  #spareMsgs: Message[] = [];

  constructor(config: Config) {
    const r = new Raft(config);
    this.#raft = r;
    this.#async = config.asyncStorageWrites ?? false;
    this.#prevLead = r.lead;
    this.#prevRole = r.role;
    this.#prevTerm = r.term;
    this.#prevVote = r.vote;
    this.#prevCommit = r.log.committed;
  }

  // ------------------------------------------------------------- events in

  /** One tick of the owner's clock. */
  tick(): void {
    this.#raft.tick();
  }

  /**
   * A message from another replica, or a response of a local thread. Its
   * sender must be who it says: the owner checks that.
   */
  step(m: Message): StepResult {
    if (isLocalMessage(m.type) && !isLocalTarget(m.from)) return 'local-message';
    if (isResponseMessage(m.type) && !isLocalTarget(m.from) && this.#raft.tracker.get(m.from) === undefined) {
      return 'unknown-peer';
    }
    return this.#raft.step(m);
  }

  /** Stands for election now (with a pre-vote where that is on). */
  campaign(): void {
    this.#raft.step(message(M.MsgHup, NONE));
  }

  /** Proposes one normal entry. At a leader and with 'ok', its index is `lastIndex`, its term `term`. */
  propose(data: Uint8Array): StepResult {
    return this.proposeBatch([data]);
  }

  /**
   * Proposes several entries, all or none. At a leader and with 'ok' they are
   * the last ones of the log, up to `lastIndex`, in `term`.
   */
  proposeBatch(batch: readonly Uint8Array[]): StepResult {
    const entries: Entry[] = [];
    for (const data of batch) {
      entries.push({ term: 0, index: 0, type: EntryType.normal, sizeBytes: data.length, data });
    }
    return this.#proposeEntries(entries);
  }

  /**
   * Proposes a change of members. `oneAtATime`: in the older form of entry. A
   * change that `confChangeProblem` speaks against goes in as an empty entry,
   * and 'ok' is the answer all the same: ask before.
   */
  proposeConfChange(change: ConfChange, oneAtATime = false): StepResult {
    const data = encodeConfChange(change);
    const type = confChangeEntryType(oneAtATime);
    return this.#proposeEntries([{ term: 0, index: 0, type, sizeBytes: data.length, data }]);
  }

  /** Why the leader would refuse `change` now, or undefined. */
  confChangeProblem(change: ConfChange): string | undefined {
    return confChangeProblem(this.#raft, change);
  }

  /** The configuration that `change` would lead to from the active one, or why it can't be applied. */
  changeOutcome(change: ConfChange): ConfState | string {
    return changeOutcome(this.#raft, change);
  }

  #proposeEntries(entries: readonly Entry[]): StepResult {
    const m = message(M.MsgProp, NONE);
    m.from = this.#raft.id;
    m.entries = entries;
    return this.#raft.step(m);
  }

  /** A committed change is being applied: it is in force from here on. Returns the configuration to store. */
  applyConfChange(change: ConfChange): ConfState {
    return applyConfChange(this.#raft, change);
  }

  /**
   * Asks for a read index; a ReadState with `context` (any number) follows in a
   * Ready, or never: reads die with the leader's term, and messages get lost.
   * So the owner asks again when leader or term change, and after a while. One
   * call serves any number of reads; each costs a round of heartbeats.
   */
  readIndex(context: number): StepResult {
    const m = message(M.MsgReadIndex, NONE);
    m.context = context;
    return this.#raft.step(m);
  }

  transferLeader(to: ReplicaId): StepResult {
    const m = message(M.MsgTransferLeader, NONE);
    m.from = to;
    return this.#raft.step(m);
  }

  /** A follower takes its leader for gone: it votes freely, and drops proposals. The term stays. */
  forgetLeader(): void {
    this.#raft.step(message(M.MsgForgetLeader, NONE));
  }

  /** As leader: a member's log was damaged and ends, for all it knows, at `last`; it is probed from there. */
  reportLostEntries(id: ReplicaId, last: Index): void {
    const r = this.#raft;
    const progress = r.tracker.get(id);
    if (r.role !== Role.leader || id === r.id || progress === undefined) return;
    progress.lostEntries(Math.min(last, r.log.lastIndex()));
  }

  /**
   * Tells those a commit index that have not heard of it, where the core waits to
   * be asked (`tellsCommitWhenAsked`). Nothing to anyone whose flow is paused.
   */
  tellCommit(): void {
    tellCommit(this.#raft);
  }

  /** Would `tellCommit` send anything? */
  get hasUntoldCommit(): boolean {
    return hasUntoldCommit(this.#raft);
  }

  /** The next heartbeats of this leader leave in `ticks`, so that those of many groups leave together. */
  heartbeatIn(ticks: number): void {
    this.#raft.heartbeatIn(ticks);
  }

  /** See Raft.leaderHeard. */
  leaderHeard(): void {
    this.#raft.leaderHeard();
  }

  /** See Raft.endQuiet. */
  endQuiet(silentTicks: number): void {
    this.#raft.endQuiet(silentTicks);
  }

  /** What was last sent to `id` has probably not arrived. */
  reportUnreachable(id: ReplicaId): void {
    const m = message(M.MsgUnreachable, NONE);
    m.from = id;
    this.#raft.step(m);
  }

  /** The sending of a snapshot to `id` has ended. Without it, and without an answer, nothing more is sent to it. */
  reportSnapshot(id: ReplicaId, outcome: 'finished' | 'failed'): void {
    const m = message(M.MsgSnapStatus, NONE);
    m.from = id;
    m.reject = outcome === 'failed';
    this.#raft.step(m);
  }

  // ------------------------------------------------------------- Ready out

  /** Is there work? Constant time. */
  hasReady(): boolean {
    const r = this.#raft;
    return (
      r.msgs.length > 0 ||
      r.msgsAfterAppend.length > 0 ||
      r.log.unstable.hasNextEntries() ||
      r.log.hasNextCommitted(!this.#async) ||
      r.readStates.length > 0 ||
      this.#softStateChanged() ||
      this.#hardStateChanged() ||
      r.log.unstable.nextSnapshot() !== undefined
    );
  }

  #softStateChanged(): boolean {
    return this.#raft.lead !== this.#prevLead || this.#raft.role !== this.#prevRole;
  }

  #hardStateChanged(): boolean {
    const r = this.#raft;
    return r.log.committed !== this.#prevCommit || r.term !== this.#prevTerm || r.vote !== this.#prevVote;
  }

  /** All work there is. It counts as taken: carry it out, and in synchronous mode call `advance()`. */
  ready(): Ready {
    const r = this.#raft;
    assert(this.#stepsOnAdvance.length === 0, 'ready() again before advance()');
    r.tracer?.('Ready', r);
    const entries = r.log.unstable.nextEntries();
    const committedEntries = r.log.nextCommitted(!this.#async);
    const softState: SoftState | undefined = this.#softStateChanged()
      ? { lead: r.lead, role: r.role }
      : undefined;
    const hardState: HardState | undefined = this.#hardStateChanged()
      ? { term: r.term, vote: r.vote, commit: r.log.committed }
      : undefined;
    const mustSync = entries.length > 0 || r.term !== this.#prevTerm || r.vote !== this.#prevVote;
    const snapshot = r.log.unstable.nextSnapshot();
    const readStates = r.readStates.length > 0 ? r.readStates : noReads;
    const messages = r.msgs;
    const ready: Ready = {
      softState,
      hardState,
      readStates,
      entries,
      snapshot,
      committedEntries,
      messages,
      mustSync,
    };
    if (this.#async) this.#addStorageMessages(ready, messages);
    else this.#deferSteps(ready, messages);
    this.#accept(ready);
    return ready;
  }

  /**
   * Asynchronous storage, where every turn counts: as `ready()`, but handed to
   * `sink` at once, and a new commit index alone makes no MsgStorageAppend. (The
   * response that it would bring repeats that of an append before it: only a new
   * term needs another one, see `storageAppendResponse`.) False: there was nothing.
   */
  drain(sink: WorkSink): boolean {
    assert(this.#async, 'drain() with synchronous storage');
    const r = this.#raft;
    const { unstable } = r.log;
    const hardNews = r.term !== this.#prevTerm || r.vote !== this.#prevVote;
    const commitNews = r.log.committed !== this.#prevCommit;
    const stateNews = hardNews || this.#softStateChanged();
    const mustSync = hardNews || unstable.hasNextEntries();
    const snapshot = unstable.nextSnapshot();
    const appends = mustSync || snapshot !== undefined || r.msgsAfterAppend.length > 0;
    const applies = r.log.hasNextCommitted(false);
    const { readStates, msgs } = r;
    if (!appends && !applies && !commitNews && !stateNews && msgs.length === 0 && readStates.length === 0) {
      return false;
    }
    r.tracer?.('Ready', r);
    // All is taken before the sink sees any of it: what it steps is for the next time.
    const append = appends
      ? this.#storageAppend(unstable.nextEntries(), hardNews || commitNews, snapshot)
      : undefined;
    const committedEntries = applies ? r.log.nextCommitted(false) : noEntries;
    const apply = applies ? this.#storageApply(committedEntries) : undefined;
    this.#acceptState();
    r.msgs = this.#spareMsgs;
    this.#spareMsgs = msgs;
    if (appends) this.#acceptAppend();
    if (readStates.length > 0) r.readStates = [];
    if (applies) this.#acceptApplying(committedEntries);

    if (stateNews) sink.observeState();
    for (let i = 0; i < readStates.length; i++) sink.readState(readStates[i]!);
    for (let i = 0; i < msgs.length; i++) sink.send(msgs[i]!, mustSync);
    msgs.length = 0;
    if (append !== undefined) sink.append(append);
    else if (commitNews) sink.committed(this.#prevCommit);
    if (apply !== undefined) sink.apply(apply);
    return true;
  }

  #addStorageMessages(ready: Ready, messages: Message[]): void {
    const { entries, hardState, snapshot, committedEntries } = ready;
    if (
      entries.length > 0 ||
      hardState !== undefined ||
      snapshot !== undefined ||
      this.#raft.msgsAfterAppend.length > 0
    ) {
      messages.push(this.#storageAppend(entries, hardState !== undefined, snapshot));
    }
    if (committedEntries.length > 0) messages.push(this.#storageApply(committedEntries));
  }

  #storageAppend(entries: readonly Entry[], hardStateNews: boolean, snapshot: Snapshot | undefined): Message {
    const r = this.#raft;
    const m = message(M.MsgStorageAppend, LOCAL_APPEND_THREAD);
    m.from = r.id;
    m.entries = entries;
    m.snapshot = snapshot;
    if (hardStateNews) {
      m.term = r.term;
      m.vote = r.vote;
      m.commit = r.log.committed;
    }
    // The append's own response comes last: the leader's acknowledgement to
    // itself before it still finds the entries' terms in the unstable tail.
    const responses = r.msgsAfterAppend;
    const own = storageAppendResponse(r, snapshot !== undefined);
    if (own !== undefined) responses.push(own);
    m.responses = responses;
    return m;
  }

  #storageApply(committedEntries: readonly Entry[]): Message {
    const r = this.#raft;
    const m = message(M.MsgStorageApply, LOCAL_APPLY_THREAD);
    m.from = r.id;
    m.entries = committedEntries;
    m.responses = [storageApplyResponse(r, committedEntries)];
    return m;
  }

  #deferSteps(ready: Ready, messages: Message[]): void {
    const r = this.#raft;
    for (const m of r.msgsAfterAppend) {
      if (m.to === r.id) this.#stepsOnAdvance.push(m);
      else messages.push(m);
    }
    const own = storageAppendResponse(r, ready.snapshot !== undefined);
    if (own !== undefined) this.#stepsOnAdvance.push(own);
    if (ready.committedEntries.length > 0) {
      this.#stepsOnAdvance.push(storageApplyResponse(r, ready.committedEntries));
    }
  }

  #accept(ready: Ready): void {
    const r = this.#raft;
    this.#acceptState();
    r.msgs = [];
    this.#acceptAppend();
    if (ready.readStates.length > 0) r.readStates = [];
    if (ready.committedEntries.length > 0) this.#acceptApplying(ready.committedEntries);
  }

  #acceptState(): void {
    const r = this.#raft;
    this.#prevLead = r.lead;
    this.#prevRole = r.role;
    this.#prevTerm = r.term;
    this.#prevVote = r.vote;
    this.#prevCommit = r.log.committed;
  }

  #acceptAppend(): void {
    this.#raft.msgsAfterAppend = [];
    this.#raft.log.unstable.acceptInProgress();
  }

  #acceptApplying(committedEntries: readonly Entry[]): void {
    const last = committedEntries[committedEntries.length - 1]!.index;
    this.#raft.log.acceptApplying(last, entriesSize(committedEntries), !this.#async);
  }

  /** Synchronous storage: the last Ready is written, sent and applied. */
  advance(): void {
    assert(!this.#async, 'advance() with asynchronous storage');
    const steps = this.#stepsOnAdvance;
    this.#stepsOnAdvance = [];
    for (const m of steps) this.#raft.step(m);
  }

  // ------------------------------------------------------------- a look inside

  get id(): ReplicaId {
    return this.#raft.id;
  }
  get term(): Term {
    return this.#raft.term;
  }
  get role(): Role {
    return this.#raft.role;
  }
  /** 0: none known. */
  get lead(): ReplicaId {
    return this.#raft.lead;
  }
  get commitIndex(): Index {
    return this.#raft.log.committed;
  }
  /** As reported by MsgStorageApplyResp or `advance()`. */
  get appliedIndex(): Index {
    return this.#raft.log.applied;
  }
  get lastIndex(): Index {
    return this.#raft.log.lastIndex();
  }
  /** Of the entry at `index`; undefined: compacted, or beyond the end. */
  termAt(index: Index): Term | undefined {
    const term = this.#raft.log.term(index);
    return term < 0 ? undefined : term;
  }
  get config(): MemberConfig {
    return this.#raft.tracker.config;
  }
  /** At a leader: an entry of its own term has committed, so that it may serve reads and change members. */
  get committedInCurrentTerm(): boolean {
    return this.#raft.committedInCurrentTerm();
  }
  /** At a leader: it hands leadership over, and takes no proposal meanwhile. */
  get isTransferring(): boolean {
    return this.#raft.leadTransferee !== NONE;
  }
  /** Ticks since the leader was heard (follower), or since the last quorum check (leader). */
  get electionElapsed(): number {
    return this.#raft.electionElapsed;
  }
  /** One member's progress; of use at the leader, and until the next step. */
  progressOf(id: ReplicaId): Progress | undefined {
    return this.#raft.tracker.get(id);
  }

  status(): Status {
    const r = this.#raft;
    return {
      id: r.id,
      term: r.term,
      vote: r.vote,
      commit: r.log.committed,
      applied: r.log.applied,
      lead: r.lead,
      role: r.role,
      leadTransferee: r.leadTransferee,
      config: r.tracker.config,
      progress: r.tracker.progress,
    };
  }

  /** For tests and for ranked campaigns: the next election starts after `ticks` of silence. Holds until the role changes. */
  setRandomizedElectionTimeout(ticks: number): void {
    this.#raft.randomizedElectionTimeout = ticks;
  }

  /** Taken over from the leader and not yet reported stored. */
  get pendingSnapshot(): Snapshot | undefined {
    return this.#raft.log.unstable.snapshot;
  }

  /** The newest snapshot, pending or stored. */
  snapshot(): ReturnType<Raft['log']['snapshot']> {
    return this.#raft.log.snapshot();
  }
}

/**
 * Tells the core that all handed out so far is in storage. It names the last
 * entry of the unstable tail, whether or not this append wrote it, and the term:
 *
 * Entry A may be replaced by B of a later term and come back as A with a still
 * later leader, each on its way to the disk. The first write of A then completes
 * while B's is still to come and will take A's place on disk for a moment; so
 * that first completion must not count. Each new leader is a new term, which is
 * why a response of an earlier term is not believed. What such disbelief leaves
 * unstable is covered by the next response, since it names the whole tail; and a
 * new term always causes one, because term and vote have to be written.
 */
function storageAppendResponse(r: Raft, withSnapshot: boolean): Message | undefined {
  const pending = r.log.hasNextOrInProgressUnstable();
  if (!pending && !withSnapshot) return undefined;
  const m = message(M.MsgStorageAppendResp, r.id);
  m.from = LOCAL_APPEND_THREAD;
  m.term = r.term;
  if (pending) {
    m.index = r.log.lastIndex();
    m.logTerm = r.log.lastTerm();
  }
  if (withSnapshot) m.snapshot = r.log.unstable.snapshot;
  return m;
}

function storageApplyResponse(r: Raft, entries: readonly Entry[]): Message {
  // Committed entries belong to no term: term 0.
  const m = message(M.MsgStorageApplyResp, r.id);
  m.from = LOCAL_APPLY_THREAD;
  m.entries = entries;
  return m;
}
