/**
 * One line of an import as a message: the fields of docs/cli.md, and those of
 * an export (`--exported`). Whatever is not as it should be is a BadLine with
 * what and where; nothing is guessed and no value is changed in silence.
 */
import { writeContent } from '../client/content-encode.js';
import type { EventType, NewMessage, Role } from '../client/types.js';
import { BackWriter } from '../client/wire.js';
import { xxh64 } from '../common/hash.js';
import { limits } from '../common/limits.js';
import { type ImportedChannel, readChannelRecord } from './channel-record.js';
import { type Line, maxLineBytes, memberText } from './json-lines.js';
import {
  type Bad,
  BadLine,
  checkChannel,
  type Fields,
  isWellFormed,
  stringField,
  wholeNumber,
} from './line-fields.js';
import { parseTime } from './times.js';

export interface ImportedMessage {
  readonly line: number;
  readonly channel: string;
  readonly message: NewMessage;
  /** Estimate of the encoded size, for batching. */
  readonly sizeBytes: number;
  /** What an export says of it; undefined in a plain import. */
  readonly exported: ExportedPlace | undefined;
}

export interface ExportedPlace {
  /** Must be given out again. */
  readonly seq: number;
  /** Hex; what is stored must have it again. */
  readonly checksum: string;
  /** Place in its append: references inside a batch count by it. */
  readonly batchPosition: number;
  /** It refers to others by seq, within bytes that are loaded as they are. */
  readonly refersBySeq: boolean;
}

/** Fields that were there and have no place in a message; told at the end. */
export type Ignored = Map<string, number>;

/** JSON only makes longer: the content of a line below this is below a message's limit. */
const surelySmallBytes = limits.messageBytes - 1024;

const writer = new BackWriter();
const utf8 = new TextDecoder('utf-8', { fatal: true });
const roles: ReadonlySet<string> = new Set(['user', 'assistant', 'system', 'tool', 'developer', 'other']);
const importedFields: ReadonlySet<string> = new Set([
  'channel',
  'time',
  'role',
  'author',
  'text',
  'metadata',
  'metadata_json',
  'key',
  'message_id',
  'subject',
]);
/** What an export has beside them. `export` writes some only for readers. */
const exportedFields: ReadonlySet<string> = new Set([
  'seq',
  'type',
  'commit_time',
  'target_seq',
  'content',
  'content_xxh64',
  'batch_position',
  'parts',
  'parent',
  'reply_to',
  'usage',
  'producer_id',
  'producer_counter',
  'actor',
  'commitment',
  'erased',
]);

export const exportedHint = 'this is a line of an export; load it with --exported';

export interface ParseOptions {
  readonly exported: boolean;
  readonly ignored: Ignored;
}

/** Undefined for a blank line. Throws BadLine. */
export function parseLine(line: Line, options: ParseOptions): ImportedMessage | ImportedChannel | undefined {
  const bad: Bad = (problem) => {
    throw new BadLine(line.number, problem);
  };
  if (line.tooLong) bad(`longer than ${maxLineBytes / 1024 / 1024} MiB`);
  const text = decode(line.bytes, bad);
  if (text.trim() === '') return undefined;
  const fields = parseObject(text, bad);
  if (options.exported && fields.record !== undefined) return readChannelRecord(line.number, fields, bad);
  noteUnknown(fields, options, bad);
  const channel = stringField(fields, 'channel', bad) ?? bad('channel is missing');
  checkChannel(channel, bad);
  const key = idField(fields, 'key', bad);
  const messageId = idField(fields, 'message_id', bad);
  const subject = idField(fields, 'subject', bad);
  const exported = options.exported ? placeOf(fields, bad) : undefined;
  const message: NewMessage = {
    ...(key === undefined ? {} : { key }),
    ...(messageId === undefined ? {} : { messageId }),
    ...(subject === undefined ? {} : { subject }),
    ...(exported === undefined ? {} : eventFields(fields, bad)),
    ...(exported !== undefined && fields.content !== undefined
      ? { contentBytes: base64(fields.content, bad) }
      : plainContent(fields, text, bad)),
  };
  if (exported !== undefined) checkContent(message, exported, bad);
  if (line.bytes.length > surelySmallBytes) checkSize(message, exported?.batchPosition ?? 0, bad);
  return { line: line.number, channel, message, sizeBytes: line.bytes.length, exported };
}

/** The cluster would refuse it in the midst of the import, and every rerun would end there again. */
function checkSize(message: NewMessage, batchPosition: number, bad: Bad): void {
  const { length } = contentOf(message, batchPosition);
  if (length > limits.messageBytes)
    bad(`the message has ${length} bytes, at most ${limits.messageBytes} are allowed`);
}

/** Valid until the next one. */
function contentOf(message: NewMessage, batchPosition: number): Uint8Array {
  if (message.contentBytes !== undefined) return message.contentBytes;
  writer.reset();
  writeContent(writer, message, batchPosition);
  return writer.view();
}

/** What will be sent must be what was exported: a file that was touched is told before anything is stored. */
function checkContent(message: NewMessage, exported: ExportedPlace, bad: Bad): void {
  const bytes = contentOf(message, exported.batchPosition);
  if (xxh64(bytes).toString(16).padStart(16, '0') !== exported.checksum)
    bad('the content does not match content_xxh64: the line was changed since its export');
}

function noteUnknown(fields: Fields, options: ParseOptions, bad: Bad): void {
  for (const name of Object.keys(fields)) {
    if (importedFields.has(name) || (options.exported && exportedFields.has(name))) continue;
    if (name === 'content_xxh64' || isRecord(name, fields)) bad(exportedHint);
    options.ignored.set(name, (options.ignored.get(name) ?? 0) + 1);
  }
}

/** A record of an export, not a field of that name of somebody's own. */
function isRecord(name: string, fields: Fields): boolean {
  return name === 'record' && fields.record === 'channel' && fields.head_seq !== undefined;
}

function placeOf(fields: Fields, bad: Bad): ExportedPlace {
  const checksum = fields.content_xxh64;
  if (typeof checksum !== 'string' || !/^[0-9a-f]{16}$/.test(checksum))
    return bad('content_xxh64 is missing: this is no export');
  if (fields.erased === true) return bad('the event was erased: there is no content to load');
  return {
    seq: wholeNumber(fields, 'seq', 1, bad) ?? bad('seq is missing'),
    checksum,
    batchPosition: wholeNumber(fields, 'batch_position', 0, bad) ?? 0,
    refersBySeq: hasSeq(fields.parent) || hasSeq(fields.reply_to),
  };
}

function hasSeq(ref: unknown): boolean {
  return typeof ref === 'object' && ref !== null && 'seq' in ref;
}

function eventFields(fields: Fields, bad: Bad): { type?: EventType; targetSeq?: number } {
  const type = stringField(fields, 'type', bad) ?? 'message_completed';
  const targetSeq = wholeNumber(fields, 'target_seq', 0, bad);
  return {
    ...(type === 'message_completed' ? {} : { type: eventTypeOf(type, bad) }),
    ...(targetSeq === undefined ? {} : { targetSeq }),
  };
}

function plainContent(fields: Fields, line: string, bad: Bad): NewMessage {
  const text = stringField(fields, 'text', bad) ?? bad('text is missing (it may be empty)');
  if (Buffer.byteLength(text) > limits.messageBytes) bad(`text is longer than ${limits.messageBytes} bytes`);
  const author = stringField(fields, 'author', bad) ?? '';
  if (Buffer.byteLength(author) > limits.shortTextBytes)
    bad(`author is longer than ${limits.shortTextBytes} bytes`);
  const role = stringField(fields, 'role', bad) ?? 'other';
  const time = stringField(fields, 'time', bad);
  const metadataJson = metadataOf(fields, line, bad);
  return {
    role: roles.has(role) ? (role as Role) : 'other',
    ...(author === '' ? {} : { author }),
    text,
    ...(metadataJson === undefined ? {} : { metadataJson }),
    ...(time === undefined ? {} : { clientTimeUs: parseTime(time) ?? bad(`time "${time}" is not RFC 3339`) }),
  };
}

function metadataOf(fields: Fields, line: string, bad: Bad): string | undefined {
  const asText = stringField(fields, 'metadata_json', bad);
  const value = fields.metadata;
  const hasValue = value !== undefined && value !== null;
  if (asText !== undefined && hasValue) return bad('metadata and metadata_json are both there');
  if (asText === undefined && !hasValue) return undefined;
  if (hasValue && (typeof value !== 'object' || Array.isArray(value)))
    return bad('metadata is not an object');
  const json = asText ?? memberText(line, 'metadata') ?? '';
  if (Buffer.byteLength(json) > limits.jsonTextBytes)
    return bad(`metadata is longer than ${limits.jsonTextBytes} bytes`);
  if (asText !== undefined && !isJson(asText)) return bad('metadata_json is not JSON');
  if (asText === undefined && !isWellFormed.call(json)) return bad('metadata holds a lone surrogate');
  return json;
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function decode(bytes: Buffer, bad: Bad): string {
  try {
    return utf8.decode(bytes);
  } catch {
    return bad('not UTF-8');
  }
}

function parseObject(text: string, bad: Bad): Fields {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return bad(`not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return bad('not a JSON object');
  return value as Fields;
}

function idField(fields: Fields, name: string, bad: Bad): string | undefined {
  const value = stringField(fields, name, bad);
  if (value === undefined || value === '') return undefined;
  if (Buffer.byteLength(value) > limits.idBytes) return bad(`${name} is longer than ${limits.idBytes} bytes`);
  return value;
}

function base64(value: unknown, bad: Bad): Uint8Array {
  if (typeof value !== 'string' || value.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(value))
    return bad('content is not base64');
  return Buffer.from(value, 'base64');
}

/** `message_edited` as `message-edited`; a type of a newer version is its number. */
function eventTypeOf(type: string, bad: Bad): EventType {
  if (/^\d{1,9}$/.test(type)) return Number(type);
  if (!/^[a-z_]{1,40}$/.test(type)) return bad(`type "${type}" is unknown`);
  return type.replaceAll('_', '-') as EventType;
}
