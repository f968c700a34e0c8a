/**
 * Errors as they travel: google.rpc.Status with ErrorInfo and RetryInfo, for the
 * trailer `grpc-status-details-bin` and for the answers of Exchange. The server
 * encodes, the SDK decodes; both through this file.
 */
import { ByteWriter, MalformedError } from './bytes.js';
import { type Code, type ErrorFields, errorDomain, HansardError, type Reason, reasons } from './errors.js';
import { Wire, WireReader } from './wire.js';

const errorInfoUrl = 'type.googleapis.com/google.rpc.ErrorInfo';
const retryInfoUrl = 'type.googleapis.com/google.rpc.RetryInfo';
/** Name of the trailer that holds an encoded google.rpc.Status. */
export const statusTrailer = 'grpc-status-details-bin';
/** Headers are bounded (gRPC peers refuse more than 8 KiB): what an error may say at most, characters. */
const messageLengthMax = 1024;
const fieldLengthMax = 512;
const fieldsMax = 16;
const ascii = /^[\x20-\x7e]*$/;

/**
 * Buffers of their own for each level of nesting, used again for every error: a
 * node that refuses thousands of calls must not spend itself on saying so.
 */
const scratch = {
  status: new ByteWriter(2048),
  any: new ByteWriter(1024),
  info: new ByteWriter(1024),
  entry: new ByteWriter(512),
  delay: new ByteWriter(16),
  retry: new ByteWriter(32),
};

function cleared(writer: ByteWriter): ByteWriter {
  writer.truncate(0);
  return writer;
}

/** The message of an error as it may stand in a header: bounded, and no lone surrogate (they can't be encoded). */
export function wireMessage(error: HansardError): string {
  const message = error.message.slice(0, messageLengthMax);
  return ascii.test(message) ? message : Buffer.from(message, 'utf8').toString('utf8');
}

/** `details` of google.rpc.Status: each an encoded google.protobuf.Any. */
export function encodeErrorDetails(error: HansardError): Buffer[] {
  const info = cleared(scratch.info);
  text(info, 1, error.reason);
  text(info, 2, errorDomain);
  for (const [name, value] of Object.entries(error.fields).slice(0, fieldsMax)) {
    const entry = cleared(scratch.entry);
    text(entry, 1, name);
    text(entry, 2, String(value).slice(0, fieldLengthMax));
    info.u8(0x1a).sized(entry.view());
  }
  const details = [any(errorInfoUrl, info)];
  if (error.retryDelayMs !== undefined) {
    const delay = cleared(scratch.delay);
    const seconds = Math.floor(error.retryDelayMs / 1000);
    const nanos = Math.round((error.retryDelayMs - seconds * 1000) * 1e6);
    if (seconds > 0) delay.u8(0x08).uvarint(seconds);
    if (nanos > 0) delay.u8(0x10).uvarint(nanos);
    const retry = cleared(scratch.retry);
    retry.u8(0x0a).sized(delay.view());
    details.push(any(retryInfoUrl, retry));
  }
  return details;
}

/** An encoded google.rpc.Status. */
export function encodeStatus(error: HansardError): Buffer {
  const status = cleared(scratch.status);
  status.u8(0x08).uvarint(error.code);
  text(status, 2, wireMessage(error));
  for (const detail of encodeErrorDetails(error)) status.u8(0x1a).sized(detail);
  return Buffer.from(status.view());
}

/** Undefined where the bytes are no google.rpc.Status, or hold no ErrorInfo of ours. */
export function decodeStatus(bytes: Uint8Array): HansardError | undefined {
  let code = 0;
  let message = '';
  const details: Buffer[] = [];
  try {
    const reader = readerOf(bytes);
    while (reader.next()) {
      if (reader.field === 1 && reader.wire === Wire.varint) code = reader.varint();
      else if (reader.field === 2 && reader.wire === Wire.bytes) message = takeText(reader);
      else if (reader.field === 3 && reader.wire === Wire.bytes) details.push(takeBytes(reader));
      else reader.skip();
    }
  } catch (error) {
    if (error instanceof MalformedError) return undefined;
    throw error;
  }
  return errorOfStatus(code, message, details);
}

/**
 * The error that `details` (encoded Anys) name; undefined where they hold no
 * ErrorInfo of domain `hansard`. A reason that this version does not know becomes
 * INTERNAL with the other's code, and the reason among the fields.
 */
export function errorOfStatus(
  code: number,
  message: string,
  details: readonly Uint8Array[],
): HansardError | undefined {
  let reason: string | undefined;
  let retryDelayMs: number | undefined;
  let fields: Record<string, string> = {};
  try {
    for (const detail of details) {
      const { url, value } = decodeAny(detail);
      if (url === errorInfoUrl) {
        const info = decodeErrorInfo(value);
        if (info.domain === errorDomain) ({ reason, fields } = info);
      } else if (url === retryInfoUrl) retryDelayMs = decodeRetryDelay(value);
    }
  } catch (error) {
    if (error instanceof MalformedError) return undefined;
    throw error;
  }
  if (reason === undefined) return undefined;
  const options = {
    code: code as Code,
    ...(retryDelayMs === undefined ? {} : { retryDelayMs }),
  };
  if (reason in reasons) return new HansardError(reason as Reason, message, fields as ErrorFields, options);
  return new HansardError('INTERNAL', message, { ...fields, reason }, options);
}

function decodeErrorInfo(bytes: Buffer): { reason: string; domain: string; fields: Record<string, string> } {
  const info = { reason: '', domain: '', fields: {} as Record<string, string> };
  const reader = new WireReader(bytes);
  while (reader.next()) {
    if (reader.wire !== Wire.bytes) reader.skip();
    else if (reader.field === 1) info.reason = takeText(reader);
    else if (reader.field === 2) info.domain = takeText(reader);
    else if (reader.field === 3) {
      let name = '';
      let value = '';
      const entry = new WireReader(takeBytes(reader));
      while (entry.next()) {
        if (entry.field === 1 && entry.wire === Wire.bytes) name = takeText(entry);
        else if (entry.field === 2 && entry.wire === Wire.bytes) value = takeText(entry);
        else entry.skip();
      }
      if (name !== '__proto__') info.fields[name] = value;
    } else reader.skip();
  }
  return info;
}

function decodeRetryDelay(bytes: Buffer): number {
  let ms = 0;
  const reader = new WireReader(bytes);
  while (reader.next()) {
    if (reader.field !== 1 || reader.wire !== Wire.bytes) {
      reader.skip();
      continue;
    }
    const duration = new WireReader(takeBytes(reader));
    while (duration.next()) {
      if (duration.wire !== Wire.varint) duration.skip();
      else if (duration.field === 1) ms += duration.varint() * 1000;
      else if (duration.field === 2) ms += duration.varint() / 1e6;
      else duration.varint();
    }
  }
  return ms;
}

function decodeAny(bytes: Uint8Array): { url: string; value: Buffer } {
  let url = '';
  let value = Buffer.alloc(0);
  const reader = readerOf(bytes);
  while (reader.next()) {
    if (reader.field === 1 && reader.wire === Wire.bytes) url = takeText(reader);
    else if (reader.field === 2 && reader.wire === Wire.bytes) value = Buffer.from(takeBytes(reader));
    else reader.skip();
  }
  return { url, value };
}

function any(url: string, value: ByteWriter): Buffer {
  const writer = cleared(scratch.any);
  text(writer, 1, url);
  return Buffer.from(writer.u8(0x12).sized(value.view()).view());
}

function text(writer: ByteWriter, field: number, value: string): void {
  if (value !== '') writer.u8((field << 3) | Wire.bytes).string(value);
}

function takeText(reader: WireReader): string {
  reader.sized();
  return reader.bytes.toString('utf8', reader.start, reader.position);
}

function takeBytes(reader: WireReader): Buffer {
  reader.sized();
  return reader.bytes.subarray(reader.start, reader.position);
}

function readerOf(bytes: Uint8Array): WireReader {
  return new WireReader(
    Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length),
  );
}
