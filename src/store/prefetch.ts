/** Brings to the caches what applying an entry will look up, so that apply need not block the loop. */
import type { DecodedEntry } from '../conversation/decoded-entry.js';
import type { Lookups } from '../conversation/types.js';
import { cursorAtHand, loadCursor } from './cursors.js';
import { RowKind, type RunKind } from './keys.js';
import type { PartitionState } from './partition-state.js';
import { tailChannelByName } from './reader.js';
import type { SealedChannel } from './state-codec.js';
import { channelName } from './tail.js';

/**
 * The usual entry: appends alone, to channels and by producers that the active tail
 * has, and no key or message id that could be sealed. False: look closer.
 */
export function appendsAtHand(state: PartitionState, entry: DecodedEntry): boolean {
  const { active } = state;
  const noRuns = state.sealed.keyRuns.length === 0 && state.sealed.messageIdRuns.length === 0;
  let tenant = '';
  let name = '';
  for (const command of entry.commands) {
    if (command.kind !== 'append') return false;
    if (!noRuns && (command.hasKeys || command.hasMessageIds)) return false;
    if (command.producerId !== 0 && !active.producers.has(command.producerId)) return false;
    if (command.channel === name && command.tenant === tenant) continue;
    ({ tenant, channel: name } = command);
    if (active.channelByName(tenant, name) === undefined) return false;
  }
  return true;
}

/** Undefined: all of it is at hand (or known to be nowhere). */
export function prefetch(state: PartitionState, lookups: Lookups): Promise<void> | undefined {
  const waits: Promise<unknown>[] = [];
  // One read for each channel, however many keys ask for it.
  const reading: Reading = new Map();
  for (const { tenant, name } of lookups.channels) {
    // Most of what waits behind other entries is being read for one of them.
    const loading = state.channelLoading(tenant, name);
    if (loading !== undefined) waits.push(loading);
    else if (!channelAtHand(state, tenant, name)) waits.push(channelOnce(state, tenant, name, reading));
  }
  for (const id of lookups.producers) fetchProducer(state, id, waits);
  for (const { tenant, name } of lookups.producerNames) {
    const id = state.sealed.producerNames.get(channelName(tenant, name));
    if (id !== undefined) fetchProducer(state, id, waits);
  }
  for (const { tenant, name, reader, kind } of lookups.cursors) {
    if (cursorAtHand(state, tenant, name, reader, kind) === 'unknown')
      waits.push(loadCursor(state, tenant, name, reader, kind));
  }
  for (const text of lookups.requestKeys) fetchChunks(state, RowKind.keyRun, 0, text, waits);
  for (const { tenant, name, key } of lookups.keys) {
    withChannelId(state, tenant, name, reading, waits, (id) =>
      fetchChunks(state, RowKind.keyRun, id, key, waits),
    );
  }
  for (const { tenant, name, messageId } of lookups.messageIds) {
    withChannelId(state, tenant, name, reading, waits, (id) =>
      fetchChunks(state, RowKind.messageIdRun, id, messageId, waits),
    );
  }
  return waits.length === 0 ? undefined : Promise.all(waits).then(() => undefined);
}

type Reading = Map<string, Promise<SealedChannel | undefined>>;

function channelOnce(
  state: PartitionState,
  tenant: string,
  name: string,
  reading: Reading,
): Promise<SealedChannel | undefined> {
  const key = channelName(tenant, name);
  let channel = reading.get(key);
  if (channel === undefined) {
    channel = state.sealedChannel(tenant, name);
    reading.set(key, channel);
  }
  return channel;
}

function channelAtHand(state: PartitionState, tenant: string, name: string): boolean {
  return (
    tailChannelByName(state, tenant, name) !== undefined ||
    state.cachedChannel(channelName(tenant, name)) !== undefined ||
    !state.maySealed(tenant, name)
  );
}

function fetchProducer(state: PartitionState, id: number, waits: Promise<unknown>[]): void {
  if (state.active.producers.has(id) || state.frozen?.tail.producers.has(id)) return;
  if (!state.sealed.producers.has(id) || state.shared.producerCache.has(state.cacheKey(id))) return;
  waits.push(state.sealedProducer(id));
}

/** Calls back now where the channel is at hand, else once it is read; where there is none, there are no keys. */
function withChannelId(
  state: PartitionState,
  tenant: string,
  name: string,
  reading: Reading,
  waits: Promise<unknown>[],
  found: (channelId: number) => void,
): void {
  if (state.sealed.keyRuns.length === 0 && state.sealed.messageIdRuns.length === 0) return;
  const id =
    tailChannelByName(state, tenant, name)?.state.id ??
    state.cachedChannel(channelName(tenant, name))?.state.id;
  if (id !== undefined) return found(id);
  if (!state.maySealed(tenant, name)) return;
  // Chunks come in a second step: their waits are awaited inside this one.
  waits.push(
    channelOnce(state, tenant, name, reading).then(async (channel) => {
      if (channel === undefined) return;
      const more = waits.length;
      found(channel.state.id);
      await Promise.all(waits.slice(more));
    }),
  );
}

function fetchChunks(
  state: PartitionState,
  kind: RunKind,
  channelId: number,
  text: string,
  waits: Promise<unknown>[],
): void {
  for (const { run, chunk } of state.missingChunks(kind, channelId, text)) {
    waits.push(state.loadChunk(run, chunk));
  }
}
