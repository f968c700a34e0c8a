/**
 * The record of one event: the same bytes in the append command (as the leader
 * packed them), in tails and in blocks. docs/format.md, "Event records".
 *
 *     header        version u8, type u8, flags u16, header length u16, content length u32,
 *                   content xxh64 u64, commitment 32 bytes, then one field for each
 *                   flag that has one, in the order of the flags
 *     content part  salt 16 bytes, content; absent where the content was erased
 *
 * Seq, commit time and producer are not in it: they are given when the record is
 * applied, and a block keeps them for all its events together.
 */
import { ByteReader, type ByteWriter, MalformedError } from '../common/bytes.js';
import type { Seq } from '../common/ids.js';
import { EventType } from './types.js';

export const eventRecordVersion = 1;
export const saltBytes = 16;
export const commitmentBytes = 32;
/** The header's part that every record has. */
export const fixedHeaderBytes = 50;

/** Flags with a field come first, in the order in which the fields follow. */
export const EventFlag = {
  key: 1 << 0,
  messageId: 1 << 1,
  subject: 1 << 2,
  actor: 1 << 3,
  targetSeq: 1 << 4,
  keyReference: 1 << 5,
  /** Absent at place 0. */
  batchPosition: 1 << 6,
  /** The content refers to other messages of its append by their place. */
  usesBatchPosition: 1 << 7,
  /** Content and salt are gone; content length and xxh64 are 0, the commitment remains. */
  erased: 1 << 8,
} as const;
const fieldFlags = 0x7f;
const knownFlags = 0x1ff;
const highestType = EventType.custom;

const at = {
  type: 1,
  flags: 2,
  headerLength: 4,
  contentLength: 6,
  contentXxh64: 10,
  commitment: 18,
} as const;

/** One event as the leader packs it. */
export interface NewEvent {
  readonly type: EventType;
  /** As the client encoded it. */
  readonly content: Uint8Array;
  readonly contentXxh64: bigint;
  /** 16 random bytes. */
  readonly salt: Uint8Array;
  /** SHA-256(salt ‖ content). */
  readonly commitment: Uint8Array;
  /** Empty strings count as absent. */
  readonly key?: string | undefined;
  readonly messageId?: string | undefined;
  readonly subject?: string | undefined;
  readonly actor?: string | undefined;
  readonly targetSeq?: Seq | undefined;
  readonly keyReference?: number | undefined;
  readonly usesBatchPosition?: boolean | undefined;
}

/** Writes one record; `batchPosition`: the event's place in its append, from 0. */
export function writeEventRecord(writer: ByteWriter, event: NewEvent, batchPosition: number): void {
  if (event.salt.length !== saltBytes || event.commitment.length !== commitmentBytes) {
    throw new RangeError('an event needs a salt of 16 bytes and a commitment of 32');
  }
  const start = writer.length;
  writer.u8(eventRecordVersion).u8(event.type).u32(0).u32(event.content.length);
  writer.u64big(event.contentXxh64).bytes(event.commitment);
  let flags = 0;
  if (event.key) {
    flags |= EventFlag.key;
    writer.string(event.key);
  }
  if (event.messageId) {
    flags |= EventFlag.messageId;
    writer.string(event.messageId);
  }
  if (event.subject) {
    flags |= EventFlag.subject;
    writer.string(event.subject);
  }
  if (event.actor) {
    flags |= EventFlag.actor;
    writer.string(event.actor);
  }
  if (event.targetSeq) {
    flags |= EventFlag.targetSeq;
    writer.uvarint(event.targetSeq);
  }
  if (event.keyReference) {
    flags |= EventFlag.keyReference;
    writer.uvarint(event.keyReference);
  }
  if (batchPosition > 0) {
    flags |= EventFlag.batchPosition;
    writer.uvarint(batchPosition);
  }
  if (event.usesBatchPosition) flags |= EventFlag.usesBatchPosition;
  const headerLength = writer.length - start;
  if (headerLength > 0xffff) throw new RangeError('the texts of an event header are too long');
  writer.patchU32(start + at.flags, flags + headerLength * 0x1_0000);
  writer.bytes(event.salt).bytes(event.content);
}

/** The header's first 10 bytes; then come checksum, commitment, and the fields of its flags. */
export function writeHeaderStart(
  target: Buffer,
  offset: number,
  type: EventType,
  flags: number,
  headerLength: number,
  contentLength: number,
): void {
  target[offset] = eventRecordVersion;
  target[offset + at.type] = type;
  target[offset + at.flags] = flags & 0xff;
  target[offset + at.flags + 1] = flags >>> 8;
  target[offset + at.headerLength] = headerLength & 0xff;
  target[offset + at.headerLength + 1] = headerLength >>> 8;
  target.writeUInt32LE(contentLength, offset + at.contentLength);
}

/** Where the header at `offset` has its commitment. */
export function commitmentPlace(offset: number): number {
  return offset + at.commitment;
}

/** Places and the few fields that applying needs; made without copying any content. */
export interface RecordSkim {
  readonly type: EventType;
  readonly flags: number;
  readonly headerOffset: number;
  readonly headerLength: number;
  /** Of the content part: the salt's first byte. */
  readonly contentOffset: number;
  /** Of the content part: salt and content. */
  readonly contentLength: number;
  readonly key: string | undefined;
  readonly messageId: string | undefined;
  readonly targetSeq: Seq;
  readonly batchPosition: number;
  /** First byte after the record. */
  end: number;
  /** Where a command has the 16 bytes of the key's digest, behind the record; 0: none. Set by who reads the command. */
  keyDigestOffset: number;
}

/**
 * Reads one record of `bytes` from `offset`, strictly: all that this version does
 * not write is a MalformedError. Texts within `maxTextBytes`; the content's
 * checksum is the caller's to verify.
 */
export function skimRecord(bytes: Buffer, offset: number, end: number, maxTextBytes: number): RecordSkim {
  if (offset + fixedHeaderBytes > end) throw new MalformedError('an event record is cut short');
  if (bytes[offset] !== eventRecordVersion) throw new MalformedError('an event record of another version');
  const type = bytes[offset + at.type] as number;
  if (type < 1 || type > highestType) throw new MalformedError(`event type ${type} is unknown`);
  const flags = bytes.readUInt16LE(offset + at.flags);
  if ((flags & ~knownFlags) !== 0) throw new MalformedError('an event record with unknown flags');
  if ((flags & EventFlag.erased) !== 0) throw new MalformedError('an erased event in an append');
  const headerLength = bytes.readUInt16LE(offset + at.headerLength);
  const contentLength = saltBytes + bytes.readUInt32LE(offset + at.contentLength);
  const contentOffset = offset + headerLength;
  if (headerLength < fixedHeaderBytes || contentOffset + contentLength > end) {
    throw new MalformedError('an event record is cut short');
  }
  let key: string | undefined;
  let messageId: string | undefined;
  let targetSeq = 0;
  let batchPosition = 0;
  const place = bytes[offset + fixedHeaderBytes] as number;
  if (
    (flags & fieldFlags) === EventFlag.batchPosition &&
    headerLength === fixedHeaderBytes + 1 &&
    place > 0 &&
    place < 0x80
  ) {
    // Nearly all records of batches: no reader for one byte.
    batchPosition = place;
  } else if ((flags & fieldFlags) !== 0) {
    const reader = new ByteReader(bytes, offset + fixedHeaderBytes, contentOffset);
    if ((flags & EventFlag.key) !== 0) key = shortText(reader, maxTextBytes);
    if ((flags & EventFlag.messageId) !== 0) messageId = shortText(reader, maxTextBytes);
    if ((flags & EventFlag.subject) !== 0) shortText(reader, maxTextBytes);
    if ((flags & EventFlag.actor) !== 0) shortText(reader, maxTextBytes);
    if ((flags & EventFlag.targetSeq) !== 0) targetSeq = positive(reader);
    if ((flags & EventFlag.keyReference) !== 0) positive(reader);
    if ((flags & EventFlag.batchPosition) !== 0) batchPosition = positive(reader);
    reader.end();
  } else if (headerLength !== fixedHeaderBytes) {
    throw new MalformedError('an event header with bytes too many');
  }
  return {
    type: type as EventType,
    flags,
    headerOffset: offset,
    headerLength,
    contentOffset,
    contentLength,
    key,
    messageId,
    targetSeq,
    batchPosition,
    end: contentOffset + contentLength,
    keyDigestOffset: 0,
  };
}

/** All that a header says, for readers. */
export interface EventHeader {
  readonly type: EventType;
  readonly flags: number;
  /** Without the salt; 0 where erased. */
  readonly contentLength: number;
  readonly contentXxh64: bigint;
  /** A view into the record. */
  readonly commitment: Buffer;
  readonly key: string;
  readonly messageId: string;
  readonly subject: string;
  readonly actor: string;
  readonly targetSeq: Seq;
  readonly keyReference: number;
  readonly batchPosition: number;
  readonly usesBatchPosition: boolean;
  readonly erased: boolean;
}

/**
 * Decodes the header at `offset`. Fields of flags that this version does not know
 * follow the known ones and are passed over. Throws MalformedError.
 */
export function decodeEventHeader(bytes: Uint8Array, offset: number, length: number): EventHeader {
  const reader = new ByteReader(bytes, offset, offset + length);
  const version = reader.u8();
  if (version !== eventRecordVersion) throw new MalformedError(`event record of version ${version}`);
  const type = reader.u8() as EventType;
  const flags = reader.u16();
  if (reader.u16() !== length) throw new MalformedError('an event header has another length');
  const has = (flag: number) => (flags & flag) !== 0;
  return {
    type,
    flags,
    contentLength: reader.u32(),
    contentXxh64: reader.u64big(),
    commitment: reader.bytes(commitmentBytes),
    key: has(EventFlag.key) ? reader.string() : '',
    messageId: has(EventFlag.messageId) ? reader.string() : '',
    subject: has(EventFlag.subject) ? reader.string() : '',
    actor: has(EventFlag.actor) ? reader.string() : '',
    targetSeq: has(EventFlag.targetSeq) ? reader.uvarint() : 0,
    keyReference: has(EventFlag.keyReference) ? reader.uvarint() : 0,
    batchPosition: has(EventFlag.batchPosition) ? reader.uvarint() : 0,
    usesBatchPosition: has(EventFlag.usesBatchPosition),
    erased: has(EventFlag.erased),
  };
}

/** Length of the header that begins at `offset`: headers one after another delimit themselves. */
export function headerLengthAt(bytes: Uint8Array, offset: number, end = bytes.length): number {
  if (offset + fixedHeaderBytes > end) throw new MalformedError('an event header is cut short');
  const length = u16(bytes, offset + at.headerLength);
  if (length < fixedHeaderBytes || offset + length > end) {
    throw new MalformedError('an event header is cut short');
  }
  return length;
}

/** Length of the content part (salt and content) that belongs to the header at `offset`; 0 where erased. */
export function contentPartLengthAt(bytes: Uint8Array, offset: number): number {
  if ((u16(bytes, offset + at.flags) & EventFlag.erased) !== 0) return 0;
  return (
    saltBytes + u16(bytes, offset + at.contentLength) + u16(bytes, offset + at.contentLength + 2) * 0x1_0000
  );
}

/** The event type in the header at `offset`. */
export function eventTypeAt(bytes: Uint8Array, offset: number): EventType {
  return bytes[offset + at.type] as EventType;
}

/** The flags (EventFlag) in the header at `offset`. */
export function eventFlagsAt(bytes: Uint8Array, offset: number): number {
  return u16(bytes, offset + at.flags);
}

/** Where the header at `offset` has the xxh64 of its content. */
export function contentXxh64Place(offset: number): number {
  return offset + at.contentXxh64;
}

/** xxh64 of the content, as the header at `offset` says. */
export function contentXxh64At(bytes: Buffer, offset: number): bigint {
  return bytes.readBigUInt64LE(offset + at.contentXxh64);
}

function u16(bytes: Uint8Array, offset: number): number {
  return (bytes[offset] as number) | ((bytes[offset + 1] as number) << 8);
}

function shortText(reader: ByteReader, maxBytes: number): string {
  const start = reader.position;
  const text = reader.string();
  const bytes = reader.position - start;
  // The length byte(s) are at most two here.
  if (text === '' || bytes > maxBytes + 2 || Buffer.byteLength(text) > maxBytes) {
    throw new MalformedError('a text of an event header is empty or too long');
  }
  return text;
}

/** Zero is written by leaving the field out, so that equal events are equal bytes. */
function positive(reader: ByteReader): number {
  const value = reader.uvarint();
  if (value === 0) throw new MalformedError('a field of an event header is 0');
  return value;
}
