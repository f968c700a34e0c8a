/** What followers and candidates do with each message of their own term. */
import type { ReplicaId } from '../common/ids.js';
import { restore } from './confchange.js';
import { campaign, requestVotes } from './election.js';
import { switchTo } from './membership.js';
import type { Raft } from './raft.js';
import { broadcastAppend } from './replication.js';
import {
  MessageType as M,
  type Message,
  message,
  messageTypeNames,
  NONE,
  Role,
  type Snapshot,
  type StepResult,
} from './types.js';

export function stepFollower(r: Raft, m: Message): StepResult {
  switch (m.type) {
    case M.MsgProp:
      if (r.lead === NONE) {
        r.logger?.info(`${r.id} no leader at term ${r.term}; dropping proposal`);
        return 'no-leader';
      }
      if (r.disableProposalForwarding) {
        r.logger?.info(`${r.id} not forwarding to leader ${r.lead} at term ${r.term}; dropping proposal`);
        return 'not-leader';
      }
      forward(r, m);
      return 'ok';
    case M.MsgApp:
      hearLeader(r, m.from);
      handleAppend(r, m);
      return 'ok';
    case M.MsgHeartbeat:
      hearLeader(r, m.from);
      handleHeartbeat(r, m);
      return 'ok';
    case M.MsgSnap:
      hearLeader(r, m.from);
      handleSnapshot(r, m);
      return 'ok';
    case M.MsgTransferLeader:
    case M.MsgReadIndex:
      if (r.lead === NONE) {
        r.logger?.info(`${r.id} no leader at term ${r.term}; dropping ${messageTypeNames[m.type]}`);
        return 'no-leader';
      }
      forward(r, m);
      return 'ok';
    case M.MsgForgetLeader:
      forgetLeader(r);
      return 'ok';
    case M.MsgTimeoutNow:
      r.logger?.info(
        `${r.id} [term ${r.term}] received MsgTimeoutNow from ${m.from} and starts an election to get leadership.`,
      );
      campaign(r, 'transfer');
      return 'ok';
    case M.MsgReadIndexResp:
      r.readStates.push({ index: m.index, context: m.context });
      return 'ok';
    default:
      return 'ok';
  }
}

/** Candidates and pre-candidates: each counts the answers to its own kind of request alone. */
export function stepCandidate(r: Raft, m: Message): StepResult {
  switch (m.type) {
    case M.MsgProp:
    case M.MsgReadIndex:
      r.logger?.info(`${r.id} no leader at term ${r.term}; dropping ${messageTypeNames[m.type]}`);
      return 'no-leader';
    case M.MsgApp:
      r.becomeFollower(m.term, m.from);
      handleAppend(r, m);
      return 'ok';
    case M.MsgHeartbeat:
      r.becomeFollower(m.term, m.from);
      handleHeartbeat(r, m);
      return 'ok';
    case M.MsgSnap:
      r.becomeFollower(m.term, m.from);
      handleSnapshot(r, m);
      return 'ok';
    case M.MsgVoteResp:
      if (r.role === Role.candidate) countVote(r, m);
      return 'ok';
    case M.MsgPreVoteResp:
      if (r.role === Role.preCandidate) countVote(r, m);
      return 'ok';
    default:
      return 'ok';
  }
}

function countVote(r: Raft, m: Message): void {
  r.tracker.recordVote(m.from, !m.reject);
  const { granted, rejected, result } = r.tracker.tallyVotes();
  r.logger?.info(
    `${r.id} has received ${granted} ${messageTypeNames[m.type]} votes and ${rejected} vote rejections`,
  );
  if (result === 'lost') {
    r.becomeFollower(r.term, NONE);
  } else if (result === 'won') {
    if (r.role === Role.preCandidate) {
      requestVotes(r, 'election');
    } else {
      r.becomeLeader();
      broadcastAppend(r);
    }
  }
}

function hearLeader(r: Raft, from: ReplicaId): void {
  r.electionElapsed = 0;
  r.lead = from;
}

function forgetLeader(r: Raft): void {
  if (r.leaseReads) {
    // Our silence is part of the lease that its reads rest on.
    r.logger?.error('ignoring MsgForgetLeader due to ReadOnlyLeaseBased');
    return;
  }
  if (r.lead === NONE) return;
  r.logger?.info(`${r.id} forgetting leader ${r.lead} at term ${r.term}`);
  r.lead = NONE;
}

/** To the leader, from whom it came. */
function forward(r: Raft, m: Message): void {
  r.send({ ...m, to: r.lead, term: 0 });
}

function handleAppend(r: Raft, m: Message): void {
  const answer = message(M.MsgAppResp, m.from);
  if (m.index < r.log.committed) {
    // An old one: all up to our commit matches.
    answer.index = r.log.committed;
    r.send(answer);
    return;
  }
  const last = r.log.maybeAppend(m.index, m.logTerm, m.entries, m.commit);
  if (last !== undefined) {
    answer.index = last;
    r.send(answer);
    return;
  }
  r.logger?.debug(
    `${r.id} [logterm: ${Math.max(0, r.log.term(m.index))}, index: ${m.index}] rejected MsgApp [logterm: ${m.logTerm}, index: ${m.index}] from ${m.from}`,
  );
  // The hint: our last place at or below the refused one with a term that the
  // leader's log can have there, which skips our tail of higher terms at once.
  const hint = r.log.findConflictByTerm(Math.min(m.index, r.log.lastIndex()), m.logTerm);
  answer.index = m.index;
  answer.reject = true;
  answer.rejectHint = hint.index;
  answer.logTerm = hint.term;
  r.send(answer);
}

function handleHeartbeat(r: Raft, m: Message): void {
  r.log.commitTo(m.commit);
  const answer = message(M.MsgHeartbeatResp, m.from);
  answer.context = m.context;
  r.send(answer);
}

function handleSnapshot(r: Raft, m: Message): void {
  const restored = m.snapshot !== undefined && restoreSnapshot(r, m.snapshot);
  const metadata = m.snapshot?.metadata;
  r.logger?.info(
    `${r.id} [commit: ${r.log.committed}] ${restored ? 'restored' : 'ignored'} snapshot [index: ${metadata?.index}, term: ${metadata?.term}]`,
  );
  const answer = message(M.MsgAppResp, m.from);
  answer.index = restored ? r.log.lastIndex() : r.log.committed;
  r.send(answer);
}

/** False: the snapshot is not needed, or not for us. */
function restoreSnapshot(r: Raft, snapshot: Snapshot): boolean {
  const { index, term, confState } = snapshot.metadata;
  if (index <= r.log.committed) return false;
  const member =
    confState.voters.includes(r.id) ||
    confState.learners.includes(r.id) ||
    confState.votersOutgoing.includes(r.id);
  if (!member) {
    // Much rests on our own progress being there; this should never be sent.
    r.logger?.warn(`${r.id} attempted to restore snapshot but it is not in its configuration`);
    return false;
  }
  if (r.log.matches(index, term)) {
    // Our log has the entry: only the commit index is news.
    r.log.commitTo(index);
    return false;
  }
  r.log.restore(snapshot);
  const { config, progress } = restore(confState, { lastIndex: r.log.lastIndex(), ...r.limits });
  switchTo(r, config, progress);
  return true;
}
