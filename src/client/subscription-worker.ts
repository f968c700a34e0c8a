/**
 * A worker of a durable subscription: takes deliveries, calls the handler, says what came of it. Of a channel one event
 * is handled at a time, also where its lease was lost and came back, so that a handler never meets itself.
 */
import type { ClientDuplexStream } from '@grpc/grpc-js';
import { HansardError, reasons } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { type ConsumeUpdate, type Delivery, encodeConsume, readConsumeResponse } from './consume-wire.js';
import { MessageStream, pause } from './message-stream.js';
import { backoffMs, closedError, type Router } from './router.js';
import type { Extension, Nack, SubscriptionInfo, SubscriptionProgress } from './subscription-types.js';
import type { Event } from './types.js';

/** One event for the handler. */
export interface WorkItem {
  readonly channel: string;
  readonly channelUid: string;
  readonly event: Event;
  /** How often it was delivered, this time included; behind the first event of a delivery: 1. */
  readonly deliveries: number;
  /** It was a dead letter. */
  readonly replayed: boolean;
  /** Aborted when the lease was lost: somebody else may have the event by now. */
  readonly signal: AbortSignal;
}

export interface ConsumeOptions {
  /** What it resolves is acknowledged; what it rejects is delivered again after the subscription's delay (or see RetryLater). */
  readonly handler: (item: WorkItem) => Promise<unknown> | unknown;
  /** Channels that are handled at once; default 16. */
  readonly concurrency?: number;
  /** Unique among the workers that run; default: made up. */
  readonly consumerId?: string;
  /** Events of one delivery; default 100, at most 1,000. */
  readonly maxBatch?: number;
  /** Events that may wait here; default 1,000. */
  readonly creditEvents?: number;
  /** Their bytes; default 16 MiB. */
  readonly creditBytes?: number;
  /** A handler that takes longer loses its lease; until then it is prolonged; default 10 minutes. */
  readonly maxHandlerMs?: number;
  readonly onProgress?: (progress: SubscriptionProgress) => void;
  /** The handler rejected. */
  readonly onFailure?: (error: unknown, item: WorkItem) => void;
  /** The stream broke; it is taken up again by itself. */
  readonly onInterrupted?: (error: HansardError) => void;
  /** How long the first connection may take, ms; default 5,000. */
  readonly timeoutMs?: number;
}

export interface WorkerStats {
  readonly handled: number;
  readonly failed: number;
  /** Leases that were lost while events of them were here. */
  readonly lost: number;
  readonly interrupted: number;
}

/** Thrown by a handler: not to be delivered again before. */
export class RetryLater extends Error {
  override readonly name = 'RetryLater';
  constructor(
    readonly delayMs: number,
    message = 'later',
  ) {
    super(message);
  }
}

interface Held {
  readonly item: WorkItem;
  readonly bytes: number;
}

/** What is here of one channel. */
interface Lane {
  readonly channel: string;
  /** 0: lost, and what is running is all that is left. */
  lease: number;
  lastSeq: number;
  queue: Held[];
  running: boolean;
  abort: AbortController;
  /** When the server last gave it time, and when what runs began. */
  grantedMs: number;
  startedMs: number;
}

interface SentAck {
  readonly channel: string;
  readonly seq: number;
  readonly atMs: number;
}

/** Of which an event failed. */
interface Refused {
  readonly nack: Nack;
  /** The last event that was received under it. */
  readonly seq: number;
  /** When it was said; Infinity: not yet. */
  saidMs: number;
}

/** What was said of leases is said again to the next leader for so long: the last one may not have written it down. */
const saidMemoryMs = 10_000;
/** More of a lease that was given back may come for so long. */
const refusedMemoryMs = 60_000;
const extendTickMs = 250;
/** How long `stop` waits for the node to take what was said last. */
const farewellMs = 2_000;

export class SubscriptionWorker {
  /** Resolves behind `stop`; rejects with what no retry can mend. */
  readonly done: Promise<void>;
  readonly consumerId: string;
  readonly #router: Router;
  readonly #tenant: string;
  readonly #name: string;
  readonly #options: Required<
    Omit<ConsumeOptions, 'onProgress' | 'onFailure' | 'onInterrupted' | 'timeoutMs'>
  > &
    ConsumeOptions;
  readonly #lanes = new Map<string, Lane>();
  /** Lanes with something to do and nothing running, in turn. */
  readonly #ready: Lane[] = [];
  #running = 0;
  #ackDeadlineMs = 30_000;
  #stream: ClientDuplexStream<Uint8Array, Buffer> | undefined;
  #isStopping = false;
  #isEnded = false;
  readonly #stopped = new AbortController();
  #acks = new Map<number, { channel: string; seq: number }>();
  #nacks: Nack[] = [];
  readonly #extensions = new Map<number, Extension>();
  /** By lease, as are those below; the oldest are first. */
  readonly #sent = new Map<number, SentAck>();
  /** What more comes under these may not be handled. */
  readonly #refused = new Map<number, Refused>();
  #creditEvents = 0;
  #creditBytes = 0;
  #heldEvents = 0;
  #heldBytes = 0;
  #flushing = false;
  readonly #stats = { handled: 0, failed: 0, lost: 0, interrupted: 0 };
  #progress: SubscriptionProgress | undefined;
  #onIdle: (() => void) | undefined;

  /** Made by `subscription.consume()`. */
  constructor(
    router: Router,
    tenant: string,
    name: string,
    options: ConsumeOptions,
    info: (call: { readonly timeoutMs: number }) => Promise<SubscriptionInfo>,
  ) {
    this.#router = router;
    this.#tenant = tenant;
    this.#name = name;
    this.consumerId = options.consumerId ?? crypto.randomUUID();
    this.#options = {
      concurrency: 16,
      maxBatch: 100,
      creditEvents: 1_000,
      creditBytes: 16 * 1024 * 1024,
      maxHandlerMs: 600_000,
      consumerId: this.consumerId,
      ...options,
    };
    this.done = this.#run(info);
    // Whoever never looks at it must not be ended by it.
    this.done.catch(() => undefined);
  }

  get stats(): WorkerStats {
    return { ...this.#stats };
  }

  /** As last told. */
  get progress(): SubscriptionProgress | undefined {
    return this.#progress;
  }

  /** Takes no more; what is being handled is finished and acknowledged, what waits is given back. */
  async stop({ timeoutMs = 30_000 }: { readonly timeoutMs?: number } = {}): Promise<void> {
    if (!this.#isStopping) {
      this.#isStopping = true;
      for (const lane of this.#lanes.values()) if (!lane.running) this.#giveBack(lane);
      this.#flushSoon();
      if (this.#running > 0) {
        let timer: NodeJS.Timeout | undefined;
        await new Promise<void>((resolve) => {
          this.#onIdle = resolve;
          timer = setTimeout(resolve, timeoutMs);
        });
        clearTimeout(timer);
      }
      await this.#farewell();
      this.#stopped.abort();
    }
    await this.done;
  }

  async #run(info: (call: { readonly timeoutMs: number }) => Promise<SubscriptionInfo>): Promise<void> {
    const { timeoutMs = this.#router.options.timeoutMs } = this.#options;
    const deadlineMs = performance.now() + timeoutMs;
    const ticker = setInterval(() => this.#extend(), extendTickMs);
    try {
      this.#ackDeadlineMs = (await info({ timeoutMs })).settings.ackDeadlineMs;
      let failures = 0;
      let wasHeard = false;
      while (!this.#stopped.signal.aborted) {
        const { error, heard } = await this.#connection();
        if (this.#stopped.signal.aborted) return;
        if (this.#router.isClosed) throw closedError();
        const passes = reasons[error.reason].retry === 'yes' || error.reason === 'DEADLINE_EXCEEDED';
        wasHeard ||= heard;
        if (!passes || (!wasHeard && performance.now() >= deadlineMs)) throw error;
        if (heard) {
          failures = 0;
          this.#stats.interrupted++;
          this.#options.onInterrupted?.(error);
        }
        await pause(Math.max(error.retryDelayMs ?? 0, backoffMs(failures++)), this.#stopped.signal);
      }
    } finally {
      this.#isEnded = true;
      clearInterval(ticker);
      for (const lane of this.#lanes.values()) lane.abort.abort();
      this.#onIdle?.();
    }
  }

  /** One stream, to its end. */
  async #connection(): Promise<{ error: HansardError; heard: boolean }> {
    const partition = this.#router.partitionOf(this.#name) as PartitionId;
    const link = this.#router.leaderLink(partition);
    const raw = await link.duplex('hansard.v1.SubscriptionService/Consume');
    if (raw instanceof HansardError) {
      this.#router.distrust(partition, link.address);
      this.#router.refresh();
      return { error: raw, heard: false };
    }
    const stream = new MessageStream(raw, readConsumeResponse, () => undefined);
    const close = (): void => stream.close();
    this.#stopped.signal.addEventListener('abort', close);
    raw.on('drain', () => this.#flushSoon());
    this.#greet(raw);
    let heard = false;
    try {
      for (;;) {
        const next = await stream.next();
        if (next instanceof HansardError) {
          this.#learn(next, partition, link.address);
          return { error: next, heard };
        }
        heard = true;
        this.#take(next);
      }
    } finally {
      this.#stopped.signal.removeEventListener('abort', close);
      if (this.#stream === raw) this.#stream = undefined;
      stream.close();
    }
  }

  #learn(error: HansardError, partition: PartitionId, address: string): void {
    const hint = error.reason === 'NOT_LEADER' ? String(error.fields.leader_address ?? '') : '';
    if (hint !== '' && hint !== address) this.#router.hint(partition, hint);
    else if (reasons[error.reason].retry === 'yes') {
      this.#router.distrust(partition, address);
      this.#router.refresh();
    }
  }

  #greet(raw: ClientDuplexStream<Uint8Array, Buffer>): void {
    const held = this.#stillHeld();
    this.#creditEvents = 0;
    this.#creditBytes = 0;
    raw.write(
      encodeConsume({
        start: {
          tenant: this.#tenant,
          name: this.#name,
          consumerId: this.consumerId,
          credit: {
            events: Math.max(0, this.#options.creditEvents - this.#heldEvents),
            bytes: Math.max(0, this.#options.creditBytes - this.#heldBytes),
          },
          held: [...held].slice(0, heldMax).map(([lease, seq]) => ({ lease, seq })),
          maxBatch: this.#options.maxBatch,
        },
        leaving: this.#isStopping,
      }),
    );
    this.#stream = raw;
    this.#flushSoon();
  }

  /**
   * Leases that are worked on, each with the last event that was received under it; and those of which perhaps nobody has
   * heard what was said: it is said again, else they would be given back as if nothing had been done or failed.
   */
  #stillHeld(): Map<number, number> {
    const nowMs = performance.now();
    this.#forget(nowMs);
    const held = new Map<number, number>();
    for (const { lease, lastSeq } of this.#lanes.values()) if (lease !== 0) held.set(lease, lastSeq);
    for (const [lease, refused] of this.#refused) {
      if (nowMs - refused.saidMs > saidMemoryMs) continue;
      held.set(lease, refused.seq);
      if (refused.saidMs === Infinity) continue;
      refused.saidMs = Infinity;
      this.#nacks.push(refused.nack);
    }
    for (const [lease, { channel, seq }] of this.#sent) {
      // What is worked on is acknowledged later, with this.
      if (held.has(lease) && !this.#refused.has(lease)) continue;
      if (!held.has(lease)) held.set(lease, seq);
      if (!this.#acks.has(lease)) this.#acks.set(lease, { channel, seq });
    }
    return held;
  }

  #forget(nowMs: number): void {
    for (const [lease, { atMs }] of this.#sent) {
      if (nowMs - atMs <= saidMemoryMs) break;
      this.#sent.delete(lease);
    }
    for (const [lease, { saidMs }] of this.#refused) {
      if (nowMs - saidMs <= refusedMemoryMs) break;
      this.#refused.delete(lease);
    }
  }

  // ---- what comes

  #take(update: ConsumeUpdate): void {
    if (update.kind === 'progress') {
      this.#progress = update.progress;
      this.#options.onProgress?.(update.progress);
    } else if (update.kind === 'lost') {
      for (const lease of update.leases) this.#sent.delete(lease);
      for (const lane of this.#lanes.values()) if (update.leases.includes(lane.lease)) this.#lose(lane);
    } else if (update.kind === 'delivery') this.#deliver(update.delivery);
  }

  #deliver(delivery: Delivery): void {
    const { channel, lease, events } = delivery;
    const size = Math.floor(delivery.bytes / Math.max(1, events.length));
    const firstSize = delivery.bytes - size * (events.length - 1);
    this.#heldEvents += events.length;
    this.#heldBytes += delivery.bytes;
    // It was on its way when an event before it failed: that one comes first, under another lease, and this behind it.
    if (this.#refused.has(lease)) return this.#settled(events.length, delivery.bytes);
    if (this.#isStopping) {
      this.#settled(events.length, delivery.bytes);
      this.#nacks.push({ channel, lease, untried: true });
      return this.#flushSoon();
    }
    let lane = this.#lanes.get(channel);
    if (lane !== undefined && lane.lease !== 0 && lane.lease !== lease) this.#lose(lane);
    lane = this.#lanes.get(channel);
    if (lane === undefined) {
      lane = {
        channel,
        lease,
        lastSeq: 0,
        queue: [],
        running: false,
        abort: new AbortController(),
        grantedMs: performance.now(),
        startedMs: 0,
      };
      this.#lanes.set(channel, lane);
    } else if (lane.lease !== lease) {
      // What runs is of a lease that was lost: this waits for its end.
      lane.lease = lease;
      lane.lastSeq = 0;
      lane.grantedMs = performance.now();
    }
    const { signal } = lane.running && lane.abort.signal.aborted ? this.#freshSignal(lane) : lane.abort;
    for (const [i, event] of events.entries()) {
      // Told again, as the stream broke.
      if (event.seq <= lane.lastSeq) {
        this.#settled(1, i === 0 ? firstSize : size);
        continue;
      }
      lane.lastSeq = event.seq;
      lane.queue.push({
        bytes: i === 0 ? firstSize : size,
        item: {
          channel,
          channelUid: delivery.channelUid,
          event,
          deliveries: i === 0 ? delivery.deliveries : 1,
          replayed: delivery.replayed,
          signal,
        },
      });
    }
    this.#makeReady(lane);
    this.#work();
  }

  #freshSignal(lane: Lane): AbortController {
    lane.abort = new AbortController();
    return lane.abort;
  }

  /** Somebody else has the channel, or will: what waits is dropped, what runs is told. */
  #lose(lane: Lane): void {
    this.#stats.lost++;
    lane.abort.abort();
    this.#drop(lane);
  }

  #drop(lane: Lane): void {
    for (const { bytes } of lane.queue.splice(0)) this.#settled(1, bytes);
    this.#acks.delete(lane.lease);
    this.#extensions.delete(lane.lease);
    lane.lease = 0;
    if (!lane.running) this.#lanes.delete(lane.channel);
  }

  #giveBack(lane: Lane): void {
    if (lane.lease !== 0 && lane.queue.length > 0)
      this.#nacks.push({ channel: lane.channel, lease: lane.lease, untried: true });
    const ack = this.#acks.get(lane.lease);
    const { lease } = lane;
    this.#drop(lane);
    // What is done of it stays done: acknowledgements are said before what is given back.
    if (ack !== undefined) this.#acks.set(lease, ack);
  }

  // ---- work

  #makeReady(lane: Lane): void {
    if (!lane.running && lane.queue.length > 0 && !this.#ready.includes(lane)) this.#ready.push(lane);
  }

  #work(): void {
    while (this.#running < this.#options.concurrency) {
      const lane = this.#ready.shift();
      if (lane === undefined) return;
      const next = lane.queue.shift();
      if (next !== undefined) void this.#handle(lane, next);
    }
  }

  async #handle(lane: Lane, { item, bytes }: Held): Promise<void> {
    const { lease } = lane;
    lane.running = true;
    lane.startedMs = performance.now();
    this.#running++;
    let failure: { readonly error: unknown } | undefined;
    try {
      await this.#options.handler(item);
    } catch (error) {
      failure = { error };
    }
    this.#running--;
    lane.running = false;
    this.#settled(1, bytes);
    if (failure === undefined) this.#stats.handled++;
    else {
      this.#stats.failed++;
      this.#options.onFailure?.(failure.error, item);
    }
    if (lane.lease === lease && lease !== 0) this.#conclude(lane, item, failure);
    else if (lane.lease === 0) this.#lanes.delete(lane.channel);
    if (lane.lease !== 0 && this.#isStopping) this.#giveBack(lane);
    if (this.#lanes.get(lane.channel) === lane) this.#makeReady(lane);
    this.#work();
    this.#flushSoon();
    if (this.#running === 0) this.#onIdle?.();
  }

  #conclude(lane: Lane, item: WorkItem, failure: { readonly error: unknown } | undefined): void {
    const { channel, lease, lastSeq } = lane;
    if (failure === undefined) {
      this.#acks.set(lease, { channel, seq: item.event.seq });
      lane.grantedMs = performance.now();
      // All of the lease is done: with the acknowledgement it ends.
      if (lane.queue.length === 0) this.#lanes.delete(channel);
      return;
    }
    const ack = this.#acks.get(lease);
    this.#drop(lane);
    if (ack !== undefined) this.#acks.set(lease, ack);
    const { error } = failure;
    const nack = {
      channel,
      lease,
      error: error instanceof Error ? error.message : String(error),
      ...(error instanceof RetryLater ? { delayMs: error.delayMs } : {}),
    };
    this.#refused.set(lease, { nack, seq: lastSeq, saidMs: Infinity });
    this.#nacks.push(nack);
  }

  #settled(events: number, bytes: number): void {
    this.#heldEvents -= events;
    this.#heldBytes -= bytes;
    this.#creditEvents += events;
    this.#creditBytes += bytes;
    this.#flushSoon();
  }

  /** Handlers that take long keep their leases, and so do lanes that wait behind others. */
  #extend(): void {
    const nowMs = performance.now();
    this.#forget(nowMs);
    for (const lane of this.#lanes.values()) {
      if (lane.lease === 0 || nowMs - lane.grantedMs < this.#ackDeadlineMs / 3) continue;
      if (lane.running && nowMs - lane.startedMs > this.#options.maxHandlerMs) continue;
      lane.grantedMs = nowMs;
      this.#extensions.set(lane.lease, { channel: lane.channel, lease: lane.lease });
    }
    if (this.#extensions.size > 0) this.#flushSoon();
  }

  // ---- what goes

  /** Once per turn: what many handlers have done goes as one message. */
  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  #flush(): void {
    const stream = this.#stream;
    if (stream === undefined || stream.writableNeedDrain || stream.writableEnded) return;
    const nowMs = performance.now();
    while (this.#acks.size + this.#nacks.length + this.#extensions.size > 0 || this.#owesCredit) {
      const acks = [...this.#acks].slice(0, notesMax).map(([lease, { channel, seq }]) => {
        this.#acks.delete(lease);
        this.#sent.delete(lease);
        this.#sent.set(lease, { channel, seq, atMs: nowMs });
        return { channel, lease, seq };
      });
      // What is given back is over: all that was done of it is said before.
      const nacks = this.#acks.size > 0 ? [] : this.#nacks.splice(0, notesMax);
      for (const { lease } of nacks) this.#noteGivenBack(lease, nowMs);
      const extensions = [...this.#extensions.values()].slice(0, notesMax);
      for (const { lease } of extensions) this.#extensions.delete(lease);
      const credit = { events: this.#creditEvents, bytes: this.#creditBytes };
      this.#creditEvents = 0;
      this.#creditBytes = 0;
      const room = stream.write(
        encodeConsume({ acks, nacks, extensions, leaving: this.#isStopping, credit }),
      );
      if (!room) return;
    }
  }

  #noteGivenBack(lease: number, nowMs: number): void {
    const refused = this.#refused.get(lease);
    // What was not tried is given back by the next leader, too, without a word.
    if (refused === undefined) return void this.#sent.delete(lease);
    this.#refused.delete(lease);
    this.#refused.set(lease, { ...refused, saidMs: nowMs });
  }

  get #owesCredit(): boolean {
    return this.#creditEvents > 0;
  }

  /** Says what is left to say, and that there is no more; the node takes it in this order. */
  async #farewell(): Promise<void> {
    const stream = this.#stream;
    if (stream === undefined || this.#isEnded) return;
    this.#flush();
    stream.end();
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      timer = setTimeout(resolve, farewellMs);
      stream.on('status', () => resolve());
    });
    clearTimeout(timer);
  }
}

/** Of each kind in one request, within the server's bound on lists. */
const notesMax = 300;
const heldMax = 1_000;
