/** What streams of events bring, from bytes: tails and subscriptions. */
import { readNextEvent } from './event-decode.js';
import { nobody, readNodeId, readServedBy } from './response-parts.js';
import type { Event, ServedBy } from './types.js';
import { ProtoReader } from './wire-reader.js';

export interface TailResponse {
  resumeToken: string;
  /** Undefined: a heartbeat, or a kind that this version does not know. */
  update:
    | { kind: 'events'; events: Event[]; channelUid: string }
    | { kind: 'caught-up'; headSeq: number; channelUid: string; servedBy: ServedBy }
    | undefined;
}

export function readTailResponse(bytes: Uint8Array): TailResponse {
  const r = ProtoReader.ofCopy(bytes);
  const response: TailResponse = { resumeToken: '', update: undefined };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) response.resumeToken = r.string();
    else if (tag === 18) response.update = r.message(readTailEvents);
    else if (tag === 34) response.update = r.message(readCaughtUp);
    else r.skip();
  }
  return response;
}

function readTailEvents(r: ProtoReader): TailResponse['update'] {
  const events: Event[] = [];
  let channelUid = '';
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) events.push(readNextEvent(r));
    else if (tag === 18) channelUid = r.string();
    else r.skip();
  }
  return { kind: 'events', events, channelUid };
}

/** Events of one channel, ascending. */
export interface SubscribedEvents {
  readonly channel: string;
  /** Another one than before: the channel was deleted and created anew since. */
  readonly channelUid: string;
  /** Checksums verified. */
  readonly events: readonly Event[];
}

export interface SubscribeResponse {
  resumeToken: string;
  /** Undefined: a heartbeat, or a kind that this version does not know. */
  update:
    | { kind: 'events'; channels: SubscribedEvents[] }
    | { kind: 'caught-up'; nodeId: number }
    | undefined;
}

export function readSubscribeResponse(bytes: Uint8Array): SubscribeResponse {
  const r = ProtoReader.ofCopy(bytes);
  const response: SubscribeResponse = { resumeToken: '', update: undefined };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) response.resumeToken = r.string();
    else if (tag === 18) response.update = { kind: 'events', channels: r.message(readSubscribedEvents) };
    else if (tag === 34) response.update = { kind: 'caught-up', nodeId: r.message(readNodeId) };
    else r.skip();
  }
  return response;
}

function readSubscribedEvents(r: ProtoReader): SubscribedEvents[] {
  const channels: SubscribedEvents[] = [];
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) channels.push(r.message(readChannelEvents));
    else r.skip();
  }
  return channels;
}

function readChannelEvents(r: ProtoReader): SubscribedEvents {
  const events: Event[] = [];
  let channel = '';
  let channelUid = '';
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) channel = r.string();
    else if (tag === 18) channelUid = r.string();
    else if (tag === 26) events.push(readNextEvent(r));
    else r.skip();
  }
  return { channel, channelUid, events };
}

function readCaughtUp(r: ProtoReader): TailResponse['update'] {
  const update = { kind: 'caught-up' as const, headSeq: 0, channelUid: '', servedBy: nobody };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) update.headSeq = r.uint();
    else if (tag === 18) update.channelUid = r.string();
    else if (tag === 26) update.servedBy = r.message(readServedBy);
    else r.skip();
  }
  return update;
}
