/** Cursors of readers and recipients: in the tails, else a row each. A row is never deleted; which there are is known from memory. */
import { type ByteReader, ByteWriter } from '../common/bytes.js';
import { xxh64, xxh64Seeded } from '../common/hash.js';
import { readFailures, writeFailures } from '../conversation/delivery-command.js';
import type { CursorKind, ReadCursor } from '../conversation/types.js';
import { after, nameKey, nameOfKey, RowKind } from './keys.js';
import type { PartitionState } from './partition-state.js';
import { damaged, openRow } from './rows.js';
import type { SealBatch } from './seal-batch.js';
import { type FrozenTail, failuresMemory } from './tail.js';

const rowsAtOnce = 256;

/** Behind the channel's name, which holds no such bytes; the reader may, and comes last. */
const separators = { read: '\0', delivery: '\u0001' } as const;

export function cursorName(
  tenant: string,
  channel: string,
  reader: string,
  kind: CursorKind = 'read',
): string {
  return `${tenant}\0${channel}${separators[kind]}${reader}`;
}

export function nameOfCursor({ tenant, channel, reader, failed }: ReadCursor): string {
  return cursorName(tenant, channel, reader, failed === undefined ? 'read' : 'delivery');
}

type CursorValue = Pick<ReadCursor, 'seq' | 'timeUs' | 'failed'>;

export function writeCursor(writer: ByteWriter, { seq, timeUs, failed }: CursorValue): void {
  writer.uvarint(seq).u64(timeUs);
  if (failed !== undefined) writeFailures(writer, failed);
}

export function readCursor(reader: ByteReader): CursorValue {
  const cursor = { seq: reader.uvarint(), timeUs: reader.u64() };
  if (reader.remaining === 0) return cursor;
  const failed = readFailures(reader);
  reader.end();
  return { ...cursor, failed };
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
  kind: CursorKind = 'read',
): ReadCursor | undefined | 'unknown' {
  const name = cursorName(tenant, channel, reader, kind);
  const known = tailCursor(state, name) ?? state.shared.cursorCache.get(state.cacheKey(name));
  return known ?? (state.sealed.cursors.has(Buffer.from(name)) ? 'unknown' : undefined);
}

export function cursorSync(
  state: PartitionState,
  tenant: string,
  channel: string,
  reader: string,
  kind: CursorKind = 'read',
): ReadCursor | undefined {
  const found = cursorAtHand(state, tenant, channel, reader, kind);
  if (found !== 'unknown') return found;
  state.shared.counters.syncReads++;
  const name = cursorName(tenant, channel, reader, kind);
  const key = nameKey(RowKind.cursor, state.place, Buffer.from(name));
  return keep(state, key, state.shared.kv.getSync(key), { tenant, channel, reader });
}

export async function loadCursor(
  state: PartitionState,
  tenant: string,
  channel: string,
  reader: string,
  kind: CursorKind = 'read',
): Promise<ReadCursor | undefined> {
  const name = cursorName(tenant, channel, reader, kind);
  for (;;) {
    const found = cursorAtHand(state, tenant, channel, reader, kind);
    if (found !== 'unknown') return found;
    const { seals } = state;
    const key = nameKey(RowKind.cursor, state.place, Buffer.from(name));
    const row = await state.shared.kv.get(key);
    // A checkpoint ended meanwhile: the row may be the one before it.
    if (seals === state.seals) {
      return tailCursor(state, name) ?? keep(state, key, row, { tenant, channel, reader });
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
  state.shared.cursorCache.set(state.cacheKey(nameOfCursor(cursor)), cursor, memoryOf(cursor));
  return cursor;
}

export interface CursorQuery {
  readonly tenant: string;
  readonly channel: string;
  /** Default `read`. */
  readonly kind?: CursorKind;
  /** Empty: from the first one on. */
  readonly after: string;
  readonly limit: number;
}

/** Of a channel, by reader bytewise, behind `after` (exclusive). */
export async function listCursors(state: PartitionState, query: CursorQuery): Promise<ReadCursor[]> {
  const { tenant, channel, limit, kind = 'read' } = query;
  const beginning = cursorName(tenant, channel, '', kind);
  const prefix = Buffer.from(beginning);
  const from = query.after === '' ? prefix : Buffer.from(`${beginning}${query.after}\0`);
  // Tails and iterator in one turn: one state.
  const recent = new Map<string, ReadCursor>();
  for (const tail of [state.frozen?.tail, state.active]) {
    for (const [name, cursor] of tail?.cursors ?? []) {
      if (
        cursor.tenant === tenant &&
        cursor.channel === channel &&
        (cursor.failed === undefined) === (kind === 'read') &&
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
      const reader = name.slice(beginning.length);
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
    state.shared.cursorCache.set(state.cacheKey(name), cursor, memoryOf(cursor));
}

/** Approximate bytes in memory. */
function memoryOf(cursor: ReadCursor): number {
  return 300 + failuresMemory(cursor);
}

/** Sum of the hashes of all cursors, modulo 2^64, and how many there are; the tail is copied in the caller's turn. */
export async function digestCursors(
  tail: ReadonlyMap<string, ReadCursor>,
  rows: { next(count: number): Promise<[Uint8Array, Uint8Array][]> },
): Promise<{ sum: bigint; count: number }> {
  let sum = 0n;
  let count = 0;
  const add = (name: Uint8Array, { seq, timeUs, failed }: CursorValue): void => {
    const value = new ByteWriter().u64(seq).u64(timeUs);
    if (failed !== undefined) writeFailures(value, failed);
    sum = (sum + xxh64Seeded(value.view(), xxh64(name))) & 0xffff_ffff_ffff_ffffn;
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
