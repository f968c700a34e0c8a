/** Load through the SDK, written down as it goes, and what must be true of the channels afterwards. */
import { performance } from 'node:perf_hooks';
import { type Channel, type Client, type Event, HansardError } from '../../src/client/index.js';
import type { ReadOptions } from '../../src/client/types.js';
import { patienceMs, sleep } from './harness.js';

interface Sent {
  readonly text: string;
  seq?: number;
  /** As the SDK computed it before sending. */
  checksum?: bigint;
  error?: unknown;
}

/** Errors after which an append may or may not be there (src/client/README.md, invariant 2). */
export function leavesOpen(error: unknown): boolean {
  if (!(error instanceof HansardError)) return false;
  if (error.reason === 'DEADLINE_EXCEEDED') return error.fields.outcome === 'unknown';
  return ['COMMIT_UNKNOWN', 'CLIENT_CLOSED', 'PRODUCER_EXPIRED'].includes(error.reason);
}

export interface WriterOptions {
  readonly inFlight: number;
  readonly timeoutMs?: number;
  /** What Writer.pauseMs begins with. */
  readonly pauseMs?: number;
}

/** Keeps appends in flight on one channel until it is told to stop. */
export class Writer {
  readonly sent: Sent[] = [];
  readonly channel: Channel;
  /** The longest that one append took, ms. */
  slowestMs = 0;
  acknowledged = 0;
  /** Of those acknowledged. */
  highestSeq = 0;
  /** Between two looks at how many are in flight; may change as it goes. */
  pauseMs: number;
  #stopping = false;
  #inFlight = 0;
  readonly #done: Promise<void>;

  constructor(
    client: Client,
    readonly name: string,
    readonly options: WriterOptions,
  ) {
    this.channel = client.channel(name);
    this.pauseMs = options.pauseMs ?? 2;
    this.#done = this.#run();
  }

  get failures(): Sent[] {
    return this.sent.filter((each) => each.error !== undefined);
  }
  get errors(): string[] {
    return this.failures.map(({ text, error }) =>
      error instanceof HansardError
        ? `${text}: ${error.reason} ${error.message}`
        : `${text}: untyped ${error}`,
    );
  }

  /** Resolves when every append has ended. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }

  async #run(): Promise<void> {
    while (!this.#stopping || this.#inFlight > 0) {
      while (!this.#stopping && this.#inFlight < this.options.inFlight) this.#append();
      await sleep(this.pauseMs);
    }
  }

  #append(): void {
    const sent: Sent = { text: `${this.name} ${this.sent.length}` };
    this.sent.push(sent);
    this.#inFlight++;
    const begun = performance.now();
    const { timeoutMs } = this.options;
    this.channel
      .append({ role: 'user', text: sent.text }, timeoutMs === undefined ? {} : { timeoutMs })
      .then(
        ({ seq, checksum }) => {
          Object.assign(sent, { seq, checksum });
          this.acknowledged++;
          this.highestSeq = Math.max(this.highestSeq, seq);
        },
        (error: unknown) => Object.assign(sent, { error }),
      )
      .finally(() => {
        this.#inFlight--;
        this.slowestMs = Math.max(this.slowestMs, performance.now() - begun);
      })
      .catch(() => {});
  }
}

export async function readAll(client: Client, channel: string, options: ReadOptions = {}): Promise<Event[]> {
  const events: Event[] = [];
  // What there is counts, not how soon a busy machine tells.
  const page = { timeoutMs: patienceMs, ...options, after: 1_000 };
  for await (const event of client.channel(channel).list(page)) events.push(event);
  return events;
}

export function textOf(event: Event): string {
  const part = event.message?.parts?.[0];
  return part?.type === 'text' ? part.text : '';
}

/**
 * What is wrong with a channel that only this writer wrote to; empty: nothing.
 * Dense, in the order sent, none twice, every acknowledgement at its seq, nothing
 * of what was refused.
 */
export function faults(writer: Writer, events: readonly Event[]): string[] {
  const found: string[] = [];
  const at = new Map<string, Event>();
  const placeOf = new Map(writer.sent.map(({ text }, i) => [text, i]));
  let last = -1;
  for (const [i, event] of events.entries()) {
    const text = textOf(event);
    const place = placeOf.get(text);
    if (event.seq !== i + 1) found.push(`seq ${event.seq} stands at place ${i + 1}`);
    if (at.has(text)) found.push(`${text} is there twice: ${at.get(text)?.seq} and ${event.seq}`);
    if (place === undefined) found.push(`${text} was never sent`);
    else if (place <= last) found.push(`${text} came after ${writer.sent[last]?.text}`);
    else last = place;
    at.set(text, event);
  }
  for (const { text, seq, checksum, error } of writer.sent) {
    const event = at.get(text);
    if (seq !== undefined && event?.seq !== seq)
      found.push(`${text}: acknowledged as ${seq}, is at ${event?.seq}`);
    if (seq !== undefined && event?.checksum !== checksum) found.push(`${text}: another checksum`);
    if (seq === undefined && error === undefined) found.push(`${text}: never ended`);
    if (error === undefined) continue;
    if (!(error instanceof HansardError)) found.push(`${text}: an error without a type: ${error}`);
    else if (event !== undefined && !leavesOpen(error))
      found.push(`${text}: refused with ${error.reason}, and is there`);
  }
  return found.slice(0, 10);
}
