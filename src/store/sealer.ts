/**
 * One partition's part of a checkpoint: turns its frozen tail into rows, in
 * slices. Nothing that readers see changes before `finishSeal`, which runs in
 * the turn in which the batch has resolved.
 */
import { ByteWriter } from '../common/bytes.js';
import { assert } from '../common/errors.js';
import { xxh64Seeded } from '../common/hash.js';
import type { ChannelId, ProducerId } from '../common/ids.js';
import { sealChanges } from './change-rows.js';
import { cursorsSealed, sealCursors } from './cursors.js';
import type { DirtyChannel, DirtyChannels } from './dirty-channels.js';
import { EndedChanges, removeBlocks } from './ended.js';
import { checkpointKey, nameBytes, nameKey, partitionKey, producerKey, RowKind } from './keys.js';
import { type PartitionState, weightOfSealed } from './partition-state.js';
import { damaged, rowWriter, sealRow } from './rows.js';
import { EntryMaker, type RunEntry } from './run-entry.js';
import { deleteRunRows, type SealedRuns, sealRuns } from './run-merge.js';
import type { SealBatch } from './seal-batch.js';
import { sealEvents, unchangedBlocks } from './seal-events.js';
import { type SealedRows, Settling } from './settling.js';
import {
  channelRowVersion,
  type PartitionRecord,
  partitionRowVersion,
  type SealedChannel,
  writeChannel,
  writeCheckpoint,
  writePartition,
  writeProducer,
} from './state-codec.js';
import { sealSubscriptions } from './subscriptions.js';
import { channelName, type FrozenTail } from './tail.js';
import { indexAll, sealTerms, termsChanged } from './terms.js';

/** Checkpoint records that are kept; a lost batch among them is noticed at open. */
const checkpointsKept = 64;

/** What `finishSeal` makes visible. */
export interface Sealed {
  readonly frozen: FrozenTail;
  readonly record: PartitionRecord;
  /** For the cache. */
  readonly channels: SealedRows;
  readonly ended: EndedChanges;
  readonly keyRuns: SealedRuns;
  readonly messageIdRuns: SealedRuns;
}

/** `dirty`: of `frozen`. */
export async function sealPartition(
  state: PartitionState,
  frozen: FrozenTail,
  dirty: DirtyChannels,
  out: SealBatch,
): Promise<Sealed> {
  const before = state.sealed.record;
  const indexed = before.termCount ?? (await indexAll(state, out));
  const { results, terms, endedEvents, ended: fresh } = await sealChannels(state, frozen, dirty, out);
  const ended = new EndedChanges(state.sealed.ended, fresh);
  await removeBlocks(state, ended, out);
  const producerCount = await sealProducers(state, frozen, out);
  let nextRun = before.nextRun;
  const takeNumber = () => nextRun++;
  for (const info of before.retired) {
    deleteRunRows(out, state.place, info);
    state.countRemoved(info.kind, info.bytes);
  }
  const { kv } = state.shared;
  const dropped = { floorUs: frozen.meta.keyHorizonUs, isEnded: (id: ChannelId) => ended.has(id) };
  const seal = (kind: typeof RowKind.keyRun | typeof RowKind.messageIdRun, entries: RunEntry[]) =>
    sealRuns(kv, state.place, out, kind, state.runs(kind), entries, dropped, takeNumber);
  const keyRuns = await seal(RowKind.keyRun, await keyEntries(frozen, out));
  const messageIdRuns = await seal(RowKind.messageIdRun, await messageIdEntries(frozen, out));
  await ended.seal(state.place, messageIdRuns.runs, before.nextRun, out);
  await sealCursors(state, frozen, out);
  await sealSubscriptions(state.place, frozen, out);
  const changes = await sealChanges(state, frozen, out);
  let eventCount = before.eventCount - endedEvents;
  for (const channel of frozen.tail.channels.values()) eventCount += channel.events.length;
  const record = putRecords(state, frozen, out, {
    producerCount,
    eventCount,
    termCount: indexed + terms,
    endedCount: ended.count,
    nextRun,
    ...changes,
    runs: [...keyRuns.runs, ...messageIdRuns.runs].map((run) => run.info),
    retired: [...keyRuns.retired, ...messageIdRuns.retired].map((run) => run.info),
  });
  return { frozen, record, channels: results, ended, keyRuns, messageIdRuns };
}

/** The batch is synced: drops the frozen tail and brings all that stands beside the database up to date. */
export function finishSeal(state: PartitionState, sealed: Sealed): void {
  const { producerCache } = state.shared;
  assert(state.settling === undefined, 'what was sealed before is in the cache');
  state.settling = new Settling(sealed.channels);
  for (const [id, producer] of sealed.frozen.tail.producers) {
    if (!producer.dirty) continue;
    producerCache.delete(state.cacheKey(id));
    if (producer.deleted) state.sealed.producers.delete(id);
    else state.sealed.producers.add(id);
  }
  for (const [name, id] of sealed.frozen.tail.producerNames) {
    if (id === undefined) state.sealed.producerNames.delete(name);
    else state.sealed.producerNames.set(name, id);
  }
  cursorsSealed(state, sealed.frozen);
  sealed.ended.settle();
  state.sealed.keyRuns = sealed.keyRuns.runs;
  state.sealed.messageIdRuns = sealed.messageIdRuns.runs;
  state.sealed.record = sealed.record;
  sealed.frozen.tail.drop();
  state.frozen = undefined;
  state.seals++;
  state.planRemoval();
}

// ---- channels

interface SealedChannels {
  readonly results: Sealed['channels'];
  /** By how many rows the index of terms grows. */
  terms: number;
  /** Events, sealed before, of channels that have ended. */
  endedEvents: number;
  /** Sealed channels that have ended. */
  readonly ended: SealedChannel[];
}

async function sealChannels(
  state: PartitionState,
  frozen: FrozenTail,
  dirty: DirtyChannels,
  out: SealBatch,
): Promise<SealedChannels> {
  const all: SealedChannels = { results: new Map(), terms: 0, endedEvents: 0, ended: [] };
  const { meta } = state.sealed.record;
  let there = meta.channelCount;
  let deleted = meta.deletedCount;
  for (let portion = await dirty.next(); portion.length > 0; portion = await dirty.next()) {
    for (const one of portion) {
      if (one.ofName?.deleted) deleted--;
      else if (one.ofName !== undefined) there--;
      if (one.channel.deleted) deleted++;
      else there++;
      const sealed = await sealChannel(state, one, all, out);
      const { tenant, name } = sealed.state;
      all.results.set(channelName(tenant, name), out.keeps(weightOfSealed(sealed)) ? sealed : undefined);
    }
  }
  assert(
    there === frozen.meta.channelCount && deleted === frozen.meta.deletedCount,
    `partition ${state.place.partition} has ${there} channels and ${deleted} deleted ones, its meta says ${frozen.meta.channelCount} and ${frozen.meta.deletedCount}`,
  );
  return all;
}

async function sealChannel(
  state: PartitionState,
  { channel, ofName, before, plan, merged }: DirtyChannel,
  all: SealedChannels,
  out: SealBatch,
): Promise<SealedChannel> {
  const { id, tenant, name, headSeq, baseSeq } = channel.state;
  const live = ofName?.deleted ? undefined : ofName;
  if (live !== undefined && before === undefined) {
    all.ended.push(live);
    all.endedEvents += live.state.headSeq - live.state.baseSeq;
  }
  const sealedHead = before?.state.headSeq ?? baseSeq;
  if (
    (ofName?.state.headSeq ?? 0) > headSeq ||
    sealedHead !== channel.baseSeq ||
    headSeq !== channel.baseSeq + channel.events.length
  ) {
    throw damaged(
      `channel ${name}`,
      `it is sealed up to ${sealedHead}, its tail goes from ${channel.baseSeq + 1} to ${headSeq}`,
    );
  }
  const nameInBytes = nameBytes(tenant, name);
  if (ofName === undefined) {
    const key = nameKey(RowKind.channelName, state.place, nameInBytes);
    const pause = out.put(key, out.row().uvarint(id));
    if (pause !== undefined) await pause;
    // Early is harmless: until the batch is there, the frozen tail answers for it.
    state.sealed.names.add(nameInBytes);
  }
  const now = channel.deleted ? undefined : channel.state;
  if (termsChanged(live?.state, now)) all.terms += await sealTerms(state.place, live?.state, now, out);
  const sealed: SealedChannel = {
    state: channel.state,
    deleted: channel.deleted,
    ...(channel.events.length === 0
      ? unchangedBlocks(before, channel.state)
      : await sealEvents(state, id, before, plan, merged, out)),
  };
  const key = nameKey(RowKind.channel, state.place, nameInBytes);
  const writer = out.row(channelRowVersion(sealed));
  writeChannel(writer, sealed);
  const pause = out.put(key, writer);
  if (pause !== undefined) await pause;
  return sealed;
}

// ---- producers, keys, message ids

async function sealProducers(state: PartitionState, frozen: FrozenTail, out: SealBatch): Promise<number> {
  let count = state.sealed.producers.size;
  const known = (id: ProducerId) => state.sealed.producers.has(id);
  for (const [id, producer] of frozen.tail.producers) {
    if (!producer.dirty) continue;
    const key = producerKey(state.place, id);
    if (producer.deleted) {
      if (known(id)) count--;
      out.del(key);
      continue;
    }
    if (!known(id)) count++;
    const writer = out.row();
    writeProducer(writer, producer.state);
    const pause = out.put(key, writer);
    if (pause !== undefined) await pause;
  }
  return count;
}

async function keyEntries(frozen: FrozenTail, out: SealBatch): Promise<RunEntry[]> {
  const entries: RunEntry[] = [];
  const maker = new EntryMaker();
  for (const [channelId, keys] of frozen.tail.keys) {
    for (const [text, record] of keys) {
      entries.push(maker.key(channelId, text, record));
      const pause = out.spent(64);
      if (pause !== undefined) await pause;
    }
  }
  return entries;
}

async function messageIdEntries(frozen: FrozenTail, out: SealBatch): Promise<RunEntry[]> {
  const entries: RunEntry[] = [];
  const maker = new EntryMaker();
  for (const [channelId, ids] of frozen.tail.messageIds) {
    for (const [text, seq] of ids) {
      entries.push(maker.messageId(channelId, text, seq));
      const pause = out.spent(64);
      if (pause !== undefined) await pause;
    }
  }
  return entries;
}

// ---- the records that decide

type Decided = Pick<
  PartitionRecord,
  | 'producerCount'
  | 'eventCount'
  | 'termCount'
  | 'endedCount'
  | 'nextRun'
  | 'changesFrom'
  | 'changesTo'
  | 'runs'
  | 'retired'
>;

function putRecords(
  state: PartitionState,
  frozen: FrozenTail,
  out: SealBatch,
  decided: Decided,
): PartitionRecord {
  const before = state.sealed.record;
  const number = before.lastCheckpoint + 1;
  const checkpoint = {
    number,
    appliedIndex: frozen.appliedIndex,
    appliedTerm: frozen.appliedTerm,
    rowCount: out.rowCount,
    digest: digestOfCheckpoint(out, number, frozen),
    previousDigest: before.lastDigest,
  };
  const checkpointWriter = rowWriter(64);
  writeCheckpoint(checkpointWriter, checkpoint);
  const key = checkpointKey(state.place, number);
  out.batch.put(key, sealRow(key, checkpointWriter));
  const firstCheckpoint = Math.max(before.firstCheckpoint, number - checkpointsKept + 1, 1);
  for (let gone = Math.max(before.firstCheckpoint, 1); gone < firstCheckpoint; gone++) {
    out.del(checkpointKey(state.place, gone));
  }
  const record: PartitionRecord = {
    partition: before.partition,
    generation: before.generation,
    appliedIndex: frozen.appliedIndex,
    appliedTerm: frozen.appliedTerm,
    confState: frozen.confState,
    membership: frozen.membership,
    meta: frozen.meta,
    firstCheckpoint,
    lastCheckpoint: number,
    lastDigest: checkpoint.digest,
    ...decided,
  };
  const writer = rowWriter(512, partitionRowVersion(record));
  writePartition(writer, record);
  const recordKey = partitionKey(record.partition);
  out.batch.put(recordKey, sealRow(recordKey, writer));
  return record;
}

/** Over the rows' checksums, and this checkpoint's number and place: two empty ones differ. */
function digestOfCheckpoint(out: SealBatch, number: number, frozen: FrozenTail): bigint {
  const own = new ByteWriter(32).uvarint(number).uvarint(frozen.appliedIndex).uvarint(frozen.appliedTerm);
  return xxh64Seeded(own.uvarint(out.rowCount).finish(), out.digest);
}
