/** Listing channels by name: sealed rows and tails as one ascending sequence. */

import type { KvIterator } from '../common/env.js';
import type { ChannelState } from '../conversation/types.js';
import { after, asBuffer, nameBytes, nameKey, nameOfKey, RowKind } from './keys.js';
import { openChannelRow, type PartitionState } from './partition-state.js';
import { tailChannelByName } from './reader.js';
import { damaged } from './rows.js';
import { cloneChannel } from './tail.js';

export interface ChannelQuery {
  readonly tenant: string;
  readonly prefix: string;
  readonly after: string | undefined;
  readonly limit: number;
}

export async function listChannels(state: PartitionState, query: ChannelQuery): Promise<ChannelState[]> {
  const prefix = nameBytes(query.tenant, query.prefix);
  // The smallest name after `after` is `after` and a zero byte.
  const beyond = query.after === undefined ? undefined : nameBytes(query.tenant, `${query.after}\0`);
  const from = beyond !== undefined && Buffer.compare(beyond, prefix) > 0 ? beyond : prefix;
  const to = after(prefix);
  if (query.limit < 1 || Buffer.compare(from, to) >= 0) return [];
  // Tails and iterators in one turn: one state.
  const recent = fromTails(state, query, from);
  const sealed = new SealedChannels(state, from, to);
  const found: ChannelState[] = [];
  try {
    let tail = 0;
    while (found.length < query.limit) {
      const row = await sealed.peek(query.limit - found.length);
      const unsealed = recent[tail];
      if (row === undefined && unsealed === undefined) break;
      let order = 1;
      if (row !== undefined)
        order = unsealed === undefined ? -1 : Buffer.compare(nameOfKey(row[0]), unsealed.name);
      if (order < 0 && row !== undefined) {
        const channel = openChannelRow(row[0], row[1]);
        if (isThere(channel)) found.push(channel.state);
      } else if (unsealed?.channel !== undefined) found.push(unsealed.channel);
      if (order <= 0) sealed.take();
      if (order >= 0) tail++;
    }
  } finally {
    await sealed.close();
  }
  return found;
}

/** Those that may be brought back: few, and their names are in memory. */
export async function listDeleted(state: PartitionState, query: ChannelQuery): Promise<ChannelState[]> {
  const { tenant, prefix, after: behind, limit } = query;
  const bytes = ({ name }: { readonly name: string }): Buffer => Buffer.from(name);
  const names = (state.meta.trash ?? [])
    .filter((each) => each.tenant === tenant && each.name.startsWith(prefix))
    .filter((each) => behind === undefined || Buffer.compare(bytes(each), Buffer.from(behind)) > 0)
    .sort((a, b) => Buffer.compare(bytes(a), bytes(b)));
  const found: ChannelState[] = [];
  for (const { name } of names) {
    if (found.length >= limit) break;
    const channel = await kept(state, tenant, name);
    // Brought back, or gone for good, since the names were taken.
    if (channel?.deletedTimeUs !== undefined) found.push(channel);
  }
  return found;
}

async function kept(state: PartitionState, tenant: string, name: string): Promise<ChannelState | undefined> {
  const found = tailChannelByName(state, tenant, name) ?? (await state.sealedChannel(tenant, name));
  // While the row was read the channel may have come into the tail.
  const now = tailChannelByName(state, tenant, name) ?? found;
  return now === undefined || now.deleted ? undefined : cloneChannel(now.state);
}

/** For readers: neither deleted for good nor so that it may come back. */
export function isThere(channel: { readonly state: ChannelState; readonly deleted: boolean }): boolean {
  return !channel.deleted && channel.state.deletedTimeUs === undefined;
}

type Row = [Uint8Array, Uint8Array];

/**
 * Walks the channels' rows beside their name rows: LevelDB loses rows in
 * silence, and a name without its row must not become a shorter list.
 */
export class SealedChannels {
  readonly #names: KvIterator;
  readonly #channels: KvIterator;
  #nameRows: Row[] = [];
  #rows: Row[] = [];
  #ended = false;

  constructor(state: PartitionState, from: Uint8Array, to: Uint8Array) {
    const range = (kind: RowKind) => ({
      gte: nameKey(kind, state.place, from),
      lt: nameKey(kind, state.place, to),
    });
    // Names first: a batch that lands between the two adds channels to the second alone.
    this.#names = state.shared.kv.iterator(range(RowKind.channelName));
    this.#channels = state.shared.kv.iterator(range(RowKind.channel));
  }

  async peek(wanted: number): Promise<Row | undefined> {
    if (this.#rows.length === 0 && !this.#ended) {
      const count = Math.min(wanted, 256);
      this.#rows = await this.#channels.next(count);
      this.#ended = this.#rows.length < count;
      await this.#compare(count);
      this.#rows.reverse();
    }
    return this.#rows.at(-1);
  }

  take(): void {
    this.#rows.pop();
  }

  /** Every name up to the last row at hand, at the end every name, must have its row. */
  async #compare(count: number): Promise<void> {
    let at = 0;
    for (;;) {
      if (this.#nameRows.length === 0) this.#nameRows = (await this.#names.next(count)).reverse();
      const name = this.#nameRows.at(-1);
      if (name === undefined) return;
      while (at < this.#rows.length && compareNames(this.#rows[at] as Row, name) < 0) at++;
      const row = this.#rows[at];
      if (row === undefined && !this.#ended) return;
      if (row === undefined || compareNames(row, name) !== 0) {
        throw damaged(
          `channel ${JSON.stringify(asBuffer(nameOfKey(name[0])).toString())}`,
          'its row is missing',
        );
      }
      this.#nameRows.pop();
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.#names.close(), this.#channels.close()]);
  }
}

function compareNames(a: Row, b: Row): number {
  return Buffer.compare(nameOfKey(a[0]), nameOfKey(b[0]));
}

export interface TailRow {
  readonly name: Buffer;
  /** Undefined: what is sealed of the name does not count, it was deleted. */
  readonly channel: ChannelState | undefined;
}

/** The tails' channels in range, as they are now, ascending; up to the `limit`th that is there. */
export function fromTails(
  state: PartitionState,
  query: Pick<ChannelQuery, 'tenant' | 'prefix' | 'limit'>,
  from: Uint8Array,
): TailRow[] {
  const found = new Map<string, TailRow>();
  for (const tail of [state.active, state.frozen?.tail]) {
    if (tail === undefined) continue;
    for (const [key, { state: channel, deleted }] of tail.channels) {
      if (channel.tenant !== query.tenant || !channel.name.startsWith(query.prefix)) continue;
      if (found.has(key)) continue;
      const name = nameBytes(channel.tenant, channel.name);
      const there = isThere({ state: channel, deleted }) ? channel : undefined;
      if (Buffer.compare(name, from) >= 0) found.set(key, { name, channel: there });
    }
  }
  const rows: TailRow[] = [];
  let there = 0;
  for (const { name, channel } of [...found.values()].sort((a, b) => Buffer.compare(a.name, b.name))) {
    if (there >= query.limit) break;
    if (channel !== undefined) there++;
    rows.push({ name, channel: channel && cloneChannel(channel) });
  }
  return rows;
}
