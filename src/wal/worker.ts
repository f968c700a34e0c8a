/**
 * The log's worker thread: every file operation of the log, with synchronous
 * calls (10,000 syncs/s where callbacks reach 4,000). One thread means that
 * operations end in the order in which they were asked for. Only `create`
 * works in slices between them.
 */
import fs from 'node:fs';
import path from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import type { SegmentFile } from './device.js';
import type { Reply, Request, WorkerData } from './disk-device.js';
import { DiskWatch } from './watchdog.js';

/** Zeros written and synced in one go: at most a few ms between two batches. */
const sliceBytes = 512 * 1024;

const { directory, watch } = workerData as WorkerData;
const port = parentPort;
if (port === null) throw new Error('runs as a worker thread');
const busy = new DiskWatch(watch, 0);
const files = new Map<number, number>();
const zeros = new Uint8Array(sliceBytes);
const namePattern = /^log-(\d{16})\.seg$/;

port.on('message', (request: Request) => {
  if (request.op === 'create') {
    createInSlices(request.id, request.segment, request.bytes);
    return;
  }
  finish(request.id, () => run(request));
});

function finish(id: number, work: () => number | SegmentFile[]): void {
  const startMs = performance.now();
  busy.enter();
  let reply: Reply;
  try {
    reply = { id, value: work(), ms: performance.now() - startMs };
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException;
    reply = { id, error: { message, code }, ms: performance.now() - startMs };
  } finally {
    busy.leave();
  }
  port?.postMessage(reply);
}

function run(request: Exclude<Request, { op: 'create' }>): number | SegmentFile[] {
  switch (request.op) {
    case 'write': {
      const fd = open(request.segment);
      writeAll(fd, request.bytes, request.offset);
      fs.fdatasyncSync(fd);
      return 0;
    }
    case 'read':
      return readUpTo(open(request.segment), request.target, request.offset);
    case 'rename':
      forget(request.segment);
      forget(request.to);
      fs.renameSync(pathOf(request.segment), pathOf(request.to));
      syncDirectory();
      return 0;
    case 'remove':
      forget(request.segment);
      fs.unlinkSync(pathOf(request.segment));
      syncDirectory();
      return 0;
    case 'list':
      return list();
    case 'close':
      for (const segment of [...files.keys()]) forget(segment);
      return 0;
  }
}

function createInSlices(id: number, segment: number, bytes: number): void {
  const temporary = `${pathOf(segment)}.new`;
  let fd: number | undefined;
  let at = 0;
  const step = (): void => {
    let done = false;
    const startMs = performance.now();
    busy.enter();
    try {
      fd ??= fs.openSync(temporary, 'w');
      const slice = Math.min(sliceBytes, bytes - at);
      writeAll(fd, zeros.subarray(0, slice), at);
      fs.fdatasyncSync(fd);
      at += slice;
      if (at === bytes) {
        // The length is metadata: fdatasync keeps it, fsync keeps all of it.
        fs.fsyncSync(fd);
        fs.closeSync(fd);
        fd = undefined;
        forget(segment);
        fs.renameSync(temporary, pathOf(segment));
        syncDirectory();
        done = true;
      }
    } catch (error) {
      giveUp(fd, temporary);
      const { message, code } = error as NodeJS.ErrnoException;
      port?.postMessage({ id, error: { message, code }, ms: performance.now() - startMs } satisfies Reply);
      return;
    } finally {
      busy.leave();
    }
    if (done) port?.postMessage({ id, value: 0, ms: performance.now() - startMs } satisfies Reply);
    else setImmediate(step);
  };
  step();
}

function giveUp(fd: number | undefined, temporary: string): void {
  try {
    if (fd !== undefined) fs.closeSync(fd);
    fs.rmSync(temporary, { force: true });
  } catch {
    // The first error is the one that counts; `list` removes what is left.
  }
}

function list(): SegmentFile[] {
  const found: SegmentFile[] = [];
  for (const name of fs.readdirSync(directory)) {
    const match = namePattern.exec(name);
    if (match !== null) {
      found.push({ segment: Number(match[1]), bytes: fs.statSync(path.join(directory, name)).size });
    } else if (name.startsWith('log-') && name.endsWith('.new')) {
      fs.rmSync(path.join(directory, name));
    }
  }
  return found.sort((a, b) => a.segment - b.segment);
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

function open(segment: number): number {
  let fd = files.get(segment);
  if (fd === undefined) {
    fd = fs.openSync(pathOf(segment), 'r+');
    files.set(segment, fd);
  }
  return fd;
}

function forget(segment: number): void {
  const fd = files.get(segment);
  if (fd === undefined) return;
  files.delete(segment);
  fs.closeSync(fd);
}

function pathOf(segment: number): string {
  return path.join(directory, `log-${String(segment).padStart(16, '0')}.seg`);
}

function syncDirectory(): void {
  const fd = fs.openSync(directory, 'r');
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}
