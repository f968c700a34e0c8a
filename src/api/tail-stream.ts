/** One caller's tail: where it stands. What it has not taken yet is its OutStream's. */
import type { Seq } from '../common/ids.js';
import { OutStream } from './out-stream.js';

export interface TailOptions {
  /** First event to send. */
  readonly next: Seq;
  readonly mustExist: boolean;
  readonly maxBatch: number;
}

export class TailStream extends OutStream {
  /** The next event to send. */
  next: Seq = 1;
  mustExist = false;
  maxBatch = 1;
  /** It has been told that it is at the head, and has not fallen behind since. */
  live = false;
  /** When it came, if no leader was known then: it takes what is here for a while. */
  cameLeaderlessMs: number | undefined;
  /** Of the page that it was served last: who waited longest comes first. */
  servedAt = 0;

  /** Where it begins is known. */
  begin({ next, mustExist, maxBatch }: TailOptions): void {
    this.next = next;
    this.mustExist = mustExist;
    this.maxBatch = maxBatch;
  }
}
