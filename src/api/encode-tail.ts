/** Messages of TailChannel, written by hand from stored records; tokens and uids are ASCII. */
import { varintFieldSize, varintSize, writeVarint, writeVarintField } from '../common/wire.js';
import type { StoredEvent } from '../conversation/types.js';
import { eventSize, type Served, servedSize, writeAscii, writeEvent, writeServed } from './encode.js';

const Tag = { resumeToken: 0x0a, events: 0x12, caughtUp: 0x22, heartbeat: 0x2a } as const;

export function encodeTailEvents(token: string, events: readonly StoredEvent[], channelUid: string): Buffer {
  const sizes = new Array<number>(events.length);
  let inner = textSize(channelUid);
  for (let i = 0; i < events.length; i++) {
    const size = eventSize(events[i] as StoredEvent);
    sizes[i] = size;
    inner += 1 + varintSize(size) + size;
  }
  const { target, at: start } = begin(token, Tag.events, inner);
  let at = start;
  for (let i = 0; i < events.length; i++) {
    target[at++] = 0x0a;
    at = writeVarint(target, at, sizes[i] as number);
    at = writeEvent(target, at, events[i] as StoredEvent);
  }
  writeAscii(target, at, 0x12, channelUid);
  return target;
}

export function encodeCaughtUp(token: string, headSeq: number, channelUid: string, served: Served): Buffer {
  const from = servedSize(served);
  const inner = varintFieldSize(headSeq) + textSize(channelUid) + 1 + varintSize(from) + from;
  const { target, at: start } = begin(token, Tag.caughtUp, inner);
  let at = writeVarintField(target, start, 0x08, headSeq);
  at = writeAscii(target, at, 0x12, channelUid);
  writeServed(target, at, 0x1a, served, from);
  return target;
}

export function encodeHeartbeat(token: string): Buffer {
  return begin(token, Tag.heartbeat, 0).target;
}

/** A message of the right size whose token and head of the update are written. */
function begin(token: string, tag: number, inner: number): { target: Buffer; at: number } {
  const target = Buffer.allocUnsafe(textSize(token) + 1 + varintSize(inner) + inner);
  let at = writeAscii(target, 0, Tag.resumeToken, token);
  target[at++] = tag;
  at = writeVarint(target, at, inner);
  return { target, at };
}

function textSize(text: string): number {
  return text === '' ? 0 : 1 + varintSize(text.length) + text.length;
}
