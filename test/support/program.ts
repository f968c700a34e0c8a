/** What programs for people who work on Hansard share: options, --help, and a clear word for wrong use. */
import { parseArgs } from 'node:util';

type Options = Readonly<
  Record<
    string,
    | { readonly type: 'string'; readonly default?: string }
    | { readonly type: 'boolean'; readonly default: boolean }
  >
>;
type Values<T extends Options> = {
  readonly [Name in keyof T]: T[Name] extends { type: 'boolean' }
    ? boolean
    : T[Name] extends { default: string }
      ? string
      : string | undefined;
};

export interface Program<T extends Options> {
  readonly values: Values<T>;
  readonly positionals: readonly string[];
  /** The option's whole number, at least 1 where no other minimum is said; ends the program where it is none. */
  whole(name: keyof T & string, minimum?: number): number;
  /** Says what was wrong, and the usage; exit 2. */
  wrongUse(problem: string): never;
}

/** `usage` is what --help prints. `most`: words that are no options. Whatever is wrong ends the program. */
export function programOf<const T extends Options>(usage: string, options: T, most = 0): Program<T> {
  const wrongUse = (problem: string): never => {
    console.error(`${problem}\n\n${usage}`);
    process.exit(2);
  };
  const argv = process.argv.slice(2);
  if (argv.includes('--help') || argv.includes('-h')) {
    console.log(usage);
    process.exit(0);
  }
  const { values, positionals } = parsed(argv, options, wrongUse);
  if (positionals.length > most) wrongUse(`what is ${positionals[most]}?`);
  return {
    values: values as Values<T>,
    positionals,
    wrongUse,
    whole(name, minimum = 1) {
      const value = Number(values[name]);
      if (Number.isSafeInteger(value) && value >= minimum) return value;
      return wrongUse(`--${name} takes a whole number from ${minimum} on`);
    },
  };
}

function parsed(args: string[], options: Options, wrongUse: (problem: string) => never) {
  try {
    return parseArgs({ options, args, allowPositionals: true });
  } catch (error) {
    // Its second sentence is about how to quote an option's name.
    return wrongUse((error instanceof Error ? error.message : String(error)).split('. ')[0] as string);
  }
}
