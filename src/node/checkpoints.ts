/**
 * When tails are sealed and the log is cut. Several partitions share one
 * LevelDB batch, since each costs a sync; one such batch is under way at a time.
 */
import type { Clock, Timer } from '../common/env.js';
import type { Index, NodeId, PartitionId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import type { Replica } from '../partition/replica.js';
import type { Store } from '../store/types.js';
import type { Wal } from '../wal/types.js';
import { type CheckpointPlace, checkpointPeriod, isTurnBetween } from './checkpoint-turns.js';
import type { NodeSettings } from './options.js';

export interface CheckpointsContext {
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly settings: NodeSettings;
  readonly store: Store;
  readonly wal: Wal;
  readonly logger: Logger;
  replicas(): readonly Replica[];
  /** What all members of the partition have, as far as its leader told; 0 where unknown. */
  keptByAll(replica: Replica): Index;
  /** A member takes a snapshot and goes on from here; undefined: none does. */
  wantedFrom(replica: Replica): Index | undefined;
  /** A checkpoint resolved: tails have room again. */
  roomAgain(): void;
  /** What the log has is still being applied. */
  isStarting(): boolean;
  fatal(error: unknown): void;
}

/** A start rebuilds full tails, and what was committed and not applied yet when the node went: it may have a quarter more. */
const startRoom = 1.25;
/**
 * Sealing an event alone in its channel costs several times what it does in company: its channel's row is read,
 * merged and written for it. While a channel has less than this in the tails they may grow beyond `checkpointBytes`, by
 * as much as it lacks (no step, at which all nodes would seal at once) …
 */
const companyBytes = 8 * 1024;
/** … to this multiple, and to this share of their limit: the rest is for what is applied while they are sealed. */
const wideFactor = 8;
const wideShare = 0.5;
/** … and no further: a checkpoint is one batch of LevelDB, which holds it in memory twice. */
const wideBytesMax = 256 * 1024 * 1024;
/** A node's moment passes unused while its tails have less than this share of what makes them full … */
const turnShare = 0.25;
/** … and may come so much after they are: then the next one surely is in time. */
const turnRoom = 1.25;
/** The last of many nodes seals what is this much younger than what the first one does. */
const ageSpread = 0.5;
/** How often it looks, ms, which is how exactly it meets its moment; a full tail does not wait for the look. */
const lookMs = 100;
/** While nothing waits to be sealed. */
const restMs = 1_000;

export class Checkpoints {
  readonly #context: CheckpointsContext;
  #timer: Timer | undefined;
  #running: Promise<void> | undefined;
  readonly #wanted = new Set<PartitionId>();
  #stopped = false;
  #isAnyDirty = false;
  /** Applied entries of all partitions, when it looked last. */
  #seenEntries: number | undefined;

  constructor(context: CheckpointsContext) {
    this.#context = context;
  }

  start(): void {
    this.#timer = this.#context.clock.after(this.#isAnyDirty ? lookMs : restMs, () => {
      if (this.#stopped) return;
      this.look();
      this.#cutLogs();
      this.start();
    });
  }

  /** Starts a checkpoint if one is due. */
  look(): void {
    if (this.#running !== undefined || this.#stopped) return;
    const due = this.#due();
    if (due.length > 0) this.#run(due);
  }

  /** Somebody waits for a snapshot of the state as it is: not for its age. */
  want(partition: PartitionId): void {
    this.#wanted.add(partition);
    this.look();
  }

  /** Waits for the one under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#running;
  }

  /** Where applying waits for a checkpoint. */
  get tailLimitBytes(): number {
    const { tailBytes } = this.#context.settings;
    return this.#context.isStarting() ? tailBytes * startRoom : tailBytes;
  }

  /** Where a checkpoint is due at the node's next moment, whatever its age. */
  get #fullBytes(): number {
    const { checkpointBytes, tailBytes } = this.#context.settings;
    const full = Math.min(checkpointBytes, tailBytes);
    const lacking = companyBytes / this.#context.store.tailBytesPerChannel;
    const most = Math.min(wideFactor * full, wideShare * tailBytes, wideBytesMax);
    return Math.max(full, Math.min(lacking * full, most));
  }

  /** Where it is due at once. During a start applying has the time for itself while there is room. */
  get #overfullBytes(): number {
    if (this.#context.isStarting()) return this.tailLimitBytes;
    const full = this.#fullBytes;
    // Applying has room beyond it, too, however near the two settings are.
    return Math.min(turnRoom * full, (full + this.tailLimitBytes) / 2);
  }

  #isFull(): boolean {
    const { store, isStarting } = this.#context;
    let applied = 0;
    let sealed = 0;
    for (const { appliedIndex, sealedIndex } of store.partitions()) {
      applied += appliedIndex;
      sealed += sealedIndex;
    }
    const seen = this.#seenEntries ?? applied;
    this.#seenEntries = applied;
    const bytes = store.tailBytes;
    if (bytes >= this.#overfullBytes) return true;
    const full = this.#fullBytes;
    if (isStarting() || bytes < turnShare * full || applied === seen) return false;
    return isTurnBetween(seen, applied, checkpointPeriod(full, applied - sealed, bytes), this.#place());
  }

  #place(): CheckpointPlace {
    const nodes = new Set<NodeId>([this.#context.nodeId]);
    for (const { voters } of this.#context.replicas()) for (const { nodeId } of voters) nodes.add(nodeId);
    let rank = 0;
    for (const node of nodes) if (node < this.#context.nodeId) rank++;
    return { rank, count: nodes.size };
  }

  #due(): PartitionId[] {
    const { store, wal, settings, clock } = this.#context;
    const now = clock.monotonicMs();
    const isFull = this.#isFull();
    // What is damaged is sealed no more, however full its tail: asked for at every end of a checkpoint it would never end.
    const damaged = store.setAsidePartitions();
    const dirty = store
      .partitions()
      .filter(({ partition, dirtySinceMs }) => dirtySinceMs !== undefined && !damaged.has(partition));
    this.#isAnyDirty = dirty.length > 0;
    if (isFull) {
      // All of them: sealing the fullest alone would leave old small ones to hold back the log.
      return dirty.map((partition) => partition.partition);
    }
    const place = this.#place();
    // Ages are the same on all nodes, too.
    const ageMs = settings.checkpointAgeMs * (1 - (ageSpread * place.rank) / place.count);
    const holding = this.#heldBySealing(new Set(wal.holdingBack()));
    return dirty
      .filter(
        (p) =>
          now - (p.dirtySinceMs as number) >= ageMs ||
          holding.has(p.partition) ||
          this.#wanted.has(p.partition),
      )
      .map((p) => p.partition);
  }

  /** Those whose log could be cut if more were sealed: nothing of it is sealed that is still there. */
  #heldBySealing(holdingBack: ReadonlySet<PartitionId>): Set<PartitionId> {
    const held = new Set<PartitionId>();
    if (holdingBack.size === 0) return held;
    for (const replica of this.#context.replicas()) {
      if (!holdingBack.has(replica.partition)) continue;
      if (replica.store.sealedIndex < replica.log.firstIndex()) held.add(replica.partition);
    }
    return held;
  }

  #run(partitions: PartitionId[]): void {
    const { store, clock, logger } = this.#context;
    const started = clock.monotonicMs();
    for (const partition of partitions) this.#wanted.delete(partition);
    this.#running = store
      .checkpoint(partitions)
      .then(() => {
        this.#running = undefined;
        logger.debug({ partitions: partitions.length, ms: clock.monotonicMs() - started }, 'checkpoint');
        this.#context.roomAgain();
        this.#cutLogs();
        if (!this.#stopped && store.tailBytes >= this.#overfullBytes) this.look();
      })
      .catch((error: unknown) => this.#context.fatal(error));
  }

  /** What a leader's followers need that are a moment behind, or go on from a snapshot that they take now. */
  #stillFollowed(replica: Replica): Index {
    const wanted = this.#context.wantedFrom(replica) ?? Number.MAX_SAFE_INTEGER;
    return replica.isLeader ? Math.min(wanted, replica.matchedByThoseThatFollow()) : wanted;
  }

  /**
   * Drops what is sealed here and held by every member. The log of a lagging one
   * is kept for it until the log is too large: then the partitions that hold back
   * its oldest part are cut to what is sealed, and the member gets a snapshot.
   */
  #cutLogs(): void {
    const { wal, settings } = this.#context;
    const tooLarge = new Set(wal.holdingBack());
    const isFarTooLarge = tooLarge.size > 0 && wal.stats().segmentBytes > 2 * settings.logBytes;
    for (const replica of this.#context.replicas()) {
      let kept = replica.cuttableIndex;
      if (kept < replica.log.firstIndex()) continue;
      if (!tooLarge.has(replica.partition)) kept = Math.min(kept, this.#context.keptByAll(replica));
      else if (!isFarTooLarge) kept = Math.min(kept, this.#stillFollowed(replica));
      if (kept < replica.log.firstIndex()) continue;
      const term = replica.log.term(kept);
      if (typeof term === 'number') replica.log.compact(kept, term);
    }
  }
}
