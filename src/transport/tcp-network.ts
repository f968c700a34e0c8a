/**
 * Network over TCP. The dialler says a hello; frames come back on the same
 * connection. What gRPC would bring is not needed here, and each message of it costs
 * its two ends as much as handling what is in it (docs/performance.md): one stream a
 * connection, flow control by TCP, a frame is a record, and either side that hears
 * nothing for a while ends the connection.
 */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { type Address, parseAddress } from '../common/address.js';
import { pooledBytesMin } from '../common/buffer-pool.js';
import { MalformedError } from '../common/bytes.js';
import type { InStream, InStreamHandlers, Network, NetworkListener, OutStream } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import { maxHelloBytes } from './hello.js';
import {
  encodeRecord,
  preface,
  putRecord,
  RecordKind,
  RecordReader,
  recordHeaderBytes,
  recordMemory,
} from './tcp-records.js';

export interface TcpNetworkOptions {
  /** host:port to listen on; port 0 takes a free one. */
  readonly bindAddress: string;
  readonly limits?: Partial<TcpNetworkLimits>;
}

export interface TcpNetworkLimits {
  readonly frameBytesMax: number;
  readonly inFlightBytes: number;
  readonly readBytes: number;
  readonly aliveMs: number;
  readonly silentLooks: number;
  readonly helloMs: number;
  readonly farewellMs: number;
}

const MiB = 1024 * 1024;

export const tcpNetworkDefaults: TcpNetworkLimits = Object.freeze({
  /** Above any frame (transportDefaults.messageBytes). */
  frameBytesMax: 16 * MiB,
  /** Handed to a stream and not yet to the kernel; small, since urgent frames wait behind it. */
  inFlightBytes: 2 * MiB,
  /** Read at once: what a busy peer brings in a turn, and a frame that is much larger takes a few more calls. */
  readBytes: 64 * 1024,
  /** A side with nothing to say shows this often that it lives. */
  aliveMs: 4_000,
  /** A peer that said nothing in so many times `aliveMs`, while it shows itself in every second one at least, is gone, whatever TCP believes. */
  silentLooks: 4,
  /** A connection without a hello is closed: nobody gathers sockets on the peers' port. */
  helloMs: 5_000,
  /** A rejection gets so long to leave. */
  farewellMs: 2_000,
});

export function createTcpNetwork(options: TcpNetworkOptions): Network {
  const limits = { ...tcpNetworkDefaults, ...options.limits };
  return {
    listen: (onDial) => listen(options.bindAddress, limits, onDial),
    dial: ({ address }, hello, handlers) => {
      const at = parseAddress(address);
      // A dial of port 0 would be refused, and that says "its process is gone".
      return at === undefined || at.port === 0
        ? nobodyAt(address, handlers)
        : new TcpInStream(limits, at, hello, handlers);
    },
  };
}

type OnDial = (hello: Uint8Array, stream: OutStream) => void;

async function listen(
  bindAddress: string,
  limits: TcpNetworkLimits,
  onDial: OnDial,
): Promise<NetworkListener> {
  const at = parseAddress(bindAddress);
  if (at === undefined) throw new HansardError('INVALID_SETTINGS', `${bindAddress} is no host:port`);
  const sockets = new Set<Socket>();
  const server = createServer({ noDelay: true, highWaterMark: limits.inFlightBytes }, (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    receiveHello(socket, limits, onDial);
  });
  await bound(server, at, bindAddress);
  const { port } = server.address() as { port: number };
  return {
    address: `${bindAddress.slice(0, bindAddress.lastIndexOf(':'))}:${port}`,
    // Streams end with it: the peers' next dial is refused at once.
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

function bound(server: Server, at: { host: string; port: number }, address: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => reject(bindError(address, error)));
    server.listen({ host: at.host, port: at.port }, () => {
      server.removeAllListeners('error');
      // One connection that could not be accepted (EMFILE) is its dialler's to try again.
      server.on('error', () => {});
      resolve();
    });
  });
}

function bindError(address: string, error: NodeJS.ErrnoException): HansardError {
  if (error.code === 'EADDRINUSE') {
    return new HansardError('ADDRESS_IN_USE', `the peers' address ${address} is taken`, { address });
  }
  const problem = `can't listen for peers on ${address}: ${error.message}`;
  return new HansardError('INVALID_SETTINGS', problem, { address }, { cause: error });
}

/** Until it has said who it is, a stranger costs a socket and at most a hello's bytes. */
function receiveHello(socket: Socket, limits: TcpNetworkLimits, onDial: OnDial): void {
  // 'close' follows, and tells the rest.
  socket.on('error', () => {});
  let stream: TcpOutStream | undefined;
  // This process may have stood still while the hello came: what has arrived by now is read first.
  const outOfTime = () =>
    setImmediate(() => {
      if (stream === undefined) socket.destroy();
    });
  const timer = setTimeout(outOfTime, limits.helloMs);
  socket.on('close', () => clearTimeout(timer));
  const reader = new RecordReader(maxHelloBytes, {
    onPreface: () => {
      socket.write(preface);
    },
    onRecord: (kind, payload) => {
      if (stream !== undefined && kind === RecordKind.alive) return true;
      if (stream !== undefined || kind !== RecordKind.hello)
        throw new MalformedError(`a record of kind ${kind} from a dialler`);
      clearTimeout(timer);
      stream = new TcpOutStream(socket, limits);
      onDial(Buffer.from(payload), stream);
      return true;
    },
  });
  socket.on('data', (chunk: Buffer) => {
    stream?.heard();
    readOr(reader, chunk, () => socket.destroy());
  });
}

/** What is malformed ends the connection; any other error is a defect and goes up. */
function readOr(reader: RecordReader, chunk: Uint8Array, end: (reason: string) => void): void {
  try {
    reader.take(chunk);
  } catch (error) {
    if (!(error instanceof MalformedError)) throw error;
    end(error.message);
  }
}

/** Says that this side lives, and finds out whether the other one does. */
class Pulse {
  readonly #timer: NodeJS.Timeout;
  #hasSaid = true;
  /** Looks since something was heard. In looks, not in ms: that this process stood still says nothing of the peer. */
  #unheard = 0;

  constructor({ aliveMs, silentLooks }: TcpNetworkLimits, say: () => void, silent: (reason: string) => void) {
    this.#timer = setInterval(() => {
      if (++this.#unheard > silentLooks) return silent(`nothing heard for ${silentLooks * aliveMs} ms`);
      if (!this.#hasSaid) say();
      this.#hasSaid = false;
    }, aliveMs);
    this.#timer.unref();
  }
  said(): void {
    this.#hasSaid = true;
  }
  heard(): void {
    this.#unheard = 0;
  }
  stop(): void {
    clearInterval(this.#timer);
  }
}

const aliveRecord = encodeRecord(RecordKind.alive, Buffer.alloc(0));

class TcpOutStream implements OutStream {
  readonly #socket: Socket;
  readonly #limits: TcpNetworkLimits;
  readonly #pulse: Pulse;
  #closed = false;
  #onDrain: () => void = () => {};
  #onClose: () => void = () => {};

  constructor(socket: Socket, limits: TcpNetworkLimits) {
    this.#socket = socket;
    this.#limits = limits;
    this.#pulse = new Pulse(
      limits,
      () => socket.write(aliveRecord),
      () => this.close(),
    );
    socket.on('drain', () => {
      if (!this.#closed) this.#onDrain();
    });
    socket.on('close', () => this.#ended());
  }

  heard(): void {
    this.#pulse.heard();
  }

  write(frame: Uint8Array, more: readonly Uint8Array[] = []): boolean {
    if (this.#closed) return false;
    this.#pulse.said();
    let bytes = recordHeaderBytes + frame.length;
    for (const { length } of more) bytes += length;
    const lent = bytes < pooledBytesMin ? undefined : recordMemory.take(bytes);
    const record = lent?.bytes.subarray(0, bytes) ?? Buffer.allocUnsafe(bytes);
    putRecord(record, RecordKind.frame, [frame, ...more]);
    // Called when the kernel has all of it, or never will.
    return lent === undefined
      ? this.#socket.write(record)
      : this.#socket.write(record, () => recordMemory.give(lent));
  }

  onDrain(fn: () => void): void {
    this.#onDrain = fn;
  }

  onClose(fn: () => void): void {
    this.#onClose = fn;
  }

  close(reason?: string): void {
    if (this.#closed) return;
    const socket = this.#socket;
    if (reason === undefined) socket.destroy();
    else {
      socket.write(encodeRecord(RecordKind.rejection, Buffer.from(reason, 'utf8')));
      socket.destroySoon();
      // A dialler that does not read must not hold on to what waits for it.
      const timer = setTimeout(() => socket.destroy(), this.#limits.farewellMs);
      socket.on('close', () => clearTimeout(timer));
    }
    this.#ended();
  }

  #ended(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#pulse.stop();
    this.#onClose();
  }
}

function nobodyAt(address: string, handlers: InStreamHandlers): InStream {
  const said = setImmediate(() =>
    handlers.onClose('broken', `nobody can be dialled at '${address}': it is no host:port`),
  );
  return { close: () => clearImmediate(said) };
}

/** A connection per dial, so "connection refused" is about now. */
class TcpInStream implements InStream {
  readonly #socket: Socket;
  readonly #handlers: InStreamHandlers;
  readonly #pulse: Pulse;
  #closed = false;

  constructor(limits: TcpNetworkLimits, to: Address, hello: Uint8Array, handlers: InStreamHandlers) {
    this.#handlers = handlers;
    const reader = new RecordReader(limits.frameBytesMax, {
      onPreface: () => handlers.onOpen(),
      onRecord: (kind, payload) => this.#onRecord(kind, payload),
    });
    const socket = connect({
      ...to,
      noDelay: true,
      // One buffer for all that comes: the stream's own way makes one of 64 KiB, and three objects, for each read.
      onread: {
        buffer: new Uint8Array(limits.readBytes),
        callback: (bytes, buffer) => {
          this.#pulse.heard();
          readOr(reader, buffer.subarray(0, bytes), (reason) => this.#end('broken', reason));
          return true;
        },
      },
    });
    this.#socket = socket;
    this.#pulse = new Pulse(
      limits,
      () => socket.write(aliveRecord),
      (reason) => this.#end('broken', reason),
    );
    socket.on('error', (error: NodeJS.ErrnoException) => {
      this.#end(isRefused(error) ? 'refused' : 'broken', error.message || String(error.code));
    });
    socket.on('close', () => this.#end('broken', 'the connection ended'));
    socket.write(Buffer.concat([preface, encodeRecord(RecordKind.hello, hello)]));
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#pulse.stop();
    this.#socket.destroy();
  }

  #onRecord(kind: number, payload: Buffer): boolean {
    if (this.#closed) return false;
    if (kind === RecordKind.frame) this.#handlers.onFrame(payload);
    else if (kind === RecordKind.rejection) this.#end('rejected', payload.toString('utf8'));
    else if (kind !== RecordKind.alive)
      throw new MalformedError(`a record of kind ${kind} from who was dialled`);
    return !this.#closed;
  }

  #end(kind: 'refused' | 'rejected' | 'broken', reason: string): void {
    if (this.#closed) return;
    this.close();
    this.#handlers.onClose(kind, reason);
  }
}

/** Nobody listens there: only a machine that lives can say so. With several addresses all of them must. */
function isRefused(error: NodeJS.ErrnoException): boolean {
  if (!(error instanceof AggregateError)) return error.code === 'ECONNREFUSED';
  return error.errors.length > 0 && error.errors.every(isRefused);
}
