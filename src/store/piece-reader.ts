/** Files of a folder that another process may have open, read beside it. */
import { type FileHandle, open } from 'node:fs/promises';

/** A file, piece by piece. */
export interface PieceReader {
  readonly size: number;
  /** Fewer bytes only at the file's end. */
  read(from: number, to: number): Promise<Buffer>;
}

/**
 * Undefined: there is no such file (any more). Whoever has the folder open gives segments up and
 * removes tables while they are looked for: that is no damage by itself.
 */
export async function withFile<T>(
  path: string,
  work: (file: PieceReader) => Promise<T>,
): Promise<T | undefined> {
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
