/**
 * Every method of the public API with a request that is answered, and what the protos say of its fields: for tests
 * that hold one promise against all of them. A method that is added without a request here fails those tests.
 */
import { loadPublicProtos } from '../../src/common/proto.js';
import { type Decoded, encode, text } from '../api/harness.js';

interface FieldDescriptor {
  readonly name: string;
  readonly number: number;
  readonly type: string;
  readonly label: string;
  /** Of a message. */
  readonly typeName: string;
}
const mapEntry: readonly FieldDescriptor[] = [
  { name: 'key', number: 1, type: 'TYPE_STRING', label: '', typeName: '' },
  { name: 'value', number: 2, type: 'TYPE_STRING', label: '', typeName: '' },
];
interface MethodDescriptor {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly requestType: { readonly type: { readonly name: string } };
  readonly responseType: { readonly type: { readonly name: string } };
}
// The descriptors that proto-loader hands out have no type of their own.
const definitions = loadPublicProtos() as unknown as Record<string, Decoded>;

export interface Rpc {
  /** `hansard.v1.MessageService/GetMessage` */
  readonly path: string;
  readonly request: string;
  readonly response: string;
  readonly isStream: boolean;
}

export function everyRpc(): Rpc[] {
  const found: Rpc[] = [];
  for (const [name, definition] of Object.entries(definitions)) {
    if (!/^hansard\.v1\.\w+Service$/.test(name)) continue;
    for (const method of Object.values(definition as Record<string, MethodDescriptor>))
      found.push({
        path: method.path.slice(1),
        request: method.requestType.type.name,
        response: method.responseType.type.name,
        isStream: method.requestStream || method.responseStream,
      });
  }
  return found;
}

/** What is there for the requests below to find. */
export const world = { channel: 'edges/one', other: 'edges/two', subscription: 'edges', recipient: 'ann' };

const { channel, other, subscription, recipient } = world;
const item = { channel, messages: [text('x')] };

/** By method: a request that is answered, however often. */
export const goodRequests: Readonly<Record<string, object>> = {
  'MessageService/AppendMessages': item,
  'MessageService/AppendBatch': { appends: [item] },
  'MessageService/GetMessage': { channel, seq: 1 },
  'MessageService/BatchGetMessages': { channel, items: [{ seq: 1 }] },
  'MessageService/ListMessages': { channel, before: 1 },
  'MessageService/OpenProducer': { channel, name: 'importer' },
  'ChannelService/GetChannel': { channel },
  'ChannelService/ListChannels': { page_size: 1 },
  'ChannelService/CreateChannel': { channel: { name: other }, request_id: 'edges' },
  'ChannelService/UpdateChannel': { channel: { name: channel, title: 't' } },
  'ChannelService/DeleteChannel': { channel, validate_only: true },
  'ChannelService/UndeleteChannel': { channel: 'edges/deleted', request_id: 'edges' },
  'ChannelService/SealChannel': { channel: 'edges/sealed' },
  'ClusterService/GetCluster': {},
  'ClusterService/UpgradeCluster': { validate_only: true },
  'ClusterService/GetPartition': { partition: 0 },
  'ClusterService/ChangeReplicas': { partition: 0, changes: [{ kind: 1, node_id: 1 }] },
  'DeliveryService/ReportDelivery': { channel, recipient, up_to_seq: 1 },
  'DeliveryService/ListDeliveries': { channel, page_size: 1 },
  'EventService/TailChannel': { channel, after_seq: 0 },
  'EventService/Subscribe': { prefix: 'edges/', from_beginning: true },
  'EventService/FetchEvents': { partition: 0, from_beginning: true, max_events: 1 },
  'ExchangeService/Exchange': {
    calls: [
      {
        id: 1,
        method: 'hansard.v1.ChannelService/GetChannel',
        request: encode('GetChannelRequest', { channel }),
      },
    ],
  },
  'InboxService/MoveReadCursor': { channel, reader: recipient, seq: 1 },
  'InboxService/ListReadCursors': { channel, page_size: 1 },
  'InboxService/GetInbox': { reader: recipient, channels: [channel] },
  'ReplicaService/ListReplicaChannels': { partition: 0, page_size: 1 },
  'ReplicaService/ReadReplicaEvents': { partition: 0, channel },
  'ReplicaService/DigestReplica': { partition: 0 },
  'ReplicaService/ScrubNode': {},
  'SubscriptionService/CreateSubscription': {
    name: subscription,
    selector: { prefix: 'edges/' },
    start: { from_beginning: true },
    request_id: 'edges',
  },
  'SubscriptionService/GetSubscription': { name: subscription },
  'SubscriptionService/ListSubscriptions': { page_size: 1 },
  'SubscriptionService/UpdateSubscription': { name: subscription, settings: { description: 'd' } },
  'SubscriptionService/DeleteSubscription': { name: 'edges/none' },
  'SubscriptionService/SeekSubscription': { name: subscription, start: { from_beginning: true } },
  'SubscriptionService/Consume': {
    start: { name: subscription, consumer_id: 'c', credit: { events: 1, bytes: 1_000 } },
  },
  'SubscriptionService/Acknowledge': { name: subscription, acks: [{ channel, lease: 1, seq: 1 }] },
  'SubscriptionService/NegativeAcknowledge': { name: subscription, nacks: [{ channel, lease: 1 }] },
  'SubscriptionService/ExtendDeadline': { name: subscription, extensions: [{ channel, lease: 1 }] },
  'SubscriptionService/ListPending': { name: subscription, page_size: 1 },
  'SubscriptionService/ListDeadLetters': { name: subscription, page_size: 1 },
  'SubscriptionService/ReplayDeadLetters': { name: subscription },
};

/** Of `hansard.v1.MessageService/GetMessage`. */
export function goodRequest({ path }: Rpc): object {
  const found = goodRequests[path.slice('hansard.v1.'.length)];
  if (found === undefined) throw new Error(`${path} has no request in this table`);
  return found;
}

/** A field of a request, however deep, and what leads there. */
export interface Field {
  /** `channel.labels.key` */
  readonly name: string;
  /** Without TYPE_: STRING, BYTES, UINT32 … */
  readonly type: string;
  readonly numbers: readonly number[];
  readonly isRepeated: boolean;
}

/** Deeper than any request but for content, which nests without end and has tests of its own. */
const depthMax = 4;

export function fieldsOf(type: string, numbers: readonly number[] = [], path = ''): Field[] {
  const definition = definitions[type.startsWith('google.') ? type : `hansard.v1.${type}`];
  // Entries of maps are the only messages without a definition of their own; all of this API map texts to texts.
  const fields = (definition?.type.field ?? mapEntry) as FieldDescriptor[];
  return fields.flatMap((field) => {
    const name = path === '' ? field.name : `${path}.${field.name}`;
    const place = [...numbers, field.number];
    const isRepeated = field.label === 'LABEL_REPEATED';
    if (field.type !== 'TYPE_MESSAGE')
      return [{ name, type: field.type.slice(5), numbers: place, isRepeated }];
    const isContent = /MessageContent$/.test(field.typeName);
    return place.length < depthMax && !isContent ? fieldsOf(field.typeName, place, name) : [];
  });
}

function varint(value: bigint): Buffer {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>= 7n) {
    bytes.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
    if (rest <= 0x7fn) return Buffer.from(bytes);
  }
}

/** A length-delimited field, within the messages that lead there. */
export function bytesField({ numbers }: Pick<Field, 'numbers'>, value: Uint8Array): Buffer {
  return numbers.reduceRight<Buffer>(
    (inner, number) => Buffer.concat([varint(BigInt(number * 8 + 2)), varint(BigInt(inner.length)), inner]),
    Buffer.from(value),
  );
}

export function varintField({ numbers }: Pick<Field, 'numbers'>, value: bigint): Buffer {
  const own = Buffer.concat([varint(BigInt((numbers.at(-1) as number) * 8)), varint(value)]);
  return numbers.length === 1 ? own : bytesField({ numbers: numbers.slice(0, -1) }, own);
}
