/**
 * What happens in the core, told as it happens, in the events of etcd raft's TLA+
 * trace specification (its names, and the moments at which it looks), so that
 * whole histories can be held against that specification. For tests: a core
 * without a tracer tells nothing.
 */
import type { Index, ReplicaId } from '../common/ids.js';
import type { ConfChange } from './conf-codec.js';
import type { Raft } from './raft.js';
import { MessageType as M, type Message } from './types.js';

export type TraceName =
  | 'InitState'
  | 'BecomeCandidate'
  | 'BecomeFollower'
  | 'BecomeLeader'
  | 'Commit'
  | 'Replicate'
  | 'ChangeConf'
  | 'ApplyConfChange'
  | 'Ready'
  | 'SendAppendEntriesRequest'
  | 'ReceiveAppendEntriesRequest'
  | 'SendAppendEntriesResponse'
  | 'ReceiveAppendEntriesResponse'
  | 'SendRequestVoteRequest'
  | 'ReceiveRequestVoteRequest'
  | 'SendRequestVoteResponse'
  | 'ReceiveRequestVoteResponse';

export type TraceDetail =
  | { readonly kind: 'message'; readonly message: Message }
  /** An append on its way: what the sender has of itself. */
  | { readonly kind: 'append'; readonly message: Message; readonly match: Index; readonly next: Index }
  /** The configuration that comes into force. */
  | { readonly kind: 'voters'; readonly voters: readonly ReplicaId[] }
  | { readonly kind: 'proposed'; readonly change: ConfChange };

/** `raft` is as it is at that moment, and must not be changed or kept. */
export type Tracer = (name: TraceName, raft: Raft, detail?: TraceDetail) => void;

export function traceSend(r: Raft, message: Message): void {
  if (r.tracer === undefined) return;
  const name = nameOf(message.type, 'Send');
  if (name === undefined) return;
  const self = message.type === M.MsgApp ? r.tracker.get(r.id) : undefined;
  if (self === undefined) r.tracer(name, r, { kind: 'message', message });
  else r.tracer(name, r, { kind: 'append', message, match: self.match, next: self.next });
}

/** Only for messages that are acted upon: one that is ignored might as well still be on its way. */
export function traceReceive(r: Raft, message: Message): void {
  const name = r.tracer === undefined ? undefined : nameOf(message.type, 'Receive');
  if (name !== undefined) r.tracer?.(name, r, { kind: 'message', message });
}

function nameOf(type: M, direction: 'Send' | 'Receive'): TraceName | undefined {
  switch (type) {
    case M.MsgApp:
    case M.MsgHeartbeat:
    case M.MsgSnap:
      return `${direction}AppendEntriesRequest`;
    case M.MsgAppResp:
    case M.MsgHeartbeatResp:
      return `${direction}AppendEntriesResponse`;
    case M.MsgVote:
      return `${direction}RequestVoteRequest`;
    case M.MsgVoteResp:
      return `${direction}RequestVoteResponse`;
    default:
      return undefined;
  }
}
