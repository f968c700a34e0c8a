/** A gRPC status, with google.rpc.ErrorInfo and RetryInfo where the server sent them, as a HansardError. */
import type { Metadata, ServiceError } from '@grpc/grpc-js';
import { Code, HansardError, type Reason, reasons } from '../common/errors.js';
import { readTimestamp } from './content-decode.js';
import { readMapEntry } from './response-parts.js';
import { ProtoReader, WireError } from './wire-reader.js';

/** What one attempt of a call came to. */
export type Outcome =
  | {
      readonly ok: true;
      /** Valid for this turn. */
      readonly response: Uint8Array;
      /** The node that carried it out in place of the one asked; 0: that one did. */
      readonly forwardedTo: number;
    }
  | {
      readonly ok: false;
      readonly error: HansardError;
      /** The server may have carried the call out, or may still do so. */
      readonly inDoubt: boolean;
    };

/**
 * Answers after which it is certain that this attempt changes nothing, now or
 * later; every other failure leaves the outcome open. Refusals of apply
 * (`counter_consumed`) are certain too, of course.
 */
export function leavesDoubt(error: HansardError): boolean {
  if (error.fields.counter_consumed === 'true') return false;
  switch (error.reason) {
    case 'COMMIT_UNKNOWN':
    case 'DEADLINE_EXCEEDED':
    case 'INTERNAL':
    case 'UNREACHABLE':
    case 'CLIENT_CLOSED':
      return true;
    default:
      return false;
  }
}

/** `details`: encoded google.protobuf.Any messages. */
export function errorFromStatus(code: number, message: string, details: readonly Uint8Array[]): HansardError {
  let reason: string | undefined;
  let retryDelayMs: number | undefined;
  const fields: Record<string, string> = {};
  for (const detail of details) {
    try {
      const { type, value } = readAny(detail);
      if (type === 'google.rpc.ErrorInfo') reason = readErrorInfo(value, fields) ?? reason;
      else if (type === 'google.rpc.RetryInfo') retryDelayMs = readRetryInfo(value);
    } catch (error) {
      // Unreadable details leave the code and message.
      if (!(error instanceof WireError)) throw error;
    }
  }
  const options: { code: Code; retryDelayMs?: number } = { code: code as Code };
  if (retryDelayMs !== undefined) options.retryDelayMs = retryDelayMs;
  if (reason !== undefined && Object.hasOwn(reasons, reason))
    return new HansardError(reason as Reason, message, fields, options);
  if (reason !== undefined) fields.server_reason = reason;
  return new HansardError(reasonOfCode(code), message, fields, options);
}

/** For a status that no Hansard server made: the transport's, a proxy's, or one of a newer version. */
function reasonOfCode(code: number): Reason {
  switch (code) {
    case Code.unavailable:
    case Code.cancelled:
      return 'UNREACHABLE';
    case Code.deadlineExceeded:
      return 'DEADLINE_EXCEEDED';
    case Code.unimplemented:
      return 'NOT_IMPLEMENTED';
    case Code.invalidArgument:
      return 'INVALID_ARGUMENT';
    case Code.resourceExhausted:
      return 'OVERLOADED';
    default:
      return 'INTERNAL';
  }
}

export function errorFromService(error: ServiceError): HansardError {
  const status = (error.metadata as Metadata | undefined)?.get('grpc-status-details-bin')[0];
  const details = Buffer.isBuffer(status) ? statusDetails(status) : [];
  return errorFromStatus(error.code, error.details || error.message, details);
}

function statusDetails(status: Buffer): Uint8Array[] {
  const details: Uint8Array[] = [];
  try {
    const r = new ProtoReader(status);
    for (let tag = r.next(); tag !== 0; tag = r.next()) {
      if (tag === 26) details.push(r.view());
      else r.skip();
    }
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
  }
  return details;
}

function readAny(bytes: Uint8Array): { type: string; value: Uint8Array } {
  const r = new ProtoReader(bytes);
  let url = '';
  let value: Uint8Array = new Uint8Array(0);
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) url = r.string();
    else if (tag === 18) value = r.bytes();
    else r.skip();
  }
  return { type: url.slice(url.lastIndexOf('/') + 1), value };
}

function readErrorInfo(bytes: Uint8Array, fields: Record<string, string>): string | undefined {
  const r = new ProtoReader(bytes);
  let reason: string | undefined;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) reason = r.string();
    else if (tag === 26) {
      const [key, value] = r.message(readMapEntry);
      Object.defineProperty(fields, key, { value, enumerable: true, writable: true, configurable: true });
    } else r.skip();
  }
  return reason;
}

function readRetryInfo(bytes: Uint8Array): number | undefined {
  const r = new ProtoReader(bytes);
  let delayMs: number | undefined;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    // A Duration has a Timestamp's fields.
    if (tag === 10) delayMs = r.message(readTimestamp) / 1000;
    else r.skip();
  }
  return delayMs;
}
