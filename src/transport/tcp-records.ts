/**
 * What goes over a connection between two nodes: a preface from each side, then
 * records, each a kind, a length and its bytes. docs/format.md, "Between nodes".
 */
import { BufferPool, type Lent } from '../common/buffer-pool.js';
import { MalformedError } from '../common/bytes.js';

/** Each side's first bytes; whoever says anything else is no node. */
export const preface = Buffer.from('HSNPEER1', 'latin1');

export const RecordKind = {
  /** From the dialler, once and first. */
  hello: 1,
  /** To the dialler. */
  frame: 2,
  /** To the dialler: it is not wanted, and why (UTF-8); the last one. */
  rejection: 3,
  /** Both ways, empty, where there was nothing else to say for a while. */
  alive: 4,
} as const;
export type RecordKind = (typeof RecordKind)[keyof typeof RecordKind];

/** kind u8, length u32. */
export const recordHeaderBytes = 5;

export function encodeRecord(kind: RecordKind, payload: Uint8Array): Buffer {
  const record = Buffer.allocUnsafe(recordHeaderBytes + payload.length);
  putRecord(record, kind, [payload]);
  return record;
}

/** Fills the buffer: its length is the header's and the pieces'. */
export function putRecord(record: Buffer, kind: RecordKind, pieces: readonly Uint8Array[]): void {
  record[0] = kind;
  record.writeUInt32LE(record.length - recordHeaderBytes, 1);
  let at = recordHeaderBytes;
  for (const piece of pieces) {
    record.set(piece, at);
    at += piece.length;
  }
}

export interface RecordHandlers {
  onPreface(): void;
  /** The payload is used anew once this has returned. False: it has heard enough. */
  onRecord(kind: number, payload: Buffer): boolean;
}

/** In which records come together that arrive in pieces, and from which they leave: what is kept while none is under way. */
export const recordMemory = new BufferPool(8 * 1024 * 1024);

/** Cuts what arrives into records. Holds at most one that is not whole yet. */
export class RecordReader {
  readonly #payloadBytesMax: number;
  readonly #handlers: RecordHandlers;
  #prefaced = false;
  /** Of a preface or header that is not whole yet. */
  readonly #head = Buffer.allocUnsafe(Math.max(preface.length, recordHeaderBytes));
  #headBytes = 0;
  #kind = 0;
  /** Length of a record whose header is read; -1: between two. */
  #wanted = -1;
  /** A record that did not come in one piece, so far. */
  #gathered: Lent | undefined;
  #gatheredBytes = 0;

  constructor(payloadBytesMax: number, handlers: RecordHandlers) {
    this.#payloadBytesMax = payloadBytesMax;
    this.#handlers = handlers;
  }

  /** `chunk` may be used anew afterwards. Throws MalformedError. */
  take(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length || this.#wanted === 0) {
      if (this.#wanted >= 0) {
        const part = Math.min(this.#wanted - this.#gatheredBytes, chunk.length - at);
        const goesOn = this.#takePart(chunk, at, part);
        at += part;
        if (!goesOn) return;
        continue;
      }
      const wanted = this.#prefaced ? recordHeaderBytes : preface.length;
      while (this.#headBytes < wanted && at < chunk.length)
        this.#head[this.#headBytes++] = chunk[at++] as number;
      // Wrong from its first bytes on: whoever says something else is not waited for.
      if (!this.#prefaced) this.#checkPreface();
      if (this.#headBytes < wanted) return;
      this.#headBytes = 0;
      if (this.#prefaced) this.#begin();
      else {
        this.#prefaced = true;
        this.#handlers.onPreface();
      }
    }
  }

  /** Hands the record on once it is whole: as it lies in the chunk, else from where it was gathered. False: no more. */
  #takePart(chunk: Uint8Array, at: number, part: number): boolean {
    const bytes = this.#wanted;
    if (part === bytes) {
      this.#wanted = -1;
      return this.#handlers.onRecord(this.#kind, Buffer.from(chunk.buffer, chunk.byteOffset + at, part));
    }
    this.#gathered ??= recordMemory.take(bytes);
    const gathered = this.#gathered;
    gathered.bytes.set(chunk.subarray(at, at + part), this.#gatheredBytes);
    this.#gatheredBytes += part;
    if (this.#gatheredBytes < bytes) return true;
    this.#wanted = -1;
    this.#gathered = undefined;
    this.#gatheredBytes = 0;
    const goesOn = this.#handlers.onRecord(this.#kind, gathered.bytes.subarray(0, bytes));
    recordMemory.give(gathered);
    return goesOn;
  }

  #checkPreface(): void {
    const isOurs = preface.compare(this.#head, 0, this.#headBytes, 0, this.#headBytes) === 0;
    if (!isOurs) throw new MalformedError('what it says is not the protocol of Hansard’s nodes');
  }

  #begin(): void {
    this.#kind = this.#head[0] as number;
    const bytes = this.#head.readUInt32LE(1);
    if (bytes > this.#payloadBytesMax)
      throw new MalformedError(`a record of ${bytes} bytes, at most ${this.#payloadBytesMax} are taken`);
    this.#wanted = bytes;
  }
}
