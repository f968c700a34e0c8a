/** Protocol Buffers' wire format by hand, the reading half. */
import { loadScratch, xxh64Equals } from '../common/hash-scratch.js';
import { copyFew, copyMany, fewBytes } from '../common/wire.js';

/** Thrown on bytes that are not a valid message. */
export class WireError extends Error {
  override readonly name = 'WireError';
}

// Buffer's own, without the checks of toString; Node's only for want of documentation.
type Slices = { utf8Slice?(from: number, to: number): string };

/** Bytes that belong to what is read from them, from the beginning of their memory on. */
export interface OwnBytes {
  readonly bytes: Buffer;
  readonly owned: ArrayBufferLike;
  readonly numbers: DataView;
}

/** Reads one message; every length is checked before it is used. */
export class ProtoReader {
  readonly #bytes: Buffer;
  /** Set where the bytes belong to what is read from them: no need to copy parts of them. */
  readonly #owned: ArrayBufferLike | undefined;
  #own: OwnBytes | undefined;
  #numbers: DataView | undefined;
  #at: number;
  #end: number;
  #tag = 0;
  constructor(bytes: Uint8Array, owned?: ArrayBufferLike, from = 0, to = bytes.length) {
    this.#bytes = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#owned = owned;
    this.#at = from;
    this.#end = to;
  }
  /**
   * Reads a copy of `bytes`, which all that is read from it shares: one copy for
   * the events of a page instead of three for each.
   */
  static ofCopy(bytes: Uint8Array): ProtoReader {
    // Most of its frame: keeping that costs less than a copy.
    if (bytes.byteOffset === 0 && bytes.length * 2 >= bytes.buffer.byteLength)
      return new ProtoReader(bytes, bytes.buffer);
    const copy = Buffer.allocUnsafeSlow(bytes.length);
    copy.set(bytes);
    return new ProtoReader(copy, copy.buffer);
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
  /** Of the next byte, for `sizedAt` and `again`. */
  get position(): number {
    return this.#at;
  }
  /** A view of the length-delimited value at `position`, read before. */
  sizedAt(position: number): Buffer {
    const at = this.#at;
    this.#at = position;
    const value = this.view();
    this.#at = at;
    return value;
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
    const short = this.#short();
    if (short >= 0) return short;
    const value = this.#varint64();
    if (typeof value === 'bigint') throw new WireError(`number beyond 2^53 at byte ${this.#at}`);
    return value;
  }
  /** Most numbers have one to five bytes; -1: a longer one, or it lies at the end. */
  #short(): number {
    const bytes = this.#bytes;
    const at = this.#at;
    let byte = bytes[at] as number;
    if (byte < 0x80 && at < this.#end) {
      this.#at = at + 1;
      return byte;
    }
    if (at + 5 <= this.#end) {
      let value = byte & 0x7f;
      byte = bytes[at + 1] as number;
      value |= (byte & 0x7f) << 7;
      if (byte < 0x80) {
        this.#at = at + 2;
        return value;
      }
      byte = bytes[at + 2] as number;
      value |= (byte & 0x7f) << 14;
      if (byte < 0x80) {
        this.#at = at + 3;
        return value;
      }
      byte = bytes[at + 3] as number;
      value |= (byte & 0x7f) << 21;
      if (byte < 0x80) {
        this.#at = at + 4;
        return value;
      }
      byte = bytes[at + 4] as number;
      if (byte < 0x80) {
        this.#at = at + 5;
        // Beyond 32 bits.
        return value + byte * 0x1000_0000;
      }
    }
    return -1;
  }
  uint64(): number | bigint {
    return this.#varint64();
  }
  /** int32 or int64. */
  int(): number {
    const short = this.#short();
    if (short >= 0) return short;
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
    const bytes = this.#bytes;
    // A quarter of the cost of Buffer's own.
    this.#numbers ??= new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    return this.#numbers.getBigUint64(this.#take(8), true);
  }
  string(): string {
    const length = this.uint();
    if (length === 0) return '';
    const at = this.#take(length);
    return textAt(this.#bytes, at, at + length);
  }
  /** A text of few values that come again and again: authors, states, names. The same string for the same bytes. */
  name(): string {
    const length = this.uint();
    const at = this.#take(length);
    return length === 0 ? '' : nameAt(this.#bytes, at, length);
  }
  /** A view, not a copy. */
  view(): Buffer {
    const length = this.uint();
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }
  /** What may be kept: no frame must be pinned by it. */
  bytes(): Uint8Array {
    const owned = this.#owned;
    const length = this.uint();
    const at = this.#take(length);
    if (owned === undefined) return copyOf(this.#bytes, at, length);
    // Half the cost of Buffer's subarray.
    return new Uint8Array(owned, at, length);
  }
  /** Before `hashEquals` is asked many times: what is read from here on costs a quarter of that (hash-scratch.ts). */
  loadForHashes(): void {
    loadScratch(this.#bytes, this.#at, this.#end);
  }
  /** Is xxh64 of the `length` bytes before `position` what lies as fixed64 at `expectedAt`, all of it read before? */
  hashEquals(position: number, length: number, expectedAt: number): boolean {
    return xxh64Equals(this.#bytes, position - length, position, expectedAt);
  }
  /** Whether the length-delimited value that comes next has these bytes (few). Stays where it is. */
  isNext(value: Uint8Array): boolean {
    const at = this.#at;
    let place = at + 1;
    if (this.#bytes[at] !== value.length || value.length >= 0x80 || place + value.length > this.#end)
      return false;
    for (let i = 0; i < value.length; i++) if (this.#bytes[place++] !== value[i]) return false;
    return true;
  }
  /** Reads the `length` bytes before `position`, passed over before, as a message; then stands where it stood. */
  again<T>(position: number, length: number, read: (reader: ProtoReader) => T): T {
    const at = this.#at;
    const end = this.#end;
    this.#at = position - length;
    this.#end = position;
    try {
      return read(this);
    } finally {
      this.#at = at;
      this.#end = end;
    }
  }
  /** Goes into a nested message; what it returns goes into `leave`. */
  enter(): number {
    const length = this.uint();
    const at = this.#take(length);
    const outer = this.#end;
    this.#end = this.#at;
    this.#at = at;
    return outer;
  }
  leave(outer: number): void {
    this.#at = this.#end;
    this.#end = outer;
  }
  /** Reads the nested message that comes next; where `read` gives undefined it still comes next. */
  quick<T>(read: (own: OwnBytes, from: number, to: number) => T | undefined): T | undefined {
    const own = this.#ownBytes();
    if (own === undefined) return undefined;
    const start = this.#at;
    const from = this.#take(this.uint());
    const value = read(own, from, this.#at);
    if (value === undefined) this.#at = start;
    return value;
  }
  #ownBytes(): OwnBytes | undefined {
    const bytes = this.#bytes;
    const owned = this.#owned;
    if (this.#own === undefined && owned !== undefined)
      this.#own = { bytes, owned, numbers: new DataView(owned) };
    return this.#own;
  }
  /** Reads a nested message in place. */
  message<T>(read: (reader: ProtoReader) => T): T {
    const outer = this.enter();
    const value = read(this);
    this.leave(outer);
    return value;
  }
  #take(length: number): number {
    const at = this.#at;
    if (at + length > this.#end) throw new WireError(`cut short at byte ${at}`);
    this.#at = at + length;
    return at;
  }
  #varint64(): number | bigint {
    const bytes = this.#bytes;
    const end = this.#end;
    let at = this.#at;
    let low = 0;
    let scale = 1;
    for (let i = 0; i < 7; i++) {
      if (at >= end) throw new WireError(`cut short at byte ${at}`);
      const byte = bytes[at++] as number;
      low += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        this.#at = at;
        return low;
      }
      scale *= 0x80;
    }
    this.#at = at;
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

/** Tokens and the like: no view is made of what is copied at once. */
function copyOf(bytes: Buffer, at: number, length: number): Uint8Array {
  const copy = new Uint8Array(length);
  if (length <= fewBytes) copyFew(copy, 0, bytes, at, at + length);
  else copyMany(copy, 0, bytes, at, at + length);
  return copy;
}

export function textAt(bytes: Buffer & Slices, from: number, to: number): string {
  return bytes.utf8Slice === undefined ? bytes.toString('utf8', from, to) : bytes.utf8Slice(from, to);
}

/** Of at least a byte; see ProtoReader.name. */
export function nameAt(bytes: Buffer, at: number, length: number): string {
  return length <= nameBytesMax ? nameOf(bytes, at, length) : bytes.toString('utf8', at, at + length);
}

/** Names up to this length are looked up by their bytes: 20 ns where Node's conversion takes 100. */
const nameBytesMax = 24;
const namesMax = 1024;
const names: string[] = new Array<string>(namesMax).fill('');

function nameOf(bytes: Buffer, at: number, length: number): string {
  let hash = length;
  for (let i = at; i < at + length; i++) hash = (Math.imul(hash, 31) + (bytes[i] as number)) | 0;
  const slot = (hash ^ (hash >>> 10)) & (namesMax - 1);
  const known = names[slot] as string;
  if (isNamed(known, bytes, at, length)) return known;
  const name = bytes.toString('utf8', at, at + length);
  // As many units as bytes: ASCII, which `isNamed` may compare unit by byte. (Every other text has fewer.)
  if (name.length === length) names[slot] = name;
  return name;
}

function isNamed(known: string, bytes: Buffer, at: number, length: number): boolean {
  if (known.length !== length) return false;
  for (let i = 0; i < length; i++) if (known.charCodeAt(i) !== bytes[at + i]) return false;
  return true;
}
