/**
 * Deleted channels that can still be brought back (from apply version 3 on). Such a
 * channel keeps all that it has, and everybody but this file takes it for deleted.
 * It goes for good when its time is up, when its name is used again, or when so many
 * others were deleted behind it.
 */
import type { TimeUs } from '../common/ids.js';
import { applyLimits } from './apply-limits.js';
import type { ApplyState, ChannelState, DeletedChannel } from './types.js';

/** Not one that was deleted. */
export function liveChannel(state: ApplyState, tenant: string, name: string): ChannelState | undefined {
  const channel = state.channel(tenant, name);
  return channel?.deletedTimeUs === undefined ? channel : undefined;
}

/** The channel that was deleted, as long as it can be brought back. */
export function trashedChannel(state: ApplyState, tenant: string, name: string): ChannelState | undefined {
  const channel = state.channel(tenant, name);
  return channel?.deletedTimeUs === undefined ? undefined : channel;
}

/** What is kept of the deleted channel of that name, whether or not it can be brought back. */
export function keptOf(state: ApplyState, tenant: string, name: string): DeletedChannel | undefined {
  const trashed = trashedChannel(state, tenant, name);
  if (trashed === undefined) return state.deletedChannel(tenant, name);
  const { id, uid, headSeq, revision } = trashed;
  return { id, uid, headSeq, revision };
}

/** Until when, exclusively, a channel that is deleted now may be brought back. */
export function purgeTimeUs(deletedTimeUs: TimeUs): TimeUs {
  return deletedTimeUs + applyLimits.undeleteUs;
}

export function trash(state: ApplyState, channel: ChannelState, commitTimeUs: TimeUs): void {
  const { meta } = state;
  channel.deletedTimeUs = commitTimeUs;
  state.putChannel(channel);
  const { tenant, name } = channel;
  meta.trash = [...(meta.trash ?? []), { tenant, name, deletedTimeUs: commitTimeUs }];
  const oldest = meta.trash[0];
  if (meta.trash.length > applyLimits.trashedChannels && oldest !== undefined)
    purgeName(state, oldest.tenant, oldest.name);
}

export function restore(state: ApplyState, channel: ChannelState): void {
  forget(state, channel);
  channel.deletedTimeUs = undefined;
  state.putChannel(channel);
}

/** For good: its name and head are kept. */
export function purge(state: ApplyState, channel: ChannelState): void {
  forget(state, channel);
  state.deleteChannel(channel);
  state.meta.channelCount--;
  state.meta.deletedCount++;
}

/** At the beginning of an entry: some of those whose time is up, the oldest first. */
export function emptyTrash(state: ApplyState, commitTimeUs: TimeUs): void {
  for (let n = 0; n < applyLimits.purgesPerEntry; n++) {
    const oldest = state.meta.trash?.[0];
    if (oldest === undefined || purgeTimeUs(oldest.deletedTimeUs) > commitTimeUs) return;
    purgeName(state, oldest.tenant, oldest.name);
  }
}

function purgeName(state: ApplyState, tenant: string, name: string): void {
  const channel = trashedChannel(state, tenant, name);
  if (channel !== undefined) purge(state, channel);
}

function forget(state: ApplyState, { tenant, name }: ChannelState): void {
  const { meta } = state;
  meta.trash = meta.trash?.filter((each) => each.name !== name || each.tenant !== tenant);
  if (meta.trash?.length === 0) meta.trash = undefined;
}
