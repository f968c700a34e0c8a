/**
 * All tails of this node. Tails of one channel share a `ChannelTails`, which is
 * woken when the replica has applied something to the channel, and reads a page
 * for all of them that stand at the same place. Nothing is queued for a tail:
 * where it stands is a number, and what it needs is read when it can take it.
 */
import { HansardError, type Reason } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { type ChannelPlace, ChannelTails } from './channel-tails.js';
import type { Services } from './services.js';
import type { TailStream } from './tail-stream.js';

export interface TailLimits {
  /** Streams at once. */
  readonly streams: number;
  /** A stream on which nothing was sent for this long gets a heartbeat, ms. */
  readonly heartbeatMs: number;
  /** Where the partition has had no leader here for this long, its readers go on elsewhere, ms: an election takes less. */
  readonly leaderlessMs: number;
  /** Who comes back while that lasts has found nobody better, and stays for this long, ms: then others may have one. */
  readonly leaderlessStayMs: number;
  /** Bytes of one message's events, where few streams are open. */
  readonly pageBytes: number;
  /** With many streams pages are smaller, so that all of them together hold about this much at worst. */
  readonly untakenBytes: number;
  readonly leastPageBytes: number;
}

export const defaultTailLimits: TailLimits = Object.freeze({
  streams: 10_000,
  heartbeatMs: 5_000,
  leaderlessMs: 3_000,
  leaderlessStayMs: 15_000,
  pageBytes: 128 * 1024,
  untakenBytes: 96 * 1024 * 1024,
  leastPageBytes: 8 * 1024,
});

/** Channels that are read for at once: each holds a page and perhaps an iterator. */
const roundsMax = 64;
/** How often heartbeats are looked after, ms. */
const sweepMs = 100;
/** Without a word of the store a channel is looked at anyway: what made it change may have been a snapshot, ms. */
const recheckMs = 30_000;
/** Streams that end in one turn of the loop. */
const endsPerTurn = 200;

export class Tails {
  readonly #services: Services;
  readonly #limits: TailLimits;
  /** A defect, or what the client is told of it. */
  readonly errorOf: (error: unknown) => HansardError;
  readonly #channels = new Map<string, ChannelTails>();
  /** Waiting for their round, oldest first. */
  #queue: ChannelTails[] = [];
  #flushScheduled = false;
  #rounds = 0;
  /** Places taken, those of streams that are being opened included. */
  #open = 0;
  #closed = false;
  #sweep: NodeJS.Timeout | undefined;

  constructor(services: Services, bounds: TailLimits, errorOf: (error: unknown) => HansardError) {
    this.#services = services;
    this.#limits = bounds;
    this.errorOf = errorOf;
  }

  get open(): number {
    return this.#open;
  }

  /** Takes a place; throws where there is none. Each is given back by `release`. */
  reserve(): void {
    if (this.#closed || this.#services.node.isDraining) throw shuttingDown();
    if (this.#open >= this.#limits.streams) {
      throw new HansardError(
        'OVERLOADED',
        `${this.#open} tails are open on this node`,
        { tails: this.#open },
        { retryDelayMs: 1_000 },
      );
    }
    this.#open++;
  }

  release(): void {
    this.#open--;
  }

  /** The tail is served from here on; it leaves when it closes. Throws NOT_LEADER where no replica is here. */
  add(partition: PartitionId, place: ChannelPlace, tail: TailStream): void {
    // Closed while it was being opened.
    if (this.#closed) throw shuttingDown();
    const key = `${place.tenant}\0${place.channel}`;
    let channel = this.#channels.get(key);
    if (channel === undefined) {
      channel = new ChannelTails(this.#services, this, partition, place, () => this.#channels.delete(key));
      this.#channels.set(key, channel);
    }
    channel.add(tail);
    this.#sweep ??= setInterval(() => this.#sweepOnce(), sweepMs).unref();
  }

  /** Bytes of a page; half of it may wait to be taken before a stream counts as slow. */
  get pageBytes(): number {
    const { pageBytes, untakenBytes, leastPageBytes } = this.#limits;
    return Math.max(leastPageBytes, Math.min(pageBytes, Math.floor(untakenBytes / (1.5 * this.#open))));
  }

  /** Has the channel's tails looked after, in a turn in which nothing is being applied. */
  enqueue(channel: ChannelTails): void {
    this.#queue.push(channel);
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    setImmediate(() => {
      this.#flushScheduled = false;
      this.#flush();
    });
  }

  /** Ends all tails with SHUTTING_DOWN; their readers go on elsewhere. Takes no further ones. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#sweep);
    const tails = [...this.#channels.values()].flatMap((channel) => channel.tails());
    const next = (from: number): void => {
      for (const tail of tails.slice(from, from + endsPerTurn)) tail.fail(shuttingDown());
      if (from + endsPerTurn < tails.length) setImmediate(next, from + endsPerTurn);
    };
    next(0);
  }

  #flush(): void {
    while (this.#rounds < roundsMax) {
      const channel = this.#queue.shift();
      if (channel === undefined) return;
      this.#rounds++;
      // It never rejects.
      void channel.round().then(() => {
        this.#rounds--;
        if (this.#queue.length > 0) this.#flush();
      });
    }
  }

  #sweepOnce(): void {
    const nowMs = this.#services.node.monotonicMs();
    const { heartbeatMs, leaderlessMs, leaderlessStayMs } = this.#limits;
    // Twice what is due on average: streams that were opened together are told apart by it, and no turn gets long.
    let quota = 16 + Math.ceil((2 * this.#open * sweepMs) / heartbeatMs);
    for (const channel of this.#channels.values()) {
      if (nowMs - channel.lastRoundMs >= recheckMs) channel.wake();
      channel.handOver(nowMs, leaderlessMs, leaderlessStayMs);
      if (quota > 0) quota -= channel.beat(nowMs, heartbeatMs, quota);
    }
    if (this.#channels.size > 0) return;
    clearInterval(this.#sweep);
    this.#sweep = undefined;
  }
}

export function shuttingDown(): HansardError {
  return new HansardError('SHUTTING_DOWN', 'this node is stopping');
}

export type TailEnd = Reason | 'CANCELLED' | undefined;
