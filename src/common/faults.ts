/**
 * What is wrong with a replica whose disk has lost or changed something that was
 * synced (design rule 5), and the record of it, which must outlive the process:
 * a replica that forgets that it is faulty would vote and answer from what it has left.
 */
import { ByteReader, ByteWriter, MalformedError } from './bytes.js';
import { xxh64 } from './hash.js';
import type { HostedId, Index, PartitionId, ReplicaId, Term } from './ids.js';

/**
 * - `state-damaged`: the log is sound. Votes and appends, neither applies nor serves.
 * - `log-damaged`: entries are lost, term and vote are not. Votes only for who has all that it may have acknowledged.
 * - `term-or-vote-lost`: neither votes nor acknowledges under this replica id any more.
 */
export const faultKinds = ['state-damaged', 'log-damaged', 'term-or-vote-lost'] as const;
export type FaultKind = (typeof faultKinds)[number];

/** A place in a log; later in this order is what Raft calls more up to date. */
export interface LogPlace {
  readonly term: Term;
  readonly index: Index;
}

export interface ReplicaFault {
  readonly partition: PartitionId;
  /** Whose it is: a later replica of the partition here is not faulty by it. */
  readonly replicaId: ReplicaId;
  readonly kind: FaultKind;
  /** Microseconds of the wall clock. */
  readonly sinceUs: number;
  /** For people. */
  readonly why: string;
  /** state-damaged: rows of this generation and those before are not to be trusted. */
  readonly generation: number;
  /** log-damaged: nothing behind this place was ever acknowledged. Its index may be unknown: `unknownIndex`. */
  readonly floor: LogPlace;
}

/** Nothing of that term is known to be above it. */
export const unknownIndex = Number.MAX_SAFE_INTEGER;
export const noPlace: LogPlace = Object.freeze({ term: 0, index: 0 });

export function isAtLeast(place: LogPlace, floor: LogPlace): boolean {
  return place.term > floor.term || (place.term === floor.term && place.index >= floor.index);
}

export function higherPlace(a: LogPlace, b: LogPlace): LogPlace {
  return isAtLeast(a, b) ? a : b;
}

/** All that a folder knows of its faults; a higher number replaces a lower one. */
export interface FaultRecord {
  readonly number: number;
  readonly faults: readonly ReplicaFault[];
  /** Folders that were moved aside, and moves that are under way: 0 none, else which number the log's, the database's gets. */
  readonly logMove: number;
  readonly dbMove: number;
  /**
   * Replicas that were here and are members no more, the latest of each partition. The database has them, too; one
   * that is made anew would bring them back under ids with which they have voted.
   */
  readonly gone: readonly HostedId[];
  /**
   * How far the log has come: kept here, so that a log whose newest segments are gone with the
   * whole database is still known to be a shorter one.
   */
  readonly segments: ReachedSegments;
}

/** `current` holds synced batches; `next` was made behind it. 0: none is known. */
export interface ReachedSegments {
  readonly current: number;
  readonly next: number;
}

export const noSegments: ReachedSegments = Object.freeze({ current: 0, next: 0 });
export const noFaults: FaultRecord = Object.freeze({
  number: 0,
  faults: [],
  logMove: 0,
  dbMove: 0,
  segments: noSegments,
  gone: [],
});

/** 1: without the segments; 2: without replicas that are gone, written while there are none. All are read for ever. */
export const faultRecordVersion = 3;
/** Of `why`: a sentence; more of it is in the log. */
const whyBytesMax = 500;
/** Three kinds for each of 65,536 partitions would be 100 MB: what is sane is far below. */
export const faultRecordBytesMax = 64 * 1024 * 1024;

/** The record within FAULTS, and its copy in the database (docs/format.md, "FAULTS"). */
export function encodeFaults({ number, faults, logMove, dbMove, segments, gone }: FaultRecord): Buffer {
  const writer = new ByteWriter(64 + 100 * faults.length + 10 * gone.length);
  const version = gone.length > 0 ? faultRecordVersion : 2;
  writer.u16(version).u64(number).uvarint(logMove).uvarint(dbMove);
  writer.u64(segments.current).u64(segments.next);
  writer.uvarint(faults.length);
  for (const fault of faults) {
    const why = Buffer.from(fault.why).subarray(0, whyBytesMax);
    writer
      .u16(fault.partition)
      .u64(fault.replicaId)
      .u8(faultKinds.indexOf(fault.kind) + 1);
    writer.u64(fault.sinceUs).u32(fault.generation).u64(fault.floor.term).u64(fault.floor.index);
    writer.uvarint(why.length).bytes(why);
  }
  if (gone.length > 0) {
    writer.uvarint(gone.length);
    for (const { partition, replicaId } of gone) writer.u16(partition).u64(replicaId);
  }
  return writer.u64big(xxh64(writer.view())).finish();
}

/** Throws MalformedError where it is damaged, `TooNew` of its version where that is unknown. */
export function decodeFaults(bytes: Uint8Array): FaultRecord {
  const end = bytes.length - 8;
  if (end < 2) throw new MalformedError('it is cut short');
  // In every version the last eight bytes cover all before.
  if (new ByteReader(bytes, end).u64big() !== xxh64(bytes.subarray(0, end)))
    throw new MalformedError('its checksum does not match');
  const reader = new ByteReader(bytes, 0, end);
  const version = reader.u16();
  if (version > faultRecordVersion) throw new FaultsTooNew(version);
  if (version === 0) throw new MalformedError('version 0');
  const number = reader.u64();
  const logMove = reader.uvarint();
  const dbMove = reader.uvarint();
  const segments = version === 1 ? noSegments : { current: reader.u64(), next: reader.u64() };
  const count = reader.uvarint();
  if (count * faultBytesMin > reader.remaining) throw new MalformedError(`${count} faults can't fit`);
  const faults = Array.from({ length: count }, () => readFault(reader));
  const gone = version < 3 ? [] : readGone(reader);
  reader.end();
  return { number, faults, logMove, dbMove, segments, gone };
}

export class FaultsTooNew extends Error {
  constructor(readonly version: number) {
    super(`version ${version}`);
  }
}

const goneBytes = 2 + 8;

function readGone(reader: ByteReader): HostedId[] {
  const count = reader.uvarint();
  if (count * goneBytes > reader.remaining) throw new MalformedError(`${count} replicas can't fit`);
  return Array.from({ length: count }, () => ({ partition: reader.u16(), replicaId: reader.u64() }));
}

const faultBytesMin = 2 + 8 + 1 + 8 + 4 + 16 + 1;

function readFault(reader: ByteReader): ReplicaFault {
  const partition = reader.u16();
  const replicaId = reader.u64();
  const kind = faultKinds[reader.u8() - 1];
  if (kind === undefined) throw new MalformedError('an unknown kind of fault');
  const sinceUs = reader.u64();
  const generation = reader.u32();
  const floor = { term: reader.u64(), index: reader.u64() };
  const why = Buffer.from(reader.bytes(reader.uvarint())).toString();
  return { partition, replicaId, kind, sinceUs, why, generation, floor };
}
