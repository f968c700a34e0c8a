/**
 * Follows a trace step by step on a model of Raft of its own, as etcd raft's TLA+
 * trace specification does (the same variables, the same reading of each line):
 * every line must be a step that the protocol allows from the state that the
 * lines before it led to, and the state that it tells must be the model's. In
 * each state two invariants are looked at: one leader a term, and committed
 * prefixes that agree.
 *
 * Not TLC, and narrower: where the specification searches, this takes the one
 * explanation that the line names.
 */
import type { TraceEvent, TraceMessage } from './event.js';

type Role = 'StateFollower' | 'StateCandidate' | 'StateLeader';

interface LogEntry {
  readonly term: number;
  /** Of a configuration change: what it leads to. */
  readonly conf?: { readonly voters: readonly string[]; readonly learners: readonly string[] };
  /** Names the entry: two of the same place and term are the same. */
  readonly serial: number;
}

interface Durable {
  readonly term: number;
  readonly vote: string;
  readonly log: number;
  readonly commit: number;
  readonly voters: readonly string[];
  readonly learners: readonly string[];
}

interface Server {
  term: number;
  vote: string;
  role: Role;
  log: LogEntry[];
  commit: number;
  voters: readonly string[];
  learners: readonly string[];
  responded: Set<string>;
  granted: Set<string>;
  match: Map<string, number>;
  pendingConf: number;
  durable: Durable;
}

interface Sent {
  readonly message: TraceMessage;
  /** Of an append: the entries themselves. */
  readonly entries: readonly LogEntry[];
  copies: number;
}

const nobody = '0';
const bootNames = new Set(['InitState', 'BecomeFollower', 'ApplyConfChange']);

export class TraceProblem extends Error {
  override readonly name = 'TraceProblem';
  constructor(
    readonly line: number,
    problem: string,
    event: TraceEvent,
  ) {
    super(`line ${line}: ${problem}: ${JSON.stringify(event)}`);
  }
}

/** Throws TraceProblem at the first line that no step explains. Returns how many lines were followed. */
export function followTrace(events: readonly TraceEvent[]): number {
  const follower = new Follower(events);
  for (let i = 0; i < events.length; i++) follower.step(events[i] as TraceEvent, i + 1);
  return events.length;
}

class Follower {
  readonly #servers = new Map<string, Server>();
  /** Sent and not yet handed to the network; then on the network. By sender and fields. */
  readonly #pending = new Map<string, Sent[]>();
  readonly #network = new Map<string, Sent[]>();
  readonly #booting = new Set<string>();
  /** The last line of each server. */
  readonly #lastOf = new Map<string, TraceEvent>();
  #serial = 0;
  #line = 0;
  #event!: TraceEvent;

  constructor(events: readonly TraceEvent[]) {
    for (const { nid } of events) this.#booting.add(nid);
    // A server that joins later begins with nothing, as everyone did.
    for (const nid of this.#booting) this.#servers.set(nid, newServer());
  }

  step(event: TraceEvent, line: number): void {
    this.#event = event;
    this.#line = line;
    const server = this.#server(event.nid);
    if (this.#booting.has(event.nid)) {
      if (bootNames.has(event.name)) this.#boot(server);
      else this.#booting.delete(event.nid);
    }
    if (!this.#booting.has(event.nid)) {
      this.#act(server);
      this.#invariants();
    }
    this.#lastOf.set(event.nid, event);
  }

  /** The lines up to a server's first doing tell what it began with: entries of configuration in term 1, all committed. */
  #boot(server: Server): void {
    const { state, role, log, conf, prop, name } = this.#event;
    server.term = state.term;
    server.vote = state.vote;
    server.role = role as Role;
    server.voters = name === 'ApplyConfChange' ? (prop?.cc?.newconf ?? []) : conf[0];
    server.commit = state.commit;
    server.log = Array.from({ length: log }, (_, i) => ({
      term: 1,
      serial: -1 - i,
      conf: { voters: server.voters, learners: [] },
    }));
    server.durable = durableOf(server);
  }

  #act(server: Server): void {
    const { name, msg, nid } = this.#event;
    switch (name) {
      case 'InitState':
        return this.#restart(server);
      case 'BecomeCandidate':
        this.#need(server.role !== 'StateLeader', 'a leader stands for election');
        this.#need(server.voters.includes(nid), 'who is no voter stands for election');
        server.term++;
        server.vote = nid;
        server.role = 'StateCandidate';
        server.responded = new Set();
        server.granted = new Set();
        this.#needState(server);
        return;
      case 'BecomeLeader':
        this.#need(server.role === 'StateCandidate', 'who is no candidate becomes leader');
        this.#need(isQuorum(server.granted, server.voters), 'a leader without a quorum of votes');
        server.role = 'StateLeader';
        server.match = new Map([[nid, server.log.length]]);
        this.#needState(server);
        return;
      case 'BecomeFollower':
        return this.#becomeFollower(server);
      case 'Replicate':
        this.#need(server.role === 'StateLeader', 'who does not lead appends');
        server.log.push({ term: server.term, serial: ++this.#serial });
        return;
      case 'Commit':
        return this.#commit(server);
      case 'ChangeConf':
        return this.#changeConf(server);
      case 'ApplyConfChange':
        return this.#applyConf(server);
      case 'Ready':
        server.durable = durableOf(server);
        this.#handOver(nid);
        return;
      default:
        if (msg === undefined) return this.#fail('a message event without a message');
        if (name.startsWith('Send')) this.#send(server, msg);
        else this.#receive(server, msg);
    }
  }

  #restart(server: Server): void {
    const { term, vote, log, commit, voters, learners } = server.durable;
    Object.assign(server, newServer(), {
      log: server.log.slice(0, log),
      term,
      vote,
      commit,
      voters,
      learners,
    });
    server.durable = durableOf(server);
    this.#pending.delete(this.#event.nid);
    this.#needState(server);
  }

  #becomeFollower(server: Server): void {
    const last = this.#lastOf.get(this.#event.nid);
    const heard =
      last?.msg !== undefined &&
      last.name.startsWith('Receive') &&
      last.msg.term === this.#event.state.term &&
      (last.state.term < last.msg.term ||
        (last.name === 'ReceiveAppendEntriesRequest' && last.role === 'StateCandidate'));
    // Told in the midst of what was just received, which is followed as one step.
    if (heard) return;
    this.#need(server.role !== 'StateFollower', 'a follower steps down');
    server.role = 'StateFollower';
    this.#needState(server);
  }

  #commit(server: Server): void {
    this.#need(server.role === 'StateLeader', 'who does not lead commits');
    for (let index = server.log.length; index > server.commit; index--) {
      const agree = new Set(server.voters.filter((id) => (server.match.get(id) ?? 0) >= index));
      if (!isQuorum(agree, server.voters)) continue;
      // Only the highest agreed index counts, and only in the leader's own term.
      if (server.log[index - 1]?.term === server.term) server.commit = index;
      break;
    }
    this.#needState(server);
  }

  #changeConf(server: Server): void {
    this.#need(server.role === 'StateLeader', 'who does not lead changes the configuration');
    const change = this.#event.prop?.cc?.changes?.[0];
    if (change === undefined) return this.#fail('a change of nothing');
    const { nid, action } = change;
    if (server.pendingConf !== 0) {
      server.log.push({ term: server.term, serial: ++this.#serial });
      return;
    }
    const others = (ids: readonly string[]): string[] => ids.filter((id) => id !== nid);
    const voters = action === 'AddNewServer' ? [...others(server.voters), nid].sort() : others(server.voters);
    const learners =
      action === 'AddLearner' ? [...others(server.learners), nid].sort() : others(server.learners);
    const conf = { voters: action === 'AddLearner' ? server.voters : voters, learners };
    server.log.push({ term: server.term, serial: ++this.#serial, conf });
    server.pendingConf = server.log.length;
  }

  #applyConf(server: Server): void {
    const { conf, prop } = this.#event;
    this.#need(sameSet(conf[0], server.voters), `voters are ${server.voters}`);
    const index = server.log.slice(0, server.commit).findLastIndex((entry) => entry.conf !== undefined) + 1;
    const change = server.log[index - 1]?.conf;
    if (change === undefined) return this.#fail('no committed change to apply');
    this.#need(
      sameSet(prop?.cc?.newconf ?? [], change.voters),
      `the committed change leads to ${change.voters}`,
    );
    server.voters = change.voters;
    server.learners = change.learners;
    if (server.role === 'StateLeader' && server.pendingConf >= index) server.pendingConf = 0;
  }

  // ---- messages

  #send(server: Server, msg: TraceMessage): void {
    const { name, nid } = this.#event;
    this.#need(msg.from === nid, 'sent in the name of another');
    if (name.endsWith('Response') && msg.to !== nid) return; // answers are made where requests are received
    let entries: readonly LogEntry[] = [];
    if (name === 'SendRequestVoteRequest') {
      this.#need(server.role === 'StateCandidate', 'who is no candidate asks for votes');
      this.#need(
        msg.index === server.log.length && msg.logTerm === (server.log.at(-1)?.term ?? 0),
        `the log ends at ${server.log.length}`,
      );
    } else if (name === 'SendAppendEntriesRequest') {
      this.#need(server.role === 'StateLeader', 'who does not lead sends entries');
      this.#need([...server.voters, ...server.learners].includes(msg.to), 'sent to who is no member');
      if (msg.type === 'MsgHeartbeat') {
        const most = Math.min(server.commit, server.match.get(msg.to) ?? 0);
        this.#need(msg.commit === most, `a heartbeat may name ${most}`);
      } else if (msg.type === 'MsgApp') {
        this.#need(msg.index >= (server.match.get(msg.to) ?? 0), 'from before what is known to match');
        this.#need(msg.logTerm === (server.log[msg.index - 1]?.term ?? 0), 'another term before the entries');
        entries = server.log.slice(msg.index, msg.index + msg.entries);
        this.#need(entries.length === msg.entries, 'entries that the log does not have');
        this.#need(
          msg.commit === Math.min(server.commit, msg.index + msg.entries),
          `commit ${server.commit}, the entries end at ${msg.index + msg.entries}`,
        );
      } else {
        // As if the log from its beginning were sent; its commit index says nothing.
        this.#need(msg.entries <= server.commit, `only ${server.commit} entries are committed`);
        entries = server.log.slice(0, msg.entries);
      }
    } else if (name === 'SendAppendEntriesResponse') {
      this.#need(server.role === 'StateLeader', 'who does not lead acknowledges to itself');
      this.#need(msg.index === server.log.length, `the log ends at ${server.log.length}`);
    }
    this.#needState(server);
    put(this.#pending, nid, { message: msg, entries, copies: 1 });
  }

  /** What was sent up to here is on the network. */
  #handOver(nid: string): void {
    for (const sent of this.#pending.get(nid) ?? []) put(this.#network, keyOf(sent.message), sent);
    this.#pending.delete(nid);
  }

  #receive(server: Server, msg: TraceMessage): void {
    this.#needState(server);
    this.#need(msg.to === this.#event.nid, 'received by another');
    const sent = this.#network.get(keyOf(msg))?.find(({ copies }) => copies > 0);
    if (sent === undefined) return this.#fail('nobody sent it, or it was not handed over yet');
    // It may come once; a network that doubles messages is no part of our traces.
    sent.copies--;
    if (msg.term > server.term) {
      server.term = msg.term;
      server.vote = nobody;
      server.role = 'StateFollower';
    }
    this.#need(msg.term === server.term, 'of an earlier term');
    const { name } = this.#event;
    if (name === 'ReceiveRequestVoteRequest') this.#onVoteRequest(server, msg);
    else if (name === 'ReceiveRequestVoteResponse') {
      server.responded.add(msg.from);
      if (!msg.reject) server.granted.add(msg.from);
    } else if (name === 'ReceiveAppendEntriesRequest') this.#onAppend(server, msg, sent.entries);
    else if (!msg.reject && msg.type === 'MsgAppResp') {
      server.match.set(msg.from, Math.max(server.match.get(msg.from) ?? 0, msg.index));
    }
  }

  #onVoteRequest(server: Server, msg: TraceMessage): void {
    const lastTerm = server.log.at(-1)?.term ?? 0;
    const logOk = msg.logTerm > lastTerm || (msg.logTerm === lastTerm && msg.index >= server.log.length);
    const grants = logOk && (server.vote === nobody || server.vote === msg.from);
    if (grants) server.vote = msg.from;
    this.#answer(msg, { type: 'MsgVoteResp', term: server.term, reject: !grants, index: 0 });
  }

  #onAppend(server: Server, msg: TraceMessage, entries: readonly LogEntry[]): void {
    this.#need(server.role !== 'StateLeader', 'two leaders in one term');
    server.role = 'StateFollower';
    const isBeat = msg.type === 'MsgHeartbeat';
    const answer = { type: isBeat ? 'MsgHeartbeatResp' : 'MsgAppResp', term: server.term };
    if (isBeat) {
      server.commit = Math.max(server.commit, msg.commit);
      return this.#answer(msg, { ...answer, reject: false, index: 0 });
    }
    if (msg.index < server.commit) {
      return this.#answer(msg, { ...answer, reject: false, index: server.commit });
    }
    const matches = msg.index <= server.log.length && (server.log[msg.index - 1]?.term ?? 0) === msg.logTerm;
    if (!matches) return this.#answer(msg, { ...answer, reject: true, index: 0 });
    for (const [i, entry] of entries.entries()) {
      const at = msg.index + i;
      if (server.log[at]?.term === entry.term) continue;
      this.#need(at >= server.commit, 'a committed entry is replaced');
      server.log.length = at;
      server.log.push(entry);
    }
    const end = msg.index + entries.length;
    const commit = msg.type === 'MsgSnap' ? end : Math.min(msg.commit, end);
    server.commit = Math.max(server.commit, commit);
    this.#answer(msg, { ...answer, reject: false, index: end });
  }

  #answer(to: TraceMessage, answer: Pick<TraceMessage, 'type' | 'term' | 'reject' | 'index'>): void {
    // No line can name it: event.ts, TraceFilter.
    if (to.type === 'MsgSnap') return;
    const message: TraceMessage = {
      ...answer,
      from: to.to,
      to: to.from,
      entries: 0,
      logTerm: 0,
      commit: 0,
      vote: nobody,
      rejectHint: 0,
    };
    put(this.#pending, to.to, { message, entries: [], copies: 1 });
  }

  // ---- what must hold

  #needState(server: Server): void {
    const { state, role, log, conf } = this.#event;
    this.#need(server.term === state.term, `term is ${server.term}`);
    this.#need(server.vote === state.vote, `vote is ${server.vote}`);
    this.#need(server.role === role, `role is ${server.role}`);
    this.#need(server.log.length === log, `the log ends at ${server.log.length}`);
    this.#need(server.commit === state.commit, `commit is ${server.commit}`);
    this.#need(sameSet(conf[0], server.voters), `voters are ${server.voters}`);
  }

  #invariants(): void {
    const leaders = new Map<number, string>();
    const moved = this.#server(this.#event.nid);
    for (const [nid, server] of this.#servers) {
      if (server.role === 'StateLeader') {
        this.#need(!leaders.has(server.term), `two leaders in term ${server.term}`);
        leaders.set(server.term, nid);
      }
      if (server === moved) continue;
      const last = Math.min(server.commit, moved.commit);
      // Entries before it agree by log matching, which the steps keep.
      if (last > 0) {
        const [a, b] = [server.log[last - 1] as LogEntry, moved.log[last - 1] as LogEntry];
        this.#need(
          a.term === b.term && a.serial === b.serial,
          `committed logs differ at ${last} from ${nid}'s`,
        );
      }
    }
  }

  #server(nid: string): Server {
    return this.#servers.get(nid) as Server;
  }

  #need(holds: boolean, problem: string): void {
    if (!holds) this.#fail(problem);
  }

  #fail(problem: string): never {
    throw new TraceProblem(this.#line, problem, this.#event);
  }
}

function newServer(): Server {
  const server: Omit<Server, 'durable'> = {
    term: 0,
    vote: nobody,
    role: 'StateFollower',
    log: [],
    commit: 0,
    voters: [],
    learners: [],
    responded: new Set(),
    granted: new Set(),
    match: new Map(),
    pendingConf: 0,
  };
  return { ...server, durable: durableOf(server) };
}

function durableOf({ term, vote, log, commit, voters, learners }: Omit<Server, 'durable'>): Durable {
  return { term, vote, log: log.length, commit, voters, learners };
}

function isQuorum(who: ReadonlySet<string>, voters: readonly string[]): boolean {
  return voters.filter((id) => who.has(id)).length * 2 > voters.length;
}

function sameSet(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((id) => b.includes(id));
}

/** The fields that the specification compares of a message of this type. */
function keyOf({ type, from, to, term, entries, logTerm, index, commit, reject }: TraceMessage): string {
  const base = [type, from, to, term];
  switch (type) {
    case 'MsgApp':
      return [...base, index, logTerm, entries, commit].join();
    case 'MsgSnap':
      return [...base, entries].join();
    case 'MsgHeartbeat':
      return [...base, commit].join();
    case 'MsgAppResp':
      return [...base, reject, reject ? 0 : index].join();
    case 'MsgVote':
      return [...base, index, logTerm].join();
    default:
      return [...base, reject].join();
  }
}

function put<K>(map: Map<K, Sent[]>, key: K, sent: Sent): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [sent]);
  else list.push(sent);
}
