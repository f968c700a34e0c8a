/** What can become of the files of a stopped node: one change of a file or two, drawn from a seed. */
import {
  closeSync,
  cpSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type FoundFile, findFiles } from '../../src/inspect/files.js';
import { readLevelTable } from '../../src/store/level-table-file.js';

export interface Damage {
  readonly how: 'flip' | 'cut' | 'delete' | 'swap' | 'older' | 'empty' | 'pair';
  readonly kind: string;
  /** File, and byte where one was changed. */
  readonly where: string;
}

/** Uniform in [0, n). */
export type Draw = (n: number) => number;

/** xorshift: the same damages for the same seed. */
export function drawFrom(seed: number): Draw {
  let state = (seed * 2_654_435_761) >>> 0 || 1;
  return (n) => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % n;
  };
}

/** Files that a node reads when it starts. */
async function filesOf(dir: string): Promise<FoundFile[]> {
  const all = await findFiles(dir);
  return all.filter(
    ({ path, kind, bytes }) =>
      // What was moved aside nobody reads any more.
      bytes > 0 && kind !== 'notes' && !path.endsWith('.new') && !path.includes('.damaged-'),
  );
}

function pick<T>(list: readonly T[], draw: Draw): T {
  return list[draw(list.length)] as T;
}

/** A kind first, so that the many segments don't take all. */
function pickFile(files: readonly FoundFile[], draw: Draw): FoundFile {
  const kind = pick([...new Set(files.map((file) => file.kind))], draw);
  return pick(
    files.filter((file) => file.kind === kind),
    draw,
  );
}

/** Of a segment the part that was ever written, most of the time. */
function pickByte({ path, kind, bytes }: FoundFile, draw: Draw): number {
  if (kind !== 'segment' || draw(10) === 0) return draw(bytes);
  const content = readFileSync(path);
  let used = content.length;
  while (used > 0 && content[used - 1] === 0) used--;
  return draw(Math.max(used, 1));
}

/** In the midst of a table of LevelDB's a key sorts behind all that follow: on that a compaction ends the process. */
export function disorderTable(path: string): void {
  const bytes = readFileSync(path);
  const blocks = [...readLevelTable(bytes)].filter((item) => item.kind === 'block');
  const block = blocks[blocks.length >> 1];
  if (block === undefined) throw new Error(`${path} has no rows`);
  // Behind the rows: where each sixteenth begins, how many those are, five bytes of LevelDB's.
  const countAt = block.end - 5 - 4;
  const count = bytes.readUInt32LE(countAt);
  const row = block.offset + bytes.readUInt32LE(countAt - 4 * (count - (count >> 1)));
  // No bytes of the key before are shared here.
  let at = row + 1;
  for (let numbers = 0; numbers < 2; numbers++) while ((bytes[at++] as number) >= 0x80);
  bytes[at] = 0xfe;
  writeFileSync(path, bytes);
}

/** LevelDB can't decode a block in the midst of the table. */
export function spoilTable(path: string): void {
  const blocks = [...readLevelTable(readFileSync(path))].filter((item) => item.kind === 'block');
  const block = blocks[blocks.length >> 1];
  if (block === undefined) throw new Error(`${path} has no rows`);
  // What kind of block it is.
  flipByte(path, block.end - 5, 0x10);
}

export function flipByte(path: string, at: number, mask: number): void {
  const file = openSync(path, 'r+');
  const byte = Buffer.alloc(1);
  readSync(file, byte, 0, 1, at);
  byte[0] = (byte[0] as number) ^ mask;
  writeSync(file, byte, 0, 1, at);
  closeSync(file);
}

/**
 * Damages `dir`, of which `older` is an earlier copy. Undefined: what was drawn can't be done here.
 * Flips are most of it.
 */
export async function damage(
  dir: string,
  older: string | undefined,
  draw: Draw,
): Promise<Damage | undefined> {
  const files = await filesOf(dir);
  const file = pickFile(files, draw);
  const { path, bytes } = file;
  const kind = basename(path) === 'FAULTS' ? 'faults' : file.kind;
  const name = `${basename(dirname(path))}/${basename(path)}`;
  const kindCall = draw(20);
  if (kindCall < 13) {
    const at = pickByte(file, draw);
    flipByte(path, at, 1 << draw(8));
    return { how: 'flip', kind, where: `${name} byte ${at}` };
  }
  if (kindCall < 15) {
    const at = draw(bytes);
    truncateSync(path, at);
    return { how: 'cut', kind, where: `${name} to ${at} of ${bytes} bytes` };
  }
  if (kindCall < 17) {
    rmSync(path);
    return { how: 'delete', kind, where: name };
  }
  if (kindCall === 17) {
    const others = files.filter((other) => other.kind === file.kind && other.path !== path);
    if (others.length === 0) return undefined;
    const other = pick(others, draw);
    renameSync(path, `${path}.swap`);
    renameSync(other.path, path);
    renameSync(`${path}.swap`, other.path);
    return { how: 'swap', kind, where: `${name} with ${basename(other.path)}` };
  }
  if (kindCall === 18) {
    if (older === undefined) return undefined;
    const part = pick(['log', 'db'], draw);
    rmSync(join(dir, part), { recursive: true });
    cpSync(join(older, part), join(dir, part), { recursive: true });
    return { how: 'older', kind: `folder ${part}`, where: `${part} of an earlier time` };
  }
  const part = pick(['log', 'db'], draw);
  for (const each of readdirSync(join(dir, part))) rmSync(join(dir, part, each), { recursive: true });
  return { how: 'empty', kind: `folder ${part}`, where: `all files of ${part}` };
}

/** Those that chance would take long to find, by name. */
export const namedDamages: Readonly<Record<string, (dir: string) => Damage | undefined>> = {
  'CURRENT missing': (dir) => {
    rmSync(join(dir, 'db', 'CURRENT'));
    return { how: 'delete', kind: 'current', where: 'db/CURRENT' };
  },
  'newest log of LevelDB missing': (dir) => {
    const logs = readdirSync(join(dir, 'db'))
      .filter((name) => /^\d+\.log$/.test(name))
      .sort();
    const newest = logs.at(-1);
    if (newest === undefined) return undefined;
    rmSync(join(dir, 'db', newest));
    return { how: 'delete', kind: 'level-log', where: `db/${newest}` };
  },
  'newest table missing': (dir) => {
    const newest = readdirSync(join(dir, 'db'))
      .filter((name) => /^\d+\.ldb$/.test(name))
      .sort()
      .at(-1);
    if (newest === undefined) return undefined;
    rmSync(join(dir, 'db', newest));
    return { how: 'delete', kind: 'table', where: `db/${newest}` };
  },
  'a table cut short': (dir) => {
    const newest = readdirSync(join(dir, 'db'))
      .filter((name) => /^\d+\.ldb$/.test(name))
      .sort()
      .at(-1);
    if (newest === undefined) return undefined;
    const path = join(dir, 'db', newest);
    const { size } = statSync(path);
    truncateSync(path, Math.floor(size / 3));
    return { how: 'cut', kind: 'table', where: `db/${newest} to a third` };
  },
  'a flip in the middle of LevelDB’s log': (dir) => {
    const log = readdirSync(join(dir, 'db'))
      .filter((name) => /^\d+\.log$/.test(name))
      .sort()
      .at(-1);
    if (log === undefined) return undefined;
    const path = join(dir, 'db', log);
    const { size } = statSync(path);
    if (size < 100) return undefined;
    flipByte(path, Math.floor(size / 2), 0x10);
    return { how: 'flip', kind: 'level-log', where: `db/${log} byte ${Math.floor(size / 2)}` };
  },
  'IDENTITY missing': (dir) => {
    rmSync(join(dir, 'IDENTITY'));
    return { how: 'delete', kind: 'identity', where: 'IDENTITY' };
  },
};
