/**
 * The end of the log that storage does not have for certain: entries and
 * perhaps a snapshot, from the moment they exist until their write is reported
 * done. A first part of them may be in progress, that is handed out for writing.
 *
 * `offset` may lie below storage's last index: then the next write replaces
 * what storage holds from there on.
 */
import { InvariantError } from '../common/errors.js';
import type { Index, Term } from '../common/ids.js';
import type { Entry } from '../common/log-types.js';
import { noEntries, type Snapshot } from './types.js';

export class Unstable {
  snapshot: Snapshot | undefined;
  snapshotInProgress = false;
  /** entries[i] is at index offset + i. */
  readonly entries: Entry[] = [];
  /** Entries below this index are being written. Invariant: offset <= offsetInProgress. */
  offsetInProgress: Index;

  constructor(public offset: Index) {
    this.offsetInProgress = offset;
  }

  /** First index after the snapshot, where there is one. */
  firstIndex(): Index | undefined {
    return this.snapshot === undefined ? undefined : this.snapshot.metadata.index + 1;
  }

  lastIndex(): Index | undefined {
    if (this.entries.length > 0) return this.offset + this.entries.length - 1;
    return this.snapshot?.metadata.index;
  }

  term(i: Index): Term | undefined {
    if (i >= this.offset) return this.entries[i - this.offset]?.term;
    const metadata = this.snapshot?.metadata;
    return metadata?.index === i ? metadata.term : undefined;
  }

  hasNextEntries(): boolean {
    return this.entries.length > this.offsetInProgress - this.offset;
  }

  /** Entries not handed out yet. */
  nextEntries(): readonly Entry[] {
    return this.hasNextEntries() ? this.entries.slice(this.offsetInProgress - this.offset) : noEntries;
  }

  nextSnapshot(): Snapshot | undefined {
    return this.snapshotInProgress ? undefined : this.snapshot;
  }

  /** All there is has been handed out for writing. */
  acceptInProgress(): void {
    if (this.entries.length > 0) this.offsetInProgress = this.offset + this.entries.length;
    if (this.snapshot !== undefined) this.snapshotInProgress = true;
  }

  /**
   * Entries up to (term, index) are in storage, and no write in progress can
   * replace them any more (the caller vouches for that). False: that entry is
   * not here, or another one is in its place.
   */
  stableTo(term: Term, index: Index): boolean {
    if (index < this.offset || this.term(index) !== term) return false;
    // Mostly all of it is: no list for what is taken out.
    if (index + 1 - this.offset === this.entries.length) this.entries.length = 0;
    else this.entries.splice(0, index + 1 - this.offset);
    this.offset = index + 1;
    this.offsetInProgress = Math.max(this.offsetInProgress, this.offset);
    return true;
  }

  stableSnapTo(index: Index): void {
    if (this.snapshot?.metadata.index !== index) return;
    this.snapshot = undefined;
    this.snapshotInProgress = false;
  }

  restore(snapshot: Snapshot): void {
    this.offset = snapshot.metadata.index + 1;
    this.offsetInProgress = this.offset;
    this.entries.length = 0;
    this.snapshot = snapshot;
    this.snapshotInProgress = false;
  }

  /** `list` from `skip` on replaces everything at and after its first index. */
  truncateAndAppend(list: readonly Entry[], skip: number): void {
    const from = list[skip]!.index;
    if (from <= this.offset) {
      this.offset = from;
      this.offsetInProgress = from;
      this.entries.length = 0;
    } else if (from < this.offset + this.entries.length) {
      this.entries.length = from - this.offset;
      this.offsetInProgress = Math.min(this.offsetInProgress, from);
    } else {
      if (!(from === this.offset + this.entries.length))
        throw new InvariantError(`gap in the log before index ${from}`);
    }
    for (let i = skip; i < list.length; i++) this.entries.push(list[i]!);
  }
}
