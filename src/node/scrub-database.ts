/** Verifies LevelDB's files, which LevelDB itself does not: what it holds in its caches hides what the disk has lost. */
import type { PartitionId } from '../common/ids.js';
import { checkLogFile } from '../store/level-log-file.js';
import { checkTableFile, type TableDamage } from '../store/level-table-file.js';
import type { Pace } from '../store/pace.js';
import type { ScrubFiles } from './scrub-files.js';

export interface DatabaseDamage {
  readonly file: string;
  readonly offset: number;
  readonly problem: string;
  /** Whose rows are lost; undefined: anybody's; empty: nobody's as long as the process lives. */
  readonly partitions: readonly PartitionId[] | undefined;
  /** Rows that belong to no partition may be among them: memory has these. */
  readonly records: boolean;
}

export async function scrubDatabase(
  files: ScrubFiles,
  pace: Pace,
  found: (damage: DatabaseDamage) => void,
): Promise<void> {
  for (const file of await files.databaseFiles()) {
    const take = (bytes: number): Promise<void> => pace.take(bytes);
    if (/^\d+\.(ldb|sst)$/.test(file)) {
      const damages = await files.databaseFile(file, ({ size, read }) => checkTableFile(size, read, take));
      for (const damage of damages ?? []) {
        // A table that nobody uses any more may be on its way out.
        if ((await files.databaseFile(file, async () => true)) !== true) break;
        found({ file, ...damage, partitions: partitionsOf(damage), records: hasRecords(damage) });
      }
    } else if (/^(\d+\.log|MANIFEST-\d+)$/.test(file)) {
      // What it says LevelDB has in memory: it is missed at the next start, which finds out.
      const damage = await files.databaseFile(file, ({ size, read }) => checkLogFile(size, read, take));
      if (damage !== undefined) found({ file, ...damage, partitions: [], records: false });
    } else if (file === 'CURRENT') {
      const named = await files.databaseFile(file, async ({ size, read }) =>
        (await read(0, size)).toString(),
      );
      if (named !== undefined && !/^MANIFEST-\d+\n$/.test(named)) {
        const problem = 'it does not name a MANIFEST';
        found({ file, offset: 0, problem, partitions: [], records: false });
      }
    }
  }
}

/** Kinds of rows whose keys have a partition behind the kind. */
const firstKindOfPartitions = 0x10;

/** All other rows sort behind them. */
function hasRecords({ rows }: TableDamage): boolean {
  const { after } = rows ?? {};
  return after === undefined || (after[0] ?? 0) < firstKindOfPartitions;
}

/** Keys sort by kind, then partition: between two of one kind lie only the partitions between theirs. */
function partitionsOf({ rows }: TableDamage): readonly PartitionId[] | undefined {
  const { after, upTo } = rows ?? {};
  if (upTo?.[0] !== undefined && upTo[0] < firstKindOfPartitions) return [];
  if (after === undefined || upTo === undefined || after.length < 3 || upTo.length < 3) return undefined;
  if (after[0] !== upTo[0] || (upTo[0] as number) < firstKindOfPartitions) return undefined;
  const [first, last] = [after.readUInt16BE(1), upTo.readUInt16BE(1)];
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}
