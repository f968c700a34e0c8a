/** What a leader does with each message of its own term. */
import { assert } from '../common/errors.js';
import { type Entry, EntryType } from '../common/log-types.js';
import { decodeConfChange, describeChanges } from './conf-codec.js';
import { confChangeProblem } from './membership.js';
import { type Progress, ProgressState } from './progress.js';
import type { Raft } from './raft.js';
import { handleReadIndex, releaseConfirmedReads, releasePendingReads } from './reads.js';
import {
  broadcastAppend,
  broadcastCommit,
  broadcastHeartbeat,
  maybeCommit,
  maybeSendAppend,
  sendAppend,
  sendTimeoutNow,
  waitsToBeAsked,
} from './replication.js';
import { describeConfig } from './tracker.js';
import { MessageType as M, type Message, NONE, type StepResult } from './types.js';

const NO_DATA = new Uint8Array(0);

export function stepLeader(r: Raft, m: Message): StepResult {
  switch (m.type) {
    case M.MsgBeat:
      broadcastHeartbeat(r);
      return 'ok';
    case M.MsgCheckQuorum:
      checkQuorum(r);
      return 'ok';
    case M.MsgProp:
      return propose(r, m.entries);
    case M.MsgReadIndex:
      handleReadIndex(r, m);
      return 'ok';
    case M.MsgForgetLeader:
      return 'ok';
  }
  const pr = r.tracker.get(m.from);
  if (pr === undefined) {
    r.logger?.debug(`${r.id} no progress available for ${m.from}`);
    return 'ok';
  }
  switch (m.type) {
    case M.MsgAppResp:
      pr.recentActive = true;
      if (m.reject) handleRejection(r, pr, m);
      else handleAck(r, pr, m);
      break;
    case M.MsgHeartbeatResp:
      handleHeartbeatResponse(r, pr, m);
      break;
    case M.MsgSnapStatus:
      handleSnapshotStatus(r, pr, m);
      break;
    case M.MsgUnreachable:
      // Most likely what is in flight is lost: probe where the follower is.
      if (pr.state === ProgressState.replicate) pr.becomeProbe();
      r.logger?.debug(`${r.id} failed to send message to ${m.from} because it is unreachable [${pr}]`);
      break;
    case M.MsgTransferLeader:
      transferLeader(r, pr);
      break;
  }
  return 'ok';
}

function checkQuorum(r: Raft): void {
  if (!r.tracker.quorumActive()) {
    r.logger?.warn(`${r.id} stepped down to follower since quorum is not active`);
    r.becomeFollower(r.term, NONE);
  }
  for (const pr of r.tracker.progress) if (pr.id !== r.id) pr.recentActive = false;
}

function propose(r: Raft, proposed: readonly Entry[]): StepResult {
  assert(proposed.length > 0, 'a proposal without entries');
  if (r.tracker.get(r.id) === undefined) return 'not-a-member';
  if (r.leadTransferee !== NONE) {
    r.logger?.debug(
      `${r.id} [term ${r.term}] transfer leadership to ${r.leadTransferee} is in progress; dropping proposal`,
    );
    return 'transferring';
  }
  if (!r.appendEntries(withoutRefusedChanges(r, proposed))) return 'too-much-uncommitted';
  broadcastAppend(r);
  return 'ok';
}

/**
 * One configuration change at a time: a change is refused (it becomes an empty
 * entry) until the one before is applied, here and only at propose time. The
 * check rests on the active configuration, which may lag; `partition/` gates
 * on top of it.
 */
function withoutRefusedChanges(r: Raft, proposed: readonly Entry[]): readonly Entry[] {
  let result = proposed;
  for (let i = 0; i < proposed.length; i++) {
    const entry = proposed[i]!;
    if (entry.type === EntryType.normal) continue;
    assert(entry.data !== undefined, 'a configuration change without its bytes');
    const change = decodeConfChange(entry.data);
    const problem = r.disableConfChangeValidation ? undefined : confChangeProblem(r, change);
    if (problem === undefined) {
      r.pendingConfIndex = r.log.lastIndex() + i + 1;
      if (change.changes.length > 0) r.tracer?.('ChangeConf', r, { kind: 'proposed', change });
      continue;
    }
    r.logger?.info(
      `${r.id} ignoring conf change ${describeChanges(change.changes)} at config ${describeConfig(r.tracker.config)}: ${problem}`,
    );
    const empty: Entry = { term: 0, index: 0, type: EntryType.normal, sizeBytes: 0, data: NO_DATA };
    result = result.map((e, at) => (at === i ? empty : e));
  }
  return result;
}

function handleRejection(r: Raft, pr: Progress, m: Message): void {
  // The hint is the last place at which the follower's log may match ours. If
  // its term there is lower than ours at that place, no place above the last
  // one of ours with such a term can match either: skip them all at once. So
  // long diverging tails cost a probe per term, not one per entry.
  const hint = m.logTerm > 0 ? r.log.findConflictByTerm(m.rejectHint, m.logTerm).index : m.rejectHint;
  r.logger?.debug(
    `${r.id} received MsgAppResp(rejected, hint: (index ${m.rejectHint}, term ${m.logTerm})) from ${m.from} for index ${m.index}`,
  );
  if (!pr.maybeDecreaseTo(m.index, hint)) return;
  if (pr.state === ProgressState.replicate) pr.becomeProbe();
  sendAppend(r, pr);
}

/** Also the way in which the leader acknowledges its own entries. */
function handleAck(r: Raft, pr: Progress, m: Message): void {
  // An answer that tells nothing new still ends a probe: the place is known.
  const news = pr.maybeUpdate(m.index) || (pr.match === m.index && pr.state === ProgressState.probe);
  if (!news) return;
  if (pr.state === ProgressState.probe) {
    pr.becomeReplicate();
  } else if (pr.state === ProgressState.snapshot) {
    // Whatever snapshot it took, and from whom: our log goes on from there.
    if (pr.match + 1 >= r.log.firstIndex()) {
      r.logger?.debug(`${r.id} recovered from needing snapshot, resumed sending to ${m.from} [${pr}]`);
      pr.becomeProbe();
      pr.becomeReplicate();
    }
  } else {
    pr.inflights.freeUpTo(m.index);
  }

  const self = m.from === r.id;
  if (maybeCommit(r)) {
    releasePendingReads(r);
    broadcastCommit(r);
  } else if (!self && pr.canBumpCommit(r.log.committed) && !waitsToBeAsked(r, pr)) {
    // The heartbeat would bring it too, but later.
    sendAppend(r, pr);
  }
  if (!self) {
    // The window has room again: send as many messages as fit.
    while (maybeSendAppend(r, pr, false));
    if (m.from === r.leadTransferee && pr.match === r.log.lastIndex()) {
      r.logger?.info(`${r.id} sent MsgTimeoutNow to ${m.from} after received MsgAppResp`);
      sendTimeoutNow(r, m.from);
    }
  }
}

function handleHeartbeatResponse(r: Raft, pr: Progress, m: Message): void {
  pr.recentActive = true;
  pr.paused = false;
  // To one that lags, or is being probed although it has all (it was reported
  // unreachable): a message to resume from, if an empty one.
  if (pr.match < r.log.lastIndex() || pr.state === ProgressState.probe) sendAppend(r, pr);
  if (m.context === 0) return;
  r.readOnly.ack(m.from, m.context);
  releaseConfirmedReads(r);
}

function handleSnapshotStatus(r: Raft, pr: Progress, m: Message): void {
  if (pr.state !== ProgressState.snapshot) return;
  // A failed one must not count as received: forget it before probing.
  if (m.reject) pr.pendingSnapshot = 0;
  pr.becomeProbe();
  r.logger?.debug(
    `${r.id} snapshot ${m.reject ? 'failed' : 'succeeded'}, resumed sending to ${m.from} [${pr}]`,
  );
  // Success: wait for its acknowledgement. Failure: for the next heartbeat.
  pr.paused = true;
}

function transferLeader(r: Raft, pr: Progress): void {
  const to = pr.id;
  if (pr.isLearner) {
    r.logger?.debug(`${r.id} is learner. Ignored transferring leadership`);
    return;
  }
  if (r.leadTransferee === to) return;
  // A request to ourselves still calls off the one before.
  r.leadTransferee = NONE;
  if (to === r.id) return;
  r.logger?.info(`${r.id} [term ${r.term}] starts to transfer leadership to ${to}`);
  // It has one election timeout.
  r.electionElapsed = 0;
  r.leadTransferee = to;
  if (pr.match === r.log.lastIndex()) sendTimeoutNow(r, to);
  else sendAppend(r, pr);
}
