/** Import and export. */
import type { Command } from 'commander';
import { connection, type Env, type On, seconds, wholeNumber } from './options.js';

export function addTransfer(program: Command, on: On, env: Env): void {
  const connected = connection(env);
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
  on(
    importing,
    async () => (await import('../commands/import.js')).importFile,
    [
      ['hansard import chats.jsonl.gz', ''],
      ['hansard import chats.jsonl --skip-bad --acks acks.jsonl', ''],
      ['zcat old.gz | hansard import - --name old-chats', ''],
      ['hansard import --exported backup.jsonl.gz', 'into an empty cluster'],
      ['hansard import --all ./backup', 'every tenant of an `export --all`'],
    ],
    '\nFields of a line: channel, text (required; text may be empty), time (RFC 3339), role, author,\nmetadata (object), key, message_id, subject. See docs/cli.md.\n',
  );

  const exporting = connected(
    program.command('export').description('Write channels and their events as JSON Lines, in order.'),
  )
    .argument('[file]', 'packed where the name ends in .gz; without it, or with -, stdout')
    .option('--channel <name>', 'this channel alone')
    .option('--prefix <text>', 'channels whose names begin with it')
    .option('--full', 'content bytes, producer and commitment of every event')
    .option('--all', 'all tenants, into a folder that is new or empty; `import --all` loads it');
  on(
    exporting,
    async () =>
      exporting.opts<{ all?: boolean }>().all === true
        ? (await import('../commands/export-all.js')).exportAll
        : (await import('../commands/export.js')).exportEvents,
    [
      ['hansard export backup.jsonl.gz', 'everything of the tenant'],
      ['hansard export --channel support/42', ''],
      ['hansard export --all ./backup', 'every tenant, a file each'],
    ],
  );
}
