/** Read cursors: in the tails, else a row each. A row is never deleted; which there are is known from memory. */
import type { ByteReader, ByteWriter } from '../common/bytes.js';
import { xxh64, xxh64Seeded } from '../common/hash.js';
import type { ReadCursor } from '../conversation/types.js';
import { after, nameKey, nameOfKey, RowKind } from './keys.js';
import type { PartitionState } from './partition-state.js';
import { damaged, openRow } from './rows.js';
import type { SealBatch } from './seal-batch.js';
import type { FrozenTail } from './tail.js';

const rowsAtOnce = 256;

/** Tenant, channel and reader hold no zero byte but in the reader, which comes last. */
export function cursorName(tenant: string, channel: string, reader: string): string {
  return `${tenant}\0${channel}\0${reader}`;
}

export function writeCursor(writer: ByteWriter, { seq, timeUs }: ReadCursor): void {
  writer.uvarint(seq).u64(timeUs);
}

export function readCursor(reader: ByteReader): Pick<ReadCursor, 'seq' | 'timeUs'> {
  const cursor = { seq: reader.uvarint(), timeUs: reader.u64() };
  reader.end();
  return cursor;
}

/** In the tails alone. */
export function tailCursor(state: PartitionState, name: string): ReadCursor | undefined {
  return state.active.cursors.get(name) ?? state.frozen?.tail.cursors.get(name);
}

/** Undefined: surely there is none; 'unknown' where it takes a read. */
export function cursorAtHand(
  state: PartitionState,
  tenant: string,
  channel: string,
  reader: string,
): ReadCursor | undefined | 'unknown' {
  const name = cursorName(tenant, channel, reader);
  const known = tailCursor(state, name) ?? state.shared.cursorCache.get(state.cacheKey(name));
  return known ?? (state.sealed.cursors.has(Buffer.from(name)) ? 'unknown' : undefined);
}

export function cursorSync(
  state: PartitionState,
  tenant: string,
  channel: string,
  reader: string,
): ReadCursor | undefined {
  const found = cursorAtHand(state, tenant, channel, reader);
  if (found !== 'unknown') return found;
  state.shared.counters.syncReads++;
  const key = nameKey(RowKind.cursor, state.place, Buffer.from(cursorName(tenant, channel, reader)));
  return keep(state, key, state.shared.kv.getSync(key), { tenant, channel, reader });
}

export async function loadCursor(
  state: PartitionState,
  tenant: string,
  channel: string,
  reader: string,
): Promise<ReadCursor | undefined> {
  for (;;) {
    const found = cursorAtHand(state, tenant, channel, reader);
    if (found !== 'unknown') return found;
    const { seals } = state;
    const key = nameKey(RowKind.cursor, state.place, Buffer.from(cursorName(tenant, channel, reader)));
    const row = await state.shared.kv.get(key);
    // A checkpoint ended meanwhile: the row may be the one before it.
    if (seals === state.seals) {
      const recent = tailCursor(state, cursorName(tenant, channel, reader));
      return recent ?? keep(state, key, row, { tenant, channel, reader });
    }
  }
}

function keep(
  state: PartitionState,
  key: Uint8Array,
  row: Uint8Array | undefined,
  of: Pick<ReadCursor, 'tenant' | 'channel' | 'reader'>,
): ReadCursor {
  // Two names of the same 64 bits would be taken for damage; seeds are the store's own, so nobody can choose them.
  if (row === undefined)
    throw damaged(`the cursor of ${of.reader} in ${of.channel}`, 'its row is missing', key);
  const cursor = { ...of, ...openRow(key, row, 'a cursor row', readCursor) };
  state.shared.cursorCache.set(state.cacheKey(cursorName(of.tenant, of.channel, of.reader)), cursor, 300);
  return cursor;
}

export interface CursorQuery {
  readonly tenant: string;
  readonly channel: string;
  /** Empty: from the first one on. */
  readonly after: string;
  readonly limit: number;
}

/** Of a channel, by reader bytewise, behind `after` (exclusive). */
export async function listCursors(state: PartitionState, query: CursorQuery): Promise<ReadCursor[]> {
  const { tenant, channel, limit } = query;
  const prefix = Buffer.from(cursorName(tenant, channel, ''));
  const from = query.after === '' ? prefix : Buffer.from(`${cursorName(tenant, channel, query.after)}\0`);
  // Tails and iterator in one turn: one state.
  const recent = new Map<string, ReadCursor>();
  for (const tail of [state.frozen?.tail, state.active]) {
    for (const [name, cursor] of tail?.cursors ?? []) {
      if (
        cursor.tenant === tenant &&
        cursor.channel === channel &&
        Buffer.compare(Buffer.from(name), from) >= 0
      )
        recent.set(name, cursor);
    }
  }
  const iterator = state.shared.kv.iterator({
    gte: nameKey(RowKind.cursor, state.place, from),
    lt: nameKey(RowKind.cursor, state.place, after(prefix)),
    limit,
  });
  const found = new Map<string, ReadCursor>();
  try {
    for (const [key, row] of await iterator.next(limit)) {
      const name = Buffer.from(nameOfKey(key)).toString();
      const reader = name.slice(cursorName(tenant, channel, '').length);
      found.set(name, { tenant, channel, reader, ...openRow(key, row, 'a cursor row', readCursor) });
    }
  } finally {
    await iterator.close();
  }
  for (const [name, cursor] of recent) found.set(name, cursor);
  return [...found]
    .sort((a, b) => Buffer.compare(Buffer.from(a[0]), Buffer.from(b[0])))
    .slice(0, limit)
    .map(([, cursor]) => cursor);
}

export async function sealCursors(state: PartitionState, frozen: FrozenTail, out: SealBatch): Promise<void> {
  for (const [name, cursor] of frozen.tail.cursors) {
    const bytes = Buffer.from(name);
    const writer = out.row();
    writeCursor(writer, cursor);
    const pause = out.put(nameKey(RowKind.cursor, state.place, bytes), writer);
    // Early is harmless: until the batch is there, the frozen tail answers for it.
    state.sealed.cursors.add(bytes);
    if (pause !== undefined) await pause;
  }
}

/** What is in the cache is of before. */
export function cursorsSealed(state: PartitionState, frozen: FrozenTail): void {
  for (const [name, cursor] of frozen.tail.cursors)
    state.shared.cursorCache.set(state.cacheKey(name), cursor, 300);
}

/** Sum of the hashes of all cursors, modulo 2^64, and how many there are; the tail is copied in the caller's turn. */
export async function digestCursors(
  tail: ReadonlyMap<string, ReadCursor>,
  rows: { next(count: number): Promise<[Uint8Array, Uint8Array][]> },
): Promise<{ sum: bigint; count: number }> {
  let sum = 0n;
  let count = 0;
  const add = (name: Uint8Array, cursor: Pick<ReadCursor, 'seq' | 'timeUs'>): void => {
    const value = Buffer.alloc(16);
    value.writeBigUInt64LE(BigInt(cursor.seq), 0);
    value.writeBigUInt64LE(BigInt(cursor.timeUs), 8);
    sum = (sum + xxh64Seeded(value, xxh64(name))) & 0xffff_ffff_ffff_ffffn;
    count++;
  };
  for (;;) {
    const found = await rows.next(rowsAtOnce);
    if (found.length === 0) break;
    for (const [key, row] of found) {
      const name = Buffer.from(nameOfKey(key));
      if (!tail.has(name.toString())) add(name, openRow(key, row, 'a cursor row', readCursor));
    }
  }
  for (const [name, cursor] of tail) add(Buffer.from(name), cursor);
  return { sum, count };
}
