/**
 * One caller's tail: where it stands and what it has not taken yet. It holds at
 * most about one and a half pages of encoded events; a caller that does not take
 * them is not read for, and goes on from its place in the store when it does.
 */
import type { ServerWritableStream } from '@grpc/grpc-js';
import type { HansardError, Reason } from '../common/errors.js';
import type { Seq } from '../common/ids.js';
import { grpcStatusOf } from './grpc-status.js';

export type TailCall = ServerWritableStream<Buffer, Buffer>;

export interface TailOptions {
  /** First event to send. */
  readonly next: Seq;
  readonly mustExist: boolean;
  readonly maxBatch: number;
}

export class TailStream {
  /** The next event to send. */
  next: Seq;
  readonly mustExist: boolean;
  readonly maxBatch: number;
  /** It has been told that it is at the head, and has not fallen behind since. */
  live = false;
  /** Of the page that it was served last: who waited longest comes first. */
  servedAt = 0;
  lastSentMs: number;
  /** Set by whoever it belongs to; called once. */
  onClose: ((reason: Reason | 'CANCELLED' | undefined) => void) | undefined;
  /** What it has not taken has fallen below the bound. */
  onRoom: (() => void) | undefined;
  #untakenBytes = 0;
  #full = false;
  #closed = false;
  readonly #call: TailCall;

  constructor(call: TailCall, options: TailOptions, nowMs: number) {
    this.#call = call;
    this.next = options.next;
    this.mustExist = options.mustExist;
    this.maxBatch = options.maxBatch;
    this.lastSentMs = nowMs;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** It takes what it is sent. */
  get isReady(): boolean {
    return !this.#full && !this.#closed;
  }

  /** Nothing waits to be taken. */
  get isDrained(): boolean {
    return this.#untakenBytes === 0;
  }

  /** `boundBytes`: with this much untaken it is not ready. */
  send(bytes: Buffer, boundBytes: number, nowMs: number): void {
    if (this.#closed) return;
    this.lastSentMs = nowMs;
    this.#untakenBytes += bytes.length;
    // The callback comes when the transport has let the bytes go: the caller's window had room for them.
    const room = this.#call.write(bytes, () => {
      this.#untakenBytes -= bytes.length;
      if (!this.#full || this.#closed || this.#untakenBytes > boundBytes / 2) return;
      this.#full = false;
      this.onRoom?.();
    });
    if (!room || this.#untakenBytes > boundBytes / 2) this.#full = true;
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

  #close(reason: Reason | 'CANCELLED'): boolean {
    if (this.#closed) return false;
    this.#closed = true;
    this.onClose?.(reason);
    this.onClose = undefined;
    this.onRoom = undefined;
    return true;
  }
}
