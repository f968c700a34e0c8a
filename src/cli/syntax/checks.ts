/** Whether all of it is sound. */
import { type Command, Option } from 'commander';
import { type Env, endpoint, explain, type On, positive, seconds, timeout, wholeNumber } from './options.js';

export function addVerify(program: Command, on: On, env: Env): void {
  const verify = program
    .command('verify')
    .description('Read every channel on every replica and compare: counts, gaps, checksums, differences.')
    .addOption(endpoint(env))
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
    .addOption(timeout(env, 'deadline of the first contact'));
  on(
    verify,
    async () => (await import('../commands/verify.js')).verify,
    [
      ['hansard verify', 'everything, on every node'],
      ['hansard verify --channel support/42', ''],
      ['hansard verify --tenant acme --rate 20 --json', 'gently; one JSON document'],
    ],
    '\nClients may go on writing. Exit code 0: all that was asked for was read and is sound; 1: something is\nwrong, or could not be verified (a node that is down). docs/operations.md says what each finding means.\n',
  );
}

export function addScrub(program: Command, on: On, env: Env): void {
  const scrub = program
    .command('scrub')
    .description('Have the nodes read all that they hold now: log, database, rows; and compare replicas.')
    .addOption(endpoint(env))
    .option('--status', 'begin nothing: tell what the scrubbers do and have found')
    .option('--node <number>', 'this node alone', wholeNumber(1))
    .option(
      '--rate <MiB>',
      "read at most so much a second on each node, instead of the node's scrub_rate",
      positive,
    )
    .addOption(timeout(env));
  on(
    scrub,
    async () => (await import('../commands/scrub.js')).scrub,
    [
      ['hansard scrub', 'all nodes'],
      ['hansard scrub --status', 'when they last did so by themselves'],
    ],
    '\nClients may go on writing; interrupting the command does not stop the nodes. Exit code 0: all was read and is\nsound; 1: damage was found (the nodes mend it by themselves), or a node gave no answer.\n',
  );
}

export function addInspect(program: Command, on: On, env: Env): void {
  const inspect = program
    .command('inspect')
    .description("What is in files of a node's folder, damaged ones too. Opens no node and changes nothing.");
  const looking = (name: string, description: string): Command =>
    inspect
      .command(name)
      .description(description)
      .argument('<file...>', 'files, or folders: all files in them')
      .option('--full', 'entries of the log and events of blocks too, one by one');
  const commands = () => import('../commands/inspect.js');
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
  explain(
    inspect,
    [
      ['hansard inspect any ./data/node-1', 'everything that a node has'],
      ['hansard inspect log ./data/node-1/log', 'segments and batches'],
      ['hansard inspect blocks --json ./data/node-1/db', ''],
      ['hansard inspect key --channel support/42 ./data/node-1/db', 'where its rows and blocks lie'],
    ],
    '\nExit code 7: something does not match its checksum or its place. With --json each thing is a line of JSON.\n',
  );
}
