/**
 * docs/api.md from the comments of proto/hansard/v1: api.template.md with every
 * service, method, message, field and enum value in the place of its marker line.
 * What has no comment is listed in `missing`, and the suite fails on it.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import protobuf, {
  type Enum,
  type Field,
  type MapField,
  type Method,
  type Namespace,
  type ReflectionObject,
  type Service,
  type Type,
} from 'protobufjs';

export interface ApiPage {
  readonly text: string;
  /** Full names without a comment. */
  readonly missing: readonly string[];
  /** `hansard.v1.MessageService/AppendMessages` and so on. */
  readonly methods: readonly string[];
  /** What the "Errors:" paragraphs of methods name. */
  readonly errors: readonly string[];
}

const marker = '<!-- every service, method, message and enum -->';

export function apiPage(protoFolder: string, template: string): ApiPage {
  const page = new Page(readFiles(protoFolder));
  const body = page.write();
  if (template.split(marker).length !== 2) throw new Error(`the template needs one line ${marker}`);
  return {
    text: `${template.replace(marker, () => body).trimEnd()}\n`,
    missing: page.missing,
    methods: page.methods,
    errors: page.errors,
  };
}

interface ProtoFile {
  readonly name: string;
  readonly services: readonly Service[];
  readonly types: readonly (Type | Enum)[];
}

/** Files with a service first: that is what readers look for. */
function readFiles(protoFolder: string): ProtoFile[] {
  const folder = join(protoFolder, 'hansard', 'v1');
  const files = readdirSync(folder).filter((name) => name.endsWith('.proto'));
  const order = (name: string): string => {
    const at = fileOrder.indexOf(name);
    return at < 0 ? `9${name}` : String(at);
  };
  files.sort((a, b) => (order(a) < order(b) ? -1 : 1));
  return files.map((name) => readFile(join(folder, name)));
}

/** The rest follows by name. */
const fileOrder = [
  'message_service.proto',
  'channel_service.proto',
  'event_service.proto',
  'exchange_service.proto',
  'cluster_service.proto',
];

function readFile(path: string): ProtoFile {
  // A root of its own: what belongs to which file is the order of this page.
  const { root, package: name } = protobuf.parse(readFileSync(path, 'utf8'), new protobuf.Root(), {
    keepCase: true,
    alternateCommentMode: true,
  });
  const space = root.lookup(name ?? '') as Namespace;
  const services: Service[] = [];
  const types: (Type | Enum)[] = [];
  for (const each of space.nestedArray) {
    if (each instanceof protobuf.Service) services.push(each);
    else if (each instanceof protobuf.Type || each instanceof protobuf.Enum) types.push(each);
  }
  return { name: basename(path), services, types };
}

class Page {
  readonly missing: string[] = [];
  readonly methods: string[] = [];
  readonly errors: string[] = [];
  readonly #files: readonly ProtoFile[];
  /** Of our own messages and enums: others are Google's, and have no section. */
  readonly #known = new Set<string>();

  constructor(files: readonly ProtoFile[]) {
    this.#files = files;
    for (const { types } of files) for (const type of types) this.#known.add(type.name);
  }

  write(): string {
    return this.#files.map((file) => this.#file(file)).join('\n\n');
  }

  #file(file: ProtoFile): string {
    const sections = file.services.map((service) => this.#service(service));
    if (file.services.length === 0)
      sections.push(`## Messages of ${file.name}\n\nWhat several services have in common.`);
    for (const type of file.types)
      sections.push(type instanceof protobuf.Enum ? this.#enum(type) : this.#message(type));
    return sections.join('\n\n');
  }

  #service(service: Service): string {
    const methods = service.methodsArray.map((method) => this.#method(service, method));
    return [`## ${service.name}`, prose(this.#comment(service)), ...methods].join('\n\n');
  }

  #method(service: Service, method: Method): string {
    const path = `${service.fullName.slice(1)}/${method.name}`;
    this.methods.push(path);
    const comment = this.#comment(method);
    for (const [, name] of errorsOf(comment).matchAll(/`([A-Z][A-Z0-9_]+)`/g)) this.errors.push(name ?? '');
    const side = (streams: boolean | undefined, type: string): string =>
      `${streams ? 'a stream of ' : ''}${this.#link(type)}`;
    const kinds = ['unary', 'client stream', 'server stream', 'streams both ways'];
    const kind = kinds[(method.requestStream ? 1 : 0) + (method.responseStream ? 2 : 0)];
    const call = `${side(method.requestStream, method.requestType)} → ${side(method.responseStream, method.responseType)}`;
    return `### ${method.name}\n\n\`POST /${path}\` · ${kind} · ${call}\n\n${prose(comment)}`;
  }

  #message(type: Type): string {
    for (const nested of type.nestedArray)
      throw new Error(`${nested.fullName}: a nested type, which this page has no place for`);
    const parts = [`#### ${type.name}`, prose(this.#comment(type))];
    for (const oneof of type.oneofsArray)
      parts.push(`At most one of \`${oneof.name}\`: ${cell(this.#comment(oneof))}`);
    if (type.fieldsArray.length > 0) {
      const rows = type.fieldsArray.map((field) => this.#field(field));
      parts.push(['| field | no. | type | |', '| --- | --- | --- | --- |', ...rows].join('\n'));
    } else parts.push('No fields.');
    return parts.join('\n\n');
  }

  #field(field: Field): string {
    const type = this.#link(field.type);
    const label =
      field instanceof protobuf.MapField
        ? `map of ${(field as MapField).keyType} to ${type}`
        : `${field.repeated ? 'repeated ' : ''}${type}`;
    const choice = field.partOf === null ? '' : `, of \`${field.partOf.name}\``;
    return `| \`${field.name}\` | ${field.id} | ${label}${choice} | ${cell(this.#comment(field))} |`;
  }

  #enum(type: Enum): string {
    const rows = Object.entries(type.values).map(([name, number]) => {
      const comment = type.comments[name] ?? '';
      if (comment === '') this.missing.push(`${type.fullName.slice(1)}.${name}`);
      return `| \`${name}\` | ${number} | ${cell(comment)} |`;
    });
    const table = ['| value | no. | |', '| --- | --- | --- |', ...rows].join('\n');
    return `#### ${type.name}\n\n${prose(this.#comment(type))}\n\n${table}`;
  }

  #comment(object: ReflectionObject): string {
    const comment = object.comment ?? '';
    if (comment === '') this.missing.push(object.fullName.slice(1));
    return comment;
  }

  #link(type: string): string {
    if (this.#known.has(type)) return `[${type}](#${type.toLowerCase()})`;
    return type;
  }
}

function errorsOf(comment: string): string {
  return comment.split(/\n\s*\n/).find((paragraph) => paragraph.startsWith('Errors: ')) ?? '';
}

/** Paragraphs in one line each; rows of tables and items of lists keep theirs. */
function prose(comment: string): string {
  let text = '';
  let open = false;
  for (const line of comment.split('\n').map((each) => each.trim())) {
    const own = line === '' || /^(\||- |\* |\d+\. )/.test(line);
    text += open && !own ? ` ${line}` : `\n${line}`;
    open = line !== '' && !line.startsWith('|');
  }
  return text.trim().replace(/^Errors: /gm, '**Errors:** ');
}

function cell(comment: string): string {
  return comment.replace(/\s*\n\s*/g, ' ').replaceAll('|', '\\|');
}
