/**
 * The real disk: hands operations to worker.ts. A round trip costs about 50 µs beside
 * the disk's own time, several times that where the cores sleep in between; small writes
 * to a quick disk are made here instead, as long as the worker has nothing to do.
 */
import { Worker } from 'node:worker_threads';
import { HansardError } from '../common/errors.js';
import type { LogDevice, SegmentFile, WritesHere } from './device.js';
import { QuickDisk, type QuickDiskLimits } from './quick-disk.js';
import { SegmentFiles, untried } from './segment-files.js';
import { DiskWatch } from './watchdog.js';

export interface WorkerData {
  readonly directory: string;
  readonly watch: SharedArrayBuffer;
}

export type Request = { readonly id: number } & (
  | { readonly op: 'create'; readonly segment: number; readonly bytes: number }
  | { readonly op: 'write'; readonly segment: number; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly op: 'read'; readonly segment: number; readonly offset: number; readonly target: Uint8Array }
  | { readonly op: 'rename'; readonly segment: number; readonly to: number }
  | { readonly op: 'remove'; readonly segment: number }
  | { readonly op: 'list' }
  | { readonly op: 'close' }
);

export interface Reply {
  readonly id: number;
  readonly value?: number | SegmentFile[];
  readonly error?: { readonly message: string; readonly code: string | undefined };
  readonly ms: number;
}

interface Waiting {
  resolve(reply: Reply): void;
  reject(error: Error): void;
  readonly changes: boolean;
}

/** After one of these has failed none of them is tried. */
const changing: ReadonlySet<string> = new Set(['write', 'rename', 'remove']);

export interface DiskDeviceOptions {
  /** The log's folder; must exist. */
  readonly directory: string;
  /** Two slots of a DiskWatch, where a watchdog looks at this disk: the worker's and the caller's. */
  readonly watch?: SharedArrayBuffer | undefined;
  /** When small writes are made by the caller's thread. */
  readonly quick?: QuickDiskLimits | undefined;
}

/** Starts the worker thread. Whoever opens the device closes it (the log does). */
export function openDiskDevice(options: DiskDeviceOptions): LogDevice {
  return new DiskDevice(options);
}

class DiskDevice implements LogDevice {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  /** For writes that are made here. */
  readonly #files: SegmentFiles;
  readonly #busy: DiskWatch;
  readonly #quick: QuickDisk;
  readonly here: WritesHere = {
    suits: (bytes) => this.#isIdle && this.#quick.suits(bytes),
    write: (segment, offset, bytes) => {
      const ms = this.#writeHere(segment, offset, bytes);
      this.#quick.took(bytes.length, ms);
      return ms;
    },
  };
  #nextId = 1;
  #ended: Error | undefined;

  constructor(options: DiskDeviceOptions) {
    const { directory, watch = new SharedArrayBuffer(8) } = options;
    const workerData: WorkerData = { directory, watch };
    this.#files = new SegmentFiles(directory);
    this.#busy = new DiskWatch(watch, 1);
    this.#quick = new QuickDisk(options.quick);
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), { workerData });
    this.#worker.on('message', (reply: Reply) => this.#settle(reply));
    this.#worker.on('error', (error) => this.#end(error));
    this.#worker.on('exit', () => this.#end(new Error('the log worker has ended')));
  }

  async list(): Promise<SegmentFile[]> {
    return (await this.#ask({ id: this.#nextId++, op: 'list' })).value as SegmentFile[];
  }
  async create(segment: number, bytes: number): Promise<void> {
    await this.#ask({ id: this.#nextId++, op: 'create', segment, bytes });
  }
  async rename(from: number, to: number): Promise<void> {
    this.#files.forget(from);
    this.#files.forget(to);
    await this.#ask({ id: this.#nextId++, op: 'rename', segment: from, to });
  }
  async remove(segment: number): Promise<void> {
    this.#files.forget(segment);
    await this.#ask({ id: this.#nextId++, op: 'remove', segment });
  }
  async read(segment: number, offset: number, target: Uint8Array): Promise<number> {
    if (target.buffer instanceof SharedArrayBuffer) {
      return (await this.#ask({ id: this.#nextId++, op: 'read', segment, offset, target })).value as number;
    }
    const shared = this.allocate(target.length);
    const got = (await this.#ask({ id: this.#nextId++, op: 'read', segment, offset, target: shared }))
      .value as number;
    target.set(shared.subarray(0, got));
    return got;
  }
  async write(segment: number, offset: number, bytes: Uint8Array): Promise<number> {
    const ms = await this.#write(segment, offset, bytes);
    this.#quick.took(bytes.length, ms);
    return ms;
  }

  async #write(segment: number, offset: number, bytes: Uint8Array): Promise<number> {
    if (this.here.suits(bytes.length)) {
      // What is on its way to peers and clients leaves before: their disks and this one work at the same time.
      await new Promise((resolve) => setImmediate(resolve));
      // Never past what the worker was given meanwhile: operations end in the order in which they were asked for.
      if (this.#isIdle) return this.#writeHere(segment, offset, bytes);
    }
    // A plain buffer would be copied with all that it is a part of: copy the part alone.
    const own = bytes.buffer instanceof SharedArrayBuffer ? bytes : Uint8Array.from(bytes);
    return (await this.#ask({ id: this.#nextId++, op: 'write', segment, offset, bytes: own })).ms;
  }

  get #isIdle(): boolean {
    return this.#waiting.size === 0 && this.#ended === undefined;
  }

  #writeHere(segment: number, offset: number, bytes: Uint8Array): number {
    const startMs = performance.now();
    this.#busy.enter();
    try {
      this.#files.write(segment, offset, bytes);
    } catch (error) {
      const { message, code } = error as NodeJS.ErrnoException;
      throw diskFailed(message, code);
    } finally {
      this.#busy.leave();
    }
    return performance.now() - startMs;
  }

  allocate(bytes: number): Buffer {
    return Buffer.from(new SharedArrayBuffer(bytes));
  }
  async close(): Promise<void> {
    this.#files.close();
    if (this.#ended === undefined) await this.#ask({ id: this.#nextId++, op: 'close' });
    await this.#worker.terminate();
  }

  #ask(request: Request): Promise<Reply> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    const changes = changing.has(request.op);
    // Of a write of our own that failed the worker knows nothing.
    if (changes && this.#files.isBroken) {
      const { message, code } = untried();
      return Promise.reject(diskFailed(message, code));
    }
    return new Promise((resolve, reject) => {
      this.#waiting.set(request.id, { resolve, reject, changes });
      this.#worker.postMessage(request);
    });
  }

  #settle(reply: Reply): void {
    const waiting = this.#waiting.get(reply.id);
    if (waiting === undefined) return;
    this.#waiting.delete(reply.id);
    if (reply.error === undefined) waiting.resolve(reply);
    else {
      if (waiting.changes) this.#files.breakOff();
      waiting.reject(diskFailed(reply.error.message, reply.error.code));
    }
  }

  #end(error: Error): void {
    this.#ended ??= error;
    for (const waiting of this.#waiting.values()) waiting.reject(this.#ended);
    this.#waiting.clear();
  }
}

/** The error of a device's failed operation. */
export function diskFailed(message: string, errno: string | undefined): HansardError {
  return new HansardError('DISK_FAILED', `the log's disk failed: ${message}`, { errno: errno ?? 'unknown' });
}
