/**
 * One caller's stream of encoded messages. It holds at most about one and a half
 * pages of them; a caller that does not take them is not read for, and goes on
 * from its place in the store when it does.
 */
import type { ServerWritableStream } from '@grpc/grpc-js';
import type { HansardError, Reason } from '../common/errors.js';
import { grpcStatusOf } from './grpc-status.js';

export type OutCall = ServerWritableStream<Buffer, Buffer>;

export class OutStream {
  lastSentMs: number;
  /** Set by whoever it belongs to; called once. */
  onClose: ((reason: Reason | 'CANCELLED' | undefined) => void) | undefined;
  /** What it has not taken has fallen below the bound. */
  onRoom: (() => void) | undefined;
  #untakenBytes = 0;
  #full = false;
  #closed = false;
  readonly #call: OutCall;

  constructor(call: OutCall, nowMs: number) {
    this.#call = call;
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
