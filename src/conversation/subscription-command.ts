/** Commands on durable subscriptions (from apply version 4 on). docs/format.md, "Commands". */
import { type ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import type { PartitionId, Seq, TimeUs } from '../common/ids.js';

import {
  listLength,
  readFlag,
  readPlaces,
  readSelector,
  readSettings,
  type SubscriptionSelector,
  type SubscriptionSettings,
  writePlaces,
  writeSelector,
  writeSettings,
} from './subscription-state.js';

/** First bytes of these commands. */
export const SubscriptionCommandKind = {
  createSubscription: 21,
  updateSubscription: 22,
  deleteSubscription: 23,
  seekSubscription: 24,
  deadLetters: 25,
  stepSubscription: 26,
} as const;

/** A subscription that must be of this life and revision. */
export interface ExpectedSubscription {
  readonly uid: string;
  readonly revision: number;
}

export interface SubscriptionStart {
  readonly fromTimeUs: TimeUs;
  readonly places: ReadonlyMap<PartitionId, Uint8Array>;
}

interface OnSubscription {
  readonly tenant: string;
  readonly name: string;
}

export interface CreateSubscriptionInput extends OnSubscription, SubscriptionStart {
  /** Empty: none. */
  readonly requestId: string;
  readonly selector: SubscriptionSelector;
  readonly settings: SubscriptionSettings;
}

export interface UpdateSubscriptionInput extends OnSubscription {
  readonly expected: ExpectedSubscription | undefined;
  readonly settings: SubscriptionSettings;
  /** Undefined: it follows what it did. */
  readonly reselect?: Reselection | undefined;
}

/** Other events from where it stands on; in partitions that it has not followed yet, from these places. */
export interface Reselection {
  readonly selector: SubscriptionSelector;
  readonly places: ReadonlyMap<PartitionId, Uint8Array>;
}

export interface DeleteSubscriptionInput extends OnSubscription {
  readonly expected: ExpectedSubscription | undefined;
}

export interface SeekSubscriptionInput extends OnSubscription, SubscriptionStart {
  readonly expected: ExpectedSubscription | undefined;
  /** They go, too. */
  readonly dropDeadLetters: boolean;
}

export interface NamedDeadLetter {
  readonly channel: string;
  readonly seq: Seq;
}

/** Delivered again, or dropped. No letters named: all, as far as they fit. */
export interface DeadLettersInput extends OnSubscription {
  readonly replay: boolean;
  readonly letters: readonly NamedDeadLetter[];
}

/** Events of a channel that were taken; all of them that are wanted lie in the range. */
export interface TakenRange {
  readonly channel: string;
  readonly firstSeq: Seq;
  readonly lastSeq: Seq;
  /** Commit time of the first. */
  readonly sinceUs: TimeUs;
}

export type StepOp =
  /** Moves the place of a partition on over these events. */
  | {
      readonly kind: 'take';
      readonly partition: PartitionId;
      readonly place: Uint8Array;
      readonly ranges: readonly TakenRange[];
    }
  /** Gives events up to `toSeq` to a consumer; of a channel that it has already: further ones. */
  | { readonly kind: 'lease'; readonly channel: string; readonly consumer: string; readonly toSeq: Seq }
  /** `nextUs`: commit time of the event behind it, where it is known; else 0. */
  | {
      readonly kind: 'ack';
      readonly channel: string;
      readonly lease: number;
      readonly seq: Seq;
      readonly nextUs: TimeUs;
    }
  /** Gives the lease back; not `counted`: the consumer did not try. */
  | {
      readonly kind: 'nack';
      readonly channel: string;
      readonly lease: number;
      readonly delayMs: number;
      readonly counted: boolean;
      readonly error: string;
    }
  | { readonly kind: 'extend'; readonly channel: string; readonly lease: number; readonly byMs: number }
  | { readonly kind: 'expire'; readonly channel: string; readonly lease: number }
  /** The first event that is not acknowledged was delivered often enough. */
  | { readonly kind: 'bury'; readonly channel: string; readonly seq: Seq }
  /** Events up to this one are gone (their channel is deleted), or none of them is wanted. */
  | { readonly kind: 'skip'; readonly channel: string; readonly seq: Seq };

export interface StepInput extends OnSubscription {
  readonly uid: string;
  /** What the subscription's version must be. */
  readonly version: number;
  readonly ops: readonly StepOp[];
}

export type SubscriptionCommand =
  | ({ readonly kind: 'createSubscription' } & CreateSubscriptionInput)
  | ({ readonly kind: 'updateSubscription' } & UpdateSubscriptionInput)
  | ({ readonly kind: 'deleteSubscription' } & DeleteSubscriptionInput)
  | ({ readonly kind: 'seekSubscription' } & SeekSubscriptionInput)
  | ({ readonly kind: 'deadLetters' } & DeadLettersInput)
  | ({ readonly kind: 'stepSubscription' } & StepInput);

const OpKind = { take: 1, lease: 2, ack: 3, nack: 4, extend: 5, expire: 6, bury: 7, skip: 8 } as const;

export function encodeCreateSubscription(input: CreateSubscriptionInput): Uint8Array {
  const writer = begin(SubscriptionCommandKind.createSubscription, input).string(input.requestId);
  writeSelector(writer, input.selector);
  writeSettings(writer, input.settings);
  writePlaces(writer.u64(input.fromTimeUs), input.places);
  return writer.finish();
}

export function encodeUpdateSubscription(input: UpdateSubscriptionInput): Uint8Array {
  const writer = begin(SubscriptionCommandKind.updateSubscription, input);
  writeExpected(writer, input.expected);
  writeSettings(writer, input.settings);
  if (input.reselect !== undefined) {
    writeSelector(writer, input.reselect.selector);
    writePlaces(writer, input.reselect.places);
  }
  return writer.finish();
}

export function encodeDeleteSubscription(input: DeleteSubscriptionInput): Uint8Array {
  const writer = begin(SubscriptionCommandKind.deleteSubscription, input);
  writeExpected(writer, input.expected);
  return writer.finish();
}

export function encodeSeekSubscription(input: SeekSubscriptionInput): Uint8Array {
  const writer = begin(SubscriptionCommandKind.seekSubscription, input);
  writeExpected(writer, input.expected);
  writePlaces(writer.u8(input.dropDeadLetters ? 1 : 0).u64(input.fromTimeUs), input.places);
  return writer.finish();
}

export function encodeDeadLetters(input: DeadLettersInput): Uint8Array {
  const writer = begin(SubscriptionCommandKind.deadLetters, input);
  writer.u8(input.replay ? 1 : 0).uvarint(input.letters.length);
  for (const { channel, seq } of input.letters) writer.string(channel).uvarint(seq);
  return writer.finish();
}

export function encodeStep(input: StepInput): Uint8Array {
  const writer = begin(SubscriptionCommandKind.stepSubscription, input);
  writer.string(input.uid).uvarint(input.version).uvarint(input.ops.length);
  for (const op of input.ops) writeOp(writer, op);
  return writer.finish();
}

export function isSubscriptionCommand(number: number): boolean {
  return (
    number >= SubscriptionCommandKind.createSubscription && number <= SubscriptionCommandKind.stepSubscription
  );
}

/** Throws MalformedError. */
export function decodeSubscriptionCommand(number: number, reader: ByteReader): SubscriptionCommand {
  const on = { tenant: reader.string(), name: reader.string() };
  const command = decodeBody(number, reader, on);
  reader.end();
  return command;
}

function decodeBody(number: number, reader: ByteReader, on: OnSubscription): SubscriptionCommand {
  switch (number) {
    case SubscriptionCommandKind.createSubscription:
      return {
        kind: 'createSubscription',
        ...on,
        requestId: reader.string(),
        selector: readSelector(reader),
        settings: readSettings(reader),
        fromTimeUs: reader.u64(),
        places: readPlaces(reader),
      };
    case SubscriptionCommandKind.updateSubscription:
      return {
        kind: 'updateSubscription',
        ...on,
        expected: readExpected(reader),
        settings: readSettings(reader),
        reselect:
          reader.remaining === 0 ? undefined : { selector: readSelector(reader), places: readPlaces(reader) },
      };
    case SubscriptionCommandKind.deleteSubscription:
      return { kind: 'deleteSubscription', ...on, expected: readExpected(reader) };
    case SubscriptionCommandKind.seekSubscription:
      return {
        kind: 'seekSubscription',
        ...on,
        expected: readExpected(reader),
        dropDeadLetters: readFlag(reader),
        fromTimeUs: reader.u64(),
        places: readPlaces(reader),
      };
    case SubscriptionCommandKind.deadLetters:
      return {
        kind: 'deadLetters',
        ...on,
        replay: readFlag(reader),
        letters: Array.from({ length: listLength(reader, 2) }, () => ({
          channel: reader.string(),
          seq: reader.uvarint(),
        })),
      };
    case SubscriptionCommandKind.stepSubscription:
      return {
        kind: 'stepSubscription',
        ...on,
        uid: reader.string(),
        version: reader.uvarint(),
        ops: Array.from({ length: listLength(reader, 3) }, () => readOp(reader)),
      };
    default:
      throw new MalformedError(`no command on subscriptions: ${number}`);
  }
}

function begin(number: number, { tenant, name }: OnSubscription): ByteWriter {
  return new ByteWriter(256).u8(number).string(tenant).string(name);
}

function writeOp(writer: ByteWriter, op: StepOp): void {
  writer.u8(OpKind[op.kind]);
  if (op.kind === 'take') {
    writer.uvarint(op.partition).sized(op.place).uvarint(op.ranges.length);
    for (const { channel, firstSeq, lastSeq, sinceUs } of op.ranges)
      writer.string(channel).uvarint(firstSeq).uvarint(lastSeq).u64(sinceUs);
    return;
  }
  writer.string(op.channel);
  switch (op.kind) {
    case 'lease':
      writer.string(op.consumer).uvarint(op.toSeq);
      return;
    case 'ack':
      writer.uvarint(op.lease).uvarint(op.seq).u64(op.nextUs);
      return;
    case 'nack':
      writer
        .uvarint(op.lease)
        .uvarint(op.delayMs)
        .u8(op.counted ? 1 : 0)
        .string(op.error);
      return;
    case 'extend':
      writer.uvarint(op.lease).uvarint(op.byMs);
      return;
    case 'expire':
      writer.uvarint(op.lease);
      return;
    case 'bury':
    case 'skip':
      writer.uvarint(op.seq);
  }
}

function readOp(reader: ByteReader): StepOp {
  const kind = reader.u8();
  if (kind === OpKind.take) {
    return {
      kind: 'take',
      partition: reader.uvarint(),
      place: Uint8Array.from(reader.sized()),
      ranges: Array.from({ length: listLength(reader, 11) }, () => ({
        channel: reader.string(),
        firstSeq: reader.uvarint(),
        lastSeq: reader.uvarint(),
        sinceUs: reader.u64(),
      })),
    };
  }
  const channel = reader.string();
  switch (kind) {
    case OpKind.lease:
      return { kind: 'lease', channel, consumer: reader.string(), toSeq: reader.uvarint() };
    case OpKind.ack:
      return { kind: 'ack', channel, lease: reader.uvarint(), seq: reader.uvarint(), nextUs: reader.u64() };
    case OpKind.nack:
      return {
        kind: 'nack',
        channel,
        lease: reader.uvarint(),
        delayMs: reader.uvarint(),
        counted: readFlag(reader),
        error: reader.string(),
      };
    case OpKind.extend:
      return { kind: 'extend', channel, lease: reader.uvarint(), byMs: reader.uvarint() };
    case OpKind.expire:
      return { kind: 'expire', channel, lease: reader.uvarint() };
    case OpKind.bury:
      return { kind: 'bury', channel, seq: reader.uvarint() };
    case OpKind.skip:
      return { kind: 'skip', channel, seq: reader.uvarint() };
    default:
      throw new MalformedError(`no step of a subscription: ${kind}`);
  }
}

function writeExpected(writer: ByteWriter, expected: ExpectedSubscription | undefined): void {
  writer.string(expected?.uid ?? '');
  if (expected !== undefined) writer.uvarint(expected.revision);
}

function readExpected(reader: ByteReader): ExpectedSubscription | undefined {
  const uid = reader.string();
  return uid === '' ? undefined : { uid, revision: reader.uvarint() };
}
