/**
 * Protocol Buffers' wire format by hand: the hot path makes no object per
 * message. `BackWriter` writes from the end to the front, so that the length of
 * a nested message is known when its tag is written, with no second pass and no
 * copy; fields are therefore written in falling order.
 */
import { HansardError } from '../common/errors.js';
import { varintSize, writeVarint } from '../common/wire.js';

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
    this.#buffer = grown;
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
