/**
 * Visits the replicas that stirred, once per turn: their messages leave at
 * once, their entries and votes go to the log as one batch. While that batch is
 * synced the next one gathers.
 */
import type { Clock } from '../common/env.js';
import type { Replica } from '../partition/replica.js';
import type { TurnOutput } from '../partition/types.js';
import type { Message } from '../raft/types.js';
import type { GroupWrite, Wal } from '../wal/types.js';

/** After this long the rest of the stirred replicas wait for the next turn, so that sockets and timers get theirs. */
const turnBudgetMs = 10;
/** Visits between two looks at the clock: most take microseconds, and one that applies stops by itself after about 3 ms. */
const visitsPerLook = 4;

export class TurnLoop implements TurnOutput {
  readonly #clock: Clock;
  readonly #wal: Wal;
  readonly #send: (replica: Replica, message: Message) => void;
  readonly #endOfTurn: () => void;
  /** Near the end of a turn: stirs whoever may use the frames that leave; true where there is somebody. */
  readonly #rides: () => boolean;
  #stirred: Replica[] = [];
  #scheduled = false;
  readonly #runTurn = (): void => this.#turn();
  #writes: GroupWrite[] = [];
  /** Whose they are. */
  #writers: Replica[] = [];
  /** The batch under way, or this turn's, holds entries that this node proposed. */
  #proposing = false;
  #proposed = false;
  /** Replicas whose proposals gather until then. */
  #gathering: Replica[] = [];
  turns = 0;

  constructor(
    clock: Clock,
    wal: Wal,
    send: (replica: Replica, message: Message) => void,
    endOfTurn: () => void,
    rides: () => boolean,
  ) {
    this.#rides = rides;
    this.#clock = clock;
    this.#wal = wal;
    this.#send = send;
    this.#endOfTurn = endOfTurn;
  }

  stir(replica: Replica): void {
    if (replica.isStirred) return;
    replica.isStirred = true;
    this.#stirred.push(replica);
    this.#schedule();
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
   * Entries are made at most once per synced batch: what arrives meanwhile shares
   * the next entry, its messages and its sync. A single client waits for nothing.
   */
  mayPropose(replica: Replica): boolean {
    if (this.#proposing) {
      this.#gathering.push(replica);
      return false;
    }
    this.#proposed = true;
    return true;
  }

  #turn(): void {
    this.turns++;
    this.#scheduled = false;
    const stirred = this.#stirred;
    this.#stirred = [];
    const endMs = this.#clock.monotonicMs() + turnBudgetMs;
    for (let i = 0; i < stirred.length; i++) {
      const replica = stirred[i] as Replica;
      replica.isStirred = false;
      replica.collect(this);
      if ((i + 1) % visitsPerLook === 0 && this.#clock.monotonicMs() > endMs) {
        this.#postpone(stirred, i + 1);
        break;
      }
    }
    if (this.#rides()) this.#visitAgain();
    if (this.#writes.length > 0) this.#write();
    this.#proposed = false;
    this.#endOfTurn();
  }

  /** Replicas that have something small to say, since a frame leaves anyway; the rest of what stirred goes with them. */
  #visitAgain(): void {
    const stirred = this.#stirred;
    this.#stirred = [];
    for (let i = 0; i < stirred.length; i++) {
      const replica = stirred[i] as Replica;
      replica.isStirred = false;
      replica.collect(this);
    }
  }

  /** In their order, before what stirred meanwhile: nobody waits for ever. */
  #postpone(stirred: readonly Replica[], from: number): void {
    const rest = stirred.slice(from);
    if (rest.length === 0) return;
    // What stirred again while it still waited is in neither list twice: its mark was still set.
    this.#stirred = rest.concat(this.#stirred);
    this.#schedule();
  }

  #write(): void {
    const writers = this.#writers;
    const proposed = this.#proposed;
    this.#proposing ||= proposed;
    this.#wal.write(this.#writes, () => {
      for (let i = 0; i < writers.length; i++) (writers[i] as Replica).durable();
      if (proposed) this.#proposedSynced();
    });
    this.#writes = [];
    this.#writers = [];
  }

  #proposedSynced(): void {
    this.#proposing = false;
    const gathering = this.#gathering;
    this.#gathering = [];
    for (const replica of gathering) this.stir(replica);
  }
}
