/**
 * Counts a snapshot's rows as they pass. LevelDB loses rows in silence, and a row
 * that is missing fails no checksum: without this a replica with a hole, as
 * leader, would hand the hole to replicas that were sound, or try to, again and again. All kinds
 * must have as many rows as the partition's record and the channels' own rows say, the change list no gaps.
 *
 * Rows come kind by kind: deleted channels before the blocks that are left of
 * them, channels before their blocks.
 */
import { xxh64Seeded } from '../common/hash.js';
import type { ChannelId } from '../common/ids.js';
import { ChangeChain } from './change-rows.js';
import { keyOfOwnPart, type Place, RowKind, readU64BE } from './keys.js';
import { openChannelRow } from './partition-state.js';
import { damaged } from './rows.js';
import type { PartitionRecord } from './state-codec.js';

const mask = 0xffff_ffff_ffff_ffffn;
const noBytes = Buffer.alloc(0);

export class SnapshotTally {
  readonly #record: PartitionRecord;
  readonly #place: Place;
  readonly #ended = new Set<ChannelId>();
  readonly #runs: ReadonlySet<string>;
  readonly #changes: ChangeChain;
  #names = 0;
  #channels = 0;
  #events = 0;
  #producers = 0;
  #terms = 0;
  #cursors = 0;
  #subscriptions = 0;
  #runRows = 0;
  #blocks = 0;
  #blocksDue = 0;
  /** Sums over channels of a hash of id and count: equal if every channel has its own number of blocks. */
  #blockSum = 0n;
  #blockSumDue = 0n;
  /** The channel whose blocks are passing. */
  #blocksOf: ChannelId = 0;
  #blocksOfIt = 0;

  constructor(record: PartitionRecord) {
    this.#record = record;
    this.#place = { partition: record.partition, generation: record.generation };
    this.#changes = new ChangeChain(record);
    this.#runs = new Set(record.runs.map(({ kind, run }) => nameOfRun(kind, run)));
  }

  take(kind: RowKind, ownPart: Uint8Array, row: Uint8Array): void {
    switch (kind) {
      case RowKind.ended:
        this.#ended.add(readU64BE(ownPart, 0));
        return;
      case RowKind.channelName:
        this.#names++;
        return;
      case RowKind.channel:
        return this.#takeChannel(ownPart, row);
      case RowKind.producer:
        this.#producers++;
        return;
      case RowKind.block:
        return this.#takeBlock(readU64BE(ownPart, 0));
      case RowKind.keyRun:
      case RowKind.messageIdRun:
        // Rows of runs that were merged stay for a while.
        if (this.#runs.has(nameOfRun(kind, readU64BE(ownPart, 0)))) this.#runRows++;
        return;
      case RowKind.term:
        this.#terms++;
        return;
      case RowKind.change:
        return this.#changes.take(keyOfOwnPart(kind, this.#place, ownPart), row);
      case RowKind.cursor:
        this.#cursors++;
        return;
      case RowKind.subscription:
        this.#subscriptions++;
    }
  }

  /** All rows have passed. Throws STORE_DAMAGED. */
  finish(): void {
    this.#endChannel();
    const { meta, eventCount, producerCount, endedCount, termCount, runs } = this.#record;
    const channels = meta.channelCount + meta.deletedCount;
    const runRows = runs.reduce((sum, run) => sum + run.chunks + run.indexRows, 0);
    this.#compare('channels', this.#channels, channels);
    this.#compare('names of channels', this.#names, channels);
    this.#compare('deleted channels', this.#ended.size, endedCount);
    this.#compare('producers', this.#producers, producerCount);
    this.#compare('read cursors', this.#cursors, meta.cursorCount ?? 0);
    this.#compare('durable subscriptions', this.#subscriptions, meta.subscriptionCount ?? 0);
    this.#compare('events', this.#events, eventCount);
    this.#compare('blocks', this.#blocks, this.#blocksDue);
    this.#compare('rows of keys and message ids', this.#runRows, runRows);
    this.#changes.finish();
    if (termCount !== undefined) this.#compare('labels and participants', this.#terms, termCount);
    if (this.#blockSum !== this.#blockSumDue)
      throw damaged(this.#what, 'its blocks are not those that its channels name');
  }

  get #what(): string {
    return `a snapshot of partition ${this.#record.partition}`;
  }

  #compare(of: string, found: number, due: number): void {
    if (found !== due) throw damaged(this.#what, `it has ${found} of ${due} ${of}`);
  }

  #takeChannel(ownPart: Uint8Array, row: Uint8Array): void {
    const { state, deleted, blockCount } = openChannelRow(
      keyOfOwnPart(RowKind.channel, this.#place, ownPart),
      row,
    );
    this.#channels++;
    this.#events += state.headSeq - state.baseSeq;
    if (deleted || blockCount === 0) return;
    this.#blocksDue += blockCount;
    this.#blockSumDue = (this.#blockSumDue + hashOf(state.id, blockCount)) & mask;
  }

  #takeBlock(id: ChannelId): void {
    if (this.#ended.has(id)) return;
    if (id !== this.#blocksOf) this.#endChannel();
    this.#blocksOf = id;
    this.#blocksOfIt++;
    this.#blocks++;
  }

  #endChannel(): void {
    if (this.#blocksOfIt > 0)
      this.#blockSum = (this.#blockSum + hashOf(this.#blocksOf, this.#blocksOfIt)) & mask;
    this.#blocksOfIt = 0;
  }
}

function nameOfRun(kind: RowKind, run: number): string {
  return `${kind}/${run}`;
}

function hashOf(id: ChannelId, blocks: number): bigint {
  return xxh64Seeded(noBytes, (BigInt(id) * 0x1_0000_0000n + BigInt(blocks)) & mask);
}
