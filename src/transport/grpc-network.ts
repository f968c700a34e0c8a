/**
 * Network over @grpc/grpc-js. The dialler calls PeerService.Receive with its
 * hello; frames come back as the response stream. Messages are wrapped by hand
 * (one `bytes` field), so that the wire is valid protobuf and no object is made
 * per frame.
 */
import {
  ChannelCredentials,
  Client,
  type ClientReadableStream,
  Metadata,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServerWritableStream,
  type ServiceError,
  type StatusObject,
  status,
} from '@grpc/grpc-js';
import { MalformedError } from '../common/bytes.js';
import type {
  InStream,
  InStreamHandlers,
  Network,
  NetworkListener,
  OutStream,
  PeerAddress,
} from '../common/env.js';
import { HansardError } from '../common/errors.js';
import { maxHelloBytes } from './hello.js';
import { unwrap, wrap } from './wrapper.js';

export interface GrpcNetworkOptions {
  /** host:port to listen on; port 0 takes a free one. */
  readonly bindAddress: string;
  readonly serverCredentials?: ServerCredentials;
  readonly channelCredentials?: ChannelCredentials;
}

const MiB = 1024 * 1024;

export const grpcNetworkDefaults = Object.freeze({
  /** Above any frame (transportDefaults.messageBytes), as all of our gRPC. */
  messageBytes: 16 * MiB,
  /** What one stream may have on its way to us: 100 MB/s at a round trip of 80 ms. */
  flowControlWindow: 8 * MiB,
  /** Handed to a stream and not yet to the socket; small, since urgent frames wait behind it. */
  inFlightBytes: 2 * MiB,
  /** The high-water mark of grpc-js' own writable, which counts messages. */
  inFlightFrames: 16,
  keepaliveTimeMs: 10_000,
  keepaliveTimeoutMs: 5_000,
  /** A connection without a call is closed: nobody gathers sockets on the peers' port. */
  idleConnectionMs: 30_000,
});

type FrameCall = ServerWritableStream<Uint8Array, Uint8Array>;

const receivePath = '/hansard.internal.v1.PeerService/Receive';
const receiveMethod: MethodDefinition<Uint8Array, Uint8Array> = {
  path: receivePath,
  requestStream: false,
  responseStream: true,
  requestSerialize: wrap,
  // What is no hello of ours is rejected by who decodes it, with a reason.
  requestDeserialize: (bytes) => tryUnwrap(bytes),
  responseSerialize: wrap,
  responseDeserialize: unwrap,
};

export function createGrpcNetwork(options: GrpcNetworkOptions): Network {
  return {
    listen: (onDial) => listen(options, onDial),
    dial: (to, hello, handlers) => new GrpcInStream(options, to, hello, handlers),
  };
}

async function listen(
  options: GrpcNetworkOptions,
  onDial: (hello: Uint8Array, stream: OutStream) => void,
): Promise<NetworkListener> {
  const server = new Server({
    'grpc.max_receive_message_length': maxHelloBytes * 4,
    'grpc.max_send_message_length': grpcNetworkDefaults.messageBytes,
    'grpc.keepalive_time_ms': grpcNetworkDefaults.keepaliveTimeMs,
    'grpc.keepalive_timeout_ms': grpcNetworkDefaults.keepaliveTimeoutMs,
    'grpc.max_connection_idle_ms': grpcNetworkDefaults.idleConnectionMs,
    // Each peer has one stream, on a connection of its own.
    'grpc.max_concurrent_streams': 4,
    // channelz stays on: without it grpc-js 1.14 keeps no list of sessions, and forceShutdown ends none.
  });
  server.addService(
    { Receive: receiveMethod },
    { Receive: (call: FrameCall) => onDial(call.request, new GrpcOutStream(call)) },
  );
  const credentials = options.serverCredentials ?? ServerCredentials.createInsecure();
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(options.bindAddress, credentials, (error, bound) => {
      if (error === null) resolve(bound);
      else reject(bindError(options.bindAddress, error));
    });
  });
  const host = options.bindAddress.slice(0, options.bindAddress.lastIndexOf(':'));
  return {
    address: `${host}:${port}`,
    // Streams end with their connections: the peers' next dial is refused at once.
    close: async () => server.forceShutdown(),
  };
}

class GrpcOutStream implements OutStream {
  readonly #call: FrameCall;
  #bytes = 0;
  #frames = 0;
  #waiting = false;
  #closed = false;
  #onDrain: () => void = () => {};
  #onClose: () => void = () => {};

  constructor(call: FrameCall) {
    this.#call = call;
    call.on('cancelled', () => this.#ended());
    call.on('close', () => this.#ended());
    call.on('error', () => this.#ended());
    call.sendMetadata(new Metadata()); // the dialler's onOpen
  }

  write(frame: Uint8Array): boolean {
    if (this.#closed) return false;
    const size = frame.length;
    this.#bytes += size;
    this.#frames++;
    this.#call.write(frame, () => {
      this.#bytes -= size;
      this.#frames--;
      this.#drained();
    });
    const { inFlightBytes, inFlightFrames } = grpcNetworkDefaults;
    this.#waiting = this.#bytes >= inFlightBytes || this.#frames >= inFlightFrames;
    return !this.#waiting;
  }

  onDrain(fn: () => void): void {
    this.#onDrain = fn;
  }

  onClose(fn: () => void): void {
    this.#onClose = fn;
  }

  close(reason?: string): void {
    if (this.#closed) return;
    const problem =
      reason === undefined
        ? { code: status.UNAVAILABLE, details: 'closed by the peer' }
        : { code: status.FAILED_PRECONDITION, details: reason };
    // grpc-js ends a server stream with a status by this event; its listener above runs #ended.
    this.#call.emit('error', problem);
  }

  #drained(): void {
    const { inFlightBytes, inFlightFrames } = grpcNetworkDefaults;
    if (!this.#waiting || this.#closed) return;
    if (this.#bytes > inFlightBytes / 2 || this.#frames > inFlightFrames / 2) return;
    this.#waiting = false;
    this.#onDrain();
  }

  #ended(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#onClose();
  }
}

/**
 * A channel per dial: a new one connects at once, where an old one would answer
 * from its backoff, and "connection refused" is about now.
 */
class GrpcInStream implements InStream {
  readonly #client: Client;
  readonly #call: ClientReadableStream<Uint8Array>;
  #closed = false;

  constructor(options: GrpcNetworkOptions, to: PeerAddress, hello: Uint8Array, handlers: InStreamHandlers) {
    this.#client = new Client(to.address, options.channelCredentials ?? ChannelCredentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_retries': 0,
      'grpc.enable_http_proxy': 0,
      'grpc.enable_channelz': 0,
      'grpc.service_config_disable_resolution': 1,
      'grpc.keepalive_time_ms': grpcNetworkDefaults.keepaliveTimeMs,
      'grpc.keepalive_timeout_ms': grpcNetworkDefaults.keepaliveTimeoutMs,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1_000,
      'grpc.max_receive_message_length': grpcNetworkDefaults.messageBytes,
      'grpc-node.flow_control_window': grpcNetworkDefaults.flowControlWindow,
    });
    const { requestSerialize, responseDeserialize } = receiveMethod;
    this.#call = this.#client.makeServerStreamRequest(
      receivePath,
      requestSerialize,
      responseDeserialize,
      hello,
    );
    this.#call.on('metadata', () => {
      if (!this.#closed) handlers.onOpen();
    });
    this.#call.on('data', (frame: Uint8Array) => {
      if (!this.#closed) handlers.onFrame(frame);
    });
    // Says the same as the status below; without a listener it would end the process.
    this.#call.on('error', (_error: ServiceError) => {});
    this.#call.on('status', (ended: StatusObject) => {
      if (this.#closed) return;
      this.#closed = true;
      this.#client.close();
      handlers.onClose(closeKind(ended), ended.details || `status ${ended.code}`);
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#call.cancel();
    this.#client.close();
  }
}

function closeKind(ended: StatusObject): 'refused' | 'rejected' | 'broken' {
  if (ended.code === status.FAILED_PRECONDITION || ended.code === status.UNIMPLEMENTED) return 'rejected';
  return ended.code === status.UNAVAILABLE && /\bECONNREFUSED\b/.test(ended.details) ? 'refused' : 'broken';
}

function tryUnwrap(bytes: Buffer): Uint8Array {
  try {
    return unwrap(bytes);
  } catch (error) {
    if (error instanceof MalformedError) return new Uint8Array(0);
    throw error;
  }
}

function bindError(address: string, error: Error): HansardError {
  if (/EADDRINUSE/.test(error.message)) {
    return new HansardError('ADDRESS_IN_USE', `the peers' address ${address} is taken`, { address });
  }
  const problem = `can't listen for peers on ${address}: ${error.message}`;
  return new HansardError('INVALID_SETTINGS', problem, { address }, { cause: error });
}
