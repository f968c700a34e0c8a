/** MessageContent and its parts from bytes. Absent fields stay absent, unknown kinds of parts keep their bytes. */
import { roles } from './content-encode.js';
import type { MessageContent, MessageRef, Part, Role, Usage } from './types.js';
import { ProtoReader } from './wire-reader.js';

/** Throws WireError where the bytes are no MessageContent. */
export function readContent(bytes: Uint8Array): MessageContent {
  return readContentFields(new ProtoReader(bytes));
}

export function readContentFields(r: ProtoReader): MessageContent {
  const content: { -readonly [K in keyof MessageContent]: MessageContent[K] } = {};
  let parts: Part[] | undefined;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) content.role = roleName(r.uint());
    else if (tag === 18) content.author = r.name();
    else if (tag === 26) {
      // Most have one: an empty array's first push makes room for 17.
      if (parts === undefined) parts = [readPart(r)];
      else parts.push(readPart(r));
    } else if (tag === 34) setRef(content, 'parent', r);
    else if (tag === 42) setRef(content, 'replyTo', r);
    else if (tag === 50) content.metadataJson = r.string();
    else if (tag === 58) content.clientTimeUs = r.message(readTimestamp);
    else if (tag === 66) content.usage = r.message(readUsage);
    else r.skip();
  }
  if (parts !== undefined) content.parts = parts;
  return content;
}

/** Whole microseconds since 1970, rounded down. */
export function readTimestamp(r: ProtoReader): number {
  let seconds = 0;
  let nanos = 0;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) seconds = r.int();
    else if (tag === 16) nanos = r.int();
    else r.skip();
  }
  return seconds * 1_000_000 + Math.floor(nanos / 1000);
}

type Fields = Record<string, unknown>;
type FieldReader = (into: Fields, r: ProtoReader) => void;

interface PartKind {
  /** The part's type and the fields that are always there. */
  readonly empty: Fields;
  /** By tag. */
  readonly fields: Readonly<Record<number, FieldReader>>;
}

const text =
  (name: string): FieldReader =>
  (into, r) => {
    into[name] = r.string();
  };
const bytes =
  (name: string): FieldReader =>
  (into, r) => {
    into[name] = new Uint8Array(r.view());
  };
const flag =
  (name: string): FieldReader =>
  (into, r) => {
    into[name] = r.bool();
  };
const number =
  (name: string): FieldReader =>
  (into, r) => {
    into[name] = r.uint64();
  };
const texts =
  (name: string): FieldReader =>
  (into, r) => {
    const list = (into[name] as string[] | undefined) ?? [];
    list.push(r.string());
    into[name] = list;
  };
/** One of a oneof: the last on the wire counts. */
const choice =
  (read: FieldReader, ...others: string[]): FieldReader =>
  (into, r) => {
    for (const other of others) delete into[other];
    read(into, r);
  };

/** By tag of the part's message in Part. */
const partKinds: Readonly<Record<number, PartKind>> = {
  18: {
    empty: { type: 'reasoning' },
    fields: {
      10: text('text'),
      18: bytes('signature'),
      26: bytes('encrypted'),
      34: texts('summary'),
      42: text('id'),
      50: text('state'),
    },
  },
  26: {
    empty: { type: 'tool-call', callId: '', name: '', arguments: '' },
    fields: {
      10: text('callId'),
      18: text('name'),
      26: text('arguments'),
      34: text('id'),
      42: text('state'),
      48: flag('providerExecuted'),
    },
  },
  34: {
    empty: { type: 'tool-result', callId: '' },
    fields: {
      10: text('callId'),
      18: text('name'),
      26: choice(text('outputJson'), 'outputText', 'errorText'),
      34: choice(text('outputText'), 'outputJson', 'errorText'),
      42: choice(text('errorText'), 'outputJson', 'outputText'),
      48: flag('isError'),
      58: text('id'),
      66: text('state'),
    },
  },
  42: {
    empty: { type: 'file' },
    fields: {
      10: text('mediaType'),
      18: text('filename'),
      26: choice(text('url'), 'fileId', 'inlineData'),
      34: choice(text('fileId'), 'url', 'inlineData'),
      42: choice(bytes('inlineData'), 'url', 'fileId'),
      48: number('sizeBytes'),
      58: bytes('sha256'),
    },
  },
  50: {
    empty: { type: 'source' },
    fields: {
      10: text('sourceId'),
      18: text('kind'),
      26: text('url'),
      34: text('title'),
      42: text('mediaType'),
      50: text('filename'),
    },
  },
  58: {
    empty: { type: 'data', name: '' },
    fields: { 10: text('name'), 18: text('id'), 26: text('json') },
  },
  66: {
    empty: { type: 'custom', kind: '' },
    fields: {
      10: text('kind'),
      18: choice(text('json'), 'binary'),
      26: choice(bytes('binary'), 'json'),
    },
  },
};

const usageFields: Readonly<Record<number, FieldReader>> = {
  10: text('model'),
  16: number('inputTokens'),
  24: number('outputTokens'),
  32: number('cachedInputTokens'),
  40: number('reasoningTokens'),
  50: text('detailsJson'),
};

function readPart(r: ProtoReader): Part {
  const start = r.position;
  const outer = r.enter();
  let part: Fields | undefined;
  let providerMetadata: string | undefined;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === textTag) part = readText(r);
    else if (tag === 122) providerMetadata = r.string();
    else {
      const kind = partKinds[tag];
      // A kind of a newer version: kept as its bytes, whatever else they hold.
      if (kind === undefined) return unknownPart(r, start, outer);
      part = { ...kind.empty };
      const inner = r.enter();
      readFields(part, r, kind.fields);
      r.leave(inner);
    }
  }
  if (part === undefined) return unknownPart(r, start, outer);
  r.leave(outer);
  if (providerMetadata !== undefined) part.providerMetadataJson = providerMetadata;
  return part as unknown as Part;
}

const textTag = 10;

/** By far the most parts; the table below has the others. */
function readText(r: ProtoReader): Fields {
  const outer = r.enter();
  let text = '';
  let state: string | undefined;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) text = r.string();
    else if (tag === 18) state = r.name();
    else r.skip();
  }
  r.leave(outer);
  return state === undefined ? { type: 'text', text } : { type: 'text', text, state };
}

function unknownPart(r: ProtoReader, start: number, outer: number): Part {
  r.leave(outer);
  return { type: 'unknown', bytes: new Uint8Array(r.sizedAt(start)) };
}

function readFields(into: Fields, r: ProtoReader, fields: Readonly<Record<number, FieldReader>>): void {
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    const read = fields[tag];
    if (read === undefined) r.skip();
    else read(into, r);
  }
}

function readUsage(r: ProtoReader): Usage {
  const usage: Fields = {};
  readFields(usage, r, usageFields);
  return usage as Usage;
}

function setRef(
  content: { parent?: MessageRef; replyTo?: MessageRef },
  name: 'parent' | 'replyTo',
  r: ProtoReader,
): void {
  const ref = r.message(readRef);
  if (ref !== undefined) content[name] = ref;
}

function readRef(r: ProtoReader): MessageRef | undefined {
  let ref: MessageRef | undefined;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) ref = { seq: r.uint64() };
    else if (tag === 18) ref = { messageId: r.string() };
    else if (tag === 24) ref = { batchPosition: r.uint() };
    else r.skip();
  }
  return ref;
}

function roleName(number: number): Role {
  return roles[number] ?? number;
}
