/**
 * Reading pages of events. Tails, the sealed row and the iterator are taken in
 * one synchronous turn, so a page sees one state; what overlaps is removed by
 * seq, and a gap is damage, never a shorter answer.
 */
import type { KvIterator, KvSnapshot } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import type { ChannelId, Seq, TimeUs } from '../common/ids.js';
import type { ChannelState, StoredEvent } from '../conversation/types.js';
import { readUnit, readUnitTimes } from './block.js';
import { blockKey, firstSeqOfBlockKey } from './keys.js';
import { Page } from './page.js';
import { type CachedBlock, openEvents, type PartitionState } from './partition-state.js';
import { checksumOfRow, damaged, isStoreDamage, openRow } from './rows.js';
import type { SealedChannel } from './state-codec.js';
import type { TailChannel } from './tail.js';
import type { PageRange } from './types.js';

/** What a page is cut from: newest first. */
interface View {
  readonly active: readonly StoredEvent[];
  readonly frozen: readonly StoredEvent[];
  readonly row: SealedChannel | undefined;
}

/** The page's events, ascending and dense. */
export function readPage(
  state: PartitionState,
  channel: ChannelState,
  range: PageRange,
): Promise<StoredEvent[]> {
  return withView(state, channel, (view) => {
    const head = headOf(view);
    // The caller has seen events that are not here: an older row in the place of a newer one.
    if (head < channel.headSeq) throw gap(channel.id, head + 1);
    const to = Math.min(range.toSeq, head);
    const page = new Page(Math.max(range.fromSeq, channel.baseSeq + 1), to, range);
    if (page.done) return Promise.resolve([]);
    return range.reverse ? readDown(state, channel.id, view, page) : readUp(state, channel.id, view, page);
  });
}

/** The same in this very turn, where all of it is in memory and nothing is wrong; else undefined. */
export function readPageNow(
  state: PartitionState,
  channel: ChannelState,
  range: PageRange,
): StoredEvent[] | undefined {
  const row = state.sealedChannelAtHand(channel.tenant, channel.name);
  if (row === 'unknown') return undefined;
  if (isGone(tailChannelByName(state, channel.tenant, channel.name) ?? row, channel)) return undefined;
  const view = viewOf(state, channel, row?.state.id === channel.id ? row : undefined);
  const head = headOf(view);
  if (head < channel.headSeq) return undefined;
  const from = Math.max(range.fromSeq, channel.baseSeq + 1);
  const page = new Page(from, Math.min(range.toSeq, head), range);
  if (page.done) return [];
  if (range.reverse) {
    takeDown(state, channel.id, view, page);
  } else {
    takeUpBlocks(state, channel.id, view, page);
    if (!page.done && page.next < blocksEndOf(view)) return undefined;
    takeUpRecent(view, page);
  }
  return page.done ? page.finish() : undefined;
}

/** Calls `use` in the turn in which the view is taken: its iterators belong to the same state. */
async function withView<T>(
  state: PartitionState,
  channel: ChannelState,
  use: (view: View) => Promise<T>,
): Promise<T> {
  for (;;) {
    const seals = state.seals;
    const row = await state.sealedChannel(channel.tenant, channel.name);
    // A checkpoint ended between the reading of the row and this turn: the frozen tail that the row lacks is gone.
    if (seals !== state.seals) continue;
    const current = tailChannelByName(state, channel.tenant, channel.name) ?? row;
    if (isGone(current, channel)) throw gone(channel);
    try {
      return await use(viewOf(state, channel, row?.state.id === channel.id ? row : undefined));
    } catch (error) {
      // Blocks of a channel that was deleted meanwhile may be gone between two iterators.
      if (!isStoreDamage(error)) throw error;
      const { tenant, name } = channel;
      const now = tailChannelByName(state, tenant, name) ?? (await state.sealedChannel(tenant, name));
      throw isGone(now, channel) ? gone(channel) : error;
    }
  }
}

/** The name is deleted, or another channel's. */
function isGone(current: TailChannel | SealedChannel | undefined, channel: ChannelState): boolean {
  return current !== undefined && (current.deleted || current.state.id !== channel.id);
}

function gone(channel: ChannelState): HansardError {
  return new HansardError('CHANNEL_NOT_FOUND', `channel ${channel.name} was deleted meanwhile`, {
    tenant: channel.tenant,
    channel: channel.name,
  });
}

function viewOf(state: PartitionState, channel: ChannelState, row: SealedChannel | undefined): View {
  return {
    active: state.active.channelsById.get(channel.id)?.events ?? [],
    frozen: state.frozen?.tail.channelsById.get(channel.id)?.events ?? [],
    row,
  };
}

function headOf(view: View): Seq {
  return view.active.at(-1)?.seq ?? view.frozen.at(-1)?.seq ?? view.row?.state.headSeq ?? 0;
}

async function readDown(
  state: PartitionState,
  channelId: ChannelId,
  view: View,
  page: Page,
): Promise<StoredEvent[]> {
  takeDown(state, channelId, view, page);
  if (page.done) return page.finish();
  const iterator = state.shared.kv.iterator({
    gte: blockKey(state.place, channelId, 0),
    lt: blockKey(state.place, channelId, page.next + 1),
    reverse: true,
  });
  return fillFromBlocks(state, channelId, page, [iterator], view.row);
}

/** What is in memory, from the newest on. */
function takeDown(state: PartitionState, channelId: ChannelId, view: View, page: Page): void {
  page.takeFrom(view.active);
  page.takeFrom(view.frozen);
  if (!page.done && view.row !== undefined && page.next >= view.row.openFirstSeq) {
    page.takeFrom(openEvents(view.row));
  }
  while (!page.done) {
    const cached = cachedBlock(state, channelId, 'last', page.next);
    if (cached === undefined) return;
    page.takeFrom(cached.events);
  }
}

/** Blocks in memory, upwards. */
function takeUpBlocks(state: PartitionState, channelId: ChannelId, view: View, page: Page): void {
  const end = blocksEndOf(view);
  while (!page.done && page.next < end) {
    const cached = cachedBlock(state, channelId, 'first', page.next);
    if (cached === undefined) return;
    page.takeFrom(cached.events);
  }
}

/** What is behind the blocks, upwards. */
function takeUpRecent(view: View, page: Page): void {
  if (!page.done && view.row !== undefined) page.takeFrom(openEvents(view.row));
  page.takeFrom(view.frozen);
  page.takeFrom(view.active);
}

/** First seq that is in no block. */
function blocksEndOf(view: View): Seq {
  return view.row?.openFirstSeq ?? 1;
}

async function readUp(
  state: PartitionState,
  channelId: ChannelId,
  view: View,
  page: Page,
): Promise<StoredEvent[]> {
  const blocksEnd = blocksEndOf(view);
  let iterators: KvIterator[] = [];
  let snapshot: KvSnapshot | undefined;
  takeUpBlocks(state, channelId, view, page);
  if (!page.done && page.next < blocksEnd) {
    // The block that holds `next` begins at or before it; those after it follow.
    const from = page.next + 1;
    // One view for both: a checkpoint that lands between them may have merged the blocks.
    snapshot = state.shared.kv.snapshot();
    iterators = [
      snapshot.iterator({
        gte: blockKey(state.place, channelId, 0),
        lt: blockKey(state.place, channelId, from),
        reverse: true,
        limit: 1,
      }),
      snapshot.iterator({
        gte: blockKey(state.place, channelId, from),
        lt: blockKey(state.place, channelId, Math.max(from, Math.min(page.toSeq + 1, blocksEnd))),
      }),
    ];
  }
  // The arrays of the tails may grow while blocks are read, but never change below the page's end.
  if (snapshot !== undefined) {
    try {
      await fillFromBlocks(state, channelId, page, iterators, view.row, blocksEnd);
    } finally {
      await snapshot.close();
    }
  }
  takeUpRecent(view, page);
  if (!page.done) throw gap(channelId, page.next);
  return page.finish();
}

/** Reads blocks until the page is done or they end; with `endSeq` that is where they must reach. */
async function fillFromBlocks(
  state: PartitionState,
  channelId: ChannelId,
  page: Page,
  iterators: KvIterator[],
  row: SealedChannel | undefined,
  endSeq?: Seq,
): Promise<StoredEvent[]> {
  try {
    for (const iterator of iterators) {
      while (!page.done && (endSeq === undefined || page.next < endSeq)) {
        const rows = await iterator.next(rowsPerStep(page, row));
        if (rows.length === 0) break;
        for (const [key, row] of rows) {
          const next = page.next;
          page.takeFrom(openBlock(state, channelId, key, row));
          // The first block of the upward way may end just before the page.
          if (page.done) break;
          if (page.next === next && endSeq === undefined) throw gap(channelId, next);
        }
      }
    }
  } finally {
    await Promise.all(iterators.map((iterator) => iterator.close()));
  }
  if (!page.done && (endSeq === undefined || page.next < endSeq)) throw gap(channelId, page.next);
  return page.finish();
}

/** A guess of how many blocks are still needed, by the channel's average; a wrong one costs one more step. */
function rowsPerStep(page: Page, row: SealedChannel | undefined): number {
  const wanted = Math.min(page.range.maxEvents - page.events.length, page.toSeq - page.fromSeq + 1);
  const sealed = row === undefined ? 0 : row.openFirstSeq - 1 - row.state.baseSeq;
  const each = row === undefined || row.blockCount === 0 ? 16 : Math.max(1, sealed / row.blockCount);
  // One more: the page begins somewhere in a block.
  return Math.max(1, Math.min(64, Math.ceil(wanted / each) + 1));
}

function openBlock(
  state: PartitionState,
  channelId: ChannelId,
  key: Uint8Array,
  row: Uint8Array,
): readonly StoredEvent[] {
  const firstSeq = firstSeqOfBlockKey(key);
  const known = cachedBlock(state, channelId, 'first', firstSeq);
  // The one that began there before it was merged ends sooner.
  if (known !== undefined && known.checksum === checksumOfRow(row)) return known.events;
  state.shared.counters.blocksRead++;
  const what = `block ${firstSeq} of channel ${channelId}`;
  const events = openRow(key, row, what, (reader) => {
    const unit = readUnit(reader);
    reader.end();
    return unit;
  });
  if (events[0]?.seq !== firstSeq) throw damaged(what, `it begins with event ${events[0]?.seq}`, key);
  const last = (events.at(-1) as StoredEvent).seq;
  // Found from either end. The second entry only names the first: sharing the events
  // it would keep them, uncounted, where the first was evicted.
  const cache = state.shared.blockCache;
  const block = { events, checksum: checksumOfRow(row) };
  cache.set(blockCacheKey(state, channelId, 'first', firstSeq), block, weightOfEvents(events));
  cache.set(blockCacheKey(state, channelId, 'last', last), firstSeq, 100);
  return events;
}

/** In memory, approximately. */
function weightOfEvents(events: readonly StoredEvent[]): number {
  let weight = 0;
  for (const event of events) weight += event.headerLength + event.contentLength + 150;
  return weight;
}

/** The block that begins or ends at `seq`, where it is in memory. */
function cachedBlock(
  state: PartitionState,
  channelId: ChannelId,
  end: 'first' | 'last',
  seq: Seq,
): CachedBlock | undefined {
  const cache = state.shared.blockCache;
  let found = cache.get(blockCacheKey(state, channelId, end, seq));
  if (typeof found === 'number') found = cache.get(blockCacheKey(state, channelId, 'first', found));
  if (found === undefined || typeof found === 'number') return undefined;
  // A merged block and one of its parts begin at the same event: the entry may be the other one's by now.
  return (end === 'first' ? found.events[0] : found.events.at(-1))?.seq === seq ? found : undefined;
}

function blockCacheKey(state: PartitionState, channelId: ChannelId, end: string, seq: Seq): string {
  return state.cacheKey(`${channelId}/${end}/${seq}`);
}

/** First seq whose commit time is at or after `timeUs`; times never fall within a channel. */
export function findSeqAtTime(state: PartitionState, channel: ChannelState, timeUs: TimeUs): Promise<Seq> {
  return withView(state, channel, (view) => searchTime(state, channel, view, timeUs));
}

async function searchTime(
  state: PartitionState,
  channel: ChannelState,
  view: View,
  timeUs: TimeUs,
): Promise<Seq> {
  const { row } = view;
  const head = headOf(view);
  const recent = [row === undefined ? [] : openEvents(row), view.frozen, view.active];
  const oldest = recent.find((events) => events.length > 0)?.[0];
  if (row === undefined || (oldest !== undefined && oldest.commitTimeUs < timeUs)) {
    for (const events of recent) {
      const found = firstAtTime(events, timeUs);
      if (found !== undefined) return found;
    }
    return head + 1;
  }
  let low = channel.baseSeq + 1;
  let high = row.openFirstSeq;
  // Invariant: all before `low` are earlier, `high` and all after it are not.
  while (low < high) {
    const times = await timesOfBlock(state, channel.id, Math.floor((low + high - 1) / 2));
    const found = firstAtTime(times, timeUs);
    const first = (times[0] as { seq: Seq }).seq;
    if (found === undefined) low = (times.at(-1) as { seq: Seq }).seq + 1;
    else if (found > first) return found;
    else high = first;
  }
  return low;
}

function firstAtTime(
  events: readonly { readonly seq: Seq; readonly commitTimeUs: TimeUs }[],
  timeUs: TimeUs,
): Seq | undefined {
  let low = 0;
  let high = events.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((events[middle] as { commitTimeUs: TimeUs }).commitTimeUs < timeUs) low = middle + 1;
    else high = middle;
  }
  return events[low]?.seq;
}

async function timesOfBlock(
  state: PartitionState,
  channelId: ChannelId,
  seq: Seq,
): Promise<readonly { seq: Seq; commitTimeUs: TimeUs }[]> {
  const iterator = state.shared.kv.iterator({
    gte: blockKey(state.place, channelId, 0),
    lt: blockKey(state.place, channelId, seq + 1),
    reverse: true,
    limit: 1,
  });
  try {
    const [row] = await iterator.next(1);
    if (row === undefined) throw gap(channelId, seq);
    state.shared.counters.blocksRead++;
    const times = openRow(row[0], row[1], `a block of channel ${channelId}`, readUnitTimes);
    if (!times.some((event) => event.seq === seq)) throw gap(channelId, seq);
    return times;
  } finally {
    await iterator.close();
  }
}

function gap(channelId: ChannelId, seq: Seq): HansardError {
  return damaged(`channel ${channelId}`, `event ${seq} is missing`);
}

/** A channel, there or deleted, as the tails have it; undefined where they do not. */
export function tailChannelByName(
  state: PartitionState,
  tenant: string,
  name: string,
): TailChannel | undefined {
  return state.active.channelByName(tenant, name) ?? state.frozen?.tail.channelByName(tenant, name);
}
