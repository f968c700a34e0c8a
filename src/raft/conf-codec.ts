/**
 * Configuration changes, as the core takes them and as bytes in an entry of
 * type confChange (one change) or confChangeV2 (any). docs/format.md,
 * "Configuration changes", has the bytes.
 */
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import { InvariantError } from '../common/errors.js';
import type { ReplicaId } from '../common/ids.js';
import { EntryType } from '../common/log-types.js';

export const ConfChangeKind = { addVoter: 0, remove: 1, update: 2, addLearner: 3 } as const;
export type ConfChangeKind = (typeof ConfChangeKind)[keyof typeof ConfChangeKind];

export interface ConfChangeSingle {
  readonly kind: ConfChangeKind;
  /** 0: ignored; an owner that refuses a committed change at apply turns it into that. */
  readonly id: ReplicaId;
}

export const Transition = {
  /** One at a time where one is enough, else joint and left by itself. */
  auto: 0,
  /** Joint, left by itself. */
  jointImplicit: 1,
  /** Joint until the caller proposes to leave. */
  jointExplicit: 2,
} as const;
export type Transition = (typeof Transition)[keyof typeof Transition];

export interface ConfChange {
  readonly transition: Transition;
  /** None, with transition auto: leave the joint configuration. */
  readonly changes: readonly ConfChangeSingle[];
  readonly context?: Uint8Array | undefined;
}

/** The change that leaves a joint configuration. */
export const leaveJointChange: ConfChange = Object.freeze({
  transition: Transition.auto,
  changes: [],
  context: undefined,
});

const VERSION = 1;
/** Bounds what a damaged entry can make a reader allocate. */
const MAX_CHANGES = 1_000;
const EMPTY = new Uint8Array(0);

export function isLeaveJoint(change: ConfChange): boolean {
  return change.transition === Transition.auto && change.changes.length === 0;
}

/** Does the change need a joint configuration, and is that to be left by itself? */
export function entersJoint(change: ConfChange): { joint: boolean; autoLeave: boolean } {
  if (change.transition === Transition.auto && change.changes.length <= 1) {
    return { joint: false, autoLeave: false };
  }
  return { joint: true, autoLeave: change.transition !== Transition.jointExplicit };
}

export function encodeConfChange(change: ConfChange): Uint8Array {
  const context = change.context ?? EMPTY;
  if (isLeaveJoint(change) && context.length === 0) return EMPTY;
  const writer = new ByteWriter(16 + context.length);
  writer.u8(VERSION).u8(change.transition).uvarint(change.changes.length);
  for (const { kind, id } of change.changes) writer.u8(kind).uvarint(id);
  return writer.bytes(context).finish();
}

/** Of an entry's data; throws where it is not a configuration change (its checksum was fine, so the code is wrong). */
export function decodeConfChange(data: Uint8Array): ConfChange {
  if (data.length === 0) return leaveJointChange;
  try {
    return read(data);
  } catch (error) {
    if (!(error instanceof MalformedError)) throw error;
    throw new InvariantError(`configuration change is malformed: ${error.message}`, { cause: error });
  }
}

function read(data: Uint8Array): ConfChange {
  const reader = new ByteReader(data);
  const version = reader.u8();
  if (version !== VERSION) throw new InvariantError(`configuration change of version ${version}`);
  const transition = reader.u8();
  if (transition > Transition.jointExplicit) throw new InvariantError(`unknown transition ${transition}`);
  const count = reader.uvarint();
  if (count > MAX_CHANGES) throw new InvariantError(`configuration change of ${count} changes`);
  const changes: ConfChangeSingle[] = [];
  for (let i = 0; i < count; i++) {
    const kind = reader.u8();
    if (kind > ConfChangeKind.addLearner) throw new InvariantError(`unknown kind of change ${kind}`);
    changes.push({ kind: kind as ConfChangeKind, id: reader.uvarint() });
  }
  const context = reader.position < data.length ? data.slice(reader.position) : undefined;
  return { transition: transition as Transition, changes, context };
}

/** The type of entry that a change travels in: the one-at-a-time form, or the general one. */
export function confChangeEntryType(oneAtATime: boolean): EntryType {
  return oneAtATime ? EntryType.confChange : EntryType.confChangeV2;
}

/** `v1 l2 r3 u4`. */
export function describeChanges(changes: readonly ConfChangeSingle[]): string {
  const letters = ['v', 'r', 'u', 'l'];
  return changes.map(({ kind, id }) => `${letters[kind]}${id}`).join(' ');
}
