/** What has reached whom. */
import type { Command } from 'commander';
import { connection, type Env, type On, wholeNumber } from './options.js';

export function addDelivery(program: Command, on: On, env: Env): void {
  const connected = connection(env);
  const delivery = program
    .command('delivery')
    .description(
      'What of a channel has reached whom: pending, delivered or failed, as recipients report it.',
    );
  const list = connected(delivery.command('list').description('How far each recipient has got.'))
    .argument('<channel>')
    .option('--seq <seq>', 'tells the state of this event', wholeNumber(1))
    .option('--message-id <id>', "likewise, by the application's own id")
    .option('--recipient <id>', 'only this one')
    .option('--failed', 'only those to whom something failed');
  on(list, async () => (await import('../commands/delivery.js')).listDeliveries, [
    ['hansard delivery list support/42', ''],
    ['hansard delivery list support/42 --seq 17 --json', 'who has message 17'],
  ]);
  const seqs = (value: string, all: number[]): number[] => [...all, wholeNumber(1)(value)];
  const report = connected(
    delivery.command('report').description('Report for a recipient what it is done with.'),
  )
    .argument('<channel>')
    .argument('<recipient>', "the application's own id")
    .option('--up-to <seq>', 'everything up to this event, but for what failed', wholeNumber(0))
    .option('--failed <seq>', 'could not be delivered (repeatable)', seqs, [])
    .option('--reason <text>', 'why')
    .option('--attempts <number>', 'how often it was tried', wholeNumber(1), 1)
    .option('--recovered <seq>', 'had failed and is delivered now (repeatable)', seqs, []);
  on(report, async () => (await import('../commands/delivery.js')).reportDelivery, [
    ['hansard delivery report support/42 anna --up-to 17', ''],
    ["hansard delivery report support/42 anna --up-to 18 --failed 18 --reason 'no such device'", ''],
    ['hansard delivery report support/42 anna --recovered 18', ''],
  ]);
}
