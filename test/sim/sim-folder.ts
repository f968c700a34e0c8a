/** What outlives the processes of a node: its log, its database and its record of faults; and how a start works on them. */
import type { Clock } from '../../src/common/env.js';
import { decodeFaults, encodeFaults, noFaults } from '../../src/common/faults.js';
import type { PartsFolder } from '../../src/node/parts-folder.js';
import type { LogDevice } from '../../src/wal/device.js';
import type { SimClock, SimRandom } from './sim-clock.js';
import { SimDisk } from './sim-disk.js';
import { SimKvFactory } from './sim-kv.js';

export interface SimFolderOptions {
  readonly clock: SimClock;
  readonly random: SimRandom;
  /** One of its disks has just failed by plan. */
  readonly onFailure: () => void;
}

/** So small that there are full blocks, which lie in value files. */
export const blockBytes = 512;

/** Of a file that is replaced, or a folder that is renamed, with its syncs, simulated ms. */
const stepMs = 1;

export class SimFolder {
  /** The log's. */
  disk: SimDisk;
  readonly database: SimKvFactory;
  readonly #options: SimFolderOptions;
  /** A fresh log that is not in its place yet. */
  #newLog: SimDisk | undefined;
  /** Undefined: lost. */
  #faults: Buffer | undefined = Buffer.from(encodeFaults({ ...noFaults, number: 1 }));
  readonly #aside = new Set<number>();

  constructor(options: SimFolderOptions) {
    const { clock, random, onFailure } = options;
    this.#options = options;
    this.disk = this.#newDisk();
    this.database = new SimKvFactory({ clock, random: random.fork(), readMs: 0.3, writeMs: 2, onFailure });
  }

  /** A log or a database was found damaged, and moved aside for a fresh one. */
  get hasSetAside(): boolean {
    return this.#aside.size > 0;
  }

  #newDisk(): SimDisk {
    const { clock, random, onFailure } = this.#options;
    return new SimDisk({ clock, random: random.fork(), onFailure });
  }

  crash(kind: 'process' | 'power'): void {
    const database = this.database.disk('db');
    for (const disk of [this.disk, this.#newLog]) {
      if (kind === 'power') disk?.losePower();
      else disk?.crash();
    }
    if (kind === 'power') database.powerLoss();
    else database.processDeath();
  }

  /** The file FAULTS is gone; the database has a copy. */
  loseFaults(): void {
    this.#faults = undefined;
  }

  /**
   * For one process, whose clock ends with it. What node/directory.ts and faults-file.ts do
   * on real files: a move that was under way is ended first.
   */
  opened(
    identity: PartsFolder['identity'],
    clock: Clock,
    random: SimRandom,
    watched: (device: LogDevice) => LogDevice,
  ): PartsFolder {
    const faults = this.#faults === undefined ? 'unreadable' : decodeFaults(this.#faults);
    if (faults !== 'unreadable' && faults.logMove > 0) this.#moveLog(faults.logMove);
    if (faults !== 'unreadable' && faults.dbMove > 0) this.#moveDatabase(faults.dbMove);
    /** Before and after it the process may die. */
    const step = async (act: () => void): Promise<void> => {
      await new Promise<void>((resolve) => clock.after(stepMs / 2, resolve));
      act();
      await new Promise<void>((resolve) => clock.after(stepMs / 2, resolve));
    };
    return {
      identity,
      faults,
      clock,
      random,
      blockBytes,
      openDatabase: (options) => this.database.open('db', options),
      openLog: () => watched(this.disk.device()),
      openDamagedLog: () => this.disk.device(),
      openNewLog: async () => {
        this.#newLog = this.#newDisk();
        return this.#newLog.device();
      },
      nextMove: async () => Math.max(0, ...this.#aside) + 1,
      moveDatabase: (number) => step(() => this.#moveDatabase(number)),
      moveLog: (number) => step(() => this.#moveLog(number)),
      writeFaults: (record) => {
        const kept = Buffer.from(record);
        return step(() => {
          this.#faults = kept;
        });
      },
    };
  }

  /** Also once more, where a start has begun it before: what is there then was never in use. */
  #moveDatabase(number: number): void {
    this.#aside.add(number);
    this.database.disks.delete('db');
  }

  /** Nothing, where it was done before the process ended. */
  #moveLog(number: number): void {
    if (this.#newLog === undefined) return;
    this.#aside.add(number);
    this.disk = this.#newLog;
    this.#newLog = undefined;
  }
}
