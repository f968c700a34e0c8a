/** Histories as text, in the two forms of ../shared/oracles/linearizability (its README describes them). */
import type { Operation } from './checker.js';
import {
  absent,
  type RegisterInput,
  type RegisterOutput,
  type TextInput,
  type TextOutput,
} from './models.js';

/** A line that is no event of the form. */
export class HistoryError extends Error {
  override readonly name = 'HistoryError';
  constructor(line: number, problem: string) {
    super(`line ${line}: ${problem}`);
  }
}

type EventType = 'invoke' | 'ok' | 'fail' | 'info';

interface Open<Input> {
  readonly process: string;
  readonly input: Input;
  readonly callAt: number;
}

/** Pairs each call with its end, process by process. */
class Pairing<Input, Output> {
  readonly operations: Operation<Input, Output>[] = [];
  readonly #open = new Map<string, Open<Input>>();

  invoke(process: string, input: Input, at: number): void {
    if (this.#open.has(process)) throw new HistoryError(at, `process ${process} calls within a call`);
    this.#open.set(process, { process, input, callAt: at });
  }

  /** What the process has under way; ends it. */
  end(process: string, at: number): Open<Input> {
    const open = this.#open.get(process);
    if (open === undefined) throw new HistoryError(at, `process ${process} ends what it did not begin`);
    this.#open.delete(process);
    return open;
  }

  returned(open: Open<Input>, output: Output, at: number): void {
    this.operations.push({ ...open, output, returnAt: at });
  }

  unknown(open: Open<Input>): void {
    this.operations.push({ ...open, output: undefined, returnAt: Infinity });
  }

  /** Who never returned may have had its effect, or have it later. */
  finish(): Operation<Input, Output>[] {
    for (const open of this.#open.values()) this.unknown(open);
    this.#open.clear();
    return this.operations;
  }
}

/** Columns are parted by tabs in most files, by spaces in some. */
const registerLine = /(?:^|\s-\s)(\S+)\s+:(invoke|ok|fail|info)\s+:(read|write|cas)\s+(\S.*)$/;

export function readRegisterHistory(text: string): Operation<RegisterInput, RegisterOutput>[] {
  const pairing = new Pairing<RegisterInput, RegisterOutput>();
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    // What else the recorder wrote (its own prose, its saboteur's deeds) is no operation.
    const match = registerLine.exec(line);
    if (match === null) continue;
    const [, process = '', type, kind = '', value = ''] = match;
    const at = i + 1;
    if (type === 'invoke') {
      pairing.invoke(process, registerInput(kind, value.trim(), at), at);
      continue;
    }
    const open = pairing.end(process, at);
    endRegister(pairing, open, type as EventType, value.trim(), at);
  }
  return pairing.finish();
}

function endRegister(
  pairing: Pairing<RegisterInput, RegisterOutput>,
  open: Open<RegisterInput>,
  type: EventType,
  value: string,
  at: number,
): void {
  const { kind } = open.input;
  if (type === 'info') {
    if (kind !== 'read') pairing.unknown(open);
  } else if (type === 'fail') {
    // A cas that found another value has seen something; a read or write that failed has not been.
    if (kind === 'cas') pairing.returned(open, { changed: false }, at);
  } else if (kind === 'read') pairing.returned(open, { value: value === '' ? absent : value }, at);
  else pairing.returned(open, kind === 'cas' ? { changed: true } : {}, at);
}

function registerInput(kind: string, value: string, line: number): RegisterInput {
  if (kind === 'read') return { kind };
  if (kind === 'write') return { kind, value };
  const match = /^\[(\S+) (\S+)\]$/.exec(value);
  if (match === null) throw new HistoryError(line, `a cas of ${value}`);
  return { kind: 'cas', from: match[1] as string, to: match[2] as string };
}

const textLine =
  /^\{:process (\S+), :type :(invoke|ok|fail|info), :f :(get|put|append), :key ("(?:[^"\\]|\\.)*"), :value (nil|"(?:[^"\\]|\\.)*")\}$/;

export function readTextHistory(text: string): Operation<TextInput, TextOutput>[] {
  const pairing = new Pairing<TextInput, TextOutput>();
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === '') continue;
    const match = textLine.exec(line.trim());
    if (match === null) throw new HistoryError(i + 1, `not an event: ${line.slice(0, 80)}`);
    const [, process = '', type, kind = '', quotedKey = '', quotedValue = ''] = match;
    const value = quotedValue === 'nil' ? '' : (JSON.parse(quotedValue) as string);
    const at = i + 1;
    if (type === 'invoke') {
      const key = JSON.parse(quotedKey) as string;
      const input: TextInput =
        kind === 'get' ? { kind, key } : { kind: kind as 'put' | 'append', key, value };
      pairing.invoke(process, input, at);
      continue;
    }
    const open = pairing.end(process, at);
    if (type === 'ok') pairing.returned(open, open.input.kind === 'get' ? { value } : {}, at);
    else if (type === 'info' && open.input.kind !== 'get') pairing.unknown(open);
  }
  return pairing.finish();
}
