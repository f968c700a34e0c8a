/**
 * One consumer's stream, as its subscription's leader sees it: what it may still be sent, what it was sent, and
 * what it says. It never waits here for anything: requests become notes for the leader's next step.
 */
import type { HansardError } from '../common/errors.js';
import type { Seq } from '../common/ids.js';
import { varintSize, writeVarint } from '../common/wire.js';
import { OutMessage } from './framed.js';
import type { Credit, OutStream } from './out-stream.js';
import type { HeldEvent } from './subscription-events.js';

/** What is on its way to a consumer and not taken at most, beside one message that is larger. */
const untakenBytes = 1024 * 1024;
const Tag = { delivery: 0x0a, progress: 0x12, lost: 0x1a, events: 0x3a } as const;

export class Consumer {
  /** Events that were sent under each lease: up to which seq. */
  readonly sentTo = new Map<number, Seq>();
  isLeaving = false;
  readonly #credit: Credit;

  constructor(
    readonly id: string,
    readonly out: OutStream,
    readonly maxBatch: number,
    credit: Credit,
    readonly nowMs: () => number,
  ) {
    this.#credit = credit;
  }

  grant({ events, bytes }: Credit): void {
    this.#credit.events += events;
    this.#credit.bytes += bytes;
  }

  /** It takes what it is sent, and may be sent more. */
  get takes(): boolean {
    return this.out.isReady && !this.isLeaving && this.#credit.events > 0 && this.#credit.bytes > 0;
  }

  /** Events that it may be sent now, of those; at least one where it takes any. */
  fitting(events: readonly HeldEvent[], atMost: number): readonly HeldEvent[] {
    const most = Math.min(atMost, this.maxBatch, this.#credit.events);
    let bytes = 0;
    let count = 0;
    for (const event of events) {
      if (count >= most || bytes >= this.#credit.bytes || bytes >= batchBytes) break;
      bytes += event.bytes.length;
      count++;
    }
    return events.slice(0, count);
  }

  /** Before it is sent, so that what is planned in one step is not given out twice. */
  spend(events: readonly HeldEvent[]): void {
    this.#credit.events -= events.length;
    for (const { bytes } of events) this.#credit.bytes -= bytes.length;
  }

  refund(events: readonly HeldEvent[]): void {
    this.#credit.events += events.length;
    for (const { bytes } of events) this.#credit.bytes += bytes.length;
  }

  /** Room that is left, to share work evenly. */
  get room(): number {
    return this.#credit.events;
  }

  deliver(head: Buffer, lease: number, events: readonly HeldEvent[]): void {
    const last = events.at(-1);
    if (last === undefined) return;
    this.sentTo.set(lease, last.seq);
    let size = head.length;
    for (const { bytes } of events) size += 1 + varintSize(bytes.length) + bytes.length;
    const target = Buffer.allocUnsafe(1 + varintSize(size) + size);
    target[0] = Tag.delivery;
    let at = writeVarint(target, 1, size);
    at += head.copy(target, at);
    for (const { bytes } of events) {
      target[at++] = Tag.events;
      at = writeVarint(target, at, bytes.length);
      at += bytes.copy(target, at);
    }
    this.#send(target);
  }

  progress(message: Buffer): void {
    if (this.out.isReady) this.#send(wrapped(Tag.progress, message));
  }

  lost(message: Buffer): void {
    this.#send(wrapped(Tag.lost, message));
  }

  fail(error: HansardError): void {
    this.out.fail(error);
  }

  #send(bytes: Buffer): void {
    // Credits are spent when a delivery is planned: the stream itself is not held to them.
    this.out.send(new OutMessage(bytes), 0, untakenBytes, this.nowMs());
  }
}

/** Of one delivery: smaller than what a client's window takes at once. */
const batchBytes = 256 * 1024;

function wrapped(tag: number, message: Buffer): Buffer {
  const target = Buffer.allocUnsafe(1 + varintSize(message.length) + message.length);
  target[0] = tag;
  message.copy(target, writeVarint(target, 1, message.length));
  return target;
}
