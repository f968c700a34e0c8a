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
import { type ActiveCall, bytesOf, type Calls, type Response } from './calls.js';
import { FramedWriter, messageHeadBytes, OutMessage } from './framed.js';
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
  /** Answers are packed into messages of about this size: six pages, so that the first are read while others are encoded. */
  readonly messageBytes: number;
  /** A turn of the loop that takes longer, ms, has other work than one message of answers. */
  readonly longTurnMs: number;
}

export const defaultExchangeLimits: ExchangeLimits = Object.freeze({
  callsInFlight: 1_024,
  requestBytes: 32 * 1024 * 1024,
  allRequestBytes: 256 * 1024 * 1024,
  answerBytes: 8 * 1024 * 1024,
  messageBytes: 96 * 1024,
  longTurnMs: 2,
});

/**
 * Messages that Node's stream of requests holds before it stops taking more. Its own 16,
 * counted in messages of up to 16 MiB, would be 256 MiB for each stream that waits.
 */
const messagesUnread = 1;
/** Messages with answers that have not gone to the socket. */
const messagesUnsentMax = 4;
const overloadedRetryMs = 1_000;

/** What the streams of a node hold together. */
export class ExchangeLoad {
  requestBytes = 0;
  /** gRPC messages since the start, both ways; each costs more than what it holds. */
  messages = 0;
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
  readonly response: Response | undefined;
  /** Another node that carried the call out; 0: none. */
  readonly forwardedTo: NodeId;
}

export class ExchangeStream {
  readonly #calls: Calls;
  readonly #stream: ServerDuplexStream<Buffer, Buffer>;
  readonly #writer: FramedWriter;
  readonly #limits: ExchangeLimits;
  readonly #load: ExchangeLoad;
  readonly #inFlight = new Map<number, ActiveCall>();
  readonly #inboxes: Inbox[] = [];
  #requestBytes = 0;
  #answers: Answer[] = [];
  #answerBytes = 0;
  #flushing = false;
  #unsent = 0;
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
    this.#writer = new FramedWriter(stream);
    this.#limits = bounds;
    this.#load = load;
    holdLess(stream);
    stream.on('data', (message: Buffer) => this.#take(message));
    stream.on('end', () => {
      this.#ended = true;
      this.#endIfDone();
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
    this.#load.messages++;
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
    // The calls of one turn have come at one time.
    const nowMs = this.#inboxes.length === 0 ? 0 : this.#calls.nowMs();
    try {
      for (let inbox = this.#inboxes[0]; inbox !== undefined && !this.#closed; inbox = this.#inboxes[0]) {
        if (
          this.#inFlight.size >= this.#limits.callsInFlight ||
          this.#answerBytes >= this.#limits.answerBytes
        )
          break;
        if (inbox.reader.next()) this.#next(inbox, nowMs);
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

  #next(inbox: Inbox, nowMs: number): void {
    const { reader } = inbox;
    if (reader.field !== 1) {
      reader.skip();
      return;
    }
    if (reader.wire !== Wire.bytes) throw invalidArgument('calls', `wire type ${reader.wire}`);
    reader.sized();
    readCall(reader.bytes, reader.start, reader.position);
    const { id } = frame;
    if (this.#inFlight.has(id)) throw invalidArgument('calls.id', `${id} is under way already`);
    inbox.open++;
    const call = this.#calls.start(
      frame.method,
      reader.bytes.subarray(frame.requestFrom, frame.requestTo),
      nowMs + (frame.timeoutMs === 0 ? limits.defaultDeadlineMs : frame.timeoutMs),
      'exchange',
      frame.traceparent,
      (error, response, { forwardedTo }) => {
        this.#inFlight.delete(id);
        inbox.open--;
        this.#release(inbox);
        this.#answer({ id, error, response, forwardedTo });
      },
      nowMs,
    );
    // It may have ended at once.
    if (!call.settled) this.#inFlight.set(id, call);
  }

  #release(inbox: Inbox): void {
    if (this.#closed || !inbox.read || inbox.open > 0) return;
    this.#requestBytes -= inbox.bytes;
    this.#load.requestBytes -= inbox.bytes;
  }

  #answer(answer: Answer): void {
    if (this.#closed) return;
    this.#answers.push(this.#isFull ? settled(answer) : answer);
    this.#answerBytes += answer.response?.length ?? 256;
    // All that ends in this turn leaves together.
    if (!this.#isFull) this.#flushLater();
  }

  #flushLater(): void {
    // Nothing else of this stream can end in this turn: its message need not wait for the next one.
    if (this.#isAnswered) this.#flushSoon();
    if (this.#flushing) return;
    this.#flushing = true;
    const fromMs = this.#calls.nowMs();
    setImmediate(() => {
      this.#flushing = false;
      this.#flush(this.#calls.nowMs() - fromMs > this.#limits.longTurnMs);
    });
  }

  /** All calls, in what one message holds. */
  get #isAnswered(): boolean {
    return (
      this.#inFlight.size === 0 && this.#inboxes.length === 0 && this.#answerBytes < this.#limits.messageBytes
    );
  }

  /** Behind the code that ended the last call, which has others to answer. */
  #flushSoon(): void {
    queueMicrotask(() => {
      if (this.#isAnswered && this.#mayWrite) this.#writeNext();
    });
  }

  /** The transport has enough: no write until it has sent some of it. */
  get #isFull(): boolean {
    return this.#unsent >= messagesUnsentMax;
  }

  /**
   * One message in a turn: it leaves before the next one is encoded, and whoever reads it works at the same time. Written all
   * at once, node and client would work in turns. `isBehind`: the loop has other work, for which nobody is to wait message by message.
   */
  #flush(isBehind = true): void {
    if (this.#mayWrite) this.#writeNext();
    while (isBehind && this.#mayWrite) this.#writeNext();
    if (this.#closed) return;
    if (this.#answers.length > 0) {
      // Who knows when they leave.
      if (this.#isFull) settle(this.#answers);
      else this.#flushLater();
    }
    this.#pump();
    this.#endIfDone();
  }

  get #mayWrite(): boolean {
    return this.#answers.length > 0 && !this.#isFull && !this.#closed;
  }

  /** The first of the answers, as many as make a message. */
  #writeNext(): void {
    let bytes = 0;
    let count = 0;
    while (count < this.#answers.length && (count === 0 || bytes < this.#limits.messageBytes)) {
      bytes += this.#answers[count++]?.response?.length ?? 256;
    }
    const batch = count === this.#answers.length ? this.#answers : this.#answers.slice(0, count);
    this.#answers = count === this.#answers.length ? [] : this.#answers.slice(count);
    this.#answerBytes -= bytes;
    this.#load.messages++;
    try {
      this.#write(OutMessage.behindRoom(encodeAnswers(batch)));
    } catch (error) {
      this.#fail(error);
    }
  }

  #write(message: OutMessage): void {
    this.#unsent++;
    this.#writer.write(message, () => {
      const wasFull = this.#isFull;
      this.#unsent--;
      if (wasFull) this.#flush();
    });
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
    for (const call of this.#inFlight.values()) this.#calls.cancel(call);
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
  const { _readableState } = stream as { _readableState?: { highWaterMark: number } };
  if (_readableState !== undefined) _readableState.highWaterMark = messagesUnread;
}

/** The call that was read last: begun before the next one is looked at. */
const frame = { id: 0, method: '', timeoutMs: 0, traceparent: '', requestFrom: 0, requestTo: 0 };
const callReader = new WireReader(Buffer.alloc(0));

function readCall(bytes: Buffer, from: number, to: number): void {
  const reader = callReader.reset(bytes, from, to);
  frame.id = 0;
  frame.method = '';
  frame.timeoutMs = 0;
  frame.traceparent = '';
  frame.requestFrom = frame.requestTo = from;
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        frame.id = number(reader, 'calls.id', Number.MAX_SAFE_INTEGER);
        break;
      case 2:
        sized(reader, 'calls.method');
        frame.method = methodName(bytes, reader.start, reader.position);
        break;
      case 3:
        frame.timeoutMs = number(reader, 'calls.timeout_ms', 0xffff_ffff);
        break;
      case 4:
        sized(reader, 'calls.traceparent');
        frame.traceparent = bytes.toString(
          'latin1',
          reader.start,
          Math.min(reader.position, reader.start + 256),
        );
        break;
      case 5:
        sized(reader, 'calls.request');
        frame.requestFrom = reader.start;
        frame.requestTo = reader.position;
        break;
      default:
        reader.skip();
    }
  }
}

/** The same few names come all the time: no string is made for the last one seen. */
let lastMethod = '';

function methodName(bytes: Buffer, from: number, to: number): string {
  let same = to - from === lastMethod.length;
  for (let i = from; same && i < to; i++) same = bytes[i] === lastMethod.charCodeAt(i - from);
  // Bytes may be taken for a text with U+0080 to U+00FF, but no method has such a name.
  if (!same) lastMethod = bytes.toString('utf8', from, Math.min(to, from + 256));
  return lastMethod;
}

function number(reader: WireReader, field: string, max: number): number {
  if (reader.wire !== Wire.varint) throw invalidArgument(field, `wire type ${reader.wire}`);
  const value = reader.varint();
  if (value > max) throw invalidArgument(field, 'out of range');
  return value;
}

function sized(reader: WireReader, field: string): void {
  if (reader.wire !== Wire.bytes) throw invalidArgument(field, `wire type ${reader.wire}`);
  reader.sized();
}

/** Of an answer that waits: what it was read from is let go. */
function settled(answer: Answer): Answer {
  const { response } = answer;
  return response === undefined || response instanceof Uint8Array
    ? answer
    : { ...answer, response: bytesOf(response) };
}

/** In place, as it is done again with each message that leaves: most are settled by then. */
function settle(answers: Answer[]): void {
  for (let i = 0; i < answers.length; i++) {
    const answer = answers[i] as Answer;
    const done = settled(answer);
    if (done !== answer) answers[i] = done;
  }
}

/** An encoded ExchangeResponse behind room for the head of a message. */
function encodeAnswers(answers: readonly Answer[]): Buffer {
  let errors: (Buffer | undefined)[] | undefined;
  let total = messageHeadBytes;
  for (let i = 0; i < answers.length; i++) {
    const answer = answers[i] as Answer;
    if (answer.error !== undefined) {
      errors ??= new Array<Buffer | undefined>(answers.length).fill(undefined);
      errors[i] = encodeError(answer.error);
    }
    const size = answerSize(answer, errors?.[i]);
    total += 1 + varintSize(size) + size;
  }
  const target = Buffer.allocUnsafe(total);
  let at = messageHeadBytes;
  for (let i = 0; i < answers.length; i++) {
    const answer = answers[i] as Answer;
    const error = errors?.[i];
    const { id, response, forwardedTo } = answer;
    target[at++] = answerTag;
    at = writeVarint(target, at, answerSize(answer, error));
    at = writeVarintField(target, at, 0x08, id);
    if (error !== undefined) at += error.copy(target, at);
    if (response !== undefined && response.length > 0) {
      target[at++] = 0x2a;
      at = writeVarint(target, at, response.length);
      at = putResponse(response, target, at);
    }
    at = writeVarintField(target, at, 0x30, forwardedTo);
  }
  return target;
}

function putResponse(response: Response, target: Buffer, at: number): number {
  if (!(response instanceof Uint8Array)) return response.writeTo(target, at);
  target.set(response, at);
  return at + response.length;
}

function answerSize({ id, response, forwardedTo }: Answer, error: Buffer | undefined): number {
  const body = response?.length ?? 0;
  const size = varintFieldSize(id) + varintFieldSize(forwardedTo) + (error?.length ?? 0);
  return body === 0 ? size : size + 1 + varintSize(body) + body;
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
