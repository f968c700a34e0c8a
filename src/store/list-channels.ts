/** Listing channels by name: sealed rows and tails as one ascending sequence. */

import type { ChannelState } from '../conversation/types.js';
import { after, nameBytes, nameKey, nameOfKey, RowKind } from './keys.js';
import { openChannelRow, type PartitionState } from './partition-state.js';
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
  // Tails and iterator in one turn: one state.
  const recent = fromTails(state, query, from);
  const iterator = state.shared.kv.iterator({
    gte: nameKey(RowKind.channel, state.place, from),
    lt: nameKey(RowKind.channel, state.place, to),
  });
  const found: ChannelState[] = [];
  try {
    let rows: [Uint8Array, Uint8Array][] = [];
    let row = 0;
    let tail = 0;
    let ended = false;
    while (found.length < query.limit) {
      if (row === rows.length && !ended) {
        rows = await iterator.next(Math.min(query.limit - found.length, 256));
        row = 0;
        ended = rows.length === 0;
      }
      const sealed = rows[row];
      const unsealed = recent[tail];
      if (sealed === undefined && unsealed === undefined) break;
      const order =
        sealed === undefined
          ? 1
          : unsealed === undefined
            ? -1
            : Buffer.compare(nameOfKey(sealed[0]), unsealed.name);
      if (order < 0 && sealed !== undefined) found.push(openChannelRow(sealed[0], sealed[1]).state);
      else if (unsealed !== undefined) found.push(unsealed.channel);
      if (order <= 0) row++;
      if (order >= 0) tail++;
    }
  } finally {
    await iterator.close();
  }
  return found;
}

/** The tails' channels in range, as they are now, ascending; at most `limit`. */
function fromTails(
  state: PartitionState,
  query: ChannelQuery,
  from: Uint8Array,
): { name: Buffer; channel: ChannelState }[] {
  const found = new Map<string, { name: Buffer; channel: ChannelState }>();
  for (const tail of [state.active, state.frozen?.tail]) {
    if (tail === undefined) continue;
    for (const [key, { state: channel }] of tail.channels) {
      if (channel.tenant !== query.tenant || !channel.name.startsWith(query.prefix)) continue;
      if (found.has(key)) continue;
      const name = nameBytes(channel.tenant, channel.name);
      if (Buffer.compare(name, from) >= 0) found.set(key, { name, channel });
    }
  }
  return [...found.values()]
    .sort((a, b) => Buffer.compare(a.name, b.name))
    .slice(0, query.limit)
    .map(({ name, channel }) => ({ name, channel: cloneChannel(channel) }));
}
