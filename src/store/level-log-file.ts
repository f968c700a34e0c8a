/**
 * LevelDB's log format, read from the bytes: its own log (`000012.log`: batches of
 * rows) and MANIFEST (which tables there are). LevelDB itself skips what is damaged
 * in silence (design rule 7); here it is told, and what is behind it is read.
 */
import { ByteReader, MalformedError } from '../common/bytes.js';
import { crc32c, maskedCrc32c } from '../common/crc32c.js';

const blockBytes = 32 * 1024;
/** checksum u32, length u16, type u8. */
const headerBytes = 7;
const RecordType = { zero: 0, full: 1, first: 2, middle: 3, last: 4 } as const;

export type LogItem =
  | { readonly kind: 'record'; readonly offset: number; readonly end: number; readonly data: Buffer }
  /** Bytes that are no record; what follows `end` is read on. */
  | { readonly kind: 'damage'; readonly offset: number; readonly end: number; readonly problem: string }
  /** A last record that was cut short: normal after a crash, for it was never synced. */
  | { readonly kind: 'torn'; readonly offset: number; readonly end: number };

interface Fragment {
  readonly type: number;
  readonly offset: number;
  readonly end: number;
  readonly data: Buffer;
}

/** Every record, and what stands between them that is none. */
export function* readLevelLog(bytes: Buffer): Generator<LogItem> {
  let begun: { offset: number; pieces: Buffer[] } | undefined;
  let at = 0;
  while (at < bytes.length) {
    const blockEnd = Math.min((Math.floor(at / blockBytes) + 1) * blockBytes, bytes.length);
    if (blockEnd - at < headerBytes) {
      at = blockEnd;
      continue;
    }
    const fragment = readFragment(bytes, at, blockEnd);
    if (fragment === 'zeros') {
      at = blockEnd;
      continue;
    }
    if (typeof fragment === 'string') {
      // The length can not be trusted: what follows is found again at the next block.
      const offset = begun?.offset ?? at;
      begun = undefined;
      if (fragment === 'cut' && blockEnd === bytes.length) yield { kind: 'torn', offset, end: blockEnd };
      else yield { kind: 'damage', offset, end: blockEnd, problem: problems[fragment] };
      at = blockEnd;
      continue;
    }
    const { type, offset, end, data } = fragment;
    const begins = type === RecordType.full || type === RecordType.first;
    if (begins && begun !== undefined) {
      yield { kind: 'damage', offset: begun.offset, end: offset, problem: 'a record has no end' };
      begun = undefined;
    }
    if (type === RecordType.full) yield { kind: 'record', offset, end, data };
    else if (type === RecordType.first) begun = { offset, pieces: [data] };
    else if (begun === undefined) {
      yield { kind: 'damage', offset, end, problem: 'the rest of a record whose beginning is lost' };
    } else {
      begun.pieces.push(data);
      if (type === RecordType.last) {
        yield { kind: 'record', offset: begun.offset, end, data: Buffer.concat(begun.pieces) };
        begun = undefined;
      }
    }
    at = end;
  }
  if (begun !== undefined) yield { kind: 'torn', offset: begun.offset, end: bytes.length };
}

const problems = {
  cut: 'a record is longer than its block',
  type: 'a record of an unknown type',
  checksum: 'the checksum of a record does not match',
} as const;

function readFragment(
  bytes: Buffer,
  offset: number,
  blockEnd: number,
): Fragment | 'zeros' | keyof typeof problems {
  const stored = bytes.readUInt32LE(offset);
  const length = bytes.readUInt16LE(offset + 4);
  const type = bytes[offset + 6] as number;
  // LevelDB pads so where it maps files.
  if (type === RecordType.zero && length === 0 && stored === 0) return 'zeros';
  const end = offset + headerBytes + length;
  if (end > blockEnd) return 'cut';
  if (maskedCrc32c(crc32c(bytes, offset + 6, end)) !== stored) return 'checksum';
  if (type < RecordType.full || type > RecordType.last) return 'type';
  return { type, offset, end, data: bytes.subarray(offset + headerBytes, end) };
}

/** Pieces of a file that is verified beside LevelDB's writing to it; whole blocks. */
const pieceBytes = 32 * blockBytes;

/**
 * Verifies the first `size` bytes of a log's file, as they were when it was asked how
 * long it is. Gives the first place that is damaged; the end of what is being written
 * is none.
 */
export async function checkLogFile(
  size: number,
  read: (from: number, to: number) => Promise<Buffer>,
  took: (bytes: number) => Promise<void>,
): Promise<{ offset: number; problem: string } | undefined> {
  for (let from = 0; from < size; from += pieceBytes) {
    const piece = await read(from, Math.min(from + pieceBytes, size));
    let at = 0;
    while (at < piece.length) {
      const blockEnd = Math.min((Math.floor(at / blockBytes) + 1) * blockBytes, piece.length);
      const fragment = blockEnd - at < headerBytes ? 'zeros' : readFragment(piece, at, blockEnd);
      if (typeof fragment !== 'string') {
        at = fragment.end;
        continue;
      }
      if (fragment !== 'zeros') {
        const isEnd = fragment === 'cut' && from + blockEnd === size;
        return isEnd ? undefined : { offset: from + at, problem: problems[fragment] };
      }
      at = blockEnd;
    }
    await took(piece.length);
  }
  return undefined;
}

export interface LevelChange {
  readonly key: Buffer;
  /** Undefined: deleted. */
  readonly value: Buffer | undefined;
  readonly sequence: number;
}

const ChangeTag = { deletion: 0, value: 1 } as const;

/** The rows that a record of a log puts and deletes. Throws MalformedError. */
export function readBatchRecord(data: Buffer): { sequence: number; changes: LevelChange[] } {
  const reader = new ByteReader(data);
  const sequence = reader.u64();
  const count = reader.u32();
  // A change takes three bytes at least.
  if (count * 2 > reader.remaining) throw new MalformedError(`a batch of ${count} changes`);
  const changes: LevelChange[] = [];
  for (let i = 0; i < count; i++) {
    const tag = reader.u8();
    if (tag !== ChangeTag.deletion && tag !== ChangeTag.value)
      throw new MalformedError(`a change of kind ${tag}`);
    const key = reader.sized();
    const value = tag === ChangeTag.value ? reader.sized() : undefined;
    changes.push({ key, value, sequence: sequence + i });
  }
  reader.end();
  return { sequence, changes };
}

export interface VersionEdit {
  comparator?: string;
  logNumber?: number;
  previousLogNumber?: number;
  nextFile?: number;
  lastSequence?: number;
  readonly deleted: { readonly level: number; readonly file: number }[];
  readonly added: {
    readonly level: number;
    readonly file: number;
    readonly bytes: number;
    /** Without LevelDB's eight bytes of sequence and type. */
    readonly smallest: Buffer;
    readonly largest: Buffer;
  }[];
}

const EditTag = {
  comparator: 1,
  logNumber: 2,
  nextFile: 3,
  lastSequence: 4,
  compactPointer: 5,
  deletedFile: 6,
  newFile: 7,
  previousLogNumber: 9,
} as const;

/** A record of a MANIFEST. Throws MalformedError. */
export function readVersionEdit(data: Buffer): VersionEdit {
  const reader = new ByteReader(data);
  const edit: VersionEdit = { deleted: [], added: [] };
  while (reader.remaining > 0) {
    const tag = reader.uvarint();
    switch (tag) {
      case EditTag.comparator:
        edit.comparator = reader.string();
        break;
      case EditTag.logNumber:
        edit.logNumber = reader.uvarint();
        break;
      case EditTag.previousLogNumber:
        edit.previousLogNumber = reader.uvarint();
        break;
      case EditTag.nextFile:
        edit.nextFile = reader.uvarint();
        break;
      case EditTag.lastSequence:
        edit.lastSequence = reader.uvarint();
        break;
      case EditTag.compactPointer:
        reader.uvarint();
        reader.sized();
        break;
      case EditTag.deletedFile:
        edit.deleted.push({ level: reader.uvarint(), file: reader.uvarint() });
        break;
      case EditTag.newFile:
        edit.added.push({
          level: reader.uvarint(),
          file: reader.uvarint(),
          bytes: reader.uvarint(),
          smallest: userKey(reader.sized()),
          largest: userKey(reader.sized()),
        });
        break;
      default:
        throw new MalformedError(`an edit with tag ${tag}`);
    }
  }
  return edit;
}

function userKey(internal: Buffer): Buffer {
  if (internal.length < 8) throw new MalformedError('a key of fewer than eight bytes');
  return internal.subarray(0, internal.length - 8);
}
