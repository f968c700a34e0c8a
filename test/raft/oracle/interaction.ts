/**
 * Whole groups of bare nodes: each with a log in memory, an append queue, an
 * apply queue and the history of its applied states; messages in flight in the
 * order in which they left.
 */
import { type ConfState, type Entry, EntryType, type HardState } from '../../../src/common/log-types.js';
import {
  type Config,
  decodeConfChange,
  isLocalTarget,
  type Message,
  MessageType,
  message,
  NO_LIMIT,
  RawNode,
  Role,
  roleNames,
  type Snapshot,
  type StepResult,
  Transition,
} from '../../../src/raft/index.js';
import { emptyConfState, emptySnapshot, MemoryStorage } from '../memory-storage.js';
import { parseChanges } from './changes.js';
import type { Arg, Step } from './datadriven.js';
import { describeEntries, describeMessage, describeReady } from './describe.js';
import { Output } from './output.js';

interface Node {
  readonly raw: RawNode;
  readonly id: number;
  readonly storage: MemoryStorage;
  readonly config: Config;
  readonly appendWork: Message[];
  readonly applyWork: Message[];
  /** States after each applied entry; the last one is what a snapshot gives. */
  readonly history: Snapshot[];
}

/** A command's error, as text; undefined: none. */
type Failure = string | undefined;

export class InteractionRun {
  readonly #nodes: Node[] = [];
  #inFlight: Message[] = [];
  readonly #out = new Output();

  run(step: Step): string {
    this.#out.text = '';
    const failure = this.#handle(step);
    if (failure !== undefined) {
      if (this.#out.quiet) return failure;
      this.#out.write(failure);
    }
    return this.#out.text === '' ? 'ok' : this.#out.text;
  }

  #handle({ cmd, args, input }: Step): Failure {
    switch (cmd) {
      case '_breakpoint':
        return undefined;
      case 'add-nodes':
        return this.#addNodes(args);
      case 'campaign':
        this.#first(args).raw.campaign();
        return undefined;
      case 'compact': {
        const node = this.#first(args);
        return node.storage.compact(Number(args[1]?.key)) ?? this.#raftLog(node);
      }
      case 'deliver-msgs':
        return this.#deliverCommand(args);
      case 'process-ready':
        return this.#forEach(args, 'handling Ready', (node) => this.#processReady(node));
      case 'process-append-thread':
        return this.#forEach(args, 'processing append thread', (node) => this.#processAppendThread(node));
      case 'process-apply-thread':
        return this.#forEach(args, 'processing apply thread', (node) => this.#processApplyThread(node));
      case 'log-level':
        return this.#logLevel(args[0]!.key);
      case 'raft-log':
        return this.#raftLog(this.#first(args));
      case 'raft-state':
        return this.#raftState();
      case 'set-randomized-election-timeout':
        this.#first(args).raw.setRandomizedElectionTimeout(Number(value(args, 'timeout')));
        return undefined;
      case 'stabilize':
        return this.#stabilizeCommand(args);
      case 'status':
        return this.#status(this.#first(args));
      case 'tick-election':
        return this.#tick(this.#first(args), this.#first(args).config.electionTick!);
      case 'tick-heartbeat':
        return this.#tick(this.#first(args), this.#first(args).config.heartbeatTick!);
      case 'transfer-leadership':
        this.#node(Number(value(args, 'from'))).raw.transferLeader(Number(value(args, 'to')));
        return undefined;
      case 'forget-leader':
        this.#first(args).raw.forgetLeader();
        return undefined;
      case 'send-snapshot': {
        const [from, to] = this.#listed(args);
        return this.#sendSnapshot(from!, to!);
      }
      case 'propose':
        return failureOf(this.#first(args).raw.propose(new TextEncoder().encode(args[1]!.key)));
      case 'propose-conf-change':
        return this.#proposeConfChange(args, input);
      case 'report-unreachable': {
        const [on, of] = this.#listed(args);
        if (of === undefined) {
          return 'must specify exactly two node indexes: node on which to report, and reported node';
        }
        on!.raw.reportUnreachable(of.id);
        return undefined;
      }
      default:
        return 'unknown command';
    }
  }

  // ------------------------------------------------------------- nodes

  #node(id: number): Node {
    const node = this.#nodes[id - 1];
    if (node === undefined) throw new Error(`there is no node ${id}`);
    return node;
  }

  #first(args: readonly Arg[]): Node {
    return this.#node(Number(args[0]?.key));
  }

  /** The nodes named by bare words. */
  #listed(args: readonly Arg[]): Node[] {
    return args.filter((arg) => arg.vals.length === 0).map((arg) => this.#node(Number(arg.key)));
  }

  #forEach(args: readonly Arg[], what: string, fn: (node: Node) => Failure): Failure {
    const nodes = this.#listed(args);
    for (const node of nodes) {
      let failure: Failure;
      if (nodes.length > 1) {
        this.#out.write(`> ${node.id} ${what}\n`);
        failure = this.#out.indented(() => fn(node));
      } else {
        failure = fn(node);
      }
      if (failure !== undefined) return failure;
    }
    return undefined;
  }

  #addNodes(args: readonly Arg[]): Failure {
    const list = (key: string) => (args.find((arg) => arg.key === key)?.vals ?? []).map(Number);
    const flag = (key: string) => value(args, key) !== undefined && isTrue(value(args, key)!);
    const number = (key: string) => {
      const text = value(args, key);
      return text === undefined ? undefined : Number(text);
    };
    const readOnly = value(args, 'read-only') ?? 'safe';
    if (readOnly !== 'safe' && readOnly !== 'lease-based') return `invalid read-only option "${readOnly}"`;
    const index = number('index') ?? 0;
    const content = value(args, 'content') ?? '';
    const confState: ConfState = { ...emptyConfState, voters: list('voters'), learners: list('learners') };
    const bootstrap =
      index > 0 || content !== '' || confState.voters.length > 0 || confState.learners.length > 0;
    if (bootstrap && index <= 1) return 'index must be specified as > 1 due to bootstrap';
    const snapshot: Snapshot = bootstrap
      ? { metadata: { index, term: 1, confState }, data: new TextEncoder().encode(content) }
      : emptySnapshot;

    for (let i = 0; i < Number(args[0]?.key); i++) {
      const storage = new MemoryStorage();
      const history = [snapshot];
      storage.snapshotOverride = () => history[history.length - 1]!;
      if (bootstrap) {
        const failure = storage.applySnapshot(snapshot);
        if (failure !== undefined) return failure;
      }
      const config: Config = {
        id: this.#nodes.length + 1,
        storage,
        // Scripts hold for every drawn timeout; the longest keeps chance out.
        random: (n) => n - 1,
        electionTick: 3,
        heartbeatTick: 1,
        applied: index,
        maxSizePerMsg: NO_LIMIT,
        maxInflightMsgs: number('inflight') ?? NO_LIMIT,
        maxCommittedSizePerReady: number('max-committed-size-per-ready') ?? 0,
        asyncStorageWrites: flag('async-storage-writes'),
        preVote: flag('prevote'),
        checkQuorum: flag('checkquorum'),
        readOnly,
        disableConfChangeValidation: flag('disable-conf-change-validation'),
        stepDownOnRemoval: flag('step-down-on-removal'),
        logger: this.#out,
      };
      const raw = new RawNode(config);
      this.#nodes.push({ raw, id: config.id, storage, config, appendWork: [], applyWork: [], history });
    }
    return undefined;
  }

  #tick(node: Node, times: number): Failure {
    for (let i = 0; i < times; i++) node.raw.tick();
    return undefined;
  }

  // ------------------------------------------------------------- work of a node

  #processReady(node: Node): Failure {
    const ready = node.raw.ready();
    this.#out.write(describeReady(ready));
    const { asyncStorageWrites } = node.config;
    if (!asyncStorageWrites) {
      const hardState = ready.hardState ?? { term: 0, vote: 0, commit: 0 };
      const failure = writeLog(node, hardState, ready.entries, ready.snapshot);
      if (failure !== undefined) return failure;
      applyEntries(node, ready.committedEntries);
    }
    for (const m of ready.messages) {
      if (!isLocalTarget(m.to)) this.#inFlight.push(m);
      else if (m.type === MessageType.MsgStorageAppend) node.appendWork.push(m);
      else node.applyWork.push(m);
    }
    if (!asyncStorageWrites) node.raw.advance();
    return undefined;
  }

  #processAppendThread(node: Node): Failure {
    const m = node.appendWork.shift();
    if (m === undefined) {
      this.#out.write('no append work to perform');
      return undefined;
    }
    const { term, vote, commit } = m;
    return this.#processStorage(m, () => writeLog(node, { term, vote, commit }, m.entries, m.snapshot));
  }

  #processApplyThread(node: Node): Failure {
    const m = node.applyWork.shift();
    if (m === undefined) {
      this.#out.write('no apply work to perform');
      return undefined;
    }
    return this.#processStorage(m, () => {
      applyEntries(node, m.entries);
      return undefined;
    });
  }

  #processStorage(m: Message, work: () => Failure): Failure {
    this.#out.write(`Processing:\n${describeMessage({ ...m, responses: [] })}\n`);
    const failure = work();
    if (failure !== undefined) return failure;
    this.#out.write('Responses:\n');
    for (const response of m.responses) {
      this.#out.write(`${describeMessage(response)}\n`);
      this.#inFlight.push(response);
    }
    return undefined;
  }

  // ------------------------------------------------------------- messages

  #deliverCommand(args: readonly Arg[]): Failure {
    const typeName = value(args, 'type');
    const type = typeName === undefined ? undefined : MessageType[typeName as keyof typeof MessageType];
    if (typeName !== undefined && type === undefined) throw new Error(`unknown message type ${typeName}`);
    let count = 0;
    for (const arg of args) {
      if (arg.vals.length === 0) count += this.#deliver(Number(arg.key), false, type);
      else if (arg.key === 'drop') for (const id of arg.vals) count += this.#deliver(Number(id), true, type);
    }
    if (count === 0) this.#out.write('no messages\n');
    return undefined;
  }

  /** Delivers or drops what is in flight to `id`; returns how many messages that were. */
  #deliver(id: number, drop: boolean, type?: MessageType): number {
    const mine = this.#inFlight.filter((m) => isFor(m, id, drop, type));
    this.#inFlight = this.#inFlight.filter((m) => !isFor(m, id, drop, type));
    for (const m of mine) {
      this.#out.write(`${drop ? 'dropped: ' : ''}${describeMessage(m)}\n`);
      if (drop) continue;
      const failure = failureOf(this.#node(id).raw.step(m));
      if (failure !== undefined) this.#out.write(`${failure}\n`);
    }
    return mine.length;
  }

  #sendSnapshot(from: Node, to: Node): Failure {
    const snapshot = from.storage.snapshot();
    if (snapshot === 'unavailable') return 'snapshot is temporarily unavailable';
    const m = message(MessageType.MsgSnap, to.id);
    m.from = from.id;
    m.term = from.raw.term;
    m.snapshot = snapshot;
    this.#inFlight.push(m);
    this.#out.write(describeMessage(m));
    return undefined;
  }

  #stabilizeCommand(args: readonly Arg[]): Failure {
    const before = this.#out.level;
    const level = value(args, 'log-level');
    if (level !== undefined) {
      const failure = this.#logLevel(level);
      if (failure !== undefined) return failure;
    }
    const listed = this.#listed(args);
    try {
      return this.#stabilize(listed.length > 0 ? listed : this.#nodes);
    } finally {
      this.#out.level = before;
    }
  }

  #stabilize(nodes: readonly Node[]): Failure {
    // Bounded: a group that never comes to rest is a finding, not a hang.
    for (let round = 0; round < 10_000; round++) {
      let done = true;
      const block = (node: Node, what: string, fn: () => Failure): Failure => {
        done = false;
        this.#out.write(`> ${node.id} ${what}\n`);
        return this.#out.indented(fn);
      };
      for (const node of nodes) {
        if (!node.raw.hasReady()) continue;
        const failure = block(node, 'handling Ready', () => this.#processReady(node));
        if (failure !== undefined) return failure;
      }
      for (const node of nodes) {
        if (!this.#inFlight.some((m) => isFor(m, node.id, false))) continue;
        block(node, 'receiving messages', () => {
          this.#deliver(node.id, false);
          return undefined;
        });
      }
      const drain = (node: Node, queue: Message[], what: string, fn: () => Failure): Failure => {
        if (queue.length === 0) return undefined;
        done = false;
        this.#out.write(`> ${node.id} ${what}\n`);
        while (queue.length > 0) {
          const failure = this.#out.indented(fn);
          if (failure !== undefined) return failure;
        }
        return undefined;
      };
      for (const node of nodes) {
        const failure = drain(node, node.appendWork, 'processing append thread', () =>
          this.#processAppendThread(node),
        );
        if (failure !== undefined) return failure;
      }
      for (const node of nodes) {
        const failure = drain(node, node.applyWork, 'processing apply thread', () =>
          this.#processApplyThread(node),
        );
        if (failure !== undefined) return failure;
      }
      if (done) return undefined;
    }
    throw new Error('the group does not come to rest');
  }

  // ------------------------------------------------------------- proposals

  #proposeConfChange(args: readonly Arg[], input: string): Failure {
    let oneAtATime = false;
    let transition: Transition = Transition.auto;
    const transitions: Record<string, Transition> = {
      auto: Transition.auto,
      implicit: Transition.jointImplicit,
      explicit: Transition.jointExplicit,
    };
    for (const arg of args.slice(1)) {
      for (const val of arg.vals) {
        if (arg.key === 'v1') {
          oneAtATime = isTrue(val);
        } else if (arg.key === 'transition') {
          const named = transitions[val];
          if (named === undefined) return `unknown transition ${val}`;
          transition = named;
        } else {
          return `unknown command ${arg.key}`;
        }
      }
    }
    const changes = parseChanges(input);
    if (typeof changes === 'string') return changes;
    if (oneAtATime && (changes.length !== 1 || transition !== Transition.auto)) {
      return 'v1 conf change can only have one operation and no transition';
    }
    return failureOf(this.#first(args).raw.proposeConfChange({ transition, changes }, oneAtATime));
  }

  // ------------------------------------------------------------- a look inside

  #logLevel(name: string): Failure {
    return this.#out.setLevel(name)
      ? undefined
      : `log levels must be either of [DEBUG INFO WARN ERROR FATAL NONE]`;
  }

  #raftLog({ storage }: Node): Failure {
    const first = storage.firstIndex();
    const last = storage.lastIndex();
    if (last < first) this.#out.write(`log is empty: first index=${first}, last index=${last}`);
    else this.#out.write(describeEntries(storage.entries(first, last + 1, NO_LIMIT)));
    return undefined;
  }

  #raftState(): Failure {
    for (const { raw } of this.#nodes) {
      const { id, role, config, term, lead } = raw.status();
      const voter = config.voters.includes(id) || config.votersOutgoing.includes(id);
      this.#out.write(
        `${id}: ${roleNames[role]} (${voter ? 'Voter' : 'Non-Voter'}) Term:${term} Lead:${lead}\n`,
      );
    }
    return undefined;
  }

  #status({ raw }: Node): Failure {
    const { role, progress } = raw.status();
    if (role === Role.leader) for (const pr of progress) this.#out.write(`${pr.id}: ${pr}\n`);
    return undefined;
  }
}

function value(args: readonly Arg[], key: string): string | undefined {
  return args.find((arg) => arg.key === key)?.vals[0];
}

function isTrue(text: string): boolean {
  return /^(1|t|true)$/i.test(text);
}

function failureOf(result: StepResult): Failure {
  switch (result) {
    case 'ok':
      return undefined;
    case 'local-message':
      return 'raft: cannot step raft local message';
    case 'unknown-peer':
      return 'raft: cannot step as peer not found';
    default:
      return 'raft proposal dropped';
  }
}

/** Messages of a node to itself, its threads included, are never dropped. */
function isFor(m: Message, id: number, drop: boolean, type?: MessageType): boolean {
  if (m.to !== id || (type !== undefined && m.type !== type)) return false;
  return !drop || !(m.from === m.to || isLocalTarget(m.from) || isLocalTarget(m.to));
}

function writeLog(
  { storage }: Node,
  hardState: HardState,
  entries: readonly Entry[],
  snapshot: Snapshot | undefined,
): Failure {
  if (hardState.term !== 0 || hardState.vote !== 0 || hardState.commit !== 0) storage.hardState = hardState;
  if (snapshot !== undefined && snapshot.metadata.index > 0) {
    if (entries.length > 0) return "can't apply snapshot and entries at the same time";
    return storage.applySnapshot(snapshot);
  }
  storage.append(entries);
  return undefined;
}

/** The state is all that was ever applied, one after the other. */
function applyEntries({ raw, history }: Node, entries: readonly Entry[]): void {
  for (const entry of entries) {
    const before = history[history.length - 1]!;
    let { confState } = before.metadata;
    let update = entry.data;
    if (entry.type !== EntryType.normal) {
      const change = decodeConfChange(entry.data!);
      confState = raw.applyConfChange(change);
      update = change.context;
    }
    const old = before.data ?? new Uint8Array(0);
    const data = new Uint8Array(old.length + (update?.length ?? 0));
    data.set(old);
    if (update !== undefined) data.set(update, old.length);
    history.push({ metadata: { index: entry.index, term: entry.term, confState }, data });
  }
}
