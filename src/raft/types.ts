/**
 * What goes into the core and what comes out of it. The names are etcd's, so
 * that its scripts and twelve years of prose about it apply word for word.
 */
import type { Index, ReplicaId, Term } from '../common/ids.js';
import type { ConfState, Entry, HardState, SnapshotMetadata } from '../common/log-types.js';
import type { Tracer } from './trace.js';

/** Nobody: no leader, no vote, no transferee. */
export const NONE: ReplicaId = 0;
/** Target of MsgStorageAppend: whoever writes the log. Its messages must be carried out in order, none lost. */
export const LOCAL_APPEND_THREAD: ReplicaId = -1;
/** Target of MsgStorageApply: whoever applies committed entries. In order, none lost. */
export const LOCAL_APPLY_THREAD: ReplicaId = -2;
/** "No limit" for sizes in bytes and counts. */
export const NO_LIMIT = Number.MAX_SAFE_INTEGER;

/** Numbers are part of the protocol between nodes: never reuse one. */
export const MessageType = {
  MsgHup: 0,
  MsgBeat: 1,
  MsgProp: 2,
  MsgApp: 3,
  MsgAppResp: 4,
  MsgVote: 5,
  MsgVoteResp: 6,
  MsgSnap: 7,
  MsgHeartbeat: 8,
  MsgHeartbeatResp: 9,
  MsgUnreachable: 10,
  MsgSnapStatus: 11,
  MsgCheckQuorum: 12,
  MsgTransferLeader: 13,
  MsgTimeoutNow: 14,
  MsgReadIndex: 15,
  MsgReadIndexResp: 16,
  MsgPreVote: 17,
  MsgPreVoteResp: 18,
  MsgStorageAppend: 19,
  MsgStorageAppendResp: 20,
  MsgStorageApply: 21,
  MsgStorageApplyResp: 22,
  MsgForgetLeader: 23,
} as const;
export type MessageType = (typeof MessageType)[keyof typeof MessageType];

/** Names by number. */
export const messageTypeNames: readonly string[] = Object.freeze(Object.keys(MessageType));

export const Role = { follower: 0, candidate: 1, leader: 2, preCandidate: 3 } as const;
export type Role = (typeof Role)[keyof typeof Role];
export const roleNames: readonly string[] = Object.freeze([
  'StateFollower',
  'StateCandidate',
  'StateLeader',
  'StatePreCandidate',
]);

export interface Snapshot {
  readonly metadata: SnapshotMetadata;
  /** The core hands it through and never looks in; undefined where the bytes travel on another way. */
  readonly data: Uint8Array | undefined;
}

/**
 * One message, to another replica or to one of the local threads. All fields
 * are always there (made by `message()`), so that the hot path sees one shape.
 * Treat a message as immutable once stepped or handed out; only `responses`
 * may be taken off by who carries out a storage message.
 */
export interface Message {
  type: MessageType;
  to: ReplicaId;
  from: ReplicaId;
  /** 0: a local message, or one that is about no term (MsgProp, MsgReadIndex). */
  term: Term;
  /** MsgApp: term of the entry at `index`; votes: of the candidate's last entry; rejections: of the hint. */
  logTerm: Term;
  /** MsgApp: place before the first entry; MsgAppResp: acknowledged or refused place; votes: last place. */
  index: Index;
  entries: readonly Entry[];
  commit: Index;
  /** MsgStorageAppend only: with `term` and `commit` the hard state to write; all three 0: none. */
  vote: ReplicaId;
  snapshot: Snapshot | undefined;
  reject: boolean;
  rejectHint: Index;
  /**
   * MsgHeartbeat and its response: the read round (0: none), a counter of this
   * leader and term, never the caller's context. MsgReadIndex and its response:
   * the caller's context. MsgVote: CAMPAIGN_TRANSFER where the old leader asked
   * for the election, so that a lease does not hold it up.
   */
  context: number;
  /** MsgStorageAppend, MsgStorageApply: to be delivered once the work is done (and, for appends, synced). */
  responses: readonly Message[];
}

/** `Message.context` of a MsgVote that a leadership transfer asked for. */
export const CAMPAIGN_TRANSFER = 1;

export const noEntries: readonly Entry[] = Object.freeze([]);
export const noMessages: readonly Message[] = Object.freeze([]);

/** A message with every field at its zero. */
export function message(type: MessageType, to: ReplicaId): Message {
  return {
    type,
    to,
    from: NONE,
    term: 0,
    logTerm: 0,
    index: 0,
    entries: noEntries,
    commit: 0,
    vote: NONE,
    snapshot: undefined,
    reject: false,
    rejectHint: 0,
    context: 0,
    responses: noMessages,
  };
}

/**
 * V8 learns a field's kind from what is stored in it. A caller's context may be large, a round is small: the first large one
 * would make the field one of doubles, every message's map a deprecated one and every compiled function that touches
 * messages start over; some go on making messages of the old map for good, each of which is migrated where it is read. What
 * has held anything but a number before is an ordinary slot and stays so.
 */
(message(MessageType.MsgHup, NONE) as { context: unknown }).context = undefined;

/** Messages that only this process may send to its own core; refused when they come from the network. */
export function isLocalMessage(type: MessageType): boolean {
  switch (type) {
    case MessageType.MsgHup:
    case MessageType.MsgBeat:
    case MessageType.MsgUnreachable:
    case MessageType.MsgSnapStatus:
    case MessageType.MsgCheckQuorum:
    case MessageType.MsgStorageAppend:
    case MessageType.MsgStorageAppendResp:
    case MessageType.MsgStorageApply:
    case MessageType.MsgStorageApplyResp:
      return true;
    default:
      return false;
  }
}

export function isResponseMessage(type: MessageType): boolean {
  switch (type) {
    case MessageType.MsgAppResp:
    case MessageType.MsgVoteResp:
    case MessageType.MsgHeartbeatResp:
    case MessageType.MsgUnreachable:
    case MessageType.MsgReadIndexResp:
    case MessageType.MsgPreVoteResp:
    case MessageType.MsgStorageAppendResp:
    case MessageType.MsgStorageApplyResp:
      return true;
    default:
      return false;
  }
}

export function isLocalTarget(id: ReplicaId): boolean {
  return id === LOCAL_APPEND_THREAD || id === LOCAL_APPLY_THREAD;
}

/**
 * The log on disk as the core sees it. Synchronous: whoever implements it keeps
 * terms per range in memory. Only what was synced may be reported here.
 */
export interface Storage {
  initialState(): { readonly hardState: HardState; readonly confState: ConfState };
  /**
   * Entries in [lo, hi), which exist: as many from `lo` on as fit into
   * `maxBytes` by `entrySize`, but at least one. `data` may be undefined in
   * normal entries, never in configuration changes. The array is the caller's.
   */
  entries(lo: Index, hi: Index, maxBytes: number): Entry[];
  /** Of an entry in [firstIndex - 1, lastIndex]; the one before the first stays known for matching. */
  term(i: Index): Term | 'compacted' | 'unavailable';
  firstIndex(): Index;
  /** firstIndex - 1 where the log is empty. */
  lastIndex(): Index;
  /** The newest there is; 'unavailable': ask again later. */
  snapshot(): Snapshot | 'unavailable';
}

export interface Logger {
  debug(text: string): void;
  info(text: string): void;
  warn(text: string): void;
  error(text: string): void;
}

export interface Config {
  readonly id: ReplicaId;
  readonly storage: Storage;
  /** Uniform in [0, n); for election timeouts. */
  readonly random: (n: number) => number;
  /** Ticks without word from a leader before an election; drawn from [electionTick, 2 × electionTick). */
  readonly electionTick?: number;
  /** Ticks between heartbeats. */
  readonly heartbeatTick?: number;
  /** Highest index that the state machine holds already; nothing at or below it is handed out again. */
  readonly applied?: Index;
  /** Storage work leaves as MsgStorageAppend and MsgStorageApply; `advance()` is not used then. */
  readonly asyncStorageWrites?: boolean;
  /** Bytes of entries in one MsgApp; 0: one entry each. */
  readonly maxSizePerMsg?: number;
  /** Bytes of committed entries handed out and not yet reported applied. 0 or absent: as maxSizePerMsg. */
  readonly maxCommittedSizePerReady?: number;
  /** Bytes of data in the leader's uncommitted entries; proposals above it are dropped. 0: no limit. */
  readonly maxUncommittedEntriesSize?: number;
  /** MsgApps in flight to one follower. */
  readonly maxInflightMsgs?: number;
  /** Bytes of data in flight to one follower. 0: no limit. */
  readonly maxInflightBytes?: number;
  /** The leader steps down when it hears from no quorum for an election timeout; votes respect its lease. */
  readonly checkQuorum?: boolean;
  /** Candidates ask before they raise the term. */
  readonly preVote?: boolean;
  /** 'lease-based' trusts clocks and needs checkQuorum. */
  readonly readOnly?: 'safe' | 'lease-based';
  readonly disableProposalForwarding?: boolean;
  /** Trusts the caller to order configuration changes; a wrong one then breaks an invariant at apply. */
  readonly disableConfChangeValidation?: boolean;
  /** A leader that a change removes or demotes becomes follower when it applies that change. */
  readonly stepDownOnRemoval?: boolean;
  /**
   * A commit index that is new goes with the next entries or heartbeat to a
   * follower that keeps up, or when `tellCommit()` is called; not in a message of
   * its own. Followers that are probed hear of it at once all the same.
   */
  readonly tellsCommitWhenAsked?: boolean;
  /** False: it does not stand for election now, for reasons of its owner's. */
  readonly mayCampaign?: (() => boolean) | undefined;
  readonly logger?: Logger | undefined;
  /** For tests (trace.ts). */
  readonly tracer?: Tracer | undefined;
}

export const configDefaults = Object.freeze({
  /** Ticks; at least ten heartbeats, so that a few lost ones elect nobody. */
  electionTick: 10,
  heartbeatTick: 1,
  maxSizePerMsg: NO_LIMIT,
  maxInflightMsgs: 256,
});

/**
 * How a step ended. Everything but 'ok' means: nothing was proposed, sent or
 * changed by it.
 */
export type StepResult =
  | 'ok'
  /** Dropped: no leader is known. */
  | 'no-leader'
  /** Dropped: another replica leads, and forwarding is off. */
  | 'not-leader'
  /** Dropped: leadership is being handed over. */
  | 'transferring'
  /** Dropped: this leader is no longer a member. */
  | 'not-a-member'
  /** Dropped: too many uncommitted bytes. */
  | 'too-much-uncommitted'
  /** Refused: a message that may not come from outside. */
  | 'local-message'
  /** Refused: a response from a replica that is no member. */
  | 'unknown-peer';

export interface SoftState {
  readonly lead: ReplicaId;
  readonly role: Role;
}

/** A read asked for with `context` may be served once `index` is applied. */
export interface ReadState {
  readonly index: Index;
  readonly context: number;
}

/**
 * Work for the owner. Synchronous storage: write hardState, entries and
 * snapshot (synced where `mustSync`), then send messages, apply
 * committedEntries, then `advance()`. Asynchronous: send `messages`, those to
 * the local threads included, and deliver their responses when done; the other
 * fields are for information, except softState and readStates.
 */
export interface Ready {
  /** Present where it changed. */
  readonly softState: SoftState | undefined;
  /** Present where it changed. */
  readonly hardState: HardState | undefined;
  readonly readStates: readonly ReadState[];
  readonly entries: readonly Entry[];
  readonly snapshot: Snapshot | undefined;
  readonly committedEntries: readonly Entry[];
  readonly messages: readonly Message[];
  /** Entries, term or vote changed; a new commit index alone needs no sync. */
  readonly mustSync: boolean;
}
