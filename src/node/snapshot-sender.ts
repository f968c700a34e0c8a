/**
 * Snapshots on their way out. A leader's MsgSnap only says that there is one;
 * the receiver dials for the rows, part by part. An export is held from the
 * first part to the last; who stays away for `idleMs` loses it.
 */
import { MalformedError } from '../common/bytes.js';
import type { Clock, OutStream, Timer } from '../common/env.js';
import type { HansardError } from '../common/errors.js';
import type { Index, NodeId, PartitionId, ReplicaId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import type { Replica } from '../partition/replica.js';
import { isStoreDamage } from '../store/rows.js';
import type { SnapshotPosition } from '../store/snapshot-format.js';
import type { SnapshotExport, Store } from '../store/types.js';
import type { NodeSettings } from './options.js';
import {
  chunkFrameHeader,
  decodeSnapshotRequest,
  encodeSnapshotFrame,
  type SnapshotRequest,
} from './snapshot-codec.js';
import { SnapshotPace } from './snapshot-pace.js';

export interface SnapshotSenderContext {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly settings: NodeSettings;
  readonly store: Store;
  /** Undefined: this node holds none, or the peer is no member. */
  replicaFor(peer: NodeId, partition: PartitionId): Replica | undefined;
  /** What is kept of the log for those that lag is beyond its limit: from twice that on they lose it, and begin anew. */
  isLogTooLarge(): boolean;
  /** A row of this node's state of it does not verify. */
  damaged(partition: PartitionId, error: HansardError): void;
  fatal(error: unknown): void;
}

/** Why a dial for a snapshot is turned away; the first word of the reason. */
export const SnapshotRefusal = { busy: 'BUSY', none: 'NO_SNAPSHOT', malformed: 'MALFORMED_REQUEST' } as const;

const lookMs = 250;
/** Whom the rate holds back for longer than this says so: well below any idle time that ends a snapshot. */
const signMs = 100;

/** A snapshot that one peer is taking. */
interface Outgoing {
  readonly id: number;
  readonly partition: PartitionId;
  readonly peer: NodeId;
  export: SnapshotExport | undefined;
  /** Where the receiver may go on: starts of the chunks since the last part began. */
  positions: Map<number, SnapshotPosition>;
  stream: OutStream | undefined;
  lastUsedMs: number;
}

/** A follower that the core waits for, as leader. */
interface Awaited {
  readonly replica: Replica;
  readonly replicaId: ReplicaId;
  readonly peer: NodeId;
  readonly index: Index;
  lastSignMs: number;
}

export class SnapshotSender {
  readonly #context: SnapshotSenderContext;
  readonly #outgoing = new Map<string, Outgoing>();
  readonly #awaited = new Map<string, Awaited>();
  #timer: Timer | undefined;
  #nextId: number;
  readonly #pace: SnapshotPace;
  #stopped = false;
  sentBytes = 0;
  sent = 0;

  /** `idSeed`: ids of two lives of a process must differ. */
  constructor(context: SnapshotSenderContext, idSeed: number) {
    this.#context = context;
    this.#pace = new SnapshotPace(context.settings.snapshotBytesPerSecond);
    this.#nextId = idSeed * 0x1_0000 + 1;
  }

  /** Snapshots that peers are taking now. */
  get active(): number {
    return this.#outgoing.size;
  }

  /** What may leave a second now: appends come first. */
  get bytesPerSecond(): number {
    return this.#pace.bytesPerSecond;
  }

  /** A round of this node's proposals took `ms` until its commit. */
  committedIn(ms: number): void {
    this.#pace.committed(ms, this.#context.clock.monotonicMs());
  }

  /** As leader: `message` (MsgSnap) has left; until its taker is done, or silent for too long, the core sends it nothing. */
  announced(replica: Replica, replicaId: ReplicaId, peer: NodeId, index: Index): void {
    const lastSignMs = this.#context.clock.monotonicMs();
    this.#awaited.set(`${replica.partition}/${replicaId}`, { replica, replicaId, peer, index, lastSignMs });
    this.#watch();
  }

  /** Log from here on is wanted by who takes a snapshot now; undefined: by nobody. */
  wantedFrom(partition: PartitionId): Index | undefined {
    let from: Index | undefined;
    for (const { replica, index } of this.#awaited.values()) {
      if (replica.partition === partition) from = Math.min(from ?? index, index);
    }
    return from;
  }

  /** What was announced to it is lost; `isGone`: its process is, with all that it had taken. */
  peerDown(peer: NodeId, isGone: boolean): void {
    for (const [key, outgoing] of this.#outgoing) {
      if (isGone && outgoing.peer === peer) this.#release(key, outgoing);
    }
    for (const [key, awaited] of this.#awaited) {
      if (awaited.peer === peer && !this.#isTaking(awaited)) this.#giveUp(key, awaited);
    }
  }

  /** The replica is no member any more. */
  forget(replica: Replica): void {
    for (const [key, awaited] of this.#awaited) if (awaited.replica === replica) this.#awaited.delete(key);
    for (const [key, outgoing] of this.#outgoing) {
      if (outgoing.partition === replica.partition) this.#release(key, outgoing);
    }
  }

  onFetch(peer: NodeId, bytes: Uint8Array, stream: OutStream): void {
    let request: SnapshotRequest;
    try {
      request = decodeSnapshotRequest(bytes);
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
      stream.close(`${SnapshotRefusal.malformed}: ${error.message}`);
      return;
    }
    const replica = this.#context.replicaFor(peer, request.partition);
    if (this.#stopped || replica === undefined) {
      stream.close(`${SnapshotRefusal.none}: partition ${request.partition}`);
      return;
    }
    for (const awaited of this.#awaited.values()) {
      if (awaited.peer === peer && awaited.replica === replica)
        awaited.lastSignMs = this.#context.clock.monotonicMs();
    }
    this.#accept(peer, request, stream);
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    for (const [key, outgoing] of this.#outgoing) this.#release(key, outgoing);
    this.#awaited.clear();
  }

  #accept(peer: NodeId, request: SnapshotRequest, stream: OutStream): void {
    const key = `${request.partition}/${peer}`;
    let outgoing = this.#outgoing.get(key);
    const position = outgoing?.id === request.snapshotId ? outgoing.positions.get(request.offset) : undefined;
    if (outgoing !== undefined && position === undefined) {
      // It begins anew: what it had of this one it can't go on from.
      this.#release(key, outgoing);
      outgoing = undefined;
    }
    if (outgoing === undefined && this.#outgoing.size >= this.#context.settings.snapshotsOut) {
      stream.close(`${SnapshotRefusal.busy}: ${this.#outgoing.size} snapshots are being sent`);
      return;
    }
    outgoing ??= {
      id: this.#nextId++,
      partition: request.partition,
      peer,
      export: undefined,
      positions: new Map(),
      stream: undefined,
      lastUsedMs: 0,
    };
    this.#outgoing.set(key, outgoing);
    this.#watch();
    outgoing.stream?.close();
    outgoing.stream = stream;
    outgoing.lastUsedMs = this.#context.clock.monotonicMs();
    const serving = new Serving(stream);
    this.#serve(key, outgoing, request, position, serving).catch((error: unknown) => {
      serving.close(`${SnapshotRefusal.none}: ${error instanceof Error ? error.message : String(error)}`);
      if (this.#stopped) return this.#release(key, outgoing);
      this.#context.logger.error({ peer, error: String(error) }, 'sending a snapshot failed');
      // Nobody else may ever read that row here, and a leader that is damaged would fail whoever lags again and again.
      if (isStoreDamage(error) && this.#outgoing.get(key) === outgoing)
        this.#context.damaged(outgoing.partition, error);
      this.#release(key, outgoing);
    });
  }

  async #serve(
    key: string,
    outgoing: Outgoing,
    request: SnapshotRequest,
    from: SnapshotPosition | undefined,
    serving: Serving,
  ): Promise<void> {
    const { store, settings, clock, logger } = this.#context;
    let position = from;
    if (outgoing.export === undefined || position === undefined) {
      const made = await store.exportSnapshot(outgoing.partition);
      if (this.#outgoing.get(key) !== outgoing || serving.isClosed) {
        await made?.close();
        if (this.#outgoing.get(key) === outgoing) this.#release(key, outgoing);
        return;
      }
      if (made === undefined || made.index < request.minIndex) {
        serving.close(`${SnapshotRefusal.none}: ${made?.index ?? 0} is sealed, not ${request.minIndex}`);
        this.#release(key, outgoing);
        await made?.close();
        return;
      }
      outgoing.export = made;
      position = made.start;
      logger.info(
        { partition: outgoing.partition, peer: outgoing.peer, index: made.index },
        'sending a snapshot',
      );
    }
    const { export: exported, stream } = outgoing;
    outgoing.positions = new Map([[position.offset, position]]);
    const begin = encodeSnapshotFrame({
      kind: 'begin',
      snapshotId: outgoing.id,
      manifest: exported.manifest,
    });
    await serving.write(begin);
    // A large chunk at a low rate waits for longer than a silent snapshot is kept, on either side.
    const sign = async (): Promise<boolean> => {
      if (serving.isClosed || outgoing.export !== exported) return false;
      outgoing.lastUsedMs = clock.monotonicMs();
      await serving.write(begin);
      return true;
    };
    for (let bytes = 0; bytes < settings.snapshotPartBytes && !serving.isClosed; ) {
      await this.#throttle(sign);
      if (serving.isClosed || outgoing.export !== exported) return;
      const chunkBytes = this.#pace.chunkBytes(settings.snapshotChunkBytes);
      const { chunk, next, last } = await exported.read(position, chunkBytes);
      // Dialled anew, or released: another run of this serves, or none.
      if (serving.isClosed || outgoing.export !== exported) return;
      outgoing.positions.set(next.offset, next);
      position = next;
      bytes += chunk.length;
      this.sentBytes += chunk.length;
      outgoing.lastUsedMs = clock.monotonicMs();
      this.#pace.left(chunk.length, outgoing.lastUsedMs, this.#context.isLogTooLarge());
      await serving.write(chunkFrameHeader, [chunk]);
      if (last) {
        serving.onClose(() => this.#done(key, outgoing, stream));
        return;
      }
    }
    if (!serving.isClosed) await serving.write(encodeSnapshotFrame({ kind: 'partEnd' }));
  }

  /** The receiver hung up behind the last chunk. If that was damaged, it begins anew. */
  #done(key: string, outgoing: Outgoing, stream: OutStream | undefined): void {
    if (this.#outgoing.get(key) !== outgoing || outgoing.stream !== stream) return;
    this.sent++;
    this.#release(key, outgoing);
    for (const awaited of this.#awaited.values()) {
      if (awaited.peer === outgoing.peer && awaited.replica.partition === outgoing.partition)
        awaited.lastSignMs = this.#context.clock.monotonicMs();
    }
  }

  /** All snapshots of the node share the rate. `sign` is called while it waits; false: nobody waits any more. */
  async #throttle(sign: () => Promise<boolean>): Promise<void> {
    const { clock } = this.#context;
    for (;;) {
      const waitMs = this.#pace.waitMs(clock.monotonicMs());
      if (waitMs < 1 || this.#stopped) return;
      await new Promise<void>((resolve) => clock.after(Math.min(waitMs, signMs), resolve));
      if (waitMs > signMs && !(await sign())) return;
    }
  }

  #release(key: string, outgoing: Outgoing): void {
    if (this.#outgoing.get(key) === outgoing) this.#outgoing.delete(key);
    outgoing.stream?.close();
    outgoing.stream = undefined;
    const exported = outgoing.export;
    outgoing.export = undefined;
    exported?.close().catch((error: unknown) => {
      if (!this.#stopped) this.#context.fatal(error);
    });
  }

  // ---- who stays away

  #isTaking({ replica, peer }: Awaited): boolean {
    return this.#outgoing.has(`${replica.partition}/${peer}`);
  }

  #watch(): void {
    if (this.#timer !== undefined || this.#stopped) return;
    this.#timer = this.#context.clock.after(lookMs, () => {
      this.#timer = undefined;
      if (this.#stopped) return;
      this.#look();
      if (this.#outgoing.size > 0 || this.#awaited.size > 0) this.#watch();
    });
  }

  #look(): void {
    const { clock, settings } = this.#context;
    const now = clock.monotonicMs();
    for (const [key, outgoing] of this.#outgoing) {
      if (now - outgoing.lastUsedMs > settings.snapshotIdleMs) this.#release(key, outgoing);
    }
    for (const [key, awaited] of this.#awaited) {
      if (!awaited.replica.awaitsSnapshot(awaited.replicaId)) this.#awaited.delete(key);
      else if (this.#isTaking(awaited)) awaited.lastSignMs = now;
      else if (now - awaited.lastSignMs > settings.snapshotIdleMs) this.#giveUp(key, awaited);
    }
  }

  /** The core forgets that it sent one, and looks anew at the follower's next sign of life. */
  #giveUp(key: string, awaited: Awaited): void {
    this.#awaited.delete(key);
    if (awaited.replica.awaitsSnapshot(awaited.replicaId)) {
      awaited.replica.reportSnapshotFailed(awaited.replicaId);
    }
  }
}

/** One stream being served: writes that wait for room, and whether the other end is still there. */
class Serving {
  isClosed = false;
  readonly #stream: OutStream;
  #onRoom: (() => void) | undefined;
  #onClose: (() => void) | undefined;

  constructor(stream: OutStream) {
    this.#stream = stream;
    stream.onDrain(() => this.#room());
    stream.onClose(() => {
      this.isClosed = true;
      this.#room();
      this.#onClose?.();
    });
  }

  /** Resolves when there is room for the next frame, or nobody left to read it. */
  async write(frame: Uint8Array, more?: readonly Uint8Array[]): Promise<void> {
    if (this.isClosed || this.#stream.write(frame, more)) return;
    if (this.isClosed) return;
    await new Promise<void>((resolve) => {
      this.#onRoom = resolve;
    });
  }

  onClose(fn: () => void): void {
    if (this.isClosed) fn();
    else this.#onClose = fn;
  }

  close(reason: string): void {
    this.isClosed = true;
    this.#stream.close(reason);
  }

  #room(): void {
    const resume = this.#onRoom;
    this.#onRoom = undefined;
    resume?.();
  }
}
