/**
 * Are log and database those that IDENTITY names, and of formats that this program
 * knows? Only reads. What the parts check when they open would come too late for a
 * foreign folder: LevelDB changes files as soon as it opens them.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { HansardError } from '../common/errors.js';
import { readDatabaseOwner } from '../store/level-owner.js';
import { foreign } from '../store/open.js';
import { withFile } from '../store/piece-reader.js';
import { storeFormatVersion } from '../store/store.js';
import { decodeHeader } from '../wal/segment-header.js';
import type { NodeDirectory } from './directory.js';

/** Enough for the table of 15,000 partitions. */
const headerBytesMax = 1024 * 1024;

/** Throws REPLICA_LOST, FORMAT_TOO_NEW. Damage is for those who open the parts. */
export async function checkOwner({ identity, logPath, dbPath }: NodeDirectory): Promise<void> {
  await checkLog(logPath, identity);
  const owner = await readDatabaseOwner(dbPath);
  if (owner === undefined) return;
  const { formatVersion, clusterId, storeId } = owner;
  if (formatVersion > storeFormatVersion) {
    throw new HansardError(
      'FORMAT_TOO_NEW',
      `the database has format ${formatVersion}, this program knows ${storeFormatVersion}`,
      { format: formatVersion, known: storeFormatVersion },
    );
  }
  if (clusterId !== identity.clusterId) throw foreign('cluster', clusterId, identity.clusterId);
  if (storeId !== identity.storeId) throw foreign('store', storeId, identity.storeId);
}

async function checkLog(path: string, identity: NodeDirectory['identity']): Promise<void> {
  for (const name of await readdir(path)) {
    const segment = /^log-(\d{16})\.seg$/.exec(name)?.[1];
    if (segment === undefined) continue;
    // Where a process has the folder open, the database's lock is what is told.
    const start = await withFile(join(path, name), (file) =>
      file.read(0, Math.min(file.size, headerBytesMax)),
    );
    const decoded = start === undefined ? undefined : decodeHeader(start, Number(segment));
    if (decoded === undefined) continue;
    const { clusterId, storeId } = decoded.header;
    const found = Buffer.from(clusterId).toString('hex');
    if (found === identity.clusterId && storeId === identity.storeId) continue;
    const [what, is, should] =
      found === identity.clusterId
        ? ['store', storeId, identity.storeId]
        : ['cluster', found, identity.clusterId];
    throw new HansardError('REPLICA_LOST', `the log belongs to ${what} ${is}, not to ${should}`, {
      found: is,
      expected: should,
    });
  }
}
