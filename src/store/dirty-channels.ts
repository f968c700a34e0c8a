/**
 * The channels that a checkpoint seals, each with what is sealed of it: its row, and the
 * small blocks that merge. Read some at a time, one portion ahead of the sealing: on a
 * busy loop every wait takes tens of milliseconds, and many channels would be thousands of waits.
 */

import { nameBytes, nameKey, RowKind } from './keys.js';
import { openChannelRow, type PartitionState } from './partition-state.js';
import { mergedKeys, planEvents, type SealPlan } from './seal-events.js';
import type { SealedChannel } from './state-codec.js';
import { channelName, type FrozenTail, type TailChannel } from './tail.js';

/** Channels of a portion: their rows are opened in one turn, about 0.5 ms. */
const portionChannels = 128;

export interface DirtyChannel {
  readonly channel: TailChannel;
  /** What is sealed under its name, whichever channel that is. */
  readonly ofName: SealedChannel | undefined;
  /** The same where it is this very channel: it is gone on with. */
  readonly before: SealedChannel | undefined;
  readonly plan: SealPlan;
  /** Rows of the blocks that the plan merges. */
  readonly merged: readonly (Uint8Array | undefined)[];
}

export class DirtyChannels {
  readonly #state: PartitionState;
  readonly #channels: readonly TailChannel[];
  #at = 0;
  #ahead: Promise<DirtyChannel[]>;

  constructor(state: PartitionState, frozen: FrozenTail) {
    this.#state = state;
    this.#channels = [...frozen.tail.channels.values()].filter((channel) => channel.dirty);
    this.#ahead = this.#read();
  }

  /** The next ones, at least one; empty: that was all. */
  next(): Promise<DirtyChannel[]> {
    const portion = this.#ahead;
    this.#ahead = this.#read();
    return portion;
  }

  #read(): Promise<DirtyChannel[]> {
    const from = this.#at;
    this.#at = Math.min(from + portionChannels, this.#channels.length);
    const reading = load(this.#state, this.#channels.slice(from, this.#at));
    // It counts when it is asked for.
    reading.catch(() => {});
    return reading;
  }
}

async function load(state: PartitionState, channels: readonly TailChannel[]): Promise<DirtyChannel[]> {
  const rows = await loadRows(state, channels);
  const planned = channels.map((channel, i) => {
    const ofName = rows[i];
    const before = goesOn(channel, ofName);
    return { channel, ofName, before, plan: planEvents(before, channel.events, state.shared.blockBytes) };
  });
  const keys = planned.map(({ before, plan }) => mergedKeys(state.place, before, plan));
  const wanted = keys.flat();
  const blocks = wanted.length === 0 ? [] : await state.shared.kv.getMany(wanted);
  let at = 0;
  return planned.map((one, i) => {
    const { length } = keys[i] as Uint8Array[];
    at += length;
    return { ...one, merged: blocks.slice(at - length, at) };
  });
}

/** What is sealed of another channel of the name is not gone on with. */
function goesOn(channel: TailChannel, ofName: SealedChannel | undefined): SealedChannel | undefined {
  if (ofName === undefined || ofName.deleted || channel.deleted) return undefined;
  return ofName.state.id === channel.state.id ? ofName : undefined;
}

/** The sealed rows of some channels; undefined for new ones. */
async function loadRows(
  state: PartitionState,
  channels: readonly TailChannel[],
): Promise<(SealedChannel | undefined)[]> {
  const rows: (SealedChannel | undefined)[] = [];
  const wanted: number[] = [];
  const keys: Uint8Array[] = [];
  for (const [i, { state: channel }] of channels.entries()) {
    const cached = state.cachedChannel(channelName(channel.tenant, channel.name));
    rows.push(cached);
    const name = nameBytes(channel.tenant, channel.name);
    if (cached !== undefined || !state.sealed.names.has(name)) continue;
    wanted.push(i);
    keys.push(nameKey(RowKind.channel, state.place, name));
  }
  if (keys.length === 0) return rows;
  const values = await state.shared.kv.getMany(keys);
  for (const [i, value] of values.entries()) {
    const place = wanted[i] as number;
    const { tenant, name } = (channels[place] as TailChannel).state;
    // Missing: a collision of hashes (then the channel is new), or damage; `sealedChannel` tells.
    rows[place] =
      value === undefined
        ? await state.sealedChannel(tenant, name)
        : openChannelRow(keys[i] as Uint8Array, value);
  }
  return rows;
}
