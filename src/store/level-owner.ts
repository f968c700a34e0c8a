/**
 * Whose database lies in a folder, read from its files before LevelDB opens it: opening
 * rewrites MANIFEST and log at once, and a foreign database must stay as it is.
 */
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { MalformedError } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import { formatKey } from './keys.js';
import { readBatchRecord, readLevelLog } from './level-log-file.js';
import { readFirstRows } from './level-table-file.js';
import { openRow } from './rows.js';

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
  for (const name of numbered(/^\d+\.(ldb|sst)$/)) {
    const owner = await withFile(join(path, name), async (file) => {
      const rows = await readFirstRows(await sizeOf(file), (from, to) => readRange(file, from, to));
      return ownerIn(rows);
    });
    if (owner !== undefined) return owner;
  }
  for (const name of numbered(/^\d+\.log$/)) {
    const owner = await withFile(join(path, name), async (file) => {
      const bytes = await readRange(file, 0, Math.min(await sizeOf(file), logBytesMax));
      for (const item of readLevelLog(bytes)) {
        if (item.kind !== 'record') return undefined;
        const found = ownerIn(readBatchRecord(item.data).changes);
        if (found !== undefined) return found;
      }
      return undefined;
    });
    if (owner !== undefined) return owner;
  }
  return undefined;
}

function ownerIn(rows: readonly { readonly key: Buffer; readonly value: Buffer | undefined }[]) {
  const key = formatKey();
  for (const row of rows) {
    if (row.value === undefined || !row.key.equals(key)) continue;
    return openRow(key, row.value, 'the format record', (reader) => ({
      formatVersion: reader.u16(),
      clusterId: reader.string(),
      storeId: reader.string(),
    }));
  }
  return undefined;
}

/** Damage is for others to tell, who know what it means. */
async function withFile<T>(path: string, work: (file: FileHandle) => Promise<T>): Promise<T | undefined> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    // A process that has the folder open removes tables; its lock is what is told then.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    return await work(file);
  } catch (error) {
    if (error instanceof MalformedError) return undefined;
    if (error instanceof HansardError && error.reason === 'STORE_DAMAGED') return undefined;
    throw error;
  } finally {
    await file.close();
  }
}

async function sizeOf(file: FileHandle): Promise<number> {
  return (await file.stat()).size;
}

async function readRange(file: FileHandle, from: number, to: number): Promise<Buffer> {
  const bytes = Buffer.alloc(to - from);
  const { bytesRead } = await file.read(bytes, 0, bytes.length, from);
  return bytes.subarray(0, bytesRead);
}
