/**
 * The payload of a Raft entry and the commands in it. docs/format.md, "Entry
 * payload" and "Commands". Encoders trust their caller and throw RangeError;
 * decoders trust nobody and throw MalformedError, which apply turns into a refusal.
 */
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import type { ProducerId, TimeUs } from '../common/ids.js';
import { entryMemory } from '../common/slab.js';
import { type AppendCommand, decodeAppend } from './append-command.js';
import { applyLimits } from './apply-limits.js';
import {
  decodeReportDelivery,
  type ReportDeliveryCommand,
  reportDeliveryNumber,
} from './delivery-command.js';
import {
  decodeSubscriptionCommand,
  isSubscriptionCommand,
  type SubscriptionCommand,
  SubscriptionCommandKind,
} from './subscription-command.js';
import type { Participant, ReplicatedSettings } from './types.js';

export const entryVersion = 1;
/** The newest apply version that this build can carry out. */
export const supportedApplyVersion = 4;
/** Bytes of an entry beside its commands, for whoever packs to a size. */
export const entryHeaderBytes = 16;
/** Bytes of an entry per command beside the command. */
export const commandPrefixBytes = 4;

/** First byte of a command. Numbers of commands to come are taken already. */
export const CommandKind = {
  append: 1,
  openProducer: 2,
  expireProducers: 3,
  createChannel: 4,
  setSettings: 5,
  noop: 6,
  closeProducer: 7,
  updateChannel: 8,
  deleteChannel: 9,
  undeleteChannel: 10,
  sealChannel: 11,
  grantLease: 12,
  renewLease: 13,
  releaseLease: 14,
  expireLease: 15,
  eraseContent: 16,
  appendMany: 17,
  moveCursor: 20,
  reportDelivery: reportDeliveryNumber,
  ...SubscriptionCommandKind,
  once: 28,
} as const;
export type CommandKind = (typeof CommandKind)[keyof typeof CommandKind];

export interface OpenProducerCommand {
  readonly kind: 'openProducer';
  readonly tenant: string;
  /** Empty: anonymous. */
  readonly name: string;
}

/** Evicts anonymous producers that have done nothing since the named time. */
export interface ExpireProducersCommand {
  readonly kind: 'expireProducers';
  readonly producers: readonly { readonly id: ProducerId; readonly lastActiveUs: TimeUs }[];
}

export interface CreateChannelInput {
  readonly tenant: string;
  readonly channel: string;
  /** Empty: none. */
  readonly requestId: string;
  readonly title: string;
  readonly class: string;
  readonly labels: readonly (readonly [string, string])[];
  readonly participants: readonly Readonly<Participant>[];
}

export interface CreateChannelCommand extends CreateChannelInput {
  readonly kind: 'createChannel';
  /** Where all but the request id lies in the entry: what a repeat must equal. */
  readonly bodyOffset: number;
  readonly bodyEnd: number;
}

/** What the channel must be for a change to be made: this life of it, at this revision. */
export interface ExpectedRevision {
  readonly uid: string;
  readonly revision: number;
}

/** Fields left out stay as they are. */
export interface UpdateChannelInput {
  readonly tenant: string;
  readonly channel: string;
  /** Empty: none. */
  readonly requestId: string;
  readonly expected?: ExpectedRevision | undefined;
  readonly title?: string | undefined;
  readonly class?: string | undefined;
  readonly labels?: readonly (readonly [string, string])[] | undefined;
  readonly participants?: readonly Readonly<Participant>[] | undefined;
}

export interface UpdateChannelCommand extends UpdateChannelInput {
  readonly kind: 'updateChannel';
  /** Where all but the request id lies in the entry: what a repeat must equal. */
  readonly bodyOffset: number;
  readonly bodyEnd: number;
}

export interface DeleteChannelInput {
  readonly tenant: string;
  readonly channel: string;
  /** Empty: none. */
  readonly requestId: string;
  readonly expected?: ExpectedRevision | undefined;
  /** A channel that is not there is as good as deleted. */
  readonly allowMissing: boolean;
  /** Not to be brought back. Before apply version 3 no deletion is. */
  readonly permanent?: boolean;
}

/** What sealing and bringing back a channel are told. */
export interface ChannelInput {
  readonly tenant: string;
  readonly channel: string;
  /** Empty: none. */
  readonly requestId: string;
  readonly expected?: ExpectedRevision | undefined;
}

export interface SealChannelCommand extends ChannelInput {
  readonly kind: 'sealChannel';
  readonly bodyOffset: number;
  readonly bodyEnd: number;
}

export interface UndeleteChannelCommand extends ChannelInput {
  readonly kind: 'undeleteChannel';
  readonly bodyOffset: number;
  readonly bodyEnd: number;
}

/** Appends to several channels, all or none. */
export interface AppendManyCommand {
  readonly kind: 'appendMany';
  readonly tenant: string;
  /** Empty: none. */
  readonly requestId: string;
  readonly appends: readonly AppendCommand[];
}

export interface DeleteChannelCommand extends DeleteChannelInput {
  readonly kind: 'deleteChannel';
  readonly bodyOffset: number;
  readonly bodyEnd: number;
}

export interface MoveCursorInput {
  readonly tenant: string;
  readonly channel: string;
  readonly reader: string;
  readonly seq: number;
  /** Otherwise it only goes forward. */
  readonly mayGoBack: boolean;
}

export interface MoveCursorCommand extends MoveCursorInput {
  readonly kind: 'moveCursor';
}

type OnSubscription = Exclude<SubscriptionCommand, { readonly kind: 'stepSubscription' }>;

/** A command that has no request id of its own, carried out once under this one. */
export interface OnceCommand {
  readonly kind: 'once';
  readonly requestId: string;
  /** `bodyDigest` of what the client asked for: what a repeat must equal. The command itself may hold what the server looked up for it. */
  readonly digest: Uint8Array;
  readonly command: OnSubscription | MoveCursorCommand;
}

/** Fields left out stay as they are. */
export interface SetSettingsCommand {
  readonly kind: 'setSettings';
  readonly settings: Partial<ReplicatedSettings>;
}

export interface NoopCommand {
  readonly kind: 'noop';
}

/** A kind that this apply version does not carry out. */
export interface UnknownCommand {
  readonly kind: 'unknown';
  readonly number: number;
}

export type Command =
  | AppendCommand
  | OpenProducerCommand
  | ExpireProducersCommand
  | CreateChannelCommand
  | UpdateChannelCommand
  | DeleteChannelCommand
  | SealChannelCommand
  | UndeleteChannelCommand
  | AppendManyCommand
  | MoveCursorCommand
  | ReportDeliveryCommand
  | SubscriptionCommand
  | OnceCommand
  | SetSettingsCommand
  | NoopCommand
  | UnknownCommand;

/**
 * One entry of the Raft log. `applyVersion` is the newest that the leader's build
 * can carry out: for those who look into a log, never for applying.
 */
export function encodeEntry(
  commands: readonly Uint8Array[],
  leaderTimeUs: TimeUs,
  applyVersion: number,
): Uint8Array {
  let size = entryHeaderBytes;
  for (const command of commands) size += commandPrefixBytes + command.length;
  const bytes = entryMemory.take(size);
  bytes[0] = entryVersion;
  bytes[1] = 0;
  bytes.writeUInt16LE(applyVersion, 2);
  bytes.writeUInt32LE(leaderTimeUs % 0x1_0000_0000, 4);
  bytes.writeUInt32LE(Math.floor(leaderTimeUs / 0x1_0000_0000), 8);
  bytes.writeUInt32LE(commands.length, 12);
  let at = entryHeaderBytes;
  for (const command of commands) {
    bytes.writeUInt32LE(command.length, at);
    bytes.set(command, at + commandPrefixBytes);
    at += commandPrefixBytes + command.length;
  }
  return bytes;
}

export interface EntryFrame {
  readonly version: number;
  readonly leaderTimeUs: TimeUs;
  readonly applyVersion: number;
  /** Pairs: first byte of a command, byte after its last. */
  readonly bounds: readonly number[];
}

/**
 * Reads the frame of an entry and where its commands lie. Of a later version only
 * the version is read. Throws MalformedError unless every byte is accounted for.
 */
export function readEntry(bytes: Buffer): EntryFrame {
  const reader = new ByteReader(bytes);
  const version = reader.u8();
  if (version === 0) throw new MalformedError('entry of version 0');
  if (version > entryVersion) return { version, leaderTimeUs: 0, applyVersion: 0, bounds: [] };
  if (reader.u8() !== 0) throw new MalformedError('entry with unknown flags');
  const applyVersion = reader.u16();
  const leaderTimeUs = reader.u64();
  const count = reader.u32();
  if (count * commandPrefixBytes > reader.remaining) throw new MalformedError('entry is cut short');
  const bounds: number[] = [];
  for (let i = 0; i < count; i++) {
    const length = reader.u32();
    bounds.push(reader.position, reader.position + length);
    reader.skip(length);
  }
  reader.end();
  return { version, leaderTimeUs, applyVersion, bounds };
}

export function decodeCommand(bytes: Buffer, from: number, to: number): Command {
  if (from >= to) throw new MalformedError('an empty command');
  const number = bytes[from] as number;
  if (number === CommandKind.append) return decodeAppend(bytes, from, to);
  const reader = new ByteReader(bytes, from + 1, to);
  switch (number) {
    case CommandKind.openProducer: {
      const command = { kind: 'openProducer', tenant: reader.string(), name: reader.string() } as const;
      return ended(reader, command);
    }
    case CommandKind.expireProducers:
      return ended(reader, decodeExpireProducers(reader));
    case CommandKind.createChannel:
      return ended(reader, decodeCreateChannel(reader, to));
    case CommandKind.updateChannel:
      return ended(reader, decodeUpdateChannel(reader, to));
    case CommandKind.deleteChannel:
      return ended(reader, decodeDeleteChannel(reader, to));
    case CommandKind.sealChannel:
      return ended(reader, { kind: 'sealChannel', ...decodeChannelInput(reader, to) });
    case CommandKind.undeleteChannel:
      return ended(reader, { kind: 'undeleteChannel', ...decodeChannelInput(reader, to) });
    case CommandKind.appendMany:
      return decodeAppendMany(bytes, reader, to);
    case CommandKind.moveCursor:
      return ended(reader, decodeMoveCursor(reader));
    case CommandKind.reportDelivery:
      return ended(reader, decodeReportDelivery(reader));
    case CommandKind.once:
      return decodeOnce(bytes, reader, to);
    case CommandKind.setSettings:
      return ended(reader, decodeSetSettings(reader));
    case CommandKind.noop:
      return ended(reader, { kind: 'noop' });
    default:
      return isSubscriptionCommand(number)
        ? decodeSubscriptionCommand(number, reader)
        : { kind: 'unknown', number };
  }
}

/** An empty name opens an anonymous producer. */
export function encodeOpenProducer(tenant: string, name: string): Uint8Array {
  return new ByteWriter(64).u8(CommandKind.openProducer).string(tenant).string(name).finish();
}

export function encodeExpireProducers(producers: ExpireProducersCommand['producers']): Uint8Array {
  const writer = new ByteWriter(8 + producers.length * 16);
  writer.u8(CommandKind.expireProducers).uvarint(producers.length);
  for (const { id, lastActiveUs } of producers) writer.u64(id).u64(lastActiveUs);
  return writer.finish();
}

/** Labels go in by name, each once, so that equal requests are equal bytes. */
export function encodeCreateChannel(input: CreateChannelInput): Uint8Array {
  const writer = new ByteWriter(256).u8(CommandKind.createChannel).string(input.requestId);
  writer.string(input.tenant).string(input.channel).string(input.title).string(input.class);
  writeLabels(writer, input.labels);
  writeParticipants(writer, input.participants);
  return writer.finish();
}

const ChangeBit = { title: 1, class: 2, labels: 4, participants: 8 } as const;

export function encodeUpdateChannel(input: UpdateChannelInput): Uint8Array {
  const writer = new ByteWriter(256).u8(CommandKind.updateChannel).string(input.requestId);
  writer.string(input.tenant).string(input.channel);
  writeExpected(writer, input.expected);
  const { title, labels, participants } = input;
  writer.u8(
    (title === undefined ? 0 : ChangeBit.title) |
      (input.class === undefined ? 0 : ChangeBit.class) |
      (labels === undefined ? 0 : ChangeBit.labels) |
      (participants === undefined ? 0 : ChangeBit.participants),
  );
  if (title !== undefined) writer.string(title);
  if (input.class !== undefined) writer.string(input.class);
  if (labels !== undefined) writeLabels(writer, labels);
  if (participants !== undefined) writeParticipants(writer, participants);
  return writer.finish();
}

export function encodeDeleteChannel(input: DeleteChannelInput): Uint8Array {
  const writer = new ByteWriter(128).u8(CommandKind.deleteChannel).string(input.requestId);
  writer.string(input.tenant).string(input.channel);
  writeExpected(writer, input.expected);
  return writer.u8((input.allowMissing ? 1 : 0) | (input.permanent ? 2 : 0)).finish();
}

export function encodeSealChannel(input: ChannelInput): Uint8Array {
  return encodeChannelInput(CommandKind.sealChannel, input);
}

export function encodeUndeleteChannel(input: ChannelInput): Uint8Array {
  return encodeChannelInput(CommandKind.undeleteChannel, input);
}

function encodeChannelInput(kind: CommandKind, input: ChannelInput): Uint8Array {
  const writer = new ByteWriter(128).u8(kind).string(input.requestId);
  writer.string(input.tenant).string(input.channel);
  writeExpected(writer, input.expected);
  return writer.finish();
}

/** `appends`: append commands without producers, of one tenant and of channels that differ. */
export function encodeAppendMany(
  tenant: string,
  requestId: string,
  appends: readonly Uint8Array[],
): Uint8Array {
  let size = 64 + Buffer.byteLength(tenant) + Buffer.byteLength(requestId);
  for (const append of appends) size += commandPrefixBytes + append.length;
  const writer = new ByteWriter(size).u8(CommandKind.appendMany);
  writer.string(requestId).string(tenant).uvarint(appends.length);
  for (const append of appends) writer.u32(append.length).bytes(append);
  return writer.finish();
}

export function encodeMoveCursor({ tenant, channel, reader, seq, mayGoBack }: MoveCursorInput): Uint8Array {
  const writer = new ByteWriter(128).u8(CommandKind.moveCursor).string(tenant).string(channel).string(reader);
  return writer
    .uvarint(seq)
    .u8(mayGoBack ? 1 : 0)
    .finish();
}

const digestBytes = 16;

export function encodeOnce(requestId: string, digest: Uint8Array, command: Uint8Array): Uint8Array {
  const writer = new ByteWriter(160 + command.length).u8(CommandKind.once).string(requestId);
  return writer.bytes(digest).bytes(command).finish();
}

function writeLabels(writer: ByteWriter, given: CreateChannelInput['labels']): void {
  const labels = [...given].sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
  writer.uvarint(labels.length);
  for (const [name, value] of labels) writer.string(name).string(value);
}

function writeParticipants(writer: ByteWriter, participants: CreateChannelInput['participants']): void {
  writer.uvarint(participants.length);
  for (const { id, displayName, role } of participants) writer.string(id).string(displayName).string(role);
}

/** An empty uid: nothing is expected. */
function writeExpected(writer: ByteWriter, expected: ExpectedRevision | undefined): void {
  writer.string(expected?.uid ?? '');
  if (expected !== undefined) writer.uvarint(expected.revision);
}

const SettingBit = { applyVersion: 1, producerWindow: 2, keyRetentionUs: 4, producerIdleUs: 8 } as const;

export function encodeSetSettings(settings: Partial<ReplicatedSettings>): Uint8Array {
  const { applyVersion, producerWindow, keyRetentionUs, producerIdleUs } = settings;
  const writer = new ByteWriter(32).u8(CommandKind.setSettings);
  writer.u32(
    (applyVersion === undefined ? 0 : SettingBit.applyVersion) |
      (producerWindow === undefined ? 0 : SettingBit.producerWindow) |
      (keyRetentionUs === undefined ? 0 : SettingBit.keyRetentionUs) |
      (producerIdleUs === undefined ? 0 : SettingBit.producerIdleUs),
  );
  if (applyVersion !== undefined) writer.u16(applyVersion);
  if (producerWindow !== undefined) writer.u32(producerWindow);
  if (keyRetentionUs !== undefined) writer.u64(keyRetentionUs);
  if (producerIdleUs !== undefined) writer.u64(producerIdleUs);
  return writer.finish();
}

export function encodeNoop(): Uint8Array {
  return Uint8Array.of(CommandKind.noop);
}

function decodeExpireProducers(reader: ByteReader): ExpireProducersCommand {
  const count = reader.uvarint();
  if (count > applyLimits.evictionsPerCommand) throw new MalformedError('too many producers to expire');
  const producers: { id: ProducerId; lastActiveUs: TimeUs }[] = [];
  for (let i = 0; i < count; i++) producers.push({ id: reader.u64(), lastActiveUs: reader.u64() });
  return { kind: 'expireProducers', producers };
}

function decodeCreateChannel(reader: ByteReader, bodyEnd: number): CreateChannelCommand {
  const requestId = reader.string();
  const bodyOffset = reader.position;
  const tenant = reader.string();
  const channel = reader.string();
  const title = reader.string();
  const channelClass = reader.string();
  const labels = readLabels(reader);
  const participants = readParticipants(reader);
  return {
    kind: 'createChannel',
    requestId,
    tenant,
    channel,
    title,
    class: channelClass,
    labels,
    participants,
    bodyOffset,
    bodyEnd,
  };
}

function decodeUpdateChannel(reader: ByteReader, bodyEnd: number): UpdateChannelCommand {
  const requestId = reader.string();
  const bodyOffset = reader.position;
  const tenant = reader.string();
  const channel = reader.string();
  const expected = readExpected(reader);
  const mask = reader.u8();
  if (mask > 15) throw new MalformedError('changes that are unknown');
  return {
    kind: 'updateChannel',
    requestId,
    tenant,
    channel,
    expected,
    title: (mask & ChangeBit.title) === 0 ? undefined : reader.string(),
    class: (mask & ChangeBit.class) === 0 ? undefined : reader.string(),
    labels: (mask & ChangeBit.labels) === 0 ? undefined : readLabels(reader),
    participants: (mask & ChangeBit.participants) === 0 ? undefined : readParticipants(reader),
    bodyOffset,
    bodyEnd,
  };
}

function decodeDeleteChannel(reader: ByteReader, bodyEnd: number): DeleteChannelCommand {
  const requestId = reader.string();
  const bodyOffset = reader.position;
  const tenant = reader.string();
  const channel = reader.string();
  const expected = readExpected(reader);
  const allowMissing = reader.u8();
  if (allowMissing > 3) throw new MalformedError('flags that are unknown');
  return {
    kind: 'deleteChannel',
    requestId,
    tenant,
    channel,
    expected,
    allowMissing: (allowMissing & 1) !== 0,
    permanent: (allowMissing & 2) !== 0,
    bodyOffset,
    bodyEnd,
  };
}

function decodeMoveCursor(reader: ByteReader): MoveCursorCommand {
  const command = {
    kind: 'moveCursor' as const,
    tenant: reader.string(),
    channel: reader.string(),
    reader: reader.string(),
    seq: reader.uvarint(),
  };
  const mayGoBack = reader.u8();
  if (mayGoBack > 1) throw new MalformedError('flags that are unknown');
  return { ...command, mayGoBack: mayGoBack === 1 };
}

function decodeChannelInput(
  reader: ByteReader,
  bodyEnd: number,
): ChannelInput & { readonly bodyOffset: number; readonly bodyEnd: number } {
  const requestId = reader.string();
  const bodyOffset = reader.position;
  const tenant = reader.string();
  const channel = reader.string();
  return { requestId, tenant, channel, expected: readExpected(reader), bodyOffset, bodyEnd };
}

function decodeAppendMany(bytes: Buffer, reader: ByteReader, to: number): AppendManyCommand {
  const requestId = reader.string();
  const tenant = reader.string();
  const count = reader.uvarint();
  if (count === 0 || count > applyLimits.channelsPerBatch) throw new MalformedError(`a batch of ${count}`);
  const appends: AppendCommand[] = [];
  for (let i = 0; i < count; i++) {
    const length = reader.u32();
    const from = reader.position;
    if (from + length > to) throw new MalformedError('a batch is cut short');
    appends.push(decodeAppend(bytes, from, from + length));
    reader.skip(length);
  }
  return ended(reader, { kind: 'appendMany', tenant, requestId, appends });
}

/** What it holds is looked at before it is decoded: one in one in one would go as deep as there are bytes. */
function decodeOnce(bytes: Buffer, reader: ByteReader, to: number): OnceCommand {
  const requestId = reader.string();
  const digest = Uint8Array.from(reader.bytes(digestBytes));
  const from = reader.position;
  const number = from < to ? (bytes[from] as number) : 0;
  const isOnSubscription = isSubscriptionCommand(number) && number !== CommandKind.stepSubscription;
  if (requestId === '' || (!isOnSubscription && number !== CommandKind.moveCursor))
    throw new MalformedError('a command that is not repeated by a request id');
  return {
    kind: 'once',
    requestId,
    digest,
    command: decodeCommand(bytes, from, to) as OnceCommand['command'],
  };
}

function readExpected(reader: ByteReader): ExpectedRevision | undefined {
  const uid = reader.string();
  return uid === '' ? undefined : { uid, revision: reader.uvarint() };
}

function readLabels(reader: ByteReader): [string, string][] {
  const labels: [string, string][] = [];
  const labelCount = reader.uvarint();
  if (labelCount > applyLimits.labelsPerChannel) throw new MalformedError('too many labels');
  for (let i = 0; i < labelCount; i++) {
    const name = reader.string();
    const before = labels.at(-1)?.[0];
    if (before !== undefined && before >= name) throw new MalformedError('labels are not in order');
    labels.push([name, reader.string()]);
  }
  return labels;
}

function readParticipants(reader: ByteReader): Participant[] {
  const participants: Participant[] = [];
  const participantCount = reader.uvarint();
  if (participantCount > applyLimits.participantsPerChannel)
    throw new MalformedError('too many participants');
  for (let i = 0; i < participantCount; i++) {
    participants.push({ id: reader.string(), displayName: reader.string(), role: reader.string() });
  }
  return participants;
}

function decodeSetSettings(reader: ByteReader): SetSettingsCommand {
  const mask = reader.u32();
  if (mask > 15) throw new MalformedError('settings that are unknown');
  const settings: Partial<ReplicatedSettings> = {};
  if ((mask & SettingBit.applyVersion) !== 0) settings.applyVersion = reader.u16();
  if ((mask & SettingBit.producerWindow) !== 0) settings.producerWindow = reader.u32();
  if ((mask & SettingBit.keyRetentionUs) !== 0) settings.keyRetentionUs = reader.u64();
  if ((mask & SettingBit.producerIdleUs) !== 0) settings.producerIdleUs = reader.u64();
  return { kind: 'setSettings', settings };
}

function ended<T>(reader: ByteReader, command: T): T {
  reader.end();
  return command;
}

export type { AppendCommand, AppendCondition, AppendInput } from './append-command.js';
export { encodeAppend } from './append-command.js';
