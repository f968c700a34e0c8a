/** What is looked at all along a run; each file beside this one is one invariant and names its source. */

import type { Clock } from '../../../src/common/env.js';
import type { ReplicaFault } from '../../../src/common/faults.js';
import type { HostedId } from '../../../src/common/ids.js';
import type { Replica } from '../../../src/partition/replica.js';
import type { GroupLog } from '../../../src/wal/index.js';
import { AppliedAgree } from './applied-agree.js';
import { CommitByOwnTerm } from './commit-by-own-term.js';
import { CommitMonotonic } from './commit-monotonic.js';
import { CommitTimeNear } from './commit-time-near.js';
import { CommittedOnMajority } from './committed-on-majority.js';
import { HardStateKept } from './hard-state-kept.js';
import { NoFalseAlarm } from './no-false-alarm.js';

/** A node as the invariants see it; its logs stay readable, as they were, when its process is gone. */
export interface SeenNode {
  readonly nodeId: number;
  /** Its database lost what was synced. */
  readonly isDamaged: boolean;
  /** Of its wall clock; drift apart. */
  readonly clockOffsetUs: number;
  /** What it believes to be damaged. */
  readonly faults: readonly ReplicaFault[];
  /** Of which it knows that they are members no more. */
  readonly gone: readonly HostedId[];
  /** It found its log or its database damaged, and took a fresh one. */
  readonly hasSetAside: boolean;
  /** Of the process that runs; none while it is down or opens. */
  replicas(): readonly Replica[];
  /** What the disk has for certain, of the process that runs or ran last. */
  lastLogs(): readonly GroupLog[];
}

/** Undefined: holds. */
export interface Invariant {
  look(nodes: readonly SeenNode[]): string | undefined;
}

/** `clock`: real time. */
export function allInvariants(clock: Clock): Invariant[] {
  return [
    new NoFalseAlarm(),
    new AppliedAgree(),
    new CommitByOwnTerm(),
    new CommitMonotonic(),
    new CommitTimeNear(clock),
    new CommittedOnMajority(),
    new HardStateKept(),
  ];
}
