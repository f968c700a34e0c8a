/**
 * Streams of their own beside the links: whoever wants something in bulk (a
 * snapshot) dials the peer that has it and says what it wants in its hello. The
 * peer answers with a welcome and sends; neither touches the link.
 */
import { MalformedError, ownCopy } from '../common/bytes.js';
import type { InStream, PeerAddress, Timer } from '../common/env.js';
import { decodeWelcome } from './frame.js';
import { decodeHello, encodeHello, noBootId, peerPrefix, Rejection } from './hello.js';
import type { LinkHost } from './link.js';
import type { FetchHandlers, FetchStream } from './types.js';

/** The dialler's end. */
export class Fetch implements FetchStream {
  readonly #stream: InStream;
  readonly #timer: Timer;
  #state: 'dialling' | 'open' | 'ended' = 'dialling';

  constructor(
    private readonly peer: PeerAddress,
    private readonly host: LinkHost,
    request: Uint8Array,
    private readonly handlers: FetchHandlers,
  ) {
    const { self, clock, network, limits } = host;
    const hello = encodeHello({
      ...self,
      from: self.nodeId,
      to: peer.nodeId,
      answersBootId: noBootId,
      request,
    });
    this.#stream = network.dial(peer, hello, {
      onOpen: () => {},
      onFrame: (frame) => this.#onFrame(frame),
      onClose: (kind, reason) => this.#onEnd(kind, reason),
    });
    this.#timer = clock.after(limits.handshakeMs, () => {
      if (this.#state === 'dialling') this.#end(`no welcome within ${limits.handshakeMs} ms`);
    });
  }

  close(): void {
    if (this.#state === 'ended') return;
    this.#state = 'ended';
    this.#timer.cancel();
    this.#stream.close();
  }

  #onFrame(frame: Uint8Array): void {
    if (this.#state === 'ended') return;
    try {
      if (this.#state === 'open') this.handlers.onFrame(ownCopy(frame));
      else this.#onWelcome(frame);
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
      this.#end(`malformed frame: ${error.message}`);
    }
  }

  #onWelcome(frame: Uint8Array): void {
    const host = this.host;
    const hello = decodeHello(decodeWelcome(frame));
    const rejection =
      hello.from !== this.peer.nodeId || hello.answersBootId !== host.self.bootId
        ? `${Rejection.wrongNode}: node ${hello.from} answers at ${this.peer.address}`
        : host.check(hello);
    // A store that was not met on the link is not met here first.
    if (rejection !== undefined || host.storeIdOf(hello.from) !== hello.storeId) {
      this.#end(peerPrefix + (rejection ?? `${Rejection.replicaLost}: its store is not known`));
      return;
    }
    this.#state = 'open';
    this.#timer.cancel();
  }

  #end(reason: string): void {
    this.#stream.close();
    this.#onEnd('broken', reason);
  }

  #onEnd(kind: 'refused' | 'rejected' | 'broken', reason: string): void {
    if (this.#state === 'ended') return;
    this.#state = 'ended';
    this.#timer.cancel();
    this.handlers.onEnd(kind, reason);
  }
}
