/** Read cursors and inboxes: the protocol's bytes, and what they come to. Field numbers: proto/hansard/v1/inbox_service.proto. */
import { limits } from '../common/limits.js';
import { readChannel } from './channel-responses.js';
import { invalid } from './check-input.js';
import { readTimestamp } from './content-decode.js';
import { limited } from './content-encode.js';
import { readEvent } from './event-decode.js';
import { requireChannelName, writeReadOptions } from './requests.js';
import { nobody, readServedBy, type Writable } from './response-parts.js';
import type { ChannelInfo, Event, ReadOptions, ServedBy } from './types.js';
import { BackWriter } from './wire.js';
import { ProtoReader } from './wire-reader.js';

/** How far a reader has got in a channel. */
export interface ReadCursor {
  /** The application's own id of who reads. */
  readonly reader: string;
  /** The last event that was read; 0: none. */
  readonly seq: number;
  readonly moveTimeUs: number;
}

export interface MovedCursor {
  readonly cursor: ReadCursor;
  /** The channel's last event. */
  readonly headSeq: number;
  readonly commitToken: Uint8Array;
}

export interface CursorPage {
  readonly cursors: readonly ReadCursor[];
  /** Empty: there are no more. */
  readonly nextPageToken: string;
  readonly headSeq: number;
  readonly servedBy: ServedBy;
}

/** One channel as its reader sees it. */
export interface InboxEntry {
  readonly name: string;
  /** Undefined: there is no channel of that name. */
  readonly channel: ChannelInfo | undefined;
  readonly readSeq: number;
  readonly unreadEvents: number;
  readonly unreadMessages: number;
  /** There may be more unread messages than that: show it as `100+`. */
  readonly moreUnread: boolean;
  readonly lastMessage: Event | undefined;
  readonly servedBy: ServedBy;
}

const scratch = new BackWriter(4 * 1024);

function writeReader(reader: string): void {
  if (typeof reader !== 'string' || reader === '')
    throw invalid('reader', 'must be a text that is not empty');
  limited(reader, 'reader', limits.idBytes, 'INVALID_NAME');
}

export function encodeMoveCursor(
  prefix: Uint8Array,
  reader: string,
  seq: number,
  allowBack: boolean,
  requestId: string,
): Buffer {
  if (!Number.isSafeInteger(seq) || seq < 0) throw invalid('seq', 'must be a whole number of at least 0');
  writeReader(reader);
  scratch.reset();
  scratch.string(6, requestId);
  scratch.bool(5, allowBack);
  scratch.uint(4, seq);
  scratch.string(3, reader);
  scratch.raw(prefix);
  return scratch.copy();
}

export function encodeListCursors(
  prefix: Uint8Array,
  { pageSize, pageToken }: { readonly pageSize?: number; readonly pageToken?: string },
  read: ReadOptions,
): Buffer {
  scratch.reset();
  writeReadOptions(scratch, 5, read);
  scratch.string(4, pageToken);
  scratch.uint(3, pageSize);
  scratch.raw(prefix);
  return scratch.copy();
}

export function encodeInbox(
  tenant: string,
  reader: string,
  channels: readonly string[],
  withoutLastMessage: boolean,
  read: ReadOptions,
): Buffer {
  writeReader(reader);
  scratch.reset();
  writeReadOptions(scratch, 5, read);
  scratch.bool(4, withoutLastMessage);
  for (let i = channels.length - 1; i >= 0; i--) {
    requireChannelName(channels[i] as string);
    scratch.string(3, channels[i]);
  }
  scratch.string(2, reader);
  scratch.string(1, tenant);
  return scratch.copy();
}

export function readMovedCursor(bytes: Uint8Array): MovedCursor {
  const r = ProtoReader.ofCopy(bytes);
  let cursor: ReadCursor = { reader: '', seq: 0, moveTimeUs: 0 };
  let headSeq = 0;
  let commitToken: Uint8Array = new Uint8Array(0);
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) cursor = r.message(readCursor);
    else if (tag === 16) headSeq = r.uint();
    else if (tag === 26) commitToken = r.bytes();
    else r.skip();
  }
  return { cursor, headSeq, commitToken };
}

function readCursor(r: ProtoReader): ReadCursor {
  const cursor: Writable<ReadCursor> = { reader: '', seq: 0, moveTimeUs: 0 };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) cursor.reader = r.string();
    else if (tag === 16) cursor.seq = r.uint();
    else if (tag === 26) cursor.moveTimeUs = r.message(readTimestamp);
    else r.skip();
  }
  return cursor;
}

export function readCursorPage(bytes: Uint8Array): CursorPage {
  const r = ProtoReader.ofCopy(bytes);
  const cursors: ReadCursor[] = [];
  const page = { nextPageToken: '', headSeq: 0, servedBy: nobody };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) cursors.push(r.message(readCursor));
    else if (tag === 18) page.nextPageToken = r.string();
    else if (tag === 24) page.headSeq = r.uint();
    else if (tag === 34) page.servedBy = r.message(readServedBy);
    else r.skip();
  }
  return { ...page, cursors };
}

export function readInboxResponse(bytes: Uint8Array): {
  entries: InboxEntry[];
  servedBy: readonly ServedBy[];
} {
  const r = ProtoReader.ofCopy(bytes);
  const entries: InboxEntry[] = [];
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) entries.push(r.message(readInboxEntry));
    else r.skip();
  }
  return { entries, servedBy: entries.map((entry) => entry.servedBy) };
}

function readInboxEntry(r: ProtoReader): InboxEntry {
  const entry: Writable<InboxEntry> = {
    name: '',
    channel: undefined,
    readSeq: 0,
    unreadEvents: 0,
    unreadMessages: 0,
    moreUnread: false,
    lastMessage: undefined,
    servedBy: nobody,
  };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) entry.name = r.string();
    else if (tag === 18) entry.channel = r.message(readChannel);
    else if (tag === 24) entry.readSeq = r.uint();
    else if (tag === 32) entry.unreadEvents = r.uint();
    else if (tag === 40) entry.unreadMessages = r.uint();
    else if (tag === 48) entry.moreUnread = r.bool();
    else if (tag === 58) entry.lastMessage = r.message(readEvent);
    else if (tag === 66) entry.servedBy = r.message(readServedBy);
    else r.skip();
  }
  return entry;
}
