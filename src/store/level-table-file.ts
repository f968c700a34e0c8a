/**
 * LevelDB's tables (`000007.ldb`), read from the bytes and verified block by block,
 * which LevelDB itself does not. A damaged block is told and the next one read;
 * where the index is damaged, blocks are found again by their checksums.
 */
import { ByteReader, MalformedError } from '../common/bytes.js';
import { crc32c, maskedCrc32c } from '../common/crc32c.js';

const footerBytes = 48;
const magic = 0xdb4775248b80fb57n;
/** type u8, checksum u32. */
const trailerBytes = 5;
const BlockType = { plain: 0, snappy: 1 } as const;
/** LevelDB cuts a block behind the row that makes it 4 KiB; a row of ours is at most a few MiB. */
const searchBytesMax = 32 * 1024 * 1024;

export interface TableRow {
  readonly key: Buffer;
  /** Undefined: a deletion. */
  readonly value: Buffer | undefined;
  readonly sequence: number;
}

export type TableItem =
  | {
      readonly kind: 'block';
      readonly offset: number;
      readonly end: number;
      readonly rows: readonly TableRow[];
    }
  | { readonly kind: 'damage'; readonly offset: number; readonly end: number; readonly problem: string };

interface Handle {
  readonly offset: number;
  readonly size: number;
}

/** All blocks of rows, and what is damaged. */
export function* readLevelTable(bytes: Buffer): Generator<TableItem> {
  let handles: readonly Handle[];
  try {
    handles = readIndex(bytes);
  } catch (error) {
    if (!(error instanceof MalformedError)) throw error;
    yield {
      kind: 'damage',
      offset: Math.max(0, bytes.length - footerBytes),
      end: bytes.length,
      problem: error.message,
    };
    yield* searchBlocks(bytes);
    return;
  }
  let at = 0;
  for (const { offset, size } of handles) {
    if (offset !== at) {
      const problem = `the index leaves out or repeats bytes before ${offset}`;
      yield { kind: 'damage', offset: at, end: offset, problem };
    }
    at = offset + size + trailerBytes;
    yield blockAt(bytes, { offset, size });
  }
  const beside = checkLevelTable(bytes);
  if (beside !== undefined && beside.offset >= at) {
    yield {
      kind: 'damage',
      offset: beside.offset,
      end: bytes.length,
      problem: `behind the rows: ${beside.problem}`,
    };
  }
}

/**
 * Verifies every byte of a table that LevelDB would use, without looking at its rows.
 * Undefined: sound; else where and why not.
 */
export function checkLevelTable(bytes: Buffer): { offset: number; problem: string } | undefined {
  let handles: readonly Handle[];
  try {
    handles = [...readIndex(bytes), ...besideRows(bytes)];
  } catch (error) {
    if (!(error instanceof MalformedError)) throw error;
    return { offset: Math.max(0, bytes.length - footerBytes), problem: error.message };
  }
  let at = 0;
  for (const handle of handles) {
    if (handle.offset !== at) return { offset: at, problem: 'the index leaves out or repeats bytes' };
    const problem = problemOf(() => verifyBlock(bytes, handle));
    if (problem !== undefined) return { offset: at, problem };
    at += handle.size + trailerBytes;
  }
  return undefined;
}

/**
 * What stands behind the blocks of rows, in the file's order: filters (a damaged one
 * makes LevelDB miss rows that are there), the list of them, the index.
 */
function besideRows(bytes: Buffer): Handle[] {
  const { meta, index } = readFooter(bytes);
  return [...handlesIn(bytes, meta), meta, index];
}

/** Damage in a table's file; keys without LevelDB's own bytes. */
export interface TableDamage {
  readonly offset: number;
  readonly problem: string;
  /** Rows that are lost lie behind `after`, up to and with `upTo`; absent: any of the table's. */
  readonly rows?: { readonly after: Buffer | undefined; readonly upTo: Buffer };
}

export type ReadRange = (from: number, to: number) => Promise<Buffer>;

/** Verifies a file of `size` bytes piece by piece; `took` is told of each, and may wait. */
export async function checkTableFile(
  size: number,
  read: ReadRange,
  took: (bytes: number) => Promise<void>,
): Promise<TableDamage[]> {
  const found: TableDamage[] = [];
  const block = async (handle: Handle): Promise<Buffer> => {
    const bytes = await read(handle.offset, handle.offset + handle.size + trailerBytes);
    await took(bytes.length);
    return verifyBlock(bytes, { offset: 0, size: handle.size });
  };
  const note = async (offset: number, rows: TableDamage['rows'], work: () => Promise<unknown>) => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
      found.push({ offset, problem: error.message, ...(rows === undefined ? {} : { rows }) });
    }
  };
  await note(size - footerBytes, undefined, async () => {
    if (size < footerBytes) throw new MalformedError(`a table of ${size} bytes`);
    const { meta, index } = footerOf(await read(size - footerBytes, size), size);
    await note(meta.offset, undefined, async () => {
      for (const [, handle] of placesIn(await block(meta), size)) {
        await note(handle.offset, undefined, () => block(handle));
      }
    });
    let after: Buffer | undefined;
    for (const [key, handle] of placesIn(await block(index), size)) {
      const upTo = key.subarray(0, Math.max(0, key.length - 8));
      await note(handle.offset, { after, upTo }, () => block(handle));
      after = upTo;
    }
  });
  return found;
}

/** The rows of the first block, read piece by piece from a file of `size` bytes. Throws MalformedError. */
export async function readFirstRows(size: number, read: ReadRange): Promise<readonly TableRow[]> {
  if (size < footerBytes) throw new MalformedError(`a table of ${size} bytes`);
  const { index } = footerOf(await read(size - footerBytes, size), size);
  const block = async (handle: Handle): Promise<Buffer> => {
    const bytes = await read(handle.offset, handle.offset + handle.size + trailerBytes);
    return verifyBlock(bytes, { offset: 0, size: handle.size });
  };
  const [first] = placesIn(await block(index), size);
  return first === undefined ? [] : readRows(await block(first[1]));
}

function blockAt(bytes: Buffer, handle: Handle): TableItem {
  const { offset } = handle;
  const end = Math.min(offset + handle.size + trailerBytes, bytes.length);
  let rows: TableRow[] = [];
  const problem = problemOf(() => {
    rows = readRows(verifyBlock(bytes, handle));
  });
  return problem === undefined
    ? { kind: 'block', offset, end, rows }
    : { kind: 'damage', offset, end, problem };
}

function problemOf(work: () => void): string | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    if (error instanceof MalformedError) return error.message;
    throw error;
  }
}

function readFooter(bytes: Buffer): { meta: Handle; index: Handle } {
  if (bytes.length < footerBytes) throw new MalformedError(`a table of ${bytes.length} bytes`);
  return footerOf(bytes.subarray(bytes.length - footerBytes), bytes.length);
}

function footerOf(bytes: Buffer, fileBytes: number): { meta: Handle; index: Handle } {
  if (bytes.length < footerBytes || bytes.readBigUInt64LE(footerBytes - 8) !== magic) {
    throw new MalformedError('the footer has no magic');
  }
  const reader = new ByteReader(bytes, 0, footerBytes - 8);
  const handle = (): Handle => ({ offset: reader.uvarint(), size: reader.uvarint() });
  const footer = { meta: handle(), index: handle() };
  // Nothing covers these but their own sense: the index is the last block.
  if (footer.index.offset + footer.index.size + trailerBytes !== fileBytes - footerBytes) {
    throw new MalformedError('the footer does not point at the last block');
  }
  return footer;
}

function readIndex(bytes: Buffer): Handle[] {
  return handlesIn(bytes, readFooter(bytes).index);
}

function handlesIn(bytes: Buffer, block: Handle): Handle[] {
  return placesIn(verifyBlock(bytes, block), bytes.length).map(([, handle]) => handle);
}

/** Of a block whose values are places of other blocks. */
function placesIn(block: Buffer, fileBytes: number): [Buffer, Handle][] {
  return rawRows(block).map(([key, value]) => {
    const reader = new ByteReader(value);
    const handle = { offset: reader.uvarint(), size: reader.uvarint() };
    reader.end();
    if (handle.offset + handle.size + trailerBytes > fileBytes) {
      throw new MalformedError('the index points behind the file');
    }
    return [key, handle];
  });
}

/** The block's bytes without its trailer. */
function verifyBlock(bytes: Buffer, { offset, size }: Handle): Buffer {
  const typeAt = offset + size;
  if (typeAt + trailerBytes > bytes.length) throw new MalformedError('a block ends behind the file');
  const stored = bytes.readUInt32LE(typeAt + 1);
  if (maskedCrc32c(crc32c(bytes, offset, typeAt + 1)) !== stored) {
    throw new MalformedError('the checksum of a block does not match');
  }
  const type = bytes[typeAt];
  if (type === BlockType.snappy) throw new MalformedError('a compressed block: Hansard writes none');
  if (type !== BlockType.plain) throw new MalformedError(`a block of type ${type}`);
  return bytes.subarray(offset, typeAt);
}

function readRows(block: Buffer): TableRow[] {
  return rawRows(block).map(([internal, value]) => {
    if (internal.length < 8) throw new MalformedError('a key of fewer than eight bytes');
    const at = internal.length - 8;
    const type = internal[at];
    const sequence = internal.readUIntLE(at + 1, 6) + (internal[at + 7] as number) * 2 ** 48;
    return { key: internal.subarray(0, at), value: type === 0 ? undefined : value, sequence };
  });
}

/** Keys share their beginnings with the one before; restart points stand behind them. */
function rawRows(block: Buffer): [Buffer, Buffer][] {
  const restarts = block.length < 4 ? -1 : block.readUInt32LE(block.length - 4);
  const end = block.length - 4 - restarts * 4;
  if (restarts < 0 || end < 0) throw new MalformedError('a block without restart points');
  const reader = new ByteReader(block, 0, end);
  const rows: [Buffer, Buffer][] = [];
  let before: Buffer = Buffer.alloc(0);
  while (reader.remaining > 0) {
    const shared = reader.uvarint();
    const own = reader.uvarint();
    const length = reader.uvarint();
    if (shared > before.length) throw new MalformedError('a key that shares more than there is');
    const key = Buffer.concat([before.subarray(0, shared), reader.bytes(own)]);
    rows.push([key, reader.bytes(length)]);
    before = key;
  }
  return rows;
}

/** Without an index: each block ends where the checksum of all before matches. */
function* searchBlocks(bytes: Buffer): Generator<TableItem> {
  let at = 0;
  while (at + trailerBytes < bytes.length) {
    const size = blockSizeAt(bytes, at);
    if (size === undefined) {
      const problem = 'no block begins here whose checksum matches: the rest can not be read';
      yield { kind: 'damage', offset: at, end: bytes.length, problem };
      return;
    }
    const block = blockAt(bytes, { offset: at, size });
    // Behind the rows' blocks come those of the index, which has no such keys.
    if (block.kind === 'damage') return;
    yield block;
    at += size + trailerBytes;
  }
}

function blockSizeAt(bytes: Buffer, from: number): number | undefined {
  let crc = 0;
  const last = Math.min(bytes.length - trailerBytes, from + searchBytesMax);
  for (let typeAt = from; typeAt <= last; typeAt++) {
    crc = crc32c(bytes, typeAt, typeAt + 1, crc);
    if (maskedCrc32c(crc) === bytes.readUInt32LE(typeAt + 1)) return typeAt - from;
  }
  return undefined;
}
