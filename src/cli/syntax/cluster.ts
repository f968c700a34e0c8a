/** Clusters of this machine, and upgrading any. */
import type { Command } from 'commander';
import { defaultPartitions } from '../../common/limits.js';
import { connection, type Env, type On, repeated, wholeNumber } from './options.js';

export function addCluster(program: Command, on: On, env: Env): void {
  const cluster = program.command('cluster').description('A cluster of several nodes on this machine.');
  const dir = ['--dir <folder>', 'where the cluster lives: data, logs, pids', './hansard-data'] as const;
  const up = making(
    cluster
      .command('up')
      .description(
        'Start the nodes in the background, making them first in a new folder; returns when all are ready.',
      )
      .option(...dir),
  ).option('--start-arg <argument>', "passed on to every node's `start` (repeatable)", repeated, []);
  on(up, async () => (await import('../commands/cluster.js')).up, [
    ['hansard cluster up --dir ./data', 'three nodes; the first one listens on 4650'],
    ['hansard cluster up --dir ./data', 'again: starts those that are down'],
    ['hansard cluster up --dir ./small --nodes 1 --base-port 5000', ''],
  ]);
  const run = making(
    cluster
      .command('run')
      .description(
        'The same in the foreground, with a sample in a new folder; Ctrl-C stops it. `npm start` is this.',
      )
      .option('--dir <folder>', 'where the cluster lives (HANSARD_DIR)', env.HANSARD_DIR || './data'),
  ).option('--no-sample', 'load no sample into a new cluster');
  on(run, async () => (await import('../commands/cluster-run.js')).run, [
    ['hansard cluster run --dir ./data', ''],
  ]);
  const down = cluster
    .command('down')
    .description('Stop the nodes; data stays.')
    .option(...dir);
  on(down, async () => (await import('../commands/cluster.js')).down, [
    ['hansard cluster down --dir ./data', ''],
  ]);
  const status = cluster
    .command('status')
    .description('Processes, ports and leaders.')
    .option(...dir);
  on(status, async () => (await import('../commands/cluster.js')).status, [
    ['hansard cluster status --dir ./data --json', ''],
  ]);
  const upgrade = connection(env)(
    cluster
      .command('upgrade')
      .description('Raise the apply version of a running cluster, after all of its nodes were updated.'),
  )
    .option('--to <version>', 'default: the newest that the nodes can carry out', wholeNumber(1, 65_535))
    .option('--dry-run', 'tell what would be done, or what is in the way');
  on(upgrade, async () => (await import('../commands/upgrade.js')).upgrade, [
    ['hansard cluster upgrade --dry-run', ''],
    ['hansard cluster upgrade --endpoint 10.0.0.1:4650', 'it never goes back'],
  ]);
}

/** What commands have that make a cluster where there is none. */
function making(command: Command): Command {
  return command
    .option('--nodes <number>', 'how many (default 3, or as made)', wholeNumber(1, 9))
    .option(
      '--base-port <port>',
      "first node's client port; the others follow (default 4650, or as made)",
      wholeNumber(1024, 65_500),
    )
    .option(
      '--partitions <number>',
      `fixed when the cluster is made (default ${defaultPartitions})`,
      wholeNumber(1, 65_536),
    )
    .option('--timeout <seconds>', 'how long to wait until ready', wholeNumber(1, 3600));
}
