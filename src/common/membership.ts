/**
 * Where the replicas of a partition live: a part of its applied state that only
 * configuration changes touch, in the same step as the configuration itself.
 * docs/format.md, "Configuration changes", has the bytes.
 */
import { ByteReader, ByteWriter, MalformedError } from './bytes.js';
import type { NodeId, ReplicaId } from './ids.js';
import type { ConfState } from './log-types.js';

export interface ReplicaMember {
  readonly replicaId: ReplicaId;
  readonly nodeId: NodeId;
}

export interface Membership {
  /** Those that the configuration names, ascending by replica id. */
  readonly members: readonly ReplicaMember[];
  /** Every id below was given out, or never will be: ids are not used twice. 0: nothing is known yet. */
  readonly nextReplicaId: ReplicaId;
  /** Configuration changes applied since the partition was made. */
  readonly changes: number;
}

/** A partition as it was formatted: a first replica's id is its node's. */
export function initialMembership(conf: ConfState): Membership {
  const members = idsOf(conf).map((id) => ({ replicaId: id, nodeId: id as number }));
  return { members, nextReplicaId: Math.max(-1, ...conf.voters) + 1, changes: 0 };
}

/** The store writes 0 for a replica that it was formatted with. */
export function firstIdIfZero(replicaId: ReplicaId, nodeId: NodeId): ReplicaId {
  return replicaId === 0 ? (nodeId as number) : replicaId;
}

/** All replicas that a configuration names, ascending. */
export function idsOf({ voters, votersOutgoing, learners, learnersNext }: ConfState): ReplicaId[] {
  return [...new Set([...voters, ...votersOutgoing, ...learners, ...learnersNext])].sort((a, b) => a - b);
}

/**
 * What the table is behind a change that leads to `conf`; `placed` tells where
 * new replicas are. Undefined: the change names a replica that is nowhere, or
 * whose id was given out before.
 */
export function changedMembership(
  before: Membership,
  conf: ConfState,
  placed: readonly ReplicaMember[],
): Membership | undefined {
  const members: ReplicaMember[] = [];
  let { nextReplicaId } = before;
  for (const replicaId of idsOf(conf)) {
    const known = before.members.find((member) => member.replicaId === replicaId);
    const member = known ?? placed.find((one) => one.replicaId === replicaId);
    if (member === undefined || (known === undefined && replicaId < before.nextReplicaId)) return undefined;
    members.push(member);
    nextReplicaId = Math.max(nextReplicaId, replicaId + 1);
  }
  return { members, nextReplicaId, changes: before.changes + 1 };
}

/** Given out, and in no configuration any more (or never will be in one). */
export function isRemoved({ members, nextReplicaId }: Membership, replicaId: ReplicaId): boolean {
  return replicaId < nextReplicaId && !members.some((member) => member.replicaId === replicaId);
}

// ---- bytes

const placedVersion = 1;
const none: readonly ReplicaMember[] = Object.freeze([]);

/** For `ConfChange.context`: where the replicas that a change adds are. */
export function encodePlaced(placed: readonly ReplicaMember[]): Uint8Array {
  const writer = new ByteWriter(16).u8(placedVersion);
  writeMembers(writer, placed);
  return writer.finish();
}

/** Undefined: not understood. Total, as all that applying does. */
export function decodePlaced(context: Uint8Array | undefined): readonly ReplicaMember[] | undefined {
  if (context === undefined || context.length === 0) return none;
  try {
    const reader = new ByteReader(context);
    if (reader.u8() !== placedVersion) return undefined;
    const placed = readMembers(reader);
    reader.end();
    return placed;
  } catch (error) {
    if (error instanceof MalformedError) return undefined;
    throw error;
  }
}

export function writeMembership(writer: ByteWriter, { members, nextReplicaId, changes }: Membership): void {
  writer.uvarint(nextReplicaId).uvarint(changes);
  writeMembers(writer, members);
}

export function readMembership(reader: ByteReader): Membership {
  return { nextReplicaId: reader.uvarint(), changes: reader.uvarint(), members: readMembers(reader) };
}

function writeMembers(writer: ByteWriter, members: readonly ReplicaMember[]): void {
  writer.uvarint(members.length);
  for (const { replicaId, nodeId } of members) writer.uvarint(replicaId).uvarint(nodeId);
}

function readMembers(reader: ByteReader): ReplicaMember[] {
  const count = reader.uvarint();
  if (count * 2 > reader.remaining) throw new MalformedError(`${count} members can't fit`);
  return Array.from({ length: count }, () => ({ replicaId: reader.uvarint(), nodeId: reader.uvarint() }));
}
