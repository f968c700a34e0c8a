/** The bytes of a node's IDENTITY file (docs/format.md, "IDENTITY"). */
import { ByteReader, ByteWriter, MalformedError, malformedAs } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import { xxh64 } from '../common/hash.js';
import { clusterIdBytes, hexIdBytes, storeIdBytes } from '../common/hex-ids.js';
import type { NodeId } from '../common/ids.js';

export interface Member {
  readonly nodeId: NodeId;
  /** host:port */
  readonly peerAddress: string;
  readonly clientAddress: string;
}

/** Who a folder belongs to, and the cluster as it was formatted. */
export interface Identity {
  /** 16 bytes in hex. */
  readonly clusterId: string;
  readonly nodeId: NodeId;
  /** 8 bytes in hex, drawn when the folder was formatted. */
  readonly storeId: string;
  readonly incarnation: number;
  readonly partitionCount: number;
  readonly replicationFactor: number;
  /** All nodes, this one included. */
  readonly members: readonly Member[];
}

const magic = Buffer.from('HANSARD\n');
const version = 1;
const checksumBytes = 8;
/** Thousands of members fit; a bound before the file is read. */
export const identityBytesMax = 1024 * 1024;

export function encodeIdentity(identity: Identity): Buffer {
  const writer = new ByteWriter(256);
  writer.bytes(magic).u16(version);
  writer.bytes(hexIdBytes(identity.clusterId, clusterIdBytes)).u32(identity.nodeId);
  writer.bytes(hexIdBytes(identity.storeId, storeIdBytes)).u64(identity.incarnation);
  writer.u32(identity.partitionCount).u16(identity.replicationFactor).uvarint(identity.members.length);
  for (const { nodeId, peerAddress, clientAddress } of identity.members) {
    writer.u32(nodeId).string(peerAddress).string(clientAddress);
  }
  return writer.u64big(xxh64(writer.view())).finish();
}

/** `path` is for the errors: STORE_DAMAGED, FORMAT_TOO_NEW. */
export function decodeIdentity(bytes: Uint8Array, path: string): Identity {
  try {
    return decode(bytes, path);
  } catch (error) {
    throw malformedAs(
      error,
      (problem) => new HansardError('STORE_DAMAGED', `${path} is damaged: ${problem}`, { file: path }),
    );
  }
}

function decode(bytes: Uint8Array, path: string): Identity {
  const end = bytes.length - checksumBytes;
  if (end < magic.length || !magic.equals(bytes.subarray(0, magic.length))) {
    throw new MalformedError('it does not begin as it should');
  }
  // In every version the last eight bytes cover all before: a newer one is told from a damaged one.
  if (new ByteReader(bytes, end).u64big() !== xxh64(bytes.subarray(0, end))) {
    throw new MalformedError('its checksum does not match');
  }
  const reader = new ByteReader(bytes, magic.length, end);
  const got = reader.u16();
  if (got > version) {
    const problem = `${path} has version ${got}, this program reads up to ${version}`;
    throw new HansardError('FORMAT_TOO_NEW', problem, { file: path, version: got });
  }
  if (got !== version) throw new MalformedError(`version ${got}`);
  const identity = {
    clusterId: reader.bytes(clusterIdBytes).toString('hex'),
    nodeId: reader.u32(),
    storeId: reader.bytes(storeIdBytes).toString('hex'),
    incarnation: reader.u64(),
    partitionCount: reader.u32(),
    replicationFactor: reader.u16(),
    members: readMembers(reader),
  };
  reader.end();
  return identity;
}

/** Node id and two lengths: the least that a member takes. */
const memberBytesMin = 6;

function readMembers(reader: ByteReader): Member[] {
  const count = reader.uvarint();
  if (count * memberBytesMin > reader.remaining) throw new MalformedError(`${count} members can't fit`);
  const members = new Array<Member>(count);
  for (let i = 0; i < count; i++) {
    members[i] = { nodeId: reader.u32(), peerAddress: reader.string(), clientAddress: reader.string() };
  }
  return members;
}
