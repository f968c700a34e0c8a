/** The public door: gRPC services over one table of methods. */
import {
  type handleUnaryCall,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import type { PackageDefinition } from '@grpc/proto-loader';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';
import { HansardError } from '../common/errors.js';
import { limits } from '../common/limits.js';
import type { Logger } from '../common/logger.js';
import { loadPublicProtos } from '../common/proto.js';
import type { NodeService } from '../node/types.js';
import {
  bytesOf,
  type CallHooks,
  type CallLimits,
  Calls,
  defaultCallLimits,
  type Handler,
  type Response,
} from './calls.js';
import { channelMethods } from './channels.js';
import { clusterMethods } from './cluster.js';
import { deliveryMethods } from './delivery.js';
import { tailChannel, tailMethod } from './events.js';
import { defaultExchangeLimits, type ExchangeLimits, ExchangeLoad, ExchangeStream } from './exchange.js';
import { fetchEvents, fetchMethod } from './fetch-events.js';
import { grpcStatusOf } from './grpc-status.js';
import { inboxMethods } from './inbox.js';
import { messageMethods } from './messages.js';
import type { OutCall } from './out-stream.js';
import { serveUnary } from './plain-unary.js';
import {
  defaultReceiveWindowBytes,
  keepaliveTimeoutMs,
  narrowWindowBytes,
  widenReceiveWindow,
} from './receive-window.js';
import { replicaMethods } from './replicas.js';
import { Services } from './services.js';
import { defaultSubscribeLimits, type SubscribeLimits, Subscriptions, subscribeMethod } from './subscribe.js';
import {
  type ConsumerLimits,
  consumeMethod,
  defaultConsumerLimits,
  SubscriptionLeaders,
} from './subscription-leaders.js';
import { subscriptionMethods } from './subscription-methods.js';
import { defaultTailLimits, type TailLimits, Tails } from './tails.js';

export interface ApiOptions {
  /** host:port to listen at; port 0 takes a free one. */
  readonly address: string;
  /** Allows addresses other than this machine's own: there is no encryption yet. */
  readonly insecure: boolean;
  readonly logger: Logger;
  readonly hooks: CallHooks;
  readonly callLimits?: CallLimits;
  readonly exchangeLimits?: ExchangeLimits;
  /** Streams of Exchange at once; each holds buffers of its own. */
  readonly exchangeStreams?: number;
  readonly tailLimits?: TailLimits;
  readonly subscribeLimits?: SubscribeLimits;
  readonly consumerLimits?: ConsumerLimits;
  /** What a client may have on its way to us, per stream; see receive-window.ts. */
  readonly receiveWindowBytes?: number;
  /** What grpc.health.v1 says at first; default true. */
  readonly serving?: boolean;
}

export interface Api {
  /** host:port as bound. */
  readonly address: string;
  /** Calls under way, whichever way they came. */
  readonly callsInFlight: number;
  /** Streams of Exchange. */
  readonly exchangeStreams: number;
  /** Streams of TailChannel. */
  readonly openTails: number;
  /** Streams of Subscribe. */
  readonly openSubscriptions: number;
  /** Durable subscriptions at work here, and their consumers. */
  readonly leaders: SubscriptionLeaders;
  /** gRPC messages of Exchange since the start, both ways. */
  readonly exchangeMessages: number;
  /** Shown by grpc.health.v1, whole and per service. Draining shows by itself. */
  setServing(serving: boolean): void;
  /** Refuses new calls, lets those under way end for at most `graceMs`, closes. */
  stop(graceMs: number): Promise<void>;
}

const exchangePath = '/hansard.v1.ExchangeService/Exchange';
const exchangeStreamsDefault = 1_024;

/** Throws INVALID_SETTINGS, ADDRESS_IN_USE. */
export async function startApi(node: NodeService, options: ApiOptions): Promise<Api> {
  if (!options.insecure && !isLoopback(options.address)) {
    throw new HansardError(
      'INVALID_SETTINGS',
      `${options.address} can be reached from other machines, and there is no encryption yet; allow it with --insecure`,
      { setting: 'address', value: options.address },
    );
  }
  const protos = loadPublicProtos();
  const services = new Services(node, protos);
  // Bound late: errors are told by `calls`, which knows the methods.
  const leaders: SubscriptionLeaders = new SubscriptionLeaders(
    services,
    options.consumerLimits ?? defaultConsumerLimits,
    (error) => calls.errorOf(consumeMethod, error),
  );
  const methods = new Map<string, Handler>([
    ...messageMethods(services),
    ...channelMethods(services),
    ...clusterMethods(services),
    ...replicaMethods(services),
    ...inboxMethods(services),
    ...subscriptionMethods(services, leaders),
    ...deliveryMethods(services),
    [fetchMethod, fetchEvents(services)],
  ]);
  const calls = new Calls(
    methods,
    () => node.monotonicMs(),
    options.hooks,
    options.callLimits ?? defaultCallLimits,
    options.logger,
  );
  node.onForward((method, request, deadlineMs) => {
    return new Promise((resolve, reject) => {
      calls.start(fullName(method), bufferOf(request), deadlineMs, 'forward', '', (error, response) => {
        if (error === undefined) resolve(bytesOf(response as Response));
        else reject(error);
      });
    });
  });
  const server = new Server({
    'grpc.max_receive_message_length': limits.grpcMessageBytes,
    'grpc.max_send_message_length': limits.grpcMessageBytes,
    'grpc.keepalive_time_ms': 10_000,
    'grpc.keepalive_timeout_ms': keepaliveTimeoutMs,
    'grpc.keepalive_permit_without_calls': 1,
    // Counts every call and message, for nobody.
    'grpc.enable_channelz': 0,
  });
  addUnary(server, [...methods.keys()], calls);
  serveUnary(server, methods.keys(), calls);
  const load = new ExchangeLoad();
  const streams = addExchange(server, calls, options, load);
  const tails = new Tails(services, options.tailLimits ?? defaultTailLimits, (error) =>
    calls.errorOf(tailMethod, error),
  );
  const tail = tailChannel(services, tails, options.hooks);
  const subscriptions = new Subscriptions(
    services,
    options.subscribeLimits ?? defaultSubscribeLimits,
    (error) => calls.errorOf(subscribeMethod, error),
  );
  const subscribe = subscriptions.handler(options.hooks);
  server.addService(
    {
      TailChannel: rawMethod(`/${tailMethod}`, true),
      Subscribe: rawMethod(`/${subscribeMethod}`, true),
    },
    { TailChannel: (call: OutCall) => tail(call), Subscribe: (call: OutCall) => subscribe(call) },
  );
  const consume = leaders.handler(options.hooks);
  server.addService({ Consume: rawMethod(`/${consumeMethod}`, true) }, { Consume: consume });
  const health = addHealth(server, methods);
  new ReflectionService(onceByFiles(protos)).addToServer(server);
  const windowBytes = options.receiveWindowBytes ?? defaultReceiveWindowBytes;
  const window = widenReceiveWindow(server, windowBytes);
  const address = await bind(server, options.address);
  if (!window.isInForce && windowBytes > narrowWindowBytes)
    options.logger.warn(
      { window_bytes: windowBytes },
      'uploads are slow over distance: the window can not be widened',
    );

  let serving = options.serving ?? true;
  let stopping = false;
  const show = (): void => {
    health(serving && !stopping && !node.isDraining);
    // Their readers go on elsewhere while this node still hands its leaderships away.
    if (stopping || node.isDraining) {
      tails.close();
      subscriptions.close();
      leaders.close();
    }
  };
  show();
  node.onDrain(() => {
    if (!stopping) show();
  });
  return {
    address,
    get callsInFlight() {
      return calls.inFlight;
    },
    get exchangeStreams() {
      return streams.size;
    },
    get openTails() {
      return tails.open;
    },
    get openSubscriptions() {
      return subscriptions.open;
    },
    leaders,
    get exchangeMessages() {
      return load.messages;
    },
    setServing(now) {
      serving = now;
      show();
    },
    async stop(graceMs) {
      if (stopping) return;
      stopping = true;
      show();
      const grace = timeout(graceMs);
      await Promise.race([calls.close(), grace.passed]);
      for (const stream of streams) stream.end();
      await Promise.race([shutdown(server), grace.passed]);
      grace.cancel();
      server.forceShutdown();
    },
  };
}

/** Requests and responses pass as bytes: the handlers read and write the wire format themselves. */
function rawMethod(path: string, isStream: boolean): MethodDefinition<Buffer, Buffer> {
  const same = (bytes: Buffer): Buffer => bytes;
  return {
    path,
    requestStream: isStream,
    responseStream: isStream,
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  };
}

function addUnary(server: Server, names: readonly string[], calls: Calls): void {
  const definition: Record<string, MethodDefinition<Buffer, Buffer>> = {};
  const implementation: UntypedServiceImplementation = {};
  for (const name of names) {
    definition[name] = rawMethod(`/${name}`, false);
    implementation[name] = unary(name, calls);
  }
  server.addService(definition, implementation);
}

function unary(name: string, calls: Calls): handleUnaryCall<Buffer, Buffer> {
  return (call, callback) => {
    const deadline = call.getDeadline();
    const leftMs =
      typeof deadline === 'number' && !Number.isFinite(deadline)
        ? limits.defaultDeadlineMs
        : Number(deadline) - Date.now();
    const traceparent = call.metadata.get('traceparent')[0];
    const active = calls.start(
      name,
      call.request,
      calls.nowMs() + leftMs,
      'grpc',
      typeof traceparent === 'string' ? traceparent : '',
      (error, response) => {
        if (error === undefined) callback(null, bufferOf(bytesOf(response as Response)));
        else callback(grpcStatusOf(error));
      },
    );
    if (!active.settled) call.on('cancelled', () => calls.cancel(active));
  };
}

function addExchange(
  server: Server,
  calls: Calls,
  options: ApiOptions,
  load: ExchangeLoad,
): Set<ExchangeStream> {
  const streams = new Set<ExchangeStream>();
  const most = options.exchangeStreams ?? exchangeStreamsDefault;
  const exchange = (stream: ServerDuplexStream<Buffer, Buffer>): void => {
    if (streams.size >= most || calls.closed) {
      const error = calls.closed
        ? new HansardError('SHUTTING_DOWN', 'this node is stopping')
        : new HansardError(
            'OVERLOADED',
            `${most} streams are open on this node`,
            {},
            { retryDelayMs: 1_000 },
          );
      stream.emit('error', grpcStatusOf(error));
      return;
    }
    const open = new ExchangeStream(calls, stream, options.exchangeLimits ?? defaultExchangeLimits, load);
    streams.add(open);
    stream.on('close', () => streams.delete(open));
    stream.on('cancelled', () => streams.delete(open));
  };
  server.addService({ Exchange: rawMethod(exchangePath, true) }, { Exchange: exchange });
  return streams;
}

/** Gives a function that shows whether this node serves: as a whole (`''`) and per service. */
function addHealth(server: Server, methods: ReadonlyMap<string, Handler>): (serving: boolean) => void {
  const names = new Set(
    ['', exchangePath.slice(1), tailMethod, ...methods.keys()].map((name) => name.split('/')[0] as string),
  );
  const health = new HealthImplementation();
  health.addToServer(server);
  let shown: boolean | undefined;
  return (serving) => {
    if (serving === shown) return;
    shown = serving;
    for (const name of names) health.setStatus(name, serving ? 'SERVING' : 'NOT_SERVING');
  };
}

/**
 * One definition of each set of files: reflection decodes the files of every definition that it
 * is given, the same ones again and again, which took 210 ms of a node's start.
 */
function onceByFiles(protos: PackageDefinition): PackageDefinition {
  const entries = Object.entries(protos);
  return Object.fromEntries(new Map(entries.map((entry) => [entry[1].fileDescriptorProtos, entry])).values());
}

function bind(server: Server, address: string): Promise<string> {
  return new Promise((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, port) => {
      if (error === null) return resolve(`${address.slice(0, address.lastIndexOf(':'))}:${port}`);
      const taken = /EADDRINUSE/.test(error.message);
      reject(
        new HansardError(
          taken ? 'ADDRESS_IN_USE' : 'INVALID_SETTINGS',
          taken ? `${address} is taken by another process` : `can't listen at ${address}: ${error.message}`,
          { address },
          { cause: error },
        ),
      );
    });
  });
}

function shutdown(server: Server): Promise<void> {
  return new Promise((resolve) => server.tryShutdown(() => resolve()));
}

function timeout(ms: number): { passed: Promise<void>; cancel(): void } {
  let timer: NodeJS.Timeout | undefined;
  const passed = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  return { passed, cancel: () => clearTimeout(timer) };
}

function isLoopback(address: string): boolean {
  const host = address.slice(0, address.lastIndexOf(':'));
  return /^127(\.\d{1,3}){3}$/.test(host) || host === 'localhost' || host === '[::1]' || host === '::1';
}

/** Method names come with or without a leading slash. */
function fullName(method: string): string {
  return method.startsWith('/') ? method.slice(1) : method;
}

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}
