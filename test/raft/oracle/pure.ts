/** The commands on pure functions: quorums, and what a change makes of a configuration. */
import {
  type ChangeBase,
  type ChangeOutcome,
  enterJoint,
  leaveJoint,
  simple,
} from '../../../src/raft/confchange.js';
import { describeConfig } from '../../../src/raft/index.js';
import {
  type AckedIndexes,
  jointCommitted,
  jointVote,
  majorityCommitted,
  majorityVote,
} from '../../../src/raft/quorum.js';
import { ascending, emptyConfig } from '../../../src/raft/tracker.js';
import { parseChanges } from './changes.js';
import type { Step } from './datadriven.js';

export const quorumCommands = ['committed', 'vote'];
export const confChangeCommands = ['simple', 'enter-joint', 'leave-joint'];

class Acks extends Map<number, number> implements AckedIndexes {
  acked(id: number): number | undefined {
    return this.get(id);
  }
}

/**
 * Bars for the acknowledged indexes, and the result. Where another way of
 * computing the same comes to another result, that is the output.
 */
export function runQuorumStep(step: Step): string {
  const values = (key: string) => step.args.find((arg) => arg.key === key)?.vals;
  const cfg = (values('cfg') ?? []).map(Number);
  const cfgj = values('cfgj');
  const outgoing = (cfgj ?? []).filter((v) => v !== 'zero').map(Number);
  const given = (step.cmd === 'vote' ? values('votes') : values('idx')) ?? [];
  const voters = [...new Set([...cfg, ...outgoing])];
  if (voters.length !== given.length) {
    const map = ascending(voters).map((id) => `${id}:{}`);
    return `error: mismatched input (explicit or _) for voters map[${map.join(' ')}]: [${given.join(' ')}]`;
  }
  const complaints: string[] = [];
  const same = <T>(result: T, other: T, way: string) => {
    if (other !== result) complaints.push(`${other} <-- via ${way}`);
  };

  if (step.cmd === 'vote') {
    const votes = new Map<number, boolean>();
    voters.forEach((id, i) => {
      if (given[i] !== '_') votes.set(id, given[i] === 'y');
    });
    const names = { won: 'VoteWon', lost: 'VoteLost', pending: 'VotePending' };
    const result = cfgj === undefined ? majorityVote(cfg, votes) : jointVote(cfg, outgoing, votes);
    if (cfgj !== undefined) same(result, jointVote(outgoing, cfg, votes), 'symmetry');
    return complaints.length > 0 ? complaints.join('; ') : names[result];
  }

  const acks = new Acks();
  voters.forEach((id, i) => {
    if (given[i] !== '_') acks.set(id, Number(given[i]));
  });
  const result = cfgj === undefined ? majorityCommitted(cfg, acks) : jointCommitted(cfg, outgoing, acks);
  if (cfgj !== undefined) {
    same(result, jointCommitted(outgoing, cfg, acks), 'symmetry');
  } else {
    same(result, jointCommitted(cfg, [], acks), 'zero-joint quorum');
    same(result, jointCommitted(cfg, cfg, acks), 'self-joint quorum');
    for (const [id, index] of acks) {
      if (result <= index) continue;
      // Who is behind the committed index can fall back without changing it.
      same(result, majorityCommitted(cfg, new Acks([...acks, [id, index - 1]])), `lowering ${id}`);
      same(result, majorityCommitted(cfg, new Acks([...acks, [id, 0]])), `zeroing ${id}`);
    }
  }
  if (complaints.length > 0) return complaints.join('; ');
  return drawBars(ascending(voters), acks) + (Number.isFinite(result) ? String(result) : '∞');
}

/** A bar per voter, as long as there are voters behind it. */
function drawBars(voters: readonly number[], acks: Acks): string {
  const n = voters.length;
  if (n === 0) return '<empty majority quorum>';
  const lines = voters.map((id) => {
    const index = acks.get(id) ?? 0;
    const bar = voters.filter((other) => (acks.get(other) ?? 0) < index).length;
    const drawn = acks.has(id) ? `${'x'.repeat(bar)}>${' '.repeat(n - bar)}` : `?${' '.repeat(n)}`;
    return `${drawn} ${String(index).padStart(5)}    (id=${id.toString(16)})\n`;
  });
  return `${' '.repeat(n)}    idx\n${lines.join('')}`;
}

/** One file's configuration, changed by each step. */
export class ConfChangeRun {
  #base: ChangeBase = {
    config: emptyConfig,
    progress: [],
    lastIndex: 0,
    maxInflightMsgs: 10,
    maxInflightBytes: Number.MAX_SAFE_INTEGER,
  };

  run(step: Step): string {
    const text = this.#run(step);
    // Each command counts as an entry.
    this.#base = { ...this.#base, lastIndex: this.#base.lastIndex + 1 };
    return text;
  }

  #run(step: Step): string {
    const changes = parseChanges(step.input);
    if (typeof changes === 'string') return changes;
    let outcome: ChangeOutcome;
    if (step.cmd === 'simple') {
      outcome = simple(this.#base, changes);
    } else if (step.cmd === 'enter-joint') {
      const autoLeave = step.args.find((arg) => arg.key === 'autoleave')?.vals[0] === 'true';
      outcome = enterJoint(this.#base, autoLeave, changes);
    } else if (changes.length > 0) {
      outcome = { ok: false, problem: 'this command takes no input' };
    } else {
      outcome = leaveJoint(this.#base);
    }
    if (!outcome.ok) return outcome.problem;
    const { config, progress } = outcome;
    this.#base = { ...this.#base, config, progress };
    return [describeConfig(config), ...progress.map((pr) => `${pr.id}: ${pr}`)].join('\n');
  }
}
