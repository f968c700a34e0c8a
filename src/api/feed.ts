/**
 * One partition's part of a subscription, step by step: `pullFeed` reads what there
 * is behind a place and says where it then stands. Nothing is kept between steps but the
 * place, which is exact on every replica; so any node can go on from it.
 */
import { HansardError } from '../common/errors.js';
import type { ChannelId, Seq, TimeUs } from '../common/ids.js';
import { eventTypeAt } from '../conversation/event-record.js';
import type { ChannelState, StoredEvent } from '../conversation/types.js';
import type { ChangePlace, ChannelsAt, PlacedChange } from '../store/changes.js';
import { matches } from '../store/terms.js';
import type { PartitionReader } from '../store/types.js';
import { eventSize } from './encode.js';
import { compareBytewise } from './list-channels.js';

/** Which events of a partition are wanted. */
export interface FeedFilter {
  readonly tenant: string;
  /** Undefined: of whatever name. */
  readonly names: ReadonlySet<string> | undefined;
  readonly prefix: string;
  readonly label: readonly [string, string] | undefined;
  /** Undefined: of whatever type. */
  readonly types: ReadonlySet<number> | undefined;
  /** Of what was there at the start: only what was committed at or after this; 0: all. */
  readonly fromTimeUs: TimeUs;
}

/**
 * Following: all that is wanted of entries up to `index`, and so many events of the
 * next one, was taken. Backfilling: that holds for the channels up to the name
 * `after`; of those behind it nothing was taken, but of `current` its events before `next`.
 */
export interface FeedPlace extends ChangePlace {
  readonly backfill?: Backfill | undefined;
}

export interface Backfill {
  /** Undefined: of no channel. */
  readonly after: string | undefined;
  readonly current?: CurrentChannel | undefined;
}

/** As of the place's index its events end with `to`. */
export interface CurrentChannel {
  readonly name: string;
  readonly id: ChannelId;
  readonly next: Seq;
  readonly to: Seq;
}

export interface FeedBudget {
  readonly events: number;
  readonly bytes: number;
}

/** Events of one channel. */
export interface FeedPart {
  readonly channel: string;
  readonly uid: string;
  readonly events: readonly StoredEvent[];
}

export interface FeedPage {
  readonly parts: readonly FeedPart[];
  readonly place: FeedPlace;
  /** Nothing more is applied here. */
  readonly atEnd: boolean;
  /** The replica that was asked has not got to the place yet. */
  readonly isBehind?: boolean;
}

/** Channels that are listed at once while what is there already is read. */
const listedAtOnce = 100;

export const backfillStart: FeedPlace = Object.freeze({
  index: 0,
  events: 0,
  backfill: { after: undefined },
});

export function wantsChannel(filter: FeedFilter, tenant: string, name: string): boolean {
  if (tenant !== filter.tenant) return false;
  return filter.names !== undefined
    ? filter.names.has(name) && name.startsWith(filter.prefix)
    : name.startsWith(filter.prefix);
}

/** Rejects TOKEN_TOO_OLD, and what reading rejects with. */
export async function pullFeed(
  reader: PartitionReader,
  filter: FeedFilter,
  place: FeedPlace,
  budget: FeedBudget,
): Promise<FeedPage> {
  const pull = new Pull(reader, filter, place, budget);
  await pull.run();
  return { parts: pull.parts, place: pull.place, atEnd: pull.atEnd };
}

class Pull {
  readonly parts: FeedPart[] = [];
  place: FeedPlace;
  atEnd = false;
  readonly #reader: PartitionReader;
  readonly #filter: FeedFilter;
  #events: number;
  #bytes: number;

  constructor(reader: PartitionReader, filter: FeedFilter, place: FeedPlace, budget: FeedBudget) {
    this.#reader = reader;
    this.#filter = filter;
    this.place = place;
    this.#events = budget.events;
    this.#bytes = budget.bytes;
  }

  get #isFull(): boolean {
    return this.#events <= 0 || this.#bytes <= 0;
  }

  async run(): Promise<void> {
    while (!this.#isFull && this.place.backfill !== undefined) {
      const { backfill } = this.place;
      if (backfill.current !== undefined) await this.#readCurrent(backfill.current);
      else if (!(await this.#list(backfill))) return;
    }
    if (this.place.backfill !== undefined || this.#isFull) return;
    this.atEnd = await this.#follow(() => true, undefined);
  }

  // ---- what is there already

  /** The next channels, and all up to them brought to the index of the list. False: that is for another step. */
  async #list(backfill: Backfill): Promise<boolean> {
    const { after } = backfill;
    const listing = await this.#listed(after);
    // This replica has not got to where another one stood.
    if (listing.appliedIndex < this.place.index) return false;
    if (after !== undefined) {
      const isDone = (name: string) => compareBytewise(name, after) <= 0;
      if (!(await this.#follow(isDone, listing.appliedIndex))) return false;
    }
    const index = listing.appliedIndex;
    if (listing.channels.length === 0) {
      this.place =
        listing.upTo === undefined
          ? { index, events: 0 }
          : { index, events: 0, backfill: { after: listing.upTo } };
      return true;
    }
    for (const channel of listing.channels) {
      if (this.#isFull) return false;
      const current = await this.#begin(channel);
      this.place = {
        index,
        events: 0,
        backfill:
          current === undefined ? { after: channel.name } : { after: this.place.backfill?.after, current },
      };
      while (!this.#isFull && this.place.backfill?.current !== undefined)
        await this.#readCurrent(this.place.backfill.current);
    }
    return true;
  }

  /** `upTo`: of the names behind `after` that one alone was looked for; a later one would be of a later state. */
  async #listed(after: string | undefined): Promise<ChannelsAt & { readonly upTo?: string }> {
    const { tenant, names, prefix } = this.#filter;
    if (names === undefined) return this.#reader.channelsAt({ tenant, prefix, after, limit: listedAtOnce });
    let upTo: string | undefined;
    for (const name of names) {
      if (!name.startsWith(prefix) || (after !== undefined && compareBytewise(name, after) <= 0)) continue;
      if (upTo === undefined || compareBytewise(name, upTo) < 0) upTo = name;
    }
    if (upTo === undefined) return this.#reader.channelsAt({ tenant, prefix, after, limit: 0 });
    // The name itself sorts before all that begin with it.
    const { appliedIndex, channels } = await this.#reader.channelsAt({
      tenant,
      prefix: upTo,
      after: undefined,
      limit: 1,
    });
    return { appliedIndex, channels: channels.filter(({ name }) => name === upTo), upTo };
  }

  /** Undefined: nothing of it is wanted. */
  async #begin(channel: ChannelState): Promise<CurrentChannel | undefined> {
    const { fromTimeUs, label } = this.#filter;
    const isEmpty = channel.headSeq <= channel.baseSeq;
    if (
      isEmpty ||
      channel.activityTimeUs < fromTimeUs ||
      !matches(channel, { label, participant: undefined })
    )
      return undefined;
    let next = channel.baseSeq + 1;
    if (fromTimeUs > 0)
      next = await ifThere(this.#reader.seqAtTime(channel, fromTimeUs), channel.headSeq + 1);
    return next > channel.headSeq
      ? undefined
      : { name: channel.name, id: channel.id, next, to: channel.headSeq };
  }

  async #readCurrent(current: CurrentChannel): Promise<void> {
    const { name, id, next, to } = current;
    const channel = await this.#reader.channelByName(this.#filter.tenant, name);
    const events = channel?.id === id ? await this.#read(channel, next, to) : [];
    const last = events.at(-1)?.seq ?? to;
    if (channel !== undefined && events.length > 0) this.#add(channel, events);
    const after = this.place.backfill?.after;
    const backfill = last >= to ? { after: name } : { after, current: { ...current, next: last + 1 } };
    this.place = { ...this.place, backfill };
  }

  // ---- what came since

  /** Moves the place on behind what is wanted and fits; true: up to `until`, or all that is applied. */
  async #follow(isIn: (name: string) => boolean, until: number | undefined): Promise<boolean> {
    const { backfill } = this.place;
    for (;;) {
      const page = await this.#reader.changes({
        after: this.place,
        until,
        maxEvents: this.#events,
        wants: (tenant, name) => wantsChannel(this.#filter, tenant, name) && isIn(name),
      });
      const cut = await this.#readChanges(page.changes);
      this.place = { ...(cut ?? page.next), backfill };
      if (cut !== undefined) return false;
      if (page.atEnd) return true;
      if (this.#isFull) return false;
    }
  }

  /** Channel by channel, as their seqs are dense; gives the place of the first event that did not fit. */
  async #readChanges(changes: readonly PlacedChange[]): Promise<ChangePlace | undefined> {
    const groups = new Map<ChannelId, Group>();
    for (const change of changes) {
      const known = groups.get(change.channel.id);
      if (known === undefined) groups.set(change.channel.id, new Group(change));
      else known.toSeq = change.lastSeq;
    }
    for (const group of groups.values()) {
      if (this.#bytes > 0) await this.#readGroup(group);
      else group.through = group.fromSeq - 1;
    }
    let cut: ChangePlace | undefined;
    for (const change of changes) {
      const group = groups.get(change.channel.id) as Group;
      const through = Math.min(change.lastSeq, group.through);
      if (through >= change.firstSeq) group.included = through;
      if (through === change.lastSeq) continue;
      cut = { index: change.index - 1, events: change.at + Math.max(0, through - change.firstSeq + 1) };
      break;
    }
    for (const { channel, events, included } of groups.values()) {
      const fitting =
        included === (events.at(-1)?.seq ?? 0) ? events : events.filter(({ seq }) => seq <= included);
      if (channel !== undefined && fitting.length > 0) this.#add(channel, fitting);
    }
    return cut;
  }

  async #readGroup(group: Group): Promise<void> {
    const channel = await this.#reader.channelByName(this.#filter.tenant, group.name);
    // Deleted since, or not wanted: as good as taken.
    if (channel?.id !== group.id || !matches(channel, { label: this.#filter.label, participant: undefined }))
      return;
    group.channel = channel;
    group.events = await this.#read(channel, group.fromSeq, group.toSeq);
    const last = group.events.at(-1);
    if (last !== undefined) group.through = last.seq >= group.toSeq ? Number.MAX_SAFE_INTEGER : last.seq;
  }

  /** Nothing where the channel is deleted meanwhile. What was read takes from the budget's bytes. */
  async #read(channel: ChannelState, fromSeq: Seq, toSeq: Seq): Promise<readonly StoredEvent[]> {
    const range = {
      fromSeq,
      toSeq,
      reverse: false,
      maxEvents: Math.max(1, this.#events),
      maxBytes: this.#bytes,
    };
    const events = await ifThere(this.#reader.events(channel, range), []);
    for (const event of events) this.#bytes -= eventSize(event);
    return events;
  }

  #add(channel: ChannelState, events: readonly StoredEvent[]): void {
    this.#events -= events.length;
    const { types } = this.#filter;
    const wanted =
      types === undefined
        ? events
        : events.filter((event) => types.has(eventTypeAt(event.bytes, event.headerOffset)));
    if (wanted.length > 0) this.parts.push({ channel: channel.name, uid: channel.uid, events: wanted });
  }
}

/** What a page wants of one channel. */
class Group {
  readonly id: ChannelId;
  readonly name: string;
  readonly fromSeq: Seq;
  toSeq: Seq;
  /** Events up to this one are read, or never come. */
  through: Seq = Number.MAX_SAFE_INTEGER;
  /** The last event that is part of the page. */
  included: Seq = 0;
  channel: ChannelState | undefined;
  events: readonly StoredEvent[] = [];

  constructor(change: PlacedChange) {
    this.id = change.channel.id;
    this.name = change.channel.name;
    this.fromSeq = change.firstSeq;
    this.toSeq = change.lastSeq;
  }
}

/** A channel that is deleted while it is read has nothing more. */
async function ifThere<T>(reading: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await reading;
  } catch (error) {
    if (error instanceof HansardError && error.reason === 'CHANNEL_NOT_FOUND') return otherwise;
    throw error;
  }
}
