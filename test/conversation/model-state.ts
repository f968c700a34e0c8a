/**
 * A partition's replicated state in plain maps: the reference that the store is
 * held against, and what the state machine's own tests and simulations run on.
 */
import type { ChannelId, PartitionId, ProducerId, Seq } from '../../src/common/ids.js';
import { liveChannel } from '../../src/conversation/apply-trash.js';
import { initialMeta } from '../../src/conversation/settings.js';
import type { SubscriptionState } from '../../src/conversation/subscription-state.js';
import type {
  ApplyState,
  ChannelState,
  CursorKind,
  DeletedChannel,
  KeyRecord,
  PartitionMeta,
  ProducerState,
  ReadCursor,
  ReplicatedSettings,
  StoredEvent,
} from '../../src/conversation/types.js';

/** One stored event, its bytes copied out of the entry. */
export interface ModelEvent {
  seq: Seq;
  commitTimeUs: number;
  producerId: ProducerId;
  producerCounter: number;
  header: string;
  content: string;
}

export class ModelState implements ApplyState {
  readonly meta: PartitionMeta;
  readonly channels = new Map<string, ChannelState>();
  readonly deleted = new Map<string, DeletedChannel>();
  readonly events = new Map<ChannelId, ModelEvent[]>();
  readonly producers = new Map<ProducerId, ProducerState>();
  readonly producerNames = new Map<string, ProducerId>();
  readonly keys = new Map<string, KeyRecord>();
  readonly messageIds = new Map<string, Seq>();
  readonly cursors = new Map<string, ReadCursor>();
  readonly subscriptions = new Map<string, SubscriptionState>();

  constructor(partition: PartitionId = 0, settings: Partial<ReplicatedSettings> = {}) {
    this.meta = initialMeta(partition);
    Object.assign(this.meta.settings, settings);
  }

  channel(tenant: string, name: string): ChannelState | undefined {
    return this.channels.get(`${tenant}/${name}`);
  }

  putChannel(channel: ChannelState): void {
    this.channels.set(`${channel.tenant}/${channel.name}`, channel);
    this.deleted.delete(`${channel.tenant}/${channel.name}`);
    if (!this.events.has(channel.id)) this.events.set(channel.id, []);
  }

  deletedChannel(tenant: string, name: string): DeletedChannel | undefined {
    return this.deleted.get(`${tenant}/${name}`);
  }

  deleteChannel(channel: ChannelState): void {
    const { id, uid, headSeq, revision } = channel;
    this.channels.delete(`${channel.tenant}/${channel.name}`);
    this.deleted.set(`${channel.tenant}/${channel.name}`, { id, uid, headSeq, revision });
    this.events.delete(id);
    for (const map of [this.keys, this.messageIds]) {
      for (const key of map.keys()) if (key.startsWith(`${id}/`)) map.delete(key);
    }
  }

  append(channel: ChannelState, event: StoredEvent): void {
    const events = this.events.get(channel.id);
    if (events === undefined) throw new Error(`an event of a channel that was never put: ${channel.name}`);
    if (event.seq !== channel.baseSeq + events.length + 1 || channel.headSeq !== event.seq) {
      throw new Error(`event ${event.seq} after ${events.length} in ${channel.name}`);
    }
    events.push({
      seq: event.seq,
      commitTimeUs: event.commitTimeUs,
      producerId: event.producerId,
      producerCounter: event.producerCounter,
      header: hex(event.bytes, event.headerOffset, event.headerLength),
      content: hex(event.contentBytes, event.contentOffset, event.contentLength),
    });
  }

  producer(id: ProducerId): ProducerState | undefined {
    return this.producers.get(id);
  }

  producerByName(tenant: string, name: string): ProducerState | undefined {
    const id = this.producerNames.get(`${tenant}/${name}`);
    return id === undefined ? undefined : this.producers.get(id);
  }

  putProducer(producer: ProducerState): void {
    this.producers.set(producer.id, producer);
    if (producer.name !== '') this.producerNames.set(`${producer.tenant}/${producer.name}`, producer.id);
  }

  deleteProducer(id: ProducerId): void {
    const producer = this.producers.get(id);
    if (producer === undefined) return;
    this.producers.delete(id);
    if (producer.name !== '') this.producerNames.delete(`${producer.tenant}/${producer.name}`);
  }

  key(channelId: ChannelId, key: string): KeyRecord | undefined {
    return this.keys.get(`${channelId}/${key}`);
  }

  putKey(channelId: ChannelId, key: string, record: KeyRecord): void {
    this.keys.set(`${channelId}/${key}`, record);
  }

  messageId(channelId: ChannelId, messageId: string): Seq | undefined {
    return this.messageIds.get(`${channelId}/${messageId}`);
  }

  cursor(tenant: string, channel: string, reader: string, kind: CursorKind = 'read'): ReadCursor | undefined {
    return this.cursors.get(JSON.stringify([tenant, channel, kind, reader]));
  }

  putCursor(cursor: ReadCursor): void {
    const { tenant, channel, reader, failed } = cursor;
    const kind: CursorKind = failed === undefined ? 'read' : 'delivery';
    this.cursors.set(JSON.stringify([tenant, channel, kind, reader]), cursor);
  }

  subscription(tenant: string, name: string): SubscriptionState | undefined {
    return this.subscriptions.get(`${tenant}/${name}`);
  }

  subscriptionToChange(tenant: string, name: string): SubscriptionState | undefined {
    return this.subscription(tenant, name);
  }

  putSubscription(subscription: SubscriptionState): void {
    this.subscriptions.set(`${subscription.tenant}/${subscription.name}`, subscription);
  }

  deleteSubscription(tenant: string, name: string): void {
    this.subscriptions.delete(`${tenant}/${name}`);
  }

  putMessageId(channelId: ChannelId, messageId: string, seq: Seq): void {
    this.messageIds.set(`${channelId}/${messageId}`, seq);
  }

  /** The contents of a channel's events, as text. */
  texts(name: string, tenant = 'default'): string[] {
    const channel = liveChannel(this, tenant, name);
    if (channel === undefined) return [];
    return (this.events.get(channel.id) ?? []).map((event) =>
      Buffer.from(event.content, 'hex').subarray(16).toString(),
    );
  }

  /** The whole state as plain data, to compare two of them. */
  dump(): unknown {
    return structuredClone({
      meta: this.meta,
      channels: [...this.channels],
      ...(this.deleted.size === 0 ? {} : { deleted: [...this.deleted] }),
      events: [...this.events],
      producers: [...this.producers].map(([id, state]) => [id, { ...state, answers: [...state.answers] }]),
      producerNames: [...this.producerNames],
      keys: [...this.keys],
      messageIds: [...this.messageIds],
      ...(this.cursors.size === 0 ? {} : { cursors: [...this.cursors] }),
      ...(this.subscriptions.size === 0 ? {} : { subscriptions: [...this.subscriptions] }),
    });
  }

  /** Throws where the state contradicts itself. */
  check(): void {
    const trashed = [...this.channels.values()].filter(({ deletedTimeUs }) => deletedTimeUs !== undefined);
    const inTrash = trashed.map(({ tenant, name, deletedTimeUs }) => `${tenant}/${name} ${deletedTimeUs}`);
    const listed = (this.meta.trash ?? []).map((each) => `${each.tenant}/${each.name} ${each.deletedTimeUs}`);
    if (inTrash.sort().join() !== listed.sort().join()) throw new Error('the trash lists other channels');
    if (this.meta.channelCount !== this.channels.size) throw new Error('the channel count is wrong');
    if (this.meta.deletedCount !== this.deleted.size) throw new Error('the count of deleted names is wrong');
    for (const name of this.deleted.keys()) {
      if (this.channels.has(name)) throw new Error(`${name} is there and deleted`);
    }
    let lastTime = 0;
    for (const channel of this.channels.values()) {
      const events = this.events.get(channel.id) ?? [];
      if (channel.baseSeq + events.length !== channel.headSeq)
        throw new Error(`${channel.name}: head is not its last event`);
      if (channel.lastMessageSeq > channel.headSeq)
        throw new Error(`${channel.name}: a message beyond the head`);
      let before = channel.createTimeUs;
      for (const event of events) {
        if (event.commitTimeUs < before) throw new Error(`${channel.name}: time runs back at ${event.seq}`);
        before = event.commitTimeUs;
      }
      lastTime = Math.max(lastTime, before);
    }
    if (lastTime > this.meta.lastCommitTimeUs) throw new Error('an event is later than the partition');
    for (const producer of this.producers.values()) {
      const [oldest] = producer.answers;
      let next = oldest?.firstCounter;
      for (const answer of producer.answers) {
        if (answer.firstCounter !== next) throw new Error(`producer ${producer.id}: answers with a gap`);
        next = answer.lastCounter + 1;
      }
      if (next !== undefined && next !== producer.lastCounter + 1) {
        throw new Error(`producer ${producer.id}: the last answer is not the last counter's`);
      }
    }
  }
}

function hex(bytes: Uint8Array, offset: number, length: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + offset, length).toString('hex');
}
