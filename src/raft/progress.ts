/**
 * How far one follower is, as the leader sees it, and how the leader may send
 * to it:
 *
 *   probe      one MsgApp per heartbeat until the follower's place is known
 *   replicate  optimistic: entries leave as they come, as far as the window goes
 *   snapshot   nothing leaves until the follower answers or the sending is reported
 *
 * Invariant: match < next. In snapshot, next = pendingSnapshot + 1.
 */
import { assert } from '../common/errors.js';
import type { Index, ReplicaId } from '../common/ids.js';
import type { Inflights } from './inflights.js';

export const ProgressState = { probe: 0, replicate: 1, snapshot: 2 } as const;
export type ProgressState = (typeof ProgressState)[keyof typeof ProgressState];
export const progressStateNames: readonly string[] = Object.freeze([
  'StateProbe',
  'StateReplicate',
  'StateSnapshot',
]);

export class Progress {
  /** The follower's log is known to equal the leader's up to here. */
  match: Index = 0;
  /** First entry to send; those between match and next are under way. */
  next: Index;
  /** Highest commit index under way to the follower; may fall when a probe starts or an append is refused. */
  sentCommit: Index = 0;
  state: ProgressState = ProgressState.probe;
  /** Index of the snapshot that was sent; 0: none. */
  pendingSnapshot: Index = 0;
  /** Heard from since the last quorum check; always true of the leader itself. */
  recentActive: boolean;
  /** One probe, or a full window, is out: the next MsgApp waits for a heartbeat's answer. */
  paused = false;
  inflights: Inflights;
  isLearner: boolean;

  constructor(
    readonly id: ReplicaId,
    next: Index,
    inflights: Inflights,
    options: { isLearner: boolean; recentActive: boolean },
  ) {
    this.next = next;
    this.inflights = inflights;
    this.isLearner = options.isLearner;
    this.recentActive = options.recentActive;
  }

  /** A copy that shares the window; enough for trying out a configuration change. */
  clone(): Progress {
    const copy = new Progress(this.id, this.next, this.inflights, this);
    copy.match = this.match;
    copy.sentCommit = this.sentCommit;
    copy.state = this.state;
    copy.pendingSnapshot = this.pendingSnapshot;
    copy.paused = this.paused;
    return copy;
  }

  /** Forgets all of the last term. */
  restart(match: Index, next: Index): void {
    this.match = match;
    this.next = next;
    this.sentCommit = 0;
    this.state = ProgressState.probe;
    this.pendingSnapshot = 0;
    this.recentActive = false;
    this.paused = false;
    this.inflights.reset();
  }

  /**
   * The follower's disk lost entries that it had acknowledged: its log may end at
   * `last`, or part from ours before. What was committed by its word stays so: it
   * votes for nobody who lacks what it lost (partition/, the floor).
   */
  lostEntries(last: Index): void {
    const { recentActive } = this;
    this.restart(0, last + 1);
    this.recentActive = recentActive;
  }

  becomeProbe(): void {
    // Out of snapshot state the snapshot counts as received: probe after it.
    const pending = this.state === ProgressState.snapshot ? this.pendingSnapshot : 0;
    this.#become(ProgressState.probe);
    this.next = Math.max(this.match, pending) + 1;
    this.sentCommit = Math.min(this.sentCommit, this.next - 1);
  }

  becomeReplicate(): void {
    this.#become(ProgressState.replicate);
    this.next = this.match + 1;
  }

  becomeSnapshot(index: Index): void {
    this.#become(ProgressState.snapshot);
    this.pendingSnapshot = index;
    this.next = index + 1;
    this.sentCommit = index;
  }

  #become(state: ProgressState): void {
    this.paused = false;
    this.pendingSnapshot = 0;
    this.state = state;
    this.inflights.reset();
  }

  /** A MsgApp with `count` entries from `next` on, `bytes` of data, has left. */
  sentEntries(count: number, bytes: number): void {
    if (this.state === ProgressState.replicate) {
      if (count > 0) {
        this.next += count;
        this.inflights.add(this.next - 1, bytes);
      }
      // What filled the window, or went out although it was full, is a probe.
      this.paused = this.inflights.full;
      return;
    }
    assert(this.state === ProgressState.probe, 'entries sent to a follower that waits for a snapshot');
    if (count > 0) this.paused = true;
  }

  /** May sending commit index `index` tell the follower something? */
  canBumpCommit(index: Index): boolean {
    return index > this.sentCommit && this.sentCommit < this.next - 1;
  }

  /** The follower acknowledged `index`; false: nothing new. */
  maybeUpdate(index: Index): boolean {
    if (index <= this.match) return false;
    this.match = index;
    this.next = Math.max(this.next, index + 1);
    this.paused = false;
    return true;
  }

  /**
   * The follower refused the MsgApp after `rejected` and proposes `hint`
   * instead; false: the refusal is stale (messages may be reordered or repeated).
   */
  maybeDecreaseTo(rejected: Index, hint: Index): boolean {
    if (this.state === ProgressState.replicate) {
      if (rejected <= this.match) return false;
      this.next = this.match + 1;
    } else {
      // A probing leader has one message out, and this must be about that one.
      if (this.next - 1 !== rejected) return false;
      this.next = Math.max(Math.min(rejected, hint + 1), this.match + 1);
      this.paused = false;
    }
    // What was sent with the refused message has probably not been taken in.
    this.sentCommit = Math.min(this.sentCommit, this.next - 1);
    return true;
  }

  get isPaused(): boolean {
    return this.state === ProgressState.snapshot || this.paused;
  }

  /** As etcd prints it: `StateReplicate match=5 next=6 learner paused inflight=3[full]`. */
  toString(): string {
    let text = `${progressStateNames[this.state]} match=${this.match} next=${this.next}`;
    if (this.isLearner) text += ' learner';
    if (this.isPaused) text += ' paused';
    if (this.pendingSnapshot > 0) text += ` pendingSnap=${this.pendingSnapshot}`;
    if (!this.recentActive) text += ' inactive';
    if (this.inflights.count > 0) {
      text += ` inflight=${this.inflights.count}${this.inflights.full ? '[full]' : ''}`;
    }
    return text;
  }
}
