/**
 * Applied state that is only in memory (and in the log): events as views onto
 * the entries' buffers, and what changed of channels, producers, keys and
 * message ids. While a checkpoint seals one, it is frozen: nothing in it changes
 * any more, and applying clones what it takes from it.
 */
import type { ChannelId, Index, ProducerId, Seq, Term } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { Membership } from '../common/membership.js';
import type { SubscriptionState } from '../conversation/subscription-state.js';
import type {
  ChannelState,
  KeyRecord,
  PartitionMeta,
  ProducerState,
  ReadCursor,
  StoredEvent,
} from '../conversation/types.js';
import { ChangeList } from './change-list.js';
import { deletedState } from './state-codec.js';

/** Approximate bytes that V8 takes, beside the texts and contents themselves. */
const objectBytes = {
  event: 160,
  channel: 640,
  producer: 300,
  /** With a text of its own for its channel, as where it was read from its row. */
  answer: 100,
  otherAnswer: 300,
  key: 220,
  messageId: 120,
  change: 32,
  cursor: 260,
  /** Of a row with a few hundred pending channels. */
  subscription: 64 * 1024,
  failure: 100,
} as const;

/** Of what failed, beside the cursor itself. */
export function failuresMemory({ failed = [] }: Pick<ReadCursor, 'failed'>): number {
  return failed.reduce((sum, { reason }) => sum + objectBytes.failure + 2 * reason.length, 0);
}

export interface TailChannel {
  state: ChannelState;
  /** The name is not in use; what is kept is `deletedState`. */
  readonly deleted: boolean;
  /** Put or appended to; a channel that was only looked up is not. */
  dirty: boolean;
  /** Dense; `events[i].seq` is `baseSeq + 1 + i`. */
  readonly events: StoredEvent[];
  readonly baseSeq: Seq;
}

export interface TailProducer {
  state: ProducerState;
  dirty: boolean;
  deleted: boolean;
  /** As counted in the tail's bytes. */
  weight: number;
}

/** Of all tails of a store: asked for before each entry, so kept as sums. */
export interface TailSum {
  bytes: number;
  /** One that several tails of a partition have, frozen and active, counts in each. */
  dirtyChannels: number;
}

export function emptyTailSum(): TailSum {
  return { bytes: 0, dirtyChannels: 0 };
}

export class Tail {
  /** By `channelName`. */
  readonly channels = new Map<string, TailChannel>();
  /** The same by tenant, then name: to make a key of both costs each append 300 ns. */
  readonly #byTenant = new Map<string, Map<string, TailChannel>>();
  /** Without deleted ones. */
  readonly channelsById = new Map<ChannelId, TailChannel>();
  readonly producers = new Map<ProducerId, TailProducer>();
  /** By `channelName(tenant, name)` of a named producer; undefined: deleted. */
  readonly producerNames = new Map<string, ProducerId | undefined>();
  readonly keys = new Map<ChannelId, Map<string, KeyRecord>>();
  readonly messageIds = new Map<ChannelId, Map<string, Seq>>();
  /** By `cursorName`. */
  readonly cursors = new Map<string, ReadCursor>();
  /** By `channelName`, changed here; undefined: deleted. */
  readonly subscriptions = new Map<string, SubscriptionState | undefined>();
  /** In the order of applying. Those of channels that were deleted since stay: places count events. */
  readonly changes = new ChangeList();
  keyCount = 0;
  messageIdCount = 0;
  readonly #own = emptyTailSum();
  constructor(readonly sum: TailSum) {}

  /** Of all that is in here, approximately. */
  get bytes(): number {
    return this.#own.bytes;
  }

  /** Sealed, or replaced by a snapshot: counts no more. */
  drop(): void {
    const { bytes, dirtyChannels } = this.#own;
    this.#count(-bytes);
    this.#countDirty(-dirtyChannels);
  }

  #count(bytes: number): void {
    this.#own.bytes += bytes;
    this.sum.bytes += bytes;
  }

  #countDirty(channels: number): void {
    this.#own.dirtyChannels += channels;
    this.sum.dirtyChannels += channels;
  }

  addChannel(state: ChannelState, dirty: boolean, baseSeq: Seq): TailChannel {
    const channel: TailChannel = { state, deleted: false, dirty, events: [], baseSeq };
    this.#name(channel);
    this.channelsById.set(state.id, channel);
    this.#count(weightOfChannel(state));
    if (dirty) this.#countDirty(1);
    return channel;
  }

  /** Put or appended to: it is to be sealed. */
  markDirty(channel: TailChannel): void {
    if (channel.dirty) return;
    channel.dirty = true;
    this.#countDirty(1);
  }

  channelByName(tenant: string, name: string): TailChannel | undefined {
    return this.#byTenant.get(tenant)?.get(name);
  }

  #name(channel: TailChannel): void {
    const { tenant, name } = channel.state;
    this.channels.set(channelName(tenant, name), channel);
    const ofTenant = this.#byTenant.get(tenant);
    if (ofTenant === undefined) this.#byTenant.set(tenant, new Map([[name, channel]]));
    else ofTenant.set(name, channel);
  }

  /** Drops all of the channel but what is kept of its name. */
  deleteChannel(channel: TailChannel): void {
    const { id } = channel.state;
    let freed = weightOfChannel(channel.state);
    for (const event of channel.events) freed += event.headerLength + event.contentLength + objectBytes.event;
    for (const key of this.keys.get(id)?.keys() ?? []) freed += key.length + objectBytes.key;
    for (const messageId of this.messageIds.get(id)?.keys() ?? [])
      freed += messageId.length + objectBytes.messageId;
    this.keyCount -= this.keys.get(id)?.size ?? 0;
    this.messageIdCount -= this.messageIds.get(id)?.size ?? 0;
    this.keys.delete(id);
    this.messageIds.delete(id);
    this.channelsById.delete(id);
    const state = deletedState(channel.state);
    const kept = { state, deleted: true, dirty: true, events: [], baseSeq: state.headSeq };
    this.#name(kept);
    // Texts that were put twice were counted twice: the sum stays an estimate, but never below what is kept.
    this.#count(weightOfChannel(state) - Math.min(this.#own.bytes, freed));
    if (!channel.dirty) this.#countDirty(1);
  }

  addEvent(channel: TailChannel, event: StoredEvent, index: Index): void {
    channel.events.push(event);
    this.markDirty(channel);
    if (!this.changes.extend(index, channel.state, event.seq)) {
      this.changes.push(index, channel.state, event.seq, event.seq);
      this.#count(objectBytes.change);
    }
    this.#count(event.headerLength + event.contentLength + objectBytes.event);
  }

  /** A producer that was looked up, or put; `putProducer` of the same one changes it. */
  addProducer(state: ProducerState, dirty: boolean): TailProducer {
    const known = this.producers.get(state.id);
    const weight = weightOfProducer(state);
    const producer = { state, dirty: dirty || (known?.dirty ?? false), deleted: false, weight };
    this.producers.set(state.id, producer);
    this.#count(weight - (known?.weight ?? 0));
    return producer;
  }

  addKey(channelId: ChannelId, key: string, record: KeyRecord): void {
    let keys = this.keys.get(channelId);
    if (keys === undefined) {
      keys = new Map();
      this.keys.set(channelId, keys);
    }
    keys.set(key, record);
    this.keyCount++;
    this.#count(key.length + objectBytes.key);
  }

  addCursor(name: string, cursor: ReadCursor): void {
    const before = this.cursors.get(name);
    if (before === undefined) this.#count(2 * name.length + objectBytes.cursor);
    if (cursor.failed !== undefined) this.#count(failuresMemory(cursor) - failuresMemory(before ?? {}));
    this.cursors.set(name, cursor);
  }

  /** Weighed once, as a large one: what is pending comes and goes. */
  addSubscription(name: string, state: SubscriptionState | undefined): void {
    if (!this.subscriptions.has(name)) this.#count(objectBytes.subscription);
    this.subscriptions.set(name, state);
  }

  addMessageId(channelId: ChannelId, messageId: string, seq: Seq): void {
    let ids = this.messageIds.get(channelId);
    if (ids === undefined) {
      ids = new Map();
      this.messageIds.set(channelId, ids);
    }
    ids.set(messageId, seq);
    this.messageIdCount++;
    this.#count(messageId.length + objectBytes.messageId);
  }
}

/** A tail and what else is sealed with it, all as of one index. */
export interface FrozenTail {
  readonly tail: Tail;
  readonly appliedIndex: Index;
  readonly appliedTerm: Term;
  readonly confState: ConfState;
  readonly membership: Membership;
  readonly meta: PartitionMeta;
}

export function channelName(tenant: string, name: string): string {
  return `${tenant}\0${name}`;
}

/** Lists are replaced by whoever changes them or copied here: a clone shares nothing that changes. */
export function cloneChannel(state: ChannelState): ChannelState {
  return {
    ...state,
    labels: state.labels.map(([key, value]): [string, string] => [key, value]),
    participants: state.participants.map((who) => ({ ...who })),
  };
}

export function cloneProducer(state: ProducerState): ProducerState {
  return { ...state, answers: state.answers.clone() };
}

export function cloneMeta(meta: PartitionMeta): PartitionMeta {
  return { ...meta, settings: { ...meta.settings } };
}

export function weightOfChannel(state: ChannelState): number {
  const listed = state.labels.length + state.participants.length;
  return objectBytes.channel + 2 * (state.name.length + state.title.length) + 200 * listed;
}

export function weightOfProducer(state: ProducerState): number {
  const { length, otherCount } = state.answers;
  return objectBytes.producer + objectBytes.answer * length + objectBytes.otherAnswer * otherCount;
}
