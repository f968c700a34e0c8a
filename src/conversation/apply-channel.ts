/** Making channels: by createChannel, or by a first append. Changing and deleting: apply-channel-change.ts. */
import type { TimeUs } from '../common/ids.js';
import { channelNameProblem, isTenantName } from '../common/names.js';
import { applyLimits } from './apply-limits.js';
import { bodyDigest, firstRequest, keepRequest } from './apply-request.js';
import { liveChannel, purge, trashedChannel } from './apply-trash.js';
import type { CreateChannelCommand, UpdateChannelInput } from './command.js';
import { channelUid } from './names.js';
import { refuse } from './refuse.js';
import type { ApplyState, ChannelState, CommandAnswer, Refused } from './types.js';

export function createChannel(
  state: ApplyState,
  bytes: Buffer,
  command: CreateChannelCommand,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const { tenant, channel: name } = command;
  const problem = checkNames(tenant, name) ?? checkTexts(command);
  if (problem !== undefined) return problem;
  const existing = liveChannel(state, tenant, name);
  const digest = bodyDigest(bytes.subarray(command.bodyOffset, command.bodyEnd));
  const first = firstRequest(state, command, digest);
  if (first?.refused !== undefined) return first.refused;
  if (first !== undefined) {
    const made = state.channel(tenant, name);
    // Also one that was deleted since, as long as there is something to tell.
    if (made !== undefined && Number(made.id) === first.record.seq)
      return { kind: 'channel', channel: { ...made } };
    return refuse('CHANNEL_NOT_FOUND', 'the channel that this request made is gone', { channel: name });
  }
  if (existing !== undefined) {
    return refuse('CHANNEL_EXISTS', 'a channel of that name exists', { channel: name, uid: existing.uid });
  }
  const channel = newChannel(state, tenant, name, commitTimeUs);
  channel.title = command.title;
  channel.class = command.class;
  channel.labels = command.labels.map(([label, value]) => [label, value]);
  channel.participants = command.participants.map((participant) => ({ ...participant }));
  state.putChannel(channel);
  keepRequest(state, command, digest, Number(channel.id), commitTimeUs);
  // A copy: the answer is encoded later, when the channel may have gone on.
  return { kind: 'channel', channel: { ...channel } };
}

/**
 * Takes the next channel id; the caller puts the channel once its fields are set. A
 * name that was deleted goes on behind the head that it had.
 */
export function newChannel(
  state: ApplyState,
  tenant: string,
  name: string,
  commitTimeUs: TimeUs,
): ChannelState {
  const { meta } = state;
  // Its name is used again: what was deleted can't come back any more.
  const trashed = trashedChannel(state, tenant, name);
  if (trashed !== undefined) purge(state, trashed);
  const id = meta.nextChannelId++;
  meta.channelCount++;
  const deleted = state.deletedChannel(tenant, name);
  if (deleted !== undefined) meta.deletedCount--;
  const baseSeq = deleted?.headSeq ?? 0;
  return {
    id,
    tenant,
    name,
    uid: channelUid(meta.partition, id),
    title: '',
    labels: [],
    class: '',
    participants: [],
    createTimeUs: commitTimeUs,
    updateTimeUs: commitTimeUs,
    activityTimeUs: commitTimeUs,
    baseSeq,
    headSeq: baseSeq,
    lastMessageSeq: 0,
    messageCount: 0,
    revision: 1,
  };
}

/** The door checks the same; here it keeps the state sound whatever a leader packed. */
export function checkNames(tenant: string, name: string): Refused | undefined {
  if (!isTenantName(tenant))
    return refuse('INVALID_NAME', 'a tenant name is not allowed', { field: 'tenant' });
  const problem = channelNameProblem(name, applyLimits.channelNameBytes);
  return problem === undefined ? undefined : refuse('INVALID_NAME', problem, { field: 'channel' });
}

export function checkTexts(
  command: Pick<UpdateChannelInput, 'requestId' | 'title' | 'class' | 'labels' | 'participants'>,
): Refused | undefined {
  if (Buffer.byteLength(command.requestId) > applyLimits.idBytes) return tooLong('request_id');
  if (isLong(command.title ?? '')) return tooLong('title');
  if (isLong(command.class ?? '')) return tooLong('class');
  for (const [name, value] of command.labels ?? []) {
    if (name === '' || isLong(name) || isLong(value)) return tooLong('labels');
  }
  for (const { id, displayName, role } of command.participants ?? []) {
    if (isLong(id) || isLong(displayName) || isLong(role)) return tooLong('participants');
  }
  return undefined;
}

function isLong(text: string): boolean {
  return Buffer.byteLength(text) > applyLimits.channelTextBytes;
}

function tooLong(field: string): Refused {
  return refuse('INVALID_ARGUMENT', 'a text of the channel is empty or too long', { field });
}
