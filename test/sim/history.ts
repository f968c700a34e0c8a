/** What clients were told, and what the cluster holds in the end. */
export interface Acknowledged {
  readonly client: string;
  readonly channel: string;
  readonly seq: number;
  /** The message's text; unique, so that it names the append. */
  readonly text: string;
}

export class History {
  readonly acknowledged: Acknowledged[] = [];
  /** Appends whose outcome no client ever learned. */
  readonly unknown = new Set<string>();
  readonly refused = new Set<string>();
  /** Refused because their producer's counters had been given to another append: clients never do that. */
  readonly refusedAsReused: string[] = [];
  /** By channel: the head up to which a client was told that all is deleted. */
  readonly deletedUpTo = new Map<string, number>();
  /** Readable trace; the newest lines only. */
  readonly trace: string[] = [];
  #lines = 0;

  /** By channel: highest seq that a client knew of, by acknowledgement or by a read that ended. */
  readonly headSeen = new Map<string, number>();

  constructor(private readonly keep = 20_000) {}

  sawHead(channel: string, seq: number): void {
    if (seq > (this.headSeen.get(channel) ?? 0)) this.headSeen.set(channel, seq);
  }

  log(atMs: number, line: string): void {
    this.#lines++;
    this.trace.push(`${atMs.toFixed(3)} ${line}`);
    if (this.trace.length > this.keep * 2) this.trace.splice(0, this.keep);
  }

  get lines(): number {
    return this.#lines;
  }
}
