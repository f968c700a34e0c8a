/**
 * Every file operation of the log, as synchronous calls on one folder. The
 * log's worker thread runs them one after another; the main thread has its own for
 * small writes (disk-device.ts), a test runs them where it likes. What fails throws what the system said, with the call and the path.
 */
import fs from 'node:fs';
import path from 'node:path';
import type { SegmentFile } from './device.js';

/** Zeros written and synced in one go: at most a few ms between two batches. */
const sliceBytes = 512 * 1024;
const zeros = new Uint8Array(sliceBytes);
const namePattern = /^log-(\d{16})\.seg$/;

export class SegmentFiles {
  readonly #directory: string;
  readonly #open = new Map<number, number>();
  #isBroken = false;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** All of `bytes`, synced. */
  write(segment: number, offset: number, bytes: Uint8Array): void {
    this.#change(() => {
      const fd = this.#file(segment);
      try {
        writeAll(fd, bytes, offset);
        fs.fdatasyncSync(fd);
      } catch (error) {
        throw named(this.#pathOf(segment), error);
      }
    });
  }

  read(segment: number, offset: number, target: Uint8Array): number {
    const fd = this.#file(segment);
    return naming(this.#pathOf(segment), () => readUpTo(fd, target, offset));
  }

  /** Another owner of this folder renames or removes it: the name will mean another file. */
  forget(segment: number): void {
    this.#forget(segment);
  }

  rename(from: number, to: number): void {
    this.#change(() => {
      this.#forget(from);
      this.#forget(to);
      fs.renameSync(this.#pathOf(from), this.#pathOf(to));
      this.#syncDirectory();
    });
  }

  remove(segment: number): void {
    this.#change(() => {
      this.#forget(segment);
      fs.unlinkSync(this.#pathOf(segment));
      this.#syncDirectory();
    });
  }

  /** A change has failed. */
  get isBroken(): boolean {
    return this.#isBroken;
  }

  /** What another owner of this folder has met: nothing is changed any more. */
  breakOff(): void {
    this.#isBroken = true;
  }

  #change(work: () => void): void {
    if (this.#isBroken) throw untried();
    try {
      work();
    } catch (error) {
      this.#isBroken = true;
      throw error;
    }
  }

  /** Segment files by ascending number; what a creation left half done is removed. */
  list(): SegmentFile[] {
    const found: SegmentFile[] = [];
    for (const name of fs.readdirSync(this.#directory)) {
      const match = namePattern.exec(name);
      if (match !== null) {
        found.push({
          segment: Number(match[1]),
          bytes: fs.statSync(path.join(this.#directory, name)).size,
        });
      } else if (name.startsWith('log-') && name.endsWith('.new')) {
        fs.rmSync(path.join(this.#directory, name));
      }
    }
    return found.sort((a, b) => a.segment - b.segment);
  }

  /** Makes a file of zeros, a slice with each step; a step that throws leaves nothing behind, as far as that goes. */
  *create(segment: number, bytes: number): Generator<void, void> {
    const temporary = `${this.#pathOf(segment)}.new`;
    let fd: number | undefined;
    try {
      fd = fs.openSync(temporary, 'w');
      for (let at = 0; at < bytes; at += sliceBytes) {
        const file = fd;
        naming(temporary, () => {
          writeAll(file, zeros.subarray(0, Math.min(sliceBytes, bytes - at)), at);
          fs.fdatasyncSync(file);
        });
        yield;
      }
      // The length is metadata: fdatasync keeps it, fsync keeps all of it.
      const file = fd;
      naming(temporary, () => fs.fsyncSync(file));
      fd = undefined;
      fs.closeSync(file);
      this.#forget(segment);
      fs.renameSync(temporary, this.#pathOf(segment));
      this.#syncDirectory();
    } catch (error) {
      giveUp(fd, temporary);
      throw error;
    }
  }

  close(): void {
    for (const segment of [...this.#open.keys()]) this.#forget(segment);
  }

  #file(segment: number): number {
    let fd = this.#open.get(segment);
    if (fd === undefined) {
      fd = fs.openSync(this.#pathOf(segment), 'r+');
      this.#open.set(segment, fd);
    }
    return fd;
  }

  #forget(segment: number): void {
    const fd = this.#open.get(segment);
    if (fd === undefined) return;
    this.#open.delete(segment);
    fs.closeSync(fd);
  }

  #pathOf(segment: number): string {
    return path.join(this.#directory, `log-${String(segment).padStart(16, '0')}.seg`);
  }

  #syncDirectory(): void {
    const fd = fs.openSync(this.#directory, 'r');
    try {
      naming(this.#directory, () => fs.fsyncSync(fd));
    } finally {
      fs.closeSync(fd);
    }
  }
}

/** Why a change behind a failed one is not made. */
export function untried(): NodeJS.ErrnoException {
  return Object.assign(new Error('not tried: a change of the log before it has failed'), {
    code: 'ECANCELED',
  });
}

/** Calls on a descriptor fail without saying on which file. */
function naming<T>(file: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw named(file, error);
  }
}

function named(file: string, error: unknown): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (code === undefined || !(error instanceof Error)) return error;
  if (!error.message.includes(file)) error.message = `${error.message} '${file}'`;
  return Object.assign(error, { syscall, path: file });
}

function giveUp(fd: number | undefined, temporary: string): void {
  try {
    if (fd !== undefined) fs.closeSync(fd);
    fs.rmSync(temporary, { force: true });
  } catch {
    // The first error is the one that counts; `list` removes what is left.
  }
}

/** write() may take less than it was given: at a signal, or when the disk fills up. */
function writeAll(fd: number, bytes: Uint8Array, offset: number): void {
  let at = 0;
  while (at < bytes.length) {
    const written = fs.writeSync(fd, bytes, at, bytes.length - at, offset + at);
    if (written === 0) throw new Error(`write of ${bytes.length - at} bytes wrote nothing`);
    at += written;
  }
}

function readUpTo(fd: number, target: Uint8Array, offset: number): number {
  let at = 0;
  while (at < target.length) {
    const got = fs.readSync(fd, target, at, target.length - at, offset + at);
    if (got === 0) break;
    at += got;
  }
  return at;
}
