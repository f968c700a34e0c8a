/**
 * A TCP proxy that makes a connection as slow as distance does: every byte
 * arrives a fixed time after it was sent, each way. It limits no bandwidth
 * unless asked to: a direction may hold all that a wide window has on its way.
 * Only where the receiver stops reading does the proxy fill up, and stop reading, too.
 */
import { createServer, connect as dial, type Server, type Socket } from 'node:net';

export interface DelayProxyOptions {
  /** The server's host:port. */
  readonly to: string;
  /** Added to what the network itself takes, each way, ms. */
  readonly oneWayMs: number;
  /** Each way of each connection; default no limit. Then little is held, as in a slow line's modem. */
  readonly bytesPerSecond?: number;
  /** Port on 127.0.0.1; default a free one. */
  readonly port?: number;
  /** Hands on pieces of at most this many bytes, to move the boundaries of messages; default as they came. */
  readonly chunkBytes?: number;
}

/** What a direction of a connection may hold, bytes: 1 GB/s at 64 ms one way. */
const heldBytesMax = 64 * 1024 * 1024;
const heldBytesMaxSlow = 64 * 1024;

export class DelayProxy {
  readonly #server: Server;
  readonly #lanes = new Set<Lane>();
  #connections = 0;
  #bytesToServer = 0;

  private constructor(
    server: Server,
    readonly options: DelayProxyOptions,
  ) {
    this.#server = server;
  }

  static async start(options: DelayProxyOptions): Promise<DelayProxy> {
    const server = createServer({ noDelay: true, allowHalfOpen: true });
    const proxy = new DelayProxy(server, options);
    server.on('connection', (socket) => proxy.#take(socket));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(options.port ?? 0, '127.0.0.1', resolve);
    });
    return proxy;
  }

  /** host:port, for clients. */
  get address(): string {
    const bound = this.#server.address();
    if (bound === null || typeof bound === 'string') throw new Error('the proxy is closed');
    return `127.0.0.1:${bound.port}`;
  }

  /** Connections ever taken. */
  get connections(): number {
    return this.#connections;
  }

  /** Bytes ever handed to the server's sockets. */
  get bytesToServer(): number {
    return this.#bytesToServer;
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const lane of [...this.#lanes]) lane.destroy();
    await closed;
  }

  #take(fromClient: Socket): void {
    this.#connections++;
    const { to } = this.options;
    const colon = to.lastIndexOf(':');
    const toServer = dial({
      host: to.slice(0, colon),
      port: Number(to.slice(colon + 1)),
      noDelay: true,
      allowHalfOpen: true,
    });
    const count = (bytes: number): void => {
      this.#bytesToServer += bytes;
    };
    this.#join(new Lane(fromClient, toServer, this.options, count));
    this.#join(new Lane(toServer, fromClient, this.options, () => {}));
  }

  #join(lane: Lane): void {
    this.#lanes.add(lane);
    lane.onEnd = () => this.#lanes.delete(lane);
  }
}

interface Held {
  readonly dueMs: number;
  /** Undefined: the sender's end. */
  readonly bytes: Buffer | undefined;
}

/** One direction of one connection. */
class Lane {
  onEnd: () => void = () => {};
  heldBytes = 0;
  #held: Held[] = [];
  /** First of #held that is not handed on. */
  #at = 0;
  #timer: NodeJS.Timeout | undefined;
  #full = false;
  #ended = false;
  /** When the slow line has sent all that it was given. */
  #lineFreeMs = 0;
  readonly #heldBytesMax: number;

  constructor(
    readonly from: Socket,
    readonly to: Socket,
    readonly options: DelayProxyOptions,
    readonly onBytes: (bytes: number) => void,
  ) {
    this.#heldBytesMax = options.bytesPerSecond === undefined ? heldBytesMax : heldBytesMaxSlow;
    from.on('data', (bytes) => this.#hold(bytes));
    from.on('end', () => this.#hold(undefined));
    to.on('drain', () => {
      this.#full = false;
      this.#handOn();
    });
    // Either side's break is the other's, at once: a reset needs no queue.
    from.on('error', () => this.destroy());
    from.on('close', (hadError) => {
      if (hadError) this.destroy();
    });
    // Closed before all was handed on: what is left can't arrive.
    to.on('close', () => {
      if (!this.#ended) this.destroy();
    });
  }

  destroy(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#held = [];
    this.heldBytes = 0;
    this.from.destroy();
    this.to.destroy();
    this.onEnd();
  }

  #hold(bytes: Buffer | undefined): void {
    if (this.#ended) return;
    const { oneWayMs, bytesPerSecond = Number.POSITIVE_INFINITY } = this.options;
    const length = bytes?.length ?? 0;
    this.#lineFreeMs = Math.max(performance.now(), this.#lineFreeMs) + (length / bytesPerSecond) * 1000;
    this.#held.push({ dueMs: this.#lineFreeMs + oneWayMs, bytes });
    this.heldBytes += length;
    if (this.heldBytes >= this.#heldBytesMax) this.from.pause();
    this.#handOn();
  }

  #later(): void {
    const next = this.#held[this.#at];
    if (next === undefined || this.#timer !== undefined) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.#handOn();
      },
      Math.max(0, next.dueMs - performance.now()),
    );
  }

  #handOn(): void {
    const now = performance.now();
    for (let next = this.#held[this.#at]; next !== undefined && !this.#full && !this.#ended; ) {
      // Timers keep whole milliseconds: what is due within the next half is due now.
      if (next.dueMs > now + 0.5) break;
      this.#at++;
      if (next.bytes === undefined) {
        this.#ended = true;
        this.to.end();
        this.onEnd();
      } else {
        this.heldBytes -= next.bytes.length;
        this.#write(next.bytes);
      }
      next = this.#held[this.#at];
    }
    if (this.#at === this.#held.length || this.#at > 1_024) {
      this.#held.splice(0, this.#at);
      this.#at = 0;
    }
    if (this.from.isPaused() && this.heldBytes < this.#heldBytesMax) this.from.resume();
    if (!this.#full) this.#later();
  }

  #write(bytes: Buffer): void {
    this.onBytes(bytes.length);
    const size = this.options.chunkBytes ?? bytes.length;
    for (let at = 0; at < bytes.length; at += size)
      if (!this.to.write(bytes.subarray(at, at + size))) this.#full = true;
  }
}
