/**
 * Whose database lies in a folder, read from its files before LevelDB opens it: opening
 * rewrites MANIFEST and log at once, and a foreign database must stay as it is.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { MalformedError } from '../common/bytes.js';
import { formatKey } from './keys.js';
import { readBatchRecord, readLevelLog } from './level-log-file.js';
import { readFirstRows } from './level-table-file.js';
import { type PieceReader, withFile } from './piece-reader.js';
import { isStoreDamage, openRow } from './rows.js';

export interface DatabaseOwner {
  readonly formatVersion: number;
  readonly clusterId: string;
  readonly storeId: string;
}

/** The format record is the first row of all: in a young log it is in the first write. */
const logBytesMax = 1024 * 1024;

/**
 * From any version of the format record that is still there: what it says of the owner
 * never changes. Undefined where none can be read so; what that means LevelDB's opening
 * tells. Throws FORMAT_TOO_NEW.
 */
export async function readDatabaseOwner(path: string): Promise<DatabaseOwner | undefined> {
  const names = await readdir(path);
  const numbered = (end: RegExp) => names.filter((name) => end.test(name)).sort();
  for (const name of [...numbered(/^\d+\.(ldb|sst)$/), ...numbered(/^\d+\.log$/)]) {
    const ownerOf = name.endsWith('.log') ? ownerInLog : ownerInTable;
    const owner = await unlessDamaged(withFile(join(path, name), ownerOf));
    if (owner !== undefined) return owner;
  }
  return undefined;
}

async function ownerInTable(file: PieceReader): Promise<DatabaseOwner | undefined> {
  return ownerIn(await readFirstRows(file.size, (from, to) => file.read(from, to)));
}

async function ownerInLog(file: PieceReader): Promise<DatabaseOwner | undefined> {
  const bytes = await file.read(0, Math.min(file.size, logBytesMax));
  for (const item of readLevelLog(bytes)) {
    if (item.kind !== 'record') return undefined;
    const found = ownerIn(readBatchRecord(item.data).changes);
    if (found !== undefined) return found;
  }
  return undefined;
}

function ownerIn(rows: readonly { readonly key: Buffer; readonly value: Buffer | undefined }[]) {
  const key = formatKey();
  for (const row of rows) {
    if (row.value === undefined || !row.key.equals(key)) continue;
    return readOwner(key, row.value);
  }
  return undefined;
}

/** From the format record. */
export function readOwner(key: Uint8Array, row: Uint8Array): DatabaseOwner {
  return openRow(key, row, 'the format record', (reader) => ({
    formatVersion: reader.u16(),
    clusterId: reader.string(),
    storeId: reader.string(),
  }));
}

/** Damage is for others to tell, who know what it means. */
async function unlessDamaged<T>(read: Promise<T>): Promise<T | undefined> {
  try {
    return await read;
  } catch (error) {
    if (error instanceof MalformedError || isStoreDamage(error)) return undefined;
    throw error;
  }
}
