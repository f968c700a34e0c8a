/** What a faulty replica asks of its partition's leader, and the answer; between nodes. */
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import { type FaultKind, faultKinds, type LogPlace } from '../common/faults.js';
import type { Index, PartitionId, ReplicaId, Term } from '../common/ids.js';

export const repairReplicaMethod = 'hansard.internal.v1/RepairReplica';

export interface RepairRequest {
  readonly partition: PartitionId;
  readonly replicaId: ReplicaId;
  readonly kind: FaultKind;
  /** The asking replica's own; a leader of an earlier one is none. */
  readonly term: Term;
  /** Its log goes on from behind this index: a snapshot must not stand before it. */
  readonly baseIndex: Index;
  /** Where its log ends. */
  readonly lastIndex: Index;
  /** The same for as long as the asking replica is open: what was told once need not be told again. */
  readonly life: number;
}

export interface RepairAnswer {
  readonly term: Term;
  /** The leader's replica. */
  readonly leader: ReplicaId;
  /** Where the leader's log ends. */
  readonly lastIndex: Index;
  /** Ready to be fetched; undefined: not yet, ask again. */
  readonly snapshot: LogPlace | undefined;
}

const version = 1;

export function encodeRepairRequest(request: RepairRequest): Uint8Array {
  return new ByteWriter(64)
    .u8(version)
    .uvarint(request.partition)
    .uvarint(request.replicaId)
    .u8(faultKinds.indexOf(request.kind))
    .uvarint(request.term)
    .uvarint(request.baseIndex)
    .uvarint(request.lastIndex)
    .uvarint(request.life)
    .finish();
}

/** Throws MalformedError, or HansardError of a version that this node does not know. */
export function decodeRepairRequest(bytes: Uint8Array): RepairRequest {
  const reader = open(bytes);
  const partition = reader.uvarint();
  const replicaId = reader.uvarint();
  const kind = faultKinds[reader.u8()];
  if (kind === undefined) throw new MalformedError('an unknown kind of fault');
  const request = {
    partition,
    replicaId,
    kind,
    term: reader.uvarint(),
    baseIndex: reader.uvarint(),
    lastIndex: reader.uvarint(),
    life: reader.uvarint(),
  };
  reader.end();
  return request;
}

export function encodeRepairAnswer({ term, leader, lastIndex, snapshot }: RepairAnswer): Uint8Array {
  const writer = new ByteWriter(64).u8(version).uvarint(term).uvarint(leader).uvarint(lastIndex);
  writer.u8(snapshot === undefined ? 0 : 1);
  if (snapshot !== undefined) writer.uvarint(snapshot.index).uvarint(snapshot.term);
  return writer.finish();
}

export function decodeRepairAnswer(bytes: Uint8Array): RepairAnswer {
  const reader = open(bytes);
  const term = reader.uvarint();
  const leader = reader.uvarint();
  const lastIndex = reader.uvarint();
  const snapshot = reader.u8() === 0 ? undefined : { index: reader.uvarint(), term: reader.uvarint() };
  reader.end();
  return { term, leader, lastIndex, snapshot };
}

function open(bytes: Uint8Array): ByteReader {
  const reader = new ByteReader(bytes);
  const found = reader.u8();
  if (found !== version)
    throw new HansardError('NOT_IMPLEMENTED', `a question of version ${found} about a damaged replica`);
  return reader;
}
