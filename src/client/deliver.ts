/**
 * A recipient at work: takes a channel's events in order, hands each to the application,
 * and reports what became of it. What was handed out and not reported before a crash comes
 * again, so an event is handed out at least once; reports are gathered, not one per event.
 */
import { HansardError, reasons } from '../common/errors.js';
import type { Channel } from './channel.js';
import type { FailedEvent } from './delivery.js';
import { pause } from './message-stream.js';
import type { TailOptions } from './tail.js';
import type { Event } from './types.js';

/** Settled: delivered. Throws or rejects: tried again, and in the end reported as failed with what was thrown. */
export type DeliveryHandler = (event: Event, attempt: number) => unknown;

export interface DeliverOptions extends Pick<TailOptions, 'preference' | 'credit' | 'signal' | 'timeoutMs'> {
  /** How often an event is tried before it is reported as failed and the next one comes; default 3. */
  readonly attempts?: number;
  /** Before an event is tried again, ms, twice as long each time; default 500. */
  readonly retryDelayMs?: number;
  /** Reports leave at most this often, ms; default 200. After a crash what was not reported comes again. */
  readonly reportEveryMs?: number;
}

export const deliverDefaults = Object.freeze({ attempts: 3, retryDelayMs: 500, reportEveryMs: 200 });
/** Of one report; where so many wait, the recipient waits, too. */
const failedMax = 100;

/** Until the signal; rejects what no retry can mend. */
export async function deliver(
  channel: Channel,
  recipient: string,
  handler: DeliveryHandler,
  options: DeliverOptions,
): Promise<void> {
  const { attempts, retryDelayMs, reportEveryMs } = { ...deliverDefaults, ...options };
  const { signal, preference, credit, timeoutMs } = options;
  const ending = new AbortController();
  const end = (): void => ending.abort();
  signal?.addEventListener('abort', end);
  if (signal?.aborted) end();
  const reporter = new Reporter(channel, recipient, reportEveryMs, end);
  try {
    const afterSeq = await upToSeq(channel, recipient, timeoutMs);
    const tail = channel.tail({
      afterSeq,
      signal: ending.signal,
      ...(preference === undefined ? {} : { preference }),
      ...(credit === undefined ? {} : { credit }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
    });
    for await (const event of tail) {
      const failure = await tried(event, handler, attempts, retryDelayMs, ending.signal);
      // Ended in the midst of its tries: it is still pending.
      if (failure === 'ended') break;
      await reporter.done(event.seq, failure);
      if (ending.signal.aborted) break;
    }
  } finally {
    signal?.removeEventListener('abort', end);
    await reporter.end();
  }
}

/** What failed is tried once more each, in order; gives what became of it. */
export async function redeliver(
  channel: Channel,
  recipient: string,
  handler: DeliveryHandler,
): Promise<{ recovered: number[]; failed: FailedEvent[] }> {
  const { deliveries } = await channel.deliveries({ recipient, level: 'linearizable' });
  const recovered: number[] = [];
  const failed: FailedEvent[] = [];
  for (const known of deliveries[0]?.failed ?? []) {
    const attempts = known.attempts + 1;
    try {
      await handler(await channel.get(known.seq), attempts);
      recovered.push(known.seq);
    } catch (error) {
      failed.push({ seq: known.seq, attempts, reason: reasonOf(error) });
    }
  }
  if (recovered.length + failed.length > 0) await channel.reportDelivery(recipient, { recovered, failed });
  return { recovered, failed };
}

async function upToSeq(channel: Channel, recipient: string, timeoutMs: number | undefined): Promise<number> {
  try {
    const level = 'linearizable' as const;
    const query = { recipient, level, ...(timeoutMs === undefined ? {} : { timeoutMs }) };
    return (await channel.deliveries(query)).deliveries[0]?.upToSeq ?? 0;
  } catch (error) {
    // The tail waits for a channel that is not there yet.
    if (error instanceof HansardError && error.reason === 'CHANNEL_NOT_FOUND') return 0;
    throw error;
  }
}

async function tried(
  event: Event,
  handler: DeliveryHandler,
  attempts: number,
  retryDelayMs: number,
  signal: AbortSignal,
): Promise<FailedEvent | undefined | 'ended'> {
  for (let attempt = 1; ; attempt++) {
    try {
      await handler(event, attempt);
      return undefined;
    } catch (error) {
      if (attempt >= attempts) return { seq: event.seq, attempts: attempt, reason: reasonOf(error) };
    }
    await pause(retryDelayMs * 2 ** (attempt - 1), signal);
    if (signal.aborted) return 'ended';
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Gathers what is to be reported; one report at a time. */
class Reporter {
  #upToSeq = 0;
  #reportedSeq = 0;
  #failed: FailedEvent[] = [];
  #sending: Promise<void> | undefined;
  #error: unknown;
  readonly #pausing = new AbortController();

  constructor(
    private readonly channel: Channel,
    private readonly recipient: string,
    private readonly everyMs: number,
    private readonly onError: () => void,
  ) {}

  /** Waits only where too many failures are not reported yet. */
  async done(seq: number, failure: FailedEvent | undefined): Promise<void> {
    this.#upToSeq = seq;
    if (failure !== undefined) this.#failed.push(failure);
    this.#sending ??= this.#send();
    if (this.#failed.length >= failedMax) await this.#sending;
  }

  /** All is reported, or why not. */
  async end(): Promise<void> {
    this.#pausing.abort();
    this.#sending ??= this.#send();
    await this.#sending;
    if (this.#error !== undefined) throw this.#error;
  }

  /** Until nothing is left. Never rejects. */
  async #send(): Promise<void> {
    while (this.#error === undefined && this.#reportedSeq < this.#upToSeq) {
      // What comes meanwhile leaves with it.
      await pause(this.everyMs, this.#pausing.signal);
      // After a report that did not get through more may wait than one may have: it ends before the first that has no room.
      const failed = this.#failed.slice(0, failedMax);
      this.#failed = this.#failed.slice(failedMax);
      const upToSeq = this.#failed[0] === undefined ? this.#upToSeq : this.#failed[0].seq - 1;
      try {
        await this.channel.reportDelivery(this.recipient, { upToSeq, failed });
        this.#reportedSeq = upToSeq;
      } catch (error) {
        this.#failed = [...failed, ...this.#failed];
        // While a leader is being looked for nothing is lost: the next report says the same and more.
        const passes = error instanceof HansardError && reasons[error.reason].retry === 'yes';
        if (!passes || this.#pausing.signal.aborted) {
          this.#error = error;
          this.onError();
        }
      }
    }
    this.#sending = undefined;
  }
}
