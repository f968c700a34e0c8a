/** What a leader sends to one follower, and to all. */
import { assert } from '../common/errors.js';
import type { ReplicaId } from '../common/ids.js';
import { type Progress, ProgressState } from './progress.js';
import type { Raft } from './raft.js';
import { payloadsSize } from './size.js';
import { MessageType as M, message, noEntries, Role } from './types.js';

/** Sends what the follower needs next, at least the commit index, unless its flow is paused. */
export function sendAppend(r: Raft, pr: Progress): void {
  maybeSendAppend(r, pr, true);
}

/** As `sendAppend`; without `evenEmpty` only if there are entries. True: something was sent. */
export function maybeSendAppend(r: Raft, pr: Progress, evenEmpty: boolean): boolean {
  if (pr.isPaused) return false;
  const prevIndex = pr.next - 1;
  const prevTerm = r.log.term(prevIndex);
  // The place before `next` is no longer known: only a snapshot helps.
  if (prevTerm < 0) return maybeSendSnapshot(r, pr);

  // With a full window only an empty message goes out: should all in flight be
  // lost, it is what finds that out.
  const mayHold = pr.state !== ProgressState.replicate || !pr.inflights.full;
  const entries = mayHold ? r.log.entriesFrom(pr.next, r.maxSizePerMsg) : noEntries;
  if (entries === undefined) return evenEmpty ? maybeSendSnapshot(r, pr) : false;
  if (entries.length === 0 && !evenEmpty) return false;

  const m = message(M.MsgApp, pr.id);
  m.index = prevIndex;
  m.logTerm = prevTerm;
  m.entries = entries;
  m.commit = r.log.committed;
  r.send(m);
  pr.sentEntries(entries.length, payloadsSize(entries));
  pr.sentCommit = r.log.committed;
  return true;
}

function maybeSendSnapshot(r: Raft, pr: Progress): boolean {
  if (!pr.recentActive) {
    r.logger?.debug(`ignore sending snapshot to ${pr.id} since it is not recently active`);
    return false;
  }
  const snapshot = r.log.snapshot();
  if (snapshot === 'unavailable') {
    r.logger?.debug(`${r.id} failed to send snapshot to ${pr.id}: none is available yet`);
    return false;
  }
  assert(snapshot.metadata.index > 0, 'storage gave an empty snapshot');
  pr.becomeSnapshot(snapshot.metadata.index);
  r.logger?.debug(
    `${r.id} [firstindex: ${r.log.firstIndex()}, commit: ${r.log.committed}] sent snapshot[index: ${snapshot.metadata.index}, term: ${snapshot.metadata.term}] to ${pr.id} [${pr}]`,
  );
  const m = message(M.MsgSnap, pr.id);
  m.snapshot = snapshot;
  r.send(m);
  return true;
}

/** Sends to every other member, paused ones left out. */
export function broadcastAppend(r: Raft): void {
  const { progress } = r.tracker;
  for (let i = 0; i < progress.length; i++) {
    if (progress[i]!.id !== r.id) maybeSendAppend(r, progress[i]!, true);
  }
}

/** The commit index is new: whoever keeps up may hear of it with the next entries, where the owner asks for the rest. */
export function broadcastCommit(r: Raft): void {
  const { progress } = r.tracker;
  for (let i = 0; i < progress.length; i++) {
    const pr = progress[i]!;
    if (pr.id !== r.id) maybeSendAppend(r, pr, !waitsToBeAsked(r, pr));
  }
}

/** Is a commit index alone held back for this follower until the owner asks? */
export function waitsToBeAsked(r: Raft, pr: Progress): boolean {
  return r.tellsCommitWhenAsked && pr.state === ProgressState.replicate;
}

export function hasUntoldCommit(r: Raft): boolean {
  if (r.role !== Role.leader) return false;
  const { progress } = r.tracker;
  for (let i = 0; i < progress.length; i++) if (isUntold(r, progress[i]!)) return true;
  return false;
}

export function tellCommit(r: Raft): void {
  if (r.role !== Role.leader) return;
  for (const pr of r.tracker.progress) if (isUntold(r, pr)) maybeSendAppend(r, pr, true);
}

function isUntold(r: Raft, pr: Progress): boolean {
  return (
    pr.id !== r.id &&
    pr.state === ProgressState.replicate &&
    !pr.isPaused &&
    pr.sentCommit < Math.min(r.log.committed, pr.next - 1)
  );
}

/** One heartbeat to every other member; it carries the read round that is open. */
export function broadcastHeartbeat(r: Raft): void {
  const { round } = r.readOnly;
  for (const pr of r.tracker.progress) {
    if (pr.id === r.id) continue;
    const m = message(M.MsgHeartbeat, pr.id);
    // Never beyond what is known to match: the follower takes it on trust.
    m.commit = Math.min(pr.match, r.log.committed);
    m.context = round;
    r.send(m);
    pr.sentCommit = m.commit;
  }
}

/** True: the commit index went up; the caller tells the followers. */
export function maybeCommit(r: Raft): boolean {
  const rose = r.log.maybeCommit(r.term, r.tracker.committed());
  r.tracer?.('Commit', r);
  return rose;
}

export function sendTimeoutNow(r: Raft, to: ReplicaId): void {
  r.send(message(M.MsgTimeoutNow, to));
}
