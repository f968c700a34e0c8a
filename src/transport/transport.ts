/** Transport over any Network: who may talk to us, and one PeerLink per peer. */
import { MalformedError } from '../common/bytes.js';
import type { Clock, Network, NetworkListener, OutStream, PeerAddress, Random } from '../common/env.js';
import { assert } from '../common/errors.js';
import { bootIdBytes, clusterIdBytes, isHexId, storeIdBytes } from '../common/hex-ids.js';
import type { NodeId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import { Fetch } from './fetch.js';
import { encodeWelcome } from './frame.js';
import { decodeHello, encodeHello, type Hello, ProtocolVersionError, Rejection } from './hello.js';
import { type LinkHost, PeerLink, type SelfIdentity } from './link.js';
import {
  type FetchHandlers,
  type FetchStream,
  maxRequestBytes,
  type PeerState,
  type StorePins,
  type Transport,
  type TransportHandlers,
  type TransportLimits,
  transportDefaults,
} from './types.js';

export interface TransportOptions {
  readonly self: SelfIdentity;
  /** The other nodes. This node's own entry is left out, or ignored. */
  readonly peers: readonly PeerAddress[];
  readonly network: Network;
  readonly clock: Clock;
  readonly random: Random;
  readonly pins: StorePins;
  readonly logger: Logger;
  readonly limits?: Partial<TransportLimits>;
}

export function createTransport(options: TransportOptions): Transport {
  return new PeerTransport(options);
}

class PeerTransport implements Transport, LinkHost {
  readonly self: SelfIdentity;
  readonly network: Network;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly limits: TransportLimits;
  readonly #peers: readonly PeerAddress[];
  readonly #pins: StorePins;
  /** Stores that are being pinned: a second hello of the peer must not race the first. */
  readonly #pinning = new Map<NodeId, { storeId: string; done: Promise<void> }>();
  readonly #links = new Map<NodeId, PeerLink>();
  readonly #unflushed = new Set<PeerLink>();
  #listener: NetworkListener | undefined;
  #handlers: TransportHandlers | undefined;
  #state: 'new' | 'started' | 'stopped' = 'new';
  #lastRejection = '';

  constructor(options: TransportOptions) {
    const { self } = options;
    assert(isHexId(self.clusterId, clusterIdBytes), `cluster id ${self.clusterId}`);
    assert(isHexId(self.storeId, storeIdBytes), `store id ${self.storeId}`);
    assert(isHexId(self.bootId, bootIdBytes), `boot id ${self.bootId}`);
    this.self = {
      clusterId: self.clusterId,
      nodeId: self.nodeId,
      storeId: self.storeId,
      bootId: self.bootId,
      incarnation: self.incarnation,
    };
    this.network = options.network;
    this.clock = options.clock;
    this.random = options.random;
    this.logger = options.logger;
    this.limits = { ...transportDefaults, ...options.limits };
    this.#pins = options.pins;
    this.#peers = options.peers.filter((peer) => peer.nodeId !== self.nodeId);
  }

  async start(handlers: TransportHandlers): Promise<void> {
    assert(this.#state === 'new', 'a transport starts once');
    this.#state = 'started';
    this.#handlers = handlers;
    for (const peer of this.#peers) this.#links.set(peer.nodeId, new PeerLink(peer, this, handlers));
    const listener = await this.network.listen((hello, stream) => this.#onDial(hello, stream));
    if (this.#isStopped()) {
      await listener.close();
      return;
    }
    this.#listener = listener;
    for (const link of this.#links.values()) link.start();
  }

  get address(): string {
    assert(this.#listener !== undefined, 'the transport listens');
    return this.#listener.address;
  }

  send(to: NodeId, message: Uint8Array, urgent = false): boolean {
    const link = this.#links.get(to);
    if (link === undefined || !link.send(message, urgent)) return false;
    if (this.#unflushed.size === 0) this.clock.defer(() => this.flush());
    this.#unflushed.add(link);
    return true;
  }

  fetch(from: NodeId, request: Uint8Array, handlers: FetchHandlers): FetchStream {
    const peer = this.#peers.find(({ nodeId }) => nodeId === from);
    assert(peer !== undefined, `node ${from} is a peer`);
    assert(request.length > 0 && request.length <= maxRequestBytes, 'a request fits into a hello');
    assert(!this.#isStopped(), 'the transport runs');
    return new Fetch(peer, this, request, handlers);
  }

  flush(): void {
    for (const link of this.#unflushed) link.flush();
    this.#unflushed.clear();
  }

  isConnected(peer: NodeId): boolean {
    return this.#links.get(peer)?.connected ?? false;
  }

  peers(): readonly PeerState[] {
    return Array.from(this.#links.values(), (link) => link.state());
  }

  async stop(): Promise<void> {
    if (this.#state === 'stopped') return;
    this.#state = 'stopped';
    for (const link of this.#links.values()) link.stop();
    this.#unflushed.clear();
    await this.#listener?.close();
  }

  check(hello: Hello): string | undefined {
    const { self } = this;
    if (hello.clusterId !== self.clusterId) {
      return `${Rejection.foreignCluster}: node ${hello.from} is of cluster ${hello.clusterId}, not ${self.clusterId}`;
    }
    if (hello.to !== self.nodeId) {
      return `${Rejection.wrongNode}: this is node ${self.nodeId}, not ${hello.to}`;
    }
    if (!this.#links.has(hello.from)) {
      return `${Rejection.unknownNode}: node ${hello.from} is no member that node ${self.nodeId} knows`;
    }
    if (hello.incarnation !== self.incarnation) {
      return `${Rejection.incarnationChanged}: node ${hello.from} is of incarnation ${hello.incarnation} of the cluster, not ${self.incarnation}`;
    }
    return storeMismatch(hello, this.#pins.getPinned(hello.from));
  }

  ensurePinned(hello: Hello): Promise<string | undefined> | undefined {
    const pending = this.#pinning.get(hello.from);
    if (pending !== undefined) return pending.done.then(() => storeMismatch(hello, pending.storeId));
    if (this.#pins.getPinned(hello.from) !== undefined) return undefined;
    const done = this.#pins.pin(hello.from, hello.storeId);
    this.#pinning.set(hello.from, { storeId: hello.storeId, done });
    this.logger.info({ peer: hello.from, storeId: hello.storeId }, 'first meeting: pinning the store');
    return done.then(
      () => {
        this.#pinning.delete(hello.from);
        return undefined;
      },
      (error: unknown) => {
        this.#pinning.delete(hello.from);
        throw error;
      },
    );
  }

  storeIdOf(nodeId: NodeId): string | undefined {
    return this.#pins.getPinned(nodeId);
  }

  #onDial(bytes: Uint8Array, stream: OutStream): void {
    if (this.#isStopped()) {
      stream.close();
      return;
    }
    let hello: Hello;
    try {
      hello = decodeHello(bytes);
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
      const word =
        error instanceof ProtocolVersionError ? Rejection.protocolVersion : Rejection.malformedHello;
      this.#reject(stream, `${word}: ${error.message}`);
      return;
    }
    const rejection = this.check(hello);
    if (rejection !== undefined) this.#reject(stream, rejection);
    else if (hello.request !== undefined) this.#serveFetch(hello, hello.request, stream);
    else this.#links.get(hello.from)?.accept(hello, stream);
  }

  /** Only for a peer whose store is pinned: who is asked was met on the link before. */
  #serveFetch(hello: Hello, request: Uint8Array, stream: OutStream): void {
    const onFetch = this.#handlers?.onFetch;
    if (onFetch === undefined || this.#pins.getPinned(hello.from) !== hello.storeId) {
      stream.close(`${Rejection.noSuchStream}: node ${this.self.nodeId} has no stream for it`);
      return;
    }
    const { self } = this;
    const welcome = encodeHello({
      ...self,
      from: self.nodeId,
      to: hello.from,
      answersBootId: hello.bootId,
    });
    stream.write(encodeWelcome(welcome));
    onFetch(hello.from, request, stream);
  }

  #reject(stream: OutStream, reason: string): void {
    // A peer that is rejected dials every second: one line each is enough.
    if (reason !== this.#lastRejection) this.logger.warn({ reason }, 'rejected a dial');
    this.#lastRejection = reason;
    stream.close(reason);
  }

  /** A function, because the state changes while `start` waits. */
  #isStopped(): boolean {
    return this.#state === 'stopped';
  }
}

function storeMismatch(hello: Hello, pinned: string | undefined): string | undefined {
  if (pinned === undefined || pinned === hello.storeId) return undefined;
  return `${Rejection.replicaLost}: node ${hello.from} comes with store ${hello.storeId}, but what it promised is in store ${pinned}`;
}
