/** Responses about messages, from bytes. Field numbers: proto/hansard/v1. Throws WireError on what is none. */
import { readTimestamp } from './content-decode.js';
import { readNextEvent } from './event-decode.js';
import { nobody, none, readPacked, readServedBy } from './response-parts.js';
import type { Event, ServedBy } from './types.js';
import { ProtoReader, WireError } from './wire-reader.js';

export interface AppendResponse {
  seqs: number[];
  commitTimeUs: number;
  commitToken: Uint8Array;
  duplicate: boolean;
  channelUid: string;
}

/** Its bytes are not kept. */
export function readAppendResponse(r: ProtoReader): AppendResponse {
  let firstSeq = 0;
  let count = 0;
  let commitTimeUs = 0;
  let commitToken = none;
  let duplicate = false;
  let channelUid = '';
  const seqs: number[] = [];
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) firstSeq = r.uint();
    else if (tag === 16) count = r.uint();
    else if (tag === 26) {
      const outer = r.enter();
      commitTimeUs = readTimestamp(r);
      r.leave(outer);
    } else if (tag === 34) commitToken = readToken(r);
    else if (tag === 40) duplicate = r.bool();
    else if (tag === 48) seqs.push(r.uint());
    else if (tag === 50) readPacked(r, seqs);
    else if (tag === 58) channelUid = r.name();
    else r.skip();
  }
  // `count` is bounded by what was sent; an older repeat has neither seq nor count.
  if (firstSeq > 0 && seqs.length === 0) {
    if (count > 100_000) throw new WireError(`answer for ${count} messages`);
    for (let i = 0; i < count; i++) seqs.push(firstSeq + i);
  }
  return { seqs, commitTimeUs, commitToken, duplicate, channelUid };
}

/** Of the last answer: appends of one entry have the same token, and answers of one entry come together. */
let lastToken = none;

function readToken(r: ProtoReader): Uint8Array {
  if (!r.isNext(lastToken)) lastToken = r.bytes();
  else r.skip();
  return lastToken;
}

export interface GetResponse {
  event: Event | undefined;
  servedBy: ServedBy;
}

export function readGetResponse(bytes: Uint8Array): GetResponse {
  const r = ProtoReader.ofCopy(bytes);
  let event: Event | undefined;
  let servedBy = nobody;
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) event = readNextEvent(r);
    else if (tag === 18) servedBy = r.message(readServedBy);
    else r.skip();
  }
  return { event, servedBy };
}

export interface BatchGetResponse {
  /** In the order of the request; undefined: no such channel or message. */
  readonly events: (Event | undefined)[];
  /** Places for which the answer had no room. */
  readonly deferred: number[];
  servedBy: ServedBy;
}

const absenceDeferred = 3;

export function readBatchGetResponse(bytes: Uint8Array): BatchGetResponse {
  const r = ProtoReader.ofCopy(bytes);
  const response: BatchGetResponse = { events: [], deferred: [], servedBy: nobody };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 18) response.servedBy = r.message(readServedBy);
    if (tag === 18) continue;
    if (tag !== 10) {
      r.skip();
      continue;
    }
    const { event, absence } = r.message(readBatchGetResult);
    if (absence === absenceDeferred) response.deferred.push(response.events.length);
    response.events.push(event);
  }
  return response;
}

function readBatchGetResult(r: ProtoReader): { event: Event | undefined; absence: number } {
  const result: { event: Event | undefined; absence: number } = { event: undefined, absence: 0 };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) result.event = readNextEvent(r);
    else if (tag === 16) result.absence = r.uint();
    else r.skip();
  }
  return result;
}

export function readAppendBatchResponse(bytes: Uint8Array): {
  results: AppendResponse[];
  commitToken: Uint8Array;
} {
  const r = new ProtoReader(bytes);
  const response = { results: [] as AppendResponse[], commitToken: none };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) response.results.push(r.message(readAppendResponse));
    else if (tag === 18) response.commitToken = r.bytes();
    else r.skip();
  }
  return response;
}

export interface ListResponse {
  events: Event[];
  nextPageToken: string;
  headSeq: number;
  servedBy: ServedBy;
  channelUid: string;
}

export function readListResponse(bytes: Uint8Array): ListResponse {
  const r = ProtoReader.ofCopy(bytes);
  // One page stays loaded until another one is.
  r.loadForHashes();
  const response: ListResponse = {
    events: [],
    nextPageToken: '',
    headSeq: 0,
    servedBy: nobody,
    channelUid: '',
  };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) response.events.push(readNextEvent(r));
    else if (tag === 18) response.nextPageToken = r.string();
    else if (tag === 24) response.headSeq = r.uint();
    else if (tag === 34) response.servedBy = r.message(readServedBy);
    else if (tag === 42) response.channelUid = r.string();
    else r.skip();
  }
  return response;
}

export function readOpenProducerResponse(bytes: Uint8Array): {
  producerId: number;
  partition: number;
  nextCounter: number;
  window: number;
} {
  const r = new ProtoReader(bytes);
  const response = { producerId: 0, partition: 0, nextCounter: 1, window: 1 };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) response.producerId = r.uint();
    else if (tag === 16) response.partition = r.uint();
    else if (tag === 24) response.nextCounter = r.uint();
    else if (tag === 32) response.window = r.uint();
    else r.skip();
  }
  return response;
}
