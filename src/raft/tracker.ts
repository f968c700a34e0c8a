/** The active configuration and each member's progress, always in ascending order of id. */
import type { Index, ReplicaId } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import type { Progress } from './progress.js';
import { type AckedIndexes, jointCommitted, jointVote, type VoteResult } from './quorum.js';

/**
 * Voters are (incoming, outgoing); outgoing is empty unless the configuration
 * is joint. Lists are ascending and never changed in place.
 *
 * Invariant: no replica is voter (of either half) and learner at once. A voter
 * of the outgoing half that is to become a learner waits in learnersNext until
 * the joint configuration is left.
 */
export type MemberConfig = ConfState;

export const emptyConfig: MemberConfig = Object.freeze({
  voters: [],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
});

/** Members' progress, ascending by id. */
export type ProgressList = readonly Progress[];

export class Tracker implements AckedIndexes {
  config: MemberConfig = emptyConfig;
  progress: ProgressList = [];
  readonly #byId = new Map<ReplicaId, Progress>();
  readonly #votes = new Map<ReplicaId, boolean>();

  use(config: MemberConfig, progress: ProgressList): void {
    this.config = config;
    this.progress = progress;
    this.#byId.clear();
    for (const pr of progress) this.#byId.set(pr.id, pr);
  }

  get(id: ReplicaId): Progress | undefined {
    return this.#byId.get(id);
  }

  acked(id: ReplicaId): Index | undefined {
    return this.#byId.get(id)?.match;
  }

  /** What a quorum has acknowledged. */
  committed(): Index {
    return jointCommitted(this.config.voters, this.config.votersOutgoing, this);
  }

  isSingleton(): boolean {
    return this.config.voters.length === 1 && this.config.votersOutgoing.length === 0;
  }

  isVoter(id: ReplicaId): boolean {
    return this.config.voters.includes(id) || this.config.votersOutgoing.includes(id);
  }

  /** Voters of both halves, ascending. */
  voters(): readonly ReplicaId[] {
    if (this.config.votersOutgoing.length === 0) return this.config.voters;
    return ascending([...this.config.voters, ...this.config.votersOutgoing]);
  }

  quorumActive(): boolean {
    const votes = new Map<ReplicaId, boolean>();
    for (const pr of this.progress) if (!pr.isLearner) votes.set(pr.id, pr.recentActive);
    return jointVote(this.config.voters, this.config.votersOutgoing, votes) === 'won';
  }

  resetVotes(): void {
    this.#votes.clear();
  }

  /** The first answer of a replica counts. */
  recordVote(id: ReplicaId, granted: boolean): void {
    if (!this.#votes.has(id)) this.#votes.set(id, granted);
  }

  tallyVotes(): { granted: number; rejected: number; result: VoteResult } {
    let granted = 0;
    let rejected = 0;
    for (const pr of this.progress) {
      if (pr.isLearner) continue;
      const vote = this.#votes.get(pr.id);
      if (vote === true) granted++;
      else if (vote === false) rejected++;
    }
    const result = jointVote(this.config.voters, this.config.votersOutgoing, this.#votes);
    return { granted, rejected, result };
  }
}

/** `voters=(1 2)&&(1) learners=(3) learners_next=(4) autoleave`, ids in hexadecimal. */
export function describeConfig(config: MemberConfig): string {
  let text = `voters=${idList(config.voters)}`;
  if (config.votersOutgoing.length > 0) text += `&&${idList(config.votersOutgoing)}`;
  if (config.learners.length > 0) text += ` learners=${idList(config.learners)}`;
  if (config.learnersNext.length > 0) text += ` learners_next=${idList(config.learnersNext)}`;
  if (config.autoLeave) text += ' autoleave';
  return text;
}

/** Sorted, repeats dropped. */
export function ascending(ids: readonly ReplicaId[]): ReplicaId[] {
  return [...new Set(ids)].sort((a, b) => a - b);
}

function idList(ids: readonly ReplicaId[]): string {
  return `(${ids.map((id) => id.toString(16)).join(' ')})`;
}
