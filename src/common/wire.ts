/**
 * The protobuf wire format by hand, for what travels too often for objects.
 * A WireReader walks fields in place; the write functions fill a buffer whose
 * size was computed before.
 */
import { MalformedError } from './bytes.js';
import { varintSize, writeVarint } from './varint.js';

export { varintSize, writeVarint } from './varint.js';

export const Wire = { varint: 0, fixed64: 1, bytes: 2, groupStart: 3, groupEnd: 4, fixed32: 5 } as const;

/** Groups are a relic; a reader that follows them without end runs out of stack. */
const groupDepthMax = 16;

/**
 * Walks the fields of one message in `bytes`. After `next()`, `field` and `wire`
 * name the field, and one of `varint`, `sized`, `fixed64` or `skip` must take it.
 * Throws MalformedError.
 */
export class WireReader {
  field = 0;
  wire = 0;
  position: number;
  /** Of the field taken by `sized`: its bytes are [start, position). */
  start = 0;
  end: number;
  bytes: Buffer;

  constructor(bytes: Buffer, from = 0, to = bytes.length) {
    this.bytes = bytes;
    this.position = from;
    this.end = to;
  }

  /** Another stretch, to use one reader many times. */
  reset(bytes: Buffer, from: number, to: number): this {
    this.bytes = bytes;
    this.position = from;
    this.end = to;
    return this;
  }

  /** False at the end of the message. */
  next(): boolean {
    if (this.position >= this.end) return false;
    const tag = this.varint();
    if (tag > 0xffff_ffff) throw new MalformedError(`field number out of range at byte ${this.position}`);
    this.wire = tag & 7;
    this.field = tag >>> 3;
    if (this.field === 0) throw new MalformedError(`field number 0 at byte ${this.position}`);
    return true;
  }

  /** Exact up to 2^53; above it the value is rounded and above Number.MAX_SAFE_INTEGER. */
  varint(): number {
    const bytes = this.bytes;
    let at = this.position;
    if (at >= this.end) throw new MalformedError(`cut short at byte ${at}`);
    let byte = bytes[at++] as number;
    if (byte < 0x80) {
      this.position = at;
      return byte;
    }
    let value = byte & 0x7f;
    // In whole numbers while they last, see ByteReader.uvarint.
    for (let shift = 7; shift < 28; shift += 7) {
      if (at >= this.end) throw new MalformedError(`cut short at byte ${at}`);
      byte = bytes[at++] as number;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) {
        this.position = at;
        return value;
      }
    }
    return this.#longVarint(at, value);
  }

  /** From its fifth byte on. */
  #longVarint(from: number, low: number): number {
    let at = from;
    let value = low;
    let scale = 2 ** 28;
    for (let i = 4; i < 10; i++) {
      if (at >= this.end) throw new MalformedError(`cut short at byte ${at}`);
      const byte = this.bytes[at++] as number;
      // The tenth byte holds the 64th bit alone.
      if (i === 9 && byte > 1) break;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        this.position = at;
        return value;
      }
      scale *= 0x80;
    }
    throw new MalformedError(`varint out of range at byte ${at}`);
  }

  /** Takes a length-delimited field: its bytes are [start, position) of `bytes`. */
  sized(): void {
    const length = this.varint();
    this.start = this.position;
    if (length > this.end - this.position) throw new MalformedError(`cut short at byte ${this.position}`);
    this.position += length;
  }

  fixed64(): bigint {
    const at = this.position;
    if (at + 8 > this.end) throw new MalformedError(`cut short at byte ${at}`);
    this.position = at + 8;
    return this.bytes.readBigUInt64LE(at);
  }

  skip(): void {
    this.#skip(groupDepthMax);
  }

  #skip(depth: number): void {
    switch (this.wire) {
      case Wire.varint:
        this.varint();
        return;
      case Wire.fixed64:
        this.#advance(8);
        return;
      case Wire.bytes:
        this.sized();
        return;
      case Wire.fixed32:
        this.#advance(4);
        return;
      case Wire.groupStart: {
        if (depth === 0) throw new MalformedError(`groups nest too deep at byte ${this.position}`);
        const group = this.field;
        while (this.next()) {
          const wire: number = this.wire;
          if (wire !== Wire.groupEnd) this.#skip(depth - 1);
          else if (this.field === group) return;
          else break;
        }
        throw new MalformedError(`a group does not end at byte ${this.position}`);
      }
      default:
        throw new MalformedError(`wire type ${this.wire} at byte ${this.position}`);
    }
  }

  #advance(length: number): void {
    if (this.position + length > this.end) throw new MalformedError(`cut short at byte ${this.position}`);
    this.position += length;
  }
}

/** Up to about so many a loop is quicker than Buffer's copy. */
export const fewBytes = 48;

/** Copies a few bytes. */
export function copyFew(
  target: Uint8Array,
  at: number,
  source: Uint8Array,
  from: number,
  to: number,
): number {
  let place = at;
  for (let i = from; i < to; i++) target[place++] = source[i] as number;
  return place;
}

/** Copies many: `set` of a plain view costs two thirds of Buffer's copy. */
export function copyMany(
  target: Uint8Array,
  at: number,
  source: Uint8Array,
  from: number,
  to: number,
): number {
  target.set(new Uint8Array(source.buffer, source.byteOffset + from, to - from), at);
  return at + to - from;
}

/** A field whose tag is one byte (number up to 15); a value of 0 is left out, as proto3 does. */
export function varintFieldSize(value: number): number {
  return value === 0 ? 0 : 1 + varintSize(value);
}

/** Each write function returns the place after what it wrote. */
export function writeVarintField(target: Buffer, at: number, tag: number, value: number): number {
  if (value === 0) return at;
  target[at] = tag;
  return writeVarint(target, at + 1, value);
}

/** Timestamp of whole microseconds ≥ 0: the encoded size of the message itself. */
export function timestampSize(timeUs: number): number {
  const seconds = Math.floor(timeUs / 1e6);
  return varintFieldSize(seconds) + varintFieldSize((timeUs - seconds * 1e6) * 1000);
}

export function writeTimestamp(target: Buffer, at: number, timeUs: number): number {
  const seconds = Math.floor(timeUs / 1e6);
  const place = writeVarintField(target, at, 0x08, seconds);
  return writeVarintField(target, place, 0x10, (timeUs - seconds * 1e6) * 1000);
}
