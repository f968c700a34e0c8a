/**
 * Encoded events that a subscription's leader has at hand, by channel: what feeds brought, and what was read again.
 * Bounded: what has no room is read when it is due.
 */
import type { Seq, TimeUs } from '../common/ids.js';
import { Wire, WireReader } from '../common/wire.js';

export interface HeldEvent {
  readonly seq: Seq;
  readonly type: number;
  readonly timeUs: TimeUs;
  /** hansard.v1.Event. */
  readonly bytes: Buffer;
}

/** All that is wanted of the channel in [from, through]. */
export interface HeldRange {
  readonly uid: string;
  readonly from: Seq;
  readonly through: Seq;
  readonly events: readonly HeldEvent[];
}

export interface FedChannel {
  readonly channel: string;
  readonly uid: string;
  readonly events: readonly HeldEvent[];
}

/** Per subscription; a message has at most 1 MiB. */
const heldBytesMax = 8 * 1024 * 1024;
/** Of one channel, where feeds go on bringing more of it: what is due later is read when it is due. */
const channelBytesMax = heldBytesMax / 4;

interface Held {
  readonly range: HeldRange;
  /** Events up to here were handed out: they are asked for again only where something failed. */
  readonly sentTo: Seq;
  /** It was read because it was due. */
  readonly isDue: boolean;
  readonly bytes: number;
  /** Of those that were not handed out. */
  readonly waitingBytes: number;
}

export class HeldEvents {
  /** The oldest first. */
  readonly #channels = new Map<string, Held>();
  #bytes = 0;
  #waitingBytes = 0;

  /** Of events that nobody was given yet. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** What feeds bring, behind what is there. What was there before is due first and stays: there may be no room for more. */
  add(channel: string, range: HeldRange): void {
    const known = this.#channels.get(channel);
    const isMore = known !== undefined && range.from > known.range.from;
    if (isMore && !follows(known.range, range)) return;
    const bytes = sizeOf(range.events);
    if (isMore && known.bytes + bytes > channelBytesMax) return;
    if (!this.#hasRoom(bytes)) return;
    // Making room may have given up what this would be joined to.
    const before = this.#channels.get(channel);
    const next = isMore && before !== undefined ? joined(before.range, range) : range;
    this.#set(channel, next, known?.sentTo, before?.isDue);
  }

  /** What is due now and was read: it takes the place of what is there, where it is not joined to it, and of what is due later. */
  put(channel: string, range: HeldRange): void {
    const known = this.#channels.get(channel);
    const isMore = known !== undefined && range.from > known.range.from && follows(known.range, range);
    const fits = isMore && known.bytes + sizeOf(range.events) <= channelBytesMax;
    const next = fits ? joined(known.range, range) : range;
    this.drop(channel);
    const bytes = sizeOf(next.events);
    if (!this.#hasRoom(bytes)) this.#makeRoom(bytes);
    this.#set(channel, next, fits ? known.sentTo : 0, true);
  }

  /** What is wanted from `from` on, up to `to`; undefined: it must be read. */
  range(channel: string, from: Seq, to: Seq): HeldRange | undefined {
    const known = this.#channels.get(channel)?.range;
    if (known === undefined || known.from > from || known.through < from) return undefined;
    const through = Math.min(known.through, to);
    return {
      uid: known.uid,
      from,
      through,
      events: known.events.filter(({ seq }) => seq >= from && seq <= to),
    };
  }

  /** Events up to `seq` were handed out. */
  sent(channel: string, seq: Seq): void {
    const known = this.#channels.get(channel);
    if (known !== undefined && seq > known.sentTo) this.#set(channel, known.range, seq, known.isDue);
  }

  /** Nothing up to `seq` is asked for any more. */
  release(channel: string, seq: Seq): void {
    const known = this.#channels.get(channel);
    if (known === undefined || known.range.from > seq) return;
    if (known.range.through <= seq) this.drop(channel);
    else this.#set(channel, behind(known.range, seq), known.sentTo, known.isDue);
  }

  drop(channel: string): void {
    const known = this.#channels.get(channel);
    if (known === undefined) return;
    this.#bytes -= known.bytes;
    this.#waitingBytes -= known.waitingBytes;
    this.#channels.delete(channel);
  }

  clear(): void {
    this.#channels.clear();
    this.#bytes = 0;
    this.#waitingBytes = 0;
  }

  /** Keeps its place in the order where it was there before. */
  #set(channel: string, range: HeldRange, sentTo: Seq = 0, isDue = false): void {
    const before = this.#channels.get(channel);
    const bytes = sizeOf(range.events);
    const waitingBytes = sentTo === 0 ? bytes : sizeOf(range.events.filter(({ seq }) => seq > sentTo));
    this.#bytes += bytes - (before?.bytes ?? 0);
    this.#waitingBytes += waitingBytes - (before?.waitingBytes ?? 0);
    this.#channels.set(channel, { range, sentTo, isDue, bytes, waitingBytes });
  }

  /** What was handed out makes room first: whoever needs it again reads it. */
  #hasRoom(bytes: number): boolean {
    if (this.#bytes + bytes <= heldBytesMax) return true;
    for (const [channel, { range, sentTo }] of this.#channels) {
      if (this.#bytes <= heldBytesMax / 2) break;
      if (sentTo >= range.from) this.release(channel, Math.min(sentTo, range.through));
    }
    return this.#bytes + bytes <= heldBytesMax || this.#channels.size === 0;
  }

  /** What came last is due last; what is due now goes only for its like. */
  #makeRoom(bytes: number): void {
    const channels = [...this.#channels].reverse();
    for (const isDue of [false, true]) {
      for (const [channel, held] of channels) {
        if (this.#bytes + bytes <= heldBytesMax) return;
        if (held.isDue === isDue) this.drop(channel);
      }
    }
  }
}

function follows(known: HeldRange, range: HeldRange): boolean {
  return range.from <= known.through + 1;
}

function behind(range: HeldRange, seq: Seq): HeldRange {
  return { ...range, from: seq + 1, events: range.events.filter((event) => event.seq > seq) };
}

function joined(known: HeldRange, range: HeldRange): HeldRange {
  return {
    ...range,
    from: known.from,
    through: Math.max(known.through, range.through),
    events: [...known.events, ...range.events.filter(({ seq }) => seq > known.through)],
  };
}

function sizeOf(events: readonly HeldEvent[]): number {
  let bytes = 0;
  for (const event of events) bytes += event.bytes.length + 80;
  return bytes;
}

/** Of SubscribedEvents; the events are copied: a stuck channel must not hold a whole page. */
export function readFed(bytes: Buffer): FedChannel[] {
  const channels: FedChannel[] = [];
  const reader = new WireReader(bytes);
  while (reader.next()) {
    if (reader.field !== 1 || reader.wire !== Wire.bytes) reader.skip();
    else {
      reader.sized();
      channels.push(readChannelEvents(Buffer.from(bytes.subarray(reader.start, reader.position))));
    }
  }
  return channels;
}

function readChannelEvents(bytes: Buffer): FedChannel {
  const reader = new WireReader(bytes);
  const events: HeldEvent[] = [];
  let channel = '';
  let uid = '';
  while (reader.next()) {
    if (reader.wire !== Wire.bytes || reader.field > 3) {
      reader.skip();
      continue;
    }
    reader.sized();
    const field = bytes.subarray(reader.start, reader.position);
    if (reader.field === 1) channel = field.toString('utf8');
    else if (reader.field === 2) uid = field.toString('latin1');
    else events.push(readEvent(field));
  }
  return { channel, uid, events };
}

/** A page of ListMessagesResponse. */
export function readListed(response: Uint8Array): {
  readonly uid: string;
  readonly events: HeldEvent[];
  readonly more: boolean;
} {
  const bytes = Buffer.from(response);
  const reader = new WireReader(bytes);
  const events: HeldEvent[] = [];
  let uid = '';
  let more = false;
  while (reader.next()) {
    if (reader.wire !== Wire.bytes) {
      reader.skip();
      continue;
    }
    reader.sized();
    const field = bytes.subarray(reader.start, reader.position);
    if (reader.field === 1) events.push(readEvent(field));
    else if (reader.field === 2) more = field.length > 0;
    else if (reader.field === 5) uid = field.toString('latin1');
  }
  return { uid, events, more };
}

function readEvent(bytes: Buffer): HeldEvent {
  const reader = new WireReader(bytes);
  let seq = 0;
  let type = 0;
  let timeUs = 0;
  while (reader.next()) {
    if (reader.field === 1 && reader.wire === Wire.varint) seq = reader.varint();
    else if (reader.field === 2 && reader.wire === Wire.varint) type = reader.varint();
    else if (reader.field === 3 && reader.wire === Wire.bytes) {
      reader.sized();
      timeUs = readTime(bytes.subarray(reader.start, reader.position));
      // Fields are written in their order: what follows is not looked at.
      break;
    } else reader.skip();
  }
  return { seq, type, timeUs, bytes };
}

function readTime(bytes: Buffer): TimeUs {
  const reader = new WireReader(bytes);
  let timeUs = 0;
  while (reader.next()) {
    if (reader.wire !== Wire.varint) reader.skip();
    else if (reader.field === 1) timeUs += reader.varint() * 1e6;
    else timeUs += Math.floor(reader.varint() / 1_000);
  }
  return timeUs;
}
