/** What the commands' options, help and examples are made of. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { HansardError } from '../../common/errors.js';
import type { Action, CommonOptions } from '../action.js';

export type Env = Readonly<Record<string, string | undefined>>;

/** A line to type, and what it is for; empty: it says so itself. */
export type Example = readonly [line: string, what: string];

/** Gives a command its work, which is loaded when it runs, its examples, and what its help says before them. */
export type On = <O extends CommonOptions>(
  command: Command,
  load: () => Promise<Action<O>>,
  examples?: readonly Example[],
  note?: string,
) => void;

export function explain(command: Command, shown: readonly Example[], note = ''): void {
  command.addHelpText('after', `${note}${examples(shown)}`);
}

export function endpoint(env: Env): Option {
  return new Option('--endpoint <host:port[,…]>', 'nodes to connect to (HANSARD_ENDPOINT)').default(
    env.HANSARD_ENDPOINT || '127.0.0.1:4650',
  );
}

/** For options that may be given more than once. */
export function repeated(value: string, all: string[]): string[] {
  return [...all, value];
}

/** What every command has that talks to a cluster. */
export function connection(env: Env): (command: Command) => Command {
  return (command) =>
    command
      .addOption(endpoint(env))
      .addOption(
        new Option('--tenant <name>', 'whose channels (HANSARD_TENANT)').default(
          env.HANSARD_TENANT || 'default',
        ),
      )
      .addOption(timeout(env));
}

/** Throws INVALID_ARGUMENT where the variable says no time. */
export function timeout(env: Env, what = 'deadline of each call'): Option {
  const option = new Option('--timeout <seconds>', `${what} (HANSARD_TIMEOUT)`).argParser(seconds).default(5);
  const { HANSARD_TIMEOUT: set = '' } = env;
  if (set === '') return option;
  try {
    return option.default(seconds(set));
  } catch (error) {
    throw new HansardError(
      'INVALID_ARGUMENT',
      `HANSARD_TIMEOUT is ${set}: seconds, more than 0`,
      {},
      { cause: error },
    );
  }
}

export function examples(list: readonly Example[]): string {
  return `\nExamples:\n${list.map(([line, what]) => `  $ ${line}${what === '' ? '' : `   # ${what}`}`).join('\n')}\n`;
}

export function wholeNumber(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max)
      throw new InvalidArgumentError(
        max === Number.MAX_SAFE_INTEGER
          ? `a whole number from ${min}`
          : `a whole number from ${min} to ${max}`,
      );
    return value;
  };
}

/** An empty one, perhaps of a variable that is not set, would be as none at all: a repeat would count twice. */
export function id(text: string): string {
  if (text === '') throw new InvalidArgumentError('it is empty: leave the option out');
  return text;
}

export function seconds(text: string): number {
  const value = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text) || value <= 0 || value > 86_400)
    throw new InvalidArgumentError('seconds, more than 0');
  return value;
}

export function positive(text: string): number {
  const value = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text) || value <= 0) throw new InvalidArgumentError('a number above 0');
  return value;
}
