/**
 * What a damaged log means (design rule 5). A torn last batch with nothing valid
 * behind it is no damage: it was never acknowledged. Everything else is.
 */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { type Batch, isEndOf, isFrontOf, readBatch, readEndDirectory, readFrontDirectory } from './batch.js';
import { alignBytes } from './segment-header.js';

/**
 * - `state-damaged`: the log is sound, the store is not. The log never finds this one.
 * - `log-damaged`: entries are lost, terms and votes are known from elsewhere in the log.
 * - `term-or-vote-lost`: a vote or term may be lost; the replica must not vote again under its id.
 */
export type DamageKind = 'state-damaged' | 'log-damaged' | 'term-or-vote-lost';

/** Where the chain of valid batches breaks, and what can still be read behind that place. */
export interface Finding {
  readonly segment: number;
  readonly offset: number;
  readonly problem: string;
  /** Number of the batch that is missing or damaged. */
  readonly expected: number;
  /** What is readable at or behind the place, by batch number. */
  readonly directories: ReadonlyMap<number, Remains>;
  /** A later segment's table restates every group's term and vote. */
  readonly laterTable: boolean;
}

/** What can be read of a batch: at least its directory. */
export interface Remains {
  readonly batch: Batch;
  /** All of it verifies. */
  readonly whole: boolean;
  /** Where it begins in its segment; of one that is not whole, where its remains were found. */
  readonly offset: number;
}

export interface Damage {
  readonly kind: DamageKind;
  /** Undefined: the damage can not be attributed, all of them. */
  readonly partitions: readonly PartitionId[] | undefined;
}

/** Which kind it is, and whose, as far as the directories tell. */
export function classifyDamage(finding: Finding): Damage {
  const highest = Math.max(finding.expected - 1, ...finding.directories.keys());
  const partitions = new Set<PartitionId>();
  for (let number = finding.expected; number <= highest; number++) {
    const remains = finding.directories.get(number);
    if (remains === undefined) break;
    if (!remains.whole) for (const row of remains.batch.rows) partitions.add(row.partition);
    // All directories from the gap on are readable: the rows restate terms and votes.
    if (number === highest) return { kind: 'log-damaged', partitions: [...partitions].sort((a, b) => a - b) };
  }
  return { kind: finding.laterTable ? 'log-damaged' : 'term-or-vote-lost', partitions: undefined };
}

export function damaged(finding: Finding): HansardError {
  const { kind, partitions } = classifyDamage(finding);
  return new HansardError(
    'LOG_DAMAGED',
    `the log is damaged in segment ${finding.segment} at byte ${finding.offset}: ${finding.problem}`,
    {
      segment: finding.segment,
      offset: finding.offset,
      kind,
      partitions: partitions === undefined ? 'all' : partitions.join(','),
    },
  );
}

/** Compared at 10 GB/s; a multiple of every alignment. */
const zeros = Buffer.alloc(64 * 1024);

function isZero(bytes: Buffer, at: number): boolean {
  return bytes.readUInt32LE(at) === 0 && bytes.compare(zeros, 0, zeros.length, at, at + zeros.length) === 0;
}

/**
 * Might `scanDirectories` find something between `from` and `to`? Told without hashing; it takes
 * for a find what would need more of the segment than is at hand.
 */
export function mayHoldDirectories(bytes: Buffer, from: number, to: number, segment: number): boolean {
  for (let at = from; at + alignBytes <= to; at += alignBytes) {
    while (at + zeros.length <= to && isZero(bytes, at)) at += zeros.length;
    if (at + alignBytes > to) break;
    if (isFrontOf(bytes, at, segment) || isEndOf(bytes, at + alignBytes, segment)) return true;
  }
  return false;
}

/** What can be read of the segment's batches at or behind `from`, by number. */
export function scanDirectories(
  bytes: Buffer,
  from: number,
  place: { segment: number; seed: bigint },
): Map<number, Remains> {
  const found = new Map<number, Remains>();
  for (let at = from; at + alignBytes <= bytes.length; at += alignBytes) {
    // Most of it was never written: in zeros there is neither a beginning nor an end.
    while (at + zeros.length <= bytes.length && isZero(bytes, at)) at += zeros.length;
    if (at + alignBytes > bytes.length) break;
    const batch = readFrontDirectory(bytes, at, place) ?? readEndDirectory(bytes, at + alignBytes, place);
    if (batch === undefined || found.get(batch.number)?.whole) continue;
    found.set(batch.number, { batch, whole: readBatch(bytes, at, place) !== undefined, offset: at });
  }
  return found;
}
