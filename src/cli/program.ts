/** The command line: finds the command, runs its work, and tells how it ended. What there is of commands: syntax/. */
import { Command, CommanderError } from 'commander';
import { HansardError } from '../common/errors.js';
import type { Action } from './action.js';
import { ExitCode, exitCodeOf, exitCodeTable } from './exit-codes.js';
import { Output, type OutputOptions } from './output.js';
import { addChannel } from './syntax/channel.js';
import { addInspect, addScrub, addVerify } from './syntax/checks.js';
import { addCluster } from './syntax/cluster.js';
import { addData } from './syntax/data.js';
import { addDelivery } from './syntax/delivery.js';
import { addNode } from './syntax/node.js';
import { type Env, examples, explain, type On } from './syntax/options.js';
import { addPartition } from './syntax/partition.js';
import { addSubscriptions } from './syntax/subscriptions.js';
import { addTransfer } from './syntax/transfer.js';
import { version } from './version.js';

export interface RunOptions {
  readonly stdout?: OutputOptions['stdout'];
  readonly stderr?: OutputOptions['stderr'];
  readonly env?: Env;
}

/** Runs one command; resolves with the exit code. Never throws. */
export async function runCommand(argv: readonly string[], run: RunOptions = {}): Promise<ExitCode> {
  const env = run.env ?? process.env;
  const outputOptions = {
    json: argv.includes('--json'),
    env,
    ...(run.stdout === undefined ? {} : { stdout: run.stdout }),
    ...(run.stderr === undefined ? {} : { stderr: run.stderr }),
  };
  const output = new Output(outputOptions);
  let code: ExitCode = ExitCode.ok;
  try {
    const program = buildProgram(env, async (action, options, args) => {
      code = (await action({ output, options, args })) ?? ExitCode.ok;
    });
    for (const command of [program, ...allCommands(program)])
      command.exitOverride().configureOutput({
        writeOut: (text) => output.stdout.write(text),
        writeErr: (text) => output.stderr.write(text),
        ...(output.isJson ? { outputError: (text) => output.usage(text) } : {}),
      });
    await program.parseAsync(argv, { from: 'user' });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.ok : ExitCode.usage;
    output.error(error);
    return error instanceof HansardError ? exitCodeOf(error) : ExitCode.failed;
  }
}

type Runner = <O>(action: Action<O>, options: O, args: string[]) => Promise<void>;

function buildProgram(env: Env, runner: Runner): Command {
  const program = new Command('hansard')
    .description('The durable, replicated, verifiable record of conversations.')
    .version(version, '--version')
    .helpCommand('help [command]')
    .showHelpAfterError('(see --help)')
    .showSuggestionAfterError(true);
  const on: On = (command, load, shown, note) => {
    command.option('--json', 'answer as JSON; errors too, on stderr').action(async () => {
      const args = command.processedArgs.flat().filter((arg): arg is string => typeof arg === 'string');
      await runner(await load(), command.opts(), args);
    });
    if (shown !== undefined) explain(command, shown, note);
  };
  addNode(program, on);
  addCluster(program, on, env);
  addPartition(program, on, env);
  addData(program, on, env);
  addChannel(program, on, env);
  addSubscriptions(program, on, env);
  addDelivery(program, on, env);
  addTransfer(program, on, env);
  addVerify(program, on, env);
  addScrub(program, on, env);
  addInspect(program, on, env);
  program.addHelpText(
    'after',
    `${examples([
      ['hansard cluster up --dir ./data', 'three nodes on this machine'],
      ["hansard append support/42 'My parcel has not arrived.' --role user", ''],
      ['hansard read support/42', ''],
      ['hansard status', 'nodes and leaders'],
    ])}\nEnvironment:\n  HANSARD_ENDPOINT  host:port[,host:port], instead of --endpoint\n  HANSARD_TENANT    instead of --tenant\n  HANSARD_TIMEOUT   instead of --timeout\n  NO_COLOR          no colours\n\nExit codes:\n${exitCodeTable
      .map(([code, meaning]) => `  ${String(code).padEnd(4)} ${meaning}`)
      .join('\n')}`,
  );
  return program;
}

function allCommands(command: Command): Command[] {
  return command.commands.flatMap((child) => [child, ...allCommands(child)]);
}
