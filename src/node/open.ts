/**
 * From a folder to a running node, with real parts. The order matters: LevelDB's
 * lock keeps a second process out before the log is touched; the log's end is
 * secured before anything is promised; peers are dialled last.
 */
import type { Kv } from '../common/env.js';
import { HansardError } from '../common/errors.js';
import { bootIdBytes, clusterIdBytes, hexIdBytes, randomHexId } from '../common/hex-ids.js';
import type { NodeId } from '../common/ids.js';
import type { Logger } from '../common/logger.js';
import type { ReplicatedSettings } from '../conversation/types.js';
import { levelKvFactory } from '../store/level-kv.js';
import { formatStore } from '../store/store.js';
import type { Store } from '../store/types.js';
import { createTcpNetwork } from '../transport/tcp-network.js';
import { createTransport } from '../transport/transport.js';
import type { StorePins, Transport } from '../transport/types.js';
import { formatWal, openDiskDevice, startWatchdog, type Wal } from '../wal/index.js';
import {
  checkUnchanged,
  type Identity,
  initDirectory,
  type NodeDirectory,
  openDirectory,
} from './directory.js';
import { DiskSpace, freeBytesOf, type Space } from './disk-space.js';
import { HansardNode } from './node.js';
import { PartsOpener } from './open-parts.js';
import { type NodeSettings, nodeDefaults } from './options.js';
import { checkOwner } from './owner-check.js';
import { type PartsFolder, realFolder } from './parts-folder.js';
import { initialConfState, placementOf } from './placement.js';
import { realClock, realLoopMeters, realRandom } from './real-env.js';
import { scrubFilesOf } from './scrub-files.js';
import type { Settings } from './settings-table.js';

export interface InitNodeOptions {
  readonly dir: string;
  readonly clusterId: string;
  readonly nodeId: NodeId;
  readonly partitionCount: number;
  readonly replicationFactor: number;
  readonly members: Identity['members'];
  readonly segmentBytes?: number;
  /** That its partitions begin with, all nodes of a cluster alike; the newest build's where undefined. */
  readonly settings?: Readonly<ReplicatedSettings>;
}

/** Formats a node's folder, explicitly: never done by a start. Throws DIRECTORY_NOT_EMPTY and the like. */
export function initNode(options: InitNodeOptions): Promise<NodeDirectory> {
  return initDirectory({
    ...options,
    random: realRandom,
    async formatLog(path, identity) {
      const device = openDiskDevice({ directory: path });
      try {
        await formatWal(device, {
          ...logIdentity(identity),
          random: realRandom,
          segmentBytes: options.segmentBytes,
        });
      } finally {
        await device.close();
      }
    },
    async formatDb(path, identity) {
      const kv = await levelKvFactory().open(path, { create: true });
      try {
        const { clusterId, storeId } = identity;
        const partitions = partitionsOf(identity);
        const initial = options.settings === undefined ? {} : { settings: options.settings };
        await formatStore({ kv, clusterId, storeId, partitions, ...initial });
      } finally {
        await kv.close();
      }
    },
  });
}

export interface OpenNodeOptions {
  readonly dir: string;
  readonly settings: Settings;
  /** host:port for peers; the folder's own where undefined. */
  readonly peerAddress?: string | undefined;
  readonly version: string;
  readonly logger: Logger;
  /** The process must end: what failed is said in the error. */
  readonly onFatal: (error: unknown) => void;
  /** The folder is this process's; reading what is in it comes next, and may take seconds. Called once. */
  readonly onOwned?: () => Promise<void>;
}

export interface RunningNode {
  readonly node: HansardNode;
  readonly directory: NodeDirectory;
  readonly wal: Wal;
  readonly store: Store;
  readonly transport: Transport;
  readonly space: Space;
  /** Hands leadership away, seals, releases the folder. */
  stop(): Promise<void>;
  /** Ends as after a crash: nothing is handed away or sealed; the folder is released. */
  halt(): Promise<void>;
}

/** Opens and starts; resolves once peers may dial. Elections follow by themselves. */
export async function openNode(options: OpenNodeOptions): Promise<RunningNode> {
  /** Of what is open already, newest last; a start that fails leaves no thread, lock or port behind. */
  const opened: (() => Promise<unknown>)[] = [];
  try {
    return await openParts(options, opened);
  } catch (error) {
    for (const close of opened.reverse()) {
      await close().catch((second: unknown) => {
        options.logger.warn({ err: second }, 'closing after a failed start failed');
      });
    }
    throw error;
  }
}

async function openParts(options: OpenNodeOptions, opened: (() => Promise<unknown>)[]): Promise<RunningNode> {
  const { settings, logger } = options;
  let node: HansardNode | undefined;
  /** The process's end is told once, whichever part asks for it. */
  let failed = false;
  const onFatal = (error: unknown): void => {
    if (failed) return;
    failed = true;
    options.onFatal(error);
  };
  const directory = await openDirectory(options.dir);
  const { identity } = directory;
  checkAddresses(options, identity);
  await checkOwner(directory);
  const ids = { clusterId: identity.clusterId, storeId: identity.storeId };
  const watch = new SharedArrayBuffer(8);
  const parts = new PartsOpener({
    folder: tellingOwned(realFolder({ directory, settings, watch }), directory, options.onOwned),
    settings,
    logger,
    firstPartitions: partitionsOf(identity).map(({ partition }) => partition),
    onFailure: (error) => (node === undefined ? onFatal(error) : node.fail(error)),
    opened,
  });
  const openingMs = performance.now();
  const whole = await parts.openStore();
  if (whole !== undefined) logger.info(openedFacts(whole, openingMs), 'database opened');
  const watchdog = startWatchdog({ stallMs: settings.diskStall, memory: watch });
  opened.push(() => watchdog.stop());
  const { wal, store } = await parts.openLog();
  const replay = wal.stats().replay;
  logger.info({ ...replay, megabytesPerSecond: rate(replay.bytes, replay.durationMs) }, 'log replayed');
  const space = new DiskSpace({
    reserveBytes: settings.diskReserve,
    clock: realClock,
    logger,
    free: () => freeBytesOf([directory.logPath, directory.dbPath]),
  });
  if (settings.diskReserve > 0) await space.start();
  opened.push(async () => space.stop());
  const self = identity.members.find(({ nodeId }) => nodeId === identity.nodeId);
  const nodeIdentity = {
    ...ids,
    incarnation: identity.incarnation,
    nodeId: identity.nodeId,
    bootId: randomHexId(realRandom, bootIdBytes),
    version: options.version,
  };
  const transport = createTransport({
    self: nodeIdentity,
    peers: identity.members.map(({ nodeId, peerAddress }) => ({ nodeId, address: peerAddress })),
    network: createTcpNetwork({
      bindAddress: options.peerAddress ?? self?.peerAddress ?? settings.peerAddress,
    }),
    clock: realClock,
    random: realRandom,
    pins: pinsOf(store),
    logger,
  });
  // Of a write that failed meanwhile: whoever was told ends the process, or must not get a node that goes on.
  if (failed) throw new HansardError('DISK_FAILED', 'a write to the folder failed while it was opened');
  node = new HansardNode({
    identity: nodeIdentity,
    nodes: identity.members,
    partitionCount: identity.partitionCount,
    replicationFactor: identity.replicationFactor,
    settings: nodeSettings(settings),
    clock: realClock,
    random: realRandom,
    logger,
    wal,
    store,
    transport,
    loopMeters: realLoopMeters(),
    space,
    faults: parts.ledger,
    giveUpDatabase: () => parts.giveUpDatabase(),
    scrubFiles: scrubFilesOf(directory),
    onFatal,
  });
  opened.push(() => transport.stop());
  await node.start();
  const running = node;
  return {
    node,
    directory,
    wal,
    store,
    transport,
    space,
    async stop() {
      space.stop();
      await running.drain();
      await running.stop().finally(() => watchdog.stop());
    },
    async halt() {
      space.stop();
      await running.stop({ seal: false }).finally(() => watchdog.stop());
    },
  };
}

/**
 * The database's lock is what makes a folder one's own. What was read of it before is compared then, once: where the
 * first opening fails, this process itself goes on to change the record of faults.
 */
function tellingOwned(
  folder: PartsFolder,
  directory: NodeDirectory,
  onOwned?: () => Promise<void>,
): PartsFolder {
  let tell = onOwned;
  let isCompared = false;
  const compare = async (): Promise<void> => {
    if (isCompared) return;
    isCompared = true;
    await checkUnchanged(directory);
  };
  return {
    ...folder,
    async openDatabase(how) {
      let kv: Kv;
      try {
        kv = await folder.openDatabase(how);
      } catch (error) {
        await compare();
        throw error;
      }
      const telling = tell;
      tell = undefined;
      try {
        await compare();
        await telling?.();
      } catch (error) {
        await kv.close();
        throw error;
      }
      return kv;
    },
  };
}

/** A folder that was carried to another node's place would answer there under its own name. */
function checkAddresses({ dir, settings, peerAddress }: OpenNodeOptions, identity: Identity): void {
  const place = identity.members.find(
    (member) =>
      member.nodeId !== identity.nodeId &&
      (member.peerAddress === peerAddress || member.clientAddress === settings.clientAddress),
  );
  if (place === undefined) return;
  throw new HansardError(
    'REPLICA_LOST',
    `${dir} is the folder of node ${identity.nodeId}, but the address given is that of node ${place.nodeId}: each node starts with its own folder`,
    { node: identity.nodeId, place: place.nodeId },
  );
}

/** Which store each peer had when we first met it, durable in our own (REPLICA_LOST, design rule 12). */
function pinsOf(store: Store): StorePins {
  const name = (nodeId: NodeId): string => `store-of/${nodeId}`;
  return {
    getPinned(nodeId) {
      const pinned = store.getFact(name(nodeId));
      return pinned === undefined ? undefined : Buffer.from(pinned).toString('latin1');
    },
    pin: (nodeId, storeId) => store.putFact(name(nodeId), Buffer.from(storeId, 'latin1')),
  };
}

function logIdentity(identity: Identity): { clusterId: Uint8Array; storeId: string } {
  return { clusterId: hexIdBytes(identity.clusterId, clusterIdBytes), storeId: identity.storeId };
}

/** The partitions that a node holds at first, and their members. */
export function partitionsOf(
  identity: Pick<Identity, 'nodeId' | 'members' | 'partitionCount' | 'replicationFactor'>,
) {
  const nodeIds = identity.members.map(({ nodeId }) => nodeId);
  const partitions: { partition: number; confState: ReturnType<typeof initialConfState> }[] = [];
  for (let partition = 0; partition < identity.partitionCount; partition++) {
    const members = placementOf(partition, nodeIds, identity.replicationFactor);
    if (!members.some(({ nodeId }) => nodeId === identity.nodeId)) continue;
    partitions.push({ partition, confState: initialConfState(members.map(({ replicaId }) => replicaId)) });
  }
  return partitions;
}

function nodeSettings(settings: Settings): NodeSettings {
  return {
    ...nodeDefaults,
    tickMs: settings.tick,
    electionTimeoutMs: settings.electionTimeout,
    heartbeatMs: settings.heartbeat,
    quiesceAfterMs: settings.quiesceAfter,
    diskSlowMs: settings.diskSlow,
    leaders: settings.leaders,
    uncommittedBytesPerPartition: settings.uncommittedPartition,
    uncommittedBytesPerNode: settings.uncommittedNode,
    tailBytes: settings.tailLimit,
    checkpointAgeMs: settings.checkpointAge,
    checkpointBytes: settings.checkpointBytes,
    logBytes: settings.logMax,
    snapshotBytesPerSecond: settings.snapshotRate,
    drainMs: settings.drainTimeout,
    scrubPeriodMs: settings.scrubPeriod,
    scrubBytesPerSecond: settings.scrubRate,
  };
}

function openedFacts(store: Store, sinceMs: number): Record<string, number> {
  let channels = 0;
  for (const { meta } of store.partitions()) channels += meta.channelCount;
  return {
    partitions: store.partitions().length,
    channels,
    durationMs: Math.round(performance.now() - sinceMs),
  };
}

function rate(bytes: number, durationMs: number): number {
  return durationMs === 0 ? 0 : Math.round(bytes / 1000 / durationMs);
}
