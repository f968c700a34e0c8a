/** A log in memory, for tests of the bare core. */
import { assert } from '../../src/common/errors.js';
import type { Index, Term } from '../../src/common/ids.js';
import type { ConfState, Entry, HardState } from '../../src/common/log-types.js';
import { entrySize, type Snapshot, type Storage } from '../../src/raft/index.js';

export const emptyConfState: ConfState = {
  voters: [],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
};

export const emptySnapshot: Snapshot = {
  metadata: { index: 0, term: 0, confState: emptyConfState },
  data: new Uint8Array(0),
};

export const compacted = 'requested index is unavailable due to compaction';
export const outOfDate = 'requested index is older than the existing snapshot';

export class MemoryStorage implements Storage {
  hardState: HardState = { term: 0, vote: 0, commit: 0 };
  stored: Snapshot = emptySnapshot;
  /** Of the applied state, where that is kept beside the log; else the stored snapshot's. */
  confState: ConfState | undefined;
  /** The place before the first entry. */
  #base: { index: Index; term: Term } = { index: 0, term: 0 };
  #entries: Entry[] = [];
  /** Gives another snapshot than the stored one, where set. */
  snapshotOverride: (() => Snapshot | 'unavailable') | undefined;

  initialState(): { hardState: HardState; confState: ConfState } {
    return { hardState: this.hardState, confState: this.confState ?? this.stored.metadata.confState };
  }

  entries(lo: Index, hi: Index, maxBytes: number): Entry[] {
    assert(lo > this.#base.index && hi <= this.lastIndex() + 1, `no entries [${lo}, ${hi})`);
    const result: Entry[] = [];
    let size = 0;
    for (let i = lo; i < hi; i++) {
      const entry = this.#entries[i - this.firstIndex()]!;
      size += entrySize(entry);
      if (result.length > 0 && size > maxBytes) break;
      result.push(entry);
    }
    return result;
  }

  term(i: Index): Term | 'compacted' | 'unavailable' {
    if (i < this.#base.index) return 'compacted';
    if (i === this.#base.index) return this.#base.term;
    return this.#entries[i - this.firstIndex()]?.term ?? 'unavailable';
  }

  firstIndex(): Index {
    return this.#base.index + 1;
  }

  lastIndex(): Index {
    return this.#base.index + this.#entries.length;
  }

  snapshot(): Snapshot | 'unavailable' {
    return this.snapshotOverride?.() ?? this.stored;
  }

  /** The answer is an error's text, or undefined. */
  applySnapshot(snapshot: Snapshot): string | undefined {
    const old = this.stored.metadata.index;
    if (old !== 0 && old >= snapshot.metadata.index) return outOfDate;
    this.stored = snapshot;
    this.#base = { index: snapshot.metadata.index, term: snapshot.metadata.term };
    this.#entries = [];
    return undefined;
  }

  /** Drops all entries up to `index`; its term stays known. */
  compact(index: Index): string | undefined {
    if (index <= this.#base.index) return compacted;
    const term = this.term(index);
    assert(typeof term === 'number', `compaction to ${index} beyond the log`);
    this.#entries = this.#entries.slice(index - this.#base.index);
    this.#base = { index, term };
    return undefined;
  }

  /** Replaces everything at and after the first of them. */
  append(entries: readonly Entry[]): void {
    const fresh = entries.filter((entry) => entry.index >= this.firstIndex());
    if (fresh.length === 0) return;
    const keep = fresh[0]!.index - this.firstIndex();
    assert(keep <= this.#entries.length, `gap before index ${fresh[0]!.index}`);
    this.#entries = [...this.#entries.slice(0, keep), ...fresh];
  }
}
