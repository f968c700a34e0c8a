/**
 * Packs append commands straight from the bytes of a request: texts and contents are
 * copied once, from where they lie to where they stay, without strings or objects
 * for each message. The same bytes as encodeAppend (append-command.ts) gives.
 */
import { assert } from '../common/errors.js';
import { putXxh64, xxh32OfNotes } from '../common/hash-scratch.js';
import type { ProducerId, Seq } from '../common/ids.js';
import { writeVarint } from '../common/wire.js';
import {
  type AppendCondition,
  AppendFlag,
  appendKind,
  ConditionKind,
  keyDigestBytes,
} from './append-command.js';
import {
  commitmentBytes,
  commitmentPlace,
  contentXxh64Place,
  EventFlag,
  fixedHeaderBytes,
  saltBytes,
  writeHeaderStart,
} from './event-record.js';
import type { EventType } from './types.js';

/** Where a message's parts lie in the request; [from, to), empty where absent. */
export interface MessagePlaces {
  type: EventType;
  keyFrom: number;
  keyTo: number;
  messageIdFrom: number;
  messageIdTo: number;
  subjectFrom: number;
  subjectTo: number;
  /** 0: none. */
  targetSeq: Seq;
  usesBatchPosition: boolean;
  contentFrom: number;
  contentTo: number;
  /** Where the client's checksum of the content is, which was found right; -1: none came. */
  checksumAt: number;
}

/** What is not the state machine's to know: randomness and SHA-256. */
export interface Sealing {
  /** Writes 16 random bytes. */
  putSalt(target: Buffer, at: number): void;
  /** Writes the first `length` bytes of SHA-256 of [from, to) of `target`. */
  putDigest(target: Buffer, at: number, length: number, from: number, to: number): void;
}

/** Bytes of a command beside its messages, at most: names of 63 and 256, stamp, condition, counts. */
const commandBytesMax = 512;
/** Of a record beside what lies in the request: header, salt, key digest, varints. */
const recordBytesMax = fixedHeaderBytes + saltBytes + keyDigestBytes + 24;
/** Of the notes of one message beside its texts. */
const noteBytesMax = 48;
/** Of the texts of one message: key, message id and subject within the door's limits (docs/limits.md). */
const noteTextsMax = 3 * 128;

/** A turn or two of commands, which are all over at about the same time: a command that waits long keeps its slab alive. */
const slabBytes = 64 * 1024;
const none = Buffer.alloc(0);

export class AppendPacker {
  readonly #sealing: Sealing;
  #source: Buffer = none;
  #target: Buffer = none;
  /** First byte of the command in `#target`. */
  #from = 0;
  #at = 0;
  #end = 0;
  /** Small commands share it: one view for each instead of an allocation and two. */
  #slab: Buffer = none;
  #slabUsed = 0;
  #place = 0;
  /** What the client sent, for the digest by which a used counter recognises other content. */
  #notes: Buffer = Buffer.allocUnsafeSlow(4 * 1024);
  #noted = 0;

  constructor(sealing: Sealing) {
    this.#sealing = sealing;
  }

  /**
   * Begins a command. `messageBytes`: of all messages as they lie in `source`, or
   * more. The channel's name lies there too; the tenant's is ASCII.
   */
  begin(
    source: Buffer,
    tenant: string,
    channelFrom: number,
    channelTo: number,
    producerId: ProducerId,
    firstCounter: number,
    condition: AppendCondition | undefined,
    count: number,
    messageBytes: number,
  ): void {
    this.#source = source;
    this.#place = 0;
    this.#take(commandBytesMax + messageBytes + count * recordBytesMax);
    const notes = commandBytesMax + Math.min(messageBytes, count * noteTextsMax) + count * noteBytesMax;
    if (this.#notes.length < notes) this.#notes = Buffer.allocUnsafeSlow(notes);
    const target = this.#target;
    const from = this.#from;
    target[from] = appendKind;
    target[from + 1] = (producerId === 0 ? 0 : AppendFlag.producer) | (condition ? AppendFlag.condition : 0);
    this.#at = from + 6;
    this.#ascii(tenant);
    this.#text(channelFrom, channelTo);
    this.#noted = copy(target, from + 6, this.#at, this.#notes, 0);
    if (producerId !== 0) {
      this.#u64(producerId);
      this.#u64(firstCounter);
    }
    if (condition === undefined) this.#notes[this.#noted++] = 0;
    else {
      const start = this.#at;
      target[this.#at++] = ConditionKind[condition.kind];
      if ('seq' in condition) this.#at = writeVarint(target, this.#at, condition.seq);
      this.#noted = copy(target, start, this.#at, this.#notes, this.#noted);
    }
    this.#at = writeVarint(target, this.#at, count);
  }

  /** The next message. */
  record(message: MessagePlaces): void {
    const source = this.#source;
    const target = this.#target;
    const start = this.#at;
    const place = this.#place++;
    const { keyFrom, keyTo, contentFrom, contentTo, targetSeq } = message;
    let flags = message.usesBatchPosition ? EventFlag.usesBatchPosition : 0;
    this.#at = start + fixedHeaderBytes;
    if (keyTo > keyFrom) {
      flags |= EventFlag.key;
      this.#text(keyFrom, keyTo);
    }
    if (message.messageIdTo > message.messageIdFrom) {
      flags |= EventFlag.messageId;
      this.#text(message.messageIdFrom, message.messageIdTo);
    }
    if (message.subjectTo > message.subjectFrom) {
      flags |= EventFlag.subject;
      this.#text(message.subjectFrom, message.subjectTo);
    }
    if (targetSeq > 0) {
      flags |= EventFlag.targetSeq;
      this.#at = writeVarint(target, this.#at, targetSeq);
    }
    if (place > 0) {
      flags |= EventFlag.batchPosition;
      this.#at = writeVarint(target, this.#at, place);
    }
    const salt = this.#at;
    const size = contentTo - contentFrom;
    const end = salt + saltBytes + size;
    writeHeaderStart(target, start, message.type, flags, salt - start, size);
    const checksum = contentXxh64Place(start);
    if (message.checksumAt >= 0) copy(source, message.checksumAt, message.checksumAt + 8, target, checksum);
    else putXxh64(source, contentFrom, contentTo, target, checksum);
    this.#sealing.putSalt(target, salt);
    source.copy(target, salt + saltBytes, contentFrom, contentTo);
    this.#sealing.putDigest(target, commitmentPlace(start), commitmentBytes, salt, end);
    this.#at = end;
    if (keyTo > keyFrom) {
      this.#sealing.putDigest(target, end, keyDigestBytes, salt + saltBytes, end);
      this.#at += keyDigestBytes;
    }
    this.#note(message, checksum, size);
  }

  finish(): Buffer {
    const digest = xxh32OfNotes(this.#notes, this.#noted);
    const target = this.#target;
    target.writeUInt32LE(digest, this.#from + 2);
    assert(this.#at <= this.#end, 'a command is longer than it was taken for');
    if (target === this.#slab) this.#slabUsed = this.#at;
    return target.subarray(this.#from, this.#at);
  }

  /** Holds nothing of the request or its command any more. */
  forget(): void {
    this.#target = this.#source = none;
    if (this.#notes.length > notesKept) this.#notes = Buffer.allocUnsafeSlow(notesKept);
  }

  /** The command is copied into its entry soon: what shares a slab does not keep it for long. */
  #take(size: number): void {
    this.#from = 0;
    this.#end = size;
    if (size > slabBytes / 4) {
      this.#target = Buffer.allocUnsafeSlow(size);
      return;
    }
    if (this.#slabUsed + size > this.#slab.length) {
      this.#slab = Buffer.allocUnsafeSlow(slabBytes);
      this.#slabUsed = 0;
    }
    this.#target = this.#slab;
    this.#from = this.#slabUsed;
    this.#end = this.#from + size;
  }

  #note(message: MessagePlaces, checksum: number, size: number): void {
    const notes = this.#notes;
    notes[this.#noted] = message.type;
    let at = writeVarint(notes, this.#noted + 1, size);
    at = copy(this.#target, checksum, checksum + 8, notes, at);
    at = this.#noteText(at, message.keyFrom, message.keyTo);
    at = this.#noteText(at, message.messageIdFrom, message.messageIdTo);
    at = this.#noteText(at, message.subjectFrom, message.subjectTo);
    this.#noted = writeVarint(notes, at, message.targetSeq);
  }

  #noteText(at: number, from: number, to: number): number {
    return copy(this.#source, from, to, this.#notes, writeVarint(this.#notes, at, to - from));
  }

  /** Length and bytes of a text in the request. */
  #text(from: number, to: number): void {
    this.#at = copy(this.#source, from, to, this.#target, writeVarint(this.#target, this.#at, to - from));
  }

  #ascii(text: string): void {
    const { length } = text;
    const target = this.#target;
    let at = writeVarint(target, this.#at, length);
    for (let i = 0; i < length; i++) target[at++] = text.charCodeAt(i);
    this.#at = at;
  }

  #u64(value: number): void {
    const target = this.#target;
    const high = Math.floor(value / 0x1_0000_0000);
    target.writeUInt32LE(value % 0x1_0000_0000, this.#at);
    target.writeUInt32LE(high, this.#at + 4);
    this.#at += 8;
  }
}

const notesKept = 64 * 1024;

/** Few bytes: a loop beats the runtime's own copy. Gives the place after them. */
function copy(source: Buffer, from: number, to: number, target: Buffer, at: number): number {
  let place = at;
  for (let i = from; i < to; i++) target[place++] = source[i] as number;
  return place;
}
