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

export class TurnLoop implements TurnOutput {
  readonly #clock: Clock;
  readonly #wal: Wal;
  readonly #send: (replica: Replica, message: Message) => void;
  readonly #endOfTurn: () => void;
  #stirred: Replica[] = [];
  readonly #isStirred = new Set<Replica>();
  #scheduled = false;
  #writes: GroupWrite[] = [];
  #onDurable: (() => void)[] = [];
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
  ) {
    this.#clock = clock;
    this.#wal = wal;
    this.#send = send;
    this.#endOfTurn = endOfTurn;
  }

  stir(replica: Replica): void {
    if (this.#isStirred.has(replica)) return;
    this.#isStirred.add(replica);
    this.#stirred.push(replica);
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#clock.defer(() => this.#turn());
  }

  send(replica: Replica, message: Message): void {
    this.#send(replica, message);
  }

  persist(write: GroupWrite, onDurable: () => void): void {
    this.#writes.push(write);
    this.#onDurable.push(onDurable);
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
    this.#isStirred.clear();
    const endMs = this.#clock.monotonicMs() + turnBudgetMs;
    for (let i = 0; i < stirred.length; i++) {
      (stirred[i] as Replica).collect(this);
      if (this.#clock.monotonicMs() > endMs) {
        // In their order, before what stirs from now on: nobody waits for ever.
        const later = this.#stirred;
        this.#stirred = [];
        this.#isStirred.clear();
        for (const replica of stirred.slice(i + 1).concat(later)) this.stir(replica);
        break;
      }
    }
    if (this.#writes.length > 0) {
      const onDurable = this.#onDurable;
      const proposed = this.#proposed;
      this.#proposing ||= proposed;
      this.#wal.write(this.#writes, () => {
        for (const done of onDurable) done();
        if (proposed) this.#proposedSynced();
      });
      this.#writes = [];
      this.#onDurable = [];
    }
    this.#proposed = false;
    this.#endOfTurn();
  }

  #proposedSynced(): void {
    this.#proposing = false;
    const gathering = this.#gathering;
    this.#gathering = [];
    for (const replica of gathering) this.stir(replica);
  }
}
