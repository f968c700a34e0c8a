/**
 * Following a channel, from the node that leads its partition or another that is asked for; how streams
 * are taken up again is in following.ts.
 */
import { HansardError, reasons } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { invalid } from './check-input.js';
import { readTailResponse, type TailResponse } from './follow-responses.js';
import { type FollowOptions, follow, type Place } from './following.js';
import { MessageStream, withCredit } from './message-stream.js';
import { encodeTail } from './requests.js';
import type { Router } from './router.js';
import type { Event, ReadOptions, ServedBy } from './types.js';

/** `flow` of TailChannelRequest. */
const flowField = 8;

export interface TailOptions
  extends FollowOptions,
    Pick<ReadOptions, 'level' | 'preference' | 'commitTokens'> {
  /** Begins behind this event; 0: with the first one. */
  readonly afterSeq?: number;
  /** Begins behind the last event that is there now; the default. */
  readonly fromHead?: boolean;
  /** Goes on where another tail of the channel ended. */
  readonly resumeToken?: string;
  /** Rejects CHANNEL_NOT_FOUND where there is no such channel, now or later; else the tail waits for it. */
  readonly mustExist?: boolean;
  /** Events in one update; default 500, at most 1,000. */
  readonly maxBatch?: number;
}

export type TailUpdate =
  | {
      readonly kind: 'events';
      /** Ascending, dense, checksums verified. */
      readonly events: readonly Event[];
      /** Another one than before: the channel was deleted and created anew since. */
      readonly channelUid: string;
      readonly resumeToken: string;
    }
  | {
      /** All that the answering replica has was handed out. */
      readonly kind: 'caught-up';
      /** The channel's last event there; 0: none. */
      readonly headSeq: number;
      /** Empty: there is no such channel yet. */
      readonly channelUid: string;
      readonly servedBy: ServedBy;
      readonly resumeToken: string;
    }
  | {
      /** The stream broke; it is taken up again by itself. */
      readonly kind: 'interrupted';
      readonly error: HansardError;
    };

/**
 * Events of a channel as they come: iterate over events, or over `updates()`.
 * Every iteration is a stream of its own; leaving the loop ends it.
 * @example
 * for await (const event of channel.tail({ afterSeq: 0 })) print(event);
 */
export class Tail implements AsyncIterable<Event> {
  readonly #router: Router;
  readonly #channel: string;
  readonly #prefix: Uint8Array;
  readonly #options: TailOptions;

  /** Made by `channel.tail()`. */
  constructor(router: Router, channel: string, prefix: Uint8Array, options: TailOptions) {
    const { afterSeq, fromHead, resumeToken } = options;
    const starts = [afterSeq, fromHead || undefined, resumeToken].filter((each) => each !== undefined);
    if (starts.length > 1) throw invalid('afterSeq', 'one of afterSeq, fromHead and resumeToken');
    this.#router = router;
    this.#channel = channel;
    this.#prefix = prefix;
    this.#options = options;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void, void> {
    for await (const update of this.updates()) if (update.kind === 'events') yield* update.events;
  }

  /** Rejects what no retry can mend, UNREACHABLE and the like before the first answer alone, CLIENT_CLOSED. */
  async *updates(): AsyncGenerator<TailUpdate, void, void> {
    const place: TailPlace = { token: this.#options.resumeToken, isFirst: true, lastSeq: 0, uid: '' };
    yield* follow(this.#router, this.#options, {
      place,
      open: (failures, last) => this.#open(place, failures, last),
      check: (update: NonNullable<TailResponse['update']>) => {
        if (update.kind === 'events') checkOrder(place, update.events, update.channelUid);
        else this.#router.session.observe(update.servedBy.commitToken);
      },
    });
  }

  async #open(
    place: Place,
    failures: number,
    last: HansardError | undefined,
  ): Promise<MessageStream<TailResponse> | HansardError> {
    // A node whose streams are taken leads as well as before: only this tail goes elsewhere.
    const preference = last?.reason === 'OVERLOADED' ? 'secondary' : this.#options.preference;
    const partition = this.#router.partitionOf(this.#channel) as PartitionId;
    const link = this.#router.routed({ partition, preference }, failures);
    const { credit } = this.#options;
    const stream = await link.stream(
      'hansard.v1.EventService/TailChannel',
      withCredit(this.#request(place), flowField, credit),
      credit !== undefined,
    );
    const fail = (error: HansardError): void => {
      // One that is cut off would take the tail back, with no more than it has.
      this.#router.passOver(link.address, error);
      const hint = error.reason === 'NOT_LEADER' ? String(error.fields.leader_address ?? '') : '';
      if (hint !== '' && hint !== link.address) this.#router.hint(partition, hint);
      else if (error.reason !== 'OVERLOADED' && reasons[error.reason].retry === 'yes') {
        this.#router.distrust(partition, link.address);
        this.#router.refresh();
      }
    };
    if (!(stream instanceof HansardError)) {
      const eventsOf = ({ update }: TailResponse): number =>
        update?.kind === 'events' ? update.events.length : 0;
      const held = credit === undefined ? undefined : { credit, field: flowField, eventsOf };
      return new MessageStream(stream, readTailResponse, fail, held);
    }
    fail(stream);
    return stream;
  }

  #request(place: Place): Uint8Array {
    const { afterSeq, mustExist, maxBatch, commitTokens, preference } = this.#options;
    const begins = place.isFirst && place.token === undefined;
    const level =
      place.isFirst && this.#options.level !== undefined
        ? this.#options.level
        : // What is there or not must be known; where the place is known, any replica will do.
          mustExist || (begins && afterSeq === undefined)
          ? 'linearizable'
          : 'eventual';
    const start = place.token !== undefined ? { resumeToken: place.token } : { afterSeq };
    const read = {
      level,
      ...(preference === undefined ? {} : { preference }),
      ...(begins && commitTokens !== undefined ? { commitTokens } : {}),
    };
    return encodeTail(this.#prefix, { ...start, mustExist, maxBatch }, read);
  }
}

/** Where a tail stands. */
interface TailPlace extends Place {
  /** 0: none has been handed out. */
  lastSeq: number;
  uid: string;
}

/** Throws INTERNAL where the server's order is broken. */
function checkOrder(place: TailPlace, events: readonly Event[], uid: string): void {
  const isSameLife = place.uid === uid && place.lastSeq > 0;
  for (let i = 0; i < events.length; i++) {
    const { seq } = events[i] as Event;
    const isNext = i > 0 || isSameLife ? seq === place.lastSeq + 1 : seq > place.lastSeq;
    if (!isNext)
      throw new HansardError('INTERNAL', `the server sent event ${seq} after ${place.lastSeq}`, {
        seq,
        after: place.lastSeq,
      });
    place.lastSeq = seq;
  }
  place.uid = uid;
}
