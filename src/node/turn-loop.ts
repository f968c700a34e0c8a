/**
 * Visits the replicas that stirred, once per turn: their messages leave at
 * once, their entries and votes go to the log as one batch. While that batch is
 * synced the next one gathers. What is committed is applied last, while the others
 * work on what left.
 */
import type { Clock, Timer } from '../common/env.js';
import type { Replica } from '../partition/replica.js';
import type { ProposalBudget, TurnOutput } from '../partition/types.js';
import type { Message } from '../raft/types.js';
import type { GroupWrite, Wal } from '../wal/types.js';

/** After this long the rest of the stirred replicas wait for the next turn, so that sockets and timers get theirs. */
const turnBudgetMs = 10;
/** Replicas between two looks at the clock: most take microseconds, and one that applies stops by itself after about 3 ms. */
const visitsPerLook = 4;
/**
 * How long proposals gather for the last ones to be committed, ms. Where nodes are near, that comes first, also under load;
 * where a round between nodes takes longer than this, nobody waits for more of it.
 */
const gatherMs = 8;
/**
 * With fewer proposals under way at this node none waits for another's commit: there is little to share, and a round more
 * to wait for (8 to 20 a node were slower with it in three processes, 85 faster: docs/performance.md).
 */
export const gatherFrom = 48;

/** A round that takes longer is given up as one to time, ms. */
const longestTimedMs = 2_000;

const nobody: readonly Replica[] = Object.freeze([]);

export class TurnLoop implements TurnOutput {
  readonly #clock: Clock;
  readonly #wal: Wal;
  readonly #budget: Readonly<ProposalBudget>;
  readonly #send: (replica: Replica, message: Message) => void;
  readonly #endOfTurn: () => void;
  /** Near the end of a turn: stirs whoever may use the frames that leave; true where there is somebody. */
  readonly #rides: () => boolean;
  /** A round of this node's proposals took so long to be committed, ms. */
  readonly #committedIn: (ms: number) => void;
  #stirred: Replica[] = [];
  #scheduled = false;
  /** What stirs now may still be visited in this turn; the rest has the next one scheduled at its end. */
  #inTurn = false;
  readonly #runTurn = (): void => this.#turn();
  /** Visits since the clock was looked at. */
  #sinceLook = 0;
  #writes: GroupWrite[] = [];
  /** Whose they are. */
  #writers: Replica[] = [];
  /** Who have committed entries to apply at the turn's end. */
  readonly #appliers = new Set<Replica>();
  /** The batch under way holds entries that this node proposed. */
  #proposing = false;
  /** This turn's does. */
  #proposed = false;
  /** They are not committed yet, and it is not `gatherMs` since they left. */
  #uncommitted = false;
  #proposedAtMs = 0;
  /** When the round left that is being timed; one at a time, as TCP times its round trips. */
  #timedFromMs: number | undefined;
  #gatherTimer: Timer | undefined;
  /** Replicas whose proposals gather until then. */
  #gathering = new Set<Replica>();
  turns = 0;

  constructor(
    clock: Clock,
    wal: Wal,
    budget: Readonly<ProposalBudget>,
    send: (replica: Replica, message: Message) => void,
    endOfTurn: () => void,
    rides: () => boolean,
    committedIn: (ms: number) => void = () => {},
  ) {
    this.#rides = rides;
    this.#committedIn = committedIn;
    this.#clock = clock;
    this.#wal = wal;
    this.#budget = budget;
    this.#send = send;
    this.#endOfTurn = endOfTurn;
  }

  stir(replica: Replica): void {
    if (replica.isStirred) return;
    replica.isStirred = true;
    this.#stirred.push(replica);
    if (!this.#inTurn) this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#clock.defer(this.#runTurn);
  }

  /** A turn will come. */
  get isScheduled(): boolean {
    return this.#scheduled;
  }

  send(replica: Replica, message: Message): void {
    this.#send(replica, message);
  }

  persist(replica: Replica, write: GroupWrite): void {
    this.#writes.push(write);
    this.#writers.push(replica);
  }

  /**
   * Entries are made at most once per round: what arrives while the last ones are synced and
   * sent around shares the next entries, their messages and their sync, which cost
   * more than what they carry. A few clients wait for no more than the sync.
   */
  mayPropose(replica: Replica): boolean {
    if (this.#gathers) {
      this.#gather(replica);
      return false;
    }
    this.#proposed = true;
    return true;
  }

  /** Something was proposed to it: it is visited when it may make an entry. */
  proposes(replica: Replica): void {
    if (this.#gathers) this.#gather(replica);
    else this.stir(replica);
  }

  /** The first of a round speaks for all: they went in the same frames. One whose members lag holds up nobody else. */
  allCommitted(): void {
    this.#uncommitted = false;
    if (this.#timedFromMs === undefined) return;
    this.#committedIn(this.#clock.monotonicMs() - this.#timedFromMs);
    this.#timedFromMs = undefined;
  }

  get #gathers(): boolean {
    return this.#proposing || (this.#uncommitted && this.#budget.proposals >= gatherFrom);
  }

  #gather(replica: Replica): void {
    this.#gathering.add(replica);
    if (this.#uncommitted) this.#limitGathering();
  }

  #limitGathering(): void {
    if (this.#gatherTimer !== undefined) return;
    this.#gatherTimer = this.#clock.after(this.#gatherLeftMs, () => {
      this.#gatherTimer = undefined;
      if (!this.#uncommitted) return;
      if (this.#gatherLeftMs > 1) return this.#limitGathering();
      this.#uncommitted = false;
      if (!this.#gathers) this.#stirGathering();
    });
  }

  get #gatherLeftMs(): number {
    return Math.max(1, this.#proposedAtMs + gatherMs - this.#clock.monotonicMs());
  }

  #turn(): void {
    this.turns++;
    this.#scheduled = false;
    this.#inTurn = true;
    const endMs = this.#clock.monotonicMs() + turnBudgetMs;
    let postponed = this.#visit(endMs);
    // In the turn in which a round ends the next begins: what is new in the commit indexes goes with its entries.
    if (this.#gathering.size > 0 && !this.#gathers) {
      this.#stirGathering();
      if (postponed.length === 0) postponed = this.#visit(endMs);
    }
    // Replicas that have something small to say, since a frame leaves anyway; the rest of what stirred goes with them.
    if (postponed.length === 0 && this.#rides()) postponed = this.#visit(endMs);
    // A follower's acknowledgements leave before it applies anything, while the turn has time; a leader has to wait for others, and for its callers.
    if (this.#leave(!this.#proposed) && postponed.length === 0) {
      postponed = this.#visit(endMs);
      this.#leave(false);
    }
    const unapplied = this.#appliers.size > 0 ? this.#apply(endMs) : nobody;
    this.#inTurn = false;
    // In their order, before what stirred meanwhile: nobody waits for ever. What stirred again while
    // it still waited is in no list twice: its mark was still set.
    if (postponed.length + unapplied.length > 0) this.#stirred = postponed.concat(unapplied, this.#stirred);
    if (this.#stirred.length > 0) this.#schedule();
  }

  /** Messages leave, and the disk begins while this turn goes on. True: what was to be synced is. */
  #leave(here: boolean): boolean {
    const isWriting = this.#writes.length > 0;
    if (isWriting) this.#write();
    this.#proposed = false;
    this.#endOfTurn();
    return isWriting && this.#wal.flush(here);
  }

  /** Whom it has not come to when the turn's time is over; one at least is visited. */
  #visit(endMs: number): readonly Replica[] {
    const stirred = this.#stirred;
    this.#stirred = [];
    for (let i = 0; i < stirred.length; i++) {
      const replica = stirred[i] as Replica;
      replica.isStirred = false;
      replica.collect(this);
      if (i + 1 < stirred.length && this.#isOver(endMs)) return stirred.slice(i + 1);
    }
    return nobody;
  }

  /** Looks at the clock now and then, counted on through turns: few replicas may take long, too. */
  #isOver(endMs: number): boolean {
    if (++this.#sinceLook < visitsPerLook) return false;
    this.#sinceLook = 0;
    return this.#clock.monotonicMs() > endMs;
  }

  /** One that is visited twice in a turn has one slice all the same. */
  applies(replica: Replica): void {
    this.#appliers.add(replica);
  }

  /** Last, so that nobody elsewhere waits for it; one at least, however long the turn was. Whom it has not come to. */
  #apply(endMs: number): readonly Replica[] {
    const appliers = [...this.#appliers];
    this.#appliers.clear();
    for (let i = 0; i < appliers.length; i++) {
      if (i > 0 && this.#isOver(endMs)) return marked(appliers.slice(i));
      (appliers[i] as Replica).applyCommitted();
    }
    return nobody;
  }

  #write(): void {
    const writers = this.#writers;
    const proposed = this.#proposed;
    if (proposed) this.#beginRound();
    this.#wal.write(this.#writes, () => {
      for (let i = 0; i < writers.length; i++) (writers[i] as Replica).durable();
      if (proposed) this.#proposedSynced();
    });
    this.#writes = [];
    this.#writers = [];
  }

  #beginRound(): void {
    this.#proposing = true;
    this.#uncommitted = true;
    this.#proposedAtMs = this.#clock.monotonicMs();
    const timedFromMs = this.#timedFromMs ?? Number.NEGATIVE_INFINITY;
    // What was never committed here is timed no more: a deposed leader's round.
    if (this.#proposedAtMs - timedFromMs > longestTimedMs) this.#timedFromMs = this.#proposedAtMs;
  }

  #proposedSynced(): void {
    this.#proposing = false;
    if (!this.#gathers) this.#stirGathering();
  }

  #stirGathering(): void {
    const gathering = this.#gathering;
    if (gathering.size === 0) return;
    this.#gathering = new Set();
    for (const replica of gathering) this.stir(replica);
  }
}

/** Those that nothing has stirred yet count as stirred. */
function marked(replicas: readonly Replica[]): readonly Replica[] {
  const unmarked: Replica[] = [];
  for (const replica of replicas) {
    if (replica.isStirred) continue;
    replica.isStirred = true;
    unmarked.push(replica);
  }
  return unmarked;
}
