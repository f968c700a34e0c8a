/**
 * A TCP proxy on each way from a node to a peer, for machines without network
 * namespaces. The dialler of a stream is the one that receives on it, so the
 * proxy in front of `to`, as dialled by `from`, carries what `to` sends. Cut, it
 * reads from neither side and closes nothing: buffers fill, and nobody is told.
 *
 * A dial of a node that is gone must be refused, since elections begin at that: a
 * proxy that was refused itself does not listen until the node does. The one dial
 * by which it learns of that is broken instead.
 */
import { createServer, connect as dial, type Server, type Socket } from 'node:net';
import type { TestNetwork } from './network.js';

/** How often a proxy looks whether a node that was gone is there again. */
const lookMs = 50;

export class ProxyNetwork implements TestNetwork {
  readonly kind = 'proxies';
  readonly startArgs = [];
  readonly cutFromClients = undefined;
  readonly slowDown = undefined;
  /** By `dialler>dialled`. */
  readonly #proxies = new Map<string, PeerProxy>();

  hostOf(): string {
    return '127.0.0.1';
  }
  commandOf(): readonly string[] {
    return [];
  }

  async peerAddress(from: number, to: number, address: string): Promise<string> {
    const key = `${from}>${to}`;
    const known = this.#proxies.get(key);
    if (known !== undefined) return known.address;
    const proxy = await PeerProxy.start(address);
    this.#proxies.set(key, proxy);
    return proxy.address;
  }

  cut(from: number, to: number): Promise<void> {
    this.#proxies.get(`${to}>${from}`)?.cut();
    return Promise.resolve();
  }

  heal(): Promise<void> {
    for (const proxy of this.#proxies.values()) proxy.heal();
    return Promise.resolve();
  }

  async end(): Promise<void> {
    await Promise.all(Array.from(this.#proxies.values(), (proxy) => proxy.close()));
    this.#proxies.clear();
  }
}

class PeerProxy {
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  /** Accepted while cut: dialled on when healed. */
  readonly #waiting = new Set<Socket>();
  #isCut = false;
  #look: NodeJS.Timeout | undefined;
  #closed = false;

  private constructor(
    readonly server: Server,
    readonly to: string,
    readonly address: string,
  ) {}

  static async start(to: string): Promise<PeerProxy> {
    const server = createServer({ noDelay: true, pauseOnConnect: true });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(0, '127.0.0.1', resolve);
    });
    const bound = server.address();
    if (bound === null || typeof bound === 'string') throw new Error('the proxy does not listen');
    const proxy = new PeerProxy(server, to, `127.0.0.1:${bound.port}`);
    // From now on an error is one of listening again.
    server.on('error', () => proxy.#lookLater());
    server.on('connection', (socket) => proxy.#take(socket));
    return proxy;
  }

  cut(): void {
    this.#isCut = true;
    for (const pair of this.#pairs)
      for (const socket of pair) {
        socket.unpipe();
        socket.pause();
      }
  }

  heal(): void {
    if (!this.#isCut) return;
    this.#isCut = false;
    for (const [a, b] of this.#pairs) {
      a.pipe(b);
      b.pipe(a);
    }
    for (const socket of this.#waiting) this.#join(socket);
    this.#waiting.clear();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#look);
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
    for (const socket of this.#waiting) socket.destroy();
    await closed;
  }

  #take(socket: Socket): void {
    socket.on('error', () => {});
    if (!this.#isCut) return this.#join(socket);
    this.#waiting.add(socket);
    socket.on('close', () => this.#waiting.delete(socket));
  }

  #join(dialler: Socket): void {
    const dialled = this.#dial();
    dialled.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' && this.server.listening) this.#hide();
    });
    const pair = [dialler, dialled] as const;
    this.#pairs.add(pair);
    const end = (): void => {
      this.#pairs.delete(pair);
      dialler.destroy();
      dialled.destroy();
    };
    for (const socket of pair) {
      socket.on('error', end);
      socket.on('close', end);
    }
    if (this.#isCut) return;
    dialler.pipe(dialled);
    dialled.pipe(dialler);
  }

  #dial(): Socket {
    const colon = this.to.lastIndexOf(':');
    return dial({
      host: this.to.slice(0, colon),
      port: Number(this.to.slice(colon + 1)),
      noDelay: true,
    });
  }

  /** The node is gone: so is its address, until it is back. */
  #hide(): void {
    this.server.close();
    this.#lookLater();
  }

  #lookLater(): void {
    clearTimeout(this.#look);
    if (this.#closed) return;
    this.#look = setTimeout(() => {
      const probe = this.#dial();
      probe.on('error', () => this.#lookLater());
      probe.on('connect', () => {
        probe.destroy();
        const port = Number(this.address.slice(this.address.indexOf(':') + 1));
        if (!this.#closed) this.server.listen(port, '127.0.0.1');
      });
    }, lookMs);
  }
}
