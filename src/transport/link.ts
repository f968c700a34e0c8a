/** One peer: the stream that it sends on and the one that we send on, and whether the two fit together. */
import type { Clock, Network, OutStream, PeerAddress, Random } from '../common/env.js';
import type { NodeId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import type { Hello } from './hello.js';
import { InLink } from './in-link.js';
import { OutLink } from './out-link.js';
import type { PeerState, TransportHandlers, TransportLimits } from './types.js';

export interface SelfIdentity {
  /** 16 bytes in hex. */
  readonly clusterId: string;
  readonly nodeId: NodeId;
  /** 8 bytes in hex. */
  readonly storeId: string;
  /** 8 bytes in hex, another one in each life of the process. */
  readonly bootId: string;
  readonly incarnation: number;
}

/** What a link needs of the transport. */
export interface LinkHost {
  readonly self: SelfIdentity;
  readonly network: Network;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly limits: TransportLimits;
  /** A reason to have nothing to do with who says this hello. */
  check(hello: Hello): string | undefined;
  /** Undefined: its store is pinned already. Else resolves once that is durable, to a rejection or undefined. */
  ensurePinned(hello: Hello): Promise<string | undefined> | undefined;
  storeIdOf(nodeId: NodeId): string | undefined;
}

export class PeerLink {
  readonly #in: InLink;
  readonly #out: OutLink;
  #connected = false;
  #stopped = false;

  constructor(
    readonly peer: PeerAddress,
    private readonly host: LinkHost,
    private readonly handlers: TransportHandlers,
  ) {
    this.#in = new InLink(peer, host, {
      onOpen: (bootId) => {
        // The life that now speaks to us is the newer one: a stream to another is a leftover.
        if (this.#out.openBootId !== undefined && this.#out.openBootId !== bootId) this.#out.close();
        this.#update();
      },
      onMessage: (message) => handlers.onMessage(peer.nodeId, message),
      onDown: (kind, reason) => {
        this.#update();
        handlers.onDown(peer.nodeId, kind, reason);
      },
    });
    this.#out = new OutLink(peer, host, () => this.#update());
  }

  get connected(): boolean {
    return this.#connected;
  }

  start(): void {
    this.#in.dial();
  }

  /** The peer dialled us; its hello was checked. */
  accept(hello: Hello, stream: OutStream): void {
    let open = true;
    stream.onClose(() => {
      open = false;
      this.#out.closed(stream);
    });
    const pinned = this.host.ensurePinned(hello);
    if (pinned === undefined) {
      this.#attach(hello, stream);
      return;
    }
    pinned.then(
      (rejection) => {
        if (rejection !== undefined || this.#stopped) stream.close(rejection);
        else if (open) this.#attach(hello, stream);
      },
      (error: unknown) => {
        this.host.logger.error({ peer: this.peer.nodeId, error }, "could not pin the peer's store");
        stream.close();
      },
    );
  }

  send(message: Uint8Array, urgent: boolean): boolean {
    return this.#out.send(message, urgent);
  }

  flush(): void {
    this.#out.flush();
  }

  state(): PeerState {
    return {
      nodeId: this.peer.nodeId,
      address: this.peer.address,
      connected: this.#connected,
      queuedBytes: this.#out.queuedBytes,
      sentBytes: this.#out.sentBytes,
      sentFrames: this.#out.sentFrames,
      receivedBytes: this.#in.receivedBytes,
      droppedMessages: this.#out.droppedMessages,
      storeId: this.host.storeIdOf(this.peer.nodeId),
      problem: this.#in.problem,
    };
  }

  stop(): void {
    this.#stopped = true;
    this.#in.stop();
    this.#out.close();
    this.#connected = false;
  }

  #attach(hello: Hello, stream: OutStream): void {
    this.#out.attach(hello, stream);
    const sending = this.#in.openBootId;
    if (sending !== undefined && sending !== hello.bootId) this.#in.breakOff('the peer started anew');
    this.#in.dialNow();
    this.#update();
  }

  #update(): void {
    const bootId = this.#in.openBootId;
    const connected = bootId !== undefined && bootId === this.#out.openBootId;
    if (connected === this.#connected) return;
    this.#connected = connected;
    if (connected && !this.#stopped) this.handlers.onUp(this.peer.nodeId);
  }
}
