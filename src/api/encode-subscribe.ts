/** Messages of Subscribe and FetchEvents, written by hand from stored records; tokens and uids are ASCII. */
import type { PartitionId } from '../common/ids.js';
import {
  varintFieldSize,
  varintSize,
  Wire,
  WireReader,
  writeVarint,
  writeVarintField,
} from '../common/wire.js';
import { eventSize, writeAscii, writeEvent } from './encode.js';
import type { FeedPart } from './feed.js';

const Tag = { resumeToken: 0x0a, events: 0x12, caughtUp: 0x22, heartbeat: 0x2a } as const;

/** SubscribedEvents. */
export function encodeFeedParts(partition: PartitionId, parts: readonly FeedPart[]): Buffer {
  const sizes: number[] = [];
  let total = varintFieldSize(partition);
  const partSizes = parts.map(({ channel, uid, events }) => {
    let size = sizedSize(Buffer.byteLength(channel)) + sizedSize(uid.length);
    for (const event of events) {
      const eventBytes = eventSize(event);
      sizes.push(eventBytes);
      size += sizedSize(eventBytes);
    }
    total += sizedSize(size);
    return size;
  });
  const target = Buffer.allocUnsafe(total);
  let at = 0;
  let next = 0;
  for (const [i, { channel, uid, events }] of parts.entries()) {
    target[at++] = 0x0a;
    at = writeVarint(target, at, partSizes[i] as number);
    target[at++] = 0x0a;
    at = writeVarint(target, at, Buffer.byteLength(channel));
    at += target.write(channel, at);
    at = writeAscii(target, at, 0x12, uid);
    for (const event of events) {
      target[at++] = 0x1a;
      at = writeVarint(target, at, sizes[next++] as number);
      at = writeEvent(target, at, event);
    }
  }
  writeVarintField(target, at, 0x10, partition);
  return target;
}

/** How many events a SubscribedEvents has. */
export function eventsIn(subscribed: Buffer): number {
  let count = 0;
  const parts = new WireReader(subscribed);
  while (parts.next()) {
    if (parts.field !== 1 || parts.wire !== Wire.bytes) {
      parts.skip();
      continue;
    }
    parts.sized();
    const part = new WireReader(subscribed, parts.start, parts.position);
    for (; part.next(); part.skip()) if (part.field === 3) count++;
  }
  return count;
}

/** SubscribeResponse with events that were encoded by `encodeFeedParts`, here or on another node. */
export function encodeSubscribed(token: string, events: Uint8Array): Buffer {
  return response(token, Tag.events, events);
}

export function encodeSubscribeCaughtUp(token: string, nodeId: number): Buffer {
  const body = Buffer.allocUnsafe(varintFieldSize(nodeId));
  writeVarintField(body, 0, 0x08, nodeId);
  return response(token, Tag.caughtUp, body);
}

export function encodeSubscribeHeartbeat(token: string): Buffer {
  return response(token, Tag.heartbeat, new Uint8Array(0));
}

/** FetchEventsResponse; its events as they lie. */
export function encodeFetched(events: Uint8Array | undefined, place: string, atEnd: boolean): Buffer {
  const size = events === undefined ? 0 : sizedSize(events.length);
  const target = Buffer.allocUnsafe(size + sizedSize(place.length) + (atEnd ? 2 : 0));
  let at = 0;
  if (events !== undefined) {
    target[at++] = 0x0a;
    at = writeVarint(target, at, events.length);
    target.set(events, at);
    at += events.length;
  }
  at = writeAscii(target, at, 0x12, place);
  if (atEnd) writeVarintField(target, at, 0x18, 1);
  return target;
}

export interface FetchedEvents {
  /** SubscribedEvents; undefined: none. */
  readonly events: Buffer | undefined;
  readonly place: string;
  readonly atEnd: boolean;
}

/** What another node has encoded. */
export function decodeFetched(bytes: Uint8Array): FetchedEvents {
  const reader = new WireReader(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length));
  let events: Buffer | undefined;
  let place = '';
  let atEnd = false;
  while (reader.next()) {
    if (reader.field === 3 && reader.wire === Wire.varint) atEnd = reader.varint() === 1;
    else if ((reader.field === 1 || reader.field === 2) && reader.wire === Wire.bytes) {
      reader.sized();
      const field = reader.bytes.subarray(reader.start, reader.position);
      if (reader.field === 1) events = field;
      else place = field.toString('latin1');
    } else reader.skip();
  }
  return { events, place, atEnd };
}

function response(token: string, tag: number, body: Uint8Array): Buffer {
  const target = Buffer.allocUnsafe(sizedSize(token.length) + sizedSize(body.length));
  let at = writeAscii(target, 0, Tag.resumeToken, token);
  target[at++] = tag;
  at = writeVarint(target, at, body.length);
  target.set(body, at);
  return target;
}

function sizedSize(size: number): number {
  return 1 + varintSize(size) + size;
}
