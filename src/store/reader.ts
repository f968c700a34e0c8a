/**
 * Reading pages of events. Tails, the sealed row and the iterator are taken in
 * one synchronous turn, so a page sees one state; what overlaps is removed by
 * seq, and a gap is damage, never a shorter answer.
 */
import type { KvIterator } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import type { ChannelId, Seq, TimeUs } from '../common/ids.js';
import type { ChannelState, StoredEvent } from '../conversation/types.js';
import { readUnit, readUnitTimes } from './block.js';
import { blockKey, firstSeqOfBlockKey } from './keys.js';
import { openEvents, type PartitionState } from './partition-state.js';
import { damaged, openRow } from './rows.js';
import type { SealedChannel } from './state-codec.js';
import { channelName, type TailChannel } from './tail.js';
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
      if (!(error instanceof HansardError) || error.reason !== 'STORE_DAMAGED') throw error;
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

/** Takes events in the order of reading, up to the limits; insists on density. */
class Page {
  readonly events: StoredEvent[] = [];
  #bytes = 0;
  #next: Seq;
  #full = false;
  constructor(
    readonly fromSeq: Seq,
    readonly toSeq: Seq,
    readonly range: PageRange,
  ) {
    this.#next = range.reverse ? toSeq : fromSeq;
  }

  /** The seq that comes next. */
  get next(): Seq {
    return this.#next;
  }

  get done(): boolean {
    return this.#full || this.#next < this.fromSeq || this.#next > this.toSeq;
  }

  take(event: StoredEvent): void {
    const size = event.headerLength + event.contentLength;
    const { maxEvents, maxBytes, reverse } = this.range;
    const over = this.events.length >= maxEvents || this.#bytes + size > maxBytes;
    if (over && this.events.length > 0) {
      this.#full = true;
      return;
    }
    this.events.push(event);
    this.#bytes += size;
    this.#next += reverse ? -1 : 1;
  }

  /** From consecutive events, those that come next. */
  takeFrom(events: readonly StoredEvent[]): void {
    const first = events[0]?.seq;
    if (first === undefined) return;
    while (!this.done) {
      const event = events[this.#next - first];
      if (event === undefined) return;
      if (event.seq !== this.#next) throw damaged('a page', `event ${this.#next} is out of place`);
      this.take(event);
    }
  }

  finish(): StoredEvent[] {
    return this.range.reverse ? this.events.reverse() : this.events;
  }
}

async function readDown(
  state: PartitionState,
  channelId: ChannelId,
  view: View,
  page: Page,
): Promise<StoredEvent[]> {
  page.takeFrom(view.active);
  page.takeFrom(view.frozen);
  if (!page.done && view.row !== undefined && page.next >= view.row.openFirstSeq) {
    page.takeFrom(openEvents(view.row));
  }
  while (!page.done) {
    const cached = cachedBlock(state, channelId, 'last', page.next);
    if (cached === undefined) break;
    page.takeFrom(cached);
  }
  if (page.done) return page.finish();
  const iterator = state.shared.kv.iterator({
    gte: blockKey(state.place, channelId, 0),
    lt: blockKey(state.place, channelId, page.next + 1),
    reverse: true,
  });
  return fillFromBlocks(state, channelId, page, [iterator]);
}

async function readUp(
  state: PartitionState,
  channelId: ChannelId,
  view: View,
  page: Page,
): Promise<StoredEvent[]> {
  const blocksEnd = view.row?.openFirstSeq ?? 1;
  let iterators: KvIterator[] = [];
  while (!page.done && page.next < blocksEnd) {
    const cached = cachedBlock(state, channelId, 'first', page.next);
    if (cached === undefined) break;
    page.takeFrom(cached);
  }
  if (!page.done && page.next < blocksEnd) {
    // The block that holds `next` begins at or before it; those after it follow.
    const from = page.next + 1;
    const { kv } = state.shared;
    iterators = [
      kv.iterator({
        gte: blockKey(state.place, channelId, 0),
        lt: blockKey(state.place, channelId, from),
        reverse: true,
        limit: 1,
      }),
      kv.iterator({
        gte: blockKey(state.place, channelId, from),
        lt: blockKey(state.place, channelId, Math.max(from, Math.min(page.toSeq + 1, blocksEnd))),
      }),
    ];
  }
  // The arrays of the tails may grow while blocks are read, but never change below the page's end.
  if (iterators.length > 0) await fillFromBlocks(state, channelId, page, iterators, blocksEnd);
  if (!page.done && view.row !== undefined) page.takeFrom(openEvents(view.row));
  page.takeFrom(view.frozen);
  page.takeFrom(view.active);
  if (!page.done) throw gap(channelId, page.next);
  return page.finish();
}

/** Reads blocks until the page is done or they end; with `endSeq` that is where they must reach. */
async function fillFromBlocks(
  state: PartitionState,
  channelId: ChannelId,
  page: Page,
  iterators: KvIterator[],
  endSeq?: Seq,
): Promise<StoredEvent[]> {
  try {
    for (const iterator of iterators) {
      while (!page.done && (endSeq === undefined || page.next < endSeq)) {
        const rows = await iterator.next(rowsPerStep(page));
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

/** A guess of how many blocks are still needed; a wrong one costs one more step. */
function rowsPerStep(page: Page): number {
  const wanted = Math.min(page.range.maxEvents - page.events.length, page.toSeq - page.fromSeq + 1);
  return Math.max(1, Math.min(64, Math.ceil(wanted / 16)));
}

function openBlock(
  state: PartitionState,
  channelId: ChannelId,
  key: Uint8Array,
  row: Uint8Array,
): readonly StoredEvent[] {
  const firstSeq = firstSeqOfBlockKey(key);
  const known = cachedBlock(state, channelId, 'first', firstSeq);
  if (known !== undefined) return known;
  state.shared.counters.blocksRead++;
  const what = `block ${firstSeq} of channel ${channelId}`;
  const events = openRow(key, row, what, (reader) => {
    const unit = readUnit(reader);
    reader.end();
    return unit;
  });
  if (events[0]?.seq !== firstSeq) throw damaged(what, `it begins with event ${events[0]?.seq}`, key);
  const last = (events.at(-1) as StoredEvent).seq;
  let weight = 0;
  for (const event of events) weight += event.headerLength + event.contentLength + 150;
  // Found from either end. The second entry only names the first: sharing the events
  // it would keep them, uncounted, where the first was evicted.
  const cache = state.shared.blockCache;
  cache.set(blockCacheKey(state, channelId, 'first', firstSeq), events, weight);
  cache.set(blockCacheKey(state, channelId, 'last', last), firstSeq, 100);
  return events;
}

function cachedBlock(
  state: PartitionState,
  channelId: ChannelId,
  end: 'first' | 'last',
  seq: Seq,
): readonly StoredEvent[] | undefined {
  const cache = state.shared.blockCache;
  let found = cache.get(blockCacheKey(state, channelId, end, seq));
  if (typeof found === 'number') found = cache.get(blockCacheKey(state, channelId, 'first', found));
  return typeof found === 'number' ? undefined : found;
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
  const key = channelName(tenant, name);
  return state.active.channels.get(key) ?? state.frozen?.tail.channels.get(key);
}
