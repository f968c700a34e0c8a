/**
 * How much room the disks of the node's folder have. Below the reserve the node
 * takes no more appends, long before a write of the log or of LevelDB fails: that
 * would end the process, and what frees room (deletions, checkpoints, members that
 * go elsewhere) needs some itself. Asked for off the loop, by a timer.
 */
import { statfs } from 'node:fs/promises';
import type { Clock, Timer } from '../common/env.js';
import type { Logger } from '../common/logger.js';

/** What the node needs to know; the real one, or a test's. */
export interface Space {
  /** Less than the reserve is left, or was, and not much more has become free since. */
  readonly isLow: boolean;
  /** Less than half of it: also what leaders send is not taken in any more. */
  readonly isCritical: boolean;
  readonly freeBytes: number;
  readonly reserveBytes: number;
}

export interface DiskSpaceOptions {
  readonly reserveBytes: number;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Of the disk that has least; may reject. */
  free(): Promise<number>;
}

/** How often it asks, ms: at 200 MB/s a fraction of the default reserve is written in between. */
const pollMs = 1_000;
/** With so much over the reserve it asks less often: more than the quickest disks take in between. */
const roomyBytes = 16 * 1024 * 1024 * 1024;
const roomyPollMs = 4_000;
/** Over the reserve by this much there is room again: else a single checkpoint would switch to and fro. */
const roomAgain = 1 + 1 / 8;
const criticalPart = 1 / 2;

export class DiskSpace implements Space {
  readonly #options: DiskSpaceOptions;
  #timer: Timer | undefined;
  #stopped = false;
  #isLow = false;
  #freeBytes = Number.POSITIVE_INFINITY;
  #isFailing = false;

  constructor(options: DiskSpaceOptions) {
    this.#options = options;
  }

  get isLow(): boolean {
    return this.#isLow;
  }
  get isCritical(): boolean {
    return this.#isLow && this.#freeBytes < this.reserveBytes * criticalPart;
  }
  get freeBytes(): number {
    return this.#freeBytes;
  }
  get reserveBytes(): number {
    return this.#options.reserveBytes;
  }

  /** Resolves once it has been asked for the first time. */
  async start(): Promise<void> {
    await this.#look();
    this.#schedule();
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  #schedule(): void {
    if (this.#stopped) return;
    const delayMs = this.#freeBytes > this.reserveBytes + roomyBytes ? roomyPollMs : pollMs;
    this.#timer = this.#options.clock.after(delayMs, () => {
      // The next one only after this one's end: a disk that hangs is the watchdog's matter.
      void this.#look().then(() => this.#schedule());
    });
  }

  /** Never rejects: not knowing is no reason to refuse. */
  async #look(): Promise<void> {
    const { free, logger } = this.#options;
    try {
      this.#judge(await free());
      this.#isFailing = false;
    } catch (error) {
      if (!this.#isFailing) logger.warn({ err: error }, 'the room on the disk is not known');
      this.#isFailing = true;
    }
  }

  #judge(freeBytes: number): void {
    const { reserveBytes, logger } = this.#options;
    this.#freeBytes = freeBytes;
    const fields = { free_bytes: freeBytes, disk_reserve: reserveBytes };
    if (!this.#isLow && freeBytes < reserveBytes) {
      this.#isLow = true;
      logger.error(
        fields,
        'the disk is almost full: no more appends here until there is room; free some, or delete channels',
      );
    } else if (this.#isLow && freeBytes >= reserveBytes * roomAgain) {
      this.#isLow = false;
      logger.info(fields, 'the disk has room again: appends go on');
    }
  }
}

/** What an unprivileged process may still write, on the fullest of the disks below `paths`. */
export async function freeBytesOf(paths: readonly string[]): Promise<number> {
  const found = await Promise.all(paths.map((path) => statfs(path)));
  return Math.min(...found.map(({ bavail, bsize }) => bavail * bsize));
}
