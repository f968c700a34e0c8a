/** GetInboxResponse: entries of several partitions and nodes, put together as they lie; a message goes out as it is stored. */
import { varintSize, Wire, WireReader, writeVarint } from '../common/wire.js';
import type { StoredEvent } from '../conversation/types.js';
import { eventSize, writeEvent } from './encode.js';
import type { Codecs } from './requests.js';

export interface InboxEntryFields {
  readonly name: string;
  /** hansard.v1.Channel; undefined: there is none of that name. */
  readonly channel?: object;
  readonly readSeq?: number;
  readonly unreadEvents?: number;
  readonly unreadMessages?: number;
  readonly moreUnread?: boolean;
  readonly last?: StoredEvent | undefined;
  /** hansard.v1.ServedBy. */
  readonly served: object;
}

const Tag = { entry: 0x0a, lastMessage: 0x3a } as const;

/** InboxEntry. */
export function encodeInboxEntry(codecs: Codecs, fields: InboxEntryFields): Uint8Array {
  const {
    name,
    channel,
    readSeq = 0,
    unreadEvents = 0,
    unreadMessages = 0,
    moreUnread = false,
    last,
    served,
  } = fields;
  const entry = codecs.encoder('hansard.v1.InboxEntry')({
    name,
    channel: channel ?? null,
    read_seq: readSeq,
    unread_events: unreadEvents,
    unread_messages: unreadMessages,
    more_unread: moreUnread,
    served_by: served,
  });
  if (last === undefined) return entry;
  const size = eventSize(last);
  const target = Buffer.allocUnsafe(entry.length + 1 + varintSize(size) + size);
  target.set(entry, 0);
  target[entry.length] = Tag.lastMessage;
  writeEvent(target, writeVarint(target, entry.length + 1, size), last);
  return target;
}

export function joinEntries(entries: readonly Uint8Array[]): Buffer {
  let size = 0;
  for (const { length } of entries) size += 1 + varintSize(length) + length;
  const target = Buffer.allocUnsafe(size);
  let at = 0;
  for (const entry of entries) {
    target[at] = Tag.entry;
    at = writeVarint(target, at + 1, entry.length);
    target.set(entry, at);
    at += entry.length;
  }
  return target;
}

/** The entries of another node's answer, as they lie. */
export function entriesOf(response: Uint8Array): Uint8Array[] {
  const reader = new WireReader(Buffer.from(response.buffer, response.byteOffset, response.length));
  const entries: Uint8Array[] = [];
  while (reader.next()) {
    if (reader.field !== 1 || reader.wire !== Wire.bytes) {
      reader.skip();
      continue;
    }
    reader.sized();
    entries.push(reader.bytes.subarray(reader.start, reader.position));
  }
  return entries;
}
