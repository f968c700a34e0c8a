/**
 * One caller's stream of encoded messages. It holds at most about one and a half
 * pages of them; a caller that does not take them, or has granted no credit for
 * more, is not read for, and goes on from its place in the store when it has.
 */
import type { ServerDuplexStream } from '@grpc/grpc-js';
import { HansardError, type Reason } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { FramedWriter, type OutMessage } from './framed.js';
import { grpcStatusOf } from './grpc-status.js';

export type OutCall = ServerDuplexStream<Buffer, Buffer>;

/** What this replica has may no longer be all that there is: who follows it looks for another. */
export function leaderless(partition: PartitionId): HansardError {
  return new HansardError('NO_QUORUM', `this node knows no leader of partition ${partition}`, { partition });
}

/** Events and bytes that the caller still takes. */
export interface Credit {
  events: number;
  bytes: number;
}

export class OutStream {
  lastSentMs: number;
  /** Set by whoever it belongs to; called once. */
  onClose: ((reason: Reason | 'CANCELLED' | undefined) => void) | undefined;
  /** It takes more than it did: room, or credit. */
  onRoom: (() => void) | undefined;
  #untakenBytes = 0;
  #full = false;
  #closed = false;
  /** Undefined: it is not held to credits. */
  #credit: Credit | undefined;
  #grantsEnded = false;
  readonly #call: OutCall;
  readonly #writer: FramedWriter;

  constructor(call: OutCall, nowMs: number) {
    this.#call = call;
    this.#writer = new FramedWriter(call);
    this.lastSentMs = nowMs;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** It takes what it is sent. */
  get isReady(): boolean {
    return !this.#full && !this.#closed;
  }

  /** How many events it takes now. */
  get eventsTaken(): number {
    if (!this.isReady) return 0;
    if (this.#credit === undefined) return Number.POSITIVE_INFINITY;
    return this.#credit.bytes > 0 ? Math.max(0, this.#credit.events) : 0;
  }

  /** Nothing waits to be taken. */
  get isDrained(): boolean {
    return this.#untakenBytes === 0;
  }

  /** From here on it is held to credits; 0 of one kind: not to that. */
  beginCredit({ events, bytes }: Credit): void {
    const bound = (granted: number): number => (granted === 0 ? Number.POSITIVE_INFINITY : granted);
    this.#credit = { events: bound(events), bytes: bound(bytes) };
  }

  get hasCredit(): boolean {
    return this.#credit !== undefined;
  }

  grant({ events, bytes }: Credit): void {
    if (this.#credit === undefined) return;
    this.#credit.events += events;
    this.#credit.bytes += bytes;
    if (this.eventsTaken > 0) this.onRoom?.();
  }

  /** There will be no more grants: when the credit is used up all that was asked for is sent. */
  endGrants(): void {
    this.#grantsEnded = true;
    this.#endIfUsedUp();
  }

  /** `boundBytes`: with this much untaken it is not ready. Events use up credit. */
  send(message: OutMessage, events: number, boundBytes: number, nowMs: number): void {
    if (this.#closed) return;
    const { length } = message.bytes;
    this.lastSentMs = nowMs;
    this.#untakenBytes += length;
    // The callback comes when the transport has let the bytes go: the caller's window had room for them.
    const room = this.#writer.write(message, () => {
      this.#untakenBytes -= length;
      if (!this.#full || this.#closed || this.#untakenBytes > boundBytes / 2) return;
      this.#full = false;
      this.onRoom?.();
    });
    if (!room || this.#untakenBytes > boundBytes / 2) this.#full = true;
    if (events === 0 || this.#credit === undefined) return;
    this.#credit.events -= events;
    this.#credit.bytes -= length;
    this.#endIfUsedUp();
  }

  #endIfUsedUp(): void {
    if (!this.#grantsEnded || this.#credit === undefined) return;
    if (this.#credit.events > 0 && this.#credit.bytes > 0) return;
    if (this.#close(undefined)) this.#call.end();
  }

  /** Ends the stream with that status. */
  fail(error: HansardError): void {
    if (!this.#close(error.reason)) return;
    this.#call.emit('error', grpcStatusOf(error));
  }

  /** The caller has gone. */
  cancelled(): void {
    this.#close('CANCELLED');
  }

  #close(reason: Reason | 'CANCELLED' | undefined): boolean {
    if (this.#closed) return false;
    this.#closed = true;
    this.onClose?.(reason);
    this.onClose = undefined;
    this.onRoom = undefined;
    return true;
  }
}
