/** LevelDB's files: tables and logs with Hansard's rows in them, and MANIFEST; and the files of values beside them. */
import { MalformedError } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import { describeRow, plain } from '../store/describe-row.js';
import { type LogItem, readBatchRecord, readLevelLog, readVersionEdit } from '../store/level-log-file.js';
import { readLevelTable } from '../store/level-table-file.js';
import { decodeValueHeader, readRecord, valueHeaderBytesMax } from '../store/value-format.js';
import { damage, type InspectOptions, type Item } from './item.js';

export function* inspectTable(bytes: Buffer, options: InspectOptions): Generator<Item> {
  for (const item of readLevelTable(bytes)) {
    if (item.kind === 'damage') {
      yield damage(item.offset, item.end, item.problem);
      continue;
    }
    const { offset, end, rows } = item;
    if (options.wanted === undefined) {
      yield { what: 'table block', offset, end, fields: { bytes: end - offset, rows: rows.length } };
    }
    for (const { key, value, sequence } of rows) yield* row(key, value, sequence, offset, options);
  }
}

/** Large rows, whether or not they still count. */
export function* inspectValues(bytes: Buffer, options: InspectOptions): Generator<Item> {
  let at = 0;
  try {
    const header = decodeValueHeader(bytes.subarray(0, valueHeaderBytesMax));
    const { file, clusterId, storeId } = header;
    at = header.bytes;
    yield { what: 'header', offset: 0, end: at, fields: plain({ file, clusterId, storeId }) };
    while (at < bytes.length) {
      const record = readRecord(bytes, at);
      // The write that a crash cut short, or one that was never decided.
      if (typeof record === 'number') {
        yield { what: 'torn', offset: at, end: bytes.length, fields: { bytes: bytes.length - at } };
        return;
      }
      yield* row(record.key, record.value, undefined, at, options);
      at = record.end;
    }
  } catch (error) {
    if (!(error instanceof MalformedError) && !(error instanceof HansardError)) throw error;
    yield damage(at, bytes.length, error.message);
  }
}

/** `000012.log`: what was written last and is in no table yet. */
export function inspectLevelLog(bytes: Buffer, options: InspectOptions): Generator<Item> {
  return inspectRecords(bytes, 'a write', function* ({ offset, end, data }) {
    const { sequence, changes } = readBatchRecord(data);
    if (options.wanted === undefined) {
      yield {
        what: 'write',
        offset,
        end,
        fields: { bytes: end - offset, sequence, changes: changes.length },
      };
    }
    for (const change of changes) yield* row(change.key, change.value, change.sequence, offset, options);
  });
}

export function inspectManifest(bytes: Buffer): Generator<Item> {
  return inspectRecords(bytes, 'an edit', function* ({ offset, end, data }) {
    yield { what: 'edit', offset, end, fields: plain(readVersionEdit(data)) };
  });
}

type LogRecord = Extract<LogItem, { kind: 'record' }>;

/** LevelDB writes its log and MANIFEST as the same kind of records. */
function* inspectRecords(
  bytes: Buffer,
  what: string,
  inspect: (record: LogRecord) => Generator<Item>,
): Generator<Item> {
  for (const item of readLevelLog(bytes)) {
    if (item.kind !== 'record') {
      yield noRecord(item);
      continue;
    }
    try {
      yield* inspect(item);
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
      yield damage(item.offset, item.end, `${what} whose bytes say nothing: ${error.message}`);
    }
  }
}

function noRecord(item: Exclude<LogItem, LogRecord>): Item {
  if (item.kind === 'damage') return damage(item.offset, item.end, item.problem);
  return { what: 'torn', offset: item.offset, end: item.end, fields: { bytes: item.end - item.offset } };
}

function* row(
  key: Buffer,
  value: Buffer | undefined,
  /** LevelDB's; rows of value files have none. */
  sequence: number | undefined,
  offset: number,
  { full, wanted }: InspectOptions,
): Generator<Item> {
  if (wanted !== undefined && !wanted(key)) return;
  const { kind, place, value: fields, problem } = describeRow(key, value, full);
  yield {
    what: value === undefined ? 'deleted row' : 'row',
    offset,
    fields: {
      kind,
      ...place,
      ...(sequence === undefined ? {} : { sequence }),
      key: key.toString('hex'),
      ...(value === undefined ? {} : { bytes: value.length }),
      ...(fields === undefined ? {} : { value: fields }),
    },
    ...(problem === undefined ? {} : { problem }),
  };
}
