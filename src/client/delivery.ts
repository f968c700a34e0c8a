/** Deliveries: the protocol's bytes, and what they come to. Field numbers: proto/hansard/v1/delivery_service.proto. */
import { limits } from '../common/limits.js';
import { invalid } from './check-input.js';
import { readTimestamp } from './content-decode.js';
import { limited } from './content-encode.js';
import { writeReadOptions } from './requests.js';
import { nobody, readServedBy, type Writable } from './response-parts.js';
import type { ReadOptions, ServedBy } from './types.js';
import { BackWriter } from './wire.js';
import { ProtoReader } from './wire-reader.js';

/** How far an event has got with one recipient. */
export type DeliveryState = 'pending' | 'delivered' | 'failed';

/** An event that could not be delivered. */
export interface FailedEvent {
  readonly seq: number;
  /** At most 256 bytes are kept. */
  readonly reason: string;
  /** How often it was tried. */
  readonly attempts: number;
}

/** How far a channel's events have got with one recipient. */
export interface Delivery {
  /** The application's own id. */
  readonly recipient: string;
  /** Every event up to this one is delivered, but for `failed`; 0: none. */
  readonly upToSeq: number;
  /** Ascending. */
  readonly failed: readonly (FailedEvent & { readonly reportTimeUs: number })[];
  readonly pendingEvents: number;
  /** 0: nothing was ever reported. */
  readonly reportTimeUs: number;
  /** Of the event that was asked for; undefined where none was. */
  readonly state: DeliveryState | undefined;
}

export interface DeliveryReport {
  /** Done with, but for `failed`; a lower one than before changes nothing. */
  readonly upToSeq?: number;
  /** Those up to `upToSeq` that could not be delivered, at most 100. */
  readonly failed?: readonly FailedEvent[];
  /** Those that had failed and are delivered now, at most 100. */
  readonly recovered?: readonly number[];
}

export interface ReportedDelivery {
  readonly delivery: Delivery;
  /** The channel's last event. */
  readonly headSeq: number;
  readonly commitToken: Uint8Array;
}

export interface DeliveryQuery {
  /** Tells the state of this event. */
  readonly seq?: number;
  /** Likewise, by the application's own id. */
  readonly messageId?: string;
  /** Only this one; it need not have reported. */
  readonly recipient?: string;
  /** Default 100, at most 1,000. */
  readonly pageSize?: number;
  readonly pageToken?: string;
}

export interface DeliveryPage {
  /** By recipient: whoever has reported, and participants that have not. */
  readonly deliveries: readonly Delivery[];
  /** Empty: there are no more. */
  readonly nextPageToken: string;
  readonly headSeq: number;
  /** The event that was asked for; 0: none. */
  readonly seq: number;
  readonly servedBy: ServedBy;
}

const scratch = new BackWriter(4 * 1024);
const reasonBytesMax = 256;

export function requireRecipient(recipient: string): void {
  if (typeof recipient !== 'string' || recipient === '')
    throw invalid('recipient', 'must be a text that is not empty');
  limited(recipient, 'recipient', limits.idBytes, 'INVALID_NAME');
}

export function encodeReportDelivery(
  prefix: Uint8Array,
  recipient: string,
  { upToSeq, failed = [], recovered = [] }: DeliveryReport,
): Buffer {
  requireRecipient(recipient);
  scratch.reset();
  for (let i = recovered.length - 1; i >= 0; i--) scratch.uintAlways(6, recovered[i] as number);
  for (let i = failed.length - 1; i >= 0; i--) {
    const { seq, reason, attempts } = failed[i] as FailedEvent;
    const mark = scratch.length;
    scratch.uint(3, attempts);
    scratch.string(2, cut(reason));
    scratch.uint(1, seq);
    scratch.nested(5, mark);
  }
  scratch.uint(4, upToSeq);
  scratch.string(3, recipient);
  scratch.raw(prefix);
  return scratch.copy();
}

/** To whole characters. */
function cut(reason: string): string {
  const bytes = Buffer.from(reason);
  if (bytes.length <= reasonBytesMax) return reason;
  let end = reasonBytesMax;
  while (((bytes[end] as number) & 0xc0) === 0x80) end--;
  return bytes.toString('utf8', 0, end);
}

export function encodeListDeliveries(
  prefix: Uint8Array,
  { seq, messageId, recipient, pageSize, pageToken }: DeliveryQuery,
  read: ReadOptions,
): Buffer {
  if (recipient !== undefined) requireRecipient(recipient);
  scratch.reset();
  writeReadOptions(scratch, 8, read);
  scratch.string(7, pageToken);
  scratch.uint(6, pageSize);
  scratch.string(5, recipient);
  if (messageId !== undefined) scratch.stringAlways(4, messageId);
  else if (seq !== undefined) scratch.uintAlways(3, seq);
  scratch.raw(prefix);
  return scratch.copy();
}

export function readReportedDelivery(bytes: Uint8Array): ReportedDelivery {
  const r = ProtoReader.ofCopy(bytes);
  let delivery = nothingKnown();
  let headSeq = 0;
  let commitToken: Uint8Array = new Uint8Array(0);
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) delivery = r.message(readDelivery);
    else if (tag === 16) headSeq = r.uint();
    else if (tag === 26) commitToken = r.bytes();
    else r.skip();
  }
  return { delivery, headSeq, commitToken };
}

export function readDeliveryPage(bytes: Uint8Array): DeliveryPage {
  const r = ProtoReader.ofCopy(bytes);
  const deliveries: Delivery[] = [];
  const page = { nextPageToken: '', headSeq: 0, seq: 0, servedBy: nobody };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) deliveries.push(r.message(readDelivery));
    else if (tag === 18) page.nextPageToken = r.string();
    else if (tag === 24) page.headSeq = r.uint();
    else if (tag === 32) page.seq = r.uint();
    else if (tag === 42) page.servedBy = r.message(readServedBy);
    else r.skip();
  }
  return { ...page, deliveries };
}

function nothingKnown(): Writable<Delivery> {
  return { recipient: '', upToSeq: 0, failed: [], pendingEvents: 0, reportTimeUs: 0, state: undefined };
}

function readDelivery(r: ProtoReader): Delivery {
  const delivery = nothingKnown();
  const failed: Delivery['failed'][number][] = [];
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 10) delivery.recipient = r.string();
    else if (tag === 16) delivery.upToSeq = r.uint();
    else if (tag === 26) failed.push(r.message(readFailed));
    else if (tag === 32) delivery.pendingEvents = r.uint();
    else if (tag === 42) delivery.reportTimeUs = r.message(readTimestamp);
    else if (tag === 48) delivery.state = states[r.uint()];
    else r.skip();
  }
  return { ...delivery, failed };
}

/** By number of hansard.v1.DeliveryState. */
const states: readonly (DeliveryState | undefined)[] = [undefined, 'pending', 'delivered', 'failed'];

function readFailed(r: ProtoReader): Delivery['failed'][number] {
  const failed = { seq: 0, reason: '', attempts: 0, reportTimeUs: 0 };
  for (let tag = r.next(); tag !== 0; tag = r.next()) {
    if (tag === 8) failed.seq = r.uint();
    else if (tag === 18) failed.reason = r.string();
    else if (tag === 24) failed.attempts = r.uint();
    else if (tag === 34) failed.reportTimeUs = r.message(readTimestamp);
    else r.skip();
  }
  return failed;
}
