/** Reading and writing messages; lists of channels. */
import { type Command, Option } from 'commander';
import { connection, type Env, id, type On, repeated, seconds, wholeNumber } from './options.js';

export function addData(program: Command, on: On, env: Env): void {
  const connected = connection(env);
  const status = connected(
    program.command('status').description('Nodes, partitions and leaders, as one node knows them.'),
  ).option('--partitions', 'list every partition');
  on(status, async () => (await import('../commands/status.js')).status, [
    ['hansard status', ''],
    ['hansard status --partitions --endpoint 127.0.0.1:4651', 'as the second node sees it'],
  ]);

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
    .option('--key <key>', 'idempotency key: a repeat within 24 hours adds nothing', id)
    .option('--message-id <id>', 'your own id, unique in the channel', id)
    .option(
      '--expect-head <seq>',
      "only if the channel's last event is this one (0: none yet)",
      wholeNumber(0),
    )
    .option('--must-exist', 'only if the channel exists')
    .option('--must-not-exist', 'only if it does not');
  on(append, async () => (await import('../commands/append.js')).append, [
    ["hansard append support/42 'My parcel has not arrived.' --author anna", ''],
    ['hansard append support/42 --role assistant < answer.txt', ''],
    ["hansard append support/42 'again' --key order-7 --expect-head 2", 'exit code 5 if someone was faster'],
  ]);

  const batch = connected(
    program
      .command('append-batch')
      .description('Append to several channels of one {tag}: all of it or nothing, and nobody sees a part.'),
  )
    .argument('[file]', 'lines as `import` takes them; without it, or with -, stdin')
    .option('--request-id <id>', 'a repeat with the same id within 24 hours adds nothing', id)
    .option(
      '--expect-head <channel=seq>',
      "only if the channel's last event is this one (repeatable)",
      repeated,
      [],
    )
    .option('--must-exist', 'only if all of the channels exist');
  on(batch, async () => (await import('../commands/append-batch.js')).appendBatch, [
    ['hansard append-batch moves.jsonl --request-id order-7', '{"channel":"{user-42}/a","text":"moved"} …'],
    ["hansard append-batch - --expect-head '{user-42}/a=3' < moves.jsonl", ''],
  ]);

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
      repeated,
      [],
    )
    .option('--served', 'tell which replica answered, and how fresh it was');
  on(read, async () => (await import('../commands/read.js')).read, [
    ['hansard read support/42', 'the last 20'],
    ['hansard read support/42 --from 1 --limit 100', ''],
    ['hansard read support/42 --all --json', ''],
    ['hansard read support/42 --level bounded --max-staleness 2 --preference nearest --served', ''],
  ]);

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
  on(
    tail,
    async () => (await import('../commands/tail.js')).tail,
    [
      ['hansard tail support/42', 'what comes from now on'],
      ['hansard tail support/42 --from-start --json', ''],
      ['hansard tail support/42 --after 17 --limit 1', 'the event after #17, as soon as it is there'],
    ],
    '\nNodes may die meanwhile: each event comes once, in order. With --json each event is a line of JSON.\n',
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
  on(
    subscribe,
    async () => (await import('../commands/subscribe.js')).subscribe,
    [
      ['hansard subscribe', 'all that comes from now on'],
      ['hansard subscribe --prefix support/ --from-start --json', ''],
      ['hansard subscribe --since 2026-01-01T00:00:00Z --until-caught-up --json > new.jsonl', ''],
    ],
    '\nNodes may die meanwhile: each event comes once, those of a channel in order. The token to go on with is told at the end, on stderr.\n',
  );

  const channels = connected(
    program.command('channels').description('The channels of a tenant, by name or newest activity first.'),
  )
    .option('--prefix <text>', 'only names that begin with it')
    .option('--label <key=value>', 'only channels with this label')
    .option('--participant <id>', 'only channels with this participant')
    .option('--newest', 'newest activity first')
    .option('--deleted', 'those that were deleted and can be brought back')
    .option('-n, --limit <number>', 'how many', wholeNumber(1), 100)
    .option('--after <name>', 'only names behind this one')
    .option('--all', 'all of them');
  on(channels, async () => (await import('../commands/channels.js')).channels, [
    ['hansard channels --prefix support/', ''],
    ['hansard channels --participant anna --newest --limit 20', "a user's latest conversations"],
    ['hansard channels --all --json', ''],
    ['hansard channels --deleted', 'what `hansard channel undelete` can bring back, and until when'],
  ]);
  const inbox = connected(
    program
      .command('inbox')
      .description('Channels as one reader sees them: what is unread, the last message.'),
  )
    .argument('<reader>', "the application's own id of who reads")
    .argument('[channels...]', 'these; without any those that it takes part in, newest activity first')
    .option('-n, --limit <number>', 'how many, where none are named', wholeNumber(1, 200), 50)
    .option('--unread', 'only channels with something unread');
  on(inbox, async () => (await import('../commands/inbox.js')).inbox, [
    ['hansard inbox anna', 'her latest conversations'],
    ['hansard inbox anna support/42 support/43 --json', ''],
  ]);
}
