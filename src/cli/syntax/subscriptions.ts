/** `hansard subscriptions …`: durable subscriptions. */
import { type Command, Option } from 'commander';
import { connection, type Env, type On, positive, wholeNumber } from './options.js';

export function addSubscriptions(program: Command, on: On, env: Env): void {
  const connected = connection(env);
  const subscriptions = program
    .command('subscriptions')
    .description('Durable subscriptions: the cluster keeps the place, consumers share the channels.');

  const list = connected(
    subscriptions.command('list').description('All of a tenant, and how far they are.'),
  ).option('--prefix <text>', 'only names that begin with it');
  on(list, async () => (await import('../commands/subscriptions.js')).listSubscriptions, [
    ['hansard subscriptions list', ''],
    ['hansard subscriptions list --json', ''],
  ]);

  const show = connected(
    subscriptions.command('show').description('One of them: settings, progress, lag.'),
  ).argument('<name>', 'the subscription');
  on(show, async () => (await import('../commands/subscriptions.js')).showSubscription, [
    ['hansard subscriptions show mailer', ''],
  ]);

  const create = withSettings(
    withStart(
      connected(subscriptions.command('create').description('Makes one.'))
        .argument('<name>', 'how it is to be called')
        .argument('[channels...]', 'these channels alone; without any all of the tenant')
        .option('--prefix <text>', 'only channels whose names begin with it')
        .option('--label <key=value>', 'only channels with this label')
        .option('--if-missing', 'one that is there already is as good'),
    ),
  );
  on(create, async () => (await import('../commands/subscriptions.js')).createSubscription, [
    ['hansard subscriptions create mailer --prefix orders/', 'from now on'],
    ['hansard subscriptions create indexer --from-start --max-deliveries 5', ''],
  ]);

  const update = withSettings(
    connected(
      subscriptions.command('update').description('Changes what is given: settings, and what it follows.'),
    )
      .argument('<name>', 'the subscription')
      .argument('[channels...]', 'these channels alone, from where it stands on')
      .option('--prefix <text>', "only channels whose names begin with it; '': of whatever name")
      .option('--label <key=value>', 'only channels with this label'),
  );
  on(update, async () => (await import('../commands/subscriptions.js')).updateSubscription, [
    ['hansard subscriptions update mailer --pause', 'nothing is delivered until --resume-delivery'],
    ['hansard subscriptions update mailer --prefix invoices/', 'what was taken before stays pending'],
  ]);

  const seek = withStart(
    connected(subscriptions.command('seek').description('Sets the place anew; what is pending is forgotten.'))
      .argument('<name>', 'the subscription')
      .option('--drop-dead-letters', 'dead letters go, too'),
  );
  on(seek, async () => (await import('../commands/subscriptions.js')).seekSubscription, [
    ['hansard subscriptions seek mailer --since 2026-01-01T00:00:00Z', ''],
    ['hansard subscriptions seek mailer', 'behind all that is there now'],
  ]);

  const remove = connected(
    subscriptions.command('delete').description('Deletes it, with its place and dead letters.'),
  ).argument('<name>', 'the subscription');
  on(remove, async () => (await import('../commands/subscriptions.js')).deleteSubscription, [
    ['hansard subscriptions delete mailer', ''],
  ]);

  const pending = connected(
    subscriptions.command('pending').description('Channels with events that are taken and not acknowledged.'),
  )
    .argument('<name>', 'the subscription')
    .option('-n, --limit <number>', 'how many', wholeNumber(1), 100);
  on(pending, async () => (await import('../commands/subscriptions.js')).listPending, [
    ['hansard subscriptions pending mailer', ''],
  ]);

  const dead = connected(
    subscriptions.command('dead-letters').description('Events that failed too often, the oldest first.'),
  )
    .argument('<name>', 'the subscription')
    .option('-n, --limit <number>', 'how many', wholeNumber(1), 100);
  on(dead, async () => (await import('../commands/subscriptions.js')).listDeadLetters, [
    ['hansard subscriptions dead-letters mailer', ''],
  ]);

  const replay = connected(
    subscriptions.command('replay').description('Has dead letters delivered again, all or the named ones.'),
  )
    .argument('<name>', 'the subscription')
    .argument('[letters...]', 'as channel#seq')
    .option('--drop', 'drop them instead');
  on(replay, async () => (await import('../commands/subscriptions.js')).replayDeadLetters, [
    ['hansard subscriptions replay mailer', 'all of them'],
    ["hansard subscriptions replay mailer 'orders/7#3'", ''],
  ]);

  const consume = connected(
    subscriptions
      .command('consume')
      .description(
        'Prints events and acknowledges what was printed, until Ctrl-C: to try a subscription out.',
      ),
  )
    .argument('<name>', 'the subscription')
    .option('-n, --limit <number>', 'end after so many', wholeNumber(1))
    .option('--until-caught-up', 'end when everything that is there is acknowledged');
  on(consume, async () => (await import('../commands/subscriptions.js')).consumeSubscription, [
    ['hansard subscriptions consume mailer --json', ''],
  ]);
}

function withStart(command: Command): Command {
  return command
    .option('--from-start', 'from the first event of every channel on, instead of what comes from now on')
    .addOption(
      new Option('--since <time>', 'from what was committed at this time on, RFC 3339').conflicts(
        'fromStart',
      ),
    )
    .addOption(
      new Option(
        '--resume <token>',
        'where `hansard subscribe` with the same channels, prefix and label ended',
      ).conflicts(['fromStart', 'since']),
    );
}

function withSettings(command: Command): Command {
  return command
    .option('--description <text>', 'for people')
    .option('--ack-deadline <seconds>', 'how long a consumer may take for an event (default 30)', positive)
    .option(
      '--max-deliveries <number>',
      'then it is a dead letter; 0: never (default 10)',
      wholeNumber(0, 1_000),
    )
    .option('--retry-delay <seconds>', 'before what failed is delivered again (default 1)', positive)
    .option(
      '--max-pending <number>',
      'channels with unacknowledged events (default 1000)',
      wholeNumber(1, 1_000),
    )
    .option('--pause', 'deliver nothing')
    .addOption(new Option('--resume-delivery', 'deliver again').conflicts('pause'));
}
