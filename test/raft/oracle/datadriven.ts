/**
 * Scripts as steps: a command line `name arg key=val key=(v1,v2)`, input lines,
 * `----`, and the expected output up to a blank line (or between two pairs of
 * `----`, where the output holds blank lines itself).
 */
export interface Arg {
  readonly key: string;
  /** Empty: a bare word. */
  readonly vals: readonly string[];
}

export interface Step {
  /** Of the command, from 1. */
  readonly line: number;
  readonly cmd: string;
  readonly args: readonly Arg[];
  readonly input: string;
  readonly expected: string;
}

export function parseScript(text: string): Step[] {
  const lines = text.split('\n');
  const steps: Step[] = [];
  let at = 0;
  while (at < lines.length) {
    const start = at;
    let command = lines[at++]!.trim();
    if (command === '' || command.startsWith('#')) continue;
    while (command.endsWith('\\') && at < lines.length) command = command.slice(0, -1) + lines[at++]!.trim();
    const input: string[] = [];
    while (at < lines.length && lines[at] !== '----') input.push(lines[at++]!);
    if (at === lines.length) throw new Error(`line ${start + 1}: no ---- after the command`);
    at++;
    const expected: string[] = [];
    if (lines[at] === '----') {
      at++;
      while (at < lines.length && !(lines[at] === '----' && lines[at + 1] === '----'))
        expected.push(lines[at++]!);
      if (at >= lines.length) throw new Error(`line ${start + 1}: the output does not end`);
      at += 2;
    } else {
      while (at < lines.length && lines[at]!.trim() !== '') expected.push(lines[at++]!);
    }
    const { cmd, args } = parseCommand(command, start + 1);
    steps.push({ line: start + 1, cmd, args, input: input.join('\n').trim(), expected: expected.join('\n') });
  }
  return steps;
}

/** Words; a value may be a list in parentheses with blanks inside. */
function parseCommand(text: string, line: number): { cmd: string; args: Arg[] } {
  const words = text.match(/[^\s=]+=\([^)]*\)|\S+/g) ?? [];
  const [cmd, ...rest] = words;
  if (cmd === undefined) throw new Error(`line ${line}: no command`);
  const args = rest.map((word): Arg => {
    const equals = word.indexOf('=');
    if (equals < 0) return { key: word, vals: [] };
    const key = word.slice(0, equals);
    const value = word.slice(equals + 1);
    if (!value.startsWith('(')) return { key, vals: [value] };
    const vals = value.slice(1, -1).split(',');
    return { key, vals: vals.map((v) => v.trim()).filter((v) => v !== '') };
  });
  return { cmd: cmd.replace(/:$/, ''), args };
}
