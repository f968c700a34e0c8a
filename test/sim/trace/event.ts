/** One line of a trace, as etcd raft's trace specification reads it (../shared/oracles/README.md). */
import { ConfChangeKind } from '../../../src/raft/conf-codec.js';
import type { Raft } from '../../../src/raft/raft.js';
import type { TraceDetail, TraceName } from '../../../src/raft/trace.js';
import { type Message, MessageType, messageTypeNames, Role } from '../../../src/raft/types.js';

export interface TraceMessage {
  readonly type: string;
  readonly term: number;
  readonly from: string;
  readonly to: string;
  /** How many; of a snapshot its index. */
  readonly entries: number;
  readonly logTerm: number;
  readonly index: number;
  readonly commit: number;
  readonly vote: string;
  readonly reject: boolean;
  readonly rejectHint: number;
}

export interface TraceEvent {
  readonly name: TraceName;
  readonly nid: string;
  readonly state: { readonly term: number; readonly vote: string; readonly commit: number };
  readonly role: string;
  /** Last index. */
  readonly log: number;
  /** Voters, outgoing voters. */
  readonly conf: readonly [readonly string[], readonly string[]];
  readonly msg?: TraceMessage;
  readonly prop?: {
    readonly match?: number;
    readonly next?: number;
    readonly cc?: {
      readonly newconf?: readonly string[];
      readonly changes?: readonly { readonly nid: string; readonly action: string }[];
    };
  };
}

const roleNames = {
  [Role.follower]: 'StateFollower',
  [Role.candidate]: 'StateCandidate',
  [Role.leader]: 'StateLeader',
  [Role.preCandidate]: 'StatePreCandidate',
} as const;

const actions: Readonly<Record<ConfChangeKind, string | undefined>> = {
  [ConfChangeKind.addVoter]: 'AddNewServer',
  [ConfChangeKind.remove]: 'RemoveServer',
  [ConfChangeKind.addLearner]: 'AddLearner',
  [ConfChangeKind.update]: undefined,
};

export function traceEvent(name: TraceName, raft: Raft, detail: TraceDetail | undefined): TraceEvent {
  const { config } = raft.tracker;
  const event = {
    name,
    nid: String(raft.id),
    state: { term: raft.term, vote: String(raft.vote), commit: raft.log.committed },
    role: roleNames[raft.role],
    log: raft.log.lastIndex(),
    conf: [config.voters.map(String), config.votersOutgoing.map(String)] as const,
  };
  switch (detail?.kind) {
    case undefined:
      return event;
    case 'message':
      return { ...event, msg: messageOf(detail.message) };
    case 'append':
      return {
        ...event,
        msg: messageOf(detail.message),
        prop: { match: detail.match, next: detail.next },
      };
    case 'voters':
      return { ...event, prop: { cc: { newconf: detail.voters.map(String) } } };
    case 'proposed': {
      const changes = detail.change.changes.flatMap(({ kind, id }) => {
        const action = actions[kind];
        return action === undefined ? [] : [{ nid: String(id), action }];
      });
      return { ...event, prop: { cc: { changes } } };
    }
  }
}

function messageOf(message: Message): TraceMessage {
  const isSnapshot = message.type === MessageType.MsgSnap;
  return {
    type: messageTypeNames[message.type] as string,
    term: message.term,
    from: String(message.from),
    to: String(message.to),
    entries: isSnapshot ? (message.snapshot?.metadata.index ?? 0) : message.entries.length,
    logTerm: isSnapshot ? 0 : message.logTerm,
    index: isSnapshot ? 0 : message.index,
    // A message that is cut short may name more, of which the receiver takes this much; the specification has it sent so.
    commit:
      message.type === MessageType.MsgApp
        ? Math.min(message.commit, message.index + message.entries.length)
        : message.commit,
    vote: String(message.vote),
    reject: message.reject,
    rejectHint: message.rejectHint,
  };
}

/**
 * Which events are written. The specification gives the answer to a snapshot a kind of its own, which no line of a
 * trace can name (its MsgAppResp is the answer to MsgApp alone), so that nothing after it would be followed. Its receipt
 * is left out: a message may be lost, and what it tells is committed already.
 */
export class TraceFilter {
  /** Who received a snapshot last. */
  readonly #installing = new Set<string>();
  /** Answers to snapshots on their way. */
  readonly #answers = new Map<string, number>();

  isWritten({ name, nid, msg }: TraceEvent): boolean {
    if (msg === undefined) return true;
    if (name === 'ReceiveAppendEntriesRequest') {
      if (msg.type === 'MsgSnap') this.#installing.add(nid);
      else this.#installing.delete(nid);
    }
    const answer = `${msg.from} ${msg.to} ${msg.term} ${msg.index}`;
    const underWay = this.#answers.get(answer) ?? 0;
    if (name === 'SendAppendEntriesResponse' && msg.to !== nid && this.#installing.delete(nid))
      this.#answers.set(answer, underWay + 1);
    if (name !== 'ReceiveAppendEntriesResponse' || msg.type !== 'MsgAppResp' || msg.reject || underWay === 0)
      return true;
    this.#answers.set(answer, underWay - 1);
    return false;
  }
}

/**
 * A line of the file. etcd's `validate.sh` sorts lines as text by what begins at `ts` before TLC reads them, so that
 * `ts` has one width and no two lines share it: seconds since 2001 of the simulated clock in microseconds, and the line's number.
 */
export function traceLine(event: TraceEvent, atMs: number, line: number): string {
  const seconds = 1_000_000_000 + Math.floor(atMs / 1_000);
  const micros = Math.floor((atMs % 1_000) * 1_000);
  const ts = `${seconds}.${String(micros).padStart(6, '0')}${String(line).padStart(7, '0')}`;
  return `{"level":"debug","ts":${ts},"msg":"trace","tag":"trace","event":${JSON.stringify(event)}}\n`;
}
