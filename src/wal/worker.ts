/**
 * The log's worker thread: every file operation of the log, with synchronous
 * calls (10,000 syncs/s where callbacks reach 4,000). One thread means that
 * operations end in the order in which they were asked for. Only `create`
 * works in slices between them.
 */
import { parentPort, workerData } from 'node:worker_threads';
import type { SegmentFile } from './device.js';
import type { Reply, Request, WorkerData } from './disk-device.js';
import { SegmentFiles } from './segment-files.js';
import { DiskWatch } from './watchdog.js';

const { directory, watch } = workerData as WorkerData;
const port = parentPort;
if (port === null) throw new Error('runs as a worker thread');
const busy = new DiskWatch(watch, 0);
const files = new SegmentFiles(directory);

port.on('message', (request: Request) => {
  if (request.op === 'create') {
    createInSlices(request.id, request.segment, request.bytes);
    return;
  }
  const reply = attempt(request.id, () => run(request));
  port.postMessage(reply);
});

/** One bracket of calls that may hang, and what came of it. */
function attempt(id: number, work: () => number | SegmentFile[]): Reply {
  const startMs = performance.now();
  busy.enter();
  try {
    return { id, value: work(), ms: performance.now() - startMs };
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException;
    return { id, error: { message, code }, ms: performance.now() - startMs };
  } finally {
    busy.leave();
  }
}

function run(request: Exclude<Request, { op: 'create' }>): number | SegmentFile[] {
  switch (request.op) {
    case 'write':
      files.write(request.segment, request.offset, request.bytes);
      return 0;
    case 'read':
      return files.read(request.segment, request.offset, request.target);
    case 'rename':
      files.rename(request.segment, request.to);
      return 0;
    case 'remove':
      files.remove(request.segment);
      return 0;
    case 'list':
      return files.list();
    case 'close':
      files.close();
      return 0;
  }
}

function createInSlices(id: number, segment: number, bytes: number): void {
  const steps = files.create(segment, bytes);
  const step = (): void => {
    let done = false;
    const reply = attempt(id, () => {
      done = steps.next().done === true;
      return 0;
    });
    if (done || reply.error !== undefined) port?.postMessage(reply);
    else setImmediate(step);
  };
  step();
}
