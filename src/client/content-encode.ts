/**
 * MessageContent and its parts to bytes, checked as the server's door checks
 * them: what would be refused there must not get a producer's counter first.
 * Field numbers: proto/hansard/v1/content.proto.
 */
import { HansardError } from '../common/errors.js';
import { limits } from '../common/limits.js';
import { invalid } from './check-input.js';
import type { Json, MessageRef, NewMessage, Part, Role, Usage } from './types.js';
import type { BackWriter } from './wire.js';
import { requireWellFormed } from './wire.js';

export const roles = ['unspecified', 'user', 'assistant', 'system', 'tool', 'developer', 'other'] as const;
const roleNumbers = new Map<string, number>(roles.map((role, number) => [role, number]));

/** Writes the content's bytes; `position` is the message's place in its append. */
export function writeContent(w: BackWriter, message: NewMessage, position: number): void {
  if (message.usage !== undefined) nest(w, 8, message.usage, writeUsage);
  const timeUs =
    message.clientTime === undefined ? message.clientTimeUs : message.clientTime.getTime() * 1000;
  if (timeUs !== undefined) nest(w, 7, timeUs, writeTimestamp);
  const metadata = message.metadata === undefined ? message.metadataJson : jsonOf(message.metadata);
  if (metadata !== undefined) jsonText(w, 6, metadata, 'metadata_json', limits.jsonTextBytes);
  if (message.replyTo !== undefined) writeRef(w, 5, message.replyTo, position);
  if (message.parent !== undefined) writeRef(w, 4, message.parent, position);
  const parts = message.parts;
  if (message.text !== undefined) {
    if (parts !== undefined) throw invalid('text', 'give `text` or `parts`, not both');
    writePart(w, message.text);
  } else if (parts !== undefined) {
    if (parts.length > limits.partsPerMessage)
      throw invalid('parts', `${parts.length} parts, limit ${limits.partsPerMessage}`);
    for (let i = parts.length - 1; i >= 0; i--) writePart(w, parts[i] as Part);
  }
  shortText(w, 2, message.author, 'author');
  w.uint(1, roleNumber(message.role));
}

/** A string is a text part: the common message makes no part object. */
function writePart(w: BackWriter, part: Part | string): void {
  const mark = w.length;
  if (typeof part === 'string') {
    w.string(1, part);
    w.nested(1, mark);
  } else if (part.type === 'unknown') {
    w.raw(part.bytes);
  } else {
    if (part.providerMetadataJson !== undefined)
      jsonText(w, 15, part.providerMetadataJson, 'provider_metadata', limits.jsonTextBytes);
    const bodyMark = w.length;
    const field = writePartBody(w, part);
    w.nested(field, bodyMark);
  }
  w.nested(3, mark);
}

/** Writes the fields of the part's message in falling order; returns its field in Part. */
function writePartBody(w: BackWriter, part: Exclude<Part, { type: 'unknown' }>): number {
  switch (part.type) {
    case 'text':
      shortText(w, 2, part.state, 'state');
      w.string(1, part.text);
      return 1;
    case 'reasoning':
      shortText(w, 6, part.state, 'state');
      shortText(w, 5, part.id, 'id');
      if (part.summary !== undefined) writeSummary(w, part.summary);
      w.bytes(3, part.encrypted);
      w.bytes(2, part.signature);
      w.string(1, part.text);
      return 2;
    case 'tool-call':
      w.bool(6, part.providerExecuted);
      shortText(w, 5, part.state, 'state');
      shortText(w, 4, part.id, 'id');
      limited(part.arguments, 'arguments', limits.jsonTextBytes, 'METADATA_TOO_LARGE');
      w.string(3, part.arguments);
      shortText(w, 2, part.name, 'name');
      shortText(w, 1, part.callId, 'call_id');
      return 3;
    case 'tool-result':
      shortText(w, 8, part.state, 'state');
      shortText(w, 7, part.id, 'id');
      w.bool(6, part.isError);
      atMostOne('output', part.outputJson, part.outputText, part.errorText);
      if (part.errorText !== undefined) w.stringAlways(5, part.errorText);
      if (part.outputText !== undefined) w.stringAlways(4, part.outputText);
      if (part.outputJson !== undefined) jsonText(w, 3, part.outputJson, 'output_json', limits.messageBytes);
      shortText(w, 2, part.name, 'name');
      shortText(w, 1, part.callId, 'call_id');
      return 4;
    case 'file':
      if ((part.sha256?.length ?? 0) > 32) throw invalid('sha256', 'longer than 32 bytes');
      w.bytes(7, part.sha256);
      w.uint(6, part.sizeBytes);
      atMostOne('location', part.url, part.fileId, part.inlineData);
      if (part.inlineData !== undefined) w.bytesAlways(5, part.inlineData);
      if (part.fileId !== undefined) {
        limited(part.fileId, 'file_id', limits.shortTextBytes, 'INVALID_ARGUMENT');
        w.stringAlways(4, part.fileId);
      }
      if (part.url !== undefined) w.stringAlways(3, part.url);
      shortText(w, 2, part.filename, 'filename');
      shortText(w, 1, part.mediaType, 'media_type');
      return 5;
    case 'source':
      shortText(w, 6, part.filename, 'filename');
      shortText(w, 5, part.mediaType, 'media_type');
      w.string(4, part.title);
      w.string(3, part.url);
      shortText(w, 2, part.kind, 'kind');
      shortText(w, 1, part.sourceId, 'source_id');
      return 6;
    case 'data':
      if (part.json !== undefined) jsonText(w, 3, part.json, 'json', limits.messageBytes);
      shortText(w, 2, part.id, 'id');
      shortText(w, 1, part.name, 'name');
      return 7;
    case 'custom':
      atMostOne('body', part.json, part.binary);
      if (part.binary !== undefined) w.bytesAlways(3, part.binary);
      if (part.json !== undefined) jsonText(w, 2, part.json, 'json', limits.messageBytes);
      shortText(w, 1, part.kind, 'kind');
      return 8;
  }
}

function writeSummary(w: BackWriter, summary: readonly string[]): void {
  if (summary.length > limits.partsPerMessage)
    throw invalid('summary', `more than ${limits.partsPerMessage} elements`);
  for (let i = summary.length - 1; i >= 0; i--) w.stringAlways(4, summary[i] as string);
}

function writeUsage(w: BackWriter, usage: Usage): void {
  if (usage.detailsJson !== undefined)
    jsonText(w, 6, usage.detailsJson, 'details_json', limits.jsonTextBytes);
  w.uint(5, usage.reasoningTokens);
  w.uint(4, usage.cachedInputTokens);
  w.uint(3, usage.outputTokens);
  w.uint(2, usage.inputTokens);
  shortText(w, 1, usage.model, 'model');
}

function writeRef(w: BackWriter, field: number, ref: MessageRef, position: number): void {
  const mark = w.length;
  if ('seq' in ref) w.uintAlways(1, ref.seq);
  else if ('messageId' in ref) {
    limited(ref.messageId, 'message_id', limits.idBytes, 'INVALID_ARGUMENT');
    w.stringAlways(2, ref.messageId);
  } else {
    if (ref.batchPosition >= position)
      throw invalid('batch_position', 'must be the place of an earlier message');
    w.uintAlways(3, ref.batchPosition);
  }
  w.nested(field, mark);
}

/** google.protobuf.Timestamp from whole microseconds. */
export function writeTimestamp(w: BackWriter, timeUs: number): void {
  // A double holds the microseconds of the years 1684 to 2255 exactly.
  if (!Number.isSafeInteger(timeUs))
    throw invalid('client_time', `not a time in whole microseconds: ${timeUs}`);
  const seconds = Math.floor(timeUs / 1_000_000);
  w.int(2, (timeUs - seconds * 1_000_000) * 1000);
  w.int(1, seconds);
}

function roleNumber(role: Role | undefined): number {
  if (role === undefined) return 0;
  if (typeof role === 'number') return role;
  const number = roleNumbers.get(role);
  if (number === undefined) throw invalid('role', `no such role: ${role}`);
  return number;
}

function nest<T>(w: BackWriter, field: number, value: T, write: (w: BackWriter, value: T) => void): void {
  const mark = w.length;
  write(w, value);
  w.nested(field, mark);
}

function shortText(w: BackWriter, field: number, text: string | undefined, name: string): void {
  if (text === undefined || text === '') return;
  limited(text, name, limits.shortTextBytes, 'INVALID_ARGUMENT');
  w.string(field, text);
}

/** Throws where JSON.stringify throws (cycles, bigints) or has no answer (functions). */
function jsonOf(metadata: Json): string {
  let problem = 'a function or symbol';
  try {
    const json: string | undefined = JSON.stringify(metadata);
    if (json !== undefined) return json;
  } catch (error) {
    problem = (error as Error).message;
  }
  throw invalid('metadata', `can't be written as JSON: ${problem}`);
}

/** JSON text must parse; an empty one counts as absent. */
function jsonText(w: BackWriter, field: number, text: string, name: string, maxBytes: number): void {
  if (text === '') return;
  limited(text, name, maxBytes, 'METADATA_TOO_LARGE');
  try {
    JSON.parse(text);
  } catch (error) {
    throw new HansardError('METADATA_NOT_JSON', `${name} is not JSON: ${(error as Error).message}`, {
      field: name,
    });
  }
  w.string(field, text);
}

export function limited(
  text: string,
  name: string,
  maxBytes: number,
  reason: 'INVALID_NAME' | 'METADATA_TOO_LARGE' | 'INVALID_ARGUMENT',
): void {
  requireWellFormed(text, name);
  // A UTF-16 unit is at most three bytes: most texts need no count.
  if (text.length * 3 <= maxBytes) return;
  const bytes = Buffer.byteLength(text);
  if (bytes > maxBytes)
    throw new HansardError(reason, `${name} has ${bytes} bytes, limit ${maxBytes}`, {
      field: name,
      limit: maxBytes,
    });
}

function atMostOne(name: string, ...values: unknown[]): void {
  if (values.filter((value) => value !== undefined).length > 1)
    throw invalid(name, 'more than one of its alternatives is given');
}
