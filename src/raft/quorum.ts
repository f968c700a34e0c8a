/**
 * Majorities, alone and joint. A joint configuration decides what both halves
 * decide; an empty half agrees to everything, so that a joint configuration with
 * one half behaves as that half. Voters are ascending lists without repeats.
 */
import type { Index, ReplicaId } from '../common/ids.js';

export type VoteResult = 'pending' | 'lost' | 'won';

/** Who has acknowledged what. */
export interface AckedIndexes {
  /** undefined: nothing heard yet. */
  acked(id: ReplicaId): Index | undefined;
}

/**
 * Where indexes are sorted; in all of a process the same. No Float64Array, and nothing but indexes in it: V8 boxes what is
 * loaded from a list that ever held a double, and then every field that a commit index is stored in holds boxes.
 */
const sortedIndexes: Index[] = [];

/** The highest index that a majority has acknowledged; Infinity of an empty half. `sorted`: of rounds, which may be doubles. */
export function majorityCommitted(
  voters: readonly ReplicaId[],
  acks: AckedIndexes,
  sorted: Index[] = sortedIndexes,
): Index {
  const n = voters.length;
  if (n === 0) return Number.POSITIVE_INFINITY;
  // Insertion sort: a handful of nearly equal numbers, no allocation.
  for (let i = 0; i < n; i++) {
    const index = acks.acked(voters[i]!) ?? 0;
    let at = i;
    while (at > 0 && sorted[at - 1]! > index) {
      sorted[at] = sorted[at - 1]!;
      at--;
    }
    sorted[at] = index;
  }
  return sorted[n - (Math.floor(n / 2) + 1)]!;
}

export function jointCommitted(
  incoming: readonly ReplicaId[],
  outgoing: readonly ReplicaId[],
  acks: AckedIndexes,
  sorted: Index[] = sortedIndexes,
): Index {
  const index = majorityCommitted(incoming, acks, sorted);
  return outgoing.length === 0 ? index : Math.min(index, majorityCommitted(outgoing, acks, sorted));
}

export function majorityVote(
  voters: readonly ReplicaId[],
  votes: ReadonlyMap<ReplicaId, boolean>,
): VoteResult {
  if (voters.length === 0) return 'won';
  let yes = 0;
  let missing = 0;
  for (const id of voters) {
    const vote = votes.get(id);
    if (vote === undefined) missing++;
    else if (vote) yes++;
  }
  const quorum = Math.floor(voters.length / 2) + 1;
  if (yes >= quorum) return 'won';
  return yes + missing >= quorum ? 'pending' : 'lost';
}

export function jointVote(
  incoming: readonly ReplicaId[],
  outgoing: readonly ReplicaId[],
  votes: ReadonlyMap<ReplicaId, boolean>,
): VoteResult {
  const a = majorityVote(incoming, votes);
  const b = majorityVote(outgoing, votes);
  if (a === b) return a;
  return a === 'lost' || b === 'lost' ? 'lost' : 'pending';
}
