/** The files of a node's folder, read beside the parts that have them open. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type PieceReader, withFile } from '../store/piece-reader.js';
import { decodeIdentity, identityBytesMax } from './identity-file.js';

/** What a scrubber may read of a folder; a simulated node has none. */
export interface ScrubFiles {
  /** Undefined: there is none of that number (any more). */
  segment<T>(segment: number, work: (file: PieceReader) => Promise<T>): Promise<T | undefined>;
  /** Of LevelDB: tables, logs, MANIFEST, CURRENT. */
  databaseFiles(): Promise<string[]>;
  databaseFile<T>(name: string, work: (file: PieceReader) => Promise<T>): Promise<T | undefined>;
  /** Throws STORE_DAMAGED where IDENTITY is not what it was. */
  checkIdentity(): Promise<void>;
}

export function scrubFilesOf({
  dir,
  logPath,
  dbPath,
}: {
  readonly dir: string;
  readonly logPath: string;
  readonly dbPath: string;
}): ScrubFiles {
  return {
    segment: (segment, work) => withFile(join(logPath, `log-${String(segment).padStart(16, '0')}.seg`), work),
    databaseFiles: async () => (await readdir(dbPath)).sort(),
    databaseFile: (name, work) => withFile(join(dbPath, name), work),
    checkIdentity: async () => {
      const path = join(dir, 'IDENTITY');
      const bytes = await withFile(path, (file) => file.read(0, Math.min(file.size, identityBytesMax)));
      decodeIdentity(bytes ?? Buffer.alloc(0), path);
    },
  };
}
