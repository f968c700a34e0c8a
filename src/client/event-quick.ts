/**
 * Most events are messages of one text, as nodes write them: field after field in the order of their
 * numbers. Read by hand as they lie, without a step from field to field, that takes two thirds of the
 * time (dist/bench/pages.js). Whatever else it is, or wrong, gives undefined: event-decode.ts knows it all.
 */
import { xxh64Equals } from '../common/hash-scratch.js';
import { roles } from './content-encode.js';
import { eventTypes, isMessageType } from './requests.js';
import type { Event, MessageContent } from './types.js';
import { nameAt, type OwnBytes, textAt } from './wire-reader.js';

const commitmentBytes = 32;
const saltBytes = 16;
/** Behind all bytes: nothing that follows fits any more. */
const nowhere = 0x3fff_ffff;
const microsecond = 1_000;

/** Place behind the varint that was read last. */
let next = 0;

/** Of up to seven bytes (a producer's id has its partition above 36 bits of number); a longer one is left to others. */
function varint(bytes: Buffer, at: number): number {
  let byte = bytes[at] as number;
  let value = byte & 0x7f;
  next = at + 1;
  if (byte < 0x80) return value;
  byte = bytes[next++] as number;
  value |= (byte & 0x7f) << 7;
  if (byte < 0x80) return value;
  byte = bytes[next++] as number;
  value |= (byte & 0x7f) << 14;
  if (byte < 0x80) return value;
  byte = bytes[next++] as number;
  value |= (byte & 0x7f) << 21;
  return byte < 0x80 ? value : longVarint(bytes, value);
}

/** Its fifth byte and on: beyond the 32 bits that shifting knows. */
function longVarint(bytes: Buffer, low: number): number {
  let value = low;
  for (let scale = 2 ** 28; scale <= 2 ** 42; scale *= 128) {
    const byte = bytes[next++] as number;
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) return value;
  }
  next = nowhere;
  return 0;
}

/** The Event at [from, to). */
export function readEventQuick(own: OwnBytes, from: number, to: number): Event | undefined {
  const { bytes, owned } = own;
  if (bytes[from] !== 0x08) return undefined;
  const seq = varint(bytes, from + 1);
  let at = next;
  const type = bytes[at + 1] as number;
  if (bytes[at] !== 0x10 || !isMessageType(type) || bytes[at + 2] !== 0x1a) return undefined;
  const timeEnd = at + 4 + (bytes[at + 3] as number);
  if (bytes[at + 4] !== 0x08) return undefined;
  const seconds = varint(bytes, at + 5);
  at = next;
  let nanos = 0;
  if (at < timeEnd) {
    if (bytes[at] !== 0x10) return undefined;
    nanos = varint(bytes, at + 1);
    at = next;
  }
  if (at !== timeEnd) return undefined;
  let producerId = 0;
  if (bytes[at] === 0x20) {
    producerId = varint(bytes, at + 1);
    at = next;
  }
  let producerCounter = 0;
  if (bytes[at] === 0x28) {
    producerCounter = varint(bytes, at + 1);
    at = next;
  }
  const checksumAt = at + 1;
  if (bytes[at] !== 0x49 || bytes[at + 9] !== 0x52 || bytes[at + 10] !== commitmentBytes) return undefined;
  const commitmentAt = at + 11;
  at = commitmentAt + commitmentBytes;
  let batchPosition = 0;
  if (bytes[at] === 0x80 && bytes[at + 1] === 0x01) {
    batchPosition = varint(bytes, at + 2);
    at = next;
  }
  const saltAt = at + 2;
  if (bytes[at] !== 0x5a || bytes[at + 1] !== saltBytes) return undefined;
  at = saltAt + saltBytes;
  if (bytes[at] !== 0xa2 || bytes[at + 1] !== 0x01) return undefined;
  const contentLength = varint(bytes, at + 2);
  const contentAt = next;
  // All that was read lies before it, and what is read of it ends with it.
  if (contentAt + contentLength !== to || contentLength === 0) return undefined;
  const message = readTextMessage(bytes, contentAt, to);
  if (message === undefined || !xxh64Equals(bytes, contentAt, to, checksumAt)) return undefined;
  return {
    seq,
    type: eventTypes[type] ?? type,
    commitTimeUs: seconds * 1_000_000 + Math.floor(nanos / microsecond),
    producerId,
    producerCounter,
    actor: '',
    subject: '',
    targetSeq: 0,
    messageId: '',
    key: '',
    batchPosition,
    erased: false,
    checksum: own.numbers.getBigUint64(checksumAt, true),
    commitment: new Uint8Array(owned, commitmentAt, commitmentBytes),
    salt: new Uint8Array(owned, saltAt, saltBytes),
    contentBytes: new Uint8Array(owned, contentAt, contentLength),
    message,
  };
}

/** A MessageContent that has a role, an author and one text, and nothing behind it. */
function readTextMessage(bytes: Buffer, from: number, to: number): MessageContent | undefined {
  let at = from;
  let role = 0;
  if (bytes[at] === 0x08) {
    role = bytes[at + 1] as number;
    if (role === 0 || role >= 0x80) return undefined;
    at += 2;
  }
  let author: string | undefined;
  if (bytes[at] === 0x12) {
    const length = bytes[at + 1] as number;
    if (length === 0 || length >= 0x80 || at + 2 + length > to) return undefined;
    author = nameAt(bytes, at + 2, length);
    at += 2 + length;
  }
  // Part, its text, the text's text: each ends with the content.
  for (let depth = 0; depth < 3; depth++) {
    if (bytes[at] !== (depth === 0 ? 0x1a : 0x0a)) return undefined;
    const length = varint(bytes, at + 1);
    at = next;
    if (at + length !== to) return undefined;
  }
  const parts = [{ type: 'text' as const, text: textAt(bytes, at, to) }];
  const name = roles[role] ?? role;
  if (role === 0) return author === undefined ? { parts } : { author, parts };
  return author === undefined ? { role: name, parts } : { role: name, author, parts };
}
