/**
 * An event as one line of JSON. The plain fields are those that `import` reads;
 * where they alone would not give the same bytes again, `content` holds the
 * bytes in base64, so that every export can be loaded without loss.
 */
import { writeContent } from '../client/content-encode.js';
import type { Event, MessageContent, NewMessage, Part } from '../client/types.js';
import { BackWriter } from '../client/wire.js';
import { formatTime } from './times.js';

const writer = new BackWriter();

export interface ExportOptions {
  /** Content bytes, producer and commitment of every event, needed or not. */
  readonly full: boolean;
}

export function exportLine(channel: string, event: Event, options: ExportOptions): string {
  const fields: string[] = [];
  const put = (name: string, value: unknown): void => {
    fields.push(`"${name}":${JSON.stringify(value)}`);
  };
  put('channel', channel);
  put('seq', event.seq);
  put('type', typeName(event.type));
  put('commit_time', formatTime(event.commitTimeUs));
  if (event.message !== undefined) putContent(event.message, put, fields);
  if (event.messageId !== '') put('message_id', event.messageId);
  if (event.key !== '') put('key', event.key);
  if (event.subject !== '') put('subject', event.subject);
  if (event.targetSeq !== 0) put('target_seq', event.targetSeq);
  // A loader must put the event at the same place of an append: references count by it.
  if (event.batchPosition !== 0) put('batch_position', event.batchPosition);
  if (event.erased) put('erased', true);
  put('content_xxh64', event.checksum.toString(16).padStart(16, '0'));
  if (options.full || !isPlain(event)) put('content', Buffer.from(event.contentBytes).toString('base64'));
  if (options.full) putProvenance(event, put);
  return `{${fields.join(',')}}\n`;
}

/** What --json of `read` shows of an event: the same names, as an object. */
export function eventObject(channel: string, event: Event): Record<string, unknown> {
  return JSON.parse(exportLine(channel, event, { full: false })) as Record<string, unknown>;
}

function putContent(
  message: MessageContent,
  put: (name: string, value: unknown) => void,
  fields: string[],
): void {
  put('role', message.role ?? 'unspecified');
  if (message.author !== undefined) put('author', message.author);
  const text = onlyText(message);
  if (text !== undefined) put('text', text);
  else put('parts', (message.parts ?? []).map(readablePart));
  if (message.clientTimeUs !== undefined) put('time', formatTime(message.clientTimeUs));
  if (message.metadataJson !== undefined) putMetadata(message.metadataJson, put, fields);
  if (message.parent !== undefined) put('parent', bigintsAsText(message.parent));
  if (message.replyTo !== undefined) put('reply_to', bigintsAsText(message.replyTo));
  if (message.usage !== undefined) put('usage', bigintsAsText(message.usage));
}

/** JSON text stands in the line as it is; JSON over several lines would break the line. */
function putMetadata(json: string, put: (name: string, value: unknown) => void, fields: string[]): void {
  if (/^\s*\{/.test(json) && !/[\r\n]/.test(json) && json.trim() === json) fields.push(`"metadata":${json}`);
  else put('metadata_json', json);
}

/** Undefined where the message is more than one text. */
function onlyText(message: MessageContent): string | undefined {
  const parts = message.parts ?? [];
  const part = parts[0];
  return parts.length === 1 && part?.type === 'text' ? part.text : undefined;
}

/** Would `import` of the plain fields send the very same bytes? Encoding again is the surest answer. */
function isPlain(event: Event): boolean {
  const message = event.message;
  if (message === undefined || event.erased || event.type !== 'message-completed') return false;
  const text = onlyText(message);
  if (text === undefined || message.role === undefined || message.role === 'unspecified') return false;
  if (message.parent !== undefined || message.replyTo !== undefined || message.usage !== undefined)
    return false;
  const again: NewMessage = {
    role: message.role,
    ...(message.author === undefined ? {} : { author: message.author }),
    text,
    ...(message.metadataJson === undefined ? {} : { metadataJson: message.metadataJson }),
    ...(message.clientTimeUs === undefined ? {} : { clientTimeUs: message.clientTimeUs }),
  };
  writer.reset();
  try {
    writeContent(writer, again, 0);
  } catch {
    // What today's rules refuse was stored under earlier ones: not plain.
    return false;
  }
  return Buffer.compare(writer.view(), event.contentBytes) === 0;
}

function putProvenance(event: Event, put: (name: string, value: unknown) => void): void {
  if (event.producerId !== 0) {
    put('producer_id', String(event.producerId));
    put('producer_counter', event.producerCounter);
  }
  if (event.actor !== '') put('actor', event.actor);
  put('commitment', Buffer.from(event.commitment).toString('hex'));
}

function typeName(type: Event['type']): string {
  return typeof type === 'number' ? String(type) : type.replaceAll('-', '_');
}

/** For readers only: `content` is what is loaded again. */
function readablePart(part: Part): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(part)) {
    const key = name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
    if (value instanceof Uint8Array) out[key] = Buffer.from(value).toString('base64');
    else out[key] = typeof value === 'bigint' ? value.toString() : value;
  }
  return out;
}

function bigintsAsText(value: object): unknown {
  return Object.fromEntries(
    Object.entries(value).map(([name, v]) => [
      name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`),
      typeof v === 'bigint' ? v.toString() : v,
    ]),
  );
}
