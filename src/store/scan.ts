/**
 * Reading for verification: what the database itself holds, past the caches that
 * would hide its damage, and with the damage told in place of what it took.
 * Tails and a snapshot of LevelDB are taken in one turn: one state, whose applied
 * index is told too.
 */
import { ByteReader, MalformedError } from '../common/bytes.js';
import type { KvIterator, KvSnapshot } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import type { Index, Seq } from '../common/ids.js';
import type { ChannelState, StoredEvent } from '../conversation/types.js';
import { readUnit } from './block.js';
import {
  after,
  asBuffer,
  blockKey,
  firstSeqOfBlockKey,
  kindRange,
  nameBytes,
  nameKey,
  nameOfKey,
  RowKind,
} from './keys.js';
import { openChannelRow, type PartitionState } from './partition-state.js';
import { damaged, openRow } from './rows.js';
import { Slicer } from './slices.js';
import type { SealedChannel } from './state-codec.js';
import { channelName, cloneChannel, type TailChannel } from './tail.js';

const blocksAtOnce = 16;

export interface ScannedChannel {
  /** `tenant \0 name`: the place in the order, whole even where it is no UTF-8. */
  readonly key: Buffer;
  /** Undefined: nothing of it can be read. */
  readonly state: ChannelState | undefined;
  readonly deleted: boolean;
  /** What is wrong with its rows; empty: nothing. */
  readonly damage: string;
}

export interface ScannedChannels {
  readonly appliedIndex: Index;
  /** By `key`; up to the limit of the query. */
  readonly channels: readonly ScannedChannel[];
}

export interface ScanQuery {
  /** Of all tenants where it is empty. */
  readonly tenant: string;
  readonly prefix: string;
  /** `key` of the last one before. */
  readonly after: Uint8Array | undefined;
  readonly limit: number;
}

/** Channels and deleted names by key, with what is wrong with their rows. */
export async function scanChannels(state: PartitionState, query: ScanQuery): Promise<ScannedChannels> {
  const { appliedIndex } = state;
  const range = keysOf(query);
  const tails = tailsIn(state, range, query.limit);
  const snapshot = state.shared.kv.snapshot();
  try {
    const rowsOf = async (kind: RowKind): Promise<Map<string, Row>> => {
      const gte = nameKey(kind, state.place, range.from);
      const lt =
        range.to === undefined ? kindRange(kind, state.place).lt : nameKey(kind, state.place, range.to);
      const rows = await readAll(snapshot.iterator({ gte, lt, limit: query.limit }), query.limit);
      return new Map(rows.map((row) => [hexOf(nameOfKey(row[0])), row]));
    };
    const names = await rowsOf(RowKind.channelName);
    const sealed = await rowsOf(RowKind.channel);
    // Each of the three has its first `limit` keys, so the union has the first `limit` of all.
    const keys = [...new Set([...names.keys(), ...sealed.keys(), ...tails.keys()])].sort();
    const channels = keys
      .slice(0, query.limit)
      .map((hex) => scanned(Buffer.from(hex, 'hex'), names.get(hex), sealed.get(hex), tails.get(hex)));
    return { appliedIndex, channels };
  } finally {
    await snapshot.close();
  }
}

type Row = [Uint8Array, Uint8Array];

/** Sorts as the bytes do. */
function hexOf(bytes: Uint8Array): string {
  return asBuffer(bytes).toString('hex');
}

interface KeyRange {
  readonly from: Uint8Array;
  /** Excluded; undefined: to the end. */
  readonly to: Uint8Array | undefined;
}

function keysOf({ tenant, prefix, after: last }: ScanQuery): KeyRange {
  const first = tenant === '' ? Buffer.alloc(0) : nameBytes(tenant, prefix);
  const beyond = last === undefined ? undefined : Buffer.concat([last, Buffer.of(0)]);
  const from = beyond !== undefined && Buffer.compare(beyond, first) > 0 ? beyond : first;
  return { from, to: first.length === 0 ? undefined : after(first) };
}

/** The tails' channels in range as copies, by hex key; the first `limit` of them. */
function tailsIn(state: PartitionState, { from, to }: KeyRange, limit: number): Map<string, TailCopy> {
  const found = new Map<string, TailChannel>();
  for (const tail of [state.active, state.frozen?.tail]) {
    if (tail === undefined) continue;
    for (const [name, channel] of tail.channels) {
      const key = Buffer.from(name);
      if (Buffer.compare(key, from) < 0 || (to !== undefined && Buffer.compare(key, to) >= 0)) continue;
      const hex = hexOf(key);
      if (!found.has(hex)) found.set(hex, channel);
    }
  }
  const first = [...found.keys()].sort().slice(0, limit);
  return new Map(
    first.map((hex) => {
      const { state: channel, deleted } = found.get(hex) as TailChannel;
      return [hex, { state: cloneChannel(channel), deleted }];
    }),
  );
}

interface TailCopy {
  readonly state: ChannelState;
  readonly deleted: boolean;
}

function scanned(
  key: Buffer,
  name: Row | undefined,
  row: Row | undefined,
  tail: TailCopy | undefined,
): ScannedChannel {
  const problems: string[] = [];
  const note = (problem: string | undefined): void => {
    if (problem !== undefined) problems.push(problem);
  };
  let sealed: SealedChannel | undefined;
  if (row !== undefined) {
    note(
      problemOf(() => {
        sealed = openChannelRow(row[0], row[1]);
      }),
    );
    if (sealed !== undefined && !nameBytes(sealed.state.tenant, sealed.state.name).equals(key)) {
      note('a channel row: it names another channel');
      sealed = undefined;
    }
  }
  if (name !== undefined) {
    note(problemOf(() => openRow(name[0], name[1], 'a channel name row', (reader) => reader.uvarint())));
  }
  if (name !== undefined && row === undefined) note('its row is missing');
  if (name === undefined && row !== undefined) note('its name row is missing');
  const now = tail ?? sealed;
  return {
    key,
    state: now?.state,
    deleted: now?.deleted ?? false,
    damage: problems.join('; '),
  };
}

// ---- events

export interface ScannedEvents {
  readonly appliedIndex: Index;
  /** Undefined: there is no such channel, or another one has the name. */
  readonly channel: ScannedChannel | undefined;
  /** Ascending; dense but for `damages`. */
  readonly events: readonly StoredEvent[];
  readonly damages: readonly ScanDamage[];
  /** Where the next page begins; 0: nowhere. */
  readonly nextSeq: Seq;
}

/** Events that should be there and can not be read. */
export interface ScanDamage {
  readonly firstSeq: Seq;
  readonly lastSeq: Seq;
  readonly problem: string;
}

export interface ScanEventsQuery {
  readonly tenant: string;
  readonly name: string;
  readonly uid: string;
  readonly fromSeq: Seq;
  readonly maxEvents: number;
  readonly maxBytes: number;
}

/** A page of the channel's events from the database and the tails, blocks that are damaged told and passed over. */
export async function scanEvents(state: PartitionState, query: ScanEventsQuery): Promise<ScannedEvents> {
  const { appliedIndex } = state;
  const { tenant, name, uid } = query;
  const tails = tailsOf(state, tenant, name);
  const snapshot = state.shared.kv.snapshot();
  try {
    const key = nameBytes(tenant, name);
    const sealedRow = await rowAt(snapshot, state, RowKind.channel, key);
    const channel = scanned(
      key,
      await rowAt(snapshot, state, RowKind.channelName, key),
      sealedRow,
      tails.now,
    );
    const nothing = { appliedIndex, events: [], damages: [], nextSeq: 0 };
    if (channel.state === undefined && channel.damage === '') return { ...nothing, channel: undefined };
    if (channel.state !== undefined && (channel.deleted || channel.state.uid !== uid)) {
      return { ...nothing, channel: undefined };
    }
    if (channel.state === undefined) return { ...nothing, channel };
    const page = new ScanPage(state, channel.state, query);
    const sealed = sealedOf(sealedRow, channel.state);
    if (sealed !== undefined) await page.takeBlocks(snapshot, sealed);
    // Where the row is damaged, what was sealed is gone: what the tails begin with shows how much that is.
    const why = channel.damage === '' ? 'missing' : channel.damage;
    page.takeAll(tails.frozen, why);
    page.takeAll(tails.active, why);
    page.end(why);
    return { appliedIndex, channel, events: page.events, damages: page.damages, nextSeq: page.nextPage };
  } finally {
    await snapshot.close();
  }
}

interface TailEvents {
  readonly now: TailCopy | undefined;
  readonly frozen: readonly StoredEvent[];
  readonly active: readonly StoredEvent[];
}

/** Of this turn: the arrays grow later. */
function tailsOf(state: PartitionState, tenant: string, name: string): TailEvents {
  const active = state.active.channels.get(channelName(tenant, name));
  const frozen = state.frozen?.tail.channels.get(channelName(tenant, name));
  const now = active ?? frozen;
  // The frozen tail may hold the channel that had the name before.
  const isSame = frozen !== undefined && now?.state.id === frozen.state.id && !frozen.deleted;
  return {
    now: now === undefined ? undefined : { state: cloneChannel(now.state), deleted: now.deleted },
    frozen: isSame ? frozen.events.slice() : [],
    active: active?.events.slice() ?? [],
  };
}

/** The sealed row, where it can be read and is of the channel that has the name now. */
function sealedOf(row: Row | undefined, channel: ChannelState): SealedChannel | undefined {
  let sealed: SealedChannel | undefined;
  if (row !== undefined) {
    problemOf(() => {
      sealed = openChannelRow(row[0], row[1]);
    });
  }
  return sealed !== undefined && !sealed.deleted && sealed.state.id === channel.id ? sealed : undefined;
}

/** Takes events in their order; what is due and does not come becomes damage. */
class ScanPage {
  readonly events: StoredEvent[] = [];
  readonly damages: ScanDamage[] = [];
  #next: Seq;
  #bytes = 0;
  #full = false;
  readonly #slicer: Slicer;

  constructor(
    readonly state: PartitionState,
    readonly channel: ChannelState,
    readonly query: ScanEventsQuery,
  ) {
    this.#next = Math.max(query.fromSeq, channel.baseSeq + 1);
    this.#slicer = new Slicer(state.shared.clock);
  }

  get done(): boolean {
    return this.#full || this.#next > this.channel.headSeq;
  }

  get nextPage(): Seq {
    return this.#next > this.channel.headSeq ? 0 : this.#next;
  }

  /** Full blocks, then the row's open one. */
  async takeBlocks(snapshot: KvSnapshot, sealed: SealedChannel): Promise<void> {
    if (this.#next < sealed.openFirstSeq) {
      const problem = await this.#blocks(snapshot, sealed);
      this.#lack(Math.min(sealed.openFirstSeq - 1, this.channel.headSeq), problem ?? 'missing');
    }
    const unit = sealed.openUnit;
    if (this.done || unit === undefined) return;
    let events: StoredEvent[] = [];
    const problem = problemOf(() => {
      events = readUnit(new ByteReader(unit));
    });
    if (problem === undefined) this.takeAll(events);
    else this.#lack(sealed.state.headSeq, `the open block: ${problem}`);
  }

  /** Gives why the rest can not be read, where LevelDB says so. */
  async #blocks(snapshot: KvSnapshot, { openFirstSeq }: SealedChannel): Promise<string | undefined> {
    const { place } = this.state;
    const { id } = this.channel;
    const from = this.#next + 1;
    // The block that holds `next` begins at or before it.
    const first = { gte: blockKey(place, id, 0), lt: blockKey(place, id, from), reverse: true, limit: 1 };
    const others = { gte: blockKey(place, id, from), lt: blockKey(place, id, Math.max(from, openFirstSeq)) };
    let pending: Row | undefined;
    for (const range of [first, others]) {
      const iterator = snapshot.iterator(range);
      try {
        while (!this.done) {
          const rows = await iterator.next(blocksAtOnce);
          if (rows.length === 0) break;
          for (const row of rows) {
            // A damaged block ends where the next one begins: each waits for the key behind it.
            if (pending !== undefined) await this.#block(pending, firstSeqOfBlockKey(row[0]));
            pending = row;
            if (this.done) break;
          }
        }
      } catch (error) {
        return told(error);
      } finally {
        await iterator.close();
      }
    }
    if (pending !== undefined && !this.done) await this.#block(pending, openFirstSeq);
    return undefined;
  }

  async #block([key, row]: Row, endSeq: Seq): Promise<void> {
    if (this.#slicer.spent(row.length * 2)) await this.#slicer.pause();
    const firstSeq = firstSeqOfBlockKey(key);
    // Between the last block and this one there should be nothing.
    if (firstSeq > this.#next) this.#lack(firstSeq - 1, 'missing');
    if (this.done) return;
    let events: StoredEvent[] = [];
    const what = `block ${firstSeq} of channel ${this.channel.id}`;
    const problem = problemOf(() => {
      events = openRow(key, row, what, (reader) => {
        const unit = readUnit(reader);
        reader.end();
        return unit;
      });
    });
    if (problem === undefined && events[0]?.seq === firstSeq) this.takeAll(events);
    if (this.done) return;
    const short = `${what}: it begins with event ${events[0]?.seq} and ends with ${events.at(-1)?.seq}`;
    this.#lack(Math.min(endSeq - 1, this.channel.headSeq), problem ?? short);
  }

  /** From consecutive events, those from `next` on. */
  takeAll(events: readonly StoredEvent[], why = 'missing'): void {
    const first = events[0]?.seq;
    if (first === undefined || this.done) return;
    if (first > this.#next) this.#lack(first - 1, why);
    for (let i = this.#next - first; i < events.length && !this.done; i++)
      this.#take(events[i] as StoredEvent);
  }

  /** What is left up to the head should have been there. */
  end(problem: string): void {
    this.#lack(this.channel.headSeq, problem);
  }

  #take(event: StoredEvent): void {
    const size = event.headerLength + event.contentLength;
    const { maxEvents, maxBytes } = this.query;
    if (this.events.length >= maxEvents || (this.events.length > 0 && this.#bytes + size > maxBytes)) {
      this.#full = true;
      return;
    }
    this.events.push(event);
    this.#bytes += size;
    this.#next++;
  }

  #lack(lastSeq: Seq, problem: string): void {
    if (this.done || lastSeq < this.#next) return;
    this.damages.push({ firstSeq: this.#next, lastSeq, problem });
    this.#next = lastSeq + 1;
  }
}

async function rowAt(
  snapshot: KvSnapshot,
  state: PartitionState,
  kind: RowKind,
  name: Uint8Array,
): Promise<Row | undefined> {
  const key = nameKey(kind, state.place, name);
  const range = { gte: key, lt: Buffer.concat([key, Buffer.of(0)]), limit: 1 };
  return (await readAll(snapshot.iterator(range), 1))[0];
}

async function readAll(iterator: KvIterator, limit: number): Promise<Row[]> {
  try {
    return await iterator.next(limit);
  } catch (error) {
    throw damaged('the database', told(error));
  } finally {
    await iterator.close();
  }
}

/** What `open` finds damaged; anything else that it throws is a defect of ours. */
function problemOf(open: () => void): string | undefined {
  try {
    open();
    return undefined;
  } catch (error) {
    return told(error);
  }
}

function told(error: unknown): string {
  if (error instanceof HansardError) return error.message;
  if (error instanceof MalformedError) return error.message;
  // Of classic-level: LEVEL_CORRUPTION, LEVEL_IO_ERROR and the like.
  const { code, message } = error as { code?: unknown; message?: string };
  if (typeof code === 'string' && code.startsWith('LEVEL_')) return message ?? code;
  throw error;
}
