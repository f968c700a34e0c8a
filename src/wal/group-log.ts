/**
 * One group's part of the log in memory: terms by range, each entry's place on
 * disk in 17 bytes of typed arrays, and a cache of payloads. It shows what is
 * synced, nothing that is still on its way.
 */
import { entryChecksum } from '../common/entry-checksum.js';
import { HansardError, InvariantError } from '../common/errors.js';
import type { Index, PartitionId, ReplicaId, Term } from '../common/ids.js';
import type { Entry, EntryType, HardState } from '../common/log-types.js';
import { entryHeaderBytes, type RowSource } from './batch.js';
import type { TableRow } from './segment-header.js';
import type { GroupLog } from './types.js';

/** What the groups of one log share. */
export interface GroupSpace {
  /** Entries of a segment that some group still needs. */
  adjustLive(segment: number, by: number): void;
  /** Bytes of payload in memory. */
  adjustCached(by: number): void;
  /** A copy that is the caller's. */
  read(segment: number, offset: number, bytes: number): Promise<Buffer>;
  /** A reset has to be written. */
  onReset(group: Group): void;
  /** There is a commit index that the disk does not have. */
  onCommit(): void;
}

/** Entries close together are read at once, up to this. */
const readBytesMax = 4 * 1024 * 1024;
const capacityMin = 16;
/** A ring that is this many times larger than its contents shrinks. */
const shrinkFactor = 8;

export class Group implements GroupLog {
  readonly partition: PartitionId;
  readonly replicaId: ReplicaId;
  /** Grows when a reset voids what was queued before it. */
  epoch = 0;
  /** What the last row or table on disk says; the rest rides along with the next. */
  readonly recorded = { known: false, term: 0, vote: 0, commit: 0, base: 0, last: 0 };
  /** Last entry once all that is queued is written. */
  queuedLast: Index = 0;
  #queuedTerm: Term = 0;
  #queuedVote: ReplicaId = 0;
  readonly #space: GroupSpace;
  #term: Term = 0;
  #vote: ReplicaId = 0;
  #commit: Index = 0;
  /** The entry before the first. */
  #base: Index = 0;
  #baseTerm: Term = 0;
  #last: Index = 0;
  /** Term of the entries from `#termStarts[i]` up to the next start. Ascending. */
  #termStarts: Index[] = [];
  #terms: Term[] = [];
  // Rings by index & mask.
  #capacity = capacityMin;
  #segments = new Uint32Array(capacityMin);
  #offsets = new Uint32Array(capacityMin);
  #sizes = new Uint32Array(capacityMin);
  #checksums = new Uint32Array(capacityMin);
  #types = new Uint8Array(capacityMin);
  /** Those whose payload is cached, as they came; each has its checksum. */
  #cachedEntries: (Entry | undefined)[] = new Array(capacityMin).fill(undefined);
  /** No entry at or before it is cached. */
  #uncachedTo: Index = 0;
  #released: Index = 0;
  #cachedBytes = 0;

  constructor(partition: PartitionId, replicaId: ReplicaId, space: GroupSpace) {
    this.partition = partition;
    this.replicaId = replicaId;
    this.#space = space;
  }

  get hardState(): HardState {
    return { term: this.#term, vote: this.#vote, commit: Math.min(this.#commit, this.#last) };
  }
  get cachedBytes(): number {
    return this.#cachedBytes;
  }
  get baseIndex(): Index {
    return this.#base;
  }
  get baseTerm(): Term {
    return this.#baseTerm;
  }
  firstIndex(): Index {
    return this.#base + 1;
  }
  lastIndex(): Index {
    return this.#last;
  }
  /** Segment that holds the first entry; undefined where there is none. */
  firstSegment(): number | undefined {
    return this.#last > this.#base ? this.#segments[this.#slot(this.#base + 1)] : undefined;
  }
  /** Highest commit index heard of; may be ahead of what is synced here. */
  get commit(): Index {
    return this.#commit;
  }

  term(index: Index): Term | 'compacted' | 'unavailable' {
    if (index > this.#last) return 'unavailable';
    if (index > this.#base) return this.#terms[this.#rangeOf(index)] as Term;
    return index === this.#base ? this.#baseTerm : 'compacted';
  }

  entries(lo: Index, hi: Index, maxBytes: number): Entry[] {
    if (!(lo > this.#base && lo < hi && hi <= this.#last + 1))
      throw new InvariantError(`entries ${lo} to ${hi} are in the log`);
    const found: Entry[] = [];
    let range = 0;
    let bytes = 0;
    for (let index = lo; index < hi; index++) {
      const slot = this.#slot(index);
      const sizeBytes = this.#sizes[slot] as number;
      bytes += sizeBytes;
      if (bytes > maxBytes && found.length > 0) break;
      const cached = this.#cachedEntries[slot];
      if (cached !== undefined) found.push(cached);
      else {
        range = this.#rangeOf(index, range);
        found.push({
          term: this.#terms[range] as Term,
          index,
          type: this.#types[slot] as EntryType,
          sizeBytes,
          data: undefined,
          checksum: this.#checksums[slot] as number,
        });
      }
    }
    return found;
  }

  async fill(entries: readonly Entry[]): Promise<boolean> {
    for (let i = 0; i < entries.length; ) {
      const entry = entries[i] as Entry;
      if (entry.data !== undefined) {
        i++;
        continue;
      }
      const count = await this.#fillRun(entries, i);
      if (count === 0) return false;
      i += count;
    }
    return true;
  }

  /** Reads the entries from `from` on that lie one behind the other on disk. 0: the log has changed. */
  async #fillRun(entries: readonly Entry[], from: number): Promise<number> {
    const { segment, offset } = this.#placeOf(entries[from] as Entry) ?? { segment: 0, offset: 0 };
    if (segment === 0) return 0;
    let bytes = 0;
    let count = 0;
    for (let i = from; i < entries.length; i++) {
      const entry = entries[i] as Entry;
      const place = this.#placeOf(entry);
      if (place === undefined) return 0;
      if (entry.data !== undefined || place.segment !== segment || place.offset !== offset + bytes) break;
      if (count > 0 && bytes + entryHeaderBytes + entry.sizeBytes > readBytesMax) break;
      bytes += entryHeaderBytes + entry.sizeBytes;
      count++;
    }
    const read = await this.#space.read(segment, offset, bytes);
    let at = 0;
    for (let i = from; i < from + count; i++) {
      const entry = entries[i] as Entry;
      const place = this.#placeOf(entry);
      // Truncated, compacted or rewritten while we read: the bytes may be another use of the file.
      if (place === undefined || place.segment !== segment || place.offset !== offset + at) return 0;
      this.#accept(entry, read, at, segment, offset);
      at += entryHeaderBytes + entry.sizeBytes;
    }
    return count;
  }

  #accept(entry: Entry, read: Buffer, at: number, segment: number, offset: number): void {
    const end = at + entryHeaderBytes + entry.sizeBytes;
    const view = read.subarray(at + entryHeaderBytes, end);
    const wanted = this.#checksums[this.#slot(entry.index)] as number;
    const { term, index, type } = entry;
    if (end > read.length || entryChecksum(this.partition, { term, index, type, data: view }) !== wanted) {
      throw new HansardError('LOG_DAMAGED', `entry ${index} of partition ${this.partition} is damaged`, {
        segment,
        offset: offset + at,
        kind: 'log-damaged',
        partitions: String(this.partition),
      });
    }
    // A copy: a small entry must not keep a large read alive.
    const data = Buffer.allocUnsafeSlow(entry.sizeBytes);
    view.copy(data);
    entry.data = data;
  }

  /** Where exactly this entry lies; undefined where the log holds another one, or none. */
  #placeOf(entry: Entry): { segment: number; offset: number } | undefined {
    if (this.term(entry.index) !== entry.term || entry.index <= this.#base) return undefined;
    const slot = this.#slot(entry.index);
    return { segment: this.#segments[slot] as number, offset: this.#offsets[slot] as number };
  }

  compact(index: Index, term: Term): void {
    if (index <= this.#base) return;
    if (this.term(index) !== term)
      throw new InvariantError(
        `partition ${this.partition}: entry ${index} of term ${term} is in the log (last ${this.#last}, term ${this.term(index)})`,
      );
    this.#drop(this.#base + 1, index);
    const range = this.#rangeOf(index);
    const wholeRange = this.#termStarts[range + 1] === index + 1 || index === this.#last ? 1 : 0;
    this.#termStarts.splice(0, range + wholeRange);
    this.#terms.splice(0, range + wholeRange);
    if (wholeRange === 0) this.#termStarts[0] = index + 1;
    this.#base = index;
    this.#baseTerm = term;
    // What is sealed was committed.
    this.noteCommit(index);
    this.#shrink();
  }

  reset(index: Index, term: Term): void {
    this.restart(index, term);
    this.noteCommit(index);
    this.epoch++;
    this.#space.onReset(this);
  }

  recordCommit(index: Index): void {
    if (index <= this.#commit) return;
    this.noteCommit(index);
    this.#space.onCommit();
  }

  releaseCache(index: Index): void {
    if (index > this.#released) this.#released = index;
  }

  // What the log itself calls.

  /** An empty log behind `index`, without a trace on disk. */
  restart(index: Index, term: Term): void {
    if (this.#last > this.#base) this.#drop(this.#base + 1, this.#last);
    this.#termStarts = [];
    this.#terms = [];
    this.#base = index;
    this.#baseTerm = term;
    this.#last = index;
    this.#uncachedTo = index;
    this.#shrink();
  }

  /** Where a gap's end was known by its index alone: with term 0 there, any candidate's log would seem newer. */
  learnBaseTerm(term: Term): void {
    if (this.#baseTerm === 0) this.#baseTerm = term;
  }

  setHardState(term: Term, vote: ReplicaId): void {
    this.#term = term;
    this.#vote = vote;
  }

  noteCommit(commit: Index): void {
    if (commit > this.#commit) this.#commit = commit;
  }

  /** True if term or vote changes: it must be written. */
  queueHardState(next: HardState): boolean {
    if (next.term === this.#queuedTerm && next.vote === this.#queuedVote) return false;
    if (!(next.term >= this.#queuedTerm))
      throw new InvariantError(`partition ${this.partition}: the term never goes back`);
    this.#queuedTerm = next.term;
    this.#queuedVote = next.vote;
    return true;
  }

  /** Commit, start or the group itself would be news to the disk. */
  isUnrecorded(): boolean {
    const { recorded } = this;
    const commit = Math.min(this.#commit, recorded.last);
    return !recorded.known || commit > recorded.commit || this.#base > recorded.base;
  }

  /** A row for the batch being built, with all that rides along. */
  takeRow(
    hardState: HardState | undefined,
    entries: readonly Entry[],
    reset: { index: Index; term: Term } | undefined,
  ): RowSource {
    const { recorded, partition } = this;
    const replicaId = recorded.known ? undefined : this.replicaId;
    let start: RowSource['start'];
    if (reset !== undefined) {
      start = { ...reset, reset: true };
      recorded.last = reset.index;
    } else if (this.#base > recorded.base && this.#base <= recorded.last) {
      start = { index: this.#base, term: this.#baseTerm, reset: false };
    }
    if (entries.length > 0) recorded.last = (entries.at(-1) as Entry).index;
    recorded.known = true;
    if (start !== undefined) recorded.base = start.index;
    if (hardState !== undefined) {
      recorded.term = hardState.term;
      recorded.vote = hardState.vote;
    }
    // Never ahead of the entries on disk: a start would refuse it.
    const commit = Math.min(this.#commit, recorded.last);
    if (hardState === undefined && commit <= recorded.commit) return { partition, replicaId, start, entries };
    recorded.commit = Math.max(commit, recorded.commit);
    const { term, vote } = recorded;
    return { partition, replicaId, start, hardState: { term, vote, commit: recorded.commit }, entries };
  }

  /** What is synced, for a new segment's table; rows packed before it count as never packed. */
  tableRow(): TableRow {
    const { recorded, partition, replicaId } = this;
    const commit = Math.min(this.#commit, this.#last);
    recorded.known = true;
    recorded.term = this.#term;
    recorded.vote = this.#vote;
    recorded.commit = commit;
    recorded.base = this.#base;
    recorded.last = this.#last;
    return {
      partition,
      replicaId,
      term: this.#term,
      vote: this.#vote,
      commit,
      baseIndex: this.#base,
      baseTerm: this.#baseTerm,
      lastIndex: this.#last,
      lastTerm: this.term(this.#last) as Term,
    };
  }

  /** Shows entries that are synced now; the first one's header lies at byte `from` of the payload written. */
  appendAll(
    entries: readonly Entry[],
    written: { readonly segment: number; readonly payloadAt: number; readonly payload: Buffer },
    from: number,
  ): void {
    this.truncate((entries[0] as Entry).index);
    const { segment, payloadAt, payload } = written;
    let at = from;
    for (let i = 0; i < entries.length; i++) {
      let entry = entries[i] as Entry;
      if (entry.checksum === undefined) entry = { ...entry, checksum: payload.readUInt32LE(at) };
      this.#add(entry.term, entry.type, entry.sizeBytes, entry.checksum as number, segment, payloadAt + at);
      if (entry.data !== undefined) {
        this.#cachedEntries[this.#slot(entry.index)] = entry;
        this.#cached(entry.sizeBytes);
      }
      at += entryHeaderBytes + entry.sizeBytes;
    }
    this.#space.adjustLive(segment, entries.length);
  }

  /** Replay: what stands on disk by now is known there. */
  noteRecorded(base: Index): void {
    const { recorded } = this;
    recorded.known = true;
    recorded.term = this.#term;
    recorded.vote = this.#vote;
    recorded.commit = Math.max(recorded.commit, this.#commit);
    recorded.base = Math.max(recorded.base, base);
  }

  endReplay(): void {
    this.recorded.last = this.#last;
    this.queuedLast = this.#last;
    this.#queuedTerm = this.#term;
    this.#queuedVote = this.#vote;
  }

  /** Drops everything at and after `index`. */
  truncate(index: Index): void {
    if (!(index > this.#base))
      throw new InvariantError(`partition ${this.partition}: entry ${index} is not sealed`);
    if (index > this.#last) return;
    this.#drop(index, this.#last);
    this.#last = index - 1;
    while (this.#termStarts.length > 0 && (this.#termStarts.at(-1) as Index) >= index) {
      this.#termStarts.pop();
      this.#terms.pop();
    }
    this.#uncachedTo = Math.min(this.#uncachedTo, this.#last);
  }

  /** Replay: adds the next entry, which lies on disk at `segment`, `offset` (of its header). */
  append(
    term: Term,
    type: EntryType,
    sizeBytes: number,
    checksum: number,
    segment: number,
    offset: number,
    data: Uint8Array | undefined,
  ): void {
    const index = this.#last + 1;
    this.#add(term, type, sizeBytes, checksum, segment, offset);
    this.#space.adjustLive(segment, 1);
    if (data === undefined) {
      if (this.#uncachedTo === index - 1) this.#uncachedTo = index;
    } else {
      this.#cachedEntries[this.#slot(index)] = { term, index, type, sizeBytes, data, checksum };
      this.#cached(sizeBytes);
    }
  }

  #add(term: Term, type: EntryType, size: number, checksum: number, segment: number, offset: number): void {
    const index = this.#last + 1;
    if (index - this.#base > this.#capacity) this.#resize(this.#capacity * 2);
    this.#last = index;
    const slot = this.#slot(index);
    this.#segments[slot] = segment;
    this.#offsets[slot] = offset;
    this.#sizes[slot] = size;
    this.#checksums[slot] = checksum;
    this.#types[slot] = type;
    if (this.#terms.length === 0 || this.#terms[this.#terms.length - 1] !== term) {
      this.#termStarts.push(index);
      this.#terms.push(term);
    }
  }

  /** Drops cached payloads, oldest first, until `bytes` are gone; `all`: also those not released. */
  evict(bytes: number, all: boolean): number {
    const to = all ? this.#last : Math.min(this.#released, this.#last);
    let freed = 0;
    let index = Math.max(this.#uncachedTo, this.#base) + 1;
    for (; index <= to && freed < bytes; index++) {
      const slot = this.#slot(index);
      const entry = this.#cachedEntries[slot];
      if (entry === undefined) continue;
      freed += entry.sizeBytes;
      this.#cachedEntries[slot] = undefined;
    }
    this.#uncachedTo = index - 1;
    this.#cached(-freed);
    return freed;
  }

  #cached(by: number): void {
    this.#cachedBytes += by;
    this.#space.adjustCached(by);
  }

  /** Forgets entries from … to, payloads too. */
  #drop(from: Index, to: Index): void {
    let freed = 0;
    for (let index = from; index <= to; index++) {
      const slot = this.#slot(index);
      this.#space.adjustLive(this.#segments[slot] as number, -1);
      const entry = this.#cachedEntries[slot];
      if (entry === undefined) continue;
      freed += entry.sizeBytes;
      this.#cachedEntries[slot] = undefined;
    }
    if (freed > 0) this.#cached(-freed);
  }

  #slot(index: Index): number {
    // `&` keeps the low 32 bits of a larger index: enough for a ring.
    return index & (this.#capacity - 1);
  }

  /** Position of the term range that holds `index`, which is in the log. */
  #rangeOf(index: Index, from = 0): number {
    let lo = from;
    let hi = this.#termStarts.length - 1;
    while (lo < hi) {
      const middle = (lo + hi + 1) >> 1;
      if ((this.#termStarts[middle] as Index) <= index) lo = middle;
      else hi = middle - 1;
    }
    return lo;
  }

  #shrink(): void {
    const count = this.#last - this.#base;
    if (this.#capacity <= 1024 || count * shrinkFactor > this.#capacity) return;
    let capacity = capacityMin;
    while (capacity < count * 2) capacity *= 2;
    this.#resize(capacity);
  }

  #resize(capacity: number): void {
    const segments = new Uint32Array(capacity);
    const offsets = new Uint32Array(capacity);
    const sizes = new Uint32Array(capacity);
    const checksums = new Uint32Array(capacity);
    const types = new Uint8Array(capacity);
    const cachedEntries: (Entry | undefined)[] = new Array(capacity).fill(undefined);
    for (let index = this.#base + 1; index <= this.#last; index++) {
      const from = this.#slot(index);
      const to = index & (capacity - 1);
      segments[to] = this.#segments[from] as number;
      offsets[to] = this.#offsets[from] as number;
      sizes[to] = this.#sizes[from] as number;
      checksums[to] = this.#checksums[from] as number;
      types[to] = this.#types[from] as number;
      cachedEntries[to] = this.#cachedEntries[from];
    }
    this.#capacity = capacity;
    this.#segments = segments;
    this.#offsets = offsets;
    this.#sizes = sizes;
    this.#checksums = checksums;
    this.#types = types;
    this.#cachedEntries = cachedEntries;
  }
}
