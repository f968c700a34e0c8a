/** Exchange's frames, by hand: many calls in one message. Field numbers: proto/hansard/v1/exchange_service.proto. */

import { varintSize, writeVarint } from '../common/wire.js';
import { type Method, methods, putStamp, stampSize } from './requests.js';
import { errorFromStatus, leavesDoubt, type Outcome } from './rpc-errors.js';
import { ProtoReader } from './wire-reader.js';

/** One call as it leaves: the request is `prefix`, a producer's stamp where there is one, then `body`. */
export interface Call {
  readonly method: Method;
  readonly prefix: Uint8Array;
  /** 0: no stamp. */
  readonly producerId: number;
  readonly counter: number;
  readonly body: Uint8Array;
  /** For the server, from its arrival there. */
  readonly timeoutMs: number;
  /** Called exactly once, never within `Link.send`. */
  readonly done: (outcome: Outcome) => void;
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
  return call.prefix.length + stamp + call.body.length;
}

export function putRequest(buffer: Uint8Array, at: number, call: Call): number {
  buffer.set(call.prefix, at);
  let next = at + call.prefix.length;
  if (call.producerId !== 0) next = putStamp(buffer, next, call.producerId, call.counter);
  buffer.set(call.body, next);
  return next + call.body.length;
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

/** Hands each answer of an ExchangeResponse to `each`, in order. Throws WireError. */
export function decodeFrame(bytes: Uint8Array, each: (id: number, outcome: Outcome) => void): void {
  const r = new ProtoReader(bytes);
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) decodeAnswer(r, each);
    else r.skip();
  }
}

const empty = new Uint8Array(0);

function decodeAnswer(r: ProtoReader, each: (id: number, outcome: Outcome) => void): void {
  const outer = r.enter();
  let id = 0;
  let code = 0;
  let forwardedTo = 0;
  let message = '';
  let details: Uint8Array[] | undefined;
  let response: Uint8Array = empty;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) id = r.uint();
    else if (tag === 42) response = r.view();
    else if (tag === 16) code = r.int();
    else if (tag === 48) forwardedTo = r.uint();
    else if (tag === 26) message = r.string();
    else if (tag === 34) {
      details ??= [];
      details.push(r.view());
    } else r.skip();
  }
  r.leave(outer);
  if (code === 0) each(id, { ok: true, response, forwardedTo });
  else {
    const error = errorFromStatus(code, message, details ?? []);
    each(id, { ok: false, error, inDoubt: leavesDoubt(error) });
  }
}
