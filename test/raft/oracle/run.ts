/** Runs scripts and says, for each that fails, where and by which lines. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseScript, type Step } from './datadriven.js';
import { InteractionRun } from './interaction.js';
import { ConfChangeRun, confChangeCommands, quorumCommands, runQuorumStep } from './pure.js';

/** undefined: all steps gave what the script expects; else the first that did not, with the difference. */
export function runScript(text: string): string | undefined {
  let steps: Step[];
  try {
    steps = parseScript(text);
  } catch (error) {
    return `not a script: ${error instanceof Error ? error.message : String(error)}`;
  }
  if (steps.length === 0) return 'no steps in it';
  const commands = new Set(steps.map((step) => step.cmd));
  const isQuorum = quorumCommands.some((cmd) => commands.has(cmd));
  const isConfChange = confChangeCommands.some((cmd) => commands.has(cmd));
  const confChange = new ConfChangeRun();
  const interaction = new InteractionRun();
  for (const step of steps) {
    let actual: string;
    let expected = step.expected;
    try {
      if (isQuorum) {
        actual = runQuorumStep(step);
        // Above the result the script draws bars; they are for the eye.
        expected = lastLine(expected);
        actual = lastLine(actual);
      } else if (isConfChange) {
        actual = confChange.run(step);
      } else {
        actual = interaction.run(step);
      }
    } catch (error) {
      actual = `thrown: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
    }
    const want = withoutLogLines(expected);
    const got = withoutLogLines(actual);
    if (want.join('\n') !== got.join('\n')) {
      return `line ${step.line}, ${step.cmd}:\n${difference(want, got)}`;
    }
  }
  return undefined;
}

/** All files under `folder` (or the one file), in order of their names. */
export function scriptFiles(folder: string): string[] {
  if (!statSync(folder).isDirectory()) return [folder];
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.txt'))
    .sort()
    .map((name) => join(folder, name));
}

export function runFile(path: string): string | undefined {
  return runScript(readFileSync(path, 'utf8'));
}

function lastLine(text: string): string {
  return text.slice(text.lastIndexOf('\n') + 1);
}

/**
 * The loggers' prose is dropped on both sides. A command that printed nothing
 * else shows as nothing where it logged and as `ok` where it did not, so these
 * two are the same.
 */
function withoutLogLines(text: string): string[] {
  const lines = text
    .replace(/\n+$/, '')
    .split('\n')
    .filter((line) => !/^\s*(INFO|DEBUG|WARN|ERROR) /.test(line));
  const plain = lines.join('\n');
  return plain === '' || plain === 'ok' ? [] : lines;
}

/** Lines of both in their common order; `-` only expected, `+` only given. */
function difference(want: readonly string[], got: readonly string[]): string {
  const n = want.length;
  const m = got.length;
  const common = Array.from({ length: n + 1 }, () => new Array<number>(m + 1).fill(0));
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      common[i]![j] =
        want[i] === got[j] ? common[i + 1]![j + 1]! + 1 : Math.max(common[i + 1]![j]!, common[i]![j + 1]!);
    }
  }
  const lines: string[] = [];
  let i = 0;
  let j = 0;
  while (i < n || j < m) {
    if (i < n && j < m && want[i] === got[j]) {
      lines.push(`  ${want[i++]}`);
      j++;
    } else if (j === m || (i < n && common[i + 1]![j]! >= common[i]![j + 1]!)) {
      lines.push(`- ${want[i++]}`);
    } else {
      lines.push(`+ ${got[j++]}`);
    }
  }
  return lines.join('\n');
}
