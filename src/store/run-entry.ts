/**
 * Entries of runs: a sorted key (channel id and text), a value and a time, as
 * places in a shared buffer. A checkpoint may have hundreds of thousands of
 * them: objects of their own for key and value would keep the collector busy.
 */
import { ByteReader } from '../common/bytes.js';
import type { ChannelId, Seq, TimeUs } from '../common/ids.js';
import { writeVarint } from '../common/varint.js';
import type { KeyRecord } from '../conversation/types.js';
import { writeU64BE } from './keys.js';

export interface RunEntry {
  readonly bytes: Buffer;
  /** The sorted key: channel id u64 BE, text in UTF-8. */
  readonly keyAt: number;
  readonly keyEnd: number;
  readonly valueAt: number;
  readonly valueEnd: number;
  /** Commit time of a key; 0 for message ids. */
  readonly timeUs: TimeUs;
}

export function compositeKey(channelId: ChannelId, text: string): Buffer {
  const key = Buffer.allocUnsafe(8 + Buffer.byteLength(text));
  writeU64BE(key, channelId, 0);
  key.write(text, 8);
  return key;
}

export function compareEntries(a: RunEntry, b: RunEntry): number {
  return a.bytes.compare(b.bytes, b.keyAt, b.keyEnd, a.keyAt, a.keyEnd);
}

/** Of the entry's key with a composite key. */
export function compareWithKey(entry: RunEntry, key: Buffer): number {
  return entry.bytes.compare(key, 0, key.length, entry.keyAt, entry.keyEnd);
}

/** A view. */
export function keyBytes(entry: RunEntry): Buffer {
  return entry.bytes.subarray(entry.keyAt, entry.keyEnd);
}

/** A view. */
export function valueBytes(entry: RunEntry): Buffer {
  return entry.bytes.subarray(entry.valueAt, entry.valueEnd);
}

export function keyRecordOf(entry: RunEntry): KeyRecord {
  const reader = new ByteReader(entry.bytes, entry.valueAt, entry.valueEnd);
  const seq = reader.uvarint();
  // A copy: the chunk's buffer must not live on for 16 bytes of it.
  return { seq, commitTimeUs: entry.timeUs, contentDigest: Uint8Array.from(reader.bytes(reader.remaining)) };
}

export function seqOf(entry: RunEntry): Seq {
  return new ByteReader(entry.bytes, entry.valueAt, entry.valueEnd).uvarint();
}

const slabBytes = 64 * 1024;

/** Makes entries of a tail's keys and message ids. */
export class EntryMaker {
  /** Made for the first entry: there may be none, and each partition of a checkpoint has two of these. */
  #slab: Buffer = Buffer.alloc(0);
  #at = 0;

  key(channelId: ChannelId, text: string, record: KeyRecord): RunEntry {
    return this.#make(channelId, text, record.seq, record.contentDigest, record.commitTimeUs);
  }

  messageId(channelId: ChannelId, text: string, seq: Seq): RunEntry {
    return this.#make(channelId, text, seq, nothing, 0);
  }

  /** Value: uvarint seq, then `rest`. */
  #make(channelId: ChannelId, text: string, seq: Seq, rest: Uint8Array, timeUs: TimeUs): RunEntry {
    // 3 bytes of UTF-8 for a code unit at most, 8 of a seq's uvarint.
    const room = 16 + text.length * 3 + rest.length;
    if (this.#at + room > this.#slab.length) {
      this.#slab = Buffer.allocUnsafeSlow(Math.max(slabBytes, room));
      this.#at = 0;
    }
    const slab = this.#slab;
    const keyAt = this.#at;
    writeU64BE(slab, channelId, keyAt);
    const keyEnd = keyAt + 8 + slab.write(text, keyAt + 8);
    let at = writeVarint(slab, keyEnd, seq);
    slab.set(rest, at);
    at += rest.length;
    this.#at = at;
    return { bytes: slab, keyAt, keyEnd, valueAt: keyEnd, valueEnd: at, timeUs };
  }
}
const nothing = new Uint8Array(0);
