/**
 * A group of bare cores on a network that drops, repeats, reorders and cuts,
 * with storage that takes its time and processes that die, all drawn from one
 * seed. After every action the promises of Raft are checked; `Broken` names the
 * one that was broken.
 */
import { type ConfState, type Entry, EntryType } from '../../src/common/log-types.js';
import {
  type ConfChange,
  ConfChangeKind,
  type ConfChangeSingle,
  decodeConfChange,
  isLeaveJoint,
  isLocalTarget,
  leaveJointChange,
  type Message,
  MessageType,
  RawNode,
  Role,
  type Snapshot,
  Transition,
  type WorkSink,
} from '../../src/raft/index.js';
import { emptyConfState, MemoryStorage } from './memory-storage.js';

export interface GroupOptions {
  readonly seed: number;
  readonly voters: number;
  readonly steps: number;
  readonly async: boolean;
  /** With `async`: work is drained, not made into a Ready, and commit indexes alone wait to be asked for. */
  readonly drains: boolean;
  readonly preVote: boolean;
  readonly checkQuorum: boolean;
  readonly stepDownOnRemoval: boolean;
  readonly maxSizePerMsg: number;
  readonly maxInflightMsgs: number;
  readonly maxCommittedSizePerReady: number;
  readonly crashes: boolean;
  /** Many elections, crashes and cuts rather than long pipelines. */
  readonly stormy: boolean;
  readonly memberChanges: boolean;
  /**
   * May leaders demote or remove themselves? An owner transfers leadership
   * first: a demoted leader can't campaign, and with an uncommitted tail longer
   * than the others' it votes for none of them, whose outgoing half may need it.
   */
  readonly selfRemoval: boolean;
  /** A planted bug, to prove that the checks see one. */
  readonly bug?:
    | 'ack-before-sync'
    | 'vote-not-kept'
    | 'request-votes-before-sync'
    | 'read-without-quorum'
    | undefined;
}

export class Broken extends Error {}

/** Replica ids that may ever exist; those above `voters` start empty and outside. */
const REPLICAS = 7;
const FIRST_INDEX = 5;

interface Write {
  readonly m: Message;
  /** Held until it is synced, by the owner's gate. */
  readonly held: Message[];
}

interface Replica {
  readonly id: number;
  readonly storage: MemoryStorage;
  raw: RawNode;
  writes: Write[];
  applies: Message[];
  toSelf: Message[];
  // The applied state; survives a crash, as a store's checkpoint does.
  applied: number;
  appliedTerm: number;
  digest: number;
  confState: ConfState;
}

export class Group {
  readonly replicas: Replica[] = [];
  #net: Message[] = [];
  readonly #cut = new Set<number>();
  readonly #leaders = new Map<number, number>();
  /** index → term and digest of the state after it: what was committed, for ever. */
  readonly committed = new Map<number, { term: number; digest: number }>();
  readonly #reads = new Map<number, number>();
  readonly #gone = new Set<number>();
  #maxCommit = 0;
  #nextContext = 1;
  #nextValue = 1;
  readonly counts = { elections: 0, applied: 0, reads: 0, snapshots: 0, crashes: 0, changes: 0 };
  #state: number;

  constructor(readonly options: GroupOptions) {
    this.#state = options.seed >>> 0;
    const voters = Array.from({ length: options.voters }, (_, i) => i + 1);
    const confState: ConfState = { ...emptyConfState, voters };
    const first: Snapshot = {
      metadata: { index: FIRST_INDEX, term: 1, confState },
      data: digestBytes(0),
    };
    for (let id = 1; id <= REPLICAS; id++) {
      const storage = new MemoryStorage();
      const member = id <= options.voters;
      if (member) storage.applySnapshot(first);
      const replica: Replica = {
        id,
        storage,
        raw: undefined as unknown as RawNode,
        writes: [],
        applies: [],
        toSelf: [],
        applied: member ? FIRST_INDEX : 0,
        appliedTerm: member ? 1 : 0,
        digest: 0,
        confState: member ? confState : emptyConfState,
      };
      storage.snapshotOverride = () => ({
        metadata: { index: replica.applied, term: replica.appliedTerm, confState: replica.confState },
        data: digestBytes(replica.digest),
      });
      this.replicas.push(replica);
      this.#start(replica);
    }
  }

  /** mulberry32 */
  random(n: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % n;
  }

  #start(replica: Replica): void {
    const { storage } = replica;
    const { options } = this;
    storage.confState = replica.confState;
    if (storage.hardState.commit < replica.applied) {
      storage.hardState = { ...storage.hardState, commit: replica.applied };
    }
    replica.writes = [];
    replica.applies = [];
    replica.toSelf = [];
    replica.raw = new RawNode({
      id: replica.id,
      storage,
      random: (n) => this.random(n),
      electionTick: 6,
      heartbeatTick: 1,
      applied: replica.applied,
      asyncStorageWrites: options.async,
      maxSizePerMsg: options.maxSizePerMsg,
      maxInflightMsgs: options.maxInflightMsgs,
      maxCommittedSizePerReady: options.maxCommittedSizePerReady,
      preVote: options.preVote,
      checkQuorum: options.checkQuorum,
      stepDownOnRemoval: options.stepDownOnRemoval,
      tellsCommitWhenAsked: options.drains,
    });
  }

  // ------------------------------------------------------------- the run

  run(): void {
    for (let i = 0; i < this.options.steps; i++) {
      this.#act();
      for (const replica of this.replicas) this.#checkReplica(replica);
      if (i % 64 === 0) this.#checkLogs();
    }
    this.#checkLogs();
  }

  #act(): void {
    const replica = this.#any();
    const { raw } = replica;
    const roll = this.random(1000);
    if (this.options.stormy && this.random(20) === 0) {
      const fury = this.random(8);
      if (fury < 3) raw.campaign();
      else if (fury < 6) for (let i = this.random(8); i > 0; i--) raw.tick();
      else if (fury === 6) this.#cutOrHeal();
      else if (this.options.crashes) this.#crash(replica);
    } else if (roll < 90) raw.tick();
    else if (roll < 270)
      this.#some(
        (r) => r.raw.hasReady(),
        (r) => this.#handleReady(r),
      );
    else if (roll < 400)
      this.#some(
        (r) => r.writes.length > 0,
        (r) => this.#write(r),
      );
    else if (roll < 480)
      this.#some(
        (r) => r.applies.length > 0,
        (r) => this.#apply(r),
      );
    else if (roll < 600)
      this.#some(
        (r) => r.toSelf.length > 0,
        (r) => this.#deliverSelf(r),
      );
    else if (roll < 890) this.#deliver();
    else if (roll < 960) this.#propose();
    else if (roll < 970) this.#read(replica);
    else if (roll < 977) this.#compact(replica);
    else if (roll < 979) this.#cutOrHeal();
    else if (roll < 982) {
      if (this.options.crashes) this.#crash(replica);
    } else if (roll < 992) {
      if (this.options.memberChanges) this.#changeMembers(raw);
    } else if (roll < 993) raw.transferLeader(1 + this.random(REPLICAS));
    else if (roll < 994) raw.forgetLeader();
    else if (roll < 995) raw.reportUnreachable(1 + this.random(REPLICAS));
    else if (roll < 998)
      raw.reportSnapshot(1 + this.random(REPLICAS), this.random(2) ? 'finished' : 'failed');
    else if (roll < 999) raw.campaign();
    else raw.tellCommit();
  }

  /** Without changes of members only the first voters have a part. */
  #any(): Replica {
    return this.replicas[this.random(this.options.memberChanges ? REPLICAS : this.options.voters)]!;
  }

  /** The first replica after a random one that has that kind of work. */
  #some(has: (replica: Replica) => boolean, fn: (replica: Replica) => void): void {
    const first = this.random(REPLICAS);
    for (let i = 0; i < REPLICAS; i++) {
      const replica = this.replicas[(first + i) % REPLICAS]!;
      if (has(replica)) {
        fn(replica);
        return;
      }
    }
  }

  #handleReady(replica: Replica): void {
    const { raw } = replica;
    const had = raw.hasReady();
    if (this.options.async && this.options.drains) {
      this.#check(raw.drain(this.#sink(replica)) === had, 'drain and hasReady differ');
      this.#check(!raw.hasReady(), 'work is left behind a drain');
      return;
    }
    if (!had) return;
    const ready = raw.ready();
    for (const { index, context } of ready.readStates) this.#checkRead(index, context);
    if (!this.options.async) {
      const { hardState, entries, snapshot } = ready;
      if (hardState !== undefined) this.#keep(replica, hardState);
      if (snapshot !== undefined) this.#install(replica, snapshot);
      replica.storage.append(entries);
      for (const m of ready.messages) this.#net.push(m);
      this.#applyEntries(replica, ready.committedEntries);
      raw.advance();
      return;
    }
    const append = ready.messages.find((m) => m.type === MessageType.MsgStorageAppend);
    const held: Message[] = [];
    for (const m of ready.messages) {
      if (m.type === MessageType.MsgStorageApply) replica.applies.push(m);
      else if (isLocalTarget(m.to)) continue;
      // The gate of design rule 9: who asks for votes has kept its term and its log.
      else if (m.type === MessageType.MsgVote && this.options.bug !== 'request-votes-before-sync')
        held.push(m);
      else this.#net.push(m);
    }
    if (append === undefined) return;
    if (this.options.bug === 'ack-before-sync') {
      for (const m of append.responses) if (m.to !== replica.id) this.#net.push(m);
    }
    replica.writes.push({ m: append, held });
  }

  #sink(replica: Replica): WorkSink {
    const held: Message[] = [];
    return {
      observeState: () => undefined,
      readState: ({ index, context }) => this.#checkRead(index, context),
      send: (m, mustSync) => {
        if (mustSync && m.type === MessageType.MsgVote && this.options.bug !== 'request-votes-before-sync') {
          held.push(m);
        } else this.#net.push(m);
      },
      append: (m) => {
        if (this.options.bug === 'ack-before-sync') {
          for (const response of m.responses) if (response.to !== replica.id) this.#net.push(response);
        }
        replica.writes.push({ m, held });
      },
      committed: (index) => this.#check(index <= replica.raw.commitIndex, 'a commit index out of nothing'),
      apply: (m) => replica.applies.push(m),
    };
  }

  #keep(replica: Replica, hardState: { term: number; vote: number; commit: number }): void {
    const before = replica.storage.hardState;
    this.#check(hardState.term >= before.term, 'term went back on disk');
    this.#check(
      hardState.term > before.term || before.vote === 0 || hardState.vote === before.vote,
      'vote changed within a term',
    );
    const vote = this.options.bug === 'vote-not-kept' ? 0 : hardState.vote;
    replica.storage.hardState = { ...hardState, vote };
  }

  /** One write reaches the disk. */
  #write(replica: Replica): void {
    const work = replica.writes.shift();
    if (work === undefined) return;
    const { m, held } = work;
    if (m.term !== 0 || m.vote !== 0 || m.commit !== 0) this.#keep(replica, m);
    if (m.snapshot !== undefined) this.#install(replica, m.snapshot);
    replica.storage.append(m.entries);
    for (const response of m.responses) {
      if (response.to === replica.id) replica.toSelf.push(response);
      else if (this.options.bug !== 'ack-before-sync') this.#net.push(response);
    }
    this.#net.push(...held);
  }

  #install(replica: Replica, snapshot: Snapshot): void {
    const { index, term, confState } = snapshot.metadata;
    this.counts.snapshots++;
    replica.storage.applySnapshot(snapshot);
    this.#check(index >= replica.applied, 'a snapshot older than the applied state');
    replica.applied = index;
    replica.appliedTerm = term;
    replica.digest = new DataView(snapshot.data!.buffer).getFloat64(0);
    replica.confState = confState;
    replica.storage.confState = confState;
  }

  #apply(replica: Replica): void {
    const m = replica.applies.shift();
    if (m === undefined) return;
    this.#applyEntries(replica, m.entries);
    for (const response of m.responses) replica.toSelf.push(response);
  }

  #applyEntries(replica: Replica, entries: readonly Entry[]): void {
    for (const entry of entries) {
      if (entry.index <= replica.applied) continue;
      this.#check(entry.index === replica.applied + 1, 'a gap in what is applied');
      if (entry.type !== EntryType.normal) {
        replica.confState = replica.raw.applyConfChange(decodeConfChange(entry.data!));
        replica.storage.confState = replica.confState;
        this.counts.changes++;
      }
      replica.digest = (replica.digest * 31 + entry.term * 7 + contentOf(entry)) % 9_007_199_254_740;
      replica.applied = entry.index;
      replica.appliedTerm = entry.term;
      this.counts.applied++;
      const known = this.committed.get(entry.index);
      if (known === undefined) this.committed.set(entry.index, { term: entry.term, digest: replica.digest });
      else {
        this.#check(known.term === entry.term, `committed entry ${entry.index} rewritten`);
        this.#check(known.digest === replica.digest, `different states at index ${entry.index}`);
      }
    }
  }

  #deliverSelf(replica: Replica): void {
    const m = replica.toSelf.shift();
    if (m !== undefined) replica.raw.step(m);
  }

  #deliver(): void {
    if (this.#net.length === 0) return;
    // Mostly in order, so that long pipelines exist; sometimes any.
    const at = this.random(4) === 0 ? this.random(this.#net.length) : 0;
    const fate = this.random(100);
    const m = fate < 95 ? this.#net.splice(at, 1)[0]! : this.#net[at]!;
    if (fate < 4 || this.#cut.has(m.from * 16 + m.to)) return;
    this.replicas[m.to - 1]!.raw.step(m);
  }

  /** Mostly at a leader, sometimes where it has to be forwarded or dropped. */
  #propose(): void {
    const leader = this.replicas.find(({ raw }) => raw.role === Role.leader);
    const { raw } = this.random(4) === 0 || leader === undefined ? this.#any() : leader;
    const data = new Uint8Array(8 + this.random(24));
    new DataView(data.buffer).setFloat64(0, this.#nextValue++);
    raw.propose(data);
  }

  #read({ raw }: Replica): void {
    const context = this.#nextContext++;
    this.#reads.set(context, this.#maxCommit);
    raw.readIndex(context);
  }

  #checkRead(index: number, context: number): void {
    const least = this.#reads.get(context);
    this.counts.reads++;
    this.#check(
      least !== undefined && index >= least,
      'a read index below what was committed when it was asked for',
    );
  }

  /** Never beyond what the core knows to be applied. */
  #compact({ storage, raw }: Replica): void {
    const applied = Math.min(raw.appliedIndex, storage.lastIndex());
    if (applied > storage.firstIndex()) storage.compact(applied - this.random(2));
  }

  #cutOrHeal(): void {
    if (this.random(3) === 0) {
      this.#cut.clear();
      return;
    }
    const lonely = 1 + this.random(REPLICAS);
    const ways = this.random(3);
    for (let id = 1; id <= REPLICAS; id++) {
      if (ways !== 0) this.#cut.add(lonely * 16 + id);
      if (ways !== 1) this.#cut.add(id * 16 + lonely);
    }
  }

  /** What was not synced is gone. */
  #crash(replica: Replica): void {
    this.counts.crashes++;
    this.#start(replica);
  }

  /** The owner's gate: only in a settled term, and only what the core does not refuse. */
  #changeMembers(raw: RawNode): void {
    if (raw.role !== Role.leader || raw.termAt(raw.appliedIndex) !== raw.term) return;
    const { config } = raw;
    let change: ConfChange;
    if (config.votersOutgoing.length > 0) {
      change = leaveJointChange;
    } else {
      const changes: ConfChangeSingle[] = [];
      const staying = new Set(config.voters);
      const count = 1 + this.random(3);
      for (let i = 0; i < count; i++) {
        const id = 1 + this.random(REPLICAS);
        const kinds = [ConfChangeKind.addVoter, ConfChangeKind.addLearner, ConfChangeKind.remove];
        const kind = kinds[this.random(3)]!;
        // Ids are never used again.
        if (this.#gone.has(id) || changes.some((other) => other.id === id)) continue;
        if (id === raw.id && !this.options.selfRemoval) continue;
        if (kind === ConfChangeKind.addVoter) staying.add(id);
        else staying.delete(id);
        changes.push({ kind, id });
      }
      if (changes.length === 0 || staying.size < 2) return;
      const transition = changes.length === 1 ? Transition.auto : (this.random(3) as Transition);
      change = { transition, changes };
      if (this.#gone.size >= REPLICAS - 3) return;
    }
    if (raw.confChangeProblem(change) !== undefined) return;
    if (raw.proposeConfChange(change) !== 'ok') return;
    if (isLeaveJoint(change)) return;
    for (const { kind, id } of change.changes) if (kind === ConfChangeKind.remove) this.#gone.add(id);
  }

  // ------------------------------------------------------------- promises

  #check(condition: boolean, promise: string): void {
    if (!condition) throw new Broken(promise);
  }

  #checkReplica({ id, raw }: Replica): void {
    this.#maxCommit = Math.max(this.#maxCommit, raw.commitIndex);
    if (raw.role !== Role.leader) return;
    const known = this.#leaders.get(raw.term);
    if (known !== undefined) {
      this.#check(known === id, `two leaders in term ${raw.term}`);
      return;
    }
    this.#leaders.set(raw.term, id);
    this.counts.elections++;
    // Leader completeness (Raft, figure 3).
    for (const [index, { term }] of this.committed) {
      if (term >= raw.term) continue;
      const mine = raw.termAt(index);
      const known = mine === term || (mine === undefined && index <= raw.appliedIndex);
      this.#check(known, `leader of term ${raw.term} lacks committed entry ${index}`);
    }
  }

  /** Log matching: equal (index, term) means that all before is equal. */
  #checkLogs(): void {
    const seen = new Map<string, string>();
    for (const { storage } of this.replicas) {
      let before = '';
      for (let i = storage.firstIndex(); i <= storage.lastIndex(); i++) {
        const entry = storage.entries(i, i + 1, Infinity)[0]!;
        const place = `${entry.term}/${entry.index}`;
        const content = `${entry.type}:${contentOf(entry)}`;
        const known = seen.get(place);
        // What stands before it may be compacted in one of the two.
        const [knownBefore, knownContent] = known?.split('|') ?? [before, content];
        this.#check(knownContent === content, `two entries at ${place}`);
        this.#check(
          knownBefore === before || knownBefore === '' || before === '',
          `logs differ before ${place}`,
        );
        if (known === undefined || knownBefore === '') seen.set(place, `${before}|${content}`);
        before = place;
      }
    }
  }

  // ------------------------------------------------------------- liveness

  /** Heals everything, restarts everybody, and sees whether the group takes a write within bounded time. */
  settle(): boolean {
    this.#cut.clear();
    this.#net = [];
    for (const replica of this.replicas) this.#start(replica);
    let proposed = 0;
    for (let round = 0; round < 400; round++) {
      // Owners stop replicas that a change removed; the newest applied state tells.
      const newest = this.replicas.reduce((a, b) => (b.applied > a.applied ? b : a));
      const { voters, votersOutgoing, learners } = newest.confState;
      const members = new Set([...voters, ...votersOutgoing, ...learners]);
      for (const replica of this.replicas) {
        if (!members.has(replica.id)) continue;
        replica.raw.tick();
        const leads = replica.raw.role === Role.leader;
        if (leads && votersOutgoing.length > 0 && !replica.confState.autoLeave) {
          replica.raw.proposeConfChange(leaveJointChange);
        }
        if (leads && replica.raw.committedInCurrentTerm) {
          const data = new Uint8Array(8);
          if (replica.raw.propose(data) === 'ok') proposed = Math.max(proposed, replica.raw.lastIndex);
        }
        this.#checkReplica(replica);
      }
      for (let i = 0; i < 20; i++) {
        for (const replica of this.replicas) {
          if (!members.has(replica.id)) continue;
          this.#handleReady(replica);
          while (replica.writes.length > 0) this.#write(replica);
          while (replica.applies.length > 0) this.#apply(replica);
          while (replica.toSelf.length > 0) this.#deliverSelf(replica);
        }
        const net = this.#net;
        this.#net = [];
        for (const m of net) {
          if (!members.has(m.to)) continue;
          this.replicas[m.to - 1]!.raw.step(m);
          // The one who sent a snapshot reports what became of it.
          if (m.type === MessageType.MsgSnap) this.replicas[m.from - 1]!.raw.reportSnapshot(m.to, 'finished');
        }
      }
      const lag = [...voters, ...learners].some((id) => this.replicas[id - 1]!.applied < proposed - 50);
      if (proposed > 0 && !lag && newest.applied > this.#maxCommit - 50 && round > 60) {
        this.#checkLogs();
        return true;
      }
    }
    return false;
  }
}

function digestBytes(digest: number): Uint8Array {
  const data = new Uint8Array(8);
  new DataView(data.buffer).setFloat64(0, digest);
  return data;
}

function contentOf(entry: Entry): number {
  if (entry.type !== EntryType.normal || entry.data!.length < 8) return entry.data!.length;
  return new DataView(entry.data!.buffer).getFloat64(0);
}
