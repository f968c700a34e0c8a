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
import { ByteReader, ByteWriter, MalformedError } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import { decodeFaults, type FaultRecord, FaultsTooNew, faultRecordBytesMax } from '../common/faults.js';
import { xxh64 } from '../common/hash.js';
import { clusterIdBytes, hexIdBytes, storeIdBytes } from '../common/hex-ids.js';
import { levelKvFactory } from '../store/level-kv.js';
import type { Identity } from './identity-file.js';
import { syncFolder, writeSynced } from './synced-files.js';

export const faultsName = 'FAULTS';
const newLog = 'log.new';

/** Whose a folder is. */
type Owner = Pick<Identity, 'clusterId' | 'storeId'>;

const magic = Buffer.from('HANSARDF');
const version = 1;
const headBytes = magic.length + 2 + clusterIdBytes + storeIdBytes;

/**
 * 'unreadable': missing or damaged; the copy in the database may tell. Throws
 * FORMAT_TOO_NEW, and REPLICA_LOST where it is another folder's.
 */
export async function readFaults(dir: string, owner: Owner): Promise<FaultRecord | 'unreadable'> {
  const path = join(dir, faultsName);
  try {
    if ((await stat(path)).size > faultRecordBytesMax) return 'unreadable';
    return decodeFile(await readFile(path), path, owner);
  } catch (error) {
    if (error instanceof FaultsTooNew) {
      throw new HansardError('FORMAT_TOO_NEW', `${path} has ${error.message}`, { file: path });
    }
    const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    if (isMissing || error instanceof MalformedError) return 'unreadable';
    throw error;
  }
}

function decodeFile(bytes: Buffer, path: string, owner: Owner): FaultRecord {
  const end = bytes.length - 8;
  if (end < headBytes || !magic.equals(bytes.subarray(0, magic.length)))
    throw new MalformedError('it does not begin as it should');
  // In every version the last eight bytes cover all before.
  if (new ByteReader(bytes, end).u64big() !== xxh64(bytes.subarray(0, end)))
    throw new MalformedError('its checksum does not match');
  const reader = new ByteReader(bytes, magic.length, end);
  const found = reader.u16();
  if (found !== version) throw new FaultsTooNew(found);
  const clusterId = reader.bytes(clusterIdBytes).toString('hex');
  const storeId = reader.bytes(storeIdBytes).toString('hex');
  if (clusterId !== owner.clusterId || storeId !== owner.storeId) {
    throw new HansardError('REPLICA_LOST', `${path} belongs to store ${storeId}, not to ${owner.storeId}`, {
      found: storeId,
      expected: owner.storeId,
    });
  }
  return decodeFaults(bytes.subarray(headBytes, end));
}

/** In the place of the old one, or not at all. */
export async function writeFaults(dir: string, owner: Owner, record: Uint8Array): Promise<void> {
  const writer = new ByteWriter(headBytes + record.length + 8).bytes(magic).u16(version);
  writer.bytes(hexIdBytes(owner.clusterId, clusterIdBytes)).bytes(hexIdBytes(owner.storeId, storeIdBytes));
  writer.bytes(record);
  const draft = join(dir, `${faultsName}.new`);
  await writeSynced(draft, writer.u64big(xxh64(writer.view())).finish());
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
  if (dbMove > 0) {
    // A process that is in the midst of it holds the fresh database's lock, and must keep its files.
    if ((await readdir(dir)).includes('db')) await refuseInUse(join(dir, 'db'));
    await moveDatabase(dir, dbMove);
  }
  return logMove > 0 || dbMove > 0;
}

/** Throws DIRECTORY_IN_USE. One that does not open is in use by nobody. */
async function refuseInUse(path: string): Promise<void> {
  try {
    await (await levelKvFactory().open(path, { create: false })).close();
  } catch (error) {
    if (error instanceof HansardError && error.reason === 'DIRECTORY_IN_USE') throw error;
  }
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
