/**
 * Unary calls of plain gRPC clients, read from the HTTP/2 stream and answered on it. What grpc-js does
 * for each call (interceptors, two copies of the headers, a timer, promises, a status) costs more than all
 * that the node does with it. Whatever is out of the ordinary, compressed requests above all, goes on to grpc-js.
 *
 * A deadline is looked after by Calls, as on all other ways; until the request is here, by `Arriving`.
 */
import type { IncomingHttpHeaders, OutgoingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import { status as Code, type Server } from '@grpc/grpc-js';
import type { HansardError } from '../common/errors.js';
import { limits } from '../common/limits.js';
import type { ActiveCall, Calls, Response } from './calls.js';
import { framedResponse, messageHeadBytes } from './framed.js';
import { grpcStatusOf } from './grpc-status.js';
import { type Caught, onHttp2Server } from './inner-server.js';

/** Of gRPC's own header: more digits are not allowed. */
const timeoutPattern = /^(\d{1,8})([HMSmun])$/;
const timeoutUnitMs: Readonly<Record<string, number>> = {
  H: 3_600_000,
  M: 60_000,
  S: 1_000,
  m: 1,
  u: 1e-3,
  n: 1e-6,
};

const responseHeaders = Object.freeze({
  ':status': 200,
  'content-type': 'application/grpc+proto',
  // What grpc-js takes from here on.
  'grpc-accept-encoding': 'identity,deflate,gzip',
});
const withTrailers = Object.freeze({ waitForTrailers: true });
const okTrailers = Object.freeze({ 'grpc-status': '0' });

/** Requests that do not come to their end are looked for so often, ms. */
const lookMs = 1_000;

/** Calls whose request is not all here: one timer for all of them, since nearly all have come when it fires. */
class Arriving {
  readonly #calls = new Set<PlainCall>();
  readonly #nowMs: () => number;
  #timer: NodeJS.Timeout | undefined;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  add(call: PlainCall): void {
    this.#calls.add(call);
    this.#timer ??= setInterval(() => this.#look(), lookMs).unref();
  }

  delete(call: PlainCall): void {
    this.#calls.delete(call);
  }

  #look(): void {
    for (const call of this.#calls) if (this.#nowMs() > call.deadlineMs) call.expire();
    if (this.#calls.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

/** To be called before the server is bound. */
export function serveUnary(server: Server, names: Iterable<string>, calls: Calls): Caught {
  const methods = new Map<string, string>();
  for (const name of names) methods.set(`/${name}`, name);
  const arriving = new Arriving(() => calls.nowMs());
  const take = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders): boolean => {
    const method = methods.get(headers[':path'] ?? '');
    const timeoutMs = timeoutOf(headers['grpc-timeout']);
    if (method === undefined || timeoutMs === undefined || !isPlain(headers)) return false;
    const deadlineMs = calls.nowMs() + timeoutMs;
    new PlainCall(stream, calls, arriving, method, deadlineMs, textOf(headers.traceparent)).listen();
    return true;
  };
  return onHttp2Server(server, (http2Server) => {
    const theirs = http2Server.listeners('stream');
    if (theirs.length === 0) return false;
    http2Server.removeAllListeners('stream');
    http2Server.on('stream', (stream, headers, ...more) => {
      if (!take(stream, headers))
        for (const listener of theirs) listener.call(http2Server, stream, headers, ...more);
    });
    return true;
  });
}

function isPlain(headers: IncomingHttpHeaders): boolean {
  const type = headers['content-type'];
  const encoding = headers['grpc-encoding'];
  return (
    (type === 'application/grpc' || type === 'application/grpc+proto') &&
    (encoding === undefined || encoding === 'identity') &&
    headers[':method'] === 'POST'
  );
}

/** Undefined: not understood here. */
function timeoutOf(header: string | string[] | undefined): number | undefined {
  if (header === undefined) return limits.defaultDeadlineMs;
  const [, digits, unit] = timeoutPattern.exec(textOf(header)) ?? [];
  return digits === undefined || unit === undefined
    ? undefined
    : Number(digits) * (timeoutUnitMs[unit] as number);
}

function textOf(header: string | string[] | undefined): string {
  return typeof header === 'string' ? header : '';
}

class PlainCall {
  readonly #stream: ServerHttp2Stream;
  readonly #calls: Calls;
  readonly #arriving: Arriving;
  readonly #method: string;
  readonly deadlineMs: number;
  readonly #traceparent: string;
  /** Of the request's message, with its head. */
  #parts: Buffer[] = [];
  #bytes = 0;
  /** All of it is here, or it was refused: what comes behind is of no interest. */
  #isRead = false;
  #active: ActiveCall | undefined;

  constructor(
    stream: ServerHttp2Stream,
    calls: Calls,
    arriving: Arriving,
    method: string,
    deadlineMs: number,
    traceparent: string,
  ) {
    this.#stream = stream;
    this.#calls = calls;
    this.#arriving = arriving;
    this.#method = method;
    this.deadlineMs = deadlineMs;
    this.#traceparent = traceparent;
  }

  listen(): void {
    this.#arriving.add(this);
    this.#stream.on('data', (data: Buffer) => this.#onData(data));
    this.#stream.on('end', () => this.#onEnd());
    // Its close follows.
    this.#stream.on('error', () => {});
    this.#stream.on('close', () => {
      this.#readNoMore();
      if (this.#active?.settled === false) this.#calls.cancel(this.#active);
    });
  }

  #onData(data: Buffer): void {
    if (this.#isRead) return;
    this.#bytes += data.length;
    // Copied: it is a piece of all that the connection has brought.
    if (this.#bytes <= messageHeadBytes + limits.grpcMessageBytes) this.#parts.push(Buffer.from(data));
    else this.#refuse(Code.RESOURCE_EXHAUSTED, `the request is larger than ${limits.grpcMessageBytes} bytes`);
  }

  #onEnd(): void {
    if (this.#isRead) return;
    const message = this.#parts.length === 1 ? (this.#parts[0] as Buffer) : Buffer.concat(this.#parts);
    this.#readNoMore();
    const missing =
      message.length < messageHeadBytes ? 1 : message.readUInt32BE(1) + messageHeadBytes - message.length;
    if (missing !== 0)
      return this.#refuse(Code.UNIMPLEMENTED, `${missing > 0 ? 'less' : 'more'} than one request message`);
    if (message[0] !== 0) return this.#refuse(Code.INTERNAL, 'a compressed request without its encoding');
    const request = message.subarray(messageHeadBytes);
    this.#active = this.#calls.start(
      this.#method,
      request,
      this.deadlineMs,
      'grpc',
      this.#traceparent,
      (error, response) => {
        if (this.#stream.destroyed || this.#stream.closed) return;
        if (error === undefined) this.#answer(response as Response);
        else this.#fail(error);
      },
    );
  }

  #readNoMore(): void {
    this.#isRead = true;
    this.#parts = [];
    this.#arriving.delete(this);
  }

  /** What has come of the request holds memory, and its end may never come. */
  expire(): void {
    this.#refuse(Code.DEADLINE_EXCEEDED, 'the deadline passed before the request had come');
    this.#stream.close();
  }

  #answer(response: Response): void {
    const stream = this.#stream;
    stream.respond(responseHeaders, withTrailers);
    stream.on('wantTrailers', () => stream.sendTrailers(okTrailers));
    stream.end(framedResponse(response));
  }

  #fail(error: HansardError): void {
    const { code, details, metadata } = grpcStatusOf(error);
    this.#endWith(code, details, metadata.toHttp2Headers());
  }

  #refuse(code: number, details: string): void {
    this.#readNoMore();
    if (!this.#stream.destroyed && !this.#stream.closed) this.#endWith(code, details, {});
  }

  #endWith(code: number, details: string, trailers: OutgoingHttpHeaders): void {
    const status = { 'grpc-status': code, 'grpc-message': encodeURI(details) };
    this.#stream.respond({ ...responseHeaders, ...status, ...trailers }, { endStream: true });
  }
}
