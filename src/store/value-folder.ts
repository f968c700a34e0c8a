/** The folder in which value files lie: what of a disk they need. Real files here; test/sim has a simulated one. */
import { closeSync, open as openFile, openSync, read, readSync } from 'node:fs';
import { open, readdir, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { HansardError } from '../common/errors.js';
import { numberOfValueFile, valueFileName } from './value-format.js';

export interface ValueFolder {
  /** Numbers of the files that are there. */
  list(): Promise<number[]>;
  bytesOf(file: number): Promise<number>;
  /** Goes on with one that is there. */
  goOn(file: number): Promise<WritableValues>;
  /** Makes one that is not there. Behind `syncNames` it is still there after a loss of power. */
  create(file: number): Promise<WritableValues>;
  syncNames(): Promise<void>;
  /** Nothing where it is gone already. */
  remove(file: number): Promise<void>;
  /** Undefined: it is not there. */
  read(file: number): Promise<ReadableValues | undefined>;
  /** Blocks the loop. Fewer bytes only at the file's end; none where it is not there. */
  readNow(file: number, target: Buffer, at: number): number;
}

/** None of its failures may be followed by another try. */
export interface WritableValues {
  write(bytes: Buffer, at: number): Promise<void>;
  /** What was written is durable when it resolves. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

export interface ReadableValues {
  /** Fewer bytes only at the file's end. No promise where the loop has read them by itself. */
  read(target: Buffer, at: number): number | Promise<number>;
  close(): void;
}

/**
 * What the page cache holds the loop reads by itself in 5 µs; asking a thread takes 40 of its time. Where a read came
 * from the disk, longer than this, so many of the next ones are left to threads.
 */
const quickReadMs = 0.2;
const quickReadBytesMax = 64 * 1024;
const readsBesideAfterSlow = 64;

export function realValueFolder(path: string): ValueFolder {
  const pathOf = (file: number): string => join(path, valueFileName(file));
  /** Reads that threads make before the loop tries one again. */
  let readsBeside = 0;
  const readable = (fd: number): ReadableValues => ({
    read(target, at) {
      if (target.length > quickReadBytesMax) return readBeside(fd, target, at);
      if (readsBeside > 0) {
        readsBeside--;
        return readBeside(fd, target, at);
      }
      const began = performance.now();
      const count = readSync(fd, target, 0, target.length, at);
      if (performance.now() - began > quickReadMs) readsBeside = readsBesideAfterSlow;
      return count;
    },
    close: () => closeSync(fd),
  });
  return {
    async list() {
      return (await readdir(path)).map(numberOfValueFile).filter((file) => file !== undefined);
    },
    bytesOf: async (file) => (await stat(pathOf(file))).size,
    goOn: (file) => writable(pathOf(file), 'r+'),
    create: (file) => writable(pathOf(file), 'wx+'),
    syncNames: () => told(path, syncDirectory(path)),
    remove: (file) => told(pathOf(file), unlink(pathOf(file)).catch(unlessMissing)),
    async read(file) {
      const fd = await opened(pathOf(file));
      return fd === undefined ? undefined : readable(fd);
    },
    readNow(file, target, at) {
      let fd: number;
      try {
        fd = openSync(pathOf(file), 'r');
      } catch (error) {
        unlessMissing(error);
        return 0;
      }
      try {
        return readSync(fd, target, 0, target.length, at);
      } finally {
        closeSync(fd);
      }
    },
  };
}

async function writable(path: string, flags: string): Promise<WritableValues> {
  const handle = await told(path, open(path, flags));
  return {
    async write(bytes, at) {
      for (let done = 0; done < bytes.length; )
        done += (await told(path, handle.write(bytes, done, bytes.length - done, at + done))).bytesWritten;
    },
    sync: () => told(path, handle.datasync()),
    close: () => told(path, handle.close()),
  };
}

/** Errors of a handle do not name its file. */
async function told<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    throw new HansardError(
      'DISK_FAILED',
      `a write to the database failed: ${path}: ${problem}`,
      { path },
      { cause: error },
    );
  }
}

/** By number: a FileHandle's promises cost more than the read. */
function readBeside(fd: number, target: Buffer, at: number): Promise<number> {
  return new Promise((resolve, reject) => {
    read(fd, target, 0, target.length, at, (error, count) => {
      if (error !== null) reject(error);
      else resolve(count);
    });
  });
}

/** Undefined: it is not there. */
function opened(path: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    openFile(path, 'r', (error, fd) => {
      if (error === null) resolve(fd);
      else if (isErrorOf(error, 'ENOENT')) resolve(undefined);
      else reject(error);
    });
  });
}

export function unlessMissing(error: unknown): void {
  if (!isErrorOf(error, 'ENOENT')) throw error;
}

export function isErrorOf(error: unknown, code: string): boolean {
  return (error as NodeJS.ErrnoException).code === code;
}

export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
