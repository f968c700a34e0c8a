/** Taking a new configuration into use: by a change that is applied, or by a snapshot. */
import { InvariantError } from '../common/errors.js';
import type { ConfState } from '../common/log-types.js';
import { type ConfChange, describeChanges } from './conf-codec.js';
import { applyChange } from './confchange.js';
import type { Raft } from './raft.js';
import { releaseConfirmedReads, releasePendingReads } from './reads.js';
import { broadcastAppend, maybeCommit, maybeSendAppend } from './replication.js';
import { describeConfig, type MemberConfig, type ProgressList } from './tracker.js';
import { NONE, Role } from './types.js';

/**
 * The configuration that `change` would make of the active one, or why it can't be applied.
 * Equal on all replicas at one index: progress differs, whose it is does not.
 */
export function changeOutcome(r: Raft, change: ConfChange): ConfState | string {
  const { config, progress } = r.tracker;
  const outcome = applyChange({ config, progress, lastIndex: r.log.lastIndex(), ...r.limits }, change);
  return outcome.ok ? outcome.config : outcome.problem;
}

/** A change is in force when it is applied; a wrong one in the log is a defect of who proposed it. */
export function applyConfChange(r: Raft, change: ConfChange): ConfState {
  const { config, progress } = r.tracker;
  const outcome = applyChange({ config, progress, lastIndex: r.log.lastIndex(), ...r.limits }, change);
  if (!outcome.ok) {
    throw new InvariantError(
      `configuration change "${describeChanges(change.changes)}" on ${describeConfig(config)}: ${outcome.problem}`,
    );
  }
  return switchTo(r, outcome.config, outcome.progress);
}

export function switchTo(r: Raft, config: MemberConfig, progress: ProgressList): ConfState {
  r.tracer?.('ApplyConfChange', r, { kind: 'voters', voters: config.voters });
  r.tracker.use(config, progress);
  r.logger?.info(`${r.id} switched to configuration ${describeConfig(config)}`);
  if (r.role !== Role.leader) return config;
  const self = r.tracker.get(r.id);
  if (self === undefined || self.isLearner) {
    // Removed or demoted while leading. Without stepping down it leads on, so
    // that the change commits on the others, until its owner stops it.
    if (r.stepDownOnRemoval) r.becomeFollower(r.term, NONE);
    return config;
  }
  if (config.voters.length === 0) return config;
  if (maybeCommit(r)) {
    // A smaller quorum may have what the larger one lacked.
    releasePendingReads(r);
    broadcastAppend(r);
  } else {
    // New members need not wait for the next heartbeat.
    for (const pr of r.tracker.progress) if (pr.id !== r.id) maybeSendAppend(r, pr, false);
  }
  releaseConfirmedReads(r);
  if (r.leadTransferee !== NONE && !r.tracker.isVoter(r.leadTransferee)) r.leadTransferee = NONE;
  return config;
}

/** Why the active configuration speaks against proposing `change` now, or undefined. */
export function confChangeProblem(r: Raft, change: ConfChange): string | undefined {
  const joint = r.tracker.config.votersOutgoing.length > 0;
  const leaves = change.changes.length === 0;
  if (r.pendingConfIndex > r.log.applied) {
    return `possible unapplied conf change at index ${r.pendingConfIndex} (applied to ${r.log.applied})`;
  }
  if (joint && !leaves) return 'must transition out of joint config first';
  if (!joint && leaves) return 'not in joint state; refusing empty conf change';
  return undefined;
}
