/** The durable subscriptions that this node leads, and the streams of their consumers: hansard.v1.SubscriptionService/Consume. */
import { HansardError, type Reason } from '../common/errors.js';
import type { TimeUs } from '../common/ids.js';
import { limits } from '../common/limits.js';
import { channelNameProblem } from '../common/names.js';
import { WireReader } from '../common/wire.js';
import type { SubscriptionState } from '../conversation/subscription-state.js';
import { type CallHooks, frameTooLarge } from './calls.js';
import { takeIdText } from './messages.js';
import { invalidArgument, invalidName } from './names.js';
import { type Credit, type OutCall, OutStream } from './out-stream.js';
import { toNumber } from './requests.js';
import type { Services } from './services.js';
import { streamContext } from './stream-context.js';
import type { FlowMessage } from './stream-requests.js';
import { Consumer } from './subscription-consumer.js';
import { SubscriptionLeader } from './subscription-leader.js';
import {
  type DurationMessage,
  millisecondsOf,
  type SubscriptionName,
  subscriptionNotFound,
  sumsOf,
  takeSubscription,
} from './subscription-message.js';
import type { Note } from './subscription-plan.js';
import { shuttingDown } from './tails.js';

export const consumeMethod = 'hansard.v1.SubscriptionService/Consume';

export interface ConsumerLimits {
  /** Streams of Consume at once on this node. */
  readonly streams: number;
  /** What consumers said that is not written down; beyond, they are not read from. */
  readonly waitingNotes: number;
}

export const defaultConsumerLimits: ConsumerLimits = Object.freeze({ streams: 1_000, waitingNotes: 5_000 });

/** Credits that one consumer may hold. */
const creditMax: Credit = { events: 100_000, bytes: 256 * 1024 * 1024 };
const batchDefault = 100;
const batchMax = 1_000;

export interface AckMessage {
  channel: string;
  lease: string;
  seq: string;
}
export interface NackMessage {
  channel: string;
  lease: string;
  delay: DurationMessage | null;
  untried: boolean;
  error: string;
}
export interface ExtensionMessage {
  channel: string;
  lease: string;
  by: DurationMessage | null;
}

interface ConsumeMessage {
  start: {
    consumer_id: string;
    credit: FlowMessage | null;
    held: { lease: string; seq: string }[];
    max_batch: number;
  } | null;
  credit: FlowMessage | null;
  acks: AckMessage[];
  nacks: NackMessage[];
  extensions: ExtensionMessage[];
  leaving: boolean;
}

export interface SubscriptionCounts {
  delivered: number;
  redelivered: number;
  acked: number;
  dead: number;
  steps: number;
}

export class SubscriptionLeaders {
  /** Since the start of this process, of all that it led. */
  readonly counts: SubscriptionCounts = { delivered: 0, redelivered: 0, acked: 0, dead: 0, steps: 0 };
  readonly #services: Services;
  readonly #limits: ConsumerLimits;
  readonly #errorOf: (error: unknown) => HansardError;
  /** By tenant and name. */
  readonly #leaders = new Map<string, SubscriptionLeader>();
  #streams = 0;
  #closed = false;

  constructor(services: Services, bounds: ConsumerLimits, errorOf: (error: unknown) => HansardError) {
    this.#services = services;
    this.#limits = bounds;
    this.#errorOf = errorOf;
  }

  get open(): number {
    return this.#streams;
  }

  /** For metrics. */
  measured(): {
    readonly consumers: number;
    readonly counts: SubscriptionCounts;
    readonly subscriptions: ReturnType<typeof measuredOf>[];
  } {
    const nowUs = this.#services.node.nowUs();
    const subscriptions = [...this.#leaders.values()].flatMap((leader) => {
      const { state } = leader;
      return state === undefined ? [] : [measuredOf(state, nowUs)];
    });
    return { consumers: this.#streams, counts: this.counts, subscriptions };
  }

  /** What works here now. */
  get({ tenant, name }: SubscriptionName): SubscriptionLeader | undefined {
    return this.#leaders.get(`${tenant}\0${name}`);
  }

  /** Throws NOT_LEADER where another node should have it. */
  at(name: SubscriptionName): SubscriptionLeader {
    const { node, router } = this.#services;
    if (this.#closed || node.isDraining) throw shuttingDown();
    const partition = node.partitionOf(name.tenant, name.name);
    const leads = node.leaderOf(partition);
    if (leads !== node.identity.nodeId) throw router.notLeader(partition, leads);
    const key = `${name.tenant}\0${name.name}`;
    const known = this.#leaders.get(key);
    if (known !== undefined && !known.isOver) return known;
    known?.end(subscriptionNotFound(name));
    const leader = new SubscriptionLeader(this.#services, partition, name, {
      errorOf: this.#errorOf,
      ended: (ended) => {
        if (this.#leaders.get(key) === ended) this.#leaders.delete(key);
      },
      count: (what, by) => {
        this.counts[what] += by;
      },
    });
    this.#leaders.set(key, leader);
    void leader.run();
    return leader;
  }

  /** Ends all with SHUTTING_DOWN; consumers go on at the next leader. */
  close(): void {
    this.#closed = true;
    for (const leader of this.#leaders.values()) leader.end(shuttingDown());
  }

  /** Handles one stream, to its end. */
  handler(hooks: CallHooks): (call: OutCall) => void {
    const { node, codecs } = this.#services;
    const decode = codecs.decoder<ConsumeMessage>('hansard.v1.ConsumeRequest');
    return (call) => {
      const startedMs = node.monotonicMs();
      const context = streamContext(call, consumeMethod, startedMs);
      const out = new OutStream(call, startedMs);
      const session = new ConsumeSession(this, out);
      this.#streams++;
      out.onClose = (reason: Reason | 'CANCELLED' | undefined) => {
        context.cancelled = true;
        this.#streams--;
        session.end();
        hooks.onCall?.(consumeMethod, 'grpc', reason, node.monotonicMs() - startedMs);
      };
      out.onRoom = () => session.wake();
      call.on('cancelled', () => out.cancelled());
      call.on('close', () => out.cancelled());
      call.on('error', () => out.cancelled());
      // It has said all that it had to say: the stream ends well.
      call.on('end', () => {
        call.end();
        out.cancelled();
      });
      call.on('data', (bytes: Buffer) => {
        if (out.isClosed) return;
        try {
          if (bytes.length > limits.frameBytes) throw frameTooLarge(bytes.length);
          if (!session.isStarted) hooks.admit?.(context);
          session.take(bytes, decode(bytes));
          if (session.waitingNotes > this.#limits.waitingNotes && !call.isPaused()) {
            call.pause();
            const later = setInterval(() => {
              if (!out.isClosed && session.waitingNotes > this.#limits.waitingNotes / 2) return;
              clearInterval(later);
              call.resume();
            }, 20);
          }
        } catch (error) {
          out.fail(this.#errorOf(error));
        }
      });
      if (this.#streams > this.#limits.streams) {
        out.fail(
          new HansardError(
            'OVERLOADED',
            `${this.#limits.streams} consumers are connected to this node`,
            { streams: this.#limits.streams },
            { retryDelayMs: 1_000 },
          ),
        );
      }
    };
  }

  nowMs(): number {
    return this.#services.node.monotonicMs();
  }
}

function measuredOf(state: Readonly<SubscriptionState>, nowUs: TimeUs) {
  const { events, sinceUs } = sumsOf(state);
  return {
    tenant: state.tenant,
    name: state.name,
    pendingEvents: events,
    oldestPendingMs: sinceUs === 0 ? 0 : Math.max(0, nowUs - sinceUs) / 1_000,
    lastProgressMs: Math.max(0, nowUs - state.progressTimeUs) / 1_000,
    deadLetters: state.deadLetters.size,
  };
}

/** One stream: what it says, brought to its leader. */
class ConsumeSession {
  #leader: SubscriptionLeader | undefined;
  #consumer: Consumer | undefined;
  readonly #leaders: SubscriptionLeaders;
  readonly #out: OutStream;

  constructor(leaders: SubscriptionLeaders, out: OutStream) {
    this.#leaders = leaders;
    this.#out = out;
  }

  get isStarted(): boolean {
    return this.#consumer !== undefined;
  }

  get waitingNotes(): number {
    return this.#leader?.waitingNotes ?? 0;
  }

  wake(): void {
    this.#leader?.wake();
  }

  end(): void {
    if (this.#consumer !== undefined) this.#leader?.leave(this.#consumer);
  }

  take(bytes: Buffer, message: ConsumeMessage): void {
    if (message.start !== null) this.#start(bytes, message.start);
    const leader = this.#leader;
    const consumer = this.#consumer;
    if (leader === undefined || consumer === undefined)
      throw invalidArgument('start', 'the first request of a stream must have it');
    if (message.credit !== null) consumer.grant(creditOf(message.credit));
    if (message.leaving) consumer.isLeaving = true;
    for (const note of notesOf(message, leader)) {
      leader.settle(note).then(
        (kept) => {
          if (!kept) leader.tellLost(consumer, [note.lease]);
        },
        // The stream ends with the leader's error.
        () => undefined,
      );
    }
    leader.wake();
  }

  #start(bytes: Buffer, start: NonNullable<ConsumeMessage['start']>): void {
    if (this.#consumer !== undefined) throw invalidArgument('start', 'it comes once');
    const name = takeSubscription(startBytes(bytes));
    if (start.consumer_id === '') throw invalidArgument('start.consumer_id', 'missing');
    const id = takeIdText(start.consumer_id, 'start.consumer_id');
    if (start.max_batch > batchMax) throw invalidArgument('start.max_batch', `more than ${batchMax}`);
    const leader = this.#leaders.at(name);
    const consumer = new Consumer(
      id,
      this.#out,
      start.max_batch === 0 ? batchDefault : start.max_batch,
      start.credit === null ? { events: 0, bytes: 0 } : creditOf(start.credit),
      () => this.#leaders.nowMs(),
    );
    for (const { lease, seq } of start.held) consumer.sentTo.set(toNumber(lease), toNumber(seq));
    this.#leader = leader;
    this.#consumer = consumer;
    leader.join(consumer);
  }
}

/** The message in field 1. */
function startBytes(bytes: Buffer): Buffer {
  const reader = new WireReader(bytes);
  while (reader.next()) {
    if (reader.field === 1) {
      reader.sized();
      return bytes.subarray(reader.start, reader.position);
    }
    reader.skip();
  }
  return Buffer.alloc(0);
}

function creditOf({ events, bytes }: FlowMessage): Credit {
  const credit = { events, bytes: toNumber(bytes) };
  if (credit.events > creditMax.events)
    throw invalidArgument('credit.events', `more than ${creditMax.events}`);
  if (credit.bytes > creditMax.bytes) throw invalidArgument('credit.bytes', `more than ${creditMax.bytes}`);
  return credit;
}

/**
 * Shared with the unary calls. What is not said stays open: the settings may not be read yet, and are those of the step.
 * Names are looked at here: whatever is said becomes part of an entry.
 */
export function notesOf(
  {
    acks = [],
    nacks = [],
    extensions = [],
  }: { acks?: AckMessage[]; nacks?: NackMessage[]; extensions?: ExtensionMessage[] },
  leader: Pick<SubscriptionLeader, 'nextTimeUs'>,
): Note[] {
  for (const [field, said] of Object.entries({ acks, nacks, extensions })) {
    for (const [i, { channel }] of said.entries()) {
      const problem = channelNameProblem(channel);
      if (problem !== undefined) throw invalidName(`${field}[${i}].channel`, problem);
    }
  }
  return [
    ...acks.map(({ channel, lease, seq }): Note => {
      const last = toNumber(seq);
      return {
        kind: 'ack',
        channel,
        lease: toNumber(lease),
        seq: last,
        nextUs: leader.nextTimeUs(channel, last),
      };
    }),
    ...nacks.map(({ channel, lease, delay, untried, error }): Note => {
      const delayMs = untried ? 0 : millisecondsOf(delay, 'delay');
      const why = error.slice(0, errorCharacters);
      return { kind: 'nack', channel, lease: toNumber(lease), delayMs, counted: !untried, error: why };
    }),
    ...extensions.map(({ channel, lease, by }): Note => {
      return { kind: 'extend', channel, lease: toNumber(lease), byMs: millisecondsOf(by, 'by') };
    }),
  ];
}

/** Of an error, kept with a dead letter. */
const errorCharacters = 256;
