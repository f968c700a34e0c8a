/**
 * Reading and writing our own binary formats. Little-endian; `uvarint` is
 * LEB128 up to 2^53 - 1. A reader checks every length against what is left
 * before it allocates or loops.
 */
import type { HansardError } from './errors.js';
import { writeVarint } from './varint.js';

// ignoreBOM: a leading U+FEFF is text like any other; names and keys must survive byte for byte.
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Up to here a loop over the bytes beats the runtime's own functions; also one byte of uvarint. */
const shortTextLength = 64;

/** Names that were read lately, each at the place that its bytes' hash gives; a power of two. */
const namesKept = 8192;
const names: string[] = new Array<string>(namesKept).fill('');

/**
 * A number of two halves of 32 bits. Not multiplied where the upper one is 0: V8 makes a boxed double of a product that may
 * be large, however small it is, and so of every field that such a number is ever stored in, for the life of the process:
 * terms, indexes and counters of consensus were objects of their own in each message.
 */
export function ofHalves(low: number, high: number): number {
  return high === 0 ? low : low + high * 0x1_0000_0000;
}

/** In memory of its own: a Buffer's own `slice` is a view. */
export function ownCopy(bytes: Uint8Array): Uint8Array {
  return Uint8Array.prototype.slice.call(bytes);
}

/** Six bytes, little-endian; see `ofHalves`. */
export function readU48(bytes: Buffer, at: number): number {
  return ofHalves(bytes.readUInt32LE(at), bytes.readUInt16LE(at + 4));
}

/** Thrown by ByteReader; callers turn it into the refusal or damage that it means there. */
export class MalformedError extends Error {
  override readonly name = 'MalformedError';
}

/** Grows as needed; `finish` hands out the bytes written, not shared with anyone unless pooled. */
export class ByteWriter {
  #buffer: Buffer;
  #at = 0;
  /**
   * `pooled`: a small buffer shares memory with others (0.3 µs instead of 3); only
   * for what is copied soon and never transferred to another thread.
   */
  constructor(initialBytes = 256, pooled: 'own' | 'pooled' = 'own') {
    this.#buffer =
      pooled === 'pooled' ? Buffer.allocUnsafe(initialBytes) : Buffer.allocUnsafeSlow(initialBytes);
  }
  get length(): number {
    return this.#at;
  }
  u8(value: number): this {
    this.#room(1);
    this.#buffer[this.#at++] = value;
    return this;
  }
  u16(value: number): this {
    this.#room(2);
    this.#at = this.#buffer.writeUInt16LE(value, this.#at);
    return this;
  }
  u32(value: number): this {
    this.#room(4);
    this.#at = this.#buffer.writeUInt32LE(value, this.#at);
    return this;
  }
  /** A non-negative safe integer in eight bytes. */
  u64(value: number): this {
    this.#room(8);
    this.#buffer.writeUInt32LE(value % 0x1_0000_0000, this.#at);
    this.#buffer.writeUInt32LE(Math.floor(value / 0x1_0000_0000), this.#at + 4);
    this.#at += 8;
    return this;
  }
  u64big(value: bigint): this {
    this.#room(8);
    this.#at = this.#buffer.writeBigUInt64LE(value, this.#at);
    return this;
  }
  uvarint(value: number): this {
    this.#room(10);
    this.#at = writeVarint(this.#buffer, this.#at, value);
    return this;
  }
  bytes(value: Uint8Array): this {
    this.#room(value.length);
    this.#buffer.set(value, this.#at);
    this.#at += value.length;
    return this;
  }
  /** uvarint length, then the bytes. */
  sized(value: Uint8Array): this {
    return this.uvarint(value.length).bytes(value);
  }
  /** uvarint length in bytes, then UTF-8. */
  string(value: string): this {
    if (value.length <= shortTextLength && this.#shortAscii(value)) return this;
    const length = Buffer.byteLength(value);
    this.uvarint(length);
    this.#room(length);
    this.#at += this.#buffer.write(value, this.#at, 'utf8');
    return this;
  }
  /** Overwrites four bytes written before (a length or checksum known later). */
  patchU32(at: number, value: number): this {
    this.#buffer.writeUInt32LE(value, at);
    return this;
  }
  patchU64big(at: number, value: bigint): this {
    this.#buffer.writeBigUInt64LE(value, at);
    return this;
  }
  /** What was written so far, for a checksum; valid until the next write. */
  view(from = 0, to = this.#at): Buffer {
    return this.#buffer.subarray(from, to);
  }
  /** Forgets what was written from `length` on (material for a digest only). */
  truncate(length: number): this {
    if (length < this.#at) this.#at = length;
    return this;
  }
  finish(): Buffer {
    return this.#buffer.subarray(0, this.#at);
  }
  /** Short ASCII texts (names, ids) without the way into the runtime: 30 ns instead of 150. */
  #shortAscii(value: string): boolean {
    const { length } = value;
    this.#room(length + 1);
    const buffer = this.#buffer;
    const start = this.#at + 1;
    for (let i = 0; i < length; i++) {
      const char = value.charCodeAt(i);
      if (char >= 0x80) return false;
      buffer[start + i] = char;
    }
    buffer[this.#at] = length;
    this.#at = start + length;
    return true;
  }
  #room(size: number): void {
    if (this.#at + size <= this.#buffer.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(this.#buffer.length * 2, this.#at + size));
    this.#buffer.copy(grown, 0, 0, this.#at);
    this.#buffer = grown;
  }
}

/** Throws MalformedError on anything that does not fit. */
export class ByteReader {
  readonly #bytes: Buffer;
  #at: number;
  readonly #end: number;
  constructor(bytes: Uint8Array, from = 0, to = bytes.length) {
    this.#bytes = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#at = from;
    this.#end = to;
  }
  get position(): number {
    return this.#at;
  }
  get remaining(): number {
    return this.#end - this.#at;
  }
  u8(): number {
    return this.#bytes[this.#take(1)] as number;
  }
  u16(): number {
    return this.#bytes.readUInt16LE(this.#take(2));
  }
  u32(): number {
    return this.#bytes.readUInt32LE(this.#take(4));
  }
  u64(): number {
    const at = this.#take(8);
    const value = ofHalves(this.#bytes.readUInt32LE(at), this.#bytes.readUInt32LE(at + 4));
    if (value > Number.MAX_SAFE_INTEGER) throw new MalformedError(`number out of range at byte ${at}`);
    return value;
  }
  u64big(): bigint {
    return this.#bytes.readBigUInt64LE(this.#take(8));
  }
  uvarint(): number {
    let byte = this.u8();
    if (byte < 0x80) return byte;
    let value = byte & 0x7f;
    // In whole numbers while they last: with producers' ids among them all would be floats.
    for (let shift = 7; shift < 28; shift += 7) {
      byte = this.u8();
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return this.#longUvarint(value);
  }
  /** From its fifth byte on. */
  #longUvarint(low: number): number {
    let value = low;
    for (let scale = 2 ** 28; scale < 2 ** 56; scale *= 0x80) {
      const byte = this.u8();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (value > Number.MAX_SAFE_INTEGER) break;
        return value;
      }
    }
    throw new MalformedError(`varint out of range at byte ${this.#at}`);
  }
  /** A view, not a copy. */
  bytes(length: number): Buffer {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }
  sized(): Buffer {
    return this.bytes(this.uvarint());
  }
  string(): string {
    const length = this.uvarint();
    const at = this.#take(length);
    if (length <= shortTextLength) {
      let bits = 0;
      for (let i = at; i < at + length; i++) bits |= this.#bytes[i] as number;
      // ASCII is its own Latin-1: a third of the decoder's price.
      if (bits < 0x80) return this.#bytes.toString('latin1', at, at + length);
    }
    try {
      return decoder.decode(this.#bytes.subarray(at, at + length));
    } catch {
      throw new MalformedError(`text is not UTF-8 before byte ${this.#at}`);
    }
  }
  /**
   * The same for what comes again and again, tenants and channels above all: usually the very string that was given before,
   * whose hash is known, without a call into the runtime (0.4 µs).
   */
  name(): string {
    const start = this.#at;
    const length = this.uvarint();
    const at = this.#take(length);
    if (length === 0 || length > shortTextLength) return this.#again(start);
    const bytes = this.#bytes;
    const last = at + length - 1;
    // Names that differ do so in their last bytes, mostly; where not, they take turns in a slot.
    let hash = length + 31 * (bytes[at] as number);
    for (let i = Math.max(at, last - 5); i <= last; i++)
      hash = Math.imul(hash ^ (bytes[i] as number), 0x0100_0193);
    const slot = (hash ^ (hash >>> 13)) & (namesKept - 1);
    const known = names[slot] as string;
    if (known.length === length) {
      let i = 0;
      while (i < length && known.charCodeAt(i) === bytes[at + i]) i++;
      if (i === length) return known;
    }
    const name = this.#again(start);
    // Shorter where it is not ASCII: then its characters are not its bytes.
    if (name.length === length) names[slot] = name;
    return name;
  }
  #again(start: number): string {
    this.#at = start;
    return this.string();
  }
  skip(length: number): void {
    this.#take(length);
  }
  end(): void {
    if (this.#at !== this.#end) throw new MalformedError(`${this.#end - this.#at} bytes too many`);
  }
  #take(length: number): number {
    const at = this.#at;
    if (length < 0 || at + length > this.#end) throw new MalformedError(`cut short at byte ${at}`);
    this.#at = at + length;
    return at;
  }
}

/** A HansardError of `reason` from a MalformedError, everything else unchanged. */
export function malformedAs(error: unknown, make: (problem: string) => HansardError): unknown {
  return error instanceof MalformedError ? make(error.message) : error;
}
