/**
 * Reads the log at the start: verifies every batch, every entry and the chain,
 * and rebuilds the groups. It changes nothing on disk. The last batch is found
 * but not yet applied: the opener writes it anew first (design rule 4).
 */
import { entryChecksum } from '../common/entry-checksum.js';
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { type Batch, entryHeaderBytes, readBatch } from './batch.js';
import { damaged, type Remains, scanDirectories } from './damage.js';
import type { LogDevice, SegmentFile } from './device.js';
import type { Group, GroupSpace } from './group-log.js';
import { type Keeps, ReplayState } from './replay-state.js';
import { decodeHeader, type SegmentHeader, segmentSeed } from './segment-header.js';
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

/** Throws REPLICA_LOST (nothing there, or foreign), LOG_DAMAGED, FORMAT_TOO_NEW, DISK_FAILED. */
export async function replay(
  device: LogDevice,
  identity: LogIdentity,
  space: GroupSpace,
  onUsed: (file: SegmentFile) => void,
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

class Replay {
  readonly #state: ReplayState;
  readonly #used: SegmentFile[] = [];
  readonly #unused: SegmentFile[] = [];
  /** Without header, met before the salt was known. */
  readonly #unread: SegmentFile[] = [];
  readonly #report = { segments: 0, batches: 0, bytes: 0, tornTail: false };
  #salt: bigint | undefined;
  #expected = 0;
  #chain = 0n;
  #pending: FoundBatch | undefined;
  #lastFirst = { segment: 0, offset: 0 };

  constructor(
    readonly device: LogDevice,
    readonly identity: LogIdentity,
    space: GroupSpace,
    readonly files: readonly SegmentFile[],
    /** Called before a segment's batches are applied. */
    readonly onUsed: (file: SegmentFile) => void,
    keeps: Keeps,
  ) {
    this.#state = new ReplayState(space, keeps);
  }

  async run(): Promise<Replayed> {
    const size = Math.max(...this.files.map((file) => file.bytes));
    // Two buffers: the next segment is read while this one is verified.
    const buffers = [this.device.allocate(size), this.device.allocate(this.files.length > 1 ? size : 0)];
    const read = (i: number): Promise<Buffer> | undefined => {
      const file = this.files[i];
      if (file === undefined) return undefined;
      const bytes = (buffers[i % 2] as Buffer).subarray(0, file.bytes);
      const reading = this.device.read(file.segment, 0, bytes).then((got) => bytes.subarray(0, got));
      // Found damaged before it is awaited: the damage is the error that counts.
      reading.catch(() => {});
      return reading;
    };
    let reading = read(0);
    for (const [i, file] of this.files.entries()) {
      const bytes = (await reading) as Buffer;
      reading = read(i + 1);
      await this.#segment(file, bytes);
    }
    for (const file of this.#unread) {
      const bytes = (buffers[0] as Buffer).subarray(0, file.bytes);
      await this.device.read(file.segment, 0, bytes);
      await this.#checkEmpty(file, bytes);
    }
    const last = this.#pending;
    if (last === undefined || this.#salt === undefined) {
      throw await this.#damage(this.files[0] as SegmentFile, 0, 'no segment holds a valid batch', undefined);
    }
    const gap = this.#state.openGap(last.batch);
    if (gap !== undefined) {
      const first = this.#used[0] as SegmentFile;
      throw await this.#damage(first, 0, `entries of partition ${gap} before it are missing`, undefined);
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

  async #segment(file: SegmentFile, bytes: Buffer): Promise<void> {
    const decoded = decodeHeader(bytes, file.segment);
    if (decoded === undefined) {
      if (this.#salt === undefined) this.#unread.push(file);
      else await this.#checkEmpty(file, bytes);
      return;
    }
    const { header, length } = decoded;
    this.#checkIdentity(header);
    this.#salt ??= header.salt;
    const place = { segment: file.segment, seed: segmentSeed(header.salt, file.segment) };
    if (readBatch(bytes, length, place) === undefined) {
      await this.#checkTail(file, bytes, length, header.firstBatch);
      this.#unused.push(file);
      return;
    }
    await this.#enter(file, header);
    this.#lastFirst = { segment: file.segment, offset: length };
    this.onUsed(file);
    this.#used.push(file);
    const { end, problem } = this.#walk(file, bytes, length, place);
    if (problem !== undefined) throw await this.#damage(file, end, problem, bytes);
    await this.#checkTail(file, bytes, end, this.#expected);
    this.#keepPending();
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
      if (problem !== undefined) throw await this.#damage(file, 0, problem, undefined);
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
        undefined,
      );
    }
    const problem = this.#state.join(header.table);
    if (problem !== undefined) throw await this.#damage(file, 0, `its table: ${problem}`, undefined);
  }

  /** Takes in a segment's batches up to the first that is not valid. Synchronous: this is the bulk of a start. */
  #walk(
    file: SegmentFile,
    bytes: Buffer,
    from: number,
    place: { segment: number; seed: bigint },
  ): { end: number; problem?: string } {
    let at = from;
    for (;;) {
      const batch = readBatch(bytes, at, place);
      if (batch === undefined) return { end: at };
      if (batch.number !== this.#expected || batch.previous !== this.#chain) {
        return { end: at, problem: `batch ${batch.number} does not continue the chain` };
      }
      const problem = verifyEntries(batch, bytes, at) ?? this.#applyPending();
      if (problem !== undefined) return { end: at, problem };
      this.#pending = {
        batch,
        segment: file.segment,
        offset: at,
        bytes: bytes.subarray(at, at + batch.bytes),
      };
      this.#report.batches++;
      this.#expected++;
      this.#chain = batch.checksum;
      at += batch.bytes;
    }
  }

  /** Behind the last valid batch only the remains of the very next one may stand. */
  async #checkTail(file: SegmentFile, bytes: Buffer, end: number, expected: number): Promise<void> {
    const place = { segment: file.segment, seed: segmentSeed(this.#salt as bigint, file.segment) };
    const found = scanDirectories(bytes, end, place);
    for (const number of found.keys()) {
      if (number > expected) {
        throw await this.#damage(file, end, `batch ${expected} is not valid, batch ${number} follows`, bytes);
      }
      this.#report.tornTail = true;
    }
  }

  /** A file without a header holds no batches, or its header is damaged. */
  async #checkEmpty(file: SegmentFile, bytes: Buffer): Promise<void> {
    const place = { segment: file.segment, seed: segmentSeed(this.#salt ?? 0n, file.segment) };
    if (scanDirectories(bytes, 0, place).size > 0) {
      throw await this.#damage(file, 0, 'its header is damaged', bytes);
    }
    this.#unused.push(file);
  }

  /** The read buffer is used again for the next segment. */
  #keepPending(): void {
    if (this.#pending !== undefined) {
      this.#pending = { ...this.#pending, bytes: Buffer.from(this.#pending.bytes) };
    }
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

  /** Collects what can still be read, for the classification. `bytes`: the segment's, where they are at hand. */
  async #damage(
    file: SegmentFile,
    offset: number,
    problem: string,
    bytes: Buffer | undefined,
  ): Promise<HansardError> {
    const place = { segment: file.segment, seed: segmentSeed(this.#salt ?? 0n, file.segment) };
    const directories =
      bytes === undefined ? new Map<number, Remains>() : scanDirectories(bytes, offset, place);
    const { segment } = file;
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
    for (let i = 0; i < row.entries.count; i++) {
      const size = from + entryHeaderBytes <= end ? bytes.readUInt32LE(from + 4) : 0;
      const next = from + entryHeaderBytes + size;
      const index = row.entries.first + i;
      if (next > end) return `entry ${index} of partition ${row.partition} overruns its row`;
      const term = bytes.readUIntLE(from + 8, 6);
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
