/**
 * A channel's new events become blocks. Many at once are cut into blocks of about
 * the store's size; few become a small block, which merges with its neighbours
 * later, so that a checkpoint writes what is new instead of what is there again.
 *
 * The bounds of it: a channel has at most `smallBlocksMax` small blocks, the last
 * ones, together less than one block. Of `fanIn` small blocks that merge none is half
 * of the whole, so an event is written about 1 + log8(block / event) times: 3.4 times
 * where every checkpoint brings one of 290 bytes, 1.9 times for 2 KiB, once where it
 * brings half a block (test/store/small-blocks.test.ts).
 */
import type { ChannelState, StoredEvent } from '../conversation/types.js';
import { BlockCuts, readUnit, weightOf, writeUnit } from './block.js';
import { blockKey, type Place } from './keys.js';
import { openEvents, type PartitionState } from './partition-state.js';
import { damaged, openRow } from './rows.js';
import type { SealBatch } from './seal-batch.js';
import type { SealedChannel, SmallBlock } from './state-codec.js';

/** Small blocks that make a merge, at least. */
const fanIn = 8;
/** So many that one more makes them merge whatever their sizes. */
export const smallBlocksMax = 20;

/** What a checkpoint does with a channel's events. */
export interface SealPlan {
  /** Of the new events and of those that the row held. */
  readonly weight: number;
  /** Small blocks from this one on are read and written again with them. */
  readonly mergeFrom: number;
  /** No block holds them yet; in an earlier program's row they stand before the tail's. */
  readonly fresh: readonly StoredEvent[];
}

/** Looks at sizes alone. `before`: the channel's sealed row. */
export function planEvents(
  before: SealedChannel | undefined,
  events: readonly StoredEvent[],
  blockBytes: number,
): SealPlan {
  const small = before?.smallBlocks ?? [];
  if (events.length === 0) return { weight: 0, mergeFrom: small.length, fresh: events };
  const fresh = before?.openUnit === undefined ? events : [...openEvents(before), ...events];
  let weight = 0;
  for (const event of fresh) weight += weightOf(event);
  return { weight, mergeFrom: mergeFrom(small, weight, blockBytes), fresh };
}

/** The first of the small blocks that merge with `weight` of new events; their number: none. */
export function mergeFrom(small: readonly SmallBlock[], weight: number, blockBytes: number): number {
  let sum = weight;
  for (const block of small) sum += block.weight;
  if (!isSmall(weight, blockBytes) || sum >= blockBytes || small.length >= smallBlocksMax) return 0;
  let largest = weight;
  sum = weight;
  for (let i = small.length - 1; i >= 0; i--) {
    const block = small[i] as SmallBlock;
    sum += block.weight;
    largest = Math.max(largest, block.weight);
    if (small.length - i + 1 >= fanIn && sum >= 2 * largest) return i;
  }
  return small.length;
}

function isSmall(weight: number, blockBytes: number): boolean {
  return weight < blockBytes / 2;
}

/** Keys of the blocks that a plan merges. */
export function mergedKeys(place: Place, before: SealedChannel | undefined, plan: SealPlan): Uint8Array[] {
  if (before === undefined) return [];
  return before.smallBlocks
    .slice(plan.mergeFrom)
    .map(({ firstSeq }) => blockKey(place, before.state.id, firstSeq));
}

/** What the channel's row says of blocks afterwards. */
type Blocks = Pick<SealedChannel, 'openFirstSeq' | 'blockCount' | 'smallBlocks' | 'openUnit'>;

/** Where a channel is sealed without new events. */
export function unchangedBlocks(before: SealedChannel | undefined, { baseSeq }: ChannelState): Blocks {
  if (before === undefined) {
    return { openFirstSeq: baseSeq + 1, blockCount: 0, smallBlocks: [], openUnit: undefined };
  }
  const { openFirstSeq, blockCount, smallBlocks, openUnit } = before;
  return { openFirstSeq, blockCount, smallBlocks, openUnit };
}

/** Writes the blocks of new events; `merged`: the rows of `mergedKeys`. */
export async function sealEvents(
  state: PartitionState,
  channelId: number,
  before: SealedChannel | undefined,
  plan: SealPlan,
  merged: readonly (Uint8Array | undefined)[],
  out: SealBatch,
): Promise<Blocks> {
  const { place, shared } = state;
  let { fresh: events, weight } = plan;
  if (merged.length > 0) {
    const old = openMerged(place, before as SealedChannel, plan, merged);
    for (const event of old) weight += weightOf(event);
    // Before the puts: the first key is the merged block's as well.
    for (const [i, key] of mergedKeys(place, before, plan).entries()) out.del(key, merged[i]?.length);
    events = [...old, ...events];
  }
  let blockCount = (before?.blockCount ?? 0) - merged.length;
  let small = (before?.smallBlocks ?? []).slice(0, plan.mergeFrom);
  const cuts = new BlockCuts(events, weight, shared.blockBytes);
  for (let to = cuts.next(); to !== undefined; to = cuts.next()) {
    const firstSeq = (events[cuts.from] as StoredEvent).seq;
    const writer = out.row();
    writeUnit(writer, events, true, cuts.from, to);
    const willMerge = isSmall(cuts.weight, shared.blockBytes);
    const pause = out.put(blockKey(place, channelId, firstSeq), writer, willMerge) ?? out.spent(cuts.weight);
    blockCount++;
    if (willMerge) small.push({ firstSeq, weight: cuts.weight });
    // Small blocks are the last ones: what a large one follows is none of them any more.
    else small = [];
    if (pause !== undefined) await pause;
  }
  return {
    openFirstSeq: (events.at(-1) as StoredEvent).seq + 1,
    blockCount,
    smallBlocks: small,
    openUnit: undefined,
  };
}

/** The events of the blocks that merge, dense and up to where the new ones begin. */
function openMerged(
  place: Place,
  before: SealedChannel,
  plan: SealPlan,
  merged: readonly (Uint8Array | undefined)[],
): StoredEvent[] {
  const keys = mergedKeys(place, before, plan);
  const events: StoredEvent[] = [];
  let next = before.smallBlocks[plan.mergeFrom]?.firstSeq as number;
  for (const [i, row] of merged.entries()) {
    const key = keys[i] as Uint8Array;
    const what = `block ${next} of channel ${before.state.id}`;
    if (row === undefined) throw damaged(what, 'it is missing', key);
    for (const event of openRow(key, row, what, readUnit)) {
      if (event.seq !== next) throw damaged(what, `event ${event.seq} stands where ${next} is due`, key);
      events.push(event);
      next++;
    }
  }
  if (next !== before.openFirstSeq) {
    throw damaged(
      `channel ${before.state.id}`,
      `its blocks end before event ${next}, not ${before.openFirstSeq}`,
    );
  }
  return events;
}
