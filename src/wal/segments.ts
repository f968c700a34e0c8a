/**
 * Which segment files there are, what of them is still needed, and the next one,
 * made before it is wanted. Files are used in ascending order and given back from
 * the oldest on; a file that is given back is renamed to serve again.
 */
import { HansardError, InvariantError } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import type { LogDevice, SegmentFile } from './device.js';

interface UsedSegment extends SegmentFile {
  /** Entries that some group still needs. */
  live: number;
}

/** The disk itself fails: no room is another matter. */
function isBroken(error: unknown): boolean {
  return error instanceof HansardError && !['ENOSPC', 'EDQUOT'].includes(String(error.fields.errno));
}

/** Files kept to serve again, beside the next one. The rest is removed. */
const sparesMax = 2;

export class Segments {
  readonly #device: LogDevice;
  readonly #segmentBytes: number;
  readonly #logger: Logger;
  readonly #onFailure: (error: unknown) => void;
  readonly #onMade: (segment: number) => Promise<void>;
  readonly #used: UsedSegment[] = [];
  readonly #byNumber = new Map<number, UsedSegment>();
  #recent: UsedSegment | undefined;
  readonly #spares: SegmentFile[] = [];
  #highest = 0;
  #next: Promise<SegmentFile | undefined> | undefined;

  /** `onMade`: a file is there, and nothing of it is used before this has resolved. */
  constructor(
    device: LogDevice,
    segmentBytes: number,
    logger: Logger,
    onFailure: (error: unknown) => void,
    onMade: (segment: number) => Promise<void>,
  ) {
    this.#onMade = onMade;
    this.#onFailure = onFailure;
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

  /** Of those with batches, oldest first. */
  numbers(): number[] {
    return this.#used.map(({ segment }) => segment);
  }

  /** A segment with batches in it, newer than the ones before. */
  addUsed(file: SegmentFile): void {
    const used = { ...file, live: 0 };
    this.#used.push(used);
    this.#byNumber.set(file.segment, used);
    this.#highest = Math.max(this.#highest, file.segment);
  }

  /** A file found without batches. Those that can not serve again are removed. */
  addSpare(file: SegmentFile): void {
    if (this.#spares.length < sparesMax && file.bytes === this.#segmentBytes) this.#spares.push(file);
    else this.#device.remove(file.segment).catch(this.#onFailure);
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
      if (isBroken(error)) {
        this.#onFailure(error);
        return undefined;
      }
      // A full disk, or the end of a log that is being closed. Not fatal yet: nothing acknowledged is at stake, and there may be room by then. `take` tries once more.
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
    const spare = this.#spares.pop();
    if (spare === undefined) await this.#device.create(segment, this.#segmentBytes);
    else await this.#device.rename(spare.segment, segment);
    await this.#onMade(segment);
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
    for (const segment of this.#used.splice(0, count)) this.#giveUp(segment);
  }

  /** Gives up a segment whose batches another one holds too. */
  replace(segment: number): void {
    const at = this.#used.findIndex((used) => used.segment === segment);
    const [replaced] = at < 0 ? [] : this.#used.splice(at, 1);
    if (replaced === undefined) throw new InvariantError(`segment ${segment} is in use`);
    this.#giveUp(replaced);
  }

  /**
   * A segment that is given up must no longer be found under its number: once an
   * older or newer neighbour is gone too, a start would take it for a log with a
   * hole. So it gets another number, or goes, at once and in order, oldest first;
   * a failure of that ends the process.
   */
  #giveUp(segment: UsedSegment): void {
    if (segment.live !== 0) throw new InvariantError(`segment ${segment.segment} is needed`);
    this.#byNumber.delete(segment.segment);
    if (this.#recent === segment) this.#recent = undefined;
    if (this.#spares.length >= sparesMax || segment.bytes !== this.#segmentBytes) {
      this.#device.remove(segment.segment).catch(this.#onFailure);
      return;
    }
    const spare = { segment: ++this.#highest, bytes: segment.bytes };
    this.#device.rename(segment.segment, spare.segment).catch(this.#onFailure);
    this.#spares.push(spare);
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
