/**
 * What goes over a connection between two nodes: a preface from each side, then
 * records, each a kind, a length and its bytes. docs/format.md, "Between nodes".
 */
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

/** In one buffer: its header costs a copy, and spares a second write. */
export function encodeRecord(kind: RecordKind, payload: Uint8Array): Buffer {
  const record = Buffer.allocUnsafe(recordHeaderBytes + payload.length);
  record[0] = kind;
  record.writeUInt32LE(payload.length, 1);
  record.set(payload, recordHeaderBytes);
  return record;
}

export interface RecordHandlers {
  onPreface(): void;
  /** The payload is the receiver's own. False: it has heard enough. */
  onRecord(kind: number, payload: Buffer): boolean;
}

/** Cuts what arrives into records. Holds at most one that is not whole yet. */
export class RecordReader {
  readonly #payloadBytesMax: number;
  readonly #handlers: RecordHandlers;
  #prefaced = false;
  /** Of a preface or header that is not whole yet. */
  readonly #head = Buffer.allocUnsafe(Math.max(preface.length, recordHeaderBytes));
  #headBytes = 0;
  #kind = 0;
  /** Of a record whose header is read; undefined: between two. */
  #payload: Buffer | undefined;
  #payloadBytes = 0;

  constructor(payloadBytesMax: number, handlers: RecordHandlers) {
    this.#payloadBytesMax = payloadBytesMax;
    this.#handlers = handlers;
  }

  /** `chunk` may be used anew afterwards: what is handed on are copies. Throws MalformedError. */
  take(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length || this.#payload?.length === 0) {
      if (this.#payload !== undefined) {
        const part = Math.min(this.#payload.length - this.#payloadBytes, chunk.length - at);
        this.#payload.set(chunk.subarray(at, at + part), this.#payloadBytes);
        at += part;
        this.#payloadBytes += part;
        if (this.#payloadBytes < this.#payload.length) return;
        const payload = this.#payload;
        this.#payload = undefined;
        if (!this.#handlers.onRecord(this.#kind, payload)) return;
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

  #checkPreface(): void {
    const isOurs = preface.compare(this.#head, 0, this.#headBytes, 0, this.#headBytes) === 0;
    if (!isOurs) throw new MalformedError('what it says is not the protocol of Hansard’s nodes');
  }

  #begin(): void {
    this.#kind = this.#head[0] as number;
    const bytes = this.#head.readUInt32LE(1);
    if (bytes > this.#payloadBytesMax)
      throw new MalformedError(`a record of ${bytes} bytes, at most ${this.#payloadBytesMax} are taken`);
    this.#payload = Buffer.allocUnsafe(bytes);
    this.#payloadBytes = 0;
  }
}
