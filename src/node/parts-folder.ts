/**
 * What a start works on: the two parts of a node's folder, and its record of faults.
 * Another one than the folder on real disks is simulated (test/sim).
 */
import type { Clock, Kv, Random } from '../common/env.js';
import type { FaultRecord } from '../common/faults.js';
import { levelKvFactory } from '../store/level-kv.js';
import { type LogDevice, openDiskDevice } from '../wal/index.js';
import type { NodeDirectory } from './directory.js';
import { moveDatabase, moveLog, newLogFolder, nextMove, writeFaults } from './faults-file.js';
import type { Identity } from './identity-file.js';
import { realClock, realRandom } from './real-env.js';
import type { Settings } from './settings-table.js';

export interface PartsFolder {
  readonly identity: Pick<Identity, 'clusterId' | 'storeId' | 'nodeId' | 'replicationFactor'>;
  /** As it was read; moves that were under way have been ended. */
  readonly faults: FaultRecord | 'unreadable';
  readonly clock: Clock;
  readonly random: Random;
  /** Of the cluster's databases, where they are others than by default: a snapshot must find the same. */
  readonly blockBytes?: number;
  openDatabase(options: { readonly create: boolean }): Promise<Kv>;
  openLog(): LogDevice;
  /** To be read, and closed, before the other is used: nobody watches over its disk. */
  openDamagedLog(): LogDevice;
  /** Empty; what an earlier attempt left there is gone. */
  openNewLog(): Promise<LogDevice>;
  /** The number that the next part moved aside gets. */
  nextMove(): Promise<number>;
  /** An empty one takes its place. */
  moveDatabase(number: number): Promise<void>;
  /** The new one takes its place. */
  moveLog(number: number): Promise<void>;
  /** In the place of the old record, or not at all; synced when it resolves. */
  writeFaults(record: Uint8Array): Promise<void>;
}

export interface RealFolderOptions {
  readonly directory: NodeDirectory;
  readonly settings: Settings;
  /** A slot of the watchdog's. */
  readonly watch: SharedArrayBuffer;
  /** The log's disk; a test may have one without a thread of its own. */
  readonly openDevice?: typeof openDiskDevice;
}

export function realFolder({ directory, settings, watch, openDevice }: RealFolderOptions): PartsFolder {
  const { dir, dbPath, logPath, identity, faults } = directory;
  const open = openDevice ?? openDiskDevice;
  const database = levelKvFactory({
    writeBufferBytes: settings.dbWriteBuffer,
    blockCacheBytes: settings.dbCache,
  });
  return {
    identity,
    faults,
    clock: realClock,
    random: realRandom,
    openDatabase: (options) => database.open(dbPath, options),
    openLog: () => open({ directory: logPath, watch }),
    openDamagedLog: () => open({ directory: logPath }),
    openNewLog: async () => open({ directory: await newLogFolder(dir) }),
    nextMove: () => nextMove(dir),
    moveDatabase: (number) => moveDatabase(dir, number),
    moveLog: (number) => moveLog(dir, number),
    writeFaults: (record) => writeFaults(dir, identity, record),
  };
}
