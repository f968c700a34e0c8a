/** The lanes of a client: one anonymous producer per partition, and named producers. */
import { HansardError } from '../common/errors.js';
import type { PartitionId } from '../common/ids.js';
import { checkOptions, invalid } from './check-input.js';
import { type Accounts, Append, type Budget, Lane } from './lane.js';
import { type AppendCondition, encodeAppend, encodeTarget, requireChannelName } from './requests.js';
import type { AppendResponse } from './responses.js';
import { closedError, type Router, Target } from './router.js';
import type { NewMessage } from './types.js';

const tickMs = 25;

/** Lanes by partition, of one producer's name. Appends that come before the map is known wait in order. */
export class LaneSet implements Accounts {
  readonly #lanes = new Map<PartitionId, Lane>();
  #unrouted: Append[] = [];
  #ticker: NodeJS.Timeout | undefined;
  #queuedBytes = 0;
  #routing = false;
  #closed = false;

  constructor(
    readonly name: string,
    readonly router: Router,
    readonly budget: Budget,
  ) {}

  /** The append's bytes are counted until `finished`, which every end of an append calls. */
  submit(append: Append): void {
    this.#queuedBytes += append.bytes;
    if (this.#closed) return append.onFailure(closedError());
    const { queuedBytes } = this.router.options;
    if (this.#queuedBytes > queuedBytes && this.#queuedBytes > append.bytes)
      return append.onFailure(
        new HansardError('OVERLOADED', `more than ${queuedBytes} bytes of appends wait in this client`, {
          limit: queuedBytes,
        }),
      );
    this.#ticker ??= setInterval(() => this.#tick(), tickMs);
    const partition = this.router.partitionOfTarget(append.target);
    if (partition === undefined || this.#unrouted.length > 0) {
      this.#unrouted.push(append);
      this.#route(append.deadlineMs);
    } else this.lane(partition, append.target.channel).enqueue(append);
  }

  /** To be called when an append that was submitted has its outcome. */
  finished(append: Append): void {
    this.#queuedBytes -= append.bytes;
  }

  lane(partition: PartitionId, anyChannel: string): Lane {
    let lane = this.#lanes.get(partition);
    if (lane === undefined) {
      const { window, inFlightBytesPerPartition: inFlightBytes } = this.router.options;
      lane = new Lane(partition, anyChannel, this.name, this.router, this.budget, { window, inFlightBytes });
      this.#lanes.set(partition, lane);
    }
    return lane;
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#ticker);
    for (const append of this.#unrouted.splice(0)) append.onFailure(closedError());
    for (const lane of this.#lanes.values()) lane.close();
  }

  #route(deadlineMs: number): void {
    if (this.#routing) return;
    this.#routing = true;
    this.router.known(deadlineMs).then(
      () => {
        this.#routing = false;
        for (const append of this.#unrouted.splice(0)) {
          const partition = this.router.partitionOfTarget(append.target) as PartitionId;
          this.lane(partition, append.target.channel).enqueue(append);
        }
      },
      (error: unknown) => {
        this.#routing = false;
        this.#endUnrouted(error as HansardError);
        if (this.#unrouted.length > 0) this.#route((this.#unrouted[0] as Append).deadlineMs);
      },
    );
  }

  #endUnrouted(error: HansardError): void {
    const now = performance.now();
    const late = this.#unrouted.filter((append) => append.deadlineMs <= now);
    this.#unrouted = this.#unrouted.filter((append) => append.deadlineMs > now);
    for (const append of late) append.onFailure(error);
  }

  #tick(): void {
    const now = performance.now();
    this.router.refreshIfOld();
    let isIdle = this.#unrouted.length === 0;
    for (const lane of this.#lanes.values()) {
      if (lane.isIdle) continue;
      isIdle = false;
      lane.tick(now);
    }
    if (!isIdle) return;
    clearInterval(this.#ticker);
    this.#ticker = undefined;
  }
}

export interface ProducerAppendOptions {
  /**
   * Counter of the first message; the next of the channel's partition if
   * absent. Messages whose counters the partition has already are skipped.
   */
  readonly counter?: number;
  /** What the channel must be like; else CONDITION_FAILED, which uses up the counters. */
  readonly condition?: AppendCondition;
  readonly timeoutMs?: number;
}

export interface ProducerAppendResult {
  readonly partition: PartitionId;
  /** Counter of the first message given. */
  readonly counter: number;
  /** Counter of the message after the last one. */
  readonly nextCounter: number;
  /** How many of the first messages the partition had before; they have no seqs here. */
  readonly skipped: number;
  /** Seqs of the messages that were sent; empty where an old repeat was recognised. */
  readonly seqs: readonly number[];
  /** xxh64 of the contents of the messages that were sent. */
  readonly checksums: readonly bigint[];
  readonly commitTimeUs: number;
  readonly commitToken: Uint8Array;
  readonly duplicate: boolean;
}

/**
 * A producer with a name of its own, kept by the cluster until it is deleted:
 * for importers that number their input. Appends of one partition take effect in
 * the order of the calls; each message of the input has one counter, so a second
 * run adds only what is missing.
 *
 * After an append fails, the producer takes no more for that partition; open it
 * again and go on from `nextCounter`.
 */
export class NamedProducer {
  readonly #lanes: LaneSet;
  readonly #targets = new Map<string, Target>();

  /** Made by `client.openProducer`. */
  constructor(
    readonly name: string,
    readonly router: Router,
    budget: Budget,
  ) {
    this.#lanes = new LaneSet(name, router, budget);
  }

  /** The partition of a channel, by which counters are kept. */
  async partitionOf(channel: string, timeoutMs = this.router.options.timeoutMs): Promise<PartitionId> {
    requireChannelName(channel);
    await this.router.known(performance.now() + timeoutMs);
    return this.router.partitionOf(channel) as PartitionId;
  }

  /** The counter that the channel's partition expected when the producer was opened there. */
  async nextCounter(channel: string, timeoutMs = this.router.options.timeoutMs): Promise<number> {
    return this.#opened(channel, performance.now() + timeoutMs);
  }

  async append(
    channel: string,
    messages: readonly NewMessage[],
    options: ProducerAppendOptions = {},
  ): Promise<ProducerAppendResult> {
    if (!Array.isArray(messages)) throw invalid('messages', 'must be an array of messages');
    checkOptions('producerAppend', options);
    const { counter } = options;
    if (counter !== undefined && !(Number.isSafeInteger(counter) && counter >= 1))
      throw invalid('counter', `not a counter: ${counter}`);
    const deadlineMs = performance.now() + (options.timeoutMs ?? this.router.options.timeoutMs);
    const known = await this.#opened(channel, deadlineMs);
    const partition = this.router.partitionOf(channel) as PartitionId;
    // What was there when the producer was opened. A batch may have been cut elsewhere in the first run.
    const skipped = counter === undefined ? 0 : Math.min(messages.length, Math.max(0, known - counter));
    const rest = skipped === 0 ? messages : messages.slice(skipped);
    if (skipped > 0 && rest.some(refersToBatch))
      throw invalid(
        'batchPosition',
        'a batch of which a part was appended before must not refer to its own places',
      );
    const base = { partition, skipped };
    if (rest.length === 0) {
      const first = counter as number;
      return {
        ...base,
        counter: first,
        nextCounter: first + messages.length,
        seqs: [],
        checksums: [],
        commitTimeUs: 0,
        commitToken: new Uint8Array(0),
        duplicate: true,
      };
    }
    const resultOf = (done: Append, response: AppendResponse): ProducerAppendResult => {
      const first = done.counter - skipped;
      const { seqs, commitTimeUs, commitToken, duplicate } = response;
      const { checksums } = done.encoded;
      const nextCounter = first + messages.length;
      return {
        ...base,
        counter: first,
        nextCounter,
        seqs,
        checksums,
        commitTimeUs,
        commitToken,
        duplicate,
      };
    };
    const target = this.#target(channel);
    const wanted = counter === undefined ? 0 : counter + skipped;
    return new Promise((resolve, reject) => {
      const encoded = encodeAppend(target.prefix, rest, options.condition);
      this.#lanes.submit(
        new Append(encoded, target, Math.ceil(deadlineMs), wanted, this.#lanes, resultOf, resolve, reject),
      );
    });
  }

  close(): void {
    this.#lanes.close();
  }

  async #opened(channel: string, deadlineMs: number): Promise<number> {
    requireChannelName(channel);
    await this.router.known(deadlineMs);
    const lane = this.#lanes.lane(this.router.partitionOf(channel) as PartitionId, channel);
    for (;;) {
      try {
        return await lane.opened();
      } catch (error) {
        const isLasting = !(error instanceof HansardError) || !mayOpenLater.has(error.reason);
        if (isLasting || performance.now() >= deadlineMs) throw error;
      }
    }
  }

  #target(channel: string): Target {
    let target = this.#targets.get(channel);
    if (target === undefined) {
      target = new Target(channel, encodeTarget(this.router.tenant, channel));
      this.#targets.set(channel, target);
    }
    return target;
  }
}

/** Reasons after which opening again makes sense; each attempt took its own time. */
const mayOpenLater: ReadonlySet<string> = new Set([
  'UNREACHABLE',
  'NO_QUORUM',
  'NOT_LEADER',
  'DEADLINE_EXCEEDED',
  'COMMIT_UNKNOWN',
  'SHUTTING_DOWN',
  'OVERLOADED',
]);

function refersToBatch(message: NewMessage): boolean {
  const refs = [message.parent, message.replyTo];
  return refs.some((ref) => ref !== undefined && 'batchPosition' in ref);
}
