/** Durable subscriptions as the API tells them. */
import type { EventType } from './types.js';

/** Which events; all that are given must hold, none means all of the tenant. */
export interface SubscriptionSelector {
  readonly channels?: readonly string[];
  readonly prefix?: string;
  readonly label?: { readonly key: string; readonly value: string };
  readonly types?: readonly EventType[];
}

/** What is left out has its default. */
export interface SubscriptionSettings {
  readonly description?: string;
  /** How long a consumer may take for the first event that it has not acknowledged; default 30,000. */
  readonly ackDeadlineMs?: number;
  /** Deliveries after which an event becomes a dead letter; default 10, 0: never. */
  readonly maxDeliveries?: number;
  /** Before an event that failed is delivered again; default 1,000. */
  readonly retryDelayMs?: number;
  /** Channels with events that are taken and not acknowledged; default 1,000, which is also the most. */
  readonly maxPendingChannels?: number;
  /** Nothing is delivered. */
  readonly paused?: boolean;
}

export const idles = [
  'delivering',
  'caught-up',
  'paused',
  'consumers-busy',
  'waiting-to-retry',
  'dead-letters-full',
  'no-consumers',
  'reading',
] as const;

/** Why nothing is delivered, as far as the answering node knows. */
export type SubscriptionIdle = (typeof idles)[number];

export interface SubscriptionProgress {
  readonly idle: SubscriptionIdle;
  readonly pendingChannels: number;
  readonly pendingEvents: number;
  readonly leasedChannels: number;
  readonly deadLetters: number;
  readonly caughtUp: boolean;
  /** Age of the oldest event that is taken and not acknowledged; 0: none. */
  readonly oldestPendingMs: number;
  readonly lastProgressTimeUs: number;
  readonly consumers: number;
  readonly delivered: number;
  readonly redelivered: number;
  readonly acknowledged: number;
  readonly deadLettered: number;
  /** Index up to which all was taken, by partition. */
  readonly positions: ReadonlyMap<number, number>;
}

export interface SubscriptionInfo {
  readonly name: string;
  readonly uid: string;
  readonly selector: SubscriptionSelector;
  readonly settings: Required<SubscriptionSettings>;
  readonly createTimeUs: number;
  readonly updateTimeUs: number;
  readonly etag: string;
  readonly progress: SubscriptionProgress;
  readonly partition: number;
}

export interface PendingChannel {
  readonly channel: string;
  readonly acknowledgedSeq: number;
  readonly takenSeq: number;
  readonly deliveries: number;
  /** Empty: nobody has it. */
  readonly consumerId: string;
  readonly deliveredSeq: number;
  readonly deadlineUs: number;
  readonly retryTimeUs: number;
  readonly error: string;
  readonly replayedSeqs: readonly number[];
  readonly sinceUs: number;
}

export interface DeadLetter {
  readonly channel: string;
  readonly seq: number;
  readonly deliveries: number;
  readonly timeUs: number;
  readonly error: string;
}

export interface Start {
  readonly fromBeginning?: boolean | undefined;
  readonly fromTimeUs?: number | undefined;
  readonly resumeToken?: string | undefined;
}

export interface Credit {
  readonly events: number;
  readonly bytes: number;
}

export interface Ack {
  readonly channel: string;
  readonly lease: number;
  readonly seq: number;
}

export interface Nack {
  readonly channel: string;
  readonly lease: number;
  readonly delayMs?: number | undefined;
  readonly untried?: boolean | undefined;
  readonly error?: string | undefined;
}

export interface Extension {
  readonly channel: string;
  readonly lease: number;
  readonly byMs?: number | undefined;
}
