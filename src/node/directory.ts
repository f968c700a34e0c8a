/**
 * A node's folder, and the file that says whose it is:
 *
 *   dir/IDENTITY   cluster, node and store; written last by init, never changed in place
 *   dir/FAULTS     what is wrong with its replicas (faults-file.ts); replaced as a whole
 *   dir/log/       the log's segments (wal/)
 *   dir/db/        LevelDB (store/), whose own lock keeps a second process out: open it before the log
 *
 * Formatting is always explicit. A node never starts on a folder that it can't
 * prove to be its own: what it promised to its peers would be gone unnoticed
 * (design rule 12). Nothing here deletes anything but its own marker.
 */
import { access, constants, mkdir, readdir, readFile, rename, stat, unlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { Random } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import { encodeFaults, type FaultRecord, noFaults } from '../common/faults.js';
import { clusterIdBytes, isHexId, randomHexId, storeIdBytes } from '../common/hex-ids.js';
import { faultsName, finishMoves, readFaults, writeFaults } from './faults-file.js';
import {
  decodeIdentity,
  encodeIdentity,
  type Identity,
  identityBytesMax,
  type Member,
} from './identity-file.js';
import { syncFolder, writeSynced } from './synced-files.js';

export type { Identity, Member } from './identity-file.js';

export interface NodeDirectory {
  readonly identity: Identity;
  readonly dir: string;
  readonly logPath: string;
  readonly dbPath: string;
  readonly faults: FaultRecord | 'unreadable';
}

export interface InitOptions extends Omit<Identity, 'storeId' | 'incarnation'> {
  readonly dir: string;
  /** Of the cluster, 1 unless it was restored. */
  readonly incarnation?: number;
  /** Draws the store's id. */
  readonly random: Random;
  /** Make the folder's two parts, synced; the folders themselves exist, empty. */
  formatLog(path: string, identity: Identity): Promise<void>;
  formatDb(path: string, identity: Identity): Promise<void>;
}

const identityName = 'IDENTITY';
/** There while init is under way. */
const markerName = 'INIT-UNDER-WAY';
const logName = 'log';
const dbName = 'db';
const parts: readonly string[] = [identityName, faultsName, logName, dbName];

/** More would be another system's idea of a partition. */
const partitionCountMax = 65_536;
const addressBytesMax = 255;

/**
 * Formats an empty (or missing) folder. A crash on the way leaves a folder that
 * says so: the marker comes first, IDENTITY last.
 */
export async function initDirectory(options: InitOptions): Promise<NodeDirectory> {
  const dir = resolve(options.dir);
  const identity: Identity = {
    clusterId: options.clusterId,
    nodeId: options.nodeId,
    storeId: randomHexId(options.random, storeIdBytes),
    incarnation: options.incarnation ?? 1,
    partitionCount: options.partitionCount,
    replicationFactor: options.replicationFactor,
    members: options.members,
  };
  checkIdentity(identity);
  const paths = pathsOf(dir, identity);
  await explained(dir, async () => {
    await mkdir(dir, { recursive: true });
    refuseContent(dir, await readdir(dir));
    await syncFolder(dirname(dir));
    const marker = 'hansard init is under way in this folder, or was interrupted.\n';
    await writeSynced(join(dir, markerName), Buffer.from(marker));
    await mkdir(paths.logPath);
    await mkdir(paths.dbPath);
    await syncFolder(dir);
    await options.formatDb(paths.dbPath, identity);
    await options.formatLog(paths.logPath, identity);
    await writeFaults(dir, identity, encodeFaults({ ...noFaults, number: 1 }));
    await putIdentity(dir, identity);
    await unlink(join(dir, markerName));
    await syncFolder(dir);
  });
  return paths;
}

/** Whole or not at all, also after a crash. */
async function putIdentity(dir: string, identity: Identity): Promise<void> {
  const draft = join(dir, `${identityName}.new`);
  await writeSynced(draft, encodeIdentity(identity));
  await rename(draft, join(dir, identityName));
  await syncFolder(dir);
}

/** Gives the folder of a stopped node another incarnation of its cluster; all else stays. */
export async function writeIncarnation(path: string, incarnation: number): Promise<void> {
  const { dir, identity } = await openDirectory(path);
  const changed = { ...identity, incarnation };
  checkIdentity(changed);
  await explained(dir, () => putIdentity(dir, changed));
}

/** Reads IDENTITY and checks that the folder is whole, as far as can be seen without opening its parts. */
export async function openDirectory(path: string): Promise<NodeDirectory> {
  const dir = resolve(path);
  return explained(dir, async () => {
    let names = await listOrLost(dir);
    if (!names.includes(identityName)) throw withoutIdentity(dir, names);
    await access(dir, constants.R_OK | constants.W_OK | constants.X_OK);
    const identity = await readIdentity(dir);
    const faults = await readFaults(dir, identity);
    // A repair that was interrupted has moved one of them aside.
    if (faults !== 'unreadable' && (await finishMoves(dir, faults))) names = await readdir(dir);
    for (const name of [dbName, logName]) {
      if (names.includes(name)) continue;
      throw new HansardError(
        name === dbName ? 'STORE_DAMAGED' : 'LOG_DAMAGED',
        `${join(dir, name)} is missing, though ${identityName} is there: part of the folder was deleted or not copied`,
        { directory: dir },
      );
    }
    for (const name of [dbName, logName]) {
      await access(join(dir, name), constants.R_OK | constants.W_OK | constants.X_OK);
    }
    // Init was cut off between its last two steps: it is complete.
    if (names.includes(markerName)) await unlink(join(dir, markerName));
    return { ...pathsOf(dir, identity), faults };
  });
}

/**
 * What was read before the folder was locked is still there: the process that had it until then may have found
 * damage in its last moment, and a record of faults that is older would take its place. Throws DIRECTORY_IN_USE.
 */
export async function checkUnchanged(read: NodeDirectory): Promise<void> {
  const { dir } = read;
  if (await isUnchanged(read)) return;
  throw new HansardError(
    'DIRECTORY_IN_USE',
    `another process has just used ${dir}: it changed while this one opened it. Nothing was changed here; start again`,
    { directory: dir },
  );
}

/** What can't be read now and could be a moment ago is for the next start to tell; here it would count as the database's damage. */
async function isUnchanged({ dir, identity, faults }: NodeDirectory): Promise<boolean> {
  try {
    const { incarnation } = await readIdentity(dir);
    return (
      incarnation === identity.incarnation && numberOf(await readFaults(dir, identity)) === numberOf(faults)
    );
  } catch (error) {
    if (error instanceof HansardError) return false;
    throw error;
  }
}

function numberOf(faults: FaultRecord | 'unreadable'): number | 'unreadable' {
  return faults === 'unreadable' ? faults : faults.number;
}

function pathsOf(dir: string, identity: Identity): NodeDirectory {
  const faults = { ...noFaults, number: 1 };
  return { identity, dir, logPath: join(dir, logName), dbPath: join(dir, dbName), faults };
}

function refuseContent(dir: string, names: readonly string[]): void {
  if (names.length === 0 || (names.length === 1 && names[0] === markerName)) return;
  if (names.includes(markerName) && !names.includes(identityName)) throw unfinished(dir);
  const what = names.includes(identityName) ? "holds a node's data already" : `is not empty (${names[0]}, …)`;
  throw new HansardError('DIRECTORY_NOT_EMPTY', `${dir} ${what}: nothing was changed`, { directory: dir });
}

async function listOrLost(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
    throw lost(dir, 'does not exist');
  }
}

function withoutIdentity(dir: string, names: readonly string[]): HansardError {
  if (names.includes(markerName)) return unfinished(dir);
  if (names.length === 0) return lost(dir, 'is empty');
  if (names.some((name) => parts.includes(name))) {
    const problem = `${dir} has ${names.filter((name) => parts.includes(name)).join(' and ')} but no ${identityName}: part of the folder was deleted or not copied`;
    return new HansardError('STORE_DAMAGED', problem, { directory: dir });
  }
  return lost(dir, "holds other files, but no node's data");
}

function lost(dir: string, problem: string): HansardError {
  return new HansardError(
    'REPLICA_LOST',
    `${dir} ${problem}. A new node's folder is made by \`hansard init\`; a node that has run before must get its own folder back`,
    { directory: dir },
  );
}

function unfinished(dir: string): HansardError {
  return new HansardError(
    'DIRECTORY_UNFINISHED',
    `${dir} is left from an init that was interrupted: delete it and run \`hansard init\` again (no node has ever run on it)`,
    { directory: dir },
  );
}

/** What the operating system says, in terms of the folder. */
async function explained<T>(dir: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const fields = { directory: dir };
    const options = { cause: error };
    switch (codeOf(error)) {
      case 'ENOTDIR':
      case 'EEXIST':
        throw new HansardError(
          'INVALID_SETTINGS',
          `${dir} is a file, or below one, not a folder`,
          fields,
          options,
        );
      case 'EACCES':
      case 'EPERM':
        throw new HansardError(
          'INVALID_SETTINGS',
          `no permission to use ${dir}: ${text(error)}`,
          fields,
          options,
        );
      case 'EROFS':
        throw new HansardError('INVALID_SETTINGS', `${dir} is on a read-only file system`, fields, options);
      case 'ENAMETOOLONG':
      case 'ELOOP':
        throw new HansardError(
          'INVALID_SETTINGS',
          `${dir} is no usable path: ${text(error)}`,
          fields,
          options,
        );
      case 'ENOSPC':
      case 'EDQUOT':
        throw new HansardError('DISK_FAILED', `no space left for ${dir}`, fields, options);
      case 'EIO':
        throw new HansardError(
          'DISK_FAILED',
          `the disk under ${dir} failed: ${text(error)}`,
          fields,
          options,
        );
      default:
        throw error;
    }
  }
}

function checkIdentity(identity: Identity): void {
  const { clusterId, nodeId, incarnation, partitionCount, replicationFactor, members } = identity;
  const ids = members.map((member) => member.nodeId);
  const bad =
    (!isHexId(clusterId, clusterIdBytes) &&
      `cluster id ${clusterId} is not ${clusterIdBytes} bytes in hex`) ||
    (!isWithin(nodeId, 1, 2 ** 32 - 1) && `node id ${nodeId} is not a whole number from 1`) ||
    (!isWithin(incarnation, 1, Number.MAX_SAFE_INTEGER) && `incarnation ${incarnation}`) ||
    (!isWithin(partitionCount, 1, partitionCountMax) &&
      `${partitionCount} partitions: 1 to ${partitionCountMax} are allowed`) ||
    (!isWithin(replicationFactor, 1, members.length) &&
      `replication factor ${replicationFactor} with ${members.length} nodes`) ||
    (!ids.includes(nodeId) && `node ${nodeId} is not among the members ${ids.join(', ')}`) ||
    (new Set(ids).size !== ids.length && `a node id is given twice: ${ids.join(', ')}`) ||
    badAddress(members);
  if (bad) throw new HansardError('INVALID_SETTINGS', bad);
}

function isWithin(value: number, min: number, max: number): boolean {
  return Number.isSafeInteger(value) && value >= min && value <= max;
}

function badAddress(members: readonly Member[]): string | undefined {
  const addresses = members.flatMap((member) => [member.peerAddress, member.clientAddress]);
  const bad = addresses.find(
    (address) => !/^\S+:\d{1,5}$/.test(address) || Buffer.byteLength(address) > addressBytesMax,
  );
  return bad === undefined ? undefined : `${JSON.stringify(bad)} is not an address like host:port`;
}

async function readIdentity(dir: string): Promise<Identity> {
  const path = join(dir, identityName);
  return decodeIdentity(await readSmall(path), path);
}

async function readSmall(path: string): Promise<Buffer> {
  const { size } = await stat(path);
  if (size > identityBytesMax) {
    throw new HansardError('STORE_DAMAGED', `${path} is damaged: ${size} bytes are too many`, { file: path });
  }
  return readFile(path);
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && !(error instanceof HansardError)
    ? (error as NodeJS.ErrnoException).code
    : undefined;
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
