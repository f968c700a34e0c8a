/**
 * The file FAULTS of a node's folder: its record of faults (common/faults.ts), and of
 * parts of the folder that are being moved aside. What is damaged is kept:
 *
 *   dir/log.damaged-N   segments that a fresh log has taken the place of
 *   dir/db.damaged-N    a database that LevelDB or the store would not open
 *   dir/log.new         a fresh log that is not in its place yet
 *
 * A move is written down before it begins, so that a start after a crash ends it.
 */
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { MalformedError } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import { decodeFaults, type FaultRecord, FaultsTooNew, faultRecordBytesMax } from '../common/faults.js';
import { syncFolder, writeSynced } from './synced-files.js';

export const faultsName = 'FAULTS';
const newLog = 'log.new';

/** 'unreadable': missing or damaged; the copy in the database may tell. Throws FORMAT_TOO_NEW. */
export async function readFaults(dir: string): Promise<FaultRecord | 'unreadable'> {
  const path = join(dir, faultsName);
  try {
    if ((await stat(path)).size > faultRecordBytesMax) return 'unreadable';
    return decodeFaults(await readFile(path));
  } catch (error) {
    if (error instanceof FaultsTooNew) {
      throw new HansardError('FORMAT_TOO_NEW', `${path} has ${error.message}`, { file: path });
    }
    const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    if (isMissing || error instanceof MalformedError) return 'unreadable';
    throw error;
  }
}

/** In the place of the old one, or not at all. */
export async function writeFaults(dir: string, bytes: Uint8Array): Promise<void> {
  const draft = join(dir, `${faultsName}.new`);
  await writeSynced(draft, Buffer.from(bytes));
  await rename(draft, join(dir, faultsName));
  await syncFolder(dir);
}

/** The number that the next part moved aside gets. */
export async function nextMove(dir: string): Promise<number> {
  const numbers = (await readdir(dir)).map((name) => Number(/\.damaged-(\d+)$/.exec(name)?.[1] ?? 0));
  return Math.max(0, ...numbers) + 1;
}

/** Moves that were under way when the process ended. True: there were some. */
export async function finishMoves(dir: string, { logMove, dbMove }: FaultRecord): Promise<boolean> {
  if (logMove > 0) await moveLog(dir, logMove);
  if (dbMove > 0) await moveDatabase(dir, dbMove);
  return logMove > 0 || dbMove > 0;
}

/** Where a fresh log is made. What an earlier attempt left there was never in use. */
export async function newLogFolder(dir: string): Promise<string> {
  const path = join(dir, newLog);
  await rm(path, { recursive: true, force: true });
  await mkdir(path);
  await syncFolder(dir);
  return path;
}

/** The fresh log takes its place; may be called again where it was interrupted. */
export async function moveLog(dir: string, number: number): Promise<void> {
  const names = await readdir(dir);
  if (!names.includes(newLog)) return;
  const aside = `log.damaged-${number}`;
  if (!names.includes(aside)) await rename(join(dir, 'log'), join(dir, aside));
  await syncFolder(dir);
  await rename(join(dir, newLog), join(dir, 'log'));
  await syncFolder(dir);
}

/** An empty folder takes the database's place; where it was interrupted, what is there now was never in use. */
export async function moveDatabase(dir: string, number: number): Promise<void> {
  const names = await readdir(dir);
  const aside = `db.damaged-${number}`;
  const path = join(dir, 'db');
  if (!names.includes(aside)) await rename(path, join(dir, aside));
  else await rm(path, { recursive: true, force: true });
  await mkdir(path, { recursive: true });
  await syncFolder(dir);
}
