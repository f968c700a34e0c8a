/** Exchange's frames, by hand: many calls in one message. Field numbers: proto/hansard/v1/exchange_service.proto. */

import type { HansardError } from '../common/errors.js';
import { copyMany, varintSize, writeVarint } from '../common/wire.js';
import { type Method, methods, putStamp, stampSize } from './requests.js';
import { errorFromStatus, leavesDoubt, type Outcome } from './rpc-errors.js';
import { ProtoReader } from './wire-reader.js';

/** One call as it leaves: the request is `prefix`, a producer's stamp where there is one, then the body. */
export interface Call {
  readonly method: Method;
  readonly prefix: Uint8Array;
  /** 0: no stamp. */
  readonly producerId: number;
  readonly counter: number;
  /** The request's bytes in it are [bodyFrom, bodyTo). */
  readonly body: Uint8Array;
  readonly bodyFrom: number;
  readonly bodyTo: number;
  /** For the server, from its arrival there. */
  readonly timeoutMs: number;
  /** Of a node that says nothing at all the answer is waited for so long, ms; of one that answers others, the whole time. */
  readonly patienceMs: number;
  // One of these is called exactly once, never within `Link.send`. Where a call fails because it counts as lost,
  // an answer that comes after all is told as well: the node may have been slow, and nothing else.
  /**
   * The response is [from, to) of `bytes`, valid for this turn. `forwardedTo`: the node that
   * carried the call out in place of the one asked; 0: that one did.
   */
  answered(bytes: Buffer, from: number, to: number, forwardedTo: number): void;
  /** `inDoubt`: the server may have carried the call out, or may still do so. */
  failed(error: HansardError, inDoubt: boolean): void;
}

const nothing = new Uint8Array(0);

/** A call without a producer, that tells its outcome as a value. */
export class PlainCall implements Call {
  readonly prefix = nothing;
  readonly producerId = 0;
  readonly counter = 0;
  readonly bodyFrom = 0;
  constructor(
    readonly method: Method,
    readonly body: Uint8Array,
    readonly timeoutMs: number,
    readonly done: (outcome: Outcome) => void,
  ) {}
  get bodyTo(): number {
    return this.body.length;
  }
  get patienceMs(): number {
    return this.timeoutMs;
  }
  answered(bytes: Buffer, from: number, to: number, forwardedTo: number): void {
    this.done({ ok: true, response: bytes.subarray(from, to), forwardedTo });
  }
  failed(error: HansardError, inDoubt: boolean): void {
    this.done({ ok: false, error, inDoubt });
  }
}

/** Field `method` of Call, encoded, by method. */
const methodFields = new Map<Method, Buffer>(
  Object.values(methods).map((method) => {
    const name = Buffer.from(method);
    return [method, Buffer.concat([Uint8Array.of(18, name.length), name])];
  }),
);

export function requestSize(call: Call): number {
  const stamp = call.producerId === 0 ? 0 : stampSize(call.producerId, call.counter);
  return call.prefix.length + stamp + call.bodyTo - call.bodyFrom;
}

export function putRequest(buffer: Uint8Array, at: number, call: Call): number {
  buffer.set(call.prefix, at);
  let next = at + call.prefix.length;
  if (call.producerId !== 0) next = putStamp(buffer, next, call.producerId, call.counter);
  return copyMany(buffer, next, call.body, call.bodyFrom, call.bodyTo);
}

export function encodeRequest(call: Call): Buffer {
  const buffer = Buffer.allocUnsafe(requestSize(call));
  putRequest(buffer, 0, call);
  return buffer;
}

function callSize(id: number, call: Call, request: number): number {
  const timeout = call.timeoutMs > 0 ? 1 + varintSize(call.timeoutMs) : 0;
  const method = (methodFields.get(call.method) as Buffer).length;
  return 1 + varintSize(id) + method + timeout + 1 + varintSize(request) + request;
}

/** ExchangeRequest of calls with the ids firstId, firstId + 1 … */
export function encodeFrame(calls: readonly Call[], firstId: number): Buffer {
  let total = 0;
  for (let i = 0; i < calls.length; i++) {
    const call = calls[i] as Call;
    const size = callSize(firstId + i, call, requestSize(call));
    total += 1 + varintSize(size) + size;
  }
  const frame = Buffer.allocUnsafe(total);
  let at = 0;
  for (let i = 0; i < calls.length; i++) {
    const call = calls[i] as Call;
    const request = requestSize(call);
    frame[at] = 10;
    at = writeVarint(frame, at + 1, callSize(firstId + i, call, request));
    frame[at] = 8;
    at = writeVarint(frame, at + 1, firstId + i);
    const method = methodFields.get(call.method) as Buffer;
    frame.set(method, at);
    at += method.length;
    if (call.timeoutMs > 0) {
      frame[at] = 24;
      at = writeVarint(frame, at + 1, call.timeoutMs);
    }
    frame[at] = 42;
    at = writeVarint(frame, at + 1, request);
    at = putRequest(frame, at, call);
  }
  return frame;
}

/** Who is told of the answers in a frame, by the ids of their calls. As `Call` has them. */
export interface Answered {
  answered(id: number, bytes: Buffer, from: number, to: number, forwardedTo: number): void;
  failed(id: number, error: HansardError, inDoubt: boolean): void;
}

/** Hands on each answer of an ExchangeResponse, in order. Throws WireError. */
export function decodeFrame(bytes: Buffer, to: Answered): void {
  const r = new ProtoReader(bytes);
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) decodeAnswer(r, bytes, to);
    else r.skip();
  }
}

function decodeAnswer(r: ProtoReader, bytes: Buffer, to: Answered): void {
  const outer = r.enter();
  let id = 0;
  let code = 0;
  let forwardedTo = 0;
  let message = '';
  let details: Uint8Array[] | undefined;
  let responseFrom = 0;
  let responseTo = 0;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) id = r.uint();
    else if (tag === 42) {
      const around = r.enter();
      responseFrom = r.position;
      r.leave(around);
      responseTo = r.position;
    } else if (tag === 16) code = r.int();
    else if (tag === 48) forwardedTo = r.uint();
    else if (tag === 26) message = r.string();
    else if (tag === 34) {
      details ??= [];
      details.push(r.view());
    } else r.skip();
  }
  r.leave(outer);
  if (code === 0) return to.answered(id, bytes, responseFrom, responseTo, forwardedTo);
  const error = errorFromStatus(code, message, details ?? []);
  to.failed(id, error, leavesDoubt(error));
}
