/**
 * Carries out the docs' grpcurl commands where grpcurl itself is not installed,
 * so that they can't rot: the same arguments, the schema from the server's own
 * reflection, the request from its JSON, a real call. As strict as grpcurl: an
 * unknown field, enum value, method or option is an error. Not grpcurl: what the
 * docs don't use is refused.
 */
import { parseArgs } from 'node:util';
import { Client, credentials } from '@grpc/grpc-js';
import protobuf, { type Enum, type Method, type Root, type Type } from 'protobufjs';
import descriptor from 'protobufjs/ext/descriptor/index.js';

const deadlineMs = 120_000;

/** What of grpc.reflection.v1 is used here, by the numbers of its fields. */
const reflection = protobuf.parse(`syntax = "proto3";
message Request { oneof of { string file_containing_symbol = 4; string list_services = 7; } }
message Response {
  Files file_descriptor_response = 4;
  Services list_services_response = 6;
  Failure error_response = 7;
}
message Files { repeated bytes file_descriptor_proto = 1; }
message Services { repeated Service service = 1; }
message Service { string name = 1; }
message Failure { int32 error_code = 1; string error_message = 2; }
`).root;

try {
  console.log(JSON.stringify(await run(process.argv.slice(2)), undefined, 2));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}

async function run(args: string[]): Promise<unknown> {
  const { values, positionals } = parseArgs({
    args: args.map((arg) => arg.replace(/^-(plaintext|proto|import-path)$/, '--$1')),
    options: { plaintext: { type: 'boolean' }, d: { type: 'string', short: 'd' } },
    allowPositionals: true,
  });
  const [address = '', verb = '', ...more] = positionals;
  if (!values.plaintext || verb === '' || more.length > 0)
    throw new Error(`not understood: ${args.join(' ')}`);
  const client = new Client(address, credentials.createInsecure());
  try {
    if (verb === 'list') return (await reflect(client, { listServices: '*' })).listServicesResponse;
    const [service = '', method = ''] = verb.split('/');
    const file = await reflect(client, { fileContainingSymbol: service });
    const files = (file.fileDescriptorResponse as { fileDescriptorProto: Uint8Array[] }).fileDescriptorProto;
    return await call(client, rootOf(files), service, method, JSON.parse(values.d ?? '{}'));
  } finally {
    client.close();
  }
}

async function call(
  client: Client,
  root: Root,
  service: string,
  name: string,
  body: unknown,
): Promise<unknown> {
  const method = root.lookupService(service).methods[name];
  if (method === undefined) throw new Error(`service "${service}" does not include a method named "${name}"`);
  if (method.requestStream || method.responseStream) throw new Error(`${name}: a stream`);
  const { resolvedRequestType: asked, resolvedResponseType: answered } = method.resolve() as Method;
  if (asked === null || answered === null) throw new Error(`${name}: types without descriptors`);
  check(asked, body, asked.name);
  const request = asked.encode(asked.fromObject(body as Record<string, unknown>)).finish();
  const answer = answered.decode(await unary(client, `/${service}/${name}`, request));
  return answered.toObject(answer, { enums: String, longs: String, bytes: String });
}

/** protobufjs passes over what it does not know; grpcurl does not. */
function check(type: Type, value: unknown, path: string): void {
  if (typeof value !== 'object' || value === null) throw new Error(`${path}: not an object`);
  for (const [name, inner] of Object.entries(value)) {
    const field = type.fields[name];
    if (field === undefined)
      throw new Error(`message type ${type.fullName} has no known field named ${name}`);
    field.resolve();
    if (field.repeated && !Array.isArray(inner)) throw new Error(`${path}.${name}: not a list`);
    for (const each of field.repeated ? (inner as unknown[]) : [inner]) {
      if (field.resolvedType instanceof protobuf.Type) check(field.resolvedType, each, `${path}.${name}`);
      else if (field.resolvedType instanceof protobuf.Enum) checkEnum(field.resolvedType, each);
      else if (field.type === 'string' && typeof each !== 'string')
        throw new Error(`${path}.${name}: no text`);
    }
  }
}

function checkEnum(type: Enum, value: unknown): void {
  if (typeof value !== 'string' || !(value in type.values))
    throw new Error(`enum ${type.fullName} has no value named ${String(value)}`);
}

function rootOf(files: readonly Uint8Array[]): Root {
  const set = descriptor.FileDescriptorSet.create({
    file: files.map((bytes) => descriptor.FileDescriptorProto.decode(bytes)),
  });
  const { fromDescriptor } = protobuf.Root as unknown as { fromDescriptor(set: object): Root };
  const root = fromDescriptor(set);
  root.resolveAll();
  return root;
}

function reflect(client: Client, request: Record<string, string>): Promise<Record<string, unknown>> {
  const asked = reflection.lookupType('Request');
  const answered = reflection.lookupType('Response');
  return new Promise((resolve, reject) => {
    const stream = client.makeBidiStreamRequest(
      '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
      (bytes: Buffer) => bytes,
      (bytes) => bytes,
      { deadline: Date.now() + deadlineMs },
    );
    stream.on('error', reject);
    stream.once('data', (bytes: Buffer) => {
      const answer = answered.toObject(answered.decode(bytes)) as Record<string, unknown>;
      stream.end();
      const failure = answer.errorResponse as { errorMessage: string } | undefined;
      if (failure === undefined) resolve(answer);
      else reject(new Error(failure.errorMessage));
    });
    stream.write(Buffer.from(asked.encode(asked.create(request)).finish()));
  });
}

function unary(client: Client, path: string, request: Uint8Array): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      path,
      (bytes: Buffer) => bytes,
      (bytes) => bytes,
      Buffer.from(request),
      { deadline: Date.now() + deadlineMs },
      (error, answer) => {
        if (error !== null) reject(error);
        else if (answer === undefined) reject(new Error('no answer'));
        else resolve(answer);
      },
    );
  });
}
