/**
 * hansard.v1.ExchangeService: many unary calls in few messages of one stream.
 * Calls begin in the order of their arrival, synchronously, so that appends to one
 * channel keep it; answers leave as calls end, those of one turn together. What a
 * stream may hold is bounded: past a bound it is not read until answers are gone.
 */
import type { ServerDuplexStream } from '@grpc/grpc-js';
import { HansardError } from '../common/errors.js';
import type { NodeId } from '../common/ids.js';
import { limits } from '../common/limits.js';
import { encodeErrorDetails, wireMessage } from '../common/status.js';
import {
  varintFieldSize,
  varintSize,
  Wire,
  WireReader,
  writeVarint,
  writeVarintField,
} from '../common/wire.js';
import type { ActiveCall, Calls } from './calls.js';
import { grpcStatusOf } from './grpc-status.js';
import { invalidArgument } from './names.js';

export interface ExchangeLimits {
  /** Calls under way on one stream. */
  readonly callsInFlight: number;
  /** Bytes of requests whose calls are under way (whole messages, as calls alias them). */
  readonly requestBytes: number;
  /** The same of all streams together: the stream whose message goes beyond ends with OVERLOADED. */
  readonly allRequestBytes: number;
  /** Bytes of answers that are not yet handed to the transport. */
  readonly answerBytes: number;
  /** Answers are packed into messages of about this size. */
  readonly messageBytes: number;
}

export const defaultExchangeLimits: ExchangeLimits = Object.freeze({
  callsInFlight: 1_024,
  requestBytes: 32 * 1024 * 1024,
  allRequestBytes: 256 * 1024 * 1024,
  answerBytes: 8 * 1024 * 1024,
  messageBytes: 1024 * 1024,
});

/**
 * Messages that Node's streams hold before they stop taking more. Their own 16,
 * counted in messages of up to 16 MiB, would be 256 MiB for each stream that waits.
 */
const messagesUnread = 1;
const messagesUnsent = 4;
const overloadedRetryMs = 1_000;

/** What the streams of a node hold together. */
export class ExchangeLoad {
  requestBytes = 0;
}

const exchangeName = 'hansard.v1.ExchangeService/Exchange';
const answerTag = 0x0a;

/** One message with calls: read as far as the bounds allow. */
interface Inbox {
  readonly reader: WireReader;
  readonly bytes: number;
  /** Calls of it that are under way; its bytes count until the last has ended. */
  open: number;
  read: boolean;
}

interface Answer {
  readonly id: number;
  readonly error: HansardError | undefined;
  readonly response: Uint8Array | undefined;
  /** Another node that carried the call out; 0: none. */
  readonly forwardedTo: NodeId;
}

interface Frame {
  id: number;
  method: string;
  timeoutMs: number;
  traceparent: string;
  request: Buffer;
}

export class ExchangeStream {
  readonly #calls: Calls;
  readonly #stream: ServerDuplexStream<Buffer, Buffer>;
  readonly #limits: ExchangeLimits;
  readonly #load: ExchangeLoad;
  readonly #inFlight = new Map<number, ActiveCall | undefined>();
  readonly #inboxes: Inbox[] = [];
  #requestBytes = 0;
  #answers: Answer[] = [];
  #answerBytes = 0;
  #flushing = false;
  /** The transport's buffer is full: no write until it drains. */
  #full = false;
  #ended = false;
  #closed = false;

  constructor(
    calls: Calls,
    stream: ServerDuplexStream<Buffer, Buffer>,
    bounds = defaultExchangeLimits,
    load = new ExchangeLoad(),
  ) {
    this.#calls = calls;
    this.#stream = stream;
    this.#limits = bounds;
    this.#load = load;
    holdLess(stream);
    stream.on('data', (message: Buffer) => this.#take(message));
    stream.on('end', () => {
      this.#ended = true;
      this.#endIfDone();
    });
    stream.on('drain', () => {
      this.#full = false;
      this.#flush();
    });
    stream.on('cancelled', () => this.#close());
    stream.on('close', () => this.#close());
    stream.on('error', () => this.#close());
  }

  /** No further calls; the stream ends when those under way are answered. */
  end(): void {
    this.#ended = true;
    this.#stream.pause();
    this.#endIfDone();
  }

  #take(message: Buffer): void {
    if (this.#closed || this.#ended) return;
    if (this.#load.requestBytes + message.length > this.#limits.allRequestBytes) {
      const held = { bytes: this.#load.requestBytes, limit_bytes: this.#limits.allRequestBytes };
      const retry = { retryDelayMs: overloadedRetryMs };
      return this.#fail(
        new HansardError('OVERLOADED', 'the streams of this node hold too many bytes', held, retry),
      );
    }
    this.#requestBytes += message.length;
    this.#load.requestBytes += message.length;
    this.#inboxes.push({ reader: new WireReader(message), bytes: message.length, open: 0, read: false });
    this.#pump();
  }

  get #blocked(): boolean {
    return (
      this.#inFlight.size >= this.#limits.callsInFlight ||
      this.#answerBytes >= this.#limits.answerBytes ||
      this.#requestBytes >= this.#limits.requestBytes
    );
  }

  /** Begins calls as far as the bounds allow; stops reading past them. */
  #pump(): void {
    try {
      for (let inbox = this.#inboxes[0]; inbox !== undefined && !this.#closed; inbox = this.#inboxes[0]) {
        if (
          this.#inFlight.size >= this.#limits.callsInFlight ||
          this.#answerBytes >= this.#limits.answerBytes
        )
          break;
        if (inbox.reader.next()) this.#next(inbox);
        else {
          this.#inboxes.shift();
          inbox.read = true;
          this.#release(inbox);
        }
      }
    } catch (error) {
      // Which call it was can't be told, so nobody can be answered.
      this.#fail(error);
      return;
    }
    if (this.#blocked || this.#inboxes.length > 0) this.#stream.pause();
    else if (this.#stream.isPaused() && !this.#ended) this.#stream.resume();
  }

  #next(inbox: Inbox): void {
    const { reader } = inbox;
    if (reader.field !== 1) {
      reader.skip();
      return;
    }
    if (reader.wire !== Wire.bytes) throw invalidArgument('calls', `wire type ${reader.wire}`);
    reader.sized();
    const frame = readCall(reader.bytes, reader.start, reader.position);
    const { id } = frame;
    if (this.#inFlight.has(id)) throw invalidArgument('calls.id', `${id} is under way already`);
    const timeoutMs = frame.timeoutMs === 0 ? limits.defaultDeadlineMs : frame.timeoutMs;
    // Taken before the call begins: it may end at once.
    this.#inFlight.set(id, undefined);
    inbox.open++;
    const deadlineMs = this.#calls.nowMs() + timeoutMs;
    const call = this.#calls.start(
      frame.method,
      frame.request,
      deadlineMs,
      'exchange',
      frame.traceparent,
      (error, response, { forwardedTo }) => {
        this.#inFlight.delete(id);
        inbox.open--;
        this.#release(inbox);
        this.#answer({ id, error, response, forwardedTo });
      },
    );
    if (this.#inFlight.has(id)) this.#inFlight.set(id, call);
  }

  #release(inbox: Inbox): void {
    if (this.#closed || !inbox.read || inbox.open > 0) return;
    this.#requestBytes -= inbox.bytes;
    this.#load.requestBytes -= inbox.bytes;
  }

  #answer(answer: Answer): void {
    if (this.#closed) return;
    this.#answers.push(answer);
    this.#answerBytes += answer.response?.length ?? 256;
    if (this.#flushing || this.#full) return;
    // All that ends in this turn leaves together.
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  #flush(): void {
    while (this.#answers.length > 0 && !this.#full && !this.#closed) {
      let bytes = 0;
      let count = 0;
      while (count < this.#answers.length && (count === 0 || bytes < this.#limits.messageBytes)) {
        bytes += this.#answers[count++]?.response?.length ?? 256;
      }
      const batch = count === this.#answers.length ? this.#answers : this.#answers.slice(0, count);
      this.#answers = count === this.#answers.length ? [] : this.#answers.slice(count);
      this.#answerBytes -= bytes;
      try {
        this.#full = !this.#stream.write(encodeAnswers(batch));
      } catch (error) {
        this.#fail(error);
      }
    }
    if (this.#closed) return;
    this.#pump();
    this.#endIfDone();
  }

  #endIfDone(): void {
    if (!this.#ended || this.#closed) return;
    if (
      this.#inFlight.size > 0 ||
      this.#answers.length > 0 ||
      (this.#inboxes.length > 0 && !this.#calls.closed)
    )
      return;
    this.#close();
    this.#stream.end();
  }

  /** Ends the stream with a status: a request never ends the process. */
  #fail(error: unknown): void {
    if (this.#closed) return;
    this.#stream.emit('error', grpcStatusOf(this.#calls.errorOf(exchangeName, error)));
    this.#close();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const call of this.#inFlight.values()) if (call !== undefined) this.#calls.cancel(call);
    this.#inFlight.clear();
    this.#inboxes.length = 0;
    // Calls that go on are counted where all calls are.
    this.#load.requestBytes -= this.#requestBytes;
    this.#requestBytes = 0;
    this.#answers = [];
    this.#answerBytes = 0;
  }
}

/** grpc-js offers no option for it. */
function holdLess(stream: object): void {
  const { _readableState, _writableState } = stream as {
    _readableState?: { highWaterMark: number };
    _writableState?: { highWaterMark: number };
  };
  if (_readableState !== undefined) _readableState.highWaterMark = messagesUnread;
  if (_writableState !== undefined) _writableState.highWaterMark = messagesUnsent;
}

function readCall(bytes: Buffer, from: number, to: number): Frame {
  const reader = new WireReader(bytes, from, to);
  const frame: Frame = { id: 0, method: '', timeoutMs: 0, traceparent: '', request: empty };
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        frame.id = number(reader, 'calls.id', Number.MAX_SAFE_INTEGER);
        break;
      case 2:
        frame.method = methodName(reader);
        break;
      case 3:
        frame.timeoutMs = number(reader, 'calls.timeout_ms', 0xffff_ffff);
        break;
      case 4:
        frame.traceparent = sized(reader, 'calls.traceparent').toString('latin1', 0, 256);
        break;
      case 5:
        frame.request = sized(reader, 'calls.request');
        break;
      default:
        reader.skip();
    }
  }
  return frame;
}

const empty = Buffer.alloc(0);

/** The same few names come all the time: no string is made for the last one seen. */
let lastMethod = { bytes: empty, name: '' };

function methodName(reader: WireReader): string {
  const bytes = sized(reader, 'calls.method');
  if (lastMethod.bytes.equals(bytes)) return lastMethod.name;
  lastMethod = { bytes: Buffer.from(bytes), name: bytes.toString('utf8', 0, 256) };
  return lastMethod.name;
}

function number(reader: WireReader, field: string, max: number): number {
  if (reader.wire !== Wire.varint) throw invalidArgument(field, `wire type ${reader.wire}`);
  const value = reader.varint();
  if (value > max) throw invalidArgument(field, 'out of range');
  return value;
}

function sized(reader: WireReader, field: string): Buffer {
  if (reader.wire !== Wire.bytes) throw invalidArgument(field, `wire type ${reader.wire}`);
  reader.sized();
  return reader.bytes.subarray(reader.start, reader.position);
}

/** An encoded ExchangeResponse. */
function encodeAnswers(answers: readonly Answer[]): Buffer {
  const errors = answers.map(({ error }) => (error === undefined ? undefined : encodeError(error)));
  const sizes = answers.map(({ id, response, forwardedTo }, i) => {
    const body = response?.length ?? 0;
    const size = varintFieldSize(id) + varintFieldSize(forwardedTo) + (errors[i]?.length ?? 0);
    return body === 0 ? size : size + 1 + varintSize(body) + body;
  });
  const total = sizes.reduce((sum, size) => sum + 1 + varintSize(size) + size, 0);
  const target = Buffer.allocUnsafe(total);
  let at = 0;
  for (let i = 0; i < answers.length; i++) {
    const { id, response, forwardedTo } = answers[i] as Answer;
    target[at++] = answerTag;
    at = writeVarint(target, at, sizes[i] as number);
    at = writeVarintField(target, at, 0x08, id);
    const error = errors[i];
    if (error !== undefined) at += error.copy(target, at);
    if (response !== undefined && response.length > 0) {
      target[at++] = 0x2a;
      at = writeVarint(target, at, response.length);
      target.set(response, at);
      at += response.length;
    }
    at = writeVarintField(target, at, 0x30, forwardedTo);
  }
  return target;
}

/** Fields 2 to 4 of Answer. */
function encodeError(error: HansardError): Buffer {
  const message = Buffer.from(wireMessage(error), 'utf8');
  const parts: Buffer[] = [Buffer.of(0x10, error.code), prefixed(0x1a, message)];
  for (const detail of encodeErrorDetails(error)) parts.push(prefixed(0x22, detail));
  return Buffer.concat(parts);
}

function prefixed(tag: number, bytes: Buffer): Buffer {
  const head = Buffer.allocUnsafe(1 + varintSize(bytes.length));
  head[0] = tag;
  writeVarint(head, 1, bytes.length);
  return Buffer.concat([head, bytes]);
}
