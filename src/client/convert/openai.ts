/**
 * OpenAI Responses API items to messages and back, deep-equal as JSON: one item
 * is one message, in the order given.
 */
import { limits } from '../../common/limits.js';
import type { Json, MessageContent, NewMessage, Part, Role } from '../types.js';
import {
  asJson,
  isEqual,
  isObject,
  isRemainder,
  type JsonObject,
  jsonText,
  own,
  present,
  remainder,
  text,
  withRemainder,
} from './lossless.js';

const itemRest = 'openai/item';
const wholeItem = 'openai/other';
const wholeContent = 'openai/content';
/** The content was a plain text, not a list of parts. */
const plainContent = 'openai/text';

/**
 * @example
 * await channel.append(fromResponseItems(response.output));
 */
export function fromResponseItems(items: readonly unknown[]): NewMessage[] {
  return items.map(fromResponseItem);
}

export function toResponseItems(
  messages: readonly (MessageContent & { readonly messageId?: string })[],
): JsonObject[] {
  return messages.map(toResponseItem);
}

export function fromResponseItem(item: unknown): NewMessage {
  const original = asJson(item);
  const typed = isObject(original) ? typedMessage(original) : undefined;
  if (!isObject(original) || typed === undefined)
    return { role: 'other', parts: [{ type: 'custom', kind: wholeItem, json: JSON.stringify(original) }] };
  const rest = remainder(itemRest, original, toResponseItem(typed));
  return rest === undefined ? typed : { ...typed, parts: [...(typed.parts ?? []), rest] };
}

function typedMessage(item: JsonObject): NewMessage | undefined {
  const type = text(item, 'type');
  const id = short(item, 'id');
  const state = short(item, 'status');
  switch (type) {
    case 'reasoning':
      return { role: 'assistant', parts: [reasoningPart(item, id, state)] };
    case 'function_call':
      return {
        role: 'assistant',
        parts: [
          present<Part>({
            type: 'tool-call',
            callId: short(item, 'call_id') ?? '',
            name: short(item, 'name') ?? '',
            arguments: fitting(text(item, 'arguments'), limits.jsonTextBytes) ?? '',
            id,
            state,
          } as Part),
        ],
      };
    case 'function_call_output': {
      const output = own(item, 'output');
      const isText = typeof output === 'string';
      return {
        role: 'tool',
        parts: [
          present<Part>({
            type: 'tool-result',
            callId: short(item, 'call_id') ?? '',
            outputText: isText ? output : undefined,
            outputJson: isText ? undefined : jsonText(output),
            id,
            state,
          } as Part),
        ],
      };
    }
    case undefined:
    case 'message':
      return chatMessage(item);
    default:
      return undefined;
  }
}

function reasoningPart(item: JsonObject, id: string | undefined, state: string | undefined): Part {
  const encrypted = text(item, 'encrypted_content');
  const content = own(item, 'content');
  return present<Part>({
    type: 'reasoning',
    text: singleText(content, 'reasoning_text'),
    encrypted:
      encrypted === undefined || encrypted === '' ? undefined : new Uint8Array(Buffer.from(encrypted)),
    summary: summaryTexts(own(item, 'summary')),
    id,
    state,
  } as Part);
}

function singleText(content: Json | undefined, type: string): string | undefined {
  if (!Array.isArray(content) || content.length !== 1) return undefined;
  const only = content[0] as Json;
  return isObject(only) && only['type'] === type ? text(only, 'text') || undefined : undefined;
}

function summaryTexts(summary: Json | undefined): string[] | undefined {
  if (!Array.isArray(summary) || summary.length === 0 || summary.length > limits.partsPerMessage)
    return undefined;
  const texts = summary.map((each: Json) => (isObject(each) ? text(each, 'text') : undefined));
  return texts.every((each) => each !== undefined) ? texts : undefined;
}

function chatMessage(item: JsonObject): NewMessage | undefined {
  const role = text(item, 'role');
  const content = own(item, 'content');
  if (role !== 'user' && role !== 'assistant' && role !== 'system' && role !== 'developer') return undefined;
  const id = text(item, 'id');
  let parts: Part[];
  if (typeof content === 'string')
    parts = [
      { type: 'text', text: content },
      { type: 'custom', kind: plainContent },
    ];
  else if (Array.isArray(content)) parts = content.map((each: Json) => contentPart(each, role));
  else return undefined;
  return present<NewMessage>({
    role,
    messageId: id !== undefined && id !== '' ? fitting(id, limits.idBytes) : undefined,
    parts,
  } as NewMessage);
}

function contentPart(original: Json, role: Role): Part {
  const typed = isObject(original) ? typedContent(original) : undefined;
  if (typed !== undefined && isEqual(original, toContent(typed, role))) return typed;
  return { type: 'custom', kind: wholeContent, json: JSON.stringify(original) };
}

function typedContent(part: JsonObject): Part | undefined {
  const type = text(part, 'type');
  if (type === 'input_text' || type === 'output_text')
    return withOthers({ type: 'text', text: text(part, 'text') ?? '' }, part, ['type', 'text']);
  if (type === 'input_image' || type === 'input_file') {
    const url = text(part, type === 'input_image' ? 'image_url' : 'file_url');
    const fileId = url === undefined ? short(part, 'file_id') : undefined;
    const filename = type === 'input_file' ? short(part, 'filename') : undefined;
    const kind = { openai: type };
    const known = [
      'type',
      url === undefined ? 'file_id' : type === 'input_image' ? 'image_url' : 'file_url',
      'filename',
    ];
    return withOthers(present<Part>({ type: 'file', url, fileId, filename } as Part), part, known, kind);
  }
  return undefined;
}

/** All other fields (annotations, logprobs, detail …) as the part's provider metadata. */
function withOthers(
  typed: Part,
  original: JsonObject,
  known: readonly string[],
  kind: JsonObject = {},
): Part | undefined {
  const others = Object.fromEntries(Object.entries(original).filter(([key]) => !known.includes(key)));
  const metadata: JsonObject = { ...kind, ...(Object.keys(others).length > 0 ? { fields: others } : {}) };
  if (Object.keys(metadata).length === 0) return typed;
  const providerMetadataJson = jsonText(metadata, limits.jsonTextBytes);
  return providerMetadataJson === undefined ? undefined : ({ ...typed, providerMetadataJson } as Part);
}

function toContent(part: Part, role: Role): Json {
  const metadata =
    'providerMetadataJson' in part ? (JSON.parse(part.providerMetadataJson as string) as JsonObject) : {};
  const others = (own(metadata, 'fields') ?? {}) as JsonObject;
  if (part.type === 'text')
    return { type: role === 'assistant' ? 'output_text' : 'input_text', text: part.text, ...others };
  if (part.type === 'file') {
    const type = own(metadata, 'openai') === 'input_image' ? 'input_image' : 'input_file';
    const url =
      part.url === undefined ? {} : { [type === 'input_image' ? 'image_url' : 'file_url']: part.url };
    return asJson({ type, ...url, file_id: part.fileId, filename: part.filename, ...others });
  }
  if (part.type === 'custom' && part.kind === wholeContent && part.json !== undefined)
    return JSON.parse(part.json) as Json;
  // A part that the Responses API has no shape for: as text, so that a model sees it.
  return { type: role === 'assistant' ? 'output_text' : 'input_text', text: JSON.stringify(part) };
}

/** `messageId` is the event's. */
export function toResponseItem(message: MessageContent & { readonly messageId?: string }): JsonObject {
  const parts = message.parts ?? [];
  const last = parts.at(-1);
  const rest = isRemainder(last, itemRest) ? last : undefined;
  const back = plainItem(message, rest === undefined ? parts : parts.slice(0, -1));
  return rest === undefined ? back : withRemainder(back, rest);
}

function plainItem(
  message: MessageContent & { readonly messageId?: string },
  parts: readonly Part[],
): JsonObject {
  const [only] = parts;
  if (parts.length === 1 && only !== undefined) {
    if (only.type === 'custom' && only.kind === wholeItem && only.json !== undefined)
      return JSON.parse(only.json) as JsonObject;
    if (only.type === 'reasoning')
      return asJson({
        type: 'reasoning',
        id: only.id,
        summary: (only.summary ?? []).map((each) => ({ type: 'summary_text', text: each })),
        content: only.text === undefined ? undefined : [{ type: 'reasoning_text', text: only.text }],
        encrypted_content:
          only.encrypted === undefined ? undefined : Buffer.from(only.encrypted).toString('utf8'),
        status: only.state,
      }) as JsonObject;
    if (only.type === 'tool-call')
      return asJson({
        type: 'function_call',
        id: only.id,
        call_id: only.callId,
        name: only.name,
        arguments: only.arguments,
        status: only.state,
      }) as JsonObject;
    if (only.type === 'tool-result')
      return asJson({
        type: 'function_call_output',
        id: only.id,
        call_id: only.callId,
        output:
          only.outputJson === undefined ? (only.outputText ?? only.errorText) : JSON.parse(only.outputJson),
        status: only.state,
      }) as JsonObject;
  }
  const role =
    message.role === 'tool' || message.role === 'other' || message.role === undefined ? 'user' : message.role;
  const second = parts[1];
  const isPlain = only?.type === 'text' && second?.type === 'custom' && second.kind === plainContent;
  return asJson({
    type: 'message',
    id: message.messageId === '' ? undefined : message.messageId,
    role,
    content: isPlain ? only.text : parts.map((part) => toContent(part, role)),
  }) as JsonObject;
}

function fitting(value: string | undefined, maxBytes: number): string | undefined {
  return value !== undefined && Buffer.byteLength(value) <= maxBytes ? value : undefined;
}

function short(item: JsonObject, key: string): string | undefined {
  return fitting(text(item, key), limits.shortTextBytes) || undefined;
}
