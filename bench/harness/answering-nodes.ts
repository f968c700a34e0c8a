/**
 * Three addresses that answer every call of Exchange with the same bytes, after a while:
 * the SDK's other end where its own cost alone is to be seen. A process of its own, so that
 * nothing of it counts. Tells its ports by its first message.
 */
import type { Server } from '@grpc/grpc-js';
import { bytesOf } from '../../src/api/calls.js';
import { EncodedPage, PageAnswer } from '../../src/api/encode.js';
import { methods } from '../../src/client/requests.js';
import { loadPublicProtos } from '../../src/common/proto.js';
import {
  varintFieldSize,
  varintSize,
  WireReader,
  writeVarint,
  writeVarintField,
} from '../../src/common/wire.js';
import { producerId } from '../../src/conversation/names.js';
import { bound, type RawStream, rawServer } from './raw-stream.js';
import { storedPages } from './stored-pages.js';

const nodeCount = 3;
const partitionCount = 24;
/** As nodes give (docs/format.md). */
const windowOfProducer = 1_024;
/** Between a frame's calls and their answers, ms: so long calls live where nodes have much to do. */
const delayMs = Number(process.argv[2] ?? 20);

const protos = loadPublicProtos() as unknown as Record<string, { serialize(value: object): Buffer }>;
const encode = (name: string, value: object): Buffer =>
  (protos[`hansard.v1.${name}`] as { serialize(value: object): Buffer }).serialize(value);

const servers: { server: Server; port: number }[] = [];
for (let i = 0; i < nodeCount; i++) {
  const server = rawServer('/hansard.v1.ExchangeService/Exchange', 16 * 1024 * 1024, (stream) =>
    serve(stream),
  );
  const port = await bound(server);
  servers.push({ server, port });
}

const cluster = encode('GetClusterResponse', {
  cluster_id: 'c1'.repeat(16),
  incarnation: 1,
  answered_by_node_id: 1,
  nodes: servers.map(({ port }, i) => ({ node_id: i + 1, client_address: `127.0.0.1:${port}` })),
  pools: [{ name: 'default', partition_count: partitionCount, replication_factor: nodeCount }],
  partitions: Array.from({ length: partitionCount }, (_, partition) => ({
    pool: 'default',
    partition,
    leader_node_id: 1 + (partition % nodeCount),
    term: 1,
    replicas: servers.map((_, i) => ({ replica_id: i + 1, node_id: i + 1 })),
  })),
});
/** Version, incarnation, one partition and its index, a checksum: of the length that tokens have. */
const commitToken = Buffer.from([1, 1, 1, 7, 0xc0, 0x84, 0x3d, 1, 2, 3, 4]);
const answers = new Map<string, Uint8Array>([
  [methods.getCluster, cluster],
  [
    methods.openProducer,
    encode('OpenProducerResponse', {
      producer_id: producerId(7, 1),
      partition: 7,
      next_counter: 1,
      window: windowOfProducer,
    }),
  ],
  [
    methods.append,
    encode('AppendMessagesResponse', {
      first_seq: 1_000,
      count: 1,
      commit_time: { seconds: 1_763_000_000, nanos: 123_456_000 },
      commit_token: commitToken,
      channel_uid: 'c0001000000000001',
    }),
  ],
  [
    methods.list,
    bytesOf(
      new PageAnswer(new EncodedPage(storedPages(1)[0] ?? [], 'next', 1_049, 'c0001000000000001'), {
        nodeId: 2,
        role: 'primary',
        partition: 7,
        appliedIndex: 1_000_000,
        stalenessMs: 1,
        commitToken,
      }),
    ),
  ],
]);

function serve(stream: RawStream): void {
  stream.on('error', () => {});
  stream.on('end', () => stream.end());
  stream.on('data', (frame: Buffer) => {
    const answer = answerTo(frame);
    setTimeout(() => stream.write(answer), delayMs);
  });
}

function answerTo(frame: Buffer): Buffer {
  const parts: Uint8Array[] = [];
  const calls = new WireReader(frame);
  while (calls.next()) {
    calls.sized();
    const call = new WireReader(frame, calls.start, calls.position);
    let id = 0;
    let method = '';
    while (call.next()) {
      if (call.field === 1) id = call.varint();
      else if (call.field === 2) {
        call.sized();
        method = frame.toString('latin1', call.start, call.position);
      } else call.skip();
    }
    const response = answers.get(method);
    if (response === undefined) throw new Error(`no answer to ${method}`);
    const size = varintFieldSize(id) + 1 + varintSize(response.length) + response.length;
    const head = Buffer.alloc(2 * 10 + 2 + 8);
    let at = 0;
    head[at++] = 0x0a;
    at = writeVarint(head, at, size);
    at = writeVarintField(head, at, 0x08, id);
    head[at++] = 0x2a;
    at = writeVarint(head, at, response.length);
    parts.push(head.subarray(0, at), response);
  }
  return Buffer.concat(parts);
}

process.on('disconnect', () => process.exit());
process.send?.(servers.map(({ port }) => port));
