/**
 * What can still be known from a log that a start refuses (design rule 5): reads all
 * segments past the damage, and tells of each partition whether its part is whole, or
 * ends early (and how far it once went), or may have lost a term or vote. It changes
 * nothing. rebuild.ts makes a new log of what it finds.
 *
 * In doubt it says the worse: a partition counts as whole only where a later record
 * proves it. Such a record is a segment's table (it restates term, vote and the last
 * entry's place, and an entry's place in Raft names all that is before it), or a reset.
 */
import { readU48 } from '../common/bytes.js';
import { higherPlace, isAtLeast, type LogPlace, noPlace, unknownIndex } from '../common/faults.js';
import type { PartitionId, ReplicaId, Term } from '../common/ids.js';
import type { EntryType } from '../common/log-types.js';
import { type Batch, type BatchRow, entryHeaderBytes } from './batch.js';
import { scanDirectories } from './damage.js';
import type { LogDevice } from './device.js';
import { Group, type GroupSpace } from './group-log.js';
import { type LogIdentity, verifyEntries } from './replay.js';
import { decodeHeader, type SegmentHeader, segmentSeed, type TableRow } from './segment-header.js';
import { lostSegment, type SegmentNotes } from './types.js';

export type SalvageVerdict = 'whole' | 'log-damaged' | 'term-or-vote-lost';

export interface SalvagedGroup {
  /** Entries that are surely its own, from its base up to where damage begins; filled from the old files. */
  readonly group: Group;
  readonly verdict: SalvageVerdict;
  /** Nothing behind it was ever acknowledged. */
  readonly floor: LogPlace;
  /** What broke it; empty where it is whole. */
  readonly why: string;
  /** Sealed once, so committed: a log may begin behind it, whatever is missing behind. */
  readonly sealed: LogPlace;
}

export interface Salvaged {
  readonly groups: readonly SalvagedGroup[];
  readonly batches: number;
  /** Batches of which nothing or only the directory could be read. */
  readonly lost: number;
  /** No segment says anything: whose log it was is all that is known. */
  readonly isBlank: boolean;
  /** Which of the newest segments is gone, by what was noted of them; with it went what nobody can tell. */
  readonly endLost: string;
}

/** A batch as it was found; where it is whole its entries are verified. */
interface Found {
  readonly batch: Batch;
  readonly segment: number;
  readonly offset: number;
  readonly whole: boolean;
  /** term, type, size and checksum of each entry, in the rows' order; empty where it is not whole. */
  readonly entries: readonly FoundEntry[];
}

interface FoundEntry {
  readonly term: Term;
  readonly type: number;
  readonly size: number;
  readonly checksum: number;
  /** Within the segment. */
  readonly offset: number;
}

export async function salvageLog(
  device: LogDevice,
  identity: LogIdentity,
  noted?: SegmentNotes['noted'],
): Promise<Salvaged> {
  const headers = new Map<number, SegmentHeader>();
  const found = new Map<number, Found[]>();
  const files = await device.list();
  const heads: { segment: number; length: number }[] = [];
  const size = Math.max(1, ...files.map((file) => file.bytes));
  const buffer = device.allocate(size);
  const read = async (segment: number, bytes: number): Promise<Buffer> => {
    const target = buffer.subarray(0, bytes);
    return target.subarray(0, await device.read(segment, 0, target));
  };
  for (const file of files) {
    const decoded = decodeHeader(await read(file.segment, file.bytes), file.segment);
    if (decoded === undefined || !isOurs(decoded.header, identity)) continue;
    headers.set(file.segment, decoded.header);
    heads.push({ segment: file.segment, length: decoded.length });
  }
  const salt = [...headers.values()][0]?.salt;
  const isThere = (segment: number): boolean => files.some((file) => file.segment === segment);
  if (salt === undefined) {
    return { groups: [], batches: 0, lost: 0, isBlank: true, endLost: lostSegment(noted, 0, isThere) };
  }
  let newest = Math.max(...headers.keys());
  for (const file of files) {
    const bytes = await read(file.segment, file.bytes);
    const place = { segment: file.segment, seed: segmentSeed(salt, file.segment) };
    const from = heads.find(({ segment }) => segment === file.segment)?.length ?? 0;
    for (const [number, remains] of scanDirectories(bytes, from, place)) {
      const whole = remains.whole && verifyEntries(remains.batch, bytes, remains.offset) === undefined;
      const entries = whole ? entriesOf(remains.batch, bytes, remains.offset) : [];
      const one = { batch: remains.batch, segment: file.segment, offset: remains.offset, whole, entries };
      newest = Math.max(newest, file.segment);
      const others = found.get(number);
      if (others === undefined) found.set(number, [one]);
      else others.push(one);
    }
  }
  return { ...new Salvage(device, headers, found).run(), endLost: lostSegment(noted, newest, isThere) };
}

function isOurs(header: SegmentHeader, { clusterId, storeId }: LogIdentity): boolean {
  return header.storeId === storeId && Buffer.compare(header.clusterId, clusterId) === 0;
}

function entriesOf(batch: Batch, bytes: Buffer, at: number): FoundEntry[] {
  const entries: FoundEntry[] = [];
  let from = at + batch.payloadAt;
  for (const row of batch.rows) {
    for (let i = 0; i < (row.entries?.count ?? 0); i++) {
      const size = bytes.readUInt32LE(from + 4);
      entries.push({
        checksum: bytes.readUInt32LE(from),
        size,
        term: readU48(bytes, from + 8),
        type: bytes[from + 14] as number,
        offset: from,
      });
      from += entryHeaderBytes + size;
    }
  }
  return entries;
}

/** One partition's part, as far as the reading has come. */
class Part {
  /** Why entries are missing from some place on; empty: none are. */
  broken = '';
  /** Term and vote are what was synced last. */
  votesKnown = true;
  /** The highest place that it ever had, as far as is known. */
  floor: LogPlace = noPlace;
  /** Something unreadable may have been above it. */
  floorUnknown = false;
  /**
   * Entries up to here lie in segments that are gone: given up because they were sealed,
   * or lost. Its log begins behind them; where the state does not reach them, that is
   * the state's damage: what was promised of votes and places is known.
   */
  gapTo = 0;
  /** The furthest start of its log that any record tells. */
  sealed: LogPlace = noPlace;

  constructor(readonly group: Group) {}

  break(why: string): void {
    if (this.broken === '') this.broken = why;
  }

  /** A record that was synced later says where the log ended then: places only rise. */
  endedAt(place: LogPlace): void {
    this.floor = higherPlace(this.floor, place);
    this.floorUnknown = false;
  }

  /** All that is lost was before this, or void. */
  startsAnew(place: LogPlace): void {
    this.startsBehind(place);
    this.group.restart(place.index, place.term);
    this.gapTo = 0;
    this.broken = '';
    this.endedAt(place);
  }

  startsBehind({ index, term }: LogPlace): void {
    if (index > this.sealed.index) this.sealed = { index, term };
  }

  lostSomething(why: string): void {
    this.break(why);
    this.votesKnown = false;
    this.floorUnknown = true;
  }

  get lastTerm(): Term {
    return this.group.term(this.group.lastIndex()) as Term;
  }

  result(): SalvagedGroup {
    const { group, broken: why, sealed } = this;
    if (!this.votesKnown) return { group, verdict: 'term-or-vote-lost', floor: noPlace, why, sealed };
    if (why === '') return { group, verdict: 'whole', floor: noPlace, why, sealed };
    // Without a term above its own nothing was acknowledged: an unknown place is one of that term, at most.
    const floor = this.floorUnknown ? { term: group.hardState.term, index: unknownIndex } : this.floor;
    return { group, verdict: 'log-damaged', floor, why, sealed };
  }
}

class Salvage {
  readonly #parts = new Map<PartitionId, Part>();
  readonly #space: GroupSpace;
  /** Those with batches of their own, by their first batch, newest use of a number last. */
  readonly #segments: readonly SegmentHeader[];
  readonly #found: ReadonlyMap<number, readonly Found[]>;
  #batches = 0;
  #lost = 0;

  constructor(
    device: LogDevice,
    headers: ReadonlyMap<number, SegmentHeader>,
    found: ReadonlyMap<number, readonly Found[]>,
  ) {
    this.#found = found;
    this.#segments = [...headers.values()].sort((a, b) => a.segment - b.segment);
    this.#space = {
      adjustLive: () => {},
      adjustCached: () => {},
      onReset: () => {},
      onCommit: () => {},
      async read(segment, offset, bytes) {
        const target = device.allocate(bytes);
        return target.subarray(0, await device.read(segment, offset, target));
      },
    };
  }

  run(): Omit<Salvaged, 'endLost'> {
    const first = this.#segments[0] as SegmentHeader;
    for (const row of first.table) this.#introduce(row);
    const numbers = [...this.#found.keys()].filter((number) => number >= first.firstBatch);
    const whole = [...this.#found]
      .filter(([, all]) => all.some((one) => one.whole))
      .map(([number]) => number);
    const lastWhole = Math.max(0, ...whole);
    const lastHeader = Math.max(...this.#segments.map((header) => header.firstBatch));
    let last = Math.max(lastWhole, lastHeader - 1, ...numbers);
    // The remains of the very next one behind the last: it was never acknowledged.
    if (last === lastWhole + 1 && last >= lastHeader) last = lastWhole;
    let next = 0;
    for (let number = first.firstBatch; number <= last + 1; number++) {
      for (; next < this.#segments.length; next++) {
        const header = this.#segments[next] as SegmentHeader;
        if (header.firstBatch > number) break;
        if (header !== first) this.#table(header);
      }
      if (number <= last) this.#batch(number);
    }
    const groups = [...this.#parts.values()].map((part) => part.result());
    return { groups, batches: this.#batches, lost: this.#lost, isBlank: false };
  }

  #batch(number: number): void {
    const one = this.#pick(number);
    if (one === undefined) {
      this.#lost++;
      for (const part of this.#parts.values()) part.lostSomething(`batch ${number} of the log is lost`);
      return;
    }
    if (one.whole) this.#batches++;
    else this.#lost++;
    let entry = 0;
    for (const row of one.batch.rows) {
      this.#row(row, one, entry);
      if (one.whole) entry += row.entries?.count ?? 0;
    }
  }

  /** A start writes the last batch anew into another segment: what the older one has behind it does not count. */
  #pick(number: number): Found | undefined {
    const owner = this.#segments.findLast((header) => header.firstBatch <= number);
    const all = this.#found.get(number) ?? [];
    const own = all.filter((one) => owner === undefined || one.segment >= owner.segment);
    const best = own.findLast((one) => one.whole);
    if (best !== undefined) return best;
    const copy = owner?.firstBatch === number ? all.findLast((one) => one.whole) : undefined;
    return copy ?? own.at(-1);
  }

  #row(row: BatchRow, one: Found, firstEntry: number): void {
    const part = this.#partOf(row);
    if (part === undefined) return;
    const { group } = part;
    if (row.start?.reset) part.startsAnew(row.start);
    else if (row.start !== undefined) this.#start(part, row.start);
    if (row.hardState !== undefined && row.hardState.term >= group.hardState.term) {
      group.setHardState(row.hardState.term, row.hardState.vote);
      part.votesKnown = true;
      // Of what was lost before, nobody knows whether it was what this speaks of.
      if (part.broken === '') group.noteCommit(row.hardState.commit);
    }
    const { entries } = row;
    if (entries === undefined) return;
    const end = { term: entries.lastTerm, index: entries.first + entries.count - 1 };
    if (entries.first <= part.gapTo) {
      part.gapTo = entries.first - 1;
      group.restart(part.gapTo, 0);
    }
    const follows = entries.first > group.baseIndex && entries.first <= group.lastIndex() + 1;
    if (!one.whole || !follows) {
      part.break(
        one.whole
          ? `entries before ${entries.first} are lost`
          : `entries ${entries.first} to ${end.index} are damaged (segment ${one.segment}, byte ${one.offset})`,
      );
      if (follows) group.truncate(entries.first);
    }
    part.endedAt(end);
    if (part.broken !== '') return;
    group.truncate(entries.first);
    for (let i = 0; i < entries.count; i++) {
      const { term, type, size, checksum, offset } = one.entries[firstEntry + i] as FoundEntry;
      group.append(term, type as EntryType, size, checksum, one.segment, offset, undefined);
    }
  }

  #start(part: Part, place: LogPlace): void {
    const { group } = part;
    const { index, term } = place;
    part.startsBehind(place);
    if (index <= group.baseIndex) return;
    // All that it ever had is sealed by then, whatever of it is lost.
    if (part.broken !== '' && !part.floorUnknown && isAtLeast(place, part.floor))
      return part.startsAnew(place);
    if (group.term(index) === term) group.compact(index, term);
    else if (index > group.lastIndex()) group.restart(index, term);
  }

  /** A segment's table tells what was synced when it began. */
  #table(header: SegmentHeader): void {
    for (const row of header.table) {
      const part = this.#parts.get(row.partition);
      if (part === undefined || row.replicaId > part.group.replicaId) {
        this.#introduce(row);
        continue;
      }
      if (row.term < part.group.hardState.term) continue;
      const { group } = part;
      group.setHardState(row.term, row.vote);
      part.votesKnown = true;
      this.#start(part, { index: row.baseIndex, term: row.baseTerm });
      part.endedAt({ term: row.lastTerm, index: row.lastIndex });
      if (row.lastIndex === group.lastIndex() && row.lastTerm === part.lastTerm) part.broken = '';
      else part.break(`entries up to ${row.lastIndex} are lost`);
      if (part.broken === '') group.noteCommit(row.commit);
    }
  }

  #introduce(row: TableRow): void {
    const part = this.#newPart(row.partition, row.replicaId);
    part.group.setHardState(row.term, row.vote);
    part.startsAnew({ index: row.baseIndex, term: row.baseTerm });
    part.endedAt({ term: row.lastTerm, index: row.lastIndex });
    if (row.lastIndex > row.baseIndex) {
      part.gapTo = row.lastIndex;
      part.group.restart(row.lastIndex, row.lastTerm);
    }
    part.group.noteCommit(row.commit);
  }

  #partOf(row: BatchRow): Part | undefined {
    const known = this.#parts.get(row.partition);
    if (row.replicaId === undefined || row.replicaId <= (known?.group.replicaId ?? 0)) return known;
    return this.#newPart(row.partition, row.replicaId);
  }

  #newPart(partition: PartitionId, replicaId: ReplicaId): Part {
    const part = new Part(new Group(partition, replicaId, this.#space));
    this.#parts.set(partition, part);
    return part;
  }
}
