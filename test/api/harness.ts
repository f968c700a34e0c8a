/** A server over a fake node on a port of its own, and a plain gRPC client of it. */
import { Client, credentials, type ServiceError } from '@grpc/grpc-js';
import { type Api, type ApiOptions, startApi } from '../../src/api/server.js';
import type { HansardError } from '../../src/common/errors.js';
import { silentLogger } from '../../src/common/logger.js';
import { loadPublicProtos } from '../../src/common/proto.js';
import { decodeStatus, statusTrailer } from '../../src/common/status.js';
import { patienceMs } from '../support/until.js';
import { FakeNode } from './fake-node.js';

interface Codec {
  serialize(value: object): Buffer;
  deserialize(bytes: Buffer): object;
}
const protos = loadPublicProtos() as unknown as Record<string, Codec>;

// biome-ignore lint/suspicious/noExplicitAny: decoded protobuf, looked into freely by tests
export type Decoded = any;

export function encode(type: string, value: object): Buffer {
  return codec(type).serialize(value);
}

export function decode(type: string, bytes: Uint8Array): Decoded {
  return codec(type).deserialize(Buffer.from(bytes));
}

function codec(type: string): Codec {
  const found = protos[`hansard.v1.${type}`];
  if (found === undefined) throw new Error(`no type ${type}`);
  return found;
}

export interface Failure {
  code: number;
  message: string;
  error: HansardError | undefined;
}

export const same = (bytes: Buffer): Buffer => bytes;

export class Harness {
  fatal: unknown;
  readonly ended: { method: string; origin: string; reason: string | undefined }[] = [];

  private constructor(
    readonly node: FakeNode,
    readonly api: Api,
    readonly client: Client,
  ) {}

  static async start(node = new FakeNode(), options: Partial<ApiOptions> = {}): Promise<Harness> {
    const state: { harness?: Harness } = {};
    const api = await startApi(node, {
      address: '127.0.0.1:0',
      insecure: false,
      logger: silentLogger,
      hooks: {
        onCall: (method, origin, reason) => state.harness?.ended.push({ method, origin, reason }),
        onFatal: (error) => {
          if (state.harness !== undefined) state.harness.fatal = error;
        },
      },
      ...options,
    });
    const client = new Client(api.address, credentials.createInsecure(), {
      'grpc.max_receive_message_length': 64 * 1024 * 1024,
      'grpc.max_send_message_length': 64 * 1024 * 1024,
      'grpc.use_local_subchannel_pool': 1,
    });
    state.harness = new Harness(node, api, client);
    return state.harness;
  }

  async stop(): Promise<void> {
    this.client.close();
    await this.api.stop(1_000);
  }

  /** A unary call of bytes; rejects with a Failure. */
  raw(method: string, request: Buffer, deadlineMs = patienceMs): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const deadline = Date.now() + deadlineMs;
      this.client.makeUnaryRequest(
        `/hansard.v1.${method}`,
        same,
        same,
        request,
        { deadline },
        (error, response) => {
          if (error === null) resolve(response as Buffer);
          else reject(failureOf(error));
        },
      );
    });
  }

  async call(method: string, request: object): Promise<Decoded> {
    const name = method.split('/')[1] as string;
    return decode(`${name}Response`, await this.raw(method, encode(`${name}Request`, request)));
  }

  append(request: object): Promise<Decoded> {
    return this.call('MessageService/AppendMessages', request);
  }

  /** How a call that must fail does. */
  async failure(method: string, request: object | Buffer, deadlineMs?: number): Promise<Failure> {
    const name = method.split('/')[1] as string;
    const bytes = Buffer.isBuffer(request) ? request : encode(`${name}Request`, request);
    const result = await this.raw(method, bytes, deadlineMs).catch((error: Failure) => error);
    if (Buffer.isBuffer(result)) throw new Error(`${method} should have failed`);
    return result;
  }

  /** The reason of an append that must fail. */
  async refused(request: object | Buffer): Promise<HansardError | undefined> {
    return (await this.failure('MessageService/AppendMessages', request)).error;
  }
}

export function failureOf(error: ServiceError): Failure {
  const status = error.metadata.get(statusTrailer)[0];
  return {
    code: error.code,
    message: error.details,
    error: Buffer.isBuffer(status) ? decodeStatus(status) : undefined,
  };
}

/** A message of one text part. */
export function text(words: string, more: object = {}): object {
  return { message: { role: 1, author: 'ann', parts: [{ text: { text: words } }] }, ...more };
}

export function words(event: Decoded): string {
  return event.message.parts[0].text.text;
}
