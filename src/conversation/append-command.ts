/**
 * The append command: which channel, who appends, under what condition, and the
 * event records (event-record.ts) as they will be stored. docs/format.md, "Commands".
 */
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import { xxh32 } from '../common/hash.js';
import type { ProducerId, Seq } from '../common/ids.js';
import { applyLimits } from './apply-limits.js';
import {
  EventFlag,
  fixedHeaderBytes,
  type NewEvent,
  type RecordSkim,
  saltBytes,
  skimRecord,
  writeEventRecord,
} from './event-record.js';

/** First byte of the command (CommandKind.append). */
export const appendKind = 1;
export const keyDigestBytes = 16;

export const AppendFlag = { producer: 1, condition: 2 } as const;
export const ConditionKind = {
  expectedHeadSeq: 1,
  expectedLastMessageSeq: 2,
  mustNotExist: 3,
  mustExist: 4,
} as const;

export type AppendCondition =
  | { readonly kind: 'expectedHeadSeq'; readonly seq: Seq }
  | { readonly kind: 'expectedLastMessageSeq'; readonly seq: Seq }
  | { readonly kind: 'mustNotExist' }
  | { readonly kind: 'mustExist' };

export interface AppendInput {
  readonly tenant: string;
  readonly channel: string;
  readonly producer?: { readonly id: ProducerId; readonly firstCounter: number } | undefined;
  readonly condition?: AppendCondition | undefined;
  /** `keyDigest`: first 16 bytes of SHA-256 of the content, where the event has a key. */
  readonly events: readonly (NewEvent & { readonly keyDigest?: Uint8Array | undefined })[];
}

/** Packs an append; done once, on the leader. Throws RangeError where the caller broke the contract. */
export function encodeAppend(input: AppendInput): Uint8Array {
  const { producer, condition, events } = input;
  if (events.length === 0) throw new RangeError('an append needs an event');
  let size = 64 + input.tenant.length + input.channel.length * 3;
  for (const event of events) size += 256 + event.content.length;
  // The command is copied into its entry within the turn.
  const writer = new ByteWriter(size, 'pooled').u8(appendKind);
  writer.u8((producer ? AppendFlag.producer : 0) | (condition ? AppendFlag.condition : 0));
  const digestAt = writer.length;
  writer.u32(0).string(input.tenant).string(input.channel);
  if (producer) writer.u64(producer.id).u64(producer.firstCounter);
  if (condition) writeCondition(writer, condition);
  writer.uvarint(events.length);
  for (let i = 0; i < events.length; i++) {
    const event = events[i] as (typeof events)[number];
    writeEventRecord(writer, event, i);
    if (!event.key) continue;
    if (event.keyDigest?.length !== keyDigestBytes) throw new RangeError('a key needs a digest of 16 bytes');
    writer.bytes(event.keyDigest);
  }
  writer.patchU32(digestAt, clientDigest(writer, input));
  return writer.finish();
}

/**
 * xxh32 of what the client sent, by which other content under a used counter is
 * recognised. A retry may be packed by another leader: salts, commitments and the
 * like are not in it. Written behind the command for a moment, to save a buffer.
 */
function clientDigest(writer: ByteWriter, input: AppendInput): number {
  const start = writer.length;
  writer.string(input.tenant).string(input.channel);
  if (input.condition) writeCondition(writer, input.condition);
  else writer.u8(0);
  for (const event of input.events) {
    writer.u8(event.type).uvarint(event.content.length).u64big(event.contentXxh64);
    writer
      .string(event.key ?? '')
      .string(event.messageId ?? '')
      .string(event.subject ?? '');
    writer.uvarint(event.targetSeq ?? 0);
  }
  const digest = xxh32(writer.view(start));
  writer.truncate(start);
  return digest;
}

function writeCondition(writer: ByteWriter, condition: AppendCondition): void {
  writer.u8(ConditionKind[condition.kind]);
  if (condition.kind === 'expectedHeadSeq' || condition.kind === 'expectedLastMessageSeq') {
    writer.uvarint(condition.seq);
  }
}

export type AppendedRecord = Readonly<RecordSkim>;

export interface AppendCommand {
  readonly kind: 'append';
  readonly tenant: string;
  readonly channel: string;
  /** 0: no producer. */
  readonly producerId: ProducerId;
  readonly firstCounter: number;
  readonly condition: AppendCondition | undefined;
  /** xxh32 of what the client sent. */
  readonly digest: number;
  readonly records: readonly AppendedRecord[];
  readonly hasKeys: boolean;
  readonly hasMessageIds: boolean;
  /** Some content refers to a place in this batch. */
  readonly usesBatchPosition: boolean;
}

/** Contents are not looked at. Throws MalformedError. */
export function decodeAppend(bytes: Buffer, from: number, to: number): AppendCommand {
  const reader = new ByteReader(bytes, from, to);
  if (reader.u8() !== appendKind) throw new MalformedError('not an append');
  const flags = reader.u8();
  if (flags > 3) throw new MalformedError('an append with unknown flags');
  const digest = reader.u32();
  const tenant = reader.name();
  const channel = reader.name();
  let producerId = 0;
  let firstCounter = 0;
  if ((flags & AppendFlag.producer) !== 0) {
    producerId = reader.u64();
    firstCounter = reader.u64();
    if (producerId === 0 || firstCounter === 0) throw new MalformedError('a producer stamp of 0');
  }
  const condition = (flags & AppendFlag.condition) !== 0 ? readCondition(reader) : undefined;
  const count = reader.uvarint();
  if (count === 0) throw new MalformedError('an append of nothing');
  if (count > applyLimits.eventsPerAppend || count * (fixedHeaderBytes + saltBytes) > reader.remaining) {
    throw new MalformedError('an append with too many events, or cut short');
  }
  if (!Number.isSafeInteger(firstCounter + count)) throw new MalformedError('a counter out of range');
  const records: AppendedRecord[] = [];
  let allFlags = 0;
  let offset = reader.position;
  for (let i = 0; i < count; i++) {
    const record = readRecord(bytes, offset, to, i);
    allFlags |= record.flags;
    offset = record.end;
    records.push(record);
  }
  if (offset !== to) throw new MalformedError('an append with bytes too many');
  return {
    kind: 'append',
    tenant,
    channel,
    producerId,
    firstCounter,
    condition,
    digest,
    records,
    hasKeys: (allFlags & EventFlag.key) !== 0,
    hasMessageIds: (allFlags & EventFlag.messageId) !== 0,
    usesBatchPosition: (allFlags & EventFlag.usesBatchPosition) !== 0,
  };
}

function readRecord(bytes: Buffer, offset: number, to: number, place: number): AppendedRecord {
  const record = skimRecord(bytes, offset, to, applyLimits.idBytes);
  if (record.batchPosition !== place) throw new MalformedError('an event with the place of another');
  if (record.contentLength > applyLimits.contentBytes + saltBytes)
    throw new MalformedError('a content too large');
  if (record.key !== undefined) {
    record.keyDigestOffset = record.end;
    record.end += keyDigestBytes;
    if (record.end > to) throw new MalformedError('an append is cut short');
  }
  return record;
}

function readCondition(reader: ByteReader): AppendCondition {
  const kind = reader.u8();
  switch (kind) {
    case ConditionKind.expectedHeadSeq:
      return { kind: 'expectedHeadSeq', seq: reader.uvarint() };
    case ConditionKind.expectedLastMessageSeq:
      return { kind: 'expectedLastMessageSeq', seq: reader.uvarint() };
    case ConditionKind.mustNotExist:
      return { kind: 'mustNotExist' };
    case ConditionKind.mustExist:
      return { kind: 'mustExist' };
    default:
      throw new MalformedError(`an append condition of kind ${kind}`);
  }
}
