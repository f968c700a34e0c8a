/**
 * One caller's subscription: takes pages of its feeds in turn and sends them, as long
 * as the caller takes what it is sent. Nothing is queued for it: where it stands are
 * the places of its feeds, which every message carries as the resume token.
 */
import type { HansardError } from '../common/errors.js';
import type { PartitionId, TimeUs } from '../common/ids.js';
import {
  encodeSubscribeCaughtUp,
  encodeSubscribed,
  encodeSubscribeHeartbeat,
  eventsIn,
} from './encode-subscribe.js';
import { writePlaces } from './feed-place.js';
import type { FeedSource } from './feed-source.js';
import { FeedTurns } from './feed-turns.js';
import { OutMessage } from './framed.js';
import { leaderless, type OutStream } from './out-stream.js';
import type { Services } from './services.js';
import { nextTurn, Waker } from './waker.js';

export interface SubscribeStreamOptions {
  readonly bound: string;
  readonly fromTimeUs: TimeUs;
  readonly maxEvents: number;
  pageBytes(): number;
  errorOf(error: unknown): HansardError;
}

export class SubscribeStream {
  readonly #services: Services;
  readonly #out: OutStream;
  readonly #feeds: readonly FeedSource[];
  readonly #options: SubscribeStreamOptions;
  /** The caller knows that it is at the head, and has not fallen behind since. */
  #isLive = false;
  readonly #turns: FeedTurns;
  readonly #cameMs: number;
  readonly #cameLeaderless: Set<PartitionId>;
  readonly #waker = new Waker();

  constructor(
    services: Services,
    out: OutStream,
    feeds: readonly FeedSource[],
    options: SubscribeStreamOptions,
  ) {
    this.#services = services;
    this.#out = out;
    this.#feeds = feeds;
    this.#turns = new FeedTurns(feeds);
    this.#options = options;
    out.onRoom = () => this.wake();
    this.#cameMs = services.node.monotonicMs();
    const unled = feeds.filter(({ partition }) => services.node.leaderOf(partition) === undefined);
    this.#cameLeaderless = new Set(unled.map(({ partition }) => partition));
  }

  get isClosed(): boolean {
    return this.#out.isClosed;
  }

  /** Something may be there to send, or room for it. Also called while an entry is being applied: only takes a note. */
  wake(): void {
    this.#waker.wake();
  }

  /** Its feeds look again: their places move on over what is not wanted, before the next heartbeat says where they are. */
  touch(): void {
    for (const feed of this.#feeds) feed.touch();
    this.wake();
  }

  /**
   * Sends the reader away where a partition has had no leader here for long: this node may be cut off, and others go
   * on without it. Who came while it lasts has found nobody better then, and stays for a while: unless it came before
   * `cameBeforeMs`.
   */
  handOver(lost: ReadonlyMap<PartitionId, boolean>, cameBeforeMs: number): void {
    for (const { partition } of this.#feeds) {
      const isLong = lost.get(partition);
      if (isLong === undefined) this.#cameLeaderless.delete(partition);
      else if (isLong && (this.#cameMs <= cameBeforeMs || !this.#cameLeaderless.has(partition)))
        return this.fail(leaderless(partition));
    }
  }

  heartbeat(): void {
    if (this.#out.isReady && this.#out.isDrained) this.#send(encodeSubscribeHeartbeat(this.#token()));
  }

  get lastSentMs(): number {
    return this.#out.lastSentMs;
  }

  fail(error: unknown): void {
    this.#out.fail(this.#options.errorOf(error));
    this.wake();
  }

  /** Until the stream is closed. Never rejects. */
  async run(): Promise<void> {
    try {
      while (!this.#out.isClosed) await this.#step();
    } catch (error) {
      this.#out.fail(this.#options.errorOf(error));
    } finally {
      for (const feed of this.#feeds) feed.end();
    }
  }

  async #step(): Promise<void> {
    const takes = this.#out.eventsTaken;
    const feed = takes > 0 ? this.#turns.next() : undefined;
    if (feed === undefined) {
      // It does not take what there is: it has fallen behind, and will be told when it is back.
      if (takes === 0) this.#isLive &&= this.#feeds.every((each) => !each.isDirty);
      else if (!this.#isLive && this.#feeds.every((each) => each.atEnd && !each.isBackfilling)) {
        this.#isLive = true;
        this.#send(encodeSubscribeCaughtUp(this.#token(), this.#services.node.identity.nodeId));
        return;
      }
      await this.#waker.woken();
      return;
    }
    const events = await feed.take({
      events: Math.min(this.#options.maxEvents, takes),
      bytes: this.#options.pageBytes(),
    });
    if (events !== undefined && !this.#out.isClosed) {
      if (feed.hasMore) this.#isLive = false;
      const count = this.#out.hasCredit ? eventsIn(events) : 0;
      this.#send(encodeSubscribed(this.#token(), events), count);
    }
    // What is in memory is taken without a pause: where little of it is wanted, nothing else would get its turn.
    await nextTurn();
  }

  #send(bytes: Buffer, events = 0): void {
    this.#out.send(
      new OutMessage(bytes),
      events,
      this.#options.pageBytes(),
      this.#services.node.monotonicMs(),
    );
  }

  #token(): string {
    const { bound, fromTimeUs } = this.#options;
    const places = new Map(this.#feeds.map((feed) => [feed.partition, feed.place]));
    return this.#services.tokens.page(bound, (writer) => writePlaces(writer, { fromTimeUs, places }));
  }
}
