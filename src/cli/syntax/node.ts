/** Commands for a folder of a node, and the node itself. */
import { type Command, Option } from 'commander';
import { defaultPartitions } from '../../common/limits.js';
import { formatSetting } from '../../node/setting-values.js';
import { flagOf, variableOf } from '../../node/settings.js';
import { type SettingName, settingNames, settingsTable } from '../../node/settings-table.js';
import { type On, wholeNumber } from './options.js';

export function addNode(program: Command, on: On): void {
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
      `without --cluster-file: fixed for ever (default ${defaultPartitions})`,
      wholeNumber(1, 65_536),
    );
  on(init, async () => (await import('../commands/init.js')).init, [
    ['hansard init --dir ./data', 'a cluster of one node'],
    ['hansard init --dir /var/lib/hansard --cluster-file cluster.toml --node 2', 'node 2 of several'],
  ]);

  const restore = program
    .command('restore')
    .description(
      'After folders of a stopped cluster were put back from copies: raise its incarnation, so that tokens from before fail.',
    )
    .argument('<folder...>', 'folders of all nodes, or of those on this machine with --incarnation')
    .option('--incarnation <number>', 'to which; the same for all nodes', wholeNumber(2));
  on(
    restore,
    async () => (await import('../commands/restore.js')).restore,
    [
      ['hansard restore ./data/node-1 ./data/node-2 ./data/node-3', 'all nodes of the cluster'],
      ['hansard restore /var/lib/hansard --incarnation 2', 'on each machine, with the same number'],
    ],
    '\ndocs/operations.md, "Copies", has all steps.\n',
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
      'what it becomes, as told on another machine: refuse where the choices here lead to another',
      wholeNumber(2),
    );
  on(
    repair,
    async () => (await import('../commands/repair.js')).repair,
    [
      ['hansard repair ./data/node-1 ./data/node-2 ./data/node-3', 'the plan: what each choice would lose'],
      [
        'hansard repair ./data/node-* --trust 3',
        'trust node 3 wherever a choice is due; asks before it does so',
      ],
      ['hansard repair ./data/node-* --trust 0=3 7=1 --accept-loss', 'by partition, without being asked'],
    ],
    '\ndocs/operations.md, "Damage on a majority", has all steps. Copy the folders first.\n',
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
  on(
    start,
    async () => (await import('../commands/start.js')).start,
    [
      ['hansard start --dir ./data', ''],
      ['hansard start --dir ./data --tail-limit 256MiB --print-config', ''],
    ],
    `\nA flag counts before the environment (${variableOf('dir')} …), that before the file, that before the folder.\n`,
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
