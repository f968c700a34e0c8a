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

export interface System {
  readonly name: string;
  /** Version, client and connections. */
  readonly version: string;
  /** What an acknowledgement means, and by which settings. */
  readonly durability: string;
  /** Starts it and leaves it ready for load. */
  start(): Promise<void>;
  stop(): Promise<void>;
  processes(): readonly ProcessGroup[];
  /** Before a workload: how many calls it will have in flight. */
  prepare?(inFlight: number): Promise<void>;
  /** Resolves when the message is acknowledged as durably as `durability` says. */
  append(item: Item): Promise<unknown>;
  /** A frame: messages for various channels that travel together; resolves when all are acknowledged. */
  appendFrame?(items: readonly Item[]): Promise<unknown>;
  /** Messages for one channel, all or none. */
  appendBatch?(channel: number, texts: readonly string[]): Promise<unknown>;
  /** The latest 50 messages of a channel, decoded; resolves to how many came. */
  page?(channel: number): Promise<number>;
  /** Counters of its own that grow: syncs, batches. Summed over nodes. */
  counters?(): Promise<Readonly<Record<string, number>>>;
}

/** Where a system can not be had on this machine. */
export class Absent extends Error {}
