/**
 * The log as one: storage up to unstable.offset, unstable entries after it.
 *
 * Invariant: applied <= applying <= committed <= last index.
 */
import { assert, InvariantError } from '../common/errors.js';
import type { Index, Term } from '../common/ids.js';
import { type Entry, EntryType } from '../common/log-types.js';
import { countWithin, entriesSize, entrySize } from './size.js';
import { type Logger, NO_LIMIT, noEntries, type Snapshot, type Storage } from './types.js';
import { Unstable } from './unstable.js';

/** What `term()` answers where it knows none. Terms start at 1, and 0 is before the first entry. */
export const TERM_COMPACTED = -1;
export const TERM_UNAVAILABLE = -2;

export class RaftLog {
  readonly unstable: Unstable;
  /** Known to be on a quorum. */
  committed: Index;
  /** Handed out for applying. */
  applying: Index;
  /** Reported applied. */
  applied: Index;
  /** Bytes handed out for applying and not reported yet. */
  #applyingSize = 0;
  #applyingPaused = false;

  constructor(
    private readonly storage: Storage,
    private readonly maxApplyingSize: number,
    private readonly logger: Logger | undefined,
  ) {
    const first = storage.firstIndex();
    this.unstable = new Unstable(storage.lastIndex() + 1);
    this.committed = first - 1;
    this.applying = first - 1;
    this.applied = first - 1;
  }

  firstIndex(): Index {
    return this.unstable.firstIndex() ?? this.storage.firstIndex();
  }

  lastIndex(): Index {
    return this.unstable.lastIndex() ?? this.storage.lastIndex();
  }

  lastTerm(): Term {
    const term = this.term(this.lastIndex());
    assert(term >= 0, 'the last entry has no term');
    return term;
  }

  /** Of the entry at `i`, the one before the first included; negative: not known. */
  term(i: Index): Term {
    const unstable = this.unstable.term(i);
    if (unstable !== undefined) return unstable;
    if (i + 1 < this.firstIndex()) return TERM_COMPACTED;
    if (i > this.lastIndex()) return TERM_UNAVAILABLE;
    const term = this.storage.term(i);
    if (typeof term === 'number') return term;
    return term === 'compacted' ? TERM_COMPACTED : TERM_UNAVAILABLE;
  }

  matches(index: Index, term: Term): boolean {
    return this.term(index) === term;
  }

  /** May a candidate whose log ends in (term, index) lead us? */
  isUpToDate(term: Term, index: Index): boolean {
    const ours = this.lastTerm();
    return term > ours || (term === ours && index >= this.lastIndex());
  }

  /**
   * A follower's append: entries after (prevIndex, prevTerm), which must match.
   * Returns the last index that is now known to match, or undefined.
   */
  maybeAppend(prevIndex: Index, prevTerm: Term, entries: readonly Entry[], commit: Index): Index | undefined {
    if (!this.matches(prevIndex, prevTerm)) return undefined;
    const last = prevIndex + entries.length;
    const skip = this.#firstConflict(entries);
    if (skip < entries.length) {
      const index = entries[skip]!.index;
      // Raft, figure 3, State Machine Safety: what is committed is never rewritten.
      if (!(index > this.committed))
        throw new InvariantError(`entry ${index} conflicts with a committed one (commit ${this.committed})`);
      this.append(entries, skip);
    }
    this.commitTo(Math.min(commit, last));
    return last;
  }

  /** Position of the first entry that the log does not hold; entries.length: it holds all. */
  #firstConflict(entries: readonly Entry[]): number {
    for (let i = 0; i < entries.length; i++) {
      const { index, term } = entries[i]!;
      if (this.matches(index, term)) continue;
      if (this.logger !== undefined && index <= this.lastIndex()) {
        this.logger.info(
          `found conflict at index ${index} [existing term: ${Math.max(0, this.term(index))}, conflicting term: ${term}]`,
        );
      }
      return i;
    }
    return entries.length;
  }

  append(entries: readonly Entry[], skip = 0): Index {
    if (skip < entries.length) {
      const after = entries[skip]!.index - 1;
      if (!(after >= this.committed))
        throw new InvariantError(`append after ${after} is below commit ${this.committed}`);
      this.unstable.truncateAndAppend(entries, skip);
    }
    return this.lastIndex();
  }

  /**
   * The best guess where this log parts from another of which one entry's term
   * is known: the highest place at or below `index` whose term is at most
   * `term`, or unknown (then the second value is 0).
   */
  findConflictByTerm(index: Index, term: Term): { index: Index; term: Term } {
    for (let i = index; i > 0; i--) {
      const ours = this.term(i);
      if (ours < 0) return { index: i, term: 0 };
      if (ours <= term) return { index: i, term: ours };
    }
    return { index: 0, term: 0 };
  }

  commitTo(index: Index): void {
    if (index <= this.committed) return;
    const last = this.lastIndex();
    if (!(index <= last))
      throw new InvariantError(
        `commit ${index} is beyond the last entry ${last}: was the log damaged or lost?`,
      );
    this.committed = index;
  }

  /** Only entries of the leader's own term commit by counting (Raft, section 5.4.2). */
  maybeCommit(term: Term, index: Index): boolean {
    if (term === 0 || index <= this.committed || !this.matches(index, term)) return false;
    this.commitTo(index);
    return true;
  }

  restore(snapshot: Snapshot): void {
    this.committed = snapshot.metadata.index;
    this.unstable.restore(snapshot);
  }

  snapshot(): Snapshot | 'unavailable' {
    return this.unstable.snapshot ?? this.storage.snapshot();
  }

  hasNextOrInProgressSnapshot(): boolean {
    return this.unstable.snapshot !== undefined;
  }

  hasNextOrInProgressUnstable(): boolean {
    return this.unstable.entries.length > 0;
  }

  /** The highest index that may be applied now; `allowUnstable`: before storage has it, too. */
  #maxAppliable(allowUnstable: boolean): Index {
    return allowUnstable ? this.committed : Math.min(this.committed, this.unstable.offset - 1);
  }

  hasNextCommitted(allowUnstable: boolean): boolean {
    // With a snapshot pending, what comes first would be unclear: it goes alone.
    if (this.#applyingPaused || this.hasNextOrInProgressSnapshot()) return false;
    return this.applying < this.#maxAppliable(allowUnstable);
  }

  nextCommitted(allowUnstable: boolean): readonly Entry[] {
    if (!this.hasNextCommitted(allowUnstable)) return noEntries;
    const room = this.maxApplyingSize - this.#applyingSize;
    assert(room > 0, 'no room for applying, but not paused');
    return this.slice(this.applying + 1, this.#maxAppliable(allowUnstable) + 1, room);
  }

  /** Entries up to `index`, `size` bytes, were handed out for applying. */
  acceptApplying(index: Index, size: number, allowUnstable: boolean): void {
    if (!(index <= this.committed))
      throw new InvariantError(`applying ${index} beyond commit ${this.committed}`);
    this.applying = index;
    this.#applyingSize += size;
    // Stopping short of what could be applied means that the next entry did not fit.
    this.#applyingPaused =
      this.#applyingSize >= this.maxApplyingSize || index < this.#maxAppliable(allowUnstable);
  }

  appliedTo(index: Index, size: number): void {
    if (!(index >= this.applied && index <= this.committed))
      throw new InvariantError(`applied ${index} is outside [${this.applied}, ${this.committed}]`);
    this.applied = index;
    this.applying = Math.max(this.applying, index);
    this.#applyingSize = Math.max(0, this.#applyingSize - size);
    this.#applyingPaused = this.#applyingSize >= this.maxApplyingSize;
  }

  /** Is a configuration change committed and not applied? Looks at a page at a time. */
  hasUnappliedConfChange(): boolean {
    for (let lo = this.applied + 1; lo <= this.committed; ) {
      const page = this.slice(lo, this.committed + 1, this.maxApplyingSize);
      if (!(page.length > 0)) throw new InvariantError(`no entries from ${lo} on`);
      for (const entry of page) if (entry.type !== EntryType.normal) return true;
      lo += page.length;
    }
    return false;
  }

  /** Entries from `from` to the end, within `maxSize`; undefined: compacted. */
  entriesFrom(from: Index, maxSize: number): readonly Entry[] | undefined {
    const last = this.lastIndex();
    if (from > last) return noEntries;
    if (from < this.firstIndex()) return undefined;
    return this.slice(from, last + 1, maxSize);
  }

  /** Entries in [lo, hi), which exist, within `maxSize` but at least one. */
  slice(lo: Index, hi: Index, maxSize: number = NO_LIMIT): readonly Entry[] {
    if (!(lo >= this.firstIndex() && hi <= this.lastIndex() + 1))
      throw new InvariantError(
        `entries [${lo}, ${hi}) are outside [${this.firstIndex()}, ${this.lastIndex()}]`,
      );
    if (lo >= hi) return noEntries;
    const { offset, entries } = this.unstable;
    if (lo >= offset) {
      const count = countWithin(entries, lo - offset, hi - offset, maxSize);
      return entries.slice(lo - offset, lo - offset + count);
    }
    const cut = Math.min(hi, offset);
    const stable = this.storage.entries(lo, cut, maxSize);
    if (!(stable.length > 0)) throw new InvariantError(`storage gave no entries in [${lo}, ${cut})`);
    // Fewer than asked for: the limit is reached.
    if (hi <= offset || stable.length < cut - lo) return stable;
    let size = entriesSize(stable);
    for (let i = 0; i < hi - offset; i++) {
      size += entrySize(entries[i]!);
      if (size > maxSize) break;
      stable.push(entries[i]!);
    }
    return stable;
  }
}
