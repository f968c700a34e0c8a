/**
 * The store's one log. Writes of all partitions gather while a batch is being
 * synced and go out as the next one; one batch is on its way at any time.
 */

import type { Clock } from '../common/env.js';
import { assert, HansardError, InvariantError } from '../common/errors.js';
import type { Index, PartitionId, ReplicaId, Term } from '../common/ids.js';
import type { Entry } from '../common/log-types.js';
import { type Logger, silentLogger } from '../common/logger.js';
import {
  BatchFlag,
  batchBytesMax,
  type EncodedBatch,
  encodeBatch,
  entryHeaderBytes,
  moveBatch,
  type RowSource,
  storedBytes,
} from './batch.js';
import type { LogDevice, SegmentFile } from './device.js';
import { Group, type GroupSpace } from './group-log.js';
import { type LogIdentity, type Replayed, replay } from './replay.js';
import { alignBytes, alignUp, encodeHeader, headerBytes, segmentSeed } from './segment-header.js';
import { Segments } from './segments.js';
import {
  type GroupLog,
  type GroupWrite,
  type LogExtent,
  lostSegment,
  type ReplayReport,
  type SegmentNotes,
  type Wal,
  type WalStats,
} from './types.js';
import { closingItem, type Flight, type Item, newItem, WriteQueue } from './write-queue.js';

const MiB = 1024 * 1024;

export const walDefaults = Object.freeze({
  /** One segment file. Larger ones save syncs and tables, smaller ones are given back sooner. */
  segmentBytes: 64 * MiB,
  /** One batch, unless a single entry is larger: bounds what one sync makes others wait for. */
  maxBatchBytes: 8 * MiB,
  /** Payloads in memory, for applying and for followers that keep up. */
  cacheBytes: 64 * MiB,
  /** Above it `holdingBack` names partitions. */
  maxLogBytes: 1024 * MiB,
  /** Idle time after which the closing batch is written, ms: not between two appends of a slow client. */
  closeAfterMs: 50,
});

export interface WalOptions extends LogIdentity {
  /** Closed with the log. */
  readonly device: LogDevice;
  /** A write or sync failed, or an invariant broke: the process must end. Called once. */
  readonly onFailure: (error: Error) => void;
  readonly segmentBytes?: number | undefined;
  readonly maxBatchBytes?: number | undefined;
  readonly cacheBytes?: number | undefined;
  /** What the store has of a partition: later entries stay in memory after the start, as many as the cache may hold. */
  readonly sealed?: ((partition: PartitionId) => Index) | undefined;
  readonly maxLogBytes?: number | undefined;
  readonly closeAfterMs?: number | undefined;
  readonly logger?: Logger | undefined;
  readonly segmentNotes?: SegmentNotes | undefined;
  /** For the closing batch's delay. */
  readonly clock: Pick<Clock, 'after' | 'monotonicMs'>;
}

/**
 * Verifies and opens an existing log. Throws REPLICA_LOST (no log, or a foreign
 * one), LOG_DAMAGED (fields segment, offset, kind, partitions), FORMAT_TOO_NEW, DISK_FAILED.
 */
export async function openWal(options: WalOptions): Promise<Wal> {
  return Log.open(options);
}

/** How often a start says how far it is in reading the log, ms. */
const sayMs = 3_000;

/** Groups that may join between a batch's gathering and its table. */
const groupsToCome = 64;

/** Where a synced batch's entries begin. */
interface Written {
  readonly segment: number;
  readonly payloadAt: number;
  /** The payload as written; valid until the next batch is packed. */
  readonly payload: Buffer;
}

class Log implements Wal, GroupSpace {
  readonly #options: WalOptions;
  readonly #device: LogDevice;
  readonly #segments: Segments;
  readonly #segmentBytes: number;
  readonly #maxBatchBytes: number;
  readonly #cacheBytes: number;
  readonly #maxLogBytes: number;
  readonly #closeAfterMs: number;
  #groups = new Map<PartitionId, Group>();
  #salt = 0n;
  // Where the next batch goes.
  #current: SegmentFile = { segment: 0, bytes: 0 };
  #offset = 0;
  #number = 1;
  #previous = 0n;
  /** The newest that is known to hold a synced batch; 0: none is. */
  #syncedSegment: number;
  #staging: Buffer = Buffer.alloc(0);

  readonly #queue = new WriteQueue();
  #running = false;
  /** The next batch has not begun, though it could: the caller's turn may add to it. */
  #gathering = false;
  /** What is being written. */
  #flight: Flight | undefined;
  #failed: Error | undefined;
  #closing = false;
  #idleWaiters: (() => void)[] = [];
  /** The last batch on disk is a closing one. */
  #closed = true;
  #closeTimerSet = false;
  #pendingBytes = 0;
  #cachedBytes = 0;
  #evictFrom = 0;
  readonly #stats = { batches: 0, syncs: 0, bytesWritten: 0, lastSyncMs: 0 };
  #report: ReplayReport = { segments: 0, batches: 0, entries: 0, bytes: 0, durationMs: 0, tornTail: false };

  private constructor(options: WalOptions) {
    this.#options = options;
    this.#device = options.device;
    this.#segmentBytes = options.segmentBytes ?? walDefaults.segmentBytes;
    this.#maxBatchBytes = options.maxBatchBytes ?? walDefaults.maxBatchBytes;
    this.#cacheBytes = options.cacheBytes ?? walDefaults.cacheBytes;
    this.#maxLogBytes = options.maxLogBytes ?? walDefaults.maxLogBytes;
    this.#closeAfterMs = options.closeAfterMs ?? walDefaults.closeAfterMs;
    this.#syncedSegment = options.segmentNotes?.noted?.current ?? 0;
    const logger = options.logger ?? silentLogger;
    this.#segments = new Segments(
      this.#device,
      this.#segmentBytes,
      logger,
      (error) => this.#fail(error),
      async (segment) => options.segmentNotes?.note(this.#syncedSegment, segment),
    );
  }

  static async open(options: WalOptions): Promise<Log> {
    const log = new Log(options);
    await log.#load();
    return log;
  }

  async #load(): Promise<void> {
    const startMs = this.#options.clock.monotonicMs();
    let saidMs = startMs;
    const { sealed } = this.#options;
    const found = await replay(
      this.#device,
      this.#options,
      this,
      (file, read, of) => {
        this.#segments.addUsed(file);
        const nowMs = this.#options.clock.monotonicMs();
        if (nowMs - saidMs < sayMs) return;
        saidMs = nowMs;
        this.#options.logger?.info({ segment: file.segment, read, of }, 'reading the log');
      },
      // To read them again one by one costs more than all the verifying.
      (partition, index, bytes) =>
        sealed !== undefined && index > sealed(partition) && this.#cachedBytes + bytes <= this.#cacheBytes,
    );
    this.#groups = found.groups;
    this.#salt = found.salt;
    this.#report = { ...found.report, durationMs: this.#options.clock.monotonicMs() - startMs };
    this.#current = { segment: found.last.segment, bytes: 0 };
    await this.#checkNotes(found);
    for (const file of found.unused) this.#segments.addSpare(file);
    await this.#rewriteLast(found);
    for (const group of this.#groups.values()) group.endReplay();
    this.#segments.prepare();
  }

  /**
   * From here on files that hold nothing may be renamed or go: they are not noted any more. Nor is the newest segment,
   * unless it was before: the page cache may show batches of it that no sync has reached, and they may be gone
   * with the next loss of power without anything being damaged.
   */
  async #checkNotes({ last: { segment: newest }, unused }: Replayed): Promise<void> {
    const { segmentNotes } = this.#options;
    const problem = lostSegment(segmentNotes?.noted, newest, (segment) =>
      unused.some((file) => file.segment === segment),
    );
    if (problem !== '') {
      const fields = { segment: newest, offset: 0, kind: 'term-or-vote-lost', partitions: 'all' };
      throw new HansardError('LOG_DAMAGED', problem, fields);
    }
    await segmentNotes?.note(this.#syncedSegment, 0);
  }

  /**
   * Writes the last batch anew into a fresh segment before anyone relies on it:
   * if the sync before it failed or never came, the page cache shows bytes that
   * the disk does not have, and syncing the old file again would not write them.
   */
  async #rewriteLast(found: Replayed): Promise<void> {
    const { last } = found;
    this.#number = last.batch.number;
    this.#previous = last.batch.previous;
    await this.#enterSegment();
    const bytes = last.batch.bytes;
    assert(this.#offset + bytes <= this.#current.bytes, 'a segment holds its table and the last batch');
    this.#staging = this.#device.allocate(Math.max(alignUp(this.#maxBatchBytes), bytes));
    last.bytes.copy(this.#staging);
    const checksum = moveBatch(this.#staging, bytes, this.#place());
    const offset = this.#offset;
    await this.#put(this.#staging.subarray(0, bytes), checksum);
    found.applyLast(this.#current.segment, offset);
    // Where the old segment held nothing but this batch, its place in the chain is taken.
    if (found.lastIsFirst) this.#segments.replace(last.segment);
    this.#closed = (last.batch.flags & BatchFlag.closing) !== 0;
  }

  group(partition: PartitionId): GroupLog | undefined {
    return this.#groups.get(partition);
  }

  groups(): readonly GroupLog[] {
    return [...this.#groups.values()];
  }

  addGroup(partition: PartitionId, replicaId: ReplicaId): GroupLog {
    const before = this.#groups.get(partition);
    if (before !== undefined) {
      const isBusy = this.#queue.hasOf(before) || this.#flight?.items.some(({ group }) => group === before);
      if (before.replicaId >= replicaId || isBusy)
        throw new InvariantError(
          `partition ${partition}: replica ${replicaId} follows ${before.replicaId}${isBusy ? ', which still writes' : ''}`,
        );
      // What that one promised, it promised under an id that nobody asks for any more.
      before.restart(before.lastIndex(), before.term(before.lastIndex()) as Term);
    }
    const group = new Group(partition, replicaId, this);
    this.#groups.set(partition, group);
    return group;
  }

  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  get writing(): number {
    return this.#flight === undefined ? 0 : this.#number;
  }

  write(writes: readonly GroupWrite[], onDurable: () => void): void {
    if (this.#failed !== undefined) return;
    assert(!this.#closing, 'the log is open');
    let last: Item | undefined;
    for (const write of writes) last = this.#enqueue(write) ?? last;
    if (last === undefined) {
      last = newItem(undefined, undefined, []);
      this.#queue.push(last);
    }
    last.done = onDurable;
    this.#pump();
  }

  /** Undefined: nothing that must be written (the commit index alone rides along with the next batch). */
  #enqueue(write: GroupWrite): Item | undefined {
    const group = this.#groups.get(write.partition);
    if (group === undefined) throw new InvariantError(`partition ${write.partition} was added to the log`);
    let hardState = write.hardState;
    if (hardState !== undefined) {
      group.noteCommit(hardState.commit);
      if (!group.queueHardState(hardState)) hardState = undefined;
    }
    const { entries } = write;
    if (entries.length > 0) {
      this.#checkEntries(group, entries);
      group.queuedLast = (entries[entries.length - 1] as Entry).index;
    }
    if (hardState === undefined && entries.length === 0) return undefined;
    const item = newItem(group, hardState, entries);
    this.#pendingBytes += item.stored - entries.length * entryHeaderBytes;
    this.#queue.push(item);
    return item;
  }

  get entryBytesMax(): number {
    return this.#roomInSegment() - batchBytesMax(1, entryHeaderBytes);
  }

  #checkEntries(group: Group, entries: readonly Entry[]): void {
    let index = (entries[0] as Entry).index;
    const { partition, baseIndex, queuedLast } = group;
    if (!(index > baseIndex && index <= queuedLast + 1))
      throw new InvariantError(
        `partition ${partition}: entry ${index} follows ${baseIndex} to ${queuedLast}`,
      );
    const room = this.#roomInSegment();
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i] as Entry;
      if (!(entry.index === index++))
        throw new InvariantError(`partition ${partition}: entry ${entry.index} is out of order`);
      if (!(batchBytesMax(1, storedBytes(entry)) <= room))
        throw new InvariantError(`an entry of ${entry.sizeBytes} bytes fits into a segment`);
    }
  }

  holdingBack(): PartitionId[] {
    const to = this.#segments.excessTo(this.#maxLogBytes);
    const found: PartitionId[] = [];
    if (to === 0) return found;
    for (const group of this.#groups.values()) {
      const first = group.firstSegment();
      if (first !== undefined && first <= to) found.push(group.partition);
    }
    return found;
  }

  stats(): WalStats {
    return {
      ...this.#stats,
      segments: this.#segments.count,
      segmentBytes: this.#segments.bytes,
      cachedBytes: this.#cachedBytes,
      replay: this.#report,
    };
  }

  extent(): LogExtent {
    return { segments: this.#segments.numbers(), nextBatch: this.#number };
  }

  async close(): Promise<void> {
    if (!this.#closing) {
      this.#closing = true;
      await this.#idle();
      if (this.#failed === undefined && (!this.#closed || this.#unrecorded())) {
        this.#queue.push(closingItem());
        this.#pump();
        await this.#idle();
      }
    }
    await this.#device.close();
  }

  // GroupSpace: what the groups ask of the log.

  adjustLive(segment: number, by: number): void {
    this.#segments.adjustLive(segment, by);
  }

  adjustCached(by: number): void {
    this.#cachedBytes += by;
  }

  async read(segment: number, offset: number, bytes: number): Promise<Buffer> {
    const target = this.#device.allocate(bytes);
    return target.subarray(0, await this.#device.read(segment, offset, target));
  }

  onCommit(): void {
    this.#armClosing(true);
  }

  onReset(group: Group): void {
    const reset = { index: group.baseIndex, term: group.baseTerm };
    group.queuedLast = reset.index;
    this.#queue.push(newItem(group, undefined, [], reset));
    this.#pump();
  }

  // The way of a batch.

  #pump(): void {
    if (this.#running || this.#failed !== undefined) return;
    this.#running = true;
    this.#gathering = true;
    // What the caller still adds in this turn shares the batch.
    queueMicrotask(() => {
      if (this.#gathering) this.#begin(false);
    });
  }

  flush(here: boolean): boolean {
    if (!this.#gathering || this.#failed !== undefined) return false;
    const bytes = alignUp(batchBytesMax(this.#queue.length, this.#pendingBytes));
    const isQuick = this.#device.here?.suits(bytes) ?? false;
    // A quick write that the caller does not wait for keeps its thread, too: everything else comes first.
    if (isQuick && !here) return false;
    return this.#begin(isQuick);
  }

  #begin(here: boolean): boolean {
    this.#gathering = false;
    try {
      const flight = this.#gather();
      const isWritten = here && flight !== undefined && this.#writeHere(flight);
      if (isWritten && this.#queue.length === 0) this.#rest();
      else void this.#run(isWritten ? this.#gather() : flight).catch((error: unknown) => this.#fail(error));
      return isWritten;
    } catch (error) {
      this.#fail(error);
      return false;
    }
  }

  #gather(): Flight | undefined {
    this.#flight = this.#queue.gather(Math.min(this.#maxBatchBytes, this.#roomInSegment()));
    return this.#flight;
  }

  async #run(first: Flight | undefined): Promise<void> {
    let finished: Flight | undefined;
    for (let flight = first; ; flight = this.#gather()) {
      const written = flight === undefined ? undefined : this.#submit(flight);
      // The disk is busy with the next batch while the last one's callbacks run.
      written?.catch(() => {});
      if (finished !== undefined) runCallbacks(finished);
      finished = undefined;
      if (flight !== undefined && written !== undefined) {
        const batch = await written;
        this.#show(flight, batch);
        finished = flight;
      } else if (this.#queue.length === 0) break;
    }
    this.#rest();
  }

  #rest(): void {
    this.#running = false;
    for (const waiter of this.#idleWaiters.splice(0)) waiter();
    this.#armClosing();
  }

  #fail(error: unknown): void {
    if (this.#failed !== undefined) return;
    this.#failed = error instanceof Error ? error : new InvariantError(String(error));
    this.#queue.clear();
    for (const waiter of this.#idleWaiters.splice(0)) waiter();
    this.#options.onFailure(this.#failed);
  }

  #idle(): Promise<void> {
    if (!this.#running || this.#failed !== undefined) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  /** Undefined: callbacks alone, nothing to write. */
  async #submit(flight: Flight): Promise<Written | undefined> {
    let batch = this.#pack(flight);
    if (batch === undefined) return undefined;
    let retirable = 0;
    if (!this.#fits(batch)) {
      retirable = await this.#enterSegment();
      // Once more: a reset may have come meanwhile, and the table knows of it.
      batch = this.#pack(flight);
      assert(batch !== undefined && this.#fits(batch), 'a batch fits into an empty segment');
    }
    const offset = this.#offset;
    await this.#put(this.#staging.subarray(0, batch.bytes), batch.checksum);
    this.#segments.retire(retirable);
    return this.#written(flight, batch, offset);
  }

  /**
   * On this thread; false: it must be made elsewhere, and nothing is packed yet. A row says only once what is new of
   * its group: packed a second time without a new segment's table in between, it would be a row of nobody.
   */
  #writeHere(flight: Flight): boolean {
    const { here } = this.#device;
    if (here === undefined || isClosing(flight)) return false;
    const most = alignUp(batchBytesMax(flight.items.length, storedIn(flight)));
    if (this.#offset + most > this.#current.bytes || !here.suits(most)) return false;
    const batch = this.#pack(flight);
    if (batch === undefined) return false;
    assert(batch.bytes <= most, 'a batch is no larger than its bound');
    const offset = this.#offset;
    const bytes = this.#staging.subarray(0, batch.bytes);
    this.#synced(bytes.length, batch.checksum, here.write(this.#current.segment, offset, bytes));
    this.#show(flight, this.#written(flight, batch, offset));
    this.#flight = undefined;
    runCallbacks(flight);
    return true;
  }

  #written(flight: Flight, batch: EncodedBatch, offset: number): Written {
    this.#segments.prepare();
    this.#closed = isClosing(flight);
    const payload = this.#staging.subarray(batch.payloadAt, batch.bytes);
    return { segment: this.#current.segment, payloadAt: offset + batch.payloadAt, payload };
  }

  /** Into the staging memory. Undefined: nothing to write. */
  #pack(flight: Flight): EncodedBatch | undefined {
    const rows = this.#rows(flight.items);
    const closing = isClosing(flight);
    if (rows.length === 0 && !closing) return undefined;
    this.#reserve(rows);
    return encodeBatch(this.#staging, this.#place(), closing ? BatchFlag.closing : 0, rows);
  }

  #fits(batch: EncodedBatch): boolean {
    return this.#offset + batch.bytes <= this.#current.bytes;
  }

  /** Rows of a batch, and what rides along. Entries that a reset has voided are left out. */
  #rows(items: readonly Item[]): RowSource[] {
    const rows: RowSource[] = [];
    for (const item of items) {
      if (item.closing) {
        for (const group of this.#groups.values()) {
          if (group.isUnrecorded()) rows.push(group.takeRow(undefined, [], undefined));
        }
      } else if (item.group !== undefined) {
        if (item.epoch !== item.group.epoch) {
          item.entries = [];
          item.stored = 0;
        }
        rows.push(item.group.takeRow(item.hardState, item.entries, item.reset));
      }
    }
    return rows;
  }

  #reserve(rows: readonly RowSource[]): void {
    let payload = 0;
    for (const { entries } of rows) {
      for (let i = 0; i < entries.length; i++) payload += storedBytes(entries[i] as Entry);
    }
    const bytes = alignUp(batchBytesMax(rows.length, payload));
    if (bytes > this.#staging.length) this.#staging = this.#device.allocate(bytes);
  }

  /** Opens the next segment with a table of all groups. Resolves to how many old ones nobody needs as of that table. */
  async #enterSegment(): Promise<number> {
    const file = await this.#segments.take();
    const retirable = this.#segments.retirable();
    const header = encodeHeader({
      segment: file.segment,
      segmentBytes: file.bytes,
      clusterId: this.#options.clusterId,
      storeId: this.#options.storeId,
      salt: this.#salt,
      firstBatch: this.#number,
      previous: this.#previous,
      table: [...this.#groups.values()].map((group) => group.tableRow()),
    });
    // Synced before the first batch: a header that is not valid means that no batch was acknowledged.
    const ms = await this.#device.write(file.segment, 0, header);
    this.#count(header.length, ms);
    this.#segments.addUsed(file);
    this.#current = file;
    this.#offset = header.length;
    return retirable;
  }

  async #put(bytes: Buffer, checksum: bigint): Promise<void> {
    this.#synced(
      bytes.length,
      checksum,
      await this.#device.write(this.#current.segment, this.#offset, bytes),
    );
  }

  #synced(bytes: number, checksum: bigint, ms: number): void {
    this.#count(bytes, ms);
    this.#syncedSegment = this.#current.segment;
    this.#stats.batches++;
    this.#offset += bytes;
    this.#number++;
    this.#previous = checksum;
  }

  #count(bytes: number, ms: number): void {
    this.#stats.syncs++;
    this.#stats.bytesWritten += bytes;
    this.#stats.lastSyncMs = ms;
  }

  #place(): { segment: number; seed: bigint; number: number; previous: bigint } {
    const { segment } = this.#current;
    return {
      segment,
      seed: segmentSeed(this.#salt, segment),
      number: this.#number,
      previous: this.#previous,
    };
  }

  #roomInSegment(): number {
    return this.#segmentBytes - headerBytes(this.#groups.size + groupsToCome) - alignBytes;
  }

  /** Shows a synced batch in the groups. */
  #show(flight: Flight, written: Written | undefined): void {
    let at = 0;
    for (const { group, epoch, hardState, entries, stored } of flight.items) {
      if (group === undefined) continue;
      if (hardState !== undefined) group.setHardState(hardState.term, hardState.vote);
      if (entries.length === 0 || written === undefined) continue;
      // Reset while the batch was on its way: the reset follows it on disk.
      if (epoch === group.epoch) group.appendAll(entries, written, at);
      at += stored;
    }
    this.#pendingBytes -= flight.bytes;
    if (this.#cachedBytes > this.#cacheBytes) this.#evict();
  }

  /** Down to 7/8, so that not every batch evicts; released payloads first, turn about among the groups. */
  #evict(): void {
    const groups = [...this.#groups.values()];
    const target = (this.#cacheBytes / 8) * 7;
    for (const all of [false, true]) {
      for (let i = 0; i < groups.length && this.#cachedBytes > target; i++) {
        const group = groups[(this.#evictFrom + i) % groups.length] as Group;
        group.evict(this.#cachedBytes - target, all);
      }
    }
    this.#evictFrom++;
  }

  /** `forCommit`: the last batch may be a closing one; what came to light since is recorded as well. */
  #armClosing(forCommit = false): void {
    if ((this.#closed && !forCommit) || this.#closeTimerSet || this.#closing) return;
    this.#closeTimerSet = true;
    const batches = this.#stats.batches;
    this.#options.clock.after(this.#closeAfterMs, () => {
      this.#closeTimerSet = false;
      if (this.#running || this.#closing || this.#failed !== undefined) return;
      if (this.#stats.batches !== batches) {
        this.#armClosing(true);
        return;
      }
      if (this.#closed && !this.#unrecorded()) return;
      this.#queue.push(closingItem());
      this.#pump();
    });
  }

  #unrecorded(): boolean {
    for (const group of this.#groups.values()) if (group.isUnrecorded()) return true;
    return false;
  }
}

/** Of the payload, headers included. */
function storedIn(flight: Flight): number {
  let stored = 0;
  for (const item of flight.items) stored += item.stored;
  return stored;
}

function isClosing(flight: Flight): boolean {
  return flight.items.some((item) => item.closing);
}

function runCallbacks(flight: Flight): void {
  for (const item of flight.items) item.done?.();
}
