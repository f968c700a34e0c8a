/** What a command's work is given. It answers with its exit code; nothing means 0. */
import type { ExitCode } from './exit-codes.js';
import type { Output } from './output.js';

/** Options that every command has. */
export interface CommonOptions {
  readonly json?: boolean;
}

export interface ActionContext<O> {
  readonly output: Output;
  readonly options: O;
  /** The positional arguments that were given. */
  readonly args: readonly string[];
}

export type Action<O> = (context: ActionContext<O>) => Promise<ExitCode | undefined>;
