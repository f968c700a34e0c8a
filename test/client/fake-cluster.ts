/**
 * A cluster of fake nodes over real gRPC, decoded by proto-loader (not by the
 * client's own codec): one shared state, producers and channels as the server
 * has them, and a script that decides what happens to each append.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { HansardError } from '../../src/common/errors.js';
import { xxh64 } from '../../src/common/hash.js';
import { partitionOf } from '../../src/common/partitioning.js';

const protoDir = join(fileURLToPath(new URL('../../..', import.meta.url)), 'proto');
export const protos = loadSync(
  [
    'hansard/v1/message_service.proto',
    'hansard/v1/channel_service.proto',
    'hansard/v1/cluster_service.proto',
    'hansard/v1/exchange_service.proto',
    'hansard/v1/subscription_service.proto',
    'google/rpc/error_details.proto',
    'google/rpc/status.proto',
  ],
  {
    keepCase: true,
    longs: String,
    enums: Number,
    defaults: false,
    arrays: true,
    oneofs: true,
    includeDirs: [protoDir],
  },
);

interface Codec {
  serialize(value: object): Buffer;
  deserialize(bytes: Buffer): Record<string, never>;
}
export function codec(name: string): Codec {
  return protos[name] as unknown as Codec;
}

interface MethodCodec {
  path: string;
  requestDeserialize(bytes: Buffer): Loose;
  responseSerialize(value: object): Buffer;
}
// biome-ignore lint/suspicious/noExplicitAny: proto-loader's objects have no types of their own
type Loose = any;

/** What a script does with one append: before it reaches the state, or after. */
export type Fate =
  | { do: 'apply' }
  /** Applied, but the client is told something else, or nothing. */
  | { do: 'apply'; answer: HansardError | 'none' | 'cut' }
  | { do: 'refuse'; answer: HansardError | 'none' | 'cut' };

export interface AppendSeen {
  node: number;
  partition: number;
  channel: string;
  producerId: number;
  counter: number;
  count: number;
  texts: string[];
}

interface Producer {
  name: string;
  last: number;
  answers: Map<number, object>;
}

export interface StoredEvent {
  seq: number;
  content: Buffer;
  text: string;
  checksum: string;
  key: string;
  message_id: string;
  producer_id: number;
  producer_counter: number;
}

class Dropped {}
class Cut {}

export class FakeCluster {
  readonly partitionCount = 4;
  readonly window: number;
  leaders = [0, 0, 0, 0];
  term = 1;
  readonly channels = new Map<string, StoredEvent[]>();
  readonly producers = new Map<number, Producer>();
  readonly seen: AppendSeen[] = [];
  readonly frames: number[] = [];
  readonly nodes: FakeNode[] = [];
  fate: (append: AppendSeen) => Fate = () => ({ do: 'apply' });
  /** Delays an answer, ms. */
  delay: (append: AppendSeen) => number = () => 0;
  /** No append is answered before. */
  held: Promise<void> | undefined;
  /** Of every answer on a stream, those to calls for the map, too, ms. */
  lateMs = 0;
  refuseRead: ((node: number, method: string) => HansardError | undefined) | undefined;
  corrupt = false;
  /** Nodes that take calls and never answer: stopped, their connections open. */
  readonly silent = new Set<number>();
  /** What a node's map says instead; leader -1: none. */
  view: ((node: number) => { leader: number; term: number } | undefined) | undefined;
  /** A leader elsewhere is named in NOT_LEADER. */
  hints = true;
  /** Who does not lead passes calls on, and says so, instead of NOT_LEADER; Exchange alone. */
  forwards = false;
  forwarded = 0;
  #nextProducer = 1;
  maxOutstanding = 0;
  #outstanding = 0;

  constructor(options: { window?: number } = {}) {
    this.window = options.window ?? 64;
  }

  async start(count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
      const node = new FakeNode(i, this);
      await node.start(0);
      this.nodes.push(node);
    }
  }
  get url(): string {
    return `hansard://${this.nodes.map((node) => node.address).join(',')}`;
  }
  async stop(): Promise<void> {
    for (const node of this.nodes) node.stop();
  }
  texts(channel: string): string[] {
    return (this.channels.get(channel) ?? []).map((event) => event.text);
  }
  partitionOf(channel: string): number {
    return partitionOf('', channel, this.partitionCount);
  }

  async handle(node: FakeNode, method: string, request: Loose): Promise<object> {
    if (this.silent.has(node.index)) throw new Dropped();
    switch (method.slice(method.lastIndexOf('/') + 1)) {
      case 'AppendMessages':
        return this.#append(node, request);
      case 'OpenProducer':
        return this.#open(node, request);
      case 'ListMessages':
        return this.#list(node, request);
      case 'GetMessage':
        return this.#get(node, request);
      case 'GetCluster':
        return this.#cluster(node);
      default:
        throw new HansardError('NOT_IMPLEMENTED', method);
    }
  }

  /** The id of the node that this call was passed on to; 0: none. */
  passedOn(node: FakeNode, name: string, request: Loose): number {
    const leader = this.leaders[this.partitionOf(request.channel ?? '')] as number;
    if (!this.forwards || name === 'GetCluster' || leader === node.index) return 0;
    this.forwarded++;
    return leader + 1;
  }

  #requireLeader(node: FakeNode, channel: string): number {
    const partition = this.partitionOf(channel);
    const leader = this.leaders[partition] as number;
    if (leader === node.index || this.forwards) return partition;
    const address = leader >= 0 && this.hints ? this.nodes[leader]?.address : undefined;
    throw new HansardError(
      'NOT_LEADER',
      'not here',
      address === undefined ? {} : { leader_address: address },
    );
  }

  async #append(node: FakeNode, request: Loose): Promise<object> {
    const seen: AppendSeen = {
      node: node.index,
      partition: this.partitionOf(request.channel),
      channel: request.channel,
      producerId: Number(request.producer?.producer_id ?? 0),
      counter: Number(request.producer?.first_counter ?? 0),
      count: request.messages.length,
      texts: request.messages.map((message: Loose) => message.message?.parts?.[0]?.text?.text ?? ''),
    };
    this.seen.push(seen);
    this.#requireLeader(node, request.channel);
    this.maxOutstanding = Math.max(this.maxOutstanding, ++this.#outstanding);
    try {
      const fate = this.fate(seen);
      if (fate.do === 'refuse') throw failure(fate.answer);
      let result: object | HansardError;
      try {
        result = this.apply(request);
      } catch (error) {
        result = error as HansardError;
      }
      const delayMs = this.delay(seen);
      if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs));
      await this.held;
      if ('answer' in fate) throw failure(fate.answer);
      if (result instanceof Error) throw result;
      return result;
    } finally {
      this.#outstanding--;
    }
  }

  /** As conversation/ applies: producer, condition, then the messages. */
  apply(request: Loose): object {
    const first = Number(request.producer.first_counter);
    const producer = this.producers.get(Number(request.producer.producer_id));
    if (producer === undefined) throw new HansardError('PRODUCER_EXPIRED', 'unknown producer');
    const count = request.messages.length;
    if (first > producer.last + 1)
      throw new HansardError('PRODUCER_GAP', 'gap', { expected_counter: producer.last + 1 });
    if (first <= producer.last) {
      const answer = producer.answers.get(first) ?? { duplicate: true };
      if (answer instanceof HansardError) throw answer;
      return { ...answer, duplicate: true };
    }
    producer.last += count;
    const events = this.channels.get(request.channel) ?? [];
    const expected =
      request.condition?.condition === 'expected_head_seq' ? request.condition.expected_head_seq : '';
    if (expected !== '' && Number(expected) !== events.length) {
      const refusal = new HansardError('CONDITION_FAILED', 'no', {
        expected,
        actual: events.length,
        counter_consumed: true,
      });
      producer.answers.set(first, refusal);
      throw refusal;
    }
    this.channels.set(request.channel, events);
    const answer = {
      first_seq: events.length + 1,
      count,
      commit_time: { seconds: '1700000000', nanos: 5_000 },
      commit_token: Buffer.from('token'),
      channel_uid: 'uid',
    };
    for (let i = 0; i < count; i++) {
      const message = request.messages[i];
      // Re-encoded by protobufjs: the client's bytes must be the canonical ones.
      const content = codec('hansard.v1.MessageContent').serialize(message.message ?? {});
      if (String(xxh64(content)) !== message.content_xxh64)
        throw new HansardError('CHECKSUM_MISMATCH', `content ${i} of counter ${first}`);
      events.push({
        seq: events.length + 1,
        content,
        text: message.message?.parts?.[0]?.text?.text ?? '',
        checksum: message.content_xxh64,
        key: message.key,
        message_id: message.message_id,
        producer_id: Number(request.producer.producer_id),
        producer_counter: first + i,
      });
    }
    producer.answers.set(first, answer);
    return answer;
  }

  #open(node: FakeNode, request: Loose): object {
    const partition = this.#requireLeader(node, request.channel);
    for (const [id, producer] of this.producers)
      if (request.name !== undefined && producer.name === `${partition}/${request.name}`)
        return { producer_id: id, partition, next_counter: producer.last + 1, window: this.window };
    const id = this.#nextProducer++;
    this.producers.set(id, { name: `${partition}/${request.name ?? ''}`, last: 0, answers: new Map() });
    return { producer_id: id, partition, next_counter: 1, window: this.window };
  }

  #event(event: StoredEvent): object {
    return {
      seq: event.seq,
      type: 1,
      commit_time: { seconds: '1700000000', nanos: 5_000 },
      producer_id: event.producer_id,
      producer_counter: event.producer_counter,
      content_xxh64: this.corrupt ? '1' : event.checksum,
      commitment: Buffer.alloc(32, 1),
      salt: Buffer.alloc(16, 2),
      message_id: event.message_id,
      key: event.key,
      message: codec('hansard.v1.MessageContent').deserialize(event.content),
    };
  }

  #list(node: FakeNode, request: Loose): object {
    const refusal = this.refuseRead?.(node.index, 'ListMessages');
    if (refusal !== undefined) throw refusal;
    const events = this.channels.get(request.channel);
    if (events === undefined)
      throw new HansardError('CHANNEL_NOT_FOUND', 'no such channel', { channel: request.channel });
    const forward = request.after > 0;
    const size = request.after || request.before || 50;
    const from = !request.page_token ? (forward ? 0 : events.length) : Number(request.page_token);
    const page = forward ? events.slice(from, from + size) : events.slice(Math.max(0, from - size), from);
    const next = forward ? from + page.length : from - page.length;
    const isEnd = forward ? next >= events.length : next <= 0;
    if (request.descending === true) page.reverse();
    return {
      events: page.map((event) => this.#event(event)),
      next_page_token: isEnd ? '' : String(next),
      head_seq: events.length,
      served_by: { node_id: node.index + 1, role: 1, partition: 2, applied_index: '9007199254740991' },
      channel_uid: 'uid',
    };
  }

  #get(node: FakeNode, request: Loose): object {
    const refusal = this.refuseRead?.(node.index, 'GetMessage');
    if (refusal !== undefined) throw refusal;
    const events = this.channels.get(request.channel) ?? [];
    const event = events.find((each) =>
      request.ref === 'seq' ? each.seq === Number(request.seq) : each.message_id === request.message_id,
    );
    if (event === undefined) throw new HansardError('MESSAGE_NOT_FOUND', 'no such message');
    return { event: this.#event(event), served_by: { node_id: node.index + 1 } };
  }

  #cluster(node: FakeNode): object {
    const view = this.view?.(node.index);
    return {
      cluster_id: 'fake',
      answered_by_node_id: node.index + 1,
      version: '0',
      nodes: this.nodes.map((each) => ({ node_id: each.index + 1, client_address: each.address, state: 1 })),
      pools: [
        { name: 'default', partition_count: this.partitionCount, replication_factor: this.nodes.length },
      ],
      partition_map_version: this.term,
      partitions: this.leaders.map((leader, partition) => ({
        pool: 'default',
        partition,
        leader_node_id: (view?.leader ?? leader) + 1,
        term: view?.term ?? this.term,
        replicas: this.nodes.map((each) => ({ replica_id: each.index + 1, node_id: each.index + 1 })),
      })),
    };
  }
}

function failure(answer: HansardError | 'none' | 'cut'): unknown {
  if (answer === 'none') return new Dropped();
  return answer === 'cut' ? new Cut() : answer;
}

export class FakeNode {
  #server = new grpc.Server();
  readonly #streams = new Set<grpc.ServerDuplexStream<Loose, Loose>>();
  address = '';
  constructor(
    readonly index: number,
    readonly cluster: FakeCluster,
  ) {}

  async start(port: number): Promise<void> {
    this.#server = new grpc.Server();
    for (const name of ['MessageService', 'ChannelService', 'ClusterService']) {
      const service = protos[`hansard.v1.${name}`] as grpc.ServiceDefinition;
      this.#server.addService(service, this.#unary(service));
    }
    this.#server.addService(protos['hansard.v1.ExchangeService'] as grpc.ServiceDefinition, {
      Exchange: (stream: grpc.ServerDuplexStream<Loose, Loose>) => this.#exchange(stream),
    });
    const bound = await new Promise<number>((resolve, reject) =>
      this.#server.bindAsync(`127.0.0.1:${port}`, grpc.ServerCredentials.createInsecure(), (error, at) =>
        error ? reject(error) : resolve(at),
      ),
    );
    this.address = `127.0.0.1:${bound}`;
  }

  /** As a killed process: every connection breaks. */
  stop(): void {
    this.#streams.clear();
    this.#server.forceShutdown();
  }
  async restart(): Promise<void> {
    await this.start(Number(this.address.split(':')[1]));
  }
  /** Breaks the streams; the node lives on. */
  cut(): void {
    for (const stream of this.#streams)
      stream.emit('error', { code: grpc.status.UNAVAILABLE, details: 'the node is gone' });
    this.#streams.clear();
  }

  #unary(service: grpc.ServiceDefinition): grpc.UntypedServiceImplementation {
    const handlers: Record<string, grpc.handleUnaryCall<Loose, Loose>> = {};
    for (const [name, method] of Object.entries(service)) {
      handlers[name] = (call, callback) => {
        this.cluster.handle(this, method.path, call.request).then(
          (response) => callback(null, response as Loose),
          (error: unknown) => {
            if (error instanceof HansardError) callback(serviceError(error));
            else if (error instanceof Cut)
              callback({ code: grpc.status.UNAVAILABLE, details: 'connection lost' });
            // Dropped: the client's deadline ends the call.
          },
        );
      };
    }
    return handlers;
  }

  #exchange(stream: grpc.ServerDuplexStream<Loose, Loose>): void {
    this.#streams.add(stream);
    stream.on('error', () => {});
    stream.on('data', (frame: Loose) => {
      this.cluster.frames.push(frame.calls.length);
      for (const call of frame.calls) void this.#call(stream, call);
    });
    stream.on('end', () => stream.end());
    stream.on('close', () => this.#streams.delete(stream));
  }

  async #call(stream: grpc.ServerDuplexStream<Loose, Loose>, call: Loose): Promise<void> {
    const [service, name] = call.method.split('/') as [string, string];
    const method = (protos[service] as grpc.ServiceDefinition)[name] as unknown as MethodCodec;
    let answer: object;
    try {
      // Dispatched in the turn of the frame, so that calls keep their order.
      const response = await this.cluster.handle(this, method.path, method.requestDeserialize(call.request));
      answer = {
        id: call.id,
        code: 0,
        response: method.responseSerialize(response),
        forwarded_to_node_id: this.cluster.passedOn(this, name, method.requestDeserialize(call.request)),
      };
    } catch (error) {
      if (error instanceof Dropped) return;
      if (error instanceof Cut) return this.cut();
      if (!(error instanceof HansardError)) throw error;
      answer = { id: call.id, code: error.code, message: error.message, details: details(error) };
    }
    const { lateMs } = this.cluster;
    if (lateMs > 0) await new Promise((resolve) => setTimeout(resolve, lateMs));
    if (this.#streams.has(stream)) stream.write({ answers: [answer] });
  }
}

function details(error: HansardError): { type_url: string; value: Buffer }[] {
  const metadata = Object.fromEntries(
    Object.entries(error.fields).map(([key, value]) => [key, String(value)]),
  );
  const info = { reason: error.reason, domain: 'hansard', metadata };
  const list = [
    {
      type_url: 'type.googleapis.com/google.rpc.ErrorInfo',
      value: codec('google.rpc.ErrorInfo').serialize(info),
    },
  ];
  if (error.retryDelayMs !== undefined) {
    const retry = { retry_delay: { seconds: 0, nanos: error.retryDelayMs * 1e6 } };
    list.push({
      type_url: 'type.googleapis.com/google.rpc.RetryInfo',
      value: codec('google.rpc.RetryInfo').serialize(retry),
    });
  }
  return list;
}

function serviceError(error: HansardError): Partial<grpc.ServiceError> {
  const metadata = new grpc.Metadata();
  const status = { code: error.code, message: error.message, details: details(error) };
  metadata.set('grpc-status-details-bin', codec('google.rpc.Status').serialize(status));
  return { code: error.code as number as grpc.status, details: error.message, metadata };
}
