/**
 * Answers of the hot methods, written by hand from stored records: sizes first,
 * then one allocation. The texts and numbers of a record's header have protobuf's
 * own form (varint, or varint length and bytes), and are copied as they lie.
 */
import type { NodeId, PartitionId } from '../common/ids.js';
import {
  copyFew,
  copyMany,
  timestampSize,
  varintFieldSize,
  varintSize,
  writeTimestamp,
  writeVarint,
  writeVarintField,
} from '../common/wire.js';
import {
  commitmentBytes,
  EventFlag,
  eventFlagsAt,
  eventTypeAt,
  fixedHeaderBytes,
  saltBytes,
} from '../conversation/event-record.js';
import type { Appended, StoredEvent } from '../conversation/types.js';
import type { LateResponse } from './calls.js';
import { holdsMessage } from './skim.js';

/** Flags of a record's header in the order of their fields, and the tag of each in Event. */
const headerFields: readonly { flag: number; tag: number; tagBytes: number; sized: boolean }[] = [
  { flag: EventFlag.key, tag: tagOf(13, 2), tagBytes: 1, sized: true },
  { flag: EventFlag.messageId, tag: tagOf(12, 2), tagBytes: 1, sized: true },
  { flag: EventFlag.subject, tag: tagOf(7, 2), tagBytes: 1, sized: true },
  { flag: EventFlag.actor, tag: tagOf(6, 2), tagBytes: 1, sized: true },
  { flag: EventFlag.targetSeq, tag: tagOf(8, 0), tagBytes: 1, sized: false },
  { flag: EventFlag.keyReference, tag: tagOf(14, 0), tagBytes: 1, sized: false },
  { flag: EventFlag.batchPosition, tag: tagOf(16, 0), tagBytes: 2, sized: false },
];
const fieldFlags = headerFields.reduce((all, field) => all | field.flag, 0);
const messageTag = tagOf(20, 2);
const rawTag = tagOf(21, 2);

function tagOf(field: number, wire: number): number {
  return (field << 3) | wire;
}

/** Who served a read; ServedBy. */
export interface Served {
  readonly nodeId: NodeId;
  readonly role: 'primary' | 'secondary' | 'learner';
  readonly partition: PartitionId;
  readonly appliedIndex: number;
  /** At most so far behind; undefined: not known. */
  readonly stalenessMs: number | undefined;
  /** "At least what this answer saw", for later reads. */
  readonly commitToken: Buffer;
}

export const roleNumber = { primary: 1, secondary: 2, learner: 3 } as const;

/** Bytes of the encoded Event. */
export function eventSize(event: StoredEvent): number {
  const bytes = event.bytes;
  const header = event.headerOffset;
  const flags = eventFlagsAt(bytes, header);
  const erased = (flags & EventFlag.erased) !== 0;
  // type (2), checksum (9), commitment (2 + 32)
  let size = varintFieldSize(event.seq) + 2 + 9 + 2 + commitmentBytes;
  const time = timestampSize(event.commitTimeUs);
  size += 1 + varintSize(time) + time;
  size += varintFieldSize(event.producerId) + varintFieldSize(event.producerCounter);
  if ((flags & fieldFlags) !== 0) {
    let place = header + fixedHeaderBytes;
    for (const field of headerFields) {
      if ((flags & field.flag) === 0) continue;
      const end = fieldEnd(bytes, place, field.sized);
      size += field.tagBytes + end - place;
      place = end;
    }
  }
  if (erased) return size + 2;
  const content = event.contentLength - saltBytes;
  return size + 2 + saltBytes + 2 + varintSize(content) + content;
}

/** Writes the Event of `eventSize` bytes; gives the place after it. */
export function writeEvent(target: Buffer, start: number, event: StoredEvent): number {
  const bytes = event.bytes;
  const header = event.headerOffset;
  const flags = eventFlagsAt(bytes, header);
  const type = eventTypeAt(bytes, header);
  let at = writeVarintField(target, start, 0x08, event.seq);
  target[at++] = 0x10;
  target[at++] = type;
  target[at++] = 0x1a;
  at = writeVarint(target, at, timestampSize(event.commitTimeUs));
  at = writeTimestamp(target, at, event.commitTimeUs);
  at = writeVarintField(target, at, 0x20, event.producerId);
  at = writeVarintField(target, at, 0x28, event.producerCounter);
  target[at++] = 0x49;
  const fixedEnd = header + fixedHeaderBytes;
  const commitment = fixedEnd - commitmentBytes;
  // Little-endian there as here.
  at = copyFew(target, at, bytes, commitment - 8, commitment);
  target[at++] = 0x52;
  target[at++] = commitmentBytes;
  at = copyFew(target, at, bytes, commitment, fixedEnd);
  if ((flags & fieldFlags) !== 0) at = writeHeaderFields(target, at, bytes, fixedEnd, flags);
  if ((flags & EventFlag.erased) !== 0) {
    target[at++] = 0x78;
    target[at++] = 1;
    return at;
  }
  const { contentBytes } = event;
  const salt = event.contentOffset;
  target[at++] = 0x5a;
  target[at++] = saltBytes;
  at = copyFew(target, at, contentBytes, salt, salt + saltBytes);
  at = writeVarint(target, at, holdsMessage(type) ? messageTag : rawTag);
  at = writeVarint(target, at, event.contentLength - saltBytes);
  return copyMany(target, at, contentBytes, salt + saltBytes, salt + event.contentLength);
}

function writeHeaderFields(
  target: Buffer,
  start: number,
  header: Uint8Array,
  from: number,
  flags: number,
): number {
  let at = start;
  let place = from;
  for (const field of headerFields) {
    if ((flags & field.flag) === 0) continue;
    at = writeVarint(target, at, field.tag);
    const end = fieldEnd(header, place, field.sized);
    at = copyFew(target, at, header, place, end);
    place = end;
  }
  return at;
}

/** Byte after the header field at `place`; later versions may have more fields behind those known here. */
function fieldEnd(header: Uint8Array, place: number, sized: boolean): number {
  let end = place;
  while ((header[end] as number) >= 0x80) end++;
  end++;
  if (!sized) return end;
  // Texts of a header have at most 128 bytes: their length has one byte or two.
  const first = header[place] as number;
  return end + (first < 0x80 ? first : (first & 0x7f) + (header[place + 1] as number) * 0x80);
}

export function encodeGetMessage(event: StoredEvent, served: Served): Buffer {
  const size = eventSize(event);
  const from = servedSize(served);
  const target = Buffer.allocUnsafe(2 + varintSize(size) + size + varintSize(from) + from);
  target[0] = 0x0a;
  let at = writeVarint(target, 1, size);
  at = writeEvent(target, at, event);
  writeServed(target, at, 0x12, served, from);
  return target;
}

/** Field 1, repeated: what is encoded of other fields may follow. */
export function encodeEvents(events: readonly StoredEvent[]): Buffer {
  const sizes = events.map(eventSize);
  const target = Buffer.allocUnsafe(sizes.reduce((sum, size) => sum + 1 + varintSize(size) + size, 0));
  let at = 0;
  for (const [i, event] of events.entries()) {
    target[at++] = 0x0a;
    at = writeVarint(target, at, sizes[i] as number);
    at = writeEvent(target, at, event);
  }
  return target;
}

/** An event, or the number of an Absence. */
export type BatchGetResult = StoredEvent | number;

export function encodeBatchGet(results: readonly BatchGetResult[], served: Served): Buffer {
  const sizes = results.map((result) => (typeof result === 'number' ? 0 : eventSize(result)));
  const inner = (i: number): number => {
    const size = sizes[i] as number;
    return typeof results[i] === 'number' ? 2 : 1 + varintSize(size) + size;
  };
  const from = servedSize(served);
  let total = 1 + varintSize(from) + from;
  for (let i = 0; i < results.length; i++) total += 1 + varintSize(inner(i)) + inner(i);
  const target = Buffer.allocUnsafe(total);
  let at = 0;
  for (const [i, result] of results.entries()) {
    target[at++] = 0x0a;
    at = writeVarint(target, at, inner(i));
    if (typeof result === 'number') {
      target[at++] = 0x10;
      target[at++] = result;
      continue;
    }
    target[at++] = 0x0a;
    at = writeVarint(target, at, sizes[i] as number);
    at = writeEvent(target, at, result);
  }
  writeServed(target, at, 0x12, served, from);
  return target;
}

/** A page as it was read, without who answered. */
export class EncodedPage {
  /** Bytes. */
  readonly length: number;
  readonly #sizes: number[];
  /** In the answer's order. */
  #events: readonly StoredEvent[];
  #bytes: Buffer | undefined;

  constructor(
    events: readonly StoredEvent[],
    readonly nextPageToken: string,
    readonly headSeq: number,
    readonly channelUid: string,
  ) {
    const sizes = new Array<number>(events.length);
    let total = varintFieldSize(headSeq);
    for (let i = 0; i < events.length; i++) {
      const size = eventSize(events[i] as StoredEvent);
      sizes[i] = size;
      total += 1 + varintSize(size) + size;
    }
    // Tokens and uids are ASCII.
    if (nextPageToken !== '') total += 1 + varintSize(nextPageToken.length) + nextPageToken.length;
    if (channelUid !== '') total += 1 + varintSize(channelUid.length) + channelUid.length;
    this.length = total;
    this.#sizes = sizes;
    this.#events = events;
  }

  /** It goes into several answers: encoded once for all of them, and its events are let go. */
  share(): this {
    if (this.#bytes === undefined) {
      const bytes = Buffer.allocUnsafeSlow(this.length);
      this.writeTo(bytes, 0);
      this.#bytes = bytes;
      this.#events = [];
    }
    return this;
  }

  writeTo(target: Buffer, start: number): number {
    if (this.#bytes !== undefined) return start + this.#bytes.copy(target, start);
    const events = this.#events;
    let at = start;
    for (let i = 0; i < events.length; i++) {
      target[at++] = 0x0a;
      at = writeVarint(target, at, this.#sizes[i] as number);
      at = writeEvent(target, at, events[i] as StoredEvent);
    }
    at = writeAscii(target, at, 0x12, this.nextPageToken);
    at = writeVarintField(target, at, 0x18, this.headSeq);
    return writeAscii(target, at, 0x2a, this.channelUid);
  }
}

/** ListMessagesResponse: the page, and who answered. */
export class PageAnswer implements LateResponse {
  readonly length: number;
  readonly #page: EncodedPage;
  readonly #served: Served;
  readonly #servedBytes: number;

  constructor(page: EncodedPage, served: Served) {
    this.#page = page;
    this.#served = served;
    this.#servedBytes = servedSize(served);
    this.length = page.length + 1 + varintSize(this.#servedBytes) + this.#servedBytes;
  }

  writeTo(target: Buffer, at: number): number {
    return writeServed(target, this.#page.writeTo(target, at), 0x22, this.#served, this.#servedBytes);
  }
}

export function encodeAppended(answer: Appended, commitToken: Buffer): Buffer {
  const { seqs, channelUid } = answer;
  const firstSeq = seqs === undefined ? answer.firstSeq : 0;
  const time = timestampSize(answer.commitTimeUs);
  let packed = 0;
  for (const seq of seqs ?? []) packed += varintSize(seq);
  let size = varintFieldSize(firstSeq) + varintFieldSize(answer.count) + 1 + varintSize(time) + time;
  size += 1 + varintSize(commitToken.length) + commitToken.length + (answer.duplicate ? 2 : 0);
  if (packed > 0) size += 1 + varintSize(packed) + packed;
  if (channelUid !== '') size += 1 + varintSize(channelUid.length) + channelUid.length;
  const target = Buffer.allocUnsafe(size);
  let at = writeVarintField(target, 0, 0x08, firstSeq);
  at = writeVarintField(target, at, 0x10, answer.count);
  target[at++] = 0x1a;
  at = writeVarint(target, at, time);
  at = writeTimestamp(target, at, answer.commitTimeUs);
  target[at++] = 0x22;
  at = writeVarint(target, at, commitToken.length);
  for (let i = 0; i < commitToken.length; i++) target[at++] = commitToken[i] as number;
  if (answer.duplicate) {
    target[at++] = 0x28;
    target[at++] = 1;
  }
  if (packed > 0) {
    target[at++] = 0x32;
    at = writeVarint(target, at, packed);
    for (const seq of seqs ?? []) at = writeVarint(target, at, seq);
  }
  writeAscii(target, at, 0x3a, channelUid);
  return target;
}

export function servedSize(served: Served): number {
  const { stalenessMs, commitToken } = served;
  let size = varintFieldSize(served.nodeId) + 2 + varintFieldSize(served.partition);
  size += varintFieldSize(served.appliedIndex) + 2 + commitToken.length;
  if (stalenessMs !== undefined) size += 2 + timestampSize(stalenessUs(stalenessMs));
  return size;
}

export function writeServed(
  target: Buffer,
  start: number,
  tag: number,
  served: Served,
  size: number,
): number {
  const { stalenessMs, commitToken } = served;
  let at = start;
  target[at++] = tag;
  at = writeVarint(target, at, size);
  at = writeVarintField(target, at, 0x08, served.nodeId);
  target[at++] = 0x10;
  target[at++] = roleNumber[served.role];
  at = writeVarintField(target, at, 0x18, served.partition);
  at = writeVarintField(target, at, 0x20, served.appliedIndex);
  if (stalenessMs !== undefined) {
    // A Duration has a Timestamp's fields; both have less than 128 bytes.
    target[at++] = 0x2a;
    target[at++] = timestampSize(stalenessUs(stalenessMs));
    at = writeTimestamp(target, at, stalenessUs(stalenessMs));
  }
  // A token of one position has at most 64 bytes.
  target[at++] = 0x32;
  target[at++] = commitToken.length;
  return copyFew(target, at, commitToken, 0, commitToken.length);
}

/** Rounded up: it is a bound. */
function stalenessUs(ms: number): number {
  return Math.ceil(ms * 1_000);
}

/** The same as proto-loader encodes it. */
export function servedMessage(served: Served): object {
  const { nodeId, role, partition, appliedIndex, stalenessMs, commitToken } = served;
  const us = stalenessMs === undefined ? 0 : stalenessUs(stalenessMs);
  const seconds = Math.floor(us / 1e6);
  return {
    node_id: nodeId,
    role: roleNumber[role],
    partition,
    applied_index: appliedIndex,
    staleness: stalenessMs === undefined ? null : { seconds, nanos: (us - seconds * 1e6) * 1000 },
    commit_token: commitToken,
  };
}

export function writeAscii(target: Buffer, start: number, tag: number, text: string): number {
  if (text === '') return start;
  target[start] = tag;
  let at = writeVarint(target, start + 1, text.length);
  // A uid's 17 characters by hand: a tenth of the way into the runtime.
  for (let i = 0; i < text.length; i++) target[at++] = text.charCodeAt(i);
  return at;
}
