/** A row of the database as a tree of plain values, for people who look into files. Total: damage is part of the answer. */
import { ByteReader, MalformedError } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import { decodeEventHeader } from '../conversation/event-record.js';
import { readSubscription, type SubscriptionState } from '../conversation/subscription-state.js';
import type { StoredEvent } from '../conversation/types.js';
import { readUnit } from './block.js';
import { readChanges } from './change-rows.js';
import { readCursor } from './cursors.js';
import {
  asBuffer,
  firstSeqOfBlockKey,
  nameOfKey,
  numberOfKey,
  RowKind,
  readU64BE,
  runPlaceOfKey,
} from './keys.js';
import { openRow, rowVersion } from './rows.js';
import {
  readChannel,
  readCheckpoint,
  readEnded,
  readPartition,
  readProducer,
  type SealedChannel,
} from './state-codec.js';
import { fileOfKey, placeIn, readValueFileRow } from './value-format.js';

export type Plain = string | number | boolean | readonly Plain[] | { readonly [name: string]: Plain };

export interface DescribedRow {
  /** Name of the kind, with underlines; `unknown` where it is none of ours. */
  readonly kind: string;
  /** What the key says. */
  readonly place: Readonly<Record<string, Plain>>;
  /** What the value says; absent where it can not be read, or there is none. */
  readonly value?: Readonly<Record<string, Plain>>;
  readonly problem?: string;
}

const kindNames = new Map<number, string>(
  Object.entries(RowKind).map(([name, kind]) => [kind, name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`)]),
);
/** `10 PPPP` and its like have no generation. */
const wholePartitionKinds: ReadonlySet<number> = new Set([RowKind.partition, RowKind.generation]);
const generationPrefixBytes = 7;

/** `events`: a block's events one by one too. */
export function describeRow(key: Uint8Array, value: Uint8Array | undefined, events = true): DescribedRow {
  const kind = key[0] ?? 0;
  const name = kindNames.get(kind) ?? 'unknown';
  const place = placeOf(asBuffer(key), kind);
  if (place === undefined) {
    return { kind: name, place: { key: asBuffer(key).toString('hex') }, problem: 'the key is none of ours' };
  }
  if (value === undefined) return { kind: name, place };
  const elsewhere = placeIn(key, value);
  if (elsewhere !== undefined) return { kind: name, place, value: { in_value_file: plain(elsewhere) } };
  try {
    const opened = openRow(key, value, `a row of kind ${name}`, (reader, version) => {
      if (version > rowVersion) throw new MalformedError(`version ${version}`);
      return bodyOf(kind, reader, version, events);
    });
    return { kind: name, place, value: opened };
  } catch (error) {
    if (error instanceof HansardError || error instanceof MalformedError) {
      return { kind: name, place, problem: error.message };
    }
    throw error;
  }
}

function placeOf(key: Buffer, kind: number): Record<string, Plain> | undefined {
  switch (kind) {
    case RowKind.format:
      return key.length === 1 ? {} : undefined;
    case RowKind.fact:
      return { name: key.toString('utf8', 1) };
    case RowKind.valueFile:
      return key.length === 9 ? { file: fileOfKey(key) } : undefined;
  }
  if (wholePartitionKinds.has(kind)) return key.length === 3 ? { partition: key.readUInt16BE(1) } : undefined;
  if (!kindNames.has(kind) || key.length < generationPrefixBytes) return undefined;
  const own = asBuffer(nameOfKey(key));
  const place = { partition: key.readUInt16BE(1), generation: key.readUInt32BE(3) };
  switch (kind) {
    case RowKind.channel:
    case RowKind.channelName: {
      const zero = own.indexOf(0);
      if (zero < 0) return undefined;
      return { ...place, tenant: own.toString('utf8', 0, zero), channel: own.toString('utf8', zero + 1) };
    }
    case RowKind.block:
      if (own.length !== 16) return undefined;
      return { ...place, channel_id: readU64BE(own, 0), first_seq: firstSeqOfBlockKey(key) };
    case RowKind.producer:
      return own.length === 8 ? { ...place, producer_id: numberOfKey(key) } : undefined;
    case RowKind.checkpoint:
      return own.length === 8 ? { ...place, number: numberOfKey(key) } : undefined;
    case RowKind.cursor: {
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what separates
      const parts = /^([^\0]*)\0([^\0\u0001]*)([\0\u0001])(.*)$/s.exec(own.toString('utf8'));
      if (parts === null) return undefined;
      const [, tenant = '', channel = '', separator, holder = ''] = parts;
      return { ...place, tenant, channel, [separator === '\0' ? 'reader' : 'recipient']: holder };
    }
    case RowKind.subscription: {
      const [tenant = '', ...name] = own.toString('utf8').split('\0');
      return { ...place, tenant, subscription: name.join('\0') };
    }
    case RowKind.change:
      return own.length === 8 ? { ...place, to_index: numberOfKey(key) } : undefined;
    case RowKind.ended:
      return own.length === 8 ? { ...place, channel_id: numberOfKey(key) } : undefined;
    case RowKind.keyRun:
    case RowKind.messageIdRun: {
      if (own.length !== 13) return undefined;
      const { run, part, number } = runPlaceOfKey(key);
      return { ...place, run, part: part === 0 ? 'chunk' : 'index', number };
    }
    default:
      return { ...place, own_part: own.toString('hex') };
  }
}

function bodyOf(kind: number, reader: ByteReader, version: number, events: boolean): Record<string, Plain> {
  switch (kind) {
    case RowKind.format:
      return formatOf(reader);
    case RowKind.valueFile:
      return plain(readValueFileRow(reader));
    case RowKind.partition: {
      const { confState, meta, runs, retired, membership, ...rest } = readPartition(reader, version);
      return plain({
        ...rest,
        voters: confState.voters,
        learners: confState.learners,
        voters_outgoing: confState.votersOutgoing,
        meta,
        runs,
        retired,
        members: membership.members,
      });
    }
    case RowKind.generation:
      return { highest: reader.u32(), swept: reader.u8() === 1, installed_index: reader.uvarint() };
    case RowKind.channel:
      return channelOf(readChannel(reader, version), events);
    case RowKind.channelName:
      return { channel_id: reader.uvarint() };
    case RowKind.block: {
      const unit = readUnit(reader);
      reader.end();
      return unitOf(unit, events);
    }
    case RowKind.producer: {
      const producer = readProducer(reader);
      return plain({ ...producer, answers: [...producer.answers] });
    }
    case RowKind.checkpoint:
      return plain(readCheckpoint(reader));
    case RowKind.change: {
      const { changes, ...rest } = readChanges(reader);
      return plain({
        ...rest,
        changes: [...changes].map(({ index, channel, firstSeq, lastSeq }) => ({
          index,
          channel: channel.name,
          first_seq: firstSeq,
          last_seq: lastSeq,
        })),
      });
    }
    case RowKind.cursor:
      return plain(readCursor(reader));
    case RowKind.subscription:
      return subscriptionOf(readSubscription(reader, '', ''));
    case RowKind.ended:
      return plain(readEnded(reader));
    case RowKind.term:
      reader.end();
      return {};
    default:
      // Facts are the node's own bytes; runs are packed for lookups, their number and size say enough.
      return {
        bytes: reader.remaining,
        ...(reader.remaining <= 64 ? { hex: reader.bytes(reader.remaining).toString('hex') } : {}),
      };
  }
}

function subscriptionOf(state: SubscriptionState): Record<string, Plain> {
  const { tenant: _, name: __, places, channels, deadLetters, selector, ...rest } = state;
  const { label, ...selected } = selector;
  return plain({
    ...rest,
    selector: { ...selected, label: label?.join('=') },
    places: [...places].map(([partition, place]) => ({ partition, place })),
    channels: [...channels].map(([channel, pending]) => ({ channel, ...pending })),
    dead_letters: [...deadLetters.values()],
  });
}

function formatOf(reader: ByteReader): Record<string, Plain> {
  const version = reader.u16();
  return {
    format_version: version,
    cluster_id: reader.string(),
    store_id: reader.string(),
    block_bytes: reader.u32(),
    partitions: reader.uvarint(),
  };
}

function channelOf({ state, openUnit, ...rest }: SealedChannel, events: boolean): Record<string, Plain> {
  const fields = plain({ ...state, ...rest });
  if (openUnit === undefined) return fields;
  return { ...fields, open_unit: unitOf(readUnit(new ByteReader(openUnit)), events) };
}

function unitOf(unit: readonly StoredEvent[], each: boolean): Record<string, Plain> {
  const bounds = { events: unit.length, first_seq: unit[0]?.seq ?? 0, last_seq: unit.at(-1)?.seq ?? 0 };
  if (!each) return bounds;
  return {
    ...bounds,
    list: unit.map((event) => {
      const header = decodeEventHeader(event.bytes, event.headerOffset, event.headerLength);
      return {
        seq: event.seq,
        type: header.type,
        commit_time_us: event.commitTimeUs,
        ...(event.producerId === 0
          ? {}
          : { producer_id: event.producerId, producer_counter: event.producerCounter }),
        content_bytes: header.contentLength,
        content_xxh64: header.contentXxh64.toString(16).padStart(16, '0'),
        commitment: asBuffer(header.commitment).toString('hex'),
        ...(header.key === '' ? {} : { key: header.key }),
        ...(header.messageId === '' ? {} : { message_id: header.messageId }),
        ...(header.erased ? { erased: true } : {}),
      };
    }),
  };
}

/** Names with underlines, as everywhere in JSON; bytes and long numbers in hex. */
export function plain(value: object): Record<string, Plain> {
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, each]) => each !== undefined)
      .map(([name, each]) => [name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`), plainValue(each)]),
  );
}

function plainValue(value: unknown): Plain {
  if (typeof value === 'bigint') return value.toString(16).padStart(16, '0');
  if (value instanceof Uint8Array) return asBuffer(value).toString('hex');
  if (Array.isArray(value)) return value.map(plainValue);
  if (typeof value === 'object' && value !== null) return plain(value);
  return value as Plain;
}
