/**
 * Messages that tell a follower nothing but a new commit index. Under load the
 * next entries carry it a moment later, so that each such message, its answer
 * and two wake-ups of a process would be for nothing. A note waits for
 * `delayMs`; entries to the same follower make it superfluous. To hold back or
 * to lose a message is something that Raft has to bear anyway.
 */
import type { Clock, Timer } from '../common/env.js';
import type { ReplicaId } from '../common/ids.js';
import type { Message } from '../raft/types.js';

const none: readonly Message[] = Object.freeze([]);

export class CommitNotes {
  readonly #clock: Clock;
  readonly #delayMs: number;
  readonly #onDue: () => void;
  /** The newest of each follower. */
  #held: Message[] = [];
  #timer: Timer | undefined;
  #due = false;

  constructor(clock: Clock, delayMs: number, onDue: () => void) {
    this.#clock = clock;
    this.#delayMs = delayMs;
    this.#onDue = onDue;
  }

  hold(note: Message): void {
    this.drop(note.to);
    this.#held.push(note);
    // One timer at a time, and it is left running when its note has gone.
    this.#timer ??= this.#clock.after(this.#delayMs, () => {
      this.#timer = undefined;
      if (this.#held.length === 0) return;
      this.#due = true;
      this.#onDue();
    });
  }

  /** What goes to `to` now carries the commit index. */
  drop(to: ReplicaId): void {
    for (let i = 0; i < this.#held.length; i++) {
      if ((this.#held[i] as Message).to !== to) continue;
      this.#held.splice(i, 1);
      return;
    }
  }

  /** What must go now. */
  takeDue(): readonly Message[] {
    if (!this.#due) return none;
    this.#due = false;
    const due = this.#held;
    this.#held = [];
    return due;
  }

  clear(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#held = [];
    this.#due = false;
  }
}
