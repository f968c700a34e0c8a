/** All commands with their options, help and examples. Each one's work is in commands/, loaded when it runs. */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { HansardError } from '../common/errors.js';
import { formatSetting } from '../node/setting-values.js';
import { flagOf, variableOf } from '../node/settings.js';
import { type SettingName, settingNames, settingsTable } from '../node/settings-table.js';
import type { Action, CommonOptions } from './action.js';
import { ExitCode, exitCodeOf, exitCodeTable } from './exit-codes.js';
import { Output, type OutputOptions } from './output.js';
import { version } from './version.js';

export interface RunOptions {
  readonly stdout?: OutputOptions['stdout'];
  readonly stderr?: OutputOptions['stderr'];
  readonly env?: Readonly<Record<string, string | undefined>>;
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
  const program = buildProgram(env, async (action, options, args) => {
    code = (await action({ output, options, args })) ?? ExitCode.ok;
  });
  for (const command of [program, ...allCommands(program)])
    command.exitOverride().configureOutput({
      writeOut: (text) => output.stdout.write(text),
      writeErr: (text) => output.stderr.write(text),
      ...(output.isJson ? { outputError: (text) => output.usage(text) } : {}),
    });
  try {
    await program.parseAsync(argv, { from: 'user' });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.ok : ExitCode.usage;
    output.error(error);
    return error instanceof HansardError ? exitCodeOf(error) : ExitCode.failed;
  }
}

type Runner = <O>(action: Action<O>, options: O, args: string[]) => Promise<void>;

function buildProgram(env: Readonly<Record<string, string | undefined>>, runner: Runner): Command {
  const program = new Command('hansard')
    .description('The durable, replicated, verifiable record of conversations.')
    .version(version, '--version')
    .helpCommand('help [command]')
    .showHelpAfterError('(see --help)')
    .showSuggestionAfterError(true);
  const on = <O extends CommonOptions>(command: Command, load: () => Promise<Action<O>>): void => {
    command.option('--json', 'answer as JSON; errors too, on stderr').action(async () => {
      const args = command.processedArgs.flat().filter((arg): arg is string => typeof arg === 'string');
      await runner(await load(), command.opts<O>(), args);
    });
  };
  addServer(program, on);
  addCluster(program, on, env);
  addPartition(program, on, env);
  addData(program, on, env);
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
    ])}\nEnvironment:\n  HANSARD_ENDPOINT  host:port[,host:port], instead of --endpoint\n  HANSARD_TENANT    instead of --tenant\n  NO_COLOR          no colours\n\nExit codes:\n${exitCodeTable
      .map(([code, meaning]) => `  ${String(code).padEnd(4)} ${meaning}`)
      .join('\n')}`,
  );
  return program;
}

type On = <O extends CommonOptions>(command: Command, load: () => Promise<Action<O>>) => void;

function addServer(program: Command, on: On): void {
  const init = program
    .command('init')
    .description("Make a node's folder: its identity, log and database.")
    .requiredOption('--dir <folder>', 'the folder to make; must be empty or absent')
    .option('--cluster-file <file>', 'TOML or JSON that lists the nodes (docs/operations.md)')
    .option('--node <number>', 'which of them this is', wholeNumber(1))
    .option('--client-address <host:port>', 'without --cluster-file: where clients connect')
    .option('--peer-address <host:port>', 'without --cluster-file: where nodes connect')
    .option(
      '--partitions <number>',
      'without --cluster-file: fixed for ever (default 64)',
      wholeNumber(1, 65_536),
    );
  on(init, async () => (await import('./commands/init.js')).init);
  init.addHelpText(
    'after',
    examples([
      ['hansard init --dir ./data', 'a cluster of one node'],
      ['hansard init --dir /var/lib/hansard --cluster-file cluster.toml --node 2', 'node 2 of several'],
    ]),
  );

  const restore = program
    .command('restore')
    .description(
      'After folders of a stopped cluster were put back from copies: raise its incarnation, so that tokens from before fail.',
    )
    .argument('<folder...>', 'folders of all nodes, or of those on this machine with --incarnation')
    .option('--incarnation <number>', 'to which; the same for all nodes', wholeNumber(2));
  on(restore, async () => (await import('./commands/restore.js')).restore);
  restore.addHelpText(
    'after',
    `\ndocs/operations.md, "Copies", has all steps.\n${examples([
      ['hansard restore ./data/node-1 ./data/node-2 ./data/node-3', 'all nodes of the cluster'],
      ['hansard restore /var/lib/hansard --incarnation 2', 'on each machine, with the same number'],
    ])}`,
  );

  const repair = program
    .command('repair')
    .description(
      'Folders of a stopped cluster with damage on a majority: tell what each choice of a replica to trust would lose, and carry one out.',
    )
    .argument('<folder...>', 'folders of all nodes, or of those on this machine')
    .option(
      '--trust <choices...>',
      'a node for all partitions that are refused (3), or for one of them (12=3); without it the plan alone is shown',
    )
    .option('--accept-loss', 'carry it out without asking: what the plan says to be lost is given up')
    .option('--dry-run', 'show what would be done with these choices, and change nothing')
    .option('--with <files...>', 'what `hansard repair --json` said on other machines, of their folders')
    .option('--missing <nodes...>', 'nodes whose folders are lost for good')
    .option(
      '--incarnation <number>',
      'to which the cluster’s is raised; the same on all machines',
      wholeNumber(2),
    );
  on(repair, async () => (await import('./commands/repair.js')).repair);
  repair.addHelpText(
    'after',
    `\ndocs/operations.md, "Damage on a majority", has all steps. Copy the folders first.\n${examples([
      ['hansard repair ./data/node-1 ./data/node-2 ./data/node-3', 'the plan: what each choice would lose'],
      [
        'hansard repair ./data/node-* --trust 3',
        'trust node 3 wherever a choice is due; asks before it does so',
      ],
      ['hansard repair ./data/node-* --trust 0=3 7=1 --accept-loss', 'by partition, without being asked'],
    ])}`,
  );

  const start = program
    .command('start')
    .description(
      'Run the node whose folder `init` made. Ends on SIGTERM or SIGINT; a second signal ends it at once.',
    )
    .option(
      '--config <file>',
      'TOML file with settings (HANSARD_CONFIG; default: hansard.toml in the folder, if there)',
    )
    .option('--print-config', 'show every setting, its value and where that comes from, and end');
  for (const name of settingNames) start.addOption(settingOption(name));
  on(start, async () => (await import('./commands/start.js')).start);
  start.addHelpText(
    'after',
    `\nA flag counts before the environment (${variableOf('dir')} …), that before the file, that before the folder.\n${examples(
      [
        ['hansard start --dir ./data', ''],
        ['hansard start --dir ./data --tail-limit 256MiB --print-config', ''],
      ],
    )}`,
  );
}

function settingOption(name: SettingName): Option {
  const info = settingsTable[name];
  if (info.kind === 'switch') return new Option(flagOf(name), info.reason);
  const value = {
    path: 'folder',
    address: 'host:port',
    duration: 'time',
    bytes: 'size',
    count: 'number',
    choice: 'choice',
  };
  const shown = info.default === '' ? '' : ` (default ${formatSetting(info, info.default)})`;
  return new Option(`${flagOf(name)} <${value[info.kind]}>`, `${info.reason}${shown}`);
}

function addCluster(program: Command, on: On, env: Readonly<Record<string, string | undefined>>): void {
  const cluster = program.command('cluster').description('A cluster of several nodes on this machine.');
  const dir = ['--dir <folder>', 'where the cluster lives: data, logs, pids', './hansard-data'] as const;
  const up = cluster
    .command('up')
    .description(
      'Start the nodes in the background, making them first in a new folder; returns when all are ready.',
    )
    .option(...dir)
    .option('--nodes <number>', 'how many (default 3, or as made)', wholeNumber(1, 9))
    .option(
      '--base-port <port>',
      "first node's client port; the others follow (default 4650, or as made)",
      wholeNumber(1024, 65_500),
    )
    .option('--partitions <number>', 'fixed when the cluster is made (default 64)', wholeNumber(1, 65_536))
    .option('--timeout <seconds>', 'how long to wait until ready', wholeNumber(1, 3600))
    .option(
      '--start-arg <argument>',
      "passed on to every node's `start` (repeatable)",
      (value: string, all: string[]) => [...all, value],
      [],
    );
  on(up, async () => (await import('./commands/cluster.js')).up);
  up.addHelpText(
    'after',
    examples([
      ['hansard cluster up --dir ./data', 'three nodes; the first one listens on 4650'],
      ['hansard cluster up --dir ./data', 'again: starts those that are down'],
      ['hansard cluster up --dir ./small --nodes 1 --base-port 5000', ''],
    ]),
  );
  const run = cluster
    .command('run')
    .description(
      'The same in the foreground, with a sample in a new folder; Ctrl-C stops it. `npm start` is this.',
    )
    .option('--dir <folder>', 'where the cluster lives (HANSARD_DIR)', env.HANSARD_DIR || './data')
    .option('--nodes <number>', 'how many (default 3, or as made)', wholeNumber(1, 9))
    .option(
      '--base-port <port>',
      "first node's client port; the others follow (default 4650, or as made)",
      wholeNumber(1024, 65_500),
    )
    .option('--partitions <number>', 'fixed when the cluster is made (default 64)', wholeNumber(1, 65_536))
    .option('--timeout <seconds>', 'how long to wait until ready', wholeNumber(1, 3600))
    .option('--no-sample', 'load no sample into a new cluster');
  on(run, async () => (await import('./commands/cluster-run.js')).run);
  run.addHelpText('after', examples([['hansard cluster run --dir ./data', '']]));
  const down = cluster
    .command('down')
    .description('Stop the nodes; data stays.')
    .option(...dir);
  on(down, async () => (await import('./commands/cluster.js')).down);
  down.addHelpText('after', examples([['hansard cluster down --dir ./data', '']]));
  const status = cluster
    .command('status')
    .description('Processes, ports and leaders.')
    .option(...dir);
  on(status, async () => (await import('./commands/cluster.js')).status);
  status.addHelpText('after', examples([['hansard cluster status --dir ./data --json', '']]));
  const upgrade = connection(env)(
    cluster
      .command('upgrade')
      .description('Raise the apply version of a running cluster, after all of its nodes were updated.'),
  )
    .option('--to <version>', 'default: the newest that the nodes can carry out', wholeNumber(1, 65_535))
    .option('--dry-run', 'tell what would be done, or what is in the way');
  on(upgrade, async () => (await import('./commands/upgrade.js')).upgrade);
  upgrade.addHelpText(
    'after',
    examples([
      ['hansard cluster upgrade --dry-run', ''],
      ['hansard cluster upgrade --endpoint 10.0.0.1:4650', 'it never goes back'],
    ]),
  );
}

function addPartition(program: Command, on: On, env: Readonly<Record<string, string | undefined>>): void {
  const connected = connection(env);
  const partition = program
    .command('partition')
    .description("Where a partition's replicas are, and moving or replacing them while it works.");
  const commands = () => import('./commands/partition.js');

  const list = connected(partition.command('list').description('All partitions and their replicas.'));
  on(list, async () => (await commands()).list);
  list.addHelpText('after', examples([['hansard partition list', '']]));

  const show = connected(
    partition.command('show').description('One partition, replica by replica, as its leader sees it.'),
  ).argument('<partition>');
  on(show, async () => (await commands()).show);
  show.addHelpText('after', examples([['hansard partition show 12', 'who votes, who lacks how much']]));

  const changing = (name: string, description: string): Command =>
    connected(partition.command(name).description(description)).argument('<partition>');
  const waiting = (command: Command): Command =>
    command.option('--no-wait', 'end when the step is made; do not wait for replicas to catch up');
  const replica = ['--replica <id>', 'which one (`hansard partition show`)', wholeNumber(1)] as const;
  const force = [
    '--force',
    'also where a learner lags, or no majority of the voters can be reached: what only lost nodes had is lost',
  ] as const;

  const add = waiting(
    changing('add-learner', 'A further replica, without a vote, on a node that has none.').requiredOption(
      '--node <number>',
      'where',
      wholeNumber(1),
    ),
  );
  on(add, async () => (await commands()).addLearner);
  add.addHelpText('after', examples([['hansard partition add-learner 12 --node 4', '']]));

  const promote = waiting(
    changing('promote', 'A learner gets its vote, once it has caught up.').requiredOption(...replica),
  ).option(...force);
  on(promote, async () => (await commands()).promote);
  promote.addHelpText('after', examples([['hansard partition promote 12 --replica 6', '']]));

  const demote = changing('demote', 'A voter becomes a learner.')
    .requiredOption(...replica)
    .option(...force);
  on(demote, async () => (await commands()).demote);
  demote.addHelpText('after', examples([['hansard partition demote 12 --replica 3', '']]));

  const remove = changing('remove', 'A replica goes; its node deletes its data.')
    .requiredOption(...replica)
    .option(...force);
  on(remove, async () => (await commands()).remove);
  remove.addHelpText('after', examples([['hansard partition remove 12 --replica 3', '']]));

  const replace = waiting(
    changing('replace', 'A new replica takes the place of one that is lost, or is to move.')
      .requiredOption(...replica)
      .requiredOption('--node <number>', 'where the new one is to be', wholeNumber(1)),
  ).option(...force);
  on(replace, async () => (await commands()).replace);
  replace.addHelpText(
    'after',
    `\nThe new one is a learner until it has caught up; then it votes and the old one goes, in one step. May be\ninterrupted and repeated at any time.\n${examples(
      [['hansard partition replace 12 --replica 3 --node 4', 'the replica on node 3 is gone for good']],
    )}`,
  );
}

/** What every command has that talks to a cluster. */
function connection(env: Readonly<Record<string, string | undefined>>): (command: Command) => Command {
  return (command) =>
    command
      .addOption(
        new Option('--endpoint <host:port[,…]>', 'nodes to connect to (HANSARD_ENDPOINT)').default(
          env.HANSARD_ENDPOINT || '127.0.0.1:4650',
        ),
      )
      .addOption(
        new Option('--tenant <name>', 'whose channels (HANSARD_TENANT)').default(
          env.HANSARD_TENANT || 'default',
        ),
      )
      .option('--timeout <seconds>', 'deadline of each call', seconds, 5);
}

function addData(program: Command, on: On, env: Readonly<Record<string, string | undefined>>): void {
  const connected = connection(env);
  const status = connected(
    program.command('status').description('Nodes, partitions and leaders, as one node knows them.'),
  ).option('--partitions', 'list every partition');
  on(status, async () => (await import('./commands/status.js')).status);
  status.addHelpText(
    'after',
    examples([
      ['hansard status', ''],
      ['hansard status --partitions --endpoint 127.0.0.1:4651', 'as the second node sees it'],
    ]),
  );

  const append = connected(
    program.command('append').description('Append a message to a channel; the first one makes the channel.'),
  )
    .argument('<channel>')
    .argument('[text]', 'the message; without it, or with -, stdin is the message')
    .option('--lines', 'each line of stdin is a message; all of them or none are appended')
    .addOption(
      new Option('--role <role>')
        .choices(['user', 'assistant', 'system', 'tool', 'developer', 'other'])
        .default('user'),
    )
    .option('--author <name>', 'who speaks')
    .option('--metadata <json>', 'JSON text, kept as it is')
    .option('--key <key>', 'idempotency key: a repeat within 24 hours adds nothing')
    .option('--message-id <id>', 'your own id, unique in the channel')
    .option(
      '--expect-head <seq>',
      "only if the channel's last event is this one (0: none yet)",
      wholeNumber(0),
    )
    .option('--must-exist', 'only if the channel exists')
    .option('--must-not-exist', 'only if it does not');
  on(append, async () => (await import('./commands/append.js')).append);
  append.addHelpText(
    'after',
    examples([
      ["hansard append support/42 'My parcel has not arrived.' --author anna", ''],
      ['hansard append support/42 --role assistant < answer.txt', ''],
      [
        "hansard append support/42 'again' --key order-7 --expect-head 2",
        'exit code 5 if someone was faster',
      ],
    ]),
  );

  const read = connected(
    program.command('read').description("A channel's latest messages, or those from a place on."),
  )
    .argument('<channel>')
    .option('-n, --limit <number>', 'how many', wholeNumber(1), 20)
    .option('--from <seq>', 'from this event on', wholeNumber(1))
    .option('--before <seq>', 'up to, and without, this event', wholeNumber(1))
    .option('--seq <seq>', 'this event alone', wholeNumber(1))
    .option('--message-id <id>', 'the message with this id alone')
    .option('--all', 'the whole channel')
    .addOption(
      new Option('--level <level>', 'how fresh: session needs --token, bounded --max-staleness')
        .choices(['linearizable', 'session', 'bounded', 'eventual'])
        .default('linearizable'),
    )
    .addOption(
      new Option('--preference <which>', 'whose replica').choices([
        'primary',
        'primary-preferred',
        'secondary',
        'secondary-preferred',
        'nearest',
      ]),
    )
    .option('--max-staleness <seconds>', 'at most so far behind', seconds)
    .option(
      '--token <token>',
      'what the answer must include: the commit_token of `append --json` (repeatable)',
      (value: string, all: string[]) => [...all, value],
      [],
    )
    .option('--served', 'tell which replica answered, and how fresh it was');
  on(read, async () => (await import('./commands/read.js')).read);
  read.addHelpText(
    'after',
    examples([
      ['hansard read support/42', 'the last 20'],
      ['hansard read support/42 --from 1 --limit 100', ''],
      ['hansard read support/42 --all --json', ''],
      ['hansard read support/42 --level bounded --max-staleness 2 --preference nearest --served', ''],
    ]),
  );

  const tail = connected(
    program.command('tail').description("A channel's events as they are committed, until Ctrl-C."),
  )
    .argument('<channel>', 'waited for where it does not exist yet')
    .option('--from-start', 'from the first event on, instead of what comes from now on')
    .addOption(
      new Option('--after <seq>', 'from behind this event on')
        .argParser(wholeNumber(0))
        .conflicts('fromStart'),
    )
    .option('-n, --limit <number>', 'end after so many', wholeNumber(1))
    .option('--must-exist', 'fail where there is no such channel');
  on(tail, async () => (await import('./commands/tail.js')).tail);
  tail.addHelpText(
    'after',
    `\nNodes may die meanwhile: each event comes once, in order. With --json each event is a line of JSON.\n${examples(
      [
        ['hansard tail support/42', 'what comes from now on'],
        ['hansard tail support/42 --from-start --json', ''],
        ['hansard tail support/42 --after 17 --limit 1', 'the event after #17, as soon as it is there'],
      ],
    )}`,
  );

  const subscribe = connected(
    program.command('subscribe').description('Events of many channels as they are committed, until Ctrl-C.'),
  )
    .argument('[channels...]', 'these alone; without any all of the tenant')
    .option('--prefix <text>', 'only channels whose names begin with it')
    .option('--label <key=value>', 'only channels with this label')
    .option('--from-start', 'from the first event of every channel on, instead of what comes from now on')
    .addOption(
      new Option('--since <time>', 'from what was committed at this time on, RFC 3339').conflicts(
        'fromStart',
      ),
    )
    .addOption(
      new Option(
        '--resume <token>',
        'go on where an earlier one ended, with the same channels, prefix and label',
      ).conflicts(['fromStart', 'since']),
    )
    .option('-n, --limit <number>', 'end after so many', wholeNumber(1))
    .option('--until-caught-up', 'end when everything that is there has come');
  on(subscribe, async () => (await import('./commands/subscribe.js')).subscribe);
  subscribe.addHelpText(
    'after',
    `\nNodes may die meanwhile: each event comes once, those of a channel in order. The token to go on with is told at the end, on stderr.\n${examples(
      [
        ['hansard subscribe', 'all that comes from now on'],
        ['hansard subscribe --prefix support/ --from-start --json', ''],
        ['hansard subscribe --since 2026-01-01T00:00:00Z --until-caught-up --json > new.jsonl', ''],
      ],
    )}`,
  );

  const channels = connected(
    program.command('channels').description('The channels of a tenant, by name or newest activity first.'),
  )
    .option('--prefix <text>', 'only names that begin with it')
    .option('--label <key=value>', 'only channels with this label')
    .option('--participant <id>', 'only channels with this participant')
    .option('--newest', 'newest activity first')
    .option('-n, --limit <number>', 'how many', wholeNumber(1), 100)
    .option('--after <name>', 'only names behind this one')
    .option('--all', 'all of them');
  on(channels, async () => (await import('./commands/channels.js')).channels);
  channels.addHelpText(
    'after',
    examples([
      ['hansard channels --prefix support/', ''],
      ['hansard channels --participant anna --newest --limit 20', "a user's latest conversations"],
      ['hansard channels --all --json', ''],
    ]),
  );
  const inbox = connected(
    program
      .command('inbox')
      .description('Channels as one reader sees them: what is unread, the last message.'),
  )
    .argument('<reader>', "the application's own id of who reads")
    .argument('[channels...]', 'these; without any those that it takes part in, newest activity first')
    .option('-n, --limit <number>', 'how many, where none are named', wholeNumber(1, 200), 50)
    .option('--unread', 'only channels with something unread');
  on(inbox, async () => (await import('./commands/inbox.js')).inbox);
  inbox.addHelpText(
    'after',
    examples([
      ['hansard inbox anna', 'her latest conversations'],
      ['hansard inbox anna support/42 support/43 --json', ''],
    ]),
  );
  addChannel(program, on, connected);
  addTransfer(program, on, connected);
}

function addVerify(program: Command, on: On, env: Readonly<Record<string, string | undefined>>): void {
  const verify = program
    .command('verify')
    .description('Read every channel on every replica and compare: counts, gaps, checksums, differences.')
    .addOption(
      new Option('--endpoint <host:port[,…]>', 'nodes to connect to (HANSARD_ENDPOINT)').default(
        env.HANSARD_ENDPOINT || '127.0.0.1:4650',
      ),
    )
    .option(
      '--tenant <name>',
      'this tenant alone; without it all of them (HANSARD_TENANT does not count here)',
    )
    .option('--prefix <text>', 'only channels whose names begin with it, of one tenant')
    .addOption(new Option('--channel <name>', 'this channel alone, of one tenant').conflicts('prefix'))
    .option('--rate <MiB>', 'read at most so much a second, in all', positive)
    .option('--parallel <number>', 'partitions at a time', wholeNumber(1, 64), 4)
    .option('--lag <seconds>', 'how long a replica may take to catch up with the others', seconds, 30)
    .option('--patience <seconds>', 'how long a node may be away before it is given up', seconds, 10)
    .option('--no-digests', 'leave out the comparison of whole replicas (producers, keys, message ids)')
    .option('--timeout <seconds>', 'deadline of the first contact', seconds, 5);
  on(verify, async () => (await import('./commands/verify.js')).verify);
  verify.addHelpText(
    'after',
    `\nClients may go on writing. Exit code 0: all that was asked for was read and is sound; 1: something is\nwrong, or could not be verified (a node that is down). docs/operations.md says what each finding means.\n${examples(
      [
        ['hansard verify', 'everything, on every node'],
        ['hansard verify --channel support/42', ''],
        ['hansard verify --tenant acme --rate 20 --json', 'gently; one JSON document'],
      ],
    )}`,
  );
}

function addScrub(program: Command, on: On, env: Readonly<Record<string, string | undefined>>): void {
  const scrub = program
    .command('scrub')
    .description('Have the nodes read all that they hold now: log, database, rows; and compare replicas.')
    .addOption(
      new Option('--endpoint <host:port[,…]>', 'nodes to connect to (HANSARD_ENDPOINT)').default(
        env.HANSARD_ENDPOINT || '127.0.0.1:4650',
      ),
    )
    .option('--status', 'begin nothing: tell what the scrubbers do and have found')
    .option('--node <number>', 'this node alone', wholeNumber(1))
    .option(
      '--rate <MiB>',
      "read at most so much a second on each node, instead of the node's scrub_rate",
      positive,
    )
    .option('--timeout <seconds>', 'deadline of each call', seconds, 5);
  on(scrub, async () => (await import('./commands/scrub.js')).scrub);
  scrub.addHelpText(
    'after',
    `\nClients may go on writing; interrupting the command does not stop the nodes. Exit code 0: all was read and is\nsound; 1: damage was found (the nodes mend it by themselves), or a node gave no answer.\n${examples(
      [
        ['hansard scrub', 'all nodes'],
        ['hansard scrub --status', 'when they last did so by themselves'],
      ],
    )}`,
  );
}

function addInspect(program: Command, on: On, env: Readonly<Record<string, string | undefined>>): void {
  const inspect = program
    .command('inspect')
    .description("What is in files of a node's folder, damaged ones too. Opens no node and changes nothing.");
  const looking = (name: string, description: string): Command =>
    inspect
      .command(name)
      .description(description)
      .argument('<file...>', 'files, or folders: all files in them')
      .option('--full', 'entries of the log and events of blocks too, one by one');
  const commands = () => import('./commands/inspect.js');
  on(
    looking('log', 'Segments of the log: header, batches, entries.'),
    async () => (await commands()).inspectLog,
  );
  on(
    looking('blocks', "LevelDB's files: tables, logs and MANIFEST, with the rows in them."),
    async () => (await commands()).inspectBlocks,
  );
  const key = looking('key', 'All versions of certain rows that are in the files, sequence by sequence.')
    .option('--key <hex>', 'the row with this key')
    .option('--channel <name>', "this channel's rows and blocks")
    .addOption(
      new Option('--tenant <name>', 'whose channel (HANSARD_TENANT)').default(
        env.HANSARD_TENANT || 'default',
      ),
    );
  on(key, async () => (await commands()).inspectKey);
  on(
    looking('any', 'Each file by what it is: also IDENTITY and a cluster file.'),
    async () => (await commands()).inspectAny,
  );
  inspect.addHelpText(
    'after',
    `\nExit code 7: something does not match its checksum or its place. With --json each thing is a line of JSON.\n${examples(
      [
        ['hansard inspect any ./data/node-1', 'everything that a node has'],
        ['hansard inspect log ./data/node-1/log', 'segments and batches'],
        ['hansard inspect blocks --json ./data/node-1/db', ''],
        ['hansard inspect key --channel support/42 ./data/node-1/db', 'where its rows and blocks lie'],
      ],
    )}`,
  );
}

function addChannel(program: Command, on: On, connected: (command: Command) => Command): void {
  const channel = program
    .command('channel')
    .description('Make, change, seal or delete one channel, or bring it back.');
  const listed = (value: string, all: string[]): string[] => [...all, value];
  const withFields = (command: Command): Command =>
    connected(command)
      .argument('<channel>')
      .option('--title <text>')
      .option('--class <name>', "the application's own class of channel")
      .option('--label <key=value>', 'sets a label (repeatable)', listed, [])
      .option('--participant <id[=name[:role]]>', 'sets a participant (repeatable)', listed, []);
  const create = withFields(channel.command('create').description('Make an empty channel.'));
  on(create, async () => (await import('./commands/channel.js')).create);
  create.addHelpText(
    'after',
    examples([["hansard channel create support/42 --title 'A lost parcel' --label team=north", '']]),
  );
  const update = withFields(
    channel.command('update').description('Change title, class, labels, participants; the others stay.'),
  )
    .option('--remove-label <key>', 'repeatable', listed, [])
    .option('--remove-participant <id>', 'repeatable', listed, [])
    .option('--etag <etag>', 'only if the channel still has it');
  on(update, async () => (await import('./commands/channel.js')).update);
  update.addHelpText(
    'after',
    examples([
      ['hansard channel update support/42 --label state=closed --remove-label team', ''],
      ['hansard channel update support/42 --participant anna=Anna:customer', ''],
    ]),
  );
  const marked = connected(
    channel.command('mark-read').description('Note how far a reader has got in a channel.'),
  )
    .argument('<channel>')
    .argument('<reader>', "the application's own id of who reads")
    .option('--seq <seq>', 'the last event that was read; without it all that is there', wholeNumber(0))
    .option('--allow-back', 'it may go back: marks as unread');
  on(marked, async () => (await import('./commands/inbox.js')).markRead);
  marked.addHelpText('after', examples([['hansard channel mark-read support/42 anna --seq 17', '']]));
  const remove = connected(channel.command('delete').description('Delete a channel with all its events.'))
    .argument('<channel>')
    .option('--etag <etag>', 'only if the channel still has it')
    .option('--allow-missing', 'no error where there is none')
    .option('--permanent', 'not to be brought back')
    .option('--dry-run', 'delete nothing: tell what would be deleted');
  on(remove, async () => (await import('./commands/channel.js')).remove);
  remove.addHelpText(
    'after',
    examples([
      ['hansard channel delete support/42 --dry-run', 'how much it is'],
      ['hansard channel delete support/42', '`channel undelete` brings it back for seven days'],
      ['hansard channel delete support/42 --permanent', 'its events are gone for good'],
    ]),
  );
  const undelete = connected(
    channel.command('undelete').description('Bring a deleted channel back as it was.'),
  )
    .argument('<channel>')
    .option('--etag <etag>', 'only if it had this one');
  on(undelete, async () => (await import('./commands/channel.js')).undelete);
  undelete.addHelpText('after', examples([['hansard channel undelete support/42', '']]));
  const seal = connected(
    channel.command('seal').description('Let a channel take no more messages, for ever.'),
  )
    .argument('<channel>')
    .option('--etag <etag>', 'only if the channel still has it');
  on(seal, async () => (await import('./commands/channel.js')).seal);
  seal.addHelpText('after', examples([['hansard channel seal support/42', '']]));
}

function addTransfer(program: Command, on: On, connected: (command: Command) => Command): void {
  const importing = connected(
    program
      .command('import')
      .description('Append a file of messages (JSON Lines). Running it again adds nothing twice.'),
  )
    .argument('<file>', 'JSON Lines, unpacked where the name ends in .gz; - is stdin (needs --name)')
    .option('--name <name>', "the import's name, instead of the hash of its content")
    .option(
      '--exported',
      'the file was made by `export`: channels with their fields; order and checksums must come out the same',
    )
    .option('--all', 'the file is a folder that `export --all` made; into an empty cluster')
    .option('--skip-bad', 'leave out lines that can not be read, and say which')
    .option('--acks <file>', 'write each acknowledgement (channel, seq, checksum) as it arrives')
    .option('--in-flight <MiB>', 'how much may be under way', wholeNumber(1, 1024), 16)
    .option('--patience <seconds>', 'how long to retry while nodes are down', seconds, 120);
  on(importing, async () => (await import('./commands/import.js')).importFile);
  importing.addHelpText(
    'after',
    `\nFields of a line: channel, text (required; text may be empty), time (RFC 3339), role, author,\nmetadata (object), key, message_id, subject. See docs/cli.md.\n${examples(
      [
        ['hansard import chats.jsonl.gz', ''],
        ['hansard import chats.jsonl --skip-bad --acks acks.jsonl', ''],
        ['zcat old.gz | hansard import - --name old-chats', ''],
        ['hansard import --exported backup.jsonl.gz', 'into an empty cluster'],
        ['hansard import --all ./backup', 'every tenant of an `export --all`'],
      ],
    )}`,
  );

  const exporting = connected(
    program.command('export').description('Write channels and their events as JSON Lines, in order.'),
  )
    .argument('[file]', 'packed where the name ends in .gz; without it, or with -, stdout')
    .option('--channel <name>', 'this channel alone')
    .option('--prefix <text>', 'channels whose names begin with it')
    .option('--full', 'content bytes, producer and commitment of every event')
    .option('--all', 'all tenants, into a folder that is new or empty; `import --all` loads it');
  on(exporting, async () =>
    exporting.opts<{ all?: boolean }>().all === true
      ? (await import('./commands/export-all.js')).exportAll
      : (await import('./commands/export.js')).exportEvents,
  );
  exporting.addHelpText(
    'after',
    examples([
      ['hansard export backup.jsonl.gz', 'everything of the tenant'],
      ['hansard export --channel support/42', ''],
      ['hansard export --all ./backup', 'every tenant, a file each'],
    ]),
  );
}

function examples(list: readonly (readonly [string, string])[]): string {
  return `\nExamples:\n${list.map(([line, what]) => `  $ ${line}${what === '' ? '' : `   # ${what}`}`).join('\n')}\n`;
}

function wholeNumber(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
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

function seconds(text: string): number {
  const value = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text) || value <= 0 || value > 86_400)
    throw new InvalidArgumentError('seconds, more than 0');
  return value;
}

function positive(text: string): number {
  const value = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text) || value <= 0) throw new InvalidArgumentError('a number above 0');
  return value;
}

function allCommands(command: Command): Command[] {
  return command.commands.flatMap((child) => [child, ...allCommands(child)]);
}
