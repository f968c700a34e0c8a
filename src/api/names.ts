/** What a name may hold, looked at in the request's own bytes; and the errors of a field. */
import { isUtf8 } from 'node:buffer';
import { HansardError } from '../common/errors.js';
import { isAsciiLoaded } from '../common/hash-scratch.js';
import { limits } from '../common/limits.js';
import { defaultTenant } from '../common/partitioning.js';

/** Longer texts are looked at eight bytes at a time where the request was loaded, else natively. */
const asciiByHandBytes = 32;

export function invalidArgument(field: string, problem: string): HansardError {
  return new HansardError('INVALID_ARGUMENT', `${field}: ${problem}`, { field, problem });
}

export function invalidName(field: string, problem: string): HansardError {
  return new HansardError('INVALID_NAME', `${field}: ${problem}`, { field, problem });
}

/** Strict UTF-8: no surrogates, no overlong forms, nothing cut. */
export function isUtf8Range(bytes: Buffer, from: number, to: number): boolean {
  if (to - from <= asciiByHandBytes) {
    let at = from;
    while (at < to && (bytes[at] as number) < 0x80) at++;
    if (at === to) return true;
  } else if (isAsciiLoaded(bytes, from, to)) return true;
  return isUtf8(bytes.subarray(from, to));
}

/** Text of a range that was checked. */
export function textOf(bytes: Buffer, from: number, to: number): string {
  return from === to ? '' : bytes.toString('utf8', from, to);
}

/** Tenant as it is stored; empty means `default`. */
export function takeTenant(bytes: Buffer, from: number, to: number): string {
  if (from === to) return defaultTenant;
  if (to - from > limits.tenantBytes) {
    throw invalidName('tenant', `longer than ${limits.tenantBytes} bytes`);
  }
  for (let at = from; at < to; at++) {
    const byte = bytes[at] as number;
    // a-z, 0-9, -
    if ((byte < 0x61 || byte > 0x7a) && (byte < 0x30 || byte > 0x39) && byte !== 0x2d) {
      if (!isUtf8Range(bytes, from, to)) throw invalidUtf8('tenant');
      throw invalidName('tenant', 'only a-z, 0-9 and - are allowed');
    }
  }
  return bytes.toString('latin1', from, to);
}

/** 1 to 256 bytes of UTF-8 without control characters (C0, DEL, C1). */
export function takeChannelName(bytes: Buffer, from: number, to: number, field = 'channel'): string {
  if (from === to) throw invalidName(field, 'empty');
  return takePrefix(bytes, from, to, field);
}

/** As a channel's name, but may be empty. */
export function takePrefix(bytes: Buffer, from: number, to: number, field: string): string {
  return bytes.toString(checkName(bytes, from, to, field) ? 'latin1' : 'utf8', from, to);
}

/** As takeChannelName, but leaves the name where it lies. */
export function checkChannelName(bytes: Buffer, from: number, to: number): void {
  if (from === to) throw invalidName('channel', 'empty');
  checkName(bytes, from, to, 'channel');
}

/** Throws what is wrong with a name; true where it is ASCII. */
function checkName(bytes: Buffer, from: number, to: number, field: string): boolean {
  if (to - from > limits.channelNameBytes) {
    throw invalidName(field, `longer than ${limits.channelNameBytes} bytes`);
  }
  let ascii = true;
  for (let at = from; at < to; at++) {
    const byte = bytes[at] as number;
    if (byte >= 0x80) {
      ascii = false;
      // U+0080 to U+009F are C2 80 to C2 9F.
      if (
        byte === 0xc2 &&
        at + 1 < to &&
        (bytes[at + 1] as number) < 0xa0 &&
        (bytes[at + 1] as number) >= 0x80
      ) {
        throw invalidName(field, 'control characters are not allowed');
      }
    } else if (byte < 0x20 || byte === 0x7f) {
      throw invalidName(field, 'control characters are not allowed');
    }
  }
  if (!ascii && !isUtf8Range(bytes, from, to)) throw invalidUtf8(field);
  return ascii;
}

/** Keys, message ids, subjects, request ids, producers' names: UTF-8 of at most 128 bytes; may be empty. */
export function takeId(bytes: Buffer, from: number, to: number, field: string): string {
  if (from === to) return '';
  if (to - from > limits.idBytes) throw invalidName(field, `longer than ${limits.idBytes} bytes`);
  if (!isUtf8Range(bytes, from, to)) throw invalidUtf8(field);
  return bytes.toString('utf8', from, to);
}

export function invalidUtf8(field: string): HansardError {
  return new HansardError('INVALID_UTF8', `${field} is not valid UTF-8`, { field });
}

/** Of a listing of anything but events; 0: the default. */
export function takePageSize(pageSize: number): number {
  if (pageSize < 0) throw invalidArgument('page_size', 'must not be negative');
  return pageSize === 0 ? limits.channelPageSizeDefault : Math.min(pageSize, limits.channelPageSizeMax);
}
