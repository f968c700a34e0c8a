/**
 * Protocol Buffers' wire format by hand: the hot path makes no object per
 * message. `BackWriter` writes from the end to the front, so that the length of
 * a nested message is known when its tag is written, with no second pass and no
 * copy; fields are therefore written in falling order.
 */
import { HansardError } from '../common/errors.js';

/** Thrown by ProtoReader on bytes that are not a valid message. */
export class WireError extends Error {
  override readonly name = 'WireError';
}

// In Node since 20, in TypeScript's library only from es2024.
const isWellFormed = (String.prototype as unknown as { isWellFormed(this: string): boolean }).isWellFormed;

/** A lone surrogate has no UTF-8; Buffer would write U+FFFD in silence. */
export function requireWellFormed(text: string, field: string): void {
  if (isWellFormed.call(text)) return;
  throw new HansardError('INVALID_UTF8', `${field} holds a lone surrogate`, { field });
}

export class BackWriter {
  #buffer: Buffer;
  /** First byte written; what was written is #at … end. */
  #at: number;
  constructor(initialBytes = 64 * 1024) {
    this.#buffer = Buffer.allocUnsafeSlow(initialBytes);
    this.#at = initialBytes;
  }
  /** Bytes written so far: also a mark, for `nested` and `view`. */
  get length(): number {
    return this.#buffer.length - this.#at;
  }
  reset(): void {
    // One huge message must not pin its buffer for ever.
    if (this.#buffer.length > 4 * 1024 * 1024) this.#buffer = Buffer.allocUnsafeSlow(64 * 1024);
    this.#at = this.#buffer.length;
  }
  /** What was written since `mark`; valid until the next write. */
  view(mark = 0): Buffer {
    return this.#buffer.subarray(this.#at, this.#buffer.length - mark);
  }
  copy(mark = 0): Buffer {
    return Buffer.from(this.view(mark));
  }

  /** Closes a length-delimited field whose bytes were written since `mark`. */
  nested(field: number, mark: number): void {
    this.varint(this.length - mark);
    this.tag(field, 2);
  }
  string(field: number, value: string | undefined): void {
    if (value !== undefined && value !== '') this.stringAlways(field, value);
  }
  /** Also where empty: members of a oneof. */
  stringAlways(field: number, value: string): void {
    requireWellFormed(value, `field ${field}`);
    const length = Buffer.byteLength(value);
    this.#room(length + 16);
    this.#at -= length;
    this.#buffer.write(value, this.#at, length, 'utf8');
    this.varint(length);
    this.tag(field, 2);
  }
  bytes(field: number, value: Uint8Array | undefined): void {
    if (value !== undefined && value.length > 0) this.bytesAlways(field, value);
  }
  bytesAlways(field: number, value: Uint8Array): void {
    this.raw(value);
    this.varint(value.length);
    this.tag(field, 2);
  }
  raw(value: Uint8Array): void {
    this.#room(value.length);
    this.#at -= value.length;
    this.#buffer.set(value, this.#at);
  }
  uint(field: number, value: number | bigint | undefined): void {
    if (value !== undefined && value !== 0 && value !== 0n) this.uintAlways(field, value);
  }
  uintAlways(field: number, value: number | bigint): void {
    if (typeof value === 'bigint') this.#varintBig(requireUint64(value, field));
    else this.varint(requireUint(value, field));
    this.tag(field, 0);
  }
  /** int32 and int64, negative in ten bytes. */
  int(field: number, value: number): void {
    if (value === 0) return;
    if (!Number.isSafeInteger(value)) throw badNumber(value, field);
    if (value < 0) this.#varintBig(BigInt.asUintN(64, BigInt(value)));
    else this.varint(value);
    this.tag(field, 0);
  }
  bool(field: number, value: boolean | undefined): void {
    if (value !== true) return;
    this.varint(1);
    this.tag(field, 0);
  }
  fixed64(field: number, value: bigint): void {
    if (value === 0n) return;
    this.#room(16);
    this.#at -= 8;
    this.#buffer.writeBigUInt64LE(value, this.#at);
    this.tag(field, 1);
  }
  tag(field: number, wireType: number): void {
    this.varint(field * 8 + wireType);
  }
  varint(value: number): void {
    if (value < 0x80) {
      this.#room(1);
      this.#buffer[--this.#at] = value;
      return;
    }
    const size = varintSize(value);
    this.#room(size);
    this.#at -= size;
    putVarint(this.#buffer, this.#at, value);
  }
  #varintBig(value: bigint): void {
    let size = 1;
    for (let rest = value >> 7n; rest > 0n; rest >>= 7n) size++;
    this.#room(size);
    this.#at -= size;
    let at = this.#at;
    let rest = value;
    for (; rest >= 0x80n; rest >>= 7n) this.#buffer[at++] = Number(rest & 0x7fn) | 0x80;
    this.#buffer[at] = Number(rest);
  }
  #room(size: number): void {
    if (size <= this.#at) return;
    const used = this.length;
    const grown = Buffer.allocUnsafeSlow(Math.max(this.#buffer.length * 2, used + size));
    this.#buffer.copy(grown, grown.length - used, this.#at);
    this.#at = grown.length - used;
    this.#buffer = grown;
  }
}

export function varintSize(value: number): number {
  let size = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) size++;
  return size;
}

/** Writes a non-negative safe integer; returns the place behind it. */
export function putVarint(buffer: Uint8Array, at: number, value: number): number {
  let rest = value;
  let place = at;
  while (rest >= 0x80) {
    buffer[place++] = (rest % 0x80) | 0x80;
    rest = Math.floor(rest / 0x80);
  }
  buffer[place++] = rest;
  return place;
}

/** Reads one message; every length is checked before it is used. */
export class ProtoReader {
  readonly #bytes: Buffer;
  #at: number;
  #end: number;
  #tag = 0;
  constructor(bytes: Uint8Array, from = 0, to = bytes.length) {
    this.#bytes = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#at = from;
    this.#end = to;
  }
  /**
   * The next field's tag (field × 8 + wire type); 0 at the end. A field that
   * comes with another wire type than expected is thus an unknown one, as
   * protobuf wants it.
   */
  next(): number {
    if (this.#at >= this.#end) return 0;
    const tag = this.uint();
    if (tag < 8 || tag > 0xffffffff) throw new WireError(`bad tag at byte ${this.#at}`);
    this.#tag = tag;
    return tag;
  }
  get atEnd(): boolean {
    return this.#at >= this.#end;
  }
  /** Passes over the value of the field whose tag `next` returned. */
  skip(): void {
    const wireType = this.#tag & 7;
    if (wireType === 0) this.#varint64();
    else if (wireType === 1) this.#take(8);
    else if (wireType === 2) this.#take(this.uint());
    else if (wireType === 5) this.#take(4);
    else throw new WireError(`wire type ${wireType} at byte ${this.#at}`);
  }
  /** A varint that must be a safe integer. */
  uint(): number {
    const first = this.#bytes[this.#at] as number;
    if (this.#at < this.#end && first < 0x80) {
      this.#at++;
      return first;
    }
    const value = this.#varint64();
    if (typeof value === 'bigint') throw new WireError(`number beyond 2^53 at byte ${this.#at}`);
    return value;
  }
  uint64(): number | bigint {
    return this.#varint64();
  }
  /** int32 or int64. */
  int(): number {
    const value = this.#varint64();
    if (typeof value === 'number') return value;
    const signed = Number(BigInt.asIntN(64, value));
    if (!Number.isSafeInteger(signed)) throw new WireError(`number beyond 2^53 at byte ${this.#at}`);
    return signed;
  }
  bool(): boolean {
    return this.#varint64() !== 0;
  }
  fixed64(): bigint {
    return this.#bytes.readBigUInt64LE(this.#take(8));
  }
  string(): string {
    const length = this.uint();
    const at = this.#take(length);
    return this.#bytes.toString('utf8', at, at + length);
  }
  /** A view, not a copy. */
  view(): Buffer {
    const length = this.uint();
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }
  /** A copy: what outlives the turn must not pin the frame. */
  bytes(): Buffer {
    return Buffer.from(this.view());
  }
  /** Reads a nested message in place. */
  message<T>(read: (reader: ProtoReader) => T): T {
    const length = this.uint();
    const at = this.#take(length);
    const outerEnd = this.#end;
    const outerAt = this.#at;
    this.#at = at;
    this.#end = at + length;
    const value = read(this);
    this.#at = outerAt;
    this.#end = outerEnd;
    return value;
  }
  #take(length: number): number {
    const at = this.#at;
    if (at + length > this.#end) throw new WireError(`cut short at byte ${at}`);
    this.#at = at + length;
    return at;
  }
  #varint64(): number | bigint {
    let low = 0;
    let scale = 1;
    for (let i = 0; i < 7; i++) {
      const byte = this.#bytes[this.#take(1)] as number;
      low += (byte & 0x7f) * scale;
      if (byte < 0x80) return low;
      scale *= 0x80;
    }
    // 49 bits read; the rest needs care beyond 2^53.
    let high = 0n;
    for (let i = 0; i < 3; i++) {
      const byte = this.#bytes[this.#take(1)] as number;
      high |= BigInt(byte & 0x7f) << BigInt(7 * i);
      if (byte < 0x80) {
        const value = BigInt.asUintN(64, BigInt(low) | (high << 49n));
        return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
      }
    }
    throw new WireError(`varint longer than ten bytes at byte ${this.#at}`);
  }
}

function requireUint(value: number, field: number): number {
  if (!Number.isSafeInteger(value) || value < 0) throw badNumber(value, field);
  return value;
}

function requireUint64(value: bigint, field: number): bigint {
  if (value < 0n || value > 0xffff_ffff_ffff_ffffn) throw badNumber(value, field);
  return value;
}

function badNumber(value: number | bigint, field: number): HansardError {
  return new HansardError('INVALID_ARGUMENT', `field ${field} can't hold ${value}`, {
    field: String(field),
    problem: 'not a whole number in range',
  });
}
