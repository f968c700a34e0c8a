/**
 * Ends the process when a disk operation hangs (design rule 6). A thread of its
 * own looks at counters in shared memory and touches no disk; it kills with
 * SIGKILL, because process.exit() waits for the worker that hangs in its call.
 */
import { Worker } from 'node:worker_threads';

/**
 * One slot of two words: an operation's number, odd while it runs. `enter` and
 * `leave` bracket a call that may hang; any thread may own a slot.
 */
export class DiskWatch {
  readonly #words: Int32Array;
  readonly #at: number;
  constructor(memory: SharedArrayBuffer, slot: number) {
    this.#words = new Int32Array(memory);
    this.#at = slot;
  }
  enter(): void {
    Atomics.add(this.#words, this.#at, 1);
  }
  leave(): void {
    Atomics.add(this.#words, this.#at, 1);
  }
}

export interface WatchdogOptions {
  /** A single operation that takes this long ends the process. */
  readonly stallMs: number;
  /** Memory of slots, see `DiskWatch`: 4 bytes each. */
  readonly memory: SharedArrayBuffer;
  /** Ends this process instead of our own; for tests. */
  readonly pid?: number;
}

export const watchdogDefaults = Object.freeze({
  /** Longer than any healthy disk's worst pause, shorter than an operator's patience. */
  stallMs: 10_000,
});

export interface WatchdogData extends WatchdogOptions {
  readonly pid: number;
  /** Word 0 becomes 1 when the watchdog shall end. */
  readonly control: SharedArrayBuffer;
}

export interface Watchdog {
  stop(): Promise<void>;
}

export function startWatchdog(options: WatchdogOptions): Watchdog {
  const control = new SharedArrayBuffer(4);
  const workerData: WatchdogData = { ...options, pid: options.pid ?? process.pid, control };
  const worker = new Worker(new URL('./watchdog-worker.js', import.meta.url), { workerData });
  // Watching is no reason to keep a process that has nothing else to do.
  worker.unref();
  const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
  return {
    stop() {
      const words = new Int32Array(control);
      worker.ref();
      Atomics.store(words, 0, 1);
      Atomics.notify(words, 0);
      return ended;
    },
  };
}
