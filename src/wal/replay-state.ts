/** The groups as a replay rebuilds them. Each function returns what does not fit together, or undefined. */

import { readU48 } from '../common/bytes.js';
import type { Index, PartitionId, ReplicaId, Term } from '../common/ids.js';
import type { EntryType } from '../common/log-types.js';
import { Slab } from '../common/slab.js';
import { type Batch, type BatchRow, entryHeaderBytes } from './batch.js';
import { Group, type GroupSpace } from './group-log.js';
import type { TableRow } from './segment-header.js';

/**
 * Entries that the first table names lie in segments that are gone. That is right
 * only if a later record says that they are sealed: until then they are a gap, and
 * the group starts behind it.
 */
interface Gap {
  base: Index;
  to: Index;
}

/** Whether the bytes of an entry should stay in memory: it will be applied as soon as the log is open. */
export type Keeps = (partition: PartitionId, index: Index, bytes: number) => boolean;

/** Of what is kept: applied and sealed soon, all of it about together, so that large slabs hold nothing back. */
const slabBytes = 512 * 1024;

export class ReplayState {
  readonly groups = new Map<PartitionId, Group>();
  readonly #gaps = new Map<PartitionId, Gap>();
  readonly #space: GroupSpace;
  readonly #keeps: Keeps;
  readonly #memory = new Slab(slabBytes);
  entries = 0;

  constructor(space: GroupSpace, keeps: Keeps) {
    this.#space = space;
    this.#keeps = keeps;
  }

  /** The first segment's table. */
  begin(table: readonly TableRow[]): void {
    for (const row of table) this.#introduce(row);
  }

  /** A later segment's table must tell what the batches told; only the start of a group's log may have moved. */
  join(table: readonly TableRow[]): string | undefined {
    if (table.length < this.groups.size) return 'a partition is missing';
    for (const row of table) {
      const group = this.groups.get(row.partition);
      if (group === undefined) {
        this.#introduce(row);
        continue;
      }
      if (row.replicaId > group.replicaId) {
        this.#forget(group);
        this.#introduce(row);
        continue;
      }
      const problem = this.#joinRow(group, row);
      if (problem !== undefined) return `partition ${row.partition}: ${problem}`;
    }
    return undefined;
  }

  #introduce(row: TableRow): void {
    const group = new Group(row.partition, row.replicaId, this.#space);
    group.setHardState(row.term, row.vote);
    group.noteCommit(row.commit);
    if (row.lastIndex > row.baseIndex) {
      this.#gaps.set(row.partition, { base: row.baseIndex, to: row.lastIndex });
      group.restart(row.lastIndex, row.lastTerm);
    } else {
      group.restart(row.baseIndex, row.baseTerm);
    }
    group.noteRecorded(row.baseIndex);
    this.groups.set(row.partition, group);
  }

  #joinRow(group: Group, row: TableRow): string | undefined {
    const { term, vote } = group.hardState;
    if (row.replicaId !== group.replicaId) return `replica ${row.replicaId}, not ${group.replicaId}`;
    if (row.term !== term || row.vote !== vote) return 'term or vote differ';
    this.#start(group, row.baseIndex, row.baseTerm);
    if (row.lastIndex !== group.lastIndex() || row.lastTerm !== group.term(row.lastIndex)) {
      return `last entry ${row.lastIndex} of term ${row.lastTerm}, not ${group.lastIndex()}`;
    }
    group.noteCommit(row.commit);
    group.noteRecorded(row.baseIndex);
    return undefined;
  }

  /** Applies a verified batch that lies at `segment`, `offset`. */
  apply(found: { batch: Batch; bytes: Buffer }, segment: number, offset: number): string | undefined {
    let from = found.batch.payloadAt;
    for (const row of found.batch.rows) {
      const problem = this.#row(row, found.bytes, from, segment, offset);
      if (problem !== undefined) return `partition ${row.partition}: ${problem}`;
      from += row.entries?.bytes ?? 0;
    }
    return undefined;
  }

  #row(row: BatchRow, bytes: Buffer, from: number, segment: number, offset: number): string | undefined {
    let group = this.groups.get(row.partition) ?? this.#add(row.partition, row.replicaId);
    if (group !== undefined && row.replicaId !== undefined && row.replicaId > group.replicaId) {
      // Another replica of the partition came here after this one had gone.
      this.#forget(group);
      group = this.#add(row.partition, row.replicaId);
    }
    if (group === undefined) return 'it was never introduced';
    if (row.replicaId !== undefined && row.replicaId !== group.replicaId) {
      return `replica ${row.replicaId}, not ${group.replicaId}`;
    }
    if (row.start?.reset) {
      this.#gaps.delete(row.partition);
      group.restart(row.start.index, row.start.term);
    } else if (row.start !== undefined) {
      this.#start(group, row.start.index, row.start.term);
    }
    if (row.hardState !== undefined) {
      if (row.hardState.term < group.hardState.term) return `term ${row.hardState.term} goes back`;
      group.setHardState(row.hardState.term, row.hardState.vote);
      group.noteCommit(row.hardState.commit);
    }
    group.noteRecorded(row.start?.index ?? 0);
    return row.entries === undefined ? undefined : this.#entries(group, row, bytes, from, segment, offset);
  }

  #entries(
    group: Group,
    row: BatchRow,
    bytes: Buffer,
    from: number,
    segment: number,
    offset: number,
  ): string | undefined {
    const { first, count } = row.entries as NonNullable<BatchRow['entries']>;
    const gap = this.#gaps.get(row.partition);
    if (gap !== undefined && first > gap.base && first <= gap.to) {
      gap.to = first - 1;
      group.restart(gap.to, 0);
    }
    if (first <= group.baseIndex || first > group.lastIndex() + 1) {
      return `entry ${first} does not follow ${group.baseIndex} to ${group.lastIndex()}`;
    }
    group.truncate(first);
    let at = from;
    for (let i = 0; i < count; i++) {
      const size = bytes.readUInt32LE(at + 4);
      const term = readU48(bytes, at + 8);
      group.append(
        term,
        bytes[at + 14] as EntryType,
        size,
        bytes.readUInt32LE(at),
        segment,
        offset + at,
        size > 0 && this.#keeps(row.partition, first + i, size)
          ? this.#copyOf(bytes, at + entryHeaderBytes, size)
          : undefined,
      );
      at += entryHeaderBytes + size;
    }
    this.entries += count;
    return undefined;
  }

  /** The read buffer is used again for the next piece. */
  #copyOf(bytes: Buffer, from: number, size: number): Buffer {
    const copy = this.#memory.take(size);
    copy.set(new Uint8Array(bytes.buffer, bytes.byteOffset + from, size));
    return copy;
  }

  /** A partition whose missing entries nothing explains, also not `last`, which is not applied yet. */
  openGap(last: Batch): PartitionId | undefined {
    for (const [partition, gap] of this.#gaps) {
      const explained = last.rows.some(
        (row) => row.partition === partition && row.start !== undefined && row.start.index >= gap.to,
      );
      if (gap.to > gap.base && !explained) return partition;
    }
    return undefined;
  }

  /** The log starts behind `index` now: its own entries up to there are sealed, or a snapshot replaced them. */
  #start(group: Group, index: Index, term: Term): void {
    const gap = this.#gaps.get(group.partition);
    if (gap !== undefined && index < gap.to) {
      gap.base = Math.max(gap.base, index);
      return;
    }
    this.#gaps.delete(group.partition);
    if (index === group.baseIndex) group.learnBaseTerm(term);
    if (index <= group.baseIndex) return;
    if (group.term(index) === term) group.compact(index, term);
    else group.restart(index, term);
  }

  #forget(group: Group): void {
    this.#gaps.delete(group.partition);
    group.restart(group.lastIndex(), 0);
  }

  #add(partition: PartitionId, replicaId: ReplicaId | undefined): Group | undefined {
    if (replicaId === undefined) return undefined;
    const group = new Group(partition, replicaId, this.#space);
    this.groups.set(partition, group);
    return group;
  }
}
