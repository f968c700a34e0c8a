/** One partition's applied state, as the state machine changes it and readers see it. */
import { assert, HansardError, InvariantError } from '../common/errors.js';
import type { ChannelId, Index, PartitionId, ProducerId, Seq, Term, TimeUs } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { Membership } from '../common/membership.js';
import type { DecodedEntry } from '../conversation/decoded-entry.js';
import { lookupsOf } from '../conversation/lookups.js';
import type { SubscriptionState } from '../conversation/subscription-state.js';
import type {
  ChannelState,
  CursorKind,
  DeletedChannel,
  KeyRecord,
  PartitionMeta,
  ProducerState,
  ReadCursor,
  StoredEvent,
} from '../conversation/types.js';
import {
  type ChangePage,
  type ChangeQuery,
  type ChannelsAt,
  listChannelsAt,
  readChangePage,
} from './changes.js';
import { type CursorQuery, cursorSync, listCursors, loadCursor, nameOfCursor } from './cursors.js';
import { digestPartition } from './digest.js';
import { type FindQuery, findChannels } from './find-channels.js';
import { RowKind } from './keys.js';
import { type ChannelQuery, isThere, listChannels, listDeleted } from './list-channels.js';
import type { Pace } from './pace.js';
import type { PartitionState } from './partition-state.js';
import { appendsAtHand, prefetch } from './prefetch.js';
import { findSeqAtTime, readPage, readPageNow, tailChannelByName } from './reader.js';
import { isStoreDamage } from './rows.js';
import { keyRecordOf, seqOf } from './run-entry.js';
import {
  type ScanEventsQuery,
  type ScannedChannels,
  type ScannedEvents,
  type ScanQuery,
  scanChannels,
  scanEvents,
} from './scan.js';
import { type RowDamage, sweepRows } from './sweep.js';
import { channelName, cloneChannel, cloneProducer, type TailChannel } from './tail.js';
import type { PageRange, PartitionDigest, PartitionStore } from './types.js';
import { type WatchAllListener, Watches, type WatchListener } from './watches.js';

interface DigestDue {
  readonly index: Index;
  readonly pace: Pace;
  /** What was there when it was asked for. */
  readonly state: PartitionState;
  resolve(digest: PartitionDigest | undefined): void;
  reject(error: unknown): void;
}

export class PartitionStoreImpl implements PartitionStore {
  /** Another one once a snapshot was installed. */
  #state: PartitionState;
  readonly #checkpoint: () => Promise<void>;
  readonly #watches = new Watches();
  #inEntry = false;
  /** Of the active tail, handed out or put in this entry: an append asks for it again and again. */
  #last: TailChannel | undefined;
  #isDropped = false;
  /** Its rows are damaged, and nothing has taken their place yet. */
  #isSetAside: boolean;
  /** False: nobody takes care of it. */
  readonly #onDamage: (error: HansardError) => boolean;
  /** Who waits for the state at an index to come. */
  #digestDue: DigestDue | undefined;

  constructor(
    state: PartitionState,
    checkpoint: () => Promise<void>,
    onDamage: (error: HansardError) => boolean,
    isSetAside: boolean,
  ) {
    this.#state = state;
    this.#checkpoint = checkpoint;
    this.#onDamage = onDamage;
    this.#isSetAside = isSetAside;
  }

  /** Nobody is answered from what is here; applying may still be under way. */
  distrust(): void {
    this.#isSetAside = true;
    this.#watches.allChanged();
  }

  /** `state` stands in for what was damaged; reads that are under way go elsewhere. */
  setAside(state: PartitionState): void {
    this.#inEntry = false;
    this.#last = undefined;
    this.#isSetAside = true;
    this.#endDigest();
    this.#state = state;
    this.#watches.allChanged();
  }

  /** What is known of the partition from here on; reads that are under way begin anew. */
  replaceState(state: PartitionState): void {
    assert(!this.#inEntry, 'a snapshot comes between two entries');
    this.#isSetAside = false;
    this.#endDigest();
    this.#state = state;
    this.#watches.allChanged();
  }

  /** The replica is gone from here: its rows are deleted under whoever still reads. */
  drop(): void {
    assert(!this.#inEntry, 'a replica goes between two entries');
    this.#isDropped = true;
    this.#endDigest();
    this.#state.active.drop();
    this.#watches.allChanged();
  }

  #endDigest(): void {
    this.#digestDue?.resolve(undefined);
    this.#digestDue = undefined;
  }

  get partition(): PartitionId {
    return this.#state.place.partition;
  }
  get meta(): PartitionMeta {
    return this.#state.meta;
  }
  get appliedIndex(): Index {
    return this.#state.appliedIndex;
  }
  get appliedTerm(): Term {
    return this.#state.appliedTerm;
  }
  get sealedIndex(): Index {
    return this.#state.sealed.record.appliedIndex;
  }
  get sealedTerm(): Term {
    return this.#state.sealed.record.appliedTerm;
  }
  get sealedConfState(): ConfState {
    return this.#state.sealed.record.confState;
  }
  get installedIndex(): Index {
    return this.#state.installedIndex;
  }
  get confState(): ConfState {
    return this.#state.confState;
  }
  get membership(): Membership {
    return this.#state.membership;
  }
  get sealedMembership(): Membership {
    return this.#state.sealed.record.membership;
  }
  get tailBytes(): number {
    return this.#state.tailBytes;
  }
  get dirtySinceMs(): number | undefined {
    return this.#state.dirtySinceMs;
  }
  get sealing(): boolean {
    return this.#state.sealing !== undefined;
  }

  // ---- entries

  setConfState(confState: ConfState, membership: Membership): void {
    this.#state.confState = confState;
    this.#state.membership = membership;
  }

  beginEntry(): void {
    assert(!this.#inEntry, 'entries are applied one by one');
    this.#inEntry = true;
    // Between entries the tail that it is in may have been frozen.
    this.#last = undefined;
  }

  endEntry(index: Index, term: Term): void {
    const state = this.#state;
    assert(this.#inEntry, 'endEntry closes what beginEntry opened');
    if (index !== state.appliedIndex + 1)
      throw new InvariantError(`entry ${index} is applied after ${state.appliedIndex}`);
    if (!(term >= state.appliedTerm))
      throw new InvariantError(`term ${term} is applied after ${state.appliedTerm}`);
    this.#inEntry = false;
    state.appliedIndex = index;
    state.appliedTerm = term;
    state.dirtySinceMs ??= state.shared.clock.monotonicMs();
    if (this.#digestDue !== undefined) this.#takeDigest(this.#digestDue);
  }

  prefetch(entry: DecodedEntry): Promise<void> | undefined {
    const state = this.#state;
    if (appendsAtHand(state, entry)) return undefined;
    // What a replaced state no longer finds is nobody's loss.
    return prefetch(state, lookupsOf(entry))?.catch((error: unknown) => {
      if (state === this.#state) throw error;
    });
  }

  // ---- ApplyState: what is handed out belongs to the active tail, and to nobody else

  channel(tenant: string, name: string): ChannelState | undefined {
    const { active, frozen } = this.#state;
    const known = active.channelByName(tenant, name);
    if (known !== undefined) {
      this.#last = known;
      return known.deleted ? undefined : known.state;
    }
    // What is frozen or cached must not change under the sealing and the readers: a clone.
    const before = frozen?.tail.channelByName(tenant, name) ?? this.#state.sealedChannelSync(tenant, name);
    if (before === undefined || before.deleted) return undefined;
    const channel = cloneChannel(before.state);
    this.#last = active.addChannel(channel, false, channel.headSeq);
    return channel;
  }

  putChannel(channel: ChannelState): void {
    const known = this.#known(channel);
    this.#watches.changed(channel.tenant, channel.name);
    if (known === undefined) {
      this.#last = this.#state.active.addChannel(channel, true, channel.headSeq);
      return;
    }
    assert(known.state === channel, 'a channel is put as it was handed out');
    this.#state.active.markDirty(known);
  }

  #known(channel: ChannelState): TailChannel | undefined {
    return this.#last?.state === channel ? this.#last : this.#state.active.channelsById.get(channel.id);
  }

  deletedChannel(tenant: string, name: string): DeletedChannel | undefined {
    const known = tailChannelByName(this.#state, tenant, name) ?? this.#state.sealedChannelSync(tenant, name);
    if (known === undefined || !known.deleted) return undefined;
    const { id, uid, headSeq, revision } = known.state;
    return { id, uid, headSeq, revision };
  }

  deleteChannel(channel: ChannelState): void {
    const { active } = this.#state;
    const known = active.channelsById.get(channel.id);
    assert(known?.state === channel, 'a channel is deleted as it was handed out');
    this.#watches.changed(channel.tenant, channel.name);
    this.#last = undefined;
    active.deleteChannel(known);
  }

  append(channel: ChannelState, event: StoredEvent): void {
    const known = this.#known(channel);
    assert(known?.state === channel, 'an event goes to a channel that was handed out or put');
    const last = known.events.at(-1);
    const expected = (last?.seq ?? known.baseSeq) + 1;
    if (event.seq !== expected)
      throw new InvariantError(`event ${event.seq} of ${channel.name} where ${expected} comes next`);
    assert(event.commitTimeUs >= (last?.commitTimeUs ?? 0), 'commit times never fall');
    this.#state.active.addEvent(known, event, this.#state.appliedIndex + 1);
    this.#state.shared.counters.eventsApplied++;
  }

  producer(id: ProducerId): ProducerState | undefined {
    const { active, frozen } = this.#state;
    const known = active.producers.get(id);
    if (known !== undefined) return known.deleted ? undefined : known.state;
    const frozenOne = frozen?.tail.producers.get(id);
    if (frozenOne?.deleted) return undefined;
    const before = frozenOne?.state ?? this.#state.sealedProducerSync(id);
    return before === undefined ? undefined : active.addProducer(cloneProducer(before), false).state;
  }

  lastCounterOf(id: ProducerId): number {
    const { active, frozen } = this.#state;
    const known = active.producers.get(id) ?? frozen?.tail.producers.get(id);
    if (known !== undefined) return known.deleted ? 0 : known.state.lastCounter;
    return this.#state.sealedProducerSync(id)?.lastCounter ?? 0;
  }

  producerByName(tenant: string, name: string): ProducerState | undefined {
    const { active, frozen, sealed } = this.#state;
    const key = channelName(tenant, name);
    let id: ProducerId | undefined;
    if (active.producerNames.has(key)) id = active.producerNames.get(key);
    else if (frozen?.tail.producerNames.has(key)) id = frozen.tail.producerNames.get(key);
    else id = sealed.producerNames.get(key);
    return id === undefined ? undefined : this.producer(id);
  }

  putProducer(producer: ProducerState): void {
    const { active } = this.#state;
    active.addProducer(producer, true);
    if (producer.name !== '')
      active.producerNames.set(channelName(producer.tenant, producer.name), producer.id);
  }

  deleteProducer(id: ProducerId): void {
    const state = this.producer(id);
    if (state === undefined) return;
    const { active } = this.#state;
    active.addProducer(state, true).deleted = true;
    if (state.name !== '') active.producerNames.set(channelName(state.tenant, state.name), undefined);
  }

  key(channelId: ChannelId, key: string): KeyRecord | undefined {
    const recent = this.#state.tailKey(channelId, key);
    if (recent !== undefined) return recent;
    const entry = this.#state.runEntrySync(RowKind.keyRun, channelId, key);
    return entry === undefined ? undefined : keyRecordOf(entry);
  }

  putKey(channelId: ChannelId, key: string, record: KeyRecord): void {
    this.#state.active.addKey(channelId, key, record);
  }

  messageId(channelId: ChannelId, messageId: string): Seq | undefined {
    const recent = this.#state.tailMessageId(channelId, messageId);
    if (recent !== undefined) return recent;
    const entry = this.#state.runEntrySync(RowKind.messageIdRun, channelId, messageId);
    return entry === undefined ? undefined : seqOf(entry);
  }

  putMessageId(channelId: ChannelId, messageId: string, seq: Seq): void {
    this.#state.active.addMessageId(channelId, messageId, seq);
  }

  cursor(tenant: string, channel: string, reader: string, kind?: CursorKind): ReadCursor | undefined {
    return cursorSync(this.#state, tenant, channel, reader, kind);
  }

  putCursor(cursor: ReadCursor): void {
    this.#state.active.addCursor(nameOfCursor(cursor), cursor);
  }

  subscription(tenant: string, name: string): Readonly<SubscriptionState> | undefined {
    return this.#state.subscriptions.get(tenant, name);
  }

  subscriptionToChange(tenant: string, name: string): SubscriptionState | undefined {
    return this.#state.subscriptions.toChange(this.#state.active, tenant, name);
  }

  putSubscription(subscription: SubscriptionState): void {
    this.#state.subscriptions.put(this.#state.active, subscription);
  }

  deleteSubscription(tenant: string, name: string): void {
    this.#state.subscriptions.delete(this.#state.active, tenant, name);
  }

  // ---- PartitionReader

  subscriptionNow(tenant: string, name: string): Readonly<SubscriptionState> | undefined {
    if (this.#isElsewhere) throw this.#gone();
    return this.subscription(tenant, name);
  }

  subscriptionsOf(tenant: string): Readonly<SubscriptionState>[] {
    if (this.#isElsewhere) throw this.#gone();
    return this.#state.subscriptions.of(tenant);
  }

  readCursor(
    tenant: string,
    channel: string,
    reader: string,
    kind?: CursorKind,
  ): Promise<ReadCursor | undefined> {
    return this.#read((state) => loadCursor(state, tenant, channel, reader, kind));
  }

  listCursors(query: CursorQuery): Promise<ReadCursor[]> {
    return this.#read((state) => listCursors(state, query));
  }

  channelByName(tenant: string, name: string): Promise<ChannelState | undefined> {
    const found = this.channelNow(tenant, name);
    if (found === 'unknown') return this.#read((state) => findChannel(state, tenant, name));
    return Promise.resolve(found);
  }

  channelNow(tenant: string, name: string): ChannelState | undefined | 'unknown' {
    if (this.#isElsewhere) return 'unknown';
    const state = this.#state;
    const found = tailChannelByName(state, tenant, name) ?? state.sealedChannelAtHand(tenant, name);
    if (found === 'unknown') return found;
    return found === undefined || !isThere(found) ? undefined : cloneChannel(found.state);
  }

  events(channel: ChannelState, range: PageRange): Promise<StoredEvent[]> {
    const page = this.eventsNow(channel, range);
    return page === undefined
      ? this.#read((state) => readPage(state, channel, range))
      : Promise.resolve(page);
  }

  eventsNow(channel: ChannelState, range: PageRange): StoredEvent[] | undefined {
    if (this.#isElsewhere) return undefined;
    try {
      return readPageNow(this.#state, channel, range);
    } catch (error) {
      // Met once; whoever reads it again tells of it.
      if (isStoreDamage(error)) return undefined;
      throw error;
    }
  }

  seqOfMessageId(channelId: ChannelId, messageId: string): Promise<Seq | undefined> {
    return this.#read(async (state) => {
      const recent = state.tailMessageId(channelId, messageId);
      if (recent !== undefined) return recent;
      const entry = await state.runEntry(RowKind.messageIdRun, channelId, messageId);
      return entry === undefined ? undefined : seqOf(entry);
    });
  }

  seqAtTime(channel: ChannelState, timeUs: TimeUs): Promise<Seq> {
    return this.#read((state) => findSeqAtTime(state, channel, timeUs));
  }

  listChannels(query: ChannelQuery): Promise<ChannelState[]> {
    return this.#read((state) => listChannels(state, query));
  }

  listDeleted(query: ChannelQuery): Promise<ChannelState[]> {
    return this.#read((state) => listDeleted(state, query));
  }

  /**
   * A snapshot that is installed meanwhile takes the old generation's rows away
   * under the reader: what it found, or missed, counts for nothing. Damage that is
   * met twice is damage: then this replica answers nobody until it is mended.
   */
  async #read<T>(from: (state: PartitionState) => Promise<T>, tellsDamage = true): Promise<T> {
    for (let met = 0; !this.#isElsewhere; ) {
      const state = this.#state;
      try {
        const found = await from(state);
        if (state === this.#state && !this.#isElsewhere) return found;
      } catch (error) {
        if (state !== this.#state || this.#isElsewhere) continue;
        if (!isStoreDamage(error)) throw error;
        if (met++ === 0) continue;
        if (!tellsDamage || !this.#onDamage(error)) throw error;
        throw this.#gone();
      }
    }
    throw this.#gone();
  }

  /** Whoever reads must ask another replica. */
  get #isElsewhere(): boolean {
    return this.#isDropped || this.#isSetAside;
  }

  #gone(): HansardError {
    const { partition } = this;
    const problem = this.#isDropped
      ? `this node holds no replica of partition ${partition}`
      : `this node's replica of partition ${partition} is damaged`;
    return new HansardError('NOT_LEADER', problem, { partition });
  }

  channelsAt(query: ChannelQuery): Promise<ChannelsAt> {
    return this.#read((state) => listChannelsAt(state, query));
  }

  changes(query: ChangeQuery): Promise<ChangePage> {
    return this.#read((state) => readChangePage(state, query));
  }

  findChannels(query: FindQuery): Promise<ChannelState[]> {
    return this.#read((state) => findChannels(state, query));
  }

  scanChannels(query: ScanQuery): Promise<ScannedChannels> {
    return this.#read((state) => scanChannels(state, query));
  }

  scanEvents(query: ScanEventsQuery): Promise<ScannedEvents> {
    return this.#read((state) => scanEvents(state, query));
  }

  digestAt(): Promise<PartitionDigest> {
    // The caller judges.
    return this.#read((state) => digestPartition(state), false);
  }

  digestWhen(index: Index, pace: Pace): Promise<PartitionDigest | undefined> {
    this.#digestDue?.resolve(undefined);
    this.#digestDue = undefined;
    if (this.#isElsewhere) return Promise.resolve(undefined);
    return new Promise((resolve, reject) => {
      const due = { index, pace, state: this.#state, resolve, reject };
      this.#digestDue = due;
      this.#takeDigest(due);
    });
  }

  /** Between two entries: where the state stands at the index it is taken in this very turn. */
  #takeDigest(due: DigestDue): void {
    const state = this.#state;
    if (state === due.state && state.appliedIndex < due.index) return;
    this.#digestDue = undefined;
    // While a checkpoint runs nobody knows on which side of it the rows are.
    if (state !== due.state || state.appliedIndex > due.index || state.sealing !== undefined)
      return due.resolve(undefined);
    const isCurrent = (): boolean => state === this.#state && !this.#isElsewhere;
    digestPartition(state, due.pace).then(
      (digest) => due.resolve(isCurrent() ? digest : undefined),
      (error: unknown) => (isCurrent() ? due.reject(error) : due.resolve(undefined)),
    );
  }

  sweepRows(pace: Pace, found: (damage: RowDamage) => void): Promise<number> {
    return this.#read((state) => sweepRows(state, pace, found));
  }

  async digest(): Promise<string> {
    return (await this.digestAt()).digest;
  }

  watch(tenant: string, name: string, listener: WatchListener): () => void {
    return this.#watches.add(tenant, name, listener);
  }

  watchAll(listener: WatchAllListener): () => void {
    return this.#watches.addAll(listener);
  }

  // ---- sealing

  checkpoint(): Promise<void> {
    return this.#checkpoint();
  }
}

async function findChannel(
  state: PartitionState,
  tenant: string,
  name: string,
): Promise<ChannelState | undefined> {
  for (;;) {
    const recent = tailChannelByName(state, tenant, name);
    if (recent !== undefined) return isThere(recent) ? cloneChannel(recent.state) : undefined;
    const { seals } = state;
    const sealed = await state.sealedChannel(tenant, name);
    // Applied, even sealed, while we read: then the tails have it, or a newer row.
    if (seals !== state.seals) continue;
    return sealed !== undefined && isThere(sealed) ? cloneChannel(sealed.state) : undefined;
  }
}
