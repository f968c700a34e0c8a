/** Which files there are in a folder of a node, what each one is, and what is in it. */
import { open, readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { HansardError } from '../common/errors.js';
import { decodeIdentity, identityBytesMax } from '../node/identity-file.js';
import { plain } from '../store/describe-row.js';
import { numberOfValueFile } from '../store/value-format.js';
import { damage, type InspectOptions, type Item } from './item.js';
import { inspectLevelLog, inspectManifest, inspectTable, inspectValues } from './level.js';
import { inspectSegment } from './segment.js';

export type FileKind =
  | 'segment'
  | 'identity'
  | 'table'
  | 'values'
  | 'level-log'
  | 'manifest'
  | 'current'
  | 'notes'
  | 'unknown';

export interface FoundFile {
  readonly path: string;
  readonly kind: FileKind;
  readonly bytes: number;
}

/** Files of each part of a folder: log first, then the database. */
export const logKinds: ReadonlySet<FileKind> = new Set(['segment']);
export const databaseKinds: ReadonlySet<FileKind> = new Set([
  'table',
  'values',
  'level-log',
  'manifest',
  'current',
]);

const segmentName = /^log-(\d{16})\.seg(\.new)?$/;
const magics: readonly (readonly [string, FileKind])[] = [
  ['HANSARDL', 'segment'],
  ['HANSARD\n', 'identity'],
  ['HANSARDV', 'values'],
];

/** A file as it is, a folder as the files in it and below it, by name. Throws INVALID_SETTINGS where there is none. */
export async function findFiles(path: string): Promise<FoundFile[]> {
  let info: Awaited<ReturnType<typeof stat>>;
  try {
    info = await stat(path);
  } catch (error) {
    throw new HansardError('INVALID_SETTINGS', `${path} can not be read: ${textOf(error)}`, { file: path });
  }
  if (!info.isDirectory()) return [{ path, kind: await kindOf(path), bytes: info.size }];
  const found: FoundFile[] = [];
  for (const name of (await readdir(path)).sort()) found.push(...(await findFiles(join(path, name))));
  return found;
}

/** By its first bytes where these are ours, else by its name: damage may have taken either. */
async function kindOf(path: string): Promise<FileKind> {
  const byName = kindOfName(basename(path));
  if (byName !== 'unknown') return byName;
  const start = (await readSome(path)).toString('latin1');
  return magics.find(([magic]) => start.startsWith(magic))?.[1] ?? 'unknown';
}

function kindOfName(name: string): FileKind {
  if (segmentName.test(name)) return 'segment';
  if (name === 'IDENTITY' || name === 'IDENTITY.new') return 'identity';
  if (/^\d+\.(ldb|sst)$/.test(name)) return 'table';
  if (numberOfValueFile(name) !== undefined) return 'values';
  if (/^\d+\.log$/.test(name)) return 'level-log';
  if (/^MANIFEST-\d+$/.test(name)) return 'manifest';
  if (name === 'CURRENT') return 'current';
  // LevelDB's diary and its lock.
  if (name === 'LOG' || name === 'LOG.old' || name === 'LOG.kept' || name === 'LOCK') return 'notes';
  return 'unknown';
}

/** `undefined`: a file that is not looked into. */
export async function inspectFile(
  { path, kind }: FoundFile,
  options: InspectOptions,
): Promise<Iterable<Item> | undefined> {
  if (kind === 'notes' || kind === 'unknown') return undefined;
  const bytes = await readFile(path);
  switch (kind) {
    case 'segment':
      return inspectSegment(bytes, segmentOf(path, bytes), options);
    case 'identity':
      return [identityItem(path, bytes)];
    case 'table':
      return inspectTable(bytes, options);
    case 'values':
      return inspectValues(bytes, options);
    case 'level-log':
      return inspectLevelLog(bytes, options);
    case 'manifest':
      return inspectManifest(bytes);
    case 'current':
      return [currentItem(bytes)];
  }
}

/** A copy under another name is read by what its header says. */
function segmentOf(path: string, bytes: Buffer): number {
  const match = segmentName.exec(basename(path));
  if (match?.[1] !== undefined) return Number(match[1]);
  return bytes.length >= 24 ? Number(bytes.readBigUInt64LE(16)) : 0;
}

function identityItem(path: string, bytes: Buffer): Item {
  try {
    if (bytes.length > identityBytesMax) return damage(0, bytes.length, `${bytes.length} bytes are too many`);
    return { what: 'identity', offset: 0, end: bytes.length, fields: plain(decodeIdentity(bytes, path)) };
  } catch (error) {
    if (error instanceof HansardError) return damage(0, bytes.length, error.message);
    throw error;
  }
}

function currentItem(bytes: Buffer): Item {
  const text = bytes.subarray(0, 256).toString('utf8');
  if (!/^MANIFEST-\d+\n$/.test(text)) return damage(0, bytes.length, 'it does not name a MANIFEST');
  return { what: 'current', offset: 0, end: bytes.length, fields: { manifest: text.trimEnd() } };
}

async function readSome(path: string): Promise<Buffer> {
  const file = await open(path, 'r');
  try {
    const bytes = Buffer.alloc(16);
    const { bytesRead } = await file.read(bytes, 0, bytes.length, 0);
    return bytes.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
