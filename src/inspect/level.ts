/** LevelDB's files: tables and logs with Hansard's rows in them, and MANIFEST. */
import { MalformedError } from '../common/bytes.js';
import { describeRow, plain } from '../store/describe-row.js';
import { type LogItem, readBatchRecord, readLevelLog, readVersionEdit } from '../store/level-log-file.js';
import { readLevelTable } from '../store/level-table-file.js';
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
  sequence: number,
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
      sequence,
      key: key.toString('hex'),
      ...(value === undefined ? {} : { bytes: value.length }),
      ...(fields === undefined ? {} : { value: fields }),
    },
    ...(problem === undefined ? {} : { problem }),
  };
}
