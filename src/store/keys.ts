/**
 * LevelDB keys, written by hand (nested sublevels halve LevelDB's speed):
 * kind u8, partition u16 BE, replica generation u32 BE, then the kind's own
 * part. Big-endian, so that they sort.
 */

import { ofHalves } from '../common/bytes.js';
import type { KvRange } from '../common/env.js';
import type { ChannelId, Index, PartitionId, Seq } from '../common/ids.js';

export const RowKind = {
  format: 0x01,
  fact: 0x02,
  /** What is known of a file of values (value-format.ts). */
  valueFile: 0x03,
  /** One per partition, without generation: it names the one that counts. */
  partition: 0x10,
  /** One per partition that ever took in a snapshot, without generation: which generations may have rows. */
  generation: 0x11,
  channel: 0x20,
  /** tenant \0 name → channel id; small, so that the open scan is. */
  channelName: 0x21,
  block: 0x22,
  producer: 0x23,
  keyRun: 0x24,
  messageIdRun: 0x25,
  checkpoint: 0x26,
  /** Deleted channels of which rows are left. */
  ended: 0x27,
  /** Which channels have a label or participant (terms.ts). */
  term: 0x28,
  /** Which entries brought which events (change-rows.ts). */
  change: 0x29,
  /** Read cursors: tenant \0 channel \0 reader. */
  cursor: 0x2a,
  /** Durable subscriptions: tenant \0 name. */
  subscription: 0x2b,
} as const;
export type RowKind = (typeof RowKind)[keyof typeof RowKind];

export interface Place {
  readonly partition: PartitionId;
  /** Replica generation; a snapshot comes in under a new one. */
  readonly generation: number;
}

const prefixBytes = 7;

export function formatKey(): Buffer {
  return Buffer.of(RowKind.format);
}

export function factKey(name: string): Buffer {
  return Buffer.concat([Buffer.of(RowKind.fact), Buffer.from(name)]);
}

export function partitionKey(partition: PartitionId): Buffer {
  return keyOfPartition(RowKind.partition, partition);
}

export function generationKey(partition: PartitionId): Buffer {
  return keyOfPartition(RowKind.generation, partition);
}

export function partitionOfKey(key: Uint8Array): PartitionId {
  return asBuffer(key).readUInt16BE(1);
}

function keyOfPartition(kind: RowKind, partition: PartitionId): Buffer {
  const key = Buffer.allocUnsafe(3);
  key[0] = kind;
  key.writeUInt16BE(partition, 1);
  return key;
}

/** The kinds of rows that belong to a generation of a replica, ascending. */
export const generationKinds: readonly RowKind[] = Object.freeze([
  RowKind.channel,
  RowKind.channelName,
  RowKind.block,
  RowKind.producer,
  RowKind.keyRun,
  RowKind.messageIdRun,
  RowKind.checkpoint,
  RowKind.ended,
  RowKind.term,
  RowKind.change,
  RowKind.cursor,
  RowKind.subscription,
]);

/** What a key says beside kind, partition and generation: the same in every generation. */
export function ownPartOfKey(key: Uint8Array): Uint8Array {
  return key.subarray(prefixBytes);
}

export function keyOfOwnPart(kind: RowKind, place: Place, ownPart: Uint8Array): Buffer {
  const key = start(kind, place, ownPart.length);
  key.set(ownPart, prefixBytes);
  return key;
}

/** `tenant \0 name` in bytes: how channels sort. */
export function nameBytes(tenant: string, name: string): Buffer {
  return Buffer.from(`${tenant}\0${name}`);
}

export function nameKey(kind: RowKind, place: Place, tenantAndName: Uint8Array): Buffer {
  const key = start(kind, place, tenantAndName.length);
  key.set(tenantAndName, prefixBytes);
  return key;
}

export function nameOfKey(key: Uint8Array): Uint8Array {
  return key.subarray(prefixBytes);
}

export function blockKey(place: Place, channelId: ChannelId, firstSeq: Seq): Buffer {
  const key = start(RowKind.block, place, 16);
  writeU64BE(key, channelId, prefixBytes);
  writeU64BE(key, firstSeq, prefixBytes + 8);
  return key;
}

/** All blocks of a channel from the one that begins at `firstSeq` on. */
export function blocksRange(place: Place, channelId: ChannelId, firstSeq: Seq): KvRange {
  return { gte: blockKey(place, channelId, firstSeq), lt: blockKey(place, channelId + 1, 0) };
}

export function firstSeqOfBlockKey(key: Uint8Array): Seq {
  return readU64BE(key, prefixBytes + 8);
}

export function producerKey(place: Place, id: number): Buffer {
  return numberKey(RowKind.producer, place, id);
}

export function checkpointKey(place: Place, number: number): Buffer {
  return numberKey(RowKind.checkpoint, place, number);
}

export function endedKey(place: Place, channelId: ChannelId): Buffer {
  return numberKey(RowKind.ended, place, channelId);
}

/** By the last entry that the row tells of. */
export function changeKey(place: Place, toIndex: Index): Buffer {
  return numberKey(RowKind.change, place, toIndex);
}

/** Rows that tell of entries from `index` on. */
export function changesRange(place: Place, index: Index): KvRange {
  return { gte: changeKey(place, index), lt: kindRange(RowKind.change, place).lt };
}

export type RunKind = typeof RowKind.keyRun | typeof RowKind.messageIdRun;
export const RunPart = { chunk: 0, index: 1 } as const;
export type RunPart = (typeof RunPart)[keyof typeof RunPart];

export function runKey(kind: RunKind, place: Place, run: number, part: RunPart, number: number): Buffer {
  const key = start(kind, place, 13);
  writeU64BE(key, run, prefixBytes);
  key[prefixBytes + 8] = part;
  key.writeUInt32BE(number, prefixBytes + 9);
  return key;
}

export function runPlaceOfKey(key: Uint8Array): { run: number; part: number; number: number } {
  return {
    run: readU64BE(key, prefixBytes),
    part: key[prefixBytes + 8] as number,
    number: asBuffer(key).readUInt32BE(prefixBytes + 9),
  };
}

export function numberOfKey(key: Uint8Array): number {
  return readU64BE(key, prefixBytes);
}

/** All rows of a kind. */
export function kindRange(kind: RowKind, place: Place): KvRange {
  return { gte: start(kind, place, 0), lt: after(start(kind, place, 0)) };
}

/** All rows of a kind in generations `from` to `to`, inclusive. */
export function generationsRange(kind: RowKind, partition: PartitionId, from: number, to: number): KvRange {
  return {
    gte: start(kind, { partition, generation: from }, 0),
    lt: after(start(kind, { partition, generation: to }, 0)),
  };
}

/** The smallest key that is larger than all that begin with `prefix`. */
export function after(prefix: Uint8Array): Buffer {
  const key = Buffer.from(prefix);
  for (let at = key.length - 1; at >= 0; at--) {
    const byte = key[at] as number;
    if (byte < 0xff) {
      key[at] = byte + 1;
      return key.subarray(0, at + 1);
    }
  }
  throw new RangeError('no key comes after all 0xff');
}

export function writeU64BE(bytes: Buffer, value: number, at: number): void {
  bytes.writeUInt32BE(Math.floor(value / 0x1_0000_0000), at);
  bytes.writeUInt32BE(value % 0x1_0000_0000, at + 4);
}

export function readU64BE(bytes: Uint8Array, at: number): number {
  const buffer = asBuffer(bytes);
  return ofHalves(buffer.readUInt32BE(at + 4), buffer.readUInt32BE(at));
}

export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}

function numberKey(kind: RowKind, place: Place, number: number): Buffer {
  const key = start(kind, place, 8);
  writeU64BE(key, number, prefixBytes);
  return key;
}

function start(kind: RowKind, place: Place, more: number): Buffer {
  const key = Buffer.allocUnsafe(prefixBytes + more);
  key[0] = kind;
  key.writeUInt16BE(place.partition, 1);
  key.writeUInt32BE(place.generation, 3);
  return key;
}
