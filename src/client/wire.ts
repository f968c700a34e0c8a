/**
 * Protocol Buffers' wire format by hand: the hot path makes no object per
 * message. `BackWriter` writes from the end to the front, so that the length of
 * a nested message is known when its tag is written, with no second pass and no
 * copy; fields are therefore written in falling order.
 */
import { HansardError } from '../common/errors.js';
import { xxh64 } from '../common/hash.js';
import { copyMany, varintSize, writeVarint } from '../common/wire.js';

// In Node since 20, in TypeScript's library only from es2024.
const isWellFormed = (String.prototype as unknown as { isWellFormed(this: string): boolean }).isWellFormed;

/** A lone surrogate has no UTF-8; Buffer would write U+FFFD in silence. */
export function requireWellFormed(text: string, field: string | number): void {
  if (isWellFormed.call(text)) return;
  const name = typeof field === 'number' ? `field ${field}` : field;
  throw new HansardError('INVALID_UTF8', `${name} holds a lone surrogate`, { field: name });
}

/** Not out of Node's pool: its bytes begin where its ArrayBuffer does. `utf8Write` is Node's, for want of documentation. */
type Slow = Buffer & { utf8Write(text: string, at: number, length: number): number };

/** Up to this length a text is written by hand if it is ASCII. */
const shortText = 32;

export class BackWriter {
  #buffer: Slow;
  #numbers: DataView;
  /** First byte written; what was written is #at … end. */
  #at: number;
  constructor(initialBytes = 64 * 1024) {
    this.#buffer = Buffer.allocUnsafeSlow(initialBytes) as Slow;
    this.#numbers = new DataView(this.#buffer.buffer);
    this.#at = initialBytes;
  }
  /** Bytes written so far: also a mark, for `nested` and `view`. */
  get length(): number {
    return this.#buffer.length - this.#at;
  }
  reset(): void {
    // One huge message must not pin its buffer for ever.
    if (this.#buffer.length > 4 * 1024 * 1024) this.#use(Buffer.allocUnsafeSlow(64 * 1024));
    this.#at = this.#buffer.length;
  }
  /** What was written since `mark`; valid until the next write. */
  view(mark = 0): Buffer {
    return this.#buffer.subarray(this.#at, this.#buffer.length - mark);
  }
  copy(mark = 0): Buffer {
    const from = this.#at;
    const to = this.#buffer.length - mark;
    const copy = Buffer.allocUnsafe(to - from);
    copyMany(copy, 0, this.#buffer, from, to);
    return copy;
  }
  /** Copies what was written to `target`, which has room for it. */
  copyTo(target: Uint8Array, at: number): void {
    copyMany(target, at, this.#buffer, this.#at, this.#buffer.length);
  }
  /** xxh64 of what was written since `mark`. */
  xxh64(mark = 0): bigint {
    return xxh64(new Uint8Array(this.#buffer.buffer, this.#at, this.#buffer.length - mark - this.#at));
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
    if (value.length > shortText || !this.#shortAscii(value)) {
      requireWellFormed(value, field);
      const length = Buffer.byteLength(value);
      this.#room(length + 16);
      this.#at -= length;
      // Without write()'s own look at its arguments.
      this.#buffer.utf8Write(value, this.#at, length);
      this.varint(length);
    } else this.varint(value.length);
    this.tag(field, 2);
  }
  /** Names and ids, written by hand: three calls into Node cost ten times as much. False: not ASCII, nothing written. */
  #shortAscii(value: string): boolean {
    const { length } = value;
    this.#room(length + 16);
    const at = this.#at - length;
    const buffer = this.#buffer;
    for (let i = 0; i < length; i++) {
      const unit = value.charCodeAt(i);
      if (unit >= 0x80) return false;
      buffer[at + i] = unit;
    }
    this.#at = at;
    return true;
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
    this.#numbers.setBigUint64(this.#at, value, true);
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
    writeVarint(this.#buffer, this.#at, value);
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
    this.#use(grown);
  }
  #use(buffer: Buffer): void {
    this.#buffer = buffer as Slow;
    this.#numbers = new DataView(buffer.buffer);
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
