/** A consumer's stream, as bytes: what it says, and what it is told. Field numbers: proto/hansard/v1/subscription_service.proto. */
import { varintSize } from '../common/wire.js';
import { readTimestamp } from './content-decode.js';
import { readEvent } from './event-decode.js';
import type { Writable } from './response-parts.js';
import {
  nest,
  scratch,
  writeAck,
  writeCredit,
  writeEach,
  writeExtension,
  writeNack,
} from './subscription-requests.js';
import { each, readLeases, readProgress } from './subscription-responses.js';
import type { Ack, Credit, Extension, Nack, SubscriptionProgress } from './subscription-types.js';
import type { Event } from './types.js';
import { ProtoReader } from './wire-reader.js';

export interface ConsumeStart {
  readonly tenant: string;
  readonly name: string;
  readonly consumerId: string;
  readonly credit: Credit;
  readonly held: readonly { readonly lease: number; readonly seq: number }[];
  readonly maxBatch: number;
}

export interface Consume {
  readonly start?: ConsumeStart;
  readonly credit?: Credit | undefined;
  readonly acks?: readonly Ack[];
  readonly nacks?: readonly Nack[];
  readonly extensions?: readonly Extension[];
  readonly leaving?: boolean;
}

export function encodeConsume({ start, credit, acks, nacks, extensions, leaving }: Consume): Buffer {
  scratch.reset();
  scratch.bool(6, leaving);
  writeEach(5, extensions ?? [], writeExtension);
  writeEach(4, nacks ?? [], writeNack);
  writeEach(3, acks ?? [], writeAck);
  if (credit !== undefined) nest(2, () => writeCredit(credit));
  if (start !== undefined)
    nest(1, () => {
      scratch.uint(6, start.maxBatch);
      writeEach(5, start.held, ({ lease, seq }) => {
        scratch.uint(2, seq);
        scratch.uint(1, lease);
      });
      nest(4, () => writeCredit(start.credit));
      scratch.string(3, start.consumerId);
      scratch.string(2, start.name);
      scratch.string(1, start.tenant);
    });
  return scratch.copy();
}

export interface Delivery {
  readonly channel: string;
  readonly channelUid: string;
  readonly lease: number;
  readonly deliveries: number;
  readonly deadlineUs: number;
  readonly replayed: boolean;
  readonly events: readonly Event[];
  /** As the credits count it. */
  readonly bytes: number;
}

export type ConsumeUpdate =
  | { readonly kind: 'delivery'; readonly delivery: Delivery }
  | { readonly kind: 'progress'; readonly progress: SubscriptionProgress }
  | { readonly kind: 'lost'; readonly leases: readonly number[] }
  | { readonly kind: 'unknown' };

export function readConsumeResponse(bytes: Uint8Array): ConsumeUpdate {
  const r = ProtoReader.ofCopy(bytes);
  let update: ConsumeUpdate = { kind: 'unknown' };
  each(r, (tag) => {
    if (tag === 10) update = { kind: 'delivery', delivery: r.message(readDelivery) };
    else if (tag === 18) update = { kind: 'progress', progress: r.message(readProgress) };
    else if (tag === 26) update = { kind: 'lost', leases: r.message(readLeases) };
    else return false;
    return true;
  });
  return update;
}

function readDelivery(r: ProtoReader): Delivery {
  const events: Event[] = [];
  const delivery: Writable<Delivery> = {
    channel: '',
    channelUid: '',
    lease: 0,
    deliveries: 0,
    deadlineUs: 0,
    replayed: false,
    events,
    bytes: 0,
  };
  each(r, (tag) => {
    if (tag === 10) delivery.channel = r.string();
    else if (tag === 18) delivery.channelUid = r.string();
    else if (tag === 24) delivery.lease = r.uint();
    else if (tag === 32) delivery.deliveries = r.uint();
    else if (tag === 42) delivery.deadlineUs = r.message(readTimestamp);
    else if (tag === 48) delivery.replayed = r.bool();
    else if (tag === 58) {
      const before = r.position;
      events.push(r.message(readDeliveredEvent));
      delivery.bytes += withoutLength(r.position - before);
    } else return false;
    return true;
  });
  return delivery;
}

function readDeliveredEvent(r: ProtoReader): Event {
  return readEvent(r);
}

/** Of a field's value with its length before it: the value's bytes. */
function withoutLength(size: number): number {
  for (let prefix = 1; ; prefix++) if (varintSize(size - prefix) <= prefix) return size - prefix;
}
