/**
 * Vercel AI SDK UIMessages to messages and back, deep-equal as JSON: a UIMessage
 * is one message; a tool part is a tool call and, once there is one, its result.
 */
import { limits } from '../../common/limits.js';
import type { MessageContent, NewMessage, Part, Role, ToolCallPart } from '../types.js';
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

const partRest = 'ai-sdk/part';
const messageRest = 'ai-sdk/message';
const wholePart = 'ai-sdk/other';

/** Any UIMessage; typed loosely, so that this file needs no package of theirs. */
export interface UIMessageLike {
  readonly id?: string;
  readonly role: string;
  readonly parts: readonly unknown[];
  readonly metadata?: unknown;
}

/**
 * @example
 * await channel.append(fromUIMessages(messages));
 */
export function fromUIMessages(messages: readonly UIMessageLike[]): NewMessage[] {
  return messages.map(fromUIMessage);
}

export function fromUIMessage(message: UIMessageLike): NewMessage {
  const original = asJson(message) as JsonObject;
  const parts = ((own(original, 'parts') ?? []) as JsonObject[]).flatMap(fromPart);
  const id = text(original, 'id');
  const content = present<NewMessage>({
    role: roleOf(text(original, 'role')),
    messageId: id !== undefined && Buffer.byteLength(id) <= limits.idBytes && id !== '' ? id : undefined,
    metadataJson: jsonText(own(original, 'metadata'), limits.jsonTextBytes),
    parts,
  } as NewMessage);
  const rest = remainder(messageRest, original, plainMessage(content));
  return rest === undefined ? content : { ...content, parts: [...parts, rest] };
}

/** `messageId` is the event's; a message without one gets no `id`. */
export function toUIMessage(message: MessageContent & { readonly messageId?: string }): JsonObject {
  const back = plainMessage(message);
  const last = message.parts?.at(-1);
  return isRemainder(last, messageRest) ? withRemainder(back, last) : back;
}

function plainMessage(message: MessageContent & { readonly messageId?: string }): JsonObject {
  return present<Record<string, never>>({
    id: message.messageId === '' ? undefined : message.messageId,
    role: message.role,
    metadata: message.metadataJson === undefined ? undefined : JSON.parse(message.metadataJson),
    parts: toParts(message.parts ?? []),
  } as never);
}

function roleOf(role: string | undefined): Role {
  return role === 'user' || role === 'assistant' || role === 'system' ? role : 'other';
}

function fromPart(original: JsonObject): Part[] {
  const whole: Part = { type: 'custom', kind: wholePart, json: JSON.stringify(original) };
  const parts = isObject(original) ? typedParts(original) : undefined;
  if (parts === undefined) return [whole];
  const [back] = toParts(parts);
  if (!isObject(back) || back['type'] !== original['type']) return [whole];
  const rest = remainder(partRest, original, back);
  return rest === undefined ? parts : [...parts, rest];
}

function typedParts(part: JsonObject): Part[] | undefined {
  const type = text(part, 'type') ?? '';
  const providerMetadataJson = jsonText(own(part, 'providerMetadata'), limits.jsonTextBytes);
  const state = short(part, 'state');
  switch (type) {
    case 'text':
      return [present<Part>({ type, text: text(part, 'text') ?? '', state, providerMetadataJson } as Part)];
    case 'reasoning':
      return [present<Part>({ type, text: text(part, 'text'), state, providerMetadataJson } as Part)];
    case 'file':
      return [
        present<Part>({
          type,
          mediaType: short(part, 'mediaType'),
          filename: short(part, 'filename'),
          url: text(part, 'url'),
          providerMetadataJson,
        } as Part),
      ];
    case 'source-url':
    case 'source-document':
      return [
        present<Part>({
          type: 'source',
          kind: type.slice('source-'.length),
          sourceId: short(part, 'sourceId'),
          url: text(part, 'url') || undefined,
          title: text(part, 'title') || undefined,
          mediaType: short(part, 'mediaType'),
          filename: short(part, 'filename'),
          providerMetadataJson,
        } as Part),
      ];
    case 'step-start':
      return [{ type: 'custom', kind: type }];
    default:
      if (type.startsWith('data-') && type.length <= 256)
        return [
          present<Part>({
            type: 'data',
            name: type.slice('data-'.length),
            id: short(part, 'id'),
            json: jsonText(own(part, 'data')),
          } as Part),
        ];
      if (type === 'dynamic-tool' || type.startsWith('tool-')) return toolParts(type, part, state);
      return undefined;
  }
}

/** Tools that are named by the part's type, and those that bring their name. */
const dynamicPrefix = 'dynamic:';

function toolParts(type: string, part: JsonObject, state: string | undefined): Part[] | undefined {
  const isDynamic = type === 'dynamic-tool';
  const name = isDynamic ? short(part, 'toolName') : type.slice('tool-'.length);
  const callId = short(part, 'toolCallId');
  if (name === undefined || name.length > 256 || callId === undefined || callId === '') return undefined;
  const call = present<ToolCallPart>({
    type: 'tool-call',
    callId,
    name,
    arguments: jsonText(own(part, 'input'), limits.jsonTextBytes) ?? '',
    id: isDynamic ? dynamicPrefix : undefined,
    state,
    providerExecuted: own(part, 'providerExecuted') === true ? true : undefined,
    providerMetadataJson: jsonText(own(part, 'callProviderMetadata'), limits.jsonTextBytes),
  } as ToolCallPart);
  const errorText = text(part, 'errorText');
  const outputJson = jsonText(own(part, 'output'));
  if (errorText !== undefined) return [call, { type: 'tool-result', callId, name, errorText, isError: true }];
  if (outputJson !== undefined) return [call, { type: 'tool-result', callId, name, outputJson }];
  return [call];
}

function toParts(parts: readonly Part[]): JsonObject[] {
  const result: JsonObject[] = [];
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i] as Part;
    if (isRemainder(part, messageRest)) continue;
    const next = parts[i + 1];
    let back: JsonObject;
    if (part.type === 'tool-call') {
      const hasResult = next?.type === 'tool-result' && next.callId === part.callId;
      back = toTool(part, hasResult ? next : undefined);
      if (hasResult) i++;
    } else back = toPart(part);
    const rest = parts[i + 1];
    if (isRemainder(rest, partRest)) {
      back = withRemainder(back, rest);
      i++;
    }
    result.push(back);
  }
  return result;
}

function toTool(call: ToolCallPart, result: Part | undefined): JsonObject {
  const isDynamic = call.id === dynamicPrefix;
  const output = result?.type === 'tool-result' ? result : undefined;
  // Arguments of another writer may be no JSON: they are the raw input then.
  const input = call.arguments === '' ? {} : parsed(call.arguments);
  return asJson({
    type: isDynamic ? 'dynamic-tool' : `tool-${call.name}`,
    toolName: isDynamic ? call.name : undefined,
    toolCallId: call.callId,
    state: call.state,
    ...input,
    output: output?.outputJson === undefined ? output?.outputText : JSON.parse(output.outputJson),
    errorText: output?.errorText,
    providerExecuted: call.providerExecuted,
    callProviderMetadata: metadata(call.providerMetadataJson),
  }) as JsonObject;
}

function parsed(json: string): JsonObject {
  try {
    return { input: JSON.parse(json) };
  } catch {
    return { rawInput: json };
  }
}

function toPart(part: Part): JsonObject {
  switch (part.type) {
    case 'text':
      return asJson({ type: 'text', text: part.text, ...common(part) }) as JsonObject;
    case 'reasoning':
      return asJson({ type: 'reasoning', text: part.text ?? '', ...common(part) }) as JsonObject;
    case 'file':
      return asJson({
        type: 'file',
        mediaType: part.mediaType,
        filename: part.filename,
        url: part.url,
        ...common(part),
      }) as JsonObject;
    case 'source':
      return asJson({
        type: `source-${part.kind ?? 'url'}`,
        sourceId: part.sourceId,
        url: part.url,
        title: part.title,
        mediaType: part.mediaType,
        filename: part.filename,
        ...common(part),
      }) as JsonObject;
    case 'data':
      return asJson({
        type: `data-${part.name}`,
        id: part.id,
        data: part.json === undefined ? undefined : JSON.parse(part.json),
      }) as JsonObject;
    case 'custom':
      if (part.kind === wholePart && part.json !== undefined) return JSON.parse(part.json) as JsonObject;
      if (part.kind === 'step-start') return { type: 'step-start' };
      break;
    default:
  }
  // A part that no UIMessage has: kept visible as a data part.
  return { type: 'data-hansard-part', data: asJson({ ...part }) };
}

function common(part: { readonly state?: string; readonly providerMetadataJson?: string }): JsonObject {
  return {
    state: part.state,
    providerMetadata: metadata(part.providerMetadataJson),
  } as unknown as JsonObject;
}

function metadata(json: string | undefined): JsonObject | undefined {
  return json === undefined ? undefined : (JSON.parse(json) as JsonObject);
}

/** A text that fits where a name stands; an empty one is the protocol's absent. */
function short(part: JsonObject, key: string): string | undefined {
  const value = text(part, key);
  return value !== undefined && value !== '' && Buffer.byteLength(value) <= limits.shortTextBytes
    ? value
    : undefined;
}

/** For applications that check that a conversion lost nothing. */
export function isSameUIMessage(a: unknown, b: unknown): boolean {
  return isEqual(asJson(a), asJson(b));
}
