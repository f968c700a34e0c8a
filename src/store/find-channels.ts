/**
 * Channels by label, by participant and by activity. Activity changes with every
 * append, so no index follows it: the candidates (those of a label or participant,
 * or all of a prefix) are looked at, and more than `scanMax` of them in a partition
 * are refused, never cut in silence.
 */
import type { KvIterator } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import type { TimeUs } from '../common/ids.js';
import type { ChannelState } from '../conversation/types.js';
import { after, asBuffer, nameBytes, nameKey, nameOfKey, RowKind } from './keys.js';
import { fromTails, isThere, SealedChannels } from './list-channels.js';
import { openChannelRow, type PartitionState } from './partition-state.js';
import { damaged } from './rows.js';
import { channelName } from './tail.js';
import { type ChannelFilter, matches, nameOfTermKey, termOf, termRange } from './terms.js';

export interface FindQuery extends ChannelFilter {
  readonly tenant: string;
  readonly prefix: string;
  readonly order: 'name' | 'activity';
  /** Behind which place in that order to begin; `timeUs` counts with `activity` alone. */
  readonly after: { readonly timeUs: TimeUs; readonly name: string } | undefined;
  readonly limit: number;
  /** Candidates that may be looked at; more are refused with TOO_MANY_CHANNELS. */
  readonly scanMax: number;
  /** Shared by the queries of several partitions that make one listing. */
  readonly total?: ScanBudget | undefined;
}

export interface ScanBudget {
  count: number;
  readonly max: number;
}

const rowsAtOnce = 64;

/** Newest activity first, then by name; or by name. */
export async function findChannels(state: PartitionState, query: FindQuery): Promise<ChannelState[]> {
  const found: ChannelState[] = [];
  const byName = query.order === 'name';
  for await (const channel of candidates(state, query)) {
    if (!matches(channel, query) || !isAfter(channel, query)) continue;
    found.push(channel);
    if (byName && found.length >= query.limit) return found;
  }
  if (!byName) found.sort(compareActivity);
  return found.slice(0, query.limit);
}

/** Order of a listing by activity, the same wherever parts of one are put together. */
export function compareActivity(
  a: { readonly activityTimeUs: TimeUs; readonly name: string },
  b: { readonly activityTimeUs: TimeUs; readonly name: string },
): number {
  if (a.activityTimeUs !== b.activityTimeUs) return b.activityTimeUs - a.activityTimeUs;
  return Buffer.compare(Buffer.from(a.name), Buffer.from(b.name));
}

function isAfter(channel: ChannelState, { order, after: place }: FindQuery): boolean {
  if (place === undefined || order === 'name') return true;
  return compareActivity(channel, { activityTimeUs: place.timeUs, name: place.name }) > 0;
}

/** Ascending by name: the tails' channels as they are now, and what is sealed beside them. */
async function* candidates(state: PartitionState, query: FindQuery): AsyncGenerator<ChannelState> {
  const { tenant, prefix, scanMax, total } = query;
  const prefixBytes = nameBytes(tenant, prefix);
  // The smallest name after `after` is `after` and a zero byte.
  const beyond =
    query.order === 'name' && query.after !== undefined
      ? nameBytes(tenant, `${query.after.name}\0`)
      : undefined;
  const from = beyond !== undefined && Buffer.compare(beyond, prefixBytes) > 0 ? beyond : prefixBytes;
  if (Buffer.compare(from, after(prefixBytes)) >= 0) return;
  // Tails and iterators in one turn: one state.
  const recent = fromTails(state, { tenant, prefix, limit: Number.POSITIVE_INFINITY }, from);
  const sealed = sealedCandidates(state, query, from, new Set(recent.map(({ name }) => name.toString())));
  let looked = 0;
  const look = () => {
    if (++looked > scanMax) throw tooMany(query, scanMax);
    if (total !== undefined && ++total.count > total.max) throw tooMany(query, total.max);
  };
  let next = await sealed.next();
  try {
    for (const { name, channel } of recent) {
      if (channel === undefined || !matches(channel, query)) continue;
      while (!next.done && Buffer.compare(nameBytes(tenant, next.value.name), name) < 0) {
        look();
        yield next.value;
        next = await sealed.next();
      }
      look();
      yield channel;
    }
    for (; !next.done; next = await sealed.next()) {
      look();
      yield next.value;
    }
  } finally {
    await sealed.return(undefined);
  }
}

/** Begun with an iterator of this turn; names that the tails have are left out. */
function sealedCandidates(
  state: PartitionState,
  query: FindQuery,
  from: Uint8Array,
  inTails: ReadonlySet<string>,
): AsyncGenerator<ChannelState, void, undefined> {
  const term = state.sealed.record.termCount === undefined ? undefined : termOf(query);
  if (term === undefined) {
    return ofNames(
      new SealedChannels(state, from, after(nameBytes(query.tenant, query.prefix))),
      query,
      inTails,
    );
  }
  const firstName = asBuffer(from).toString('utf8', Buffer.byteLength(query.tenant) + 1);
  const range = termRange(state.place, query.tenant, term, query.prefix, firstName);
  return ofTerm(state, query, term, state.shared.kv.iterator(range), inTails);
}

async function* ofNames(
  sealed: SealedChannels,
  { tenant }: FindQuery,
  inTails: ReadonlySet<string>,
): AsyncGenerator<ChannelState, void, undefined> {
  try {
    for (let row = await sealed.peek(rowsAtOnce); row !== undefined; row = await sealed.peek(rowsAtOnce)) {
      sealed.take();
      const channel = openChannelRow(row[0], row[1]);
      if (isThere(channel) && !inTails.has(channelName(tenant, channel.state.name))) yield channel.state;
    }
  } finally {
    await sealed.close();
  }
}

/**
 * The rows of channels are read after the index, and may be newer; what is not at hand
 * here any more (another label since, deleted) is left out by whoever asked.
 */
async function* ofTerm(
  state: PartitionState,
  { tenant }: FindQuery,
  term: Buffer,
  iterator: KvIterator,
  inTails: ReadonlySet<string>,
): AsyncGenerator<ChannelState, void, undefined> {
  try {
    for (;;) {
      const rows = await iterator.next(rowsAtOnce);
      if (rows.length === 0) return;
      const names = rows.map(([key]) => nameOfTermKey(key, tenant, term));
      const sealed = names.filter((name) => !inTails.has(channelName(tenant, name)));
      const keys = sealed.map((name) => nameKey(RowKind.channel, state.place, nameBytes(tenant, name)));
      const values = await state.shared.kv.getMany(keys);
      for (const [i, key] of keys.entries()) {
        const value = values[i];
        if (value === undefined) {
          const name = JSON.stringify(asBuffer(nameOfKey(key)).toString());
          throw damaged(`channel ${name}`, 'its row is missing', key);
        }
        const channel = openChannelRow(key, value);
        if (isThere(channel)) yield channel.state;
      }
    }
  } finally {
    await iterator.close();
  }
}

function tooMany({ tenant, prefix }: FindQuery, max: number): HansardError {
  return new HansardError('TOO_MANY_CHANNELS', `more than ${max} channels would have to be looked at`, {
    tenant,
    prefix,
    limit_channels: max,
  });
}
