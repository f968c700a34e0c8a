/**
 * LevelDB ends the process (SIGABRT) where a damaged table gives a compaction keys that go back, and the next start
 * begins the same compaction. Its own words, in LOG, say what it was doing: where the last two processes
 * ended in the midst of compacting, the tables are verified before it opens them once more.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { HansardError } from '../common/errors.js';
import { checkTableFile } from './level-table-file.js';
import { withFile } from './piece-reader.js';

/** Of the end of LOG: between the begin and the end of one compaction it has few lines. */
const wordsBytes = 64 * 1024;

/** Rejects with STORE_DAMAGED, which names the table. Reads nothing but two files where nothing of the kind has happened. */
export async function refuseWhatAborts(path: string): Promise<void> {
  // LOG is the last process's; the one before it had LOG.old.
  for (const name of ['LOG', 'LOG.old']) if (!(await endsCompacting(join(path, name)))) return;
  const tables = (await readdir(path)).filter((name) => /^\d+\.(ldb|sst)$/.test(name));
  for (const name of tables.sort()) {
    const [damage] =
      (await withFile(join(path, name), ({ size, read }) => checkTableFile(size, read, async () => {}))) ??
      [];
    if (damage === undefined) continue;
    const where = `${name} is damaged at byte ${damage.offset}: ${damage.problem}`;
    throw new HansardError(
      'STORE_DAMAGED',
      `the database in ${path}: ${where}; two processes in a row ended while it was compacted`,
      { path },
    );
  }
}

async function endsCompacting(path: string): Promise<boolean> {
  const words = await withFile(path, async ({ size, read }) =>
    (await read(Math.max(0, size - wordsBytes), size)).toString('latin1'),
  );
  if (words === undefined) return false;
  const begun = words.lastIndexOf(' Compacting ');
  return begun >= 0 && !/ Compacted | compacted to: | Compaction error/.test(words.slice(begun));
}
