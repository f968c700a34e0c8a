/**
 * The change list: which entry brought which events of which channel. Each
 * checkpoint seals its tail's part as rows, whose index ranges follow one
 * another without gaps; whoever follows many channels catches up from them.
 * Replicas cut their rows at other indexes, but what a row says of an index is
 * the same on all of them, so a place is good everywhere. docs/format.md, "Change list".
 */
import { type ByteReader, type ByteWriter, MalformedError } from '../common/bytes.js';
import type { KvIterator } from '../common/env.js';
import type { ChannelId, Index, Seq, TimeUs } from '../common/ids.js';
import { type Change, ChangeList } from './change-list.js';
import { changeKey, changesRange, type Place } from './keys.js';
import type { PartitionState } from './partition-state.js';
import { damaged, isStoreDamage, openRow } from './rows.js';
import type { SealBatch } from './seal-batch.js';
import { Slicer } from './slices.js';
import type { PartitionRecord } from './state-codec.js';
import type { FrozenTail } from './tail.js';

/** A row ends with the entry that fills it: about 10 KiB, decoded in 0.2 ms. */
const changesPerRow = 2_048;
/** Read in one step. */
const rowsAtOnce = 64;
/** Old rows that one checkpoint removes at most. */
const removedAtOnce = 64;

export interface ChangeRow {
  /** Entries behind this one … */
  readonly fromIndex: Index;
  /** … up to this one. */
  readonly toIndex: Index;
  /** No event of it was committed later. */
  readonly lastTimeUs: TimeUs;
  readonly changes: ChangeList;
}

/** What of the list a checkpoint decides. */
export type SealedChanges = Pick<PartitionRecord, 'changesFrom' | 'changesTo'>;

/** Seals the tail's changes, and drops what is older than the list is kept. */
export async function sealChanges(
  state: PartitionState,
  frozen: FrozenTail,
  out: SealBatch,
): Promise<SealedChanges> {
  const { record } = state.sealed;
  const { changes } = frozen.tail;
  let { changesTo } = record;
  if (state.dropsChanges) await dropAll(state, out);
  for (let from = 0; from < changes.length; ) {
    const to = endOfRow(changes, from);
    const toIndex = changes.indexAt(to - 1);
    const writer = out.row();
    writeChanges(writer, changes, from, to, changesTo, frozen.meta.lastCommitTimeUs);
    const pause = out.put(changeKey(state.place, toIndex), writer);
    if (pause !== undefined) await pause;
    changesTo = toIndex;
    from = to;
  }
  const changesFrom = state.dropsChanges ? record.changesTo : await dropOld(state, frozen, out);
  state.dropsChanges = false;
  return { changesFrom, changesTo };
}

/** Before the new ones: those go on where the list ended, so it is whole again from there. */
async function dropAll(state: PartitionState, out: SealBatch): Promise<void> {
  state.lastChangeRow = undefined;
  const iterator = state.shared.kv.iterator(changesRange(state.place, 0));
  try {
    for (let rows = await iterator.next(rowsAtOnce); rows.length > 0; rows = await iterator.next(rowsAtOnce))
      for (const [key] of rows) out.del(key);
  } finally {
    await iterator.close();
  }
}

/**
 * Has the list a gap, or a row that can't be read? For a replica that nobody can mend: it goes on without the list, and
 * who follows the partition from before is told so (TOKEN_TOO_OLD), as if it had been away for too long.
 */
export async function areChangesBroken(state: PartitionState): Promise<boolean> {
  const { kv, clock } = state.shared;
  const iterator = kv.iterator(changesRange(state.place, 0));
  try {
    await checkChanges(iterator, state.sealed.record, new Slicer(clock));
    return false;
  } catch (error) {
    if (isStoreDamage(error)) return true;
    throw error;
  } finally {
    await iterator.close();
  }
}

/** All rows of the list, in their order: throws STORE_DAMAGED where they are not what the record names. */
export async function checkChanges(
  iterator: KvIterator,
  record: PartitionRecord,
  slicer: Slicer,
): Promise<void> {
  const chain = new ChangeChain(record);
  for (let rows = await iterator.next(rowsAtOnce); rows.length > 0; rows = await iterator.next(rowsAtOnce)) {
    for (const [key, row] of rows) {
      chain.take(key, row);
      if (slicer.spent(key.length + row.length)) await slicer.pause();
    }
  }
  chain.finish();
}

/** An entry is never cut in two. */
function endOfRow(changes: ChangeList, from: number): number {
  let to = Math.min(from + changesPerRow, changes.length);
  const index = changes.indexAt(to - 1);
  while (to < changes.length && changes.indexAt(to) === index) to++;
  return to;
}

/** By commit time: what is kept does not depend on a clock of this node's. */
async function dropOld(state: PartitionState, frozen: FrozenTail, out: SealBatch): Promise<Index> {
  const { record } = state.sealed;
  const horizonUs = frozen.meta.lastCommitTimeUs - state.shared.changeRetentionUs;
  let { changesFrom } = record;
  if (changesFrom >= record.changesTo || (state.oldestChangeUs ?? 0) >= horizonUs) return changesFrom;
  const iterator = state.shared.kv.iterator(changesRange(state.place, changesFrom + 1));
  try {
    const rows = await iterator.next(removedAtOnce);
    for (const [key, bytes] of rows) {
      const row = openRow(key, bytes, 'a row of the change list', readChanges);
      state.oldestChangeUs = row.lastTimeUs;
      if (row.lastTimeUs >= horizonUs) break;
      out.del(key);
      changesFrom = row.toIndex;
      const pause = out.spent(bytes.length);
      if (pause !== undefined) await pause;
    }
  } finally {
    await iterator.close();
  }
  return changesFrom;
}

/** `changes[from]` up to before `to`. A channel's seqs in it follow one another, so only its first is written. */
function writeChanges(
  writer: ByteWriter,
  changes: ChangeList,
  from: number,
  to: number,
  fromIndex: Index,
  lastTimeUs: TimeUs,
): void {
  const places = new Map<ChannelId, number>();
  const firsts: Change[] = [];
  for (let i = from; i < to; i++) {
    const { id } = changes.channelAt(i);
    if (places.has(id)) continue;
    places.set(id, firsts.length);
    firsts.push(changes.at(i));
  }
  const toIndex = changes.indexAt(to - 1);
  writer.uvarint(fromIndex).uvarint(toIndex).u64(lastTimeUs).uvarint(firsts.length);
  for (const { channel, firstSeq } of firsts) {
    writer.uvarint(channel.id).string(channel.tenant).string(channel.name).uvarint(firstSeq);
  }
  writer.uvarint(to - from);
  let index = fromIndex;
  for (let i = from; i < to; i++) {
    const change = changes.at(i);
    writer.uvarint(change.index - index).uvarint(places.get(change.channel.id) as number);
    writer.uvarint(change.lastSeq - change.firstSeq + 1);
    index = change.index;
  }
}

export function readChanges(reader: ByteReader): ChangeRow {
  const fromIndex = reader.uvarint();
  const toIndex = reader.uvarint();
  const lastTimeUs = reader.u64();
  const channelCount = reader.uvarint();
  if (channelCount * 4 > reader.remaining) throw new MalformedError('a list of channels');
  const channels = Array.from({ length: channelCount }, () => ({
    channel: { id: reader.uvarint(), tenant: reader.string(), name: reader.string() },
    nextSeq: reader.uvarint() as Seq,
  }));
  const count = reader.uvarint();
  if (count * 3 > reader.remaining) throw new MalformedError('a list of changes');
  const changes = new ChangeList();
  let index = fromIndex;
  for (let i = 0; i < count; i++) {
    index += reader.uvarint();
    const of = channels[reader.uvarint()];
    const events = reader.uvarint();
    if (of === undefined || events === 0) throw new MalformedError('a change');
    changes.push(index, of.channel, of.nextSeq, of.nextSeq + events - 1);
    of.nextSeq += events;
  }
  reader.end();
  if (index !== toIndex || changes.length === 0 || changes.indexAt(0) <= fromIndex)
    throw new MalformedError('changes out of order');
  return { fromIndex, toIndex, lastTimeUs, changes };
}

/** The row that the entry behind `index` lies in; undefined: there is none. */
export async function findChangeRow(state: PartitionState, index: Index): Promise<ChangeRow | undefined> {
  const cached = state.lastChangeRow;
  if (cached !== undefined && cached.fromIndex <= index && index < cached.toIndex) return cached;
  const iterator = state.shared.kv.iterator({ ...changesRange(state.place, index + 1), limit: 1 });
  try {
    const [found] = await iterator.next(1);
    if (found === undefined) return undefined;
    const row = openRow(found[0], found[1], 'a row of the change list', readChanges);
    state.lastChangeRow = row;
    return row;
  } finally {
    await iterator.close();
  }
}

/**
 * Whether rows that pass in their order are all that a record names: each goes on where the one before ends. LevelDB
 * loses rows in silence, and nobody but who follows the partition would miss one of these.
 */
export class ChangeChain {
  readonly #record: PartitionRecord;
  #toIndex: Index;

  constructor(record: PartitionRecord) {
    this.#record = record;
    this.#toIndex = record.changesFrom;
  }

  /** Throws STORE_DAMAGED, as `finish` does. */
  take(key: Uint8Array, row: Uint8Array): void {
    const { fromIndex, toIndex } = openRow(key, row, 'a row of the change list', (reader) => ({
      fromIndex: reader.uvarint(),
      toIndex: reader.uvarint(),
    }));
    if (fromIndex !== this.#toIndex) throw missingChanges(this.#record, this.#toIndex);
    this.#toIndex = toIndex;
  }

  /** All rows have passed. */
  finish(): void {
    if (this.#toIndex !== this.#record.changesTo) throw missingChanges(this.#record, this.#toIndex);
  }
}

export function missingChanges({ partition }: Pick<Place, 'partition'>, index: Index): Error {
  return damaged(`the change list of partition ${partition}`, `a row behind entry ${index} is missing`);
}
