/**
 * The network of a simulated cluster: streams as TCP gives them (in order, whole
 * frames or none, broken at any moment), on a simulated clock, with every fault
 * decided by the seed or by the test.
 *
 * - delay: each frame takes its own time, order within a stream is kept;
 * - slow link: bytes per second, with back pressure (`write` returns false);
 * - blocked direction: nothing passes from a to b until healed; streams stay
 *   open and go on where they were (TCP sends again). Both directions blocked
 *   is a partition, one is an asymmetric one;
 * - break: a stream ends on both sides, frames on their way are lost;
 * - kill: a node's listener and streams are gone; of what it had sent, a random
 *   part arrives still; who dials it is refused.
 */
import { strict as nodeAssert } from 'node:assert';
import type {
  Clock,
  InStream,
  InStreamHandlers,
  Network,
  NetworkListener,
  OutStream,
  PeerAddress,
  Timer,
} from '../../src/common/env.js';
import type { NodeId } from '../../src/common/ids.js';
import { overwrite } from './sending.js';
import type { SimRandom } from './sim-clock.js';

export interface SimNetworkFaults {
  delayMinMs: number;
  delayMaxMs: number;
  /** Chance per frame that its stream breaks with it on its way. */
  breakChance: number;
  /** Of every link; 0: no limit. */
  bytesPerSecond: number;
}

export const noFaults: SimNetworkFaults = Object.freeze({
  delayMinMs: 0.1,
  delayMaxMs: 0.5,
  breakChance: 0,
  bytesPerSecond: 0,
});

/** What a sender may have on its way before `write` says false. */
const windowBytes = 2 * 1024 * 1024;

interface Listening {
  nodeId: NodeId;
  onDial: (hello: Uint8Array, stream: OutStream) => void;
}

export class SimNetwork {
  readonly faults: SimNetworkFaults;
  readonly #listeners = new Map<string, Listening>();
  readonly #streams = new Set<SimStream>();
  /** "from>to" of blocked directions. */
  readonly #blocked = new Set<string>();
  readonly #lives = new Map<NodeId, number>();
  #nextPort = 1;
  /** For tests: frames that arrived, and that were lost. */
  delivered = 0;
  lost = 0;

  constructor(
    readonly clock: Clock,
    readonly random: SimRandom,
    faults: Partial<SimNetworkFaults> = {},
  ) {
    this.faults = { ...noFaults, ...faults };
    // Nothing arrives in the moment in which it is sent: handlers would run inside `write` and `dial`.
    nodeAssert(this.faults.delayMinMs > 0 && this.faults.delayMaxMs >= this.faults.delayMinMs);
  }

  /** One life of a node's network, until `kill`. `address` empty: one is made up. */
  node(nodeId: NodeId, address = ''): Network {
    const life = this.#life(nodeId);
    return {
      listen: async (onDial) => {
        nodeAssert(life === this.#life(nodeId), 'a dead process listens');
        return this.#listen(nodeId, address, onDial);
      },
      dial: (to, hello, handlers) =>
        // What is left of a killed process in the simulation gets no answer.
        life === this.#life(nodeId) ? this.#dial(nodeId, to, hello, handlers) : { close: () => {} },
    };
  }

  /** The process is gone. */
  kill(nodeId: NodeId): void {
    this.#lives.set(nodeId, this.#life(nodeId) + 1);
    for (const [address, listening] of this.#listeners) {
      if (listening.nodeId === nodeId) this.#listeners.delete(address);
    }
    for (const stream of [...this.#streams]) {
      if (stream.sender === nodeId || stream.receiver === nodeId) stream.killEnd(nodeId);
    }
  }

  block(from: NodeId, to: NodeId): void {
    this.#blocked.add(`${from}>${to}`);
  }

  unblock(from: NodeId, to: NodeId): void {
    this.#blocked.delete(`${from}>${to}`);
    for (const stream of [...this.#streams]) stream.pump();
  }

  /** Both ways between `node` and each of the others. */
  isolate(node: NodeId, others: readonly NodeId[]): void {
    for (const other of others) {
      this.block(node, other);
      this.block(other, node);
    }
  }

  healAll(): void {
    this.#blocked.clear();
    for (const stream of [...this.#streams]) stream.pump();
  }

  isBlocked(from: NodeId, to: NodeId): boolean {
    return this.#blocked.has(`${from}>${to}`);
  }

  /** All streams between the two end on both sides, what is on its way is lost. */
  breakStreams(a: NodeId, b: NodeId): void {
    for (const stream of [...this.#streams]) {
      const { sender, receiver } = stream;
      if ((sender === a && receiver === b) || (sender === b && receiver === a)) stream.break('stream broken');
    }
  }

  delayMs(): number {
    const { delayMinMs, delayMaxMs } = this.faults;
    return delayMinMs + (delayMaxMs - delayMinMs) * this.random.fraction();
  }

  listening(address: string): Listening | undefined {
    return this.#listeners.get(address);
  }

  forget(stream: SimStream): void {
    this.#streams.delete(stream);
  }

  #life(nodeId: NodeId): number {
    return this.#lives.get(nodeId) ?? 0;
  }

  #listen(
    nodeId: NodeId,
    wanted: string,
    onDial: (hello: Uint8Array, stream: OutStream) => void,
  ): NetworkListener {
    const address = wanted === '' ? `sim:${this.#nextPort++}` : wanted;
    nodeAssert(!this.#listeners.has(address), `${address} is taken`);
    const listening = { nodeId, onDial };
    this.#listeners.set(address, listening);
    return {
      address,
      close: async () => {
        if (this.#listeners.get(address) === listening) this.#listeners.delete(address);
        for (const stream of [...this.#streams]) {
          if (stream.acceptedBy === listening) stream.break('listener closed');
        }
      },
    };
  }

  #dial(from: NodeId, to: PeerAddress, hello: Uint8Array, handlers: InStreamHandlers): InStream {
    const stream = new SimStream(this, to, from, Uint8Array.from(hello), handlers);
    this.#streams.add(stream);
    stream.pump();
    return { close: () => stream.closeByReceiver() };
  }
}

/** From dialling to the end. The dialler is the receiver. */
class SimStream {
  readonly sender: NodeId;
  /** Of one life of the sender: the next one's streams are none of its business. */
  acceptedBy: Listening | undefined;
  #phase: 'dialling' | 'open' | 'ended' = 'dialling';
  /** Sent, in order; the head leaves when its time has come and the direction is open. */
  #queue: { atMs: number; bytes: number; run: () => void }[] = [];
  #lastAtMs = 0;
  #linkFreeAtMs = 0;
  #pumping: Timer | undefined;
  #inFlight = 0;
  #full = false;
  #receiverClosed = false;
  #senderClosed = false;
  #onDrain: () => void = () => {};
  #onClose: () => void = () => {};

  constructor(
    private readonly net: SimNetwork,
    private readonly to: PeerAddress,
    readonly receiver: NodeId,
    private readonly hello: Uint8Array,
    private readonly handlers: InStreamHandlers,
  ) {
    // Where nobody listens, the kernel there answers: blocked directions hold that too.
    this.sender = net.listening(to.address)?.nodeId ?? to.nodeId;
    this.#enqueue(0, () => this.#knock());
  }

  /** Lets through what may pass now; called again when time passes or a block is lifted. */
  pump(): void {
    this.#pumping?.cancel();
    this.#pumping = undefined;
    while (this.#phase !== 'ended' && !this.#isBlocked()) {
      const head = this.#queue[0];
      if (head === undefined) return;
      const wait = head.atMs - this.net.clock.monotonicMs();
      if (wait > 0) {
        this.#pumping = this.net.clock.after(wait, () => this.pump());
        return;
      }
      this.#queue.shift();
      head.run();
    }
  }

  closeByReceiver(): void {
    if (this.#receiverClosed) return;
    this.#receiverClosed = true;
    if (this.#phase !== 'ended') this.#end();
    this.#tellSender();
  }

  /** Both sides learn it, each after a delay of its own. */
  break(reason: string): void {
    if (this.#phase === 'ended') return;
    this.net.lost += this.#queue.length;
    this.#end();
    this.#tellReceiver('broken', reason);
    this.#tellSender();
  }

  /** The process at one end is gone; the other learns it from its kernel. */
  killEnd(node: NodeId): void {
    if (node === this.receiver) {
      this.#receiverClosed = true;
      this.#end();
      this.#tellSender();
      return;
    }
    this.#senderClosed = true;
    if (this.#phase === 'ended') return;
    // What had left the process may arrive still: a random part, then the end.
    const keep = Math.floor(this.net.random.fraction() * (this.#queue.length + 1));
    this.net.lost += this.#queue.length - keep;
    this.#queue.length = keep;
    this.#enqueue(0, () => this.#finish('broken', 'connection reset'));
    this.pump();
  }

  #knock(): void {
    const listening = this.net.listening(this.to.address);
    if (listening === undefined || listening.nodeId !== this.sender) {
      this.#finish('refused', `connection refused by ${this.to.address}`);
      return;
    }
    this.#phase = 'open';
    this.acceptedBy = listening;
    this.#enqueue(0, () => {
      if (!this.#receiverClosed) this.handlers.onOpen();
    });
    listening.onDial(this.hello, this.#outStream());
  }

  #outStream(): OutStream {
    return {
      write: (frame, more = []) => this.#write(Buffer.concat([frame, ...more])),
      onDrain: (fn) => {
        this.#onDrain = fn;
      },
      onClose: (fn) => {
        this.#onClose = fn;
      },
      close: (reason) => this.#closeBySender(reason),
    };
  }

  #write(frame: Uint8Array): boolean {
    if (this.#senderClosed || this.#phase === 'ended') return false;
    this.#inFlight += frame.length;
    const torn = this.net.random.chance(this.net.faults.breakChance);
    this.#enqueue(frame.length, () => {
      this.#inFlight -= frame.length;
      if (torn) {
        this.net.lost++;
        this.break('broken in mid-frame');
        return;
      }
      this.net.delivered++;
      if (!this.#receiverClosed) this.handlers.onFrame(frame);
      overwrite(frame);
      if (this.#full && this.#inFlight <= windowBytes / 2 && !this.#senderClosed) {
        this.#full = false;
        this.#onDrain();
      }
    });
    this.pump();
    if (this.#inFlight >= windowBytes) this.#full = true;
    return !this.#full;
  }

  #closeBySender(reason: string | undefined): void {
    if (this.#senderClosed) return;
    this.#senderClosed = true;
    this.net.clock.defer(() => this.#onClose());
    if (this.#phase === 'ended') return;
    const kind = reason === undefined ? 'broken' : 'rejected';
    this.#enqueue(0, () => this.#finish(kind, reason ?? 'closed by the peer'));
    this.pump();
  }

  #enqueue(bytes: number, run: () => void): void {
    const now = this.net.clock.monotonicMs();
    const { bytesPerSecond } = this.net.faults;
    this.#linkFreeAtMs =
      Math.max(now, this.#linkFreeAtMs) + (bytesPerSecond > 0 ? (bytes / bytesPerSecond) * 1000 : 0);
    this.#lastAtMs = Math.max(this.#lastAtMs, this.#linkFreeAtMs + this.net.delayMs());
    this.#queue.push({ atMs: this.#lastAtMs, bytes, run });
  }

  /** A dial needs both directions (its answer comes back), frames only theirs. */
  #isBlocked(): boolean {
    const towardsUs = this.net.isBlocked(this.sender, this.receiver);
    if (this.#phase !== 'dialling') return towardsUs;
    return towardsUs || this.net.isBlocked(this.receiver, this.sender);
  }

  /** The end that the sending side made, arrived. */
  #finish(kind: 'refused' | 'rejected' | 'broken', reason: string): void {
    this.#end();
    if (!this.#receiverClosed) {
      this.#receiverClosed = true;
      this.handlers.onClose(kind, reason);
    }
    this.#tellSender();
  }

  #end(): void {
    this.#phase = 'ended';
    this.#pumping?.cancel();
    this.#queue = [];
    this.net.forget(this);
  }

  #tellReceiver(kind: 'broken', reason: string): void {
    if (this.#receiverClosed) return;
    this.net.clock.after(this.net.delayMs(), () => {
      if (this.#receiverClosed) return;
      this.#receiverClosed = true;
      this.handlers.onClose(kind, reason);
    });
  }

  #tellSender(): void {
    if (this.#senderClosed || this.acceptedBy === undefined) return;
    this.net.clock.after(this.net.delayMs(), () => {
      if (this.#senderClosed) return;
      this.#senderClosed = true;
      this.#onClose();
    });
  }
}
