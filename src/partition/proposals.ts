/**
 * Commands on their way through the log. A proposal is pending (not in an
 * entry yet), in flight (in entry (index, term)) or ended. Entries in flight
 * stand in index order: proposing at index n proves that whatever stood at or
 * above n was cut off from this log. That does not yet prove that it never
 * applies: another replica may still hold it, be elected, and commit it. Only
 * another term's entry applied in its place proves that.
 */
import { HansardError } from '../common/errors.js';
import type { Index, ProducerId, Term } from '../common/ids.js';
import { encodeNoop } from '../conversation/command.js';
import type { CommandAnswer } from '../conversation/types.js';
import type { ProposalBudget } from './types.js';

/**
 * A command and who waits for its end. One of `applied` and `failed` is called, once.
 * Both come in the midst of a turn, perhaps before `submit` returns: they may encode
 * and hand on an answer, but not throw, propose, or touch a replica.
 */
export interface Proposal {
  readonly command: Uint8Array;
  /** On the monotonic clock. */
  readonly deadlineMs: number;
  /** The stamp of an append, for the order gate; 0: none. */
  readonly producerId: ProducerId;
  readonly firstCounter: number;
  readonly count: number;
  ended: boolean;
  applied(answer: CommandAnswer, index: Index, term: Term): void;
  failed(error: HansardError): void;
}

/** Changes nothing: for what goes with an entry, or is due behind one. */
export function emptyProposal(
  deadlineMs: number,
  applied: Proposal['applied'],
  failed: Proposal['failed'],
): Proposal {
  const stamp = { producerId: 0, firstCounter: 0, count: 0 };
  return { command: encodeNoop(), deadlineMs, ...stamp, ended: false, applied, failed };
}

interface InFlightEntry {
  readonly index: Index;
  readonly term: Term;
  readonly bytes: number;
  readonly proposals: Proposal[];
}

/** Stands where entries were that are done. */
const done: InFlightEntry = Object.freeze({ index: 0, term: 0, bytes: 0, proposals: [] });

export class Proposals {
  #pending: Proposal[] = [];
  #pendingBytes = 0;
  #inFlight: InFlightEntry[] = [];
  /** Entries before this place of `#inFlight` are done (shifting each off would cost). */
  #head = 0;
  #inFlightBytes = 0;
  #earliestDeadlineMs = Number.POSITIVE_INFINITY;
  readonly #budget: ProposalBudget;

  constructor(budget: ProposalBudget) {
    this.#budget = budget;
  }

  get hasPending(): boolean {
    return this.#pending.length > 0;
  }

  get unappliedBytes(): number {
    return this.#pendingBytes + this.#inFlightBytes;
  }

  add(proposal: Proposal): void {
    this.#pending.push(proposal);
    this.#pendingBytes += proposal.command.length;
    this.#budget.usedBytes += proposal.command.length;
    this.#budget.proposals++;
    this.#earliestDeadlineMs = Math.min(this.#earliestDeadlineMs, proposal.deadlineMs);
  }

  /** Takes the commands of the next entry: up to `maxBytes`, at least one. */
  takeEntry(maxBytes: number): Proposal[] {
    let bytes = 0;
    let count = 0;
    for (const proposal of this.#pending) {
      if (count > 0 && bytes + proposal.command.length > maxBytes) break;
      bytes += proposal.command.length;
      count++;
    }
    const taken = count === this.#pending.length ? this.#pending : this.#pending.slice(0, count);
    this.#pending = count === this.#pending.length ? [] : this.#pending.slice(count);
    this.#pendingBytes -= bytes;
    this.#inFlightBytes += bytes;
    return taken;
  }

  /** `proposals` (from takeEntry) stand in the entry at `index` now. */
  proposed(index: Index, term: Term, proposals: Proposal[]): void {
    this.#dropFrom(index);
    this.#inFlight.push({ index, term, bytes: bytesOf(proposals), proposals });
  }

  /** `proposals` (from takeEntry) were not taken by the core. */
  notProposed(proposals: Proposal[], error: HansardError): void {
    const bytes = bytesOf(proposals);
    this.#release(bytes, proposals.length);
    for (const proposal of proposals) end(proposal, error);
  }

  /** The entry at `index` was applied under `term`. */
  applied(index: Index, term: Term, answers: readonly CommandAnswer[]): void {
    const entry = this.#inFlight[this.#head];
    if (entry === undefined || entry.index !== index) return;
    this.#popHead(entry);
    if (entry.term !== term) {
      for (const proposal of entry.proposals) end(proposal, overwritten());
      return;
    }
    for (let i = 0; i < entry.proposals.length; i++) {
      const proposal = entry.proposals[i] as Proposal;
      if (proposal.ended) continue;
      proposal.ended = true;
      proposal.applied(answers[i] as CommandAnswer, index, term);
    }
  }

  /** Everything up to `index` came as a snapshot: what became of these is not known. */
  skippedTo(index: Index): void {
    for (let entry = this.#inFlight[this.#head]; entry !== undefined && entry.index <= index; ) {
      this.#popHead(entry);
      for (const proposal of entry.proposals) end(proposal, unknown('the outcome came inside a snapshot'));
      entry = this.#inFlight[this.#head];
    }
  }

  rejectPending(error: HansardError): void {
    const pending = this.#pending;
    this.#pending = [];
    this.#budget.usedBytes -= this.#pendingBytes;
    this.#budget.proposals -= pending.length;
    this.#pendingBytes = 0;
    for (const proposal of pending) end(proposal, error);
  }

  /**
   * Ends what is in flight as unknown: it was proposed in or before `term`, and
   * we lead no more. Its bytes no longer count: a shorter log of the next leader
   * may not come to these indexes for a long time.
   */
  giveUp(term: Term, why: string): void {
    for (
      let entry = this.#inFlight[this.#head];
      entry !== undefined && entry.term <= term;
      entry = this.#inFlight[this.#head]
    ) {
      this.#popHead(entry);
      for (const proposal of entry.proposals) end(proposal, unknown(why));
    }
  }

  expire(nowMs: number): void {
    if (nowMs < this.#earliestDeadlineMs) return;
    let earliest = Number.POSITIVE_INFINITY;
    const check = (proposal: Proposal): void => {
      if (proposal.ended) return;
      if (proposal.deadlineMs <= nowMs) {
        end(
          proposal,
          new HansardError(
            'DEADLINE_EXCEEDED',
            'the append was not committed in time; its outcome is unknown',
          ),
        );
      } else if (proposal.deadlineMs < earliest) earliest = proposal.deadlineMs;
    };
    for (let i = this.#head; i < this.#inFlight.length; i++) {
      for (const proposal of (this.#inFlight[i] as InFlightEntry).proposals) check(proposal);
    }
    this.#expirePending(nowMs);
    for (const proposal of this.#pending) if (proposal.deadlineMs < earliest) earliest = proposal.deadlineMs;
    this.#earliestDeadlineMs = earliest;
  }

  #expirePending(nowMs: number): void {
    if (!this.#pending.some((proposal) => proposal.deadlineMs <= nowMs)) return;
    const kept: Proposal[] = [];
    for (const proposal of this.#pending) {
      if (proposal.deadlineMs > nowMs) {
        kept.push(proposal);
        continue;
      }
      this.#pendingBytes -= proposal.command.length;
      this.#budget.usedBytes -= proposal.command.length;
      this.#budget.proposals--;
      end(proposal, new HansardError('DEADLINE_EXCEEDED', 'the append was not proposed in time'));
    }
    this.#pending = kept;
  }

  #dropFrom(index: Index): void {
    while (this.#inFlight.length > this.#head) {
      const last = this.#inFlight[this.#inFlight.length - 1] as InFlightEntry;
      if (last.index < index) return;
      this.#inFlight.pop();
      this.#release(last.bytes, last.proposals.length);
      for (const proposal of last.proposals) end(proposal, unknown('its entry was cut off from this log'));
    }
  }

  #popHead(entry: InFlightEntry): void {
    // Under load the list seldom runs empty: its places before the head hold nothing.
    this.#inFlight[this.#head++] = done;
    this.#release(entry.bytes, entry.proposals.length);
    if (this.#head === this.#inFlight.length) {
      // Nothing of what has ended stays in memory.
      this.#inFlight = [];
      this.#head = 0;
    } else if (this.#head >= 256 && this.#head * 2 > this.#inFlight.length) {
      this.#inFlight.splice(0, this.#head);
      this.#head = 0;
    }
  }

  #release(bytes: number, count: number): void {
    this.#inFlightBytes -= bytes;
    this.#budget.usedBytes -= bytes;
    this.#budget.proposals -= count;
  }
}

function bytesOf(proposals: readonly Proposal[]): number {
  let bytes = 0;
  for (const proposal of proposals) bytes += proposal.command.length;
  return bytes;
}

export function end(proposal: Proposal, error: HansardError): void {
  if (proposal.ended) return;
  proposal.ended = true;
  proposal.failed(error);
}

function overwritten(): HansardError {
  return new HansardError('NOT_LEADER', 'leadership moved and the entry was replaced: nothing was applied');
}

function unknown(why: string): HansardError {
  return new HansardError('COMMIT_UNKNOWN', `the append was proposed, its outcome is not known: ${why}`);
}
