/**
 * Blocks: consecutive events of one channel as two sections, headers and
 * contents, each with codec, lengths and checksum, so that one content can go
 * while headers, commitments and neighbours stay. Checksums are over the
 * uncompressed bytes: the codec may differ between replicas.
 */
import { brotliDecompressSync } from 'node:zlib';
import { compressSync as lz4Compress, uncompressSync as lz4Uncompress } from 'lz4-napi';
import { type ByteReader, ByteWriter, MalformedError, ByteReader as Reader } from '../common/bytes.js';
import { xxh64 } from '../common/hash.js';
import type { Seq } from '../common/ids.js';
import type { StoredEvent } from '../conversation/types.js';

/** 1 is read, and written no more: a block cost four times as much. 2 is reserved for zstd. */
export const Codec = { none: 0, brotli: 1, lz4: 3 } as const;

/** Smaller ones are not worth the call. */
const compressFromBytes = 256;
/** Kept only where it saves a tenth. */
const worthwhile = 0.9;
/** A section of one event at most: a message and its header; anything above is damage. */
const sectionBytesMax = 64 * 1024 * 1024;
/** zlib's least chunk. */
const unpackChunkBytesMin = 64;
/** Counted for the fields of an event beside header and content, whatever they take. */
const eventOverhead = 16;

/** What an event counts in a block. */
export function weightOf(event: StoredEvent): number {
  return event.headerLength + event.contentLength + eventOverhead;
}

/** Writes the rows of some events: each of about `blockBytes`, of which they all have their share. */
export class BlockCuts {
  readonly #events: readonly StoredEvent[];
  readonly #target: number;
  readonly #max: number;
  #at = 0;
  /** Of what `next` gave. */
  from = 0;
  weight = 0;

  /** `weight`: of all of them together. */
  constructor(events: readonly StoredEvent[], weight: number, blockBytes: number) {
    this.#events = events;
    const blocks = Math.max(1, Math.round(weight / blockBytes));
    this.#target = weight / blocks;
    this.#max = 1.5 * blockBytes;
  }

  /** The end of the next block, which begins at `from`; undefined: that was all. */
  next(): number | undefined {
    const events = this.#events;
    if (this.#at >= events.length) return undefined;
    this.from = this.#at;
    this.weight = weightOf(events[this.#at++] as StoredEvent);
    while (this.#at < events.length && this.weight < this.#target) {
      const more = weightOf(events[this.#at] as StoredEvent);
      if (this.weight + more > this.#max) break;
      this.weight += more;
      this.#at++;
    }
    return this.#at;
  }
}

/** Same producer as the event before, the next counter; same producer; another one. */
const ProducerStep = { next: 0, same: 1, other: 2 } as const;

const contentScratch = new ByteWriter(64 * 1024);

/** Writes both sections of consecutive events: those from `from` to `to`, exclusive, at least one. */
export function writeUnit(
  writer: ByteWriter,
  events: readonly StoredEvent[],
  compress: boolean,
  from = 0,
  to = events.length,
): void {
  const first = events[from] as StoredEvent;
  const section = beginSection(writer);
  const headers = writer.uvarint(first.seq).uvarint(to - from);
  // Nothing of it leaves this function but copies.
  const contents = contentScratch.truncate(0);
  let time = 0;
  let producer = 0;
  let counter = 0;
  for (let i = from; i < to; i++) {
    const event = events[i] as StoredEvent;
    headers.uvarint(event.commitTimeUs - time);
    time = event.commitTimeUs;
    if (event.producerId !== producer) {
      headers.u8(ProducerStep.other).uvarint(event.producerId).uvarint(event.producerCounter);
    } else if (event.producerCounter === counter + 1) {
      headers.u8(ProducerStep.next);
    } else {
      headers.u8(ProducerStep.same).uvarint(event.producerCounter);
    }
    producer = event.producerId;
    counter = event.producerCounter;
    headers.uvarint(event.headerLength).uvarint(event.contentLength);
    contents.bytes(slice(event.contentBytes, event.contentOffset, event.contentLength));
  }
  for (let i = from; i < to; i++) {
    const event = events[i] as StoredEvent;
    headers.bytes(slice(event.bytes, event.headerOffset, event.headerLength));
  }
  // Headers are commitments and checksums for the most part: not worth compressing.
  endSection(writer, section);
  writeSection(writer, contents.finish(), compress);
}

/** Reads and verifies both sections. The events refer to the sections' own buffers. */
export function readUnit(reader: ByteReader): StoredEvent[] {
  const events = readHeaders(readSection(reader));
  const contents = readSection(reader);
  let at = 0;
  for (const event of events) {
    event.contentBytes = contents;
    event.contentOffset = at;
    at += event.contentLength;
  }
  if (at !== contents.length) throw new MalformedError('contents do not fill their section');
  return events;
}

/** Seqs and commit times alone, without touching the contents. */
export function readUnitTimes(reader: ByteReader): { seq: Seq; commitTimeUs: number }[] {
  return readHeaders(readSection(reader));
}

type MutableEvent = { -readonly [Field in keyof StoredEvent]: StoredEvent[Field] };

/** The events without their contents. */
function readHeaders(bytes: Buffer): MutableEvent[] {
  const reader = new Reader(bytes);
  const firstSeq = reader.uvarint();
  const count = reader.uvarint();
  // Each event takes four bytes at least: a damaged count can't make us allocate.
  if (count === 0 || count > reader.remaining / 4) throw new MalformedError(`a unit of ${count} events`);
  const events: MutableEvent[] = [];
  let time = 0;
  let producerId = 0;
  let counter = 0;
  for (let i = 0; i < count; i++) {
    time += reader.uvarint();
    const step = reader.u8();
    if (step === ProducerStep.next) counter++;
    else if (step === ProducerStep.same) counter = reader.uvarint();
    else if (step === ProducerStep.other) {
      producerId = reader.uvarint();
      counter = reader.uvarint();
    } else throw new MalformedError(`producer step ${step}`);
    events.push({
      seq: firstSeq + i,
      commitTimeUs: time,
      producerId,
      producerCounter: counter,
      bytes,
      headerOffset: 0,
      headerLength: reader.uvarint(),
      contentBytes: bytes,
      contentOffset: 0,
      contentLength: reader.uvarint(),
    });
  }
  for (const event of events) {
    event.headerOffset = reader.position;
    reader.skip(event.headerLength);
  }
  reader.end();
  return events;
}

/** A section as it is: codec, lengths and checksum come first, and are filled in at its end. */
function beginSection(writer: ByteWriter): number {
  const start = writer.length;
  writer.u8(Codec.none).u32(0).u32(0).u64big(0n);
  return start;
}

function endSection(writer: ByteWriter, start: number): void {
  const raw = writer.view(start + sectionHeadBytes);
  writer.patchU32(start + 1, raw.length).patchU32(start + 5, raw.length);
  writer.patchU64big(start + 9, xxh64(raw));
}
const sectionHeadBytes = 17;

function writeSection(writer: ByteWriter, raw: Buffer, compress: boolean): void {
  let codec: number = Codec.none;
  let stored = raw;
  if (compress && raw.length >= compressFromBytes) {
    const packed = lz4Compress(raw);
    if (packed.length < raw.length * worthwhile) {
      codec = Codec.lz4;
      stored = packed;
    }
  }
  writer.u8(codec).u32(raw.length).u32(stored.length).u64big(xxh64(raw)).bytes(stored);
}

function readSection(reader: ByteReader): Buffer {
  const codec = reader.u8();
  const rawLength = reader.u32();
  const storedLength = reader.u32();
  const checksum = reader.u64big();
  const stored = reader.bytes(storedLength);
  if (rawLength > sectionBytesMax) throw new MalformedError(`a section of ${rawLength} bytes`);
  const raw = unpack(codec, stored, rawLength);
  if (raw.length !== rawLength || xxh64(raw) !== checksum) {
    throw new MalformedError('the checksum of a section does not match');
  }
  return raw;
}

function unpack(codec: number, stored: Buffer, rawLength: number): Buffer {
  if (codec === Codec.none) return stored;
  if (codec !== Codec.lz4 && codec !== Codec.brotli) throw new MalformedError(`unknown codec ${codec}`);
  try {
    return codec === Codec.lz4 ? unpackLz4(stored, rawLength) : unpackBrotli(stored, rawLength);
  } catch (error) {
    throw new MalformedError(`a section does not unpack: ${error instanceof Error ? error.message : error}`);
  }
}

/** A block of lz4 behind its uncompressed length, u32: what the library allocates, so it is checked before. */
function unpackLz4(stored: Buffer, rawLength: number): Buffer {
  if (stored.length < 4 || stored.readUInt32LE(0) !== rawLength) {
    throw new MalformedError(`its length is not ${rawLength}`);
  }
  return lz4Uncompress(stored);
}

function unpackBrotli(stored: Buffer, rawLength: number): Buffer {
  // The default chunk of 16 KiB would stay behind each cached block; one byte more than needed saves a second round.
  const chunkSize = Math.max(rawLength + 1, unpackChunkBytesMin);
  return brotliDecompressSync(stored, { chunkSize, maxOutputLength: Math.max(rawLength, 1) });
}

/** A third of the cost of Buffer's own subarray. */
function slice(bytes: Uint8Array, offset: number, length: number): Uint8Array {
  return new Uint8Array(bytes.buffer, bytes.byteOffset + offset, length);
}
