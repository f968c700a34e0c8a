/**
 * What a change makes of a configuration: simple changes (at most one voter),
 * entering and leaving a joint configuration (Raft thesis, section 4.3). Pure:
 * the result is new, the input stays; what is not allowed comes back as a text.
 */
import { InvariantError } from '../common/errors.js';
import type { Index, ReplicaId } from '../common/ids.js';
import type { ConfState } from '../common/log-types.js';
import {
  type ConfChange,
  ConfChangeKind,
  type ConfChangeSingle,
  entersJoint,
  isLeaveJoint,
} from './conf-codec.js';
import { Inflights } from './inflights.js';
import { Progress } from './progress.js';
import { ascending, emptyConfig, type MemberConfig, type ProgressList } from './tracker.js';

export interface ChangeBase {
  readonly config: MemberConfig;
  readonly progress: ProgressList;
  /** Of the leader's log: where a new member is probed first. */
  readonly lastIndex: Index;
  readonly maxInflightMsgs: number;
  readonly maxInflightBytes: number;
}

export type ChangeOutcome =
  | { readonly ok: true; readonly config: MemberConfig; readonly progress: ProgressList }
  | { readonly ok: false; readonly problem: string };

export function applyChange(base: ChangeBase, change: ConfChange): ChangeOutcome {
  if (isLeaveJoint(change)) return leaveJoint(base);
  const { joint, autoLeave } = entersJoint(change);
  return joint ? enterJoint(base, autoLeave, change.changes) : simple(base, change.changes);
}

/** Any changes that in sum add or remove at most one voter. */
export function simple(base: ChangeBase, changes: readonly ConfChangeSingle[]): ChangeOutcome {
  const draft = new Draft(base);
  const before = draft.problem();
  if (before !== undefined) return refused(before);
  if (draft.outgoing.size > 0) return refused("can't apply simple config change in joint config");
  const problem = draft.apply(changes);
  if (problem !== undefined) return refused(problem);
  let changed = 0;
  for (const id of base.config.voters) if (!draft.voters.has(id)) changed++;
  for (const id of draft.voters) if (!base.config.voters.includes(id)) changed++;
  if (changed > 1) return refused('more than one voter changed without entering joint config');
  return draft.outcome();
}

/** From voters (1 2 3) to (1 2 3)&&(1 2 3), then the changes on the incoming half. */
export function enterJoint(
  base: ChangeBase,
  autoLeave: boolean,
  changes: readonly ConfChangeSingle[],
): ChangeOutcome {
  const draft = new Draft(base);
  const before = draft.problem();
  if (before !== undefined) return refused(before);
  if (draft.outgoing.size > 0) return refused('config is already joint');
  if (draft.voters.size === 0) return refused("can't make a zero-voter config joint");
  for (const id of draft.voters) draft.outgoing.add(id);
  const problem = draft.apply(changes);
  if (problem !== undefined) return refused(problem);
  draft.autoLeave = autoLeave;
  return draft.outcome();
}

/** The incoming half decides alone from here on; those in learnersNext become learners. */
export function leaveJoint(base: ChangeBase): ChangeOutcome {
  const draft = new Draft(base);
  const before = draft.problem();
  if (before !== undefined) return refused(before);
  if (draft.outgoing.size === 0) return refused("can't leave a non-joint config");
  for (const id of draft.learnersNext) {
    draft.learners.add(id);
    draft.progress.get(id)!.isLearner = true;
  }
  draft.learnersNext.clear();
  for (const id of draft.outgoing) {
    if (!draft.voters.has(id) && !draft.learners.has(id)) draft.progress.delete(id);
  }
  draft.outgoing.clear();
  draft.autoLeave = false;
  return draft.outcome();
}

/** Builds a stored configuration anew; nothing is known of anybody's progress. */
export function restore(
  conf: ConfState,
  base: Omit<ChangeBase, 'config' | 'progress'>,
): { config: MemberConfig; progress: ProgressList } {
  const draft = new Draft({ ...base, config: emptyConfig, progress: [] });
  for (const id of ascending([...conf.voters, ...conf.votersOutgoing])) draft.addProgress(id, false);
  for (const id of conf.learners) draft.addProgress(id, true);
  for (const id of conf.voters) draft.voters.add(id);
  for (const id of conf.votersOutgoing) draft.outgoing.add(id);
  for (const id of conf.learners) draft.learners.add(id);
  for (const id of conf.learnersNext) draft.learnersNext.add(id);
  draft.autoLeave = conf.autoLeave;
  const outcome = draft.outcome();
  if (!outcome.ok) throw new InvariantError(`stored configuration is impossible: ${outcome.problem}`);
  if (conf.voters.length === 0 && draft.progress.size > 0) {
    throw new InvariantError('stored configuration has members but no voters');
  }
  return outcome;
}

function refused(problem: string): ChangeOutcome {
  return { ok: false, problem };
}

/** A configuration that is being changed; progress is copied, so that a refusal leaves no trace. */
class Draft {
  readonly voters: Set<ReplicaId>;
  readonly outgoing: Set<ReplicaId>;
  readonly learners: Set<ReplicaId>;
  readonly learnersNext: Set<ReplicaId>;
  autoLeave: boolean;
  readonly progress = new Map<ReplicaId, Progress>();

  constructor(private readonly base: ChangeBase) {
    this.voters = new Set(base.config.voters);
    this.outgoing = new Set(base.config.votersOutgoing);
    this.learners = new Set(base.config.learners);
    this.learnersNext = new Set(base.config.learnersNext);
    this.autoLeave = base.config.autoLeave;
    for (const pr of base.progress) this.progress.set(pr.id, pr.clone());
  }

  apply(changes: readonly ConfChangeSingle[]): string | undefined {
    for (const { kind, id } of changes) {
      if (id === 0) continue;
      if (kind === ConfChangeKind.addVoter) this.#makeVoter(id);
      else if (kind === ConfChangeKind.addLearner) this.#makeLearner(id);
      else if (kind === ConfChangeKind.remove) this.#remove(id);
    }
    return this.voters.size === 0 ? 'removed all voters' : undefined;
  }

  addProgress(id: ReplicaId, isLearner: boolean): void {
    // Probing starts at the leader's last entry: most likely wrong, but the
    // answer tells where the log ends. Active, or a quorum check that comes
    // before the new member's first word would depose the leader.
    const inflights = new Inflights(this.base.maxInflightMsgs, this.base.maxInflightBytes);
    const next = Math.max(this.base.lastIndex, 1);
    this.progress.set(id, new Progress(id, next, inflights, { isLearner, recentActive: true }));
  }

  outcome(): ChangeOutcome {
    const problem = this.problem();
    if (problem !== undefined) return refused(problem);
    const config: MemberConfig = {
      voters: ascending([...this.voters]),
      votersOutgoing: ascending([...this.outgoing]),
      learners: ascending([...this.learners]),
      learnersNext: ascending([...this.learnersNext]),
      autoLeave: this.autoLeave,
    };
    return { ok: true, config, progress: [...this.progress.values()].sort((a, b) => a.id - b.id) };
  }

  /** The first broken invariant of configuration and progress together. */
  problem(): string | undefined {
    for (const ids of [this.voters, this.outgoing, this.learners, this.learnersNext]) {
      for (const id of ids) if (!this.progress.has(id)) return `no progress for ${id}`;
    }
    for (const id of this.learnersNext) {
      if (!this.outgoing.has(id)) return `${id} is in LearnersNext, but not Voters[1]`;
      if (this.progress.get(id)!.isLearner) {
        return `${id} is in LearnersNext, but is already marked as learner`;
      }
    }
    for (const id of this.learners) {
      if (this.outgoing.has(id)) return `${id} is in Learners and Voters[1]`;
      if (this.voters.has(id)) return `${id} is in Learners and Voters[0]`;
      if (!this.progress.get(id)!.isLearner) return `${id} is in Learners, but is not marked as learner`;
    }
    if (this.outgoing.size === 0 && this.autoLeave) return 'AutoLeave must be false when not joint';
    return undefined;
  }

  #makeVoter(id: ReplicaId): void {
    const pr = this.progress.get(id);
    if (pr === undefined) this.addProgress(id, false);
    else pr.isLearner = false;
    this.learners.delete(id);
    this.learnersNext.delete(id);
    this.voters.add(id);
  }

  #makeLearner(id: ReplicaId): void {
    const pr = this.progress.get(id);
    if (pr === undefined) {
      this.addProgress(id, true);
      this.learners.add(id);
      return;
    }
    if (pr.isLearner) return;
    this.#remove(id);
    this.progress.set(id, pr);
    // Still a voter of the outgoing half: it becomes a learner when that goes.
    if (this.outgoing.has(id)) {
      this.learnersNext.add(id);
    } else {
      pr.isLearner = true;
      this.learners.add(id);
    }
  }

  #remove(id: ReplicaId): void {
    if (!this.progress.has(id)) return;
    this.voters.delete(id);
    this.learners.delete(id);
    this.learnersNext.delete(id);
    if (!this.outgoing.has(id)) this.progress.delete(id);
  }
}
