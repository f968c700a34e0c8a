/**
 * A digest of a partition's logical state, equal on all replicas that have
 * applied the same entries, whatever they have sealed, merged or compressed.
 * Each channel, producer, key and message id is hashed by itself; the sums of
 * the hashes do not depend on order, so nothing must be sorted or held.
 */
import { ByteWriter } from '../common/bytes.js';
import type { KvIterator, KvSnapshot } from '../common/env.js';
import { xxh64, xxh64Seeded } from '../common/hash.js';
import type { ChannelId } from '../common/ids.js';
import { writeMembership } from '../common/membership.js';
import type { ChannelState, ProducerState, StoredEvent } from '../conversation/types.js';
import { readUnit } from './block.js';
import { checkChanges } from './change-rows.js';
import { digestCursors } from './cursors.js';
import {
  blockKey,
  firstSeqOfBlockKey,
  kindRange,
  RowKind,
  type RunKind,
  RunPart,
  readU64BE,
  runPlaceOfKey,
} from './keys.js';
import { openChannelRow, openEvents, openProducerRow, type PartitionState } from './partition-state.js';
import { damaged, openRow } from './rows.js';
import { EntryMaker, keyBytes, type RunEntry, valueBytes } from './run-entry.js';
import { type Run, readChunk } from './runs.js';
import { Slicer } from './slices.js';
import {
  type PartitionRecord,
  type SealedChannel,
  writeChannelFields,
  writeChannelTimes,
  writeConfState,
  writeMeta,
  writeProducer,
  writeTrash,
} from './state-codec.js';
import { digestSubscriptions } from './subscriptions.js';
import { channelName, cloneChannel, cloneMeta, cloneProducer } from './tail.js';
import { termKey, termsOf } from './terms.js';
import type { PartitionDigest } from './types.js';

const rowsAtOnce = 64;
const mask = 0xffff_ffff_ffff_ffffn;

/** Adds hashes modulo 2^64. */
class HashSum {
  sum = 0n;
  count = 0;
  add(hash: bigint): void {
    this.sum = (this.sum + hash) & mask;
    this.count++;
  }
}

export async function digestPartition(
  state: PartitionState,
  slicer = new Slicer(state.shared.clock),
): Promise<PartitionDigest> {
  // With a frozen tail on its way, LevelDB could be before or after it.
  while (state.sealing !== undefined) await state.sealing;
  // One turn: copies of the tail, and a view of all rows.
  const { active, appliedIndex } = state;
  const view = state.shared.kv.snapshot();
  const iterators = new Map<number, KvIterator>();
  const kinds = [
    RowKind.channel,
    RowKind.term,
    RowKind.producer,
    RowKind.keyRun,
    RowKind.messageIdRun,
    RowKind.cursor,
    RowKind.change,
  ];
  for (const kind of kinds) {
    iterators.set(kind, view.iterator(kindRange(kind, state.place)));
  }
  const rows = (kind: number) => iterators.get(kind) as KvIterator;
  const channels = new Map(
    [...active.channels].map(([name, channel]) => [
      name,
      { state: cloneChannel(channel.state), deleted: channel.deleted, events: channel.events.slice() },
    ]),
  );
  const producers = new Map(
    [...active.producers].map(([id, producer]) => [
      id,
      producer.deleted ? undefined : cloneProducer(producer.state),
    ]),
  );
  const keys = [...active.keys].map(([id, map]) => [id, [...map]] as const);
  const messageIds = [...active.messageIds].map(([id, map]) => [id, [...map]] as const);
  const cursors = new Map(active.cursors);
  const subscriptions = state.subscriptions.share();
  const meta = cloneMeta(state.meta);
  const { confState, membership } = state;
  const { record } = state.sealed;
  const runs = { [RowKind.keyRun]: state.sealed.keyRuns, [RowKind.messageIdRun]: state.sealed.messageIdRuns };
  try {
    // Entries of deleted channels stay in runs for a while, here longer, there shorter. Ids count
    // up from 1, so where all that were given out are there, no channel was ever deleted.
    const there = meta.nextChannelId - 1 === meta.channelCount ? undefined : new Set<ChannelId>([0]);
    const channelRows = { channels: rows(RowKind.channel), terms: rows(RowKind.term), view };
    const channelSum = await digestChannels(state, channelRows, channels, there, slicer);
    const isThere = (entry: RunEntry) => there?.has(readU64BE(entry.bytes, entry.keyAt)) ?? true;
    const producerSum = await digestProducers(rows(RowKind.producer), producers, slicer);
    const maker = new EntryMaker();
    const keySum = new HashSum();
    const addKey = (entry: RunEntry) => {
      if (entry.timeUs >= meta.keyHorizonUs && isThere(entry)) keySum.add(hashOfEntry(entry));
    };
    for (const [id, entries] of keys) {
      for (const [text, record] of entries) addKey(maker.key(id, text, record));
    }
    await eachRunEntry(rows(RowKind.keyRun), RowKind.keyRun, runs[RowKind.keyRun], slicer, addKey);
    const idSum = new HashSum();
    const addId = (entry: RunEntry) => {
      if (isThere(entry)) idSum.add(hashOfEntry(entry));
    };
    for (const [id, entries] of messageIds) {
      for (const [text, seq] of entries) addId(maker.messageId(id, text, seq));
    }
    const idKind = RowKind.messageIdRun;
    await eachRunEntry(rows(idKind), idKind, runs[idKind], slicer, addId);
    const whole = new ByteWriter();
    writeMeta(whole, meta);
    if (meta.deletedCount > 0) whole.uvarint(meta.deletedCount);
    if (meta.trash !== undefined) writeTrash(whole, meta.trash);
    if (membership.changes > 0) {
      writeConfState(whole, confState);
      writeMembership(whole, membership);
    }
    if (meta.cursorCount !== undefined) {
      const { sum, count } = await digestCursors(cursors, rows(RowKind.cursor));
      if (count !== meta.cursorCount)
        throw damaged(
          `partition ${meta.partition}`,
          `${count} of ${meta.cursorCount} read cursors are there`,
        );
      whole.u64big(sum).uvarint(count);
    }
    if (meta.subscriptionCount !== undefined) {
      const { sum, count } = await digestSubscriptions(subscriptions, slicer);
      whole.u64big(sum).uvarint(count);
      if (meta.nextSubscription !== undefined) whole.uvarint(meta.nextSubscription);
    }
    // Only that it is whole: where it begins, and where its rows are cut, each replica has its own.
    await checkChanges(rows(RowKind.change), record, slicer);
    for (const { sum, count } of [channelSum, producerSum, keySum, idSum]) whole.u64big(sum).uvarint(count);
    return { appliedIndex, digest: xxh64(whole.finish()).toString(16).padStart(16, '0') };
  } finally {
    await Promise.all([...iterators.values()].map((iterator) => iterator.close()));
    await view.close();
  }
}

function hashOfEntry(entry: RunEntry): bigint {
  return xxh64Seeded(valueBytes(entry), xxh64Seeded(keyBytes(entry), BigInt(entry.timeUs)));
}

async function digestChannels(
  state: PartitionState,
  iterators: { readonly channels: KvIterator; readonly terms: KvIterator; readonly view: KvSnapshot },
  tail: ReadonlyMap<string, TailCopy>,
  there: Set<ChannelId> | undefined,
  slicer: Slicer,
): Promise<HashSum> {
  const sum = new HashSum();
  const terms = new HashSum();
  const sealedNames = new Set<string>();
  // Of the same turn as the iterators: nothing has waited yet.
  const { record } = state.sealed;
  let sealedChannels = 0;
  let sealedEvents = 0;
  for (;;) {
    const rows = await iterators.channels.next(rowsAtOnce);
    if (rows.length === 0) break;
    for (const [key, row] of rows) {
      const sealed = openChannelRow(key, row);
      const name = channelName(sealed.state.tenant, sealed.state.name);
      const recent = tail.get(name);
      sealedChannels++;
      sealedEvents += sealed.state.headSeq - sealed.state.baseSeq;
      if (recent !== undefined) sealedNames.add(name);
      if (!sealed.deleted) addTerms(state, sealed.state, terms);
      const now = recent ?? sealed;
      if (!now.deleted) there?.add(now.state.id);
      if (now.deleted || now.state.id !== sealed.state.id) {
        sum.add(hashOfUnsealed(now, recent?.events ?? []));
        continue;
      }
      const hash = new EventChain(sealed.state.baseSeq);
      await chainBlocks(state, iterators.view, sealed, hash, slicer);
      hash.addAll(openEvents(sealed));
      if (recent !== undefined) hash.addAll(recent.events);
      sum.add(hash.finish(now.state));
    }
  }
  const { channelCount, deletedCount } = record.meta;
  if (sealedChannels !== channelCount + deletedCount || sealedEvents !== record.eventCount) {
    throw damaged(
      `partition ${record.partition}`,
      `${sealedChannels} of ${channelCount + deletedCount} channels with ${sealedEvents} of ${record.eventCount} events are there`,
    );
  }
  for (const [name, recent] of tail) {
    if (sealedNames.has(name)) continue;
    if (!recent.deleted) there?.add(recent.state.id);
    sum.add(hashOfUnsealed(recent, recent.events));
  }
  if (record.termCount !== undefined) await checkTerms(iterators.terms, terms, record, slicer);
  return sum;
}

interface TailCopy {
  readonly state: ChannelState;
  readonly deleted: boolean;
  readonly events: readonly StoredEvent[];
}

/** Of a channel without sealed events, or of what is kept of a deleted one. */
function hashOfUnsealed(
  { state, deleted }: { readonly state: ChannelState; readonly deleted: boolean },
  events: readonly StoredEvent[],
): bigint {
  const hash = new EventChain(state.baseSeq);
  hash.addAll(events);
  const whole = hash.finish(state);
  return deleted ? xxh64Seeded(deletedMark, whole) : whole;
}
const deletedMark = Buffer.from('deleted');

function addTerms(state: PartitionState, channel: ChannelState, terms: HashSum): void {
  if (channel.labels.length === 0 && channel.participants.length === 0) return;
  for (const term of termsOf(channel).values()) {
    terms.add(xxh64(termKey(state.place, channel.tenant, term, channel.name)));
  }
}

/** The index by label and participant must be what the sealed channels' rows say: LevelDB loses rows in silence. */
async function checkTerms(
  iterator: KvIterator,
  expected: HashSum,
  { partition }: PartitionRecord,
  slicer: Slicer,
): Promise<void> {
  const found = new HashSum();
  for (;;) {
    const rows = await iterator.next(rowsAtOnce);
    if (rows.length === 0) break;
    for (const [key, row] of rows) {
      openRow(key, row, 'a row of the index of channels', (reader) => reader.end());
      found.add(xxh64(key));
      if (slicer.spent(key.length)) await slicer.pause();
    }
  }
  if (found.count === expected.count && found.sum === expected.sum) return;
  throw damaged(
    `partition ${partition}`,
    `its index of channels has ${found.count} rows that do not match its channels, which have ${expected.count} labels and participants`,
  );
}

async function chainBlocks(
  state: PartitionState,
  view: KvSnapshot,
  { state: { id: channelId, baseSeq }, openFirstSeq: endSeq }: SealedChannel,
  hash: EventChain,
  slicer: Slicer,
): Promise<void> {
  if (endSeq <= baseSeq + 1) return;
  const iterator = view.iterator({
    gte: blockKey(state.place, channelId, 1),
    lt: blockKey(state.place, channelId, endSeq),
  });
  try {
    for (;;) {
      const rows = await iterator.next(rowsAtOnce);
      if (rows.length === 0) break;
      for (const [key, row] of rows) {
        const events = openRow(
          key,
          row,
          `block ${firstSeqOfBlockKey(key)} of channel ${channelId}`,
          readUnit,
        );
        // A block that was merged meanwhile goes on behind what the row knew of.
        hash.addAll(
          (events.at(-1) as StoredEvent).seq < endSeq ? events : events.filter((e) => e.seq < endSeq),
        );
        if (slicer.spent(row.length * 2)) await slicer.pause();
      }
    }
  } finally {
    await iterator.close();
  }
  if (hash.nextSeq !== endSeq) throw damaged(`channel ${channelId}`, `event ${hash.nextSeq} is missing`);
}

/** A channel's events one after the other, then its fields. */
class EventChain {
  nextSeq: number;
  #chain = 0n;

  constructor(baseSeq: number) {
    this.nextSeq = baseSeq + 1;
  }

  addAll(events: readonly StoredEvent[]): void {
    for (const event of events) {
      if (event.seq !== this.nextSeq) {
        throw damaged('a channel', `event ${event.seq} follows where ${this.nextSeq} is due`);
      }
      const places = new ByteWriter(48).uvarint(event.seq).u64(event.commitTimeUs);
      places.uvarint(event.producerId).uvarint(event.producerCounter);
      this.#chain = xxh64Seeded(places.finish(), this.#chain);
      this.#chain = xxh64Seeded(
        event.bytes.subarray(event.headerOffset, event.headerOffset + event.headerLength),
        this.#chain,
      );
      this.#chain = xxh64Seeded(
        event.contentBytes.subarray(event.contentOffset, event.contentOffset + event.contentLength),
        this.#chain,
      );
      this.nextSeq++;
    }
  }

  finish(channel: ChannelState): bigint {
    if (this.nextSeq !== channel.headSeq + 1) {
      throw damaged(
        `channel ${channel.name}`,
        `its events end at ${this.nextSeq - 1}, its head is ${channel.headSeq}`,
      );
    }
    const fields = new ByteWriter();
    writeChannelFields(fields, channel);
    if (channel.sealedTimeUs !== undefined || channel.deletedTimeUs !== undefined)
      writeChannelTimes(fields, channel);
    return xxh64Seeded(fields.finish(), this.#chain);
  }
}

async function digestProducers(
  iterator: KvIterator,
  tail: ReadonlyMap<number, ProducerState | undefined>,
  slicer: Slicer,
): Promise<HashSum> {
  const sum = new HashSum();
  const add = (producer: ProducerState) => {
    const writer = new ByteWriter();
    writeProducer(writer, producer);
    sum.add(xxh64(writer.finish()));
  };
  for (const producer of tail.values()) if (producer !== undefined) add(producer);
  for (;;) {
    const rows = await iterator.next(rowsAtOnce);
    if (rows.length === 0) return sum;
    for (const [key, row] of rows) {
      const producer = openProducerRow(key, row);
      if (!tail.has(producer.id)) add(producer);
      if (slicer.spent(row.length)) await slicer.pause();
    }
  }
}

/** Entries of the runs in force; a run's chunks must all be there. */
async function eachRunEntry(
  iterator: KvIterator,
  kind: RunKind,
  runs: readonly Run[],
  slicer: Slicer,
  use: (entry: RunEntry) => void,
): Promise<void> {
  const byNumber = new Map(runs.map((run) => [run.info.run, run]));
  let missing = runs.reduce((chunks, run) => chunks + run.info.chunks, 0);
  for (;;) {
    const rows = await iterator.next(rowsAtOnce);
    if (rows.length === 0) break;
    for (const [key, row] of rows) {
      const place = runPlaceOfKey(key);
      const run = byNumber.get(place.run);
      if (run === undefined || place.part !== RunPart.chunk) continue;
      missing--;
      for (const entry of readChunk(key, row, run.info)) use(entry);
      if (slicer.spent(row.length)) await slicer.pause();
    }
  }
  if (missing !== 0) {
    throw damaged(kind === RowKind.keyRun ? 'keys' : 'message ids', `${missing} chunks are missing`);
  }
}
