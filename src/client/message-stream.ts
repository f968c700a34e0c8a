/** A server stream as messages taken one by one, whose silence counts as a break. */
import type { ClientReadableStream, ServiceError } from '@grpc/grpc-js';
import { HansardError } from '../common/errors.js';
import { closedError } from './router.js';
import { errorFromService } from './rpc-errors.js';
import { WireError } from './wire-reader.js';

/** Without a message for this long (the node sends heartbeats every five seconds) a stream counts as broken, ms. */
const silenceMs = 15_000;
/** Messages that wait to be taken by the application; the node keeps the rest. */
const messagesWaitingMax = 4;

/** Messages of one stream, taken one by one; no more are read than a few ahead. */
export class MessageStream<T> {
  readonly #stream: ClientReadableStream<Buffer>;
  readonly #read: (message: Uint8Array) => T;
  readonly #onBroken: (error: HansardError) => void;
  readonly #waiting: Buffer[] = [];
  #ended: HansardError | undefined;
  #wake: (() => void) | undefined;

  constructor(
    stream: ClientReadableStream<Buffer>,
    read: (message: Uint8Array) => T,
    onBroken: (error: HansardError) => void,
  ) {
    this.#stream = stream;
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
    if (this.#waiting.length === 0 && this.#ended === undefined) await this.#arrival();
    const message = this.#waiting.shift();
    if (message === undefined) return this.#ended as HansardError;
    if (this.#waiting.length < messagesWaitingMax) this.#stream.resume();
    try {
      return this.#read(message);
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      return new HansardError('UNREACHABLE', `unreadable answer: ${error.message}`, {}, { cause: error });
    }
  }

  close(): void {
    this.#end(closedError());
    this.#stream.cancel();
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
