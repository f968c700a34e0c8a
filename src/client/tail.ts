/**
 * Following a channel: one server stream at a time, taken up again wherever it
 * breaks, from the place behind the last update that was handed out. What was
 * received and not handed out is simply asked for again, so nothing is lost and
 * nothing comes twice.
 */
import { HansardError, reasons } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { invalid } from './check-input.js';
import { MessageStream, pause } from './message-stream.js';
import { encodeTail } from './requests.js';
import { readTailResponse, type TailResponse } from './responses.js';
import { backoffMs, closedError, type Router } from './router.js';
import type { Event, ReadOptions, ServedBy } from './types.js';

export interface TailOptions extends Pick<ReadOptions, 'level' | 'preference' | 'commitTokens'> {
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
  /** Ends the iteration. */
  readonly signal?: AbortSignal;
  /** How long the first connection may take, ms; default 5,000. Later ones are tried for as long as it takes. */
  readonly timeoutMs?: number;
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
    const { signal, timeoutMs } = this.#options;
    const deadlineMs = performance.now() + (timeoutMs ?? this.#router.options.timeoutMs);
    const place: Place = { token: this.#options.resumeToken, isFirst: true, lastSeq: 0, uid: '' };
    if (signal?.aborted) return;
    await this.#router.known(deadlineMs);
    let failures = 0;
    let last: HansardError | undefined;
    while (!signal?.aborted) {
      const stream = await this.#open(place, failures, last);
      const close = (): void => {
        if (!(stream instanceof HansardError)) stream.close();
      };
      signal?.addEventListener('abort', close);
      let error: HansardError | undefined;
      let wasHeard = false;
      try {
        while (error === undefined) {
          const next = stream instanceof HansardError ? stream : await stream.next();
          if (signal?.aborted) return;
          if (next instanceof HansardError) error = next;
          else {
            failures = 0;
            wasHeard = true;
            const update = take(place, next);
            if (update?.kind === 'caught-up') this.#router.session.observe(update.servedBy.commitToken);
            if (update !== undefined) yield update;
          }
        }
      } finally {
        signal?.removeEventListener('abort', close);
        close();
      }
      this.#judge(error, place, deadlineMs);
      last = error;
      if (wasHeard) yield { kind: 'interrupted', error };
      await pause(Math.max(error.retryDelayMs ?? 0, backoffMs(failures)), signal);
      failures++;
    }
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
    const stream = await link.stream('hansard.v1.EventService/TailChannel', this.#request(place));
    const fail = (error: HansardError): void => {
      const hint = error.reason === 'NOT_LEADER' ? String(error.fields.leader_address ?? '') : '';
      if (hint !== '' && hint !== link.address) this.#router.hint(partition, hint);
      else if (error.reason !== 'OVERLOADED' && reasons[error.reason].retry === 'yes') {
        this.#router.distrust(partition, link.address);
        this.#router.refresh();
      }
    };
    if (!(stream instanceof HansardError)) return new MessageStream(stream, readTailResponse, fail);
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

  /** Throws what ends the tail. */
  #judge(error: HansardError, place: Place, deadlineMs: number): void {
    if (this.#router.isClosed) throw closedError();
    const passes = reasons[error.reason].retry === 'yes' || error.reason === 'DEADLINE_EXCEEDED';
    if (!passes || (place.isFirst && performance.now() >= deadlineMs)) throw error;
  }
}

/** Where a tail stands. */
interface Place {
  token: string | undefined;
  /** No message has come yet. */
  isFirst: boolean;
  /** 0: none has been handed out. */
  lastSeq: number;
  uid: string;
}

/** Moves the place behind the response. Throws INTERNAL where the server's order is broken. */
function take(place: Place, response: TailResponse): TailUpdate | undefined {
  const { update, resumeToken } = response;
  if (update?.kind === 'events') checkOrder(place, update.events, update.channelUid);
  place.isFirst = false;
  if (resumeToken !== '') place.token = resumeToken;
  return update === undefined ? undefined : { ...update, resumeToken };
}

function checkOrder(place: Place, events: readonly Event[], uid: string): void {
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
