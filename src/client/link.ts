/**
 * The way to one node. Calls that may have left and got no answer end "in
 * doubt"; calls that surely never left do not. Two kinds: one Exchange stream
 * for everything, or a unary call each.
 */
import {
  type ChannelOptions,
  Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  connectivityState,
  credentials,
  Metadata,
  type ServiceError,
} from '@grpc/grpc-js';
import { HansardError } from '../common/errors.js';
import { limits } from '../common/limits.js';
import { CallsInFlight } from './calls-in-flight.js';
import { type Answered, type Call, decodeFrame, encodeFrame, encodeRequest, requestSize } from './frames.js';
import { errorFromService, leavesDoubt } from './rpc-errors.js';
import { WireError } from './wire-reader.js';

export interface Link {
  readonly address: string;
  /** `performance.now()` of the last connection that failed; 0: none since the last success. */
  readonly failedAtMs: number;
  /** Somebody who should know says that the node is there. */
  forgive(): void;
  /** Sends or queues; the call ends exactly once, never within this one. */
  send(call: Call): void;
  /** A stream of its own on the same connection; resolves to why not where the node can't be reached. */
  stream(method: string, request: Uint8Array, isHeldToCredit: boolean): Promise<OpenStream | HansardError>;
  /** One that goes both ways, with requests that are written as they come. */
  duplex(method: string): Promise<ClientDuplexStream<Uint8Array, Buffer> | HansardError>;
  close(): void;
}

/** Answers; where it is held to credit, `write` grants more. */
export type OpenStream = ClientReadableStream<Buffer> & { write?: (grant: Buffer) => unknown };

export type Transport = 'exchange' | 'unary';

export function openLink(transport: Transport, address: string): Link {
  return transport === 'exchange' ? new ExchangeLink(address) : new UnaryLink(address);
}

/** A frame ends at this size unless one call is larger: turns stay short on both sides. */
const frameTargetBytes = 512 * 1024;
/** Frames that have not left for the socket yet; more calls gather into the next one. */
const framesUnsentMax = 4;
/** Frames that came and are not read; then the stream is not read either. */
const framesUnreadMax = 16;
/** A turn of the loop that takes longer, ms, has other work than one frame. */
const longTurnMs = 5;
/** How long a node may take to accept a connection. */
const connectTimeoutMs = 2_000;
/** A connection that failed just before is waited for this long to try again. */
const backoffWaitMs = 200;
/** An answer may be this late beyond the server's own deadline before the call counts as lost. */
const answerGraceMs = 500;
const sweepIntervalMs = 100;
/** A node that has said anything since so many sweeps, about a second, is busy, and neither stuck nor cut off. */
const silentSweeps = 10;

const channelOptions: ChannelOptions = {
  'grpc.enable_retries': 0,
  'grpc.keepalive_time_ms': 10_000,
  // A ping waits behind what a node's window let us send: 2 MiB take 17 s at 1 Mbit/s. Silent nodes are noticed per call.
  'grpc.keepalive_timeout_ms': 20_000,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.min_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1_000,
  'grpc.max_receive_message_length': limits.grpcMessageBytes,
  'grpc.max_send_message_length': limits.grpcMessageBytes,
  // Pages of reads: what a node may have on its way here. The other way the node says (setting client_window).
  'grpc-node.flow_control_window': 4 * 1024 * 1024,
  // Each client has its own connection: two in one process must not share a stream's window.
  'grpc.use_local_subchannel_pool': 1,
};

const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
const same = (bytes: Buffer): Buffer => bytes;

/** One channel to one address, which says at once whether anybody is there. */
class Connection {
  readonly client: Client;
  failedAtMs = 0;
  readonly #streams = new Set<{ cancel(): void }>();
  #closed = false;
  #connecting: Promise<HansardError | undefined> | undefined;
  constructor(readonly address: string) {
    this.client = new Client(address, credentials.createInsecure(), channelOptions);
  }
  get isReady(): boolean {
    return this.client.getChannel().getConnectivityState(false) === connectivityState.READY;
  }
  /** Resolves to an error where the node can't be reached; one attempt for all who wait. */
  ready(): Promise<HansardError | undefined> {
    this.#connecting ??= this.#connect().then((error) => {
      this.#connecting = undefined;
      this.failedAtMs = error === undefined ? 0 : performance.now();
      return error;
    });
    return this.#connecting;
  }
  async stream(
    method: string,
    request: Uint8Array,
    isHeldToCredit: boolean,
  ): Promise<OpenStream | HansardError> {
    if (isHeldToCredit) {
      const both = await this.duplex(method);
      if (!(both instanceof HansardError)) both.write(request);
      return both;
    }
    const error = await this.#open();
    if (error !== undefined) return error;
    return this.#own(
      this.client.makeServerStreamRequest(`/${method}`, asBuffer, same, request, new Metadata()),
    );
  }
  async duplex(method: string): Promise<ClientDuplexStream<Uint8Array, Buffer> | HansardError> {
    const error = await this.#open();
    if (error !== undefined) return error;
    return this.#own(this.client.makeBidiStreamRequest(`/${method}`, asBuffer, same, new Metadata()));
  }
  /** Why no stream can begin. */
  async #open(): Promise<HansardError | undefined> {
    const error = this.isReady ? undefined : await this.ready();
    return this.#closed ? new HansardError('CLIENT_CLOSED', 'the client was closed') : error;
  }
  /** It ends with the connection. */
  #own<S extends { cancel(): void; on(event: 'status', listener: () => void): unknown }>(stream: S): S {
    this.#streams.add(stream);
    stream.on('status', () => this.#streams.delete(stream));
    return stream;
  }
  /** Ends streams and connection. */
  close(): void {
    this.#closed = true;
    for (const stream of this.#streams) stream.cancel();
    this.client.close();
  }
  async #connect(): Promise<HansardError | undefined> {
    const channel = this.client.getChannel();
    const deadline = Date.now() + connectTimeoutMs;
    let tried = false;
    for (;;) {
      const state = channel.getConnectivityState(true);
      if (state === connectivityState.READY) return undefined;
      if (state === connectivityState.SHUTDOWN) return this.#unreachable('the client is closed');
      const isBackingOff = state === connectivityState.TRANSIENT_FAILURE;
      if (isBackingOff && tried) return this.#unreachable('connection refused');
      // Not only where CONNECTING was seen: a refusal may come before the watcher is told of that.
      tried ||= !isBackingOff;
      // A failure from before this attempt says little: wait for the next one, but not for long.
      const until = isBackingOff ? Math.min(deadline, Date.now() + backoffWaitMs) : deadline;
      const changed = await new Promise<boolean>((resolve) =>
        channel.watchConnectivityState(state, until, (error) => resolve(error === undefined)),
      );
      if (!changed)
        return this.#unreachable(
          isBackingOff ? 'connection refused' : `no connection within ${connectTimeoutMs} ms`,
        );
    }
  }
  #unreachable(problem: string): HansardError {
    return new HansardError('UNREACHABLE', `${this.address}: ${problem}`, { address: this.address });
  }
}

/** Calls in flight on one stream, framed once per turn. */
class ExchangeLink implements Link, Answered {
  readonly #connection: Connection;
  #stream: ClientDuplexStream<Buffer, Buffer> | undefined;
  #opening = false;
  #closed = false;
  #flushScheduled = false;
  /** `write()` returned false: nothing more until 'drain'. */
  #full = false;
  #framesUnsent = 0;
  #queue: Call[] = [];
  /** Frames of the stream that wait for their turn of the loop. */
  #unread: Buffer[] = [];
  /** One was read in this turn. */
  #hasRead = false;
  readonly #pending = new CallsInFlight();
  /** Sweeps since a frame came. In those, not in ms: that this process stood still says nothing of the node. */
  #sweepsUnheard = 0;
  #sweeper: NodeJS.Timeout | undefined;

  constructor(readonly address: string) {
    this.#connection = new Connection(address);
  }

  get failedAtMs(): number {
    return this.#connection.failedAtMs;
  }

  forgive(): void {
    this.#connection.failedAtMs = 0;
  }

  stream(method: string, request: Uint8Array, isHeldToCredit: boolean): Promise<OpenStream | HansardError> {
    return this.#connection.stream(method, request, isHeldToCredit);
  }

  duplex(method: string): Promise<ClientDuplexStream<Uint8Array, Buffer> | HansardError> {
    return this.#connection.duplex(method);
  }

  send(call: Call): void {
    this.#queue.push(call);
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    const flush = (): void => {
      this.#flushScheduled = false;
      this.#flush();
    };
    // One frame for all calls of this turn of the loop, those of resumed callers included; with nothing under way there
    // are hardly others to come than theirs, who all have resumed when the next tick comes.
    if (this.#pending.size === 0) process.nextTick(flush);
    else setImmediate(flush);
  }

  close(): void {
    this.#closed = true;
    this.#readRest();
    this.#fail(new HansardError('CLIENT_CLOSED', 'the client was closed'));
    this.#stream?.cancel();
    this.#connection.close();
  }

  #flush(): void {
    if (this.#closed) return this.#failQueue(new HansardError('CLIENT_CLOSED', 'the client was closed'));
    const stream = this.#stream;
    if (stream === undefined) return this.#open();
    while (this.#queue.length > 0 && !this.#full && this.#framesUnsent < framesUnsentMax) {
      const calls = this.#takeFrame();
      const firstId = this.#pending.nextId;
      const now = performance.now();
      for (let i = 0; i < calls.length; i++) {
        const call = calls[i] as Call;
        this.#pending.add(call, now);
      }
      this.#framesUnsent++;
      const more = stream.write(encodeFrame(calls, firstId), () => {
        if (stream !== this.#stream) return;
        this.#framesUnsent--;
        if (this.#queue.length > 0) this.#flush();
      });
      if (!more) this.#full = true;
    }
    if (this.#pending.size > 0) this.#sweeper ??= setInterval(() => this.#sweep(), sweepIntervalMs);
  }

  #takeFrame(): Call[] {
    let bytes = 0;
    let count = 0;
    while (count < this.#queue.length) {
      const size = requestSize(this.#queue[count] as Call);
      if (count > 0 && bytes + size > frameTargetBytes) break;
      bytes += size;
      count++;
    }
    if (count < this.#queue.length) return this.#queue.splice(0, count);
    const all = this.#queue;
    this.#queue = [];
    return all;
  }

  #open(): void {
    if (this.#opening || this.#queue.length === 0) return;
    this.#opening = true;
    void this.#connection.ready().then((error) => {
      this.#opening = false;
      if (this.#closed) return;
      if (error !== undefined) return this.#failQueue(error);
      this.#openStream();
      this.#flush();
    });
  }

  #openStream(): void {
    const stream = this.#connection.client.makeBidiStreamRequest<Buffer, Buffer>(
      '/hansard.v1.ExchangeService/Exchange',
      (frame) => frame,
      (bytes) => bytes,
      new Metadata(),
    );
    this.#stream = stream;
    this.#unread = [];
    this.#full = false;
    this.#framesUnsent = 0;
    stream.on('data', (bytes: Buffer) => this.#arrived(stream, bytes));
    stream.on('drain', () => {
      if (stream !== this.#stream) return;
      this.#full = false;
      this.#flush();
    });
    stream.on('error', (error: ServiceError) => this.#onBroken(stream, errorFromService(error)));
    stream.on('end', () =>
      this.#onBroken(stream, new HansardError('UNREACHABLE', `${this.address}: the node ended the stream`)),
    );
  }

  /**
   * One frame in a turn of the loop: what its callers ask for next leaves before the next frame is read, and the node
   * has work meanwhile. Read all at once, node and client would work in turns.
   */
  #arrived(stream: ClientDuplexStream<Buffer, Buffer>, bytes: Buffer): void {
    if (stream !== this.#stream) return;
    this.#sweepsUnheard = 0;
    if (this.#hasRead) {
      this.#unread.push(bytes);
      if (this.#unread.length >= framesUnreadMax) stream.pause();
      return;
    }
    this.#onFrame(stream, bytes);
    this.#readOn();
  }

  /** In the next turn. The stream may be another one by then. */
  #readOn(): void {
    this.#hasRead = true;
    const fromMs = performance.now();
    setImmediate(() => {
      this.#hasRead = false;
      const stream = this.#stream;
      const bytes = this.#unread.shift();
      if (stream === undefined || bytes === undefined) return;
      try {
        this.#onFrame(stream, bytes);
        // The loop has other work: nobody is to wait for it frame by frame.
        if (performance.now() - fromMs > longTurnMs) this.#readAll(stream);
      } finally {
        // Also where a caller threw.
        if (stream === this.#stream && stream.isPaused()) stream.resume();
        this.#readOn();
      }
    });
  }

  #readAll(stream: unknown): void {
    for (const bytes of this.#unread.splice(0)) if (stream === this.#stream) this.#onFrame(stream, bytes);
  }

  /** What has come is known, also what a paused stream still holds; at its end. */
  #readRest(): void {
    const stream = this.#stream;
    if (stream === undefined) return;
    // Each comes as an event, too.
    while (stream.isPaused() && stream.read() !== null);
    this.#readAll(stream);
  }

  #onFrame(stream: unknown, bytes: Buffer): void {
    try {
      decodeFrame(bytes, this);
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      // Nothing on this stream can be trusted any more.
      this.#stream?.cancel();
      this.#onBroken(
        stream,
        new HansardError('UNREACHABLE', `${this.address}: unreadable answer: ${error.message}`),
      );
    }
  }

  answered(id: number, bytes: Buffer, from: number, to: number, forwardedTo: number): void {
    this.#ended(id)?.answered(bytes, from, to, forwardedTo);
  }

  failed(id: number, error: HansardError, inDoubt: boolean): void {
    this.#ended(id)?.failed(error, inDoubt);
  }

  /** Undefined: it has ended. */
  #ended(id: number): Call | undefined {
    const call = this.#pending.take(id);
    if (call !== undefined && this.#pending.size === 0) this.#stopSweeper();
    return call;
  }

  /** What was written may have been carried out; what was queued was not, and goes by the next stream. */
  #onBroken(stream: unknown, error: HansardError): void {
    if (stream !== this.#stream) return;
    this.#readRest();
    if (stream !== this.#stream) return;
    // The node counts as failed only if it refuses the next connection.
    this.#stream = undefined;
    this.#failPending(error);
    this.#failQueue(error);
  }

  #fail(error: HansardError): void {
    this.#failPending(error);
    this.#failQueue(error);
  }

  #failPending(error: HansardError): void {
    const pending = this.#pending.takeAll();
    this.#stopSweeper();
    // A server without the method has done nothing; any other end of a stream may have come after the work.
    const inDoubt = error.reason !== 'NOT_IMPLEMENTED';
    for (const call of pending) call.failed(error, inDoubt);
  }

  #failQueue(error: HansardError): void {
    const queued = this.#queue;
    this.#queue = [];
    for (const call of queued) call.failed(error, false);
  }

  /**
   * A node that is stuck neither answers nor breaks its stream. One that is only slow is not to get the same
   * again behind all that it still has: it would never come to the end of it.
   */
  #sweep(): void {
    const isSilent = ++this.#sweepsUnheard > silentSweeps;
    const lost = this.#pending.lost(performance.now() - answerGraceMs, isSilent);
    if (lost.length === 0) return;
    const error = new HansardError('DEADLINE_EXCEEDED', `${this.address}: no answer in time`, {
      address: this.address,
    });
    for (const call of lost) call.failed(error, true);
  }

  #stopSweeper(): void {
    clearInterval(this.#sweeper);
    this.#sweeper = undefined;
  }
}

/** A unary call each: simple, ordered only by the server's producers. */
class UnaryLink implements Link {
  readonly #connection: Connection;
  #closed = false;
  constructor(readonly address: string) {
    this.#connection = new Connection(address);
  }

  get failedAtMs(): number {
    return this.#connection.failedAtMs;
  }

  forgive(): void {
    this.#connection.failedAtMs = 0;
  }

  stream(method: string, request: Uint8Array, isHeldToCredit: boolean): Promise<OpenStream | HansardError> {
    return this.#connection.stream(method, request, isHeldToCredit);
  }

  duplex(method: string): Promise<ClientDuplexStream<Uint8Array, Buffer> | HansardError> {
    return this.#connection.duplex(method);
  }

  send(call: Call): void {
    const ready = this.#connection.isReady ? Promise.resolve(undefined) : this.#connection.ready();
    void ready.then((error) => {
      if (this.#closed) {
        const closed = new HansardError('CLIENT_CLOSED', 'the client was closed');
        call.failed(closed, false);
      } else if (error !== undefined) call.failed(error, false);
      else this.#start(call);
    });
  }

  close(): void {
    this.#closed = true;
    this.#connection.close();
  }

  #start(call: Call): void {
    this.#connection.client.makeUnaryRequest<Buffer, Buffer>(
      `/${call.method}`,
      (request) => request,
      (bytes) => bytes,
      encodeRequest(call),
      new Metadata(),
      { deadline: Date.now() + call.timeoutMs },
      (error, response) => {
        if (error === null && response !== undefined) return call.answered(response, 0, response.length, 0);
        const failure =
          error === null ? new HansardError('INTERNAL', 'empty answer') : errorFromService(error);
        call.failed(failure, leavesDoubt(failure));
      },
    );
  }
}
