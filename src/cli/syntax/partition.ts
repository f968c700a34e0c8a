/** A partition's replicas. */
import type { Command } from 'commander';
import { connection, type Env, type On, wholeNumber } from './options.js';

export function addPartition(program: Command, on: On, env: Env): void {
  const connected = connection(env);
  const partition = program
    .command('partition')
    .description("Where a partition's replicas are, and moving or replacing them while it works.");
  const commands = () => import('../commands/partition.js');

  const list = connected(partition.command('list').description('All partitions and their replicas.'));
  on(list, async () => (await commands()).list, [['hansard partition list', '']]);

  const show = connected(
    partition.command('show').description('One partition, replica by replica, as its leader sees it.'),
  ).argument('<partition>');
  on(show, async () => (await commands()).show, [
    ['hansard partition show 12', 'who votes, who lacks how much'],
  ]);

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
  on(add, async () => (await commands()).addLearner, [['hansard partition add-learner 12 --node 4', '']]);

  const promote = waiting(
    changing('promote', 'A learner gets its vote, once it has caught up.').requiredOption(...replica),
  ).option(...force);
  on(promote, async () => (await commands()).promote, [['hansard partition promote 12 --replica 6', '']]);

  const demote = changing('demote', 'A voter becomes a learner.')
    .requiredOption(...replica)
    .option(...force);
  on(demote, async () => (await commands()).demote, [['hansard partition demote 12 --replica 3', '']]);

  const remove = changing('remove', 'A replica goes; its node deletes its data.')
    .requiredOption(...replica)
    .option(...force);
  on(remove, async () => (await commands()).remove, [['hansard partition remove 12 --replica 3', '']]);

  const replace = waiting(
    changing('replace', 'A new replica takes the place of one that is lost, or is to move.')
      .requiredOption(...replica)
      .requiredOption('--node <number>', 'where the new one is to be', wholeNumber(1)),
  ).option(...force);
  on(
    replace,
    async () => (await commands()).replace,
    [['hansard partition replace 12 --replica 3 --node 4', 'the replica on node 3 is gone for good']],
    '\nThe new one is a learner until it has caught up; then it votes and the old one goes, in one step. May be\ninterrupted and repeated at any time.\n',
  );
}
