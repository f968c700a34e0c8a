/** Read index at the leader: from the request to the answer. */
import type { Index, ReplicaId } from '../common/ids.js';
import type { Raft } from './raft.js';
import { broadcastHeartbeat } from './replication.js';
import { MessageType as M, type Message, message, NONE } from './types.js';

export function handleReadIndex(r: Raft, m: Message): void {
  // Until then an earlier leader may have committed more than we know of; so
  // may we ourselves have, before a restart, since commit indexes are not synced.
  if (r.committedInCurrentTerm()) startRead(r, m);
  else r.pendingReads.push(m);
}

/** The first entry of the term has committed: reads that waited for it go on. */
export function releasePendingReads(r: Raft): void {
  if (r.pendingReads.length === 0 || !r.committedInCurrentTerm()) return;
  const reads = r.pendingReads;
  r.pendingReads = [];
  for (const m of reads) startRead(r, m);
}

function startRead(r: Raft, m: Message): void {
  // Alone, or within a lease, no round is needed. Not so for a leader that was
  // removed and leads on: the only voter is then another, who may lead by now.
  const alone = r.tracker.isSingleton();
  if ((alone || r.leaseReads) && r.tracker.isVoter(r.id)) {
    answer(r, m.from, m.context, r.log.committed);
    return;
  }
  r.readOnly.add({ from: m.from, context: m.context, index: r.log.committed });
  r.readOnly.ack(r.id, r.readOnly.round);
  broadcastHeartbeat(r);
}

export function releaseConfirmedReads(r: Raft): void {
  for (const read of r.readOnly.takeConfirmed(r.tracker.config)) {
    answer(r, read.from, read.context, read.index);
  }
}

function answer(r: Raft, from: ReplicaId, context: number, index: Index): void {
  if (from === NONE || from === r.id) {
    r.readStates.push({ index, context });
    return;
  }
  const m = message(M.MsgReadIndexResp, from);
  m.index = index;
  m.context = context;
  r.send(m);
}
