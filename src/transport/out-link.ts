/**
 * The stream on which we send to one peer: the peer dials it, we accept. What is
 * queued belongs to one stream and goes with it: nothing meant for one life of
 * the peer reaches the next.
 */
import type { OutStream, PeerAddress } from '../common/env.js';
import { encodeFrameHeader, encodeWelcome, frameHeaderBytes, linkFence, nextSequence } from './frame.js';
import { encodeHello, type Hello, Rejection } from './hello.js';
import type { LinkHost } from './link.js';
import { SendQueue } from './send-queue.js';

interface Attached {
  readonly stream: OutStream;
  readonly bootId: string;
  readonly fence: number;
  sequence: number;
  /** The stream's buffer is full: wait for its drain. */
  full: boolean;
}

export class OutLink {
  readonly #queue: SendQueue;
  #attached: Attached | undefined;
  sentBytes = 0;
  sentFrames = 0;
  droppedMessages = 0;

  constructor(
    private readonly peer: PeerAddress,
    private readonly host: LinkHost,
    private readonly onClosed: () => void,
  ) {
    this.#queue = new SendQueue(host.limits.bulkQueueBytes, host.limits.urgentQueueBytes);
  }

  get queuedBytes(): number {
    return this.#queue.bytes;
  }
  /** The boot id of the life that we send to; undefined: not open. */
  get openBootId(): string | undefined {
    return this.#attached?.bootId;
  }

  /** The newest dial wins: the older stream is a leftover that has not noticed yet. */
  attach(hello: Hello, stream: OutStream): void {
    const { self } = this.host;
    this.close(`${Rejection.replaced}: node ${hello.from} dialled again`);
    const attached: Attached = {
      stream,
      bootId: hello.bootId,
      fence: linkFence(self.bootId, hello.bootId),
      sequence: 1,
      full: false,
    };
    this.#attached = attached;
    stream.onDrain(() => {
      if (attached !== this.#attached) return;
      attached.full = false;
      this.flush();
    });
    const welcome = encodeHello({
      ...self,
      from: self.nodeId,
      to: this.peer.nodeId,
      answersBootId: hello.bootId,
    });
    attached.full = !stream.write(encodeWelcome(welcome));
  }

  /** The stream ended by itself; another one may have taken its place already. */
  closed(stream: OutStream): void {
    if (this.#attached?.stream === stream) this.#detach();
  }

  close(reason?: string): void {
    const attached = this.#attached;
    if (attached === undefined) return;
    this.#detach();
    attached.stream.close(reason);
  }

  send(message: Uint8Array, urgent: boolean): boolean {
    if (
      this.#attached === undefined ||
      message.length > this.host.limits.messageBytes ||
      !this.#queue.push(message, urgent)
    ) {
      this.droppedMessages++;
      return false;
    }
    return true;
  }

  flush(): void {
    const attached = this.#attached;
    while (
      attached !== undefined &&
      attached === this.#attached &&
      !attached.full &&
      this.#queue.length > 0
    ) {
      const { runs, count } = this.#queue.take(this.host.limits.frameBytes - frameHeaderBytes);
      const header = encodeFrameHeader(attached.fence, attached.sequence, count);
      attached.sequence = nextSequence(attached.sequence);
      this.sentBytes += header.length;
      for (const { length } of runs) this.sentBytes += length;
      this.sentFrames++;
      attached.full = !attached.stream.write(header, runs);
    }
  }

  #detach(): void {
    this.#attached = undefined;
    this.droppedMessages += this.#queue.clear();
    this.onClosed();
  }
}
