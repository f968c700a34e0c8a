/**
 * Changing a channel's own fields, and deleting channels. Both may be sent again:
 * by request id, and a deletion also by the revision that it expects.
 */
import type { TimeUs } from '../common/ids.js';
import { checkNames, checkTexts } from './apply-channel.js';
import { liveKey } from './apply-keys.js';
import { bodyDigest, firstRequest, keepRequest, requestChannelId } from './apply-request.js';
import { keptOf, liveChannel, purge, purgeTimeUs, restore, trash, trashedChannel } from './apply-trash.js';
import type {
  DeleteChannelCommand,
  ExpectedRevision,
  SealChannelCommand,
  UndeleteChannelCommand,
  UpdateChannelCommand,
} from './command.js';
import { DeletedItem, requestItemKey } from './names.js';
import { refuse } from './refuse.js';
import type {
  ApplyState,
  ChannelState,
  CommandAnswer,
  DeletedChannel,
  KeyRecord,
  Participant,
  Refused,
} from './types.js';

type Change = UpdateChannelCommand | DeleteChannelCommand | SealChannelCommand | UndeleteChannelCommand;

export function updateChannel(
  state: ApplyState,
  bytes: Buffer,
  command: UpdateChannelCommand,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const { channel: name } = command;
  const begun = begin(state, bytes, command);
  if (begun.kind === 'refused') return begun;
  const { live: channel, digest, first } = begun;
  if (first !== undefined) return changedBefore(state, command, first);
  if (channel === undefined) return notFound(name);
  if (!isExpected(channel, command.expected)) return stale(channel);
  change(state, channel, command, commitTimeUs);
  keepRequest(state, command, digest, channel.id, commitTimeUs);
  // A copy: the answer is encoded later, when the channel may have gone on.
  return { kind: 'channel', channel: { ...channel } };
}

export function deleteChannel(
  state: ApplyState,
  bytes: Buffer,
  command: DeleteChannelCommand,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const { tenant, channel: name, expected, allowMissing, permanent } = command;
  const begun = begin(state, bytes, command);
  if (begun.kind === 'refused') return begun;
  const { live: channel, digest, first } = begun;
  const deleted = keptOf(state, tenant, name);
  const trashed = trashedChannel(state, tenant, name);
  // Whoever has the name now: what this request was for is done.
  if (first !== undefined)
    return deletedAgain(state, command, first, deleted?.headSeq ?? channel?.baseSeq ?? 0);
  if (channel === undefined) {
    if (permanent && trashed !== undefined && isExpected(trashed, expected)) {
      keepRequest(state, command, digest, trashed.id, commitTimeUs);
      return purgeNow(state, command, trashed, commitTimeUs);
    }
    const isRepeat = deleted !== undefined && expected !== undefined && isExpected(deleted, expected);
    if (isRepeat && trashed !== undefined) return inTrash(trashed);
    if (isRepeat || allowMissing) return deletedBefore(deleted?.headSeq ?? 0);
    return notFound(name);
  }
  if (!isExpected(channel, expected)) return stale(channel);
  keepRequest(state, command, digest, channel.id, commitTimeUs);
  if (state.meta.settings.applyVersion < 3) {
    purge(state, channel);
    return deletedBefore(channel.headSeq);
  }
  if (permanent) return purgeNow(state, command, channel, commitTimeUs);
  trash(state, channel, commitTimeUs);
  return inTrash(channel);
}

/** For good. From apply version 4 on a repeat is told as much as the first. */
function purgeNow(
  state: ApplyState,
  { tenant, requestId }: DeleteChannelCommand,
  channel: ChannelState,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const answer = deletedNow(channel, 0);
  if (requestId !== '' && state.meta.settings.applyVersion >= 4) {
    const keep = (item: number, seq: number): void =>
      state.putKey(requestChannelId, requestItemKey(tenant, requestId, item), {
        seq,
        contentDigest: bodyDigest(Buffer.alloc(0)),
        commitTimeUs,
      });
    keep(DeletedItem.events, channel.headSeq - channel.baseSeq);
    keep(DeletedItem.messages, channel.messageCount);
  }
  purge(state, channel);
  return answer;
}

function deletedAgain(
  state: ApplyState,
  { tenant, channel: name, requestId }: DeleteChannelCommand,
  { seq: id }: KeyRecord,
  headSeq: number,
): CommandAnswer {
  const trashed = trashedChannel(state, tenant, name);
  if (Number(trashed?.id) === id) return inTrash(trashed as ChannelState);
  const kept = (item: number): number | undefined =>
    liveKey(state, requestChannelId, requestItemKey(tenant, requestId, item))?.seq;
  const eventCount = kept(DeletedItem.events);
  if (eventCount === undefined) return deletedBefore(headSeq);
  return {
    kind: 'deleted',
    headSeq,
    was: { eventCount, messageCount: kept(DeletedItem.messages) ?? 0, purgeTimeUs: 0 },
  };
}

function inTrash(channel: ChannelState): CommandAnswer {
  return deletedNow(channel, purgeTimeUs(channel.deletedTimeUs ?? 0));
}

function deletedBefore(headSeq: number): CommandAnswer {
  return { kind: 'deleted', headSeq };
}

function deletedNow({ headSeq, baseSeq, messageCount }: ChannelState, until: TimeUs): CommandAnswer {
  const was = { eventCount: headSeq - baseSeq, messageCount, purgeTimeUs: until };
  return { kind: 'deleted', headSeq, was };
}

/** From here on the channel takes no more events. Its fields may be changed, and it may be deleted. */
export function sealChannel(
  state: ApplyState,
  bytes: Buffer,
  command: SealChannelCommand,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const { channel: name } = command;
  const begun = begin(state, bytes, command);
  if (begun.kind === 'refused') return begun;
  const { live: channel, digest, first } = begun;
  if (first !== undefined) return changedBefore(state, command, first);
  if (channel === undefined) return notFound(name);
  if (!isExpected(channel, command.expected)) return stale(channel);
  if (channel.sealedTimeUs === undefined) {
    channel.sealedTimeUs = commitTimeUs;
    channel.updateTimeUs = commitTimeUs;
    channel.revision++;
    state.putChannel(channel);
  }
  keepRequest(state, command, digest, channel.id, commitTimeUs);
  return { kind: 'channel', channel: { ...channel } };
}

export function undeleteChannel(
  state: ApplyState,
  bytes: Buffer,
  command: UndeleteChannelCommand,
  commitTimeUs: TimeUs,
): CommandAnswer {
  const { tenant, channel: name } = command;
  const begun = begin(state, bytes, command);
  if (begun.kind === 'refused') return begun;
  const { live, digest, first } = begun;
  if (first !== undefined) return changedBefore(state, command, first);
  if (live !== undefined)
    return refuse('CHANNEL_EXISTS', 'a channel of that name exists', { channel: name, uid: live.uid });
  const channel = trashedChannel(state, tenant, name);
  if (channel === undefined || purgeTimeUs(channel.deletedTimeUs ?? 0) <= commitTimeUs) {
    return refuse('CHANNEL_NOT_FOUND', 'no deleted channel of that name can be brought back', {
      channel: name,
    });
  }
  if (!isExpected(channel, command.expected)) return stale(channel);
  channel.updateTimeUs = commitTimeUs;
  channel.revision++;
  restore(state, channel);
  keepRequest(state, command, digest, channel.id, commitTimeUs);
  return { kind: 'channel', channel: { ...channel } };
}

/** What each change begins with: names and texts that may be, and neither id nor etag looked at yet. */
interface Begun {
  readonly kind: 'begun';
  /** The channel of that name, unless it is deleted. */
  readonly live: ChannelState | undefined;
  readonly digest: Uint8Array;
  /** This request was carried out before. */
  readonly first: KeyRecord | undefined;
}

function begin(state: ApplyState, bytes: Buffer, command: Change): Begun | Refused {
  const { tenant, channel: name } = command;
  const problem = checkNames(tenant, name) ?? checkTexts(command);
  if (problem !== undefined) return problem;
  const live = liveChannel(state, tenant, name);
  const digest = digestOf(bytes, command);
  const first = firstRequest(state, command, digest);
  return first?.refused ?? { kind: 'begun', live, digest, first: first?.record };
}

/** What the request was for is done: the channel as it is now, also where somebody has deleted it since. */
function changedBefore(
  state: ApplyState,
  { tenant, channel: name }: Change,
  { seq: id }: KeyRecord,
): CommandAnswer {
  const channel = state.channel(tenant, name);
  if (Number(channel?.id) === id) return { kind: 'channel', channel: { ...(channel as ChannelState) } };
  return refuse('CHANNEL_NOT_FOUND', 'the channel that this request was carried out on is gone', {
    channel: name,
  });
}

/** Sets what the command has; where all of it is so already, the revision stays. */
function change(
  state: ApplyState,
  channel: ChannelState,
  command: UpdateChannelCommand,
  commitTimeUs: TimeUs,
): void {
  const { title = channel.title, labels = channel.labels, participants = channel.participants } = command;
  const channelClass = command.class ?? channel.class;
  const isSame =
    title === channel.title &&
    channelClass === channel.class &&
    sameLabels(labels, channel.labels) &&
    sameParticipants(participants, channel.participants);
  if (isSame) return;
  channel.title = title;
  channel.class = channelClass;
  channel.labels = labels.map(([label, value]) => [label, value]);
  channel.participants = participants.map((participant) => ({ ...participant }));
  channel.updateTimeUs = commitTimeUs;
  channel.revision++;
  state.putChannel(channel);
}

function sameLabels(
  a: readonly (readonly [string, string])[],
  b: readonly (readonly [string, string])[],
): boolean {
  return a.length === b.length && a.every(([name, value], i) => name === b[i]?.[0] && value === b[i]?.[1]);
}

function sameParticipants(a: readonly Readonly<Participant>[], b: readonly Readonly<Participant>[]): boolean {
  return (
    a.length === b.length &&
    a.every(({ id, displayName, role }, i) => {
      const other = b[i];
      return id === other?.id && displayName === other.displayName && role === other.role;
    })
  );
}

/** The kind of the command is part of it: a request id says one thing for ever. */
function digestOf(bytes: Buffer, command: Change): Uint8Array {
  const kind = Buffer.from(`${command.kind}\0`);
  return bodyDigest(Buffer.concat([kind, bytes.subarray(command.bodyOffset, command.bodyEnd)]));
}

function isExpected(channel: ChannelState | DeletedChannel, expected: ExpectedRevision | undefined): boolean {
  return expected === undefined || (channel.uid === expected.uid && channel.revision === expected.revision);
}

function notFound(name: string): Refused {
  return refuse('CHANNEL_NOT_FOUND', 'there is no channel of that name', { channel: name });
}

function stale(channel: ChannelState): Refused {
  return refuse('CONDITION_FAILED', 'the channel has changed since the etag was made', {
    condition: 'etag',
    uid: channel.uid,
    revision: channel.revision,
  });
}
