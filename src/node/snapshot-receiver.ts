/**
 * Snapshots on their way in. The leader's MsgSnap is not stepped at once: the
 * rows are fetched first, part by part, into a generation that does not count
 * yet, and only then the core is told, as though the message had just come. So
 * a replica that waits for a snapshot goes on voting and serving what it has.
 */
import { MalformedError } from '../common/bytes.js';
import type { Clock, Timer } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import type { NodeId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import type { Replica } from '../partition/replica.js';
import type { Message } from '../raft/types.js';
import type { SnapshotInstall, Store } from '../store/types.js';
import type { FetchStream, Transport } from '../transport/types.js';
import type { NodeSettings } from './options.js';
import { decodeSnapshotFrame, encodeSnapshotRequest } from './snapshot-codec.js';
import { SnapshotRefusal } from './snapshot-sender.js';

export interface SnapshotReceiverContext {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly settings: NodeSettings;
  readonly store: Store;
  readonly transport: Pick<Transport, 'fetch'>;
  /** Uniform in [0, n). */
  random(n: number): number;
  fatal(error: unknown): void;
}

const lookMs = 250;
/** Until the next dial after a broken one, ms, and as much again at random. */
const retryMs = 200;

/** A snapshot being fetched, or fetched and not wanted yet. */
class Incoming {
  install: SnapshotInstall | undefined;
  snapshotId = 0;
  /** The stream of the current part; counts up so that what an earlier one still says is not heard. */
  attempt = 0;
  stream: FetchStream | undefined;
  /** Frames are taken in one after the other. */
  work: Promise<void> = Promise.resolve();
  retry: Timer | undefined;
  isActive = false;
  /** Frames came, or the leader spoke of it again while it waits for its turn. */
  lastSignMs = 0;

  constructor(
    readonly replica: Replica,
    /** The newest one: a new leader's term is needed in the end. */
    public message: Message,
    public from: NodeId,
  ) {}
}

export class SnapshotReceiver {
  readonly #context: SnapshotReceiverContext;
  readonly #incoming = new Map<Replica, Incoming>();
  #timer: Timer | undefined;
  #stopped = false;
  receivedBytes = 0;
  received = 0;

  constructor(context: SnapshotReceiverContext) {
    this.#context = context;
  }

  /** Snapshots being fetched now. */
  get active(): number {
    let active = 0;
    for (const incoming of this.#incoming.values()) if (incoming.isActive) active++;
    return active;
  }

  /** A MsgSnap came that the replica has use for. */
  offered(replica: Replica, from: NodeId, message: Message): void {
    if (this.#stopped) return;
    let incoming = this.#incoming.get(replica);
    if (incoming === undefined) {
      incoming = new Incoming(replica, message, from);
      this.#incoming.set(replica, incoming);
    }
    incoming.message = message;
    incoming.from = from;
    if (incoming.install?.isComplete) this.#hand(incoming);
    else if (!incoming.isActive) incoming.lastSignMs = this.#context.clock.monotonicMs();
    this.#startWaiting();
    this.#watch();
  }

  /** The replica is no member any more. */
  forget(replica: Replica): void {
    const incoming = this.#incoming.get(replica);
    if (incoming !== undefined) this.#drop(incoming);
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    for (const incoming of this.#incoming.values()) this.#end(incoming);
    this.#incoming.clear();
  }

  #startWaiting(): void {
    for (const incoming of this.#incoming.values()) {
      if (this.active >= this.#context.settings.snapshotsIn) return;
      if (incoming.isActive || incoming.install?.isComplete) continue;
      incoming.isActive = true;
      this.#sign(incoming);
      this.#dial(incoming);
    }
  }

  // ---- one part

  #dial(incoming: Incoming): void {
    const { transport } = this.#context;
    incoming.retry = undefined;
    const { partition } = incoming.replica;
    const minIndex = incoming.message.snapshot?.metadata.index ?? 0;
    const offset = incoming.install?.offset ?? 0;
    const request = { partition, minIndex, snapshotId: incoming.snapshotId, offset };
    const attempt = ++incoming.attempt;
    incoming.stream = transport.fetch(incoming.from, encodeSnapshotRequest(request), {
      onFrame: (frame) => this.#enqueue(incoming, attempt, () => this.#take(incoming, attempt, frame)),
      onEnd: (kind, reason) =>
        this.#enqueue(incoming, attempt, async () => this.#broken(incoming, `${kind}: ${reason}`)),
    });
  }

  /** Runs `job` after the frames before it; what belongs to an earlier stream, or a snapshot given up, is dropped. */
  #enqueue(incoming: Incoming, attempt: number, job: () => Promise<void>): void {
    const isCurrent = (): boolean =>
      !this.#stopped && incoming.attempt === attempt && this.#incoming.get(incoming.replica) === incoming;
    incoming.work = incoming.work
      .then(async () => {
        if (isCurrent()) await job();
      })
      .catch((error: unknown) => {
        if (this.#incoming.get(incoming.replica) !== incoming || this.#stopped) return;
        if (error instanceof MalformedError) this.#broken(incoming, error.message);
        else if (error instanceof HansardError && error.reason !== 'DISK_FAILED')
          this.#giveUp(incoming, error);
        else this.#context.fatal(error);
      });
  }

  async #take(incoming: Incoming, attempt: number, bytes: Uint8Array): Promise<void> {
    this.#sign(incoming);
    const frame = decodeSnapshotFrame(bytes);
    if (frame.kind === 'begin') {
      await this.#begin(incoming, frame.snapshotId, frame.manifest);
      return;
    }
    if (frame.kind === 'partEnd') {
      incoming.stream?.close();
      this.#dial(incoming);
      return;
    }
    const { install } = incoming;
    if (install === undefined) throw new MalformedError('a chunk before its manifest');
    await install.add(frame.chunk);
    this.receivedBytes += frame.chunk.length;
    this.#sign(incoming);
    if (!install.isComplete || incoming.attempt !== attempt) return;
    incoming.stream?.close();
    incoming.stream = undefined;
    incoming.isActive = false;
    this.#hand(incoming);
    this.#startWaiting();
  }

  async #begin(incoming: Incoming, snapshotId: number, manifest: Uint8Array): Promise<void> {
    if (incoming.install !== undefined && snapshotId === incoming.snapshotId) return;
    incoming.install?.abandon();
    incoming.install = undefined;
    incoming.snapshotId = 0;
    const { store, logger } = this.#context;
    const { partition } = incoming.replica;
    const install = await store.beginInstall(partition, manifest);
    if (this.#incoming.get(incoming.replica) !== incoming) {
      install.abandon();
      return;
    }
    incoming.install = install;
    incoming.snapshotId = snapshotId;
    logger.info({ partition, from: incoming.from, index: install.index }, 'taking in a snapshot');
    // Applied past it meanwhile, by the log.
    if (!incoming.replica.wantsSnapshot(install)) this.#drop(incoming);
  }

  /** All of it is there: the core decides. Not taken, it waits for word of today's leader. */
  #hand(incoming: Incoming): void {
    const { replica, message, install } = incoming;
    if (install === undefined) return;
    if (replica.offerSnapshot(message, install)) {
      this.received++;
      this.#incoming.delete(replica);
      const { partition } = replica;
      this.#context.logger.info(
        { partition, index: install.index },
        'a snapshot takes the place of the state',
      );
    } else if (!replica.wantsSnapshot(install)) this.#drop(incoming);
  }

  // ---- what goes wrong

  /** Dials again in a while, from where it is. */
  #broken(incoming: Incoming, reason: string): void {
    const { clock, logger, random } = this.#context;
    incoming.stream?.close();
    incoming.stream = undefined;
    incoming.attempt++;
    const { partition } = incoming.replica;
    // Waiting for a slot there is no failure: it is still wanted.
    if (reason.includes(SnapshotRefusal.busy)) this.#sign(incoming);
    else logger.info({ partition, from: incoming.from, reason }, "a snapshot's stream broke");
    incoming.retry?.cancel();
    incoming.retry = clock.after(retryMs + random(retryMs), () => {
      if (!this.#stopped && this.#incoming.get(incoming.replica) === incoming) this.#dial(incoming);
    });
  }

  #giveUp(incoming: Incoming, error: HansardError): void {
    const { partition } = incoming.replica;
    this.#context.logger.error(
      { partition, from: incoming.from, error: error.message },
      'a snapshot was refused',
    );
    this.#drop(incoming);
  }

  #drop(incoming: Incoming): void {
    this.#incoming.delete(incoming.replica);
    this.#end(incoming);
    this.#startWaiting();
  }

  #end(incoming: Incoming): void {
    incoming.attempt++;
    incoming.isActive = false;
    incoming.retry?.cancel();
    incoming.stream?.close();
    incoming.stream = undefined;
    incoming.install?.abandon();
    incoming.install = undefined;
  }

  #sign(incoming: Incoming): void {
    incoming.lastSignMs = this.#context.clock.monotonicMs();
  }

  /** Without a sign for long it is dropped: whoever leads then offers it anew. */
  #watch(): void {
    if (this.#timer !== undefined || this.#stopped) return;
    this.#timer = this.#context.clock.after(lookMs, () => {
      this.#timer = undefined;
      if (this.#stopped) return;
      const now = this.#context.clock.monotonicMs();
      for (const incoming of [...this.#incoming.values()]) {
        const isObsolete =
          incoming.install !== undefined && !incoming.replica.wantsSnapshot(incoming.install);
        const isSilent = now - incoming.lastSignMs > this.#context.settings.snapshotIdleMs;
        if (isObsolete || isSilent) this.#drop(incoming);
      }
      if (this.#incoming.size > 0) this.#watch();
    });
  }
}
