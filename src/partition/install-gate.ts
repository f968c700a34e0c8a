/**
 * The order of storage work while a snapshot takes the state's place: what the
 * core asks for after it waits until the snapshot is the state and the log
 * begins behind it (design rule 8).
 *
 *   taken → applier idle → the store decides → log reset → both durable → responses
 */
import type { Index, Term } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { Message } from '../raft/types.js';

/** A snapshot whose rows are all in the store, under a generation that does not count yet. */
export interface StagedSnapshot {
  readonly index: Index;
  readonly term: Term;
  readonly confState: ConfState;
  /** Decides. Rejects: the process must end. */
  finish(): Promise<void>;
  /** Gives it up; its rows go. */
  abandon(): void;
}

export interface StorageWork {
  readonly message: Message;
  /** Vote requests that wait for this write (design rule 9). */
  readonly held: Message[] | undefined;
}

export class InstallGate {
  #staged: StagedSnapshot | undefined;
  #work: StorageWork | undefined;
  #behind: StorageWork[] = [];
  #phase: 'none' | 'offered' | 'waiting' | 'deciding' | 'decided' = 'none';

  /** A snapshot is on its way into the state. */
  get isBusy(): boolean {
    return this.#phase !== 'none';
  }

  offer(staged: StagedSnapshot): void {
    this.#staged = staged;
    this.#phase = 'offered';
  }

  /** The core did not want it. */
  withdraw(): void {
    this.#staged = undefined;
    this.#phase = 'none';
  }

  /** The replica is going. What is being decided already ends by itself. */
  abandon(): void {
    if (this.#phase === 'offered' || this.#phase === 'waiting') this.#staged?.abandon();
  }

  /** The core's storage work that stores the offered snapshot. */
  begin(work: StorageWork): void {
    this.#work = work;
    this.#phase = 'waiting';
  }

  /** True: taken, to be carried out when the snapshot is in its place. */
  holds(work: StorageWork): boolean {
    if (this.#work === undefined) return false;
    this.#behind.push(work);
    return true;
  }

  /** Where the applier is idle: nothing is applied any more until the snapshot is in its place. */
  start(applierIsIdle: boolean, decided: () => void, fatal: (error: unknown) => void): void {
    if (this.#phase !== 'waiting' || !applierIsIdle || this.#staged === undefined) return;
    this.#phase = 'deciding';
    this.#staged.finish().then(() => {
      this.#phase = 'decided';
      decided();
    }, fatal);
  }

  /** Once, after the store has decided: the work that the core waits for, and what came after it. */
  takeDecided(): { staged: StagedSnapshot; work: StorageWork; behind: StorageWork[] } | undefined {
    const staged = this.#staged;
    const work = this.#work;
    if (this.#phase !== 'decided' || staged === undefined || work === undefined) return undefined;
    const behind = this.#behind;
    this.#staged = undefined;
    this.#work = undefined;
    this.#behind = [];
    this.#phase = 'none';
    return { staged, work, behind };
  }
}
