/**
 * A disk that stands still holds up whatever is led here, while heartbeats say
 * that all is well: nobody else would stand. So leaderships are handed away as soon
 * as one write of the log takes too long; the watchdog ends the process later, if
 * it does not come back (design rule 6). Where the write blocks the loop itself
 * the heartbeats end, and the others elect after their timeout.
 */
import type { Logger } from '../common/logger.js';
import type { Wal } from '../wal/types.js';

/** Looks per stall. Looks are counted, not times: after the process was stopped only one has passed. */
const looks = 6;
/** After the last stall nothing is led here for this long, ms: a disk that stops once often stops again. */
const restMs = 10_000;

export class DiskStall {
  readonly #wal: Pick<Wal, 'writing'>;
  readonly #lookMs: number;
  readonly #logger: Logger;
  #nextLookMs = 0;
  #seen = 0;
  #count = 0;
  #restsUntilMs = 0;
  #isStanding = false;

  constructor(wal: Pick<Wal, 'writing'>, slowMs: number, logger: Logger) {
    this.#wal = wal;
    this.#lookMs = slowMs / looks;
    this.#logger = logger;
  }

  /** Nothing should be led here. */
  get isStanding(): boolean {
    return this.#isStanding;
  }

  /** Ticks are needed: a write is under way, or one has stood lately. */
  get isWatching(): boolean {
    return this.#isStanding || this.#wal.writing !== 0;
  }

  /** True where a write has just been found to stand, and at each look while it does. */
  look(nowMs: number): boolean {
    if (nowMs < this.#nextLookMs) return false;
    this.#nextLookMs = nowMs + this.#lookMs;
    const { writing } = this.#wal;
    this.#count = writing !== 0 && writing === this.#seen ? this.#count + 1 : 0;
    this.#seen = writing;
    if (this.#count >= looks) {
      if (!this.#isStanding)
        this.#logger.warn(
          { batch: writing, ms: Math.round(this.#count * this.#lookMs) },
          'the disk stands still: leaderships go to other nodes',
        );
      this.#isStanding = true;
      this.#restsUntilMs = nowMs + restMs;
      return true;
    }
    if (this.#isStanding && nowMs >= this.#restsUntilMs) {
      this.#isStanding = false;
      this.#logger.info({}, 'the disk works again: this node may lead');
    }
    return false;
  }
}
