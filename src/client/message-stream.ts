/** A server stream as messages taken one by one, whose silence counts as a break. */
import type { ServiceError } from '@grpc/grpc-js';
import { HansardError } from '../common/errors.js';
import type { OpenStream } from './link.js';
import { encodeFlow, type StreamCredit } from './requests.js';
import { closedError } from './router.js';
import { errorFromService } from './rpc-errors.js';
import { WireError } from './wire-reader.js';

/** Without a message for this long (the node sends heartbeats every five seconds) a stream counts as broken, ms. */
const silenceMs = 15_000;
/** Messages that wait to be taken by the application; the node keeps the rest. */
const messagesWaitingMax = 4;

/** A stream that is held to credit: what it was granted at its start is granted again as it is handled. */
export interface HeldToCredit<T> {
  readonly credit: StreamCredit;
  /** Of `flow` in the stream's request. */
  readonly field: number;
  eventsOf(message: T): number;
}

/** The request that begins such a stream. */
export function withCredit(request: Uint8Array, field: number, credit: StreamCredit | undefined): Uint8Array {
  return credit === undefined ? request : Buffer.concat([request, encodeFlow(field, credit)]);
}

/** Messages of one stream, taken one by one; no more are read than a few ahead. */
export class MessageStream<T> {
  readonly #stream: OpenStream;
  readonly #read: (message: Uint8Array) => T;
  readonly #onBroken: (error: HansardError) => void;
  readonly #waiting: Buffer[] = [];
  #ended: HansardError | undefined;
  #wake: (() => void) | undefined;
  readonly #held: HeldToCredit<T> | undefined;
  /** Handed out since the last grant. */
  #due = { events: 0, bytes: 0 };

  constructor(
    stream: OpenStream,
    read: (message: Uint8Array) => T,
    onBroken: (error: HansardError) => void,
    held?: HeldToCredit<T>,
  ) {
    this.#stream = stream;
    this.#held = held;
    this.#read = read;
    this.#onBroken = onBroken;
    stream.on('data', (message: Buffer) => {
      if (this.#ended !== undefined) return;
      this.#waiting.push(message);
      if (this.#waiting.length >= messagesWaitingMax) stream.pause();
      this.#wake?.();
    });
    stream.on('error', (error: ServiceError) => this.#end(errorFromService(error)));
    stream.on('end', () => this.#end(new HansardError('UNREACHABLE', 'the node ended the stream')));
  }

  /** The next message, or why there is none. Throws CHECKSUM_MISMATCH. */
  async next(): Promise<T | HansardError> {
    // What was handed out before has been handled.
    this.#grant();
    if (this.#waiting.length === 0 && this.#ended === undefined) await this.#arrival();
    const message = this.#waiting.shift();
    if (message === undefined) return this.#ended as HansardError;
    if (this.#waiting.length < messagesWaitingMax) this.#stream.resume();
    try {
      const found = this.#read(message);
      const events = this.#held?.eventsOf(found) ?? 0;
      if (events > 0)
        this.#due = { events: this.#due.events + events, bytes: this.#due.bytes + message.length };
      return found;
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      return new HansardError('UNREACHABLE', `unreadable answer: ${error.message}`, {}, { cause: error });
    }
  }

  close(): void {
    this.#end(closedError());
    this.#stream.cancel();
  }

  /** In halves: a grant for each event would cost as much as the event. */
  #grant(): void {
    const { events, bytes } = this.#due;
    if (this.#held === undefined || this.#ended !== undefined) return;
    const { credit, field } = this.#held;
    if (events < (credit.events ?? Infinity) / 2 && bytes < (credit.bytes ?? Infinity) / 2) return;
    this.#due = { events: 0, bytes: 0 };
    this.#stream.write?.(encodeFlow(field, { events, bytes }));
  }

  #arrival(): Promise<void> {
    return new Promise((resolve) => {
      const silence = setTimeout(() => {
        this.#end(new HansardError('UNREACHABLE', `nothing was heard for ${silenceMs} ms`));
      }, silenceMs);
      this.#wake = () => {
        clearTimeout(silence);
        this.#wake = undefined;
        resolve();
      };
    });
  }

  #end(error: HansardError): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    if (error.reason !== 'CLIENT_CLOSED') this.#onBroken(error);
    this.#wake?.();
  }
}

export function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  // It tells nobody of an end that was before.
  if (signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', done);
  });
}
