/**
 * Store and log of a folder, opened whatever is damaged (design rule 5): a partition's
 * state, or the whole database, is set aside, a damaged log gives way to a fresh one of
 * what can be salvaged; the ledger knows before anything is promised. Where no other
 * node has the data nothing is replaced: then damage refuses the start.
 */
import type { Kv } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import {
  decodeFaults,
  type FaultKind,
  type FaultRecord,
  noFaults,
  noSegments,
  type ReachedSegments,
  type ReplicaFault,
} from '../common/faults.js';
import { clusterIdBytes, hexIdBytes } from '../common/hex-ids.js';
import type { HostedId, Index, PartitionId, ReplicaId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import { firstIdIfZero } from '../common/membership.js';
import { noConfiguration } from '../store/set-aside.js';
import { formatStore, openStore } from '../store/store.js';
import type { HostedReplica, Store } from '../store/types.js';
import { openWal, type SegmentNotes, type Wal } from '../wal/index.js';
import { FaultLedger, untrustedBy } from './fault-ledger.js';
import type { PartsFolder } from './parts-folder.js';
import { newFault, replaceLog } from './replace-log.js';
import type { Settings } from './settings-table.js';

export interface PartsOptions {
  readonly folder: PartsFolder;
  readonly settings: Pick<
    Settings,
    'storeCache' | 'tailLimit' | 'changeRetention' | 'logSegment' | 'logMax' | 'entryCache'
  >;
  readonly logger: Logger;
  /** That this node holds as the cluster was made. */
  readonly firstPartitions: readonly PartitionId[];
  readonly onFailure: (error: unknown) => void;
  /** What a start that fails has to close, newest last. */
  readonly opened: (() => Promise<unknown>)[];
  /**
   * An operator looks at what is left (trust/): damage is passed over also where no other
   * node has the data, and rows count that were found damaged in an earlier life.
   */
  readonly isLastResort?: boolean;
}

/** Under this name the database keeps a copy of FAULTS. */
const factName = 'faults';

export class PartsOpener {
  readonly #options: PartsOptions;
  #ledger: FaultLedger;
  #store: Store | undefined;
  /** Told of each partition, where the database gives way to a fresh one. */
  #whyLost = 'the database was lost';
  /** Of the database that takes the place of one moved aside; holds its lock. */
  #freshKv: Kv | undefined;
  /** What the log has reached, and is not on record yet. */
  #reached: ReachedSegments | undefined;

  constructor(options: PartsOptions) {
    this.#options = options;
    const { faults } = options.folder;
    this.#ledger = this.#newLedger(faults === 'unreadable' ? noFaults : faults);
  }

  get ledger(): FaultLedger {
    return this.#ledger;
  }

  /** FAULTS is, and its copy may be gone with the database. */
  get #isRecordLost(): boolean {
    return this.#options.folder.faults === 'unreadable';
  }

  /** Other nodes have what is lost here. */
  get #heals(): boolean {
    return this.#isLastResort || this.#options.folder.identity.replicationFactor > 1;
  }

  get #isLastResort(): boolean {
    return this.#options.isLastResort ?? false;
  }

  get #ids(): { clusterId: string; storeId: string } {
    const { clusterId, storeId } = this.#options.folder.identity;
    return { clusterId, storeId };
  }

  get #logIds(): { clusterId: Uint8Array; storeId: string } {
    const { clusterId, storeId } = this.#ids;
    return { clusterId: hexIdBytes(clusterId, clusterIdBytes), storeId };
  }

  #newLedger(record: FaultRecord): FaultLedger {
    return new FaultLedger(record, async (bytes) => {
      await this.#options.folder.writeFaults(bytes);
      await this.#store?.putFact(factName, bytes);
    });
  }

  // ---- the database

  /** First of all: its lock keeps a second process off the folder. Undefined: it was moved aside; `openLog` is next. */
  async openStore(): Promise<Store | undefined> {
    const { folder, logger } = this.#options;
    if (this.#ledger.record.dbMove === 0) {
      try {
        await this.#open(await folder.openDatabase({ create: false }));
        return this.#store;
      } catch (error) {
        if (!this.#heals || !isReplaceable(error)) throw error;
        logger.error({ error: error.message }, 'the database is damaged: it is moved aside');
        this.#whyLost = `${this.#whyLost}: ${error.message}`;
        const dbMove = await folder.nextMove();
        // A record that is lost stays unreadable until it says what follows from that: it would seem to know of no fault.
        if (!this.#isRecordLost) await this.#ledger.update({ dbMove });
        await folder.moveDatabase(dbMove);
      }
    }
    this.#freshKv = await folder.openDatabase({ create: true });
    this.#options.opened.push(async () => this.#freshKv?.close());
    return undefined;
  }

  /** As though this start had found it damaged and had ended before it was moved aside. The process is to end. */
  async giveUpDatabase(): Promise<void> {
    await this.#ledger.update({ dbMove: await this.#options.folder.nextMove() });
  }

  async #open(kv: Kv): Promise<void> {
    const { folder, settings, logger, opened, onFailure } = this.#options;
    const store = await openStore({
      kv,
      ...this.#ids,
      clock: folder.clock,
      logger,
      cacheBytes: settings.storeCache,
      tailLimitBytes: settings.tailLimit,
      changeRetentionMs: settings.changeRetention,
      onFailure,
      untrusted: this.#isLastResort ? new Map() : this.#heals ? untrustedBy(this.#ledger) : undefined,
    });
    this.#store = store;
    opened.push(() => store.close());
    await this.#compareCopies(store);
  }

  /** The file FAULTS and its copy: the newer one counts. Without either nobody knows what this folder must not do. */
  async #compareCopies(store: Store): Promise<void> {
    const { faults: file } = this.#options.folder;
    const copy = readCopy(store.getFact(factName));
    const isNewer = copy !== undefined && (file === 'unreadable' || copy.number > this.#ledger.record.number);
    if (isNewer) {
      this.#ledger = this.#newLedger({ ...copy, logMove: 0, dbMove: 0 });
      for (const [partition, generation] of this.#isLastResort ? [] : untrustedBy(this.#ledger)) {
        const isHeld = store.hosted().some((one) => one.partition === partition && !one.removed);
        if (isHeld && store.generationOf(partition) <= generation)
          store.setAside(partition, 'it was found damaged before');
      }
    }
    const isLost = copy === undefined && file === 'unreadable';
    if (isLost) {
      const why = 'the record of faults is lost, and its copy';
      await this.#ledger.add(this.#hosted().map((one) => this.#fault(one, 'term-or-vote-lost', why)));
    } else if (copy === undefined || copy.number !== this.#ledger.record.number || file === 'unreadable') {
      await this.#ledger.update({});
    }
    // Of those that went before the record had a place for them, or before it was lost.
    await this.#ledger.noteGone(this.#inStore(store).filter(({ removed }) => removed));
  }

  #inStore(store: Store): HostedReplica[] {
    const { nodeId } = this.#options.folder.identity;
    return store.hosted().map((one) => ({ ...one, replicaId: firstIdIfZero(one.replicaId, nodeId) }));
  }

  #hosted(): HostedId[] {
    if (this.#store !== undefined) return this.#inStore(this.#store).filter(({ removed }) => !removed);
    const { nodeId } = this.#options.folder.identity;
    return this.#options.firstPartitions.map((partition) => ({ partition, replicaId: nodeId as number }));
  }

  // ---- the log

  /** Behind `openStore`; brings the store too, where that was moved aside. */
  async openLog(): Promise<{ wal: Wal; store: Store }> {
    // Begun by an earlier start, ended by the folder's opening.
    if (this.#ledger.record.logMove > 0) await this.#logMoved();
    const wal = await this.#openWal().catch((error: unknown) => {
      if (!this.#heals || !(error instanceof HansardError) || error.reason !== 'LOG_DAMAGED') throw error;
      return this.#replaceLog(error);
    });
    if (this.#freshKv !== undefined) await this.#formatFresh(this.#freshKv, wal);
    return { wal, store: this.#store as Store };
  }

  async #openWal(): Promise<Wal> {
    const { folder, settings, logger, onFailure, opened } = this.#options;
    const device = folder.openLog();
    opened.push(() => device.close());
    try {
      const wal = await openWal({
        ...this.#logIds,
        device,
        clock: folder.clock,
        logger,
        segmentBytes: settings.logSegment,
        maxLogBytes: settings.logMax,
        cacheBytes: settings.entryCache,
        segmentNotes: this.#segmentNotes(),
        sealed: sealedIn(this.#store),
        onFailure,
      });
      opened.pop();
      opened.push(() => wal.close());
      return wal;
    } catch (error) {
      opened.pop();
      await device.close();
      throw error;
    }
  }

  #segmentNotes(): SegmentNotes {
    const { segments } = this.#ledger.record;
    return {
      noted: segments.current === 0 ? undefined : segments,
      note: async (current, next) => {
        this.#reached = { current, next };
        // A record that is lost stays unreadable until it says what follows from that (`#formatFresh`).
        if (this.#freshKv !== undefined && this.#isRecordLost) return;
        await this.#ledger.update({ segments: this.#reached });
      },
    };
  }

  /** A fresh log of what can be salvaged; the damaged segments stay in a folder beside it. */
  async #replaceLog(error: HansardError): Promise<Wal> {
    const { folder, settings, logger } = this.#options;
    logger.error({ error: error.message }, 'the log is damaged: a fresh one takes its place');
    const faults = await replaceLog({
      ...this.#logIds,
      error,
      old: folder.openDamagedLog(),
      fresh: await folder.openNewLog(),
      segmentBytes: settings.logSegment,
      clock: folder.clock,
      random: folder.random,
      logger,
      ledger: this.#ledger,
      store: this.#store,
      hosted: this.#hosted(),
      noted: this.#segmentNotes().noted,
      isRecordLost: this.#store === undefined && this.#isRecordLost,
    });
    const logMove = await folder.nextMove();
    await this.#ledger.add(faults);
    await this.#ledger.update({ logMove });
    await folder.moveLog(logMove);
    await this.#logMoved();
    return this.#openWal();
  }

  /** Its numbers begin anew: what was noted of the old one's is forgotten before its move is. */
  async #logMoved(): Promise<void> {
    await this.#ledger.update({ logMove: 0, segments: noSegments });
  }

  // ---- a database in the place of one that is lost

  /** The log knows whose replicas are here; each waits for a snapshot. */
  async #formatFresh(kv: Kv, wal: Wal): Promise<void> {
    const { identity, blockBytes } = this.#options.folder;
    const { nodeId } = identity;
    const hosted = new Map<PartitionId, ReplicaId>();
    for (const partition of this.#options.firstPartitions) hosted.set(partition, nodeId as number);
    for (const { partition, replicaId } of wal.groups()) hosted.set(partition, replicaId);
    // The lost database knew that they are members no more. Here again they would vote without knowing what they have voted.
    const { gone } = this.#ledger.record;
    for (const { partition, replicaId } of gone)
      if ((hosted.get(partition) ?? 0) <= replicaId) hosted.delete(partition);
    const partitions = [...hosted]
      .sort(([a], [b]) => a - b)
      .map(([partition, replicaId]) => ({ partition, replicaId, confState: noConfiguration }));
    await formatStore({
      kv,
      ...this.#ids,
      partitions,
      gone: gone.filter(({ partition }) => !hosted.has(partition)),
      ...(blockBytes === undefined ? {} : { blockBytes }),
    });
    const faults = partitions.map((one) => this.#fault(one, 'state-damaged', this.#whyLost));
    if (this.#isRecordLost) {
      const lost = 'the record of faults is lost, and the database with its copy';
      faults.push(...partitions.map((one) => this.#fault(one, 'term-or-vote-lost', lost)));
    }
    const isKept = ({ kind, partition }: ReplicaFault): boolean =>
      !faults.some((one) => one.kind === kind && one.partition === partition) && kind !== 'state-damaged';
    const others = this.#ledger.faults.filter(isKept);
    const segments = this.#reached ?? this.#ledger.record.segments;
    await this.#ledger.update({ dbMove: 0, faults: [...others, ...faults], segments });
    this.#freshKv = undefined;
    await this.#open(kv);
  }

  #fault(one: HostedId, kind: FaultKind, why: string): ReplicaFault {
    return newFault(one, kind, why, this.#options.folder.clock.nowUs());
  }
}

/** Not what belongs to somebody else, nor what is in use. */
export function isReplaceable(error: unknown): error is HansardError {
  if (!(error instanceof HansardError)) return false;
  if (error.reason === 'STORE_DAMAGED') return true;
  return (
    error.reason === 'REPLICA_LOST' && error.fields.found === undefined && error.fields.path === undefined
  );
}

function readCopy(bytes: Uint8Array | undefined): FaultRecord | undefined {
  if (bytes === undefined) return undefined;
  // A fact has its own checksum: what is wrong here is of another version.
  return decodeFaults(bytes);
}

/** Undefined where the database is moved aside. */
function sealedIn(store: Store | undefined): ((partition: PartitionId) => Index) | undefined {
  if (store === undefined) return undefined;
  const sealed = new Map(store.partitions().map(({ partition, sealedIndex }) => [partition, sealedIndex]));
  return (partition) => sealed.get(partition) ?? Number.POSITIVE_INFINITY;
}
