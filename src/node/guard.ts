/**
 * Nothing that throws inside a timer or a deferred call may end as an uncaught
 * exception that somebody else handles, or leave one partition silently dead:
 * it ends the process through the node's one way out.
 */
import type { Clock } from '../common/env.js';

export class Guard {
  #failed = false;
  readonly #onFatal: (error: unknown) => void;

  constructor(onFatal: (error: unknown) => void) {
    this.#onFatal = onFatal;
  }

  /** Nothing more is done: what is in memory can't be trusted any longer. */
  get hasFailed(): boolean {
    return this.#failed;
  }

  /** Only the first failure is told. */
  readonly fail = (error: unknown): void => {
    if (this.#failed) return;
    this.#failed = true;
    this.#onFatal(error);
  };

  /** Runs `fn` unless something has failed; what it throws is fatal. */
  run(fn: () => void): void {
    if (this.#failed) return;
    try {
      fn();
    } catch (error) {
      this.fail(error);
    }
  }

  /** A clock whose calls back are guarded. */
  clock(clock: Clock): Clock {
    return {
      nowUs: () => clock.nowUs(),
      monotonicMs: () => clock.monotonicMs(),
      after: (delayMs, fn) => clock.after(delayMs, () => this.run(fn)),
      defer: (fn) => clock.defer(() => this.run(fn)),
    };
  }
}
