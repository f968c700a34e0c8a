/**
 * The stream on which one peer sends to us: we dial it, check the welcome, hand
 * its messages on, and dial again when it ends.
 *
 *   waiting → dialling → (welcome checked, pinned) → open → waiting …
 *
 * A stream that was open and broke is dialled again at once: an answer "nobody
 * listens" is how followers learn within a millisecond that a leader's process
 * is gone (design rule 14).
 */
import { MalformedError, ownCopy } from '../common/bytes.js';
import type { InStream, PeerAddress, Timer } from '../common/env.js';
import { decodeFrame, decodeWelcome, linkFence, nextSequence } from './frame.js';
import { decodeHello, encodeHello, type Hello, noBootId, peerPrefix, Rejection } from './hello.js';
import type { LinkHost } from './link.js';

export type DownKind = 'broken' | 'refused' | 'rejected';

export interface InLinkHandlers {
  onOpen(bootId: string): void;
  onMessage(message: Uint8Array): void;
  onDown(kind: DownKind, reason: string): void;
}

/** One dialled stream. Events of any but the current attempt are ignored. */
interface Attempt {
  stream: InStream | undefined;
  timer: Timer | undefined;
  phase: 'dialling' | 'pinning' | 'open';
  hello: Hello | undefined;
  fence: number;
  sequence: number;
  openedAtMs: number;
  /** Frames that came while the peer's store was being pinned. */
  held: Uint8Array[];
  heldBytes: number;
}

export class InLink {
  #attempt: Attempt | undefined;
  #redial: Timer | undefined;
  #failures = 0;
  #stopped = false;
  /** What onDown said last; undefined while open, or before the first failure. */
  #lastDown: DownKind | undefined;
  #problem: string | undefined = 'not connected yet';
  receivedBytes = 0;

  constructor(
    private readonly peer: PeerAddress,
    private readonly host: LinkHost,
    private readonly handlers: InLinkHandlers,
  ) {}

  /** The boot id of the life that sends to us; undefined: not open. */
  get openBootId(): string | undefined {
    return this.#attempt?.phase === 'open' ? this.#attempt.hello?.bootId : undefined;
  }
  get problem(): string | undefined {
    return this.#problem;
  }

  dial(): void {
    if (this.#stopped || this.#attempt !== undefined) return;
    this.#redial?.cancel();
    this.#redial = undefined;
    const { self, clock, network, limits } = this.host;
    const attempt: Attempt = {
      stream: undefined,
      timer: undefined,
      phase: 'dialling',
      hello: undefined,
      fence: 0,
      sequence: 1,
      openedAtMs: 0,
      held: [],
      heldBytes: 0,
    };
    this.#attempt = attempt;
    const hello = encodeHello({ ...self, from: self.nodeId, to: this.peer.nodeId, answersBootId: noBootId });
    attempt.stream = network.dial(this.peer, hello, {
      onOpen: () => {},
      onFrame: (frame) => this.#onFrame(attempt, frame),
      onClose: (kind, reason) => this.#onEnd(attempt, kind, reason),
    });
    attempt.timer = clock.after(limits.handshakeMs, () => {
      if (attempt.phase === 'dialling') {
        this.#end(attempt, 'broken', `no welcome within ${limits.handshakeMs} ms`);
      }
    });
  }

  /** The peer is alive for sure (it dialled us): no reason to wait any longer. */
  dialNow(): void {
    if (this.#redial !== undefined) this.dial();
  }

  /** Gives the current stream up, as when it breaks. */
  breakOff(reason: string): void {
    if (this.#attempt !== undefined) this.#end(this.#attempt, 'broken', reason);
  }

  stop(): void {
    this.#stopped = true;
    this.#redial?.cancel();
    const attempt = this.#attempt;
    this.#attempt = undefined;
    this.#problem = 'stopped';
    attempt?.timer?.cancel();
    attempt?.stream?.close();
  }

  #onFrame(attempt: Attempt, frame: Uint8Array): void {
    if (attempt !== this.#attempt) return;
    this.receivedBytes += frame.length;
    try {
      if (attempt.phase === 'open') this.#deliver(attempt, frame);
      else if (attempt.phase === 'dialling') this.#onWelcome(attempt, frame);
      else this.#hold(attempt, frame);
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
      this.#end(attempt, 'broken', `malformed frame: ${error.message}`);
    }
  }

  #onWelcome(attempt: Attempt, frame: Uint8Array): void {
    const { host } = this;
    const hello = decodeHello(decodeWelcome(frame));
    const rejection =
      hello.from !== this.peer.nodeId
        ? `${Rejection.wrongNode}: node ${hello.from} answers at ${this.peer.address}`
        : hello.answersBootId !== host.self.bootId
          ? `${Rejection.wrongNode}: the welcome answers another life of this node`
          : host.check(hello);
    if (rejection !== undefined) {
      this.#end(attempt, 'rejected', peerPrefix + rejection);
      return;
    }
    attempt.hello = hello;
    attempt.fence = linkFence(hello.bootId, host.self.bootId);
    const pinned = host.ensurePinned(hello);
    if (pinned === undefined) {
      this.#open(attempt);
      return;
    }
    attempt.phase = 'pinning';
    pinned.then(
      (rejected) => {
        if (attempt !== this.#attempt) return;
        if (rejected === undefined) this.#open(attempt);
        else this.#end(attempt, 'rejected', peerPrefix + rejected);
      },
      (error: unknown) => this.#end(attempt, 'broken', `could not pin the peer's store: ${String(error)}`),
    );
  }

  #open(attempt: Attempt): void {
    attempt.phase = 'open';
    attempt.timer?.cancel();
    attempt.openedAtMs = this.host.clock.monotonicMs();
    this.#lastDown = undefined;
    this.#problem = undefined;
    this.handlers.onOpen((attempt.hello as Hello).bootId);
    const held = attempt.held;
    attempt.held = [];
    for (const frame of held) this.#redeliver(attempt, frame);
  }

  #redeliver(attempt: Attempt, frame: Uint8Array): void {
    this.receivedBytes -= frame.length; // counted when it came
    this.#onFrame(attempt, frame);
  }

  #hold(attempt: Attempt, frame: Uint8Array): void {
    attempt.heldBytes += frame.length;
    if (attempt.heldBytes > this.host.limits.bulkQueueBytes) {
      throw new MalformedError('too much was sent while the store was being pinned');
    }
    attempt.held.push(ownCopy(frame));
  }

  #deliver(attempt: Attempt, frame: Uint8Array): void {
    const messages = decodeFrame(frame, attempt.fence, attempt.sequence);
    attempt.sequence = nextSequence(attempt.sequence);
    for (const message of messages) {
      if (attempt !== this.#attempt) return; // a handler stopped us
      this.handlers.onMessage(message);
    }
  }

  /** Ends it from this side. */
  #end(attempt: Attempt, kind: DownKind, reason: string): void {
    if (attempt !== this.#attempt) return;
    attempt.stream?.close();
    this.#onEnd(attempt, kind, reason);
  }

  #onEnd(attempt: Attempt, kind: DownKind, reason: string): void {
    if (attempt !== this.#attempt) return;
    this.#attempt = undefined;
    attempt.timer?.cancel();
    attempt.held = [];
    const wasOpen = attempt.phase === 'open';
    const stable = wasOpen && this.host.clock.monotonicMs() - attempt.openedAtMs >= this.host.limits.stableMs;
    if (stable) this.#failures = 0;
    if (this.#problem !== reason && !this.#stopped) {
      this.host.logger.info({ peer: this.peer.nodeId, kind, reason }, 'stream from peer is down');
    }
    this.#problem = reason;
    // Before onDown: a handler may ask for a new dial, and the loser of the two is a no-op.
    if (stable && kind === 'broken') this.dial();
    else this.#scheduleRedial(kind);
    if (this.#lastDown !== kind) {
      this.#lastDown = kind;
      this.handlers.onDown(kind, reason);
    }
  }

  #scheduleRedial(kind: DownKind): void {
    const { limits, random, clock } = this.host;
    const base =
      kind === 'rejected'
        ? limits.backoffMaxMs
        : Math.min(limits.backoffMaxMs, limits.backoffMinMs * 2 ** Math.min(this.#failures, 20));
    this.#failures++;
    // Up to half as much again, so that the nodes of a cluster don't dial in step.
    const delayMs = base + Math.floor((base / 2) * (random.u32() / 2 ** 32));
    this.#redial = clock.after(delayMs, () => {
      this.#redial = undefined;
      this.dial();
    });
  }
}
