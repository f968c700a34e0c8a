/**
 * Which segment files there are, what of them is still needed, and the next one,
 * made before it is wanted. Files are used in ascending order and given back from
 * the oldest on; a file that is given back is renamed to serve again.
 */
import { InvariantError } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import type { LogDevice, SegmentFile } from './device.js';

interface UsedSegment extends SegmentFile {
  /** Entries that some group still needs. */
  live: number;
}

/** Files kept to serve again, beside the next one. The rest is removed. */
const sparesMax = 2;

export class Segments {
  readonly #device: LogDevice;
  readonly #segmentBytes: number;
  readonly #logger: Logger;
  readonly #used: UsedSegment[] = [];
  readonly #byNumber = new Map<number, UsedSegment>();
  #recent: UsedSegment | undefined;
  #spares: SegmentFile[] = [];
  #highest = 0;
  #next: Promise<SegmentFile | undefined> | undefined;

  constructor(device: LogDevice, segmentBytes: number, logger: Logger) {
    this.#device = device;
    this.#segmentBytes = segmentBytes;
    this.#logger = logger;
  }

  /** All files, oldest first: used, spare and next. */
  get count(): number {
    return this.#used.length;
  }
  get bytes(): number {
    let sum = 0;
    for (const segment of this.#used) sum += segment.bytes;
    return sum;
  }

  /** A segment with batches in it, newer than the ones before. */
  addUsed(file: SegmentFile): void {
    const used = { ...file, live: 0 };
    this.#used.push(used);
    this.#byNumber.set(file.segment, used);
    this.#highest = Math.max(this.#highest, file.segment);
  }

  /** A file whose content nobody needs. */
  addSpare(file: SegmentFile): void {
    this.#spares.push(file);
    this.#highest = Math.max(this.#highest, file.segment);
  }

  adjustLive(segment: number, by: number): void {
    if (this.#recent?.segment !== segment) this.#recent = this.#byNumber.get(segment);
    if (this.#recent === undefined) throw new InvariantError(`segment ${segment} is in use`);
    this.#recent.live += by;
  }

  /** Starts making the next segment, so that `take` need not wait. */
  prepare(): void {
    if (this.#next !== undefined) return;
    this.#next = this.#make().catch((error: unknown) => {
      // Not fatal yet: nothing acknowledged is at stake. `take` tries once more.
      this.#logger.warn({ err: error }, 'could not prepare the next log segment');
      return undefined;
    });
  }

  /** The next segment, empty, under a number never used before. */
  async take(): Promise<SegmentFile> {
    const prepared = await this.#next;
    this.#next = undefined;
    return prepared ?? (await this.#make());
  }

  async #make(): Promise<SegmentFile> {
    const segment = ++this.#highest;
    const file = { segment, bytes: this.#segmentBytes };
    const at = this.#spares.findIndex((spare) => spare.bytes === this.#segmentBytes);
    if (at < 0) {
      await this.#device.create(segment, this.#segmentBytes);
    } else {
      const [spare] = this.#spares.splice(at, 1) as [SegmentFile];
      await this.#device.rename(spare.segment, segment);
    }
    return file;
  }

  /** The oldest segments that nobody needs, as of now; the newest stays. Give them to `retire` once a later table is synced. */
  retirable(): number {
    let count = 0;
    while (count < this.#used.length - 1 && (this.#used[count] as UsedSegment).live === 0) count++;
    return count;
  }

  /** Gives up the `count` oldest segments. */
  retire(count: number): void {
    for (const segment of this.#used.splice(0, count)) {
      if (segment.live !== 0) throw new InvariantError(`segment ${segment.segment} is needed`);
      this.#byNumber.delete(segment.segment);
      if (this.#recent === segment) this.#recent = undefined;
      this.#spares.push({ segment: segment.segment, bytes: segment.bytes });
    }
    this.#removeExcess();
  }

  /** Gives up a segment whose batches another one holds too. */
  replace(segment: number): void {
    const at = this.#used.findIndex((used) => used.segment === segment);
    const [replaced] = this.#used.splice(at, 1);
    if (at < 0 || replaced?.live !== 0) throw new InvariantError(`segment ${segment} is needed`);
    this.#byNumber.delete(segment);
    this.#recent = undefined;
    this.#spares.push({ segment, bytes: replaced.bytes });
  }

  #removeExcess(): void {
    const keep: SegmentFile[] = [];
    for (const spare of this.#spares) {
      if (keep.length < sparesMax && spare.bytes === this.#segmentBytes) keep.push(spare);
      else {
        this.#device.remove(spare.segment).catch((error: unknown) => {
          this.#logger.warn({ err: error, segment: spare.segment }, 'could not remove an old log segment');
        });
      }
    }
    this.#spares = keep;
  }

  /** Highest segment number whose giving back brings the log down to `maxBytes`; 0: it is small enough. */
  excessTo(maxBytes: number): number {
    let excess = this.bytes - maxBytes;
    let to = 0;
    for (const segment of this.#used) {
      if (excess <= 0) break;
      excess -= segment.bytes;
      to = segment.segment;
    }
    return to;
  }
}
