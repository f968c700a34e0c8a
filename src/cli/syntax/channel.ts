/** One channel. */
import type { Command } from 'commander';
import { connection, type Env, type On, repeated, wholeNumber } from './options.js';

export function addChannel(program: Command, on: On, env: Env): void {
  const connected = connection(env);
  const channel = program
    .command('channel')
    .description('Make, change, seal or delete one channel, or bring it back.');
  const withFields = (command: Command): Command =>
    connected(command)
      .argument('<channel>')
      .option('--title <text>')
      .option('--class <name>', "the application's own class of channel")
      .option('--label <key=value>', 'sets a label (repeatable)', repeated, [])
      .option('--participant <id[=name[:role]]>', 'sets a participant (repeatable)', repeated, []);
  const create = withFields(channel.command('create').description('Make an empty channel.'));
  on(create, async () => (await import('../commands/channel.js')).create, [
    ["hansard channel create support/42 --title 'A lost parcel' --label team=north", ''],
  ]);
  const update = withFields(
    channel.command('update').description('Change title, class, labels, participants; the others stay.'),
  )
    .option('--remove-label <key>', 'repeatable', repeated, [])
    .option('--remove-participant <id>', 'repeatable', repeated, [])
    .option('--etag <etag>', 'only if the channel still has it');
  on(update, async () => (await import('../commands/channel.js')).update, [
    ['hansard channel update support/42 --label state=closed --remove-label team', ''],
    ['hansard channel update support/42 --participant anna=Anna:customer', ''],
  ]);
  const marked = connected(
    channel.command('mark-read').description('Note how far a reader has got in a channel.'),
  )
    .argument('<channel>')
    .argument('<reader>', "the application's own id of who reads")
    .option('--seq <seq>', 'the last event that was read; without it all that is there', wholeNumber(0))
    .option('--allow-back', 'it may go back: marks as unread');
  on(marked, async () => (await import('../commands/inbox.js')).markRead, [
    ['hansard channel mark-read support/42 anna --seq 17', ''],
  ]);
  const remove = connected(channel.command('delete').description('Delete a channel with all its events.'))
    .argument('<channel>')
    .option('--etag <etag>', 'only if the channel still has it')
    .option('--allow-missing', 'no error where there is none')
    .option('--permanent', 'not to be brought back')
    .option('--dry-run', 'delete nothing: tell what would be deleted');
  on(remove, async () => (await import('../commands/channel.js')).remove, [
    ['hansard channel delete support/42 --dry-run', 'how much it is'],
    ['hansard channel delete support/42', '`channel undelete` brings it back for seven days'],
    ['hansard channel delete support/42 --permanent', 'its events are gone for good'],
  ]);
  const undelete = connected(
    channel.command('undelete').description('Bring a deleted channel back as it was.'),
  )
    .argument('<channel>')
    .option('--etag <etag>', 'only if it had this one');
  on(undelete, async () => (await import('../commands/channel.js')).undelete, [
    ['hansard channel undelete support/42', ''],
  ]);
  const seal = connected(
    channel.command('seal').description('Let a channel take no more messages, for ever.'),
  )
    .argument('<channel>')
    .option('--etag <etag>', 'only if the channel still has it');
  on(seal, async () => (await import('../commands/channel.js')).seal, [
    ['hansard channel seal support/42', ''],
  ]);
}
