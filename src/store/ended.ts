/**
 * What is left in the database of deleted channels: blocks, keys, message ids.
 * Nobody reads them any more (all of them carry the channel's id, which is never
 * used again); checkpoints remove them, so much at a time, each in the batch that
 * also writes how far it is.
 */
import type { ChannelId } from '../common/ids.js';
import { blocksRange, endedKey, firstSeqOfBlockKey, type Place, RowKind } from './keys.js';
import type { PartitionState } from './partition-state.js';
import { mergedBytesMax } from './run-merge.js';
import type { Run } from './runs.js';
import type { SealBatch } from './seal-batch.js';
import { type EndedChannel, type SealedChannel, writeEnded } from './state-codec.js';
import { pointerBytes, valueBytesMin } from './value-format.js';

/** Blocks that one checkpoint of a partition removes at most: reads and deletes of about 16 MiB. */
const removedAtOnce = 4096;
const rowsAtOnce = 64;

/** What a checkpoint does to the list of deleted channels; the list itself changes in `settle`. */
export class EndedChanges {
  readonly #list: Map<ChannelId, EndedChannel>;
  /** Undefined: nothing is left of it. */
  readonly #changed = new Map<ChannelId, EndedChannel | undefined>();
  readonly #fresh: readonly SealedChannel[];

  constructor(list: Map<ChannelId, EndedChannel>, fresh: readonly SealedChannel[]) {
    this.#list = list;
    this.#fresh = fresh;
    for (const { state, blockCount } of fresh) {
      this.set(state.id, {
        nextSeq: blockCount === 0 ? 0 : state.baseSeq + 1,
        untilRun: Number.MAX_SAFE_INTEGER,
      });
    }
  }

  has(id: ChannelId): boolean {
    return this.#list.has(id) || this.#changed.has(id);
  }

  set(id: ChannelId, ended: EndedChannel): void {
    this.#changed.set(id, ended);
  }

  /** Those with blocks to remove, oldest first. */
  *withBlocks(): Generator<[ChannelId, EndedChannel]> {
    for (const entry of this.#list) if (entry[1].nextSeq !== 0) yield entry;
    for (const { state } of this.#fresh) {
      const ended = this.#changed.get(state.id);
      if (ended !== undefined && ended.nextSeq !== 0) yield [state.id, ended];
    }
  }

  /** How many are left, once `seal` has been. */
  get count(): number {
    let count = this.#list.size;
    for (const [id, ended] of this.#changed) {
      if (ended === undefined) count -= this.#list.has(id) ? 1 : 0;
      else if (!this.#list.has(id)) count++;
    }
    return count;
  }

  /**
   * Writes what has changed. A channel stays in the list until its blocks are gone and
   * every run of message ids that may hold its own was merged; keys expire anyway, and
   * runs that are too large for merges keep what they have.
   */
  async seal(place: Place, messageIdRuns: readonly Run[], nextRun: number, out: SealBatch): Promise<void> {
    for (const { state } of this.#fresh) {
      const ended = this.#changed.get(state.id);
      if (ended !== undefined) this.set(state.id, { ...ended, untilRun: nextRun });
    }
    const oldest = messageIdRuns
      .filter(({ info }) => info.bytes < mergedBytesMax)
      .reduce((least, { info }) => Math.min(least, info.run), Number.MAX_SAFE_INTEGER);
    for (const [id, ended] of [...this.#list, ...this.#changed]) {
      const { nextSeq, untilRun } = this.#changed.get(id) ?? ended ?? nothingLeft;
      if (nextSeq === 0 && untilRun <= oldest) this.#changed.set(id, undefined);
    }
    for (const [id, ended] of this.#changed) {
      if (ended === undefined) {
        if (this.#list.has(id)) out.del(endedKey(place, id));
        continue;
      }
      const writer = out.row();
      writeEnded(writer, ended);
      const pause = out.put(endedKey(place, id), writer);
      if (pause !== undefined) await pause;
    }
  }

  /** The batch is synced. */
  settle(): void {
    for (const [id, ended] of this.#changed) {
      if (ended === undefined) this.#list.delete(id);
      else this.#list.set(id, ended);
    }
  }
}

const nothingLeft: EndedChannel = { nextSeq: 0, untilRun: 0 };

/** Removes blocks of deleted channels, up to the bound of one checkpoint. */
export async function removeBlocks(
  state: PartitionState,
  ended: EndedChanges,
  out: SealBatch,
): Promise<void> {
  let left = removedAtOnce;
  for (const [id, channel] of ended.withBlocks()) {
    if (left <= 0) return;
    const iterator = state.shared.kv.iterator(blocksRange(state.place, id, channel.nextSeq));
    let { nextSeq } = channel;
    try {
      while (left > 0 && nextSeq !== 0) {
        const wanted = Math.min(rowsAtOnce, left);
        const rows = await iterator.next(wanted);
        left -= rows.length;
        for (const [key, row] of rows) {
          out.del(key, row.length);
          // Of LevelDB's: value files count for themselves.
          const inTable = row.length < valueBytesMin ? row.length : pointerBytes;
          state.countRemoved(RowKind.block, key.length + inTable);
          nextSeq = firstSeqOfBlockKey(key) + 1;
          const pause = out.spent(row.length);
          if (pause !== undefined) await pause;
        }
        if (rows.length < wanted) nextSeq = 0;
      }
    } finally {
      await iterator.close();
    }
    ended.set(id, { ...channel, nextSeq });
  }
}
