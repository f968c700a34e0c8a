/** The group's log and the store as raft/ wants to see them. */
import type { Index, Term } from '../common/ids.js';
import type { ConfState, Entry, HardState } from '../common/log-types.js';
import type { Snapshot, Storage } from '../raft/types.js';
import type { PartitionStore } from '../store/types.js';
import type { GroupLog } from '../wal/types.js';

/** Of a replica that must not say anything: whatever its log and state hold counts for nothing. */
export const nothingStored: Storage = Object.freeze({
  initialState: () => ({
    hardState: { term: 0, vote: 0, commit: 0 },
    confState: { voters: [], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false },
  }),
  entries: () => [],
  term: (index: Index) => (index === 0 ? 0 : ('unavailable' as const)),
  firstIndex: () => 1,
  lastIndex: () => 0,
  snapshot: () => 'unavailable' as const,
});

export class RaftStorage implements Storage {
  readonly #log: GroupLog;
  readonly #store: PartitionStore;
  readonly #wantCheckpoint: () => void;

  constructor(log: GroupLog, store: PartitionStore, wantCheckpoint: () => void) {
    this.#log = log;
    this.#store = store;
    this.#wantCheckpoint = wantCheckpoint;
  }

  /**
   * What is applied was committed, even where no record in the log says so, and so
   * was what the log has given up. A
   * snapshot that was decided just before the process ended may be of a later
   * term than the log knows: nothing was said in that one yet, no vote given.
   */
  initialState(): { hardState: HardState; confState: ConfState } {
    const { appliedIndex, appliedTerm } = this.#store;
    const { term, vote, commit } = this.#log.hardState;
    const isLater = appliedTerm > term;
    return {
      hardState: {
        term: isLater ? appliedTerm : term,
        vote: isLater ? 0 : vote,
        commit: Math.max(commit, appliedIndex, this.#log.firstIndex() - 1),
      },
      confState: this.#store.confState,
    };
  }

  entries(lo: Index, hi: Index, maxBytes: number): Entry[] {
    return this.#log.entries(lo, hi, maxBytes);
  }

  term(index: Index): Term | 'compacted' | 'unavailable' {
    if (index === 0 && this.#isFirstHidden()) return 'compacted';
    return this.#log.term(index);
  }

  firstIndex(): Index {
    return this.#isFirstHidden() ? 2 : this.#log.firstIndex();
  }

  /**
   * Once members have changed, one of them may be new: a replica without a
   * configuration, that must not start from the first entry, since what was there
   * before it (first members, first settings) only formatting gives. So that entry
   * counts as gone, and whoever has nothing gets a snapshot.
   */
  #isFirstHidden(): boolean {
    return this.#store.membership.changes > 0 && this.#log.firstIndex() === 1;
  }

  lastIndex(): Index {
    return this.#log.lastIndex();
  }

  /**
   * What is sealed. The metadata alone: the rows travel on a stream of their own.
   * One of before the last change of members would be no use to a replica that it
   * added: it takes in none that does not name it.
   */
  snapshot(): Snapshot | 'unavailable' {
    const { sealedIndex: index, sealedTerm: term, sealedConfState: confState } = this.#store;
    if (index === 0 || this.#store.sealedMembership.changes !== this.#store.membership.changes) {
      this.#wantCheckpoint();
      return 'unavailable';
    }
    return { metadata: { index, term, confState }, data: undefined };
  }
}
