/** hansard.v1.Channel and its etag, as all calls on channels send and take them. */
import type { PartitionId } from '../common/ids.js';
import { Wire, type WireReader } from '../common/wire.js';
import { purgeTimeUs } from '../conversation/apply-trash.js';
import type { ExpectedRevision } from '../conversation/command.js';
import type { ChannelState } from '../conversation/types.js';
import { invalidArgument } from './names.js';
import { toTimestamp } from './requests.js';

/** hansard.v1.Channel as proto-loader encodes it. */
export function channelMessage(channel: ChannelState, partition: PartitionId): object {
  return {
    tenant: channel.tenant,
    name: channel.name,
    uid: channel.uid,
    title: channel.title,
    labels: Object.fromEntries(channel.labels),
    class: channel.class,
    participants: channel.participants.map(({ id, displayName, role }) => ({
      id,
      display_name: displayName,
      role,
    })),
    create_time: toTimestamp(channel.createTimeUs),
    update_time: toTimestamp(channel.updateTimeUs),
    head_seq: channel.headSeq,
    last_message_seq: channel.lastMessageSeq,
    message_count: channel.messageCount,
    etag: etagOf(channel),
    partition,
    activity_time: toTimestamp(channel.activityTimeUs),
    first_seq: channel.baseSeq + 1,
    seal_time: channel.sealedTimeUs === undefined ? null : toTimestamp(channel.sealedTimeUs),
    ...(channel.deletedTimeUs === undefined
      ? {}
      : {
          delete_time: toTimestamp(channel.deletedTimeUs),
          purge_time: toTimestamp(purgeTimeUs(channel.deletedTimeUs)),
        }),
  };
}

/** Changes with every change of the channel's own fields, and with the channel behind the name. */
function etagOf(channel: ChannelState): string {
  return `"${channel.uid}-${channel.revision.toString(36)}"`;
}

/** What an etag says; an empty one expects nothing. */
export function expectedBy(etag: string, field: string): ExpectedRevision | undefined {
  if (etag === '') return undefined;
  const [, uid, revision] = /^"(c[0-9a-f]{16})-([0-9a-z]{1,10})"$/.exec(etag) ?? [];
  if (uid === undefined || revision === undefined) throw invalidArgument(field, 'no etag of a channel');
  return { uid, revision: Number.parseInt(revision, 36) };
}

/** Where fields 1 and 2 of a message lie. */
export function twoTexts(reader: WireReader): { first: [number, number]; second: [number, number] } {
  let first: [number, number] = [0, 0];
  let second: [number, number] = [0, 0];
  while (reader.next()) {
    if (reader.wire !== Wire.bytes || reader.field > 2) {
      reader.skip();
      continue;
    }
    reader.sized();
    if (reader.field === 1) first = [reader.start, reader.position];
    else second = [reader.start, reader.position];
  }
  return { first, second };
}
