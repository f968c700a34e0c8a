/** The files of a node's folder, read beside the parts that have them open. */
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { decodeIdentity, identityBytesMax } from './identity-file.js';

/** A file, piece by piece. */
export interface PieceReader {
  readonly size: number;
  /** Fewer bytes only at the file's end. */
  read(from: number, to: number): Promise<Buffer>;
}

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

/** Files go while they are looked for: that is no damage by itself. */
async function withFile<T>(path: string, work: (file: PieceReader) => Promise<T>): Promise<T | undefined> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    const { size } = await file.stat();
    return await work({
      size,
      async read(from, to) {
        const bytes = Buffer.allocUnsafe(Math.max(0, to - from));
        const { bytesRead } = await file.read(bytes, 0, bytes.length, from);
        return bytes.subarray(0, bytesRead);
      },
    });
  } finally {
    await file.close();
  }
}
