/**
 * What each field of each message may hold, as tables by field number. They are
 * made once from the descriptors of the protos, so that a field added there is
 * checked here; what a descriptor can't say (JSON, short texts, ranges) is in
 * `special` below, and the suite checks that each name in it exists.
 */
import type { PackageDefinition } from '@grpc/proto-loader';
import { assert } from '../common/errors.js';
import { limits } from '../common/limits.js';
import { Wire } from '../common/wire.js';

export const Kind = {
  /** A number below 2^64. */
  number: 0,
  /** A number that is used: at most `max`. */
  bounded: 1,
  text: 2,
  bytes: 3,
  message: 4,
  fixed: 5,
  json: 6,
} as const;
export type Kind = (typeof Kind)[keyof typeof Kind];

export interface FieldRule {
  readonly name: string;
  readonly repeated: boolean;
  readonly wire: number;
  readonly kind: Kind;
  /** Of `bounded` the highest value; of text, bytes and JSON the most bytes. */
  readonly max: number;
  /** Of `message`. */
  readonly message: MessageRule | undefined;
}

export interface MessageRule {
  readonly name: string;
  /** By field number; a hole is a field that this version does not know. */
  readonly fields: (FieldRule | undefined)[];
  /** A MessageRef: its batch_position must be an earlier one. */
  readonly isRef: boolean;
  readonly isTimestamp: boolean;
  /** Elements of its repeated fields together: bounds what a reader allocates. */
  readonly elementsMax: number;
}

const any = Number.POSITIVE_INFINITY;
type Special = { json?: number; max?: number; exact?: number };

const shortText: Special = { max: limits.shortTextBytes };
const smallJson: Special = { json: limits.jsonTextBytes };

/** By message and field, beyond what the descriptors tell. */
export const special: Readonly<Record<string, Special>> = {
  'MessageContent.author': shortText,
  'MessageContent.metadata_json': smallJson,
  'MessageRef.message_id': { max: limits.idBytes },
  'Usage.model': shortText,
  'Usage.details_json': smallJson,
  'Part.provider_metadata': smallJson,
  'TextPart.state': shortText,
  'ReasoningPart.id': shortText,
  'ReasoningPart.state': shortText,
  'ToolCallPart.call_id': shortText,
  'ToolCallPart.name': shortText,
  'ToolCallPart.id': shortText,
  'ToolCallPart.state': shortText,
  'ToolResultPart.call_id': shortText,
  'ToolResultPart.name': shortText,
  'ToolResultPart.output_json': { json: any },
  'ToolResultPart.id': shortText,
  'ToolResultPart.state': shortText,
  'FileReferencePart.media_type': shortText,
  'FileReferencePart.filename': shortText,
  'FileReferencePart.file_id': shortText,
  'FileReferencePart.sha256': { max: 32 },
  'SourcePart.source_id': shortText,
  'SourcePart.kind': shortText,
  'SourcePart.media_type': shortText,
  'SourcePart.filename': shortText,
  'DataPart.name': shortText,
  'DataPart.id': shortText,
  'DataPart.json': { json: any },
  'CustomPart.kind': shortText,
  'CustomPart.json': { json: any },
};
/** Tool arguments are kept as the model wrote them: bounded as JSON texts are, but need not parse. */
export const toolArguments = 'ToolCallPart.arguments';

/** Numbers in these are not used by the server, and may be any uint64. */
const free = new Set(['Usage', 'FileReferencePart']);

interface Descriptor {
  name: string;
  field: { name: string; number: number; label: string; type: string; typeName: string }[];
  nestedType: Descriptor[];
  options: { mapEntry?: boolean } | null;
}
interface EnumDescriptor {
  value: { number: number }[];
}

/** Rules for messages by full name (`hansard.v1.MessageContent`). */
export class Rules {
  readonly #descriptors = new Map<string, Descriptor>();
  readonly #enums = new Map<string, EnumDescriptor>();
  readonly #rules = new Map<string, MessageRule>();

  constructor(protos: PackageDefinition) {
    for (const [name, definition] of Object.entries(protos)) {
      if (!('format' in definition)) continue;
      if (String(definition.format).includes('Enum')) {
        this.#enums.set(name, definition.type as unknown as EnumDescriptor);
      } else this.#descriptors.set(name, definition.type as unknown as Descriptor);
    }
  }

  message(fullName: string): MessageRule {
    const made = this.#rules.get(fullName);
    if (made !== undefined) return made;
    const descriptor = this.#descriptors.get(fullName);
    assert(descriptor !== undefined, `no message ${fullName} in the protos`);
    return this.#make(fullName, descriptor);
  }

  #make(fullName: string, descriptor: Descriptor): MessageRule {
    const fields: (FieldRule | undefined)[] = [];
    const isRef = descriptor.name === 'MessageRef';
    const isTimestamp = fullName === 'google.protobuf.Timestamp';
    const elementsMax =
      descriptor.name === 'Channel'
        ? limits.labelsPerChannel + limits.participantsPerChannel
        : limits.partsPerMessage;
    const rule: MessageRule = { name: fullName, fields, isRef, isTimestamp, elementsMax };
    this.#rules.set(fullName, rule);
    for (const field of descriptor.field) fields[field.number] = this.#field(fullName, descriptor, field);
    // A dense array: looking into a hole would leave the fast kind of array.
    for (let number = 0; number < fields.length; number++) fields[number] ??= undefined;
    return rule;
  }

  #field(parent: string, descriptor: Descriptor, field: Descriptor['field'][number]): FieldRule {
    const base = { name: field.name, repeated: field.label === 'LABEL_REPEATED', message: undefined };
    const bytes = (kind: Kind, max: number): FieldRule => ({ ...base, wire: Wire.bytes, kind, max });
    const key = `${descriptor.name}.${field.name}`;
    const extra = special[key];
    switch (field.type) {
      case 'TYPE_STRING':
        if (key === toolArguments) return bytes(Kind.text, limits.jsonTextBytes);
        if (extra?.json !== undefined) return bytes(Kind.json, extra.json);
        return bytes(Kind.text, extra?.max ?? any);
      case 'TYPE_BYTES':
        return bytes(Kind.bytes, extra?.max ?? any);
      case 'TYPE_MESSAGE':
        return { ...bytes(Kind.message, any), message: this.#resolve(parent, descriptor, field.typeName) };
      case 'TYPE_ENUM': {
        const values = this.#enums.get(qualified(parent, field.typeName))?.value ?? [];
        const max = Math.max(0, ...values.map((value) => value.number));
        return { ...base, wire: Wire.varint, kind: Kind.bounded, max };
      }
      case 'TYPE_BOOL':
        return { ...base, wire: Wire.varint, kind: Kind.bounded, max: 1 };
      case 'TYPE_UINT32':
        return { ...base, wire: Wire.varint, kind: Kind.bounded, max: 0xffff_ffff };
      case 'TYPE_INT32':
        // Times and durations have negative ones; a page size below 0 is its handler's to refuse.
        return { ...base, wire: Wire.varint, kind: Kind.number, max: any };
      case 'TYPE_UINT64':
        if (free.has(descriptor.name)) return { ...base, wire: Wire.varint, kind: Kind.number, max: any };
        return { ...base, wire: Wire.varint, kind: Kind.bounded, max: Number.MAX_SAFE_INTEGER };
      case 'TYPE_INT64':
        return { ...base, wire: Wire.varint, kind: Kind.number, max: any };
      case 'TYPE_FIXED64':
        return { ...base, wire: Wire.fixed64, kind: Kind.fixed, max: any };
      default:
        assert(false, `no rule for ${key} of type ${field.type}`);
    }
  }

  #resolve(parent: string, descriptor: Descriptor, typeName: string): MessageRule {
    const nested = descriptor.nestedType?.find((each) => each.name === typeName.split('.').at(-1));
    if (nested !== undefined && !this.#descriptors.has(qualified(parent, typeName))) {
      return this.#rules.get(`${parent}.${nested.name}`) ?? this.#make(`${parent}.${nested.name}`, nested);
    }
    return this.message(qualified(parent, typeName));
  }
}

/** Type names stand relative to the package of the message that uses them, or in full. */
function qualified(parent: string, typeName: string): string {
  const name = typeName.startsWith('.') ? typeName.slice(1) : typeName;
  if (name.startsWith('google.') || name.startsWith('hansard.')) return name;
  return `${parent.split('.').slice(0, 2).join('.')}.${name}`;
}
