/** What the harness asks of a store, Hansard or another. */

export interface Item {
  readonly channel: number;
  readonly text: string;
}

export interface ProcessGroup {
  /** As reports call it: `node 1`. */
  readonly name: string;
  readonly pid: number;
}

export interface Following {
  /** Ends what `tail` began. */
  stop(): Promise<void>;
}

export interface System {
  readonly name: string;
  /** Version, client and connections. */
  readonly version: string;
  /** What an acknowledgement means, and by which settings. */
  readonly durability: string;
  /** Starts it and leaves it ready for load. Rejects soon after `signal`; `stop` ends what runs by then. */
  start(signal: AbortSignal): Promise<void>;
  /** Ends and removes whatever `start` came to, failed or not. */
  stop(): Promise<void>;
  processes(): readonly ProcessGroup[];
  /** Resolves when the message is acknowledged as durably as `durability` says. */
  append(item: Item): Promise<unknown>;
  /** As a gRPC client that is not the project's own sends it: a unary call, to each node in turn. */
  appendPlain?(item: Item): Promise<unknown>;
  /** A frame: messages for various channels that travel together; resolves when all are acknowledged. */
  appendFrame?(items: readonly Item[]): Promise<unknown>;
  /** Messages for one channel, all or none. */
  appendBatch?(channel: number, texts: readonly string[]): Promise<unknown>;
  /** The latest 50 messages of a channel, decoded; resolves to how many came. */
  page?(channel: number): Promise<number>;
  /** One reader more of a channel: it is told of each message that is appended from now on, by `appendTold`. */
  tail?(channel: number, told: (text: string) => void): Promise<Following>;
  /** Where readers are only told of appends that say so; else `append` does. */
  appendTold?(item: Item): Promise<unknown>;
  /** Counters of its own that grow: syncs, batches. Summed over nodes. */
  counters?(): Promise<Readonly<Record<string, number>>>;
}

/** Where a system can not be had on this machine. */
export class Absent extends Error {}

/** A signal ended the run. */
export class Interrupted extends Error {
  constructor() {
    super('interrupted');
  }
}

/** Resolves after the time; rejects with Interrupted as soon as `signal` says so. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(new Interrupted());
      return;
    }
    const interrupted = (): void => {
      clearTimeout(timer);
      reject(new Interrupted());
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', interrupted);
      resolve();
    }, ms);
    signal.addEventListener('abort', interrupted, { once: true });
  });
}

/** The work's outcome, or Interrupted before it; the work itself goes on, and its failure is then nobody's. */
export function orInterrupted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const interrupted = (): void => reject(new Interrupted());
    if (signal.aborted) interrupted();
    signal.addEventListener('abort', interrupted, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', interrupted));
  });
}
