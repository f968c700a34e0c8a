/**
 * A segment of the log, whatever became of it: header, batches, entries. Behind a
 * damaged place it goes on at the next batch that verifies. It knows no other
 * segment, so that a hole at a segment's end is for the node's start to find.
 */
import { entryChecksum } from '../common/entry-checksum.js';
import { EntryType } from '../common/log-types.js';
import { decodeEntry } from '../conversation/decoded-entry.js';
import { plain } from '../store/describe-row.js';
import {
  type Batch,
  BatchFlag,
  entryHeaderBytes,
  readBatch,
  readEndDirectory,
  readFrontDirectory,
} from '../wal/batch.js';
import { alignBytes, decodeHeader, type SegmentHeader, segmentSeed } from '../wal/segment-header.js';
import { damage, type InspectOptions, type Item, type Plain } from './item.js';

/** `segment`: from the file's name, or where that says nothing from the header itself. */
export function* inspectSegment(bytes: Buffer, segment: number, { full }: InspectOptions): Generator<Item> {
  const decoded = decodeHeader(bytes, segment);
  if (decoded === undefined) {
    if (bytes.every((byte) => byte === 0)) {
      yield { what: 'empty', offset: 0, end: bytes.length, fields: { bytes: bytes.length } };
      return;
    }
    yield withoutHeader(bytes, segment);
    return;
  }
  const { header, length } = decoded;
  yield headerItem(header, length);
  yield* batches(bytes, header, length, full);
}

/** Without the header's salt no batch can be verified. */
function withoutHeader(bytes: Buffer, segment: number): Item {
  const named = bytes.length >= 24 ? Number(bytes.readBigUInt64LE(16)) : 0;
  if (named !== segment && decodeHeader(bytes, named) !== undefined) {
    // The log renames a file that it has done with, and writes over it later.
    return {
      what: 'reused',
      offset: 0,
      end: bytes.length,
      fields: { bytes: bytes.length, was_segment: named },
    };
  }
  const isOurs = bytes.subarray(0, 8).toString('latin1') === 'HANSARDL';
  const problem = isOurs ? 'its header is damaged' : 'it does not begin as a segment does';
  return damage(0, bytes.length, `${problem}: without it no batch can be verified`);
}

function headerItem(header: SegmentHeader, length: number): Item {
  const { clusterId, salt, previous, table, ...rest } = header;
  return {
    what: 'header',
    offset: 0,
    end: length,
    fields: {
      cluster_id: Buffer.from(clusterId).toString('hex'),
      ...plain(rest),
      salt: hex(salt),
      previous: hex(previous),
      groups: table.map((row) => plain(row)),
    },
  };
}

function* batches(bytes: Buffer, header: SegmentHeader, from: number, full: boolean): Generator<Item> {
  const place = { segment: header.segment, seed: segmentSeed(header.salt, header.segment) };
  let expected = header.firstBatch;
  let chain = header.previous;
  let at = from;
  while (at < bytes.length) {
    const batch = readBatch(bytes, at, place);
    if (batch !== undefined) {
      const breaks = batch.number !== expected || batch.previous !== chain;
      yield batchItem(batch, at, breaks ? 'it does not follow the batch before it' : undefined);
      if (full) yield* entries(bytes, batch, at);
      expected = batch.number + 1;
      chain = batch.checksum;
      at += batch.bytes;
      continue;
    }
    const next = nextBatch(bytes, at, place);
    if (next === undefined) {
      yield* remains(bytes, at, place, expected);
      return;
    }
    const parts = directoriesIn(bytes, at, next, place);
    yield {
      ...damage(at, next, `batch ${expected} is damaged or missing; batches go on at byte ${next}`),
      fields: { bytes: next - at, readable_directories: parts },
    };
    const there = readBatch(bytes, next, place) as Batch;
    expected = there.number;
    chain = there.previous;
    at = next;
  }
}

type BatchSeed = { readonly segment: number; readonly seed: bigint };

function nextBatch(bytes: Buffer, from: number, place: BatchSeed): number | undefined {
  for (let at = from + alignBytes; at + alignBytes <= bytes.length; at += alignBytes) {
    if (readBatch(bytes, at, place) !== undefined) return at;
  }
  return undefined;
}

/** Whose batches are damaged, as far as one of their two directories can be read. */
function directoriesIn(bytes: Buffer, from: number, to: number, place: BatchSeed): Plain[] {
  const found = new Map<number, Plain>();
  for (let at = from; at < to; at += alignBytes) {
    const batch = readFrontDirectory(bytes, at, place) ?? readEndDirectory(bytes, at + alignBytes, place);
    if (batch !== undefined) found.set(batch.number, { number: batch.number, rows: rowsOf(batch) });
  }
  return [...found.values()];
}

/** Behind the last batch: nothing, an earlier use of the file, or a write that was cut short. */
function* remains(bytes: Buffer, at: number, place: BatchSeed, expected: number): Generator<Item> {
  const parts = directoriesIn(bytes, at, bytes.length, place);
  if (parts.length === 0) {
    yield { what: 'end', offset: at, fields: { next_batch: expected, unused_bytes: bytes.length - at } };
    return;
  }
  yield {
    ...damage(at, bytes.length, `what is left of batch ${expected}: a write that was cut short, or damage`),
    fields: { bytes: bytes.length - at, readable_directories: parts },
  };
}

function batchItem(batch: Batch, offset: number, problem: string | undefined): Item {
  const flags = [
    ...(batch.flags & BatchFlag.closing ? ['closing'] : []),
    ...(batch.flags & BatchFlag.rewritten ? ['rewritten'] : []),
  ];
  return {
    what: 'batch',
    offset,
    end: offset + batch.bytes,
    fields: {
      number: batch.number,
      bytes: batch.bytes,
      ...(flags.length === 0 ? {} : { flags }),
      checksum: hex(batch.checksum),
      rows: rowsOf(batch),
    },
    ...(problem === undefined ? {} : { problem }),
  };
}

function rowsOf(batch: Batch): Plain[] {
  return batch.rows.map((row) => plain(row));
}

function* entries(bytes: Buffer, batch: Batch, batchAt: number): Generator<Item> {
  let at = batchAt + batch.payloadAt;
  for (const row of batch.rows) {
    if (row.entries === undefined) continue;
    const rowEnd = at + row.entries.bytes;
    for (let i = 0; i < row.entries.count && at + entryHeaderBytes <= rowEnd; i++) {
      const size = bytes.readUInt32LE(at + 4);
      const end = at + entryHeaderBytes + size;
      if (end > rowEnd) {
        yield damage(at, rowEnd, `an entry of ${size} bytes does not fit into its row`);
        break;
      }
      const term = bytes.readUIntLE(at + 8, 6);
      const type = bytes[at + 14] as EntryType;
      const data = bytes.subarray(at + entryHeaderBytes, end);
      const index = row.entries.first + i;
      const isSound = entryChecksum(row.partition, { term, index, type, data }) === bytes.readUInt32LE(at);
      yield {
        what: 'entry',
        offset: at,
        end,
        fields: { partition: row.partition, index, term, ...contentOf(type, data) },
        ...(isSound ? {} : { problem: 'its checksum does not match' }),
      };
      at = end;
    }
    at = rowEnd;
  }
}

function contentOf(type: EntryType, data: Buffer): Record<string, Plain> {
  if (type !== EntryType.normal) return { type: 'configuration', hex: data.toString('hex') };
  if (data.length === 0) return { type: 'empty' };
  const { leaderTimeUs, commands, problem } = decodeEntry(data);
  if (problem !== undefined) return { type: 'malformed', bytes: data.length, malformed: problem };
  return { type: 'commands', leader_time_us: leaderTimeUs, commands: commands.map(commandOf) };
}

function commandOf(command: ReturnType<typeof decodeEntry>['commands'][number]): Plain {
  if (command.kind !== 'append') return plain(command);
  const { tenant, channel, producerId, firstCounter, records } = command;
  return {
    kind: 'append',
    tenant,
    channel,
    ...(producerId === 0 ? {} : { producer_id: producerId, first_counter: firstCounter }),
    events: records.length,
  };
}

function hex(value: bigint): string {
  return value.toString(16).padStart(16, '0');
}
