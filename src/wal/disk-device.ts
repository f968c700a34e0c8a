/** The real disk: hands each operation to worker.ts. A round trip costs about 50 µs beside the disk's own time. */
import { Worker } from 'node:worker_threads';
import { HansardError } from '../common/errors.js';
import type { LogDevice, SegmentFile } from './device.js';

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
type Operation = Request extends infer R ? (R extends unknown ? Omit<R, 'id'> : never) : never;

export interface Reply {
  readonly id: number;
  readonly value?: number | SegmentFile[];
  readonly error?: { readonly message: string; readonly code: string | undefined };
  readonly ms: number;
}

interface Waiting {
  resolve(reply: Reply): void;
  reject(error: Error): void;
}

export interface DiskDeviceOptions {
  /** The log's folder; must exist. */
  readonly directory: string;
  /** One slot of a DiskWatch, where a watchdog looks at this disk. */
  readonly watch?: SharedArrayBuffer | undefined;
}

/** Starts the worker thread. Whoever opens the device closes it (the log does). */
export function openDiskDevice(options: DiskDeviceOptions): LogDevice {
  return new DiskDevice(options);
}

class DiskDevice implements LogDevice {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #ended: Error | undefined;

  constructor(options: DiskDeviceOptions) {
    const workerData: WorkerData = {
      directory: options.directory,
      watch: options.watch ?? new SharedArrayBuffer(8),
    };
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), { workerData });
    this.#worker.on('message', (reply: Reply) => this.#settle(reply));
    this.#worker.on('error', (error) => this.#end(error));
    this.#worker.on('exit', () => this.#end(new Error('the log worker has ended')));
  }

  async list(): Promise<SegmentFile[]> {
    return (await this.#ask({ op: 'list' })).value as SegmentFile[];
  }
  async create(segment: number, bytes: number): Promise<void> {
    await this.#ask({ op: 'create', segment, bytes });
  }
  async rename(from: number, to: number): Promise<void> {
    await this.#ask({ op: 'rename', segment: from, to });
  }
  async remove(segment: number): Promise<void> {
    await this.#ask({ op: 'remove', segment });
  }
  async read(segment: number, offset: number, target: Uint8Array): Promise<number> {
    if (target.buffer instanceof SharedArrayBuffer) {
      return (await this.#ask({ op: 'read', segment, offset, target })).value as number;
    }
    const shared = this.allocate(target.length);
    const got = (await this.#ask({ op: 'read', segment, offset, target: shared })).value as number;
    target.set(shared.subarray(0, got));
    return got;
  }
  async write(segment: number, offset: number, bytes: Uint8Array): Promise<number> {
    // A plain buffer would be copied with all that it is a part of: copy the part alone.
    const own = bytes.buffer instanceof SharedArrayBuffer ? bytes : Uint8Array.from(bytes);
    return (await this.#ask({ op: 'write', segment, offset, bytes: own })).ms;
  }
  allocate(bytes: number): Buffer {
    return Buffer.from(new SharedArrayBuffer(bytes));
  }
  async close(): Promise<void> {
    if (this.#ended === undefined) await this.#ask({ op: 'close' });
    await this.#worker.terminate();
  }

  #ask(operation: Operation): Promise<Reply> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ ...operation, id });
    });
  }

  #settle(reply: Reply): void {
    const waiting = this.#waiting.get(reply.id);
    if (waiting === undefined) return;
    this.#waiting.delete(reply.id);
    if (reply.error === undefined) waiting.resolve(reply);
    else waiting.reject(diskFailed(reply.error.message, reply.error.code));
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
