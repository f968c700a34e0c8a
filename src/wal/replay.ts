/**
 * Reads the log at the start: verifies every batch, every entry and the chain,
 * and rebuilds the groups. It changes nothing on disk. The last batch is found
 * but not yet applied: the opener writes it anew first (design rule 4).
 */
import { readU48 } from '../common/bytes.js';
import { areLoadedEntriesSound, entryChecksum } from '../common/entry-checksum.js';
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { type Batch, completeBatch, directoryReach, entryHeaderBytes, readFrontDirectory } from './batch.js';
import { damaged, mayHoldDirectories, type Remains, scanDirectories } from './damage.js';
import type { LogDevice, SegmentFile } from './device.js';
import type { Group, GroupSpace } from './group-log.js';
import { type Keeps, ReplayState } from './replay-state.js';
import {
  alignBytes,
  alignUp,
  decodeHeader,
  headerReach,
  type SegmentHeader,
  segmentSeed,
} from './segment-header.js';
import { SegmentReader } from './segment-reader.js';
import type { ReplayReport } from './types.js';

export interface LogIdentity {
  /** 16 bytes. */
  readonly clusterId: Uint8Array;
  /** 16 hexadecimal digits. */
  readonly storeId: string;
}

/** A batch and where its bytes are. */
export interface FoundBatch {
  readonly batch: Batch;
  readonly segment: number;
  readonly offset: number;
  readonly bytes: Buffer;
}

export interface Replayed {
  readonly salt: bigint;
  readonly groups: Map<PartitionId, Group>;
  /** Files that hold nothing: made ahead, or left over. */
  readonly unused: SegmentFile[];
  /** Verified, and not applied to the groups yet. */
  readonly last: FoundBatch;
  /** Its segment holds no other batch. */
  readonly lastIsFirst: boolean;
  /** Applies it, as it lies at `segment`, `offset` by then. */
  applyLast(segment: number, offset: number): void;
  readonly report: Omit<ReplayReport, 'durationMs'>;
}

/** Called before a segment's batches are applied: how many files were read, of how many. */
export type OnUsed = (file: SegmentFile, read: number, of: number) => void;

/** Throws REPLICA_LOST (nothing there, or foreign), LOG_DAMAGED, FORMAT_TOO_NEW, DISK_FAILED. */
export async function replay(
  device: LogDevice,
  identity: LogIdentity,
  space: GroupSpace,
  onUsed: OnUsed,
  keeps: Keeps,
): Promise<Replayed> {
  const files = await device.list();
  if (files.length === 0) {
    throw new HansardError('REPLICA_LOST', 'the log has no segment; a new log is formatted explicitly');
  }
  return new Replay(device, identity, space, files, onUsed, keeps).run();
}

/** Enough for any table: 15,000 groups. */
const headerReadBytes = 1024 * 1024;
/** A batch's end tells of a directory before it: this part of what was looked at stays at hand. */
const overlapShare = 1 / 4;

/** What a segment's batches are verified with. */
interface BatchSpot {
  readonly segment: number;
  readonly seed: bigint;
}

class Replay {
  readonly #state: ReplayState;
  readonly #reader: SegmentReader;
  readonly #used: SegmentFile[] = [];
  readonly #unused: SegmentFile[] = [];
  /** Without header, met before the salt was known. */
  readonly #unread: SegmentFile[] = [];
  readonly #report = { segments: 0, batches: 0, bytes: 0, tornTail: false };
  #salt: bigint | undefined;
  #expected = 0;
  #chain = 0n;
  #pending: FoundBatch | undefined;
  /** Its bytes are its own, not the reader's. */
  #isPendingKept = false;
  #lastFirst = { segment: 0, offset: 0 };

  constructor(
    readonly device: LogDevice,
    readonly identity: LogIdentity,
    space: GroupSpace,
    readonly files: readonly SegmentFile[],
    readonly onUsed: OnUsed,
    keeps: Keeps,
  ) {
    this.#state = new ReplayState(space, keeps);
    this.#reader = new SegmentReader(device, Math.max(...files.map((file) => file.bytes)));
  }

  async run(): Promise<Replayed> {
    for (const file of this.files) await this.#segment(file);
    for (const file of this.#unread) {
      await this.#reader.begin(file);
      await this.#checkEmpty(file);
    }
    const last = this.#pending;
    if (last === undefined || this.#salt === undefined) {
      throw await this.#damage(this.files[0] as SegmentFile, 0, 'no segment holds a valid batch');
    }
    const gap = this.#state.openGap(last.batch);
    if (gap !== undefined) {
      const first = this.#used[0] as SegmentFile;
      throw await this.#damage(first, 0, `entries of partition ${gap} before it are missing`);
    }
    return {
      salt: this.#salt,
      groups: this.#state.groups,
      unused: this.#unused,
      last,
      lastIsFirst: last.segment === this.#lastFirst.segment && last.offset === this.#lastFirst.offset,
      applyLast: (segment, offset) => {
        const problem = this.#state.apply(last, segment, offset);
        if (problem !== undefined) {
          const { segment: at, offset: byte } = last;
          throw damaged({
            segment: at,
            offset: byte,
            problem: `batch ${last.batch.number}: ${problem}`,
            expected: last.batch.number,
            directories: new Map([[last.batch.number, { batch: last.batch, whole: false, offset: byte }]]),
            laterTable: false,
          });
        }
      },
      report: { ...this.#report, entries: this.#state.entries },
    };
  }

  async #segment(file: SegmentFile): Promise<void> {
    const reader = this.#reader;
    await reader.begin(file);
    await reader.hold(0, alignBytes);
    await reader.hold(0, headerReach(reader.bytes));
    const decoded = decodeHeader(reader.bytes, file.segment);
    if (decoded === undefined) {
      if (this.#salt === undefined) this.#unread.push(file);
      else await this.#checkEmpty(file);
      return;
    }
    const { header, length } = decoded;
    this.#checkIdentity(header);
    this.#salt ??= header.salt;
    const place = { segment: file.segment, seed: segmentSeed(header.salt, file.segment) };
    const first = await this.#batchAt(length, place);
    if (first === undefined) {
      await this.#checkTail(file, length, header.firstBatch);
      this.#unused.push(file);
      return;
    }
    await this.#enter(file, header);
    this.#lastFirst = { segment: file.segment, offset: length };
    this.onUsed(file, this.files.indexOf(file), this.files.length);
    this.#used.push(file);
    const { end, problem } = await this.#walk(file, first, length, place);
    if (problem !== undefined) throw await this.#damage(file, end, problem, await this.#scan(file, end));
    await this.#checkTail(file, end, this.#expected);
    this.#report.segments++;
    this.#report.bytes += end;
  }

  /** Joins a segment that holds batches to what came before. */
  async #enter(file: SegmentFile, header: SegmentHeader): Promise<void> {
    const pending = this.#pending;
    if (this.#used.length === 0) {
      this.#expected = header.firstBatch;
      this.#chain = header.previous;
      this.#state.begin(header.table);
      return;
    }
    if (header.firstBatch === this.#expected && header.previous === this.#chain) {
      const problem = this.#applyPending();
      if (problem !== undefined) throw await this.#damage(file, 0, problem);
    } else if (
      pending !== undefined &&
      header.firstBatch === pending.batch.number &&
      header.previous === pending.batch.previous
    ) {
      // A start wrote the last batch anew here; only this one was relied upon.
      this.#pending = undefined;
      this.#expected = header.firstBatch;
      this.#chain = header.previous;
      this.#report.batches--;
    } else {
      throw await this.#damage(
        file,
        0,
        `it starts at batch ${header.firstBatch}, the one before it ends before batch ${this.#expected}`,
      );
    }
    const problem = this.#state.join(header.table);
    if (problem !== undefined) throw await this.#damage(file, 0, `its table: ${problem}`);
  }

  /** Takes in a segment's batches, from the first on, up to one that is not valid: the bulk of a start. */
  async #walk(
    file: SegmentFile,
    first: Batch,
    from: number,
    place: BatchSpot,
  ): Promise<{ end: number; problem?: string }> {
    const reader = this.#reader;
    let at = from;
    for (let batch: Batch | undefined = first; batch !== undefined; ) {
      if (batch.number !== this.#expected || batch.previous !== this.#chain) {
        return { end: at, problem: `batch ${batch.number} does not continue the chain` };
      }
      const { bytes } = reader;
      const start = reader.placeOf(at);
      const problem = verifyEntries(batch, bytes, start) ?? this.#applyPending();
      if (problem !== undefined) return { end: at, problem };
      const { segment } = file;
      this.#pending = { batch, segment, offset: at, bytes: bytes.subarray(start, start + batch.bytes) };
      this.#isPendingKept = false;
      this.#report.batches++;
      this.#expected++;
      this.#chain = batch.checksum;
      at += batch.bytes;
      // A promise only where a piece ends: mostly the next one is at hand.
      const next = this.#heldBatch(file, at, place);
      batch = next === 'more' ? await this.#batchAt(at, place) : next;
    }
    return { end: at };
  }

  /** The batch that begins at `at`; 'more': not all of it is held. */
  #heldBatch(file: SegmentFile, at: number, place: BatchSpot): Batch | undefined | 'more' {
    const reader = this.#reader;
    const left = file.bytes - at;
    const held = reader.bytes.length - reader.placeOf(at);
    if (left >= alignBytes && held < alignBytes) return 'more';
    const { bytes } = reader;
    const start = reader.placeOf(at);
    const reach = directoryReach(bytes, start, place.segment);
    if (reach > held && reach <= left) return 'more';
    const front = readFrontDirectory(bytes, start, place);
    if (front === undefined) return undefined;
    if (front.bytes > held && front.bytes <= left) return 'more';
    return completeBatch(bytes, start, front, place);
  }

  /** The same, read as far as it takes. */
  async #batchAt(at: number, place: BatchSpot): Promise<Batch | undefined> {
    const reader = this.#reader;
    this.#keepPending();
    await reader.hold(at, alignBytes);
    await reader.hold(at, directoryReach(reader.bytes, reader.placeOf(at), place.segment));
    const front = readFrontDirectory(reader.bytes, reader.placeOf(at), place);
    if (front === undefined) return undefined;
    await reader.hold(at, front.bytes);
    return completeBatch(reader.bytes, reader.placeOf(at), front, place);
  }

  /** Behind the last valid batch only the remains of the very next one may stand. */
  async #checkTail(file: SegmentFile, end: number, expected: number): Promise<void> {
    const remains = await this.#remains(file, end);
    for (const number of remains.keys()) {
      if (number > expected) {
        const problem = `batch ${expected} is not valid, batch ${number} follows`;
        throw await this.#damage(file, end, problem, remains);
      }
      this.#report.tornTail = true;
    }
  }

  /** A file without a header holds no batches, or its header is damaged. */
  async #checkEmpty(file: SegmentFile): Promise<void> {
    const remains = await this.#remains(file, 0);
    if (remains.size > 0) throw await this.#damage(file, 0, 'its header is damaged', remains);
    this.#unused.push(file);
  }

  /** What can be read of batches from `from` on, which is held. Mostly zeros, or batches of the file's earlier use. */
  async #remains(file: SegmentFile, from: number): Promise<Map<number, Remains>> {
    const reader = this.#reader;
    this.#keepPending();
    const overlap = reader.pieceBytes * overlapShare;
    for (let at = from; at < file.bytes; ) {
      const to = Math.min(at + alignUp(reader.pieceBytes - overlap), file.bytes);
      const before = Math.max(from, at - overlap);
      await reader.hold(before, to - before);
      const start = reader.placeOf(at);
      if (mayHoldDirectories(reader.bytes, start, start + to - at, file.segment))
        return this.#scan(file, from);
      at = to;
    }
    return new Map();
  }

  /** The same from the whole of it, read once more. */
  async #scan(file: SegmentFile, from: number): Promise<Map<number, Remains>> {
    const whole = this.device.allocate(file.bytes);
    const bytes = whole.subarray(0, await this.device.read(file.segment, 0, whole));
    const place = { segment: file.segment, seed: segmentSeed(this.#salt ?? 0n, file.segment) };
    return scanDirectories(bytes, from, place);
  }

  /** What is held goes with the next piece. */
  #keepPending(): void {
    const pending = this.#pending;
    if (pending === undefined || this.#isPendingKept) return;
    this.#pending = { ...pending, bytes: Buffer.from(pending.bytes) };
    this.#isPendingKept = true;
  }

  #applyPending(): string | undefined {
    const pending = this.#pending;
    if (pending === undefined) return undefined;
    this.#pending = undefined;
    const problem = this.#state.apply(pending, pending.segment, pending.offset);
    return problem === undefined ? undefined : `batch ${pending.batch.number}: ${problem}`;
  }

  #checkIdentity(header: SegmentHeader): void {
    const { clusterId, storeId } = this.identity;
    if (header.storeId === storeId && Buffer.compare(header.clusterId, clusterId) === 0) return;
    throw new HansardError('REPLICA_LOST', `the log belongs to store ${header.storeId}, not to ${storeId}`, {
      found: header.storeId,
      expected: storeId,
    });
  }

  /** `directories`: what can still be read of the segment, for the classification. */
  async #damage(
    { segment }: SegmentFile,
    offset: number,
    problem: string,
    directories: ReadonlyMap<number, Remains> = new Map(),
  ): Promise<HansardError> {
    const laterTable = await this.#laterTable(segment);
    return damaged({ segment, offset, problem, expected: this.#expected, directories, laterTable });
  }

  async #laterTable(segment: number): Promise<boolean> {
    for (const file of this.files) {
      if (file.segment <= segment) continue;
      const bytes = this.device.allocate(Math.min(file.bytes, headerReadBytes));
      const got = await this.device.read(file.segment, 0, bytes);
      if (decodeHeader(bytes.subarray(0, got), file.segment) !== undefined) return true;
    }
    return false;
  }
}

/** Each entry of a batch against its own checksum and the directory. Undefined: all well. */
export function verifyEntries(batch: Batch, bytes: Buffer, at: number): string | undefined {
  let from = at + batch.payloadAt;
  for (const row of batch.rows) {
    if (row.entries === undefined) continue;
    const end = from + row.entries.bytes;
    if (end > at + batch.bytes) return `entries of partition ${row.partition} overrun their batch`;
    const { first, count } = row.entries;
    if (areLoadedEntriesSound(bytes, from, end, row.partition, first, count)) {
      from = end;
      continue;
    }
    // Not at hand, or not sound: one by one, to tell which.
    for (let i = 0; i < count; i++) {
      const size = from + entryHeaderBytes <= end ? bytes.readUInt32LE(from + 4) : 0;
      const next = from + entryHeaderBytes + size;
      const index = first + i;
      if (next > end) return `entry ${index} of partition ${row.partition} overruns its row`;
      const term = readU48(bytes, from + 8);
      const type = bytes[from + 14] as number;
      // A third of the cost of Buffer's own subarray, which counts with small entries.
      const data = new Uint8Array(bytes.buffer, bytes.byteOffset + from + entryHeaderBytes, size);
      if (entryChecksum(row.partition, { term, index, type, data }) !== bytes.readUInt32LE(from)) {
        return `entry ${index} of partition ${row.partition} does not match its checksum`;
      }
      from = next;
    }
    if (from !== end) return `entries of partition ${row.partition} do not fill their row`;
  }
  return undefined;
}
