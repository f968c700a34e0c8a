/**
 * The first thing that both ends of a stream say: who they are, and in which
 * life. The dialler's travels as the request, the sender's answer (the welcome)
 * is the stream's first frame. docs/format.md, "Between nodes".
 */
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import { xxh64 } from '../common/hash.js';
import { bootIdBytes, clusterIdBytes, hexIdBytes, storeIdBytes } from '../common/hex-ids.js';
import type { NodeId } from '../common/ids.js';

/** Raised when a peer of the older version would misunderstand what we send. */
export const protocolVersion = 1;

/** Says "none" in `answersBootId` of a dialler's hello. */
export const noBootId = '0'.repeat(bootIdBytes * 2);

export interface Hello {
  readonly clusterId: string;
  readonly from: NodeId;
  readonly to: NodeId;
  readonly storeId: string;
  readonly bootId: string;
  /** Of the cluster; differs after a restore. */
  readonly incarnation: number;
  /** In a welcome: the boot id of the hello that it answers. */
  readonly answersBootId: string;
  /** Present where the dialler wants a stream of its own beside the link: what for. Not empty. */
  readonly request?: Uint8Array;
}

/** Why a peer does not want us, as the first word of the reason that the dialler sees. */
export const Rejection = {
  malformedHello: 'MALFORMED_HELLO',
  protocolVersion: 'PROTOCOL_VERSION',
  foreignCluster: 'FOREIGN_CLUSTER',
  wrongNode: 'WRONG_NODE',
  unknownNode: 'UNKNOWN_NODE',
  incarnationChanged: 'INCARNATION_CHANGED',
  /** The dialler's store is not the one that it promised from before. */
  replicaLost: 'REPLICA_LOST',
  /** It has nothing to send on a stream of its own. */
  noSuchStream: 'NO_SUCH_STREAM',
  /** The same peer dialled anew. */
  replaced: 'REPLACED',
} as const;
export type Rejection = (typeof Rejection)[keyof typeof Rejection];

/** Before a rejection's first word where this node is the one that rejects the peer it dialled. */
export const peerPrefix = 'PEER_';

const magic = 0x50_4e_53_48; // "HSNP"
const checksumBytes = 8;
/** A hello has 74 bytes and a request's; a bound before anything is read. */
export const maxHelloBytes = 1024;

export class ProtocolVersionError extends MalformedError {}

export function encodeHello(hello: Hello): Buffer {
  const writer = new ByteWriter(96);
  writer.u32(magic).u16(protocolVersion).bytes(hexIdBytes(hello.clusterId, clusterIdBytes));
  writer.u32(hello.from).u32(hello.to).bytes(hexIdBytes(hello.storeId, storeIdBytes));
  writer.bytes(hexIdBytes(hello.bootId, bootIdBytes)).u64(hello.incarnation);
  writer.bytes(hexIdBytes(hello.answersBootId, bootIdBytes));
  writer.sized(hello.request ?? noRequest);
  return writer.u64big(xxh64(writer.view())).finish();
}

/** Throws MalformedError; ProtocolVersionError where it is well-formed but of another version. */
export function decodeHello(bytes: Uint8Array): Hello {
  if (bytes.length > maxHelloBytes) throw new MalformedError(`hello of ${bytes.length} bytes`);
  const reader = new ByteReader(bytes);
  if (reader.u32() !== magic) throw new MalformedError('not a hello');
  const version = reader.u16();
  if (version !== protocolVersion) {
    throw new ProtocolVersionError(`protocol version ${version}, this node speaks ${protocolVersion}`);
  }
  const clusterId = reader.bytes(clusterIdBytes).toString('hex');
  const from = reader.u32();
  const to = reader.u32();
  const storeId = reader.bytes(storeIdBytes).toString('hex');
  const bootId = reader.bytes(bootIdBytes).toString('hex');
  const incarnation = reader.u64();
  const answersBootId = reader.bytes(bootIdBytes).toString('hex');
  const request = reader.sized();
  const covered = bytes.subarray(0, reader.position);
  if (reader.remaining !== checksumBytes || reader.u64big() !== xxh64(covered)) {
    throw new MalformedError('checksum of the hello does not match');
  }
  const hello = { clusterId, from, to, storeId, bootId, incarnation, answersBootId };
  return request.length === 0 ? hello : { ...hello, request: Uint8Array.from(request) };
}
const noRequest = new Uint8Array(0);
