/**
 * LevelDB ends the process (SIGABRT) where a damaged table gives a compaction keys that go back, and the next start
 * begins the same compaction. Or it can't read on: then that compaction fails, and every write behind it, in each
 * life. Its own words, in LOG, say so: where the last two processes ended in the midst of compacting, or the last one
 * could not compact for damage, the tables are verified before LevelDB opens them once more.
 */
import { readdir, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { MalformedError } from '../common/bytes.js';
import { HansardError } from '../common/errors.js';
import { readLevelLog, readVersionEdit } from './level-log-file.js';
import { checkTableFile } from './level-table-file.js';
import { withFile } from './piece-reader.js';
import { unlessMissing } from './value-folder.js';

/** Of the end of LOG: between the begin and the end of one compaction it has few lines. */
const wordsBytes = 64 * 1024;

/**
 * Rejects with STORE_DAMAGED, which names the table. Reads nothing but two files where nothing of the kind has happened.
 * It runs before LevelDB has its lock: `refuseInUse` takes and leaves it, and throws where another process has it.
 */
export async function refuseWhatAborts(path: string, refuseInUse: () => Promise<void>): Promise<void> {
  if (!(await lastWordsTellOfDamage(path))) return;
  const live = await liveTables(path);
  const tables = (await readdir(path)).filter((name) => live.has(tableNumber(name)));
  for (const name of tables.sort()) {
    const [damage] =
      (await withFile(join(path, name), ({ size, read }) => checkTableFile(size, read, async () => {}))) ??
      [];
    if (damage === undefined) continue;
    // Whoever is told of damage moves the database aside: not under a process that has it open.
    await refuseInUse();
    const where = `${name} is damaged at byte ${damage.offset}: ${damage.problem}`;
    throw new HansardError(
      'STORE_DAMAGED',
      `the database in ${path}: ${where}; it can not be compacted, and takes no writes or ends the process`,
      { path },
    );
  }
}

/** LOG is the last process's; the one before it had LOG.old. */
async function lastWordsTellOfDamage(path: string): Promise<boolean> {
  const last = await lastCompaction(join(path, 'LOG'));
  if (last !== 'under way') return last === 'damaged';
  // Once alone the process may have been killed.
  return (await lastCompaction(join(path, 'LOG.old'))) === 'under way';
}

/** What became of the last one that the process told of in its LOG. */
async function lastCompaction(path: string): Promise<'ended' | 'under way' | 'damaged' | undefined> {
  const words = await withFile(path, async ({ size, read }) =>
    (await read(Math.max(0, size - wordsBytes), size)).toString('latin1'),
  );
  const begun = words?.lastIndexOf(' Compacting ') ?? -1;
  if (words === undefined || begun < 0) return undefined;
  const behind = words.slice(begun);
  if (damagedText.test(behind)) return 'damaged';
  return / Compacted | compacted to: | Compaction error/.test(behind) ? 'ended' : 'under way';
}

/** A block that it can't decode, or a table that ends too early; any other failure is the disk's. */
const damagedText = / Compaction error: (Corruption|.*\.(ldb|sst): Invalid argument)/;

function tableNumber(name: string): number {
  return Number(/^(\d+)\.(ldb|sst)$/.exec(name)?.[1] ?? -1);
}

/**
 * Those that MANIFEST names: they were synced before. Another one is what a killed process had not finished: LevelDB
 * removes it unread. None where CURRENT or MANIFEST can't be read: LevelDB tells that by itself.
 */
async function liveTables(path: string): Promise<ReadonlySet<number>> {
  const live = new Set<number>();
  try {
    const name = (await readFile(join(path, 'CURRENT'), 'latin1')).trimEnd();
    if (!/^MANIFEST-\d+$/.test(name)) return new Set();
    for (const item of readLevelLog(await readFile(join(path, name)))) {
      if (item.kind === 'damage') return new Set();
      if (item.kind === 'torn') break;
      const { deleted, added } = readVersionEdit(item.data);
      // One that changes its level is in both.
      for (const { file } of deleted) live.delete(file);
      for (const { file } of added) live.add(file);
    }
  } catch (error) {
    if (!(error instanceof MalformedError)) unlessMissing(error);
    return new Set();
  }
  return live;
}

/**
 * LevelDB begins a new LOG before it asks for its lock: the next start has to read the old ones again. By renaming: the
 * disk may be full. One that is missing at once was another process's turn: two more ends tell the same.
 */
export async function keepingWords(path: string, work: () => Promise<void>): Promise<void> {
  const [last, before, kept] = ['LOG', 'LOG.old', 'LOG.kept'].map((name) => join(path, name)) as [
    string,
    string,
    string,
  ];
  await rename(before, kept).catch(unlessMissing);
  try {
    await work();
  } finally {
    await rename(before, last).catch(unlessMissing);
    await rename(kept, before).catch(unlessMissing);
  }
}
