/**
 * Following many channels, from any node; how streams are taken up again is in following.ts.
 */
import { HansardError, reasons } from '../common/errors.js';
import { invalid } from './check-input.js';
import { readSubscribeResponse, type SubscribedEvents, type SubscribeResponse } from './follow-responses.js';
import { type FollowOptions, follow, type Place } from './following.js';
import type { Link } from './link.js';
import { MessageStream, withCredit } from './message-stream.js';
import { encodeSubscribe, type SubscribeFilter } from './requests.js';
import type { Router } from './router.js';
import type { Event } from './types.js';

/** `flow` of SubscribeRequest. */
const flowField = 12;

export interface SubscribeOptions extends SubscribeFilter, FollowOptions {
  /** Begins with the first event of every channel. */
  readonly fromBeginning?: boolean;
  /** Begins with the first event of every channel that was committed at or after this time. */
  readonly fromTime?: Date | { readonly timeUs: number };
  /** Goes on where another subscription with the same filter ended. */
  readonly resumeToken?: string;
  /** Events in one update; default 500, at most 1,000. */
  readonly maxBatch?: number;
}

export type SubscriptionUpdate =
  | {
      readonly kind: 'events';
      readonly channels: readonly SubscribedEvents[];
      /** Behind these events: keep it with what they led to. */
      readonly resumeToken: string;
    }
  | {
      /** All that the answering node has was handed out. */
      readonly kind: 'caught-up';
      readonly nodeId: number;
      readonly resumeToken: string;
    }
  | {
      /** The stream broke; it is taken up again by itself. */
      readonly kind: 'interrupted';
      readonly error: HansardError;
    };

export interface SubscribedEvent {
  readonly channel: string;
  readonly channelUid: string;
  readonly event: Event;
}

/**
 * Events of many channels as they come: iterate over events, or over `updates()`, which
 * carry resume tokens. Every iteration is a stream of its own; leaving the loop ends it.
 * @example
 * for await (const { channel, event } of client.subscribe({ fromBeginning: true })) index(channel, event);
 */
export class Subscription implements AsyncIterable<SubscribedEvent> {
  readonly #router: Router;
  readonly #tenant: string;
  readonly #options: SubscribeOptions;

  /** Made by `client.subscribe()`. */
  constructor(router: Router, tenant: string, options: SubscribeOptions) {
    const { fromBeginning, fromTime, resumeToken } = options;
    const starts = [fromBeginning || undefined, fromTime, resumeToken].filter((each) => each !== undefined);
    if (starts.length > 1) throw invalid('fromBeginning', 'one of fromBeginning, fromTime and resumeToken');
    this.#router = router;
    this.#tenant = tenant;
    this.#options = options;
    // What can't be encoded is told here.
    this.#request({ token: resumeToken, isFirst: true });
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<SubscribedEvent, void, void> {
    for await (const update of this.updates()) {
      if (update.kind !== 'events') continue;
      for (const { channel, channelUid, events } of update.channels)
        for (const event of events) yield { channel, channelUid, event };
    }
  }

  /** Rejects what no retry can mend (TOKEN_TOO_OLD …), UNREACHABLE and the like before the first answer alone, CLIENT_CLOSED. */
  async *updates(): AsyncGenerator<SubscriptionUpdate, void, void> {
    const place: Place = { token: this.#options.resumeToken, isFirst: true };
    const seen = new Map<string, number>();
    yield* follow(this.#router, this.#options, {
      place,
      open: () => this.#open(place),
      check: (update: NonNullable<SubscribeResponse['update']>) => {
        if (update.kind === 'events') checkOrder(seen, update.channels);
      },
    });
  }

  async #open(place: Place): Promise<MessageStream<SubscribeResponse> | HansardError> {
    const link: Link = this.#router.routed({}, 0);
    const { credit } = this.#options;
    const stream = await link.stream(
      'hansard.v1.EventService/Subscribe',
      withCredit(this.#request(place), flowField, credit),
      credit !== undefined,
    );
    if (stream instanceof HansardError) {
      this.#router.refresh();
      return stream;
    }
    const fail = (error: HansardError): void => {
      // One that is cut off would take the subscription back, with no more than it has.
      this.#router.passOver(link.address, error);
      if (reasons[error.reason].retry === 'yes') this.#router.refresh();
    };
    const eventsOf = ({ update }: SubscribeResponse): number =>
      update?.kind === 'events' ? update.channels.reduce((sum, { events }) => sum + events.length, 0) : 0;
    const held = credit === undefined ? undefined : { credit, field: flowField, eventsOf };
    return new MessageStream(stream, readSubscribeResponse, fail, held);
  }

  #request(place: Place): Uint8Array {
    const { fromTime, fromBeginning, ...filter } = this.#options;
    const fromTimeUs = fromTime instanceof Date ? fromTime.getTime() * 1_000 : fromTime?.timeUs;
    const start = place.token !== undefined ? { resumeToken: place.token } : { fromTimeUs, fromBeginning };
    const { channels, prefix, label, types, maxBatch } = filter;
    const request = {
      ...(channels === undefined ? {} : { channels }),
      ...(prefix === undefined ? {} : { prefix }),
      ...(label === undefined ? {} : { label }),
      ...(types === undefined ? {} : { types }),
      maxBatch,
      ...start,
    };
    // What was committed before must be known where it counts; where the place is known any node will do.
    return encodeSubscribe(this.#tenant, request, {
      level: place.token === undefined ? 'linearizable' : 'eventual',
    });
  }
}

/** Last seqs that are remembered, to notice a server that repeats: the oldest channels go first. */
const seenMax = 10_000;

/** Throws INTERNAL where events of a channel come twice or fall back. */
function checkOrder(seen: Map<string, number>, channels: readonly SubscribedEvents[]): void {
  for (const { channel, events } of channels) {
    let last = seen.get(channel) ?? 0;
    for (const { seq } of events) {
      if (seq <= last) {
        throw new HansardError('INTERNAL', `the server sent event ${seq} of ${channel} after ${last}`, {
          seq,
          after: last,
        });
      }
      last = seq;
    }
    seen.delete(channel);
    seen.set(channel, last);
    if (seen.size > seenMax) seen.delete(seen.keys().next().value as string);
  }
}
