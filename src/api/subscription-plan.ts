/** What one step of a durable subscription's leader is to write down, gathered before it is proposed. */
import type { Seq } from '../common/ids.js';
import type { StepOp } from '../conversation/subscription-command.js';
import type { SubscriptionSettings } from '../conversation/subscription-state.js';
import type { Consumer } from './subscription-consumer.js';
import type { HeldEvent } from './subscription-events.js';

type Ack = Extract<StepOp, { kind: 'ack' }>;
type Nack = Extract<StepOp, { kind: 'nack' }>;
type Extend = Extract<StepOp, { kind: 'extend' }>;
/** What a consumer says of a lease; times that it leaves open are those of the settings. */
export type Note =
  | Ack
  | (Omit<Nack, 'delayMs'> & { readonly delayMs: number | undefined })
  | (Omit<Extend, 'byMs'> & { readonly byMs: number | undefined });

export interface Delivery {
  readonly channel: string;
  readonly uid: string;
  readonly deliveries: number;
  readonly replayed: boolean;
  readonly events: readonly HeldEvent[];
}

export interface PlannedLease extends Delivery {
  /** Its place among the step's ops. */
  readonly op: number;
  readonly consumer: Consumer;
}

/** Notes come first, in their order. */
export class Plan {
  readonly ops: StepOp[] = [];
  readonly leases: PlannedLease[] = [];
  /** Channels that something else of this step is about: no lease is planned on what they will be. */
  readonly touched = new Set<string>();
  /** Channels that this step takes up. */
  readonly fresh = new Map<string, { readonly acked: Seq; readonly to: Seq }>();
  /** Up to where this step's pages have taken each channel. */
  readonly taken = new Map<string, { readonly to: Seq }>();
  isReading = false;
  hasWaiting = false;
  hasRetries = false;
  deadAreFull = false;

  note(note: Note, { retryDelayMs, ackDeadlineMs }: SubscriptionSettings): void {
    if (note.kind === 'ack') this.add(note);
    else if (note.kind === 'nack') this.add({ ...note, delayMs: note.delayMs ?? retryDelayMs });
    else this.add({ ...note, byMs: note.byMs ?? ackDeadlineMs });
  }

  add(op: Exclude<StepOp, { kind: 'take' }>): void {
    this.touched.add(op.channel);
    this.ops.push(op);
  }

  giveBack(channel: string, lease: number, error: string, counted: boolean): void {
    this.add({ kind: 'nack', channel, lease, delayMs: 0, counted, error });
  }

  lease(
    consumer: Consumer,
    channel: string,
    uid: string,
    events: readonly HeldEvent[],
    deliveries: number,
    replayed: boolean,
  ): void {
    const toSeq = (events.at(-1) as HeldEvent).seq;
    consumer.spend(events);
    const op = this.ops.push({ kind: 'lease', channel, consumer: consumer.id, toSeq }) - 1;
    this.leases.push({ op, consumer, channel, uid, deliveries, replayed, events });
  }

  refund(): void {
    for (const { consumer, events } of this.leases) consumer.refund(events);
  }
}
