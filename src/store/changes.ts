/**
 * Following a partition: what changed behind a place, in the order in which it
 * was applied, from the change list's rows, the frozen tail and the active one.
 * A place is exact on every replica: an index, and how many events of the entry
 * behind it were taken already.
 */
import { HansardError } from '../common/errors.js';
import type { Index } from '../common/ids.js';
import type { ChannelState } from '../conversation/types.js';
import type { Change, ChangeList } from './change-list.js';
import { findChangeRow, missingChanges } from './change-rows.js';
import { type ChannelQuery, listChannels } from './list-channels.js';
import type { PartitionState } from './partition-state.js';

export interface ChangePlace {
  /** Everything of entries up to this one was taken … */
  readonly index: Index;
  /** … and so many events of the next entry, those that were not wanted included. */
  readonly events: number;
}

export interface ChangeQuery {
  readonly after: ChangePlace;
  /** Only entries up to this one; undefined: all that are applied. */
  readonly until?: Index | undefined;
  readonly maxEvents: number;
  wants(tenant: string, name: string): boolean;
}

/** A change, perhaps without its first or last events. */
export interface PlacedChange extends Change {
  /** Events of its entry that come before it, those that were not wanted included. */
  readonly at: number;
}

export interface ChangePage {
  /** In the order of applying; a channel's seqs ascend. */
  readonly changes: readonly PlacedChange[];
  readonly next: ChangePlace;
  /** Nothing more is applied (up to `until`). */
  readonly atEnd: boolean;
}

/** Changes looked at for one page, wanted or not: about 2 ms. */
const lookedAtMax = 20_000;

export async function readChangePage(state: PartitionState, query: ChangeQuery): Promise<ChangePage> {
  const page = new ChangeCollector(query);
  for (;;) {
    // One turn: all that is in memory, as of the applied index.
    const { index } = page.next;
    const until = Math.min(query.until ?? state.appliedIndex, state.appliedIndex);
    if (index >= until) return page.finish(true);
    const { record } = state.sealed;
    const frozenFrom = record.appliedIndex;
    const activeFrom = state.frozen?.appliedIndex ?? frozenFrom;
    if (index >= frozenFrom) {
      const isActive = index >= activeFrom;
      const { changes } = isActive || state.frozen === undefined ? state.active : state.frozen.tail;
      if (!page.takeAll(changes, changes.firstAfter(index), until)) return page.finish(false);
      page.reached(isActive ? until : Math.min(until, activeFrom));
      continue;
    }
    if (index < record.changesFrom) throw tooOld(record.changesFrom, index);
    if (index >= record.changesTo) {
      page.reached(Math.min(until, frozenFrom));
      continue;
    }
    const row = await findChangeRow(state, index);
    if (row === undefined || row.fromIndex > index) {
      // Dropped or sealed meanwhile: the record says anew what there is. What a checkpoint under
      // way drops is gone from the database before the record tells of it.
      if (record === state.sealed.record && state.sealing === undefined)
        throw missingChanges(state.place, index);
      await state.sealing;
      continue;
    }
    if (!page.takeAll(row.changes, row.changes.firstAfter(index), until)) return page.finish(false);
    page.reached(Math.min(until, row.toIndex));
  }
}

/** The same where all changes up to `appliedIndex` are at hand. */
export function changePageOf(changes: ChangeList, appliedIndex: Index, query: ChangeQuery): ChangePage {
  const page = new ChangeCollector(query);
  const until = Math.min(query.until ?? appliedIndex, appliedIndex);
  if (!page.takeAll(changes, changes.firstAfter(query.after.index), until)) return page.finish(false);
  page.reached(until);
  return page.finish(true);
}

/** Gathers a page; its place follows what was looked at. */
class ChangeCollector {
  readonly #query: ChangeQuery;
  readonly #changes: PlacedChange[] = [];
  #next: ChangePlace;
  /** Events of the entry behind `next.index` that have been looked at. */
  #passed = 0;
  #events = 0;
  #lookedAt = 0;

  constructor(query: ChangeQuery) {
    this.#query = query;
    this.#next = query.after;
  }

  get next(): ChangePlace {
    return this.#next;
  }

  /** Nothing more comes of entries up to `index`. */
  reached(index: Index): void {
    if (index <= this.#next.index) return;
    this.#next = { index, events: 0 };
    this.#passed = 0;
  }

  /** False: the page is full. */
  takeAll(changes: ChangeList, first: number, until: Index): boolean {
    for (let i = first; i < changes.length; i++) {
      const change = changes.at(i);
      if (change.index > until) return true;
      if (!this.#take(change)) return false;
    }
    return true;
  }

  #take(change: Change): boolean {
    this.reached(change.index - 1);
    if (++this.#lookedAt > lookedAtMax) return false;
    const count = change.lastSeq - change.firstSeq + 1;
    const done = Math.min(count, Math.max(0, this.#next.events - this.#passed));
    if (done < count && this.#query.wants(change.channel.tenant, change.channel.name)) {
      const room = this.#query.maxEvents - this.#events;
      if (room <= 0) return false;
      const taken = Math.min(count - done, room);
      const firstSeq = change.firstSeq + done;
      const at = this.#passed + done;
      this.#changes.push({ ...change, firstSeq, lastSeq: firstSeq + taken - 1, at });
      this.#events += taken;
      if (done + taken < count) {
        this.#next = { index: this.#next.index, events: this.#passed + done + taken };
        return false;
      }
    }
    this.#passed += count;
    if (this.#passed > this.#next.events) this.#next = { index: this.#next.index, events: this.#passed };
    return true;
  }

  finish(atEnd: boolean): ChangePage {
    return { changes: this.#changes, next: this.#next, atEnd };
  }
}

function tooOld(from: Index, index: Index): HansardError {
  return new HansardError(
    'TOKEN_TOO_OLD',
    'the change list no longer reaches back to where the token stands',
    {
      index,
      changes_from: from,
    },
  );
}

/** A page of channels, and the index as of which it is: both of one turn. */
export interface ChannelsAt {
  readonly appliedIndex: Index;
  readonly channels: readonly ChannelState[];
}

export async function listChannelsAt(state: PartitionState, query: ChannelQuery): Promise<ChannelsAt> {
  const { appliedIndex } = state;
  const channels = await listChannels(state, query);
  return { appliedIndex, channels };
}
