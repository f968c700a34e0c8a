/** Responses about channels, from bytes. */
import { readTimestamp } from './content-decode.js';
import { nobody, none, readMapEntry, readServedBy, type Writable } from './response-parts.js';
import type { ChannelInfo, Participant, ServedBy } from './types.js';
import { ProtoReader } from './wire-reader.js';

export interface DeletedChannel {
  /** The head that is kept for the name. */
  readonly headSeq: number;
  readonly commitToken: Uint8Array;
  /** How many events were deleted, or would be; 0 in the answer to a repeat. */
  readonly eventCount: number;
  readonly messageCount: number;
  /** Until then `undelete()` brings it back, µs since 1970; 0: nothing does. */
  readonly purgeTimeUs: number;
}

export function readDeleteChannelResponse(bytes: Uint8Array): DeletedChannel {
  const r = new ProtoReader(bytes);
  const response: Writable<DeletedChannel> = {
    headSeq: 0,
    commitToken: none,
    eventCount: 0,
    messageCount: 0,
    purgeTimeUs: 0,
  };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) response.headSeq = r.uint();
    else if (tag === 18) response.commitToken = r.bytes();
    else if (tag === 24) response.eventCount = r.uint();
    else if (tag === 32) response.messageCount = r.uint();
    else if (tag === 42) response.purgeTimeUs = r.message(readTimestamp);
    else r.skip();
  }
  return response;
}

export function readChannel(r: ProtoReader): ChannelInfo {
  const participants: Participant[] = [];
  const labels: Record<string, string> = {};
  const channel: Writable<ChannelInfo> = {
    tenant: '',
    name: '',
    uid: '',
    title: '',
    labels,
    class: '',
    participants,
    createTimeUs: 0,
    updateTimeUs: 0,
    activityTimeUs: 0,
    firstSeq: 1,
    headSeq: 0,
    lastMessageSeq: 0,
    messageCount: 0,
    etag: '',
    partition: 0,
    sealTimeUs: 0,
    deleteTimeUs: 0,
    purgeTimeUs: 0,
  };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) channel.tenant = r.string();
    else if (tag === 18) channel.name = r.string();
    else if (tag === 26) channel.uid = r.string();
    else if (tag === 34) channel.title = r.string();
    else if (tag === 42) {
      const [key, value] = r.message(readMapEntry);
      // defineProperty: a label named __proto__ is data.
      Object.defineProperty(labels, key, { value, enumerable: true, writable: true, configurable: true });
    } else if (tag === 50) channel.class = r.string();
    else if (tag === 58) participants.push(r.message(readParticipant));
    else if (tag === 66) channel.createTimeUs = r.message(readTimestamp);
    else if (tag === 74) channel.updateTimeUs = r.message(readTimestamp);
    else if (tag === 80) channel.headSeq = r.uint();
    else if (tag === 88) channel.lastMessageSeq = r.uint();
    else if (tag === 96) channel.messageCount = r.uint();
    else if (tag === 106) channel.etag = r.string();
    else if (tag === 112) channel.partition = r.uint();
    else if (tag === 122) channel.activityTimeUs = r.message(readTimestamp);
    else if (tag === 128) channel.firstSeq = r.uint();
    else if (tag === 138) channel.sealTimeUs = r.message(readTimestamp);
    else if (tag === 146) channel.deleteTimeUs = r.message(readTimestamp);
    else if (tag === 154) channel.purgeTimeUs = r.message(readTimestamp);
    else r.skip();
  }
  return channel;
}

function readParticipant(r: ProtoReader): Participant {
  const participant = { id: '', displayName: '', role: '' };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) participant.id = r.string();
    else if (tag === 18) participant.displayName = r.string();
    else if (tag === 26) participant.role = r.string();
    else r.skip();
  }
  return participant;
}

/** CreateChannelResponse, UpdateChannelResponse and the like: a channel and a commit token. */
export function readChannelResponse(bytes: Uint8Array): {
  channel: ChannelInfo | undefined;
  commitToken: Uint8Array;
} {
  const r = new ProtoReader(bytes);
  let channel: ChannelInfo | undefined;
  let commitToken = none;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) channel = r.message(readChannel);
    else if (tag === 18) commitToken = r.bytes();
    else r.skip();
  }
  return { channel, commitToken };
}

export function readGetChannelResponse(bytes: Uint8Array): {
  channel: ChannelInfo | undefined;
  servedBy: ServedBy;
} {
  const r = new ProtoReader(bytes);
  let channel: ChannelInfo | undefined;
  let servedBy = nobody;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) channel = r.message(readChannel);
    else if (tag === 18) servedBy = r.message(readServedBy);
    else r.skip();
  }
  return { channel, servedBy };
}

export function readListChannelsResponse(bytes: Uint8Array): {
  channels: ChannelInfo[];
  nextPageToken: string;
  servedBy: ServedBy[];
} {
  const r = new ProtoReader(bytes);
  const response = { channels: [] as ChannelInfo[], nextPageToken: '', servedBy: [] as ServedBy[] };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) response.channels.push(r.message(readChannel));
    else if (tag === 18) response.nextPageToken = r.string();
    else if (tag === 26) response.servedBy.push(r.message(readServedBy));
    else r.skip();
  }
  return response;
}
