/** Plain gRPC calls to one node, with bytes or objects: what no SDK would send, and answers of just this node. */
import { createHash } from 'node:crypto';
import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import { readListed } from '../../src/api/subscription-events.js';
import { decodeStatus, statusTrailer } from '../../src/common/status.js';
import { Wire, WireReader } from '../../src/common/wire.js';
import { type Decoded, decode, encode, type Failure, same } from '../api/harness.js';
import { patienceMs, sleep, until } from './harness.js';

const copyTries = 20;

export class Direct {
  readonly client: Client;

  constructor(readonly address: string) {
    this.client = new Client(address, credentials.createInsecure(), {
      'grpc.max_receive_message_length': 64 * 1024 * 1024,
      'grpc.max_send_message_length': 64 * 1024 * 1024,
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_retries': 0,
      'grpc.enable_http_proxy': 0,
    });
  }

  close(): void {
    this.client.close();
  }

  /** `path` is `hansard.v1.Service/Method`. Rejects with a Failure. */
  bytes(path: string, request: Buffer, deadlineMs = patienceMs, metadata = new Metadata()): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(
        `/${path}`,
        same,
        same,
        request,
        metadata,
        { deadline: Date.now() + deadlineMs },
        (error, response) => {
          if (error === null) resolve(response as Buffer);
          else reject(failureOf(error));
        },
      );
    });
  }

  /** `response`: its type, where that is not named after the method. */
  async call(method: string, request: object, deadlineMs?: number, response?: string): Promise<Decoded> {
    const name = method.split('/')[1] as string;
    const answer = await this.bytes(`hansard.v1.${method}`, encode(`${name}Request`, request), deadlineMs);
    return decode(response ?? `${name}Response`, answer);
  }

  /** How a call that must fail does; undefined: it did not. */
  async failure(path: string, request: Buffer, deadlineMs?: number): Promise<Failure | undefined> {
    return this.bytes(path, request, deadlineMs).then(
      () => undefined,
      (error: Failure) => error,
    );
  }

  /** All events of a channel as this node answers, at whatever it has applied; and who did answer. */
  async copy(channel: string): Promise<{ events: Decoded[]; servedBy: number[] }> {
    const events: Decoded[] = [];
    const servedBy = new Set<number>();
    for (let anchor = 1; ; ) {
      const page = await this.call('MessageService/ListMessages', {
        channel,
        anchor_seq: anchor,
        after: 1_000,
        read: { level: 4 },
      });
      servedBy.add(Number(page.served_by.node_id));
      events.push(...page.events);
      if (page.events.length > 0) anchor = Number(page.events.at(-1).seq) + 1;
      if (page.next_page_token === '') return { events, servedBy: [...servedBy] };
    }
  }

  /**
   * How many events this node's own copy of a channel has, and the hash of them all, as they are sent: objects made of a million of them
   * would take minutes.
   */
  async ownCopy(channel: string, nodeId: number): Promise<{ count: number; hash: string }> {
    const hash = createHash('sha256');
    let count = 0;
    for (let anchor = 1; ; ) {
      const request = encode('ListMessagesRequest', {
        channel,
        anchor_seq: anchor,
        after: 1_000,
        read: { level: 4 },
      });
      const page = await this.bytes('hansard.v1.MessageService/ListMessages', request);
      const by = servedBy(page);
      if (by !== nodeId) throw new Error(`served by ${by}`);
      const { events, more } = readListed(page);
      for (const { bytes } of events) hash.update(`${bytes.length} `).update(bytes);
      count += events.length;
      anchor = (events.at(-1)?.seq ?? 0) + 1;
      if (!more) return { count, hash: hash.digest('hex') };
    }
  }
}

/** Of a ListMessagesResponse. */
function servedBy(page: Buffer): number {
  const reader = new WireReader(page);
  while (reader.next()) {
    if (reader.field !== 4 || reader.wire !== Wire.bytes) {
      reader.skip();
      continue;
    }
    reader.sized();
    return Number(decode('ServedBy', page.subarray(reader.start, reader.position)).node_id);
  }
  return 0;
}

export function failureOf(error: ServiceError): Failure {
  const status = error.metadata?.get(statusTrailer)[0];
  return {
    code: error.code,
    message: error.details,
    error: Buffer.isBuffer(status) ? decodeStatus(status) : undefined,
  };
}

/**
 * The nodes among which copies of a channel differ, once all have `count`
 * events; empty: all are equal to the byte.
 */
export async function differingCopies(
  nodes: readonly { readonly id: number; readonly clientAddress: string }[],
  channel: string,
  count: number,
): Promise<string[]> {
  const copies = await Promise.all(
    nodes.map(async ({ id, clientAddress }) => {
      const direct = new Direct(clientAddress);
      try {
        await until(`node ${id} has ${count} events of ${channel}`, async () => {
          const last = { channel, anchor_seq: count, after: 1, read: { level: 4 } };
          const answer = await direct.call('MessageService/ListMessages', last).catch(() => undefined);
          return Number(answer?.served_by.node_id) === id && answer.events.length > 0;
        });
        // As long as it takes: a million events are read for minutes where the machine has other work.
        for (let triesLeft = copyTries; ; ) {
          try {
            return (await direct.ownCopy(channel, id)).hash;
          } catch (error) {
            // Leaders change, and nodes hand over what they can't answer.
            if (--triesLeft === 0) throw error;
            await sleep(500);
          }
        }
      } finally {
        direct.close();
      }
    }),
  );
  return nodes.filter((_, i) => copies[i] !== copies[0]).map(({ id }) => `node ${id} differs in ${channel}`);
}
