/**
 * A segment's bytes, a piece at a time: the next one is read while this one is
 * verified. Whole segments would take a buffer of 64 MiB twice, and making the
 * pages of one costs more than verifying what is read into it; a piece stays in the
 * processor's cache.
 */
import { assert } from '../common/errors.js';
import type { LogDevice, SegmentFile } from './device.js';
import { alignUp } from './segment-header.js';

const MiB = 1024 * 1024;
/** Read at once. A batch is mostly smaller; what is larger is read on its own. */
const pieceBytesMax = 4 * MiB;
/** A small segment is read in pieces as well: one way for all. */
const piecesMin = 4;

export class SegmentReader {
  readonly #device: LogDevice;
  readonly #pieceBytes: number;
  /** Each has room for what is left of the piece before, and then for a piece. */
  readonly #buffers: [Buffer, Buffer];
  /** The buffer that the next piece goes to. */
  #next: 0 | 1 = 0;
  #file: SegmentFile = { segment: 0, bytes: 0 };
  #ahead: Promise<number> | undefined;
  /** What is held: the file's bytes from here on. */
  #from = 0;
  bytes: Buffer = Buffer.alloc(0);

  constructor(device: LogDevice, largestFile: number) {
    this.#device = device;
    this.#pieceBytes = alignUp(Math.min(pieceBytesMax, Math.ceil(largestFile / piecesMin)));
    this.#buffers = [device.allocate(2 * this.#pieceBytes), device.allocate(2 * this.#pieceBytes)];
  }

  get pieceBytes(): number {
    return this.#pieceBytes;
  }

  get #to(): number {
    return this.#from + this.bytes.length;
  }

  /** From this file's beginning; what was held of another is gone with the next `hold`. */
  async begin(file: SegmentFile): Promise<void> {
    await this.#ahead;
    this.#file = file;
    this.#from = 0;
    this.bytes = Buffer.alloc(0);
    this.#readAhead();
  }

  /** Where the file's byte `offset`, which is held, lies in `bytes`. */
  placeOf(offset: number): number {
    return offset - this.#from;
  }

  /**
   * Has `bytes` hold [offset, offset + count), or up to the file's end. A promise: what
   * was held is gone once it is waited for. Offsets only grow, and never leave a gap.
   */
  hold(offset: number, count: number): Promise<void> | undefined {
    const to = Math.min(offset + count, this.#file.bytes);
    assert(offset >= this.#from && offset <= this.#to, 'a segment is read from front to back');
    return to <= this.#to ? undefined : this.#advance(offset, to);
  }

  async #advance(offset: number, to: number): Promise<void> {
    while (to > this.#to) {
      const got = (await this.#ahead) ?? 0;
      const rest = this.bytes.subarray(this.placeOf(offset));
      // The file is shorter than it was said to be: what is missing fails to verify.
      if (got === 0) return;
      if (to - offset > this.#pieceBytes) return this.#readLarge(offset, to, rest);
      const buffer = this.#buffers[this.#next];
      const start = this.#pieceBytes - rest.length;
      buffer.set(rest, start);
      this.bytes = buffer.subarray(start, this.#pieceBytes + got);
      this.#from = offset;
      this.#next = this.#next === 0 ? 1 : 0;
      this.#readAhead();
    }
  }

  /** More than a piece: into memory of its own. What was read ahead is read again. */
  async #readLarge(offset: number, to: number, rest: Buffer): Promise<void> {
    const large = this.#device.allocate(to - offset);
    large.set(rest, 0);
    const got = await this.#device.read(
      this.#file.segment,
      offset + rest.length,
      large.subarray(rest.length),
    );
    this.bytes = large.subarray(0, rest.length + got);
    this.#from = offset;
    this.#readAhead();
  }

  #readAhead(): void {
    const at = this.#to;
    const count = Math.min(this.#pieceBytes, this.#file.bytes - at);
    if (count <= 0) {
      this.#ahead = undefined;
      return;
    }
    const target = this.#buffers[this.#next].subarray(this.#pieceBytes, this.#pieceBytes + count);
    this.#ahead = this.#device.read(this.#file.segment, at, target);
    // Found damaged before it is awaited: the damage is the error that counts.
    this.#ahead.catch(() => {});
  }
}
